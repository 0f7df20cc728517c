"""Interrupts: the first one ends a run, and nothing disturbs what then brings the robot to rest."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# a terminal's, for all of the deployment: interrupted, closed, or given to the shell when the policy process
# is frozen, it would end or freeze the guard with the robot at speed
TERMINAL_SIGNALS = (
    signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU
)  # fmt: skip


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, handled as Ctrl-C is."""


@contextlib.contextmanager
def one_interrupt() -> Iterator[None]:
    """Let the first of INTERRUPTS raise, and none after it: what cleans up is not interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        deafen()
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before = {name: signal.getsignal(name) for name in INTERRUPTS}
    for name, handler in before.items():
        if name != signal.SIGHUP or handler != signal.SIG_IGN:  # nohup
            signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def deafen() -> None:
    """Ignore INTERRUPTS from here on, until the block of `one_interrupt` ends."""
    if threading.current_thread() is threading.main_thread():
        for name in INTERRUPTS:
            signal.signal(name, signal.SIG_IGN)
