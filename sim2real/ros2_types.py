"""The ROS 2 messages that are spoken here, as data. The same since Foxy."""

from __future__ import annotations

from collections.abc import Mapping

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
REGION = Message(
    "sensor_msgs/msg/RegionOfInterest",
    {**dict.fromkeys(("x_offset", "y_offset", "height", "width"), "uint32"), "do_rectify": "bool"},
)
CAMERA_INFO = Message(
    "sensor_msgs/msg/CameraInfo",
    {
        "header": HEADER, "height": "uint32", "width": "uint32", "distortion_model": TEXT, "d": FLOATS,
        "k": Array("float64", 9), "r": Array("float64", 9), "p": Array("float64", 12),
        "binning_x": "uint32", "binning_y": "uint32", "roi": REGION,
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
SPOKEN = (JOINT_STATE, JOINT_TRAJECTORY, FLOAT64_MULTI_ARRAY, IMAGE, CAMERA_INFO, IMU)


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


def imu(orientation: np.ndarray, gyro: np.ndarray, stamp_ns: int) -> Content:
    """Return an Imu: (4,) wxyz and (3,) rad/s. It tells no acceleration, which a covariance of -1 says."""
    nothing, turn, rate = np.zeros(9), orientation.tolist(), gyro.tolist()
    return {
        "header": header(stamp_ns), "orientation": dict(zip("wxyz", turn, strict=True)),
        "orientation_covariance": nothing, "angular_velocity": dict(zip("xyz", rate, strict=True)),
        "angular_velocity_covariance": nothing, "linear_acceleration": dict.fromkeys("xyz", 0.0),
        "linear_acceleration_covariance": np.array([-1.0, *nothing[1:]]),
    }  # fmt: skip


def camera_info(lens: Mapping[str, float], width: int, height: int, stamp_ns: int) -> Content:
    """Return a CameraInfo of a lens without distortion: fx, fy, cx, cy in px."""
    k = np.array([lens["fx"], 0, lens["cx"], 0, lens["fy"], lens["cy"], 0, 0, 1.0])
    region = {**dict.fromkeys(("x_offset", "y_offset", "height", "width"), 0), "do_rectify": False}
    return {
        "header": header(stamp_ns), "height": height, "width": width, "distortion_model": "plumb_bob",
        "d": np.zeros(5), "k": k, "r": np.eye(3).ravel(),
        "p": np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel(), "binning_x": 0, "binning_y": 0,
        "roi": region,
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
