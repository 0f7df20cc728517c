"""Cameras that lie as real ones do: the one place to import corruption from.

A `Corruption` (sensor.py, no torch) says what is wrong with a sensor; pure, seeded, batched functions do it:
depth and colour of frames, when the frame that is shown was captured, and where the camera really stands.
Corrupt a frame with the step at which it was *captured*; a frame that is shown twice is then the same twice.
Shapes: N environments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robokd.draws import Draws
from robokd.geometry import from_rotation_vector
from robokd.vision.sensor import Corruption, from_dict, preset, to_dict
from robokd.vision.sensor_colour import colour_sigma, corrupt_rgb
from robokd.vision.sensor_depth import corrupt_depth, depth_sigma
from robokd.vision.sensor_timing import FrameStore, Timing

__all__ = [
    "Corruption", "FrameStore", "Timing", "colour_sigma", "corrupt_depth", "corrupt_rgb",
    "depth_sigma", "from_dict", "mounting_error", "preset", "to_dict",
]  # fmt: skip


def mounting_error(
    corruption: Corruption, scene_camera: str, draws: Draws, episode: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how wrong an episode's camera stands: shift (N, 3) m, turn (N, 4), field of view (N,) degrees.

    The shift is along the mount's axes. The turn is a unit quaternion to multiply the camera's with from the
    right: about the camera's own axes. float64.
    """
    drawn = 2 * draws.uniform(f"corrupt/{scene_camera}/mounting", episode, 0, 7) - 1
    turn = from_rotation_vector(math.radians(corruption.rotation_error_deg) * drawn[:, 3:6], torch)
    return corruption.position_error_m * drawn[:, :3], turn, corruption.fovy_error_deg * drawn[:, 6]
