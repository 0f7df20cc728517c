"""An encoder of depth as a set of points: one small network for every point, and the maximum over points.

    code = max over i with a hit of f(p_i),    p_i = ray_i * depth_i

Source: Qi, Su, Mo, Guibas (2017), PointNet, eq. 1. Without its learned rotations (T-nets), because the points
stay in the frame of one camera.
Shapes: B pictures, P points, F features.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from robokd.nets.pictures import picture, rays
from robokd.specs import CameraSpec


class PointEncoder(nn.Module):
    """(B, 1, H, W) encoded depth -> (B, F) of at most `points` pixels on a fixed grid; 0 where none was hit.

    In float32 throughout: bfloat16 would round a point at 2 m to 8 mm.
    """

    rays: Tensor  # (P, 3) the point at depth 1 m that each pixel looks at: right, up, ahead
    rows: Tensor  # of the grid
    columns: Tensor

    def __init__(self, camera: CameraSpec, widths: tuple[int, ...], points: int) -> None:
        super().__init__()
        rows, columns = grid(camera.height, camera.width, points)
        for name, value in (("rows", rows), ("columns", columns), ("rays", rays(camera, rows, columns))):
            self.register_buffer(name, value, persistent=False)
        self.layers = nn.ModuleList(nn.Linear(left, right) for left, right in pairwise((3, *widths)))
        self.camera, self.size = camera, widths[-1]

    def forward(self, encoded: Tensor) -> Tensor:
        """Return the code (B, F)."""
        points, is_hit = self.points(encoded)
        for layer in self.layers:
            points = functional.relu(layer(points))
        # features are >= 0, so a point that is made 0 changes no maximum
        return (points * is_hit[..., None]).amax(1)

    def points(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points (B, P, 3) in m, and which of them are real (B, P) bool."""
        sampled = encoded[:, 0, self.rows][..., self.columns].flatten(1)
        depth = self.camera.near_m + (self.camera.far_m - self.camera.near_m) * picture(sampled, self.camera)
        return self.rays * depth[..., None], sampled.float() > 0


def grid(height: int, width: int, count: int) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of at most `count` pixels, each in the middle of a stratum of its side."""
    rows = min(height, count, max(1, round(math.sqrt(count * height / width))))
    sides = ((height, rows), (width, min(width, count // rows)))
    down, across = (((torch.arange(part) + 0.5) * (size / part)).long() for size, part in sides)
    return down, across
