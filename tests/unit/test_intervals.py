"""Intervals have the published values and never lie on the wrong side of the rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robokd.intervals import paired, wilson


def test_hand_value_of_wilson():
    # 18 of 20: Wilson's interval is 0.699 to 0.972
    interval = wilson([1] * 18 + [0] * 2)
    assert (interval["lo"], interval["hi"]) == pytest.approx((0.699, 0.972), abs=1e-3)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_rate_lies_in_its_interval_and_swapping_outcomes_mirrors_it(won, lost):
    interval, mirror = wilson([1] * won + [0] * lost), wilson([0] * won + [1] * lost)
    if won + lost == 0:
        assert interval["rate"] is None
        return
    assert 0 <= interval["lo"] <= interval["rate"] <= interval["hi"] <= 1
    assert interval["lo"] == pytest.approx(1 - mirror["hi"])


def test_a_paired_difference_of_nothing_is_nothing():
    outcome = np.random.default_rng(0).integers(0, 2, 100)
    assert paired(outcome, outcome) == {"delta": 0.0, "lo": 0.0, "hi": 0.0}


def test_pairing_is_tighter_than_two_separate_rates():
    base = np.random.default_rng(0).integers(0, 2, 400)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:40]] = 1
    interval = paired(better, base)
    assert interval["delta"] == pytest.approx(0.1)
    assert 0.06 < interval["lo"] < 0.1 < interval["hi"] < 0.14
