"""The Franka Emika Panda as tasks use it: names, published limits, ready pose, model and a closed-form pose.

Source: the maker's published limits; assets/panda/panda.xml names the sources of its numbers.
Order: the 7 joints from base to hand. Shapes: N arms.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import Sim

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
GRIPPER_VELOCITY = 0.05  # m/s, of each finger
GRIPPER_ACCELERATION = 1.0  # m/s^2, ours: the maker publishes none
GRIPPER_STIFFNESS = 400.0  # N/m, the model's: how a finger presses that is kept off its target
# of the arm in the plane of its joints 2, 4 and 6: heights and offsets of the maker's table, m
_SHOULDER, _UPPER_ARM, _FOREARM, _ELBOW, _WRIST, _TIP = 0.333, 0.316, 0.384, 0.0825, 0.088, 0.107 + 0.1034


def spec() -> mujoco.MjSpec:
    """Return the model: bodies "base" to "hand" and fingers, site "tip", servos of the joints and fingers."""
    import mujoco

    return mujoco.MjSpec.from_file(str(Path(__file__).parents[1] / "assets" / "panda" / "panda.xml"))


def reach_down(tip: Tensor, yaw: Tensor) -> Tensor:
    """Return the angles (N, 7) at which the hand points straight down with its tip at (N, 3), m.

    `yaw` (N,) turns the hand about the vertical, 0 as in the ready pose. Joints 3 and 5 stay at 0; what is
    too far is reached for. Source: the law of cosines in the triangle of shoulder, elbow and wrist.
    """
    azimuth = torch.atan2(tip[:, 1], tip[:, 0])
    out = torch.linalg.vector_norm(tip[:, :2], dim=1) - _WRIST
    up = tip[:, 2] + _TIP - _SHOULDER
    upper, lower = math.hypot(_UPPER_ARM, _ELBOW), math.hypot(_FOREARM, _ELBOW)
    far = torch.sqrt(out**2 + up**2).clamp(lower - upper + 1e-3, upper + lower - 1e-6)
    at_shoulder = torch.acos((upper**2 + far**2 - lower**2) / (2 * upper * far))
    at_wrist = torch.acos((lower**2 + far**2 - upper**2) / (2 * lower * far))
    tilt = torch.atan2(out, up)  # of the way to the wrist, from the vertical
    joint2 = tilt - at_shoulder - math.atan2(_ELBOW, _UPPER_ARM)
    joint6 = tilt + at_wrist + math.atan2(_ELBOW, _FOREARM)
    none = torch.zeros_like(azimuth)
    rows = (azimuth, joint2, none, joint2 - joint6, none, joint6, math.pi / 4 + azimuth - yaw)
    return torch.stack(rows, 1)


def set_gains(factor: Tensor, sim: Sim, mask: Tensor) -> None:
    """Make the joints' servos (N, 7) times as stiff and as damped in the worlds of mask as the model's."""
    for field, columns in (("actuator_gainprm", slice(0, 1)), ("actuator_biasprm", slice(1, 3))):
        value = sim.get(field).clone()
        value[:, :7, columns] *= factor[..., None]
        sim.set(field, value, mask)
