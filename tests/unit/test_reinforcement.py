"""A student that learns from reward too: advantages, PPO's loss, the critic, the rounds, where it begins."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn

from robokd import UserError, registry
from robokd.cli import main
from robokd.config import compose, dump
from robokd.learn.advantages import advantages
from robokd.learn.dagger import Dagger
from robokd.learn.dataset import FRESH, LABEL
from robokd.learn.instructor import cast
from robokd.learn.lesson import MEAN, SPREAD
from robokd.learn.pupil import load_student
from robokd.learn.reinforcement import KNOWN, RETURN, Reinforcement
from robokd.learn.rollout import Outcomes
from robokd.learn.stage import build_env
from robokd.learning import ReinforcementConfig
from robokd.losses.base import ACTED, ADVANTAGE, BEHIND, DRIVEN, LOG_PROB, SENT
from robokd.losses.ppo import ppo
from robokd.run import Run
from robokd.students.base import StudentOutput, StudentPolicy, log_likelihood
from robokd.teachers.base import TeacherOutput

pytest.importorskip("mujoco")

PLUGIN = "plugins=[tests.worlds.hidden_goal]"
WORLD = (PLUGIN, "task=hidden_goal", "cameras=[]", "student=mlp", "student.hidden=[16,16]", "threads=1")
TINY = (
    *WORLD, "num_envs=8", "dagger.steps_per_round=8", "dagger.acting.share=0", "student.gaussian=true",
    "rl.critic_hidden=[8]",
)  # fmt: skip
BOTH = ("teacher=scripted", "loss=[ppo,action_huber]")
# no camera: what it remembers are the 1-D groups
RECURRENT = ("student=cnn_gru", "student.units=8", "student.bfloat16=false", "dagger.sequence=4")


def make_engine(folder: Path, *words: str) -> Dagger:
    """Return an engine on the world of two doors, made as `distill` makes it."""
    config = compose("distill", [*TINY, *words])
    env = build_env(config, ("proprio", "privileged"), "train")
    torch.manual_seed(0)
    student, teacher = cast(config, env)
    run = Run.create(folder, task="hidden_goal", stage="distill", config=dump(config), seed=0)
    engine = Dagger(config, env, student, teacher)
    engine.run = run
    return engine


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def is_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


# advantages


def _by_definition(reward, value, done, beyond, discount, gae_lambda):
    """Return the sum over k >= t of (discount lambda)^(k - t) d_k, up to the first done."""
    steps, count = reward.shape
    found = torch.zeros_like(reward)
    for n in range(count):
        for t in range(steps):
            for k in range(t, steps):
                after = beyond[k, n] if done[k, n] else value[k + 1, n]
                surprise = reward[k, n] + discount * after - value[k, n]
                found[t, n] += (discount * gae_lambda) ** (k - t) * surprise
                if done[k, n]:
                    break
    return found


def _draw(seed, steps, count):
    random = torch.Generator().manual_seed(seed)
    draw = {"generator": random, "dtype": torch.float64}
    done = torch.rand(steps, count, **draw) < 0.3
    is_cut = done & (torch.rand(steps, count, **draw) < 0.5)
    beyond = torch.randn(steps, count, **draw) * is_cut
    return torch.randn(steps, count, **draw), torch.randn(steps + 1, count, **draw), done, beyond


rates = st.floats(0.01, 1.0)


@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 4), rates, rates)
@settings(max_examples=60)
def test_advantages_are_the_sum_of_discounted_surprises_of_the_rest_of_the_episode(
    seed, steps, count, discount, gae_lambda
):
    drawn = _draw(seed, steps, count)
    found = advantages(*drawn, discount=discount, gae_lambda=gae_lambda)
    assert torch.allclose(found, _by_definition(*drawn, discount, gae_lambda), atol=1e-6)


@given(st.integers(0, 10**6), st.integers(1, 8), rates)
@settings(max_examples=30)
def test_advantages_that_trust_the_rewards_are_the_discounted_return_minus_the_value(seed, steps, discount):
    reward, value, done, beyond = _draw(seed, steps, 3)
    total, behind = torch.zeros_like(reward), value[-1]
    for t in reversed(range(steps)):
        behind = reward[t] + discount * torch.where(done[t], beyond[t], behind)
        total[t] = behind
    found = advantages(reward, value, done, beyond, discount=discount, gae_lambda=1.0)
    assert torch.allclose(found, total - value[:-1], atol=1e-6)


def test_advantages_of_one_episode_do_not_depend_on_the_next_and_the_clock_is_no_end():
    # gamma = lambda = 1/2, V = (1, 2, 3, 4), r = (1, 1, 1), the episode ends with step 1
    #   d_2 = 1 + 4/2 - 3 = 0;  d_1 = 1 + W/2 - 2;  d_0 = 1 + 2/2 - 1 = 1;  A_0 = d_0 + d_1 / 4
    value = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    done = torch.tensor([[False], [True], [False]])

    def found(beyond, last):
        reward = torch.tensor([[1.0], [1.0], [last]])
        cut = torch.tensor([[0.0], [beyond], [0.0]])
        return advantages(reward, value, done, cut, discount=0.5, gae_lambda=0.5)[:, 0].tolist()

    assert found(0.0, 1.0) == [0.75, -1.0, 0.0]
    assert found(0.0, 9.0) == [0.75, -1.0, 8.0]  # what the next episode brought is its own
    assert found(6.0, 1.0) == [1.5, 2.0, 0.0]  # W = 6: -1 + 3


# what an environment says of the moment in which the clock cut an episode


@pytest.fixture
def worlds():
    """Return two environments that are the same but for the horizon: 3 steps, and 60."""
    registry.load_plugins(["tests.worlds.hidden_goal"])
    config = compose("distill", [*TINY, "teacher=scripted", "num_envs=4"])
    made = [build_env(config, ("proprio", "privileged"), "test") for _ in range(2)]
    made[0].max_episode_length = 3
    made[0].episode_length_buf = torch.tensor([2, 0, 1, 0])
    yield made
    for env in made:
        env.close()


def test_terminal_is_what_would_have_been_seen_had_the_clock_not_cut_the_episode(worlds):
    cut, whole = worlds
    actions = torch.tensor([[0.5, 1.0], [-0.5, 1.0], [0.2, -0.3], [0.1, 0.9]])
    late = []
    for _ in range(3):
        obs, _, done, extras = cut.step(actions)
        wanted = whole.step(actions)[0]
        late.append(extras["time_outs"].tolist())
        terminal = extras["terminal"]
        assert set(terminal.keys()) == {"proprio", "privileged"}
        ended = extras["time_outs"]
        for group in terminal.keys():  # noqa: SIM118  (a TensorDict iterates over rows)
            assert torch.equal(terminal[group][ended], wanted[group][ended])
            assert not torch.equal(obs[group][ended], wanted[group][ended])  # it began afresh
        assert torch.equal(done.bool(), ended)
    assert late == [[True, False, False, False], [False, False, True, False], [False, True, False, True]]


def test_terminal_is_absent_where_no_episode_ran_out_of_time(worlds):
    cut, whole = worlds
    whole.task.terminated = lambda state: torch.tensor([True, False, False, False])
    extras = whole.step(torch.zeros(4, 2))[3]
    assert "terminal" not in extras
    # an episode that ends in its last moment has ended
    cut.task.terminated = whole.task.terminated
    _, _, done, extras = cut.step(torch.zeros(4, 2))
    assert "terminal" not in extras
    assert done.tolist() == [1, 0, 0, 0]
    assert not extras["time_outs"].any()


# the clipped surrogate


def _said(mean, std=1.0):
    action = torch.tensor([[[mean]]], requires_grad=True)
    return StudentOutput(
        action=action, features=action, estimates={}, log_std=torch.full((1, 1, 1), math.log(std))
    )


def _batch(sent, log_prob, advantage, acted=True):
    fields = {
        SENT: torch.tensor([[[sent]]]), LOG_PROB: torch.tensor([[log_prob]]),
        ADVANTAGE: torch.tensor([[advantage]]), ACTED: torch.tensor([[acted]]),
    }  # fmt: skip
    return TensorDict(fields, batch_size=[1, 1])


def _learned(said, batch, clip=0.2):
    loss = ppo(said, TeacherOutput(action=said.action), batch, clip=clip)
    loss.sum().backward()
    return loss.item(), said.action.grad.item()


def test_the_first_ratio_is_one_so_that_the_loss_is_minus_the_advantage():
    # N(0, 1) at 0.5: d log p / d mean = 0.5; d loss / d mean = -A * 0.5 = -1
    said = _said(0.0)
    log_prob = log_likelihood(said, torch.tensor([[[0.5]]])).item()
    assert log_prob == pytest.approx(-0.125 - 0.5 * math.log(2 * math.pi))
    assert _learned(said, _batch(0.5, log_prob, 2.0)) == pytest.approx((-2.0, -1.0))


@pytest.mark.parametrize(
    ("change", "advantage", "loss", "learns"),
    [
        # log ratio, A, -min(r A, clip(r) A), does the mean move
        (math.log(1.5), 2.0, -2.4, False),  # liked, already 1.2 times as likely
        (math.log(0.5), 2.0, -1.0, True),  # liked, became less likely
        (math.log(0.5), -2.0, 1.6, False),  # disliked, already 0.8 times as likely
        (math.log(1.5), -2.0, 3.0, True),  # disliked, became likelier
    ],
)
def test_nothing_is_learned_beyond_the_clip_on_the_side_that_it_clips(change, advantage, loss, learns):
    said = _said(0.0)
    before = log_likelihood(said, torch.tensor([[[0.5]]])).item() - change
    found, gradient = _learned(said, _batch(0.5, before, advantage))
    assert found == pytest.approx(loss)
    assert (gradient != 0) == learns


@pytest.mark.parametrize("advantage", [0.0, -3.0])
def test_of_who_has_no_likelihood_nothing_is_learned_however_impossible_it_was(advantage):
    # 1e4 at a spread of e^-5: log p = -1e12, whose exponential of a difference would be infinite
    loss, gradient = _learned(_said(0.0, math.exp(-5)), _batch(1e4, -3.0, advantage, acted=False))
    assert (loss, gradient) == (-advantage, 0.0)


bounded = st.floats(-3, 3, width=32)
spreads = st.floats(-5, 1, width=32)


@given(bounded, spreads, bounded, spreads, st.floats(-4, 4, width=32), st.floats(-9, 9, width=32))
@settings(max_examples=100)
def test_the_loss_of_what_was_sampled_is_finite_wherever_the_policy_went(
    mean, log_std, m, s, noise, advantage
):
    before = _said(m, math.exp(s))
    sent = m + math.exp(s) * noise
    log_prob = log_likelihood(before, torch.tensor([[[sent]]])).item()
    found = _learned(_said(mean, math.exp(log_std)), _batch(sent, log_prob, advantage))
    assert all(map(math.isfinite, found))


# what a round was


class Sum(nn.Module):
    """A critic whose value is the sum of what it reads."""

    def forward(self, rows):
        return rows.sum(-1)

    def update(self, rows, target):
        """Nothing is normalised."""


def _rewards(**fields) -> Reinforcement:
    spec = SimpleNamespace(size=1)
    env = SimpleNamespace(obs_specs={"privileged": spec}, num_envs=1, device="cpu")
    return Reinforcement(ReinforcementConfig(critic_hidden=(4,), **fields), env)


def _seen(values):
    return TensorDict({"privileged": torch.tensor(values)[:, None]}, batch_size=[len(values)])


def _note(rewards, values, reward, *, acted, done=None, time_outs=None, terminal=None):
    count = len(values)
    none = [False] * count
    ended = torch.tensor(done or none)
    extras = {"time_outs": torch.tensor(time_outs or none), "success": ended}
    if terminal is not None:
        extras["terminal"] = _seen(terminal)
    outcome = (None, torch.tensor(reward), ended.long(), extras)
    rewards.note(_seen(values), torch.zeros(count, 1), ~torch.tensor(acted), torch.tensor(acted), outcome)


def test_advantages_have_unit_spread_over_the_steps_of_known_likelihood_and_are_zero_elsewhere():
    # V = 0, gamma = 1/2, lambda = 1; columns are environments
    #   A_1 = (2, 4, 1);  A_0 = (1 + 2/2, -1 + 4/2, -3 + 1/2) = (2, 1, -2.5)
    # known: 2 (step 0), 2 and 4 (step 1): mean 8/3, variance ((2/3)^2 2 + (4/3)^2) / 3 = 8/9
    #   (2 - 8/3) / sqrt(8/9) = -1/sqrt 2,   (4 - 8/3) / sqrt(8/9) = sqrt 2
    rewards = _rewards(discount=0.5, gae_lambda=1.0)
    for value in rewards.critic.net.parameters():
        nn.init.zeros_(value)
    _note(rewards, [1.0, 2.0, 3.0], [1.0, -1.0, -3.0], acted=[True, False, False])
    _note(rewards, [4.0, 5.0, 6.0], [2.0, 4.0, 1.0], acted=[True, True, False], done=[False, False, True])
    steps = torch.stack(list(rewards.judged(_seen([0.0, 0.0, 0.0]))))
    half, two = 2**-0.5, 2**0.5
    assert steps[ADVANTAGE].flatten().tolist() == pytest.approx([-half, 0, 0, -half, two, 0], abs=1e-6)
    # what fell short is told by the sign before: the 2 of the first environment is below the mean, and good;
    # where the teacher drove it is followed whatever came of it
    assert steps[BEHIND].tolist() == [[False, True, True], [False, False, True]]
    assert steps[RETURN].flatten().tolist() == [2.0, 1.0, -2.5, 2.0, 4.0, 1.0]
    assert steps[KNOWN].flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    # the critic's normalisers saw all six: mean of returns 7.5 / 6, of what is known 21 / 6
    assert rewards.critic.returns.mean.item() == 1.25
    assert rewards.critic.normalizer.mean.item() == 3.5
    assert rewards.critic.returns.count.item() == rewards.critic.normalizer.count.item() == 6
    assert rewards.seen["reward"].item() == pytest.approx(4 / 6)
    assert rewards.seen["success"].item() == 1.0
    assert not rewards._steps  # it is forgotten


def test_a_round_in_which_nobody_s_likelihood_is_known_has_advantages_of_zero():
    rewards = _rewards()
    _note(rewards, [1.0, 2.0], [1.0, -1.0], acted=[False, False])
    (step,) = rewards.judged(_seen([0.0, 0.0]))
    assert step[ADVANTAGE].tolist() == [0.0, 0.0]


def test_8_an_episode_cut_by_the_clock_goes_on_in_its_value_and_one_that_ended_does_not():
    # V = what is seen; both end after a reward of 1 seen from 3, the first cut in a state of value 10:
    #   A = 1 + 0.5 * 10 - 3 = 3;  A = 1 - 3 = -2, though its last state would have been worth 20
    rewards = _rewards(discount=0.5, gae_lambda=1.0)
    rewards.critic = Sum()
    _note(
        rewards, [3.0, 3.0], [1.0, 1.0], acted=[True, True], done=[True, True], time_outs=[True, False],
        terminal=[10.0, 20.0],
    )  # fmt: skip
    (step,) = rewards.judged(_seen([100.0, 100.0]))  # the next episodes
    assert step[RETURN].tolist() == [6.0, 1.0]
    assert step[BEHIND].tolist() == [False, True]


def test_the_critic_learns_in_the_unit_of_its_returns_and_says_returns():
    torch.manual_seed(0)
    rewards = _rewards(critic_learning_rate=0.02)
    known = torch.linspace(-1, 1, 64)[:, None]
    target = 1000 + 300 * known[:, 0]
    rewards.critic.update(known, target)
    rows = TensorDict({KNOWN: known.view(16, 4, 1), RETURN: target.view(16, 4)}, batch_size=[16])
    losses = [rewards.fit_critic(rows).item() for _ in range(200)]
    assert losses[0] == pytest.approx(1, abs=0.3)  # in variances of the returns, whatever their unit
    assert losses[-1] < 0.01
    assert (rewards.critic(known) - target).abs().max() < 60


@pytest.mark.parametrize(
    ("moved", "factor"), [(0.021, 1 / 1.5), (0.019, 1), (0.006, 1), (0.004, 1.5), (0.0, 1)]
)
def test_the_rate_falls_where_the_policy_moved_too_far_and_rises_where_it_hardly_did(moved, factor):
    rewards = _rewards(desired_kl=0.01, learning_rate=1e-3)
    rewards.adapt(torch.tensor(moved))
    assert rewards.rate.item() == pytest.approx(1e-3 * factor)


def test_the_rate_stays_in_its_bounds():
    rewards = _rewards(desired_kl=0.01)
    for moved, bound in ((1.0, 1e-5), (1e-4, 1e-2)):
        for _ in range(40):
            rewards.adapt(torch.tensor(moved))
        assert rewards.rate.item() == bound
    rewards.slow_down()
    assert rewards.rate.item() == 5e-3
    for _ in range(20):
        rewards.slow_down()
    assert rewards.rate.item() == 1e-5


# rounds


def test_1_a_round_changes_student_and_critic_and_never_the_teacher(tmp_path):
    engine = make_engine(tmp_path, *BOTH)
    assert engine.rewards is not None
    student, critic = weights(engine.student), weights(engine.rewards.critic)
    engine._collect(0.0)
    losses = engine._learn(0, 1e-3)
    assert not is_same(student, weights(engine.student))
    assert not is_same(critic, weights(engine.rewards.critic))
    assert engine.teacher.sha256() == engine.teacher_sha256
    assert all(map(math.isfinite, losses.values()))
    assert {"loss", "loss/ppo", "loss/action_huber", "loss/critic", "reward", "success"} <= losses.keys()
    assert not engine.data.is_open  # nothing is kept on disk


def test_while_the_critic_warms_up_the_student_does_not_change(tmp_path):
    engine = make_engine(tmp_path, *BOTH, "rl.critic_warmup=1")
    assert engine.rewards is not None
    student, critic = weights(engine.student), weights(engine.rewards.critic)
    engine._collect(0.0)
    engine._learn(0, 1e-3)
    assert is_same(student, weights(engine.student))
    assert not is_same(critic, weights(engine.rewards.critic))
    engine._collect(0.0)
    engine._learn(1, 1e-3)
    assert not is_same(student, weights(engine.student))


def _round(engine):
    engine._collect(0.0)
    rows = engine._round
    with torch.no_grad():
        rows.update(engine.lesson.before(rows))
    return rows, torch.ones(rows[FRESH].shape, dtype=torch.bool)


def test_5_losses_of_reward_and_of_the_teacher_are_linear_in_their_weights(tmp_path):
    engine = make_engine(tmp_path, *BOTH)
    rows, valid = _round(engine)
    rows[ADVANTAGE] = torch.linspace(-1, 2, 64)[:, None]
    loss, terms, _ = engine.lesson(rows, valid, {"ppo": 1.0, "action_huber": 1.0})
    scaled, same, _ = engine.lesson(rows, valid, {"ppo": 2.0, "action_huber": 0.25})
    assert terms["ppo"].item() == pytest.approx(-0.5, abs=1e-5)  # the ratio is 1: minus the mean advantage
    assert terms["action_huber"] > 0
    assert torch.allclose(loss, terms["ppo"] + terms["action_huber"])
    assert torch.allclose(scaled, 2 * terms["ppo"] + 0.25 * terms["action_huber"])
    assert all(torch.equal(terms[name], same[name]) for name in terms)


def test_a_gated_loss_learns_from_the_steps_that_fell_short_alone(tmp_path):
    engine = make_engine(tmp_path, *BOTH, "loss.action_huber.gated=true")
    rows, valid = _round(engine)
    rows[BEHIND] = (torch.arange(64) % 3 == 0)[:, None]

    def learned(rows):
        loss, terms, _ = engine.lesson(rows, valid, {"ppo": 0.0, "action_huber": 1.0})
        engine.student.zero_grad()
        loss.backward()
        grads = {name: v.grad.clone() for name, v in engine.student.named_parameters() if v.grad is not None}
        return terms["action_huber"], grads

    loss, gradients = learned(rows)
    for behind, changes in ((False, False), (True, True)):
        spoilt = rows.clone()
        spoilt[LABEL] = torch.where((rows[BEHIND] == behind)[..., None], -rows[LABEL], rows[LABEL])
        other, others = learned(spoilt)
        assert torch.equal(loss, other) != changes
        assert is_same(gradients, others) != changes
    # of a loss without a gate every step counts: the mean is over all, so that it is no larger with one
    rows[BEHIND] = torch.ones_like(rows[BEHIND])
    assert learned(rows)[0] > loss


@pytest.mark.parametrize("words", [(), RECURRENT, ("student=history", "dagger.sequence=4")])
def test_the_likelihood_when_learning_begins_is_that_of_what_was_said_when_it_was_done(tmp_path, words):
    engine = make_engine(tmp_path, *BOTH, *words)
    for number in range(2):  # weights and normalisers have moved, and episodes have gone on, in the second
        said, say = [], StudentPolicy.say
        engine.policy.say = lambda obs: said.append(say(engine.policy, obs)) or said[-1]  # noqa: B023
        engine.env.max_episode_length = 5  # episodes end inside of rows
        rows, _ = _round(engine)
        length = engine.length

        def as_rows(name, length=length, said=said):
            whole = torch.stack([getattr(step, name) for step in said])
            return whole.unflatten(0, (-1, length)).transpose(1, 2).flatten(0, 1)

        assert length == 1 or rows[FRESH][:, 1:].any()
        assert torch.allclose(rows[MEAN], as_rows("action"), atol=1e-5)
        assert torch.allclose(rows[SPREAD], as_rows("log_std"), atol=1e-6)
        # 2 actions, each noise z: -(z^2) / 2 - log std - log(2 pi) / 2
        noise = (rows[SENT] - as_rows("action")) / as_rows("log_std").exp()
        wanted = -(noise.square() / 2 + as_rows("log_std") + math.log(2 * math.pi) / 2).sum(-1)
        assert torch.allclose(rows[LOG_PROB], wanted, atol=1e-3)
        assert rows[ACTED].all()
        assert not rows[DRIVEN].any()
        assert 0.5 < noise.square().mean() < 2  # it did explore
        engine._learn(number, 1e-3)


def test_of_a_teacher_that_drove_the_likelihood_is_not_known(tmp_path):
    engine = make_engine(tmp_path, *BOTH)
    engine._collect(1.0)
    assert engine._round[DRIVEN].all()
    assert not engine._round[ACTED].any()
    assert not engine._round[ADVANTAGE].any()
    assert torch.equal(engine._round[SENT], engine._round[LABEL])


def test_a_mini_batch_of_held_out_steps_alone_is_no_fault(tmp_path):
    engine = make_engine(tmp_path, *BOTH, "num_envs=2", "dagger.validation_share=0.6", "dagger.sequence=8")
    for number in range(4):
        engine._collect(0.0)
        engine._learn(number, 1e-3)


def test_what_was_learned_from_is_counted_in_steps_also_where_rows_are_long(tmp_path):
    # 8 environments, 8 steps, 5 epochs
    engine = make_engine(tmp_path, *BOTH, "dagger.sequence=4")
    engine._collect(0.0)
    engine._learn(0, 1e-3)
    assert engine.totals["grad_samples"] == 8 * 8 * 5


# where it begins, and what it does not fall behind


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    """Return the run of a student that was distilled, with no spread."""
    root = tmp_path_factory.mktemp("distilled")
    words = ("num_envs=8", "dagger.rounds=2", "dagger.steps_per_round=8", "dagger.gradient_steps=20")
    more = ("dagger.evaluate_episodes=8", "teacher=scripted", "loss=[action_huber]", f"runs={root}")
    assert main(["distill", *WORLD, *words, *more]) == 0
    return next(root.glob("*_distill_*"))


@pytest.mark.parametrize("words", [(), ("student.blend=0.5",), ("student.value=true",)])
def test_a_student_begins_with_exactly_the_actions_of_its_baseline(distilled, tmp_path, words):
    engine = make_engine(tmp_path, *BOTH, f"baseline={distilled}", *words)
    theirs = load_student(Run.open(distilled), "best", engine.env)
    obs = engine.env.get_observations()
    wanted, _ = theirs.forward(obs, theirs.initial_state(8))
    said, _ = engine.student.forward(obs, engine.student.initial_state(8))
    fresh, _ = make_engine(tmp_path / "b", *BOTH).student.forward(obs, engine.student.initial_state(8))
    assert torch.equal(said.action, wanted.action)
    assert not torch.equal(said.action, fresh.action)
    assert wanted.log_std is None
    assert said.log_std.exp().flatten().tolist() == pytest.approx([0.37] * 16)  # rl's own


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("student.hidden=[16,8]",), "trunk.2.weight"),
        (("groups=[proprio]", "student=cnn_gru"), "memory"),
    ],
)
def test_a_baseline_of_another_architecture_is_refused_by_what_differs(distilled, tmp_path, words, named):
    with pytest.raises(UserError, match="is another student than this one") as caught:
        make_engine(tmp_path, *BOTH, f"baseline={distilled}", *words)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_baseline_that_was_shown_or_asked_something_else_is_refused(distilled, tmp_path):
    words = ("loss=[ppo,action_huber,estimate]", "loss.estimate.terms=[side]")
    with pytest.raises(UserError, match=r"other estimated terms .*: this one \('side',\), that one \(\)"):
        make_engine(tmp_path, *BOTH, f"baseline={distilled}", *words)


def _outcomes(success: float) -> Outcomes:
    row = torch.full((4,), success)
    return Outcomes(success=row, returns=row, steps=row, saturation=0.0, env_steps=4, frames=0)


def _trained(engine, *successes):
    left = list(successes)
    return engine.train(lambda: _outcomes(left.pop(0)), 1.0)


SHORT = ("dagger.evaluate_every=1", "dagger.checkpoint_every=1")


def test_the_first_best_of_a_run_is_its_baseline_and_nothing_worse_replaces_it(distilled, tmp_path):
    engine = make_engine(tmp_path, *BOTH, f"baseline={distilled}", *SHORT, "dagger.rounds=2")
    baseline = {name: value.clone() for name, value in engine.student.state_dict().items()}
    summary = _trained(engine, 0.5, 0.45, 0.45)
    assert engine.run.checkpoint_step("best") == 0
    assert is_same(engine.run.load_checkpoint("best")["student"], baseline)
    assert not is_same(engine.student.state_dict(), baseline)
    assert (summary["validation_success"], summary["fall_backs"]) == (0.5, 0)


def test_one_that_is_better_than_its_baseline_replaces_it(distilled, tmp_path):
    engine = make_engine(tmp_path, *BOTH, f"baseline={distilled}", *SHORT, "dagger.rounds=2")
    assert _trained(engine, 0.5, 0.45, 0.6)["validation_success"] == pytest.approx(0.6)
    assert engine.run.checkpoint_step("best") == 2


@pytest.mark.parametrize(("success", "falls"), [(0.45, False), (0.35, True)])
def test_a_student_that_falls_too_far_behind_goes_back_to_its_best(distilled, tmp_path, success, falls):
    words = (f"baseline={distilled}", *SHORT, "dagger.rounds=1", "rl.fall_back=0.1")
    engine = make_engine(tmp_path, *BOTH, *words)
    baseline = {name: value.clone() for name, value in engine.student.state_dict().items()}
    rates, critic = [], engine.rewards.critic
    learn = engine._learn
    engine._learn = lambda *args: (learn(*args), rates.append(engine.rewards.rate.item()))[0]
    first = weights(critic)
    assert _trained(engine, 0.5, success)["fall_backs"] == falls
    assert is_same(engine.student.state_dict(), baseline) == falls
    assert is_same(engine.run.load_checkpoint("last")["student"], baseline) == falls
    assert engine.rewards.rate.item() == pytest.approx(rates[0] / 2 if falls else rates[0])
    assert not is_same(first, weights(critic))  # the critic has not gone back


def test_a_run_cut_in_its_first_round_judges_its_baseline_once(distilled, tmp_path):
    words = (*BOTH, f"baseline={distilled}", *SHORT, "dagger.rounds=1")
    engine = make_engine(tmp_path, *words)
    engine._collect = lambda share: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        _trained(engine, 0.5)
    resumed = make_engine(tmp_path / "other", *words)
    resumed.run = Run.open(engine.run.path)
    left = [0.45, 0.45]
    resumed.train(lambda: _outcomes(left.pop(0)), 1.0)
    assert resumed.totals["retentions"] == pytest.approx([0.5, 0.45])


# a second head, that learns from reward

BLEND = (*BOTH, "student.blend=0.5")


def test_at_first_the_second_head_changes_no_bit_of_the_action(tmp_path):
    student = make_engine(tmp_path, *BLEND).student
    said, _ = student.forward(_proprio(64), student.initial_state(64))
    assert torch.equal(said.action, said.imitated)
    nn.init.ones_(student.second.bias)
    moved, _ = student.forward(_proprio(64), student.initial_state(64))
    assert torch.equal(moved.imitated, said.imitated)
    assert torch.allclose(moved.action, said.action + 0.5)


def _proprio(count: int) -> TensorDict:
    torch.manual_seed(1)
    return TensorDict({"proprio": torch.randn(count, 3)}, batch_size=[count])


def _reached(engine, rows, valid, **weights) -> set[str]:
    """Return the parts of the student that the gradient of a weighted objective reaches."""
    loss, _, _ = engine.lesson(rows, valid, weights)
    engine.student.zero_grad(set_to_none=True)
    loss.backward()
    grads = {name: value.grad for name, value in engine.student.named_parameters()}
    return {name.split(".")[0] for name, grad in grads.items() if grad is not None and grad.any()}


def test_reward_bends_the_second_head_and_imitation_the_first(tmp_path):
    engine = make_engine(tmp_path, *BLEND)
    nn.init.normal_(engine.student.second.weight, std=0.1)  # at 0 it would tell the trunk nothing yet
    rows, valid = _round(engine)
    assert _reached(engine, rows, valid, ppo=1.0, action_huber=0.0) == {"trunk", "second", "spread"}
    assert _reached(engine, rows, valid, ppo=0.0, action_huber=1.0) == {"trunk", "head"}


def test_an_exported_student_of_two_heads_acts_as_it_did(tmp_path):
    from robokd.export.onnx import PolicyGraph, record_episodes, to_onnx
    from robokd.export.parity import MAX_ABS, parity

    student = make_engine(tmp_path, *BLEND).student
    config = compose("distill", [*TINY, *BLEND, "num_envs=1"])
    env = build_env(config, ("proprio",), "test")
    nn.init.normal_(student.second.weight, std=0.5)
    policy = StudentPolicy(student.eval().requires_grad_(False), 1)
    env.max_episode_length = 10
    samples = record_episodes(env, policy, 1)[::5]
    first = {name: torch.from_numpy(value) for name, value in samples[0].inputs.items()}
    graph = to_onnx(PolicyGraph(policy, env).eval(), first)
    assert max(parity(graph, samples, env.action_spec.control_dt).values()) <= MAX_ABS
    nn.init.zeros_(student.second.weight)  # of the first head alone it would be something else
    alone = policy.act(TensorDict({"proprio": first["proprio"]}, batch_size=[1]))
    assert (alone - torch.from_numpy(samples[0].outputs["action"])).abs().max() > MAX_ABS


# what is refused


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["teacher=scripted", "loss=[ppo]"], "loss=ppo needs log_std of the student"),
        (["teacher=twin", "loss=[kl]", "student.gaussian=true"], "say loss=[ppo,…]"),
        (["teacher=scripted", "loss=[entropy]", "student.gaussian=true"], "no loss teaches the student to"),
        (["teacher=scripted", "loss=[action_mse]", "loss.action_mse.weight=0"], "action_mse of weight 0;"),
        (["teacher=scripted", "loss=[action_huber]", "loss.action_huber.gated=true"], "action_huber.gated"),
        (["teacher=twin", "teacher.groups=[nothing]", "loss=[ppo]"], "teacher.groups: no observation group"),
        (["teacher=twin", "teacher.groups=[]", "loss=[ppo]"], "teacher.groups must name at least one"),
        (["teacher=twin", "teacher.weight=1.5", "loss=[ppo]"], "teacher.weight must be in [0, 1]"),
        (["teacher=twin", "loss=[ppo]", "student.gaussian=true", "rl.critic_groups=[no]"], "'no'"),
        (["teacher=scripted", "loss=[ppo]", "student=chunk", "student.blend=0.5"], "student.blend"),
        (["teacher=scripted", "loss=[ppo]", "loss.ppo.clip=0"], "loss.ppo.clip must be > 0, got 0"),
        (["teacher=scripted", "loss=[ppo]", "student.initial_std=0"], "student.initial_std must be in [0.01"),
        (["teacher=scripted", "loss=[ppo]", "rl.fall_back=0"], "rl.fall_back must be > 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_in_one_line_and_leaves_no_run(words, named, tmp_path, capsys):
    base = [word for word in WORLD if "student.hidden" not in word and word != "student=mlp"]
    student = [] if any(word.startswith("student=") for word in words) else ["student=mlp"]
    assert main(["distill", *base, *student, *words, f"runs={tmp_path / 'runs'}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert named in message
    assert not (tmp_path / "runs").exists()


def test_a_parent_and_a_twin_cannot_both_teach():
    with pytest.raises(UserError, match="parent=runs/a and teacher=twin: only one can teach"):
        compose("distill", [*WORLD, "teacher=twin", "parent=runs/a"])


def test_a_baseline_is_a_distilled_run_of_the_same_task(distilled, tmp_path, capsys):
    other = Run.create(tmp_path, task="hidden_goal", stage="teach", config={"task": {}}, seed=0)
    words = [*WORLD, "teacher=scripted", "loss=[ppo]", "student.gaussian=true", f"runs={tmp_path / 'runs'}"]
    assert main(["distill", *words, f"baseline={other.path}"]) == 2
    message = capsys.readouterr().err
    assert "baseline" in message
    assert "distill" in message
    assert message.count("\n") == 1
    foreign = [word for word in words if "student.hidden" not in word and not word.startswith("task=")]
    assert main(["distill", *foreign, "task=double_pendulum", f"baseline={distilled}",
                 "plugins=[tests.worlds.hidden_goal,tests.worlds.double_pendulum]"]) == 2  # fmt: skip
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    assert not (tmp_path / "runs").exists()
