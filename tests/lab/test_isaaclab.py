"""Isaac Lab's own worlds, on CPU and without Kit: `make test-isaaclab`, in an environment of its own.

Building a task takes seconds, a minute where its kernels are compiled first; so the tests share two.
"""

import json
from pathlib import Path

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
        ({"env_id": "Isaac-Pendulum-MARL-Direct"}, r"has several agents, or no rewards: wanted"),
        ({"env_id": "Robokd-Pointer-Elsewhere"}, r"elsewhere\.usd: it is downloaded, and this"),
    ],
    ids=["unknown", "foreign", "group", "success", "direct", "agents", "assets"],
)
def test_a_task_that_cannot_be_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        make(1, (), **fields)
    assert "\n" not in str(caught.value)


PPO = ["iterations=2", "steps_per_iteration=8", "evaluate_every=2", "evaluate_episodes=8"]
DAGGER = ["rounds=2", "steps_per_round=4", "gradient_steps=2", "batch_size=8", "evaluate_episodes=8"]
SMALL = [
    "experiment=pointer", f"plugins=[{PLUGIN}]", "num_envs=8", "threads=1", "evaluate.episodes=8",
    "evaluate.ablations=false", "export.parity_samples=16", "deploy.episodes=2",
    # whatever else this machine does
    "export.age_periods=12", "deploy.robot.reply_timeout_s=10", "deploy.robot.start_timeout_s=600",
    *(f"{stage}.teacher.{word}" for stage in ("teach", "refine") for word in PPO),
    *(f"distill.dagger.{word}" for word in DAGGER),
]  # fmt: skip


@pytest.mark.slow
def test_one_command_goes_from_teacher_to_a_robot_that_isaac_lab_simulates(tmp_path, capsys):
    assert main(["pipeline", *SMALL, f"runs={tmp_path}"]) == 0
    summary = json.loads(Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text())
    stages = {name: json.loads(Path(path).read_text()) for name, path in summary["stages"].items()}
    assert {"teach", "distill", "refine", "evaluate", "export", "deploy"} <= set(stages)
    assert {stage["sim"] for stage in stages.values()} == {"isaaclab"}
    assert stages["evaluate"]["episodes"] == 8
    assert stages["export"]["parity_max_abs"] < 1e-4
    deployed = stages["deploy"]
    assert deployed["stop_reason"] == "end"
    assert deployed["success"]["episodes"] == 2
    assert deployed["ticks"] >= 2
    assert deployed["frames_rendered"] > 0
    # what it was told kept the limits, however it moved
    assert not [kind for kind in deployed["robot_log"]["violations"] if kind.startswith("command")]
    assert deployed["robot_log"]["lost_s"] < 0.5 * deployed["wall_s"]
