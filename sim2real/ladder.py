"""The guard's ladder: what the robot does when commands stop, are late or cannot be trusted. Pure.

    FOLLOW  the policy's commands are sent
    HOLD    a command is late: nothing is sent, the robot holds its last target
    SLOW    it is brought to rest, as fast as its limits allow
    REST    it holds at rest; a command leads back to FOLLOW, for the policy knows where the robot stands
    STOP    it is taken from the policy for good: the driver's own stop, and the run is over

IDLE is before a hand-over and after a release: at rest, nothing is sent. Times are s on time.monotonic().
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Rung(enum.IntEnum):
    """Where the guard stands."""

    IDLE = 0
    FOLLOW = 1
    HOLD = 2
    SLOW = 3
    REST = 4
    STOP = 5


MOVING = frozenset({Rung.FOLLOW, Rung.HOLD, Rung.SLOW})
OWNED = frozenset({Rung.FOLLOW, Rung.HOLD, Rung.SLOW, Rung.REST})  # the policy has the robot


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the guard waits."""

    late_s: float  # after a command was due, until the robot is brought to rest
    rest_s: float  # at rest without commands, until it is stopped

    def longest_s(self, period_s: float, slowing_s: float) -> float:
        """Return the longest time from the last command to STOP, given how long slowing takes."""
        return period_s + self.late_s + slowing_s + self.rest_s


class Ladder:
    """The state machine. Every method takes the time; `changes` holds (time, from, to, why) for the log."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.rung = Rung.IDLE
        self.changes: list[tuple[float, Rung, Rung, str]] = []
        self._is_leaving = False  # slowing because the policy lets go, or must
        self._stop: tuple[str, str] | None = None
        self._rested_s = 0.0

    @property
    def why(self) -> tuple[str, str]:
        """(kind, message) of STOP, or of the one that is coming."""
        return self._stop or ("", "")

    @property
    def is_stopping(self) -> bool:
        """Whether there is no way back to FOLLOW."""
        return self._stop is not None

    def hand_over(self, now_s: float) -> None:
        """Give the robot to the policy, which is to command within its patience; not after `stop`."""
        if self.is_stopping:
            return
        self._is_leaving = False
        self._go(Rung.FOLLOW, now_s, "hand-over")

    def command(self, now_s: float) -> bool:
        """Take note of a command; return whether it is to be followed."""
        if self._is_leaving or self.is_stopping or self.rung not in OWNED:
            return False
        self._go(Rung.FOLLOW, now_s, "command")
        return True

    def release(self, now_s: float) -> None:
        """Bring the robot to rest, then wait for a hand-over."""
        self._is_leaving = True
        if self.rung in MOVING:
            self._go(Rung.SLOW, now_s, "release")
        elif self.rung == Rung.REST:
            self._go(Rung.IDLE, now_s, "release")

    def stop(self, now_s: float, kind: str, message: str) -> None:
        """Bring the robot to rest and stop it, for the first reason that was given."""
        self._stop = self._stop or (kind, message)
        if self.rung in MOVING:
            self._go(Rung.SLOW, now_s, kind)
        else:
            self._go(Rung.STOP, now_s, kind)

    def climb(self, now_s: float, due_s: float, *, is_at_rest: bool) -> Rung:
        """Return where the guard stands, `due_s` being when the next command is, or was, due."""
        if self.rung == Rung.FOLLOW and now_s > due_s:
            self._go(Rung.HOLD, now_s, "late")
        if self.rung == Rung.HOLD and now_s > due_s + self.patience.late_s:
            self._go(Rung.SLOW, now_s, "late")
        if self.rung == Rung.SLOW and is_at_rest:
            self._rested_s = now_s
            after = Rung.STOP if self.is_stopping else Rung.IDLE if self._is_leaving else Rung.REST
            self._go(after, now_s, "at rest")
        if self.rung == Rung.REST and now_s > self._rested_s + self.patience.rest_s:
            said = f"no command for {self.patience.rest_s:g} s after the robot had come to rest"
            self._stop = self._stop or ("command_timeout", said)
            self._go(Rung.STOP, now_s, "command_timeout")
        return self.rung

    def _go(self, rung: Rung, now_s: float, why: str) -> None:
        if rung != self.rung:
            self.changes.append((now_s, self.rung, rung, why))
            self.rung = rung
