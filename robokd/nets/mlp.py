"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(size_in: int, hidden: Sequence[int], size_out: int) -> nn.Sequential:
    """Return linear layers with ELU between them, (B, size_in) -> (B, size_out)."""
    sizes = (size_in, *hidden)
    layers: list[nn.Module] = []
    for left, right in pairwise(sizes):
        layers += [nn.Linear(left, right), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], size_out))
