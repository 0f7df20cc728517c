"""The mark of tests that need what the extra `sysid` installs."""

import pytest
from robokd.sim2real import identify

from robokd import UserError

try:
    identify.check_engine()
    HAS_ENGINE = True
except UserError:
    HAS_ENGINE = False
needs_engine = pytest.mark.skipif(not HAS_ENGINE, reason="pip install 'robokd[sysid]'")
