"""Negative log likelihood of the teacher's action under the student's Gaussian.

Source: the behaviour-cloning loss of `imitation` (Gleave et al. 2022); Rusu et al. 2016 with a
Gaussian for the softmax. Departure: the student's Gaussian is blurred by `floor`, so that it cannot collapse.
Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import DistillLoss, LossCfg, check_positive
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "nll")
@dataclass(kw_only=True)
class NllCfg(LossCfg):
    """Negative log likelihood of the teacher's action under the student's Gaussian.

    Teaches a student its sigma from labels without one: it becomes the spread of the labels that the student
    cannot tell apart. The fit covers all labels, as forward KL does: of labels at -1 and 1 it is N(0, 1).
    It is a density, so it is not zero on the truth and falls below zero where sigma is small.

    Labels that can be fitted exactly would let sigma fall to zero and the loss to minus infinity: sigma_S^2
    counts as sigma_S^2 + floor^2. Unit: nats, summed over A.
    """

    of_student: ClassVar[tuple[str, ...]] = ("log_std",)

    floor: float = 0.01  # sigma of the noise that blurs the student's Gaussian, in action units

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("loss.nll.floor", self.floor, "action units")

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(nll, floor=self.floor)


def nll(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, floor: float) -> Tensor:
    """Return -log N(mu_T; mu_S, v) = sum_j [(mu_S - mu_T)^2 / v + log(2 pi v)]_j / 2 as (B, T), in nats.

    v = sigma_S^2 + floor^2. Unlike a clamp, the sum leaves a collapsed sigma a gradient back. Bounded below
    by A log(floor sqrt(2 pi)). The teacher is detached; nothing is sampled.

    Args:
        student: `action` and `log_std` (B, T, A).
        teacher: `action` (B, T, A); its `log_std` is not read.
        batch: not read.
        floor: sigma of the blur, in action units.
    """
    assert student.log_std is not None, "the engine refuses a student without log_std: of_student"
    variance = (2 * student.log_std).exp() + floor**2
    square = (student.action - teacher.action.detach()).square()
    return (square / variance + variance.log() + math.log(2 * math.pi)).sum(-1) / 2
