"""Commands come with jitter, drift and gaps; their stamps are a control period apart, or the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.grid import FIRST, NEAR, SHORTEST, Grid

PERIODS = (0.04, 0.02, 0.01, 0.005)
COUNT = 3000
UPTIME_S = 3e6  # a month: where a difference of times has lost ten digits


class Run:
    """What became of commands that arrived at these times (N,), with a guard that wakes some time late."""

    def __init__(self, period_s: float, arrived_s: np.ndarray, late_s: float = 0.0) -> None:
        self.grid = Grid(period_s)
        self.grid.begin(arrived_s[0] - 0.01)
        self.went, self.stamps, self.steps = (np.zeros(len(arrived_s)) for _ in range(3))
        now = 0.0
        for i, arrived in enumerate(arrived_s):
            release = self.grid.release_s(arrived)
            now = max(release, now) + late_s
            self.went[i] = now
            self.stamps[i], self.steps[i] = self.grid.next(now, has_waited=release > arrived)
        self.period_s, self.arrived_s = period_s, arrived_s

    @property
    def added_s(self) -> np.ndarray:
        return self.went - self.arrived_s

    def share_exact(self) -> float:
        return float(np.mean(self.steps[1:] == self.period_s))


def arrivals(period_s: float, jitter: str, drift: float = 0.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    noise = {
        "none": lambda: np.zeros(COUNT),
        "normal": lambda: generator.normal(0, 0.005, COUNT),
        "exponential": lambda: generator.exponential(0.004, COUNT),
        "heavy": lambda: np.minimum(0.005 * generator.pareto(1.5, COUNT), 1.5),
    }[jitter]()
    nominal = np.arange(COUNT) * period_s * (1 + drift) + 1000.0
    return np.maximum.accumulate(nominal + period_s * noise)


@pytest.mark.parametrize("drift", [0.0, 200e-6, -200e-6])
@pytest.mark.parametrize("jitter", ["none", "normal", "exponential", "heavy"])
@pytest.mark.parametrize("period_s", PERIODS)
def test_steps_are_never_short_and_the_rate_is_the_policys(period_s, jitter, drift):
    run = Run(period_s, arrivals(period_s, jitter, drift), late_s=20e-6)
    assert run.steps.min() >= SHORTEST * period_s * (1 - 1e-9)
    assert np.abs(run.stamps - run.went)[1:].max() <= NEAR * period_s * (1 + 1e-9)
    assert abs(np.ptp(run.stamps[50:]) / np.ptp(run.arrived_s[50:]) - 1) < 1e-3
    assert run.steps[1:].sum() == pytest.approx(run.stamps[-1] - run.stamps[0], rel=1e-9)


@pytest.mark.parametrize("drift", [0.0, 200e-6, -200e-6])
@pytest.mark.parametrize("jitter", ["none", "normal", "exponential"])
@pytest.mark.parametrize("period_s", PERIODS)
def test_small_jitter_costs_neither_time_nor_exactness(period_s, jitter, drift):
    run = Run(period_s, arrivals(period_s, jitter, drift), late_s=20e-6)
    assert run.share_exact() > 0.98
    assert np.median(run.added_s) < 21e-6
    assert np.quantile(run.added_s, 0.98) < 21e-6


@pytest.mark.parametrize("period_s", PERIODS)
def test_commands_that_are_often_late_wait_little(period_s):
    """Pareto tails, 4 % of them more than 0.05 periods late."""
    run = Run(period_s, arrivals(period_s, "heavy"), late_s=20e-6)
    assert run.share_exact() > 0.8
    assert np.median(run.added_s) < 21e-6


@given(st.sampled_from(PERIODS), st.lists(st.floats(0, 3), min_size=2, max_size=80), st.floats(0, 0.3))
@settings(max_examples=100)
def test_whatever_the_arrivals_a_stamp_is_about_the_truth(period_s, gaps, late):
    arrived = 100 + np.cumsum(np.maximum(gaps, 0.0)) * period_s
    run = Run(period_s, arrived, late_s=late * period_s)
    assert run.steps[1:].min() >= SHORTEST * period_s * (1 - 1e-6)
    assert (run.went >= run.arrived_s).all()
    assert np.abs(run.stamps - run.went)[1:].max() <= NEAR * period_s * (1 + 1e-6)


def test_steps_of_a_long_uptime_are_exact():
    run = Run(0.002, UPTIME_S + np.arange(200) * 0.002, late_s=20e-6)
    assert set(run.steps[1:]) == {0.002}


def test_the_first_command_may_take_its_time_and_goes_at_once():
    grid = Grid(0.04)
    grid.begin(10.0)
    assert grid.due_s == 10.0 + FIRST * 0.04
    assert grid.release_s(10.003) == 10.003
    assert grid.next(10.003) == (10.003, 0.04)  # from rest: however long it has rested
    assert grid.due_s == 10.043


def test_a_command_that_comes_too_soon_waits_and_then_counts_from_when_it_goes():
    grid = Grid(0.04)
    grid.begin(10.0)
    grid.next(10.0)
    assert grid.release_s(10.03) == 10.038
    stamp, step = grid.next(10.038, has_waited=True)
    assert (stamp, step) == (10.038, pytest.approx(0.038))


def test_a_command_about_on_time_counts_from_its_time_and_a_late_one_from_the_truth():
    for moment, stamp in ((10.0419, 10.04), (10.0381, 10.04), (10.0421, 10.0421)):
        grid = Grid(0.04)
        grid.begin(10.0)
        grid.next(10.0)
        assert grid.next(moment)[0] == stamp


@pytest.mark.parametrize("gap", [1.0, 1.4, 2.5, 30.3])  # periods without a command
def test_after_a_gap_commands_soon_go_on_time_again(gap):
    period_s = 0.04
    arrived = np.arange(400) * period_s + 100
    arrived[200:] += gap * period_s
    run = Run(period_s, arrived)
    assert (run.steps[201:] == period_s).all()


def test_after_a_late_command_the_others_catch_up_in_a_few_periods():
    period_s = 0.04
    arrived = np.arange(100) * period_s + 100
    arrived[50] += 0.4 * period_s
    run = Run(period_s, arrived)
    assert run.steps[50] == pytest.approx(1.4 * period_s)
    assert run.steps[51:58] == pytest.approx(SHORTEST * period_s)
    assert run.added_s[60:].max() == 0
    assert (run.steps[63:] == period_s).all()


def test_a_new_beginning_keeps_the_first_command_apart_from_the_last():
    grid = Grid(0.04)
    grid.begin(10.0)
    grid.next(10.0)
    grid.begin(10.01)
    assert grid.is_first
    assert grid.release_s(10.01) == 10.038
