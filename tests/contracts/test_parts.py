"""What every registered part must do, whatever it is: adding one file is enough to be tested here."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robokd import UserError, registry
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.env.gymnasium import is_native
from robokd.vision.sensor import Corruption

pytest.importorskip("mujoco")

registry.load_plugins(["tests.lab.pointer"])
NATIVE = [task for task in registry.names("task") if is_native(task)]
# of a task that needs to be told what to run, the fields with which it is tried
FIELDS = {
    "gymnasium": {"env_id": "Pendulum-v1"},
    "isaaclab": {"env_id": "Robokd-Pointer", "success_term": "reached"},
    "mjlab": {"env_id": "Mjlab-Cartpole-Balance"},
}


def _task_env(task: str, sim: str, renderer: str, num_envs: int, space: str = "seen", *, sees: bool = True):
    config, physics = registry.find("task", task)(**FIELDS.get(task, {})), registry.find("sim", sim)()
    setup = Setup(num_envs=1, groups=(), draws=Draws(0, "test"), space=space)
    try:
        known = config.build(sim=physics, renderer=None, corrupt=Corruption(), setup=setup)
    except UserError as error:
        if "pip install" in str(error):
            pytest.skip(f"not on this machine: {error}")
        raise
    groups = (*known.obs_specs, *(known.camera_specs if sees else ()))
    setup = dataclasses.replace(setup, num_envs=num_envs, groups=groups)
    known.close()
    eyes = registry.find("renderer", renderer)()
    try:
        return config.build(sim=physics, renderer=eyes, corrupt=Corruption(), setup=setup)
    except UserError as error:
        if "OpenGL" in str(error) or "pip install" in str(error):
            pytest.skip(f"not on this machine: {error}")
        raise


@pytest.mark.parametrize(
    ("task", "sim", "renderer"),
    [(task, sim, renderer) for task in NATIVE for sim in registry.names("sim")
     for renderer in registry.names("renderer")]
    + [(task, "mujoco", "raster") for task in registry.names("task") if task not in NATIVE],
)  # fmt: skip
def test_a_task_emits_what_its_specs_say(task, sim, renderer):
    env = _task_env(task, sim, renderer, 3)
    for _ in range(2):
        obs, reward, done, extras = env.step(torch.zeros(3, env.num_actions))
    assert env.action_spec.size == env.num_actions
    for name, spec in env.obs_specs.items():
        assert obs[name].shape == (3, spec.size)
        assert obs[name].dtype == torch.float32
        assert torch.isfinite(obs[name]).all()
    for name, camera in env.camera_specs.items():
        assert obs[name].shape == (3, *camera.shape)
        assert obs[name].numpy().dtype == camera.dtype
        assert (obs[name] > 0).any(), f"camera {name} sees nothing"
    assert reward.shape == done.shape == (3,)
    assert done.dtype == torch.int64
    assert extras["time_outs"].dtype == torch.bool


@pytest.mark.parametrize("task", registry.names("task"))
def test_the_environments_of_a_task_keep_the_numbers_of_their_episodes(task):
    env = _task_env(task, "mujoco", "raster", 2, sees=False)
    env.reset(torch.tensor([4, 9]))
    ended, counts = torch.zeros(2, dtype=torch.int64), []
    for _ in range(env.max_episode_length):
        before = env.state.episode_id.clone()
        _, _, done, extras = env.step(torch.ones(2, env.num_actions))
        ended += done
        assert torch.equal(extras["episode_id"], before)
        assert env.state.episode_id.tolist() == [4 + 2 * int(ended[0]), 9 + 2 * int(ended[1])]
        assert not (extras["time_outs"] & ~done.bool()).any()
        assert (env.episode_length_buf == 0).tolist() == done.bool().tolist()
        if extras["time_outs"].any():
            for name, spec in env.obs_specs.items():
                assert extras["terminal"][name].shape == (2, spec.size)
        counts.append(env.episodes_ended)
    assert counts[-1] == int(ended.sum()) >= 2
    assert env.state.action.shape == (2, env.num_actions)


@pytest.mark.parametrize("task", registry.names("task"))
def test_what_follows_a_snapshot_is_the_same_each_time_it_is_restored(task):
    env, other = (_task_env(task, "mujoco", "raster", 2, sees=False) for _ in range(2))
    for _ in range(3):
        env.step(torch.ones(2, env.num_actions))
    saved = env.snapshot()
    runs = []
    for one in (env, other):
        one.restore(saved)
        runs.append([one.step(torch.full((2, env.num_actions), 0.5)) for _ in range(3)])
    for left, right in zip(*runs, strict=True):
        assert all(torch.equal(left[0][name], right[0][name]) for name in env.groups)
        assert torch.equal(left[1], right[1])
        assert torch.equal(left[3]["episode_id"], right[3]["episode_id"])


@pytest.mark.parametrize("space", ["seen", "unseen", "unseen_all"])
@pytest.mark.parametrize("task", NATIVE)
def test_no_episode_of_a_task_begins_as_a_success_or_beyond_its_start_envelope(task, space):
    env = _task_env(task, "mujoco", "raster", 64, space)
    assert not env.task.success(env.state).any()
    lower, upper = (torch.tensor(end) for end in env.task.start_envelope())
    assert (env.state.command >= lower - 1e-6).all()
    assert (env.state.command <= upper + 1e-6).all()


@pytest.mark.parametrize("sim", registry.names("sim"))
def test_a_sim_resets_only_the_worlds_of_the_mask(sim):
    env = _task_env("reach", sim, "raster", 4)
    env.step(torch.ones(4, env.num_actions))
    before = env.sim.get("qpos").clone()
    mask = torch.tensor([False, True, False, False])
    env.sim.reset(mask)
    env.sim.forward(mask)
    after = env.sim.get("qpos")
    assert torch.equal(after[~mask], before[~mask])
    assert not torch.equal(after[mask], before[mask])


@pytest.mark.parametrize("sim", registry.names("sim"))
def test_a_sim_restored_repeats_its_steps_bit_for_bit(sim):
    env = _task_env("reach", sim, "raster", 4)
    saved = env.sim.snapshot()
    ctrl = env.sim.get("ctrl").clone() + 0.1
    runs = []
    for _ in range(2):
        env.sim.restore(saved)
        for _ in range(5):
            env.sim.step(ctrl, 5)
        runs.append(env.sim.get("qpos").clone())
    assert torch.equal(*runs)


@pytest.mark.parametrize("sim", registry.names("sim"))
def test_a_sim_names_a_field_that_it_lacks(sim):
    env = _task_env("reach", sim, "raster", 1)
    with pytest.raises(ValueError, match="qposs"):
        env.sim.get("qposs")
