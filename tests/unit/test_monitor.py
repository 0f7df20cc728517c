"""The monitor says when a camera stops showing what it showed in training, when it is back, and is quick."""

from __future__ import annotations

import time

import numpy as np
import pytest
from robokd.sim2real.monitor import Monitor

from robokd.export.sight import WINDOW, Sight, read_statistics, statistics
from robokd.specs import CameraSpec

SPEC = CameraSpec(name="front", near_m=0.1, far_m=2.0)
LENGTH = 40


def episode(seed: int, noise: float) -> np.ndarray:
    """Pictures (LENGTH, 1, 64, 64) of a sloping ground and a disc that moves, as codes."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    at, step = rng.uniform(15, 45, 2), rng.normal(0, 0.3, 2)
    images = []
    for number in range(LENGTH):
        row, column = at + number * step
        code = np.where((rows - row) ** 2 + (columns - column) ** 2 < 80, 60, 120 + rows)
        images.append(np.clip(code + noise * rng.normal(size=code.shape), 1, 255).astype(np.uint8)[None])
    return np.stack(images)


def learn(noise: float, episodes: int = 32) -> Sight:
    images = np.concatenate([episode(seed, noise) for seed in range(episodes)])
    row = statistics(images, SPEC, np.repeat(np.arange(episodes), LENGTH), flickers=noise > 0)
    return read_statistics(row, SPEC)


@pytest.fixture(scope="module")
def sight() -> Sight:
    return learn(noise=1.5)


def test_no_alarm_is_raised_in_thirty_clean_episodes(sight):
    monitor = Monitor(sight)
    for seed in range(100, 130):
        monitor.begin()
        for image in episode(seed, 1.5):
            monitor.see(image)
            assert not monitor.is_off


def test_an_alarm_begins_within_a_window_and_ends_within_one(sight):
    monitor = Monitor(sight)
    images = episode(100, 1.5)
    began, ended = [], []
    for number, image in enumerate(images):
        distance = monitor.see(image[:, ::-1] if 12 <= number < 28 else image)
        assert (distance > 1) == (12 <= number < 28)
        began += [number] * monitor.began
        ended += [number] * monitor.ended
    half = WINDOW // 2  # the median is beyond the limit once more than half of the window is
    assert (began, ended) == ([12 + half], [28 + half])
    assert monitor.off_for == 0


def test_off_for_counts_pictures_and_begin_forgets_them(sight):
    monitor = Monitor(sight)
    for image in episode(100, 1.5)[:30]:
        monitor.see(image[:, ::-1])
    assert monitor.off_for == 30 - (WINDOW - 1)
    assert monitor.is_off
    monitor.begin()
    assert not monitor.is_off
    assert monitor.median == 0


def test_a_few_bad_pictures_are_no_alarm(sight):
    monitor = Monitor(sight)
    for number, image in enumerate(episode(100, 1.5)):
        monitor.see(np.zeros_like(image) if number % 12 < 4 else image)
        assert not monitor.is_off


def test_a_picture_that_stands_still_is_an_alarm_where_it_never_did(sight):
    monitor = Monitor(sight)
    image = episode(100, 1.5)[0]
    for _ in range(WINDOW + 1):
        monitor.see(image)
        assert not monitor.is_off
    monitor.see(image)
    assert monitor.is_frozen
    assert monitor.began
    for other in episode(101, 1.5)[:1]:
        monitor.see(other)
    assert monitor.ended


def test_a_simulated_camera_without_noise_may_stand_still():
    monitor = Monitor(learn(noise=0.0, episodes=6))
    image = episode(100, 0.0)[0]
    for _ in range(50):
        monitor.see(image)
    assert not monitor.is_off
    assert monitor._repeats == 49


def test_the_median_is_the_one_of_the_window(sight):
    monitor, seen = Monitor(sight), []
    for image in episode(102, 1.5):
        seen.append(monitor.see(image))
        recent = sorted(seen[-WINDOW:])
        assert monitor.median == recent[len(recent) // 2]


def test_a_picture_costs_less_than_a_fifth_of_a_millisecond(sight):
    monitor, image = Monitor(sight), episode(100, 1.5)[0]
    spent = []
    for _ in range(300):
        started = time.perf_counter()
        monitor.see(image)
        spent.append(time.perf_counter() - started)
    assert np.quantile(spent, 0.1) < 2e-4  # of a quiet processor; others may be using this one
