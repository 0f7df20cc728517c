"""The Unitree driver: its bytes and CRC against the SDK's definitions, and a robot in another process."""

import struct
import time

import numpy as np
import pytest
from dds_robot import GRAVITY, GYRO, RobotProcess, free_domain, repeating
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real import cdr, unitree_types
from robokd.sim2real.dds import Participant
from robokd.sim2real.robot import Command
from robokd.sim2real.unitree import DAMPING_WRITES, UnitreeRobotCfg, is_newer
from robokd.sim2real.unitree_types import FAMILIES, GO_COMMAND, GO_STATE, HG_COMMAND, HG_STATE
from robot_samples import felt_spec, make_bundle, manifest

from robokd import UserError
from robokd.specs import to_dict

MOTORS = ("shoulder:0", "elbow:1")
# struct formats of unitree_sdk2_python's utils/crc.py: what the robot's C structs look like
STRUCTS = {
    GO_COMMAND: "<4B4IH2x" + "B3x5f3I" * 20 + "4B" + "55Bx2I",
    GO_STATE: "<4B4IH2x" + "13fb3x" + "B3x7fb3x3I" * 20 + "4BiH4b15H" + "8hI41B3xf2b2x2f4h2I",
    HG_COMMAND: "<2B2x" + "B3x5fI" * 35 + "5I",
    HG_STATE: "<2I2B2xI" + "13fh2x" + "B3x4f2hf7I" * 35 + "40B5I",
}
BY_NAME = pytest.mark.parametrize("message", STRUCTS, ids=lambda message: message.name)
# the same in `make search` too: random bits may be a signalling NaN, which Python's floats make quiet
SETTINGS = settings(max_examples=20, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "b.robokd")


def filled(message, rng):
    """A record with any bits in its fields and none in its padding."""
    layout = unitree_types.struct_of(message)
    raw = np.frombuffer(rng.bytes(layout.itemsize), np.uint8).copy()
    raw[np.setdiff1d(np.arange(layout.itemsize), unitree_types._gather(message))] = 0
    return raw.view(layout).reshape(())


def content_of(row, kind):
    """A record as the dict that cdr.py reads and writes."""
    if isinstance(kind, cdr.Message):
        return {name: content_of(row[name], one) for name, one in kind.fields.items()}
    if isinstance(kind, cdr.Array):
        if isinstance(kind.of, cdr.Message):
            return [content_of(row[i], kind.of) for i in range(kind.count)]
        return np.array(row)
    return row[()]  # not a Python float, which would quieten a signalling NaN


@BY_NAME
def test_a_record_has_the_layout_of_the_c_struct(message):
    layout = struct.Struct(STRUCTS[message])
    assert unitree_types.struct_of(message).itemsize == layout.size
    used = np.unique(unitree_types._gather(message))[:-1]  # the last stands for padding
    ones = np.frombuffer(b"\xff" * layout.size, np.uint8)
    # what the SDK's format does not read does not come back
    kept = np.frombuffer(layout.pack(*layout.unpack(ones.tobytes())), np.uint8)
    assert used.tolist() == np.flatnonzero(kept).tolist()


def bitwise_crc(data):
    """CRC-32/MPEG-2, a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(7, -1, -1):
            is_odd = (crc >> 31) ^ (byte >> bit & 1)
            crc = (crc << 1) & 0xFFFFFFFF ^ (0x04C11DB7 if is_odd else 0)
    return crc


@BY_NAME
def test_the_crc_is_over_words_highest_bit_first(message):
    assert bitwise_crc(b"123456789") == 0x0376E6E7  # as the catalogue of CRCs has it
    for seed in range(3):
        row = filled(message, np.random.default_rng(seed))
        words = np.frombuffer(row.tobytes(), "<u4")[:-1]
        assert unitree_types.crc(row) == bitwise_crc(words.astype(">u4").tobytes())


@BY_NAME
def test_the_bytes_on_the_wire_are_plain_cdr(message):
    @SETTINGS
    @given(SEEDS)
    def check(rng):
        row = filled(message, rng)
        data = unitree_types.encode(message, row)
        assert data == cdr.encode(message, content_of(row, message))
        back = unitree_types.decode(message, data)
        assert back.tobytes() == row.tobytes()

    check()


@BY_NAME
def test_every_single_bit_that_flips_is_noticed(message):
    row = filled(message, np.random.default_rng(0))
    data = unitree_types.encode(message, row)
    padding = np.flatnonzero(unitree_types._gather(message) == unitree_types.struct_of(message).itemsize)
    rng = np.random.default_rng(1)
    for place in rng.choice(np.setdiff1d(np.arange(len(data) - 4), padding), 200, replace=False) + 4:
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match="its CRC is"):
            unitree_types.decode(message, bytes(broken))
    for short in (data[:-5], data + bytes(5), b"", b"\0\0" + data[2:], b"\0\1\0\0"):
        with pytest.raises(ValueError, match="are no unitree"):
            unitree_types.decode(message, short)


def test_a_misspelt_field_cannot_be_written():
    row = unitree_types.empty(GO_COMMAND)
    row["motor_cmd"]["dq"][3] = 0.5
    with pytest.raises(ValueError, match="no field of name qd"):
        row["motor_cmd"]["qd"] = 0.5
    with pytest.raises(ValueError, match="no field of name qd"):
        row["motor_cmd"]["qd"][3] = 0.5


def until(claim, seconds=3.0):
    end = time.monotonic() + seconds
    while not (found := claim()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def command(values, sequence=1):
    return Command(
        target=np.array(values, np.float32), stamp_s=time.monotonic(), sequence=sequence, origin=0, rung=0
    )


@pytest.fixture(scope="module")
def process(bundle):
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    made = RobotProcess("unitree", domain, bundle.path)
    made.domain = domain
    yield made
    made.close()


@pytest.fixture
def robot(process, bundle):
    cfg = UnitreeRobotCfg(domain=process.domain, motors=MOTORS, state_timeout_s=2.0)
    made = cfg.joints(bundle=bundle, link=None)
    made.connect()
    yield made
    made.stop()


def test_joints_and_commands_pass_between_two_processes(robot, process):
    first = robot.read()
    assert 0 <= time.monotonic() - first.captured_s < 0.5
    before = process.report()
    sent = [robot.write(command((0.1 + 1e-3 * i, -0.1), i)) for i in range(20)]
    assert until(lambda: process.report()["commands"] == before["commands"] + 20)
    after = process.report()
    assert [row[2] for row in after["received"][-20:]] == [row.tolist() for row in sent]
    assert after["refused"] == {}  # the CRC and the bundle's gains were right
    assert until(lambda: np.abs(robot.read().position - sent[-1]).max() < 1e-3)
    assert robot.read().strangers == 0


def test_a_policy_that_reads_an_imu_is_given_it(process, tmp_path):
    bundle = make_bundle(tmp_path / "felt.robokd", observations={"proprio": to_dict(felt_spec())})
    cfg = UnitreeRobotCfg(domain=process.domain, motors=MOTORS, state_timeout_s=2.0)
    robot = cfg.joints(bundle=bundle, link=None)
    robot.connect()
    try:
        reading = robot.read()
    finally:
        robot.stop()
    assert reading.imu.gyro == pytest.approx(GYRO)
    assert reading.imu.gravity == pytest.approx(GRAVITY, abs=1e-6)
    assert reading.imu.captured_s == reading.captured_s


def test_a_second_writer_is_noticed(robot, process):
    line = Participant("lo", process.domain)
    other = line.writer("rt/lowcmd", GO_COMMAND)
    assert until(lambda: other.takers() >= 2)
    for _ in range(3):
        other.write(unitree_types.encode(GO_COMMAND, unitree_types.empty(GO_COMMAND)))
        time.sleep(0.01)
    assert until(lambda: robot.read().strangers == 3)


def test_stop_damps_several_times_and_only_if_anything_was_sent(process, bundle):
    cfg = UnitreeRobotCfg(domain=process.domain, motors=MOTORS, state_timeout_s=2.0)
    made = cfg.joints(bundle=bundle, link=None)
    made.stop()
    made.connect()
    before = process.report()
    made.stop()
    time.sleep(0.1)
    assert process.report()["stops"] == before["stops"]
    made.connect()
    made.write(command((0.3, -0.3)))
    made.stop()
    made.stop()
    assert until(lambda: process.report()["stops"] > before["stops"] + 5)
    assert process.report()["commands"] <= before["commands"] + 21
    with pytest.raises(RuntimeError, match="not connected"):
        made.read()


def test_damping_is_what_the_stop_says(bundle):
    robot = UnitreeRobotCfg(motors=MOTORS, damping=3.0).joints(bundle=bundle, link=None)
    row = robot._damped()
    motors = row["motor_cmd"]
    assert (motors["kd"] == 3.0).all()
    assert not motors["kp"].any()
    assert not motors["dq"].any()
    assert not motors["tau"].any()
    assert (motors["mode"] == 1).all()
    assert row["head"].tolist() == [0xFE, 0xEF]
    assert row["level_flag"] == 0xFF
    row = UnitreeRobotCfg(family="hg", mode_pr=1, motors=MOTORS).joints(bundle=bundle, link=None)._damped()
    assert row["mode_pr"] == 1
    assert len(row["motor_cmd"]) == 35


class Robot:
    """A robot in this process that says what a test wants."""

    def __init__(self, family, domain):
        self.family, self.line = FAMILIES[family], Participant("lo", domain)
        self.states = self.line.writer("rt/lowstate", self.family.state)
        self.commands = self.line.reader("rt/lowcmd", self.family.command, depth=8)
        self.tick = 0

    def say(self, *, tick=None, damaged=False, **changes):
        self.tick += 1
        row = unitree_types.empty(self.family.state)
        row["tick"] = self.tick if tick is None else tick
        for name, value in changes.items():
            if name in row.dtype.names:
                row[name] = value
            else:
                row["motor_state"][name] = value
        data = bytearray(unitree_types.encode(self.family.state, row))
        data[-1] ^= damaged
        self.states.write(bytes(data))


def connected(robot, driver, **said):
    """Connect a driver while the robot talks."""
    with repeating(lambda: robot.say(**said)):
        driver.connect()


def test_an_hg_robot_is_sent_its_own_mode_on_the_joints_own_motors(bundle):
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    robot = Robot("hg", domain)
    cfg = UnitreeRobotCfg(
        domain=domain, family="hg", motors=("shoulder:22", "elbow:25"), state_timeout_s=9.0, damping=2.0
    )
    driver = cfg.joints(bundle=bundle, link=None)
    connected(robot, driver, q=np.arange(35) / 100, dq=-np.arange(35) / 10, mode_machine=5)
    reading = driver.read()
    assert reading.position == pytest.approx([0.22, 0.25])
    assert reading.velocity == pytest.approx([-2.2, -2.5])
    driver.write(command((0.5, -0.25)))
    row = unitree_types.decode(HG_COMMAND, until(robot.commands.take)[0].data)
    driver.stop()
    assert row["mode_machine"] == 5
    motors = row["motor_cmd"]
    assert motors["q"][[22, 25]].tolist() == [0.5, -0.25]
    assert motors["kp"][[22, 25]].tolist() == bundle.manifest["robot"]["kp"]
    assert motors["kd"][[22, 25]].tolist() == bundle.manifest["robot"]["kd"]
    others = np.delete(np.arange(35), [22, 25])
    assert not motors["kp"][others].any()
    assert (motors["kd"][others] == 2.0).all()


def test_a_damaged_state_is_no_state_and_a_frozen_one_grows_old(bundle):
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    robot = Robot("go", domain)
    cfg = UnitreeRobotCfg(domain=domain, motors=MOTORS, state_timeout_s=0.3, connect_timeout_s=0.4)
    driver = cfg.joints(bundle=bundle, link=None)
    with pytest.raises(
        UserError, match=r"no joint state on rt/lowstate .*passed over \d+, the last: unitree_go\S+: its CRC"
    ):
        connected(robot, driver, damaged=True)
    connected(robot, driver)
    robot.say(q=np.full(20, 0.125))
    assert until(lambda: driver.read().position[0] == 0.125)
    robot.say(q=np.full(20, 0.25), damaged=True)
    time.sleep(0.05)
    assert driver.read().position[0] == 0.125
    frozen = robot.tick - 1
    deadline = time.monotonic() + 2
    why = (
        rf"no new joint state on rt/lowstate for 0\.\d+ s; passed over \d+, .*tick {frozen} after one of tick"
    )
    with pytest.raises(TimeoutError, match=why):  # noqa: PT012
        while time.monotonic() < deadline:
            robot.say(tick=frozen)
            driver.read()
            time.sleep(0.01)
    driver.stop()


def test_a_state_that_was_overtaken_is_no_news_and_the_counter_may_turn_over(bundle):
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    robot = Robot("go", domain)
    driver = UnitreeRobotCfg(domain=domain, motors=MOTORS, state_timeout_s=5.0).joints(
        bundle=bundle, link=None
    )
    robot.tick = 2**32 - 300
    connected(robot, driver)
    robot.say(tick=2**32 - 1, q=np.full(20, 0.1))
    robot.say(tick=2**32 - 2, q=np.full(20, 0.2))  # overtaken by the one before
    robot.say(tick=1, q=np.full(20, 0.3))
    robot.say(tick=2**32 - 1, q=np.full(20, 0.4))
    robot.say(tick=0, q=np.full(20, 0.5))
    heard = []
    for _ in range(20):
        heard.append(driver.read())
        time.sleep(0.01)
    assert heard[-1].position[0] == np.float32(0.3)
    assert np.diff([reading.captured_s for reading in heard]).min() >= 0
    driver.stop()


@pytest.mark.parametrize(
    ("tick", "last", "newer"),
    [
        (1, 0, True), (0, 0, False), (0, 1, False), (0, 2**32 - 1, True), (2**32 - 1, 0, False),
        (2**31 - 1, 0, True), (2**31, 0, False),
    ],
)  # fmt: skip
def test_a_tick_is_newer_by_less_than_half_a_turn(tick, last, newer):
    assert is_newer(tick, last) is newer


@settings(max_examples=100, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_of_two_ticks_one_at_most_is_newer(one, other):
    assert is_newer(one, other) + is_newer(other, one) == ((one - other) % 2**31 != 0)


def test_the_stop_goes_on_when_a_write_fails_and_says_so_at_the_end(bundle, monkeypatch):
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    robot = Robot("go", domain)
    driver = UnitreeRobotCfg(domain=domain, motors=MOTORS, state_timeout_s=9.0).joints(
        bundle=bundle, link=None
    )
    connected(robot, driver)
    driver.write(command((0.1, 0.1)))
    send, tried = driver._line.send_last, []

    def send_some(data):
        tried.append(data)
        if len(tried) in (1, 3):
            raise RuntimeError(f"cannot write: {len(tried)}")
        send(data)

    monkeypatch.setattr(driver._line, "send_last", send_some)
    until(robot.commands.take)
    with pytest.raises(RuntimeError, match="cannot write: 1"):
        driver.stop()
    assert len(tried) == DAMPING_WRITES
    assert until(robot.commands.take)
    with pytest.raises(RuntimeError, match="not connected"):
        driver.read()
    driver.stop()


def test_a_state_that_is_not_finite_stops_the_run(bundle):
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    robot = Robot("go", domain)
    driver = UnitreeRobotCfg(domain=domain, motors=MOTORS, state_timeout_s=2.0).joints(
        bundle=bundle, link=None
    )
    connected(robot, driver, dq=np.full(20, np.nan))
    with pytest.raises(RuntimeError, match="not finite"):
        driver.read()
    driver.stop()


@pytest.mark.parametrize(
    ("motors", "why"),
    [
        ((), "'elbow' has no motor"), (("shoulder:0",), "'elbow' has no motor"),
        ((*MOTORS, "wrist:2"), "'wrist' is no joint of the bundle"),
        (("shoulder:3", "elbow:3"), r"a different motor in \[0, 20\)"),
        (("shoulder:0", "elbow:20"), r"a different motor in \[0, 20\)"),
    ],
)  # fmt: skip
def test_motors_that_do_not_fit_the_joints_are_refused(bundle, motors, why):
    with pytest.raises(UserError, match=why):
        UnitreeRobotCfg(motors=motors).joints(bundle=bundle, link=None)


@pytest.mark.parametrize("name", ["kp", "kd"])
def test_a_bundle_without_gains_is_refused(tmp_path, name):
    without = make_bundle(tmp_path / "b.robokd", robot={**manifest()["robot"], name: None})
    with pytest.raises(UserError, match=r"has no robot.kp and robot.kd"):
        UnitreeRobotCfg(motors=MOTORS).joints(bundle=without, link=None)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("family", "h1", "Known: go, hg"), ("mode_pr", 2, "must be 0 or 1"), ("damping", 0.0, "must be > 0"),
        ("stop_key", "", "Known: any, hold"), ("interface", "eth77", "no network interface named"),
        ("command_timeout_s", -0.1, "must be >= 0 s"), ("motors", ("elbow:-1",), "whole and >= 0, got '-1'"),
        ("motors", ("elbow:1", "elbow:2"), "each name once"), ("images", ("front",), "words like name:value"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(field, value, why):
    with pytest.raises(ValueError, match=why):
        UnitreeRobotCfg(**{field: value})


def test_nobody_says_when_a_unitree_robot_stops_by_itself_but_a_person(bundle):
    assert UnitreeRobotCfg(motors=MOTORS).joints(bundle=bundle, link=None).command_timeout_s is None
    said = UnitreeRobotCfg(motors=MOTORS, command_timeout_s=0.1).joints(bundle=bundle, link=None)
    assert said.command_timeout_s == 0.1
    assert said.stop_key == "hold"
