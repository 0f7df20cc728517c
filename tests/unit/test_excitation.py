import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.excitation import KINDS, Room, plan
from robokd.tasks.bodies import panda

from robokd.specs import ActionSpec

ENVELOPE = np.array(panda.HOME) - 0.26, np.array(panda.HOME) + 0.26


def action(control_dt=0.04):
    return ActionSpec(
        names=panda.JOINTS, scale=(0.06,) * 7, control_dt=control_dt, position_lower=panda.LOWER,
        position_upper=panda.UPPER, velocity=panda.VELOCITY, acceleration=panda.ACCELERATION,
    )  # fmt: skip


def motions_of(seed=0, amplitude=0.5, anchor=panda.HOME, jerk=None, **kwargs):
    room = Room.of(action(kwargs.pop("control_dt", 0.04)), ENVELOPE, amplitude, jerk)
    return room, plan(room, np.array(anchor), motions=3, motion_s=3.0, seed=seed, **kwargs)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    amplitude=st.floats(0.01, 1.0),
    start=st.lists(st.floats(-0.26, 0.26), min_size=7, max_size=7),
    control_dt=st.sampled_from([0.01, 0.02, 0.04]),
    jerk=st.sampled_from([None, 200.0, 5000.0]),
)
def test_every_motion_keeps_every_limit_also_at_the_seams(seed, amplitude, start, control_dt, jerk):
    spec, anchor = action(control_dt), np.array(panda.HOME) + np.array(start)
    most = None if jerk is None else np.full(7, jerk)
    room = Room.of(spec, ENVELOPE, amplitude, most)
    found = plan(room, anchor, motions=3, motion_s=2.0, seed=seed)
    path = np.concatenate([anchor[None].repeat(3, 0), *(motion.targets for motion in found)])
    rate = np.diff(path, axis=0) / control_dt
    change = np.diff(rate, axis=0) / control_dt
    slack = 1e-9
    assert (path >= np.array(spec.position_lower) - slack).all()
    assert (path <= np.array(spec.position_upper) + slack).all()
    assert (np.abs(rate) <= np.array(spec.velocity) + slack).all()
    assert (np.abs(rate) <= 0.06 / control_dt + slack).all(), "no faster than a policy could ask for"
    assert (np.abs(change) <= np.array(spec.acceleration) + 1e-6).all()
    if jerk is not None:
        assert (np.abs(np.diff(change, axis=0)) / control_dt <= jerk + 1e-4).all()
    for motion in found[1:]:
        assert (np.abs(motion.targets - room.base) <= room.amplitude + slack).all(), motion.name
        np.testing.assert_allclose(motion.targets[-1], room.base, atol=1e-8)


def test_a_seed_gives_the_same_motions_again_and_another_seed_others():
    (_, first), (_, again), (_, other) = motions_of(), motions_of(), motions_of(seed=1)
    assert all(np.array_equal(a.targets, b.targets) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1].targets, other[1].targets)


def test_every_kind_is_there_once_and_the_last_is_held_out():
    _, found = motions_of()
    assert [motion.kind for motion in found] == ["approach", *KINDS]
    assert [motion.is_held_out for motion in found] == [False, False, False, True]
    assert len({motion.name for motion in found}) == len(found)


def test_every_joint_moves_and_turns_back_often():
    _, found = motions_of()
    for motion in found[1:]:
        rate = np.diff(motion.targets, axis=0)
        turns = (np.diff(np.sign(rate), axis=0) != 0).sum(0)
        assert (turns >= 3).all(), (motion.name, turns)


def test_the_way_to_the_base_begins_at_the_pose_that_is_held():
    anchor = np.array(panda.HOME) + 0.2
    room, found = motions_of(anchor=anchor)
    assert np.abs(found[0].targets[0] - anchor).max() < 0.06
    np.testing.assert_allclose(found[0].targets[-1], room.base, atol=1e-8)


def test_too_few_motions_and_no_room_are_refused():
    room, _ = motions_of()
    with pytest.raises(ValueError, match="motions must be >= 3, got 2: none would be left to validate on"):
        plan(room, room.base, motions=2, motion_s=3.0, seed=0)
    far = np.full(7, 4.0), np.full(7, 4.1)
    with pytest.raises(ValueError, match="joint4 has no room to move"):
        Room.of(action(), far, 0.5)
