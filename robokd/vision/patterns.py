"""Where a point of a shape lies in its texture, as MuJoCo's classic renderer lays textures on shapes.

Source: measured from mujoco.Renderer (MuJoCo 4.0) with textures whose red and green are their coordinates,
except for cubes, planes, height fields and meshes, which OpenGL's object-linear coordinates describe.
Legend: see shading.py and textures.py; p is a point in the shape's frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from robokd.vision.kernel_cache import jit
from robokd.vision.projection import add, dot
from robokd.vision.scene_tables import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE
from robokd.vision.textures import Textures, cube_face, cube_point, texel
from robokd.vision.triangles import cross

if TYPE_CHECKING:
    from robokd.vision.projection import Array, Vector

# how a texture is put on: not, part by part, by coordinates, from inside
PLAIN, FLAT, WRAPPED, CUBED = 0, 1, 2, 3
_DYE = 9  # where shading.py's rows hold the texture's colour


@jit
def weights(vertices: Array, faces: Array, face: int, p: Vector) -> Vector:
    """Return the barycentric coordinates of a point in a triangle."""
    i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
    v = (vertices[i, 0], vertices[i, 1], vertices[i, 2])
    a = (vertices[j, 0] - v[0], vertices[j, 1] - v[1], vertices[j, 2] - v[2])
    b = (vertices[k, 0] - v[0], vertices[k, 1] - v[1], vertices[k, 2] - v[2])
    q, n = (p[0] - v[0], p[1] - v[1], p[2] - v[2]), cross(a, b)
    square = dot(n, n)
    w1, w2 = dot(cross(q, b), n) / square, dot(cross(a, q), n) / square
    return (1 - w1 - w2, w1, w2)


@jit
def _is_primitive(kind: int) -> bool:
    return kind in (SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX)


@jit
def _part(kind: int, p: Vector, size: Vector) -> int:
    """Return on which part of a primitive shape a point lies: parts are laid out on a texture one by one.

    Of a box the axis of the face; of rods 0 the side, 1 the top, 2 the bottom.
    """
    if kind == BOX:
        x, y, z = abs(p[0]) - size[0], abs(p[1]) - size[1], abs(p[2]) - size[2]
        return 0 if x >= y and x >= z else 1 if y >= z else 2
    beyond = abs(p[2]) - size[1]
    if kind == CAPSULE:
        return 0 if beyond <= 0 else 1 if p[2] > 0 else 2
    if kind == CYLINDER and beyond > math.hypot(p[0], p[1]) - size[0]:
        return 1 if p[2] > 0 else 2
    return 0


@jit
def _unrolled(kind: int, part: int, p: Vector, size: Vector) -> tuple[float, float]:
    """Return where a point of a primitive shape lies on a texture that covers each part once, from 0 to 1."""
    if kind == BOX:
        x, y = (p[0] / size[0] if part else p[1] / size[1]), (p[1] / size[1] if part == 2 else p[2] / size[2])
        return (0.5 + 0.5 * x, 0.5 - 0.5 * y)
    x, y = p[0] / size[0], p[1] / (size[1] if kind == ELLIPSOID else size[0])
    if kind == CYLINDER and part:
        return (0.5 + 0.5 * x, 0.5 + 0.5 * y)
    around = (math.atan2(y, x) / (2 * math.pi)) % 1.0
    if kind == CAPSULE and part:
        up = math.atan2(abs(p[2]) - size[1], size[0] * math.hypot(x, y)) / (0.5 * math.pi)
        return (around, 1 - up if part == 1 else up)
    if kind in (CAPSULE, CYLINDER):
        return (around, 0.5 - 0.5 * p[2] / size[1])
    z = p[2] / (size[2] if kind == ELLIPSOID else size[0])
    return (around, 0.5 - math.atan2(z, math.hypot(x, y)) / math.pi)


@jit
def _repeats(kind: int, is_uniform: bool, repeat: tuple, size: Vector) -> tuple[float, float]:
    """Return how often a flat texture repeats in each direction on a part, or in 2 m of other shapes."""
    x, y = repeat
    deep = size[0] if kind in (SPHERE, CAPSULE, CYLINDER) else size[1]
    if _is_primitive(kind):
        return (x * size[0], y * deep) if is_uniform else (x, y)
    if is_uniform:
        return (x, y)
    return (x / size[0] if size[0] > 0 else x, y / deep if deep > 0 else y)


@jit
def _cube_direction(kind: int, is_uniform: bool, p: Vector, size: Vector) -> Vector:
    """Return where a point of a shape lies in its cube texture."""
    if not _is_primitive(kind):
        return (p[0] * size[0], p[1] * size[1], p[2] * size[2]) if is_uniform else p
    s = size
    if kind not in (BOX, ELLIPSOID):
        s = (size[0], size[0], size[0] if kind == SPHERE else size[1])
    x, y, z = p[0] / s[0], p[1] / s[1], p[2] / s[2]
    if kind == CAPSULE and abs(z) > 1:
        z = (1 + (abs(p[2]) - s[2]) / s[0]) * (1 if z > 0 else -1)  # each part has its own scale
    return (x * s[0], y * s[1], z * s[2]) if is_uniform else (x, y, z)


@jit
def _point(how: tuple, part: int, repeat: tuple, size: Vector, p: Vector) -> Vector:
    """Return a point's texture coordinates (s, t) and after what s returns (0: never), or place in a cube.

    Args:
        how: mjtGeom; whether the texture is a cube; whether its size is that of space.
        part: see `_part`.
        repeat: see `_repeats`.
        size: of the shape.
        p: in its frame.
    """
    kind, is_cube, is_uniform = how
    if is_cube:
        return _cube_direction(kind, is_uniform, p, size)
    if _is_primitive(kind):
        u, v = _unrolled(kind, part, p, size)
        return (repeat[0] * u, repeat[1] * v, repeat[0])
    x, y = 0.5 * repeat[0] * p[0], -0.5 * repeat[1] * p[1]
    if kind == PLANE and size[0] > 0 and size[1] > 0:  # from its corner
        return (x + 0.5 * repeat[0] * size[0], y + 0.5 * repeat[1] * size[1], 0.0)
    return (x - 0.5, y - 0.5, 0.0)


@jit
def _local(row: Array, p: Vector) -> Vector:
    """Return a vector of the camera's frame in that of a shape, whose row of stage this is."""
    return (
        p[0] * row[3] + p[1] * row[4] + p[2] * row[5],
        p[0] * row[6] + p[1] * row[7] + p[2] * row[8],
        p[0] * row[9] + p[1] * row[10] + p[2] * row[11],
    )


@jit
def _sight(line: tuple, j: int, step: float, row: Array) -> tuple[Vector, Vector, Vector]:
    """Return a pixel's point in the shape's frame, and where those right of and below it meet its plane."""
    rows, xs, zs, y = line
    x, t = float(xs[j]), float(zs[j])
    n = (float(rows[0, j]), float(rows[1, j]), float(rows[2, j]))
    toward = n[0] * x + n[1] * y + n[2]
    toward = toward if abs(toward) > 1e-6 else -1e-6
    a, b = t * n[0] / toward, t * n[1] / toward
    p = _local(row, (x * t - row[0], y * t - row[1], t - row[2]))
    right = _local(row, (step * (t - a * x), -step * a * y, -step * a))
    down = _local(row, (step * b * x, step * (b * y - t), step * b))
    return p, add(p, right, 1.0), add(p, down, 1.0)


@jit
def dye_run(
    line: tuple, step: float, row: Array, how: tuple, repeat: tuple, textures: Textures, texture: int
) -> None:
    """Write a texture's colour on a run; see `_point` and shading.py, step is between pixels at depth 1."""
    rows, size, (kind, is_cube, is_uniform) = line[0], (row[12], row[13], row[14]), how
    repeats = _repeats(kind, is_uniform, repeat, size)
    for j in range(line[1].size):
        p, right, down = _sight(line, j, step, row)
        part = _part(kind, p, size)
        a, b = _point(how, part, repeats, size, p), _point(how, part, repeats, size, right)
        c, side = _point(how, part, repeats, size, down), -1
        if is_cube:
            side = cube_face(a)
            (s, t), (s1, t1), (s2, t2) = cube_point(a, side), cube_point(b, side), cube_point(c, side)
        else:
            (s, t), (s1, t1), (s2, t2) = (a[0], a[1]), (b[0], b[1]), (c[0], c[1])
            if a[2] > 0:  # not once around the shape from one pixel to the next
                s1 -= a[2] * round((s1 - s) / a[2])
                s2 -= a[2] * round((s2 - s) / a[2])
        colour = texel(textures, texture, side, (s, t), (s1 - s, t1 - t), (s2 - s, t2 - t))
        rows[_DYE, j], rows[_DYE + 1, j], rows[_DYE + 2, j] = colour


@jit
def _blend(w: Vector, uv: Array, face: int, often: tuple) -> tuple[float, float]:
    return (
        often[0] * (w[0] * uv[face, 0, 0] + w[1] * uv[face, 1, 0] + w[2] * uv[face, 2, 0]),
        often[1] * (w[0] * uv[face, 0, 1] + w[1] * uv[face, 1, 1] + w[2] * uv[face, 2, 1]),
    )


@jit
def dye_wrapped_run(
    line: tuple, step: float, row: Array, seen: Array, tables: tuple, textures: Textures, how: tuple
) -> None:
    """Write a texture's colour on a run of a mesh.

    Args:
        line: see shading.py.
        step: between pixels at depth 1.
        row: of stage.
        seen: the faces.
        tables: vertices, faces and texture coordinates.
        textures: all of them.
        how: the texture, and how often it repeats in each direction.
    """
    rows, (vertices, faces, uv), (texture, often) = line[0], tables, how
    for j in range(line[1].size):
        p, right, down = _sight(line, j, step, row)
        face = seen[j]
        a = _blend(weights(vertices, faces, face, p), uv, face, often)
        b = _blend(weights(vertices, faces, face, right), uv, face, often)
        c = _blend(weights(vertices, faces, face, down), uv, face, often)
        colour = texel(textures, texture, -1, a, (b[0] - a[0], b[1] - a[1]), (c[0] - a[0], c[1] - a[1]))
        rows[_DYE, j], rows[_DYE + 1, j], rows[_DYE + 2, j] = colour
