"""rsl_rl's `Distillation`, unmodified: a student and a teacher of ours in the place of its models.

Source: rsl_rl 5.5, `Distillation`, `MLPModel`, `OnPolicyRunner.learn`.
Shapes: N environments, T steps, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from rsl_rl.algorithms import Distillation
from rsl_rl.models import CNNModel, MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor, nn

from robokd import UserError
from robokd.env.base import VecEnv
from robokd.students.base import StudentModule
from robokd.teachers.base import Teacher

if TYPE_CHECKING:
    from rsl_rl.modules import HiddenState

# convolutions of rsl_rl's own model: as many weights as student=cnn has, two pictures of 64x64
CONVOLUTIONS = {"output_channels": [12, 16, 16], "kernel_size": [6, 3, 3], "stride": [3, 2, 2]}
HIDDEN = (96, 96)


class _Forgetful(nn.Module):
    """What rsl_rl asks of models beside their actions, of one without memory."""

    is_recurrent = False

    def reset(self, dones: Tensor | None = None, hidden_state: HiddenState = None) -> None:
        """See rsl_rl's MLPModel."""

    def get_hidden_state(self) -> HiddenState:
        """See rsl_rl's MLPModel."""
        return None

    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        """See rsl_rl's MLPModel."""


class PeerStudent(_Forgetful):
    """A student of ours in the place of rsl_rl's: the same weights, so that only the learner differs."""

    def __init__(self, student: StudentModule, count: int) -> None:
        super().__init__()
        self.student, self._state = student, student.initial_state(count)
        if not self._state.is_empty():
            raise UserError("rsl_rl's storage keeps no memory of a student of ours: take one without memory")

    def forward(self, obs: TensorDict, *, stochastic_output: bool = False) -> Tensor:
        """Return actions (N, A), before clipping; of no noise, as ours."""
        return self.student(obs, self._state)[0].action

    def update_normalization(self, obs: TensorDict) -> None:
        """Let the normalisers see obs (T * N, ...)."""
        self.student.update_normalizers(obs)


class PeerTeacher(_Forgetful):
    """A teacher of ours in the place of rsl_rl's."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, obs: TensorDict) -> Tensor:
        """Return clipped actions (N, A)."""
        return self.teacher.act(obs)


def distillation(
    student: nn.Module, teacher: Teacher, obs: TensorDict, *, actions: int, steps: int, epochs: int = 1,
    gradient_length: int = 15, learning_rate: float = 1e-3,
) -> Distillation:  # fmt: skip
    """Return rsl_rl's algorithm with a storage for `steps` of obs (N, ...), ready to learn; its defaults."""
    storage = RolloutStorage("distillation", len(obs), steps, obs, [actions])
    algorithm = Distillation(
        _as_model(student), _as_model(PeerTeacher(teacher)), storage, num_learning_epochs=epochs,
        gradient_length=gradient_length, learning_rate=learning_rate,
    )  # fmt: skip
    algorithm.train_mode()
    return algorithm


def collect(algorithm: Distillation, env: VecEnv) -> None:
    """Act with the student and fill the storage, as the loop of rsl_rl's runner does."""
    obs = env.get_observations()
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, rewards, dones, extras)


def own_model(obs: TensorDict, groups: Sequence[str], actions: int) -> CNNModel:
    """Return rsl_rl's own convolutional model with fresh weights; its pictures are float32."""
    return CNNModel(
        obs, {"student": list(groups)}, "student", actions, hidden_dims=HIDDEN, obs_normalization=True,
        cnn_cfg=CONVOLUTIONS,
    )  # fmt: skip


def _as_model(module: nn.Module) -> MLPModel:
    return module  # pyright: ignore[reportReturnType]  (it names a class, and calls what _Forgetful has)
