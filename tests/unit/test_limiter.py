"""Whatever is asked, and whenever, what the limiter sends keeps position, velocity, acceleration and jerk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.limiter import KINDS, SHORTEST, Bounds, Limiter, levelling, stopping_distance
from robokd.tasks.bodies import panda

from robokd.specs import ActionSpec, Limits, decode

DT = 0.02
SEEDS = st.integers(0, 2**32 - 1)


def arm(dt: float = DT, **changed) -> ActionSpec:
    fields = {
        "names": panda.JOINTS, "scale": (0.04,) * 7, "control_dt": dt, "velocity": panda.VELOCITY,
        "position_lower": panda.LOWER, "position_upper": panda.UPPER, "acceleration": panda.ACCELERATION,
    }  # fmt: skip
    return ActionSpec(**{**fields, **changed})


def bounds(share: float | None, dt: float = DT, **changed) -> Bounds:
    """Of the arm, with `share` of the jerk that its acceleration limit implies."""
    spec = arm(dt, **changed)
    return Bounds.of(spec, {"jerk": share and [share * 2 * a / dt for a in spec.acceleration]})


def stubby(share: float | None, **changed) -> Bounds:
    """An arm whose joints can hardly move."""
    return bounds(share, position_lower=(-0.15,) * 7, position_upper=(0.1,) * 7, **changed)


class Judge:
    """Finite differences of what was sent, over true time, against the bounds.

    A float32 target is off by half an ulp of the joint's range at most, so a rate by ulp/dt, an acceleration
    by 2 ulp/dt^2 and a jerk by 4 ulp/dt^3.
    """

    def __init__(self, limits: Bounds, held: np.ndarray) -> None:
        self.limits, self.position = limits, held
        self.rate = self.acceleration = np.zeros(len(held))
        self.ulp = np.spacing(np.maximum(-limits.lower, limits.upper).astype(np.float32)).astype(float)

    def look(self, sent: np.ndarray, dt: float) -> None:
        limits, ulp = self.limits, self.ulp
        assert sent.dtype == np.float32
        rate = (sent.astype(float) - self.position) / dt
        acceleration = (rate - self.rate) / dt
        jerk = (acceleration - self.acceleration) / dt
        assert (sent >= limits.lower).all()
        assert (sent <= limits.upper).all()
        assert (np.abs(rate) <= limits.velocity * (1 + 1e-4) + ulp / dt).all()
        assert (np.abs(acceleration) <= limits.acceleration * (1 + 1e-4) + 2 * ulp / dt**2).all()
        assert (np.abs(jerk) <= limits.jerk * (1 + 1e-3) + 4 * ulp / dt**3).all()
        self.position, self.rate, self.acceleration = sent.astype(float), rate, acceleration


def adversary(kind: str, limiter: Limiter, generator: np.random.Generator) -> np.ndarray:
    """Targets (A,) that try to lead the limiter astray."""
    limits, size = limiter.bounds, len(limiter.position)
    side = generator.choice([-1, 1], size) if generator.random() < 0.05 or kind == "alternating" else 1
    match kind:
        case "random":
            return limiter.position + generator.standard_normal(size) * 10 ** generator.uniform(-4, 1)
        case "alternating":
            return limiter.position + side * 1.0
        case "bang-bang":
            return limiter.position + side * np.sign(np.sin(generator.uniform() + np.arange(size))) * 9.0
        case "huge":
            return side * np.full(size, 1e300)
        case "at the limit":
            return np.where(side > 0, limits.upper, limits.lower) * np.ones(size)
        case _:
            return limiter.position + limiter.rate * limits.control_dt + generator.normal(0, 1e-4, size)


def period(kind: str, generator: np.random.Generator) -> float:
    """Shares of control_dt between two targets."""
    match kind:
        case "on time":
            return 1.0
        case "shortest":
            return SHORTEST
        case "late":
            return 1.0 if generator.random() < 0.5 else generator.uniform(1, 10)
    return generator.choice([1.0, SHORTEST, generator.uniform(SHORTEST, 1), generator.uniform(1, 10)])


@given(
    seed=SEEDS,
    make=st.sampled_from([bounds, stubby]),
    share=st.sampled_from([None, 1.5, 0.3, 0.05]),
    dt=st.sampled_from([0.01, 0.02, 0.04]),
    targets=st.sampled_from(["random", "alternating", "bang-bang", "huge", "at the limit", "drifting"]),
    times=st.sampled_from(["on time", "late", "shortest", "any"]),
)
@settings(max_examples=120)
def test_what_is_sent_keeps_every_limit(seed, make, share, dt, targets, times):
    generator = np.random.default_rng(seed)
    limiter = Limiter(make(share, dt=dt))
    limiter.begin(generator.uniform(limiter.bounds.lower, limiter.bounds.upper))
    judge = Judge(limiter.bounds, limiter.position)
    for _ in range(120):
        now = period(times, generator) * dt
        if is_braking := generator.random() < 0.05:
            sent, _ = limiter.brake(now)
        else:
            sent, _ = limiter.limit(adversary(targets, limiter, generator), now)
        judge.look(sent, now)
        assert np.allclose(limiter.rate, judge.rate, atol=1e-9), is_braking
        assert np.allclose(limiter.acceleration, judge.acceleration, atol=1e-6)


@given(
    v=st.floats(-3, 30), a=st.floats(-1, 1), dt=st.floats(1e-4, 300),
)  # fmt: skip
@settings(max_examples=1000)
def test_braking_in_steps_of_any_length_stays_within_the_stopping_distance(v, a, dt):
    """In units of A and J, so these are all joints there are."""
    wish = -2 * v / (dt + np.sqrt(dt * dt + 2 * abs(v)))  # wish dt + wish^2/2 = -v: it levels off at 0
    after = min(max(wish, -1, a - dt), 1, a + dt)
    rate, room = v + after * dt, stopping_distance(v, a, 1, 1)
    assert rate * dt + stopping_distance(rate, after, 1, 1) <= room * (1 + 1e-9) + 1e-9


def test_hand_values_of_the_stopping_distance():
    # A = 2, J = 4: to A in 0.5 s and 0.5 rad/s; from 3 rad/s: 3 (3/2 + 1/2)/2; from 0.25: 0.25 * 0.25
    assert stopping_distance(3, 0, 2, 4) == 3
    assert stopping_distance(0.25, 0, 2, 4) == 0.0625
    # a = 2 for 0.5 s more: 0.5 * (2.5 + 1/3) until v = 3
    assert stopping_distance(2.5, 2, 2, 4) == pytest.approx(0.5 * (2.5 + 1 / 3) + 3)
    assert stopping_distance(-1, 1, 2, 4) == 0


@given(change=st.floats(0, 50), share=st.floats(1, 20))
def test_levelling_is_what_the_shortest_periods_add_up_to(change, share):
    jerk, shortest = 3.0, 0.5
    acceleration = levelling(change, jerk, share * shortest, shortest)
    moved = acceleration * share * shortest
    while (acceleration := acceleration - jerk * shortest) > 0:
        moved += acceleration * shortest
    assert moved == pytest.approx(change, abs=1e-9)


@pytest.mark.parametrize("dt", [0.04, 0.02])
def test_what_a_policy_has_decoded_passes_bit_for_bit_away_from_the_position_limits(dt):
    spec = arm(dt)
    generator, limits, limiter = np.random.default_rng(0), Limits.of(spec), Limiter(Bounds.of(spec, {}))
    anchor = np.clip(np.float32(panda.HOME), limits.lower, limits.upper)
    rate, drift, passed = np.zeros(7, np.float32), np.ones(7), 0
    limiter.begin(anchor)
    for step in range(10_000):
        if step % 40 == 0:
            drift = generator.uniform(-1.5, 1.5, 7)
        action = np.float32(drift + generator.standard_normal(7) * (step % 3))
        target, rate = decode(action, anchor, rate, limits)
        sent, _ = limiter.limit(target, dt)
        room = np.minimum(limits.upper - anchor, anchor - limits.lower)
        is_away = room > limits.velocity * (limits.velocity / limits.acceleration / 2 + 3 * dt)
        assert sent[is_away].tobytes() == target[is_away].tobytes()
        passed += is_away.sum()
        rate = np.where(sent == target, rate, limiter.rate.astype(np.float32))
        anchor = sent
    assert passed > 20_000


@pytest.mark.parametrize("share", [None, 0.5, 0.1])
@pytest.mark.parametrize("dt", [0.01, 0.02, 0.04])
def test_braking_from_full_speed_takes_the_least_time_to_within_a_period(share, dt):
    limits = bounds(share, dt, velocity=(1.0, 0.8, 1.1, 0.7, 1.2, 0.9, 1.0))
    for joint in range(7):
        limiter, middle = Limiter(limits), (limits.lower + limits.upper) / 2
        limiter.begin(limits.lower)
        target = middle.copy()
        target[joint] = limits.upper[joint]
        while limiter.position[joint] < middle[joint]:
            limiter.limit(np.where(np.arange(7) == joint, target, limits.lower), dt)
        speed = limiter.rate[joint]
        assert speed == pytest.approx(limits.velocity[joint], rel=1e-3)
        steps = 1
        while not limiter.brake(dt)[1]:
            steps += 1
        acceleration, jerk = limits.acceleration[joint], limits.jerk[joint]
        ramps = speed * jerk < acceleration**2
        least = 2 * np.sqrt(speed / jerk) if ramps else speed / acceleration + acceleration / jerk
        assert steps * dt <= least + dt
        held = limiter.position
        for share_dt in (SHORTEST, 1.0, 3.0):
            sent, is_at_rest = limiter.brake(share_dt * dt)
            assert is_at_rest
            assert sent.tolist() == held.tolist()


def test_a_target_at_the_limit_is_reached():
    limiter = Limiter(bounds(0.3))
    limiter.begin(panda.HOME)
    for _ in range(400):
        sent, reasons = limiter.limit(limiter.bounds.upper, DT)
    assert sent.tolist() == limiter.bounds.upper.tolist()
    assert reasons == ()


def test_a_late_target_steps_no_farther_and_the_next_one_keeps_the_acceleration():
    limiter = Limiter(bounds(None))
    limiter.begin(panda.HOME)
    goal = np.array(panda.HOME) + 0.5
    on_time, _ = limiter.limit(goal, DT)  # from rest: A dt^2
    assert on_time - np.float32(panda.HOME) == pytest.approx(limiter.bounds.acceleration * DT**2, rel=1e-3)
    limiter.begin(panda.HOME)
    late, reasons = limiter.limit(goal, 10 * DT)
    assert late == pytest.approx(on_time)
    assert reasons == ("velocity",)
    # its rate is a tenth, so the next step may be A dt^2 longer than a tenth of the last
    after, _ = limiter.limit(goal, DT)
    assert after - late == pytest.approx(1.1 * limiter.bounds.acceleration * DT**2, rel=1e-3)


@pytest.mark.parametrize(
    ("share", "target", "reasons"),
    [
        (None, 0.002, ()),
        (None, 0.02, ("acceleration",)),
        (None, 9.0, ("position", "acceleration")),
        (0.25, 0.02, ("jerk",)),
    ],
)
def test_reasons_name_what_moved_a_target(share, target, reasons):
    limiter = Limiter(bounds(share))
    limiter.begin(np.zeros(7))
    limiter.begin(panda.HOME)
    sent, found = limiter.limit(np.array(panda.HOME) + target * np.eye(7)[0], DT)
    assert found == reasons
    assert set(found) <= set(KINDS)
    assert sent[1:].tolist() == np.float32(panda.HOME)[1:].tolist()


def test_full_speed_is_bounded_by_velocity():
    limiter = Limiter(bounds(0.5))
    limiter.begin(panda.LOWER)
    for _ in range(25):
        _, reasons = limiter.limit(np.zeros(7), DT)
    assert "velocity" in reasons


def test_what_the_robot_sent_takes_the_place_of_the_target():
    limiter = Limiter(bounds(0.5))
    limiter.begin(panda.HOME)
    limiter.limit(np.array(panda.HOME) + 0.1, DT)
    really = np.float32(panda.HOME) + np.float32(1e-4)
    limiter.accept(really, DT)
    assert limiter.position.tolist() == really.tolist()
    assert limiter.rate == pytest.approx(1e-4 / DT, rel=1e-2)
    assert limiter.acceleration == pytest.approx(1e-4 / DT**2, rel=1e-2)


def test_after_what_it_did_not_choose_it_still_comes_to_rest_within_the_position_limits():
    generator = np.random.default_rng(0)
    limiter = Limiter(stubby(0.3))
    for _ in range(50):
        limiter.begin(np.zeros(7))
        limiter.limit(np.zeros(7), DT)
        limiter.accept(generator.uniform(limiter.bounds.lower, limiter.bounds.upper), DT)
        for _ in range(60):
            sent, is_at_rest = limiter.brake(DT)
            assert (sent >= limiter.bounds.lower).all()
            assert (sent <= limiter.bounds.upper).all()
        assert is_at_rest


def test_the_first_short_period_on_the_braking_curve_keeps_every_limit():
    for steps in range(1, 40):
        limiter = Limiter(stubby(None))
        limiter.begin(limiter.bounds.lower)
        judge = Judge(limiter.bounds, limiter.position)
        for period in (1.0,) * steps + (SHORTEST,) * 10:
            judge.look(limiter.limit(limiter.bounds.upper, period * DT)[0], period * DT)


@pytest.mark.parametrize("bad", [[np.nan] * 7, [np.inf] * 7, [0.0] * 6])
def test_targets_that_are_not_finite_or_too_few_are_refused(bad):
    limiter = Limiter(bounds(None))
    for call in (limiter.begin, lambda row: limiter.limit(row, DT), lambda row: limiter.accept(row, DT)):
        with pytest.raises(ValueError, match="wanted 7 finite joint positions"):
            call(np.array(bad))


@pytest.mark.parametrize("dt", [0.0, -DT, 0.93 * DT, np.nan, np.inf])
def test_a_period_too_short_or_not_finite_is_refused(dt):
    limiter = Limiter(bounds(None))
    for call in (limiter.brake, lambda dt: limiter.limit(np.zeros(7), dt)):
        with pytest.raises(ValueError, match=r"wanted >= 0\.0188 s"):
            call(dt)


def test_bounds_of_a_robot():
    spec, kp = arm(), [100.0] * 7
    plain = Bounds.of(spec, {"jerk": None, "torque_rate": None, "kp": kp})
    assert plain.velocity.tolist() == list(panda.VELOCITY)
    assert plain.jerk == pytest.approx(2 * np.array(panda.ACCELERATION) / DT)
    # 150 N m/s at 100 N m/rad: 1.5 rad/s
    assert Bounds.of(spec, {"torque_rate": [150.0] * 7, "kp": kp}).velocity == pytest.approx(1.5)
    half = Bounds.of(spec, {"jerk": [500.0] * 7}, speed=0.5)
    assert half.jerk.tolist() == [250.0] * 7
    assert half.velocity.tolist() == [v / 2 for v in panda.VELOCITY]
    assert half.acceleration.tolist() == [a / 2 for a in panda.ACCELERATION]


@pytest.mark.parametrize(
    ("robot", "speed", "message"),
    [
        ({"torque_rate": [100.0] * 7}, 1.0, r"robot\.torque_rate is given but robot\.kp is not"),
        ({"jerk": [1.0] * 6}, 1.0, r"robot\.jerk must be 7 numbers > 0"),
        ({"jerk": [0.0] * 7}, 1.0, r"robot\.jerk must be 7 numbers > 0"),
        ({}, 0.0, "speed must be in"),
        ({}, 1.5, "speed must be in"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(robot, speed, message):
    with pytest.raises(ValueError, match=message):
        Bounds.of(arm(), robot, speed)
