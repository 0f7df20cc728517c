"""Huber distance between student and teacher actions.

Source: Huber (1964), eq. 4. Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from robokd.losses.base import DistillLoss, LossCfg, check_positive
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "action_huber")
@dataclass(kw_only=True)
class ActionHuberCfg(LossCfg):
    """Huber distance between student and teacher actions."""

    delta: float = 0.2  # where the loss turns from square to linear, in normalised action units

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("loss.action_huber.delta", self.delta)

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(action_huber, delta=self.delta)


def action_huber(
    student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, delta: float
) -> Tensor:
    """Return the Huber distance between actions, averaged over A, as (B, T); over delta: its slope is 1."""
    return (
        functional.huber_loss(student.action, teacher.action.detach(), reduction="none", delta=delta).mean(-1)
        / delta
    )
