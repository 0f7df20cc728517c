"""What a benchmark's rows say follows from what was measured."""

import json
import time

import numpy as np
import pytest

from robokd.bench import agreement
from robokd.bench.row import Effort, Gate, Measure, Row, in_turn, per
from robokd.files import to_json


def gate(*pairs):
    measures = tuple(Measure(name="x", value=value, limit=limit) for value, limit in pairs)
    return Gate(name="the same", measures=measures)


def test_a_row_says_medians_and_how_many_times_cheaper_ours_is():
    row = Row(
        name="a", peer_name="b", unit="us/frame", gate=gate((0.1, 0.2)), ours_all=(3.0, 2.0, 10.0),
        peer_all=(90.0, 120.0, 100.0),
    )  # fmt: skip
    said = json.loads(to_json(row.to_dict()))
    assert (said["ours"], said["peer"]) == (3.0, 100.0)
    assert said["ratio"] == pytest.approx(100 / 3)
    assert (said["ratio_min"], said["ratio_max"]) == (10.0, 60.0)  # of a turn: 100 / 10, 120 / 2
    assert said["ours_frames_per_s"] == pytest.approx(1e6 / 3)
    assert said["gate"]["ok"] is True
    assert said["gate"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("pairs", "ok"),
    [([(0.2, 0.2)], True), ([(0.1, 0.2), (0.3, 0.2)], False), ([(0.0, 0.0)], True), ([(1e-9, 0.0)], False)],
)
def test_a_gate_fails_by_its_worst_measure(pairs, ok):
    assert gate(*pairs).ok is ok


def test_a_gate_that_compared_nothing_fails_and_fits_in_json():
    nothing = np.zeros((1, 4, 4))
    found = Gate(name="depth", measures=agreement.depths(nothing, nothing, nothing > 0))
    assert not found.ok
    assert "Infinity" not in to_json(found.to_dict()).decode()
    assert not Gate(
        name="colour", measures=agreement.colours(nothing[:, None], nothing[:, None], nothing > 0)
    ).ok


def test_sides_are_measured_in_turn_and_by_the_cpu_time_that_they_take():
    calls = []

    def busy(name, seconds):
        calls.append(name)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    effort = Effort(repeats=3, burst_s=0.0)
    ours, peer = in_turn(lambda: busy("ours", 0.004), lambda: busy("peer", 0.02), effort)
    assert calls == ["ours"] * 2 + ["peer"] * 2 + ["ours", "peer"] * 3  # the first two warm up
    assert min(ours) == pytest.approx(0.004, rel=0.5)  # the others may have been in somebody's way
    assert min(peer) == pytest.approx(0.02, rel=0.5)
    assert per((0.004,), 8) == (500.0,)


def test_a_cheap_side_is_called_until_its_burst_is_full():
    calls = []
    in_turn(
        lambda: calls.append(sum(range(20_000))), lambda: time.sleep(0.001), Effort(repeats=1, burst_s=0.02)
    )
    assert len(calls) > 10


def test_depths_are_judged_apart_on_flat_and_curved_shapes():
    theirs = np.full((1, 10, 10), 2.0)
    is_flat = np.zeros(theirs.shape, dtype=bool)
    is_flat[:, :5] = True
    ours = theirs + np.where(is_flat, 2e-5, 5e-5)
    ours[0, 0, 0] = 0.0  # one of a hundred sees nothing
    flat, curved, off = agreement.depths(ours, theirs, is_flat)
    assert (flat.value, curved.value) == (pytest.approx(2e-5, rel=1e-6), pytest.approx(5e-5, rel=1e-6))
    assert (flat.value <= flat.limit, curved.value <= curved.limit) == (False, True)
    assert off.value == pytest.approx(0.01)
    assert off.value > off.limit


def test_colours_are_compared_only_where_both_see_the_same():
    ours, theirs = np.zeros((1, 3, 2, 2), np.uint8), np.zeros((1, 3, 2, 2), np.uint8)
    ours[0, :, 0, 0] = (3, 6, 9)
    ours[0, :, 1, 1] = 255
    is_same = np.array([[[True, True], [True, False]]])
    (found,) = agreement.colours(ours, theirs, is_same)
    assert found.value == pytest.approx(6 / 3)  # 6 in one of three pixels


def test_segments_and_first_pictures_are_compared_pixel_by_pixel():
    left = np.arange(8).reshape(1, 1, 2, 4)
    right = left.copy()
    right[0, 0, 0, 0] = 7
    assert agreement.segments(left, right)[0].value == pytest.approx(1 / 8)
    assert agreement.identical("depth", left, left).value == 0
    assert agreement.identical("depth", left, right).value == pytest.approx(1 / 8)
