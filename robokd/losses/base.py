"""The signature of a distillation loss.

`loss(student, teacher, batch) -> (B, T)`, unreduced; the engine masks, averages and weights. Shapes: B
samples, T steps, A actions.

A config has a `weight` and `build() -> DistillLoss`. Where the loss reads optional fields of what the two
say, the config names them in the class variables `of_student` and `of_teacher` (fields of StudentOutput and
TeacherOutput), and the engine refuses a pair that does not offer them. A field `terms` names the privileged
terms that the student is to estimate.
"""

from __future__ import annotations

from typing import Protocol

from tensordict import TensorDict
from torch import Tensor

from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


class DistillLoss(Protocol):
    """A loss of every sample."""

    def __call__(self, student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
        """Return (B, T).

        `batch` (B, T) holds `fresh`, bool: the steps that begin an episode, and by name the privileged terms
        (B, T, D) that the student estimates.
        """
        ...
