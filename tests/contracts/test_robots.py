"""What every registered robot must do; those that can be tried without hardware are, through another process.

A new driver gets the checks of its settings by being registered, the others by a row in TRIED: how to have
such a robot at hand over loopback.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from dds_robot import RobotProcess, free_domain
from robokd.sim2real.robot import Command, JointReading, SimulatedCfg
from robot_samples import make_bundle

from robokd import UserError, registry
from robokd.export.bundle import read_bundle

ROBOTS = registry.names("robot")
VENDORS = ("cyclonedds", "rosbags", "mujoco", "torch", "rclpy", "unitree_sdk2py")


@contextlib.contextmanager
def over_dds(name, folder, **fields):
    pytest.importorskip("cyclonedds")
    bundle, domain = make_bundle(folder / "b.robokd"), free_domain()
    process = RobotProcess(name, domain, bundle.path)
    cfg = registry.find("robot", name)(domain=domain, state_timeout_s=2.0, **fields)
    try:
        yield bundle, cfg, (None, None), lambda: process.report()["commands"]
    finally:
        process.close()


@contextlib.contextmanager
def simulated(name, folder):
    pytest.importorskip("mujoco")
    from reach_sample import write_reach

    bundle = read_bundle(write_reach(folder / "reach.robokd", horizon_s=20.0))
    cfg = registry.find("robot", name)(reply_timeout_s=5.0)
    plant = cfg.plant(bundle=bundle, seed=0)
    try:
        plant.start()
        plant.begin(0)
        # its own account is told after its end only
        yield bundle, cfg, (plant.joints, plant.cameras), None
    finally:
        plant.stop()


TRIED = {
    "ros2": lambda folder: over_dds("ros2", folder),
    "unitree": lambda folder: over_dds("unitree", folder, motors=("shoulder:0", "elbow:1")),
    "mujoco": lambda folder: simulated("mujoco", folder),
}


@pytest.fixture(scope="module", params=sorted(set(TRIED) & set(ROBOTS)))
def at_hand(request, tmp_path_factory):
    with TRIED[request.param](tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture(scope="module")
def connected(at_hand):
    """One driver for all tests of a robot: a socket can be let go of only once."""
    bundle, cfg, (link, _), told = at_hand
    robot = cfg.joints(bundle=bundle, link=link)
    robot.connect()
    yield robot, bundle, told
    robot.stop()
    robot.stop()
    with pytest.raises((RuntimeError, OSError)):
        robot.write(command(np.zeros(bundle.action.size)))


def command(target, sequence=1):
    target = np.asarray(target, np.float32)
    return Command(target=target, stamp_s=time.monotonic(), sequence=sequence, origin=0, rung=0)


def bundle_for(name, folder):
    return make_bundle(folder / "b.robokd")


@pytest.mark.parametrize("name", ROBOTS)
def test_a_robot_is_registered_without_its_vendors_package(name):
    """`robokd list robot` works on a machine that has none of them."""
    module = registry.find("robot", name).__module__
    code = f"import sys, {module}; print([one for one in {VENDORS} if one in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


@pytest.mark.parametrize("name", ROBOTS)
def test_a_robots_settings_have_defaults_and_its_methods_are_there(name):
    cfg = registry.find("robot", name)()
    assert callable(cfg.joints)
    assert callable(cfg.cameras)


@pytest.mark.parametrize("name", [name for name in ("ros2", "unitree") if name in ROBOTS])
def test_hardware_says_that_it_is_and_what_stops_it(name, tmp_path):
    fields = {"motors": ("shoulder:0", "elbow:1")} if name == "unitree" else {}
    cfg = registry.find("robot", name)(**fields)
    robot = cfg.joints(bundle=bundle_for(name, tmp_path), link=None)
    assert robot.is_hardware
    assert robot.stop_key in ("any", "hold")
    assert robot.command_timeout_s is None
    assert not isinstance(cfg, SimulatedCfg)


@pytest.mark.parametrize("name", [name for name in ("ros2", "unitree") if name in ROBOTS])
def test_hardware_that_is_not_connected_can_be_stopped_but_not_used(name, tmp_path):
    fields = {"motors": ("shoulder:0", "elbow:1")} if name == "unitree" else {}
    cfg = registry.find("robot", name)(domain=free_domain(), connect_timeout_s=0.2, **fields)
    bundle = bundle_for(name, tmp_path)
    robot, cameras = cfg.joints(bundle=bundle, link=None), cfg.cameras(bundle=bundle, link=None)
    for one in (robot, cameras):
        one.stop()
        one.stop()
    with pytest.raises(RuntimeError, match="not connected"):
        robot.read()
    with pytest.raises(RuntimeError, match="not connected"):
        robot.write(command((0, 0)))
    with pytest.raises(RuntimeError, match="not connected"):
        cameras.read(0.0)
    pytest.importorskip("cyclonedds")
    begun_s = time.monotonic()
    with pytest.raises(UserError, match=r"within 0\.2 s"):
        robot.connect()
    with pytest.raises(UserError, match=r"within 0\.2 s"):
        cameras.connect()
    assert time.monotonic() - begun_s < 5
    robot.stop()
    cameras.stop()


def test_nothing_is_sent_before_the_first_write(connected):
    robot, _, told = connected
    for _ in range(5):
        robot.read()
        time.sleep(0.02)
    if told is not None:
        assert told() == 0


def test_a_reading_is_of_all_joints_finite_and_young(connected):
    robot, bundle, _ = connected
    before = time.monotonic()
    readings = []
    while time.monotonic() < before + 0.5:
        readings.append(robot.read())
        time.sleep(0.004)
    for reading in readings:
        assert isinstance(reading, JointReading)
        for value in (reading.position, reading.velocity, reading.target):
            assert value.shape == (bundle.action.size,)
            assert value.dtype == np.float32
        assert np.isfinite(reading.position).all()
        assert np.isfinite(reading.velocity).all()
    captured = [reading.captured_s for reading in readings]
    assert np.diff(captured).min() >= 0
    assert len(set(captured)) > 10
    assert before - 1 < captured[0] <= captured[-1] <= time.monotonic()


def test_a_reading_is_the_readers_own(connected):
    robot, _, _ = connected
    first = robot.read()
    kept = first.position.copy()
    time.sleep(0.05)
    second = robot.read()
    assert first.position is not second.position or first is second
    assert (first.position == kept).all()


def test_what_is_written_is_returned_as_it_was_sent_and_moves_the_robot(connected):
    robot, bundle, told = connected
    start = robot.read().position
    before = told() if told is not None else 0
    for number in range(1, 26):
        target = start + np.float32(0.0005 * number)
        sent = robot.write(command(target, number))
        assert sent.dtype == np.float32
        assert (sent == target).all()
        assert sent is not target
        time.sleep(bundle.action.control_dt if told is None else 0.01)
    if told is not None:
        assert told() == before + 25
    deadline = time.monotonic() + 2
    while (robot.read().position - start).min() < 0.005 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (robot.read().position - start).min() >= 0.005
    assert robot.read().strangers == 0


def test_cameras_show_what_the_bundle_wants(at_hand):
    bundle, cfg, (_, link), _ = at_hand
    cameras = cfg.cameras(bundle=bundle, link=link)
    cameras.connect()
    frames, deadline = [], time.monotonic() + 5
    while len(frames) < 5 and time.monotonic() < deadline:
        if (frame := cameras.read(0.1)) is not None:
            frames.append(frame)
    begun_s = time.monotonic()
    while cameras.read(0.0) is not None and time.monotonic() < begun_s + 1:
        pass
    cameras.stop()
    cameras.stop()
    assert len(frames) == 5
    for frame in frames:
        spec = bundle.cameras[frame.camera]
        assert frame.image.shape == spec.shape
        assert frame.image.dtype == spec.dtype
        assert 0 <= time.monotonic() - frame.captured_s < 10
    captured = [frame.captured_s for frame in frames]
    assert np.diff(captured).min() >= 0
