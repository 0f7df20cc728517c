"""What a student learns from: the weighted sum of named losses, each masked and averaged over valid steps.

Shapes: B sequences, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError, registry
from robokd.learn import ranks
from robokd.losses.base import BEHIND, LossCfg
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

    @property
    def is_reinforced(self) -> bool:
        """Whether a loss learns from reward: all of them then learn from the newest round alone."""
        return any(cfg.of_rollout for cfg in self.losses.values())

    def check(self, student: Student, teacher: Teacher) -> None:
        """Raise UserError, with the names, for a loss that reads what student or teacher do not say."""
        self.check_acts()
        for name, cfg in self.losses.items():
            for who, speaker, wanted in (
                ("teacher", teacher, cfg.of_teacher), ("student", student, cfg.of_student),
            ):  # fmt: skip
                if missing := [field for field in wanted if field not in speaker.offers]:
                    has = ", ".join(sorted(speaker.offers)) or "its action alone"
                    raise UserError(
                        f"loss={name} needs {', '.join(missing)} of the {who}, which offers {has}"
                    )
            if cfg.gated and not self.is_reinforced:
                raise UserError(f"loss.{name}.gated reads what the rewards say: say loss=[ppo,…]")

    def check_acts(self) -> None:
        """Raise UserError if nothing teaches the student how to act."""
        counted = [cfg for cfg in self.losses.values() if cfg.weight * cfg.anneal.most > 0]
        if not any(cfg.trains_action for cfg in counted):
            names = registry.names("loss")
            known = ", ".join(name for name in names if registry.find("loss", name).trains_action)
            said = ", ".join(f"{name} of weight {cfg.weight:g}" for name, cfg in self.losses.items())
            raise UserError(f"no loss teaches the student to act: got {said}; those that do: {known}")

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
        """Return the sum and the unweighted mean of each loss over the steps of `valid` (B, T), bool.

        Of several processes each returns its part of them: the sum over all is the mean over all steps.

        A gated loss counts as 0 where it does not apply. Of a student with two heads the one that imitates
        is told apart: it learns from all but the reward.
        """
        count = ranks.total(valid.sum()).clamp(min=1)
        imitator = said if said.imitated is None else replace(said, action=said.imitated)
        terms: dict[str, Tensor] = {}
        for name, cfg in self.losses.items():
            where = valid & batch[BEHIND] if cfg.gated else valid
            value = self._built[name](said if cfg.of_rollout else imitator, taught, batch)
            terms[name] = (value * where).sum() / count
        return torch.stack([weights[name] * value for name, value in terms.items()]).sum(), terms
