"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp(size_in: int, hidden: Sequence[int], size_out: int) -> nn.Sequential:
    """Return linear layers with ELU between them, (B, size_in) -> (B, size_out)."""
    sizes = (size_in, *hidden)
    layers: list[nn.Module] = []
    for left, right in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(left, right), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], size_out))
