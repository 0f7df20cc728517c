"""The Student protocol: the same network on one robot and on thousands of simulated ones.

Shapes: B environments or samples, A action dimensions, F features. A config's
`build(obs_specs, cameras, action_size, targets)` returns a Student that is also a torch module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd.specs import CameraSpec


@dataclass
class StudentOutput:
    """What a student says of one step."""

    action: Tensor  # (B, A), before clipping
    features: Tensor  # (B, F) what a residual policy may build on
    estimates: dict[str, Tensor]  # auxiliary regressions by name, (B, D), in SI units


class Student(Protocol):
    """A policy of observations that a robot has. Stateless students carry an empty state."""

    inputs: tuple[str, ...]  # groups it acts on
    targets: dict[str, int]  # privileged terms it is trained to estimate: name -> width
    feature_size: int

    def initial_state(self, count: int) -> TensorDict:
        """Return the state of `count` environments at the start of an episode."""
        ...

    def reset(self, state: TensorDict, mask: Tensor) -> TensorDict:
        """Return the state with the environments of mask (B,) at the start of an episode."""
        ...

    def forward(self, obs: TensorDict, state: TensorDict) -> tuple[StudentOutput, TensorDict]:
        """Return the output for obs and the next state."""
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

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped actions (B, A)."""
        with torch.no_grad():
            output, self.state = self.student.forward(obs, self.state)
        return output.action.clip(-1, 1)

    def reset(self, mask: Tensor) -> None:
        """Begin the episodes of mask (B,) afresh."""
        self.state = self.student.reset(self.state, mask)


def picture(encoded: Tensor, camera: CameraSpec) -> Tensor:
    """Return an encoded depth picture as float32 in [0, 1]: 0 at near, 1 at far and for misses."""
    if camera.encoding == "depth_u8":
        value = (encoded.float() - 1) / 254
        return torch.where(encoded == 0, 1.0, value)
    value = (encoded.float() - camera.near_m) / (camera.far_m - camera.near_m)
    return torch.where(encoded == 0, 1.0, value.clip(0, 1))
