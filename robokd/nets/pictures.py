"""What an encoded picture means to a network: depth, colour, and where each pixel looks.

Shapes: B pictures, C channels, H rows from the top, W columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robokd.specs import CameraSpec


def picture(encoded: Tensor, camera: CameraSpec) -> Tensor:
    """Return an encoded picture as float32 in [0, 1]; of depth 0 is at near, 1 at far and for misses."""
    if camera.encoding == "rgb_u8":
        return encoded.float() / 255
    if camera.encoding == "depth_u8":
        # in bytes 0 - 1 is 255, which becomes far: a seventh of the time of `where`
        return (encoded - 1).clamp(max=254).float() / 254
    value = (encoded.float() - camera.near_m) / (camera.far_m - camera.near_m)
    return torch.where(encoded == 0, 1.0, value.clip(0, 1))


def rays(camera: CameraSpec, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the points (R * C, 3) at depth 1 m that the pixels of rows (R,) and columns (C,) look at.

    In the camera's frame as a network sees it: right, up, ahead.
    """
    slope = math.tan(math.radians(camera.fovy_deg) / 2) / (camera.height / 2)  # per pixel, square pixels
    up, right = (
        (places + 0.5 - size / 2) * slope for places, size in ((rows, camera.height), (columns, camera.width))
    )
    up, right = torch.meshgrid(-up, right, indexing="ij")
    return torch.stack((right.flatten(), up.flatten(), torch.ones(right.numel())), -1)
