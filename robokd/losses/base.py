"""The signature of a distillation loss.

`loss(student, teacher, batch) -> (B, T)`, unreduced; the engine masks, averages and weights. Shapes: B
samples, T steps, A actions.

A config is a LossCfg with `build() -> DistillLoss`. A field `terms` names the privileged terms that the
student is to estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from tensordict import TensorDict
from torch import Tensor

from robokd.schedule import Schedule
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput

# what a batch holds beside, of the newest round alone, where something learns from reward
SENT = "sent"  # (B, T, A) the actions taken, before the environment clips them
LOG_PROB = "log_prob"  # (B, T) their log likelihood under who took them, when the round's learning begins
DRIVEN, ACTED = "driven", "acted"  # (B, T) bool, by the teacher; by somebody whose likelihood is known
ADVANTAGE = "advantage"  # (B, T) how much better they were than expected, in units of its spread; 0 = unknown
BEHIND = "behind"  # (B, T) bool, the student's own were no better than expected, or the teacher acted


class DistillLoss(Protocol):
    """A loss of every sample."""

    def __call__(self, student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
        """Return (B, T).

        `batch` (B, T) holds `fresh`, bool: the steps that begin an episode, and by name the privileged terms
        (B, T, D) that the student estimates; for a loss of the rollout SENT, LOG_PROB and ADVANTAGE too.
        """
        ...


@dataclass(kw_only=True)
class LossCfg:
    """What every loss has: how much it counts, and what it reads beside actions and estimates."""

    weight: float = 1.0  # of this loss in the sum
    anneal: Schedule = field(default_factory=Schedule)  # factor on the weight
    gated: bool = False  # needs loss=[ppo,…]: only of steps where the student did no better than expected

    of_rollout: ClassVar[bool] = False  # reads what only the newest round has
    trains_action: ClassVar[bool] = True  # teaches the head that acts
    of_student: ClassVar[tuple[str, ...]] = ()  # optional fields of StudentOutput that it reads
    of_teacher: ClassVar[tuple[str, ...]] = ()  # of TeacherOutput

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be finite and >= 0, got {self.weight}")
        self.anneal.check_range("anneal", 0, math.inf)

    def build(self) -> DistillLoss:
        """Return the loss."""
        raise NotImplementedError


def check_positive(key: str, value: float, unit: str = "") -> None:
    """Raise ValueError, naming the key, for a value that is not positive and finite."""
    if not 0 < value < math.inf:
        raise ValueError(f"{key} must be > 0{unit and f' {unit}'}, got {value}")
