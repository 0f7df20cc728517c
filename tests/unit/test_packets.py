"""A packet is what its sender made, or none; a channel never waits, and tells what it lost."""

import gc
import json
import socket
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.packets import (
    CRC_AT,
    HEADER,
    KINDS,
    MOST_AT_ONCE,
    MOST_BYTES,
    VERSION,
    Channel,
    Kind,
    Packet,
    decode,
    encode,
    layouts,
    pair,
    told_of,
    told_values,
)  # fmt: skip
from robokd.sim2real.robot import ImuReading, JointReading, Odometry, Order

SIZE = 2
KNOWN = layouts(SIZE)
JOINTS_BYTES = KNOWN[Kind.JOINTS].itemsize
JSON_KINDS = sorted(KINDS - set(KNOWN))


@pytest.fixture
def ends():
    made = [Channel(end, SIZE) for end in pair()]
    yield made
    for end in made:
        end.close()


def command(number: int = 7, sequence: int = 1) -> bytes:
    row = np.zeros((), KNOWN[Kind.COMMAND])
    row["number"], row["target"] = number, (0.25, -1.5)
    return encode(Kind.COMMAND, sequence, row.tobytes(), 12.5)


def said(what: Kind = Kind.STOP, /, **content) -> bytes:
    return encode(what, 3, json.dumps(content).encode(), 0.0)


def numbers(packets: list[Packet]) -> list[int]:
    return [int(packet.row["number"]) for packet in packets]


def test_what_is_sent_arrives_as_it_was(ends):
    left, right = ends
    before = time.monotonic()
    assert left.send(Kind.COMMAND, number=3, target=[0.25, -1.5])
    assert left.send(Kind.STOPPED, kind="operator", message="a key was pressed")
    first, second = right.receive()
    assert (first.kind, first.sequence, int(first.row["number"])) == (Kind.COMMAND, 1, 3)
    assert first.row["target"].tolist() == [0.25, -1.5]
    assert before <= first.sent_s <= second.sent_s <= time.monotonic()
    assert second.row == {"kind": "operator", "message": "a key was pressed"}
    assert not +right.counts


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_crosses_a_channel(ends, kind):
    left, right = ends
    assert left.send(kind, **({} if kind in KNOWN else {"kind": "any", "message": "é"}))
    assert [packet.kind for packet in right.receive()] == [kind]


def test_a_row_keeps_its_bytes_alive(ends):
    left, right = ends
    left.send(Kind.HOME, token=1, position=[0.5, 0.75])
    position = right.receive()[0].row["position"]
    gc.collect()
    assert position.tolist() == [0.5, 0.75]


@given(st.binary(max_size=200))
def test_no_bytes_raise_and_none_are_taken_for_a_packet(data):
    assert decode(data, KNOWN) is None


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 2**64 - 1), st.binary(max_size=120))
def test_a_whole_packet_with_any_content_does_not_raise(kind, sequence, payload):
    packet = decode(encode(kind, sequence, payload, 1.0), KNOWN)
    if kind in KNOWN:
        assert (packet is None) == (len(payload) != KNOWN[kind].itemsize)
    else:
        assert packet is None or isinstance(packet.row, dict)


@pytest.mark.parametrize(
    "payload", [b"[]", b"1", b"", b"{", b"\xff\xfe", b"[" * 60000, b'{"a":' * 9000, b"9" * 5000, b"null"]
)
def test_json_that_is_no_object_is_refused(payload):
    assert decode(encode(Kind.STOP, 1, payload), KNOWN) is None


@pytest.mark.parametrize(
    "data",
    [command(), said(kind="end", message="x"), encode(Kind.JOINTS, 2**63, bytes(JOINTS_BYTES))],
    ids=["command", "stop", "joints"],
)  # fmt: skip
def test_no_bit_can_be_turned(data):
    assert decode(data, KNOWN) is not None
    for bit in range(8 * len(data)):
        turned = bytearray(data)
        turned[bit // 8] ^= 1 << bit % 8
        assert decode(bytes(turned), KNOWN) is None, bit


@given(st.binary(min_size=1, max_size=8), st.integers(0, 10**6))
def test_overwritten_bytes_are_refused(patch, where):
    data = command()
    at = where % (len(data) - len(patch))
    changed = data[:at] + patch + data[at + len(patch) :]
    assert changed == data or decode(changed, KNOWN) is None


@pytest.mark.parametrize("data", [command(), said(message="x")])
def test_what_was_cut_or_lengthened_is_refused(data):
    assert all(decode(data[:end], KNOWN) is None for end in range(len(data)))
    assert all(decode(data + bytes(more), KNOWN) is None for more in (1, 4, 28))
    assert decode(data * 2, KNOWN) is None


def test_a_packet_for_another_number_of_joints_is_refused():
    assert decode(command(), layouts(SIZE + 1)) is None


def test_an_unknown_kind_is_refused():
    unknown = next(kind for kind in range(100) if kind not in KINDS)
    assert decode(encode(unknown, 1, b"{}"), KNOWN) is None  # type: ignore[arg-type]


def test_numbers_that_are_not_finite_pass_for_others_judge_them(ends):
    left, right = ends
    left.send(Kind.COMMAND, number=1, target=[np.nan, np.inf])
    assert np.isnan(right.receive()[0].row["target"][0])


def test_what_came_twice_is_taken_once(ends):
    left, right = ends
    left.put(command(1, 1))
    left.put(command(1, 1))
    assert numbers(right.receive()) == [1]
    assert +right.counts == {"twice": 1}


def test_what_comes_out_of_order_is_too_late(ends):
    left, right = ends
    for sequence in (1, 3, 2, 4):
        left.put(command(sequence, sequence))
    assert numbers(right.receive()) == [1, 3, 4]
    assert +right.counts == {"lost": 1, "order": 1}


def test_gaps_are_counted(ends):
    left, right = ends
    for sequence in (3, 10):  # 1 and 2, then 4 to 9
        left.put(command(sequence, sequence))
    assert numbers(right.receive()) == [3, 10]
    assert +right.counts == {"lost": 2 + 6}


def test_a_broken_packet_is_one_that_did_not_come(ends):
    left, right = ends
    left.put(command(1, 1))
    left.put(command(2, 2)[:-1])
    left.put(b"x")
    left.put(command(3, 3))
    assert numbers(right.receive()) == [1, 3]
    assert +right.counts == {"corrupt": 2, "lost": 1}


@given(st.lists(st.integers(1, 30), max_size=60))
@settings(max_examples=60)
def test_whatever_the_order_numbers_only_rise_and_every_packet_is_counted(sequences):
    left, right = (Channel(end, SIZE) for end in pair())
    for sequence in sequences:
        assert left.put(command(sequence, sequence))
    taken = numbers(right.receive())
    assert taken == sorted(set(taken))
    assert len(taken) + right.counts["twice"] + right.counts["order"] == len(sequences)
    assert right.counts["lost"] == max(taken, default=0) - len(taken)
    left.close()
    right.close()


def test_a_full_socket_never_blocks_and_what_it_dropped_is_lost_on_the_other_side(ends):
    left, right = ends
    started = time.monotonic()
    sent = sum(left.send(Kind.COMMAND, number=number, target=[0, 0]) for number in range(1, 5001))
    assert time.monotonic() - started < 2
    assert 0 < sent < 5000
    assert left.counts["dropped"] == 5000 - sent
    assert left.is_open
    assert sum(len(right.receive()) for _ in range(sent)) == sent
    assert left.send(Kind.COMMAND, number=9999, target=[0, 0])  # there is room again
    assert numbers(right.receive()) == [9999]
    assert right.counts["lost"] == 5000 - sent


def test_a_flood_does_not_keep_its_receiver_from_everything_else(ends):
    left, right = ends
    while left.send(Kind.COMMAND, number=1, target=[0, 0]):
        pass
    assert len(right.receive()) == MOST_AT_ONCE
    assert right.receive()[0].sequence == MOST_AT_ONCE + 1


def test_receiving_from_a_silent_end_does_not_wait(ends):
    started = time.monotonic()
    assert ends[0].receive() == []
    assert time.monotonic() - started < 0.1
    assert ends[0].is_open


def test_what_is_too_long_is_not_sent(ends):
    left, right = ends
    for length in (MOST_BYTES, 10 * MOST_BYTES):
        assert not left.send(Kind.REPORT, text="x" * length)
    assert left.is_open
    assert left.counts == {"dropped": 2}
    fits = MOST_BYTES - HEADER.itemsize - len('{"text": ""}')
    assert left.send(Kind.REPORT, text="x" * fits)
    assert len(right.receive()[0].row["text"]) == fits


def test_a_longer_packet_than_allowed_is_corrupt(ends):
    left, right = ends
    left.put(said(message="x" * MOST_BYTES))
    assert right.receive() == []
    assert right.counts["corrupt"] == 1
    assert right.is_open


def test_closing_is_noticed_after_the_last_packet(ends):
    left, right = ends
    left.send(Kind.STOP, kind="end", message="")
    left.close()
    assert [packet.kind for packet in right.receive()] == [Kind.STOP]
    assert not right.is_open
    assert right.receive() == []


def test_sending_to_an_end_that_is_gone_does_not_hide_what_it_said_last(ends):
    left, right = ends
    left.send(Kind.STOPPED, kind="robot_lost", message="why")
    left.close()
    assert not right.send(Kind.COMMAND, number=1, target=[0, 0])
    assert right.is_open  # there is more to hear
    assert right.receive()[0].row["kind"] == "robot_lost"
    assert not right.is_open
    assert not right.send(Kind.COMMAND, number=2, target=[0, 0])


def test_an_end_that_went_without_reading_all_is_heard_to_its_last_word(ends):
    left, right = ends
    right.send(Kind.COMMAND, number=1, target=[0, 0])  # never read: the kernel resets the connection
    left.send(Kind.STOPPED, kind="robot_lost", message="why")
    left.close()
    assert [packet.kind for packet in right.receive()] == [Kind.STOPPED]
    assert not right.is_open


def test_sending_tells_when_nobody_listens(ends):
    left, right = ends
    left.close()
    assert not right.send(Kind.COMMAND, number=1, target=[0, 0])
    assert not right.is_open


def test_a_channel_that_was_closed_is_silent(ends):
    left, _ = ends
    left.close()
    assert left.receive() == []
    assert not left.send(Kind.COMMAND, number=1, target=[0, 0])
    left.close()


def test_a_channel_has_its_own_socket_kind():
    left, right = pair()
    with left, right:
        assert left.type & socket.SOCK_SEQPACKET == socket.SOCK_SEQPACKET
        assert JSON_KINDS  # some kinds have no layout


def beside(**told):
    """A reading of joints, and what is told beside them."""
    rest = np.zeros(SIZE, np.float32)
    return JointReading(captured_s=12.5, position=rest, velocity=rest, target=rest, **told)


def test_an_imu_comes_as_it_was_sent_and_none_as_none(ends):
    left, right = ends
    told = ImuReading(
        captured_s=12.25,
        gyro=np.array([0.5, 1, -2], np.float32),
        gravity=np.array([0, 0.6, -0.8], np.float32),
    )
    for kind in (Kind.STATE, Kind.JOINTS):
        for imu in (told, None):
            left.send(kind, captured_s=12.5, **told_values(beside(imu=imu)))
            found = told_of(right.receive()[0].row)["imu"]
            assert (found is None) == (imu is None)
            if found is not None:
                assert found.captured_s == 12.25
                assert found.gyro.tolist() == told.gyro.tolist()
                assert found.gravity.tolist() == told.gravity.tolist()


def test_an_order_comes_as_it_was_sent_and_none_as_none(ends):
    left, right = ends
    told = Order(captured_s=12.25, velocity=np.array([0.5, -0.25, 1], np.float32))
    for kind in (Kind.STATE, Kind.JOINTS):
        for order in (told, None):
            left.send(kind, captured_s=12.5, **told_values(beside(order=order)))
            row = right.receive()[0].row
            assert told_of(row)["imu"] is None
            found = told_of(row)["order"]
            assert (found is None) == (order is None)
            if found is not None:
                assert (found.captured_s, found.velocity.tolist()) == (12.25, [0.5, -0.25, 1])


def test_all_that_is_told_beside_the_joints_comes_as_it_was(ends):
    left, right = ends
    rows = [np.array(row, np.float32) for row in ([0.5, 1, -2], [0, 0.6, -0.8], [0.5, 0, 1], [3, -1, 0.25])]
    told = JointReading(
        captured_s=12.5, position=rows[0][:2], velocity=rows[0][:2], target=rows[0][:2],
        imu=ImuReading(captured_s=12.25, gyro=rows[0], gravity=rows[1]),
        order=Order(captured_s=12.0, velocity=rows[2]),
        odometry=Odometry(captured_s=11.75, velocity=rows[3]),
    )  # fmt: skip
    left.send(Kind.STATE, **told_values(told))
    found = told_of(right.receive()[0].row)
    assert [found[name].captured_s for name in ("imu", "order", "odometry")] == [12.25, 12.0, 11.75]
    assert found["odometry"].velocity.tolist() == rows[3].tolist()
    assert found["order"].velocity.tolist() == rows[2].tolist()
    left.send(Kind.STATE)
    assert set(told_of(right.receive()[0].row).values()) == {None}


def test_a_body_without_joints_tells_none_and_is_taken_for_no_other():
    ends = [Channel(end, 4, 0) for end in pair()]
    reading = np.arange(4, dtype=np.float32)
    assert ends[0].send(
        Kind.JOINTS, captured_s=1.0, position=reading[:0], velocity=reading[:0], target=reading
    )
    (packet,) = ends[1].receive()
    assert packet.row["position"].shape == packet.row["velocity"].shape == (0,)
    assert packet.row["target"].tolist() == reading.tolist()
    data = encode(Kind.JOINTS, 1, packet.row.tobytes())
    assert decode(data, layouts(4, 0)) is not None
    for other in (layouts(4), layouts(3, 0), layouts(5, 0)):
        assert decode(data, other) is None
    for end in ends:
        end.close()


def test_a_packet_of_the_version_before_is_refused():
    data = bytearray(command())
    data[4:6] = (VERSION - 1).to_bytes(2, "little")
    crc = zlib.crc32(data[HEADER.itemsize :], zlib.crc32(data[:CRC_AT]))
    data[CRC_AT : CRC_AT + 4] = crc.to_bytes(4, "little")
    assert decode(bytes(data), KNOWN) is None
    data[4:6] = VERSION.to_bytes(2, "little")
    crc = zlib.crc32(data[HEADER.itemsize :], zlib.crc32(data[:CRC_AT]))
    data[CRC_AT : CRC_AT + 4] = crc.to_bytes(4, "little")
    assert decode(bytes(data), KNOWN) is not None
