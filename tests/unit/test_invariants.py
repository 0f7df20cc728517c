"""The composition invariants of teacher, student, residual and graph (METHODS: 1, 3, 4, 7, 8, 12)."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from robokd import UserError
from robokd.cli import main
from robokd.config import compose
from robokd.learn import dagger
from robokd.learn.dataset import EPISODE, FRESH, LABEL, MEMORY, seen
from robokd.learn.pupil import build_student
from robokd.learn.residual import ResidualEnv
from robokd.learn.rollout import rollout
from robokd.learn.teach import load_teacher
from robokd.nets.residual import RefinedPolicy, zero_last_layer
from robokd.nets.residual import compose as compose_actions
from robokd.run import Run
from robokd.students.base import StudentOutput, StudentPolicy
from robokd.teachers.base import TeacherOutput
from robokd.teachers.ppo import PpoCfg


@pytest.fixture
def engine(chain, make_env, tmp_path):
    """Return a DAgger engine on a tiny world, its data in memory of this test."""
    return _engine(chain, make_env, tmp_path)


def _engine(chain, make_env, tmp_path, *words):
    from tests.conftest import TINY

    config = compose(
        "distill", [f"parent={chain['teach']}", *TINY["distill"], *words], Run.open(chain["teach"]).config
    )
    env = make_env(6, ("proprio", "front", "privileged"), stream="train", horizon_s=0.2, hold_s=0.1)
    teacher = load_teacher(Run.open(chain["teach"]), "best", env)
    run = Run.create(tmp_path, task="reach", stage="distill", config={}, seed=0)
    engine = dagger.Dagger(config, env, build_student(config, env), teacher)
    engine.run = run
    return engine


def test_1_student_changes_and_teacher_does_not(engine):
    teacher, before = engine.teacher.sha256(), [value.clone() for value in engine.student.parameters()]
    engine._collect(0.5)
    engine._fit(0, 1e-3)
    assert engine.teacher.sha256() == teacher
    assert any(not torch.equal(a, b) for a, b in zip(before, engine.student.parameters(), strict=True))


class Echo:
    """A teacher that answers with what it sees."""

    inputs, offers = ("proprio",), frozenset()

    def label(self, obs):
        return TeacherOutput(action=torch.tanh(obs["proprio"][:, :7]))

    def reset(self, mask):
        """Nothing is remembered."""


def test_3_every_label_belongs_to_the_observation_before_its_step(engine):
    # the label of row t must be f(observation t), even after resets
    engine.teacher = Echo()
    for _ in range(4):
        engine._collect(0.5)
    rows = engine.data.buffer.rows(torch.arange(len(engine.data.buffer)))
    assert len(set(rows[EPISODE].flatten().tolist())) > 6  # resets did happen
    assert torch.equal(rows[LABEL], torch.tanh(rows["proprio"][..., :7]))


def test_3_the_episode_column_names_the_episode_that_the_row_shows(engine):
    engine._collect(1.0)
    rows = engine.data.buffer.rows(torch.arange(len(engine.data.buffer)))
    for episode in set(rows[EPISODE].flatten().tolist()):
        goals = rows["goal_position"][rows[EPISODE] == episode]
        assert (goals == goals[0]).all()


def _student(make_env, env):
    config = compose(
        "distill",
        ["parent=x", "student.channels=[4,4]", "student.keypoints=4"],
        {"task": {"part": "reach"}, "sim": {"part": "mujoco"}},
    )
    torch.manual_seed(1)
    return build_student(config, env).eval().requires_grad_(False)


def _actor(env, student, groups=("features", "proprio", "base_action")):
    widths = {"features": student.feature_size, "proprio": 21, "base_action": 7}
    rows = TensorDict({name: torch.zeros(1, widths[name]) for name in groups}, batch_size=[1])
    actor = PpoCfg(actor_groups=groups, hidden=(16,))._actor(rows, env.num_actions)
    zero_last_layer(actor)
    return actor.eval()


def test_4_a_fresh_residual_is_the_student_bit_for_bit(make_env):
    env = make_env(5, ("proprio", "front"))
    student = _student(make_env, env)
    alone = rollout(
        make_env(5, ("proprio", "front"), horizon_s=0.4, hold_s=0.2), StudentPolicy(student, 5), 10
    )
    refined = RefinedPolicy(student, _actor(env, student), 0.3, 5)
    composed = rollout(make_env(5, ("proprio", "front"), horizon_s=0.4, hold_s=0.2), refined, 10)
    assert torch.equal(alone.returns, composed.returns)
    assert torch.equal(alone.steps, composed.steps)


def test_4_the_residual_environment_composes_as_the_policy_does(make_env):
    groups = ("features", "proprio", "base_action")
    inner = make_env(3, ("proprio", "front"))
    student = _student(make_env, inner)
    env = ResidualEnv(inner, student, 0.5, groups)
    base = env.get_observations()["base_action"].clone()
    correction = torch.linspace(-2, 2, 21).view(3, 7)
    env.step(correction)
    assert torch.equal(inner.state.action, compose_actions(base, correction, 0.5))


@pytest.mark.parametrize("group", ["privileged", "physics", "proprio"])
def test_7_only_cameras_can_be_a_student_s_eyes(make_env, group):
    env = make_env(2, ("proprio", "privileged"))
    config = compose(
        "distill", ["parent=x", f"cameras=[{group}]"], {"task": {"part": "reach"}, "sim": {"part": "mujoco"}}
    )
    with pytest.raises(UserError, match=f"no camera named '{group}'. Known: front, wrist, outside"):
        build_student(config, env)


@pytest.mark.parametrize("group", ["privileged", "physics", "front", "nothing"])
def test_7_a_residual_may_not_act_on_what_a_robot_lacks(chain, tmp_path, capsys, group):
    words = [f"parent={chain['distill']}", f"teacher.actor_groups=[features,{group}]", f"runs={tmp_path}"]
    assert main(["refine", *words]) == 2
    message = capsys.readouterr().err
    assert f"may not act on '{group}'" in message
    assert "Known: proprio, features, base_action" in message
    assert not list(tmp_path.iterdir())


def test_7_the_graph_depends_on_its_declared_inputs_alone(make_env):
    import onnxruntime

    from robokd.export.onnx import PolicyGraph, to_onnx

    env = make_env(2, ("proprio", "front", "privileged"))
    graph = PolicyGraph(StudentPolicy(_student(make_env, env), 2), env).eval()
    obs = env.get_observations()
    sample = {
        "proprio": obs["proprio"][:1],
        "front": obs["front"][:1],
        "anchor": env.state.command[:1],
        "rate": env.state.rate[:1],
    }
    session = onnxruntime.InferenceSession(to_onnx(graph, sample))
    assert {node.name for node in session.get_inputs()} == {"proprio", "front", "anchor", "rate"}
    assert [node.name for node in session.get_outputs()] == [
        "command",
        "command_rate",
        "action",
        "goal_position",
    ]


@pytest.mark.parametrize("succeeds", [False, True])
def test_8_truncation_bootstraps_and_termination_does_not(make_env, succeeds):
    env = make_env(4, ("proprio", "privileged", "physics"), horizon_s=0.08, hold_s=0.04, tolerance_m=0.001)
    env.task.distance = lambda state: torch.zeros(4) if succeeds else torch.ones(4)
    settings = PpoCfg(steps_per_iteration=2, hidden=(8,), critic_hidden=(8,))
    algorithm = settings.algorithm(env.get_observations(), 7, "cpu")
    obs = env.get_observations()
    while True:
        with torch.no_grad():
            actions = algorithm.act(obs)
            value = algorithm.transition.values[:, 0].clone()
            obs, reward, done, extras = env.step(actions)
            algorithm.process_env_step(obs, reward, done, extras)
        if done.all():
            break
    stored = algorithm.storage.rewards[algorithm.storage.step - 1, :, 0]
    assert extras["time_outs"].tolist() == [not succeeds] * 4
    assert extras["success"].tolist() == [succeeds] * 4
    assert value.abs().min() > 0
    assert torch.allclose(stored, reward if succeeds else reward + settings.discount * value)


class Counter(nn.Module):
    """A recurrent student for the test: its action is the number of steps since its state was reset."""

    inputs, targets, feature_size, offers, latent_size = ("proprio",), {}, 1, frozenset(), 0

    def initial_state(self, count):
        return TensorDict({"steps": torch.zeros(count)}, batch_size=[count])

    def reset(self, state, mask):
        return TensorDict({"steps": state["steps"].masked_fill(mask, 0.0)}, batch_size=state.batch_size)

    def forward(self, obs, state):
        steps = state["steps"] + 1
        action = (steps / 100)[:, None].expand(-1, 7)
        return StudentOutput(action=action, features=steps[:, None], estimates={}), TensorDict(
            {"steps": steps}, batch_size=state.batch_size
        )


def test_12_recurrent_state_is_reset_where_an_episode_ended_and_nowhere_else(make_env):
    policy = StudentPolicy(Counter(), 3)
    obs = TensorDict({"proprio": torch.zeros(3, 21)}, batch_size=[3])
    policy.act(obs)
    policy.act(obs)
    policy.reset(torch.tensor([False, True, False]))
    assert policy.act(obs)[:, 0].tolist() == pytest.approx([0.03, 0.01, 0.03])


def test_12_a_replayed_sequence_gives_what_was_said_on_line(make_env):
    env = make_env(3, ("proprio",), horizon_s=0.16, hold_s=0.12)
    policy = StudentPolicy(Counter(), 3)
    said, ended = [], []
    obs = env.reset()
    for _ in range(9):
        action = policy.act(obs)
        obs, _, done, _ = env.step(action)
        policy.reset(done.bool())
        said.append(action)
        ended.append(done.bool())
    assert torch.stack(ended).any()
    student, state = Counter(), Counter().initial_state(3)
    for action, done in zip(said, ended, strict=True):
        output, state = student.forward(obs, state)
        assert torch.equal(output.action.clip(-1, 1), action)
        state = student.reset(state, done)


RECURRENT = ("student=cnn_gru", "student.units=8", "student.hidden=[16]", "dagger.steps_per_round=8")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_12_what_is_learned_from_is_what_was_said_when_it_was_collected(chain, make_env, tmp_path, share):
    engine = _engine(chain, make_env, tmp_path, *RECURRENT, "dagger.sequence=4")
    said, act = [], engine.policy.act
    engine.policy.act = lambda obs: said.append(act(obs)) or said[-1]
    engine.student.update_normalizers = lambda rows: None
    for _ in range(2):
        engine._collect(share)
    rows = engine.data.buffer.rows(torch.arange(len(engine.data.buffer)))
    assert rows[FRESH][:, 1:].any()  # episodes end inside of rows
    memory = TensorDict({"hidden": rows[MEMORY + "hidden"]}, batch_size=[len(rows)])
    with torch.no_grad():
        again = engine.student.sequence(seen(rows, engine.student.inputs), memory, rows[FRESH]).action.clip(
            -1, 1
        )
    wanted = torch.stack(said)  # (steps, N, A), against rows in the order of blocks of 4 steps, then N
    wanted = wanted.unflatten(0, (-1, 4)).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(again, wanted, atol=1e-6)


def test_nothing_is_learned_from_steps_that_are_held_out(chain, make_env, tmp_path):
    def learned(spoil):
        torch.manual_seed(0)
        folder = tmp_path / str(spoil)
        engine = _engine(
            chain, make_env, folder, *RECURRENT, "dagger.sequence=4", "dagger.validation_share=0.4"
        )
        for _ in range(2):
            engine._collect(0.5)
        rows = engine.data.buffer.rows(torch.arange(len(engine.data.buffer)))
        held = engine.data.is_held_out(rows)
        assert held.any()
        assert not held.all()
        assert (held.any(1) & ~held.all(1)).any()  # some rows are held out in part
        if spoil:
            engine.data.buffer._maps[LABEL][: len(rows)][held.numpy()] = 0.9
        engine._fit(0, 1e-2)
        return [value.clone() for value in engine.student.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(learned(False), learned(True), strict=True))


def test_5_losses_are_linear_in_their_weights(engine):
    engine._collect(1.0)
    rows = engine.data.buffer.rows(torch.arange(8))
    valid = torch.ones(8, 1, dtype=torch.bool)
    loss, terms, _ = engine.lesson(rows, valid, {"action_huber": 1.0, "estimate": 1.0})
    scaled, same, _ = engine.lesson(rows, valid, {"action_huber": 3.0, "estimate": 0.5})
    assert torch.allclose(scaled, 3 * terms["action_huber"] + 0.5 * terms["estimate"])
    assert torch.allclose(loss, terms["action_huber"] + terms["estimate"])
    assert all(torch.equal(terms[name], same[name]) for name in terms)


def test_12_a_residual_environment_restored_remembers_as_if_it_had_gone_on(make_env):
    def stepped(env, steps):
        return [env.step(torch.zeros(3, 7))[0]["base_action"] for _ in range(steps)]

    def fresh():
        return ResidualEnv(
            make_env(3, ("proprio",), horizon_s=0.2, hold_s=0.1), Counter(), 0.3, ("base_action",)
        )

    whole = fresh()
    stepped(whole, 3)
    saved = whole.snapshot()
    other = fresh()
    other.restore(saved)
    assert torch.equal(other.get_observations()["base_action"], whole.get_observations()["base_action"])
    for left, right in zip(stepped(whole, 4), stepped(other, 4), strict=True):
        assert torch.equal(left, right)


def test_12_a_student_remembers_the_steps_that_the_teacher_drove(engine):
    engine.policy = StudentPolicy(Counter(), 6)
    engine._collect(1.0)
    assert (engine.policy.state["steps"] == engine.env.state.step).all()
    assert engine.env.state.step.max() > 0
