"""Squared distance between the actions of the student's early heads and the teacher's action.

Source: OFA-KD (Hao et al. 2023), branches that carry a stage's features to the space of answers. Departure:
the space of answers is the action space, so the distance is squared error and not its modified cross entropy.
Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import DistillLoss, LossCfg
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "feature")
@dataclass(kw_only=True)
class FeatureCfg(LossCfg):
    """Squared distance between the actions of the student's early heads and the teacher's action.

    Teacher and student are networks of different kinds, so their features cannot be compared; each stage of
    the student says instead, through a small head, what it would do. The heads are dropped at deployment.
    It does not train the student's own action: use it beside an action loss.

    Unit: squared normalised action units, mean over A, summed over the heads (each has weight 1, as in the
    source), so a student with more heads hears more of it.
    """

    trains_action: ClassVar[bool] = False
    of_student: ClassVar[tuple[str, ...]] = ("branches",)

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(feature)


def feature(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
    """Return sum_h mean_j (mu_h - mu_T)_j^2 over the heads h as (B, T), in squared action units.

    Every head is matched to the same action; the teacher is detached.

    Args:
        student: `branches`, at least one, each (B, T, A).
        teacher: `action` (B, T, A) in [-1, 1].
        batch: not read.
    """
    assert student.branches, "the engine refuses a student without branches: of_student"
    heads = torch.stack(tuple(student.branches.values()))
    return (heads - teacher.action.detach()).square().mean(-1).sum(0)
