"""A log is read up to where it was cut, and what was altered, or is none, is refused."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import ABOUT, black, sent, tick, vector, write
from robokd.sim2real import log_format as form
from robokd.sim2real.log import Log
from robokd.sim2real.log_reader import find_log, read_log
from robokd.sim2real.robot import JointReading

from robokd import UserError
from robokd.report import _times


def is_read_or_refused(path, *, is_altered: bool = False) -> bool:
    """Whether the reader gives one of its two answers; an altered file is not to be called whole."""
    try:
        found = read_log(path)
    except UserError as error:
        return str(path) in str(error)
    return not (is_altered and found.is_whole)


def test_a_file_cut_anywhere_is_read_up_to_there(tmp_path, monkeypatch):
    monkeypatch.setattr(form, "CHUNK_BYTES", 1000)
    whole, cut = tmp_path / "a.mcap", tmp_path / "cut.mcap"
    write(whole, [tick(number, image=black(number)) for number in range(1, 6)])
    data, counts = whole.read_bytes(), []
    for size in range(0, len(data), 11):
        cut.write_bytes(data[:size])
        try:
            found = read_log(cut)
        except UserError:
            assert not counts  # only while it does not even say what it is of
            continue
        assert not found.is_whole
        counts.append(len(found.ticks))
    assert counts == sorted(counts)
    assert set(counts) >= {0, 2, 5}
    assert read_log(whole).is_whole


def test_a_killed_process_leaves_a_log_that_is_read_up_to_its_last_chunk(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from log_samples import *\n"
        "log = Log(Path(sys.argv[2]), ABOUT)\n"
        "for number in range(1, 10**9):\n"
        "    log.tick(tick(number, image=black(number % 256))); log.work(time.monotonic() + 1)\n"
        "    print(number, flush=True)"
    )
    path = tmp_path / "a.mcap"
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 500:
            break
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    found = read_log(path)
    assert not found.is_whole
    # a chunk holds about 40 of these ticks
    assert len(found.ticks) > 400
    assert [one.number for one in found.ticks] == list(range(1, len(found.ticks) + 1))
    assert _times(path)["inference"] == [1.0] * len(found.ticks)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.mcap"
    log = Log(path, ABOUT)
    log.episode(1.0, 0)
    for number in range(1, 5):
        log.tick(tick(number, image=black(number)))
        log.sent(sent(number))
    log.event(2.0, "end", "")
    log.close()
    return path.read_bytes()


@settings(max_examples=400)
@given(data=st.data())
def test_a_mutated_file_is_a_recording_or_a_user_error(whole, tmp_path, data):
    mutant = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutant) - 1))
        how = data.draw(st.sampled_from(["flip", "insert", "delete", "number"]))
        if how == "flip":
            mutant[place] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "insert":
            mutant[place:place] = data.draw(st.binary(max_size=20))
        elif how == "delete":
            del mutant[place : place + data.draw(st.integers(1, 50))]
        else:
            mutant[place : place + 8] = struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1)))
    path = tmp_path / "mutant.mcap"
    path.write_bytes(mutant)
    assert is_read_or_refused(path)
    path.write_bytes(bytes(mutant) + b"x")
    assert is_read_or_refused(path, is_altered=True)


def test_a_flipped_bit_in_the_data_is_never_taken(whole, tmp_path):
    path = tmp_path / "flipped.mcap"
    ends = whole.index(b"robokd.end")
    for place in range(100, ends, 97):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        assert is_read_or_refused(path, is_altered=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**70), 2**70) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=250)
@given(topic=st.integers(0, 5), place=st.integers(0, 12), value=VALUES, is_inner=st.booleans())
def test_messages_of_any_content_are_a_recording_or_a_user_error(tmp_path, topic, place, value, is_inner):
    """Files whose checksums are right and whose messages are not what they should be."""
    original, count = form.to_json, [0]

    def altered(content):
        content = json.loads(original(content))
        if "properties" not in content:  # a schema
            if count[0] == topic:
                row = content.get("channels", content) if is_inner else content
                row[[*row, "stranger"][place % (len(row) + 1)]] = value
            count[0] += 1
        return json.dumps(content).encode()

    path = tmp_path / "a.mcap"
    log = Log(path, ABOUT)
    log.tick(tick(image=black()))
    log.sent(sent())
    log.state(JointReading(captured_s=1.0, position=vector(1), velocity=vector(1), target=vector(math.nan)))
    log.episode(1.0, 1)
    log.event(1.0, "end", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(form, "to_json", altered)
        log.close()
    assert count == [6]
    assert is_read_or_refused(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data + b"x", "stands after its end"),
        (lambda data: data.replace(b"version\x01\x00\x00\x001", b"version\x01\x00\x00\x002"), "version 2"),
    ],
)
def test_what_is_no_log_is_refused_by_what_it_is(whole, tmp_path, change, said):
    path = tmp_path / "no.mcap"
    path.write_bytes(change(whole))
    with pytest.raises(UserError, match="altered, or is none of robokd") as caught:
        read_log(path)
    assert said in str(caught.value)


def footed(data):
    """An MCAP file of nothing: magic, footer, magic."""
    return data[:8] + b"\x02" + struct.pack("<Q", 20) + bytes(20) + data[:8]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"PK\x03\x04" + data, "it begins with b'PK\\x03\\x04\\x89MCA', an MCAP file with"),
        (lambda data: b"{}", "it begins with b'{}', an MCAP file with"),
        (footed, "it has no metadata 'robokd'; `robokd deploy …` leaves one"),
    ],
)
def test_what_something_else_has_made_is_called_no_log_of_robokd(whole, tmp_path, change, said):
    path = tmp_path / "no.mcap"
    path.write_bytes(change(whole))
    with pytest.raises(UserError, match=r"no\.mcap is not a log of robokd 1: ") as caught:
        read_log(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("size", [0, 5, 8, 12, 40])
def test_a_log_that_was_cut_before_it_says_anything_is_called_empty_or_cut(whole, tmp_path, size):
    path = tmp_path / "cut.mcap"
    path.write_bytes(whole[:size])
    said = f"was cut within its first record: nothing can be read of its {size} bytes" if size else "is empty"
    with pytest.raises(UserError, match=rf"^log .*cut\.mcap {said}.*`robokd deploy …` makes another$"):
        read_log(path)


def test_a_log_is_found_in_its_run_and_by_its_name(tmp_path):
    write(tmp_path / "log.mcap")
    assert find_log(tmp_path) == find_log(tmp_path / "log.mcap") == tmp_path / "log.mcap"
    with pytest.raises(UserError, match=r"nothing\.mcap does not exist\. Logs near: .*log\.mcap"):
        find_log(tmp_path / "nothing.mcap")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"there is no log\.mcap in .*empty"):
        find_log(tmp_path / "empty")
