"""A convolutional encoder that says where things are: spatial soft-argmax key points with their depth.

Source: Levine et al. (2016), End-to-end training of deep visuomotor policies, sec. 5.1 (spatial softmax);
here each key point also reads the input picture's value under its attention, so a depth camera gives the third
coordinate. Shapes: B pictures, C channels, H rows, W columns, K key points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE, KERNEL = 3, 6  # first convolution: a stride of 2 makes learning several times slower on a CPU
SHARPNESS = 10.0  # first scale of the attention logits; with 1 the attention stays flat and nothing is learned


class KeypointEncoder(nn.Module):
    """(B, 1, H, W) float in [0, 1] -> (B, 3 K): column and row in [-1, 1] and the picture's value of each point."""

    grid: Tensor  # (cells, 2) column and row of each cell

    def __init__(
        self, height: int, width: int, channels: tuple[int, ...], keypoints: int, *, bfloat16: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels[0], KERNEL, STRIDE, padding=1)
        pairs = zip(channels[:-1], channels[1:], strict=True)
        self.body = nn.ModuleList(nn.Conv2d(left, right, 3, padding=1) for left, right in pairs)
        self.attention = nn.Conv2d(channels[-1], keypoints, 1)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        self.register_buffer("grid", _grid(_cells(height), _cells(width)), persistent=False)
        self.size = 3 * keypoints
        self.bfloat16 = bfloat16
        self.to(memory_format=torch.channels_last)  # a third faster on CPU

    def forward(self, picture: Tensor) -> Tensor:
        """Return key points (B, 3 K), float32; in training the convolutions may run in bfloat16."""
        with torch.autocast(picture.device.type, torch.bfloat16, enabled=self.bfloat16 and self.training):
            hidden = functional.relu(self.stem(picture.contiguous(memory_format=torch.channels_last)))
            for layer in self.body:
                hidden = functional.relu(layer(hidden))
            logits = self.attention(hidden)
        weight = torch.softmax(self.sharpness * logits.float().flatten(2), -1)
        value = functional.avg_pool2d(picture, KERNEL, STRIDE, padding=1, count_include_pad=False).flatten(1)
        return torch.cat(((weight @ self.grid).flatten(1), torch.bmm(weight, value[..., None]).flatten(1)), 1)


def _cells(pixels: int) -> int:
    return (pixels + 2 - KERNEL) // STRIDE + 1


def _grid(height: int, width: int) -> Tensor:
    row, column = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack((column.repeat(height), row.repeat_interleave(width)), -1)
