"""Distance between the student's value and the teacher's: value transfer.

Source: `dagger_value` of UniDexGrasp++ (Wan et al. 2023), which trains the student's critic along with its
actions. Departures: the target is the teacher's value, not a return, and Huber's bounded gradient stands for
PPO's clip around the old value, which a replay buffer does not have. Shapes: B samples, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from robokd import UserError
from robokd.losses.base import DistillLoss, LossCfg, check_positive
from robokd.registry import register, unknown
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput

FORMS = ("huber", "mse")


@register("loss", "value")
@dataclass(kw_only=True)
class ValueCfg(LossCfg):
    """Distance between the student's value and the teacher's: refining starts with a warm critic.

    A critic that begins from nothing spoils a distilled policy in the first updates of reinforcement
    learning. The teacher's value is that of the teacher's policy: too high for a student that is worse, so
    burn the critic in before its advantages move the actor.

    Unit: of the reward's sum; squared for mse. It shares no scale with action losses: choose `weight` by the
    spread of the returns, or it drowns them.
    """

    trains_action: ClassVar[bool] = False
    of_student: ClassVar[tuple[str, ...]] = ("value",)
    of_teacher: ClassVar[tuple[str, ...]] = ("value",)

    form: str = "huber"  # one of FORMS: huber clips the gradient of an outlier, mse does not
    delta: float = 1.0  # where huber turns from square to linear, in units of return

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in FORMS:
            raise UserError(f"loss.value.form: {unknown('form', self.form, FORMS)}")
        check_positive("loss.value.delta", self.delta)

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(value, form=self.form, delta=self.delta)


def value(
    student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, form: str, delta: float
) -> Tensor:
    """Return the distance d = V_S - V_T of values as (B, T).

    huber: d^2 / (2 delta) where |d| <= delta, else |d| - delta / 2; in units of return, slope at most 1.
    mse: d^2; in squared units of return. The teacher is detached.

    Args:
        student: `value` (B, T).
        teacher: `value` (B, T), of the same observations.
        batch: not read.
        form: one of FORMS.
        delta: distance at which huber turns linear; not read by mse.
    """
    assert student.value is not None, "the engine refuses a student without value: of_student"
    assert teacher.value is not None, "the engine refuses a teacher without value: of_teacher"
    target = teacher.value.detach()
    if form == "mse":
        return (student.value - target).square()
    return functional.huber_loss(student.value, target, reduction="none", delta=delta) / delta
