"""Auxiliary regression: the student says where privileged things are (the goal): its eyes learn to look.

Source: the auxiliary position head of DEXTRAH (Lum et al. 2024); here the squared error in units of `scale`.
Shapes: B samples, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import DistillLoss, LossCfg, check_positive
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "estimate")
@dataclass(kw_only=True)
class EstimateCfg(LossCfg):
    """Distance between the student's estimates of privileged terms and the truth."""

    trains_action: ClassVar[bool] = False

    scale_m: float = 0.05  # error that counts as 1
    terms: tuple[str, ...] = ("goal_position",)  # of the privileged group

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("loss.estimate.scale_m", self.scale_m, "m")
        if not self.terms:
            raise ValueError("loss.estimate.terms must name at least one privileged term, got none")

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(estimate_error, scale=self.scale_m)


def estimate_error(
    student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, scale: float
) -> Tensor:
    """Return the pseudo-Huber distance of all estimates, summed over terms, as (B, T); 0 on the truth."""
    rows = [
        torch.sqrt(1 + (((value - batch[name]) / scale) ** 2).sum(-1)) - 1
        for name, value in student.estimates.items()
    ]
    return torch.stack(rows).sum(0)
