"""Schedules: pure functions of rounds, or of how often a student was good."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robokd.schedule import SHAPES, Schedule

numbers = st.floats(-10, 10)


@given(numbers, numbers, st.sampled_from(SHAPES), st.integers(0, 5), st.integers(0, 9), st.integers(0, 40))
def test_a_schedule_stays_between_its_ends_and_begins_at_its_begin(begin, end, shape, after, over, n):
    schedule = Schedule(begin=begin, end=end, shape=shape, after=after, over=over)
    low, high = sorted((begin, end))
    assert low - 1e-9 <= schedule.value(n, [], 30) <= high + 1e-9
    assert schedule.value(min(n, after), [], 30) == pytest.approx(begin)


@given(numbers, numbers, st.sampled_from(("linear", "cosine")), st.integers(0, 5), st.integers(1, 9))
def test_it_reaches_its_end_and_stays_there(begin, end, shape, after, over):
    schedule = Schedule(begin=begin, end=end, shape=shape, after=after, over=over)
    for n in (after + over, after + over + 7):
        assert schedule.value(n, [], 50) == pytest.approx(end, abs=1e-9)


def test_without_a_length_it_ends_in_the_last_round():
    schedule = Schedule(begin=1, end=0, after=3)
    assert schedule.value(9, [], 10) == 0
    assert schedule.value(8, [], 10) > 0


def test_exponential_falls_by_its_rate_a_round():
    schedule = Schedule(begin=1, end=0, shape="exponential", rate=0.7)
    assert [schedule.value(n, [], 9) for n in range(4)] == pytest.approx([1, 0.7, 0.49, 0.343])


def test_cosine_is_half_way_in_the_middle():
    assert Schedule(begin=2, end=0, shape="cosine", over=4).value(2, [], 9) == pytest.approx(1)


def test_a_gated_schedule_counts_the_validations_that_were_good_enough_and_no_rounds():
    schedule = Schedule(begin=1, end=0, over=4, above=0.8)
    assert schedule.value(100, [], 200) == 1
    assert schedule.value(3, [0.5, 0.79], 200) == 1
    assert schedule.value(3, [0.5, 0.8, 0.2, 0.95], 200) == 0.5
    assert schedule.value(3, [0.9] * 9, 200) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": "step"}, "shape is one of linear, cosine, exponential, got 'step'"),
        ({"begin": math.nan}, "begin and end must be finite"),
        ({"over": -1}, "after and over must be >= 0, got 0 and -1"),
        ({"rate": 1.0}, "rate must be in \\(0, 1\\), got 1.0"),
        ({"above": 0.8}, "counts validations: over must say how many, got 0"),
        ({"above": 2.0, "over": 3}, "above must be in \\[0, 1\\], got 2.0"),
    ],
)
def test_a_senseless_schedule_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**wrong)


def test_it_prints_as_it_is_typed():
    assert str(Schedule(begin=0.5, end=0.5)) == "0.5"
    assert str(Schedule(begin=1, end=0)) == "1_to_0"
