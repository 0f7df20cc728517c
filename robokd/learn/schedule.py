"""Schedules of training coefficients: pure functions of progress."""

from __future__ import annotations

import math


def mixing(round_number: int, teacher_rounds: int, mixing_rounds: int) -> float:
    """Return beta, the share of environments that the teacher drives in a DAgger round (0-based).

    1 for teacher_rounds, then linearly to 0 over mixing_rounds. Source: Ross et al. (2011), sec. 3.
    """
    after = round_number - teacher_rounds
    if after < 0:
        return 1.0
    return max(0.0, 1.0 - (after + 1) / (mixing_rounds + 1))


def cosine(done: float, first: float, last: float) -> float:
    """Return a value that falls from first to last along half a cosine as `done` goes from 0 to 1."""
    share = min(max(done, 0.0), 1.0)
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
