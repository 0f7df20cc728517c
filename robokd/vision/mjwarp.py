"""Depth, colour and segments by mujoco_warp's ray tracer: made for many worlds on a GPU; slow on a CPU.

This file checks what is asked for and writes the caller's buffers; mjwarp_worlds.py has the worlds.
As raster it has no near plane (OpenGL's is at 1 mm), shows a plane from its front only, lights every pixel
and not corners, and reflects nothing. Other than raster and OpenGL, it rounds colours down (half a level
darker), does not smooth textures in the distance, lets a light's ambient colour reach its shadows and what
is outside of a spot's cone, and ends an endless plane 2 km from its middle.
Shapes: N worlds, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.registry import register
from robokd.specs import CameraSpec
from robokd.vision.base import check_built, check_worlds, scene_camera_index
from robokd.vision.encode import encode
from robokd.vision.mjwarp_worlds import TREES, Worlds, view_of
from robokd.vision.scene_tables import BOX, DRAWN, HFIELD, shown_rgba
from robokd.vision.warp_device import as_pictures, load_warp

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import Sim

_OPAQUE = 0.995  # alpha from which on MuJoCo blends nothing
_RGB, _FLAT = 1, 0  # mjtTextureRole, mjtTexture
_IMAGE_LIGHT = 3  # mjtLightType


@register("renderer", "mjwarp")
@dataclass(kw_only=True)
class MjwarpCfg:
    """Depth, colour and segments by mujoco_warp's ray tracer: for many worlds on a GPU, slow on a CPU."""

    device: str = ""  # that draws: cpu, cuda:0 ...; empty = the simulation's
    hidden_groups: tuple[int, ...] = (3, 4, 5)  # MuJoCo geom groups that are not drawn
    shadows: bool = False  # colours: hard shadows of the lights that cast them
    specular: bool = True  # colours: gloss, as in renderer=mujoco; renderer=raster has none
    rebuild_every: int = 8  # drawings; in between, the tree of the scene only follows what moves

    def __post_init__(self) -> None:
        if self.rebuild_every < 1:
            raise ValueError(f"renderer.rebuild_every must be >= 1, got {self.rebuild_every}")

    def build(self, sim: Sim, cameras: Sequence[CameraSpec], threads: int = 0) -> Mjwarp:
        """Return a renderer of these cameras; raises UserError without warp and for what it cannot draw.

        `threads` is not used: on a CPU, warp has one.
        """
        return Mjwarp(self, sim, cameras)


class Mjwarp:
    """The Renderer protocol over mujoco_warp; buffers may be on any device."""

    def __init__(self, cfg: MjwarpCfg, sim: Sim, cameras: Sequence[CameraSpec]) -> None:
        installed = load_warp("mjwarp", "mujoco_warp", TREES)
        self._cameras = {camera.name: camera for camera in cameras}
        self._num_envs = sim.num_envs
        geoms = _drawn(sim.model, cfg.hidden_groups)
        check_worlds(sim, cameras, geoms.tolist())
        if any(camera.encoding == "rgb_u8" for camera in cameras):
            _check_colours(sim.model, geoms, cfg)
        views = {view_of(camera): scene_camera_index(sim.model, camera) for camera in cameras}
        # of nothing, warp cannot build a tree
        self._worlds = Worlds(installed, cfg, sim, cameras, views) if views and geoms.size else None
        self.device = "cpu" if self._worlds is None else self._worlds.device

    def render(self, sim: Sim, cameras: Sequence[CameraSpec], out: Mapping[str, np.ndarray | Tensor]) -> None:
        """See Renderer.render."""
        if sim.num_envs != self._num_envs:
            raise UserError(f"the renderer was built for {self._num_envs} worlds, got {sim.num_envs}")
        for camera in cameras:
            check_built(camera, self._cameras)
        buffers = [as_pictures(camera, sim.num_envs, out[camera.name]) for camera in cameras]
        if self._worlds is None:
            for camera, buffer in zip(cameras, buffers, strict=True):
                buffer.fill_(-1 if camera.encoding == "segment_i16" else 0)
            return
        with self._worlds.on_device():
            self._worlds.draw(sim, cameras)
            for camera, buffer in zip(cameras, buffers, strict=True):
                image = self._worlds.image(camera)
                buffer.copy_(_coded(image, camera, buffer.dtype) if camera.is_depth else image)


def _coded(depth: Tensor, camera: CameraSpec, dtype: torch.dtype) -> Tensor:
    """Return the encoded image, or float32 m, 0 for a miss."""
    if dtype == torch.float32:
        return torch.where(depth <= float(np.float32(camera.far_m)), depth, 0)
    return encode(depth, camera, torch)


def _drawn(model: mujoco.MjModel, hidden_groups: Sequence[int]) -> np.ndarray:
    """Return the indices of the geoms of the groups that are shown; raises UserError if some cannot be."""
    geoms = np.flatnonzero(~np.isin(model.geom_group, hidden_groups))
    lost = [geom for geom in geoms.tolist() if int(model.geom_type[geom]) not in DRAWN]
    if lost:
        raise UserError(
            f"renderer=mjwarp cannot draw geoms {_names(model, lost)}: it draws {', '.join(DRAWN.values())}. "
            f"Geom groups {list(hidden_groups)} are skipped"
        )
    if model.nflex or model.nskin:
        raise UserError(
            f"renderer=mjwarp cannot draw the scene's {model.nflex} flexes and {model.nskin} skins"
        )
    return geoms


def _check_colours(model: mujoco.MjModel, geoms: np.ndarray, cfg: MjwarpCfg) -> None:
    """Raise UserError for what has no colour here."""
    alpha = shown_rgba(model)[geoms, 3]
    refused = {"see-through geoms": geoms[(alpha > 0) & (alpha < _OPAQUE)].tolist()}
    if cfg.shadows:
        refused["geoms without a shadow"] = geoms[model.geom_castshadow[geoms] == 0].tolist()
    flat = "textures other than flat ones of 3 or 4 channels, and any on boxes and height fields:"
    refused[flat] = [geom for geom in geoms.tolist() if not _is_mapped(model, geom)]
    for what, names in refused.items():
        if names:
            raise UserError(f"renderer=mjwarp cannot draw the colours of {what} {_names(model, names)}")
    lights = np.flatnonzero((model.light_type == _IMAGE_LIGHT) & (model.light_active != 0))
    if lights.size:
        name = model.light(int(lights[0])).name or f"#{lights[0]}"
        raise UserError(f"renderer=mjwarp cannot draw the image light {name}")


def _is_mapped(model: mujoco.MjModel, geom: int) -> bool:
    """Whether a geom has no texture, or one that mujoco_warp lays on it as MuJoCo does."""
    material = model.geom_matid[geom]
    texture = model.mat_texid.reshape(model.nmat, -1)[material, _RGB] if material >= 0 else -1
    if texture < 0:
        return True
    is_flat = model.tex_type[texture] == _FLAT and model.tex_nchannel[texture] in (3, 4)
    return bool(is_flat and model.geom_type[geom] not in (BOX, HFIELD))


def _names(model: mujoco.MjModel, geoms: Sequence[int]) -> str:
    names = [model.geom(geom).name or f"#{geom}" for geom in geoms[:8]]
    return ", ".join(names) + (" ..." if len(geoms) > 8 else "")
