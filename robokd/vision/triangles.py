"""Planar depth of triangle meshes and height fields: each front triangle fills its own span of each row.

Nothing is clipped: a triangle is where the ray lies on one side of its three edges' planes through the
lens, behind the lens plane as before it. Frame: see projection.py; it mirrors, so a front has a positive
determinant.

Shapes: V vertices, F triangles and M meshes of all meshes. z as in primitives.py; seen, of the same shape and
int32, is which triangle the depth is of, where it is of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robokd.vision.kernel_cache import jit
from robokd.vision.lens import Lens
from robokd.vision.projection import NEAREST, NOWHERE, box_window, dot, span, window
from robokd.vision.scene_tables import Meshes  # not for types only: caches of numba look for it here

if TYPE_CHECKING:
    from robokd.vision.projection import Array, Axes, Vector, Window


@jit
def cross(a: Vector, b: Vector) -> Vector:
    """Return a x b."""
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@jit
def turned(v: Vector, axes: Axes) -> Vector:
    """Return a vector of a shape's frame in the camera's."""
    return (
        v[0] * axes[0][0] + v[1] * axes[1][0] + v[2] * axes[2][0],
        v[0] * axes[0][1] + v[1] * axes[1][1] + v[2] * axes[2][1],
        v[0] * axes[0][2] + v[1] * axes[1][2] + v[2] * axes[2][2],
    )


@jit
def moved(v: Vector, c: Vector, axes: Axes) -> Vector:
    """Return a point of a shape's frame in the camera's."""
    t = turned(v, axes)
    return (c[0] + t[0], c[1] + t[1], c[2] + t[2])


@jit
def _place(points: Array, vertices: Array, c: Vector, axes: Axes) -> None:
    """Write vertices in the camera's frame, and where they are seen if they are before the lens: (V, 5)."""
    for v in range(vertices.shape[0]):
        p = moved((vertices[v, 0], vertices[v, 1], vertices[v, 2]), c, axes)
        points[v, 0], points[v, 1], points[v, 2] = p
        if p[2] > NEAREST:
            points[v, 3], points[v, 4] = p[0] / p[2], p[1] / p[2]


@jit
def _triangle_window(lens: Lens, points: Array, corners: tuple[int, int, int]) -> Window:
    """Return the pixels that a triangle may touch."""
    x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
    for k in range(3):
        a, b = corners[k], corners[(k + 1) % 3]
        if points[a, 2] > NEAREST:
            x, y = points[a, 3], points[a, 4]
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        if (points[a, 2] > NEAREST) != (points[b, 2] > NEAREST):
            share = (NEAREST - points[a, 2]) / (points[b, 2] - points[a, 2])
            x = (points[a, 0] + share * (points[b, 0] - points[a, 0])) / NEAREST
            y = (points[a, 1] + share * (points[b, 1] - points[a, 1])) / NEAREST
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
    if x0 > x1:
        return (0, 0, 0, 0)
    return window(lens, x0, x1, y0, y1)


@jit
def _row_span(edges: Axes, y: float, lens: Lens) -> tuple[int, int]:
    """Return the first and the end of the pixels of row y inside of all edges."""
    low, high = -1e9, 1e9
    for k in range(3):
        slope, constant = edges[k][0], edges[k][1] * y + edges[k][2]
        if slope > 0:
            low = max(low, -constant / slope)
        elif slope < 0:
            high = min(high, -constant / slope)
        elif constant < 0:
            return (0, 0)
    if low > high:
        return (0, 0)
    return span(lens.left, low, high, lens.step, lens.columns)


@jit
def _fill(canvas: tuple, lens: Lens, rows: tuple[int, int], edges: Axes, plane: tuple, face: int) -> None:
    """Draw t = plane[1] / plane[0].d inside of edges."""
    n, top = plane
    z, x = canvas[0].reshape(lens.rows, lens.x.size), lens.x.reshape(lens.x.size)
    seen = canvas[1].reshape(lens.rows, lens.x.size)
    for i in range(rows[0], rows[1]):
        y = lens.top - i * lens.step
        first, end = _row_span(edges, y, lens)
        across = n[1] * y + n[2]
        for j in range(first, end):
            # float64: a float32 sum cancels where a triangle is seen from the side
            toward = n[0] * x[j] + across
            t = np.float32(top / toward)
            if (toward > 0) & (t < z[i, j]):
                z[i, j], seen[i, j] = t, face


@jit
def draw_mesh(
    canvas: tuple, lens: Lens, meshes: Meshes, mesh: int, points: Array, c: Vector, axes: Axes
) -> Window:
    """Draw a mesh on a canvas (z, seen); points (most vertices of a mesh, 5) float64 is room to work in."""
    b = meshes.bounds[mesh]
    box = box_window(lens, moved((b[0], b[1], b[2]), c, axes), axes, (b[3], b[4], b[5]))
    if box[0] >= box[1] or box[2] >= box[3]:
        return NOWHERE
    start = meshes.first_vertex[mesh]
    _place(points, meshes.vertices[start : meshes.first_vertex[mesh + 1]], c, axes)
    for face in range(meshes.first_face[mesh], meshes.first_face[mesh + 1]):
        i0, i1, i2 = (
            meshes.faces[face, 0] - start,
            meshes.faces[face, 1] - start,
            meshes.faces[face, 2] - start,
        )
        p0 = (points[i0, 0], points[i0, 1], points[i0, 2])
        p1 = (points[i1, 0], points[i1, 1], points[i1, 2])
        p2 = (points[i2, 0], points[i2, 1], points[i2, 2])
        edges = (cross(p1, p2), cross(p2, p0), cross(p0, p1))
        top = dot(p0, edges[0])
        if top <= 0 or min(p0[2], p1[2], p2[2]) > lens.far:
            continue
        row0, row1, column0, column1 = _triangle_window(lens, points, (i0, i1, i2))
        if row0 >= row1 or column0 >= column1:
            continue
        n = (
            edges[0][0] + edges[1][0] + edges[2][0],
            edges[0][1] + edges[1][1] + edges[2][1],
            edges[0][2] + edges[1][2] + edges[2][2],
        )
        _fill(canvas, lens, (row0, row1), edges, (n, top), face)
    return box
