"""The robot, as the loop sees it. Every time is on one clock: time.monotonic(), in seconds.

Shapes: A joints in the order of the bundle's ActionSpec; images (1, H, W), encoded as their CameraSpec says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from robokd.export.bundle import Bundle

# rad, rad/s, and in rad the last joint target, which the robot is holding; every other channel is a camera's
JOINT_CHANNELS = ("joint_pos", "joint_vel", "joint_target")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The newest data of every channel; the arrays are the reader's and never written again."""

    sequence: int  # grows with every reading
    channels: dict[str, np.ndarray]
    captured_s: dict[str, float]  # when each channel was measured
    is_done: bool = False  # the episode is over (only a robot that has episodes says so)
    is_success: bool = False


class Robot(Protocol):
    """A driver. Calls come from one thread; none may block longer than its own timeout."""

    def connect(self) -> None:
        """Open the connection and refuse a robot that does not fit the bundle. Nothing moves."""
        ...

    def log_into(self, folder: Path) -> None:
        """Keep the driver's own files in `folder`, the run's. Called once, after `connect`."""
        ...

    def read(self) -> Reading:
        """Return the newest data; RuntimeError when the robot does not answer in time."""
        ...

    def write(self, command: np.ndarray) -> np.ndarray:
        """Send joint targets (A,) in rad and return them as they were sent."""
        ...

    def stop(self) -> None:
        """Bring the robot to rest and let go of it. Called on every way out, also twice, also unconnected."""
        ...


@runtime_checkable
class EpisodicRobot(Robot, Protocol):
    """A robot that sets up episodes and says how they ended: the simulated one."""

    def begin(self, episode: int) -> None:
        """Set up the episode with this number and start it."""
        ...

    def report(self) -> dict[str, Any]:
        """Return the robot's own account of the run, after `stop`."""
        ...


class RobotCfg(Protocol):
    """A registered robot config (kind "robot")."""

    def build(self, *, bundle: Bundle, seed: int) -> Robot:
        """Return the driver, not yet connected."""
        ...
