"""Which rows of a data set are learned from more often: where the student needs it and the teacher knows.

Source: resampling by the student's error (Chen et al. 2019, Learning by cheating, sec. 4.2); new rows come
first, as in prioritised replay (Schaul et al. 2016). Shapes: B sequences, T steps, A action dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 2.0  # distance between two actions in [-1, 1]


class Priorities:
    """A weight for each row of a ring of `capacity` rows, by how many were written before it."""

    def __init__(self, capacity: int) -> None:
        self.values = torch.zeros(capacity)

    def add(self, first: int, count: int) -> None:
        """Give new rows the greatest weight that there can be: none is forgotten before it was seen."""
        slots = torch.arange(first, first + count) % len(self.values)
        self.values[slots] = LARGEST

    def draw(self, rows: Tensor, count: int, power: float, generator: torch.Generator) -> Tensor:
        """Return places (count,) in `rows`, drawn in proportion to weight ** power, with replacement."""
        chances = self.values[rows % len(self.values)].double() ** power
        # inverse of the cumulative sum: torch.multinomial takes no more than 2^24 rows
        ends = chances.cumsum(0)
        drawn = torch.rand(count, dtype=torch.float64, generator=generator) * ends[-1]
        return torch.searchsorted(ends, drawn, right=True).clamp(max=len(rows) - 1)

    def update(self, rows: Tensor, weights: Tensor) -> None:
        """Note the weights of rows that were learned from."""
        self.values[rows % len(self.values)] = weights.clamp(min=1e-6)


def priority(said: Tensor, label: Tensor, log_std: Tensor | None, valid: Tensor) -> Tensor:
    """Return need times reliability, (B,), over the steps of `valid` (B, T), bool, of which each row has one.

    Need: the mean distance of the student's actions (B, T, A) to the labels. Reliability: exp(-sigma) with
    the mean standard deviation of the teacher, 1 where it tells none.
    """
    need = (said - label).abs().mean(-1)
    if log_std is not None:
        need = need * torch.exp(-log_std.exp().mean(-1))
    return (need * valid).sum(-1) / valid.sum(-1).clamp(min=1)
