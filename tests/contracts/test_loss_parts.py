"""What every registered loss must do, whatever it is: adding one file is enough to be tested here."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from robokd import registry
from robokd.losses.base import ACTED, ADVANTAGE, LOG_PROB, SENT, LossCfg
from robokd.students.base import StudentOutput, log_likelihood
from robokd.teachers.base import OFFERS, TeacherOutput

B, T, A, Z, K, F = 4, 3, 5, 6, 2, 7
LOSSES = registry.names("loss")
OPTIONAL_OF_STUDENT = ("log_std", "latent", "value", "chunk", "branches")


class Case:
    """Leaves that require gradients: what a student and a teacher say, `shift` apart; log_std is the same."""

    def __init__(self, name: str, shift: float) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.rand(B, T, *shape, generator=generator)

        self.loss = registry.find("loss", name)
        terms = getattr(self.loss(), "terms", ())
        self.fresh = torch.zeros(B, T, dtype=torch.bool)
        self.fresh[:, 0] = True
        self.truths = {term: draw(3) for term in terms}
        action, latent, value, log_std = draw(A), draw(Z), draw(), draw(A) - 4
        self.teacher = {
            "action": action, "latent": latent, "value": value, "log_std": log_std, "features": draw(F),
            "modes": torch.stack((action, action - 2), -2),
        }  # fmt: skip
        self.rollout = {}
        if self.loss.of_rollout:
            sent = action + shift + (draw(A) - 0.5) * log_std.exp()
            likely = log_likelihood(StudentOutput(action=action + shift, features=action, estimates={},
                                                  log_std=log_std), sent)  # fmt: skip
            self.rollout = {
                SENT: sent, LOG_PROB: likely + 0.1 * (draw() - 0.5), ADVANTAGE: draw() - 0.5,
                ACTED: torch.ones(B, T, dtype=torch.bool),
            }  # fmt: skip
        ahead = torch.arange(T)[:, None] + torch.arange(K)
        self.student = {
            "action": action + shift, "features": draw(F), "log_std": log_std.clone(),
            "latent": latent + shift, "value": value + shift,
            "chunk": action[:, ahead.clamp(max=T - 1)] + shift,
            "branches": {"early": action + shift, "late": action + shift},
            "estimates": {term: truth + shift for term, truth in self.truths.items()},
        }  # fmt: skip

    def said(self, order: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the loss makes of it, for samples in the order given."""
        order = torch.arange(B) if order is None else order
        student = {name: _picked(field, order) for name, field in self.student.items()}
        teacher = {name: _picked(field, order) for name, field in self.teacher.items()}
        fields = {"fresh": self.fresh, **self.truths, **self.rollout}
        batch = TensorDict(fields, batch_size=[B, T])[order]
        return self.loss().build()(StudentOutput(**student), TeacherOutput(**teacher), batch)

    def leaves(self, of: dict) -> list[torch.Tensor]:
        """Return all tensors of one side as leaves that ask for gradients."""
        flat = [
            one for field in of.values() for one in (field.values() if isinstance(field, dict) else [field])
        ]
        return [one.requires_grad_() for one in flat if one is not None]


def _picked(field, order):
    if isinstance(field, dict):
        return {name: part[order] for name, part in field.items()}
    return None if field is None else field[order]


@pytest.mark.parametrize("shift", [0.0, 0.3, 30.0])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_unreduced_and_finite(name, shift):
    said = Case(name, shift).said()
    assert said.shape == (B, T)
    assert said.dtype == torch.float32
    assert torch.isfinite(said).all()


@pytest.mark.parametrize("name", [name for name in LOSSES if not registry.find("loss", name).of_rollout])
def test_no_loss_is_greater_on_the_truth_than_beside_it(name):
    right, wrong = Case(name, 0.0).said(), Case(name, 0.3).said()
    assert (right <= wrong).all()


@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_teaches_the_student_and_never_the_teacher(name, shift):
    case = Case(name, shift)
    teacher, student = case.leaves(case.teacher), case.leaves(case.student)
    case.said().sum().backward()
    assert all(leaf.grad is None for leaf in teacher)
    grads = [leaf.grad for leaf in student if leaf.grad is not None]
    assert grads, "no field of the student is in the graph"
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert shift == 0 or any(grad.any() for grad in grads)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_no_optional_field_that_it_does_not_name(name):
    full, bare = Case(name, 0.3), Case(name, 0.3)
    of_student, of_teacher = bare.loss.of_student, bare.loss.of_teacher
    assert set(of_student) <= set(OPTIONAL_OF_STUDENT)
    assert set(of_teacher) <= set(OFFERS)
    for field in set(OPTIONAL_OF_STUDENT) - set(of_student):
        bare.student[field] = {} if field == "branches" else None
    for field in set(OFFERS) - set(of_teacher):
        bare.teacher[field] = None
    assert torch.equal(bare.said(), full.said())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_one_sample_knows_nothing_of_the_others(name):
    case, order = Case(name, 0.3), torch.tensor([2, 0, 3, 1])
    before = case.said()
    torch.testing.assert_close(case.said(order), before[order])
    for leaf in case.leaves(case.student):
        leaf.requires_grad_(False)[1] -= 0.7
    after = case.said()
    others = [0, 2, 3]
    assert torch.equal(after[others], before[others])
    assert (after[1] != before[1]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_loss_config_that_weighs_one_unless_told_otherwise(name):
    loss = registry.find("loss", name)
    assert issubclass(loss, LossCfg)
    assert loss().weight == 1.0
