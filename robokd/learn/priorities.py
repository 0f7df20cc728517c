"""Which rows of a data set are learned from more often: where the student needs it and the teacher knows.

Source: resampling by the student's error (Chen et al. 2019, Learning by cheating, sec. 4.2); new rows come
first, as in prioritised replay (Schaul et al. 2016). Shapes: B sequences, T steps, A action dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 2.0  # distance between two actions in [-1, 1]
FINE = 2.0**24  # parts of a chance: sums of whole numbers are the same on every device


class Priorities:
    """A weight for each row of a ring of `capacity` rows, by how many were written before it."""

    def __init__(self, capacity: int, device: torch.device | str = "cpu") -> None:
        self.values = torch.zeros(capacity, device=device)

    def add(self, first: int, count: int) -> None:
        """Give new rows the greatest weight that there can be: none is forgotten before it was seen."""
        numbers = torch.arange(first, first + count, device=self.values.device)
        self.values.index_fill_(0, numbers % len(self.values), LARGEST)

    def chances(self, rows: Tensor, power: float) -> Tensor:
        """Return whole numbers (R,), at least 1, in proportion to weight ** power."""
        weights = self.values[rows % len(self.values)].double()
        return (weights**power * FINE).long().clamp(min=1)

    def update(self, rows: Tensor, weights: Tensor) -> None:
        """Note the weights of rows that were learned from."""
        self.values[rows % len(self.values)] = weights.clamp(min=1e-6)


def drawn(ends: Tensor, lots: Tensor) -> Tensor:
    """Return which of R chances the lots (B,) in [0, 1) draw, (B,), with replacement.

    `ends` (R,) int64 are the cumulative sums of the chances; where all are 0, the last one is drawn.
    """
    # torch.multinomial takes no more than 2^24 of them
    found = torch.searchsorted(ends, (lots * ends[-1]).long(), right=True)
    return found.clamp(max=len(ends) - 1)


def priority(said: Tensor, label: Tensor, log_std: Tensor | None, valid: Tensor) -> Tensor:
    """Return need times reliability, (B,), over the steps of `valid` (B, T), bool, of which each row has one.

    Need: the mean distance of the student's actions (B, T, A) to the labels. Reliability: exp(-sigma) with
    the mean standard deviation of the teacher, 1 where it tells none.
    """
    need = (said - label).abs().mean(-1)
    if log_std is not None:
        need = need * torch.exp(-log_std.exp().mean(-1))
    return (need * valid).sum(-1) / valid.sum(-1).clamp(min=1)
