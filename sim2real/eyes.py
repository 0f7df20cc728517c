"""The camera process: takes pictures from a robot's cameras and puts them on the board.

    python -m robokd.sim2real.eyes <descriptor of the board> <of the leash> <of the cameras or -1> key=value …

It says on the leash when the cameras are open, and ends when the other end of it is closed: with the policy
process, however that ends.
"""

from __future__ import annotations

import select
import signal
import socket
import sys

from robokd.sim2real.board import Board

from robokd import UserError
from robokd.config import compose
from robokd.export.bundle import read_bundle

READY = b"ready"
WAIT_S = 0.05


def main(argv: list[str]) -> int:
    """Show pictures until the leash is cut; return the exit code."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    try:
        _show(*argv[:3], words=argv[3:])
    except UserError as error:  # whoever started us says it, with our last line
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _show(board: str, line: str, link: str, *, words: list[str]) -> None:
    leash = socket.socket(fileno=int(line))
    config = compose("deploy", words)
    bundle = read_bundle(config.bundle, config.sha256)
    shown = Board(bundle.cameras, int(board))
    end = None if link == "-1" else socket.socket(fileno=int(link))
    cameras = config.robot.cameras(bundle=bundle, link=end)
    try:
        cameras.connect()
        leash.send(READY)
        while not select.select([leash], [], [], 0)[0]:
            if (frame := cameras.read(WAIT_S)) is not None:
                shown.write(frame)
    finally:
        cameras.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
