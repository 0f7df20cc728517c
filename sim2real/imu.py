"""What a policy reads of an IMU, from what protocols send: gravity, and not an orientation that drifts."""

from __future__ import annotations

import numpy as np
from robokd.sim2real.robot import ImuReading

from robokd.export.bundle import Bundle
from robokd.specs import IMU_CHANNELS

UNIT = 0.01  # how far the length of a quaternion may be off 1


def channels_read(bundle: Bundle) -> tuple[str, ...]:
    """Return which of IMU_CHANNELS the bundle's policy reads."""
    return tuple(name for name in IMU_CHANNELS if name in bundle.terms)


def felt(captured_s: float, quaternion: np.ndarray, gyro: np.ndarray) -> ImuReading:
    """Return a reading from a body's orientation in the world, (4,) wxyz, and its gyro (3,) in rad/s.

    RuntimeError where the orientation is none: a sensor without one sends zeros.
    """
    length = float(np.linalg.norm(quaternion))
    if not abs(length - 1) <= UNIT:
        raise RuntimeError(
            f"an IMU tells no orientation: wanted a unit quaternion, got {quaternion.tolist()}"
        )
    w, x, y, z = (quaternion / length).tolist()
    down = -2 * (x * z - w * y), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1
    return ImuReading(
        captured_s=captured_s, gyro=np.array(gyro, np.float32), gravity=np.array(down, np.float32)
    )


def orientation(gravity: np.ndarray) -> np.ndarray:
    """Return the least turn from upright, (4,) wxyz, after which `felt` gives this gravity (3,)."""
    x, y, z = np.asarray(gravity, float) / np.linalg.norm(gravity)
    turn = np.array([1 - z, -y, x, 0.0])
    if not (length := np.linalg.norm(turn)):  # upside down, to less than the squares of what is off can say
        return np.array([0.0, 1.0, 0.0, 0.0])
    return turn / length
