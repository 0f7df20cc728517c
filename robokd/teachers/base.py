"""The Teacher protocol: whatever can say what to do from a simulator's full state.

A config of kind `teacher` that can label is an OpenCfg: `open(place) -> Teacher`; what it opens never runs
code. `teacher=ppo` is not one: it is trained, and what it leaves is opened.
Shapes: N environments, T steps, A action dimensions, K modes of a mixture, Z numbers of a latent, F features.
`*` is (N,) where a teacher is asked, (B, T) where a loss reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tensordict import TensorDict
from torch import Tensor

from robokd.specs import ActionSpec, ObsSpec

OFFERS = ("log_std", "latent", "value", "features", "modes")  # what a teacher may say beside its action


@dataclass
class TeacherOutput:
    """What a teacher says of an observation; what it does not offer is None."""

    action: Tensor  # (*, A) clipped mean, in [-1, 1]; of a mixture its first mode: what it does itself
    log_std: Tensor | None = None  # (*, A) of its Gaussian, or of every mode of it, in action units
    latent: Tensor | None = None  # (*, Z) its code of what only a simulator knows
    value: Tensor | None = None  # (*,) of the state
    features: Tensor | None = None  # (*, F) of its last hidden layer
    modes: Tensor | None = None  # (*, K, A) clipped means of a mixture's equally likely Gaussians


class Teacher(Protocol):
    """A policy that labels; deterministic and frozen."""

    inputs: tuple[str, ...]  # groups it acts on
    offers: frozenset[str]  # of OFFERS: the fields of its output that are not None

    def label(self, obs: TensorDict) -> TeacherOutput:
        """Return what it says of obs (N, ...)."""
        ...

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped mean actions (N, A) in [-1, 1]."""
        ...

    def reset(self, mask: Tensor) -> None:
        """Begin the episodes of mask (N,) afresh."""
        ...

    def sha256(self) -> str:
        """Return the hash of everything that decides what it says."""
        ...


class Place(Protocol):
    """The environment that a teacher is opened for, as far as teachers know it: a VecEnv.

    A teacher may be asked in another one of the same task later: its answers follow from what it is shown.
    """

    num_actions: int
    device: str
    action_spec: ActionSpec
    obs_specs: dict[str, ObsSpec]  # every 1-D group that the task can emit
    task: Any  # has `parameters()`; a scripted teacher also needs its script, see scripted.py
    state: Any  # of the episodes, see env.base

    def get_observations(self) -> TensorDict:
        """Return the groups that were asked for, (N, ...)."""
        ...


class OpenCfg(Protocol):
    """A registered teacher config that can label."""

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (a Task; teachers know no environments)
        """Return the groups that the environment must emit for it."""
        ...

    def open(self, place: Place) -> Teacher:
        """Return the frozen teacher; UserError where it does not fit the place."""
        ...
