"""A convolutional encoder of pictures that says where things are: key points, of depth in metres.

Source: Levine et al. (2016), End-to-end training of deep visuomotor policies, sec. 5.1 (spatial softmax).
Here each attention map is standardised before the softmax, or it stays flat and learning waits on a plateau.
Of depth it averages the pixels' *points* (ray times depth) in the camera's frame, so a key point is linear in
what it shows; of colour, which has no depth, their rays. Of depth it is also shown how far each pixel stands
out of its surroundings: an object of 5 cm on a table that recedes by a metre is not found without
(tests/evidence/relief.py).
Shapes: B pictures, C channels, H rows, W columns, K key points.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from robokd.nets.pictures import picture, rays
from robokd.specs import CameraSpec

STRIDE, KERNEL, PADDING = 3, 6, 1  # first convolution: a stride of 2 learns several times slower on a CPU
CELL, NEIGHBOURS = 4, 3  # surroundings of a pixel: so many cells of so many pixels each way
RELIEF = 10.0  # how much what stands out is enlarged, of a camera's range of depth
SHARPNESS = 2.0  # first scale of the standardised attention


class KeypointEncoder(nn.Module):
    """(B, C, H, W) encoded -> (B, 3 K) m in the camera's frame; of colour (B, 2 K), right and up at 1 m."""

    rays: Tensor  # (cells, 3) the point at depth 1 m that each cell looks at: right, up, ahead

    def __init__(
        self, camera: CameraSpec, channels: tuple[int, ...], keypoints: int, *, bfloat16: bool = True
    ) -> None:
        super().__init__()
        shown = 2 if camera.is_depth else camera.shape[0]
        self.stem = nn.Conv2d(shown, channels[0], KERNEL, STRIDE, padding=PADDING)
        self.body = nn.ModuleList(nn.Conv2d(left, right, 3, padding=1) for left, right in pairwise(channels))
        self.attention = nn.Conv2d(channels[-1], keypoints, 1)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.rows, self.columns = _pixels(camera.height), _pixels(camera.width)
        places = (torch.arange(camera.height)[self.rows], torch.arange(camera.width)[self.columns])
        self.register_buffer("rays", rays(camera, *places), persistent=False)
        self.near_m, self.depth_m = camera.near_m, camera.far_m - camera.near_m
        self.camera = camera
        self.size = (3 if camera.is_depth else 2) * keypoints
        self.in_bfloat16 = bfloat16
        # a third faster on CPU; torch declares no such overload
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, encoded: Tensor) -> Tensor:
        """Return key points (B, size), float32; in training the convolutions may run in bfloat16."""
        seen = picture(encoded, self.camera)
        if self.camera.is_depth:
            seen = torch.cat((seen, relief(seen)), 1)
        with torch.autocast(seen.device.type, torch.bfloat16, enabled=self.in_bfloat16 and self.training):
            hidden = seen.contiguous(memory_format=torch.channels_last)
            hidden = functional.relu(self.stem(hidden), inplace=True)
            for layer in self.body:
                hidden = functional.relu(layer(hidden), inplace=True)
            logits = self.attention(hidden)
        logits = logits.flatten(2).contiguous().float()  # a tenth of a gradient step faster than as it lies
        cells = logits.shape[-1]
        weight = torch.softmax(functional.layer_norm(logits, (cells,), self.sharpness.expand(cells)), -1)
        if not self.camera.is_depth:
            return (weight @ self.rays[:, :2]).flatten(1)
        # one pixel speaks for its cell: an average would invent depths at every edge
        depth = self.near_m + self.depth_m * seen[:, 0, self.rows][..., self.columns].flatten(1)
        points = self.rays * depth[..., None]
        return torch.bmm(weight, points).flatten(1)


def relief(depth: Tensor) -> Tensor:
    """Return how much nearer or farther than their surroundings pixels are, in [-1, 1], as (B, 1, H, W).

    A plane has none, however it recedes, but for two cells along the borders.

    Args:
        depth: (B, 1, H, W) in [0, 1] of the camera's range.
    """
    cells = functional.avg_pool2d(depth, CELL, ceil_mode=True)
    around = functional.avg_pool2d(cells, NEIGHBOURS, 1, NEIGHBOURS // 2, count_include_pad=False)
    mean = functional.interpolate(around, depth.shape[-2:], mode="bilinear", align_corners=False)
    return ((depth - mean) * RELIEF).clamp(-1, 1)


def _pixels(size: int) -> slice:
    """Return the pixels in the middle of the cells along one side."""
    cells = (size + 2 * PADDING - KERNEL) // STRIDE + 1
    first = KERNEL // 2 - PADDING
    return slice(first, first + STRIDE * cells, STRIDE)
