"""Messages cross a stream whole, or not at all; a slow reader holds nobody up."""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from robokd.sim2real.wire import HEADER, MAX_BYTES, Outbox, Say, Wire, frame_layout, message

from robokd.specs import CameraSpec


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


def picture(place: int, number: int, size: int = 60_000) -> bytes:
    return message(
        Say.FRAME, number, bytes([place]) + number.to_bytes(1, "little") * (size + 37 * number % 1000)
    )


def drain(end: socket.socket) -> bytes:
    """What lies there now."""
    end.setblocking(False)
    data = b""
    while True:
        try:
            part = end.recv(1 << 20)
        except BlockingIOError:
            return data
        if not part:
            return data
        data += part


def split(data: bytes) -> list[tuple[int, int]]:
    """(place, number) of whole messages; as they were offered, with nothing between or behind."""
    found = []
    while data:
        header = np.frombuffer(data[: HEADER.itemsize], HEADER)[0]
        end = HEADER.itemsize + int(header["bytes"])
        assert len(data) >= end, "cut"
        payload, data = data[HEADER.itemsize : end], data[end:]
        assert header["kind"] == Say.FRAME
        number = int(header["sequence"])
        assert set(payload[1:]) == {number}
        found.append((payload[0], number))
    return found


def test_a_message_arrives_as_it_was(ends):
    left, right = map(Wire, ends)
    left.send(Say.BEGIN, 2**40, b"abc", timeout_s=1)
    left.send_json(Say.OPEN, {"seed": 3}, timeout_s=1)
    assert right.receive(1) == (Say.BEGIN, 2**40, b"abc")
    assert right.receive(1) == (Say.OPEN, 0, b'{"seed": 3}')


def test_a_reader_with_room_gets_everything(ends):
    outbox = Outbox(ends[0])
    for number in range(5):
        outbox.offer(0, picture(0, number, 1000))
    assert split(drain(ends[1])) == [(0, number) for number in range(5)]


def test_a_reader_that_sleeps_holds_nobody_up_and_wakes_to_the_newest(ends):
    outbox = Outbox(ends[0])
    started = time.monotonic()
    for number in range(200):
        for place in (0, 1):
            outbox.offer(place, picture(place, number))
    assert time.monotonic() - started < 1
    data = b""
    while more := drain(ends[1]):
        data += more
        outbox.pump()
    found = split(data)
    for place in (0, 1):
        numbers = [number for which, number in found if which == place]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == 199
    assert len(found) < 40  # the others were replaced


def test_what_has_begun_is_finished_before_what_is_newer(ends):
    outbox = Outbox(ends[0])
    outbox.offer(0, picture(0, 1, 2_000_000))  # more than the socket takes
    outbox.offer(0, picture(0, 2))
    outbox.offer(0, picture(0, 3))
    data = b""
    while more := drain(ends[1]):
        data += more
        outbox.pump()
    assert split(data) == [(0, 1), (0, 3)]


def test_one_place_does_not_starve_another(ends):
    outbox = Outbox(ends[0])
    outbox.offer(0, picture(0, 0, 2_000_000))
    for number in range(1, 50):
        outbox.offer(1, picture(1, number))
        outbox.offer(2, picture(2, number))
    data = b""
    while more := drain(ends[1]):
        data += more
        outbox.pump()
    assert split(data) == [(0, 0), (1, 49), (2, 49)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 300_000), st.integers(0, 400_000)), max_size=20))
@example([(0, 219_248, 219_264)])  # all but its last byte is read before anyone pumps
@settings(max_examples=25)
def test_whatever_is_offered_and_read_only_whole_messages_come_in_order(steps):
    left, right = socket.socketpair()
    outbox, data, offered = Outbox(left), b"", {}
    right.setblocking(False)
    for number, (place, size, taken) in enumerate(steps):
        outbox.offer(place, picture(place, number, size))
        offered[place] = number
        with contextlib.suppress(BlockingIOError):
            data += right.recv(taken) if taken else b""
    outbox.pump()
    while more := drain(right):
        data += more
        outbox.pump()
    found = split(data)
    for place, last in offered.items():
        numbers = [number for which, number in found if which == place]
        assert numbers == sorted(set(numbers))
        assert numbers[-1] == last
    left.close()
    right.close()


@pytest.mark.parametrize("timeout_s", [None, 5.0])
def test_an_outbox_does_not_wait_whatever_its_socket_would(ends, timeout_s):
    ends[0].settimeout(timeout_s)
    outbox = Outbox(ends[0])
    started = time.monotonic()
    for number in range(20):
        outbox.offer(0, picture(0, number))
    assert time.monotonic() - started < 1


def test_a_reader_that_is_gone_gets_nothing_and_does_no_harm(ends):
    outbox = Outbox(ends[0])
    outbox.offer(0, picture(0, 1, 2_000_000))
    ends[1].close()
    for number in range(3):
        outbox.offer(0, picture(0, number))
    outbox.pump()


def test_a_slow_reader_in_a_thread_gets_whole_pictures_with_rising_numbers(ends):
    outbox, reader, seen = Outbox(ends[0]), Wire(ends[1]), []

    def read():
        while not seen or seen[-1] < 120:
            kind, number, payload = reader.receive(5)
            assert kind == Say.FRAME
            assert set(payload[1:]) == {number}
            seen.append(number)
            time.sleep(0.002)

    thread = threading.Thread(target=read)
    thread.start()
    longest = 0.0
    for number in range(1, 121):
        before = time.perf_counter()
        outbox.offer(0, picture(0, number))
        longest = max(longest, time.perf_counter() - before)
        time.sleep(0.0005)
    while thread.is_alive():
        outbox.pump()
        time.sleep(0.0005)
    assert seen == sorted(set(seen))
    assert longest < 0.2


def test_the_time_limit_of_receiving_is_kept_even_if_bytes_trickle(ends):
    left, right = ends
    left.sendall(message(Say.REPORT, 0, b"x" * 100)[:50])
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        Wire(right).receive(0.05)
    assert time.monotonic() - started < 0.5


def test_an_end_that_is_gone_is_told(ends):
    left, right = ends
    left.sendall(message(Say.READY)[:5])
    left.close()
    with pytest.raises(ConnectionError, match="the other end closed the connection"):
        Wire(right).receive(1)


@pytest.mark.parametrize("header", [(Say.FRAME, MAX_BYTES + 1, 0), (0, 0, 0), (7, 0, 0), (2**31, 0, 0)])
def test_a_broken_header_is_refused_before_memory_is_taken(ends, header):
    left, right = ends
    left.sendall(np.array(header, HEADER).tobytes())
    with pytest.raises(ConnectionError, match="the connection is broken: a message began with"):
        Wire(right).receive(1)


@given(st.binary(max_size=200))
@settings(max_examples=60)
def test_no_bytes_make_a_reader_fail_otherwise_than_by_a_broken_connection(data):
    left, right = socket.socketpair()
    left.sendall(data)
    left.close()
    try:
        for _ in range(20):
            kind, _, _ = Wire(right).receive(1)
            assert kind in set(Say)
    except ConnectionError:
        pass
    right.close()


def test_a_frame_is_its_time_and_its_pixels():
    camera = CameraSpec(name="front", width=4, height=3, position_m=(0.1, 0.2, 0.3))
    assert frame_layout(camera).itemsize == 8 + 12 * np.dtype(camera.dtype).itemsize
