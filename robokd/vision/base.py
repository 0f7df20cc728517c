"""The Renderer protocol: what turns the state of many worlds into encoded images.

A renderer's config is `@register("renderer", name)` with `build(sim, cameras, threads) -> Renderer`: `sim` is
a Sim, `cameras` every CameraSpec that will be asked for; what cannot be drawn is refused there and then.
Shapes: N worlds, H rows from the top, W columns from the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from robokd import UserError
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

    from robokd.sim.base import Sim


SIZES = {2: 1, 3: 2, 4: 3, 5: 2, 6: 3}  # mjtGeom: how many of its sizes must be > 0
_OF_GEOMS = {"geom_size": 3, "geom_xpos": 3, "geom_xmat": 9}
_OF_CAMERAS = {"cam_fovy": 1, "cam_xpos": 3, "cam_xmat": 9}


def scene_camera_index(model: mujoco.MjModel, camera: CameraSpec) -> int:
    """Return the index of a camera of the scene; UserError if there is none, or one without perspective."""
    known = [model.camera(index).name for index in range(model.ncam)]
    name = camera.scene_camera
    if name not in known:
        raise UserError(f"the scene has no camera named {name!r}. It has: {', '.join(known) or 'none'}")
    index = known.index(name)
    if model.cam_projection[index]:
        raise UserError(f"camera {name!r} is orthographic in the scene; a CameraSpec is perspective")
    return index


def tells(sim: Sim, field: str) -> bool:
    """Whether the simulation can tell a model field of its worlds; if not, it is the model's in all."""
    try:
        sim.get(field)
    except ValueError:
        return False
    return True


def on_host(values: np.ndarray | Tensor, dtype: type) -> np.ndarray:
    """Return a field of a simulation as numpy has it: in place, or a copy from a GPU or of another type."""
    array = values if isinstance(values, np.ndarray) else values.numpy(force=True)
    return array.astype(dtype, copy=False)


def check_worlds(sim: Sim, cameras: Sequence[CameraSpec], geoms: Sequence[int]) -> None:
    """Raise UserError for a geom or a camera that some world gives no size, place or field of view.

    Also for two cameras of one name, under which a picture is asked for.

    Args:
        sim: the worlds, as they are now.
        cameras: those that will be drawn.
        geoms: indices of those that will be drawn.
    """
    model, names = sim.model, [camera.name for camera in cameras]
    if twice := [name for name in names if names.count(name) > 1]:
        cure = "name one of them otherwise; `view` says which camera of the scene it is"
        raise UserError(f"two cameras are named {twice[0]!r}: {cure}")

    def values(field: str, count: int, width: int) -> np.ndarray:
        found = on_host(sim.get(field), np.float64)
        return found.reshape(found.size // max(count * width, 1), count, width)

    def refuse(wrong: Any, what: str) -> None:  # noqa: ANN401  (numpy has too many types of bool)
        if wrong.any():
            raise UserError(f"{what}; in world {int(wrong.argmax())} it is not so")

    size, at, along = (values(field, model.ngeom, width) for field, width in _OF_GEOMS.items())
    for geom in geoms:
        name = model.geom(geom).name or f"#{geom}"
        used = size[:, geom, : SIZES.get(int(model.geom_type[geom]), 0)]
        refuse(~((used > 0) & np.isfinite(used)).all(1), f"geom {name}: its size must be > 0 and finite")
        place = np.concatenate((at[:, geom], along[:, geom]), 1)
        refuse(~np.isfinite(place).all(1), f"geom {name}: its position and quaternion must be finite")
    fovy, eye, look = (values(field, model.ncam, width) for field, width in _OF_CAMERAS.items())
    for camera in cameras:
        index, name = scene_camera_index(model, camera), camera.scene_camera
        place = np.concatenate((eye[:, index], look[:, index]), 1)
        refuse(~np.isfinite(place).all(1), f"camera {name!r}: its pose must be finite")
        wide = fovy[:, index, 0]
        refuse(~((wide > 0) & (wide < 180)), f"camera {name!r}: its fovy must be in (0, 180) degrees")


def check_built(camera: CameraSpec, cameras: Mapping[str, CameraSpec]) -> None:
    """Raise UserError for a camera that is not among those a renderer was built with."""
    if cameras.get(camera.name) != camera:
        known = ", ".join(sorted(cameras)) or "none"
        raise UserError(f"the renderer was not built with this camera {camera.name!r}, but with: {known}")


def check_buffer(camera: CameraSpec, num_envs: int, shape: Sequence[int], kind: str) -> None:
    """Raise UserError for a caller's buffer whose shape or numpy type is not that of a camera's images."""
    kinds = [np.dtype(camera.dtype).name] + (["float32"] if camera.is_depth else [])
    wanted = (num_envs, *camera.shape)
    if tuple(shape) != wanted or kind not in kinds:
        what = f"wanted {wanted} of {' or '.join(kinds)}, got {tuple(shape)} of {kind}"
        raise UserError(f"buffer of camera {camera.name!r}: {what}")


class Renderer(Protocol):
    """Writes what the cameras of a simulation see."""

    device: str  # where it draws: buffers there are written without a copy

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
