"""The Renderer protocol: what turns the state of many worlds into encoded images.

A renderer's config is `@register("renderer", name)` with `build(sim, cameras, threads) -> Renderer`: `sim` is
a Sim, `cameras` every CameraSpec that will be asked for; what cannot be drawn is refused there and then.
Shapes: N worlds, H rows from the top, W columns from the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from robokd import UserError
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

    from robokd.sim.base import Sim


def scene_camera_index(model: mujoco.MjModel, camera: CameraSpec) -> int:
    """Return the index of a camera of the scene; raises UserError if there is none of its name."""
    known = [model.camera(index).name for index in range(model.ncam)]
    name = camera.scene_camera
    if name not in known:
        raise UserError(f"the scene has no camera named {name!r}. It has: {', '.join(known) or 'none'}")
    return known.index(name)


def check_built(camera: CameraSpec, cameras: Mapping[str, CameraSpec]) -> None:
    """Raise UserError for a camera that is not among those a renderer was built with."""
    if cameras.get(camera.name) != camera:
        known = ", ".join(sorted(cameras)) or "none"
        raise UserError(f"the renderer was not built with this camera {camera.name!r}, but with: {known}")


class Renderer(Protocol):
    """Writes what the cameras of a simulation see."""

    def render(self, sim: Sim, cameras: Sequence[CameraSpec], out: Mapping[str, np.ndarray | Tensor]) -> None:
        """Write each camera's images into out[camera.name] (N, *camera.shape), in place.

        Args:
            sim: the worlds, with derived fields up to date.
            cameras: some of those the renderer was built with.
            out: buffers of the caller. Those of `camera.dtype` get encoded images (see encode.py); those of
                float32 of a depth camera get planar depth in metres, 0 where nothing was hit within far.
                Colour is RGB from 0 to 255, black where nothing is; a segment is the geom's index, or -1.
        """
        ...


class RendererCfg(Protocol):
    """A registered renderer config."""

    def build(self, sim: Sim, cameras: Sequence[CameraSpec], threads: int) -> Renderer:
        """Return a renderer of these cameras on so many threads; raises UserError for what it cannot draw."""
        ...
