"""The Franka Emika Panda as tasks use it: names, published limits, ready pose and model.

Source: the maker's published limits; assets/panda/panda.xml names the sources of its numbers.
Order: the 7 joints from base to hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mujoco

JOINTS = tuple(f"joint{number}" for number in range(1, 8))
FINGERS = ("finger_left", "finger_right")
HOME = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)  # rad, the ready pose
LOWER = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)  # rad
UPPER = (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)  # rad
VELOCITY = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)  # rad/s
ACCELERATION = (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0)  # rad/s^2
TORQUE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # N m
ROOM_RAD = 0.7  # how far every joint can turn from the ready pose, both ways
GRIPPER_OPEN_M = 0.02  # of each finger from the middle: half open, where the model's fingers rest
GRIPPER_LIMITS_M = (0.0, 0.04)  # of each finger from the middle


def spec() -> mujoco.MjSpec:
    """Return the model: bodies "base" to "hand" and fingers, site "tip", servos of the joints and fingers."""
    import mujoco

    return mujoco.MjSpec.from_file(str(Path(__file__).parent / "assets" / "panda" / "panda.xml"))
