"""What every registered part must do, whatever it is: adding one file is enough to be tested here."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tensordict import TensorDict

from robokd import UserError, registry
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.specs import CameraSpec, ObsSpec, Term
from robokd.students.base import Interface, StudentOutput
from robokd.teachers.base import TeacherOutput
from robokd.vision.sensor import Corruption

pytest.importorskip("mujoco")

CAMERAS = [CameraSpec(name="front"), CameraSpec(name="wrist", width=48, height=64, encoding="depth_f16")]
PROPRIO = ObsSpec(
    group="proprio", role="proprio", terms=(Term(name="q", elements=("a", "b", "c"), unit="rad"),)
)  # fmt: skip


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
        if "OpenGL" in str(error):
            pytest.skip(f"no OpenGL on this machine: {error}")
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


def _student(name: str):
    torch.manual_seed(0)
    config = registry.find("student", name)()
    interface = Interface(
        obs_specs={"proprio": PROPRIO}, cameras=tuple(CAMERAS), action_size=7, targets={"goal_position": 3}
    )
    return config.build(interface).eval()


def _observations(count: int) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    groups = {"proprio": torch.randn(count, 3, generator=generator)}
    for camera in CAMERAS:
        pixels = torch.randint(0, 256, (count, *camera.shape), generator=generator)
        is_byte = camera.encoding == "depth_u8"
        groups[camera.name] = pixels.to(torch.uint8) if is_byte else (pixels / 128).half()
    return TensorDict(groups, batch_size=[count])


@pytest.mark.parametrize("name", registry.names("student"))
def test_a_student_is_the_same_on_one_robot_and_on_many(name):
    student, obs = _student(name), _observations(5)
    many, _ = student.forward(obs, student.initial_state(5))
    for i in range(5):
        one, _ = student.forward(obs[i : i + 1], student.initial_state(1))
        assert torch.allclose(one.action[0], many.action[i], atol=1e-5)
        alone, among = (said.estimates["goal_position"][j] for said, j in ((one, 0), (many, i)))
        assert torch.allclose(alone, among, atol=1e-5)
    assert many.action.shape == (5, 7)
    assert many.features.shape == (5, student.feature_size)
    assert set(student.inputs) == {"proprio", "front", "wrist"}


@pytest.mark.parametrize("name", registry.names("student"))
def test_every_weight_of_a_student_learns_from_actions_and_estimates(name):
    student, obs = _student(name).train(), _observations(8)
    output, _ = student.forward(obs, student.initial_state(8))
    (output.action.square().sum() + output.estimates["goal_position"].square().sum()).backward()
    silent = [key for key, value in student.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", registry.names("student"))
def test_imitation_does_not_bend_a_student_s_estimates(name):
    student, obs = _student(name).train(), _observations(8)
    output, _ = student.forward(obs, student.initial_state(8))
    output.action.square().sum().backward()
    assert all(value.grad is None for value in student.estimator.parameters())


@pytest.mark.parametrize("name", registry.names("loss"))
def test_a_loss_is_unreduced_zero_on_the_truth_and_positive_elsewhere(name):
    loss = registry.find("loss", name)().build()
    truth = torch.rand(4, 2, 7), torch.rand(4, 2, 3)
    batch = TensorDict({"goal_position": truth[1]}, batch_size=[4, 2])

    def student(action, goal):
        return StudentOutput(action=action, features=torch.zeros(4, 2, 1), estimates={"goal_position": goal})

    right = loss(student(*truth), TeacherOutput(action=truth[0]), batch)
    wrong = loss(student(truth[0] + 0.3, truth[1] - 0.1), TeacherOutput(action=truth[0]), batch)
    assert right.shape == wrong.shape == (4, 2)
    assert right.abs().max() < 1e-6
    assert (wrong > 0).all()
