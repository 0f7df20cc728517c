"""A colour camera's flaws on batched pictures: background, motion blur, exposure, white balance, noise.

In the order in which light meets them. Levels are as stored: no gamma curve is undone (a departure from Foi
et al. 2008, whose noise is of raw data). Nothing is reduced over the batch.
Shapes: N frames, H rows, W columns, P = H * W pixels, T taps.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from robokd.draws import Draws
from robokd.specs import CameraSpec
from robokd.vision.pixel_draws import frame_keys, lane, normal, pixel_hash
from robokd.vision.sensor import Corruption
from robokd.vision.sensor_depth import blacken_border

_CELLS = (3, 9)  # of a texture's coarse and fine pattern, along each side
_ANGLES = 32  # directions of motion
_CHUNK = 400_000  # numbers worked on at once on a CPU: a handful of such buffers stay in its caches
_CHUNK_GPU = 1 << 27  # their indices must fit 32 bits
_Key = tuple[str, Tensor, Tensor | int]  # of the draws: name, episodes, steps


def corrupt_rgb(
    rgb_n3hw: Tensor, corruption: Corruption, camera: CameraSpec, draws: Draws, episode: Tensor,
    step: Tensor | int, *, background_nhw: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return what the sensor says of pictures (N, 3, H, W) uint8.

    Without a flaw that concerns colour the input itself is returned, otherwise fresh memory.

    Args:
        rgb_n3hw: of the renderer.
        corruption: of the sensor.
        camera: of the images; its name keys the draws.
        draws: of the environments.
        episode: (N,) int64.
        step: at which the frames were captured, (N,) int64 or one number.
        background_nhw: bool, pixels that a swapped background replaces; without it none is.
    """
    if not corruption.changes_colour:
        return rgb_n3hw
    shape = (3, camera.height, camera.width)
    if rgb_n3hw.shape[1:] != shape or rgb_n3hw.dtype != torch.uint8:
        got = f"{tuple(rgb_n3hw.shape)} of {rgb_n3hw.dtype}"
        raise ValueError(f"camera {camera.name}: wanted (N, {str(shape)[1:]} of uint8, got {got}")
    out, count = torch.empty_like(rgb_n3hw), len(rgb_n3hw)
    size = _CHUNK if out.device.type == "cpu" else _CHUNK_GPU
    chunk = max(1, size // math.prod(shape))
    work = _Work(min(chunk, count), shape, out.device)
    for start in range(0, count, chunk):
        part = slice(start, start + chunk)
        mask = None if background_nhw is None else background_nhw[part]
        buffers = work.of(len(out[part]))
        buffers.image.copy_(rgb_n3hw[part])
        key = (f"corrupt/{camera.name}", episode[part], step[part] if isinstance(step, Tensor) else step)
        _corrupt(buffers, mask, corruption, draws, key)
        out[part] = buffers.image.round_().clamp_(0, 255)
    if corruption.border_px:
        blacken_border(out, corruption.border_px)
    return out


def colour_sigma(level: Tensor, corruption: Corruption) -> Tensor:
    """Return the standard deviation of noise in levels: sqrt(read^2 + shot * level), any shape."""
    return (level * corruption.shot_noise + corruption.read_noise**2).sqrt()


def texture(draws: Draws, name: str, episode: Tensor, out: Tensor) -> None:
    """Write smooth random blobs between two random colours into out (N, 3, H, W) float32, in levels."""
    sizes = {f"{name}/{cells}": (cells + 1) ** 2 for cells in _CELLS}
    drawn = draws.uniforms({**sizes, f"{name}/colours": 6}, episode, 0).float()
    *lattices, colours = drawn.split([*sizes.values(), 6], 1)
    blobs = torch.zeros(out.shape[0], *out.shape[2:], device=out.device)
    for cells, lattice in zip(_CELLS, lattices, strict=True):
        blobs += _interpolate(lattice.view(-1, cells + 1, cells + 1), *out.shape[2:]) / len(_CELLS)
    first, second = (colours.view(-1, 2, 3, 1, 1) * 255).unbind(1)
    torch.mul(blobs[:, None], second - first, out=out).add_(first)


class _Work:
    """Buffers (n, 3, H, W) for one chunk: fresh memory would cost more than the arithmetic."""

    def __init__(self, count: int, shape: tuple[int, ...], device: torch.device) -> None:
        self.image, self.extra, self.other = (torch.empty(count, *shape, device=device) for _ in range(3))
        self.bits, self.lane = (
            torch.empty(count, *shape, dtype=torch.int32, device=device) for _ in range(2)
        )

    def of(self, count: int) -> _Work:
        """Return the first `count` rows of all."""
        part = copy.copy(self)
        for name, buffer in vars(self).items():
            setattr(part, name, buffer[:count])
        return part


def _corrupt(work: _Work, mask_nhw: Tensor | None, corruption: Corruption, draws: Draws, key: _Key) -> None:
    """Corrupt the levels of work.image."""
    name, episode, step = key
    if corruption.background_rate and mask_nhw is not None:
        _swap_background(work, mask_nhw, corruption, draws, key)
    if corruption.blur_px[1]:
        _blur(work, corruption, draws, key)
    work.image.mul_(_gains(corruption, draws, key))
    if corruption.shot_noise or corruption.read_noise:
        keys = frame_keys(draws, f"{name}/colour", episode, step)
        bits, drawn = (buffer.view(len(keys), -1) for buffer in (work.bits, work.lane))
        lane(pixel_hash(keys, bits.shape[1], out=bits, work=drawn), 0, out=drawn)
        noise = normal(drawn, out=work.extra.view(drawn.shape)).view(work.image.shape)
        variance = torch.clamp(work.image, 0, 255, out=work.other)
        variance.mul_(corruption.shot_noise).add_(corruption.read_noise**2)
        work.image.add_(noise.mul_(variance.sqrt_()))


def _swap_background(work: _Work, mask_nhw: Tensor, corruption: Corruption, draws: Draws, key: _Key) -> None:
    name, episode, _ = key
    swapped = draws.uniform(f"{name}/is_swapped", episode, 0, 1) < corruption.background_rate
    texture(draws, f"{name}/background", episode, work.extra)
    # arithmetic, because torch's `where` costs many times as much
    mask = (mask_nhw & swapped[:, :, None])[:, None].float()
    work.image.add_(work.extra.sub_(work.image).mul_(mask))


def _interpolate(lattice: Tensor, height: int, width: int) -> Tensor:
    """Return (N, height, width), linear between the points of a lattice (N, K, K) that spans the image."""
    cells = lattice.shape[-1] - 1
    for dim, size in ((1, height), (2, width)):
        place = (torch.arange(size, device=lattice.device) + 0.5) * (cells / size)
        index = place.long().clamp(max=cells - 1)
        share = (place - index).view((-1, 1) if dim == 1 else (-1,))
        below, above = lattice.index_select(dim, index), lattice.index_select(dim, index + 1)
        lattice = below + (above - below) * share
    return lattice


def _gains(corruption: Corruption, draws: Draws, key: _Key) -> Tensor:
    """Return (N, 3, 1, 1) factors on red, green and blue."""
    name, episode, step = key
    low, high = corruption.exposure_stops
    drawn = draws.uniforms({f"{name}/exposure": 1, f"{name}/balance": 2}, episode, 0)
    stops = low + (high - low) * drawn[:, :1]
    if corruption.flicker_stops:
        stops = stops + corruption.flicker_stops * draws.normal(f"{name}/flicker", episode, step, 1)
    red_blue = 1 + corruption.white_balance * (2 * drawn[:, 1:] - 1)
    balance = torch.stack((red_blue[:, 0], torch.ones_like(red_blue[:, 0]), red_blue[:, 1]), 1)
    return (torch.exp2(stops) * balance).float()[:, :, None, None]


def _blur(work: _Work, corruption: Corruption, draws: Draws, key: _Key) -> None:
    """Average along a line of a frame's own length and direction; the border repeats."""
    name, episode, step = key
    image = work.image
    count, channels, height, width = image.shape
    drawn = draws.uniform(f"{name}/blur", episode, step, 2)
    low, high = corruption.blur_px
    length = low + (high - low) * drawn[:, :1]
    turn = {"horizontal": 0.0, "vertical": 0.5}.get(corruption.blur_direction)
    angles = torch.arange(_ANGLES, dtype=torch.float64, device=image.device) * (math.pi / _ANGLES)
    if turn is None:
        angle = angles[(drawn[:, 1:] * _ANGLES).long()]
    else:
        angle = torch.full_like(length, turn * math.pi)
    taps = 2 * math.ceil(high / 2) + 1
    along = (torch.arange(taps, device=image.device) / (taps - 1) - 0.5) * length  # (N, T)
    aside = (along * angle.cos()).round().long(), (along * angle.sin()).round().long()
    # indices into memory: 32 bits and index_select, which costs a fraction of `gather`
    first = torch.arange(0, count * channels * height * width, height * width, device=image.device)
    first = first.view(count, channels, 1, 1).int()
    rows, columns = torch.arange(height, device=image.device), torch.arange(width, device=image.device)
    total, one = work.other.copy_(image), work.extra
    for tap in range(taps):
        if tap == taps // 2:
            continue  # the centre, which is there already
        column = (columns + aside[0][:, tap, None]).clamp_(0, width - 1)
        row = (rows + aside[1][:, tap, None]).clamp_(0, height - 1) * width
        places = torch.add(row.int()[:, None, :, None], column.int()[:, None, None], out=work.lane[:, :1])
        source = torch.add(first, places, out=work.bits).view(-1)
        torch.index_select(image.view(-1), 0, source, out=one.view(-1))
        total.add_(one)
    torch.mul(total, 1 / taps, out=image)
