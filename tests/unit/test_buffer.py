"""The aggregated data set: a ring that keeps every row a checkpoint counts on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from robokd import UserError
from robokd.learn.buffer import Buffer, columns_of, planned_bytes


def _rows(first: int, count: int) -> TensorDict:
    numbers = torch.arange(first, first + count)
    pixels = (numbers % 256).to(torch.uint8)[:, None].expand(count, 6).reshape(count, 2, 3)
    return TensorDict({"number": numbers, "picture": pixels}, batch_size=[count])


def _numbers(buffer: Buffer) -> list[int]:
    return buffer.rows(torch.arange(len(buffer)))["number"].tolist()


@settings(max_examples=40)
@given(st.integers(1, 12), st.integers(0, 6), st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_the_window_holds_the_newest_rows_oldest_first(tmp_path_factory, capacity, slack, sizes):
    folder = tmp_path_factory.mktemp("buffer")
    buffer, added = Buffer(folder, columns_of(_rows(0, 1)), capacity, slack), 0
    for size in sizes:
        size = min(size, capacity + slack)
        buffer.add(_rows(added, size))
        added += size
        wanted = list(range(max(0, added - capacity), added))
        assert _numbers(buffer) == wanted
        assert buffer.column("number").tolist() == wanted
        pictures = buffer.rows(torch.arange(len(buffer)))["picture"]
        assert pictures[:, 1, 2].tolist() == [number % 256 for number in wanted]


def test_rows_added_after_a_checkpoint_leave_those_it_counts_on(tmp_path):
    columns = columns_of(_rows(0, 1))
    buffer = Buffer(tmp_path, columns, 10, 4)
    for first in range(0, 36, 4):
        buffer.add(_rows(first, 4))
    buffer.flush()
    written, counted_on = buffer.written, _numbers(buffer)
    buffer.add(_rows(36, 4))  # and then the process is killed
    again = Buffer(tmp_path, columns, 10, 4, written)
    assert _numbers(again) == counted_on == list(range(26, 36))


def test_rows_held_on_a_device_are_those_of_the_files_and_come_back_from_them(tmp_path):
    columns = columns_of(_rows(0, 1))
    plain, held = Buffer(tmp_path / "a", columns, 10, 4), Buffer(tmp_path / "b", columns, 10, 4, is_held=True)
    for first in range(0, 36, 4):
        for buffer in (plain, held):
            buffer.add(_rows(first, 4))
        everything = torch.arange(len(plain))
        assert (held.rows(everything) == plain.rows(everything)).all()
        assert torch.equal(held.column("number"), plain.column("number"))
        if first == 28:
            held.flush()  # a checkpoint
    # rows 32 … 35 are on the device alone, in the places of 18 … 21: nobody waited for a copy
    assert held._maps["number"][4:8].tolist() == [18, 19, 20, 21]
    held.flush()
    assert not held._unsaved
    for source in held._maps.values():
        assert source.any()
    again = Buffer(tmp_path / "b", columns, 10, 4, held.written, is_held=True)
    assert _numbers(again) == _numbers(plain)
    for source in held._maps.values():
        source[:] = 0  # what is read is the copy
    assert _numbers(held) == _numbers(plain)


def test_rows_that_other_processes_wrote_are_taken_over_from_the_files(tmp_path):
    columns = columns_of(_rows(0, 1))
    one = Buffer(tmp_path, columns, 8, 0, is_held=True)
    other = Buffer(tmp_path, columns, 8, 0, exists=True, is_held=True)
    for first in (0, 4):
        for buffer, own in ((one, [0, 2]), (other, [1, 3])):
            buffer.add(_rows(first, 4)[own], torch.tensor(own), 4)
            buffer.save()
        for buffer in (one, other):
            buffer.hold(4)
    assert _numbers(one) == _numbers(other) == list(range(8))


def test_a_file_of_another_size_is_not_resumed(tmp_path):
    columns = columns_of(_rows(0, 1))
    Buffer(tmp_path, columns, 10, 4).add(_rows(0, 3))
    with pytest.raises(UserError, match=r"number.bin has 112 bytes, wanted 160: it cannot be resumed"):
        Buffer(tmp_path, columns, 10, 10, written=3)


def test_the_planned_size_is_the_size_on_disk_and_removing_leaves_nothing(tmp_path):
    columns = columns_of(_rows(0, 1))
    buffer = Buffer(tmp_path / "b", columns, 10, 4)
    assert sum(file.stat().st_size for file in (tmp_path / "b").iterdir()) == planned_bytes(columns, 14)
    buffer.remove()
    assert not (tmp_path / "b").exists()
