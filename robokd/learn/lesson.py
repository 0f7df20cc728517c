"""What a student is to learn from rows: the objective, of the student alone or of the student and its twin.

Shapes: B rows, T steps of a row, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.learn import ranks
from robokd.learn.dataset import LABEL, said
from robokd.learn.objective import Objective
from robokd.losses.base import DRIVEN, LOG_PROB, SENT
from robokd.losses.kl import divergence
from robokd.students.base import Student, StudentOutput, log_likelihood
from robokd.teachers.base import TeacherOutput
from robokd.teachers.twin import as_teacher

Terms = dict[str, Tensor]
MEAN, SPREAD = "mean", "spread"  # (B, T, A) of the student's Gaussian when the round's learning begins


class Lesson:
    """The objective of rows, as a function of a student's weights."""

    def __init__(self, student: Student, objective: Objective, twin_weight: float | None = None) -> None:
        """`twin_weight`: share of the objective that is the twin's; None = the student has no twin."""
        self.student, self.objective, self.twin_weight = student, objective, twin_weight
        self.follow = 1.0  # factor on the twin's losses but for reward, of the round

    def __call__(
        self, rows: TensorDict, valid: Tensor, weights: Mapping[str, float]
    ) -> tuple[Tensor, Terms, StudentOutput]:
        """Return the objective of rows (B, T) over their valid steps, its terms and what the student says."""
        own = said(self.student, rows)
        if self.twin_weight is None:
            extra = {field: rows[f"{LABEL}.{field}"] for field in self.objective.of_teacher}
            return *self.objective(own, TeacherOutput(action=rows[LABEL], **extra), rows, valid, weights), own
        twin = said(self.student, rows, self.student.shown)
        loss, terms = self.objective(own, as_teacher(twin), rows, valid, weights)
        held = {
            name: weights[name] * (1.0 if cfg.of_rollout else self.follow)
            for name, cfg in self.objective.losses.items()
        }
        other, others = self.objective(twin, as_teacher(own), rows, valid, held)
        share = self.twin_weight
        terms |= {f"twin_{name}": value for name, value in others.items()}
        return (1 - share) * loss + share * other, terms, own

    def before(self, rows: TensorDict) -> Terms:
        """Return what learning from rows will be held against: the student's Gaussian, LOG_PROB of who sent.

        Where a teacher sent that is no twin, the likelihood is nobody's.
        """
        own = said(self.student, rows)
        log_prob = log_likelihood(own, rows[SENT])
        if self.twin_weight is not None:
            twin = log_likelihood(said(self.student, rows, self.student.shown), rows[SENT])
            log_prob = torch.where(rows[DRIVEN], twin, log_prob)
        assert own.log_std is not None, "a loss of the rollout asks for a spread: of_student"
        return {LOG_PROB: log_prob, MEAN: own.action, SPREAD: own.log_std}


def moved(said_now: StudentOutput, rows: TensorDict) -> Tensor:
    """Return how far the student's Gaussian is from the one before: KL(before || now) in nats, averaged.

    Of several processes each returns its part of the mean.
    """
    assert said_now.log_std is not None, "a loss of the rollout asks for a spread: of_student"
    before, now = (2 * rows[SPREAD]).exp(), (2 * said_now.log_std).exp()
    found = divergence(before, now, (said_now.action - rows[MEAN]).square())
    return found.sum() / ranks.count(found.numel())
