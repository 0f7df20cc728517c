"""Motions that make a joint's friction, damping, inertia and delay show, inside the limits of a contract.

    steps   random targets, each gone to as fast as allowed: inertia, damping and delay
    holds   random targets, each held for a while: dry friction, by how and where a joint comes to rest
    chirp   a rising frequency, the amplitude what the limits leave of it: the servo's lag at every frequency

Friction shows where a joint turns back, and as little of it as a servo is stiff: 0.5 N m move a joint of
1450 N m/rad by 0.0003 rad. It needs many turns, and speeds beside positions. All joints move at once, each in
its own way, so that what one does to another tells a weak servo from a heavy joint.
Every motion begins and ends at rest at the base. Shapes: K control periods, A joints; rad.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robokd.specs import ActionSpec, Limits, braking_rate, limit

KINDS = ("steps", "holds", "chirp")
SHARE = 0.8  # of the contract's speeds and accelerations: room for the jitter of the commands' times
REST_S = 0.6  # at the base before every motion: the sensors' noise is measured there
STEP_S = (0.12, 0.5)  # how long one random target lasts
HOLD_S = (0.8, 1.8)  # how long one held target lasts
CHIRP_HZ = (0.1, 5.0)  # first and last frequency
CHIRP_DETUNE = 0.25  # a joint's frequencies differ from another's by up to this share
ARRIVED = 1e-9  # rad


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Joint targets, one row a control period."""

    name: str  # unique in a plan
    kind: str  # of KINDS, or "approach": the way to the base, which is not fitted
    seed: int
    is_held_out: bool  # for validation
    targets: np.ndarray  # (K, A) float64


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where a plan may move the joints, and how fast."""

    base: np.ndarray  # (A,) around which
    amplitude: np.ndarray  # (A,) both ways
    limits: Limits  # float64; of the whole way, the one to the base included

    @classmethod
    def of(
        cls, action: ActionSpec, start: tuple[np.ndarray, np.ndarray], amplitude: float,
        jerk: np.ndarray | None = None,
    ) -> Room:  # fmt: skip
        """Return the room of a contract.

        Args:
            action: whose limits are kept, and no joint is faster than a policy could ask for.
            start: lowest and highest start pose (A,), a region that is known to be free.
            amplitude: share of the region's half width.
            jerk: rad/s^3 (A,), if the contract has one.
        """
        whole = Limits.of(action, lambda row: np.asarray(row, np.float64))
        lower, upper = np.maximum(start[0], whole.lower), np.minimum(start[1], whole.upper)
        if not (lower < upper).all():
            joint = action.names[int(np.argmin(upper - lower))]
            raise ValueError(f"{joint} has no room to move: its start poses are outside its limits")
        acceleration = SHARE * whole.acceleration
        if jerk is not None:  # acceleration may turn round within a period, which is twice of it
            acceleration = np.minimum(acceleration, SHARE * jerk * whole.dt / 2)
        velocity = SHARE * np.minimum(whole.velocity, whole.scale / whole.dt)
        slower = dataclasses.replace(whole, velocity=velocity, acceleration=acceleration)
        return cls(base=(lower + upper) / 2, amplitude=amplitude * (upper - lower) / 2, limits=slower)


def plan(room: Room, anchor: np.ndarray, *, motions: int, motion_s: float, seed: int) -> list[Motion]:
    """Return the way from `anchor` (A,) to the base, then so many motions; every third is held out.

    Raises ValueError for fewer than three: there would be none to validate on.
    """
    if motions < len(KINDS):
        raise ValueError(f"motions must be >= {len(KINDS)}, got {motions}: none would be left to validate on")
    found = [Motion(
        name="approach", kind="approach", seed=seed, is_held_out=False,
        targets=_rest(_go_home(np.asarray(anchor, np.float64), np.zeros_like(room.base), room), room),
    )]  # fmt: skip
    wishes: dict[str, Callable[[np.random.Generator, int, Room], np.ndarray]] = {
        "steps": lambda random, count, room: _targets(random, count, room, STEP_S),
        "holds": lambda random, count, room: _targets(random, count, room, HOLD_S),
        "chirp": _chirp,
    }
    for number in range(motions):
        kind = KINDS[number % len(KINDS)]
        random = np.random.default_rng((seed, number))
        wanted = wishes[kind](random, max(1, round(motion_s / room.limits.dt)), room)
        found.append(Motion(
            name=f"{kind}_{number}", kind=kind, seed=seed, is_held_out=number % len(KINDS) == len(KINDS) - 1,
            targets=_rest(_follow(wanted, room), room),
        ))  # fmt: skip
    return found


def approach(
    wanted: np.ndarray, anchor: np.ndarray, rate: np.ndarray, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Return the next (target, rate) on the fastest way to `wanted` (A,) that comes to rest there."""
    way = wanted - anchor
    fastest = braking_rate(np.abs(way), 0.999 * limits.acceleration, limits.dt)
    return limit(anchor + np.clip(way, -fastest * limits.dt, fastest * limits.dt), anchor, rate, limits)


def _targets(
    random: np.random.Generator, count: int, room: Room, lasting_s: tuple[float, float]
) -> np.ndarray:
    """Return random targets (K, A), of which each joint changes its own at its own times."""
    wanted = np.empty((count, len(room.base)))
    shortest, longest = (max(1, round(seconds / room.limits.dt)) for seconds in lasting_s)
    for joint in range(len(room.base)):
        begin = 0
        while begin < count:
            end = begin + int(random.integers(shortest, longest + 1))
            wanted[begin:end, joint] = random.uniform(-1, 1)
            begin = end
    return room.base + wanted * room.amplitude


def _chirp(random: np.random.Generator, count: int, room: Room) -> np.ndarray:
    """Return sines (K, A) of rising frequency, as high as speed and acceleration allow."""
    low, high = CHIRP_HZ
    moment = np.arange(count)[:, None] / count
    detune = 1 + random.uniform(-CHIRP_DETUNE, CHIRP_DETUNE, len(room.base))
    omega = 2 * np.pi * low * (high / low) ** moment * detune
    phase = random.uniform(0, 2 * np.pi, len(room.base)) + np.cumsum(omega, 0) * room.limits.dt
    allowed = np.minimum(0.7 * room.limits.velocity / omega, 0.7 * room.limits.acceleration / omega**2)
    return room.base + np.minimum(room.amplitude, allowed) * np.sin(phase)


def _follow(wanted: np.ndarray, room: Room) -> np.ndarray:
    """Return targets (K', A) within the limits that follow `wanted` (K, A) from the base and back to it."""
    anchor, rate, rows = room.base, np.zeros_like(room.base), []
    for row in wanted:
        anchor, rate = approach(row, anchor, rate, room.limits)
        rows.append(anchor)
    return np.concatenate([np.array(rows), _go_home(anchor, rate, room)])


def _go_home(anchor: np.ndarray, rate: np.ndarray, room: Room) -> np.ndarray:
    rows = []
    while np.abs(anchor - room.base).max() > ARRIVED or np.abs(rate).max() > ARRIVED:
        anchor, rate = approach(room.base, anchor, rate, room.limits)
        rows.append(anchor)
    return np.array(rows).reshape(-1, len(room.base))


def _rest(targets: np.ndarray, room: Room) -> np.ndarray:
    """Return the targets with the rest after them, which is the rest before the next ones."""
    rest = np.broadcast_to(room.base, (round(REST_S / room.limits.dt), len(room.base)))
    return np.concatenate([targets, rest])
