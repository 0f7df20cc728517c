"""What a network keeps from step to step, as data: states are named float32 tensors, zeros begin an episode.

Shapes: N environments or samples, (B, T) samples of T steps, X numbers of a step: all that eyes say of it
(`seen`), then the 1-D groups (`known`), normalised, or as they were measured where a memory keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn

State = Mapping[str, Tensor] | TensorDict


class Recurrent(Protocol):
    """Something that goes on from step to step; only `step` is looped over time."""

    shapes: dict[str, tuple[int, ...]]  # of its state of one environment, by name

    def step(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return the state after a step x (N, ...); `state` may hold what others keep."""
        ...


class Memory(Recurrent, Protocol):
    """What a student's heads are told of the present and the past."""

    size: int  # of the features
    evidence_size: int
    echo_size: int  # how many of the last features are the normalised 1-D groups
    # the parts of its state that are rows of the 1-D groups as measured, which do not go stale when the
    # normaliser moves: with one, `step` is told the groups as measured and `recall` its rows normalised
    measured: tuple[str, ...]

    def recall(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """Return features (N, size), to act on, and evidence (N, evidence_size), to guess from.

        Args:
            x: (N, X) the step, normalised.
            state: after the step.
        """
        ...


class NoMemory(nn.Module):
    """The Memory protocol: the step itself."""

    def __init__(self, seen: int, known: int) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.size = self.evidence_size = seen + known
        self.echo_size, self.measured = known, ()

    def step(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """See Recurrent: nothing is remembered."""
        return {}

    def recall(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """See Memory."""
        return x, x


def blank(shapes: dict[str, tuple[int, ...]], count: int, device: torch.device) -> dict[str, Tensor]:
    """Return the state of `count` environments at the start of an episode."""
    return {name: torch.zeros(count, *shape, device=device) for name, shape in shapes.items()}


def cleared(shapes: dict[str, tuple[int, ...]], state: State, mask: Tensor) -> dict[str, Tensor]:
    """Return the state with the environments of mask (N,) at the start of an episode."""
    return {
        name: state[name].masked_fill(mask.view(-1, *[1] * len(shape)), 0.0) for name, shape in shapes.items()
    }


def unroll(part: Recurrent, x: Tensor, state: State, fresh: Tensor) -> dict[str, Tensor]:
    """Return the states after each step, (B * T, ...), with a gradient through all of them.

    Args:
        part: what goes on.
        x: (B * T, ...) the steps of B samples.
        state: before the first step, (B, ...).
        fresh: (B, T) bool, the steps before which the state is cleared.
    """
    if not part.shapes:
        return {}
    steps = x.unflatten(0, fresh.shape).unbind(1)
    now, after = state, []
    for index, step in enumerate(steps):
        now = part.step(step, cleared(part.shapes, now, fresh[:, index]))
        after.append(now)
    return {name: torch.stack([one[name] for one in after], 1).flatten(0, 1) for name in part.shapes}
