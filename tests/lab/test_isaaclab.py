"""Isaac Lab's own worlds, on CPU and without Kit: `make test-isaaclab`, in an environment of its own.

Building a task takes seconds, a minute where its kernels are compiled first; so the tests share two.
"""

import json

import pytest
import torch

from robokd import UserError
from robokd.cli import main
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.registry import load_plugins
from robokd.vision.sensor import Corruption

pytest.importorskip("isaaclab")

PLUGIN = "tests.lab.pointer"
TASK = {
    "env_id": "Robokd-Pointer", "success_term": "reached", "near_m": 0.8, "far_m": 1.4,
    "action": "joint_delta", "joint_step_rad": 0.15, "start_rad": 0.3,
}  # fmt: skip
EVERYWHERE = torch.arange(3)


def make(num_envs, groups, **fields):
    from robokd.tasks.isaaclab import IsaacLabCfg

    load_plugins([PLUGIN])
    setup = Setup(num_envs=num_envs, groups=groups, draws=Draws(0, "test"))
    return IsaacLabCfg(**fields).build(sim=None, renderer=None, corrupt=Corruption(), setup=setup)


@pytest.fixture(scope="module")
def pointer():
    env = make(3, ("policy", "critic", "proprio", "camera", "camera_rgb"), **TASK)
    yield env
    env.close()


@pytest.fixture(scope="module")
def direct():
    env = make(3, ("policy", "critic", "camera"), env_id="Robokd-Pointer-Direct", success_term="reached")
    yield env
    env.close()


def test_groups_have_the_roles_that_the_config_gives_them(pointer):
    roles = {name: spec.role for name, spec in pointer.obs_specs.items()}
    assert roles == {"policy": "proprio", "critic": "privileged", "proprio": "proprio"}
    assert [term.name for term in pointer.obs_specs["critic"].terms] == ["goal", "offset"]
    assert pointer.obs_specs["proprio"].terms[0].elements == ("shoulder", "elbow")


def test_observations_have_the_shapes_of_their_specs(pointer, direct):
    for env in (pointer, direct):
        obs = env.reset(EVERYWHERE)
        for name, spec in env.obs_specs.items():
            assert obs[name].shape == (3, spec.size)
        for name in set(env.camera_specs) & set(env.groups):
            assert obs[name].shape == (3, *env.camera_specs[name].shape)
            assert obs[name].numpy().dtype == env.camera_specs[name].dtype


def test_the_camera_shows_the_arm_and_the_sphere_before_nothing(pointer):
    camera = pointer.camera_specs["camera"]
    # 2 atan(32 / 2 / 26.67 px); from 1.2 m above, a sphere of 0.08 m about 0.1 m is at 1.02 m at the nearest
    assert camera.fovy_deg == pytest.approx(61.9275, abs=1e-3)
    assert camera.quaternion_wxyz == (1.0, 0.0, 0.0, 0.0)
    assert camera.mount == "world"
    image = pointer.reset(EVERYWHERE)["camera"]
    seen = camera.near_m + (image[image > 0].float() - 1) / 254 * (camera.far_m - camera.near_m)
    assert (image == 0).float().mean() > 0.8
    assert 1.02 - camera.step_m < seen.min() < 1.04
    assert seen.max() < 1.2


def test_episodes_of_the_same_numbers_begin_alike_and_others_do_not(pointer):
    goals = [pointer.reset(numbers)["critic"] for numbers in (EVERYWHERE, EVERYWHERE, EVERYWHERE + 3)]
    assert torch.equal(goals[0], goals[1])
    assert not torch.equal(goals[0], goals[2])


def test_targets_keep_the_limits_that_the_policy_is_exported_with(pointer):
    pointer.reset(EVERYWHERE)
    spec = pointer.action_spec
    before, _ = pointer.worlds.targets()
    speed = torch.zeros(3, 2)
    for step in range(12):
        pointer.step(torch.ones(3, 2) * (1 if step < 6 else -1))
        after, rate = pointer.worlds.targets()
        begun = pointer.state.step == 0
        assert ((rate - speed).abs() <= spec.acceleration[0] * spec.control_dt + 1e-4)[~begun].all()
        assert (rate.abs() <= spec.velocity[0] + 1e-4).all()
        assert torch.allclose(after[~begun], (before + rate * spec.control_dt)[~begun], atol=1e-5)
        before, speed = after, rate


def test_joints_follow_the_targets(pointer):
    obs = pointer.reset(EVERYWHERE)
    start = obs["proprio"][:, 0]
    for _ in range(5):
        obs, *_ = pointer.step(torch.tensor([[1.0, 0.0]]).expand(3, 2))
    going = pointer.state.step == 5
    assert going.any()
    assert (obs["proprio"][:, 0] - start > 0.1)[going].all()


@pytest.mark.parametrize("which", ["pointer", "direct"])
def test_an_episode_out_of_time_leaves_its_last_numbers_and_the_next_one_has_begun(which, request):
    env = request.getfixturevalue(which)
    obs = env.reset(EVERYWHERE)
    still = torch.zeros(3, env.num_actions)
    for _ in range(env.max_episode_length):
        before = obs
        obs, _, done, extras = env.step(still)
    late = extras["time_outs"]
    assert late.any()
    assert done[late].all()
    # the sphere stays where it is while an episode lasts, and lies elsewhere in the next
    assert torch.allclose(extras["terminal"]["critic"][late, :3], before["critic"][late, :3], atol=1e-3)
    assert not torch.allclose(obs["critic"][late, :3], before["critic"][late, :3], atol=1e-3)
    assert (env.state.step[late] == 0).all()


def test_success_is_what_the_named_term_says(pointer):
    pointer.reset(EVERYWHERE)
    for _ in range(60):
        towards = pointer.get_observations()["critic"][:, 3:5]
        actions = torch.stack((torch.sign(towards[:, 1]), torch.sign(towards[:, 1])), 1)
        _, reward, done, extras = pointer.step(actions)
        success = extras["success"] & done.bool()
        if success.any():
            assert (reward[success] > 2).all()  # 100 a second for having reached it, 0.04 s
            assert not extras["time_outs"][success].any()
            return
    pytest.fail("no episode ended well")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env_id": "Robokd-Pointr"}, r"task.env_id=Robokd-Pointr: .*Robokd-Pointer"),
        ({"env_id": "CartPole-v1"}, r"CartPole-v1 is registered, but is no task of Isaac Lab"),
        (
            {**TASK, "proprio": ("joints",)},
            r"no observation group 'joints' of numbers \(task.proprio\): it has",
        ),
        ({**TASK, "success_term": "won"}, r"no termination term 'won' .*: it has time_out, reached"),
        ({**TASK, "env_id": "Robokd-Pointer-Direct"}, r"exactly one action term.*Direct has none"),
    ],
    ids=["unknown", "foreign", "group", "success", "direct"],
)
def test_a_task_that_cannot_be_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        make(1, (), **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_chain_runs_from_teacher_to_evaluation(tmp_path):
    task = [f"task.{name}={value}" for name, value in TASK.items()]
    shared = [f"plugins=[{PLUGIN}]", "threads=1", f"runs={tmp_path}"]
    groups = ["teacher.actor_groups=[proprio,critic]", "teacher.critic_groups=[proprio,critic]"]
    tiny = [
        "num_envs=8", "teacher.iterations=2", "teacher.steps_per_iteration=8", "teacher.evaluate_every=2",
        "teacher.evaluate_episodes=4", "teacher.hidden=[16]", "teacher.critic_hidden=[16]",
    ]  # fmt: skip
    assert main(["teach", "task=isaaclab", *task, *shared, *groups, *tiny]) == 0
    teacher = next(tmp_path.glob("*_teach_*"))
    tiny = [
        "num_envs=4", "cameras=[camera]", "groups=[proprio]", "loss=[action_huber]", "dagger.rounds=2",
        "dagger.steps_per_round=4", "dagger.gradient_steps=2", "dagger.batch_size=8",
        "dagger.evaluate_every=2", "dagger.evaluate_episodes=4", "student.channels=[4,4]",
        "student.keypoints=4",
    ]  # fmt: skip
    assert main(["distill", f"parent={teacher}", *shared, *tiny]) == 0
    student = next(tmp_path.glob("*_distill_*"))
    words = ["num_envs=4", "episodes=4", "spaces=[seen]", "ablations=false"]
    assert main(["evaluate", f"run={student}", *shared, *words]) == 0
    found = json.loads(next(tmp_path.glob("*_evaluate_*/summary.json")).read_text())
    assert found["episodes"] == 4
    assert found["frames_rendered"] > 0
