"""The Student protocol: the same network on one robot and on thousands of simulated ones.

Shapes: B environments or samples, T steps, A action dimensions, F features, Z numbers of a latent, K steps of
a chunk. `*` is (B,) for one step and (B, T) for a sequence. A config's `build(interface)` returns a Student
that is also a torch module.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd.specs import CameraSpec, ObsSpec


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a student is built for: all that it sees, and all that it must say."""

    obs_specs: dict[str, ObsSpec]  # the 1-D groups it reads, by name
    cameras: tuple[CameraSpec, ...]  # its eyes
    action_size: int
    targets: dict[str, int]  # privileged terms it estimates: name -> width
    latent_size: int = 0  # of the latent that it must guess; 0 = none
    # what its twin is shown beside, as a code in the place of the latent if there is one; see teacher=twin
    shown: dict[str, ObsSpec] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The groups it reads, 1-D ones first."""
        return (*self.obs_specs, *(camera.name for camera in self.cameras))


@dataclass
class StudentOutput:
    """What a student says of one step, or of every step of a sequence; what it does not say is None."""

    action: Tensor  # (*, A), before clipping; of a Gaussian its mean
    features: Tensor  # (*, F) what a residual policy may build on
    estimates: dict[str, Tensor]  # auxiliary regressions by name, (*, D), in SI units
    log_std: Tensor | None = None  # (*, A) of a Gaussian head
    latent: Tensor | None = None  # (*, Z) its guess of the teacher's latent
    value: Tensor | None = None  # (*,)
    chunk: Tensor | None = None  # (*, K, A) this action and the next K - 1
    branches: dict[str, Tensor] = field(default_factory=dict)  # early action heads by name, (*, A)
    imitated: Tensor | None = None  # (*, A) of the head that imitates, where another one acts beside it


class Student(Protocol):
    """A policy of observations that a robot has. Stateless students carry an empty state."""

    inputs: tuple[str, ...]  # groups it acts on
    shown: tuple[str, ...]  # "shown.<group>": what it also acts on, where that is there; see teacher=twin
    targets: dict[str, int]  # privileged terms it is trained to estimate: name -> width
    feature_size: int
    latent_size: int  # of the latent that it guesses; 0 = none
    offers: frozenset[str]  # the optional fields of its output that are not None

    def initial_state(self, count: int) -> TensorDict:
        """Return the state of `count` environments at the start of an episode: float32 zeros, by name."""
        ...

    def reset(self, state: TensorDict, mask: Tensor) -> TensorDict:
        """Return the state with the environments of mask (B,) at the start of an episode."""
        ...

    def forward(self, obs: TensorDict, state: TensorDict) -> tuple[StudentOutput, TensorDict]:
        """Return the output for obs (B, ...) and the next state."""
        ...

    def sequence(self, obs: TensorDict, state: TensorDict, fresh: Tensor) -> StudentOutput:
        """Return the output for T steps in a row, as `forward` step by step would.

        Args:
            obs: (B, T, ...) observations.
            state: before the first step.
            fresh: (B, T) bool, the steps that begin an episode: before them the memory is reset.
        """
        ...

    def update_normalizers(self, obs: TensorDict) -> None:
        """Let the normalisers inside see observations (B, ...)."""
        ...


class StudentModule(Student, Protocol):
    """A Student with what learning uses of its being a torch module."""

    def __call__(self, obs: TensorDict, state: TensorDict) -> tuple[StudentOutput, TensorDict]:
        """See Student.forward."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """See nn.Module."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """See nn.Module."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> object:
        """See nn.Module."""
        ...

    def train(self) -> Self:
        """See nn.Module."""
        ...

    def eval(self) -> Self:
        """See nn.Module."""
        ...

    def requires_grad_(self, requires_grad: bool) -> Self:
        """See nn.Module."""
        ...


class StudentPolicy:
    """A student at work: remembers the recurrent state and clips its actions; it never learns."""

    def __init__(self, student: Student, count: int) -> None:
        self.student = student
        self.inputs = student.inputs
        self.state = student.initial_state(count)

    def say(self, obs: TensorDict) -> StudentOutput:
        """Return all that the student says, and remember the step."""
        with torch.no_grad():
            output, self.state = self.student.forward(obs, self.state)
        return output

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped actions (B, A)."""
        return self.say(obs).action.clip(-1, 1)

    def reset(self, mask: Tensor) -> None:
        """Begin the episodes of mask (B,) afresh."""
        self.state = self.student.reset(self.state, mask)


def log_likelihood(said: StudentOutput, action: Tensor) -> Tensor:
    """Return the log density of actions (*, A) under a student's Gaussian, summed over A, (*,)."""
    assert said.log_std is not None, "a student without a spread has no density: of_student"
    distance = (action - said.action) * (-said.log_std).exp()
    return -(distance.square() / 2 + said.log_std + math.log(2 * math.pi) / 2).sum(-1)


def unflat(said: StudentOutput, shape: torch.Size) -> StudentOutput:
    """Return an output whose fields are (B * T, ...) as (B, T, ...); shape is (B, T)."""
    own = {each.name: getattr(said, each.name) for each in fields(said)}
    for name, value in own.items():
        if isinstance(value, dict):
            own[name] = {key: part.unflatten(0, shape) for key, part in value.items()}
        elif value is not None:
            own[name] = value.unflatten(0, shape)
    return StudentOutput(**own)
