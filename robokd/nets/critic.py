"""The value of a state, from what only a simulator knows; it says units of return and learns in its own.

    V(o) = m + s f((o - mean) / std),   m, s: mean and spread of the returns met so far

Source: an asymmetric critic (Pinto et al. 2018); returns normalised as in PopArt (van Hasselt et al. 2016),
without its correction of the last layer. Shapes: N samples, D numbers of all groups together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robokd.nets.mlp import mlp
from robokd.nets.normalizer import Normalizer


class Critic(nn.Module):
    """An MLP on normalised rows (N, D)."""

    def __init__(self, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.normalizer, self.returns = Normalizer(size), Normalizer(1)
        self.net = mlp(size, hidden, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Return values (N,) in units of return."""
        return self.returns.undone(self.net(self.normalizer(rows))).squeeze(-1)

    def loss(self, rows: Tensor, target: Tensor) -> Tensor:
        """Return the squared distances (N,) to returns (N,), in units of their variance."""
        wanted = self.returns(target[:, None])
        return (self.net(self.normalizer(rows)) - wanted).square().squeeze(-1)

    def update(self, rows: Tensor, target: Tensor) -> None:
        """Let the normalisers see rows (N, D) and returns (N,)."""
        with torch.no_grad():
            self.normalizer.update(rows)
            self.returns.update(target[:, None])
