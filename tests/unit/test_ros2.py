"""The ROS 2 driver against a robot in another process, over loopback."""

import time

import numpy as np
import pytest
from dds_robot import GRAVITY, GYRO, RobotProcess, free_domain, repeating
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.cdr import decode, encode
from robokd.sim2real.dds import Participant
from robokd.sim2real.dds_line import MOST_BYTES
from robokd.sim2real.robot import Command, Frame
from robokd.sim2real.ros2 import Ros2RobotCfg, image_topics, info_topics, wire_name
from robokd.sim2real.ros2_cameras import image, picture
from robokd.sim2real.ros2_types import (
    CAMERA_INFO,
    FLOAT64_MULTI_ARRAY,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    float64_multi_array,
    header,
    joint_state,
    joint_trajectory,
)
from robot_samples import JOINTS, camera_spec, felt_spec, make_bundle

from robokd import UserError
from robokd.config import compose, words
from robokd.specs import CameraSpec, to_dict
from robokd.vision.encode import encode as encoded

pytest.importorskip("cyclonedds")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b.robokd")


@pytest.fixture(scope="module")
def process(bundle):
    domain = free_domain()
    made = RobotProcess("ros2", domain, bundle.path)
    made.domain = domain
    yield made
    made.close()


def command(values, sequence=1, stamp_s=None):
    stamp_s = time.monotonic() if stamp_s is None else stamp_s
    return Command(target=np.array(values, np.float32), stamp_s=stamp_s, sequence=sequence, origin=0, rung=0)


@pytest.fixture
def robot(process, bundle):
    made = Ros2RobotCfg(domain=process.domain, state_timeout_s=2.0).joints(bundle=bundle, link=None)
    made.connect()
    yield made
    made.stop()


def until(claim, seconds=3.0):
    end = time.monotonic() + seconds
    while not (found := claim()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_joints_and_commands_pass_between_two_processes(robot, process):
    first = robot.read()
    assert 0 <= time.monotonic() - first.captured_s < 0.5
    assert np.isnan(first.target).all()
    before = process.report()
    sent = [robot.write(command((0.1 + 1e-3 * i, -0.1), i)) for i in range(20)]
    assert sent[-1].tolist() == np.array((0.119, -0.1), np.float32).tolist()
    assert until(lambda: process.report()["commands"] == before["commands"] + 20)
    received = process.report()["received"][-20:]
    assert [row[2] for row in received] == [row.tolist() for row in sent]
    assert until(lambda: np.abs(robot.read().position - sent[-1]).max() < 1e-3)
    assert robot.read().captured_s > first.captured_s
    assert robot.read().strangers == 0


def test_a_policy_that_reads_an_imu_is_given_it(process, tmp_path):
    bundle = make_bundle(tmp_path / "felt.robokd", observations={"proprio": to_dict(felt_spec())})
    robot = Ros2RobotCfg(domain=process.domain, state_timeout_s=2.0).joints(bundle=bundle, link=None)
    robot.connect()
    try:
        found = robot.read().imu
        assert until(lambda: robot.read().imu.captured_s > found.captured_s)
    finally:
        robot.stop()
    assert found.gyro == pytest.approx(GYRO)
    assert found.gravity == pytest.approx(GRAVITY, abs=1e-6)
    assert 0 < time.monotonic() - found.captured_s < 5


def test_a_policy_that_reads_an_imu_is_refused_a_robot_without_one(process, tmp_path):
    bundle = make_bundle(tmp_path / "felt.robokd", observations={"proprio": to_dict(felt_spec())})
    cfg = Ros2RobotCfg(domain=process.domain, state_timeout_s=2.0, connect_timeout_s=1.0, imu="body/imu")
    with pytest.raises(UserError, match="the policy reads an IMU; none on rt/body/imu within 1 s"):
        cfg.joints(bundle=bundle, link=None).connect()


def test_a_command_carries_the_time_that_it_counts_from(robot, process):
    stamps = [time.monotonic() - 0.5 + 0.02 * i for i in range(5)]
    before = len(process.report()["received"])
    for stamp_s in stamps:
        robot.write(command((0.0, 0.0), stamp_s=stamp_s))
        time.sleep(0.01)
    assert until(lambda: len(process.report()["received"]) == before + 5)
    told = [row[1] for row in process.report()["received"][-5:]]
    assert np.diff(told) == pytest.approx(np.diff(stamps), abs=3e-9)


def test_a_second_writer_is_noticed(robot, process):
    line = Participant("lo", process.domain)
    other = line.writer("rt/joint_commands", JOINT_TRAJECTORY)
    assert until(lambda: other.takers() >= 2)
    before = process.report()["strangers"]
    for _ in range(3):
        robot.write(command((0.0, 0.0)))
        time.sleep(0.01)
        other.write(encode(JOINT_TRAJECTORY, joint_trajectory(JOINTS, np.zeros(2), 0.01, rest=False)))
        time.sleep(0.01)
    assert until(lambda: robot.read().strangers == 3)
    assert until(lambda: process.report()["strangers"] >= before + 3)


def test_stop_holds_the_measured_pose_once_and_only_if_anything_was_sent(process, bundle):
    made = Ros2RobotCfg(domain=process.domain, state_timeout_s=2.0).joints(bundle=bundle, link=None)
    made.stop()
    before = process.report()["commands"]
    made.connect()
    made.stop()
    time.sleep(0.1)
    assert process.report()["commands"] == before
    made.connect()
    made.write(command((0.3, -0.3)))
    time.sleep(0.2)
    at = made.read().position
    made.stop()
    made.stop()
    assert until(lambda: process.report()["commands"] == before + 2)
    last = process.report()["received"][-1][2]
    assert last != pytest.approx([0.3, -0.3], abs=1e-9)
    assert last == pytest.approx(at.tolist(), abs=0.05)
    with pytest.raises(RuntimeError, match="not connected"):
        made.read()
    with pytest.raises(RuntimeError, match="not connected"):
        made.write(command((0.0, 0.0)))


def test_what_is_not_finite_is_not_sent(robot, process):
    before = process.report()["commands"]
    for target in ((np.nan, 0.0), (0.0, np.inf), (0.0,)):
        with pytest.raises(RuntimeError, match="not sent"):
            robot.write(command(target))
    time.sleep(0.05)
    assert process.report()["commands"] == before


def test_pictures_pass_between_two_processes(process, bundle):
    cameras = Ros2RobotCfg(domain=process.domain).cameras(bundle=bundle, link=None)
    cameras.stop()
    cameras.connect()
    frames = [cameras.read(1.0) for _ in range(5)]
    cameras.stop()
    cameras.stop()
    assert {frame.camera for frame in frames} == {"front"}
    for frame in frames:
        assert frame.image.shape == camera_spec().shape
        assert frame.image.dtype == np.uint8
        assert (frame.image == frame.image.flat[0]).all()
        assert frame.image.flat[0] > 0
        assert 0 <= time.monotonic() - frame.captured_s < 2
    assert np.diff([frame.captured_s for frame in frames]).min() > 0
    with pytest.raises(RuntimeError, match="not connected"):
        cameras.read(0.0)


class Publisher:
    """A node in this process that says what a test wants."""

    def __init__(self, domain):
        self.domain, self.line = domain, Participant("lo", domain)
        self.states = self.line.writer("rt/joint_states", JOINT_STATE)

    def saying(self, content):
        """Say it all the time, stamped as of then."""
        return repeating(lambda: self.states.write(encode(JOINT_STATE, content())))

    def heard_by(self, cfg, bundle, content):
        """What a driver reads that connects meanwhile."""
        robot = cfg.joints(bundle=bundle, link=None)
        with self.saying(content):
            try:
                robot.connect()
                return robot.read()
            finally:
                robot.stop()


def state(names=JOINTS, position=(0.1, 0.2), velocity=(0.0, 0.0), stamp_ns=None):
    stamp_ns = time.time_ns() if stamp_ns is None else stamp_ns
    return joint_state(names, np.array(position, float), np.array(velocity, float), stamp_ns)


@pytest.fixture(scope="module")
def node():
    return Publisher(free_domain())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            lambda: state(("shoulder", "wrist")),
            r"without the bundle's joint 'elbow'. It has: shoulder, wrist",
        ),
        (
            lambda: state(("finger", "thumb")),
            r"passed over \d+, the last: joints finger, thumb, the bundle's are shoulder, elbow",
        ),
        (lambda: state(position=(0.1, np.nan)), r"the position of 'elbow' is not finite"),
        (lambda: state(velocity=(np.inf, 0)), r"the velocity of 'shoulder' is not finite"),
        (lambda: state(velocity=()), r"2 joints with 0 of velocity"),
        (lambda: state((*JOINTS, "elbow"), (1, 2, 3), (1, 2, 3)), "names a joint twice"),
        (lambda: state(stamp_ns=0), "the clocks differ: synchronise them"),
        (lambda: state(stamp_ns=time.time_ns() - 10**10), r"stamped 10\.\d+ s before they arrive"),
        (lambda: state(stamp_ns=time.time_ns() + 10**10), r"stamped -\d+\.\d+ s before they arrive"),
    ],
)
def test_a_robot_that_does_not_fit_is_refused_by_name(node, bundle, content, why):
    cfg = Ros2RobotCfg(domain=node.domain, connect_timeout_s=0.4)
    with pytest.raises(UserError, match=why):
        node.heard_by(cfg, bundle, content)


def test_joints_are_found_by_name_among_others(node, bundle):
    content = lambda: state(("finger", "elbow", "shoulder"), (9, 0.2, 0.1), (9, -1, 1))  # noqa: E731
    reading = node.heard_by(Ros2RobotCfg(domain=node.domain, state_timeout_s=2.0), bundle, content)
    assert reading.position.tolist() == np.array((0.1, 0.2), np.float32).tolist()
    assert reading.velocity.tolist() == [1, -1]
    assert reading.position.dtype == reading.velocity.dtype == np.float32


def test_arrival_counts_where_the_clocks_differ_and_a_person_says_so(node, bundle):
    cfg = Ros2RobotCfg(domain=node.domain, stamp="arrival", state_timeout_s=2.0)
    before = time.monotonic()
    reading = node.heard_by(cfg, bundle, lambda: state(stamp_ns=0))
    assert before < reading.captured_s <= time.monotonic()


def test_nobody_there_is_said_with_what_is(node, bundle):
    cfg = Ros2RobotCfg(domain=node.domain, joint_states="/arm/states", connect_timeout_s=0.3)
    why = (
        r"no joint state on rt/arm/states within 0.3 s \(interface 'lo', domain \d+\). "
        r"Topics there: .*rt/joint_states \(sensor_msgs::msg::dds_::JointState_\)"
    )
    with pytest.raises(UserError, match=why):
        cfg.joints(bundle=bundle, link=None).connect()
    with pytest.raises(UserError, match=r"no picture of camera front on rt/front/image within 0.3 s"):
        cfg.cameras(bundle=bundle, link=None).connect()


def test_a_robot_that_falls_silent_is_lost_and_one_without_a_controller_is_not_commanded(node, bundle):
    robot = Ros2RobotCfg(domain=node.domain, state_timeout_s=0.15).joints(bundle=bundle, link=None)
    with node.saying(state):
        robot.connect()
        with pytest.raises(RuntimeError, match=r"nobody takes commands from rt/joint_commands"):
            robot.write(command((0.0, 0.0)))
    time.sleep(0.2)
    with pytest.raises(TimeoutError, match=r"no new joint state on rt/joint_states for 0\.\d+ s"):
        robot.read()
    robot.stop()


@pytest.fixture
def listening(bundle):
    """A driver that has heard one state of a node, which fell silent then, and another node beside it."""
    one = Publisher(free_domain())
    robot = Ros2RobotCfg(domain=one.domain, state_timeout_s=0.5).joints(bundle=bundle, link=None)
    with one.saying(state):
        robot.connect()
    robot.read()
    other = Publisher(one.domain)
    assert until(other.states.takers)
    yield robot, one, other
    robot.stop()


def test_a_message_that_is_too_large_for_a_state_is_passed_over_undecoded_and_told(listening):
    robot, one, _ = listening
    at = robot.read().position
    names = (*JOINTS, *(f"joint_{i}" for i in range(2000)))
    data = encode(JOINT_STATE, state(names, np.full(2002, np.nan), np.full(2002, np.nan)))
    assert len(data) > MOST_BYTES
    one.states.write(data)  # decoded, it would be broken: RuntimeError
    with pytest.raises(
        TimeoutError, match=rf"passed over 1, the last: a message of {len(data)} bytes, .* at most"
    ):
        until(lambda: robot.read() is None)
    one.states.write(encode(JOINT_STATE, state()))
    assert until(lambda: not fails(robot.read))
    assert robot.read().position.tolist() == at.tolist()


def test_a_robot_of_many_joints_is_read(node, bundle):
    names = (*(f"left_hand_ring_finger_{i:02}" for i in range(200)), *JOINTS)
    values = np.zeros(202)
    assert len(names[0]) == 24
    reading = node.heard_by(
        Ros2RobotCfg(domain=node.domain, state_timeout_s=2.0), bundle, lambda: state(names, values, values)
    )
    assert reading.position.tolist() == [0, 0]


def fails(call):
    try:
        call()
    except (RuntimeError, OSError):
        return True
    return False


def test_a_second_node_that_states_our_joints_stops_the_run_by_name(listening):
    robot, one, other = listening
    one.states.write(encode(JOINT_STATE, state()))
    assert until(lambda: not fails(robot.read))
    other.states.write(encode(JOINT_STATE, state(position=(0.3, 0.3))))
    gids = " and ".join(node.states._writer.guid.bytes.hex(".") for node in (one, other))
    why = f"rt/joint_states: two writers state this robot's joints, wanted one; GIDs: {gids}"
    with pytest.raises(RuntimeError, match=why):
        until(lambda: robot.read() is None, 0.4)


def test_a_node_that_states_other_joints_may_share_the_topic(listening):
    robot, one, other = listening
    for _ in range(20):
        other.states.write(encode(JOINT_STATE, state(("finger", "thumb"))))
        one.states.write(encode(JOINT_STATE, state()))
        time.sleep(0.01)
        assert robot.read().position.tolist() == np.array((0.1, 0.2), np.float32).tolist()


def test_a_node_that_was_restarted_takes_over_once_the_old_one_has_left(listening):
    robot, one, other = listening
    one.states.write(encode(JOINT_STATE, state()))
    assert until(lambda: not fails(robot.read))
    del one.states
    time.sleep(0.2)
    other.states.write(encode(JOINT_STATE, state(position=(0.3, 0.4))))
    wanted = np.array((0.3, 0.4), np.float32).tolist()
    assert until(lambda: robot.read().position.tolist() == wanted)


class Camera:
    """A node that shows black pictures on front/image, and tells of its lens what a test wants."""

    def __init__(self, domain, topic="rt/front/camera_info"):
        self.line = Participant("lo", domain)
        self.pictures = self.line.writer("rt/front/image", IMAGE)
        self.infos = self.line.writer(topic, CAMERA_INFO) if topic else None

    def showing(self, info=None):
        """Show it all the time."""
        frame = Frame(camera="front", captured_s=0.0, image=np.zeros((1, 3, 4), np.uint8))

        def show():
            self.pictures.write(encode(IMAGE, image(frame, camera_spec(), time.time_ns())))
            if info is not None:
                self.infos.write(encode(CAMERA_INFO, info))

        return repeating(show)


def lens(bundle, **changes):
    """A CameraInfo of the bundle's lens, but for some of fx, fy, cx, cy."""
    lens = {**bundle.manifest["optics"]["front"], **changes}
    k = np.array([lens["fx"], 0, lens["cx"], 0, lens["fy"], lens["cy"], 0, 0, 1])
    return {
        "header": header(), "width": 4, "height": 3, "distortion_model": "plumb_bob", "d": np.zeros(5),
        "k": k, "r": np.eye(3).ravel(), "p": np.zeros(12), "binning_x": 0, "binning_y": 0,
        "roi": {"x_offset": 0, "y_offset": 0, "width": 0, "height": 0, "do_rectify": False},
    }  # fmt: skip


def opened(bundle, domain, **fields):
    cameras = Ros2RobotCfg(domain=domain, **fields).cameras(bundle=bundle, link=None)
    cameras.connect()
    return cameras


def test_a_camera_with_the_bundles_lens_is_opened_without_a_word(bundle, capfd):
    domain = free_domain()
    with Camera(domain).showing(lens(bundle)):
        cameras = opened(bundle, domain)
        time.sleep(0.1)
        for _ in range(5):  # what it says of its lens ends no wait for a picture
            assert cameras.read(0.5).camera == "front"
        cameras.stop()
    assert capfd.readouterr().err == ""


def test_a_picture_counts_from_its_arrival_where_a_person_says_so(bundle):
    domain = free_domain()
    with Camera(domain).showing(lens(bundle)):
        before = time.monotonic()
        cameras = opened(bundle, domain, stamp="arrival")
        frames = [cameras.read(0.5) for _ in range(5)]
        cameras.stop()
    captured = [before, *(frame.captured_s for frame in frames), time.monotonic()]
    assert np.diff(captured).min() > 0


def test_a_camera_with_another_lens_is_refused_by_what_differs(bundle):
    domain, focal = free_domain(), bundle.manifest["optics"]["front"]["fx"]
    why = (
        rf"rt/front/camera_info: camera front: another lens than training's: got fx {2 * focal:.2f} px, "
        rf"wanted {focal:.2f} \+- {0.02 * focal:.2f} px"
    )
    with Camera(domain).showing(lens(bundle, fx=2 * focal)), pytest.raises(UserError, match=why):
        opened(bundle, domain)


@pytest.mark.parametrize(
    ("topic", "told"),
    [(None, "nobody publishes its camera_info on rt/front/camera_info"), ("rt/front/camera_info", "nobody")],
)
def test_a_camera_that_tells_nothing_of_its_lens_is_opened_with_one_warning(bundle, capfd, topic, told):
    domain = free_domain()
    with Camera(domain, topic).showing():
        opened(bundle, domain, connect_timeout_s=1.5).stop()
    said = capfd.readouterr().err
    assert f"warning: camera front: {told}" in said
    assert said.endswith("; its intrinsics are not checked\n")
    assert said.count("warning") == 1


def test_a_camera_that_is_not_calibrated_is_opened_with_a_warning(bundle, capfd):
    domain = free_domain()
    with Camera(domain).showing(lens(bundle, fx=0.0)):
        opened(bundle, domain).stop()
    assert "camera front: it is not calibrated, says its camera_info" in capfd.readouterr().err


def test_a_camera_tells_of_its_lens_beside_its_pictures_or_where_a_person_says(bundle):
    assert info_topics((), image_topics((), bundle)) == {"front": "rt/front/camera_info"}
    images = image_topics(("front:/cam/depth/image_rect_raw",), bundle)
    assert info_topics((), images) == {"front": "rt/cam/depth/camera_info"}
    assert info_topics((), {"front": "rt/image"}) == {"front": "rt/camera_info"}
    assert info_topics(("front:/a/b",), images) == {"front": "rt/a/b"}
    with pytest.raises(UserError, match=r"no camera named 'frnt'. Did you mean 'front'"):
        info_topics(("frnt:a",), images)
    domain = free_domain()
    with (
        Camera(domain, "rt/lens").showing(lens(bundle, cy=9.0)),
        pytest.raises(UserError, match=r"got cy 9\.00"),
    ):
        opened(bundle, domain, camera_infos=("front:lens",))


def test_a_position_controller_is_sent_its_joints_in_its_order(node, bundle):
    with pytest.raises(UserError, match=r"robot.command_joints .*shoulder, elbow.*got none"):
        Ros2RobotCfg(command="float64_multi_array").joints(bundle=bundle, link=None)
    cfg = Ros2RobotCfg(
        domain=node.domain, command="float64_multi_array", command_joints=("elbow", "shoulder"),
        joint_commands="position_controller/commands", state_timeout_s=5.0,
    )  # fmt: skip
    taken = node.line.reader("rt/position_controller/commands", FLOAT64_MULTI_ARRAY, depth=4)
    robot = cfg.joints(bundle=bundle, link=None)
    with node.saying(state):
        robot.connect()
        robot.write(command((0.25, -0.5)))
        got = until(taken.take)
        robot.stop()
        held = until(taken.take)
    assert decode(FLOAT64_MULTI_ARRAY, got[0].data)["data"].tolist() == [-0.5, 0.25]
    assert decode(FLOAT64_MULTI_ARRAY, held[0].data)["data"].tolist() == [-0.5, 0.25]  # not the measured pose


def test_the_stop_is_a_point_at_rest():
    content = joint_trajectory(JOINTS, np.array((0.1, 0.2)), 0.02, rest=True)
    point = decode(JOINT_TRAJECTORY, encode(JOINT_TRAJECTORY, content))["points"][0]
    assert point["velocities"].tolist() == [0, 0]
    assert point["time_from_start"] == {"sec": 0, "nanosec": 20_000_000}
    assert content["header"] == header(0)
    assert float64_multi_array(np.ones(2))["layout"] == {"dim": [], "data_offset": 0}


@pytest.mark.parametrize("topic", ["joint states", "", "a//b", "a/", "3d", "rt/é!"])
def test_what_is_no_topic_is_refused(topic):
    with pytest.raises(ValueError, match="is no ROS topic"):
        Ros2RobotCfg(joint_states=topic)


def test_topics_have_their_prefix():
    assert wire_name("/arm/joint_states") == wire_name("arm/joint_states") == "rt/arm/joint_states"


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("interface", "wlan77", "no network interface named 'wlan77'"), ("domain", 500, "domain must be in"),
        ("command", "joint_trajectry", "Did you mean 'joint_trajectory'"),
        ("stamp", "now", "Known: arrival, sender"), ("stop_key", "none", "Known: any, hold"),
        ("state_timeout_s", 0.0, "must be > 0 s"), ("command_timeout_s", -1.0, "must be >= 0 s"),
        ("images", ("front:a b",), "is no ROS topic"), ("camera_infos", ("front:a b",), "is no ROS topic"),
        ("camera_infos", ("front",), "robot.camera_infos wants words like name:value"),
        ("connect_timeout_s", -1.0, "must be > 0 s"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(field, value, why):
    with pytest.raises(ValueError, match=why):
        Ros2RobotCfg(**{field: value})


def test_a_timeout_of_its_own_is_what_a_person_says(bundle):
    assert Ros2RobotCfg().joints(bundle=bundle, link=None).command_timeout_s is None
    assert Ros2RobotCfg(command_timeout_s=0.3).joints(bundle=bundle, link=None).command_timeout_s == 0.3


def test_a_camera_that_the_bundle_has_not_is_refused(bundle):
    with pytest.raises(UserError, match=r"no camera named 'frnt'. Did you mean 'front'"):
        Ros2RobotCfg(images=("frnt:camera/image",)).cameras(bundle=bundle, link=None)


DEPTH = CameraSpec(name="front", width=4, height=3, near_m=0.1, far_m=2.0)


def message(pixels, encoding, *, pad=0, big=False, **changes):
    """An Image message of pixels (H, W) or (H, W, C) with rows padded to more bytes."""
    height, width = pixels.shape[:2]
    swapped = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    raw = np.frombuffer(swapped.tobytes(), np.uint8).reshape(height, -1)
    raw = np.pad(raw, ((0, 0), (0, pad)), constant_values=7)
    content = {
        "header": header(), "height": height, "width": width, "encoding": encoding, "is_bigendian": int(big),
        "step": raw.shape[1], "data": raw.ravel(),
    }  # fmt: skip
    return decode(IMAGE, encode(IMAGE, {**content, **changes}))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 6])
@pytest.mark.parametrize("encoding", ["depth_u8", "depth_f16"])
def test_depth_in_millimetres_and_metres_becomes_what_was_trained_on(encoding, pad, big):
    spec = CameraSpec(name="front", width=4, height=3, near_m=0.1, far_m=2.0, encoding=encoding)
    millimetres = np.array([[0, 1, 99, 100], [101, 500, 1234, 1999], [2000, 2001, 9999, 65535]], np.uint16)
    wanted = encoded(millimetres.astype(np.float32) * np.float32(1e-3), spec)[None]
    assert (picture(message(millimetres, "16UC1", pad=pad, big=big), spec) == wanted).all()
    metres = millimetres.astype(np.float32) * np.float32(1e-3)
    assert (picture(message(metres, "32FC1", pad=pad, big=big), spec) == wanted).all()
    metres[0, 0], metres[1, 1] = np.nan, -np.inf  # what a camera says of what it cannot see
    odd = picture(message(metres, "32FC1", big=big), spec)
    assert odd.dtype == spec.dtype
    assert odd[0, 0, 0] == odd[0, 1, 1] == 0


def test_colours_are_in_the_order_of_training():
    spec = CameraSpec(name="front", width=2, height=1, encoding="rgb_u8")
    rgb = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    wanted = [[[10, 40]], [[20, 50]], [[30, 60]]]
    assert picture(message(rgb, "rgb8"), spec).tolist() == wanted
    assert picture(message(rgb[..., ::-1].copy(), "bgr8", pad=1), spec).tolist() == wanted
    assert picture(message(rgb[..., 0].copy(), "mono8"), spec).tolist() == [[[10, 40]]] * 3


def test_a_picture_that_is_another_than_was_trained_on_is_refused_by_what_differs():
    depth = np.ones((3, 4), np.uint16)
    with pytest.raises(ValueError, match=r"camera front: wanted 4x3 pixels, got 4x6; nothing is scaled"):
        picture(message(np.ones((6, 4), np.uint16), "16UC1"), DEPTH)
    with pytest.raises(ValueError, match=r"'rgb8', a policy that sees depth_u8 wants 16UC1 or 32FC1"):
        picture(message(np.ones((3, 4, 3), np.uint8), "rgb8"), DEPTH)
    with pytest.raises(ValueError, match="wanted 3 rows of 8 bytes or more, got 24 bytes in 3 rows of 4"):
        picture(message(depth, "16UC1", step=4), DEPTH)
    with pytest.raises(ValueError, match="got 10 bytes in 3 rows of 8"):
        picture(message(depth, "16UC1", data=np.zeros(10, np.uint8)), DEPTH)


def test_a_crop_is_cut_from_the_raw_picture():
    raw = np.arange(100, 148, dtype=np.uint16).reshape(6, 8)
    got = picture(message(raw, "16UC1"), DEPTH, crop=[3, 2, 4, 3])
    assert (got == picture(message(raw[2:5, 3:7].copy(), "16UC1"), DEPTH)).all()
    with pytest.raises(ValueError, match=r"wanted 4x3 pixels, cut out at 5,2, got 8x6"):
        picture(message(raw, "16UC1"), DEPTH, crop=[5, 2, 4, 3])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["depth_u8", "depth_f16", "rgb_u8"]))
def test_what_the_simulated_robot_shows_comes_back_bit_for_bit(seed, encoding):
    rng = np.random.default_rng(seed)
    near = rng.uniform(0.01, 1)
    spec = CameraSpec(
        name="front", width=5, height=4, near_m=near, far_m=near + rng.uniform(0.1, 8), encoding=encoding
    )
    if encoding == "rgb_u8":
        pixels = rng.integers(0, 256, spec.shape, dtype=np.uint8)
    else:
        pixels = encoded(rng.uniform(-0.5, 10, spec.shape).astype(np.float32), spec)
    sent = encode(IMAGE, image(Frame(camera="front", captured_s=0.0, image=pixels), spec, 5))
    assert (picture(decode(IMAGE, sent), spec) == pixels).all()


def test_segments_are_no_ros_picture():
    spec = CameraSpec(name="front", width=4, height=3, encoding="segment_i16")
    frame = Frame(camera="front", captured_s=0.0, image=np.zeros(spec.shape, np.int16))
    with pytest.raises(UserError, match="no encoding for segment_i16"):
        image(frame, spec, 0)


def test_the_guard_is_told_the_settings_as_they_were_typed():
    typed = [
        "robot=ros2",
        "robot.images=[front:camera/depth,side:/b]",
        "robot.command_joints=[elbow,shoulder]",
    ]
    first = compose("deploy", ["bundle=x", *typed])
    assert first.robot.images == ("front:camera/depth", "side:/b")
    assert compose("deploy", words("deploy", first)).robot == first.robot
