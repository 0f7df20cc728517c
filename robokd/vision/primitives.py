"""Planar depth of MuJoCo's primitive shapes by formula, compiled by numba.

Each shape touches only the pixels of its projected rectangle, and round ones only their own span of a row.
A shape that the camera is inside of is not drawn, as with back-face culling. Each returns the window beyond
which it drew nothing. Frame: see projection.py.

Legend: c centre, u axis, e extent; z (rows, blocks, LANES) is the depth so far, in float32 and in blocks of
LANES: an inner loop of constant length is what LLVM turns into vector instructions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from robokd.vision.kernel_cache import jit
from robokd.vision.lens import LANES, Lens
from robokd.vision.projection import (
    NOWHERE,
    add,
    add_square,
    ball,
    both,
    box_window,
    dot,
    hull_window,
    in_view,
    span,
)

if TYPE_CHECKING:
    from robokd.vision.projection import Array, Axes, Symmetric, Vector, Window

_BOUNDLESS = 1e6  # m, the half-size of a plane that has none
_FULL, _FLAT = ((0.0, 0.0, 0.0), 0.0, 1.0, 1.0), ((0.0, 0.0, 0.0), 0.0, 1.0, 0.0)  # cuts of `_quadric`
_ZERO, _ONE = np.float32(0), np.float32(1)


@jit
def _quadric(
    z: Array, lens: Lens, window: Window, form: Symmetric, along: Vector, top: float, cut: tuple
) -> None:
    """Draw t = top / (along.d + root * sqrt(d.form.d)) in the pixels of a window.

    Rays miss where d.form.d < 0 and look away where along.d <= 0. For cut = (u, offset, half, root) only that
    is drawn which has |t u.d - offset| <= half; root is 1 or 0. z (rows, blocks, LANES) is the depth so far.
    """
    gxx, gyy, gzz, gxy, gxz, gyz = form
    row0, row1, column0, column1 = window
    left_edge, right_edge = lens.left + column0 * lens.step, lens.left + (column1 - 1) * lens.step
    is_convex = gxx < -1e-12  # the hits of a row lie between two roots
    is_wide = column0 // LANES < (column1 - 1) // LANES
    inverse, centre = 1 / gxx if is_convex else 0.0, 0.5 * (left_edge + right_edge)
    u, offset, half, root = cut[0], np.float32(cut[1]), np.float32(cut[2]), np.float32(cut[3])
    a2, above, q0, u0 = np.float32(gxx), np.float32(top), np.float32(along[0]), np.float32(u[0])
    for i in range(row0, row1 if column0 < column1 else row0):
        y = lens.top - i * lens.step
        b, constant = gxy * y + gxz, (gyy * y + 2 * gyz) * y + gzz
        first, end = column0, column1
        if is_convex:
            middle, peak = -b * inverse, constant - b * b * inverse
            if peak < 0:
                continue
            # the polynomial is expanded where it is largest, or float32 would lose its small values
            centre = min(max(middle, left_edge), right_edge)
            if is_wide:
                reach = math.sqrt(-peak * inverse)
                low, high = span(lens.left, middle - reach, middle + reach, lens.step, lens.columns)
                first, end = max(first, low), min(end, high)
        x0 = np.float32(centre)
        a1, a0 = np.float32(2 * (b + gxx * x0)), np.float32(constant + (2 * b + gxx * x0) * x0)
        qy, uy = np.float32(along[1] * y + along[2]), np.float32(u[1] * y + u[2])
        for block in range(first // LANES, (end + LANES - 1) // LANES):
            for k in range(LANES):
                x = lens.x[block, k]
                w = x - x0
                square, toward = (a2 * w + a1) * w + a0, q0 * x + qy
                t = above / (toward + root * np.sqrt(max(square, _ZERO)))
                across = abs(t * (u0 * x + uy) - offset)
                old = z[i, block, k]
                hit = (square >= _ZERO) & (toward > _ZERO) & (across <= half) & (t < old)
                z[i, block, k] = t if hit else old


@jit
def draw_sphere(z: Array, lens: Lens, c: Vector, radius: float) -> Window:
    """Draw a sphere."""
    excess = dot(c, c) - radius * radius
    view = in_view(lens, c[2] - radius, c[2] + radius)
    if view == 0 or excess <= 0:
        return NOWHERE
    window = hull_window(lens, view, c, c, ball(radius * radius))
    _quadric(z, lens, window, add_square(ball(-excess), c, 1.0), c, excess, _FULL)
    return window


@jit
def draw_ellipsoid(z: Array, lens: Lens, c: Vector, axes: Axes, size: Vector) -> Window:
    """Draw an ellipsoid."""
    e, q = ball(0.0), (0.0, 0.0, 0.0)
    for k in range(3):
        e = add_square(e, axes[k], size[k] * size[k])
        q = add(q, axes[k], dot(c, axes[k]) / (size[k] * size[k]))
    excess = dot(c, q) - 1
    view = in_view(lens, c[2] - math.sqrt(e[2]), c[2] + math.sqrt(e[2]))
    if view == 0 or excess <= 0:
        return NOWHERE
    form = add_square(ball(0.0), q, 1.0)
    for k in range(3):
        form = add_square(form, axes[k], -excess / (size[k] * size[k]))
    window = hull_window(lens, view, c, c, e)
    _quadric(z, lens, window, form, q, excess, _FULL)
    return window


@jit
def _side(z: Array, lens: Lens, window: Window, c: Vector, u: Vector, size: tuple[float, float]) -> None:
    """Draw the side of a cylinder; nothing if the camera is inside of it, however long."""
    square, height = size[0] * size[0], dot(c, u)
    q = add(c, u, -height)
    excess = dot(q, q) - square
    if excess <= 0:
        return
    normal = (u[1] * c[2] - u[2] * c[1], u[2] * c[0] - u[0] * c[2], u[0] * c[1] - u[1] * c[0])
    form = add_square(add_square(ball(square), u, -square), normal, -1.0)
    _quadric(z, lens, window, form, q, excess, (u, height, size[1], 1.0))


@jit
def _lid(z: Array, lens: Lens, c: Vector, u: Vector, radius: float) -> Window:
    """Draw a disc that faces the camera, at c with normal u."""
    k, square = dot(c, u), radius * radius
    if k < 0:
        k, u = -k, (-u[0], -u[1], -u[2])
    e = add_square(ball(square), u, -square)
    reach = math.sqrt(max(e[2], 0.0))
    view = in_view(lens, c[2] - reach, c[2] + reach)
    if view == 0 or k <= 0:
        return NOWHERE
    # |t d - c|^2 <= r^2 with t = k / u.d: (r^2 - c.c) u u^T - k^2 I + k (u c^T + c u^T)
    form = add_square(
        add_square(add_square(ball(-k * k), u, square - dot(c, c) - k), c, -k), add(u, c, 1.0), k
    )
    window = hull_window(lens, view, c, c, e)
    _quadric(z, lens, window, form, u, k, _FLAT)
    return window


@jit
def draw_rod(
    z: Array, lens: Lens, c: Vector, u: Vector, size: tuple[float, float], is_capsule: bool
) -> Window:
    """Draw a capsule or a cylinder of size (radius, half length)."""
    radius, half = size
    top, bottom = add(c, u, half), add(c, u, -half)
    e = add_square(ball(radius * radius), u, -radius * radius)
    reach = radius if is_capsule else math.sqrt(max(e[2], 0.0))
    view = in_view(lens, min(top[2], bottom[2]) - reach, max(top[2], bottom[2]) + reach)
    height = -dot(c, u)  # the camera's, along the axis
    nearest = add(c, u, min(max(height, -half), half))
    if view == 0 or (is_capsule and dot(nearest, nearest) <= radius * radius):
        return NOWHERE
    window = hull_window(lens, view, top, bottom, e)
    _side(z, lens, window, c, u, size)
    if is_capsule:
        window = both(window, draw_sphere(z, lens, top, radius))
        return both(window, draw_sphere(z, lens, bottom, radius))
    if abs(height) > half:
        return both(window, _lid(z, lens, top if height > 0 else bottom, u, radius))
    return window


@jit
def draw_box(z: Array, lens: Lens, c: Vector, axes: Axes, size: Vector) -> Window:
    """Draw where the ray is in all three slabs at once."""
    p0, p1, p2 = dot(c, axes[0]), dot(c, axes[1]), dot(c, axes[2])
    if abs(p0) <= size[0] and abs(p1) <= size[1] and abs(p2) <= size[2]:
        return NOWHERE
    row0, row1, column0, column1 = box_window(lens, c, axes, size)
    a0, a1, a2 = np.float32(axes[0][0]), np.float32(axes[1][0]), np.float32(axes[2][0])
    n0, n1, n2 = np.float32(p0 - size[0]), np.float32(p1 - size[1]), np.float32(p2 - size[2])
    f0, f1, f2 = np.float32(p0 + size[0]), np.float32(p1 + size[1]), np.float32(p2 + size[2])
    for i in range(row0, row1):
        y = lens.top - i * lens.step
        # 1e-12: so that a ray along a face divides by something
        b0 = np.float32(axes[0][1] * y + axes[0][2] + 1e-12)
        b1 = np.float32(axes[1][1] * y + axes[1][2] + 1e-12)
        b2 = np.float32(axes[2][1] * y + axes[2][2] + 1e-12)
        for block in range(column0 // LANES, (column1 + LANES - 1) // LANES):
            for k in range(LANES):
                x = lens.x[block, k]
                d0, d1, d2 = _ONE / (a0 * x + b0), _ONE / (a1 * x + b1), _ONE / (a2 * x + b2)
                s0, e0, s1, e1, s2, e2 = n0 * d0, f0 * d0, n1 * d1, f1 * d1, n2 * d2, f2 * d2
                enter = max(max(min(s0, e0), min(s1, e1)), min(s2, e2))
                leave = min(min(max(s0, e0), max(s1, e1)), max(s2, e2))
                old = z[i, block, k]
                z[i, block, k] = enter if (enter <= leave) & (enter > _ZERO) & (enter < old) else old
    return (row0, row1, column0, column1)


@jit
def draw_plane(z: Array, lens: Lens, c: Vector, axes: Axes, size: Vector) -> Window:
    """Draw a rectangle, or a plane without bounds, seen from its front."""
    height = -dot(c, axes[2])  # the camera's
    if height <= 0:
        return NOWHERE
    sides = (size[0] if size[0] > 0 else _BOUNDLESS, size[1] if size[1] > 0 else _BOUNDLESS, 0.0)
    row0, row1, column0, column1 = box_window(lens, c, axes, sides)
    top, half_a, half_b = np.float32(height), np.float32(sides[0]), np.float32(sides[1])
    offset_a, offset_b = np.float32(dot(c, axes[0])), np.float32(dot(c, axes[1]))
    q0, a0, b0 = np.float32(-axes[2][0]), np.float32(axes[0][0]), np.float32(axes[1][0])
    first, end = column0 // LANES * LANES, (column1 + LANES - 1) // LANES * LANES
    x = lens.x.reshape(lens.x.size)[first:end]
    for i in range(row0, row1):
        y = lens.top - i * lens.step
        qy = -(axes[2][1] * y + axes[2][2])
        if qy + abs(axes[2][0] * lens.left) <= 0:
            continue  # above the horizon
        q1, row = np.float32(qy), z[i].reshape(lens.x.size)[first:end]
        a1, b1 = np.float32(axes[0][1] * y + axes[0][2]), np.float32(axes[1][1] * y + axes[1][2])
        # one run and no blocks: this body is so short that a block of it would be unrolled
        for j in range(x.size):
            toward = q0 * x[j] + q1
            t, old = top / toward, row[j]
            in_a = abs(t * (a0 * x[j] + a1) - offset_a) <= half_a
            in_b = abs(t * (b0 * x[j] + b1) - offset_b) <= half_b
            row[j] = t if in_a & in_b & (toward > _ZERO) & (t < old) else old
    return (row0, row1, column0, column1)
