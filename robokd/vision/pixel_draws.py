"""Random numbers for every pixel, as cheap as noise must be: 32-bit integer hashes of counters.

A frame's key comes from `Draws`, so a pixel's number is a pure function of (seed, stream, episode, step,
name, pixel): it depends neither on the batch nor on the device. Integers multiply modulo 2^32; source of the
mixing: the multiply and xor-shift rounds of Wellons' "lowbias32" hash, on a key and a pixel counter that are
mixed already.
Shapes: N frames, P pixels (and channels) of a frame.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from robokd.draws import Draws

_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)
# odd factors, one for each number of a pixel; the high bits of a product are the good ones
_LANES = (0x2C1B3C6D, 0x297A2D39, 0x1B56C4E9, 0x3C6EF373, 0x5BD1E995, 0x165667B1, 0x4B7DB4B3, 0x27D4EB2F)
_TABLE_BITS = 12


def frame_keys(draws: Draws, name: str, episode: Tensor, step: Tensor | int) -> Tensor:
    """Return (N, 1) int32, a key for the pixels of each frame."""
    return (draws.bits({name: 1}, episode, step) >> 32).to(torch.int32)


def pixel_hash(keys_n1: Tensor, count: int, out: Tensor | None = None, work: Tensor | None = None) -> Tensor:
    """Return (N, count) int32 of random bits for each pixel; use them through `lane`.

    `out` and `work` are buffers of that shape, the second for intermediate results.
    """
    bits = torch.bitwise_xor(_counters(count, keys_n1.device), keys_n1, out=out)
    bits.mul_(_FIRST)
    # the shift of a signed number drags its sign along: the mask makes it logical
    high = torch.bitwise_right_shift(bits, 16, out=work).bitwise_and_(0xFFFF)
    return bits.bitwise_xor_(high).mul_(_SECOND)


def lane(bits: Tensor, index: int, out: Tensor | None = None) -> Tensor:
    """Return the index-th random int32 of each pixel; its high bits are uniform and independent."""
    return torch.mul(bits, _LANES[index], out=out)


def below(share: Tensor) -> Tensor:
    """Return int32 thresholds: a lane is less than that with probability `share` in [0, 1]."""
    return (share.double().clamp(0, 1) * 2.0**32 - 2.0**31).clamp(max=2.0**31 - 1).to(torch.int32)


def normal(lanes: Tensor, out: Tensor | None = None) -> Tensor:
    """Return float32 standard normals of a lane's high bits, which it overwrites; up to 3.7 sigma.

    By a table of quantiles: exact to 1/4096 in probability, and without functions whose last bit depends on
    the device or on where in the batch a number stands.
    """
    index = lanes.bitwise_right_shift_(32 - _TABLE_BITS).bitwise_and_((1 << _TABLE_BITS) - 1)
    flat = None if out is None else out.view(-1)
    return torch.index_select(_quantiles(lanes.device), 0, index.view(-1), out=flat).view(lanes.shape)


def uniform(lanes: Tensor) -> Tensor:
    """Return float32 uniform on [0, 1) of a lane's high bits, which it overwrites."""
    return lanes.bitwise_right_shift_(8).bitwise_and_((1 << 24) - 1).float().mul_(2.0**-24)


@lru_cache(maxsize=64)
def _counters(count: int, device: torch.device) -> Tensor:
    """Return (count,) int32 that number the pixels, mixed by SplitMix64's finaliser."""
    bits = (torch.arange(count, dtype=torch.int64) + 1) * -0x61C8864680B583EB
    for places, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ ((bits >> places) & ((1 << (64 - places)) - 1))) * (factor - (1 << 64))
    return (bits >> 32).to(torch.int32).to(device)


@lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> Tensor:
    count = 1 << _TABLE_BITS
    table = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return (table / table.square().mean().sqrt()).float().to(device)
