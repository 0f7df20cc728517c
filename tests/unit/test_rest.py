"""Whatever comes to rest does so within its limits and in time; what flies is levelled on the way."""

import numpy as np
import pytest
from bodies import make_quadrotor_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from robokd.sim2real.limiter import Bounds, Limiter
from robokd.sim2real.rest import (
    IMU_S,
    LEVEL_RAD,
    LEVEL_S,
    REST_S,
    SINK,
    TILT_GAIN,
    Hold,
    Level,
    is_level,
    levelling,
    rest_of,
)
from robokd.sim2real.robot import ImuReading
from robokd.tasks.bodies.quadrotor import HOVER_N
from robokd.tasks.quadrotor_gate import QuadrotorGate, QuadrotorGateCfg
from robot_samples import action_spec, make_bundle

from robokd.export.bundle import read_bundle

ACTION = QuadrotorGate(QuadrotorGateCfg()).action_spec()
DT = ACTION.control_dt
HOVER = np.array([0, 0, 0, HOVER_N])
SINKING = pytest.approx([0, 0, 0, SINK * HOVER_N], rel=1e-6)


def imu(gravity=(0, 0, -1), gyro=(0, 0, 0), captured_s=0.0) -> ImuReading:
    rows = (np.array(row, np.float32) for row in (gravity, gyro))
    gravity, gyro = rows
    return ImuReading(captured_s=captured_s, gyro=gyro, gravity=gravity)


def flying(command=HOVER) -> tuple[Limiter, Level]:
    """A limiter that has been followed to a command, and the rest of what flies."""
    limiter, rest = Limiter(Bounds.of(ACTION, {})), Level(HOVER)
    limiter.begin(HOVER)
    for _ in range(50):
        limiter.limit(np.array(command, float), DT)
        rest.begin()
    return limiter, rest


def test_a_bundle_s_commands_say_how_it_comes_to_rest(tmp_path):
    assert isinstance(rest_of(make_bundle(tmp_path / "arm.robokd")), Hold)
    assert isinstance(rest_of(read_bundle(make_quadrotor_bundle(tmp_path / "wings.robokd"))), Level)


def test_joints_are_held_as_the_limiter_brakes():
    limiters = [Limiter(Bounds.of(action_spec(), {})) for _ in range(2)]
    for limiter in limiters:
        for target in (0.001, 0.003, 0.006):
            limiter.limit(np.full(2, target), 0.01)
    assert not Hold().is_at_rest(limiters[0])
    while not Hold().is_at_rest(limiters[0]):
        found = Hold().next(limiters[0], None, 0.0, 0.01)
        assert found.tolist() == limiters[1].brake(0.01)[0].tolist()


def test_a_tilt_is_undone_about_its_own_axis_and_borne():
    for angle in (-1.0, 0.3, 1.0):
        thrust = HOVER_N / np.cos(angle)
        # rolled by the angle, down is (0, -sin, -cos); pitched, (sin, 0, -cos)
        rolled = levelling(np.array([0, -np.sin(angle), -np.cos(angle)]), HOVER)
        assert rolled == pytest.approx([-TILT_GAIN * angle, 0, 0, thrust])
        pitched = levelling(np.array([np.sin(angle), 0, -np.cos(angle)]), HOVER)
        assert pitched == pytest.approx([0, -TILT_GAIN * angle, 0, thrust])
    assert levelling(np.array([0, 0, -1.0]), HOVER) == pytest.approx(HOVER)


def test_upside_down_it_turns_either_way_and_does_not_push():
    found = levelling(np.array([0, 0, 1.0]), HOVER)
    assert np.linalg.norm(found[:3]) == pytest.approx(TILT_GAIN * np.pi)
    assert found[3] == 0


@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda row: np.linalg.norm(row) > 0.1))
@example((0.0, -1e-6, -1.0))  # on the way to level the tilt becomes very small, and has an axis all the same
def test_from_any_tilt_the_rates_lead_upright(down):
    gravity = np.array(down) / np.linalg.norm(down)
    tilt = np.arctan2(np.hypot(*gravity[:2]), -gravity[2])
    for _ in range(150):
        rates = levelling(gravity, HOVER)[:3]
        gravity = gravity - 0.01 * np.cross(rates, gravity)  # as a body's axes turn
        gravity /= np.linalg.norm(gravity)
        after = np.arctan2(np.hypot(*gravity[:2]), -gravity[2])
        assert after <= tilt + 1e-9
        tilt = after
    assert tilt < LEVEL_RAD


@pytest.mark.parametrize(
    ("felt", "at_s"),
    [
        (None, 0.0), (imu(gravity=(0, 0, 0)), 0.0), (imu(gravity=(0, np.nan, -1)), 0.0),
        (imu(gravity=(0, 1, 0)), 1.1 * IMU_S), (imu(gravity=(0, 1, 0), gyro=(np.nan, 0, 0)), 0.0),
    ],
)  # fmt: skip
def test_without_an_imu_that_can_be_trusted_it_sinks_with_its_rates_at_0(felt, at_s):
    limiter, rest = flying((2.0, -1.0, 0.5, 9.0))
    for _ in range(12):
        sent = rest.next(limiter, felt, at_s, DT)
    assert sent == SINKING
    assert rest.is_at_rest(limiter)


def test_it_is_levelled_first_and_sinks_once_it_is_level():
    limiter, rest = flying((2.0, 0, 0, HOVER_N))
    rolled = imu(gravity=(0, -np.sin(0.5), -np.cos(0.5)))
    for _ in range(12):
        sent = rest.next(limiter, rolled, 0.0, DT)
        assert not rest.is_at_rest(limiter)
    assert sent == pytest.approx([-0.5 * TILT_GAIN, 0, 0, HOVER_N / np.cos(0.5)], rel=1e-5)
    for _ in range(12):  # what is felt after does not matter: the rates are held at 0
        sent = rest.next(limiter, imu() if _ == 0 else rolled, 0.0, DT)
    assert sent == SINKING
    assert rest.is_at_rest(limiter)


@pytest.mark.parametrize("gyro", [(0.4, 0, 0), (0, 0.6, 0)])
def test_one_that_turns_is_not_level_yet(gyro):
    assert is_level(imu(gyro=gyro)) == (max(gyro) < 0.5)


def test_one_that_never_gets_level_sinks_after_a_while():
    limiter, rest = flying()
    inverted, spent, sent = imu(gravity=(0, 0, 1)), 0.0, None
    while not rest.is_at_rest(limiter):
        sent = rest.next(limiter, inverted, 0.0, DT)
        spent += DT
    assert LEVEL_S < spent < LEVEL_S + 12 * DT
    assert sent == SINKING


moments = st.lists(
    st.tuples(
        st.one_of(st.none(), st.tuples(*[st.floats(-2, 2, width=32)] * 6)), st.floats(0.95, 4.0),
    ), min_size=130, max_size=130,
)  # fmt: skip


@settings(max_examples=25)
@given(st.tuples(*[st.floats(-1, 1)] * 4), moments)
def test_whatever_it_feels_it_keeps_its_limits_and_comes_to_rest(action, felt):
    scale, offset = np.array(ACTION.scale), np.array(ACTION.offset)
    limiter, rest = flying(offset + scale * np.array(action))
    bounds, spent = limiter.bounds, 0.0
    before = limiter.position, limiter.rate
    for row, periods in felt:
        step = periods * DT
        reading = None if row is None else imu(gravity=row[:3], gyro=row[3:])
        sent = rest.next(limiter, reading, 0.0, step)
        rate = (sent - before[0]) / step
        assert ((sent >= bounds.lower) & (sent <= bounds.upper)).all()
        assert (np.abs(rate) <= bounds.velocity * (1 + 1e-5)).all()
        assert (np.abs(rate - before[1]) / step <= bounds.acceleration * (1 + 1e-3)).all()
        before, spent = (limiter.position, limiter.rate), spent + step
        if rest.is_at_rest(limiter):
            return
    raise AssertionError(f"not at rest after {spent:.1f} s, {REST_S} s are allowed")
