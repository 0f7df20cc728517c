"""The robot, as the guard and the camera process see it. Every time is on time.monotonic(), in seconds.

Shapes: A commands in the order of the bundle's ActionSpec, which are the positions of J = A joints, or of a
body that flies rates and thrust (specs.FLIGHT), and J = 0; pictures (C, H, W), encoded by their CameraSpec.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robokd.export.bundle import Bundle

# rad, rad/s, and in rad the last joint target that was sent, which the robot is holding; every other channel
# of a policy is the IMU's, odometry's, a camera's, an order or the time
JOINT_CHANNELS = ("joint_pos", "joint_vel", "joint_target")
UNTOLD = -1  # a sequence number of a protocol that has none


@dataclass(frozen=True, kw_only=True)
class ImuReading:
    """How the body turns and stands, in the frame of its IMU: x forward, y left, z up."""

    captured_s: float  # when it was measured
    gyro: np.ndarray  # (3,) float32 rad/s
    gravity: np.ndarray  # (3,) float32, where down is: a unit vector, (0, 0, -1) upright


@dataclass(frozen=True, kw_only=True)
class Odometry:
    """How the body moves, in its own frame: x forward, y left, z up."""

    captured_s: float  # when it was measured
    velocity: np.ndarray  # (3,) float32 m/s


@dataclass(frozen=True, kw_only=True)
class Order:
    """Where whoever leads the robot wants it to go, in its own frame: x ahead, y left, z up."""

    captured_s: float  # when it was given, or last said to hold
    velocity: np.ndarray  # (3,) float32: ahead and to the left in m/s, the turn about z in rad/s


@dataclass(frozen=True, kw_only=True)
class JointReading:
    """The newest state of all joints; the arrays are the reader's and never written again."""

    captured_s: float  # when it was measured
    position: np.ndarray  # (J,) float32 rad
    velocity: np.ndarray  # (J,) float32 rad/s
    target: np.ndarray  # (A,) float32, the commands that the robot says it holds; NaN where it does not say
    sequence: int = UNTOLD  # of the last command that the robot took; 0 before the first
    strangers: int = 0  # commands on the wire that were not ours, since `connect`
    imu: ImuReading | None = None  # the newest; None of a robot that has none
    order: Order | None = None  # the newest; None of a robot that is told none
    odometry: Odometry | None = None  # the newest; None of a robot that has none


@dataclass(frozen=True, kw_only=True)
class Command:
    """Commands on their way to the robot."""

    target: np.ndarray  # (A,) float32: rad of joints, or rad/s and N of a body that flies
    stamp_s: float  # the guard's time that it counts from: limits hold between stamps
    sequence: int  # the guard's count, from 1
    origin: int  # number of the policy's command that it follows; 0: the guard's own
    rung: int  # of the guard's ladder, see ladder.py
    # since the last one, as limits reckon it: what the stamps say, from rest perhaps less; 0 = what they say
    step_s: float = 0.0


class Robot(Protocol):
    """A driver of joints. It lives in the guard process; no call may block longer than its own timeout."""

    is_hardware: bool  # it starts in shadow, and moves only with arm=true
    command_timeout_s: (
        float | None
    )  # the robot itself holds after so long without a command; None: it does not
    stop_key: str  # "any", or "hold": a dead-man key that must stay pressed

    def connect(self) -> None:
        """Open the connection and refuse a robot that does not fit the bundle. Nothing moves."""
        ...

    def read(self) -> JointReading:
        """Return the newest state; OSError or RuntimeError when the robot does not answer in time."""
        ...

    def write(self, command: Command) -> np.ndarray:
        """Send joint targets and return them, (A,) in rad, as they were sent."""
        ...

    def stop(self) -> None:
        """Bring the robot to rest and let go of it. Called on every way out, also twice, also unconnected."""
        ...


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture."""

    camera: str
    captured_s: float  # when its light fell in
    image: np.ndarray  # (C, H, W) as the CameraSpec says


class Cameras(Protocol):
    """All cameras of a robot that a bundle wants. They live in the camera process."""

    def connect(self) -> None:
        """Open them and refuse one that is not what the bundle wants."""
        ...

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next picture of any camera; None when there was none in time."""
        ...

    def stop(self) -> None:
        """Let go of them. Called on every way out, also twice, also unconnected."""
        ...


class RobotCfg(Protocol):
    """A registered robot config (kind "robot"). Packages of a vendor are imported inside its methods."""

    def joints(self, *, bundle: Bundle, link: socket.socket | None) -> Robot:
        """Return the driver of the joints, not yet connected; `link` is None but for a simulated robot."""
        ...

    def cameras(self, *, bundle: Bundle, link: socket.socket | None) -> Cameras:
        """Return the cameras, not yet connected; `link` is None but for a simulated robot."""
        ...


@runtime_checkable
class SimulatedCfg(RobotCfg, Protocol):
    """A robot config that makes its own robot: a process with episodes."""

    def plant(self, *, bundle: Bundle, seed: int) -> Plant:
        """Return the robot's process, not yet started."""
        ...


class Plant(Protocol):
    """A simulated robot's process, as the policy process sees it: episodes, and how they end."""

    pid: int  # of the process; 0 = this one
    alone_s: float  # after which it has noticed that nobody commands it any more
    joints: socket.socket  # what the guard's driver connects to
    cameras: socket.socket  # what the camera process connects to

    def start(self) -> None:
        """Start the process and wait until it simulates; UserError where it does not fit the bundle."""
        ...

    def log_into(self, folder: str) -> None:
        """Keep its own files in the run's folder."""
        ...

    def begin(self, episode: int) -> None:
        """Set up the episode with this number and start it."""
        ...

    def outcome(self) -> bool | None:
        """Return None while the episode runs, then whether it succeeded."""
        ...

    def stop(self) -> None:
        """End the process. Called on every way out, also twice, also unstarted."""
        ...

    def report(self) -> dict[str, Any]:
        """Return the robot's own account of the run, after `stop`."""
        ...
