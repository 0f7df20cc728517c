"""How far two renderers' pictures of the same worlds are apart: the gates of every row about pictures.

Shapes: N pictures, H rows, W columns.
"""

from __future__ import annotations

import numpy as np

from robokd.bench.row import Measure

FLAT_M, CURVED_M = 1e-5, 1e-4  # median difference; a round shape is a polyhedron to OpenGL
OFF_M, OFF_SHARE = 0.02, 0.005  # pixels at outlines may see one thing or the other
LEVELS = 3.0  # mean difference of colours, of 255
SEGMENT_SHARE = 0.005
_NOTHING = float(np.finfo(np.float32).max)  # no pixel was compared: that is no agreement, and JSON has no inf


def depths(ours: np.ndarray, theirs: np.ndarray, is_flat: np.ndarray) -> tuple[Measure, ...]:
    """Compare depth (N, H, W) in m, 0 where nothing is; `is_flat` says what is seen has flat faces."""
    apart = np.abs(ours.astype(np.float64) - theirs)
    is_seen = (ours > 0) & (theirs > 0)
    kinds = (("flat", is_seen & is_flat, FLAT_M), ("curved", is_seen & ~is_flat, CURVED_M))
    medians = [
        Measure(name=f"median difference on {name} shapes, m", value=_median(apart[where]), limit=limit)
        for name, where, limit in kinds
    ]
    share = float((apart > OFF_M).mean()) if is_seen.any() else 1.0
    return (*medians, Measure(name=f"share of pixels off by > {OFF_M} m", value=share, limit=OFF_SHARE))


def colours(ours: np.ndarray, theirs: np.ndarray, is_same: np.ndarray) -> tuple[Measure, ...]:
    """Compare RGB (N, 3, H, W) uint8 where both see the same geom, (N, H, W) bool."""
    apart = np.abs(ours.astype(np.float64) - theirs).mean(1)[is_same]
    mean = float(apart.mean()) if apart.size else _NOTHING
    return (Measure(name="mean difference where both see the same geom, of 255", value=mean, limit=LEVELS),)


def segments(ours: np.ndarray, theirs: np.ndarray) -> tuple[Measure, ...]:
    """Compare which geom a pixel shows."""
    share = float((ours != theirs).mean())
    return (Measure(name="share of pixels that show another geom", value=share, limit=SEGMENT_SHARE),)


def identical(name: str, ours: np.ndarray, theirs: np.ndarray) -> Measure:
    """Allow no difference."""
    return Measure(name=f"share of {name} that differs", value=float((ours != theirs).mean()), limit=0.0)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else _NOTHING
