"""What the safety layer lets through keeps every limit; what it cannot trust stops the robot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.robot import Reading
from robokd.sim2real.safety import HELD_TOLERANCE, TOLERANCE, Safety, SafetyStop
from robot_samples import DT, action_spec, make_bundle

from robokd.specs import ActionSpec, Limits, braking_rate, limit

ARM = ActionSpec(
    names=("a", "b", "c"), scale=(0.06, 0.06, 0.06), control_dt=0.04, position_lower=(-2.7, -1.7, -0.01),
    position_upper=(2.7, 1.2, 4.5), velocity=(2.2, 0.3, 2.6), acceleration=(10.0, 3.0, 12.5),
)  # fmt: skip
SHARE = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2)
WILD = st.one_of(
    st.floats(-1e4, 1e4, width=32), st.floats(-0.25, 0.25, width=32), st.sampled_from([-1.0, 1.0])
)


def admissible(spec: ActionSpec, where: np.ndarray, speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A pose within the limits and a rate that can still brake before them; shares in [-1, 1]."""
    limits = Limits.of(spec)
    middle, half = (limits.upper + limits.lower) / 2, (limits.upper - limits.lower) / 2
    anchor = np.clip(middle + where * half, limits.lower, limits.upper).astype(np.float32)
    room = np.where(speed > 0, limits.upper - anchor, anchor - limits.lower)
    fastest = np.minimum(limits.velocity, braking_rate(room, 0.9995 * limits.acceleration, limits.dt))
    return anchor, (speed * fastest).astype(np.float32)


def reading(position=(0.0, 0.0), captured_s=0.0, **changed) -> Reading:
    channels = {
        "joint_pos": np.array(position),
        "joint_vel": np.zeros(2),
        "joint_target": np.array(position),
        "front": np.zeros((1, 3, 4), np.uint8),
    }
    channels |= {name: np.array(value) for name, value in changed.items()}
    return Reading(sequence=1, channels=channels, captured_s=dict.fromkeys(channels, captured_s))


@pytest.fixture
def safety(tmp_path):
    layer = Safety(make_bundle(tmp_path / "a.robokd"))
    layer.begin(reading())
    return layer


@given(spec=st.sampled_from([ARM, action_spec()]), data=st.data())
@settings(max_examples=150, deadline=None)
def test_limits_are_kept_from_any_admissible_start_whatever_is_asked(spec, data):
    count = st.lists(st.floats(-1, 1, width=32), min_size=spec.size, max_size=spec.size)
    anchor, rate = admissible(spec, np.array(data.draw(count)), np.array(data.draw(count)))
    limits = Limits.of(spec)
    seed = data.draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    size = data.draw(st.sampled_from([0.01, 0.1, 1.0, 100.0]))
    velocity, acceleration = (np.array(row) for row in (spec.velocity, spec.acceleration))
    noise = 2 * np.spacing(np.float32(5)) / spec.control_dt  # rad/s, of float32 positions
    before, old_rate = anchor.astype(float), rate.astype(float)
    for _ in range(80):
        wanted = (anchor + size * generator.standard_normal(spec.size)).astype(np.float32)
        anchor, rate = limit(wanted, anchor, rate, limits)
        assert (anchor >= limits.lower).all()
        assert (anchor <= limits.upper).all()
        new_rate = (anchor - before) / spec.control_dt
        assert (np.abs(new_rate) <= velocity * (1 + 1e-4) + noise).all()
        change = np.abs(new_rate - old_rate)
        assert (change <= acceleration * spec.control_dt * (1 + 1e-4) + 2 * noise).all()
        before, old_rate = anchor.astype(float), new_rate


@given(where=SHARE, speed=SHARE, ask=st.lists(WILD, min_size=2, max_size=2))
@settings(max_examples=300, deadline=None)
def test_limiting_twice_is_limiting_once(where, speed, ask):
    limits = Limits.of(action_spec())
    anchor, rate = admissible(action_spec(), np.array(where), np.array(speed))
    once, _ = limit(np.array(ask, np.float32), anchor, rate, limits)
    twice, _ = limit(once, anchor, rate, limits)
    assert np.abs(once - twice).max() <= 1e-5


@given(st.lists(SHARE, min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_what_the_graph_has_limited_is_not_counted(tmp_path_factory, asks):
    safety = Safety(make_bundle(tmp_path_factory.mktemp("bundle") / "a.robokd"))
    safety.begin(reading())
    for ask in asks:
        wanted = safety.anchor + safety.limits.scale * np.array(ask, np.float32)
        by_graph, _ = limit(wanted, safety.anchor, safety.rate, safety.limits)
        safety.accept(safety.limit(by_graph))
    assert not safety.counts


def test_clipped_commands_are_counted_by_kind(safety):
    # dt 0.01 s; acceleration 20 rad/s^2 allows a rate of 0.2 rad/s: 0.002 rad in the first tick
    sent = safety.limit(np.array([0.005, 0.0], np.float32))
    assert sent[0] == pytest.approx(0.002)
    assert safety.counts == {"acceleration": 1}
    safety.accept(sent)
    sent = safety.limit(np.array([5.0, 0.0], np.float32))
    # 0.4 rad/s now
    assert sent[0] == pytest.approx(0.002 + 0.004)
    assert safety.counts == {"acceleration": 2, "velocity": 1, "position": 1}


def test_float_noise_is_not_a_clipped_command(safety):
    safety.limit(np.array([0.002 + 0.9 * TOLERANCE, 0.0], np.float32))
    assert not safety.counts


def test_the_anchor_is_what_was_sent(safety):
    safety.limit(np.array([0.002, 0.0], np.float32))
    safety.accept(np.array([0.001, 0.0], np.float32))  # the robot sent less
    assert safety.anchor.tolist() == np.float32([0.001, 0.0]).tolist()
    assert safety.rate == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_command_that_is_not_finite_stops(safety, bad):
    with pytest.raises(SafetyStop, match="policy commands") as stop:
        safety.limit(np.array([0.0, bad], np.float32))
    assert stop.value.kind == "non_finite"
    assert safety.counts == {"non_finite": 1}


def test_a_measurement_that_is_not_finite_stops(safety):
    with pytest.raises(SafetyStop, match="joint_vel"):
        safety.check_reading(reading(joint_vel=[0.0, np.nan]), 0.0)
    with pytest.raises(SafetyStop, match="joint_pos"):
        safety.begin(reading(position=[np.nan, 0.0]))
    assert safety.counts == {"non_finite_proprio": 2}


@pytest.mark.parametrize(
    ("channel", "kind"),
    [
        ("front", "stale_front"),
        ("joint_pos", "stale_proprio"),
        ("joint_vel", "stale_proprio"),
        ("joint_target", "stale_proprio"),
    ],
)
@pytest.mark.parametrize("captured", [-0.11, np.nan, 0.5])
def test_each_channel_has_its_age_budget(safety, channel, kind, captured):
    safety.check_reading(reading(captured_s=-0.09), 0.0)
    old = reading()
    old.captured_s[channel] = captured  # too old, unknown, from the future
    with pytest.raises(SafetyStop, match=channel) as stop:
        safety.check_reading(old, 0.0)
    assert stop.value.kind == kind


def test_joints_may_not_be_older_than_pictures_where_a_policy_reads_pictures_alone(tmp_path):
    safety = Safety(make_bundle(tmp_path / "a.robokd", observations={}, ages_s={"front": 0.1}))
    safety.begin(reading())
    safety.check_reading(reading(captured_s=-0.09), 0.0)
    old = reading()
    old.captured_s["joint_vel"] = -0.11
    with pytest.raises(SafetyStop, match=r"stale_joints: joint_vel is 0\.1100 s old"):
        safety.check_reading(old, 0.0)


def test_a_start_outside_the_envelope_is_refused(safety):
    with pytest.raises(SafetyStop, match=r"elbow starts at 0\.3100 rad") as stop:
        safety.begin(reading(position=[0.0, 0.31]))
    assert stop.value.kind == "start"


def test_the_anchor_is_the_target_that_is_held_at_rest(safety):
    safety.begin(reading(position=[0.0056, -0.0056], joint_target=[0.001, 0.002]))
    assert safety.anchor.tolist() == np.float32([0.001, 0.002]).tolist()
    assert safety.rate.tolist() == [0.0, 0.0]
    assert safety.anchor.dtype == safety.rate.dtype == np.float32


def test_a_held_target_far_from_where_the_joint_is_stops(safety):
    safety.begin(reading(joint_target=[0.99 * HELD_TOLERANCE, 0.0]))
    with pytest.raises(SafetyStop, match=r"elbow is 0\.0000 rad, the target it holds -0\.0505") as stop:
        safety.begin(reading(joint_target=[0.0, -1.01 * HELD_TOLERANCE]))
    assert stop.value.kind == "held_target"
    assert safety.counts == {"held_target": 1}


def test_a_held_target_that_is_not_finite_or_beyond_a_limit_stops(tmp_path):
    # the envelope allows a start next to the limit of 0.7 rad, the held target is beyond it
    start = {"joint_pos_lower": [-0.3, -0.3], "joint_pos_upper": [0.3, 0.7]}
    safety = Safety(make_bundle(tmp_path / "a.robokd", start=start))
    with pytest.raises(
        SafetyStop, match=r"elbow holds 0\.7100 rad, limits are \[-0\.5000, 0\.7000\]"
    ) as stop:
        safety.begin(reading(position=[0.0, 0.69], joint_target=[0.0, 0.71]))
    assert stop.value.kind == "held_target"
    with pytest.raises(SafetyStop, match="joint_target reads"):
        safety.begin(reading(joint_target=[0.0, np.nan]))


def test_a_first_command_out_of_reach_of_the_held_target_is_refused(safety):
    far = np.array([0.0, 0.03], np.float32)  # scale 0.02: no action can ask for so much
    with pytest.raises(SafetyStop, match="first command for elbow"):
        safety.limit(far)
    safety.accept(safety.limit(np.zeros(2, np.float32)))
    assert safety.limit(far)[1] == pytest.approx(DT * DT * 10)  # later it is only limited
