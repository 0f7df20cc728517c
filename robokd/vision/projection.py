"""Vectors in a camera's frame, and which pixels a shape may touch.

Frame: the camera's with z forward, so a pixel's ray is d = (x, y, 1) and its depth is t in p = t d.
Legend: c centre, e extent (symmetric; the support of a shape along n is n.c + sqrt(n.e.n)), float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from robokd.vision.kernel_cache import jit
from robokd.vision.lens import Lens

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray
    Vector = tuple[float, float, float]
    Axes = tuple[Vector, Vector, Vector]
    Symmetric = tuple[float, float, float, float, float, float]  # xx, yy, zz, xy, xz, yz
    Window = tuple[int, int, int, int]  # first row, end, first column, end

NEAREST = 1e-4  # m; a shape that comes nearer to the lens plane than this may cover the whole image
NOWHERE = (0, 0, 0, 0)  # a window without pixels


@jit
def dot(a: Vector, b: Vector) -> float:
    """Return a . b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def add(a: Vector, b: Vector, scale: float) -> Vector:
    """Return a + scale * b."""
    return (a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2])


@jit
def add_square(base: Symmetric, a: Vector, scale: float) -> Symmetric:
    """Return base + scale * a a^T."""
    b, (x, y, z) = add((base[3], base[4], base[5]), (a[0] * a[1], a[0] * a[2], a[1] * a[2]), scale), a
    return (base[0] + scale * x * x, base[1] + scale * y * y, base[2] + scale * z * z, b[0], b[1], b[2])


@jit
def ball(square: float) -> Symmetric:
    """Return square * I."""
    return (square, square, square, 0.0, 0.0, 0.0)


@jit
def in_view(lens: Lens, nearest: float, farthest: float) -> int:
    """Return 0 for depths that are not seen, 1 for those before the lens, 2 if some reach behind it."""
    is_seen = farthest > 0 and nearest <= lens.far
    return (1 if nearest > NEAREST else 2) if is_seen else 0


@jit
def clamp(value: float, count: int) -> int:
    """Return value as a whole number from 0 to count."""
    return int(min(max(value, 0.0), float(count)))


@jit
def span(start: float, low: float, high: float, step: float, count: int) -> tuple[int, int]:
    """Return the first and the end of the pixels at start + i * step that lie in [low, high]."""
    return clamp(math.ceil((low - start) / step), count), clamp(math.floor((high - start) / step) + 1, count)


@jit
def window(lens: Lens, x0: float, x1: float, y0: float, y1: float) -> Window:
    """Return the pixels whose rays lie in [x0, x1] x [y0, y1]."""
    rows = span(-lens.top, -y1, -y0, lens.step, lens.rows)
    return rows + span(lens.left, x0, x1, lens.step, lens.columns)


@jit
def both(a: Window, b: Window) -> Window:
    """Return the least window around two, either of which may be empty."""
    if a[0] >= a[1] or a[2] >= a[3]:
        return b
    if b[0] >= b[1] or b[2] >= b[3]:
        return a
    return (min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3]))


@jit
def round_window(lens: Lens, c: Vector, e: Symmetric) -> Window:
    """Return the pixels of a round shape before the lens: planes through the lens that touch it bound it."""
    a = c[2] * c[2] - e[2]
    bx, by = c[0] * c[2] - e[4], c[1] * c[2] - e[5]
    sx = math.sqrt(max(bx * bx - a * (c[0] * c[0] - e[0]), 0.0))
    sy = math.sqrt(max(by * by - a * (c[1] * c[1] - e[1]), 0.0))
    return window(lens, (bx - sx) / a, (bx + sx) / a, (by - sy) / a, (by + sy) / a)


@jit
def hull_window(lens: Lens, view: int, c0: Vector, c1: Vector, e: Symmetric) -> Window:
    """Return the pixels of the hull of two round shapes of extent e around c0 and c1."""
    if view == 1:
        a, b = round_window(lens, c0, e), round_window(lens, c1, e)
        return (min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3]))
    # it reaches behind the lens: no pixels if it is beside the view, all if not
    right, bottom = lens.left + (lens.columns - 1) * lens.step, lens.top - (lens.rows - 1) * lens.step
    for n in ((1.0, 0.0, -lens.left), (-1.0, 0.0, right), (0.0, 1.0, -bottom), (0.0, -1.0, lens.top)):
        # n points into the view, and one of n[0], n[1] is 0
        square = n[0] * n[0] * e[0] + n[1] * n[1] * e[1] + n[2] * n[2] * e[2]
        square += 2 * n[2] * (n[0] * e[4] + n[1] * e[5])
        if max(dot(n, c0), dot(n, c1)) + math.sqrt(max(square, 0.0)) < 0:
            return (0, 0, 0, 0)
    return (0, lens.rows, 0, lens.columns)


@jit
def box_window(lens: Lens, c: Vector, axes: Axes, size: Vector) -> Window:
    """Return the pixels of a box; size are its half edges."""
    reach = abs(axes[0][2]) * size[0] + abs(axes[1][2]) * size[1] + abs(axes[2][2]) * size[2]
    view = in_view(lens, c[2] - reach, c[2] + reach)
    if view == 0:
        return (0, 0, 0, 0)
    if view == 2:
        e = ball(0.0)
        for k in range(3):
            e = add_square(e, axes[k], 3 * size[k] * size[k])  # of the least ellipsoid around it
        return hull_window(lens, view, c, c, e)
    x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
    for corner in range(8):
        p = c
        for k in range(3):
            p = add(p, axes[k], size[k] if corner >> k & 1 else -size[k])
        x, y = p[0] / p[2], p[1] / p[2]
        x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
    return window(lens, x0, x1, y0, y1)


@jit
def in_camera(look: Array, x: float, y: float, z: float) -> Vector:
    """Return a vector of the world's frame in the camera's."""
    right, up = look[0] * x + look[3] * y + look[6] * z, look[1] * x + look[4] * y + look[7] * z
    return (right, up, -(look[2] * x + look[5] * y + look[8] * z))
