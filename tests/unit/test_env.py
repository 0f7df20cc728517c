"""The native environment: episodes are functions of their number, nothing returned is written again."""

import numpy as np
import pytest
import torch

from robokd import UserError
from robokd.draws import Draws
from robokd.env.base import HELD_OUT, Range, check_contract, check_groups, contract
from robokd.env.parameters import Parameters
from robokd.specs import CameraSpec, ObsSpec


def _moments(env):
    return list(zip(env.state.episode_id.tolist(), env.state.step.tolist(), strict=True))


def _run(env, steps):
    """Step with actions that follow from (episode, step) alone; return what was seen and paid at these."""
    obs, seen = env.reset(), {}
    for _ in range(steps):
        rows = zip(_moments(env), obs["proprio"], strict=True)
        seen |= {("seen", *at): tuple(row.tolist()) for at, row in rows}
        state = env.state
        actions = torch.sin(state.episode_id[:, None] * 1.7 + state.step[:, None] * 0.3 + torch.arange(7))
        before = _moments(env)
        obs, reward, _, _ = env.step(actions)
        seen |= {("paid", *at): value.item() for at, value in zip(before, reward, strict=True)}
    return seen


def test_episodes_are_the_same_at_64_and_at_256_environments(make_env):
    short = {"horizon_s": 0.12, "hold_s": 0.1}
    few = _run(make_env(64, ("proprio",), **short), 15)  # episodes 0 .. 319, one after the other
    many = _run(make_env(256, ("proprio",), **short), 5)
    shared = set(few) & set(many)
    assert {episode for _, episode, _ in shared} == set(range(320))
    assert len(shared) == 2 * (256 * 3 + 64 * 2)
    assert all(few[key] == many[key] for key in shared)


def test_control_steps_take_as_long_as_the_task_says_whatever_the_physics_step(make_env):
    from robokd.sim.mujoco import MujocoCfg

    times = {}
    for physics_dt in (0.008, 0.004, 0.02):
        env = make_env(2, sim=MujocoCfg(physics_dt=physics_dt))
        env.step(torch.zeros(2, 7))
        times[physics_dt] = env.sim.get("time")[0].item()
    assert list(times.values()) == pytest.approx([0.04] * 3)


@pytest.mark.parametrize("physics_dt", [0.003, 0.016, 0.05])
def test_a_physics_step_that_does_not_fit_the_control_step_is_refused(make_env, physics_dt):
    from robokd.sim.mujoco import MujocoCfg

    wanted = f"control_dt 0.04 s is not a multiple of sim.physics_dt {physics_dt:g} s; .* would fit"
    with pytest.raises(UserError, match=wanted):
        make_env(2, sim=MujocoCfg(physics_dt=physics_dt))


@pytest.mark.parametrize(
    ("field", "value"),
    [("radius_m", (0.7, 0.3)), ("start_rad", -0.1), ("start_rad", 2.5), ("joint_noise_rad", -1.0),
     ("joint_step_rad", 0.0), ("stiffness", (0.0, 1.0)), ("camera_shift_m", -0.1), ("hold_s", 9.0),
     ("action_weight", -1.0), ("tolerance_m", 0.0), ("azimuth_rad", float("nan"))],
)  # fmt: skip
def test_a_task_names_the_value_that_it_cannot_take(make_env, field, value):
    with pytest.raises(ValueError, match=f"task.{field} must be"):
        make_env(1, **{field: value})


def test_a_camera_without_a_renderer_is_refused(make_env):
    with pytest.raises(UserError, match="camera 'front' is asked for by a stage that renders nothing"):
        make_env(1, ("proprio", "front"), sees=False)


def test_threads_change_no_bit(make_env):
    assert _run(make_env(8, ("proprio",), threads=1), 5) == _run(make_env(8, ("proprio",), threads=2), 5)


def test_snapshot_restores_bit_for_bit_after_resets(make_env):
    env = make_env(6, ("proprio", "front"), horizon_s=0.2, hold_s=0.1)
    _run(env, 7)
    saved = env.snapshot()
    actions = torch.linspace(-1, 1, 42).view(6, 7)
    first = [env.step(actions * scale) for scale in (0.5, -1.0, 0.2, 0.9, 0.1, -0.4)]
    other = make_env(6, ("proprio", "front"), horizon_s=0.2, hold_s=0.1)
    other.restore(saved)
    again = [other.step(actions * scale) for scale in (0.5, -1.0, 0.2, 0.9, 0.1, -0.4)]
    for left, right in zip(first, again, strict=True):
        assert (left[0] == right[0]).all()
        assert torch.equal(left[1], right[1])
        assert torch.equal(left[2], right[2])


def test_only_the_groups_asked_for_are_emitted_and_nothing_is_rendered_for_a_teacher(make_env):
    env = make_env(2, ("proprio", "privileged"))
    obs, *_ = env.step(torch.zeros(2, 7))
    assert set(obs.keys()) == {"proprio", "privileged"}
    assert env.frames_rendered == 0


def test_nothing_returned_is_written_again(make_env):
    env = make_env(2, ("proprio", "privileged", "front"))
    obs, reward, *_ = env.step(torch.ones(2, 7))
    kept = obs.clone(), reward.clone()
    for _ in range(3):
        env.step(-torch.ones(2, 7))
    assert (obs == kept[0]).all()
    assert torch.equal(reward, kept[1])


def test_only_the_horizon_counts_as_time_out_and_success_ends_an_episode(make_env):
    env = make_env(2, horizon_s=0.12, hold_s=0.0)
    outs = [env.step(torch.zeros(2, 7)) for _ in range(3)]
    assert [out[2].tolist() for out in outs] == [[1, 1], [1, 1], [1, 1]]  # held 0 s is success at once
    assert not any(out[3]["time_outs"].any() for out in outs)
    env = make_env(2, horizon_s=0.12, hold_s=0.08)
    outs = [env.step(torch.zeros(2, 7)) for _ in range(3)]
    assert outs[-1][3]["time_outs"].all()
    assert outs[-1][2].tolist() == [1, 1]
    assert env.state.step.tolist() == [0, 0]
    assert env.state.episode_id.tolist() == [2, 3]


def test_a_diverged_world_ends_its_episode_is_counted_and_saved(make_env, tmp_path):
    env = make_env(3)
    env.failures = tmp_path
    env.sim.get("qvel")[1, 0] = 1e12
    before = env.sim.get("qpos")[1].clone()
    _, reward, done, extras = env.step(torch.zeros(3, 7))
    assert done.tolist() == [0, 1, 0]
    assert not extras["success"].any()
    assert not extras["time_outs"].any()
    assert torch.isfinite(reward).all()
    assert env.episodes_diverged == 1
    with np.load(next(tmp_path.glob("diverged_*.npz"))) as saved:
        # what led there, not what the engine put in its place
        assert saved["qvel_before"][0, 0] == 1e12
        assert np.array_equal(saved["qpos_before"][0], before)
        assert saved["episode"].tolist() == [1]


def test_many_diverged_worlds_stop_the_run(make_env):
    env = make_env(8)
    env.sim.get("qvel")[:, 0] = 1e12
    with pytest.raises(UserError, match="the simulation diverged in 8 of 8 episodes"):
        env.step(torch.zeros(8, 7))


def test_a_nan_reward_stops_the_run_and_names_the_term(make_env, tmp_path):
    env = make_env(4)
    env.failures = tmp_path
    plain = env.task.reward
    env.task.reward = lambda state: {**plain(state), "lift": torch.tensor([0.0, float("nan"), 0.0, 0.0])}
    with pytest.raises(
        UserError, match=r"reward 'lift' is not finite in 1 of 4 worlds at step 1 .*; state saved to"
    ):
        env.step(torch.zeros(4, 7))


def test_a_nan_action_is_refused(make_env):
    env = make_env(4)
    actions = torch.zeros(4, 7)
    actions[2, 3] = float("nan")
    with pytest.raises(UserError, match="action is not finite in 1 of 4 worlds"):
        env.step(actions)


def test_a_camera_that_does_not_exist_is_named(make_env):
    with pytest.raises(
        UserError, match=r"no observation group or camera named 'frnot'.*Known: .*front, wrist"
    ):
        make_env(2, ("proprio", "frnot"))


def test_a_task_whose_names_of_cameras_do_not_agree_is_refused_by_name():
    front = CameraSpec(name="front")
    with pytest.raises(UserError, match="a camera 'depth' whose CameraSpec is named 'front'"):
        check_groups((), {}, {"front": front, "depth": front})
    with pytest.raises(UserError, match="both a camera and an observation group named 'front'"):
        check_groups((), {"front": ObsSpec(group="front", role="proprio", terms=())}, {"front": front})


def test_no_environments_are_refused(make_env):
    with pytest.raises(UserError, match="num_envs must be >= 1, got 0"):
        make_env(0)


def test_contract_differences_are_named(make_env):
    env = make_env(2, ("proprio",))
    saved = contract(env, ("proprio",))
    saved["action"]["control_dt"] = 0.02
    with pytest.raises(
        UserError, match=r"the teacher does not fit this task: action\.control_dt: wanted 0\.02, got 0\.04"
    ):
        check_contract(saved, env, "the teacher")


def test_seen_and_held_out_parameters_do_not_meet():
    ranges = {
        "a": Range(low=(0.0,), high=(1.0,), unit="1"),
        "b": Range(low=(-1.0, 2.0), high=(1.0, 4.0), unit="1"),
    }
    draws, episodes = Draws(0, "test"), torch.arange(4000)

    def shares(space):
        parameters = Parameters(ranges, draws, space)
        values = parameters.named(parameters.at(parameters.sampler.sample(episodes), episodes))
        return torch.cat((values["a"], (values["b"] - torch.tensor([-1.0, 2.0])) / 2), 1)

    def is_outer(share):
        return (share < HELD_OUT) | (share > 1 - HELD_OUT)

    assert not is_outer(shares("seen")).any()
    assert is_outer(shares("unseen_all")).all()
    unseen = is_outer(shares("unseen"))
    # exactly one parameter of an episode is held out, each about as often
    assert (unseen[:, 0] ^ (unseen[:, 1] & unseen[:, 2])).all()
    assert 0.45 < unseen[:, 0].float().mean() < 0.55


def test_parameters_touch_the_simulation(make_env):
    env = make_env(3, ("proprio", "front"))
    cameras = env.sim.get("cam_pos")[:, env.sim.model.camera("front").id]
    assert len({tuple(row) for row in cameras.tolist()}) == 3
    gains = env.sim.get("actuator_gainprm")[:, 0, 0]
    assert len(set(gains.tolist())) == 3


def test_the_environment_drives_rsl_rl_as_it_expects(make_env):
    from rsl_rl.env import VecEnv

    env = make_env(2)
    for name in VecEnv.__annotations__:
        assert hasattr(env, name), name
    env.episode_length_buf = torch.randint_like(env.episode_length_buf, high=env.max_episode_length)
    obs, reward, done, extras = env.step(torch.zeros(2, 7))
    assert obs.batch_size == torch.Size([2])
    assert reward.shape == done.shape == extras["time_outs"].shape == (2,)
