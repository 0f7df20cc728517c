"""Bytes of messages against rosbags, which is none of ours, and what is refused."""

import socket
import time

import numpy as np
import pytest
from dds_robot import RobotProcess, free_domain
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real import cdr, dds, ros2_types, unitree_types

from robokd import UserError

# the same in `make search` too: random bits may be a signalling NaN, which Python's floats make quiet
SETTINGS = settings(max_examples=25, derandomize=True)
SEEDS = st.integers(0, 2**32 - 1).map(np.random.default_rng)
LETTERS = list("aZ_/ é漢🤖")
MESSAGES = (*ros2_types.SPOKEN, *unitree_types.SPOKEN)
BY_NAME = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)


def content_of(kind, rng, many=4):
    """Random content of a message, with few elements in what is as long as one likes."""
    if isinstance(kind, cdr.Message):
        return {name: content_of(one, rng, many) for name, one in kind.fields.items()}
    if isinstance(kind, str):
        if kind == cdr.TEXT:
            return "".join(rng.choice(LETTERS, rng.integers(12)))
        return content_of(cdr.Array(kind, 1), rng)[0].item()
    count = kind.count if isinstance(kind, cdr.Array) else int(rng.integers(many + 1))
    if isinstance(kind.of, str) and kind.of != cdr.TEXT:
        dtype = np.dtype(cdr.NUMBERS[kind.of])  # any bits: NaN and denormals too
        return np.frombuffer(rng.bytes(count * dtype.itemsize), dtype)
    return [content_of(kind.of, rng, many) for _ in range(count)]


def text_of(message):
    """The definition as ROS writes it."""

    def word(kind):
        if isinstance(kind, cdr.Message):
            return kind.name
        if isinstance(kind, str):
            return kind
        return f"{word(kind.of)}[{kind.count if isinstance(kind, cdr.Array) else ''}]"

    return "\n".join(f"{word(kind)} {name}" for name, kind in message.fields.items())


def parts(message):
    for kind in message.fields.values():
        inner = kind if isinstance(kind, cdr.Message) else getattr(kind, "of", None)
        if isinstance(inner, cdr.Message):
            yield from parts(inner)
    yield message


@pytest.fixture(scope="module")
def store():
    """rosbags' types: ROS 2's own as it has them, Unitree's from our description."""
    typesys = pytest.importorskip("rosbags.typesys")
    made = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
    for message in unitree_types.SPOKEN:
        for one in parts(message):
            if one.name not in made.types:
                made.register(typesys.get_types_from_msg(text_of(one), one.name))
    return made


def as_rosbags(store, message, content):
    def value(kind, one):
        if isinstance(kind, cdr.Message):
            return as_rosbags(store, kind, one)
        if isinstance(kind, (cdr.Array, cdr.Sequence)) and not isinstance(one, np.ndarray):
            return [value(kind.of, part) for part in one]
        return one

    fields = {name: value(kind, content[name]) for name, kind in message.fields.items()}
    return store.types[message.name](**fields)


def is_same(left, right):
    if isinstance(left, dict):
        return set(left) == set(right) and all(is_same(left[name], right[name]) for name in left)
    if isinstance(left, (list, np.ndarray)):
        return len(left) == len(right) and all(is_same(*pair) for pair in zip(left, right, strict=True))
    return left == right or (left != left and right != right)


@BY_NAME
def test_our_bytes_are_those_of_rosbags_both_ways(message, store):
    @SETTINGS
    @given(SEEDS)
    def check(rng):
        content = content_of(message, rng)
        ours = cdr.encode(message, content)
        theirs = bytes(store.serialize_cdr(as_rosbags(store, message, content), message.name))
        assert ours[: len(theirs)] == theirs
        assert not any(ours[len(theirs) :])
        assert is_same(cdr.decode(message, theirs), content)
        back = store.deserialize_cdr(ours, message.name)
        assert bytes(store.serialize_cdr(back, message.name)) == theirs

    check()


@BY_NAME
def test_big_endian_messages_are_read_too(message, store):
    @settings(SETTINGS, max_examples=5)
    @given(SEEDS)
    def check(rng):
        content = content_of(message, rng)
        theirs = store.serialize_cdr(as_rosbags(store, message, content), message.name, little_endian=False)
        assert is_same(cdr.decode(message, bytes(theirs)), content)

    check()


@pytest.mark.parametrize("message", ros2_types.SPOKEN, ids=lambda message: message.name)
def test_our_definitions_are_those_of_ros(message, store):
    for one in parts(message):
        fields = store.fielddefs[one.name][1]
        assert [name for name, _ in fields] == list(one.fields)


@settings(SETTINGS, max_examples=200)
@given(st.binary(max_size=400), st.sampled_from(ros2_types.SPOKEN), st.booleans())
def test_no_bytes_do_more_than_be_refused(data, message, is_little):
    head = cdr.LITTLE if is_little else cdr.BIG
    for raw in (data, head + data):
        try:
            content = cdr.decode(message, raw)
        except ValueError:
            continue
        assert is_same(cdr.decode(message, cdr.encode(message, content)), content)


def test_a_message_cut_short_or_too_long_is_refused():
    state = ros2_types.joint_state(("a", "b"), np.ones(2), np.zeros(2), 5)
    whole = cdr.encode(ros2_types.JOINT_STATE, state)
    for count in range(len(whole)):
        with pytest.raises(ValueError, match="JointState"):
            cdr.decode(ros2_types.JOINT_STATE, whole[:count])
    with pytest.raises(ValueError, match="12 bytes follow"):
        cdr.decode(ros2_types.JOINT_STATE, whole + bytes(12))


def test_a_count_that_cannot_be_is_refused_before_memory_is_asked_for():
    # JointTrajectory: stamp, an empty frame_id, then four thousand million names
    data = cdr.LITTLE + bytes(8) + b"\1\0\0\0\0\0\0\0" + b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="4294967295"):
        cdr.decode(ros2_types.JOINT_TRAJECTORY, data)


def test_a_field_too_many_or_too_few_is_not_written():
    state = ros2_types.joint_state(("a",), np.ones(1), np.zeros(1), 5)
    with pytest.raises(ValueError, match="wrong: velocty"):
        cdr.encode(ros2_types.JOINT_STATE, {**state, "velocty": np.zeros(1)})
    with pytest.raises(ValueError, match="wrong: velocity"):
        cdr.encode(ros2_types.JOINT_STATE, {name: state[name] for name in state if name != "velocity"})


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_cyclonedds_announces_the_type_by_its_ros_name_and_writes_the_same_bytes(message):
    pytest.importorskip("cyclonedds")
    made = dds._idl(message)
    package, _, kind = message.name.split("/")
    assert made.__idl__.idl_transformed_typename == f"{package}::msg::dds_::{kind}_"
    made.__idl__.populate()
    assert made.__idl__.keyless
    assert made.__idl__.xcdrv1_head == 0  # final: plain CDR

    @settings(SETTINGS, max_examples=3)
    @given(SEEDS)
    def check(rng):
        content = content_of(message, rng)
        ours = cdr.encode(message, content)
        theirs = filled(message, content).serialize(use_version_2=False)
        assert ours[: len(theirs)] == theirs
        assert not any(ours[len(theirs) :])

    def filled(kind, content):
        if isinstance(kind, cdr.Message):
            values = {name: filled(one, content[name]) for name, one in kind.fields.items()}
            return types[kind](**values)
        if isinstance(kind, (cdr.Array, cdr.Sequence)):
            return [filled(kind.of, one) for one in content]
        return content

    types = {}

    # the classes of nested messages are those in the annotations of the outer ones
    def collect(kind, cls):
        types[kind] = cls
        for one in kind.fields.values():
            inner = one if isinstance(one, cdr.Message) else getattr(one, "of", None)
            if isinstance(inner, cdr.Message):
                collect(inner, dds._idl(inner))

    collect(message, made)
    check()


def test_stamps_come_back_to_the_nanosecond_and_are_never_in_the_future():
    stamps = dds.MonotonicStamps()
    for captured in (0.02, 1234.567890123, time.monotonic()):
        assert stamps.captured(stamps.stamp(captured), captured + 1) == pytest.approx(captured, abs=2e-9)
        assert stamps.lag(stamps.stamp(captured), captured + 1) == pytest.approx(1, abs=2e-9)
        assert stamps.captured(stamps.stamp(captured + 3600), captured) == captured


def sample(stamp_ns, writer=1):
    return dds.Sample(data=b"", writer=writer, stamp_ns=stamp_ns)


def test_a_message_that_was_held_up_is_as_old_as_it_is():
    times, hour_ns = dds.ArrivalTimes(), 3600 * 10**9  # the sender's clock is an hour off
    for i in range(100):
        held_s = 0.5 if i == 50 else 0.001 * (i % 3)
        measured_s = 10 + 0.02 * i
        got = times.captured(sample(round(measured_s * 1e9) + hour_ns), measured_s + 0.003 + held_s)
        assert got == pytest.approx(measured_s + 0.003, abs=1e-4 * 2)  # the drift that is allowed for
    assert times.captured(sample(0), 20.0) == 20.0


def test_clocks_that_drift_apart_do_not_make_every_message_old():
    times, ages = dds.ArrivalTimes(), []
    for i in range(1000):
        now = 10 + i
        ages.append(now - times.captured(sample(round((now * (1 - 50e-6)) * 1e9)), now))
    assert max(ages) < 1e-3


def test_each_sender_has_a_clock_of_its_own():
    times = dds.ArrivalTimes()
    for i in range(20):
        now = 10 + 0.02 * i
        for writer in (1, 2, 3):  # each an hour behind the one before
            stamp_ns = round((now + 3600 * (5 - writer)) * 1e9)
            assert times.captured(sample(stamp_ns, writer), now + 0.001) == pytest.approx(
                now + 0.001, abs=1e-5
            )


def test_the_clocks_of_writers_that_are_long_gone_are_forgotten_and_no_other():
    times = dds.ArrivalTimes()
    times.captured(
        sample(10**9, writer=0), 5.0
    )  # the quickest of a sender that goes on: 4 s between the clocks
    for writer in range(1, 1000):
        times.captured(sample(10**9, writer), 5.0)
        assert times.captured(sample(2 * 10**9, writer=0), 6.5) == pytest.approx(6.0, abs=1e-3)
    assert len(times._clocks) <= dds.SENDERS


def test_the_stamps_of_two_processes_differ_by_little():
    assert abs(dds.MonotonicStamps()._wall_ns - dds.MonotonicStamps()._wall_ns) < 1_000_000


def test_an_interface_that_is_not_there_is_refused_by_name():
    with pytest.raises(UserError, match=r"no network interface named 'eth77'. Known: lo"):
        dds.Participant("eth77", 0)
    with pytest.raises(UserError, match=r"domain must be in \[0, 232\], got 233"):
        dds.Participant("lo", 233)


def test_loopback_hears_nothing_from_elsewhere():
    pytest.importorskip("cyclonedds")
    import os

    before = dds._datagram_sockets()
    participant = dds.Participant("lo", free_domain())
    opened = dds._datagram_sockets() - before
    assert len(opened) >= 2
    for descriptor in opened:
        with socket.socket(fileno=os.dup(descriptor)) as one:
            device = one.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert device.rstrip(b"\0") == b"lo"
    participant.close()


def test_one_domain_is_on_one_interface():
    pytest.importorskip("cyclonedds")
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not others:
        pytest.skip("this machine has one interface")
    domain = free_domain()
    participant = dds.Participant("lo", domain)
    with pytest.raises(UserError, match=f"domain {domain} is on interface 'lo' already"):
        dds.Participant(others[0], domain)
    participant.close()
    del participant
    assert domain not in dds._domains


def test_a_missing_package_is_said_with_its_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cyclonedds.core", None)
    with pytest.raises(UserError, match=r"pip install 'robokd\[ros2\]'"):
        dds.Participant("lo", 0)


def test_bytes_arrive_as_they_were_written_with_their_time():
    pytest.importorskip("cyclonedds")
    participant = dds.Participant("lo", free_domain())
    reader = participant.reader("rt/joint_states", ros2_types.JOINT_STATE, depth=4)
    own = participant.reader("rt/joint_states", ros2_types.JOINT_STATE, depth=4, ignores_own=True)
    writer = participant.writer("rt/joint_states", ros2_types.JOINT_STATE)
    for _ in range(200):
        if writer.takers() == 2:
            break
        time.sleep(0.005)
    sent = [
        cdr.encode(ros2_types.JOINT_STATE, ros2_types.joint_state(("a",), np.ones(1) * i, np.zeros(1), i))
        for i in range(3)
    ]
    for number, data in enumerate(sent):
        writer.write(data, 1_000_000_007 * (number + 1))
    got = reader.take()
    assert [one.data for one in got] == sent
    assert [one.stamp_ns for one in got] == [1_000_000_007, 2_000_000_014, 3_000_000_021]
    assert own.take() == []
    assert "rt/joint_states (sensor_msgs::msg::dds_::JointState_)" in participant.topics()


def test_the_writers_of_a_topic_are_known_by_their_gid_until_they_are_deleted():
    pytest.importorskip("cyclonedds")
    domain = free_domain()
    participant, other = dds.Participant("lo", domain), dds.Participant("lo", domain)
    reader = participant.reader("rt/joint_states", ros2_types.JOINT_STATE, depth=16)
    assert reader.sources() == {}
    # handles are random, and half of them are negative as signed numbers
    writers = [other.writer("rt/joint_states", ros2_types.JOINT_STATE) for _ in range(10)]
    assert until(lambda: len(reader.sources()) == 10)
    for writer in writers:
        writer.write(
            cdr.encode(ros2_types.JOINT_STATE, ros2_types.joint_state((), np.ones(0), np.ones(0), 1))
        )
    gids = [writer._writer.guid.bytes.hex(".") for writer in writers]
    handles: list[int] = []
    assert until(lambda: handles.extend(one.writer for one in reader.take()) or len(handles) == 10)
    assert reader.sources() == dict(zip(handles, gids, strict=True))
    writers.clear()
    del writer
    assert until(lambda: not reader.sources())


def test_a_reader_that_shall_not_wake_does_not():
    pytest.importorskip("cyclonedds")
    participant = dds.Participant("lo", free_domain())
    loud = participant.reader("rt/a", ros2_types.JOINT_STATE, depth=1)
    still = participant.reader("rt/b", ros2_types.JOINT_STATE, depth=1, wakes=False)
    writer = participant.writer("rt/b", ros2_types.JOINT_STATE)
    assert until(writer.takers)
    writer.write(cdr.encode(ros2_types.JOINT_STATE, ros2_types.joint_state((), np.ones(0), np.ones(0), 1)))
    assert not participant.wait(0.1)
    assert (len(still.take()), len(loud.take())) == (1, 0)


def until(claim, seconds=3.0):
    end = time.monotonic() + seconds
    while not (found := claim()) and time.monotonic() < end:
        time.sleep(0.005)
    return found


def test_the_process_of_the_other_tests_ends_with_its_input(tmp_path):
    pytest.importorskip("cyclonedds")
    from robot_samples import make_bundle

    robot = RobotProcess("ros2", free_domain(), make_bundle(tmp_path / "b.robokd").path)
    robot.close()
    assert robot.process.returncode == 0


def test_an_interface_is_up_where_it_has_an_address(monkeypatch):
    assert dds.is_up("lo")
    assert not dds.is_up("no-such-0")


def test_an_interface_that_is_down_is_said_to_be_with_those_that_are_up(monkeypatch):
    core = pytest.importorskip("cyclonedds.core")

    def fail(*_):
        raise core.DDSException(core.DDSException.DDS_RETCODE_ERROR)

    monkeypatch.setattr(dds, "_domain", fail)
    monkeypatch.setattr(dds, "is_up", lambda name: name == "lo")
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "can9")])
    with pytest.raises(UserError, match=r"'can9', .*: it is down or has no IPv4 address. Interfaces up: lo$"):
        dds.Participant("can9", 0)
