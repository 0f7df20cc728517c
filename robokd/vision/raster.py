"""Depth, colour and segmentation on the CPU: no GL, tens of microseconds a frame and core.

The kernels are in images.py and the files it imports; this file checks what is asked for, finds the worlds'
and the caller's memory and shares the worlds among threads. Worlds on a GPU are drawn there, by one Warp
kernel: raster_warp.py. A world may have its own poses, geom_size, geom_rgba, mat_rgba, cam_fovy, and poses,
ambient and diffuse colours of lights. The rest of the model is read at construction, transparency too; a
field of view that no world has set is the CameraSpec's. A plane has a front only, as for MuJoCo's rays;
MuJoCo's OpenGL draws its back too, see-through in colour.
Shapes: N worlds, S geoms that are drawn, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from robokd import UserError
from robokd.cores import cores
from robokd.registry import register
from robokd.specs import CameraSpec
from robokd.vision import scene_colours, scene_tables
from robokd.vision.base import check_buffer, check_built, check_worlds, on_host
from robokd.vision.encode import SMALLEST_F16_M, steps_per_metre
from robokd.vision.lens import LANES, make_lens

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

    from robokd.sim.base import Sim
    from robokd.vision.raster_warp import WarpRaster

_PIXELS_PER_THREAD = 16_384  # below that, handing work over costs more than it saves
_BOUNDLESS_M = 1e8  # far of colours and segments; less than what a pixel has that sees nothing
_NONE = {kind: np.empty(0, kind) for kind in (np.uint8, np.uint16, np.float32, np.int16)}
_GEOMS = ("geom_xpos", "geom_xmat", "geom_size", "cam_xpos", "cam_xmat")
_COLOURS = {
    "geom_rgba": np.float32, "mat_rgba": np.float32, "light_xpos": np.float64, "light_xdir": np.float64,
    "light_ambient": np.float32, "light_diffuse": np.float32,
}  # fmt: skip


@register("renderer", "raster")
@dataclass(kw_only=True)
class RasterCfg:
    """Depth, colour and segmentation by formula and triangle: on CPU threads (numba, no GL), or on a GPU."""

    kernel: str = ""  # numba: CPU threads; warp: where the worlds are, no colours; empty = by their device
    threads: int = 0  # 0 = as many as the environment is given
    hidden_groups: tuple[int, ...] = (3, 4, 5)  # MuJoCo geom groups that are not drawn
    shadows: bool = False  # colours: hard shadows of the lights that cast them, by a ray per pixel (slow)

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ValueError(f"renderer.threads must be >= 0 (0 = all cores), got {self.threads}")
        if self.kernel not in ("", "numba", "warp"):
            raise ValueError(
                f"renderer.kernel must be numba or warp, or empty for that of the device, got {self.kernel!r}"
            )

    def build(self, sim: Sim, cameras: Sequence[CameraSpec], threads: int = 0) -> Raster | WarpRaster:
        """Return a renderer of these cameras; raises UserError for what it cannot draw.

        `threads` counts where the config leaves the number open; 0 = all cores. On a CPU numba's kernel is
        the default, whatever simulates: warp has one thread there.
        """
        if (self.kernel or ("warp" if str(sim.device).startswith("cuda") else "numba")) == "warp":
            from robokd.vision.raster_warp import WarpRaster

            return WarpRaster(self, sim, cameras)
        return Raster(self, sim, cameras, self.threads or threads or cores())


class Raster:
    """The Renderer protocol over images.py.

    Threads are Python's own: the kernels run without the interpreter lock, so numba's thread pool, which does
    not mix with torch's, is not needed. Every image is drawn by one thread, so their number changes no bit.
    """

    device = "cpu"

    def __init__(self, cfg: RasterCfg, sim: Sim, cameras: Sequence[CameraSpec], threads: int) -> None:
        try:
            from robokd.vision import images
        except ImportError as error:
            raise UserError(f"renderer=raster needs numba ({error}): pip install 'robokd[mujoco]'") from None
        except RuntimeError as error:  # neither the package's folder nor the home folder can be written
            raise UserError(f"renderer=raster: {error}. Set NUMBA_CACHE_DIR to a writable folder") from None
        self._kernels = images
        self._scene = _Scene(sim.model, cfg, has_colour=any(c.encoding == "rgb_u8" for c in cameras))
        self._threads = threads
        self._cameras = {camera.name: camera for camera in cameras}
        self._views: dict[_Key, _View] = {}
        for camera in cameras:
            view = self._views.setdefault(_key(camera), _View(camera, self._scene, self._threads))
            if camera.is_depth:
                view.see_up_to(camera.far_m)
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), thread_name_prefix="raster")
        # a field that MuJoCo's batch has not been asked for is zero until the next step
        _worlds(sim)
        check_worlds(sim, cameras, self._scene.shapes.geoms.tolist())
        if self._scene.paint:
            _colours(sim)

    def render(self, sim: Sim, cameras: Sequence[CameraSpec], out: Mapping[str, np.ndarray | Tensor]) -> None:
        """See Renderer.render."""
        worlds, fovy = _worlds(sim), on_host(sim.get("cam_fovy"), np.float64)
        paint = (*self._scene.paint, _colours(sim)) if self._scene.paint else ()
        jobs = []
        for key, group in self._together(cameras).items():
            view = self._views[key]
            steps = view.steps(fovy)
            for layers in group:
                outs = tuple(_OUTPUTS[kind](layers.get(kind), out, sim.num_envs) for kind in _KINDS)
                is_depth = set(layers) == {"depth"}
                jobs.append(_Job(view, is_depth, steps, (*worlds, view.index), outs, paint))
        size = sum(job.view.lens.rows * job.view.lens.columns for job in jobs) * sim.num_envs
        parts = max(1, min(self._threads, sim.num_envs, size // _PIXELS_PER_THREAD))
        ends = [sim.num_envs * part // parts for part in range(parts + 1)]
        futures = [self._pool.submit(self._draw, jobs, part, ends) for part in range(1, parts)]
        try:
            self._draw(jobs, 0, ends)
        finally:
            for future in futures:
                future.result()

    def _draw(self, jobs: Sequence[_Job], part: int, ends: Sequence[int]) -> None:
        tables = (self._scene.shapes, self._scene.meshes)
        for job in jobs:
            view, of = job.view, (ends[part], ends[part + 1])
            if job.is_depth:
                self._kernels.render_depth(
                    view.canvas(part, False), view.lens, job.steps, tables, job.scene, of, job.outs[0]
                )
            else:
                self._kernels.render_layers(
                    view.canvas(part, True), view.wide, job.steps, tables, job.scene, of, job.outs, job.paint
                )

    def _together(self, cameras: Sequence[CameraSpec]) -> dict[_Key, list[dict[str, CameraSpec]]]:
        """Return what is drawn at once: by view, at most one camera of each kind."""
        found: dict[_Key, dict[str, list[CameraSpec]]] = {}
        for camera in cameras:
            check_built(camera, self._cameras)
            found.setdefault(_key(camera), {kind: [] for kind in _KINDS})[_kind(camera)].append(camera)
        return {
            key: [
                {kind: camera for kind, camera in zip(_KINDS, layer, strict=True) if camera is not None}
                for layer in zip_longest(*kinds.values())
            ]
            for key, kinds in found.items()
        }


_Key = tuple[str, int, int, float]
_KINDS = ("depth", "segment", "rgb")


def _kind(camera: CameraSpec) -> str:
    return camera.encoding.split("_")[0]


def _key(camera: CameraSpec) -> _Key:
    """Return what cameras have in common that see the same pixels."""
    return (camera.scene_camera, camera.width, camera.height, camera.fovy_deg)


class _Scene:
    """The tables of a model."""

    def __init__(self, model: mujoco.MjModel, cfg: RasterCfg, *, has_colour: bool) -> None:
        self.model = model
        geoms = scene_tables.visible(model, cfg.hidden_groups)
        self.shapes, self.meshes, sources = scene_tables.tables(model, geoms)
        counts = np.diff(self.meshes.first_vertex)
        self.most_vertices = int(counts.max()) if counts.size else 0
        self.lights = len(model.light_active) + 1
        self.paint: tuple[Any, ...] = ()
        if has_colour:
            scene_colours.check_colours(model, self.shapes)
            from robokd.vision.textures import make_textures

            looks, textures = scene_colours.make_looks(model, self.shapes)
            surfaces = scene_colours.make_surfaces(model, self.meshes, sources)
            lights = scene_colours.make_lights(model, cfg.shadows)
            self.paint = (looks, surfaces, make_textures(model, textures), lights)


class _View:
    """What stays the same, from frame to frame, of the cameras that see the same pixels."""

    def __init__(self, camera: CameraSpec, scene: _Scene, threads: int) -> None:
        self.index = scene_tables.camera_index(scene.model, camera)
        self._fovy_deg = float(scene.model.cam_fovy[self.index])
        self.wide = make_lens(camera.width, camera.height, camera.fovy_deg, _BOUNDLESS_M)
        self.lens = self.wide
        self._scene = scene
        self._canvases: list[dict[bool, tuple[np.ndarray, ...]]] = [{} for _ in range(threads)]

    def see_up_to(self, far_m: float) -> None:
        """Let the depth lens reach so far."""
        reach = far_m if self.lens is self.wide else max(far_m, self.lens.far)
        self.lens = self.wide._replace(far=float(reach))

    def canvas(self, part: int, has_layers: bool) -> tuple[np.ndarray, ...]:
        """Return the room of a thread, see images.render_layers."""
        from robokd.vision.shading import LAMP_COLUMNS, ROOM, STAGE_COLUMNS

        made = self._canvases[part]
        if has_layers not in made:
            shape = (self.wide.rows, *self.wide.x.shape)
            room = (
                np.empty(shape, np.float32), np.zeros(shape, np.int32),
                np.empty((self._scene.most_vertices, 5)), np.empty(self.wide.x.shape, np.float32),
            )  # fmt: skip
            if has_layers:
                room += (
                    np.empty(shape, np.float32), np.empty(shape, np.int32),
                    np.empty((len(self._scene.shapes.geoms), STAGE_COLUMNS)),
                    np.empty((self._scene.lights, LAMP_COLUMNS)),
                    np.zeros((ROOM, self.wide.x.size + LANES), np.float32),
                )  # fmt: skip
            made[has_layers] = room
        return made[has_layers]

    def steps(self, fovy_deg: np.ndarray) -> np.ndarray:
        """Return (N,) distances between pixels at depth 1 if a world's field of view was set, else none."""
        if fovy_deg.ndim < 2 or fovy_deg.strides[0] == 0:
            return _NO_STEPS
        own = fovy_deg[:, self.index]
        is_set = own != self._fovy_deg
        if not is_set.any():
            return _NO_STEPS
        return np.where(is_set, 2 * np.tan(np.radians(own) / 2) / self.wide.rows, self.wide.step)


class _Job(NamedTuple):
    """One drawing of one call: the last four as `images.render_layers` takes them."""

    view: _View
    is_depth: bool  # and nothing else
    steps: np.ndarray
    scene: tuple[Any, ...]
    outs: tuple[tuple[Any, ...], ...]
    paint: tuple[Any, ...]


def _rows(field: np.ndarray) -> np.ndarray:
    """Return the (N, ...) values of a model field, (1, ...) if all worlds share them; nothing is copied."""
    return field[:1] if field.strides[0] == 0 else field


def _worlds(sim: Sim) -> tuple[np.ndarray, ...]:
    """Return geom positions, axes and sizes and camera positions and axes, in place."""
    position, matrix, size, eye, look = (on_host(sim.get(field), np.float64) for field in _GEOMS)
    size = size[None] if size.ndim == 2 else _rows(size)
    return position, matrix.reshape(*matrix.shape[:2], 9), size, eye, look.reshape(*look.shape[:2], 9)


def _colours(sim: Sim) -> tuple[np.ndarray, ...]:
    """Return what _COLOURS names, in place: (N or 1, ...)."""
    found = []
    for field, dtype in _COLOURS.items():
        owner = "nlight" if field.startswith("light") else "nmat" if field.startswith("mat") else "ngeom"
        if getattr(sim.model, owner):
            values = on_host(sim.get(field), dtype)
            found.append(values[None] if values.ndim == 2 else _rows(values))
        else:
            found.append(np.empty((1, 0, 3), dtype))
    return tuple(found)


def _depth_output(camera: CameraSpec | None, out: _Buffers, num_envs: int) -> tuple[Any, ...]:
    if camera is None:
        return _NONE[np.uint8], _NONE[np.uint16], _NONE[np.float32], 0, 0, _NO_CODING
    flat, (worlds, _, rows) = _flat(camera, out[camera.name], num_envs)
    near = np.float32(camera.near_m)
    if camera.encoding == "depth_f16":
        near = np.float32(max(near, SMALLEST_F16_M))
    coding = (near, np.float32(camera.far_m), steps_per_metre(camera))
    if flat.dtype == np.float16:
        flat = flat.view(np.uint16)
    arrays = (flat if flat.dtype == kind else _NONE[kind] for kind in (np.uint8, np.uint16, np.float32))
    return (*arrays, worlds, rows, coding)


def _segment_output(camera: CameraSpec | None, out: _Buffers, num_envs: int) -> tuple[Any, ...]:
    if camera is None:
        return _NONE[np.int16], 0, 0
    flat, (worlds, _, rows) = _flat(camera, out[camera.name], num_envs)
    return flat, worlds, rows


def _rgb_output(camera: CameraSpec | None, out: _Buffers, num_envs: int) -> tuple[Any, ...]:
    if camera is None:
        return _NONE[np.uint8], 0, 0, 0
    flat, strides = _flat(camera, out[camera.name], num_envs)
    return (flat, *strides)


_Buffers = Mapping[str, "np.ndarray | Tensor"]
_OUTPUTS = {"depth": _depth_output, "segment": _segment_output, "rgb": _rgb_output}
_NO_STEPS = np.empty(0)
_NO_CODING = (np.float32(0), np.float32(0), np.float32(0))


def _flat(
    camera: CameraSpec, buffer: np.ndarray | Tensor, num_envs: int
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return the caller's buffer as a row, and how far apart worlds, channels and rows are; no copy."""
    if getattr(buffer, "is_cuda", False):
        raise UserError(f"renderer=raster writes to CPU memory, the buffer of {camera.name!r} is on a GPU")
    image = np.asarray(buffer)
    check_buffer(camera, num_envs, image.shape, image.dtype.name)
    worlds, channels, rows, columns = (stride // image.itemsize for stride in image.strides)
    if columns != 1 or min(worlds, channels, rows) < 0 or not image.flags.writeable:
        raise ValueError(f"buffer of camera {camera.name!r}: rows must be contiguous, forward and writable")
    extent = sum(
        (count - 1) * stride for count, stride in zip(image.shape, (worlds, channels, rows, 1), strict=True)
    )
    flat = np.lib.stride_tricks.as_strided(image, (extent + 1,), (image.itemsize,))
    return flat, (worlds, channels, rows)
