"""Squared distance between student and teacher actions.

Source: the behaviour-cloning loss of rsl_rl's `Distillation` and of UniDexGrasp's DAgger.
Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import DistillLoss, LossCfg
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "action_mse")
@dataclass(kw_only=True)
class ActionMseCfg(LossCfg):
    """Squared distance between student and teacher actions.

    The plain choice. Its gradient grows with the distance, so rare states where the student is far off weigh
    most: take `action_huber` where labels have outliers. Its optimum is the mean of the labels, so of a
    teacher that goes left or right by chance it learns the middle (see `kl`).

    Unit: squared normalised action units, mean over A. Reads the mean actions only.
    """

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(action_mse)


def action_mse(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
    """Return mean_j (mu_S - mu_T)_j^2 as (B, T), in squared action units.

    The mean over A, not the sum: a weight means the same on arms with 6 and with 23 joints. The teacher is
    detached.

    Args:
        student: `action` (B, T, A), before clipping.
        teacher: `action` (B, T, A) in [-1, 1].
        batch: not read.
    """
    return (student.action - teacher.action.detach()).square().mean(-1)
