"""Deployment on the simulated robot: two processes, real time, and every way that it can end."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from robokd.sim2real.deploy import check_task, deploy, make_plan
from robokd.sim2real.mujoco import MujocoRobotCfg
from robokd.sim2real.mujoco_host import Host, World
from robokd.sim2real.robot_account import RobotAccount
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.wire import Wire, reading_layout
from robokd.tasks.reach import Reach
from robot_samples import described, golden, graph, manifest

from robokd import UserError, registry
from robokd.cli import main
from robokd.config import compose, dump
from robokd.export.bundle import read_bundle, write_bundle
from robokd.run import Run
from robokd.specs import to_dict

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs one monotonic clock")
HORIZON_S = 0.6


def rows(names, joints, **shapes):
    return {name: {"shape": shapes.get(name, [1, joints]), "dtype": "float32"} for name in names}


def write(path, step=0.0005, *, is_broken=False, **changes):
    """A bundle of task reach whose policy creeps by `step` rad a tick, with some manifest fields changed."""
    cfg = registry.find("task", "reach")(horizon_s=HORIZON_S)
    task = Reach(cfg)
    action, proprio, camera = task.action_spec(), task.obs_specs()["proprio"], task.camera_specs()["front"]
    inputs = rows(("proprio", "front", "anchor", "rate"), action.size, proprio=[1, proprio.size])
    inputs["front"] = {"shape": [1, *camera.shape], "dtype": "uint8"}
    outputs = rows(("command", "command_rate", "action"), action.size)
    data = graph(step, inputs, outputs, size=action.size, is_broken=is_broken)
    start = task.start_envelope()
    content = manifest() | {
        "task": "reach", "task_config": dump(cfg), "sim_config": dump(registry.find("sim", "mujoco")()),
        "renderer_config": dump(registry.find("renderer", "raster")()),
        "corrupt_config": dump(registry.find("corrupt", "clean")()), "action": to_dict(action),
        "observations": {"proprio": to_dict(proprio)}, "cameras": {"front": to_dict(camera)},
        "control_dt": action.control_dt, "graph": described(inputs, outputs),
        "start": {"joint_pos_lower": start[0], "joint_pos_upper": start[1]},
        "ages_s": {"proprio": 0.5, "front": 0.5},  # a busy test machine is not what is tested here
    }  # fmt: skip
    write_bundle(path, content | changes, {"policy.onnx": data, "samples.json": golden(data, inputs)})
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundle") / "creep.robokd")


@pytest.fixture
def robot(bundle, tmp_path):
    made = MujocoRobotCfg(reply_timeout_s=3.0).build(bundle=read_bundle(bundle), seed=0)
    yield made
    made.stop()


def config(bundle, tmp_path, *more):
    return compose("deploy", [f"bundle={bundle}", f"runs={tmp_path / 'runs'}", *more])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


def test_a_deployment_leaves_a_whole_run_and_the_robot_saw_no_limit_broken(bundle, tmp_path):
    path = deploy(config(bundle, tmp_path, "episodes=2"))
    summary, run = json.loads(path.read_text()), Run.open(path.parent)
    assert summary["success"]["episodes"] == 2
    assert summary["stop_reason"] == "end"
    assert 2 * HORIZON_S / 0.04 - 4 <= summary["ticks"] <= 2 * HORIZON_S / 0.04 + 2
    assert summary["safety"] == {}
    assert summary["period_s"]["p50"] == pytest.approx(0.04, rel=0.1)
    assert set(summary["age_s"]) == {"joint_pos", "joint_vel", "joint_target", "front"}
    assert 0 <= summary["age_s"]["front"]["p50"] < 0.1
    assert summary["robot_peak_rss_mb"] > 100  # the robot's process has torch
    assert summary["frames_rendered"] >= summary["ticks"]
    assert summary["robot_peak_rss_mb"] != summary["peak_rss_mb"]
    sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert run.lineage["parents"] == summary["parents"] == [{"path": str(bundle), "sha256": sha256}]
    assert run.is_finished
    account = summary["robot_log"]
    assert account["violations"] == {}
    assert account["commands"] == summary["ticks"]
    assert account["commands_lost"] == 0
    assert account["outcomes"] == [False, False]
    own = json.loads((run.path / "robot_log.json").read_text())
    assert len(own["commands_received"]) == summary["ticks"]
    assert (run.path / "log.mcap").stat().st_size > 0


def test_a_safety_stop_is_raised_after_the_summary_and_nothing_was_commanded(tmp_path):
    bad = write(tmp_path / "nan.robokd", is_broken=True)
    with pytest.raises(SafetyStop, match="non_finite"):
        deploy(config(bad, tmp_path, "episodes=1"))
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    content = json.loads(summary.read_text())
    assert (content["stop_reason"], content["safety"]) == ("non_finite", {"non_finite": 1})
    assert content["robot_log"]["commands"] == 0


def test_a_safety_stop_before_the_first_command_exits_with_3_and_rates_of_nothing_are_null(tmp_path, capsys):
    bad = write(tmp_path / "nan.robokd", is_broken=True)
    assert main(["deploy", f"bundle={bad}", "episodes=1", f"runs={tmp_path / 'runs'}"]) == 3
    said = capsys.readouterr()
    assert said.err.startswith("safety stop: non_finite")

    def refuse(constant):
        raise AssertionError(f"{constant} in a summary is no JSON")

    content = json.loads(Path(said.out.strip()).read_text(), parse_constant=refuse)
    assert content["success"]["rate"] is None
    assert content["success"]["episodes"] == 0
    nothing = dict.fromkeys(("p50", "p99", "p999", "max"))
    assert content["period_s"] == content["inference_s"] == content["late_s"] == nothing
    assert content["age_s"]["front"]["max"] >= 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=lift"], "is for task=reach, not for task=lift"),
        (["episodes=0"], "episodes must be >= 1"),
        (["robot.space=sen"], "no parameter space named 'sen'. Known: seen, unseen, unseen_all"),
        (["arm=true"], "deploy has no key 'arm'"),
    ],
)
def test_what_is_refused_leaves_no_run(bundle, tmp_path, capsys, words, said):
    assert main(["deploy", f"bundle={bundle}", f"runs={tmp_path / 'runs'}", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_bundle_for_the_task_that_is_named_is_taken(bundle, tmp_path):
    check_task(config(bundle, tmp_path, "task=reach"), read_bundle(bundle))


def test_a_robot_without_episodes_needs_a_duration(bundle, tmp_path):
    with pytest.raises(UserError, match="robot=mujoco has no episodes; say how long with duration_s"):
        make_plan(config(bundle, tmp_path), object(), read_bundle(bundle))
    plan = make_plan(config(bundle, tmp_path, "duration_s=0.4"), object(), read_bundle(bundle))
    assert (plan.episodes, plan.ticks) == (0, 10)


def world_of(bundle):
    manifest = read_bundle(bundle).manifest
    return World({**manifest, "bundle": str(bundle), "seed": 0, "space": "seen"})


def test_the_robot_moves_and_senses_as_the_training_environment_does(bundle, make_env):
    world, env = world_of(bundle), make_env(1, ("proprio", "front"), horizon_s=HORIZON_S)
    obs = env.reset(torch.tensor([7]))
    world.begin(7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        assert torch.equal(torch.from_numpy(world._proprio[:14]), obs["proprio"][0, :14])
        assert np.array_equal(world.pictures["front"], obs["front"][0].numpy())
        obs, *_ = env.step(torch.rand(1, 7, generator=generator) * 2 - 1)
        steps = [world.step(env.state.command[0].numpy()) for _ in range(world.substeps)]
        assert steps == [False] * 4 + [True]


def test_the_robot_has_the_cameras_of_the_training_and_says_how_old_their_frames_are(tmp_path):
    late = registry.find("corrupt", "clean")(latency_s=(0.08, 0.08))
    world = world_of(write(tmp_path / "late.robokd", corrupt_config=dump(late)))
    world.begin(0)
    ages = [world.ages_s["front"]]
    ages += [world.ages_s["front"] for _ in range(5 * world.substeps) if world.step(world.hold())]
    # the first picture is seen at once, the next after a latency of two control steps of 0.04 s
    assert ages == pytest.approx([0.0, 0.04, 0.08, 0.08, 0.08, 0.08])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = Host(Wire(theirs), world, RobotAccount(world.env.action_spec, 1.0))
        host._read(1, bytearray())
        layout = reading_layout(world.env.action_spec, {"front": world.env.camera_specs["front"]})
        (row,) = np.frombuffer(Wire(ours).receive(1.0)[2], layout)
    assert row["joints_s"] - row["front_s"] == pytest.approx(0.08, abs=1e-6)


def test_an_episode_ends_with_a_control_step_but_for_a_divergence(bundle):
    world = world_of(bundle)
    world.begin(0)
    world.env.task.terminated = lambda state: torch.ones(1, dtype=torch.bool)
    for _ in range(world.substeps - 1):
        world.step(world.hold())
        assert not world.is_over()
    world.step(world.hold())
    assert world.is_over()
    world.begin(1)
    world.env.task.success = world.env.task.terminated
    world.env.sim.diverged = lambda: torch.ones(1, dtype=torch.bool)
    world.step(world.hold())
    assert world.is_over()
    assert not world.is_success()


@pytest.mark.parametrize("inside_at", ["ends", "rest", "always", "never"])
def test_success_and_end_are_judged_as_in_training(bundle, make_env, inside_at):
    # where the tip is at the ends of control steps is what counts, in training and here
    world, env = world_of(bundle), make_env(1, ("proprio", "front"), horizon_s=HORIZON_S, hold_s=0.12)
    assert isinstance(world.env.task, Reach)
    world.env.task.cfg.hold_s = 0.12

    def distance(state):
        is_end = round(float(state.sim.get("time").flatten()[0]) / world.dt) % world.substeps == 0
        is_inside = {"ends": is_end, "rest": not is_end, "always": True, "never": False}[inside_at]
        return torch.zeros(1) if is_inside else torch.ones(1)

    world.env.task.distance = env.task.distance = distance
    env.reset(torch.tensor([0]))
    world.begin(0)
    steps, is_done = 0, False
    while not is_done:
        before = env.state.command.clone()
        _, _, done, extras = env.step(torch.zeros(1, 7))
        for _ in range(world.substeps):
            assert not world.is_over()
            world.step(before[0].numpy())
        steps, is_done = steps + 1, bool(done[0])
        assert world.is_over() == is_done
    assert world.is_success() == bool(extras["success"][0]) == (inside_at in ("ends", "always"))
    assert steps == (3 if inside_at in ("ends", "always") else round(HORIZON_S / 0.04))


def test_a_bundle_of_another_camera_is_refused_by_field(tmp_path):
    cameras = {"front": to_dict(Reach(registry.find("task", "reach")()).camera_specs()["front"])}
    cameras["front"]["fovy_deg"] = 51.0
    other = write(tmp_path / "other.robokd", cameras=cameras)
    with pytest.raises(UserError, match=r"cameras\.front\.fovy_deg: wanted 51"):
        deploy(config(other, tmp_path))
    assert not (tmp_path / "runs").exists()


def test_channels_carry_true_capture_times(robot):
    robot.connect()
    held = robot.read().channels["joint_target"]
    robot.begin(3)
    assert (robot.read().channels["joint_target"] != held).any()  # another start pose
    for _ in range(5):
        time.sleep(0.03)
        asked = time.monotonic()
        reading = robot.read()
        answered = time.monotonic()
        assert set(reading.captured_s) == {"joint_pos", "joint_vel", "joint_target", "front"}
        assert all(asked - 0.2 < moment <= answered for moment in reading.captured_s.values())
        assert reading.channels["front"].shape == (1, 64, 64)
        assert reading.channels["front"].any()


def test_a_killed_robot_is_noticed_and_named(robot):
    robot.connect()
    robot.begin(0)
    os.kill(robot._process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="was killed by SIGKILL"):
        robot.read()


def test_a_frozen_robot_is_noticed_and_its_process_ended(robot):
    robot.connect()
    robot.begin(0)
    pid = robot._process.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match="does not answer in time"):
        robot.read()
    robot.stop()
    assert gone_within(pid, 1.0)
    robot.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_robot_never_outlives_the_policy(bundle, tmp_path, number):
    code = (
        "import sys; from robokd.config import compose; from robokd.sim2real.deploy import deploy\n"
        f"deploy(compose('deploy', ['bundle={bundle}', 'runs={tmp_path / 'runs'}', 'episodes=1000']))"
    )
    policy = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, process_group=0)
    try:
        wait_for(lambda: list(tmp_path.glob("runs/*/log.mcap")))  # it is connected
        (robot,) = map(int, Path(f"/proc/{policy.pid}/task/{policy.pid}/children").read_text().split())
        time.sleep(1)
        # a terminal's Ctrl-C reaches the whole group; a kill only the one process
        (os.killpg if number == signal.SIGINT else os.kill)(policy.pid, number)
        policy.wait(20)
    finally:
        policy.kill()
        policy.wait()
    assert gone_within(robot, 5.0)


def wait_for(happens) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)
