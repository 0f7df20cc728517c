"""Where the pixels of a camera look."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LANES = 16  # pixels of a block: an inner loop of constant length becomes vector instructions


class Lens(NamedTuple):
    """Where pixels look: x of column j is left + j * step, y of row i is top - i * step, at depth 1."""

    x: np.ndarray  # (blocks, lanes) float32, of the columns; the last block may go beyond them
    rows: int
    columns: int
    left: float
    top: float
    step: float
    far: float  # m


def make_lens(width: int, height: int, fovy_deg: float, far_m: float) -> Lens:
    """Return the lens of square pixels whose image is fovy_deg high and that sees up to far_m."""
    step = 2 * math.tan(math.radians(fovy_deg) / 2) / height
    blocks = -(-width // LANES)
    left, top = -step * (width - 1) / 2, step * (height - 1) / 2
    x = (left + step * np.arange(blocks * LANES)).astype(np.float32).reshape(blocks, LANES)
    return Lens(x, height, width, left, top, step, float(far_m))
