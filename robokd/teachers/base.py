"""The Teacher protocol: whatever can say what to do from a simulator's full state.

Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

from typing import Protocol

from tensordict import TensorDict
from torch import Tensor


class Teacher(Protocol):
    """A policy that labels; deterministic and frozen."""

    inputs: tuple[str, ...]  # groups it acts on

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped mean actions (N, A) in [-1, 1]."""
        ...

    def reset(self, mask: Tensor) -> None:
        """Begin the episodes of mask (N,) afresh."""
        ...
