"""Worlds that are not ours: episodes are numbered, seeded, counted and checked as our own are."""

import pytest
import torch

from robokd import UserError
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.env.foreign import ForeignEnv, Outcome, check_parts
from robokd.nets.action import ActionDecoder
from robokd.sim.mujoco import MujocoCfg
from robokd.specs import ActionSpec, ObsSpec, Term, from_dict, to_dict
from robokd.vision.raster import RasterCfg
from robokd.vision.sensor import Corruption

ACTION = ActionSpec(names=("push",), control_dt=0.1, mode="native", anchor="none")
SPEC = ObsSpec(group="proprio", role="proprio", terms=(Term(name="where", elements=("x", "age"), unit="1"),))


class Walks:
    """A point that begins at its seed's place and is pushed; its episode ends beyond `wall` or after 5 steps.

    Places are seeds in millionths, so that who begins from which seed is seen.
    """

    device, control_dt, max_episode_length = "cpu", 0.1, 5
    action_spec, obs_specs, camera_specs = ACTION, {"proprio": SPEC}, {}

    def __init__(self, num_envs, begins_itself=False, wall=1e9):
        self.num_envs, self.begins_itself, self.wall = num_envs, begins_itself, wall
        self.x, self.age = torch.zeros(num_envs), torch.zeros(num_envs)
        self.begun, self.gain = [], 1.0

    def begin(self, mask, seeds):
        self.begun.append(mask.tolist())
        self.x = torch.where(mask, seeds / 1e6, self.x)
        self.age = self.age.masked_fill(mask, 0)

    def step(self, actions):
        self.x, self.age = self.x + self.gain * actions[:, 0], self.age + 1
        terminated = self.x > self.wall
        truncated = self.age >= self.max_episode_length
        said = Outcome(
            reward=self.x * 1.0, terminated=terminated, truncated=truncated, success=truncated,
            final=self.observe(("proprio",)) if self.begins_itself else None,
        )  # fmt: skip
        if self.begins_itself:
            self.x = self.x.masked_fill(terminated | truncated, -1.0)
            self.age = self.age.masked_fill(terminated | truncated, 0)
        return said

    def observe(self, groups):
        return {"proprio": torch.stack((self.x, self.age), 1)} if groups else {}

    def close(self):
        pass


def _env(num_envs=2, seed=0, stream="test", **kwargs):
    setup = Setup(num_envs=num_envs, groups=("proprio",), draws=Draws(seed, stream))
    return ForeignEnv(Walks(num_envs, **kwargs), setup)


def _begins(env, steps):
    """Return {episode: where it began} of all that begin within some steps."""
    found = {}
    obs = env.reset()
    for _ in range(steps):
        for episode, step, row in zip(
            env.state.episode_id.tolist(), env.state.step.tolist(), obs["proprio"], strict=True
        ):
            if step == 0:
                found[episode] = row[0].item()
        obs, *_ = env.step(torch.zeros(env.num_envs, 1))
    return found


def test_an_episode_begins_from_a_seed_that_follows_from_its_number_alone():
    few, many = _begins(_env(2), 20), _begins(_env(4), 10)
    assert set(few) == set(many) == set(range(8))
    assert few == many
    assert len(set(few.values())) == 8
    assert all(0 <= place < 2**31 / 1e6 for place in few.values())
    assert _begins(_env(2, seed=1), 1) != _begins(_env(2), 1)
    assert _begins(_env(2, stream="train"), 1) != _begins(_env(2), 1)


def test_a_world_that_runs_out_of_time_says_what_it_saw_and_only_it_begins_again():
    env = _env(2)
    env.episode_length_buf = torch.tensor([3, 0])
    env.step(torch.ones(2, 1))
    before = env.worlds.x.clone()
    obs, reward, done, extras = env.step(torch.tensor([[0.5], [7.0]]))
    assert done.tolist() == [1, 0]
    assert done.dtype == torch.int64
    assert extras["time_outs"].tolist() == [True, False]
    assert extras["episode_id"].tolist() == [0, 1]
    assert env.state.episode_id.tolist() == [2, 1]
    assert env.worlds.begun[1:] == [[True, False]]
    pushed = before + torch.tensor([0.5, 1.0])  # 7 is clipped to 1
    assert torch.equal(reward, pushed)
    assert torch.equal(extras["terminal"]["proprio"][:, 0], pushed)
    assert obs["proprio"][0, 1] == 0
    assert obs["proprio"][1, 0] == pushed[1]


def test_an_end_that_is_reached_is_no_time_out_even_in_the_last_step():
    env = _env(1)
    env.worlds.wall = -1.0  # already beyond it
    env.episode_length_buf = torch.tensor([4])
    _, _, done, extras = env.step(torch.zeros(1, 1))
    assert done.tolist() == [1]
    assert extras["time_outs"].tolist() == [False]
    assert (env.episodes_ended, env.episodes_diverged) == (1, 0)


def test_worlds_that_begin_by_themselves_are_told_to_at_a_reset_only():
    env = _env(2, begins_itself=True)
    env.episode_length_buf = torch.tensor([4, 4])
    assert env.episode_length_buf.tolist() == [0, 0]  # they end by their own count
    ends = [env.step(torch.zeros(2, 1)) for _ in range(5)]
    assert [out[2].tolist() for out in ends] == [[0, 0]] * 4 + [[1, 1]]
    assert ends[-1][3]["terminal"]["proprio"][:, 1].tolist() == [5, 5]
    assert ends[-1][0]["proprio"][:, 1].tolist() == [0, 0]
    assert env.state.episode_id.tolist() == [2, 3]
    assert env.worlds.begun == [[True, True]]


def test_what_follows_a_snapshot_is_a_function_of_it_and_begins_with_its_episodes():
    env = _env(2)
    for _ in range(7):
        env.step(torch.ones(2, 1))
    saved = env.snapshot()
    runs = []
    for one in (env, _env(2)):
        one.restore(saved)
        assert one.state.episode_id.tolist() == [2, 3]
        assert one.state.step.tolist() == [0, 0]
        assert one.episodes_ended == 2
        runs.append([one.step(torch.ones(2, 1))[0]["proprio"] for _ in range(9)])
        env.step(torch.ones(2, 1))
    assert all(torch.equal(left, right) for left, right in zip(*runs, strict=True))


@pytest.mark.parametrize("what", ["action", "reward"])
def test_a_number_that_is_none_is_refused_with_its_episode_and_seed(what):
    env = _env(3)
    env.step(torch.zeros(3, 1))
    env.worlds.gain = float("nan") if what == "reward" else 1.0
    sent = torch.zeros(3, 1) if what == "reward" else torch.tensor([[0.0], [float("inf")], [0.0]])
    first, count = (0, 3) if what == "reward" else (1, 1)
    seed = int(env._seeds()[first])
    wanted = (
        rf"{what} is not finite in {count} of 3 worlds, first at step \d of episode {first} \(seed {seed}\)"
    )
    with pytest.raises(UserError, match=wanted):
        env.step(sent)


def test_nothing_is_held_out_of_worlds_that_are_not_ours():
    setup = Setup(num_envs=1, groups=("proprio",), draws=Draws(0, "test"), space="unseen")
    with pytest.raises(
        UserError, match="nothing is held out of an environment that is not ours: got 'unseen'"
    ):
        ForeignEnv(Walks(1), setup)


def test_who_exports_or_simulates_is_told_that_it_takes_a_native_task():
    env = _env()
    with pytest.raises(UserError, match=r"cannot be exported.*task=reach"):
        env.task.start_envelope()
    with pytest.raises(UserError, match=r"no simulator of ours.*task=reach"):
        _ = env.sim
    with pytest.raises(ValueError, match="mode 'native' are decoded by the environment"):
        ActionDecoder(env.action_spec)


@pytest.mark.parametrize(
    ("sim", "renderer", "corrupt", "said"),
    [(MujocoCfg(physics_dt=0.01), None, Corruption(), "sim=mujoco and its keys"),
     (MujocoCfg(), RasterCfg(), Corruption(latency_s=(0.1, 0.1)), "corrupt= spoils pictures that we render")],
    ids=["sim", "corrupt"],
)  # fmt: skip
def test_a_part_that_somebody_chose_is_not_dropped_in_silence(sim, renderer, corrupt, said):
    check_parts(MujocoCfg(), RasterCfg(), Corruption())
    with pytest.raises(UserError, match=said):
        check_parts(sim, renderer, corrupt)


def test_worlds_that_are_sent_joint_targets_say_which_and_where_a_robot_may_start():
    class Joints(Walks):
        action_spec = ActionSpec(
            names=("push",), control_dt=0.1, scale=(0.1,), position_lower=(-1.0,), position_upper=(1.0,),
            velocity=(1.0,), acceleration=(9.0,),
        )  # fmt: skip

        def targets(self):
            return self.x[:, None] + 0.0, self.age[:, None] + 0.0

        def start_envelope(self):
            return (-0.5,), (0.5,)

    env = ForeignEnv(Joints(2), Setup(num_envs=2, groups=("proprio",), draws=Draws(0, "test")))
    begun = env.worlds.x.clone()
    assert torch.equal(env.state.command[:, 0], begun)
    for _ in range(4):
        env.step(torch.ones(2, 1))
    assert torch.equal(env.state.command[:, 0], begun + 1 + 1 + 1 + 1)
    assert env.state.rate.tolist() == [[4.0], [4.0]]
    env.step(torch.ones(2, 1))  # the last: what is sent is of the next episodes
    assert env.state.rate.tolist() == [[0.0], [0.0]]
    assert env.task.start_envelope() == ((-0.5,), (0.5,))


def test_an_action_spec_of_mode_native_has_names_and_no_limits():
    assert from_dict(ActionSpec, to_dict(ACTION)) == ACTION
    with pytest.raises(ValueError, match="scale has 1 values for 0 joints"):
        from_dict(ActionSpec, {**to_dict(ACTION), "scale": [0.1]})
    with pytest.raises(
        ValueError, match=r"no action mode 'native' on 'last_sent'. Known: .*'native' on 'none'"
    ):
        from_dict(ActionSpec, {**to_dict(ACTION), "anchor": "last_sent"})
    with pytest.raises(ValueError, match="names must name at least one action"):
        ActionSpec(names=(), control_dt=0.1, mode="native", anchor="none")
