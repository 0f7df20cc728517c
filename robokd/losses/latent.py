"""Squared distance between the student's guess of the teacher's latent and the latent.

Source: RMA (Kumar et al. 2021), the second stage: |z_hat - sg z|^2, here the mean over Z.
Shapes: B samples, T steps, Z numbers of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import DistillLoss, LossCfg
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "latent")
@dataclass(kw_only=True)
class LatentCfg(LossCfg):
    """Squared distance between the student's guess of the teacher's latent and the latent.

    The second stage of RMA: the teacher's encoder sees what only a simulator knows, the student guesses its
    code from what it has seen and done. The guess must be fitted on states that the student itself visits:
    fitted on the teacher's only, it fails at deployment. A teacher that ignores its latent makes the loss
    fall and nothing else better: compare with a shuffled latent.

    Unit: squared latent units, mean over Z. Gradients reach the student's latent only.
    """

    trains_action: ClassVar[bool] = False
    of_student: ClassVar[tuple[str, ...]] = ("latent",)
    of_teacher: ClassVar[tuple[str, ...]] = ("latent",)

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(latent)


def latent(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
    """Return mean_i (z_S - sg z_T)_i^2 as (B, T), in squared latent units.

    sg is the stop-gradient: the teacher's encoder stays as it is. The mean over Z, not RMA's sum: a weight
    means the same for latents of any size.

    Args:
        student: `latent` (B, T, Z).
        teacher: `latent` (B, T, Z).
        batch: not read.
    """
    assert student.latent is not None, "the engine refuses a student without latent: of_student"
    assert teacher.latent is not None, "the engine refuses a teacher without latent: of_teacher"
    return (student.latent - teacher.latent.detach()).square().mean(-1)
