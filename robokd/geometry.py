"""Poses and quaternions (w, x, y, z), batched over leading axes; for numpy arrays and torch tensors alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from robokd.specs import Array


def multiply(left: Array, right: Array, xp: ModuleType) -> Array:
    """Return the quaternion product left * right, (..., 4): rotate by right first, then by left."""
    lw, lx, ly, lz = (left[..., i] for i in range(4))
    rw, rx, ry, rz = (right[..., i] for i in range(4))
    return xp.stack(
        (
            lw * rw - lx * rx - ly * ry - lz * rz,
            lw * rx + lx * rw + ly * rz - lz * ry,
            lw * ry - lx * rz + ly * rw + lz * rx,
            lw * rz + lx * ry - ly * rx + lz * rw,
        ),
        -1,
    )


def from_rotation_vector(vector: Array, xp: ModuleType) -> Array:
    """Return the unit quaternion (..., 4) that turns by |vector| radians about vector (..., 3)."""
    square = (vector * vector).sum(-1)
    angle = xp.sqrt(square)
    # sin(a/2)/a, by its series where the quotient would be 0/0
    small = angle < 1e-4
    safe = xp.where(small, xp.ones_like(angle), angle)
    factor = xp.where(small, 0.5 - square / 48, xp.sin(safe / 2) / safe)
    scaled = vector * factor[..., None]
    return xp.stack((xp.cos(angle / 2), scaled[..., 0], scaled[..., 1], scaled[..., 2]), -1)


def rotate(quaternion: Array, vector: Array, xp: ModuleType) -> Array:
    """Return vector (..., 3) rotated by a unit quaternion (..., 4)."""
    axis = quaternion[..., 1:]
    cross = 2 * _cross(axis, vector, xp)
    return vector + quaternion[..., :1] * cross + _cross(axis, cross, xp)


def look_at(position: Array, target: Array, xp: ModuleType) -> Array:
    """Return the quaternion of a MuJoCo camera (looks along -z, y up) at position (3,) with target centred.

    The picture's up is the world's z; a camera that looks straight up or down has no such pose.
    """
    back = position - target
    back = back / xp.sqrt((back * back).sum())
    right = xp.stack((-back[1], back[0], 0 * back[0]))
    right = right / xp.sqrt((right * right).sum())
    up = _cross(back, right, xp)
    w = xp.sqrt(xp.clip(1 + right[0] + up[1] + back[2], 1e-12, None)) / 2
    return xp.stack(
        (w, (up[2] - back[1]) / (4 * w), (back[0] - right[2]) / (4 * w), (right[1] - up[0]) / (4 * w))
    )


def _cross(left: Array, right: Array, xp: ModuleType) -> Array:
    lx, ly, lz = (left[..., i] for i in range(3))
    rx, ry, rz = (right[..., i] for i in range(3))
    return xp.stack((ly * rz - lz * ry, lz * rx - lx * rz, lx * ry - ly * rx), -1)
