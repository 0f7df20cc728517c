"""Distance between student and teacher actions, in the teacher's standard deviations.

Source: DEXTRAH-G (Lum et al. 2024), the code's `distillation.py`: sqrt(sum_j d_j^2 / sigma_j^2).
Departures: squared unless `root`, the teacher's sigma has a floor, and every sample has its own sigma (the
code takes the first environment's for all). Its second term, |sigma_S - sigma_T|, is left to `kl`.
Shapes: B samples, T steps, A action dimensions.
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


@register("loss", "action_sigma")
@dataclass(kw_only=True)
class ActionSigmaCfg(LossCfg):
    """Distance between actions in the teacher's sigmas: exact where the teacher is.

    A teacher that is sure of a joint has a small sigma there, and the student is held to it more tightly.
    A teacher at the end of its training may let sigma collapse: 1 / sigma^2 explodes, so sigma counts as at
    least `floor`, which bounds the weight of a joint by 1 / floor^2.

    With `root` the loss is DEXTRAH's un-squared norm: its gradient has the same length near the teacher as
    far from it, so let the learning rate fall to zero. Unit: sigmas, squared without `root`; summed over A.
    """

    of_teacher: ClassVar[tuple[str, ...]] = ("log_std",)

    floor: float = 0.05  # least sigma that the teacher is taken to have, in action units
    root: bool = False  # whether to take the square root of the sum, as DEXTRAH does

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("loss.action_sigma.floor", self.floor, "action units")

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(action_sigma, floor=self.floor, root=self.root)


def action_sigma(
    student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, floor: float, root: bool
) -> Tensor:
    """Return sum_j (mu_S - mu_T)_j^2 / max(sigma_T, floor)_j^2 as (B, T), or its square root.

    The sum over A, as in the source: it is twice the KL of two Gaussians that share sigma_T. The gradient of
    the root at zero distance is zero, not NaN. The teacher is detached.

    Args:
        student: `action` (B, T, A).
        teacher: `action` and `log_std` (B, T, A).
        batch: not read.
        floor: least sigma of the teacher, in action units.
        root: whether to return the norm, in sigmas, rather than its square.
    """
    assert teacher.log_std is not None, "the engine refuses a teacher without log_std: of_teacher"
    sigma = teacher.log_std.detach().exp().clamp(min=floor)
    distance = (student.action - teacher.action.detach()) / sigma
    return torch.linalg.vector_norm(distance, dim=-1) if root else distance.square().sum(-1)
