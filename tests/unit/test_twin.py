"""teacher=twin: one network in two views. What it is shown never reaches what the student says."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from test_reinforcement import RECURRENT, TINY, is_same, make_engine, weights
from torch import nn

from robokd.config import compose
from robokd.learn.dataset import FRESH, said
from robokd.learn.lesson import Lesson
from robokd.learn.objective import Objective
from robokd.learn.stage import build_env
from robokd.losses.action_huber import ActionHuberCfg
from robokd.losses.base import ACTED, DRIVEN, LOG_PROB, SENT
from robokd.students.base import StudentOutput, StudentPolicy
from robokd.teachers.twin import as_teacher

TWIN = ("teacher=twin", "loss=[ppo,kl]", "loss.kl.direction=reverse", "dagger.validation_share=0")
STUDENTS = [(), RECURRENT]
TOLD = "shown.privileged"


def _obs(count: int, steps: int = 0) -> TensorDict:
    torch.manual_seed(2)
    shape = (count, steps) if steps else (count,)
    fields = {name: torch.randn(*shape, 3) for name in ("proprio", "privileged")}
    return TensorDict({**fields, TOLD: fields["privileged"]}, batch_size=shape)


def _rows(student, count=6, steps=4) -> TensorDict:
    obs = _obs(count, steps)
    rows = TensorDict(dict(obs.items()), batch_size=[count])
    rows[FRESH] = torch.arange(count * steps).view(count, steps) % 5 == 0
    for name, value in student.initial_state(count).items():
        rows[f"memory.{name}"] = torch.randn_like(value)
    return rows


# the student's view


@pytest.mark.parametrize("words", STUDENTS)
def test_what_the_student_says_of_rows_does_not_depend_on_what_its_twin_is_shown(tmp_path, words):
    student = make_engine(tmp_path, *TWIN, *words).student
    rows = _rows(student)
    own = said(student, rows)
    for other in (rows.exclude(TOLD), rows.clone().update({TOLD: rows[TOLD] + 9.0})):
        again = said(student, other)
        for field in ("action", "log_std", "features"):
            assert torch.equal(getattr(own, field), getattr(again, field)), field
    twin = said(student, rows, student.shown)
    assert (twin.action - own.action).abs().min() > 0


@pytest.mark.parametrize("words", STUDENTS)
def test_a_student_at_work_among_privileged_groups_is_not_shown_them(tmp_path, words):
    student = make_engine(tmp_path, *TWIN, *words).student
    obs = _obs(5).exclude(TOLD)  # as an environment emits it
    alone = StudentPolicy(student, 5).say(obs.select("proprio"))
    among = StudentPolicy(student, 5).say(obs)
    assert torch.equal(alone.action, among.action)
    assert torch.equal(alone.features, among.features)


@pytest.mark.parametrize("words", STUDENTS)
def test_a_student_explores_around_its_own_action_with_the_likelihood_that_is_noted(tmp_path, words):
    engine = make_engine(tmp_path, *TWIN, *words, "student.initial_std=0.01")
    _estrange(engine.student)
    engine._collect(0.0)
    rows = engine._round
    with torch.no_grad():
        rows.update(engine.lesson.before(rows))
        own = said(engine.student, rows)
    assert not rows[DRIVEN].any()
    # noise of standard deviation 0.01: 64 draws of it are within 5 of them
    assert (rows[SENT] - own.action).abs().max() < 0.05


def test_a_twin_explores_around_what_it_says_when_shown_with_the_likelihood_that_is_noted(tmp_path):
    engine = make_engine(tmp_path, *TWIN, "student.initial_std=0.01")
    _estrange(engine.student, by=0.02)
    assert _largest_noise(engine) < 5


def test_a_twin_that_wants_more_than_the_range_explores_around_what_it_wants(tmp_path):
    engine = make_engine(tmp_path, *TWIN, "student.initial_std=0.01")
    nn.init.constant_(engine.student.head.bias, 1.5)
    assert _largest_noise(engine) < 5


def _estrange(student, by=0.3):
    """Make the twin's action another one than the student's, by a lot."""
    nn.init.normal_(student.hint.linear.weight, std=by)


def _largest_noise(engine) -> float:
    """Return how far from its twin's action the largest exploration was, in standard deviations."""
    engine._collect(1.0)
    rows = engine._round
    assert rows[DRIVEN].all()
    assert rows[ACTED].all()  # its likelihood is known
    with torch.no_grad():
        rows.update(engine.lesson.before(rows))
        twin = said(engine.student, rows, engine.student.shown)
    noise = (rows[SENT] - twin.action) / twin.log_std.exp()
    wanted = -(noise.square() / 2 + twin.log_std + math.log(2 * math.pi) / 2).sum(-1)
    assert torch.allclose(rows[LOG_PROB], wanted, rtol=1e-4, atol=1e-3)
    return noise.abs().max().item()


@pytest.mark.parametrize("words", STUDENTS)
def test_a_memory_is_not_touched_by_what_the_twin_is_shown(tmp_path, words):
    engine = make_engine(tmp_path, *TWIN, *words)
    obs, policy = _obs(8), engine.twin.policy
    before = policy.state.clone()
    _, alone = engine.student.forward(obs.select("proprio"), before)
    engine.teacher.label(obs)
    assert (policy.state == before).all()  # it looks, and remembers nothing
    _, shown = engine.student.forward(obs, before)
    assert shown.keys() == alone.keys()
    for name in shown.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
        assert torch.equal(shown[name], alone[name])
    assert alone.is_empty() == (not words)


def test_what_is_exported_is_the_student_s_view_alone(tmp_path):
    import onnxruntime

    from robokd.export.onnx import PolicyGraph, to_onnx

    student = make_engine(tmp_path, *TWIN).student.requires_grad_(False)
    config = compose("distill", [*TINY, *TWIN, "num_envs=1"])
    env = build_env(config, ("proprio",), "test")
    policy = StudentPolicy(student, 1)
    sample = {"proprio": _obs(1)["proprio"], "anchor": env.state.command, "rate": env.state.rate}
    session = onnxruntime.InferenceSession(to_onnx(PolicyGraph(policy, env).eval(), sample))
    assert {node.name for node in session.get_inputs()} == {"proprio", "anchor", "rate"}
    action = session.run(["action"], {name: value.numpy() for name, value in sample.items()})[0]
    wanted = policy.act(_obs(1).select("proprio"))
    assert torch.allclose(torch.from_numpy(action), wanted, atol=1e-6)
    # what it was shown is no part of the graph
    nn.init.normal_(student.hint.linear.weight, std=9.0)
    assert torch.equal(policy.act(_obs(1).select("proprio")), wanted)


def test_the_twin_reads_what_it_is_shown_normalised_by_what_was_met(tmp_path):
    engine = make_engine(tmp_path, *TWIN)
    engine._collect(0.0)
    seen = engine._round[TOLD].flatten(0, 1)
    engine._learn(0, 1e-3)
    normalizer = engine.student.hint.normalizer
    assert normalizer.count.item() == 64
    assert torch.allclose(normalizer.mean.float(), seen.mean(0), atol=1e-6)


# two halves of one objective


class Halves(nn.Module):
    """A student whose views have nothing in common: two numbers."""

    inputs, shown = ("proprio",), (TOLD,)

    def __init__(self):
        super().__init__()
        self.own, self.twin = nn.Parameter(torch.tensor(0.25)), nn.Parameter(torch.tensor(-0.5))

    def sequence(self, obs, state, fresh):
        value = self.twin if TOLD in obs.keys() else self.own  # noqa: SIM118
        action = value.expand(*fresh.shape, 2)
        return StudentOutput(action=action, features=action, estimates={})


def _halves(weight):
    # Huber, delta 1, of 0.75: 0.75^2 / 2 = 0.28125 in either direction; slope 0.75 away from each other
    student = Halves()
    rows = TensorDict({"proprio": torch.zeros(3, 2, 3), TOLD: torch.zeros(3, 2, 3)}, batch_size=[3])
    rows[FRESH] = torch.zeros(3, 2, dtype=torch.bool)
    lesson = Lesson(student, Objective({"action_huber": ActionHuberCfg(delta=1.0)}), weight)
    loss, terms, own = lesson(rows, torch.ones(3, 2, dtype=torch.bool), {"action_huber": 1.0})
    loss.backward()
    grads = [0.0 if value.grad is None else value.grad.item() for value in (student.own, student.twin)]
    assert set(terms) == {"action_huber", "twin_action_huber"}
    assert torch.equal(own.action, torch.full((3, 2, 2), 0.25))
    return loss.item(), grads


def test_6_the_student_s_half_has_no_gradient_through_the_twin():
    loss, (own, twin) = _halves(0.0)
    assert (loss, own, twin) == pytest.approx((0.28125, 0.75, 0.0))


def test_6_the_twin_s_half_has_no_gradient_through_the_student():
    loss, (own, twin) = _halves(1.0)
    assert (loss, own, twin) == pytest.approx((0.28125, 0.0, -0.75))


def test_5_the_weight_of_the_twin_shares_out_the_objective():
    loss, grads = _halves(0.2)
    assert loss == pytest.approx(0.28125)
    assert grads == pytest.approx([0.8 * 0.75, -0.2 * 0.75])


@pytest.mark.parametrize(("weight", "learns"), [(0.0, False), (1.0, True)])
def test_only_the_twin_s_half_teaches_the_network_what_it_is_shown(tmp_path, weight, learns):
    engine = make_engine(tmp_path, *TWIN, f"teacher.weight={weight}")
    engine._collect(0.5)
    rows = engine._round
    with torch.no_grad():
        rows.update(engine.lesson.before(rows))
    valid = torch.ones(rows[FRESH].shape, dtype=torch.bool)
    engine.lesson(rows, valid, {"ppo": 1.0, "kl": 1.0})[0].backward()
    gradient = engine.student.hint.linear.weight.grad
    assert bool(gradient is not None and gradient.any()) == learns
    assert engine.student.head.weight.grad.any()


def test_what_a_view_is_taught_is_the_other_s_mean_without_a_gradient():
    action = torch.tensor([[0.5, 3.0]], requires_grad=True)
    taught = as_teacher(StudentOutput(action=action, features=action, estimates={}, log_std=action * 2))
    assert taught.action.tolist() == [[0.5, 3.0]]
    assert not taught.action.requires_grad
    assert not taught.log_std.requires_grad
    assert taught.latent is None


@pytest.mark.parametrize("words", STUDENTS)
def test_1_a_round_changes_the_network_and_what_the_teacher_is_stays(tmp_path, words):
    engine = make_engine(tmp_path, *TWIN, *words, "dagger.acting.per=step")
    before, critic = weights(engine.student), weights(engine.rewards.critic)
    driven = engine._collect(0.5)
    assert 0.1 < driven < 0.9
    losses = engine._learn(0, 1e-3)
    after = weights(engine.student)
    assert all(not torch.equal(before[name], after[name]) for name in ("hint.linear.weight", "head.weight"))
    assert not is_same(critic, weights(engine.rewards.critic))
    assert engine.teacher.sha256() == engine.teacher_sha256
    assert {"loss/ppo", "loss/kl", "loss/twin_ppo", "loss/twin_kl"} <= losses.keys()


def test_noise_on_what_the_twin_sends_makes_its_likelihood_unknown(tmp_path):
    engine = make_engine(tmp_path, *TWIN, "dagger.acting.noise=0.1", "dagger.acting.per=step")
    engine._collect(0.5)
    rows = engine._round
    assert rows[DRIVEN].any()
    assert not rows[DRIVEN].all()
    assert torch.equal(rows[ACTED], ~rows[DRIVEN])
