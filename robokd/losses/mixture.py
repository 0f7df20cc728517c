"""KL divergence between the student's Gaussian and a teacher that is a mixture of equally likely Gaussians.

Source: forward: GKD's reading of mode covering (Agarwal et al. 2024), whose Gaussian has a closed form;
reverse: the variational approximation of Hershey and Olsen (2007, section 7), for one Gaussian against a
mixture. Departure: both sides are blurred by `floor`, as in kl.py.
Shapes: B samples, T steps, K modes, A action dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.losses.base import DistillLoss, LossCfg, check_positive
from robokd.losses.kl import divergence
from robokd.registry import register, unknown
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput

DIRECTIONS = ("reverse", "forward")


@register("loss", "mixture")
@dataclass(kw_only=True)
class MixtureCfg(LossCfg):
    """KL divergence between the student's Gaussian and a mixture of the teacher's.

    For teachers that may go either way. reverse, KL(S || T): the student takes one of the ways; forward,
    KL(T || S): it spreads over all of them, and its mean lies between them, where the obstacle is.

    Of modes -1 and 1 with a sigma of 0.2, forward fits N(0, 1.02) and reverse N(-1, 0.2) or N(1, 0.2), which
    of the two its first weights decide. Of an obstacle |a| < 0.5 the means clear 0 % and 100 %, the sampled
    actions 62 % and 99.4 %. Of a single mode it is the loss kl. Unit: nats, summed over A.
    """

    of_student: ClassVar[tuple[str, ...]] = ("log_std",)
    of_teacher: ClassVar[tuple[str, ...]] = ("log_std", "modes")

    direction: str = "reverse"  # one of DIRECTIONS: reverse KL(S || T) seeks a mode, forward covers all
    floor: float = 0.01  # sigma of the noise that blurs all Gaussians, in action units

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise UserError(f"loss.mixture.direction: {unknown('direction', self.direction, DIRECTIONS)}")
        check_positive("loss.mixture.floor", self.floor, "action units")

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(mixture, direction=self.direction, floor=self.floor)


def mixture(
    student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, direction: str, floor: float
) -> Tensor:
    """Return what stands for KL(T || S) or KL(S || T), T = sum_k T_k / K, as (B, T), in nats.

    forward: sum_k KL(T_k || S) / K = KL(T || S) + sum_k KL(T_k || T) / K. The second term, at most log K, is
    free of the student: the gradient is exact.
    reverse: -log sum_k exp(-KL(S || T_k)) / K >= KL(S || T), by Jensen; close where the student overlaps
    with no more than one mode, and loose where it lies across several. Never less than 0.
    The teacher is detached; nothing is sampled, and the order of the modes does not matter.

    Args:
        student: `action` and `log_std` (B, T, A).
        teacher: `modes` (B, T, K, A), the means; `log_std` (B, T, A), which they share.
        batch: not read.
        direction: one of DIRECTIONS.
        floor: sigma of the blur, in action units.
    """
    assert student.log_std is not None, "the engine refuses a student without log_std: of_student"
    assert teacher.log_std is not None, "the engine refuses a teacher without log_std: of_teacher"
    assert teacher.modes is not None, "the engine refuses a teacher without modes: of_teacher"
    of_student = ((2 * student.log_std).exp() + floor**2).unsqueeze(-2)
    of_teacher = ((2 * teacher.log_std.detach()).exp() + floor**2).unsqueeze(-2)
    square = (student.action.unsqueeze(-2) - teacher.modes.detach()).square()
    if direction == "forward":
        return divergence(of_teacher, of_student, square).mean(-1)
    return math.log(square.shape[-2]) - (-divergence(of_student, of_teacher, square)).logsumexp(-1)
