"""A step that asks nothing of its device does what one that asks does, and tells the same, only later."""

import numpy as np
import pytest
import torch

from robokd import UserError
from tests.host_sync import HostSyncError, no_host_sync

SHORT = {"horizon_s": 0.2, "hold_s": 0.1}
GROUPS = ("proprio", "privileged", "physics")


@pytest.fixture
def warp_sim(monkeypatch):
    """Return a simulator as on a GPU: the numbers are drawn by torch as well."""
    pytest.importorskip("mujoco_warp")
    from robokd import draws
    from robokd.sim.mjwarp import MjwarpCfg

    monkeypatch.setattr(draws, "_kernel", lambda: None)
    return MjwarpCfg()


def deferred(env, every=4):
    env.ledger.every = every
    return env


def _act(env, steps):
    outs = []
    for _ in range(steps):
        phase = env.state.episode_id[:, None] * 1.7 + env.state.step[:, None] * 0.3 + torch.arange(7)
        outs.append(env.step(torch.sin(phase)))
    return outs


def test_a_step_asks_its_device_for_nothing(make_env, warp_sim):
    env = deferred(make_env(4, GROUPS, sim=warp_sim, **SHORT), every=100)
    env.reset()
    _act(env, 1)  # what is made once
    actions = [torch.sin(torch.arange(28.0).view(4, 7) + turn) for turn in range(12)]
    with no_host_sync():
        for action in actions:
            obs, _, _, extras = env.step(action)
    assert torch.isfinite(obs["proprio"]).all()
    assert set(extras["terminal"].keys()) == set(GROUPS)
    assert env.episodes_ended == 8  # 13 steps, of 5 each: two of each world


@pytest.mark.parametrize(
    "fields", [{"friction_low": (0.1,) * 7, "friction_high": (0.2,) * 7}, {"delay_s": (0.0, 0.02)}]
)
def test_dynamics_of_the_joints_ask_for_nothing_either(make_env, warp_sim, fields):
    env = deferred(make_env(2, sim=warp_sim, **fields, **SHORT), every=100)
    _act(env, 1)
    with no_host_sync():
        for _ in range(6):
            env.step(torch.zeros(2, 7))


def test_moved_cameras_ask_for_nothing_either(make_env, warp_sim):
    env = make_env(2, sim=warp_sim, **SHORT)
    env.state.is_seen = True  # as with a renderer, whose pictures are not of this test
    deferred(env, every=100).reset()
    with no_host_sync():
        for _ in range(6):
            env.step(torch.zeros(2, 7))
    assert env.sim.get("cam_pos")[:, 0].unique(dim=0).shape[0] == 2


def test_the_scripted_controller_asks_for_nothing(make_env):
    env = make_env(4, ("proprio", "privileged"))
    obs, wanted = env.get_observations(), env.task.script(env.get_observations())
    with no_host_sync():
        got = env.task.script(obs)
    assert torch.equal(got, wanted)


def test_steps_judged_together_are_those_judged_at_once(make_env):
    now, later = make_env(6, GROUPS, **SHORT), deferred(make_env(6, GROUPS, **SHORT), every=7)
    for env in (now, later):
        env.episode_length_buf = torch.arange(6) % 4
    for left, right in zip(_act(now, 30), _act(later, 30), strict=True):
        assert all(torch.equal(left[0][name], right[0][name]) for name in GROUPS)
        for place in (1, 2):
            assert torch.equal(left[place], right[place])
        for name in ("time_outs", "success", "episode_id"):
            assert torch.equal(left[3][name], right[3][name])
        if "terminal" in left[3]:
            late = left[3]["time_outs"]
            for name in GROUPS:
                assert torch.equal(left[3]["terminal"][name][late], right[3]["terminal"][name][late])
    assert now.episodes_ended == later.episodes_ended > 30
    left, right = now.snapshot(), later.snapshot()
    assert left["counts"] == right["counts"]
    assert torch.equal(left["sim"]["state"], right["sim"]["state"])


def test_the_share_of_successes_is_of_the_steps_that_were_judged(make_env):
    env = deferred(make_env(2, horizon_s=0.12, hold_s=0.0), every=3)
    logs = [env.step(torch.zeros(2, 7))[3]["log"] for _ in range(6)]  # held 0 s is success at once
    assert logs == [{}, {}, {"success": 1.0}] * 2


@pytest.mark.parametrize("read", ["episodes_diverged", "snapshot", "close", "the next judgement"])
def test_a_divergence_is_counted_and_saved_when_somebody_asks(make_env, tmp_path, read):
    env = deferred(make_env(3))
    env.failures = tmp_path
    env.step(torch.zeros(3, 7))
    env.sim.get("qvel")[1, 0] = 1e12
    before, episode = env.sim.get("qpos")[1].clone(), env.state.episode_id[1].item()
    _, reward, done, extras = env.step(torch.zeros(3, 7))
    assert done.tolist() == [0, 1, 0]
    assert not extras["success"].any()
    assert torch.isfinite(reward).all()
    assert not list(tmp_path.iterdir())
    if read == "the next judgement":
        for _ in range(2):
            env.step(torch.zeros(3, 7))
    elif read == "episodes_diverged":
        assert env.episodes_diverged == 1
    else:
        getattr(env, read)()
    assert env.ledger.diverged == 1
    with np.load(next(tmp_path.glob("diverged_*.npz"))) as saved:
        assert saved["qvel_before"][0, 0] == 1e12
        assert np.array_equal(saved["qpos_before"][0], before)
        assert (saved["episode"].tolist(), saved["step"].tolist()) == ([episode], [2])


def test_many_divergences_stop_the_run_later(make_env):
    env = deferred(make_env(8))
    env.sim.get("qvel")[:, 0] = 1e12
    env.step(torch.zeros(8, 7))
    with pytest.raises(UserError, match="the simulation diverged in 8 of 8 episodes"):
        env.ledger.judge()


def test_a_nan_reward_is_told_later_with_its_term_its_worlds_and_its_step(make_env, tmp_path):
    env = deferred(make_env(4))
    env.failures = tmp_path
    plain = env.task.reward
    env.step(torch.zeros(4, 7))
    bad = torch.tensor([0.0, float("nan"), 0.0, 0.0])
    env.task.reward = lambda state: {**plain(state), "lift": bad}
    action = torch.full((4, 7), 0.25)
    env.step(action)
    env.task.reward = plain
    env.step(torch.zeros(4, 7))
    with pytest.raises(
        UserError, match=r"reward 'lift' is not finite in 1 of 4 worlds at step 2 .*; state saved to"
    ):
        env.step(torch.zeros(4, 7))
    with np.load(next(tmp_path.glob("nan_*.npz"))) as saved:
        assert saved["action"].tolist() == [[0.25] * 7]


def test_a_nan_action_is_named_later_and_not_what_came_of_it(make_env):
    env = deferred(make_env(4))
    actions = torch.zeros(4, 7)
    actions[2, 3] = float("nan")
    env.step(actions)
    actions.zero_()  # who acts may use the memory again
    with pytest.raises(UserError, match="action is not finite in 1 of 4 worlds at step 1"):
        env.ledger.judge()


def test_an_observation_that_is_not_finite_is_told_later(make_env):
    env = deferred(make_env(2, ("proprio",)))
    plain = env.task.observe
    env.task.observe = lambda group, state: plain(group, state).masked_fill(
        torch.eye(2)[:, :1] > 0, torch.inf
    )
    env.step(torch.zeros(2, 7))
    with pytest.raises(UserError, match="observation 'proprio' is not finite in 1 of 2 worlds at step 1"):
        env.ledger.judge()


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(), lambda x: bool(x.any()), lambda x: float(x[0, 0]), lambda x: x[x > 0],
        lambda x: x.nonzero(), lambda x: x.masked_select(x > 0), lambda x: x.tolist(), lambda x: x.numpy(),
        lambda x: x.cpu(), lambda x: torch.equal(x, x), lambda x: torch.tensor([1.0, 2.0]),
        lambda x: x[:, [0, 1]], lambda x: x.unique(), lambda x: torch.linalg.solve(torch.eye(3), x),
        lambda x: x.__setitem__(x > 0, 2.0), lambda x: np.asarray(x),
        lambda x: torch.repeat_interleave(torch.ones(3, dtype=torch.int64)),
    ],
)  # fmt: skip
def test_the_guard_refuses_what_would_wait(ask):
    x = torch.ones(3, 3)
    ask(x.clone())
    with pytest.raises(HostSyncError, match="would wait for the device"), no_host_sync():
        ask(x)
    with no_host_sync() as guard, guard.paused():
        ask(x.clone())


def test_the_guard_lets_through_what_does_not_wait():
    x, mask, places = torch.ones(3, 3), torch.tensor([True, False, True]), torch.tensor([0, 2])
    with no_host_sync():
        y = torch.where(mask[:, None], x + 1, 0.0).masked_fill(~mask[:, None], 3.0)
        y[:, places] = x[:, places].clip(-1, 1)
        y[:, 1:] = 5.0
        torch.linalg.solve_ex(x + torch.ones_like(x).tril(), x)
    assert y.tolist() == [[1.0, 5.0, 5.0]] * 3
