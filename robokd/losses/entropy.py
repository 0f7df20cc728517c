"""A floor under the entropy of the student's Gaussian.

Source: the entropy bonus of `imitation`'s behaviour cloning (Gleave et al. 2022), made a hinge: above the
floor it asks for nothing. Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

import math
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


@register("loss", "entropy")
@dataclass(kw_only=True)
class EntropyCfg(LossCfg):
    """A floor under the entropy of the student's Gaussian: its sigma does not collapse.

    Reinforcement learning that starts from a student explores with that student's sigma: one that imitation
    has driven to zero never explores again, and every divergence from it explodes. The floor holds for each
    action dimension: a wide one does not pay for a collapsed one.

    It pulls with the same strength however deep sigma has sunk, and not at all above the floor.
    Unit: nats, mean over A. The teacher is not read.
    """

    trains_action: ClassVar[bool] = False
    of_student: ClassVar[tuple[str, ...]] = ("log_std",)

    floor: float = 0.05  # the sigma, in action units, below whose entropy a dimension pays

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("loss.entropy.floor", self.floor, "action units")

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(entropy, floor=self.floor)


def entropy(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, floor: float) -> Tensor:
    """Return mean_j relu(H(floor) - H(sigma_S))_j as (B, T), in nats.

    H(sigma) = log(2 pi e sigma^2) / 2 is the entropy of a Gaussian: the difference is log(floor / sigma_S).
    The mean over A of what single dimensions lack, not what the joint entropy lacks: that would let one
    collapse where others are wide. The slope is -1 / A for each log_std below the floor.

    Args:
        student: `log_std` (B, T, A).
        teacher: not read.
        batch: not read.
        floor: sigma that has the least entropy allowed, in action units.
    """
    assert student.log_std is not None, "the engine refuses a student without log_std: of_student"
    return torch.relu(math.log(floor) - student.log_std).mean(-1)
