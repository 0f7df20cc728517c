"""The guard's last word on joint targets: position, velocity, acceleration and jerk between its own stamps.

A joint's targets q_k are stamped, dt_k apart. Its rate is v_k = (q_k - q_(k-1)) / dt_k, its acceleration
a_k = (v_k - v_(k-1)) / dt_k, its jerk (a_k - a_(k-1)) / dt_k; at the start v = a = 0. V, A and J bound them.

Source: Kröger and Wahl (2010), "Online trajectory generation", for the third-order profile; Blanchini (1999),
"Set invariance in control", for the argument. Departures: differences in place of derivatives, and no profile
is kept. A target is sent only if from its (q, v, a) the joint can still stop before the position limit and
level off before the velocity limit, under A and J, whatever the next periods are; so a next target exists.
Shapes: A joints. Positions in rad, times in s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from robokd import specs

KINDS = ("position", "velocity", "acceleration", "jerk")
SHORTEST = 0.94  # of control_dt: less time between two targets is refused, and never reckoned with
SAME = 1e-9  # a period within this share of control_dt is control_dt
ULPS = 2  # of float32 at a joint's farthest limit: how far `specs.limit` may move what it has itself limited
NEAR = 1e-8  # rad around the farthest admissible target, in which the search for it ends; under an ulp
SEARCH = 30  # steps of it at most; 4 or 5 are usual


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What every joint's targets keep to: (A,) float64, SI units; the position limits are float32 numbers."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    control_dt: float

    @classmethod
    def of(cls, action: specs.ActionSpec, robot: dict[str, Any], speed: float = 1.0) -> Bounds:
        """Return the bounds of a bundle, the moving ones scaled by `speed` in (0, 1].

        A position servo's torque is kp * (target - q), so a torque rate allows a rate of torque_rate / kp.
        Without a jerk limit the acceleration limit implies one: from -A to A in a control_dt.
        """
        if not 0 < speed <= 1:
            raise ValueError(f"speed must be in (0, 1], got {speed}")
        velocity, acceleration = np.array(action.velocity), np.array(action.acceleration)
        names = [name for name in ("jerk", "torque_rate", "kp") if robot.get(name) is not None]
        given = {name: np.array(robot[name], float) for name in names}
        for name, row in given.items():
            if row.shape != velocity.shape or not (row > 0).all():
                raise ValueError(f"robot.{name} must be {action.size} numbers > 0, got {row.tolist()}")
        if "torque_rate" in given:
            if "kp" not in given:
                raise ValueError("robot.torque_rate is given but robot.kp is not: no rate follows from it")
            velocity = np.minimum(velocity, given["torque_rate"] / given["kp"])
        jerk = given.get("jerk", 2 * acceleration / action.control_dt)
        lower, upper = np.array([action.position_lower, action.position_upper], np.float32).astype(float)
        if not (lower < upper).all():
            raise ValueError(f"lower must be < upper, got {lower.tolist()}, {upper.tolist()}")
        moving = {"velocity": speed * velocity, "acceleration": speed * acceleration, "jerk": speed * jerk}
        return cls(lower=lower, upper=upper, **moving, control_dt=float(action.control_dt))


class Limiter:
    """Moves targets as little as needed to keep all bounds, from the last ones that were sent.

    `position`, `rate` and `acceleration`, (A,) float64, are of those. Kept whatever is asked, however late:
    position exactly, V, A and J by the differences above, up to 1 ulp of position over dt (V), dt^2 (A),
    dt^3 (J), or ULPS + 1 where the jerk is the implied one. A late target steps no farther than one on time
    may, unless to stop so short would break A or J.

    What a policy has decoded under V and A passes as it is, away from the position limits: where the jerk is
    the implied one, by up to ULPS. Near them it brakes earlier than `specs.limit`, which reckons with periods
    of control_dt only: on its braking curve a shorter period finds no target that keeps position and A.

    It plans no motion: a target out of reach is chased, and overshot if it stays where it is.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        rows = (bounds.lower, bounds.upper, bounds.velocity, bounds.acceleration, bounds.jerk)
        self._joints = [_Joint(row, bounds.control_dt) for row in np.array(rows).T]
        self.begin(np.clip(0.0, bounds.lower, bounds.upper))

    def begin(self, position: np.ndarray) -> None:
        """Start at rest from (A,) rad, or from the nearest position within the limits."""
        held = np.clip(self._finite(position), self.bounds.lower, self.bounds.upper).astype(np.float32)
        self._states = [(place, 0.0, 0.0) for place in held.tolist()]
        self._commit(held.tolist(), self.bounds.control_dt)

    def limit(self, target: np.ndarray, dt_s: float) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the targets (A,) float32 to send `dt_s` after the last, and which KINDS moved them."""
        asked, dt = self._finite(target), self._period(dt_s)
        within = np.minimum(np.maximum(asked, self.bounds.lower), self.bounds.upper)
        found = {"position"} if (within != asked).any() else set()
        sent = within.astype(np.float32).tolist()
        for i, (joint, state, want) in enumerate(zip(self._joints, self._states, sent, strict=True)):
            if joint.is_free(*state, want, dt):
                continue
            reach, kind = joint.follow(*state, want, dt)
            if abs(reach - want) > joint.slack:
                sent[i] = reach
                found.add(kind)
        self._commit(sent, dt)
        return np.array(sent, np.float32), tuple(kind for kind in KINDS if kind in found)

    def brake(self, dt_s: float) -> tuple[np.ndarray, bool]:
        """Return the next targets (A,) float32 of the quickest way to rest, and whether they are at rest.

        At rest, these targets can be held from here on. From v and a = 0 that takes v/A + A/J, or
        2 sqrt(v/J) where A is not reached, to within a control period.
        """
        dt, states = self._period(dt_s), zip(self._joints, self._states, strict=True)
        self._commit([joint.slow(*state, dt) for joint, state in states], dt)
        states = zip(self._joints, self._states, strict=True)
        is_at_rest = all(v == 0 and abs(a) <= joint.jerk * joint.shortest for joint, (_, v, a) in states)
        return self.position.astype(np.float32), is_at_rest

    def accept(self, sent: np.ndarray, dt_s: float) -> None:
        """Take what the robot was really sent in place of what `limit` or `brake` returned last."""
        values, dt = self._finite(sent).astype(np.float32).tolist(), self._period(dt_s)
        self._states = self._before
        self._commit(values, dt)

    def _commit(self, sent: list[float], dt: float) -> None:
        self._before = self._states
        self._states = [
            (now, rate := (now - q) / dt, (rate - v) / dt)
            for (q, v, _), now in zip(self._before, sent, strict=True)
        ]
        self.position, self.rate, self.acceleration = np.array(self._states).T

    def _finite(self, row: np.ndarray) -> np.ndarray:
        values = np.asarray(row, np.float64)
        if values.shape != self.bounds.lower.shape or not np.isfinite(values).all():
            raise ValueError(f"wanted {len(self.bounds.lower)} finite joint positions, got {values.tolist()}")
        return values

    def _period(self, dt_s: float) -> float:
        nominal = self.bounds.control_dt
        if abs(dt_s - nominal) <= SAME * nominal:
            return nominal
        if not SHORTEST * nominal * (1 - SAME) <= dt_s < math.inf:
            raise ValueError(f"{dt_s} s after the last targets, wanted >= {SHORTEST * nominal} s")
        return float(dt_s)


class _Joint:
    """One joint's bounds and its law, in plain floats: for seven joints they are faster than arrays.

    q, v and a are of the last target. An acceleration is admissible for the next dt if it is within A and J,
    and after it the joint can level off within V and stop within the position limits.
    """

    def __init__(self, row: np.ndarray, control_dt: float) -> None:
        lower, upper, velocity, acceleration, jerk = row.tolist()
        self.lower, self.upper, self.velocity = lower, upper, velocity
        self.most, self.jerk, self.control_dt = acceleration, jerk, control_dt
        self.shortest = SHORTEST * control_dt
        self.is_implied = jerk * control_dt >= 2 * acceleration * (1 - SAME)
        ulp = float(np.spacing(np.float32(max(abs(lower), abs(upper)))))
        self.slack = ULPS * ulp if self.is_implied else 0.0
        # what is left of J to plan with, when rounding costs every target an ulp
        self.sure = jerk if self.is_implied else max(jerk - ulp / self.shortest**3, jerk / 2)

    def is_free(self, q: float, v: float, a: float, want: float, dt: float) -> bool:
        """Whether a target is plainly admissible, by a distance to stop that holds both ways (AM-GM)."""
        rate = (want - q) / dt
        acceleration = (rate - v) / dt
        speed, size, most, jerk = abs(rate), abs(acceleration), self.most, self.sure
        if size > most or abs(acceleration - a) > jerk * dt or dt > self.control_dt:
            return False
        time = size / jerk
        peak = speed + size * time / 2
        stop = speed * dt + time * (speed + size * time / 3) + peak * (peak / most + most / jerk) / 2
        return peak <= self.velocity and stop <= self.upper - q and stop <= q - self.lower

    def follow(self, q: float, v: float, a: float, want: float, dt: float) -> tuple[float, str]:
        """Return the admissible target nearest to `want`, and which of KINDS bounds it."""
        step = want - q
        if dt > (nominal := self.control_dt):
            up = v + min(self.most, a + self.jerk * nominal) * nominal
            down = v - min(self.most, self.jerk * nominal - a) * nominal
            step = max(step, max(min(down, 0.0), -self.velocity) * nominal)
            step = min(step, min(max(up, 0.0), self.velocity) * nominal)
        reach, kind = self._reach(q, v, a, q + step, dt)
        return reach, "velocity" if kind == "jerk" and step != want - q else kind

    def slow(self, q: float, v: float, a: float, dt: float) -> float:
        """Return the next target on the quickest way to rest, if the next periods are like this one."""
        wish = levelling(abs(v), self.sure, dt, min(dt, self.control_dt))
        return self._reach(q, v, a, q + (v - math.copysign(wish, v) * dt) * dt, dt)[0]

    def _reach(self, q: float, v: float, a: float, want: float, dt: float) -> tuple[float, str]:
        change, most = self.jerk * dt, self.most
        a = min(max(a, -most), most)  # it is beyond A only where the robot sent something else
        least, greatest = max(-most, a - change), min(most, a + change)
        wish = ((want - q) / dt - v) / dt
        chosen = min(max(wish, least), greatest)
        kind = "acceleration" if abs(chosen) == most else "jerk"
        if abs(v + chosen * dt) + chosen * chosen / (2 * self.sure) > self.velocity:
            up = max(levelling(self.velocity - v, self.sure, dt, self.shortest), least)
            down = min(-levelling(self.velocity + v, self.sure, dt, self.shortest), greatest)
            if not down <= chosen <= up:
                chosen, kind = max(down, min(chosen, up)), "velocity"
        nearest = self._farthest(self.upper - q, v, chosen, least, dt)
        nearest = -self._farthest(q - self.lower, -v, -nearest, -greatest, dt)
        if nearest != chosen:
            chosen, kind = nearest, "position"
        if chosen == wish:
            return self._round(want, -math.inf, math.inf), kind
        reach = q + (v + chosen * dt) * dt
        if chosen < wish:
            return self._round(reach, q + (v + least * dt) * dt, reach), kind
        return self._round(reach, reach, q + (v + greatest * dt) * dt), kind

    def _farthest(self, room: float, v: float, chosen: float, least: float, dt: float) -> float:
        """Return the largest acceleration in [least, chosen] after which the joint can stop within `room`.

        By regula falsi (Illinois): of its bracket, the end that stops in time.
        """

        def excess(acceleration: float) -> float:
            rate = v + acceleration * dt
            return rate * dt + stopping_distance(rate, acceleration, self.most, self.sure) - room

        over = excess(chosen)
        if over <= NEAR or least >= chosen:
            return chosen
        under = excess(least)
        if under > 0:  # not by this law it came here: brake, and the position limit comes last
            stop = -v * v / (2 * room + v * dt) if v > 0 else 0.0  # evenly, in periods of dt
            if stop < -self.most * (1 + SAME):
                return stop
            return max(least, min(chosen, -levelling(max(v, 0.0), self.sure, dt, self.shortest)))
        high, low, was_over = chosen, least, None
        for _ in range(SEARCH):
            middle = high - over * (high - low) / (over - under)
            found = excess(middle)
            if found > 0:
                high, over, under = middle, found, under / 2 if was_over else under
            else:
                low, under, over = middle, found, over / 2 if was_over is False else over
                if found >= -NEAR:
                    break
            was_over = found > 0
        return low

    def _round(self, reach: float, low: float, high: float) -> float:
        """Return the float32 next to `reach`, in [low, high] if one is; the position limits come last."""
        rounded = np.float32(reach)
        if float(rounded) > high:  # numpy would compare in float32
            rounded = np.nextafter(rounded, np.float32(-np.inf))
        if float(rounded) < low:
            rounded = np.nextafter(rounded, np.float32(np.inf))
        return min(max(float(rounded), self.lower), self.upper)


def levelling(change: float, jerk: float, dt: float, shortest: float) -> float:
    """Return the acceleration that moves a rate by `change`: by itself for dt, and while J brings it to 0.

    In periods of `shortest` = m, the least favourable, n + f units of J m (n whole, 0 <= f < 1) move it by
    n(n-1)/2 + n f units of J m^2, and before that, for dt = r m, by r(n + f); this inverts the sum.
    """
    units, ratio = change / (jerk * shortest * shortest), dt / shortest
    whole = math.floor(math.sqrt((ratio - 0.5) ** 2 + 2 * max(units, 0.0)) - (ratio - 0.5))
    return (whole + (units - whole * (whole - 1) / 2 - ratio * whole) / (whole + ratio)) * jerk * shortest


def stopping_distance(rate: float, acceleration: float, most: float, jerk: float) -> float:
    """Return how far up a joint moves until it can rest, under |a| <= A and |jerk| <= J; 0 if only down.

    At -J for t = a/J it comes to a = 0 and v + a^2/(2J) = p, after v t + a^2 t/(3J); from there it takes
    p sqrt(p/J), or p (p/A + A/J)/2 if it reaches -A. Of a braking so hard that it turns back, what would
    just not counts. No periods need more: a sum over them of a falling rate is below its integral.
    """
    if acceleration < 0:
        acceleration = max(acceleration, -math.sqrt(2 * jerk * rate)) if rate > 0 else 0.0
    time = acceleration / jerk
    peak = rate + acceleration * time / 2
    if peak <= 0:
        return 0.0
    braking = math.sqrt(peak / jerk) if peak * jerk < most * most else (peak / most + most / jerk) / 2
    return max(time * (rate + acceleration * time / 3) + peak * braking, 0.0)
