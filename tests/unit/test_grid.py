"""Commands come with jitter, drift and gaps; they go on a grid of control periods, or soon after."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.grid import FIRST, REMEMBERED, ROOM_S, SHORTEST, Grid

PERIODS = (0.04, 0.02, 0.01, 0.005)
COUNT = 3000
UPTIME_S = 3e6  # a month: where a difference of times has lost ten digits


class Run:
    """What became of commands that arrived at these times (N,), with a guard that wakes some time late."""

    def __init__(self, period_s: float, arrived_s: np.ndarray, late_s: float = 0.0) -> None:
        self.grid = Grid(period_s)
        self.grid.begin(arrived_s[0] - 0.01)
        self.went, self.stamps, self.steps, self.dues = (np.zeros(len(arrived_s)) for _ in range(4))
        now = 0.0
        for i, arrived in enumerate(arrived_s):
            now = max(self.grid.release_s(arrived), now) + late_s
            self.went[i] = now
            self.stamps[i], self.steps[i] = self.grid.next(now, arrived)
            self.dues[i] = self.grid.due_s
        self.period_s, self.arrived_s = period_s, arrived_s

    @property
    def added_s(self) -> np.ndarray:
        return self.went - self.arrived_s

    def share_exact(self) -> float:
        return float(np.mean(np.abs(self.steps[1:] / self.period_s - 1) < 1e-9))

    def rate_error(self, skip: int = 50) -> float:
        """How far the rate of stamps is from that of arrivals, as a share."""
        return float(np.ptp(self.stamps[skip:]) / np.ptp(self.arrived_s[skip:]) - 1)


def arrivals(period_s: float, jitter: str, drift: float = 0.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    noise = {
        "none": lambda: np.zeros(COUNT),
        "uniform": lambda: generator.uniform(0, 0.05, COUNT),
        "normal": lambda: generator.normal(0, 0.01, COUNT),
        "exponential": lambda: generator.exponential(0.01, COUNT),
        "heavy": lambda: np.minimum(0.005 * generator.pareto(1.5, COUNT), 1.5),
    }[jitter]()
    nominal = np.arange(COUNT) * period_s * (1 + drift) + 1000.0
    return np.maximum.accumulate(nominal + period_s * noise)


LIGHT = ["none", "uniform", "normal", "exponential"]


@pytest.mark.parametrize("drift", [0.0, 200e-6, -200e-6])
@pytest.mark.parametrize("jitter", [*LIGHT, "heavy"])
@pytest.mark.parametrize("period_s", PERIODS)
def test_stamps_keep_apart_and_the_rate_is_the_policys(period_s, jitter, drift):
    run = Run(period_s, arrivals(period_s, jitter, drift), late_s=20e-6)
    assert run.steps.min() >= SHORTEST * period_s * (1 - 1e-9)
    assert np.diff(run.stamps).min() >= SHORTEST * period_s * (1 - 1e-6)
    assert abs(run.rate_error()) < 1e-3
    assert run.steps.sum() == pytest.approx(run.stamps[-1] - run.stamps[0] + run.steps[0], rel=1e-9)


# measured: 0.75 to 1.0 of the steps; 0.2 to 1.0 ms (of 40 ms) are added in the middle
@pytest.mark.parametrize("drift", [0.0, 200e-6, -200e-6])
@pytest.mark.parametrize("jitter", LIGHT)
@pytest.mark.parametrize("period_s", PERIODS)
def test_most_steps_are_exactly_a_period_and_little_time_is_added(period_s, jitter, drift):
    run = Run(period_s, arrivals(period_s, jitter, drift), late_s=20e-6)
    assert run.share_exact() > 0.7
    assert np.median(run.added_s) < ROOM_S + 0.04 * period_s
    assert np.quantile(run.added_s, 0.99) < ROOM_S + 0.1 * period_s


@pytest.mark.parametrize("period_s", PERIODS)
def test_heavy_tails_cost_steps_but_not_time(period_s):
    run = Run(period_s, arrivals(period_s, "heavy"), late_s=20e-6)
    assert run.share_exact() > 0.35
    assert np.median(run.added_s) < ROOM_S + 0.1 * period_s


@pytest.mark.parametrize("period_s", PERIODS)
def test_one_late_command_in_fifty_does_not_move_the_grid_for_long(period_s):
    generator = np.random.default_rng(0)
    late = 0.3 * period_s * (np.arange(COUNT) % 50 == 25)
    run = Run(period_s, arrivals(period_s, "none") + generator.exponential(0.005 * period_s, COUNT) + late)
    assert np.median(run.added_s) < ROOM_S + 0.02 * period_s
    assert run.share_exact() > 0.7


@given(
    st.sampled_from(PERIODS), st.lists(st.floats(0, 3), min_size=2, max_size=80), st.floats(0, 0.3),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_whatever_the_arrivals_none_waits_a_period_more_than_it_must(period_s, gaps, late):
    arrived = 100 + np.cumsum(np.maximum(gaps, 0.0)) * period_s
    run = Run(period_s, arrived, late_s=late * period_s)
    assert run.steps.min() >= SHORTEST * period_s * (1 - 1e-6)
    assert (run.went >= run.arrived_s).all()
    # the ladder's patience counts from there: never more than a period and some room after the last one went
    assert (run.dues - run.went <= period_s + ROOM_S + 1e-9).all()
    assert (run.stamps <= run.went).all()


def test_steps_of_a_long_uptime_are_exact():
    run = Run(0.002, UPTIME_S + np.arange(200) * 0.002, late_s=20e-6)
    assert set(run.steps[60:]) == {0.002}  # when the grid has found its place


def test_the_first_command_may_take_its_time_and_goes_at_once():
    grid = Grid(0.04)
    grid.begin(10.0)
    assert grid.due_s == 10.0 + FIRST * 0.04
    assert grid.release_s(10.003) == 10.003
    assert grid.next(10.003, 10.003) == (10.003, 0.04)  # however long it has rested
    # the second has a little room, lest half of all commands be late
    assert grid.due_s == pytest.approx(10.003 + 0.04 + ROOM_S)


def test_an_early_command_waits_and_a_late_one_does_not():
    grid = Grid(0.04)
    grid.begin(10.0)
    grid.next(10.0, 10.0)
    assert grid.release_s(10.03) == grid.due_s
    assert grid.release_s(10.05) == 10.05


def test_a_stamp_is_the_grids_time_if_it_is_about_now_and_else_the_true_one():
    grid = Grid(0.04)
    grid.begin(10.0)
    grid.next(10.0, 10.0)
    due = grid.due_s
    assert grid.next(due + 0.0019, due)[0] == due
    due = grid.due_s
    assert grid.next(due + 0.0021, due)[0] == due + 0.0021


@pytest.mark.parametrize("gap", [1.0, 1.4, 2.5, 30.3])  # periods without a command
def test_after_a_gap_commands_soon_go_on_time_again(gap):
    period_s = 0.04
    arrived = arrivals(period_s, "exponential")[:400]
    arrived[200:] += gap * period_s
    run = Run(period_s, arrived)
    assert run.steps.min() >= SHORTEST * period_s * (1 - 1e-9)
    after = slice(200 + 3 * REMEMBERED, None)
    assert run.share_exact() > 0.7
    assert np.abs(run.steps[after] / period_s - 1).max() < 0.1
    assert (
        np.median(run.added_s[after]) < ROOM_S + 0.04 * period_s or gap % 1 > 0.5
    )  # the grid comes back slowly


def test_commands_that_turn_earlier_are_followed_by_the_grid():
    period_s = 0.04
    arrived = arrivals(period_s, "exponential")
    arrived[:200] += 0.3 * period_s
    run = Run(period_s, arrived)
    assert np.median(run.added_s[220:240]) > 0.2 * period_s
    assert np.median(run.added_s[400:]) < ROOM_S + 0.04 * period_s  # 0.002 periods at a command: 150 of them
    assert run.steps[201:].min() >= 0.93 * period_s  # meanwhile the robot hardly notices


def test_the_guards_own_commands_are_a_period_apart_and_not_measured():
    grid = Grid(0.04)
    grid.begin(10.0)
    grid.next(10.0, 10.0)
    steps = []
    for _ in range(30):
        now = grid.release_s(0.0) + 1e-4
        steps.append(grid.next(now)[1])
    assert set(steps[1:]) == {0.04}


def test_a_new_beginning_forgets_the_grid_before():
    grid = Grid(0.04)
    for begin in (10.0, 20.0):
        grid.begin(begin)
        assert grid.is_first
        grid.next(begin + 0.01, begin + 0.01)
        assert not grid.is_first
        assert grid.due_s == pytest.approx(begin + 0.05 + ROOM_S)
