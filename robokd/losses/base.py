"""The signature of a distillation loss.

`loss(student, teacher, batch) -> (B, T)`, unreduced; the engine masks, averages and weights. Shapes: B
samples, T steps, A actions. A config has a `weight` field and `build() -> DistillLoss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tensordict import TensorDict
from torch import Tensor

from robokd.students.base import StudentOutput


@dataclass
class TeacherOutput:
    """What the teacher says of the same observations."""

    action: Tensor  # (B, T, A) clipped mean, in [-1, 1]


class DistillLoss(Protocol):
    """A loss of every sample."""

    def __call__(self, student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
        """Return (B, T); `batch` holds what else was stored, e.g. the targets of estimates (B, T, D)."""
        ...
