"""Depth images of primitive shapes on the CPU: no mesh, no GL, tens of microseconds a frame and core.

The formulas are in primitives.py; this file checks what is to be drawn and shares the worlds among threads.
Shapes: N worlds, G geoms, C cameras of the model, H rows, W columns.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robokd import UserError
from robokd.registry import register
from robokd.specs import CameraSpec
from robokd.vision.encode import SMALLEST_F16_M, steps_per_metre

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

    from robokd.sim.base import Sim

DRAWN = {0: "plane", 2: "sphere", 3: "capsule", 4: "ellipsoid", 5: "cylinder", 6: "box"}  # mjtGeom
_NOT_DRAWN = {1: "hfield", 7: "mesh", 8: "sdf"}
_PIXELS_PER_THREAD = 16_384  # below that, handing work over costs more than it saves


@register("renderer", "raster")
@dataclass(kw_only=True)
class RasterCfg:
    """Depth of primitive shapes by formula, on CPU threads (needs numba, no GL)."""

    threads: int = 0  # 0 = all cores
    hidden_groups: tuple[int, ...] = (3, 4, 5)  # MuJoCo geom groups that are not drawn

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"renderer.threads must be >= 0 (0 = all cores), got {self.threads}")

    def build(self, sim: Sim, cameras: Sequence[CameraSpec]) -> Raster:
        """Return a renderer of these cameras; raises UserError for geoms or cameras it cannot draw."""
        return Raster(self, sim, cameras)


class Raster:
    """The Renderer protocol over primitives.py.

    Threads are Python's own: the kernels run without the interpreter lock, so numba's thread pool, which does
    not mix with torch's, is not needed. Every image is drawn by one thread, so their number changes no bit.
    """

    def __init__(self, cfg: RasterCfg, sim: Sim, cameras: Sequence[CameraSpec]) -> None:
        try:
            from robokd.vision import primitives
        except ImportError as error:
            raise UserError(f"renderer=raster needs numba ({error}): pip install 'robokd[mujoco]'") from None
        except RuntimeError as error:  # neither the package's folder nor the home folder can be written
            raise UserError(f"renderer=raster: {error}. Set NUMBA_CACHE_DIR to a writable folder") from None
        self._kernels = primitives
        self._shapes = _visible(sim.model, cfg.hidden_groups)
        self._threads = cfg.threads or _cores()
        self._views = {camera.name: _View(camera, sim.model, self._threads) for camera in cameras}
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="raster")
        for field in ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat"):
            sim.get(field)  # a field that MuJoCo's batch has not been asked for is zero until the next step

    def render(self, sim: Sim, cameras: Sequence[CameraSpec], out: Mapping[str, np.ndarray | Tensor]) -> None:
        """See Renderer.render."""
        worlds = _worlds(sim)
        jobs = [
            _Job(self._view(camera), worlds, _pixels(camera, out[camera.name], sim.num_envs))
            for camera in cameras
        ]
        size = sum(camera.width * camera.height for camera in cameras) * sim.num_envs
        parts = max(1, min(self._threads, sim.num_envs, size // _PIXELS_PER_THREAD))
        ends = [sim.num_envs * part // parts for part in range(parts + 1)]
        futures = [self._pool.submit(self._draw, jobs, part, ends) for part in range(1, parts)]
        try:
            self._draw(jobs, 0, ends)
        finally:
            for future in futures:
                future.result()

    def _draw(self, jobs: Sequence[_Job], part: int, ends: Sequence[int]) -> None:
        for view, worlds, pixels in jobs:
            of, scene = (ends[part], ends[part + 1]), (*worlds, view.index)
            self._kernels.render(view.depth[part], view.lens, self._shapes, scene, of, pixels, view.coding)

    def _view(self, camera: CameraSpec) -> _View:
        view = self._views.get(camera.name)
        if view is None or view.camera != camera:
            known = ", ".join(sorted(self._views)) or "none"
            raise UserError(f"the renderer was not built with this camera {camera.name!r}, but with: {known}")
        return view


class Lens(NamedTuple):
    """Where pixels look: x of column j is left + j * step, y of row i is top - i * step, at depth 1."""

    x: np.ndarray  # (blocks, lanes) float32, of the columns; the last block may go beyond them
    rows: int
    columns: int
    left: float
    top: float
    step: float
    far: float  # m


class _View:
    """What stays the same for one camera from frame to frame."""

    def __init__(self, camera: CameraSpec, model: mujoco.MjModel, threads: int) -> None:
        from robokd.vision.primitives import LANES

        self.camera = camera
        self.index = _camera_index(model, camera.name)
        step = 2 * math.tan(math.radians(camera.fovy_deg) / 2) / camera.height
        blocks = -(-camera.width // LANES)
        left, top = -step * (camera.width - 1) / 2, step * (camera.height - 1) / 2
        x = (left + step * np.arange(blocks * LANES)).astype(np.float32).reshape(blocks, LANES)
        self.lens = Lens(x, camera.height, camera.width, left, top, step, float(camera.far_m))
        self.depth = [np.empty((camera.height, blocks, LANES), np.float32) for _ in range(threads)]
        near = np.float32(camera.near_m)
        if camera.encoding == "depth_f16":
            near = max(near, SMALLEST_F16_M)
        self.coding = (near, np.float32(camera.far_m), steps_per_metre(camera))


class _Job(NamedTuple):
    """One camera of one call: the last two as `primitives.render` takes them."""

    view: _View
    worlds: tuple[np.ndarray, ...]
    pixels: tuple[Any, ...]


def _visible(model: mujoco.MjModel, hidden_groups: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and types of the geoms to draw; raises UserError if some cannot be."""
    material = model.geom_matid
    alpha = model.geom_rgba[:, 3].copy()
    alpha[material >= 0] = model.mat_rgba[material[material >= 0], 3]
    shown = ~np.isin(model.geom_group, hidden_groups) & (alpha > 0)
    kinds = model.geom_type
    bad = [int(index) for index in np.flatnonzero(shown & ~np.isin(kinds, list(DRAWN)))]
    if bad:
        names = [f"{model.geom(i).name or f'#{i}'} ({_NOT_DRAWN.get(int(kinds[i]), 'unknown')})" for i in bad]
        raise UserError(
            f"renderer=raster cannot draw geoms {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}: "
            f"it draws {', '.join(DRAWN.values())}. Geom groups {list(hidden_groups)} are skipped"
        )
    if model.nflex or model.nskin:
        raise UserError(
            f"renderer=raster cannot draw the scene's {model.nflex} flexes and {model.nskin} skins"
        )
    geoms = np.flatnonzero(shown).astype(np.int64)
    return geoms, kinds[geoms].astype(np.int64)


def _camera_index(model: mujoco.MjModel, name: str) -> int:
    known = [model.camera(index).name for index in range(model.ncam)]
    if name not in known:
        raise UserError(f"the scene has no camera named {name!r}. It has: {', '.join(known) or 'none'}")
    return known.index(name)


def _worlds(sim: Sim) -> tuple[np.ndarray, ...]:
    """Return geom positions, axes and sizes and camera positions and axes, in place."""
    fields = ("geom_xpos", "geom_xmat", "geom_size", "cam_xpos", "cam_xmat")
    position, matrix, size, eye, look = (np.asarray(sim.get(field)) for field in fields)
    if size.ndim == 2:
        size = size[None]
    if size.strides[0] == 0:
        size = size[:1]  # one row for all worlds
    return position, matrix.reshape(*matrix.shape[:2], 9), size, eye, look.reshape(*look.shape[:2], 9)


def _pixels(camera: CameraSpec, buffer: np.ndarray | Tensor, num_envs: int) -> tuple[Any, ...]:
    """Return the caller's buffer as `primitives.render` takes it; nothing is copied."""
    if getattr(buffer, "is_cuda", False):
        raise UserError(f"renderer=raster writes to CPU memory, the buffer of {camera.name!r} is on a GPU")
    image = np.asarray(buffer)
    shape = (num_envs, *camera.shape)
    kinds = (np.dtype(camera.dtype), np.dtype(np.float32))
    if image.shape != shape or image.dtype not in kinds:
        wanted, got = f"{shape} of {kinds[0]} or float32", f"{image.shape} of {image.dtype}"
        raise ValueError(f"buffer of camera {camera.name!r}: wanted {wanted}, got {got}")
    bytes_a_pixel = image.itemsize
    worlds, rows = image.strides[0] // bytes_a_pixel, image.strides[2] // bytes_a_pixel
    if image.strides[3] != bytes_a_pixel or min(worlds, rows) < 0 or not image.flags.writeable:
        raise ValueError(f"buffer of camera {camera.name!r}: rows must be contiguous, forward and writable")
    extent = (num_envs - 1) * worlds + (camera.height - 1) * rows + camera.width
    flat = np.lib.stride_tricks.as_strided(image, (extent,), (bytes_a_pixel,))
    none8, none16, none32 = (np.empty(0, kind) for kind in (np.uint8, np.uint16, np.float32))
    if image.dtype == np.uint8:
        return flat, none16, none32, worlds, rows
    if image.dtype == np.float16:
        return none8, flat.view(np.uint16), none32, worlds, rows
    return none8, none16, flat, worlds, rows


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
