"""A deployment whose line between policy and guard goes through a tap: what `robokd faults` breaks.

python -m robokd.sim2real.victim <plan.json> <notes.jsonl> key=value …
"""

from __future__ import annotations

import socket
import sys

from robokd.sim2real.deploy import deploy
from robokd.sim2real.packets import pair
from robokd.sim2real.process import Process
from robokd.sim2real.safety import SafetyStop

from robokd import UserError
from robokd.config import compose

TAP = "robokd.sim2real.tap"


def main(argv: list[str]) -> int:
    """Deploy; return the exit code that the command line would."""
    plan, notes, *words = argv
    taps: list[Process] = []

    def connect() -> tuple[socket.socket, socket.socket]:
        (ours, tapped), (listening, theirs) = pair(), pair()
        given = [tapped.fileno(), listening.fileno()]
        taps.append(Process("tap", TAP, [*map(str, given), plan, notes], given))
        tapped.close()
        listening.close()
        return ours, theirs

    try:
        print(deploy(compose("deploy", words), connect=connect), flush=True)
    except SafetyStop as stop:
        print(f"safety stop: {stop}", file=sys.stderr)
        return 3
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        for tap in taps:
            tap.end(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
