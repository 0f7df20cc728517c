"""Action decoding keeps every limit; contracts survive JSON at full precision."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robokd.nets.action import ActionDecoder
from robokd.specs import (
    ActionSpec,
    CameraSpec,
    Limits,
    ObsSpec,
    Term,
    braking_rate,
    decode,
    differences,
    from_dict,
    limit,
    to_dict,
)

SPEC = ActionSpec(
    names=("a", "b"), scale=(0.06, 0.1), control_dt=0.04,
    position_lower=(-1.0, -0.2), position_upper=(1.0, 0.3), velocity=(2.0, 1.0), acceleration=(10.0, 7.5),
)  # fmt: skip
LIMITS = Limits.of(SPEC)
actions = st.lists(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=2), min_size=1, max_size=60)


def test_hand_value_of_a_first_step():
    # 0.06 rad wanted, but from rest the rate may reach only 10 rad/s^2 * 0.04 s = 0.4 rad/s: 0.016 rad
    target, rate = decode(np.float32([1, 0]), np.float32([0, 0]), np.float32([0, 0]), LIMITS)
    assert target[0] == pytest.approx(0.016, abs=1e-6)
    assert rate[0] == pytest.approx(0.4, abs=1e-5)


def test_hand_value_of_the_braking_curve():
    # units of a dt^2 = 0.1: from rate 3, 3 + 2 + 1 = 6 units are covered; from 2.5, 2.5 + 1.5 + 0.5 = 4.5
    assert braking_rate(np.array(0.6), np.array(1.0), np.sqrt(0.1)) == pytest.approx(3 * np.sqrt(0.1))
    assert braking_rate(np.array(0.45), np.array(1.0), np.sqrt(0.1)) == pytest.approx(2.5 * np.sqrt(0.1))


@given(actions)
def test_no_sequence_of_actions_breaks_a_limit(sequence):
    anchor, rate = np.float32([0.0, 0.0]), np.float32([0.0, 0.0])
    for action in sequence:
        target, new_rate = decode(np.float32(action), anchor, rate, LIMITS)
        speed = (target.astype(float) - anchor) / SPEC.control_dt
        assert (target >= LIMITS.lower).all()
        assert (target <= LIMITS.upper).all()
        assert (np.abs(speed) <= LIMITS.velocity * 1.0005 + 1e-5).all()
        assert (np.abs(speed - rate) / SPEC.control_dt <= LIMITS.acceleration * 1.001 + 1e-3).all()
        anchor, rate = target, new_rate


@given(actions)
def test_limiting_what_is_limited_changes_nothing(sequence):
    anchor, rate = np.float32([0.0, 0.0]), np.float32([0.0, 0.0])
    for action in sequence:
        target, new_rate = decode(np.float32(action), anchor, rate, LIMITS)
        again, _ = limit(target, anchor, rate, LIMITS)
        assert np.abs(again - target).max() <= 1e-5
        anchor, rate = target, new_rate


@given(actions)
def test_torch_and_numpy_decode_alike(sequence):
    decoder = ActionDecoder(SPEC)
    anchor, rate = np.float32([[0.1, -0.1]]), np.float32([[0.0, 0.2]])
    for action in sequence:
        ours, ours_rate = decode(np.float32([action]), anchor, rate, LIMITS)
        theirs, _ = decoder(
            torch.tensor([action], dtype=torch.float32), torch.from_numpy(anchor), torch.from_numpy(rate)
        )
        assert np.abs(ours - theirs.numpy()).max() <= 1e-6
        anchor, rate = ours, ours_rate


def test_specs_survive_json_at_full_precision():
    third = dataclasses.replace(SPEC, scale=(1 / 3, 0.1))
    camera = CameraSpec(name="front", position_m=(0.1 + 0.2, 0.0, 1 / 3))
    obs = ObsSpec(group="proprio", role="proprio", terms=(Term(name="q", elements=("a", "b"), unit="rad"),))
    for kind, spec in ((ActionSpec, third), (CameraSpec, camera), (ObsSpec, obs)):
        assert from_dict(kind, json.loads(json.dumps(to_dict(spec)))) == spec


def test_differences_name_the_field():
    other = dataclasses.replace(SPEC, control_dt=0.02)
    assert differences(to_dict(SPEC), to_dict(other)) == ["control_dt: wanted 0.04, got 0.02"]


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="ActionSpec has no field 'scales'"):
        from_dict(ActionSpec, {**to_dict(SPEC), "scales": 1})


def test_the_coarsest_step_of_an_encoding_is_known():
    assert CameraSpec(name="c", near_m=0.0, far_m=2.54).step_m == pytest.approx(0.01)
