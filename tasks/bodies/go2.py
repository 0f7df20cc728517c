"""The Unitree Go2 as tasks use it: names, published limits, standing pose and model.

Source: the maker's URDF; assets/go2/go2.xml names the sources of its numbers.
Order: the legs front right, front left, rear right, rear left as the maker counts its motors; of each leg
hip, thigh, calf.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mujoco

LEGS = ("FR", "FL", "RR", "RL")
JOINTS = tuple(f"{leg}_{part}" for leg in LEGS for part in ("hip", "thigh", "calf"))
FEET = tuple(f"{leg}_foot" for leg in LEGS)  # geoms, sites and touch sensors
KNOCKS = tuple(f"{leg}_{part}" for part in ("thigh", "calf") for leg in LEGS)  # touch sensors of the legs
DIAGONALS = ((0, 3), (1, 2))  # feet that a trot moves together
STAND = (0.0, 0.8, -1.5) * 4  # rad
STAND_HEIGHT_M = 0.32  # of the trunk's frame over the ground that the feet stand on
LINK_M = 0.213  # thigh and calf
HIPS_M = ((0.1934, -0.0465), (0.1934, 0.0465), (-0.1934, -0.0465), (-0.1934, 0.0465))  # x, y in the trunk
SIDE_M = 0.0955  # of a leg from its hip's joint, outwards
_FRONT, _REAR = (-1.5708, 3.4907), (-0.5236, 4.5379)  # of the thighs
LOWER = (-1.0472, _FRONT[0], -2.7227) * 2 + (-1.0472, _REAR[0], -2.7227) * 2  # rad
UPPER = (1.0472, _FRONT[1], -0.83776) * 2 + (1.0472, _REAR[1], -0.83776) * 2  # rad
VELOCITY = (30.1, 30.1, 15.7) * 4  # rad/s
TORQUE = (23.7, 23.7, 45.43) * 4  # N m
# of the targets: ours. A motor's largest torque moves a swinging leg, of about 0.04 kg m^2, with 600 rad/s^2
ACCELERATION = (600.0,) * 12  # rad/s^2
NOSE_M = (0.34, 0.0, 0.0)  # of the camera, in the trunk's frame


def spec() -> mujoco.MjSpec:
    """Return the model: a free trunk with four legs, servos of the joints, touch sensors of feet and legs."""
    import mujoco

    return mujoco.MjSpec.from_file(str(Path(__file__).parents[1] / "assets" / "go2" / "go2.xml"))
