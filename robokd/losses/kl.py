"""Kullback-Leibler divergence between the teacher's and the student's Gaussian, in either direction.

Source: forward: Rusu et al. 2016 and Kickstarting (Schmitt et al. 2018), whose cross entropy differs from it
by the teacher's entropy; reverse: GKD (Agarwal et al. 2024). Departure: both are blurred by `floor`.
Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.losses.base import DistillLoss, LossCfg, check_positive
from robokd.registry import register, unknown
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput

DIRECTIONS = ("forward", "reverse", "symmetric")


@register("loss", "kl")
@dataclass(kw_only=True)
class KlCfg(LossCfg):
    """KL divergence between the teacher's and the student's Gaussian.

    forward, KL(T || S): the student covers all that the teacher may do; reverse, KL(S || T): it does nothing
    that the teacher would not; symmetric: the mean of both.

    Where the student cannot tell apart states labelled N(-1, s) and N(1, s), forward fits a sigma of
    sqrt(1 + s^2) around 0 and reverse one of s around 0. Neither picks a side: that reverse KL seeks a mode
    holds for a teacher that is a mixture, and here every label is one Gaussian. Both means hit a wall at 0.
    Unit: nats, summed over A.
    """

    of_student: ClassVar[tuple[str, ...]] = ("log_std",)
    of_teacher: ClassVar[tuple[str, ...]] = ("log_std",)

    direction: str = (
        "forward"  # one of DIRECTIONS: forward KL(T || S), reverse KL(S || T), symmetric their mean
    )
    floor: float = 0.01  # sigma of the noise that blurs both Gaussians, in action units

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise UserError(f"loss.kl.direction: {unknown('direction', self.direction, DIRECTIONS)}")
        check_positive("loss.kl.floor", self.floor, "action units")

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(kl, direction=self.direction, floor=self.floor)


def kl(
    student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, direction: str, floor: float
) -> Tensor:
    """Return KL(T || S), KL(S || T) or the mean of both as (B, T), in nats.

    KL(P || Q) = sum_j [v_P / v_Q - 1 - log(v_P / v_Q) + (mu_P - mu_Q)^2 / v_Q]_j / 2, v = sigma^2 + floor^2.
    The blur bounds it where a sigma collapses and, unlike a clamp, leaves that sigma a gradient back; it
    never raises the divergence, and zero still means equal Gaussians. The teacher is detached; nothing is
    sampled.

    Args:
        student: `action` and `log_std` (B, T, A).
        teacher: `action` and `log_std` (B, T, A).
        batch: not read.
        direction: one of DIRECTIONS.
        floor: sigma of the blur, in action units.
    """
    assert student.log_std is not None, "the engine refuses a student without log_std: of_student"
    assert teacher.log_std is not None, "the engine refuses a teacher without log_std: of_teacher"
    of_student = (2 * student.log_std).exp() + floor**2
    of_teacher = (2 * teacher.log_std.detach()).exp() + floor**2
    square = (student.action - teacher.action.detach()).square()
    if direction == "forward":
        return divergence(of_teacher, of_student, square)
    if direction == "reverse":
        return divergence(of_student, of_teacher, square)
    return (divergence(of_teacher, of_student, square) + divergence(of_student, of_teacher, square)) / 2


def divergence(variance_p: Tensor, variance_q: Tensor, square: Tensor) -> Tensor:
    """Return KL(P || Q) of Gaussians whose means differ by sqrt(square), summed over the last axis."""
    ratio = variance_p / variance_q
    return (ratio - 1 - ratio.log() + square / variance_q).sum(-1) / 2
