"""Depth in metres to what a camera's images hold, and back: one definition for training and robot.

"depth_u8": 1 at or nearer than near, 255 at far, linear between, 0 = miss. "depth_f16": metres, not nearer
than near, 0 = miss. A miss is a pixel that hit nothing, or something beyond far, or that the sensor marked
invalid (zero, negative or not finite). "rgb_u8" and "segment_i16" are written by renderers as they stand.
"""

from __future__ import annotations

import numpy as np

from robokd.specs import CameraSpec

SMALLEST_F16_M = np.float32(2.0**-14)  # float16 is coarser below; nothing is seen from there


def encode(depth_m: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """Return the encoded image of planar depth in metres, any shape, as `camera.dtype`.

    The arithmetic is float32 in this order so that renderers can repeat it bit for bit.
    """
    depth = np.asarray(depth_m, np.float32)
    near, far = np.float32(camera.near_m), np.float32(camera.far_m)
    hit = (depth > 0) & (depth <= far)
    clipped = np.where(hit, np.maximum(depth, near), near)
    if camera.encoding == "depth_f16":
        return np.where(hit, np.maximum(clipped, SMALLEST_F16_M), 0).astype(np.float16)
    code = (clipped - near) * steps_per_metre(camera) + np.float32(1.5)
    return np.where(hit, code.astype(np.int32), 0).astype(np.uint8)


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
