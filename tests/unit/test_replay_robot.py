"""A log as a robot: what was recorded, at the times at which it was."""

import inspect
import json
import socket

import numpy as np
import pytest
from robokd.sim2real import playback, robot
from robokd.sim2real.log import Log, Tick
from robokd.sim2real.playback import PlayedCameras, PlayedJoints, ReplayRobotCfg
from robokd.sim2real.policy import Decision
from robokd.sim2real.robot import Command, JointReading, SimulatedCfg
from robot_samples import make_bundle

from robokd import UserError, registry

PERIOD = 0.01  # of the tiny bundle
EPISODES = (5, 3)  # ticks


def ticks_of(episodes=EPISODES):
    """Ticks at 10, 10.01, … s and at 20, 20.01, … s, of which number n reads 0.01 n and shows picture n."""
    number = 0
    for episode, count in enumerate(episodes):
        for place in range(count):
            number += 1
            at = 10.0 * (episode + 1) + PERIOD * place
            value = np.full(2, 0.01 * number, np.float32)
            channels = {
                "joint_pos": value, "joint_vel": value + 1, "joint_target": value + 0.001,
                "front": np.full((1, 3, 4), number, np.uint8),
            }  # fmt: skip
            captured = dict.fromkeys(channels, at - 0.002) | {"front": at - 0.004}
            yield Tick(
                begun_s=at, episode=episode, number=number, channels=channels, captured_s=captured,
                anchor=value, rate=value,
                decision=Decision(command=value, action=value, estimates={}, inference_s=0.001),
            )  # fmt: skip


class Clock:
    """A monotonic clock that only waiting moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def pass_by(self, seconds: float) -> None:
        self.now_s += max(seconds, 0.0)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(playback, "time", made)
    monkeypatch.setattr(playback.Play, "wait", lambda self, seconds: made.pass_by(seconds))
    return made


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "a.robokd")


@pytest.fixture
def cfg(tmp_path):
    return record(tmp_path / "log.mcap")


def record(path, ticks=None, states=()):
    log, episode = Log(path, {"task": "tiny", "bundle_sha256": "", "robot": "mujoco"}), -1
    for tick in ticks_of() if ticks is None else ticks:
        if tick.episode != episode:
            episode = tick.episode
            log.episode(tick.begun_s - 0.001, episode)
        log.tick(tick)
    for state in states:
        log.state(state)
    log.close()
    return ReplayRobotCfg(log=str(path))


def command(value=0.5, sequence=1) -> Command:
    return Command(target=np.full(2, value, np.float32), stamp_s=1000.0, sequence=sequence, origin=1, rung=1)


def number_of(reading) -> int:
    return round(float(reading.position[0]) * 100)


@pytest.mark.parametrize(
    ("protocol", "made"),
    [
        (robot.Robot, playback.PlayedJoints),
        (robot.Cameras, playback.PlayedCameras),
        (robot.SimulatedCfg, playback.ReplayRobotCfg),
        (robot.Plant, playback.Player),
    ],
)
def test_every_method_of_the_protocol_is_there_with_its_parameters(protocol, made):
    wanted = {name: member for name, member in vars(protocol).items() if inspect.isfunction(member)}
    wanted = {name: member for name, member in wanted.items() if not name.startswith("_")}
    for name, member in wanted.items():
        here = inspect.signature(getattr(made, name)).parameters.values()
        there = inspect.signature(member).parameters.values()
        assert [(one.name, one.kind) for one in here] == [(one.name, one.kind) for one in there], name
    for name in set(protocol.__annotations__) - {"joints", "cameras"}:
        assert hasattr(made, name), name


def test_it_is_a_part_that_is_no_hardware_and_makes_its_own_robot(bundle, cfg):
    assert registry.find("robot", "replay") is ReplayRobotCfg
    assert isinstance(cfg, SimulatedCfg)
    joints = cfg.joints(bundle=bundle, link=None)
    assert (joints.is_hardware, joints.command_timeout_s, joints.stop_key) == (False, None, "")


def test_joints_and_pictures_come_at_their_recorded_times(bundle, cfg, clock):
    joints, cameras = cfg.joints(bundle=bundle, link=None), cfg.cameras(bundle=bundle, link=None)
    joints.connect()
    cameras.connect()
    readings = {}
    for _ in range(53):
        reading = joints.read()
        assert reading.captured_s <= clock.now_s
        readings.setdefault(number_of(reading), reading)
        clock.pass_by(0.001)
    # the log's time begins with the first picture, 2 ms before the joints of the same tick
    wanted = [1000.002 + PERIOD * place for place in range(5)]
    assert list(readings) == [1, 2, 3, 4, 5]
    assert [reading.captured_s for reading in readings.values()][1:] == pytest.approx(wanted[1:], abs=1e-6)
    assert readings[3].velocity == pytest.approx([1.03, 1.03])
    clock.now_s = 1000.0
    frames = [cameras.read(1.0) for _ in range(5)]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 3, 4, 5]
    assert [frame.captured_s + 0.002 for frame in frames] == pytest.approx(wanted, abs=1e-6)
    assert {frame.camera for frame in frames} == {"front"}
    assert clock.now_s == pytest.approx(1000.04)


def test_without_a_player_the_log_is_over_at_its_end(bundle, cfg, clock):
    joints, cameras = cfg.joints(bundle=bundle, link=None), cfg.cameras(bundle=bundle, link=None)
    joints.connect()
    cameras.connect()
    # 4 periods between 5 ticks, one more for the last, and 4 ms from its picture to the first tick
    clock.pass_by(0.0539)
    joints.read()
    clock.pass_by(0.0002)
    with pytest.raises(ConnectionError, match="the log is over"):
        joints.read()
    before = clock.now_s
    assert cameras.read(0.05) is None
    assert clock.now_s == pytest.approx(before + 0.05)


def test_what_is_written_is_returned_and_held_but_moves_nothing(bundle, cfg):
    joints = cfg.joints(bundle=bundle, link=None)
    joints.connect()
    before = joints.read()
    assert before.sequence == 0
    assert before.target == pytest.approx(before.position + 0.001, abs=1e-6)
    given = command(0.7, sequence=4)
    sent = joints.write(given)
    assert sent.tolist() == given.target.tolist()
    sent[:] = 0
    after = joints.read()
    assert after.target.tolist() == given.target.tolist()
    assert (after.sequence, after.strangers) == (4, 0)
    assert number_of(after) <= 5


def started(bundle, cfg):
    plant = cfg.plant(bundle=bundle, seed=0)
    plant.start()
    joints = cfg.joints(bundle=bundle, link=plant.joints)
    cameras = cfg.cameras(bundle=bundle, link=plant.cameras)
    joints.connect()
    cameras.connect()
    return plant, joints, cameras


def test_before_the_first_episode_the_robot_rests_where_it_begins(bundle, cfg, clock):
    plant, joints, cameras = started(bundle, cfg)
    for _ in range(3):
        reading, frame = joints.read(), cameras.read(1.0)
        assert number_of(reading) == int(frame.image[0, 0, 0]) == 1
        assert reading.captured_s == frame.captured_s == clock.now_s
        assert cameras.read(0.9 * PERIOD) is None  # a picture in every control period
        clock.pass_by(0.1 * PERIOD)
    plant.stop()


def test_an_episode_begins_when_the_plant_says_so_and_for_joints_and_cameras_at_once(bundle, cfg, clock):
    plant, joints, cameras = started(bundle, cfg)
    joints.write(command())
    clock.pass_by(5.0)
    plant.begin(1)
    begun_s = clock.now_s
    clock.pass_by(0.001)
    frames = [cameras.read(1.0) for _ in range(3)]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [6, 7, 8]
    assert [frame.captured_s - begun_s for frame in frames] == pytest.approx(
        [0, PERIOD, 2 * PERIOD], abs=1e-6
    )
    clock.pass_by(0.003)
    reading = joints.read()
    assert number_of(reading) == 8
    # pictures were taken 2 ms before the joints that the same tick rests on
    assert reading.captured_s - frames[2].captured_s == pytest.approx(0.002, abs=1e-6)
    assert reading.target == pytest.approx(reading.position + 0.001, abs=1e-6)  # a new one: nothing written
    plant.stop()


def test_an_episode_ends_after_its_last_tick_and_the_robot_rests_where_it_ended(bundle, cfg, clock):
    plant, joints, cameras = started(bundle, cfg)
    plant.begin(0)
    clock.pass_by(0.0539)
    assert plant.outcome() is None
    clock.pass_by(0.0002)
    assert plant.outcome() is False
    for _ in range(3):
        reading, frame = joints.read(), cameras.read(1.0)
        assert number_of(reading) == int(frame.image[0, 0, 0]) == 5
        assert reading.captured_s == frame.captured_s == clock.now_s
        clock.pass_by(PERIOD)
    plant.begin(2)  # the log has two: the first again
    assert number_of(joints.read()) == 1
    assert plant.report() == {"scenes": 2, "played": 2}
    plant.stop()


def test_when_the_plant_is_gone_joints_and_cameras_say_so_and_a_plant_does_not_mind_their_end(bundle, cfg):
    plant, joints, cameras = started(bundle, cfg)
    cameras.stop()
    cameras.stop()
    plant.begin(0)
    joints.read()
    plant.stop()
    plant.stop()
    with pytest.raises(ConnectionError, match="nobody plays the log any more"):
        joints.read()
    joints.stop()
    joints.stop()


def test_states_of_the_joints_are_played_where_the_log_has_them(bundle, tmp_path):
    states = [
        JointReading(
            captured_s=9.99 + 0.002 * place, position=np.full(2, 0.1 * place, np.float32),
            velocity=np.zeros(2, np.float32), target=np.zeros(2, np.float32),
        )
        for place in range(30)
    ]  # fmt: skip
    cfg = record(tmp_path / "fine.mcap", states=states)
    (first, second) = cfg._scenes(bundle)
    # those from the first tick's joints, at 9.998 s, until one period after the last tick, at 10.05 s
    assert [reading.captured_s for reading in first.readings] == pytest.approx(
        np.arange(9.998, 10.0499, 0.002)
    )
    assert [number_of(reading) for reading in second.readings] == [6, 7, 8]


def test_a_picture_that_two_ticks_saw_is_shown_once(bundle, tmp_path):
    first, *rest = ticks_of((4,))
    same = [first, *[_with_front(tick, first) for tick in rest[:1]], *rest[1:]]
    (scene,) = record(tmp_path / "twice.mcap", same)._scenes(bundle)
    assert [int(frame.image[0, 0, 0]) for frame in scene.frames] == [1, 3, 4]


def _with_front(tick, other):
    channels = {**tick.channels, "front": other.channels["front"]}
    captured = {**tick.captured_s, "front": other.captured_s["front"]}
    return Tick(**{**vars(tick), "channels": channels, "captured_s": captured})


def test_a_log_of_another_robot_is_refused_before_anything_starts(bundle, tmp_path):
    other = [Tick(**{**vars(tick), "channels": {**tick.channels, "joint_pos": np.zeros(3, np.float32)}})
             for tick in ticks_of((1,))]  # fmt: skip
    said = r"'joint_pos' of tick 1 is float32 of shape \(3,\); .*a\.robokd wants"
    with pytest.raises(UserError, match=said):
        record(tmp_path / "three.mcap", other).plant(bundle=bundle, seed=0)
    blind = []
    for tick in ticks_of((1,)):
        channels, captured = dict(tick.channels), dict(tick.captured_s)
        del channels["front"], captured["front"]
        blind.append(Tick(**{**vars(tick), "channels": channels, "captured_s": captured}))
    cfg = record(tmp_path / "blind.mcap", blind)
    with pytest.raises(
        UserError, match=r"tick 1 has no 'front', which .* It has: joint_pos, joint_vel, joint_target"
    ):
        cfg.plant(bundle=bundle, seed=0)
    cfg.joints(bundle=bundle, link=None)  # they are whole
    with pytest.raises(UserError, match="holds no ticks"):
        record(tmp_path / "empty.mcap", []).plant(bundle=bundle, seed=0)
    with pytest.raises(UserError, match=r"say which with robot\.log="):
        ReplayRobotCfg().joints(bundle=bundle, link=None)
    with pytest.raises(UserError, match="does not exist"):
        ReplayRobotCfg(log=str(tmp_path / "nowhere.mcap")).cameras(bundle=bundle, link=None)


def test_a_cue_is_a_message_of_its_own_however_many_wait(bundle, cfg):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    joints = cfg.joints(bundle=bundle, link=theirs)
    for scene in (0, 1):
        ours.send(json.dumps({"scene": scene, "start_s": 1000.0}).encode())
    assert number_of(joints.read()) == 6
    ours.close()
    joints.stop()


def test_the_drivers_are_what_the_config_makes(bundle, cfg):
    assert isinstance(cfg.joints(bundle=bundle, link=None), PlayedJoints)
    assert isinstance(cfg.cameras(bundle=bundle, link=None), PlayedCameras)
