"""Whether something stands between a point and a light, by a ray against every shape.

Frame: the shape's; a ray is o + t d, and hits within (0, reach). Legend of stage in shading.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from robokd.vision.kernel_cache import jit
from robokd.vision.projection import dot
from robokd.vision.scene_tables import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE
from robokd.vision.triangles import cross

if TYPE_CHECKING:
    from robokd.vision.projection import Array, Vector
    from robokd.vision.scene_tables import Meshes

_LIFT = 1e-4  # m and share of the distance by which a ray starts above the surface it leaves


@jit
def _slab(o: float, d: float, half: float) -> tuple[float, float]:
    """Return where a ray enters and leaves |coordinate| <= half."""
    if abs(d) < 1e-12:
        return (-1e9, 1e9) if abs(o) <= half else (1e9, -1e9)
    a, b = (-half - o) / d, (half - o) / d
    return (min(a, b), max(a, b))


@jit
def _roots(a: float, b: float, c: float) -> tuple[float, float]:
    """Return between which t a t^2 + 2 b t + c is below 0, for a >= 0."""
    if a < 1e-12:
        return (-1e9, 1e9) if c < 0 else (1e9, -1e9)
    square = b * b - a * c
    if square < 0:
        return (1e9, -1e9)
    root = math.sqrt(square)
    return ((-b - root) / a, (root - b) / a)


@jit
def _box(o: Vector, d: Vector, half: Vector) -> tuple[float, float]:
    a, b, c = _slab(o[0], d[0], half[0]), _slab(o[1], d[1], half[1]), _slab(o[2], d[2], half[2])
    return (max(a[0], b[0], c[0]), min(a[1], b[1], c[1]))


@jit
def _hits(span: tuple[float, float], reach: float) -> bool:
    return span[0] <= span[1] and span[1] > 0 and span[0] < reach


@jit
def _hits_plane(o: Vector, d: Vector, size: Vector, reach: float) -> bool:
    t = -o[2] / d[2] if d[2] != 0 else -1.0
    in_x = size[0] <= 0 or abs(o[0] + t * d[0]) <= size[0]
    return 0 < t < reach and in_x and (size[1] <= 0 or abs(o[1] + t * d[1]) <= size[1])


@jit
def _hits_rod(o: Vector, d: Vector, size: Vector, is_capsule: bool, reach: float) -> bool:
    square = size[0] * size[0]
    flat = d[0] * d[0] + d[1] * d[1]
    side = _roots(flat, o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - square)
    slab = _slab(o[2], d[2], size[1])
    if _hits((max(side[0], slab[0]), min(side[1], slab[1])), reach):
        return True
    if is_capsule:
        for end in (-size[1], size[1]):
            p = (o[0], o[1], o[2] - end)
            if _hits(_roots(1.0, dot(p, d), dot(p, p) - square), reach):
                return True
    return False


@jit
def _hits_mesh(o: Vector, d: Vector, meshes: Meshes, mesh: int, reach: float) -> bool:
    b = meshes.bounds[mesh]
    if not _hits(_box((o[0] - b[0], o[1] - b[1], o[2] - b[2]), d, (b[3], b[4], b[5])), reach):
        return False
    for face in range(meshes.first_face[mesh], meshes.first_face[mesh + 1]):
        v0, v1 = meshes.vertices[meshes.faces[face, 0]], meshes.vertices[meshes.faces[face, 1]]
        v2 = meshes.vertices[meshes.faces[face, 2]]
        a = (v1[0] - v0[0], v1[1] - v0[1], v1[2] - v0[2])
        c = (v2[0] - v0[0], v2[1] - v0[1], v2[2] - v0[2])
        q, n = (o[0] - v0[0], o[1] - v0[1], o[2] - v0[2]), cross(a, c)
        across, turn = dot(n, d), cross(q, d)
        if abs(across) < 1e-15:
            continue
        u, v, t = -dot(c, turn) / across, dot(a, turn) / across, -dot(n, q) / across
        if u >= 0 and v >= 0 and u + v <= 1 and 0 < t < reach:
            return True
    return False


@jit
def _blocks(scene: tuple, index: int, o: Vector, d: Vector, size: Vector, reach: float) -> bool:
    """Return whether a ray in the frame of a shape hits it."""
    kind = scene[0].kinds[index]
    if kind == PLANE:
        return _hits_plane(o, d, size, reach)
    if kind in (CAPSULE, CYLINDER):
        return _hits_rod(o, d, size, kind == CAPSULE, reach)
    if kind == BOX:
        return _hits(_box(o, d, size), reach)
    if kind in (SPHERE, ELLIPSOID):
        s = size if kind == ELLIPSOID else (size[0], size[0], size[0])
        p, q = (o[0] / s[0], o[1] / s[1], o[2] / s[2]), (d[0] / s[0], d[1] / s[1], d[2] / s[2])
        return _hits(_roots(dot(q, q), dot(p, q), dot(p, p) - 1), reach)
    return _hits_mesh(o, d, scene[1], scene[0].meshes[index], reach)


@jit
def is_shaded(scene: tuple, stage: Array, p: Vector, n: Vector, to: Vector, reach: float) -> bool:
    """Return whether a shape stands between a point with unit normal n and a light in direction `to`."""
    lift = _LIFT * (1 + p[2])
    o = (p[0] + lift * n[0], p[1] + lift * n[1], p[2] + lift * n[2])
    for index in range(scene[0].geoms.size):
        row = stage[index]
        q = (o[0] - row[0], o[1] - row[1], o[2] - row[2])
        a, b, c = (row[3], row[4], row[5]), (row[6], row[7], row[8]), (row[9], row[10], row[11])
        local, along = (dot(q, a), dot(q, b), dot(q, c)), (dot(to, a), dot(to, b), dot(to, c))
        if _blocks(scene, index, local, along, (row[12], row[13], row[14]), reach):
            return True
    return False
