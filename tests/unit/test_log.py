"""A log comes back bit for bit, opens in Foxglove, keeps to the time it is given and survives a full disk."""

import errno
import hashlib
import json
import math
import os
import resource
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from log_samples import ABOUT, black, same, sent, tick, vector, write
from mcap.reader import make_reader
from robokd.sim2real import log_format as form
from robokd.sim2real.log import ENDING, Log, LogError, Tape
from robokd.sim2real.log_reader import read_log
from robokd.sim2real.policy import Decision
from robokd.sim2real.robot import JointReading

FLOATS = arrays.arrays(np.uint32, st.integers(0, 7)).map(
    lambda bits: bits.view(np.float32)
)  # any bits at all
PICTURES = {
    "depth_u8": np.arange(12, dtype=np.uint8).reshape(1, 3, 4),
    "rgb_u8": np.arange(36, dtype=np.uint8).reshape(3, 3, 4),
    "segment_i16": np.arange(-6, 6, dtype=np.int16).reshape(1, 3, 4),
    "depth_f16": np.linspace(0, 2, 12, dtype=np.float16).reshape(1, 3, 4),
    "depth_f16_nan": np.arange(0x7BF8, 0x7C04, dtype=np.uint16).view(np.float16).reshape(1, 3, 4),
}


def messages(path, topic):
    with path.open("rb") as stream:
        found = make_reader(stream, validate_crcs=True).iter_messages(topics=[topic])
        return [(schema, json.loads(message.data)) for schema, _, message in found]


def test_all_that_was_logged_comes_back_in_order(tmp_path):
    path = tmp_path / "log.mcap"
    log = Log(path, ABOUT)
    ticks = [tick(1, image=black(1)), tick(2, image=black(2)), tick(3, image=black(3))]
    log.episode(99.5, 7)
    log.tick(ticks[0])
    log.sent(sent())
    log.tick(ticks[1])
    log.episode(101.5, 8)
    log.tick(ticks[2])
    reading = JointReading(
        captured_s=102.0, position=vector(1, 2), velocity=vector(3, 4), target=vector(math.nan, 5), sequence=9
    )
    log.state(reading)
    log.event(103.25, "stale_front", "front is 0.2 s old")
    log.close()
    found = read_log(path)
    assert found.is_whole
    assert [one.number for one in found.ticks] == [1, 2, 3]
    for one, other in zip(found.ticks, ticks, strict=True):
        assert list(one.channels) == list(other.channels)
        assert all(same(one.channels[name], other.channels[name]) for name in other.channels)
        assert one.captured_s == pytest.approx(other.captured_s, abs=1e-9)
        assert one.begun_s == pytest.approx(other.begun_s, abs=1e-9)
        assert same(one.anchor, other.anchor)
        assert same(one.rate, other.rate)
        assert same(one.decision.command, other.decision.command)
        assert same(one.decision.action, other.decision.action)
        assert same(one.decision.estimates["target"], vector(1, 2, 3))
        assert one.decision.inference_s == 1e-3
    assert [(one.begun_s, one.number, one.tick) for one in found.episodes] == [(99.5, 7, 0), (101.5, 8, 2)]
    (was,) = found.sents
    assert (was.origin, was.sequence, was.stamp_s, was.reasons, was.rung) == (
        1,
        1,
        100.5,
        ("velocity", "jerk"),
        2,
    )
    assert same(was.commanded, vector(1, math.nan))
    assert same(was.sent, vector(1, 0))
    (state,) = found.states
    assert (state.captured_s, state.sequence, state.strangers) == (102.0, 9, 0)
    assert same(state.target, reading.target)
    assert [(one.moment_s, one.kind, one.message) for one in found.events] == [
        (103.25, "stale_front", "front is 0.2 s old")
    ]


@settings(max_examples=60)
@given(
    values=FLOATS,
    other=st.sampled_from(["float64", "float16", "int64", "uint8", "bool"]),
    ndim=st.integers(0, 3),
)
def test_arrays_of_any_bits_types_and_shapes_come_back(values, other, ndim, tmp_path):
    strange = np.resize(np.arange(8) * 37, (2,) * ndim).astype(other)
    decision = Decision(command=values, action=values, estimates={"x": strange}, inference_s=0.0)
    write(tmp_path / "a.mcap", [tick(decision=decision)])
    (found,) = read_log(tmp_path / "a.mcap").ticks
    assert same(found.decision.command, values)
    assert same(found.decision.estimates["x"], strange)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_of_every_encoding_come_back_bit_for_bit(tmp_path, name):
    image = PICTURES[name]
    write(tmp_path / "a.mcap", [tick(image=image)])
    (found,) = read_log(tmp_path / "a.mcap").ticks
    assert same(found.channels["front"], image)
    ((schema, content),) = messages(tmp_path / "a.mcap", "/camera/front")
    assert (schema.name, schema.encoding) == ("foxglove.RawImage", "jsonschema")
    assert (content["width"], content["height"]) == (4, 3)
    wanted = {"depth_u8": "mono8", "rgb_u8": "rgb8", "segment_i16": "16UC1"}.get(name, "32FC1")
    assert content["encoding"] == wanted


def test_colours_are_interleaved_as_foxglove_wants_them(tmp_path):
    write(tmp_path / "a.mcap", [tick(image=PICTURES["rgb_u8"])])
    ((_, content),) = messages(tmp_path / "a.mcap", "/camera/front")
    assert content["step"] == 12
    # red, green and blue of the first pixel are the first of each of 3 planes of 12 pixels
    assert list(form.unbase64(content["data"])[:3]) == [0, 12, 24]
    assert content["timestamp"] == {"sec": 100, "nsec": 40_000_000}


def test_a_picture_that_no_log_can_hold_is_refused_by_name(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    log.tick(tick(image=np.zeros((2, 3, 4), np.float64)))
    with pytest.raises(ValueError, match="camera front: a log cannot hold 2 channels of float64"):
        log.flush()


def test_a_picture_seen_in_two_ticks_is_written_once_and_another_of_the_same_time_is_not_lost(tmp_path):
    image = black(1)
    ticks = [
        tick(1, image=image, at=1.0), tick(2, image=image, at=1.0), tick(3, image=image.copy(), at=1.0),
        tick(4, image=black(2), at=1.0), tick(5, image=black(2), at=1.1),
    ]  # fmt: skip
    write(tmp_path / "a.mcap", ticks)
    assert len(messages(tmp_path / "a.mcap", "/camera/front")) == 3
    found = read_log(tmp_path / "a.mcap").ticks
    assert [int(one.channels["front"][0, 0, 0]) for one in found] == [1, 1, 1, 2, 2]
    assert "front" not in read_log(tmp_path / "a.mcap", pictures=False).ticks[0].channels


def test_a_log_says_what_it_is_of_and_when_on_the_wall_clock(tmp_path):
    write(tmp_path / "a.mcap")
    about = read_log(tmp_path / "a.mcap").about
    assert about.items() >= ABOUT.items()
    assert {"robokd", "onnxruntime", "numpy", "mcap"} <= set(about)
    now_ns = time.monotonic_ns() + int(about["wall_offset_ns"])
    assert abs(now_ns - time.time_ns()) < 60e9


def test_the_hash_is_over_command_and_action_of_every_tick(tmp_path):
    ticks = [tick(1), tick(2)]
    wanted = hashlib.sha256()
    for one in ticks:
        wanted.update(one.decision.command.tobytes() + one.decision.action.tobytes())
    assert write(tmp_path / "a.mcap", ticks) == wanted.hexdigest()
    assert read_log(tmp_path / "a.mcap").actions_sha256 == wanted.hexdigest()
    with (tmp_path / "a.mcap").open("rb") as stream:
        ends = {one.name: one.metadata for one in make_reader(stream).iter_metadata()}
    assert ends["robokd.end"] == {"actions_sha256": wanted.hexdigest(), "ticks": "2"}


def foxglove_takes(schema: dict, where: str = "") -> None:
    """What Foxglove's reader of JSON schemas does not throw at: packages/mcap-support of its source."""
    assert schema["type"] == "object", where
    for name, field in schema["properties"].items():
        inner = f"{where}.{name}"
        if "oneOf" in field:
            assert all(isinstance(one["const"], int) for one in field["oneOf"]), inner
            continue
        assert field["type"] in ("boolean", "string", "number", "integer", "object", "array"), inner
        assert field.get("contentEncoding", "base64") == "base64", inner
        if field["type"] == "object":
            foxglove_takes(field, inner)
        elif field["type"] == "array":
            assert field["items"]["type"] in ("boolean", "string", "number", "integer", "object"), inner
            assert "contentEncoding" not in field["items"], inner
            if field["items"]["type"] == "object":
                foxglove_takes(field["items"], inner)


def fits(value, schema: dict, where: str) -> None:
    """Whether a message is what its schema says, but for further fields and numbers that are null."""
    if "oneOf" in schema:
        assert value in [one["const"] for one in schema["oneOf"]], where
        return
    types = {
        "boolean": bool, "string": str, "number": (float, int, type(None)), "integer": int, "object": dict,
        "array": list,
    }  # fmt: skip
    assert isinstance(value, types[schema["type"]]), where
    if schema["type"] == "object":
        for name, field in schema["properties"].items():
            fits(value[name], field, f"{where}.{name}")
    if schema["type"] == "array":
        for item in value:
            fits(item, schema["items"], where)


def test_foxglove_can_read_every_message_by_its_schema(tmp_path):
    path = tmp_path / "a.mcap"
    log = Log(path, ABOUT)
    strange = Decision(
        command=vector(math.nan, math.inf), action=vector(0, 0), inference_s=0.0,
        estimates={"map": np.zeros((2, 2), np.float16)},
    )  # fmt: skip
    log.episode(1.0, 0)
    log.tick(tick(image=black(), decision=strange))
    log.sent(sent())
    log.state(JointReading(captured_s=1.0, position=vector(1), velocity=vector(1), target=vector(math.nan)))
    log.event(1.0, "end", "")
    log.close()
    seen = set()
    with path.open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 6
        assert len(summary.chunk_indexes) == 1
        for schema, channel, message in reader.iter_messages():
            described = json.loads(schema.data)
            foxglove_takes(described)
            # strictly JSON: Foxglove's parser knows no NaN
            content = json.loads(message.data, parse_constant=lambda name: pytest.fail(name))
            fits(content, described, channel.topic)
            assert described["title"] == schema.name
            seen.add((channel.topic, schema.name))
    assert {("/event", "foxglove.Log"), ("/camera/front", "foxglove.RawImage")} <= seen
    assert {topic for topic, _ in seen} >= {"/tick", "/sent", "/state", "/episode"}
    assert messages(path, "/tick")[0][1]["command"] == [None, None]
    assert messages(path, "/event")[0][1]["level"] == 3


def test_work_writes_only_while_there_is_time(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    for number in range(1, 51):
        log.tick(tick(number))
    log.work(time.monotonic() - 1)
    assert len(log._waiting) == 50
    log.work(time.monotonic() + 10)
    assert not log._waiting
    log.close()
    assert len(read_log(tmp_path / "a.mcap").ticks) == 50


def test_work_does_not_begin_a_message_that_would_take_too_long_but_tries_again_later(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    log.tick(tick())
    log._cost_s["/tick"] = 0.1  # a slow disk, once
    calls = 0
    while log._waiting:
        log.work(time.monotonic() + 0.02)
        calls += 1
    # 0.9 ** 16 * 0.1 s is the first below 0.02 s
    assert calls in (16, 17)
    log.close()


def test_work_keeps_its_time_by_the_thread_s_own_clock(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    spent = []
    for number in range(1, 301):
        image = np.random.default_rng(number).integers(0, 255, (1, 64, 64), np.uint8)
        log.tick(tick(number, image=image))
        log.sent(sent(number))
        begun = time.thread_time()
        log.work(time.monotonic() + 2e-3)
        spent.append(time.thread_time() - begun)
    log.close()
    assert max(spent) < 3e-3
    assert len(read_log(tmp_path / "a.mcap").ticks) == 300


def test_flush_writes_everything_and_the_file_can_be_read_while_it_is_open(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    log.tick(tick())
    log.flush()
    found = read_log(tmp_path / "a.mcap")
    assert (len(found.ticks), found.is_whole) == (1, False)
    log.close()


def test_closing_twice_gives_the_same_and_nothing_is_remembered_after_it(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    log.tick(tick())
    first = log.close()
    log.sent(sent())
    assert log.close() == first
    assert not log._waiting


class FullDisk:
    """A file on a disk with room for so many bytes more."""

    def __init__(self, file, room) -> None:
        self._file, self._room = file, room

    def write(self, data) -> int:
        place = self._file.tell()
        if place >= self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(data[: self._room - place])

    def __getattr__(self, name):
        return getattr(self._file, name)


def fill(log, count=40) -> int:
    """Log until the disk is full; return how often that was said."""
    told = []
    for number in range(1, count + 1):
        log.tick(tick(number, image=black(number)))
        log.sent(sent(number))
        try:
            log.work(time.monotonic() + 10)
            log.flush()
        except LogError as error:
            told.append(str(error))
    assert all("No space left" in one or "File too large" in one for one in told)
    return len(told)


def whole_size(tmp_path) -> int:
    log = Log(tmp_path / "whole.mcap", ABOUT)
    assert fill(log) == 0
    log.close()
    return (tmp_path / "whole.mcap").stat().st_size


@pytest.mark.parametrize("share", np.linspace(0.03, 0.93, 31))
def test_a_full_disk_is_told_once_and_the_file_stays_readable(tmp_path, monkeypatch, share):
    room = int(whole_size(tmp_path) * share) + int(100 * share)
    log = Log(tmp_path / "a.mcap", ABOUT)
    log._tape._file = FullDisk(log._tape._file, room)
    told = fill(log)
    try:
        log.close()
    except LogError:  # only the end found no room
        told += 1
    log.close()
    assert told == 1
    assert (tmp_path / "a.mcap").stat().st_size <= room
    found = read_log(tmp_path / "a.mcap")
    assert not found.is_whole or len(found.ticks) == 40  # where it is whole, only the summary is not
    assert [one.number for one in found.ticks] == list(range(1, len(found.ticks) + 1))
    assert len(found.ticks) >= 40 * (share - 0.35)  # the summary at the end takes a quarter of this tiny file
    with (tmp_path / "a.mcap").open("rb") as stream:
        assert len(list(make_reader(stream).iter_messages(topics=["/tick"]))) == len(found.ticks)


def test_a_limit_of_the_system_on_the_file_s_size_is_met_the_same_way(tmp_path):
    log = Log(tmp_path / "a.mcap", ABOUT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        told = fill(log)
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told == 1
    with (tmp_path / "a.mcap").open("rb") as stream:
        assert len(list(make_reader(stream).iter_messages(topics=["/tick"]))) > 5


def test_a_log_that_cannot_be_begun_is_an_error_that_names_it(tmp_path):
    with pytest.raises(LogError, match=r"cannot write .*nowhere"):
        Log(tmp_path / "nowhere" / "a.mcap", ABOUT)


def test_the_end_of_a_file_without_room_for_it_takes_the_place_of_what_was_last(tmp_path):
    tape = Tape(tmp_path / "a")
    tape.write(b"first")
    tape.write(b"x" * len(ENDING))
    tape._file = FullDisk(tape._file, 5 + len(ENDING))
    with pytest.raises(OSError, match="No space"):
        tape.write(b"y" * 100)
    tape.end()
    tape.close()
    assert (tmp_path / "a").read_bytes() == b"first" + ENDING
