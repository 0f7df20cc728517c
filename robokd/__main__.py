"""`python -m robokd` is `robokd`."""

import sys

from robokd.cli import main

sys.exit(main())
