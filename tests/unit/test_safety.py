"""What cannot be trusted stops the robot, and the reason says what was got and what is allowed."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robokd.sim2real.robot import JointReading, Order
from robokd.sim2real.safety import (
    CLOCK_TOLERANCE_S,
    HELD_TOLERANCE,
    TOLERANCE,
    SafetyStop,
    check_age,
    check_command,
    check_first,
    check_home,
    check_joints,
    check_pictures,
    held_anchor,
    joints_budget_s,
    start_anchor,
)  # fmt: skip

from robokd.specs import FLIGHT, ActionSpec

# limits: shoulder [-1, 1], elbow [-0.5, 0.7]; scale 0.01 and 0.02 rad
ACTION = ActionSpec(
    names=("shoulder", "elbow"), scale=(0.01, 0.02), control_dt=0.01, position_lower=(-1.0, -0.5),
    position_upper=(1.0, 0.7), velocity=(1.0, 2.0), acceleration=(20.0, 10.0),
)  # fmt: skip
UNTOLD = (np.nan, np.nan)
BAD = [np.nan, np.inf, -np.inf]


def reading(position=(0.0, 0.0), velocity=(0.0, 0.0), target=None, strangers: int = 0) -> JointReading:
    """Joints that hold the target where they are, if not said otherwise."""
    rows = (np.array(row, np.float32) for row in (position, velocity, position if target is None else target))
    position, velocity, target = rows
    return JointReading(
        captured_s=0.0, position=position, velocity=velocity, target=target, strangers=strangers
    )


def bundle(start=((-0.3, -0.3), (0.3, 0.3)), observations=("proprio",), sag=None, **ages):
    manifest = {
        "robot": {"sag": sag},
        "start": {"joint_pos_lower": start[0], "joint_pos_upper": start[1]},
        "ages_s": ages or {"proprio": 0.1, "front": 0.2},
    }
    return SimpleNamespace(manifest=manifest, action=ACTION, observations=dict.fromkeys(observations))


def test_a_stop_has_a_kind_and_says_why():
    stop = SafetyStop("start", "elbow is elsewhere")
    assert (stop.kind, stop.message, str(stop)) == (
        "start",
        "elbow is elsewhere",
        "start: elbow is elsewhere",
    )


@pytest.mark.parametrize("age", [0.0, 0.05, 0.1 - 1e-9, -0.9 * CLOCK_TOLERANCE_S])
def test_data_within_its_budget_passes(age):
    check_age("front", 100.0 - age, 100.0, 0.1)


@pytest.mark.parametrize("age", [0.101, 10.0, -1.1 * CLOCK_TOLERANCE_S, *BAD])
def test_data_that_is_old_of_the_future_or_of_no_time_stops(age):
    with pytest.raises(SafetyStop, match=r"front is -?\S+ s old, at most 0\.1 s is allowed") as stop:
        check_age("front", 100.0 - age, 100.0, 0.1)
    assert stop.value.kind == "stale_front"


@given(st.floats(allow_nan=True), st.floats(allow_nan=True), st.floats(0, 10))
def test_no_time_makes_the_check_of_ages_fail_otherwise(captured, now, budget):
    try:
        check_age("front", captured, now, budget)
    except SafetyStop:
        return
    assert math.isfinite(captured)
    assert -CLOCK_TOLERANCE_S <= now - captured <= budget


def test_every_picture_has_its_own_budget():
    budgets = {"front": 0.1, "wrist": 0.2}
    check_pictures({"front": -0.09, "wrist": -0.19}, 0.0, budgets)
    for camera, moment in (("front", -0.11), ("wrist", -0.21)):
        with pytest.raises(SafetyStop) as stop:
            check_pictures({"front": 0.0, "wrist": 0.0, camera: moment}, 0.0, budgets)
        assert stop.value.kind == f"stale_{camera}"


def test_joints_may_be_as_old_as_what_is_observed_and_else_as_pictures():
    assert joints_budget_s(bundle()) == 0.1
    assert joints_budget_s(bundle(proprio=0.3, front=0.2)) == 0.3
    assert joints_budget_s(bundle(observations=("proprio", "touch"), proprio=0.3, touch=0.05)) == 0.05
    # a policy of pictures alone moves joints all the same
    assert joints_budget_s(bundle(observations=(), front=0.2, wrist=0.15)) == 0.15


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", ["position", "velocity"])
def test_joints_that_do_not_read_finite_numbers_stop(name, bad):
    with pytest.raises(SafetyStop, match=f"the robot's {name} reads ") as stop:
        check_joints(reading(**{name: (0.0, bad)}, target=(0.0, 0.0)))
    assert stop.value.kind == "non_finite_joints"


@pytest.mark.parametrize("bad", BAD)
def test_an_order_that_is_no_finite_number_stops(bad):
    order = Order(captured_s=0.0, velocity=np.array([0.0, 0.0, bad], np.float32))
    with pytest.raises(SafetyStop, match="the robot's velocity command reads ") as stop:
        check_joints(dataclasses.replace(reading(), order=order))
    assert stop.value.kind == "non_finite_joints"


def test_joints_that_do_not_tell_their_target_pass():
    check_joints(reading(target=UNTOLD))


def test_somebody_else_who_drives_the_robot_stops_it():
    with pytest.raises(SafetyStop, match="2 commands on the wire were not ours") as stop:
        check_joints(reading(strangers=2))
    assert stop.value.kind == "second_writer"


@pytest.mark.parametrize("bad", BAD)
def test_a_command_that_is_not_finite_stops(bad):
    check_command(np.array([0.0, 1e30]))
    with pytest.raises(SafetyStop, match=r"the policy commands \[0\.0, ") as stop:
        check_command(np.array([0.0, bad], np.float32))
    assert stop.value.kind == "non_finite"


@given(st.tuples(st.floats(-1, 1, width=32), st.floats(-1, 1, width=32)), st.floats(-0.25, 0.25, width=32))
def test_every_first_command_that_an_action_can_ask_for_passes(action, where):
    anchor = np.full(2, where, np.float32)
    check_first(anchor + np.float32(ACTION.scale) * np.float32(action), anchor, ACTION)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("joint", [0, 1])
def test_a_first_command_out_of_reach_is_refused(joint, sign):
    far = np.zeros(2)
    far[joint] = sign * (ACTION.scale[joint] + 1.1 * TOLERANCE)
    with pytest.raises(SafetyStop, match=f"the first command for {ACTION.names[joint]} is 0.0") as stop:
        check_first(far, np.zeros(2), ACTION)
    assert stop.value.kind == "start"


def test_the_joint_that_is_farthest_beyond_its_reach_is_named():
    with pytest.raises(SafetyStop, match=r"for shoulder is 0\.5000 rad from .*, allowed is 0\.0100"):
        check_first(np.array([0.5, 0.5]), np.zeros(2), ACTION)


def test_the_anchor_is_the_target_that_is_held():
    anchor = held_anchor(reading(position=(0.0056, -0.0056), target=(0.001, 0.002)), bundle())
    assert anchor.tolist() == np.float32([0.001, 0.002]).tolist()
    assert anchor.dtype == np.float32


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_held_target_far_from_where_the_joint_is_stops(sign):
    held_anchor(reading(target=(sign * 0.99 * HELD_TOLERANCE, 0.0)), bundle())
    said = r"elbow is 0\.0000 rad, the target it holds -?0\.0505: at most 0\.05 apart is allowed"
    with pytest.raises(SafetyStop, match=said) as stop:
        held_anchor(reading(target=(0.0, sign * 1.01 * HELD_TOLERANCE)), bundle())
    assert stop.value.kind == "held_target"


@pytest.mark.parametrize("bad", BAD)
def test_a_target_that_is_told_of_some_joints_only_stops(bad):
    with pytest.raises(SafetyStop, match=r"elbow is 0\.0000 rad, the target it holds") as stop:
        held_anchor(reading(target=(0.0, bad)), bundle())
    assert stop.value.kind == "held_target"


def test_a_held_target_beyond_a_limit_stops():
    said = r"elbow holds 0\.7100 rad, wanted \[-0\.5000, 0\.7000\] rad"
    with pytest.raises(SafetyStop, match=said) as stop:
        held_anchor(reading(position=(0.0, 0.69), target=(0.0, 0.71)), bundle())
    assert stop.value.kind == "held_target"


def test_a_held_target_beyond_a_limit_by_rounding_is_put_within():
    anchor = held_anchor(reading(position=(0.0, 0.7), target=(0.0, 0.7 + 0.5 * TOLERANCE)), bundle())
    assert anchor[1] == np.float32(0.7)


def test_a_robot_that_does_not_tell_its_target_is_anchored_where_it_stands():
    assert held_anchor(reading(position=(0.5, -0.25), target=UNTOLD), bundle()).tolist() == [0.5, -0.25]


@pytest.mark.parametrize("elbow", [0.7 + 0.9 * HELD_TOLERANCE, 0.7 + 1e-4])
def test_one_that_stands_a_little_beyond_a_limit_is_anchored_at_the_limit(elbow):
    assert held_anchor(reading(position=(0.0, elbow), target=UNTOLD), bundle())[1] == np.float32(0.7)


@pytest.mark.parametrize("elbow", [0.7 + 1.1 * HELD_TOLERANCE, -0.5 - 1.1 * HELD_TOLERANCE, 2.0, *BAD])
def test_one_that_stands_far_beyond_a_limit_stops_for_its_anchor_would_be_a_jump(elbow):
    with pytest.raises(SafetyStop, match=r"elbow stands at .* rad, wanted") as stop:
        held_anchor(reading(position=(0.0, elbow), target=UNTOLD), bundle())
    assert stop.value.kind == "held_target"


@given(
    st.tuples(*[st.floats(width=32, allow_nan=True)] * 2),
    st.tuples(*[st.floats(width=32, allow_nan=True)] * 2),
)
def test_an_anchor_is_within_limits_and_near_the_joints_or_there_is_none(position, target):
    with np.errstate(all="ignore"):
        try:
            anchor = held_anchor(reading(position=position, target=target), bundle())
        except SafetyStop:
            return
    assert (anchor >= np.float32(ACTION.position_lower)).all()
    assert (anchor <= np.float32(ACTION.position_upper)).all()
    assert np.abs(anchor - np.array(position)).max() <= HELD_TOLERANCE + TOLERANCE


def test_a_start_within_the_envelope_is_anchored_at_the_held_target():
    found = start_anchor(reading(position=(0.3, -0.3), target=(0.31, -0.31)), bundle())
    assert found.tolist() == np.float32([0.31, -0.31]).tolist()


@pytest.mark.parametrize("elbow", [0.31, -0.31, *BAD])
def test_a_start_that_no_episode_began_from_is_refused(elbow):
    said = rf"elbow starts at {elbow:.4f} rad, wanted \[-0\.3000, 0\.3000\] rad"
    with pytest.raises(SafetyStop, match=said) as stop:
        start_anchor(reading(position=(0.0, elbow)), bundle())
    assert stop.value.kind == "start"


def test_legs_that_bear_a_body_rest_as_far_from_their_targets_as_the_bundle_says_and_no_farther():
    legs = bundle(sag=[0.2, 0.0])
    held = (0.3 + 0.9 * HELD_TOLERANCE, 0.0)
    assert start_anchor(reading(position=(0.15, 0.0), target=held), legs)[0] == np.float32(held[0])
    start_anchor(reading(position=(0.499, 0.0), target=(0.3, 0.0)), legs)
    for position, target, said in (
        ((0.0, 0.0), (0.26, 0.0), r"shoulder is 0\.0000 rad, .* holds 0\.2600: at most 0\.25 apart"),
        ((0.0, 0.0), (0.2, 0.051), r"elbow is .* at most 0\.05 apart"),
        ((0.501, 0.0), (0.3, 0.0), r"shoulder starts at 0\.5010 rad, wanted \[-0\.5000, 0\.5000\]"),
        ((0.0, 0.301), (0.0, 0.3), r"elbow starts at 0\.3010 rad, wanted \[-0\.3000, 0\.3000\]"),
    ):  # fmt: skip
        with pytest.raises(SafetyStop, match=said):
            start_anchor(reading(position=position, target=target), legs)


WINGS = ActionSpec(
    names=tuple(FLIGHT), units=tuple(FLIGHT.values()), mode="absolute", control_dt=0.01, offset=(0, 0, 0, 7),
    scale=(5, 5, 3, 6), position_lower=(-5, -5, -3, 1), position_upper=(5, 5, 3, 13),
    velocity=(100.0,) * 4, acceleration=(1e4,) * 4,
)  # fmt: skip


def wings(hover=(0, 0, 0, 7.0)):
    made = bundle(start=(hover, hover))
    return SimpleNamespace(manifest=made.manifest, action=WINGS, observations=made.observations)


def test_what_flies_begins_only_from_the_commands_that_episodes_began_with():
    hover = np.float32([0, 0, 0, 7.0])
    assert start_anchor(reading((), (), hover), wings()).tolist() == hover.tolist()
    for held, said in (
        ((0.1, 0, 0, 7), r"start: roll_rate starts at 0\.1000"), ((0, 0, 0, 9), "start: thrust starts at 9"),
        ((np.nan,) * 4, "start: roll_rate starts at nan"), ((0, 0, 0, np.nan), "start: thrust starts at nan"),
    ):  # fmt: skip
        with pytest.raises(SafetyStop, match=said):
            start_anchor(reading((), (), held), wings())
    with pytest.raises(SafetyStop, match=r"held_target: thrust holds 14\.0000"):
        start_anchor(reading((), (), (0, 0, 0, 14.0)), wings(hover=(0, 0, 0, 14.0)))


def test_what_flies_is_not_sent_home():
    with pytest.raises(SafetyStop, match="homing: a body that flies has no joints"):
        check_home(np.zeros(4), WINGS)
    check_home(np.zeros(2), ACTION)
    with pytest.raises(SafetyStop, match="non_finite"):
        check_home(np.array([0, np.nan]), ACTION)


def test_an_envelope_wider_than_the_limits_does_not_widen_them():
    wide = bundle(start=((-9, -9), (9, 9)))
    with pytest.raises(SafetyStop, match="elbow holds") as stop:
        start_anchor(reading(position=(0.0, 0.9)), wide)
    assert stop.value.kind == "held_target"
