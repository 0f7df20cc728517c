"""How the guard brings a robot to rest: joints are held where they are, a flying body is levelled and sinks.

Both go through the limiter, which has the last word. Shapes: A commands; rad/s, N; frame: the body's, z up.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from robokd.sim2real.limiter import Limiter
from robokd.sim2real.robot import ImuReading

from robokd.export.bundle import Bundle

TILT_GAIN = 6.0  # 1/s, from a tilt to the rate that undoes it
LEVEL_RAD, LEVEL_RPS = 0.1, 0.5  # tilt and rates below which a body is level
LEVEL_S, REST_S = 1.5, 2.5  # longest that is spent on levelling, and on coming to rest in all
SINK = 0.9  # share of the thrust that hovers with which a body sinks, a metre and a half a second at last
STEEPEST = 0.5  # cosine of the tilt from which on thrust only carries away
IMU_S = 0.1  # that an IMU's reading may be old to level by
UNIT = 0.2  # how far the length of its gravity may be off 1


class Rest(Protocol):
    """How a robot comes to rest, in steps of a control period about."""

    def begin(self) -> None:
        """Note that the policy's command has been followed: the robot is not at rest."""
        ...

    def next(self, limiter: Limiter, imu: ImuReading | None, now_s: float, step_s: float) -> np.ndarray:
        """Return the next commands (A,) float32, `step_s` after the last, within the limits."""
        ...

    def is_at_rest(self, limiter: Limiter) -> bool:
        """Whether what was sent last can be held from here on."""
        ...


class Hold:
    """Joints, of an arm or of legs, come to a halt and are held there."""

    def begin(self) -> None:
        """See Rest.begin."""

    def next(self, limiter: Limiter, imu: ImuReading | None, now_s: float, step_s: float) -> np.ndarray:
        """See Rest.next."""
        return limiter.brake(step_s)[0]

    def is_at_rest(self, limiter: Limiter) -> bool:
        """See Rest.is_at_rest."""
        return not (limiter.rate.any() or limiter.acceleration.any())


class Level:
    """A flying body is turned level by its IMU, then it sinks with its rates at 0: that needs no sensor.

    Without a fresh IMU, or where it does not get level in LEVEL_S, it sinks as it is.
    """

    def __init__(self, hover: np.ndarray) -> None:
        """`hover` (4,): rates 0 and the thrust that carries the body."""
        self._hover, self._sink = hover, sinking(hover)
        self._spent_s, self._is_level = 0.0, True

    def begin(self) -> None:
        """See Rest.begin."""
        self._spent_s, self._is_level = 0.0, False

    def next(self, limiter: Limiter, imu: ImuReading | None, now_s: float, step_s: float) -> np.ndarray:
        """See Rest.next."""
        self._spent_s += step_s
        if self._spent_s > REST_S:  # whatever the limits are like, it ends
            return limiter.brake(step_s)[0]
        if imu is None or not feels(imu, now_s) or self._spent_s > LEVEL_S or self._is_level or is_level(imu):
            self._is_level = True
            return limiter.limit(self._sink, step_s)[0]
        return limiter.limit(levelling(imu.gravity, self._hover), step_s)[0]

    def is_at_rest(self, limiter: Limiter) -> bool:
        """See Rest.is_at_rest."""
        return self._is_level and not (limiter.rate.any() or limiter.acceleration.any())


def rest_of(bundle: Bundle) -> Hold | Level:
    """Return how the bundle's robot comes to rest."""
    return Level(np.array(bundle.manifest["robot"]["home"], float)) if bundle.action.flies else Hold()


def feels(imu: ImuReading, now_s: float) -> bool:
    """Whether an IMU tells where down is, and not long ago."""
    is_fresh = abs(now_s - imu.captured_s) <= IMU_S
    return bool(is_fresh and abs(np.linalg.norm(imu.gravity) - 1) <= UNIT and np.isfinite(imu.gyro).all())


def is_level(imu: ImuReading) -> bool:
    """Whether a body stands upright and hardly turns."""
    tilt = np.arctan2(np.hypot(*imu.gravity[:2]), -imu.gravity[2])
    return bool(tilt < LEVEL_RAD and np.abs(imu.gyro).max() < LEVEL_RPS)


def levelling(gravity: np.ndarray, hover: np.ndarray) -> np.ndarray:
    """Return the commands (4,) that turn a body upright the short way, at the thrust that carries it then.

    Args:
        gravity: (3,) where down is, a unit vector.
        hover: (4,) the commands that hover.
    """
    x, y, up = float(gravity[0]), float(gravity[1]), -float(gravity[2])
    size = np.hypot(x, y)
    # about the axis across the tilt; upside down any will do
    ahead, aside = (y / size, -x / size) if size > 0 else (1.0, 0.0)
    rate = TILT_GAIN * np.arctan2(size, up)
    thrust = hover[3] / up if up > STEEPEST else 0.0
    return np.array([rate * ahead, rate * aside, 0.0, thrust])


def sinking(hover: np.ndarray) -> np.ndarray:
    """Return the commands (4,) with which a level body sinks."""
    return np.array([0.0, 0.0, 0.0, SINK * hover[3]])
