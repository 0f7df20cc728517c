"""The times that commands count from: a grid of control periods, so that small jitter is none to the limits.

A command goes when it comes, but not too soon after the last one. Its stamp, by which limits are reckoned, is
a period after the last stamp where it comes within NEAR of that, else the time when it goes. So a stamp is at
most NEAR of a period away from the true time, stamps are never closer than SHORTEST, and true times never
closer than SHORTEST - NEAR: by them a rate can be a ninth above its limit for one period. After a late one
the policy's next commands come early against the grid: they go SHORTEST apart until the two agree again.
Pure; s on time.monotonic().
"""

from __future__ import annotations

FIRST = 3  # control periods that the first command may take
SHORTEST = 0.95  # control periods between a stamp and the next command
NEAR = 0.05  # control periods between a command and its stamp, at most


class Grid:
    """The stamps of commands, about `period_s` apart."""

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.due_s = self.stamp_s = 0.0  # of the next command, about; of the last one
        self.is_first = True

    def begin(self, now_s: float) -> None:
        """Expect the first command soon, after the next picture; it may go at once, but not too soon."""
        self.stamp_s = max(self.stamp_s, now_s - self.period_s)
        self.due_s = now_s + FIRST * self.period_s
        self.is_first = True

    def release_s(self, arrived_s: float) -> float:
        """Return when a command that arrived at that time is to go."""
        return max(arrived_s, self.stamp_s + SHORTEST * self.period_s)

    def next(self, now_s: float, *, has_waited: bool = False) -> tuple[float, float]:
        """Return (stamp, time since the last one) of a command that goes now, and expect the next one.

        `has_waited` is said of a command that came before its release: the policy is ahead of the grid.
        """
        on_grid = self.stamp_s + self.period_s
        is_near = abs(now_s - on_grid) <= NEAR * self.period_s and not (self.is_first or has_waited)
        stamp_s = on_grid if is_near else now_s
        # to the last bit: times since the machine started have fewer
        step_s = self.period_s if is_near else stamp_s - self.stamp_s
        if self.is_first:  # from rest, as in training: a period, however long the robot has rested
            step_s = min(step_s, self.period_s)
        self.stamp_s, self.due_s, self.is_first = stamp_s, stamp_s + self.period_s, False
        return stamp_s, step_s
