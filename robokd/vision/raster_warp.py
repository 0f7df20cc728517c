"""renderer=raster where the simulation is: by Warp, two launches for all cameras, nothing waits.

Poses are read and pictures written in place: with sim=mjwarp nothing is copied, uploaded or, once it is
built, allocated, so that a call can be recorded in a CUDA graph. Depth and segments; colours need the CPU
threads of raster.py. A buffer that is elsewhere, or whose rows are scattered, gets a copy.
Shapes: N worlds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.specs import CameraSpec
from robokd.vision import scene_tables
from robokd.vision.base import check_built, check_worlds
from robokd.vision.encode import SMALLEST_F16_M, steps_per_metre
from robokd.vision.lens import make_lens
from robokd.vision.warp_device import as_pictures, load_warp, torch_stream, warp_device

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import Sim
    from robokd.vision.raster import RasterCfg

_BOUNDLESS_M = 1e8  # far of segments
_FIELDS = {  # as the kernel has them: warp's type, and its shape
    "geom_xpos": ("vec3", (3,)), "geom_xmat": ("mat33", (3, 3)), "geom_size": ("vec3", (3,)),
    "cam_xpos": ("vec3", (3,)), "cam_xmat": ("mat33", (3, 3)), "cam_fovy": ("float32", ()),
}  # fmt: skip
_SHARED = ("geom_size", "cam_fovy")  # of which there may be one row for all worlds
_PIXELS = {torch.uint8: "CODES", torch.float16: "HALVES", torch.float32: "METRES", torch.int16: "SEGMENTS"}


class WarpRaster:
    """The Renderer protocol over raster_kernel.py."""

    def __init__(self, cfg: RasterCfg, sim: Sim, cameras: Sequence[CameraSpec]) -> None:
        self._warp, self._kernels = load_warp("raster", "robokd.vision.raster_kernel")
        self._place = warp_device(self._warp, "raster", str(sim.device))
        self.device = str(self._warp.device_to_torch(self._place))
        coloured = [camera.name for camera in cameras if camera.encoding == "rgb_u8"]
        if coloured:
            raise UserError(
                f"renderer=raster draws no colours by warp, and {coloured[0]!r} wants them: renderer=mjwarp "
                "does, and renderer.kernel=numba, on CPU threads"
            )
        self._cameras, self._model = {camera.name: camera for camera in cameras}, sim.model
        self._num_envs = sim.num_envs
        for field in _FIELDS:
            sim.get(field)  # a field that MuJoCo's batch has not been asked for is zero until the next step
        geoms = scene_tables.visible(sim.model, cfg.hidden_groups)
        check_worlds(sim, cameras, geoms.tolist())
        self._fields: dict[str, Tensor] = {}  # what self._worlds is of
        self._worlds = self._kernels.Worlds()
        with self._warp.ScopedDevice(self._place):
            self._shapes = self._table(self._kernels.Shape, self._shapes_of(sim.model, geoms))
            words, views = -(-len(geoms) // self._kernels.BITS), [self._view(camera) for camera in cameras]
            ends = [0, *itertools.accumulate(words * self._tiles(camera) for camera in cameras)]
            for view, first in zip(views, ends, strict=False):
                view.words = first
            self._views = self._table(self._kernels.View, views)
            self._masks = self._warp.empty((sim.num_envs, ends[-1]), dtype=self._warp.uint32)
            self._warp.load_module(self._kernels, self._place)  # or a recording would be the first to
        if self._place.startswith("cuda"):
            self._warp.synchronize_device(self._place)  # torch works in another order than warp does

    def render(self, sim: Sim, cameras: Sequence[CameraSpec], out: Mapping[str, np.ndarray | Tensor]) -> None:
        """See Renderer.render."""
        if sim.num_envs != self._num_envs:
            raise UserError(f"the renderer was built for {self._num_envs} worlds, got {sim.num_envs}")
        wanted = [self._wanted(camera, out) for camera in cameras]
        drawn = [image if self._is_in_place(image) else self._room(image) for image in wanted]
        worlds, stream, kernels = self._look(sim), torch_stream(self._warp, self._place), self._kernels
        most = kernels.TARGETS
        for first in range(0, len(cameras), most):
            part = cameras[first : first + most]
            targets = self._targets(part, drawn[first : first + most])
            inputs = [self._shapes, self._views, worlds, targets, self._masks]
            tiles = (self._num_envs, len(part), max(self._tiles(camera) for camera in part))
            for kernel, dim in ((kernels.choose, tiles), (kernels.draw, (*tiles, kernels.TILE**2))):
                self._warp.launch(kernel, dim=dim, inputs=inputs, device=self._place, stream=stream)
        for image, copy in zip(wanted, drawn, strict=True):
            if copy is not image:
                image.copy_(copy)

    def _wanted(self, camera: CameraSpec, out: Mapping[str, np.ndarray | Tensor]) -> Tensor:
        check_built(camera, self._cameras)
        return as_pictures(camera, self._num_envs, out[camera.name])

    def _tiles(self, camera: CameraSpec) -> int:
        """Return how many tiles a picture has."""
        side = self._kernels.TILE
        return -(-camera.width // side) * -(-camera.height // side)

    def _is_in_place(self, image: Tensor) -> bool:
        return str(image.device) == self.device and (image.stride(3) == 1 or image.shape[3] == 1)

    def _room(self, image: Tensor) -> Tensor:
        return torch.empty(image.shape, dtype=image.dtype, device=self.device)

    def _targets(self, cameras: Sequence[CameraSpec], images: Sequence[Tensor]) -> Any:  # noqa: ANN401
        """Return where these pictures go, as the kernel takes it: by value, there is nothing to upload."""
        names, found = list(self._cameras), self._kernels.Targets()
        for slot, (camera, image) in enumerate(zip(cameras, images, strict=True)):
            found.view[slot] = names.index(camera.name)
            found.kind[slot] = getattr(self._kernels, _PIXELS[image.dtype])
            found.address[slot] = image.data_ptr()
            found.world_bytes[slot] = image.stride(0) * image.element_size()
            found.row_bytes[slot] = image.stride(2) * image.element_size()
        return found

    def _look(self, sim: Sim) -> Any:  # noqa: ANN401
        """Return where things are, as the kernel takes it; made anew if an array is not the last time's."""
        fields = {field: self._rows(field, sim) for field in _FIELDS}
        if not (self._fields and all(_is_same(rows, self._fields[field]) for field, rows in fields.items())):
            self._fields, self._worlds = fields, self._kernels.Worlds()
            for field, rows in fields.items():
                if rows.numel():  # of a scene without geoms nobody reads any
                    kind = getattr(self._warp, _FIELDS[field][0])
                    setattr(self._worlds, field, self._warp.from_torch(rows, dtype=kind))
        return self._worlds

    def _rows(self, field: str, sim: Sim) -> Tensor:
        """Return the (N or 1, count, ...) values of a field in float32, in place where they are so."""
        values, (_, shape) = torch.as_tensor(sim.get(field)), _FIELDS[field]
        count = self._model.ngeom if field.startswith("geom") else self._model.ncam
        rows = values[:1] if field in _SHARED and values.stride(0) == 0 else values
        number = max(1, rows.numel() // max(1, count * math.prod(shape)))
        return rows.to(self.device, torch.float32).reshape(number, count, *shape)

    def _view(self, camera: CameraSpec) -> Any:  # noqa: ANN401
        """Return a camera's lens and encoding, as the kernel takes them."""
        found, index = self._kernels.View(), scene_tables.camera_index(self._model, camera)
        found.camera, found.width, found.height = index, camera.width, camera.height
        found.step = make_lens(camera.width, camera.height, camera.fovy_deg, camera.far_m).step
        found.fovy = float(self._model.cam_fovy[index])
        is_half = camera.encoding == "depth_f16"
        found.near = max(camera.near_m, float(SMALLEST_F16_M)) if is_half else camera.near_m
        found.far = camera.far_m if camera.is_depth else _BOUNDLESS_M
        found.codes = float(steps_per_metre(camera))
        return found

    def _shapes_of(self, model: mujoco.MjModel, geoms: np.ndarray) -> list[Any]:
        """Return the geoms to draw, as the kernel takes them."""
        wp = self._warp
        shapes, meshes, _ = scene_tables.tables(model, geoms)
        vertices = np.split(meshes.vertices, meshes.first_vertex[1:-1])
        faces = np.split(meshes.faces, meshes.first_face[1:-1])
        self._meshes = [
            wp.Mesh(wp.array(points, dtype=wp.vec3), wp.array((corners - first).ravel(), dtype=wp.int32))
            for points, corners, first in zip(vertices, faces, meshes.first_vertex, strict=False)
            if len(points)
        ]
        reaches = np.linalg.norm(np.abs(meshes.bounds[:, :3]) + meshes.bounds[:, 3:], axis=1)
        rows = []
        for geom, kind, which in zip(shapes.geoms, shapes.kinds, shapes.meshes, strict=True):
            row = self._kernels.Shape()
            row.geom, row.kind = int(geom), int(kind)
            if which >= 0:
                row.reach, row.mesh = float(reaches[which]), self._meshes[which].id
            rows.append(row)
        return rows

    def _table(self, kind: Any, rows: list[Any]) -> Any:  # noqa: ANN401
        """Return warp's array of structures; it makes none of an empty list."""
        return self._warp.array(rows, dtype=kind) if rows else self._warp.empty(0, dtype=kind)


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape
