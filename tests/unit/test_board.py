"""A reader of the board sees whole pictures only, and the newest, whatever a writer is in the middle of."""

import itertools
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from robokd.sim2real import board as board_module
from robokd.sim2real.board import HEAD, PLACES, Board
from robokd.sim2real.robot import Frame

from robokd.specs import CameraSpec

FRONT = CameraSpec(name="front", width=16, height=12, position_m=(0.1, 0.2, 0.3))
WRIST = CameraSpec(name="wrist", width=8, height=4, position_m=(0.1, 0.2, 0.3))
CAMERAS = {"front": FRONT, "wrist": WRIST}
WRITER = """
import sys, time
import numpy as np
from robokd.sim2real.board import Board
from robokd.sim2real.robot import Frame
from robokd.specs import CameraSpec
spec = CameraSpec(name="front", width=160, height=120, position_m=(0.1, 0.2, 0.3))
board, until, count = Board({"front": spec}, int(sys.argv[1])), time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < until:
    count += 1
    board.write(Frame(camera="front", captured_s=count, image=np.full(spec.shape, count % 251, spec.dtype)))
print(count)
"""


@pytest.fixture
def board():
    made = Board(CAMERAS)
    yield made
    made.close()


def frame(shade: int, camera: str = "front", captured_s: float | None = None) -> Frame:
    spec = CAMERAS[camera]
    image = np.full(spec.shape, shade, spec.dtype)
    return Frame(camera=camera, captured_s=shade if captured_s is None else captured_s, image=image)


def shade(board: Board, camera: str = "front") -> int | None:
    """The shade of the picture that is read; it must be of one frame, with the time of that frame."""
    if (found := board.read(camera)) is None:
        return None
    seen, _ = found
    assert (seen.image == seen.image.flat[0]).all()
    assert seen.captured_s == seen.image.flat[0]
    return int(seen.image.flat[0])


def place_bytes(board: Board, place: int, camera: str = "front") -> np.ndarray:
    """The bytes of a place, to be spoiled."""
    return board._places[camera][place : place + 1].view(np.uint8)


def test_an_empty_board_shows_nothing(board):
    assert board.read("front") is None
    assert board.read("wrist") is None


def test_what_is_written_is_read(board):
    image = np.random.default_rng(0).integers(0, 255, FRONT.shape).astype(FRONT.dtype)
    board.write(Frame(camera="front", captured_s=12.25, image=image))
    seen, number = board.read("front")
    assert (seen.camera, seen.captured_s, number) == ("front", 12.25, 1)
    assert np.array_equal(seen.image, image)
    assert seen.image.dtype == np.dtype(FRONT.dtype)


def test_the_newest_wins_and_numbers_rise(board):
    for count in range(1, 8):
        board.write(frame(count))
        assert shade(board) == count
        assert board.read("front")[1] == count


def test_cameras_do_not_share_places(board):
    board.write(frame(1))
    assert board.read("wrist") is None
    board.write(frame(9, "wrist"))
    board.write(frame(10, "wrist"))
    assert (shade(board), shade(board, "wrist")) == (1, 10)


def test_a_picture_that_was_read_does_not_change(board):
    board.write(frame(1))
    seen, _ = board.read("front")
    for count in range(2, 6):
        board.write(frame(count))
    assert (seen.image == 1).all()
    seen.image[:] = 77
    assert shade(board) == 5


@pytest.mark.parametrize("order", list(itertools.permutations(("sequence", "captured_s", "crc", "image"))))
def test_a_write_that_stops_anywhere_leaves_the_picture_before(board, order):
    board.write(frame(1))
    older = board._places["front"][1].copy()
    board.write(frame(2))
    board.write(frame(3))
    newest = board._places["front"][1].copy()
    for stop in range(1, len(order) + 1):  # the parts of a newer picture have come, in any order, up to here
        torn = older.copy()
        for part in order[:stop]:
            (torn if part == "image" else torn["head"])[part] = (
                newest if part == "image" else newest["head"]
            )[part]
        board._places["front"][1] = torn
        assert shade(board) == (3 if stop == len(order) else 2)


def test_a_picture_of_which_some_bytes_are_old_is_not_shown(board):
    board.write(frame(1))
    older = place_bytes(board, 1).copy()
    board.write(frame(2))
    board.write(frame(3))
    newest = place_bytes(board, 1).copy()
    for cut in range(HEAD.itemsize - 4, len(newest)):  # `rest` is of no meaning
        for first, last in ((newest, older), (older, newest)):
            place_bytes(board, 1)[:] = np.concatenate([first[:cut], last[cut:]])
            whole = np.array_equal(place_bytes(board, 1)[: HEAD.itemsize - 4], newest[: HEAD.itemsize - 4])
            whole &= np.array_equal(place_bytes(board, 1)[HEAD.itemsize :], newest[HEAD.itemsize :])
            assert shade(board) == (3 if whole else 2), cut


def test_a_turned_bit_hides_a_picture(board):
    board.write(frame(1))
    board.write(frame(2))
    covered = [
        byte for byte in range(place_bytes(board, 0).size) if not HEAD.itemsize - 4 <= byte < HEAD.itemsize
    ]
    for byte, bit in itertools.product(covered, range(8)):
        place_bytes(board, 0)[byte] ^= 1 << bit
        assert shade(board) == 1
        place_bytes(board, 0)[byte] ^= 1 << bit
    assert shade(board) == 2


def test_nothing_whole_is_nothing(board):
    for count in range(1, PLACES + 1):
        board.write(frame(count))
    for place in range(PLACES):
        place_bytes(board, place)[-1] ^= 1
    assert board.read("front") is None


def test_a_reader_that_finds_both_places_torn_looks_again(board, monkeypatch):
    board.write(frame(1))
    glance, tries = board._glance, []
    monkeypatch.setattr(
        board, "_glance", lambda camera: tries.append(camera) or (len(tries) > 1 and glance(camera)) or None
    )
    assert shade(board) == 1
    assert len(tries) == 2
    assert board_module.TRIES > 1


def test_another_process_opens_it_by_its_descriptor(board):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_board import *\n"
        "other = Board(CAMERAS, int(sys.argv[1])); print(shade(other)); other.write(frame(33)); other.close()"
    )
    board.write(frame(32))
    words = [sys.executable, "-c", code, str(board.descriptor), os.path.dirname(__file__)]
    done = subprocess.run(words, pass_fds=[board.descriptor], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "32"
    time.sleep(0)
    assert {shade(board)} <= {32, 33}  # the other one began to count anew


def test_a_board_of_other_cameras_does_not_open(board):
    with pytest.raises(ValueError, match="greater than"):
        Board(
            {"front": CameraSpec(name="front", width=160, height=120, position_m=(0, 0, 0.5))},
            board.descriptor,
        )


def test_a_reader_beside_a_writer_never_sees_two_pictures_in_one():
    spec = CameraSpec(name="front", width=160, height=120, position_m=(0.1, 0.2, 0.3))
    board = Board({"front": spec})
    words = [sys.executable, "-c", WRITER, str(board.descriptor), "1.0"]
    with subprocess.Popen(words, pass_fds=[board.descriptor], stdout=subprocess.PIPE, text=True) as writer:
        last = reads = missed = 0
        while writer.poll() is None:
            if (found := board.read("front")) is None:
                missed += last > 0
                continue
            seen, number = found
            assert number >= last  # never an older one than before
            assert seen.captured_s == number
            assert (seen.image == number % 251).all()
            last, reads = number, reads + 1
        assert writer.stdout is not None
        assert board.read("front")[1] == int(writer.stdout.read())
    assert reads > 100
    assert missed <= 0.01 * reads  # against a writer that never rests
    board.close()
