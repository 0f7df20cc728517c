"""What a student learns from: the weighted sum of named losses, each masked and averaged over valid steps.

Shapes: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.losses.base import LossCfg
from robokd.students.base import Student, StudentOutput
from robokd.teachers.base import TeacherOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from robokd.schedule import Schedule
    from robokd.teachers.base import Teacher


class Objective:
    """L = sum_k w_k a_k mean_valid l_k, with weights w and factors a that follow schedules."""

    def __init__(self, losses: Mapping[str, LossCfg]) -> None:
        self.losses = dict(losses)
        self._built = {name: cfg.build() for name, cfg in losses.items()}

    @property
    def of_teacher(self) -> tuple[str, ...]:
        """The optional fields of a teacher's output that the losses read."""
        return tuple(dict.fromkeys(field for cfg in self.losses.values() for field in cfg.of_teacher))

    def check(self, student: Student, teacher: Teacher) -> None:
        """Raise UserError, with the names, for a loss that reads what student or teacher do not say."""
        for name, cfg in self.losses.items():
            for who, speaker, wanted in (
                ("teacher", teacher, cfg.of_teacher), ("student", student, cfg.of_student),
            ):  # fmt: skip
                if missing := [field for field in wanted if field not in speaker.offers]:
                    has = ", ".join(sorted(speaker.offers)) or "its action alone"
                    raise UserError(
                        f"loss={name} needs {', '.join(missing)} of the {who}, which offers {has}"
                    )

    def weights(self, value: Callable[[Schedule], float]) -> dict[str, float]:
        """Return the weights of a round, by `value` of their schedules."""
        return {name: cfg.weight * value(cfg.anneal) for name, cfg in self.losses.items()}

    def __call__(
        self,
        said: StudentOutput,
        taught: TeacherOutput,
        batch: TensorDict,
        valid: Tensor,
        weights: Mapping[str, float],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum and the unweighted mean of each loss over the steps of `valid` (B, T), bool."""
        count = valid.sum()
        terms = {
            name: (loss(said, taught, batch) * valid).sum() / count for name, loss in self._built.items()
        }
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum(), terms
