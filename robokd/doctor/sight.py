"""Can the student see what its teacher knows: pictures, what they tell, how many would be needed.

Shapes: M pictures (C, H, W); n frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from robokd.doctor.finding import FAIL, OK, WARN, Finding

SEEN_R2 = 0.5  # below this the guess is nearer to the mean than to the truth
STATIC_SHARE = 0.95  # of the pixels: a sphere of 4 x 4 pixels in 64 x 64 is 0.4 %, an arm some 10 %
NEAR_SHARE = 0.1  # of the labels' standard deviation: an error that the loop corrects in its next steps
FLAT_POWER = 0.05  # of n^-b: ten times the data for a tenth less error is no curve to extrapolate
LEAST_RANGE = 2.0  # factor: three points of one seed know no better
FARTHEST = 1e4  # times the probe: further, three points tell nothing
SHARES = (0.25, 0.5, 1.0)  # of the probe's environments, nested


def recoverable(term: str, r2: float | None, linear: float = 0.0, episodes: int = 0) -> Finding:
    """Judge whether a privileged term can be told from what the student sees; None if it never changes.

    Args:
        term: its name.
        r2: of the fitted student, on held-out `episodes`; NaN where there were none.
        linear: R^2 of a linear guess from the 1-D groups, there.
        episodes: how many.
    """
    check = f"recoverable {term}"
    if r2 is None:
        return Finding(check=check, level=OK, measured="it never changes: nothing to recover")
    if not math.isfinite(r2):
        text = "too few episodes were held out to tell"
        return Finding(check=check, level=WARN, measured=text, cure="type more frames=…")
    return Finding(
        check=check, level=OK if r2 >= SEEN_R2 else WARN, value=r2, limit=SEEN_R2,
        measured=f"R^2 {r2:.2f} on {episodes} held-out episodes after a short fit (its mean: 0; a linear "
        f"guess from the 1-D groups: {linear:.2f})",
        cure="the student hardly sees it: other cameras=[…], a student that remembers, or more frames=… for "
        "a surer answer",
    )  # fmt: skip


def pictures(images: np.ndarray, camera: str, is_depth: bool, clean: float | None = None) -> Finding:
    """Judge a camera's encoded pictures (M, C, H, W); `clean` is the share of hits without corruption."""
    low, high = images.min(0), images.max(0)
    static = float((low == high).all(0).mean())
    hits = float((images != 0).mean()) if is_depth else 1.0
    said = f"{static:.1%} of the pixels never change"
    if is_depth:
        missing = "" if clean is None else f" ({clean:.1%} without corruption)"
        said = f"{hits:.1%} of the pixels hit{missing}, {1 - hits:.1%} missing, {said}"
    blank = bool(low.min() == high.max())
    if blank:
        said = "blank, always"
    return Finding(
        check=f"pictures {camera}", value=1.0 if blank else static, limit=STATIC_SHARE, measured=said,
        level=FAIL if blank else WARN if static > STATIC_SHARE else OK,
        cure="see `robokd look`: it looks past the task, is too far or near for its range, or all is dropped"
        if blank else "the task is small in its view: move it nearer, or take another camera",
    )  # fmt: skip


def frames_needed(
    frames: Sequence[int], errors: Sequence[float], label_std: float, trivial: float, planned: int
) -> Finding:
    """Extrapolate held-out action errors at nested data sizes by a n^-b; never FAIL.

    Args:
        frames: that were learned from, ascending.
        errors: mean |action - label| on held-out episodes at each.
        label_std: standard deviation of the labels, mean over A.
        trivial: the error of always saying the mean label.
        planned: frames that the stage would collect.
    """
    check, target = "frames needed", NEAR_SHARE * label_std
    curve = ", ".join(f"{error:.3f} at {count:,}" for count, error in zip(frames, errors, strict=True))
    said = f"action error {curve} frames (the mean label: {trivial:.3f}, wanted {target:.3f})"
    number = errors[-1] / target if target > 0 else math.inf
    if errors[-1] <= target:
        return Finding(check=check, level=OK, value=float(frames[-1]), measured=f"{said}: the probe does")
    usable = min(errors) > 0 and len(set(frames)) == len(frames) and errors[-1] < trivial
    powers = slopes(frames, errors) if usable else [0.0]
    if not usable or powers[0] < FLAT_POWER or number ** (1 / powers[0]) > FARTHEST:
        return Finding(
            check=check,
            level=OK,
            measured=f"{said}: cannot tell how many, the curve is too flat or too short",
        )
    middle, *ends = (
        frames[-1] * number ** (1 / power) if power >= FLAT_POWER else math.inf
        for power in (powers[0], max(powers), min(powers))
    )
    ends = [
        min(ends[0], middle / LEAST_RANGE),
        min(max(ends[1], middle * LEAST_RANGE), frames[-1] * FARTHEST),
    ]
    upper = "more than " if ends[1] >= frames[-1] * FARTHEST else ""
    return Finding(
        check=check, level=WARN if ends[0] > planned else OK, value=middle, limit=float(planned),
        measured=f"{said}: roughly {rounded(middle)} frames, {rounded(ends[0])} to {upper}{rounded(ends[1])};"
        f" planned are {rounded(planned)}",
        cure="more dagger.rounds, a larger batch of num_envs, or a student that sees more",
    )  # fmt: skip


def slopes(frames: Sequence[int], errors: Sequence[float]) -> list[float]:
    """Return b of a n^-b: of least squares on all points, then between neighbours."""
    x, y = np.log(np.asarray(frames, float)), np.log(np.asarray(errors, float))
    between = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(zip(x, y, strict=True))]
    return [float(-slope) for slope in (np.polyfit(x, y, 1)[0], *between)]


def rounded(count: float) -> str:
    """Return a count with two digits."""
    size = 10 ** max(math.floor(math.log10(max(count, 1))) - 1, 0)
    return f"{round(count / size) * size:,.0f}"
