"""Depth in metres to what a camera's images hold, and back: one definition for training and robot.

"depth_u8": 1 at or nearer than near, 255 at far, linear between, 0 = miss. "depth_f16": metres, not nearer
than near, 0 = miss. A miss is a pixel that hit nothing, or something beyond far, or that the sensor marked
invalid (zero, negative or not finite). "rgb_u8" and "segment_i16" are written by renderers as they stand.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from robokd.specs import Array, CameraSpec

SMALLEST_F16_M = 2.0**-14  # float16 is coarser below; nothing is seen from there


def encode(depth_m: Array, camera: CameraSpec, xp: ModuleType = np) -> Array:
    """Return the encoded image of planar depth in metres, any shape, as `camera.dtype`.

    `xp` is numpy or torch, whose arrays it takes and returns; a tensor stays on its device. The arithmetic is
    float32 in this order so that both, and renderers, have it bit for bit.
    """
    depth = xp.asarray(depth_m, dtype=xp.float32)
    near, far = (float(np.float32(end)) for end in (camera.near_m, camera.far_m))
    hit = (depth > 0) & (depth <= far)
    clipped = xp.where(hit, xp.clip(depth, near, None), near)
    if camera.encoding == "depth_f16":
        return xp.asarray(xp.where(hit, xp.clip(clipped, SMALLEST_F16_M, None), 0), dtype=xp.float16)
    code = (clipped - near) * float(steps_per_metre(camera)) + 1.5
    return xp.asarray(xp.where(hit, xp.asarray(code, dtype=xp.int32), 0), dtype=xp.uint8)


def decode(image: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """Return float32 metres of an encoded image, any shape; 0 where it missed.

    Off by at most half of `camera.step_m` for a depth within [near, far].
    """
    if image.dtype != camera.dtype:
        raise ValueError(f"camera {camera.name}: wanted {np.dtype(camera.dtype)} pixels, got {image.dtype}")
    if camera.encoding == "depth_f16":
        return image.astype(np.float32)
    depth = np.float32(camera.near_m) + (image.astype(np.float32) - 1) / steps_per_metre(camera)
    return np.where(image > 0, depth, np.float32(0))


def steps_per_metre(camera: CameraSpec) -> np.float32:
    """Return how many codes of depth_u8 cover a metre."""
    return np.float32(254 / (camera.far_m - camera.near_m))
