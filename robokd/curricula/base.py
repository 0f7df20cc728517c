"""The protocol of curricula: which of a task's episodes training runs, and where they begin.

A place in [0, 1]^D says where in the trained part of every range the parameters of an episode lie; the
environment makes values of it. Evaluation draws its episodes itself and never asks a curriculum.
Shapes: N environments, D numbers of all of an episode's parameters, in the order of the task's ranges.
A curriculum config's `build(sizes, easy, draws, device)` returns a TaskSampler: how many numbers each
parameter has by name, where episodes are easiest (D,), whose draws they are, and what holds the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from robokd.draws import Draws


class TaskSampler(Protocol):
    """Chooses places, and may learn from what came of them; never waits for the device."""

    def sample(self, episode: Tensor) -> Tensor:
        """Return the places (N, D) float64 of the episodes numbered (N,) int64."""
        ...

    def update(self, episode: Tensor, place: Tensor, outcome: Tensor, mask: Tensor) -> None:
        """Learn that the episodes (N,) of mask (N,), at places (N, D), ended with outcome (N,), 0 to 1."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of what decides the next places beside their episodes' numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state."""
        ...

    def summary(self) -> dict[str, Tensor]:
        """Return what is worth logging, numbers () each."""
        ...


@dataclass(kw_only=True)
class CurriculumCfg:
    """What every curriculum can be told."""

    learns: ClassVar[bool] = False  # whether what came of episodes decides the next ones

    reference_share: float = 0.0  # of episodes that begin in the task's reference states, where it has some

    def __post_init__(self) -> None:
        if not 0 <= self.reference_share <= 1:
            raise ValueError(f"curriculum.reference_share must be in [0, 1], got {self.reference_share}")

    def build(
        self, *, sizes: Mapping[str, int], easy: Sequence[float], draws: Draws, device: str
    ) -> TaskSampler:
        """Return the sampler; UserError for parameters that the task does not have."""
        raise NotImplementedError


class Uniform:
    """Places that are uniform on [0, 1)^D: a parameter's numbers depend on no other's name."""

    def __init__(self, sizes: Mapping[str, int], draws: Draws) -> None:
        self._names = {f"parameter/{name}": size for name, size in sizes.items()}
        self._draws = draws

    def __call__(self, episode: Tensor) -> Tensor:
        """Return (N, D) float64 for the episodes numbered (N,)."""
        return self._draws.uniforms(self._names, episode, 0)
