"""`what=render`: pictures of primitive shapes, ours beside `mujoco.Renderer` and beside MuJoCo's rays.

Rendering alone is timed: on all sides the poses are computed before. One thread of ours. Where there is a
GPU, our kernel there is beside renderer=mjwarp, by wall time, until the last picture is drawn.
Shapes: N worlds, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from robokd import UserError
from robokd.bench import agreement, first_frame
from robokd.bench.opengl import OpenGl, check_opengl, worlds
from robokd.bench.rays import Rays
from robokd.bench.room import build_room
from robokd.bench.row import Effort, Gate, LeftOut, Measure, Row, in_turn, per, until_done
from robokd.bench.scatter import build_scatter, scatter_on
from robokd.bench.scene import cameras
from robokd.sim.base import Sim
from robokd.sim.mujoco import MujocoSim
from robokd.specs import CameraSpec
from robokd.vision.base import RendererCfg
from robokd.vision.mjwarp import MjwarpCfg
from robokd.vision.raster import RasterCfg

BUILD = {"scatter": build_scatter, "room": build_room}
BESIDE_OPENGL = {  # row -> scene, camera, the ratio that is wanted
    "depth, scatter, beside OpenGL": ("scatter", "depth", 80.0),
    "depth, room, beside OpenGL": ("room", "depth", 80.0),
    "colour, scatter, beside OpenGL": ("scatter", "rgb", 30.0),
    "colour, room (textures, spot light), beside OpenGL": ("room", "rgb", None),
    "segments, scatter, beside OpenGL": ("scatter", "segment", None),
}
BESIDE_RAYS = {"depth, scatter, beside rays": ("scatter", 25.0), "depth, room, beside rays": ("room", 25.0)}
BESIDE_WARP = "depth, scatter, beside mujoco_warp"
ON_GPU, ON_GPU_BAR = "depth, scatter, on a GPU, beside mujoco_warp", 2.0
CARRIED, CARRIED_BAR = "depth, scatter, camera on a body", 0.9


def rows(effort: Effort) -> Iterator[Row | LeftOut]:
    """Measure one row after the other; those that need OpenGL are left out where there is none."""
    views = cameras(effort.pixels)
    scenes = {
        name: _Scene(views=views, small=build(effort, effort.compared), large=build(effort, effort.worlds))
        for name, build in BUILD.items()
    }
    try:
        check_opengl(scenes["room"].small, views["depth"])
    except UserError as error:
        yield from (LeftOut(name=name, why=str(error)) for name in BESIDE_OPENGL)
    else:
        for name, (scene, camera, bar) in BESIDE_OPENGL.items():
            yield _beside_opengl(name, scenes[scene], camera, bar, effort)
    for name, (scene, bar) in BESIDE_RAYS.items():
        yield _beside_rays(name, scenes[scene], bar, effort)
    try:
        yield _beside_warp(scenes["scatter"], effort)
    except UserError as error:
        yield LeftOut(name=BESIDE_WARP, why=str(error))
    if torch.cuda.is_available():
        yield _on_gpu("cuda", scenes["scatter"], effort)
    else:
        yield LeftOut(name=ON_GPU, why="needs a GPU, not yet measured")
    yield _carried(scenes["scatter"], effort)
    yield from first_frame.rows(effort)


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """The same scene twice, and what is looked at in it."""

    views: dict[str, CameraSpec]
    small: MujocoSim  # the worlds that are compared
    large: MujocoSim  # those whose pictures are timed


def picture(sim: Sim, camera: CameraSpec, cfg: RendererCfg | None = None) -> np.ndarray:
    """Return pictures (N, C, H, W) of ours, or of another renderer: depth in m, colour, geoms."""
    return _drawing(sim, camera, cfg)().numpy(force=True)


def _beside_opengl(name: str, scene: _Scene, camera: str, bar: float | None, effort: Effort) -> Row:
    view, large, data = scene.views[camera], scene.large, worlds(scene.large)
    gate = Gate(
        name=f"the same as mujoco.Renderer with {effort.slices} slices",
        measures=_agreement(camera, scene, effort.slices),
    )
    with closing(OpenGl(large.model, view)) as peer:
        ours, theirs = in_turn(_drawing(large, view), lambda: [peer.draw(world) for world in data], effort)
        peer_name = peer.name
    return Row(
        name=name, peer_name=peer_name, unit="us/frame", bar=bar, gate=gate,
        ours_all=per(ours, large.num_envs), peer_all=per(theirs, large.num_envs),
    )  # fmt: skip


def _agreement(camera: str, scene: _Scene, slices: int) -> tuple[Measure, ...]:
    """Compare our pictures with OpenGL's of finely tessellated shapes."""
    views, sim = scene.views, scene.small
    if camera == "depth":
        _, is_flat = Rays(sim, views[camera]).pictures()
        ours, theirs = picture(sim, views[camera]), _opengl_picture(sim, views[camera], slices)
        return agreement.depths(ours[:, 0], theirs[:, 0], is_flat)
    ours = {kind: picture(sim, views[kind]) for kind in dict.fromkeys(("segment", camera))}
    theirs = {kind: _opengl_picture(sim, views[kind], slices) for kind in ours}
    if camera == "segment":
        return agreement.segments(ours[camera], theirs[camera])
    is_same = (ours["segment"] == theirs["segment"])[:, 0] & (ours["segment"][:, 0] >= 0)
    return agreement.colours(ours[camera], theirs[camera], is_same)


def _opengl_picture(sim: MujocoSim, camera: CameraSpec, slices: int) -> np.ndarray:
    with closing(OpenGl(sim.model, camera, slices=slices)) as reference:
        return np.stack([reference.picture(data) for data in worlds(sim)])


def _beside_rays(name: str, scene: _Scene, bar: float, effort: Effort) -> Row:
    view, small, large = scene.views["depth"], scene.small, scene.large
    depth, is_flat = Rays(small, view).pictures()
    gate = Gate(
        name="the same as rays", measures=agreement.depths(picture(small, view)[:, 0], depth, is_flat)
    )
    ours, theirs = in_turn(_drawing(large, view), Rays(large, view).cast, effort)
    return Row(
        name=name, peer_name="mujoco.batch.Batch.ray", unit="us/frame", bar=bar, gate=gate,
        ours_all=per(ours, large.num_envs), peer_all=per(theirs, large.num_envs),
    )  # fmt: skip


def _beside_warp(scene: _Scene, effort: Effort) -> Row:
    """Compare with mujoco_warp's ray tracer on the CPU; raises UserError where it is not installed."""
    view, small, large = scene.views["depth"], scene.small, scene.large
    theirs = picture(small, view, MjwarpCfg())[:, 0]
    _, is_flat = Rays(small, view).pictures()
    gate = Gate(
        name="the same as mujoco_warp", measures=agreement.depths(picture(small, view)[:, 0], theirs, is_flat)
    )
    ours, traced = in_turn(_drawing(large, view), _drawing(large, view, MjwarpCfg()), effort)
    return Row(
        name=BESIDE_WARP, peer_name="renderer=mjwarp on CPU", unit="us/frame", gate=gate,
        ours_all=per(ours, large.num_envs), peer_all=per(traced, large.num_envs),
    )  # fmt: skip


def _carried(scene: _Scene, effort: Effort) -> Row:
    """Compare a camera on a body with one of the world that sees the same: neither may cost more."""
    views, small, large = scene.views, scene.small, scene.large
    _, is_flat = Rays(small, views["depth"]).pictures()
    carried, still = (picture(small, views[name])[:, 0] for name in ("carried", "depth"))
    gate = Gate(name="the same as the fixed camera", measures=agreement.depths(carried, still, is_flat))
    ours, fixed = in_turn(_drawing(large, views["carried"]), _drawing(large, views["depth"]), effort)
    return Row(
        name=CARRIED, peer_name="ours, camera fixed", unit="us/frame", bar=CARRIED_BAR, gate=gate,
        ours_all=per(ours, large.num_envs), peer_all=per(fixed, large.num_envs),
    )  # fmt: skip


def _on_gpu(device: str, scene: _Scene, effort: Effort) -> Row:
    """Compare our kernel on a GPU with mujoco_warp's tracer at its best, whose tree is built once."""
    view, cfg, peer = scene.views["depth"], RasterCfg(kernel="warp"), MjwarpCfg(rebuild_every=10**9)
    small, large = (scatter_on(device, effort, count) for count in (effort.compared, effort.gpu_worlds))
    ours, theirs = (picture(small, view, one)[:, 0] for one in (cfg, peer))
    _, is_flat = Rays(scene.small, view).pictures()
    others = (theirs, picture(scene.small, view)[:, 0])
    measures = [measure for other in others for measure in agreement.depths(ours, other, is_flat)]
    sides = _drawing(large, view, cfg), _drawing(large, view, peer)
    drawn, traced = in_turn(*sides, effort, until_done)
    return Row(
        name=ON_GPU, peer_name="renderer=mjwarp on the same GPU", unit="us/frame", bar=ON_GPU_BAR,
        gate=Gate(name="the same as mujoco_warp, and as on the CPU", measures=tuple(measures)),
        ours_all=per(drawn, large.num_envs), peer_all=per(traced, large.num_envs),
    )  # fmt: skip


def _drawing(sim: Sim, camera: CameraSpec, cfg: RendererCfg | None = None) -> Callable[[], torch.Tensor]:
    """Return what draws all worlds once, ours if cfg says no other; depth in m, as the peers give it."""
    renderer = (cfg or RasterCfg()).build(sim, [camera], threads=1)
    kind = np.dtype(np.float32 if camera.is_depth else camera.dtype).name
    out = torch.empty((sim.num_envs, *camera.shape), dtype=getattr(torch, kind), device=renderer.device)

    def draw() -> torch.Tensor:
        renderer.render(sim, [camera], {camera.name: out})
        return out

    return draw
