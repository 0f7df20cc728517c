"""The ROS 2 messages that are spoken here, as data. The same since Foxy."""

from __future__ import annotations

import numpy as np
from robokd.sim2real.cdr import TEXT, Array, Content, Message, Sequence

TIME = Message("builtin_interfaces/msg/Time", {"sec": "int32", "nanosec": "uint32"})
DURATION = Message("builtin_interfaces/msg/Duration", {"sec": "int32", "nanosec": "uint32"})
HEADER = Message("std_msgs/msg/Header", {"stamp": TIME, "frame_id": TEXT})
FLOATS = Sequence("float64")
VECTOR = Message("geometry_msgs/msg/Vector3", dict.fromkeys(("x", "y", "z"), "float64"))
QUATERNION = Message("geometry_msgs/msg/Quaternion", dict.fromkeys(("x", "y", "z", "w"), "float64"))

JOINT_STATE = Message(
    "sensor_msgs/msg/JointState",
    {"header": HEADER, "name": Sequence(TEXT), "position": FLOATS, "velocity": FLOATS, "effort": FLOATS},
)
TRAJECTORY_POINT = Message(
    "trajectory_msgs/msg/JointTrajectoryPoint",
    {
        "positions": FLOATS, "velocities": FLOATS, "accelerations": FLOATS, "effort": FLOATS,
        "time_from_start": DURATION,
    },
)  # fmt: skip
JOINT_TRAJECTORY = Message(
    "trajectory_msgs/msg/JointTrajectory",
    {"header": HEADER, "joint_names": Sequence(TEXT), "points": Sequence(TRAJECTORY_POINT)},
)
DIMENSION = Message("std_msgs/msg/MultiArrayDimension", {"label": TEXT, "size": "uint32", "stride": "uint32"})
LAYOUT = Message("std_msgs/msg/MultiArrayLayout", {"dim": Sequence(DIMENSION), "data_offset": "uint32"})
FLOAT64_MULTI_ARRAY = Message("std_msgs/msg/Float64MultiArray", {"layout": LAYOUT, "data": FLOATS})
IMAGE = Message(
    "sensor_msgs/msg/Image",
    {
        "header": HEADER, "height": "uint32", "width": "uint32", "encoding": TEXT, "is_bigendian": "uint8",
        "step": "uint32", "data": Sequence("uint8"),
    },
)  # fmt: skip
IMU = Message(
    "sensor_msgs/msg/Imu",
    {
        "header": HEADER, "orientation": QUATERNION, "orientation_covariance": Array("float64", 9),
        "angular_velocity": VECTOR, "angular_velocity_covariance": Array("float64", 9),
        "linear_acceleration": VECTOR, "linear_acceleration_covariance": Array("float64", 9),
    },
)  # fmt: skip
SPOKEN = (JOINT_STATE, JOINT_TRAJECTORY, FLOAT64_MULTI_ARRAY, IMAGE, IMU)


def header(stamp_ns: int = 0, frame_id: str = "") -> Content:
    """Return a header; a stamp of 0 means now to a controller."""
    return {"stamp": split(stamp_ns), "frame_id": frame_id}


def split(nanoseconds: int) -> Content:
    """Return a Time or Duration."""
    whole, rest = divmod(nanoseconds, 10**9)
    return {"sec": whole, "nanosec": rest}


def nanoseconds_of(time: Content) -> int:
    """Return a Time or Duration in nanoseconds."""
    return time["sec"] * 10**9 + time["nanosec"]


def joint_state(names: tuple[str, ...], position: np.ndarray, velocity: np.ndarray, stamp_ns: int) -> Content:
    """Return a JointState, rad and rad/s."""
    return {
        "header": header(stamp_ns), "name": list(names), "position": position, "velocity": velocity,
        "effort": np.zeros(0),
    }  # fmt: skip


def joint_trajectory(names: tuple[str, ...], target: np.ndarray, duration_s: float, *, rest: bool) -> Content:
    """Return a JointTrajectory to be at `target` (rad) after `duration_s`, at rest there if so told."""
    nothing = np.zeros(0)
    point = {
        "positions": target, "velocities": np.zeros(len(target)) if rest else nothing,
        "accelerations": nothing, "effort": nothing, "time_from_start": split(round(duration_s * 1e9)),
    }  # fmt: skip
    return {"header": header(), "joint_names": list(names), "points": [point]}


def float64_multi_array(values: np.ndarray) -> Content:
    """Return a Float64MultiArray of one row without a layout, as forward_command_controller takes it."""
    return {"layout": {"dim": [], "data_offset": 0}, "data": values}
