"""What a network is told beside what it sees, while it learns; without it nothing is added.

    features' = features + W o,   o the privileged groups, normalised; W o = 0 where they are masked

They stand under names of their own (SHOWN), so that nobody is told by oversight. Of a trunk whose first layer
is linear this is the group put beside the features, and masked.
Source: one network for teacher and student, pi-Distill (see teachers.twin). Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd.nets.normalizer import Normalizer

SHOWN = "shown."  # before the name of a group that is told


class Hint(nn.Module):
    """Groups of the widths named, as something that is added to `size` features."""

    def __init__(self, widths: Mapping[str, int], size: int) -> None:
        super().__init__()
        self.groups = tuple(SHOWN + name for name in widths)
        self.normalizer = Normalizer(sum(widths.values()))
        self.linear = nn.Linear(sum(widths.values()), size, bias=False)

    def forward(self, obs: Mapping[str, Tensor] | TensorDict, features: Tensor) -> Tensor:
        """Return features (N, size), told of the groups if obs has them."""
        if any(group not in obs for group in self.groups):
            return features
        return features + self.linear(self.normalizer(self._rows(obs)))

    def update(self, obs: Mapping[str, Tensor] | TensorDict) -> None:
        """Take in the groups of obs (N, ...), if it has them."""
        if all(group in obs for group in self.groups):
            self.normalizer.update(self._rows(obs))

    def _rows(self, obs: Mapping[str, Tensor] | TensorDict) -> Tensor:
        return torch.cat([obs[group] for group in self.groups], -1)
