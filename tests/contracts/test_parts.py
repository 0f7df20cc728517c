"""What every registered part must do, whatever it is: adding one file is enough to be tested here."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robokd import UserError, registry
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.vision.sensor import Corruption

pytest.importorskip("mujoco")


def _task_env(task: str, sim: str, renderer: str, num_envs: int, space: str = "seen"):
    config, physics = registry.find("task", task)(), registry.find("sim", sim)()
    setup = Setup(num_envs=1, groups=("proprio",), draws=Draws(0, "test"), space=space)
    known = config.build(sim=physics, renderer=None, corrupt=Corruption(), setup=setup)
    setup = dataclasses.replace(setup, num_envs=num_envs, groups=(*known.obs_specs, *known.camera_specs))
    known.close()
    eyes = registry.find("renderer", renderer)()
    try:
        return config.build(sim=physics, renderer=eyes, corrupt=Corruption(), setup=setup)
    except UserError as error:
        if "OpenGL" in str(error) or "pip install" in str(error):
            pytest.skip(f"not on this machine: {error}")
        raise


@pytest.mark.parametrize("renderer", registry.names("renderer"))
@pytest.mark.parametrize("sim", registry.names("sim"))
@pytest.mark.parametrize("task", registry.names("task"))
def test_a_task_emits_what_its_specs_say(task, sim, renderer):
    env = _task_env(task, sim, renderer, 3)
    for _ in range(2):
        obs, reward, done, extras = env.step(torch.zeros(3, env.num_actions))
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


@pytest.mark.parametrize("space", ["seen", "unseen", "unseen_all"])
@pytest.mark.parametrize("task", registry.names("task"))
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
