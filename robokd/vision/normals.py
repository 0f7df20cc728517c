"""Normals, of any length, of a run of pixels that show one shape. Legend: see shading.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robokd.vision.kernel_cache import inlined, jit
from robokd.vision.patterns import weights
from robokd.vision.projection import dot
from robokd.vision.scene_tables import BOX, CAPSULE, CYLINDER, PLANE
from robokd.vision.triangles import turned

if TYPE_CHECKING:
    from robokd.vision.projection import Array

X, Z = 19, 20  # where the rows of shading.py hold x and depth
_ZERO, _ONE = np.float32(0), np.float32(1)


@inlined
def _axes(row: Array) -> tuple:
    """Return a shape's axes in float32."""
    return (
        (np.float32(row[3]), np.float32(row[4]), np.float32(row[5])),
        (np.float32(row[6]), np.float32(row[7]), np.float32(row[8])),
        (np.float32(row[9]), np.float32(row[10]), np.float32(row[11])),
    )


@inlined
def round_normals(rows: Array, first: int, end: int, y: float, row: Array, kind: int) -> None:
    """Write the normals, of any length, of a run of a sphere, capsule, cylinder or plane."""
    x, z = rows[X, first:end], rows[Z, first:end]
    r0, r1, r2 = rows[0, first:end], rows[1, first:end], rows[2, first:end]
    c0, c1, c2 = np.float32(row[0]), np.float32(row[1]), np.float32(row[2])
    u = _axes(row)[2]
    radius, half = np.float32(row[12]), np.float32(row[13])
    is_rod, is_closed, is_flat = kind in (CAPSULE, CYLINDER), kind == CYLINDER, kind == PLANE
    for j in range(x.size):
        q0, q1, q2 = x[j] * z[j] - c0, y * z[j] - c1, z[j] - c2
        height = q0 * u[0] + q1 * u[1] + q2 * u[2]
        along = min(max(height, -half), half) if is_rod else _ZERO
        n0, n1, n2 = q0 - along * u[0], q1 - along * u[1], q2 - along * u[2]
        beyond = abs(height) - half
        is_lid = is_closed & (beyond > np.sqrt(n0 * n0 + n1 * n1 + n2 * n2) - radius)
        side = _ONE if (height > _ZERO) | is_flat else -_ONE
        is_lid = is_lid | is_flat
        r0[j] = side * u[0] if is_lid else n0
        r1[j] = side * u[1] if is_lid else n1
        r2[j] = side * u[2] if is_lid else n2


@inlined
def box_normals(rows: Array, first: int, end: int, y: float, row: Array, kind: int) -> None:
    """Write the normals, of any length, of a run of a box or an ellipsoid."""
    x, z = rows[X, first:end], rows[Z, first:end]
    r0, r1, r2 = rows[0, first:end], rows[1, first:end], rows[2, first:end]
    c0, c1, c2 = np.float32(row[0]), np.float32(row[1]), np.float32(row[2])
    a, b, c = _axes(row)
    s0, s1, s2 = np.float32(row[12]), np.float32(row[13]), np.float32(row[14])
    w0, w1, w2 = _ONE / (s0 * s0), _ONE / (s1 * s1), _ONE / (s2 * s2)
    is_box = kind == BOX
    for j in range(x.size):
        q0, q1, q2 = x[j] * z[j] - c0, y * z[j] - c1, z[j] - c2
        l0 = q0 * a[0] + q1 * a[1] + q2 * a[2]
        l1 = q0 * b[0] + q1 * b[1] + q2 * b[2]
        l2 = q0 * c[0] + q1 * c[1] + q2 * c[2]
        d0, d1, d2 = abs(l0) - s0, abs(l1) - s1, abs(l2) - s2
        is_first, is_second = (d0 >= d1) & (d0 >= d2), d1 >= d2
        m0 = l0 * w0 if is_first | (not is_box) else _ZERO
        m1 = l1 * w1 if ((not is_first) & is_second) | (not is_box) else _ZERO
        m2 = l2 * w2 if ((not is_first) & (not is_second)) | (not is_box) else _ZERO
        r0[j] = m0 * a[0] + m1 * b[0] + m2 * c[0]
        r1[j] = m0 * a[1] + m1 * b[1] + m2 * c[1]
        r2[j] = m0 * a[2] + m1 * b[2] + m2 * c[2]


@jit
def mesh_normals(line: tuple, seen: Array, row: Array, vertices: Array, faces: Array, normals: Array) -> None:
    """Write the normals, of any length, of a run of a mesh: those of the corners, blended."""
    rows, x, z, y = line
    axes = ((row[3], row[4], row[5]), (row[6], row[7], row[8]), (row[9], row[10], row[11]))
    for j in range(x.size):
        q = (x[j] * z[j] - row[0], y * z[j] - row[1], z[j] - row[2])
        face = seen[j]
        w = weights(vertices, faces, face, (dot(q, axes[0]), dot(q, axes[1]), dot(q, axes[2])))
        m0 = w[0] * normals[face, 0, 0] + w[1] * normals[face, 1, 0] + w[2] * normals[face, 2, 0]
        m1 = w[0] * normals[face, 0, 1] + w[1] * normals[face, 1, 1] + w[2] * normals[face, 2, 1]
        m2 = w[0] * normals[face, 0, 2] + w[1] * normals[face, 1, 2] + w[2] * normals[face, 2, 2]
        rows[0, j], rows[1, j], rows[2, j] = turned((m0, m1, m2), axes)
