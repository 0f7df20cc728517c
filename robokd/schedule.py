"""The schedule of training coefficients: a pure function of rounds, or of how often a student was good."""

from __future__ import annotations

import math
from dataclasses import dataclass

SHAPES = ("linear", "cosine", "exponential")


@dataclass(kw_only=True)
class Schedule:
    """A number that goes from `begin` to `end`; one number typed for it stays what it is.

    With n the rounds that have passed since round `after`, and p = n / over cut to [0, 1]:

        linear       begin + (end - begin) p
        cosine       end + (begin - end) (1 + cos(pi p)) / 2
        exponential  end + (begin - end) rate^n

    With `above` > 0 it counts not rounds but the validations in which the student kept at least this share of
    its teacher's success (success-gated, as in ResiP: Ankile et al. 2024), so it may stand still.
    Source of the shapes for who acts: Ross et al. (2011), sec. 3.
    """

    begin: float = 1.0  # the first value
    end: float = 1.0  # the last
    shape: str = "linear"  # linear, cosine or exponential
    after: int = 0  # rounds at `begin`
    over: int = 0  # rounds from `begin` to `end`; 0 = all that are left
    rate: float = 0.7  # factor a round, of exponential
    above: float = 0.0  # > 0: counts validations with at least this retention instead of rounds

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"a schedule's shape is one of {', '.join(SHAPES)}, got {self.shape!r}")
        if not (math.isfinite(self.begin) and math.isfinite(self.end)):
            raise ValueError(f"a schedule's begin and end must be finite, got {self.begin} and {self.end}")
        if min(self.after, self.over) < 0:
            raise ValueError(f"a schedule's after and over must be >= 0, got {self.after} and {self.over}")
        if not 0 < self.rate < 1:
            raise ValueError(f"a schedule's rate must be in (0, 1), got {self.rate}")
        if self.above and not self.over:
            raise ValueError("a schedule with above counts validations: over must say how many, got 0")
        if not 0 <= self.above <= 1:
            raise ValueError(f"a schedule's above must be in [0, 1], got {self.above}")

    def __str__(self) -> str:
        return f"{self.begin:g}" if self.begin == self.end else f"{self.begin:g}_to_{self.end:g}"

    def value(self, round_number: int, retentions: list[float], rounds: int) -> float:
        """Return the coefficient in a round.

        Args:
            round_number: from 0.
            retentions: of the validations so far: the student's success over the teacher's.
            rounds: of the whole stage; the last one is at `end` where `over` is 0.
        """
        passed = sum(kept >= self.above for kept in retentions) if self.above else round_number
        counted = max(passed - self.after, 0)
        if self.shape == "exponential":
            return self.end + (self.begin - self.end) * self.rate**counted
        share = min(counted / max(self.over or rounds - 1 - self.after, 1), 1.0)
        if self.shape == "cosine":
            return self.end + (self.begin - self.end) * (1 + math.cos(math.pi * share)) / 2
        return self.begin + (self.end - self.begin) * share

    @property
    def most(self) -> float:
        """The largest value that it has."""
        return max(self.begin, self.end)

    def check_range(self, name: str, low: float, high: float) -> None:
        """Raise ValueError, with the schedule's name, unless all its values lie in [low, high]."""
        if not low <= min(self.begin, self.end) <= max(self.begin, self.end) <= high:
            wanted = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f">= {low:g}"
            raise ValueError(f"{name} must stay {wanted}, got {self.begin:g} to {self.end:g}")
