"""What a network is told beside what it sees, while it learns: as more features, or as a code of them.

    Hint    features' = features + W o          without it nothing is added
    Code    z = tanh(enc(o))                    without it z must be guessed

o are the privileged groups, normalised. They stand under names of their own (SHOWN), so that nobody is told
by oversight. Of a trunk whose first layer is linear a hint is the group put beside the features, and masked.
Source: one network for teacher and student, pi-Distill and ROA (see teachers.twin).
Shapes: N samples, Z numbers of the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd.nets.mlp import mlp
from robokd.nets.normalizer import Normalizer

SHOWN = "shown."  # before the name of a group that is told


class Shown(nn.Module):
    """Groups of the widths named, normalised, where they are told."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.groups = tuple(SHOWN + name for name in widths)
        self.size = sum(widths.values())
        self.normalizer = Normalizer(self.size)

    def update(self, obs: Mapping[str, Tensor] | TensorDict) -> None:
        """Take in the groups of obs (N, ...), if it has them."""
        if all(group in obs for group in self.groups):
            self.normalizer.update(self._rows(obs))

    def told(self, obs: Mapping[str, Tensor] | TensorDict) -> Tensor | None:
        """Return the groups of obs side by side, normalised; None if it lacks one."""
        if any(group not in obs for group in self.groups):
            return None
        return self.normalizer(self._rows(obs))

    def _rows(self, obs: Mapping[str, Tensor] | TensorDict) -> Tensor:
        return torch.cat([obs[group] for group in self.groups], -1)


class Hint(Shown):
    """What is told as something that is added to `size` features."""

    def __init__(self, widths: Mapping[str, int], size: int) -> None:
        super().__init__(widths)
        self.linear = nn.Linear(self.size, size, bias=False)

    def forward(self, obs: Mapping[str, Tensor] | TensorDict, features: Tensor) -> Tensor:
        """Return features (N, size), told of the groups if obs has them."""
        told = self.told(obs)
        return features if told is None else features + self.linear(told)


class Code(Shown):
    """What is told as a code of it, so small that it can be guessed."""

    def __init__(self, widths: Mapping[str, int], hidden: Sequence[int], size: int) -> None:
        super().__init__(widths)
        self.net = mlp(self.size, hidden, size)

    def forward(self, obs: Mapping[str, Tensor] | TensorDict) -> Tensor | None:
        """Return the code (N, Z), None if obs lacks a group."""
        told = self.told(obs)
        return None if told is None else self.net(told).tanh()
