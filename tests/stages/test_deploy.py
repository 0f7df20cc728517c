"""Deployment on the simulated robot: two processes, real time, and every way that it can end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from robokd.sim2real.deploy import deploy
from robokd.sim2real.mujoco import MujocoRobotCfg
from robokd.sim2real.safety import SafetyStop
from robokd.tasks.reach import Reach
from robot_samples import graph, manifest

from robokd import UserError, registry
from robokd.config import compose, dump
from robokd.export.bundle import read_bundle, write_bundle
from robokd.run import Run
from robokd.specs import to_dict

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs one monotonic clock")
HORIZON_S = 0.6


def rows(names, joints, **shapes):
    return {name: {"shape": shapes.get(name, [1, joints]), "dtype": "float32"} for name in names}


def write(path, step=0.0005, **changes):
    """A bundle of task reach whose policy creeps by `step` rad a tick, with some manifest fields changed."""
    cfg = registry.find("task", "reach")(horizon_s=HORIZON_S)
    task = Reach(cfg)
    action, proprio, camera = task.action_spec(), task.obs_specs()["proprio"], task.camera_specs()["front"]
    inputs = rows(("proprio", "front", "anchor", "rate"), action.size, proprio=[1, proprio.size])
    inputs["front"] = {"shape": [1, *camera.shape], "dtype": "uint8"}
    outputs = rows(("command", "command_rate", "action"), action.size)
    data = graph(step, inputs, outputs, size=action.size)
    start = task.start_envelope()
    described = {"member": "policy.onnx", "inputs": inputs, "outputs": outputs}
    content = manifest() | {
        "task": "reach", "task_config": dump(cfg), "sim_config": dump(registry.find("sim", "mujoco")()),
        "renderer_config": dump(registry.find("renderer", "raster")()), "action": to_dict(action),
        "observations": {"proprio": to_dict(proprio)}, "cameras": {"front": to_dict(camera)},
        "control_dt": action.control_dt, "graph": described,
        "start": {"joint_pos_lower": start[0], "joint_pos_upper": start[1]},
        "ages_s": {"proprio": 0.5, "front": 0.5},  # a busy test machine is not what is tested here
    }  # fmt: skip
    write_bundle(path, content | changes, {"policy.onnx": data})
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundle") / "creep.robokd")


@pytest.fixture
def robot(bundle, tmp_path):
    made = MujocoRobotCfg(reply_timeout_s=3.0).build(bundle=read_bundle(bundle), seed=0, folder=tmp_path)
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
    bad = write(tmp_path / "nan.robokd", step=float("nan"))
    with pytest.raises(SafetyStop, match="non_finite"):
        deploy(config(bad, tmp_path, "episodes=1"))
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    content = json.loads(summary.read_text())
    assert (content["stop_reason"], content["safety"]) == ("non_finite", {"non_finite": 1})
    assert content["robot_log"]["commands"] == 0


def test_a_bundle_of_another_camera_is_refused_by_field(tmp_path):
    cameras = {"front": to_dict(Reach(registry.find("task", "reach")()).camera_specs()["front"])}
    cameras["front"]["fovy_deg"] = 51.0
    other = write(tmp_path / "other.robokd", cameras=cameras)
    with pytest.raises(UserError, match=r"cameras\.front\.fovy_deg: wanted 51"):
        deploy(config(other, tmp_path))


def test_channels_carry_true_capture_times(robot):
    robot.connect()
    robot.begin(3)
    for _ in range(5):
        time.sleep(0.03)
        asked = time.monotonic()
        reading = robot.read()
        answered = time.monotonic()
        assert set(reading.captured_s) == {"joint_pos", "joint_vel", "front"}
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
        robot = wait_for_robot(policy.pid)
        time.sleep(4)
        # a terminal's Ctrl-C reaches the whole group; a kill only the one process
        (os.killpg if number == signal.SIGINT else os.kill)(policy.pid, number)
        policy.wait(20)
    finally:
        policy.kill()
        policy.wait()
    assert gone_within(robot, 5.0)


def wait_for_robot(parent: int) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("no robot process was started")
