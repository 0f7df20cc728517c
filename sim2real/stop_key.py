"""The operator's stop key, read by the guard itself, so that it works whatever became of the policy process.

With "any", any key stops the robot. With "hold", a key must stay pressed: a terminal repeats it, and when the
repeats stop coming, so does the robot.
"""

from __future__ import annotations

import contextlib
import os
import termios
import time
import tty
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from robokd import UserError

TERMINAL = "/dev/tty"
HOW = {  # what the operator is told
    "any": "any key in this terminal stops the robot",
    "hold": "hold a key down in this terminal while the robot is to move; let go to stop it",
}
KEY_S = 10.0  # for a dead-man key to be held down
NO_KEY = b"\0"  # _POSIX_VDISABLE
REPEAT_S = 0.75  # a terminal's first repeat comes after up to 0.66 s


@contextlib.contextmanager
def terminal_kept(terminal: str = TERMINAL) -> Iterator[None]:
    """Give a terminal back as it was, also where a StopKey in another process was killed."""
    try:
        file = os.open(terminal, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        yield
        return
    before = termios.tcgetattr(file)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # it is gone
            if termios.tcgetattr(file) != before:
                termios.tcsetattr(file, termios.TCSANOW, before)
        os.close(file)


class StopKey:
    """A terminal in which a key stops the robot; with `mode` "" there is none."""

    def __init__(self, mode: str, terminal: str = TERMINAL) -> None:
        self._mode, self._terminal = mode, terminal
        self._file = -1
        self._before: list[Any] = []
        self._said = ""
        self._held_s = 0.0

    def __enter__(self) -> StopKey:
        """Open the terminal; UserError where there is none, for then nobody could stop the robot."""
        if self._mode:
            try:
                self._file = os.open(self._terminal, os.O_RDONLY | os.O_NONBLOCK)
                self._before = termios.tcgetattr(self._file)
                tty.setcbreak(self._file)
                self._take_control_keys()
            except (OSError, termios.error) as error:
                self._close()
                raise UserError(
                    f"arm=true needs a terminal with a key to stop the robot ({self._terminal}: {error}); "
                    "start robokd in one"
                ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back as it was."""
        if self._file >= 0:
            with contextlib.suppress(termios.error):
                termios.tcflush(self._file, termios.TCIFLUSH)  # keys for the robot are none for the shell
                termios.tcsetattr(self._file, termios.TCSANOW, self._before)  # a paused terminal never drains
        self._close()

    def files(self) -> list[int]:
        """Return what select is to wait for."""
        return [self._file] if self._file >= 0 else []

    def press(self, said: str) -> None:
        """Stop the robot as a key would, for the reason said."""
        self._said = said

    def pressed(self) -> str:
        """Return why the robot is to be stopped, or nothing."""
        typed = self._read()
        if typed and self._mode == "any":
            self.press("a key was pressed")  # whoever asks next is to know it too
        if self._said or self._mode != "hold":
            return self._said
        now = time.monotonic()
        if typed:
            self._held_s = now
        if self._file >= 0 and self._held_s and now - self._held_s > REPEAT_S:
            return "the dead-man key was let go"
        return ""

    def begin(self) -> None:
        """Forget that a dead-man key was down: it has to be from here on."""
        if self._mode == "hold":
            self._read()
            self._held_s = 0.0

    def is_ready(self) -> bool:
        """Whether the robot may move: a dead-man key must be down, and what was not told to stop may go."""
        return not self.pressed() and (self._mode != "hold" or self._held_s > 0)

    def _read(self) -> bytes:
        if self._file < 0:
            return b""
        try:
            typed = os.read(self._file, 64)
        except BlockingIOError:
            return b""
        except OSError:
            typed = b""
        if not typed:
            self.press("the terminal of the stop key is gone")
        return typed

    def _take_control_keys(self) -> None:
        """Make Ctrl-Z, Ctrl-S and their like keys as any other; they would stop or end the guard."""
        mode = termios.tcgetattr(self._file)
        mode[0] &= ~termios.IXON
        mode[3] &= ~termios.IEXTEN
        for key in (termios.VSUSP, termios.VQUIT):
            mode[6][key] = NO_KEY
        termios.tcsetattr(self._file, termios.TCSANOW, mode)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
