"""The simulated robot on the wire, as `robokd simulate` starts it, and the hardware drivers against it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("mujoco")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from dds_robot import Follower, free_domain
from reach_sample import write_reach
from robokd.sim2real import simulate as simulating
from robokd.sim2real.robot import Command
from robokd.sim2real.ros2 import Ros2RobotCfg
from robokd.sim2real.simulate import StandIn
from robokd.sim2real.simulated_ends import Heard
from robokd.sim2real.unitree import UnitreeRobotCfg
from robot_samples import make_bundle

from robokd.cli import main
from robokd.export.bundle import read_bundle
from robokd.run import Run

HORIZON_S = 1.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "creep.robokd"
    return read_bundle(write_reach(path, horizon_s=HORIZON_S))


def driver(protocol, bundle, domain):
    if protocol == "ros2":
        return Ros2RobotCfg(domain=domain, connect_timeout_s=60, state_timeout_s=2.0)
    motors = tuple(f"{name}:{number}" for number, name in enumerate(bundle.action.names))
    return UnitreeRobotCfg(domain=domain, motors=motors, connect_timeout_s=60, state_timeout_s=2.0)


@pytest.mark.parametrize("protocol", ["ros2", pytest.param("unitree", marks=pytest.mark.slow)])
def test_a_driver_moves_the_simulated_robot_through_its_protocol(bundle, tmp_path, protocol):
    domain = free_domain()
    words = [f"bundle={bundle.path}", f"protocol={protocol}", f"domain={domain}", f"runs={tmp_path}"]
    simulator = subprocess.Popen(
        [sys.executable, "-m", "robokd", "simulate", *words, "command_timeout_s=0.3"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    cfg = driver(protocol, bundle, domain)
    robot, cameras = cfg.joints(bundle=bundle, link=None), cfg.cameras(bundle=bundle, link=None)
    try:
        robot.connect()
        cameras.connect()
        start = robot.read()
        dt, count, stamps, pictures = bundle.action.control_dt, 0, set(), 0
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + HORIZON_S + 0.5:
            count += 1
            target = start.position + np.float32(0.0005 * count)
            robot.write(Command(target=target, stamp_s=time.monotonic(), sequence=count, origin=0, rung=0))
            until = begun_s + count * dt
            while time.monotonic() < until:
                stamps.add(robot.read().captured_s)
                pictures += cameras.read(0.002) is not None
        moved = robot.read().position - start.position
        wall_s = time.monotonic() - begun_s
        robot.stop()
        time.sleep(0.8)  # longer than the robot's own patience: it begins again
        robot.connect()
        again = robot.read()
    finally:
        robot.stop()
        cameras.stop()
        simulator.send_signal(signal.SIGINT)
        printed, said = simulator.communicate(timeout=30)
    assert simulator.returncode == 0, said
    assert moved.min() > 0.005
    assert moved == pytest.approx(np.full(len(moved), moved.mean()), abs=0.02)
    start_of = bundle.manifest["start"]
    assert (again.position > np.array(start_of["joint_pos_lower"]) - 0.05).all()  # it begins again
    assert (again.position < np.array(start_of["joint_pos_upper"]) + 0.05).all()
    assert np.abs(again.position - start.position - moved).max() > 0.01
    assert len(stamps) / wall_s > 50  # 250 Hz where the machine is not shared
    assert pictures / wall_s > 5
    assert "episode 1: failure" in said
    assert f"robot={protocol}" in said
    summary = json.loads(Path(printed.strip()).read_text())
    assert Run.open(Path(printed.strip()).parent).is_finished
    stops = 20 if protocol == "unitree" else 0
    assert summary["commands"] >= count + min(stops, 5)
    assert summary["stops"] <= stops
    assert summary["episodes"] == summary["success"]["episodes"] == 1
    assert summary["command_timeouts"] == 1
    assert summary["strangers"] == 0
    assert summary["refused"] == {}
    assert summary["robot_log"]["outcomes"] == [False]
    assert "command_position" not in summary["robot_log"]["violations"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["interface=eth77"], "no network interface named 'eth77'"), (["domain=233"], "domain must be in"),
        (["command_timeout_s=0"], "command_timeout_s"),
    ],
)  # fmt: skip
def test_what_cannot_be_simulated_is_a_mistake(bundle, tmp_path, capfd, words, why):
    assert main(["simulate", f"bundle={bundle.path}", f"runs={tmp_path / 'runs'}", *words]) == 2
    assert why in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [TimeoutError("it says nothing for 1 s"), ConnectionError("it is gone")])
def test_a_simulation_that_is_lost_ends_with_3_and_a_summary(tmp_path, capfd, monkeypatch, error):
    monkeypatch.setattr(simulating, "_simulator", lambda config: FollowerCfg())
    monkeypatch.setattr(FollowerCfg.robot, "fails", error)
    bundle = make_bundle(tmp_path / "b.robokd", sim_config={"part": "mujoco"})
    has_noise = bundle.manifest["statistics"]["front"]["flickers"]
    words = [f"bundle={bundle.path}", f"domain={free_domain()}", f"runs={tmp_path / 'runs'}"]
    assert main(["simulate", *words]) == 3
    said = capfd.readouterr()
    lost = [line for line in said.err.splitlines() if line.startswith("safety stop: ")]
    why = "this machine is too busy to simulate, or it hangs"
    assert lost == [f"safety stop: robot_lost: {error}: {why}"]
    assert "Traceback" not in said.err
    assert ("mismatch=warn" in said.err) == (not has_noise)  # of the command that it shows
    assert json.loads(Path(said.out.strip()).read_text())["stop_reason"] == "robot_lost"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whoever_asks_for_the_end_again_and_again_gets_the_summary(tmp_path, capfd, monkeypatch, number):
    monkeypatch.setattr(simulating, "_simulator", lambda config: FollowerCfg())
    monkeypatch.setattr(FollowerCfg.robot, "fails", None)

    def stop():
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # while it cleans up
            os.kill(os.getpid(), one)
        time.sleep(0)

    def read(timeout_s=None):  # the first of the run: a signal by the clock could come before it is heard
        if timeout_s is None and not asked:
            asked.append(number)
            os.kill(os.getpid(), number)
        return Follower.read(FollowerCfg.robot, timeout_s)

    asked = []
    monkeypatch.setattr(FollowerCfg.robot, "stop", stop)
    monkeypatch.setattr(FollowerCfg.robot, "read", read)
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    path = make_bundle(tmp_path / "b.robokd", sim_config={"part": "mujoco"}).path
    words = [f"bundle={path}", f"domain={free_domain()}", f"runs={tmp_path / 'runs'}"]
    assert main(["simulate", *words, "duration_s=20"]) == 0
    assert asked
    summary = json.loads(Path(capfd.readouterr().out.strip()).read_text())
    assert summary["stop_reason"] == "end"
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


class FollowerPlant(Follower):
    """A simulated robot in this process, whose joints fail when a test says so."""

    joints = cameras = None
    fails: Exception | None = None

    def __init__(self):
        pass

    def open(self, bundle):
        super().__init__(bundle)
        return self

    def start(self):
        pass

    def stop(self):
        pass

    def connect(self):
        pass

    def log_into(self, folder):
        pass

    def report(self):
        return {}

    def read(self, timeout_s=None):
        if timeout_s is None and self.fails is not None:
            raise self.fails
        return super().read(timeout_s)


class FollowerCfg:
    """Its config."""

    robot = FollowerPlant()

    def plant(self, *, bundle, seed):
        return self.robot.open(bundle)

    def joints(self, *, bundle, link):
        return self.robot

    def cameras(self, *, bundle, link):
        return self.robot


class Line:
    """An end of a protocol on which a test speaks."""

    def __init__(self):
        from collections import Counter

        self.refused, self.said, self.told, self.shown = Counter(), [], [], []

    def tell(self, reading):
        self.told.append(reading)

    def show(self, frame):
        self.shown.append(frame)

    def wait(self, timeout_s):
        time.sleep(min(timeout_s, 0.001))
        return bool(self.said)

    def hear(self):
        said, self.said = self.said, []
        return said


@pytest.fixture
def stand_in(tmp_path):
    robot, line = Follower(make_bundle(tmp_path / "b.robokd")), Line()
    made = StandIn(robot, robot, robot, line, timeout_s=0.15)
    made.robot, made.line, asked = robot, line, threading.Event()
    thread = threading.Thread(target=made.run, args=(asked, 0.0))
    thread.start()
    yield made
    asked.set()
    thread.join()


def heard(value, writer=1):
    target = None if value is None else np.full(2, value, np.float32)
    return Heard(writer=writer, stamp_s=time.monotonic(), target=target)


def test_an_episode_begins_again_only_when_nobody_commands(stand_in):
    robot, line = stand_in.robot, stand_in.line
    end = time.monotonic() + 0.4
    while time.monotonic() < end:
        line.said.append(heard(0.1))
        if stand_in.commands:
            robot.result = True
        time.sleep(0.02)
    assert robot.begun == []
    assert stand_in.summary()["episodes"] == 1
    time.sleep(0.3)
    assert robot.begun == [1]
    assert stand_in.summary()["success"]["episodes"] == 1
    assert stand_in.summary()["command_timeouts"] == 1
    robot.result = False  # of an episode in which nobody said anything: nobody's failure
    time.sleep(0.1)
    assert stand_in.summary()["episodes"] == 1


def test_what_is_told_between_two_episodes_is_not_obeyed(stand_in):
    robot, line = stand_in.robot, stand_in.line
    line.said.append(heard(0.1))
    time.sleep(0.05)
    robot.result = True
    line.said.append(heard(0.1))
    time.sleep(0.05)
    before = len(robot.received)
    line.said.append(heard(0.9))
    time.sleep(0.05)
    assert len(robot.received) == before


def test_damping_holds_the_robot_where_it_is(stand_in):
    stand_in.line.said.append(heard(0.5))
    time.sleep(0.01)
    stand_in.line.said.append(heard(None))
    time.sleep(0.05)
    assert stand_in.stops == 1
    at = np.array(stand_in.robot.received[-1][2])
    assert (at < 0.5).all()


def test_another_writer_is_a_stranger_while_the_first_one_speaks_and_a_successor_after(stand_in):
    for i in range(4):
        stand_in.line.said.append(heard(0.0, writer=1 + i % 2))
        time.sleep(0.02)
    assert stand_in.strangers == 2
    time.sleep(0.3)
    stand_in.line.said.append(heard(0.0, writer=2))
    time.sleep(0.05)
    stand_in.line.said.append(heard(0.0, writer=2))
    time.sleep(0.05)
    assert stand_in.strangers == 2


def test_states_come_often_and_each_once(stand_in):
    time.sleep(0.5)
    times = [reading.captured_s for reading in stand_in.line.told]
    assert len(times) > 50
    assert len(set(times)) == len(times)
