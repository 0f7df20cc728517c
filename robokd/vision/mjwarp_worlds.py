"""Worlds as mujoco_warp's ray tracer sees them: its model, data, tree and pictures, filled from a simulation.

What differs from world to world is read at each drawing: poses, fields of view and the model fields of
`SHAPES` and `COLOURS`; in place, where the simulation holds them as the tracer does (sim=mjwarp, on the same
device), else by a copy. A field of `SHARED` that differs is refused. The rest of the model is read once.
Shapes: N worlds, V views, H rows, W columns.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.specs import CameraSpec
from robokd.vision.base import tells
from robokd.vision.scene_tables import HFIELD, hfield_triangles
from robokd.vision.warp_device import torch_stream, warp_device

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import Sim
    from robokd.vision.mjwarp import MjwarpCfg

POSES = ("geom_xpos", "geom_xmat")
LIGHT_POSES = ("light_xpos", "light_xdir")
CAMERA_POSES = ("cam_xpos", "cam_xmat")
SHAPES = ("geom_size", "geom_rgba", "geom_matid", "geom_dataid", "mat_rgba")
COLOURS = (
    "mat_texid", "mat_texrepeat", "mat_texuniform", "mat_emission", "mat_specular", "mat_shininess",
    "light_active", "light_castshadow", "light_ambient", "light_diffuse", "light_specular",
    "light_attenuation", "light_exponent", "light_cutoff",
)  # fmt: skip
SHARED = ("geom_type", "geom_group", "cam_projection")
SHARED_COLOURS = ("light_type", "mat_reflectance")
SHARED_SHADOWS = ("geom_castshadow",)
_LAYERS = {"depth": "depth", "rgb": "rgb", "segment": "seg"}  # of an encoding, as mujoco_warp names them

TREES = "mujoco_warp._src.bvh"  # no public way to a tree's roots in 4.0

View = tuple[str, int, int, float]  # camera of the scene, width, height, fovy in degrees


def view_of(camera: CameraSpec) -> View:
    """Return what cameras have in common that see the same pixels."""
    return (camera.scene_camera, camera.width, camera.height, camera.fovy_deg)


def _layer(camera: CameraSpec) -> str:
    return _LAYERS[camera.encoding.split("_")[0]]


class Worlds:
    """What mujoco_warp holds of the worlds: model, data and a context with the pictures.

    Every view has a camera of its own there: one camera of the scene may have several sizes and lenses.
    """

    def __init__(
        self, modules: Sequence[ModuleType], cfg: MjwarpCfg, sim: Sim, cameras: Sequence[CameraSpec],
        views: Mapping[View, int],
    ) -> None:  # fmt: skip
        self._warp, self._tracer, self._trees = modules
        self.device = warp_device(self._warp, "mjwarp", cfg.device or str(sim.device))
        self._views, self._indices = list(views), list(views.values())
        self._fovy = [fovy for *_, fovy in views]
        self._scene_fovy = sim.model.cam_fovy[self._indices].copy()
        wanted = {(view_of(camera), _layer(camera)) for camera in cameras}
        self._has = {layer: [(view, layer) in wanted for view in views] for layer in _LAYERS.values()}
        self._rebuild_every, self._drawings = cfg.rebuild_every, 0
        self._chosen: set[tuple[View, str]] | None = None
        self._graph: Any = None  # refit and render, recorded on a GPU
        self._list_fields(sim, cfg)
        with self.on_device():
            self._put(cfg, sim)

    def _list_fields(self, sim: Sim, cfg: MjwarpCfg) -> None:
        """Choose what is read from the simulation."""
        model, has_colour = sim.model, any(self._has["rgb"])
        fields = (*SHAPES, *COLOURS) if has_colour else SHAPES
        shared = (*SHARED, *SHARED_COLOURS) if has_colour else SHARED
        shared = (*shared, *SHARED_SHADOWS) if has_colour and cfg.shadows else shared
        self._fields = [field for field in fields if getattr(model, field).size and tells(sim, field)]
        self._shared = {field: getattr(model, field).copy() for field in shared if tells(sim, field)}
        self._poses = (*POSES, *LIGHT_POSES) if has_colour and model.nlight else POSES
        for field in (*self._poses, *CAMERA_POSES):
            sim.get(field)  # a field that MuJoCo's batch has not been asked for is zero until the next step

    def _put(self, cfg: MjwarpCfg, sim: Sim) -> None:
        """Put the model on the device, and make room for poses and pictures."""
        model, has_colour = _private_model(sim.model), any(self._has["rgb"])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about friction: nothing is simulated here
                self._model = self._tracer.put_model(model)
                self._data = self._tracer.make_data(model, nworld=sim.num_envs, nconmax=0, njmax=0)
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"renderer=mjwarp: mujoco_warp does not take this scene: {error}") from None
        self._context = self._tracer.create_render_context(
            model, nworld=sim.num_envs, cam_active=self._indices,
            cam_res=[(width, height) for _, width, height, _ in self._views],
            render_rgb=self._has["rgb"], render_depth=self._has["depth"], render_seg=self._has["seg"],
            enabled_geom_groups=sorted(set(model.geom_group.tolist()) - set(cfg.hidden_groups)),
            use_textures=has_colour, use_shadows=cfg.shadows, shadow_light_fraction=0.0,
            enable_specular=cfg.specular,
            use_precomputed_rays=False,  # they would be of one field of view for all worlds
            use_fast_math=False,  # renderers are compared; on a CPU it saves nothing
        )  # fmt: skip
        self._context.light_attenuation_is_default = False  # a world may have its own
        self._starts = {layer: getattr(self._context, f"{layer}_adr").numpy().tolist() for layer in self._has}
        self._own_cameras(sim.num_envs)
        self._lift_m = self._close_hfields(sim.model)
        self._hfields = np.flatnonzero(sim.model.geom_type == HFIELD)

    def _own_cameras(self, num_envs: int) -> None:
        """Let mujoco_warp look through our views in the place of the scene's cameras."""
        wp, model, data, views = self._warp, self._model, self._data, len(self._views)
        self._context.cam_id_map = wp.array(range(views), dtype=int)
        model.cam_projection = wp.zeros(views, dtype=int)
        model.cam_sensorsize = wp.zeros(views, dtype=wp.vec2)  # with a size, fovy would not count
        model.cam_intrinsic = wp.zeros((1, views), dtype=wp.vec4)
        model.cam_fovy = wp.zeros((num_envs, views), dtype=float)
        data.cam_xpos = wp.zeros((num_envs, views), dtype=wp.vec3)
        data.cam_xmat = wp.zeros((num_envs, views), dtype=wp.mat33)

    def _close_hfields(self, model: mujoco.MjModel) -> float:
        """Give height fields the sides and the base that mujoco_warp leaves out.

        Its bounds of a height field begin at height 0, so the triangles are lifted above; returns by how much
        the geoms must sink for that, in m.
        """
        if not model.nhfield:
            return 0.0
        wp, context = self._warp, self._context
        lift_m = float(model.hfield_size[:, 3].max())
        meshes, halves = [], []
        for index in range(model.nhfield):
            vertices, faces = hfield_triangles(model, index)
            vertices[:, 2] += lift_m
            meshes.append(wp.Mesh(wp.array(vertices, dtype=wp.vec3), wp.array(faces.ravel(), dtype=wp.int32)))
            halves.append(np.abs(vertices).max(axis=0) * (1, 1, 0.5))
        context.hfield_registry.update({mesh.id: mesh for mesh in meshes})  # or they would be freed
        context.hfield_bvh_id = wp.array([mesh.id for mesh in meshes], dtype=wp.uint64)
        context.hfield_bounds_size = wp.array(np.array(halves), dtype=wp.vec3)
        return lift_m

    def draw(self, sim: Sim, cameras: Sequence[CameraSpec]) -> None:
        """Draw what these cameras see, in all worlds."""
        for field, value in self._shared.items():
            _check_shared(field, sim.get(field), value)
        self._choose(cameras)
        self._copy_poses(sim)
        for field in self._fields:
            self._follow(self._model, field, sim.get(field))
        if self._drawings % self._rebuild_every == 0:
            self._tracer.refit_bvh(self._model, self._data, self._context)
            self._rebuild()
            self._tracer.render(self._model, self._data, self._context)
        else:
            self._trace()
        self._drawings += 1

    def image(self, camera: CameraSpec) -> Tensor:
        """Return (N, *camera.shape) of what was drawn: colours, geoms, or depth in m, 0 where nothing is."""
        layer = _layer(camera)
        start = self._starts[layer][self._views.index(view_of(camera))]
        drawn = self._tensor(getattr(self._context, f"{layer}_data"))
        drawn = drawn[:, start : start + camera.height * camera.width]
        size = (len(drawn), camera.height, camera.width)
        if layer == "rgb":
            channels = drawn.contiguous().view(torch.uint8).reshape(*size, 4)  # blue, green, red, alpha
            return channels[..., :3].flip(-1).permute(0, 3, 1, 2)
        return (drawn[..., 0] if layer == "seg" else drawn).reshape(size)[:, None]

    def _trace(self) -> None:
        """Let the tree follow what moved, and draw; on a GPU as recorded, until an array is another."""
        wp, arguments = self._warp, (self._model, self._data, self._context)
        if not self.device.startswith("cuda"):
            self._tracer.refit_bvh(*arguments)
            self._tracer.render(*arguments)
            return
        if self._graph is None:
            # torch's own stream cannot be recorded
            with wp.ScopedStream(wp.Stream(self.device)), wp.ScopedCapture() as capture:
                self._tracer.refit_bvh(*arguments)
                self._tracer.render(*arguments)
            self._graph = capture.graph
        wp.capture_launch(self._graph, stream=wp.get_stream(self.device))

    def _choose(self, cameras: Sequence[CameraSpec]) -> None:
        """Switch off what nobody asks for now."""
        wanted = {(view_of(camera), _layer(camera)) for camera in cameras}
        if wanted == self._chosen:
            return
        self._chosen = wanted
        for layer in self._has:
            flags = torch.tensor([(view, layer) in wanted for view in self._views])
            self._tensor(getattr(self._context, f"render_{layer}")).copy_(flags)

    def _copy_poses(self, sim: Sim) -> None:
        """Copy where geoms, lights and cameras are, and how wide these look."""
        data = self._data
        for field in self._poses:
            # height fields sink here, and nowhere else
            self._follow(data, field, sim.get(field), is_ours=bool(self._hfields.size))
        if self._hfields.size:
            up = self._tensor(data.geom_xmat)[:, self._hfields, :, 2]
            self._tensor(data.geom_xpos)[:, self._hfields] -= self._lift_m * up
        for field in CAMERA_POSES:
            target = self._tensor(getattr(data, field))
            target.copy_(torch.as_tensor(sim.get(field))[:, self._indices].reshape(target.shape))
        fovy = torch.as_tensor(sim.get("cam_fovy"))[:, self._indices]
        # a camera of the scene may stand for several CameraSpecs; a world of its own opinion is believed
        is_own = fovy != torch.from_numpy(self._scene_fovy).to(fovy)
        self._tensor(self._model.cam_fovy).copy_(torch.where(is_own, fovy, torch.tensor(self._fovy).to(fovy)))

    def _follow(self, owner: Any, field: str, values: np.ndarray | Tensor, *, is_ours: bool = False) -> None:  # noqa: ANN401
        """Let the tracer see a field, one row of it if the worlds share it: in place, or a copy of ours."""
        rows = torch.as_tensor(values)
        rows = rows[:1] if rows.stride(0) == 0 else rows
        array = getattr(owner, field)
        target = self._tensor(array)
        is_alike = rows.dtype == target.dtype and rows.device == target.device and rows.is_contiguous()
        if is_alike and not is_ours:
            if rows.data_ptr() != array.ptr or len(rows) != len(target):
                rows = rows.view(len(rows), *target.shape[1:])
                setattr(owner, field, self._warp.from_torch(rows, dtype=array.dtype))
                self._graph = None
            return
        if len(rows) != len(target):
            array = self._warp.zeros((len(rows), *array.shape[1:]), dtype=array.dtype)
            setattr(owner, field, array)
            target, self._graph = self._tensor(array), None
        target.copy_(rows.reshape(target.shape))

    def _rebuild(self) -> None:
        """Build the tree of the scene from where things are now: mujoco_warp's is of the default pose."""
        tree, roots = self._context.bvh, self._context.group_root
        tree.rebuild()
        self._warp.launch(
            self._trees.compute_bvh_group_roots, dim=len(roots), inputs=[tree.id], outputs=[roots]
        )

    def _tensor(self, array: object) -> Tensor:
        """Return warp's array as a tensor of the same memory."""
        return self._warp.to_torch(array)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Let warp work on our device; on a GPU in one order with torch."""
        wp = self._warp
        with ExitStack() as stack:
            stack.enter_context(wp.ScopedDevice(self.device))
            if self.device.startswith("cuda"):
                stack.enter_context(wp.ScopedStream(torch_stream(wp, self.device)))
            yield


def _private_model(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy that mujoco_warp takes; the simulation's own stays as it is."""
    private = copy.copy(model)
    # rays are aimed at a plane at 1 m and have no end; these are compiled into the kernel: the same for all
    private.stat.extent, private.vis.map.znear, private.vis.map.zfar = 1, 1, 0
    # nothing is simulated: Euler, Newton and sparse matrices, because there is physics that it refuses
    private.opt.integrator, private.opt.solver, private.opt.jacobian = 0, 2, 1
    private.opt.noslip_iterations = private.opt.enableflags = private.opt.disableflags = 0
    return private


def _check_shared(field: str, values: np.ndarray | Tensor, drawn: np.ndarray) -> None:
    """Raise UserError if a world has its own values of a field of which mujoco_warp has one for all."""
    is_tensor = isinstance(values, Tensor)
    if (values.stride(0) if is_tensor else values.strides[0]) == 0:
        return  # all share it: to look at it would be a wait for the device
    array = values.numpy(force=True) if is_tensor else values
    if not (array == drawn).all():
        raise UserError(
            f"renderer=mjwarp draws all worlds with the {field} of the start; some world has its own"
        )
