"""Images by MuJoCo's own OpenGL renderer: meshes, textures, lights, shadows. The oracle, not fast.

Every world is copied into one MjData and a private MjModel, and drawn by `mujoco.Renderer`, one image at a
time. What differs from world to world is honoured: poses, and the model fields of `VISUAL_FIELDS`. Pixels of
tex_data are not: they are uploaded once.
Shapes: N worlds, H rows, W columns.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from robokd import UserError
from robokd.registry import register
from robokd.specs import CameraSpec
from robokd.vision.base import check_buffer, check_built, check_worlds, scene_camera_index, tells
from robokd.vision.encode import encode

if TYPE_CHECKING:
    import mujoco
    from torch import Tensor

    from robokd.sim.base import Sim

CURE = "on Debian and Ubuntu: apt-get install libegl1 libgl1-mesa-dri, then set MUJOCO_GL=egl"
# poses as mjv_updateScene reads them, so that what is drawn is what the simulation's fields say
POSES = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")
BODY_POSES = ("xpos", "xmat", "xquat")  # of skins
VISUAL_FIELDS = (
    "geom_size", "geom_rgba", "geom_type", "geom_group", "geom_matid", "geom_dataid", "geom_castshadow",
    "mat_rgba", "mat_texid", "mat_texrepeat", "mat_texuniform", "mat_emission", "mat_specular",
    "mat_shininess", "mat_reflectance", "light_type", "light_active", "light_castshadow", "light_ambient",
    "light_diffuse", "light_specular", "light_attenuation", "light_exponent", "light_cutoff",
)  # fmt: skip
NEAR_CLIP_M = 0.001  # MuJoCo's depth buffer is float32 with the near plane at 1: this costs no precision
_HORIZON_M = 1e5
_BEYOND = 1.5  # the far plane stands at this times the camera's far, so that what lies on far is still drawn


@register("renderer", "mujoco")
@dataclass(kw_only=True)
class GlCfg:
    """Depth, colour and segments by MuJoCo's OpenGL renderer: all that MuJoCo draws, slowly."""

    shadows: bool = False
    samples: int = 0  # of a colour pixel, against jagged edges; 0 = one
    slices: int = 0  # around and along a round shape, which is drawn as a polyhedron; 0 = the scene's numbers
    skybox: bool = False  # False: black where nothing is, as the other renderers have it
    hidden_groups: tuple[int, ...] = (3, 4, 5)  # MuJoCo geom groups that are not drawn

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"renderer.samples must be >= 0, got {self.samples}")
        if self.slices != 0 and self.slices < 3:
            raise ValueError(f"renderer.slices must be >= 3, or 0 for the scene's own, got {self.slices}")

    def build(self, sim: Sim, cameras: Sequence[CameraSpec], threads: int = 0) -> Gl:
        """Return a renderer of these cameras; raises UserError without GL and for what it cannot draw.

        `threads` is not used: OpenGL's driver has threads of its own.
        """
        return Gl(self, sim, cameras)


class Gl:
    """The Renderer protocol over mujoco.Renderer; use it from one thread, and `close` it."""

    device = "cpu"

    def __init__(self, cfg: GlCfg, sim: Sim, cameras: Sequence[CameraSpec]) -> None:
        mujoco = _mujoco()
        self._contexts: dict[tuple[int, int], mujoco.Renderer] = {}
        self._index = {camera.name: scene_camera_index(sim.model, camera) for camera in cameras}
        shown = ~np.isin(sim.model.geom_group, cfg.hidden_groups)
        check_worlds(sim, cameras, shown.nonzero()[0].tolist())
        self._cameras = {camera.name: camera for camera in cameras}
        self._model = _private_model(sim.model, cfg, cameras)
        self._fovy = sim.model.cam_fovy.copy()
        self._data = mujoco.MjData(self._model)
        self._geom_type = int(mujoco.mjtObj.mjOBJ_GEOM)
        self._option = _options(mujoco, cfg)
        self._poses = [field for field in _pose_fields(self._model) if getattr(self._data, field).size]
        fields = [field for field in VISUAL_FIELDS if getattr(self._model, field).size]
        self._fields = [field for field in (*fields, "cam_fovy") if tells(sim, field)]
        for field in self._poses:
            sim.get(field)  # a field that MuJoCo's batch has not been asked for is zero until the next step
        try:
            for size in {(camera.height, camera.width) for camera in cameras}:
                self._contexts[size] = renderer = mujoco.Renderer(self._model, *size)
                renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = cfg.shadows
                renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = cfg.skybox
        # MuJoCo, PyOpenGL and GLFW each raise types of their own, and all mean the same here
        except Exception as error:
            self.close()
            raise UserError(f"renderer=mujoco cannot use OpenGL here ({_line(error)}); {CURE}") from None

    def render(self, sim: Sim, cameras: Sequence[CameraSpec], out: Mapping[str, np.ndarray | Tensor]) -> None:
        """See Renderer.render."""
        images = [self._buffer(camera, out[camera.name], sim.num_envs) for camera in cameras]
        poses = {field: _rows(sim.get(field), getattr(self._data, field)) for field in self._poses}
        fields = {field: _rows(sim.get(field), getattr(self._model, field)) for field in self._fields}
        fovy = fields.pop("cam_fovy", self._fovy[None])
        for world in range(sim.num_envs):
            for rows, target in ((poses, self._data), (fields, self._model)):
                for field, values in rows.items():
                    getattr(target, field)[...] = values[min(world, len(values) - 1)]
            for camera, image in zip(cameras, images, strict=True):
                self._draw(camera, fovy[min(world, len(fovy) - 1)], image[world])

    def close(self) -> None:
        """Free the OpenGL contexts."""
        for renderer in self._contexts.values():
            renderer.close()
        self._contexts.clear()

    def _draw(self, camera: CameraSpec, fovy: np.ndarray, image: np.ndarray) -> None:
        """Draw the world that model and data hold into image (C, H, W); `fovy` (cameras,) is the world's."""
        renderer, index, model = (
            self._contexts[camera.height, camera.width],
            self._index[camera.name],
            self._model,
        )
        # a camera of the scene may stand for several CameraSpecs; a world of its own opinion is believed
        is_own = fovy[index] != self._fovy[index]
        model.cam_fovy[index] = fovy[index] if is_own else camera.fovy_deg
        model.vis.map.znear = NEAR_CLIP_M / model.stat.extent
        # colours and segments reach as far as those of the other renderers: to the horizon
        far = _BEYOND * camera.far_m if camera.is_depth else _HORIZON_M
        model.vis.map.zfar = far / model.stat.extent
        renderer.update_scene(self._data, camera=index, scene_option=self._option)
        renderer.disable_depth_rendering()
        renderer.disable_segmentation_rendering()
        if camera.is_depth:
            renderer.enable_depth_rendering()
            depth = renderer.render()  # a fresh array: nothing of it is seen again
            # where nothing is, the depth is that of the far plane
            depth[depth > camera.far_m] = 0
            image[0] = depth if image.dtype == np.float32 else encode(depth, camera)
        elif camera.encoding == "segment_i16":
            renderer.enable_segmentation_rendering()
            objects = renderer.render()
            image[0] = np.where(objects[..., 1] == self._geom_type, objects[..., 0], -1)
        else:
            image[...] = renderer.render().transpose(2, 0, 1)

    def _buffer(self, camera: CameraSpec, buffer: np.ndarray | Tensor, num_envs: int) -> np.ndarray:
        """Return the caller's buffer as a numpy array; nothing is copied."""
        check_built(camera, self._cameras)
        if getattr(buffer, "is_cuda", False):
            raise UserError(
                f"renderer=mujoco writes to CPU memory, the buffer of {camera.name!r} is on a GPU"
            )
        image = np.asarray(buffer)
        check_buffer(camera, num_envs, image.shape, image.dtype.name)
        if not image.flags.writeable:
            raise UserError(f"buffer of camera {camera.name!r}: it must be writable")
        return image


def _mujoco() -> ModuleType:
    """Return the module, with EGL as its way to OpenGL where there is no screen and nobody chose."""
    try:
        import mujoco
        from mujoco.rendering.classic import gl_context
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"renderer=mujoco cannot be used ({_line(error)}): pip install 'robokd[mujoco]'"
        ) from None
    screens = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in screens):
        os.environ["MUJOCO_GL"] = "egl"
        try:
            importlib.reload(gl_context)  # MuJoCo reads the variable once, at its first import
        except Exception as error:  # PyOpenGL's, without libEGL: of no common type
            raise UserError(f"renderer=mujoco cannot use OpenGL here ({_line(error)}); {CURE}") from None
    return mujoco


def _private_model(model: mujoco.MjModel, cfg: GlCfg, cameras: Sequence[CameraSpec]) -> mujoco.MjModel:
    """Return a copy of the model that is drawn from; the simulation's own stays as it is."""
    private = copy.copy(model)
    private.vis.global_.offwidth = max((camera.width for camera in cameras), default=1)
    private.vis.global_.offheight = max((camera.height for camera in cameras), default=1)
    private.vis.quality.offsamples = cfg.samples
    if cfg.slices:
        private.vis.quality.numslices = private.vis.quality.numstacks = cfg.slices
    private.cam_sensorsize[:] = 0  # with a size, MuJoCo takes the lens from cam_intrinsic and not from fovy
    return private


def _options(mujoco: ModuleType, cfg: GlCfg) -> mujoco.MjvOption:
    """Return what is drawn: bodies only, no sites, tendons or other marks."""
    option = mujoco.MjvOption()
    option.geomgroup[:] = 1
    option.geomgroup[list(cfg.hidden_groups)] = 0
    for groups in (option.sitegroup, option.tendongroup, option.jointgroup, option.actuatorgroup):
        groups[:] = 0
    for flag in ("RANGEFINDER", "TENDON", "CONSTRAINT", "ACTUATOR"):
        option.flags[getattr(mujoco.mjtVisFlag, f"mjVIS_{flag}")] = False
    return option


def _pose_fields(model: mujoco.MjModel) -> tuple[str, ...]:
    return (*POSES, *(BODY_POSES if model.nskin else ()), *(("flexvert_xpos",) if model.nflex else ()))


def _rows(values: np.ndarray | Tensor, like: np.ndarray) -> np.ndarray:
    """Return a field of the simulation as (N or 1, *shape of `like`)."""
    array = values if isinstance(values, np.ndarray) else values.cpu().numpy()
    return array.reshape(-1, *like.shape)


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
