"""Planar depth of MuJoCo's primitive shapes by formula, compiled by numba.

Each shape touches only the pixels of its projected rectangle, and round ones only their own span of a row.
Frame: the camera's with z forward, so a pixel's ray is d = (x, y, 1) and its depth is t in p = t d. A shape
that the camera is inside of is not drawn, as with back-face culling.

Legend: c centre, u axis, e extent (symmetric; the support of the shape along n is n.c + sqrt(n.e.n)), float64
in the camera's frame. Pixels are float32, in blocks of LANES: an inner loop of constant length is what LLVM
turns into vector instructions. One file, because numba's cache notices changes of one file only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from robokd.vision.raster import Lens

    Array = np.ndarray
    Vector = tuple[float, float, float]
    Axes = tuple[Vector, Vector, Vector]
    Symmetric = tuple[float, float, float, float, float, float]  # xx, yy, zz, xy, xz, yz
    Window = tuple[int, int, int, int]  # first row, end, first column, end

LANES = 16
PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX = 0, 2, 3, 4, 5, 6  # mjtGeom
_MISS = np.float32(1e9)  # m; a number because infinities forbid fast arithmetic
_NEAREST = 1e-4  # m; a shape that comes nearer to the lens plane than this may cover the whole image
_BOUNDLESS = 1e6  # m, the half-size of a plane that has none
_FULL, _FLAT = ((0.0, 0.0, 0.0), 0.0, 1.0, 1.0), ((0.0, 0.0, 0.0), 0.0, 1.0, 0.0)  # cuts of `_quadric`
_ZERO, _ONE = np.float32(0), np.float32(1)

# no "nnan" and "ninf": rays that miss may divide by zero
_FAST = {"nsz", "arcp", "contract", "reassoc", "afn"}
_jit = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
_exact = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=False)


@_jit
def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_jit
def _add(a: Vector, b: Vector, scale: float) -> Vector:
    return (a[0] + scale * b[0], a[1] + scale * b[1], a[2] + scale * b[2])


@_jit
def _sum(base: Symmetric, a: Vector, scale: float) -> Symmetric:
    """Return base + scale * a a^T."""
    b, (x, y, z) = _add((base[3], base[4], base[5]), (a[0] * a[1], a[0] * a[2], a[1] * a[2]), scale), a
    return (base[0] + scale * x * x, base[1] + scale * y * y, base[2] + scale * z * z, b[0], b[1], b[2])


@_jit
def _ball(square: float) -> Symmetric:
    """Return square * I."""
    return (square, square, square, 0.0, 0.0, 0.0)


@_jit
def _in_view(lens: Lens, nearest: float, farthest: float) -> int:
    """Return 0 for depths that are not seen, 1 for those before the lens, 2 if some reach behind it."""
    is_seen = farthest > 0 and nearest <= lens.far
    return (1 if nearest > _NEAREST else 2) if is_seen else 0


@_jit
def _clamp(value: float, count: int) -> int:
    return int(min(max(value, 0.0), float(count)))


@_jit
def _span(start: float, low: float, high: float, step: float, count: int) -> tuple[int, int]:
    """Return the first and the end of the pixels at start + i * step that lie in [low, high]."""
    return _clamp(math.ceil((low - start) / step), count), _clamp(
        math.floor((high - start) / step) + 1, count
    )


@_jit
def _window(lens: Lens, x0: float, x1: float, y0: float, y1: float) -> Window:
    """Return the pixels whose rays lie in [x0, x1] x [y0, y1]."""
    rows = _span(-lens.top, -y1, -y0, lens.step, lens.rows)
    return rows + _span(lens.left, x0, x1, lens.step, lens.columns)


@_jit
def _round_window(lens: Lens, c: Vector, e: Symmetric) -> Window:
    """Return the pixels of a round shape before the lens: planes through the lens that touch it bound it."""
    a = c[2] * c[2] - e[2]
    bx, by = c[0] * c[2] - e[4], c[1] * c[2] - e[5]
    sx = math.sqrt(max(bx * bx - a * (c[0] * c[0] - e[0]), 0.0))
    sy = math.sqrt(max(by * by - a * (c[1] * c[1] - e[1]), 0.0))
    return _window(lens, (bx - sx) / a, (bx + sx) / a, (by - sy) / a, (by + sy) / a)


@_jit
def _hull_window(lens: Lens, view: int, c0: Vector, c1: Vector, e: Symmetric) -> Window:
    """Return the pixels of the hull of two round shapes of extent e around c0 and c1."""
    if view == 1:
        a, b = _round_window(lens, c0, e), _round_window(lens, c1, e)
        return (min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3]))
    # it reaches behind the lens: no pixels if it is beside the view, all if not
    right, bottom = lens.left + (lens.columns - 1) * lens.step, lens.top - (lens.rows - 1) * lens.step
    for n in ((1.0, 0.0, -lens.left), (-1.0, 0.0, right), (0.0, 1.0, -bottom), (0.0, -1.0, lens.top)):
        # n points into the view, and one of n[0], n[1] is 0
        square = n[0] * n[0] * e[0] + n[1] * n[1] * e[1] + n[2] * n[2] * e[2]
        square += 2 * n[2] * (n[0] * e[4] + n[1] * e[5])
        if max(_dot(n, c0), _dot(n, c1)) + math.sqrt(max(square, 0.0)) < 0:
            return (0, 0, 0, 0)
    return (0, lens.rows, 0, lens.columns)


@_jit
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
                low, high = _span(lens.left, middle - reach, middle + reach, lens.step, lens.columns)
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


@_jit
def _sphere(z: Array, lens: Lens, c: Vector, radius: float) -> None:
    excess = _dot(c, c) - radius * radius
    view = _in_view(lens, c[2] - radius, c[2] + radius)
    if view > 0 and excess > 0:
        window = _hull_window(lens, view, c, c, _ball(radius * radius))
        _quadric(z, lens, window, _sum(_ball(-excess), c, 1.0), c, excess, _FULL)


@_jit
def _ellipsoid(z: Array, lens: Lens, c: Vector, axes: Axes, size: Vector) -> None:
    e, q = _ball(0.0), (0.0, 0.0, 0.0)
    for k in range(3):
        e = _sum(e, axes[k], size[k] * size[k])
        q = _add(q, axes[k], _dot(c, axes[k]) / (size[k] * size[k]))
    excess = _dot(c, q) - 1
    view = _in_view(lens, c[2] - math.sqrt(e[2]), c[2] + math.sqrt(e[2]))
    if view > 0 and excess > 0:
        form = _sum(_ball(0.0), q, 1.0)
        for k in range(3):
            form = _sum(form, axes[k], -excess / (size[k] * size[k]))
        _quadric(z, lens, _hull_window(lens, view, c, c, e), form, q, excess, _FULL)


@_jit
def _side(z: Array, lens: Lens, window: Window, c: Vector, u: Vector, size: tuple[float, float]) -> None:
    """Draw the side of a cylinder; nothing if the camera is inside of it, however long."""
    square, height = size[0] * size[0], _dot(c, u)
    q = _add(c, u, -height)
    excess = _dot(q, q) - square
    if excess <= 0:
        return
    normal = (u[1] * c[2] - u[2] * c[1], u[2] * c[0] - u[0] * c[2], u[0] * c[1] - u[1] * c[0])
    form = _sum(_sum(_ball(square), u, -square), normal, -1.0)
    _quadric(z, lens, window, form, q, excess, (u, height, size[1], 1.0))


@_jit
def _lid(z: Array, lens: Lens, c: Vector, u: Vector, radius: float) -> None:
    """Draw a disc that faces the camera, at c with normal u."""
    k, square = _dot(c, u), radius * radius
    if k < 0:
        k, u = -k, (-u[0], -u[1], -u[2])
    e = _sum(_ball(square), u, -square)
    reach = math.sqrt(max(e[2], 0.0))
    view = _in_view(lens, c[2] - reach, c[2] + reach)
    if view == 0 or k <= 0:
        return
    # |t d - c|^2 <= r^2 with t = k / u.d: (r^2 - c.c) u u^T - k^2 I + k (u c^T + c u^T)
    form = _sum(_sum(_sum(_ball(-k * k), u, square - _dot(c, c) - k), c, -k), _add(u, c, 1.0), k)
    _quadric(z, lens, _hull_window(lens, view, c, c, e), form, u, k, _FLAT)


@_jit
def _rod(z: Array, lens: Lens, c: Vector, u: Vector, size: tuple[float, float], is_capsule: bool) -> None:
    """Draw a capsule or a cylinder of size (radius, half length)."""
    radius, half = size
    top, bottom = _add(c, u, half), _add(c, u, -half)
    e = _sum(_ball(radius * radius), u, -radius * radius)
    reach = radius if is_capsule else math.sqrt(max(e[2], 0.0))
    view = _in_view(lens, min(top[2], bottom[2]) - reach, max(top[2], bottom[2]) + reach)
    height = -_dot(c, u)  # the camera's, along the axis
    nearest = _add(c, u, min(max(height, -half), half))
    if view == 0 or (is_capsule and _dot(nearest, nearest) <= radius * radius):
        return
    _side(z, lens, _hull_window(lens, view, top, bottom, e), c, u, size)
    if is_capsule:
        _sphere(z, lens, top, radius)
        _sphere(z, lens, bottom, radius)
    elif abs(height) > half:
        _lid(z, lens, top if height > 0 else bottom, u, radius)


@_jit
def _box_window(lens: Lens, c: Vector, axes: Axes, size: Vector) -> Window:
    reach = abs(axes[0][2]) * size[0] + abs(axes[1][2]) * size[1] + abs(axes[2][2]) * size[2]
    view = _in_view(lens, c[2] - reach, c[2] + reach)
    if view == 0:
        return (0, 0, 0, 0)
    if view == 2:
        e = _ball(0.0)
        for k in range(3):
            e = _sum(e, axes[k], 3 * size[k] * size[k])  # of the least ellipsoid around it
        return _hull_window(lens, view, c, c, e)
    x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
    for corner in range(8):
        p = c
        for k in range(3):
            p = _add(p, axes[k], size[k] if corner >> k & 1 else -size[k])
        x, y = p[0] / p[2], p[1] / p[2]
        x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
    return _window(lens, x0, x1, y0, y1)


@_jit
def _box(z: Array, lens: Lens, c: Vector, axes: Axes, size: Vector) -> None:
    """Draw where the ray is in all three slabs at once."""
    p0, p1, p2 = _dot(c, axes[0]), _dot(c, axes[1]), _dot(c, axes[2])
    if abs(p0) <= size[0] and abs(p1) <= size[1] and abs(p2) <= size[2]:
        return
    row0, row1, column0, column1 = _box_window(lens, c, axes, size)
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


@_jit
def _plane(z: Array, lens: Lens, c: Vector, axes: Axes, size: Vector) -> None:
    """Draw a rectangle, or a plane without bounds, seen from its front."""
    height = -_dot(c, axes[2])  # the camera's
    if height <= 0:
        return
    sides = (size[0] if size[0] > 0 else _BOUNDLESS, size[1] if size[1] > 0 else _BOUNDLESS, 0.0)
    row0, row1, column0, column1 = _box_window(lens, c, axes, sides)
    top, half_a, half_b = np.float32(height), np.float32(sides[0]), np.float32(sides[1])
    offset_a, offset_b = np.float32(_dot(c, axes[0])), np.float32(_dot(c, axes[1]))
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


@_jit
def _in_camera(look: Array, x: float, y: float, z: float) -> Vector:
    """Return a vector of the world's frame in the camera's."""
    right, up = look[0] * x + look[3] * y + look[6] * z, look[1] * x + look[4] * y + look[7] * z
    return (right, up, -(look[2] * x + look[5] * y + look[8] * z))


@_jit
def _draw(z: Array, lens: Lens, shapes: tuple, geoms: tuple, camera: tuple) -> None:
    """Fill z with the planar depth (m) of one world, _MISS where nothing is; arguments as in `render`."""
    z[:] = _MISS
    position, matrix, sizes = geoms
    eye, look = camera
    for index in range(shapes[0].size):
        geom, kind = shapes[0][index], shapes[1][index]
        at, m, size = position[geom], matrix[geom], (sizes[geom, 0], sizes[geom, 1], sizes[geom, 2])
        c = _in_camera(look, at[0] - eye[0], at[1] - eye[1], at[2] - eye[2])
        if kind == SPHERE:
            _sphere(z, lens, c, size[0])
            continue
        forward = _in_camera(look, m[2], m[5], m[8])
        axes = (_in_camera(look, m[0], m[3], m[6]), _in_camera(look, m[1], m[4], m[7]), forward)
        if kind in (CAPSULE, CYLINDER):
            _rod(z, lens, c, axes[2], (size[0], size[1]), kind == CAPSULE)
        elif kind == BOX:
            _box(z, lens, c, axes, size)
        elif kind == PLANE:
            _plane(z, lens, c, axes, size)
        elif kind == ELLIPSOID:
            _ellipsoid(z, lens, c, axes, size)


@_exact
def _write(depth: Array, outs: tuple[Array, Array, Array], coding: tuple) -> None:
    """Write a row, as encode.encode does, into that of the three which is not empty: uint8, uint16, float32.

    In its order and not contracted, or the last bit would differ. A uint16 is the bits of a float16 that is
    normal or 0, rounded to even.
    """
    near, far, steps = coding
    codes, halves, metres = outs
    for j in range(codes.size):
        code = np.int32((max(depth[j], near) - near) * steps + np.float32(1.5))
        codes[j] = np.uint8(code if depth[j] <= far else 0)
    for j in range(halves.size):
        bits = np.float32(max(depth[j], near) if depth[j] <= far else _ZERO).view(np.int32)
        half = (bits + 0xFFF + ((bits >> 13) & 1)) >> 13
        halves[j] = np.uint16(half - (112 << 10) if bits > 0 else 0)
    for j in range(metres.size):
        metres[j] = depth[j] if depth[j] <= far else _ZERO


@_jit
def render(
    z: Array, lens: Lens, shapes: tuple, worlds: tuple, part: tuple[int, int], pixels: tuple, coding: tuple
) -> None:
    """Draw and encode one camera in some worlds.

    Args:
        z: (rows, blocks, LANES) float32, of this thread.
        lens: the camera's.
        shapes: index and mjtGeom of the geoms to draw.
        worlds: geom positions (N, G, 3), axes (N, G, 9) by rows and sizes (N or 1, G, 3); camera positions
            (N, C, 3) and axes (N, C, 9), looking along -z with y up; index of the camera.
        part: first world and the end.
        pixels: the whole buffer as a row of uint8, of uint16 (float16) and of float32, two of them empty, and
            how many pixels apart its worlds and rows are.
        coding: near, far and steps per metre, float32.
    """
    position, matrix, sizes, eyes, looks, camera = worlds
    codes, halves, metres, world_stride, row_stride = pixels
    rows = z.reshape(lens.rows, z.shape[1] * z.shape[2])
    for n in range(part[0], part[1]):
        geoms = (position[n], matrix[n], sizes[min(n, sizes.shape[0] - 1)])
        _draw(z, lens, shapes, geoms, (eyes[n, camera], looks[n, camera]))
        for i in range(lens.rows):
            start = n * world_stride + i * row_stride
            end = start + lens.columns
            _write(rows[i], (codes[start:end], halves[start:end], metres[start:end]), coding)
