"""Depth by MuJoCo's own rays, `mujoco.batch.Batch.ray`: exact, and a peer that needs no OpenGL.

Shapes: N worlds, P = H * W pixels.
"""

from __future__ import annotations

import math

import numpy as np

from robokd.sim.mujoco import MujocoSim
from robokd.specs import CameraSpec

SHOWN = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # geom groups
_FLAT = (0, 1, 6, 7)  # mjtGeom: plane, height field, box and mesh; OpenGL draws them without approximation


class Rays:
    """A ray through every pixel of a camera, in the worlds as they are when it is made."""

    def __init__(self, sim: MujocoSim, camera: CameraSpec) -> None:
        self._sim, self._camera = sim, camera
        step = 2 * math.tan(math.radians(camera.fovy_deg) / 2) / camera.height
        right = (np.arange(camera.width) + 0.5 - camera.width / 2) * step
        up = (camera.height / 2 - np.arange(camera.height) - 0.5) * step
        ahead = np.stack([*np.meshgrid(right, up), -np.ones((camera.height, camera.width))], -1).reshape(
            -1, 3
        )
        self._lengths = np.linalg.norm(ahead, axis=1)  # (P,) of a ray as far as depth 1
        index = sim.model.camera(camera.scene_camera).id
        eye, axes = (np.asarray(sim.get(field))[:, index] for field in ("cam_xpos", "cam_xmat"))
        self._starts = np.repeat(eye[:, None], len(ahead), 1)
        unit = ahead / self._lengths[:, None]
        self._directions = np.einsum("nij,pj->npi", axes.reshape(-1, 3, 3), unit)

    def cast(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distances along the rays, -1 where they hit nothing, and geoms, both (N, P)."""
        return self._sim.batch.ray(self._starts, self._directions, geomgroup=SHOWN)

    def pictures(self) -> tuple[np.ndarray, np.ndarray]:
        """Return planar depth in m, 0 beyond far, and what was hit is flat: both (N, H, W)."""
        distance, geom = self.cast()
        depth = distance / self._lengths
        depth = np.where((distance >= 0) & (depth <= self._camera.far_m), depth, 0)
        is_flat = np.isin(self._sim.model.geom_type[geom], _FLAT) & (geom >= 0)
        shape = (-1, self._camera.height, self._camera.width)
        return depth.reshape(shape), is_flat.reshape(shape)
