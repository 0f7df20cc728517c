"""A depth camera's flaws on batched depth images: noise, quantisation, holes, sticks, range.

Order: edges and shadows make holes; rays land beside their pixel; random holes; noise; quantisation; range;
sticks; border. Masks are integers and are multiplied in, because torch's `where` costs fifty times as much.
Nothing is reduced over the batch, so an image is the same, bit for bit, in any batch.
Shapes: N frames, H rows, W columns, P = H * W pixels.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from robokd.draws import Draws
from robokd.specs import CameraSpec
from robokd.vision.pixel_draws import below, frame_keys, lane, normal, pixel_hash
from robokd.vision.sensor import Corruption

_FAR_M = 1e9  # stands for a miss where depth is inverted
_CHUNK = 131_072  # pixels worked on at once on a CPU: a dozen such buffers stay in its caches
_CHUNK_GPU = 1 << 27  # pixels; their numbers must fit 32 bits
_AXIAL, _STEREO, _DROPOUT, _EDGE, _LATERAL_X, _LATERAL_Y = range(6)  # lanes of a pixel's hash
_ANGLES = 32  # directions of sticks


def corrupt_depth(
    depth_n1hw: Tensor, corruption: Corruption, camera: CameraSpec, draws: Draws, episode: Tensor,
    step: Tensor | int,
) -> Tensor:  # fmt: skip
    """Return what the sensor says of planar depth (N, 1, H, W) float32, in metres, 0 = nothing or invalid.

    Without a flaw that concerns depth the input itself is returned, otherwise fresh memory.

    Args:
        depth_n1hw: of the renderer, 0 = nothing.
        corruption: of the sensor.
        camera: of the images; its name keys the draws.
        draws: of the environments.
        episode: (N,) int64.
        step: at which the frames were captured, (N,) int64 or one number.
    """
    if not corruption.changes_depth:
        return depth_n1hw
    if depth_n1hw.shape[1:] != camera.shape or depth_n1hw.dtype != torch.float32:
        got = f"{tuple(depth_n1hw.shape)} of {depth_n1hw.dtype}"
        raise ValueError(f"camera {camera.name}: wanted (N, *{camera.shape}) of float32 metres, got {got}")
    rows = _Rows.draw(corruption, camera, draws, episode, step)
    count, pixels = depth_n1hw.shape[0], camera.height * camera.width
    out = depth_n1hw.reshape(count, pixels).clone()
    chunk = max(1, min(count, (_CHUNK if out.device.type == "cpu" else _CHUNK_GPU) // pixels))
    work = _Work(chunk, camera, out.device)
    for start in range(0, count, chunk):
        part = slice(start, min(start + chunk, count))
        _corrupt(out[part], corruption, camera, rows.of(part), work.of(part.stop - start))
    for index in range(corruption.sticks):
        _draw_stick(out, rows.sticks[:, index], corruption, camera)
    image = out.view(depth_n1hw.shape)
    if corruption.border_px:
        blacken_border(image, corruption.border_px)
    return image


def focal_px(camera: CameraSpec) -> float:
    """Return the focal length of an image, in its pixels."""
    return camera.height / 2 / math.tan(math.radians(camera.fovy_deg) / 2)


def blacken_border(image_nchw: Tensor, width: int) -> None:
    """Set `width` pixels along each side to 0, in place."""
    for dim in (2, 3):
        size = image_nchw.shape[dim]
        image_nchw.narrow(dim, 0, min(width, size)).zero_()
        image_nchw.narrow(dim, max(size - width, 0), min(width, size)).zero_()


def depth_sigma(depth_m: Tensor, corruption: Corruption, camera: CameraSpec) -> Tensor:
    """Return the standard deviation of depth at strength 1, before quantisation, m; any shape.

    sqrt((a + b z + c z^2)^2 + (z^2 subpixel / (focal baseline))^2): the two add as independent noises.
    """
    a, b, c = corruption.axial_noise
    axial = a + depth_m * (b + depth_m * c)
    if not corruption.subpixel_px:
        return axial.abs()
    return torch.hypot(axial, depth_m**2 * corruption.subpixel_px / abs(_native(corruption, camera)))


@dataclass(frozen=True)
class _Rows:
    """What is drawn once a frame: (N, ...) each."""

    keys: Tensor  # (N, 1) int32
    strength: Tensor  # (N, 1) float32
    gain: Tensor  # (N, 1) float32, factor on depth
    drop: Tensor  # (N, 1) int32 thresholds
    edge: Tensor  # (N, 1) int32 thresholds
    sticks: Tensor  # (N, sticks or 1, 6) float64 uniforms: there, row, column, angle, length, depth

    @classmethod
    def draw(
        cls, corruption: Corruption, camera: CameraSpec, draws: Draws, episode: Tensor, step: Tensor | int
    ) -> _Rows:
        low, high = corruption.strength
        name = f"corrupt/{camera.name}"
        pair = draws.uniforms({f"{name}/strength": 1, f"{name}/gain": 1}, episode, 0)
        strength = low + (high - low) * pair[:, :1]
        # Draws cannot draw none
        sticks = draws.uniform(f"{name}/sticks", episode, step, 6 * max(corruption.sticks, 1))
        return cls(
            keys=frame_keys(draws, f"{name}/depth", episode, step),
            strength=strength.float(),
            gain=(1 + corruption.depth_gain_error * (2 * pair[:, 1:] - 1)).float(),
            drop=below(corruption.dropout_rate * strength),
            edge=below(corruption.edge_hole_rate * strength),
            sticks=sticks.view(len(sticks), -1, 6),
        )

    def of(self, part: slice) -> _Rows:
        return _Rows(*(getattr(self, field)[part] for field in self.__dataclass_fields__))


class _Work:
    """Buffers for one chunk, so that no pass allocates."""

    def __init__(self, count: int, camera: CameraSpec, device: torch.device) -> None:
        shape = (count, camera.height * camera.width)
        self.floats = tuple(torch.empty(shape, device=device) for _ in range(4))
        self.bits, self.lane, self.bad = (
            torch.empty(shape, dtype=torch.int32, device=device) for _ in range(3)
        )
        self.numbers = torch.arange(shape[0] * shape[1], dtype=torch.int32, device=device).view(shape)

    def of(self, count: int) -> _Work:
        part = copy.copy(self)
        part.floats = tuple(one[:count] for one in self.floats)
        for name in ("bits", "lane", "bad", "numbers"):
            setattr(part, name, getattr(self, name)[:count])
        return part


def _corrupt(depth: Tensor, corruption: Corruption, camera: CameraSpec, rows: _Rows, work: _Work) -> None:
    """Corrupt depth (n, P) in place."""
    pixel_hash(rows.keys, depth.shape[1], out=work.bits, work=work.lane)
    # `bad` is not 0 where a pixel is lost; a comparison's 1.0 or 0.0 goes in as the bits that it is
    mask, nearness = work.floats[:2]
    work.bad.zero_()
    torch.le(depth, 0, out=mask)
    torch.reciprocal(depth.add_(mask.mul_(_FAR_M)), out=nearness)
    if corruption.edge_hole_rate:
        _lose_edges(nearness, corruption, camera, rows, work)
    if corruption.casts_shadow:
        _lose_shadows(nearness, corruption, camera, work)
    if corruption.lateral_px:
        _jitter(depth, corruption, camera, work)
        torch.reciprocal(depth, out=nearness)
    work.bad.bitwise_or_(torch.gt(depth, _FAR_M / 2, out=mask).view(torch.int32))
    if corruption.dropout_rate:
        lost = lane(work.bits, _DROPOUT, out=work.lane)
        work.bad.bitwise_or_(lost.lt_(rows.drop))
    _add_noise(depth, nearness, corruption, camera, rows, work)
    far = corruption.max_range_m or _FAR_M / 2
    inside = torch.clamp(depth, corruption.min_range_m, far, out=work.floats[0]).eq_(depth)
    depth.view(torch.int32).mul_(work.bad.eq_(0))
    depth.mul_(inside)


def _jitter(depth: Tensor, corruption: Corruption, camera: CameraSpec, work: _Work) -> None:
    """Let rays land a pixel aside, at random and in place.

    A jitter below a pixel moves an edge, which lies anywhere within its pixel, across the pixel's centre in
    a share of frames that is the mean shift: so that is how often a whole pixel is moved, either way.
    """
    share = min(_lateral_sigma(corruption, camera) / math.sqrt(2 * math.pi), 0.5)
    edge = round(2.0**31 - share * 2.0**32)
    columns, lines = _inner(camera.height, camera.width, depth.device)
    source, aside = (work.floats[index].view(torch.int32) for index in (2, 3))
    for index, allowed, moved in ((_LATERAL_X, columns, source), (_LATERAL_Y, lines, aside)):
        drawn = lane(work.bits, index, out=work.lane)
        torch.ge(drawn, edge, out=moved)
        moved.sub_(drawn.lt_(-edge)).mul_(allowed)
    source.add_(aside).add_(work.numbers)
    moved = torch.index_select(depth.view(-1), 0, source.view(-1), out=work.floats[0].view(-1))
    depth.view(-1).copy_(moved)


def _lose_edges(
    nearness: Tensor, corruption: Corruption, camera: CameraSpec, rows: _Rows, work: _Work
) -> None:
    """Mark pixels on the far side of edges as bad, at random.

    1 / z of a plane is linear in the image, however slanted it is: only a bend is an edge.
    """
    near = nearness.view(-1, camera.height, camera.width)
    line, bend, edges = (work.floats[index].view(near.shape) for index in (0, 2, 3))
    torch.mul(near, 2 + corruption.edge_jump, out=line)
    edges.zero_()
    for dim in (1, 2):
        size = near.shape[dim] - 2
        if size > 0:
            middle = bend.narrow(dim, 1, size)
            torch.add(near.narrow(dim, 0, size), near.narrow(dim, 2, size), out=middle)
            edges.narrow(dim, 1, size).add_(middle.gt_(line.narrow(dim, 1, size)))
    lost = lane(work.bits, _EDGE, out=work.lane).lt_(rows.edge)
    work.bad.bitwise_or_(lost.mul_(work.floats[3].view(torch.int32)))


def _lose_shadows(nearness: Tensor, corruption: Corruption, camera: CameraSpec, work: _Work) -> None:
    """Mark what the other eye cannot see as bad: it is hidden behind something nearer.

    In the other eye a pixel of column j stands at u = j - f b / z. It is hidden if one from further along the
    baseline stands before it: beside a near edge, a band of f b (1 / z_near - 1 / z_far) pixels.
    """
    shift = focal_px(camera) * abs(corruption.baseline_m)
    to_right = corruption.baseline_m > 0
    seen, first, other = (work.floats[index].view(-1, camera.height, camera.width) for index in (0, 2, 3))
    column = torch.arange(camera.width, dtype=torch.float32, device=nearness.device)
    torch.sub(
        column if to_right else -column,
        torch.mul(nearness, shift, out=work.floats[0]).view(seen.shape),
        out=seen,
    )
    width = camera.width
    reach = min(shift / (corruption.min_range_m or camera.near_m or shift), width - 1)
    span, source = 1, seen
    while span < reach:  # the least of `span` neighbours, then of twice as many
        here, there = _sides(width, span, to_right)
        torch.minimum(source[..., here], source[..., there], out=first[..., here])
        rest = slice(width - span, width) if to_right else slice(0, span)
        first[..., rest] = source[..., rest]
        source, first, other = first, other, first
        span *= 2
    here, there = _sides(width, 1, to_right)
    # half a pixel: the edge is the border of its pixel and not the centre
    hidden = torch.sub(source[..., there], seen[..., here], out=first[..., here]).lt_(0.5)
    work.bad.view(seen.shape)[..., here].bitwise_or_(hidden.view(torch.int32))


def _add_noise(
    depth: Tensor, nearness: Tensor, corruption: Corruption, camera: CameraSpec, rows: _Rows, work: _Work
) -> None:
    """Add noise to depth in place, by way of disparity where the sensor measures that."""
    sigma, noise = work.floats[2:]
    if any(corruption.axial_noise):
        a, b, c = corruption.axial_noise
        torch.mul(depth, c, out=sigma).add_(b).mul_(depth).add_(a)
        normal(lane(work.bits, _AXIAL, out=work.lane), out=noise)
        depth.add_(noise.mul_(sigma).mul_(rows.strength))
        torch.reciprocal(depth, out=nearness)
    if not (corruption.subpixel_px or corruption.disparity_step_px):
        depth.mul_(rows.gain)
        return
    scale = abs(_native(corruption, camera)) / (corruption.disparity_step_px or 1.0)
    nearness.mul_(scale)
    if corruption.subpixel_px:
        normal(lane(work.bits, _STEREO, out=work.lane), out=noise)
        in_steps = corruption.subpixel_px / (corruption.disparity_step_px or 1.0)
        nearness.add_(noise.mul_(rows.strength * in_steps))
    if corruption.disparity_step_px:
        nearness.round_()
    nearness.clamp_(min=scale / _FAR_M)
    torch.div(rows.gain * scale, nearness, out=depth)


def _draw_stick(depth: Tensor, drawn: Tensor, corruption: Corruption, camera: CameraSpec) -> None:
    """Draw one short line into each image that has one, in place; drawn (n, 6) as in _Rows."""
    there, row, column, angle, length, level = drawn[:, :, None].unbind(1)
    shortest, longest = corruption.stick_px
    along = torch.arange(max(1, math.ceil(longest)), device=depth.device)
    along = along.minimum((shortest + (longest - shortest) * length - 1).clamp(min=0).long())
    direction = _directions(depth.device)[:, (angle[:, 0] * _ANGLES).long()][..., None]
    columns = (column * camera.width + along * direction[0]).long().clamp(0, camera.width - 1)
    lines = (row * camera.height + along * direction[1]).long().clamp(0, camera.height - 1)
    low = max(corruption.min_range_m, camera.near_m)
    high = min(corruption.max_range_m or camera.far_m, camera.far_m)
    wrong = (low + (high - low) * level) * (there < 0.5 * corruption.sticks_wrong)
    present = there < 0.5
    # an image without it gets its first pixel once more
    value = torch.where(present, wrong.float(), depth[:, :1])
    depth.scatter_(1, (lines * camera.width + columns) * present, value.expand(columns.shape))


def _native(corruption: Corruption, camera: CameraSpec) -> float:
    """Return disparity times depth of the sensor, native px * m."""
    return (corruption.focal_px or focal_px(camera)) * corruption.baseline_m


def _lateral_sigma(corruption: Corruption, camera: CameraSpec) -> float:
    """Return the jitter in px of the image."""
    return corruption.lateral_px * focal_px(camera) / (corruption.focal_px or focal_px(camera))


def _sides(width: int, span: int, to_right: bool) -> tuple[slice, slice]:
    """Return the columns that have a neighbour `span` further along the baseline, and those neighbours."""
    left, right = slice(0, width - span), slice(span, width)
    return (left, right) if to_right else (right, left)


@lru_cache(maxsize=64)
def _inner(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (P,) int32 steps in memory to the next column and row; 0 on the border, which stays in place."""
    columns = torch.zeros(height, width, dtype=torch.int32)
    lines = columns.clone()
    columns[:, 1:-1] = 1
    lines[1:-1] = width
    return columns.view(-1).to(device), lines.view(-1).to(device)


@lru_cache(maxsize=8)
def _directions(device: torch.device) -> Tensor:
    """Return (2, _ANGLES) float64 cosines and sines."""
    turns = [2 * math.pi * index / _ANGLES for index in range(_ANGLES)]
    rows = [[turn(angle) for angle in turns] for turn in (math.cos, math.sin)]
    return torch.tensor(rows, dtype=torch.float64, device=device)
