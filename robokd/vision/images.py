"""Draws worlds and writes their images: what renderer=raster calls, compiled by numba.

Shapes: N worlds, S shapes that are drawn, L lights; legends in primitives.py, triangles.py and shading.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robokd.vision.kernel_cache import entry, exact, inlined, jit
from robokd.vision.lens import LANES, Lens
from robokd.vision.primitives import draw_box, draw_ellipsoid, draw_plane, draw_rod, draw_sphere
from robokd.vision.projection import in_camera
from robokd.vision.scene_tables import BOX, CAPSULE, CYLINDER, PLANE, SPHERE
from robokd.vision.shading import shade, stage
from robokd.vision.triangles import draw_mesh

if TYPE_CHECKING:
    from robokd.vision.projection import Array, Window

_MISS = np.float32(1e9)  # m; a number because infinities forbid fast arithmetic
_ZERO = np.float32(0)


@inlined
def _draw_primitive(z: Array, lens: Lens, kind: int, place: tuple) -> Window:
    """Draw one shape; place is its centre and axes in the camera's frame, and its size."""
    c, axes, size = place
    if kind == SPHERE:
        return draw_sphere(z, lens, c, size[0])
    if kind in (CAPSULE, CYLINDER):
        return draw_rod(z, lens, c, axes[2], (size[0], size[1]), kind == CAPSULE)
    if kind == BOX:
        return draw_box(z, lens, c, axes, size)
    if kind == PLANE:
        return draw_plane(z, lens, c, axes, size)
    return draw_ellipsoid(z, lens, c, axes, size)


@inlined
def _place(geoms: tuple, camera: tuple, geom: int) -> tuple:
    """Return the centre and axes of a geom in the camera's frame, and its size."""
    position, m, sizes = geoms
    eye, look = camera
    c = in_camera(look, position[geom, 0] - eye[0], position[geom, 1] - eye[1], position[geom, 2] - eye[2])
    right = in_camera(look, m[geom, 0], m[geom, 3], m[geom, 6])
    up = in_camera(look, m[geom, 1], m[geom, 4], m[geom, 7])
    out = in_camera(look, m[geom, 2], m[geom, 5], m[geom, 8])
    return c, (right, up, out), (sizes[geom, 0], sizes[geom, 1], sizes[geom, 2])


@jit
def _claim(z: Array, before: Array, names: Array, name: int, window: Window) -> None:
    """Write a name where the depth has become less than before, and make it what was before."""
    row0, row1, column0, column1 = window
    first, end, wide = (
        column0 // LANES * LANES,
        (column1 + LANES - 1) // LANES * LANES,
        (z.shape[0], z[0].size),
    )
    z, before, names = z.reshape(wide), before.reshape(wide), names.reshape(wide)
    for i in range(row0, row1):
        now, then, owner = z[i, first:end], before[i, first:end], names[i, first:end]
        for j in range(now.size):
            owner[j] = name if now[j] < then[j] else owner[j]
            then[j] = now[j]


@inlined
def _draw_depth(canvas: tuple, lens: Lens, scene: tuple, geoms: tuple, camera: tuple) -> None:
    """Fill z with a world's planar depth (m), _MISS where nothing is; arguments as in `render_layers`."""
    z, seen, points, _ = canvas
    shown, kinds, which = scene[0]
    z[:] = _MISS
    for index in range(shown.size):
        place = _place(geoms, camera, shown[index])
        if which[index] < 0:
            _draw_primitive(z, lens, kinds[index], place)
        else:
            draw_mesh((z, seen), lens, scene[1], which[index], points, place[0], place[1])


@inlined
def _draw_layers(canvas: tuple, lens: Lens, scene: tuple, geoms: tuple, camera: tuple) -> None:
    """Fill a canvas with one world: as _draw_depth does, with names, -1 where nothing is."""
    z, seen, points, before, names, rows = canvas[0], canvas[1], canvas[2], canvas[4], canvas[5], canvas[6]
    shown, kinds, which = scene[0]
    z[:] = _MISS
    before[:] = _MISS
    names[:] = -1
    for index in range(shown.size):
        place = _place(geoms, camera, shown[index])
        stage(rows[index], place)
        if which[index] < 0:
            window = _draw_primitive(z, lens, kinds[index], place)
        else:
            window = draw_mesh((z, seen), lens, scene[1], which[index], points, place[0], place[1])
        _claim(z, before, names, np.int32(index), window)


@jit
def _zoomed(lens: Lens, room: Array, step: float) -> Lens:
    """Return the lens with another distance between its pixels; its columns are written to room."""
    left, top = -step * (lens.columns - 1) / 2, step * (lens.rows - 1) / 2
    columns = room.reshape(room.size)
    for j in range(room.size):
        columns[j] = left + step * j
    return Lens(room, lens.rows, lens.columns, left, top, step, lens.far)


@exact
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


@jit
def _write_depth(z: Array, lens: Lens, n: int, out: tuple) -> None:
    """Write the depth of world n, if any is wanted."""
    codes, halves, metres, world_stride, row_stride, coding = out
    rows = z.reshape(lens.rows, lens.x.size)
    for i in range(lens.rows):
        start = n * world_stride + i * row_stride
        end = start + lens.columns
        _write(rows[i], (codes[start:end], halves[start:end], metres[start:end]), coding)


@jit
def _write_segment(names: Array, geoms: Array, lens: Lens, n: int, out: tuple) -> None:
    """Write which geom is seen in world n, -1 where none, if it is wanted."""
    pixels, world_stride, row_stride = out
    rows = names.reshape(lens.rows, lens.x.size)
    for i in range(lens.rows if pixels.size else 0):
        start = n * world_stride + i * row_stride
        for j in range(lens.columns):
            name = rows[i, j]
            pixels[start + j] = geoms[name] if name >= 0 else -1


@entry
def render_depth(
    canvas: tuple, lens: Lens, steps: Array, scene: tuple, worlds: tuple, part: tuple[int, int], out: tuple
) -> None:
    """Draw one camera in some worlds and write its depth; arguments as in `render_layers`."""
    position, matrix, sizes, eyes, looks, camera = worlds
    for n in range(part[0], part[1]):
        geoms = (position[n], matrix[n], sizes[min(n, sizes.shape[0] - 1)])
        at = _zoomed(lens, canvas[3], steps[n]) if steps.size else lens
        _draw_depth(canvas, at, scene, geoms, (eyes[n, camera], looks[n, camera]))
        _write_depth(canvas[0], at, n, out)


@entry
def render_layers(
    canvas: tuple, lens: Lens, steps: Array, scene: tuple, worlds: tuple, part: tuple[int, int], outs: tuple,
    paint: tuple,
) -> None:  # fmt: skip
    """Draw one camera in some worlds and write its depth, geoms and colours, as far as they are wanted.

    Args:
        canvas: room of this thread: z (rows, blocks, LANES) float32, seen like z of int32 and points (see
            triangles.py), columns as lens.x; for `render_layers` also before like z, names like z of int32,
            and stage, lamps and rows (see shading.py).
        lens: the camera's.
        steps: (N,) distances between pixels at depth 1, if they are not the lens's in all worlds; or empty.
        scene: Shapes and Meshes.
        worlds: geom positions (N, G, 3), axes (N, G, 9) by rows and sizes (N or 1, G, 3); camera positions
            (N, C, 3) and axes (N, C, 9), looking along -z with y up; index of the camera.
        part: first world and the end.
        outs: of depth, the whole buffer as a row of uint8, of uint16 (float16) and of float32, two or all of
            them empty, how many pixels apart its worlds and rows are, and near, far and steps per metre; of
            geoms, the buffer (or empty) as int16, and how far apart worlds and rows are; of colours the
            buffer (or empty) as uint8, and how far apart worlds, channels and rows are.
        paint: see `shade`.
    """
    position, matrix, sizes, eyes, looks, camera = worlds
    for n in range(part[0], part[1]):
        geoms = (position[n], matrix[n], sizes[min(n, sizes.shape[0] - 1)])
        at = _zoomed(lens, canvas[3], steps[n]) if steps.size else lens
        _draw_layers(canvas, at, scene, geoms, (eyes[n, camera], looks[n, camera]))
        _write_depth(canvas[0], at, n, outs[0])
        _write_segment(canvas[5], scene[0].geoms, at, n, outs[1])
        if len(paint) > 0:
            shade(canvas, at, scene, (eyes[n, camera], looks[n, camera]), n, outs[2], paint)
