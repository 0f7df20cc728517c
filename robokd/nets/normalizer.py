"""Running mean and variance of 1-D observations, part of the network that uses them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLIP = 5.0  # standard deviations
FLOOR = 1e-2  # least standard deviation, in the unit of the observation


class Normalizer(nn.Module):
    """Maps (B, D) to zero mean and unit variance, clipped at CLIP; learns only through `update`.

    Source: Chan, Golub, LeVeque (1979), parallel mean and variance.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def update(self, rows: Tensor) -> None:
        """Take in rows (B, D)."""
        rows = rows.double()
        total = self.count + len(rows)
        delta = rows.mean(0) - self.mean
        spread = self.variance * self.count + rows.var(0, unbiased=False) * len(rows)
        self.variance.copy_((spread + delta**2 * self.count * len(rows) / total) / total)
        self.mean.add_(delta * len(rows) / total)
        self.count.copy_(total)

    def forward(self, rows: Tensor) -> Tensor:
        """Return normalised rows."""
        return ((rows - self.mean.float()) / self._deviation()).clamp(-CLIP, CLIP)

    def undone(self, rows: Tensor) -> Tensor:
        """Return what was normalised, in its own units."""
        return rows * self._deviation() + self.mean.float()

    def _deviation(self) -> Tensor:
        return self.variance.sqrt().clamp(min=FLOOR).float()
