"""`mujoco.Renderer` as one uses it in a loop, at its fastest: no shadows, no multisampling.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from robokd.sim.base import Sim
from robokd.specs import CameraSpec
from robokd.vision.gl import GlCfg

if TYPE_CHECKING:
    import mujoco

# OpenGL lights the corners of a face, and a lamp is smaller than a wall
_MOST_QUADS = 64  # along a side of a box
_GRID_M = 0.05  # of a plane


def check_opengl(sim: Sim, camera: CameraSpec) -> None:
    """Choose a way to OpenGL where nobody has; UserError with reason and cure where there is none."""
    GlCfg().build(sim, [camera]).close()


class OpenGl:
    """A mujoco.Renderer of one model and camera; use it from one thread, and `close` it."""

    def __init__(self, model: mujoco.MjModel, camera: CameraSpec, *, slices: int = 0) -> None:
        """With `slices`, cut shapes as finely as light and roundness need to be exact; 0 = as usual."""
        import mujoco

        self._camera, self._index = camera, model.camera(camera.scene_camera).id
        self._geom = int(mujoco.mjtObj.mjOBJ_GEOM)
        self.model = copy.copy(model)
        quality, room = self.model.vis.quality, self.model.vis.global_
        room.offwidth, room.offheight, quality.offsamples = camera.width, camera.height, 0
        if slices:
            quality.numslices = quality.numstacks = slices
            quality.numquads = min(slices, _MOST_QUADS)
            self.model.geom_size[self.model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE, 2] = _GRID_M
        self._renderer = mujoco.Renderer(self.model, camera.height, camera.width)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_SKYBOX):
            self._renderer.scene.flags[flag] = False
        if camera.is_depth:
            self._renderer.enable_depth_rendering()
        if camera.encoding == "segment_i16":
            self._renderer.enable_segmentation_rendering()

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """Return the picture as the renderer gives it: depth (H, W), colour (H, W, 3), objects (H, W, 2)."""
        self._renderer.update_scene(data, camera=self._index)
        return self._renderer.render()

    def picture(self, data: mujoco.MjData) -> np.ndarray:
        """Return the picture (C, H, W) in the terms of our renderers: depth in m and 0 for a miss, geoms."""
        image = self.draw(data)
        if self._camera.is_depth:
            return np.where(image <= self._camera.far_m, image, 0)[None]
        if self._camera.encoding == "segment_i16":
            return np.where(image[..., 1] == self._geom, image[..., 0], -1)[None]
        return image.transpose(2, 0, 1)

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()

    @property
    def name(self) -> str:
        """What it is and what draws for it: a processor or a graphics card, whose time is not counted."""
        try:
            from OpenGL import GL

            driver = GL.glGetString(GL.GL_RENDERER)
        except ImportError:  # GLFW needs no PyOpenGL
            driver = None
        words = driver.decode() if isinstance(driver, bytes) else "OpenGL"
        return f"mujoco.Renderer ({words.split('(')[0].strip()})"


def worlds(sim: Sim) -> list[mujoco.MjData]:
    """Return one MjData for each world, bodies and cameras where the simulation has them."""
    import mujoco

    made = []
    fields = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat")
    for world in range(sim.num_envs):
        data = mujoco.MjData(sim.model)
        mujoco.mj_forward(sim.model, data)  # lights
        for field in fields:
            target = getattr(data, field)
            target[...] = np.asarray(sim.get(field))[world].reshape(target.shape)
        made.append(data)
    return made
