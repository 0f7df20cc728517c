"""What the pictures of training look like, in numbers that a live camera is held to.

Four distances of a picture, each divided by its own limit; the largest counts, and 1 is the limit:
span: where a picture lies along the K principal components of D features, root mean square in deviations;
rest: what the components leave of each feature, root mean square in what they left of held-out pictures;
landmarks: a high quantile of how far the half of the cells that moves least is from its median;
specks: the share of pixels that are missing alone, between two in a row that are not.
Span and rest clip each number at CLIP, so that something new in one place does not count as much as a little
everywhere. Source: Jackson and Mudholkar 1979, "Control procedures for residuals associated with principal
component analysis", T^2 and Q; clipped, and with limits of our own:

Limits: episodes are independent, their pictures are not. Folds of whole episodes are held out, and of each
episode the largest running median over WINDOW pictures is taken. Its logarithm (plus OFFSETS) is taken as
normal, so the next episode stays below mean + t sqrt(1 + 1/n) deviation; t is chosen so that a run of
RUN_FRAMES pictures raises an alarm with a probability of at most FALSE_ALARM, shared by the four.
Shapes: N pictures, C channels, H rows, W columns, D features, K components. Levels are 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robokd import UserError
from robokd.files import is_number
from robokd.specs import CameraSpec
from robokd.vision.encode import decode

WINDOW = 9  # pictures of the running median
RUN_FRAMES, FALSE_ALARM = 500, 0.01
FEWEST_EPISODES = 4
PROBABILITIES = (0.0, 0.01, 0.05, 0.5, 0.95, 0.99, 1.0)  # of all quantiles here
CLIP = 8.0
MAX_COMPONENTS, MAX_FOLDS = 24, 16
FLOOR, LANDMARK_FLOOR = 0.05, 0.008  # least deviation: of a feature, and of a cell in levels
RESIDUAL_FLOOR = 0.2  # least held-out remainder, in deviations
LANDMARK_SHARE, LANDMARK_QUANTILE = 0.5, 0.75
MOST_LANDMARKS = 192
OFFSETS = {"span": 0.1, "rest": 0.1, "landmarks": 1.0, "specks": 0.005}
LEAST_LIMITS = {"span": 1.0, "rest": 0.5, "landmarks": 2.0, "specks": 0.02}  # where training was too even
_CELLS, _BLOCKS, _COARSE, _BINS = 16, 8, 4, 16
_IDS = 64.0  # segments that are told apart
_NUMBERS = ("centre", "scale", "residual", "basis", "spread", "cells", "cell_centre", "cell_scale")
FIELDS = {
    "encoding", "shape", "frames", "episodes", "channels", "missing", "saturated", "start_m", "flickers",
    "longest_repeat", "held_out", "limits", *_NUMBERS,
}  # fmt: skip


class Features:
    """What is measured of the pictures of one camera."""

    def __init__(self, spec: CameraSpec) -> None:
        self.spec = spec
        _, height, width = spec.shape
        self._rows = {size: _pooling(height, size) for size in (_CELLS, _COARSE)}
        self._columns = {size: _pooling(width, size).T.copy() for size in (_CELLS, _COARSE)}
        self._halves = _pooling(_CELLS, _BLOCKS)  # a block is four cells

    def of(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return features (N, D), cells (N, 256 C), specks (N,), float64, of pictures (N, C, H, W)."""
        planes, missing = levels(images, self.spec)
        parts = [_flat(self._pool(missing, _COARSE))] if self.spec.is_depth else []
        if len(planes) > 1:
            parts += [_flat(self._pool(plane, _COARSE)) for plane in planes]
            parts += [_histogram(plane) for plane in planes]
            grey = np.asarray(np.mean(planes, axis=0, dtype=np.float32))
        else:
            grey = planes[0]
        cells = [self._pool(plane, _CELLS) for plane in planes]
        blocks = self._halves @ (sum(cells) / len(cells)) @ self._halves.T
        parts += [_flat(blocks), _histogram(grey)]
        edges = np.zeros_like(grey)
        for after, before in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
            edges.fill(0)
            np.abs(grey[after] - grey[before], out=edges[after])
            parts.append(np.sqrt(_flat(self._pool(edges, _COARSE))))
        alone = missing[:, :, 1:-1] * (1 - missing[:, :, :-2]) * (1 - missing[:, :, 2:])
        specks = alone.sum((1, 2), dtype=np.float64) / missing[0].size
        places = np.concatenate([_flat(one) for one in cells], 1)
        return np.concatenate(parts, 1).astype(np.float64), places.astype(np.float64), specks

    def _pool(self, plane: np.ndarray, size: int) -> np.ndarray:
        return self._rows[size] @ plane @ self._columns[size]


def levels(images: np.ndarray, spec: CameraSpec) -> tuple[list[np.ndarray], np.ndarray]:
    """Return each channel's levels (N, H, W) float32 and where nothing is; a miss is at far.

    Nothing is a depth's miss, a colour that is black in all channels, no segment.
    """
    if spec.encoding == "depth_f16":
        depth = images[:, 0].astype(np.float32)
        missing = ~((depth > 0) & (depth <= spec.far_m))  # also what is not a number
        plane = (np.where(missing, spec.far_m, depth) - spec.near_m) / (spec.far_m - spec.near_m)
        planes = [np.clip(plane, 0, 1, dtype=np.float32)]
    elif spec.is_depth:
        missing = images[:, 0] == 0
        planes = [(images[:, 0] - np.uint8(1)) * np.float32(1 / 254)]  # 0 - 1 is 255: beyond far
        np.minimum(planes[0], 1, out=planes[0])
    elif spec.encoding == "segment_i16":
        missing = images[:, 0] < 0
        planes = [np.clip((images[:, 0].astype(np.float32) + 1) / _IDS, 0, 1)]
    else:
        missing = ~images.any(axis=1)
        planes = [images[:, channel] * np.float32(1 / 255) for channel in range(images.shape[1])]
    return [np.asarray(plane) for plane in planes], np.asarray(missing, np.float32)


def metres(image: np.ndarray, spec: CameraSpec) -> np.ndarray:
    """Return the depths of a picture's pixels that hold any, in metres, also those beyond far; flat."""
    return decode(image[(image > 0) & np.isfinite(image)], spec)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The statistics of a camera, ready to measure pictures with. `read_statistics` makes it."""

    features: Features
    data: dict[str, Any]  # the statistics themselves
    centre: np.ndarray  # (D,)
    scale: np.ndarray  # (D,)
    residual: np.ndarray  # (D,)
    basis: np.ndarray  # (K, D)
    spread: np.ndarray  # (K,) deviation along each component
    cells: np.ndarray  # (L,) int64, which cells are landmarks
    cell_centre: np.ndarray  # (L,)
    cell_scale: np.ndarray  # (L,)
    limits: np.ndarray  # (4,), as in LEAST_LIMITS

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Return (N,) how far pictures (N, C, H, W) are from training; above 1 is beyond the limit."""
        return (self.parts(*self.features.of(images)) / self.limits[:, None]).max(0)

    def parts(self, features: np.ndarray, cells: np.ndarray, specks: np.ndarray) -> np.ndarray:
        """Return the four distances (4, N) of `Features.of`, not yet divided by their limits."""
        along, left = _split(features, self.centre, self.scale, self.basis)
        off = np.abs(cells[:, self.cells] - self.cell_centre) / self.cell_scale
        place = int(LANDMARK_QUANTILE * (off.shape[1] - 1))
        return np.stack((
            _clipped_rms(along / self.spread), _clipped_rms(left / self.residual),
            np.partition(off, place, axis=1)[:, place], specks,
        ))  # fmt: skip


def statistics(
    images: np.ndarray, spec: CameraSpec, episodes: np.ndarray, *, flickers: bool
) -> dict[str, Any]:
    """Return the JSON-ready statistics of a camera's pictures, as `read_statistics` takes them.

    Args:
        images: (N, C, H, W) encoded, as the policy saw them, in order of time within an episode.
        spec: of the camera.
        episodes: (N,) which episode a picture is from; 32 or more make useful limits.
        flickers: whether the sensor of training was noisy, so that no two pictures of it are the same.
    """
    names = _check_pictures(images, spec, episodes)
    measure = Features(spec)
    chunks = [measure.of(images[at : at + 256]) for at in range(0, len(images), 256)]
    measured = tuple(np.concatenate(part) for part in zip(*chunks, strict=True))
    residual, apart = _held_out(measure, measured, episodes)
    worst = np.array([[running_median(row[episodes == one]).max() for one in names] for row in apart])
    probability = 1 - FALSE_ALARM / len(apart) / max(1.0, RUN_FRAMES * len(names) / len(images))
    row = _look(images, spec, episodes) | {"flickers": bool(flickers), "residual": residual.tolist()}
    row |= {name: value.tolist() for name, value in _model(*measured[:2]).items()}
    row["held_out"], row["limits"] = {}, {}
    for (name, least), values in zip(LEAST_LIMITS.items(), worst, strict=True):
        row["held_out"][name] = _quantiles(values)
        limit = math.exp(_next_below(np.log(values + OFFSETS[name]), probability)) - OFFSETS[name]
        row["limits"][name] = max(limit, least)
    return row


def read_statistics(data: Mapping[str, Any], spec: CameraSpec, where: str = "statistics") -> Sight:
    """Return what `statistics` wrote; UserError naming the field unless it is whole and fits the camera."""
    if not isinstance(data, Mapping):
        raise UserError(f"{where} wants fields, got {data!r:.60}")
    if wrong := sorted(FIELDS ^ set(data)):
        what = "unknown field" if wrong[0] in data else "no field"
        raise UserError(f"{where} has {what} {wrong[0]!r}. Known: {', '.join(sorted(FIELDS))}")
    for name, wanted in (("encoding", spec.encoding), ("shape", list(spec.shape))):
        if data[name] != wanted:
            raise UserError(f"{where}.{name} is {data[name]!r:.60}, the camera's is {wanted}")
    measure = Features(spec)
    width = measure.of(np.zeros((1, *spec.shape), spec.dtype))[0].shape[1]
    arrays = {name: _numbers(data[name], f"{where}.{name}") for name in _NUMBERS}
    count, parts = len(arrays["basis"]), len(arrays["cells"])
    shapes = {name: (width,) for name in ("centre", "scale", "residual")}
    shapes |= {"basis": (count, width), "spread": (count,)}
    shapes |= {name: (parts,) for name in ("cells", "cell_centre", "cell_scale")}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(f"{where}.{name} wants numbers of shape {shape}, got {arrays[name].shape}")
    cells, most = arrays["cells"], spec.shape[0] * _CELLS**2
    if not parts or (cells != np.floor(cells)).any() or cells.min() < 0 or cells.max() >= most:
        raise UserError(f"{where}.cells wants whole numbers in [0, {most})")
    for name in ("scale", "residual", "spread", "cell_scale"):
        if arrays[name].min() <= 0:
            raise UserError(f"{where}.{name} must be > 0, got {arrays[name].min()}")
    _check_look(data, spec, where)
    limits = np.array([data["limits"][name] for name in LEAST_LIMITS], np.float64)
    arrays["cells"] = cells.astype(np.int64)
    return Sight(features=measure, data=dict(data), limits=limits, **arrays)


def running_median(values: np.ndarray) -> np.ndarray:
    """Return the medians of every WINDOW values in a row; the one of all of them where there are fewer."""
    if len(values) < WINDOW:
        return np.median(values, keepdims=True)
    return np.median(np.lib.stride_tricks.sliding_window_view(values, WINDOW), axis=1)


def _check_pictures(images: np.ndarray, spec: CameraSpec, episodes: np.ndarray) -> np.ndarray:
    """Return the episodes' numbers after checking what `statistics` is given."""
    if images.ndim != 4 or images.shape[1:] != spec.shape or images.dtype != spec.dtype:
        got = f"{images.shape} of {images.dtype}"
        raise ValueError(
            f"camera {spec.name}: wanted (N, *{spec.shape}) of {np.dtype(spec.dtype)}, got {got}"
        )
    if episodes.shape != (len(images),):
        raise ValueError(f"wanted one episode for each of {len(images)} pictures, got {episodes.shape}")
    names = np.unique(episodes)
    if len(names) < FEWEST_EPISODES:
        raise ValueError(
            f"need pictures of >= {FEWEST_EPISODES} episodes to tell what is usual, got {len(names)}"
        )
    return names


def _model(features: np.ndarray, cells: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is usual, rounded as it is stored: the limits are of what is stored."""
    centre = features.mean(0)
    scale = np.maximum(features.std(0), FLOOR)
    away = (features - centre) / scale
    values, vectors = np.linalg.eigh(away.T @ away)
    count = min(MAX_COMPONENTS, len(features) // 8, len(centre))
    basis = vectors[:, ::-1][:, :count].T
    deviation = np.maximum(np.sqrt(np.maximum(values[::-1][:count], 0) / len(features)), FLOOR)
    middle = np.median(cells, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(cells - middle), axis=0), LANDMARK_FLOOR)
    most = min(MOST_LANDMARKS, int(LANDMARK_SHARE * len(spread)))
    stillest = np.sort(np.argsort(spread, kind="stable")[:most])
    return {
        "centre": np.round(centre, 5), "scale": np.round(scale, 5),
        "basis": np.round(basis, 4), "spread": np.round(deviation, 5), "cells": stillest,
        "cell_centre": np.round(middle[stillest], 5), "cell_scale": np.round(spread[stillest], 5),
    }  # fmt: skip


def _held_out(
    measure: Features, measured: tuple[np.ndarray, ...], episodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return, of held-out pictures, what components leave of features (D,), and distances (4, N)."""
    features, cells, specks = measured
    names = np.unique(episodes)
    folds = [names[start::MAX_FOLDS] for start in range(min(MAX_FOLDS, len(names)))]
    held = [np.isin(episodes, fold) for fold in folds]
    models = [_model(features[~out], cells[~out]) for out in held]
    left = np.zeros_like(features)
    for out, model in zip(held, models, strict=True):
        left[out] = _split(features[out], model["centre"], model["scale"], model["basis"])[1]
    residual = np.sqrt(np.mean(np.clip(left, -CLIP, CLIP) ** 2, axis=0))
    residual = np.round(np.maximum(residual, RESIDUAL_FLOOR), 5)
    apart = np.zeros((len(LEAST_LIMITS), len(features)))
    for out, model in zip(held, models, strict=True):
        sight = Sight(features=measure, data={}, limits=np.ones(len(apart)), residual=residual, **model)
        apart[:, out] = sight.parts(features[out], cells[out], specks[out])
    return residual, apart


def _split(
    features: np.ndarray, centre: np.ndarray, scale: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return where features lie along the components (N, K), and what these leave (N, D); in deviations."""
    away = np.minimum(np.maximum((features - centre) / scale, -2 * CLIP), 2 * CLIP)
    along = away @ basis.T
    return along, away - along @ basis


def _clipped_rms(values: np.ndarray) -> np.ndarray:
    square = np.minimum(values * values, CLIP**2)
    return np.sqrt(square.mean(axis=1))


def _look(images: np.ndarray, spec: CameraSpec, episodes: np.ndarray) -> dict[str, Any]:
    """Return what a person would like to know, and what is judged by plain comparison."""
    planes, missing = levels(images, spec)
    channels = [
        {"mean": float(plane.mean()), "std": float(plane.std()), "quantiles": _quantiles(plane)}
        for plane in planes
    ]
    saturated = np.mean([(plane >= 1) | (plane <= 0) for plane in planes], axis=0) - missing
    starts = np.diff(episodes, prepend=episodes[0] - 1) != 0
    seen = [metres(image, spec) for image in images[starts]] if spec.is_depth else []
    medians = [float(np.median(depth)) for depth in seen if depth.size]
    same = (images[1:] == images[:-1]).all(axis=(1, 2, 3)) & (episodes[1:] == episodes[:-1])
    longest = now = 0
    for is_same in same:
        now = now + 1 if is_same else 0
        longest = max(longest, now)
    return {
        "encoding": spec.encoding, "shape": list(spec.shape), "frames": len(images),
        "episodes": len(np.unique(episodes)), "channels": channels,
        "missing": _quantiles(missing.mean((1, 2))),
        "saturated": _quantiles(np.maximum(saturated, 0).mean((1, 2))), "longest_repeat": longest,
        # median depth at which episodes start; none where there is no depth
        "start_m": [round(min(medians), 6), round(max(medians), 6)] if medians else [],
    }  # fmt: skip


def _check_look(data: Mapping[str, Any], spec: CameraSpec, where: str) -> None:
    for name in ("missing", "saturated", "start_m"):
        counts = (len(PROBABILITIES),) if name != "start_m" else ((0, 2) if spec.is_depth else (0,))
        if _numbers(data[name], f"{where}.{name}").size not in counts:
            raise UserError(f"{where}.{name} wants {counts[-1]} numbers, got {data[name]!r:.60}")
    if not isinstance(data["flickers"], bool):
        raise UserError(f"{where}.flickers wants true or false, got {data['flickers']!r:.60}")
    for name, least in (("frames", 1), ("episodes", 1), ("longest_repeat", 0)):
        if not is_number(data[name]) or data[name] < least:
            raise UserError(f"{where}.{name} wants a number >= {least}, got {data[name]!r:.60}")
    limits = data["limits"]
    if not isinstance(limits, Mapping) or set(limits) != set(LEAST_LIMITS):
        raise UserError(f"{where}.limits wants exactly {', '.join(LEAST_LIMITS)}, got {limits!r:.60}")
    for name, least in LEAST_LIMITS.items():  # 0 would raise an alarm always, infinity never
        if not is_number(limits[name]) or not least <= limits[name] < 1e6:
            raise UserError(f"{where}.limits.{name} wants a number >= {least}, got {limits[name]!r:.60}")
    channels = data["channels"]
    if not isinstance(channels, list) or len(channels) != spec.shape[0]:
        raise UserError(f"{where}.channels wants {spec.shape[0]} rows, got {channels!r:.60}")
    if not isinstance(data["held_out"], Mapping):
        raise UserError(f"{where}.held_out wants fields, got {data['held_out']!r:.60}")


def _numbers(value: object, where: str) -> np.ndarray:
    """Return a list of finite numbers, or of lists of them, as float64."""
    rows: list[Any] = value if isinstance(value, list) else [None]
    flat: list[Any] = [one for row in rows for one in (row if isinstance(row, list) else [row])]
    if not all(is_number(one) and abs(one) < 1e12 for one in flat):
        raise UserError(f"{where} wants numbers, got {value!r:.60}")
    try:
        return np.array(rows, np.float64)
    except ValueError:
        raise UserError(f"{where} wants rows of one length") from None


def _next_below(values: np.ndarray, probability: float) -> float:
    """Return what the next value of a normal population is below with this probability (Student's t)."""
    count = len(values)
    margin = student_quantile(probability, count - 1) * math.sqrt(1 + 1 / count)
    return float(values.mean() + margin * values.std(ddof=1))


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t in [0.5, 1): its density is integrated until it is reached."""
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    # t = sqrt(f) tan(angle): the density becomes cos(angle)^(f - 1), and the range finite
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = factor / math.sqrt(math.pi) * np.cos(angle) ** (freedom - 1)
    steps = (density[1:] + density[:-1]) / 2 * (angle[1] - angle[0])
    reached = np.interp(probability - 0.5, np.concatenate(([0.0], np.cumsum(steps))), angle)
    return math.sqrt(freedom) * math.tan(float(reached))


def _pooling(pixels: int, size: int) -> np.ndarray:
    """Return (size, pixels) float32 that averages over equal stretches, also of parts of pixels."""
    ends = np.linspace(0, pixels, size + 1)
    at = np.arange(pixels)
    inside = np.minimum(ends[1:, None], at + 1) - np.maximum(ends[:-1, None], at)
    return (np.maximum(inside, 0) * size / pixels).astype(np.float32)


def _histogram(plane: np.ndarray) -> np.ndarray:
    """Return (N, bins) the roots of shares, whose noise is the same for rare and for usual levels."""
    count, pixels = len(plane), plane[0].size
    # a level of 1 belongs to the last bin
    place = (plane * np.float32(_BINS - 1e-4)).astype(np.intp).reshape(count, pixels)
    if count > 1:
        place += _BINS * np.arange(count)[:, None]
    shares = np.bincount(place.ravel(), minlength=count * _BINS).reshape(count, _BINS)
    return np.sqrt(shares / pixels)


def _quantiles(values: np.ndarray) -> list[float]:
    return [round(float(one), 6) for one in np.quantile(values, PROBABILITIES)]


def _flat(pooled: np.ndarray) -> np.ndarray:
    return pooled.reshape(len(pooled), -1)
