"""`what=render`: pictures of a room of primitive shapes, ours beside `mujoco.Renderer` and MuJoCo's rays.

Rendering alone is timed: on all sides the poses are computed before. One thread of ours.
Shapes: N worlds, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from robokd import UserError
from robokd.bench import agreement, first_frame
from robokd.bench.opengl import OpenGl, check_opengl, worlds
from robokd.bench.rays import Rays
from robokd.bench.room import build_room, cameras
from robokd.bench.row import Effort, Gate, LeftOut, Measure, Row, in_turn, per
from robokd.sim.base import Sim
from robokd.sim.mujoco import MujocoSim
from robokd.specs import CameraSpec
from robokd.vision.raster import RasterCfg

KINDS = {"depth": "depth", "rgb": "colour", "segment": "segments"}  # camera -> how the row calls it
BARS = {"depth": 100.0, "rgb": None, "segment": None}
RAYS_BAR, CARRIED_BAR = 60.0, 0.9


def rows(effort: Effort) -> Iterator[Row | LeftOut]:
    """Measure one row after the other; those that need OpenGL are left out where there is none."""
    views = cameras(effort.pixels)
    small, large = build_room(effort, effort.compared), build_room(effort, effort.worlds)
    try:
        check_opengl(small, views["depth"])
    except UserError as error:
        yield from (LeftOut(name=_name(camera), why=str(error)) for camera in KINDS)
    else:
        for camera in KINDS:
            yield _beside_opengl(camera, views, small, large, effort)
    yield _beside_rays(views["depth"], small, large, effort)
    yield _carried(views, small, large, effort)
    yield from first_frame.rows(effort)


def picture(sim: Sim, camera: CameraSpec) -> np.ndarray:
    """Return our pictures (N, C, H, W): depth in m, colour, geoms."""
    renderer = RasterCfg().build(sim, [camera], threads=1)
    out = np.empty((sim.num_envs, *camera.shape), np.float32 if camera.is_depth else camera.dtype)
    renderer.render(sim, [camera], {camera.name: out})
    return out


def _beside_opengl(
    name: str, views: dict[str, CameraSpec], small: MujocoSim, large: MujocoSim, effort: Effort
) -> Row:
    camera, data = views[name], worlds(large)
    gate = Gate(
        name=f"the same as mujoco.Renderer with {effort.slices} slices",
        measures=_agreement(name, views, small, effort.slices),
    )
    with closing(OpenGl(large.model, camera)) as peer:
        ours, theirs = in_turn(_drawing(large, camera), lambda: [peer.draw(world) for world in data], effort)
        peer_name = peer.name
    return Row(
        name=_name(name), peer_name=peer_name, unit="us/frame", bar=BARS[name], gate=gate,
        ours_all=per(ours, large.num_envs), peer_all=per(theirs, large.num_envs),
    )  # fmt: skip


def _agreement(name: str, views: dict[str, CameraSpec], sim: MujocoSim, slices: int) -> tuple[Measure, ...]:
    """Compare our pictures with OpenGL's of finely tessellated shapes."""
    if name == "depth":
        _, is_flat = Rays(sim, views[name]).pictures()
        return agreement.depths(
            picture(sim, views[name])[:, 0], _opengl_picture(sim, views[name], slices)[:, 0], is_flat
        )
    ours = {kind: picture(sim, views[kind]) for kind in dict.fromkeys(("segment", name))}
    theirs = {kind: _opengl_picture(sim, views[kind], slices) for kind in ours}
    if name == "segment":
        return agreement.segments(ours[name], theirs[name])
    is_same = (ours["segment"] == theirs["segment"])[:, 0] & (ours["segment"][:, 0] >= 0)
    return agreement.colours(ours[name], theirs[name], is_same)


def _opengl_picture(sim: MujocoSim, camera: CameraSpec, slices: int) -> np.ndarray:
    with closing(OpenGl(sim.model, camera, slices=slices)) as reference:
        return np.stack([reference.picture(data) for data in worlds(sim)])


def _beside_rays(camera: CameraSpec, small: MujocoSim, large: MujocoSim, effort: Effort) -> Row:
    depth, is_flat = Rays(small, camera).pictures()
    gate = Gate(
        name="the same as rays", measures=agreement.depths(picture(small, camera)[:, 0], depth, is_flat)
    )
    ours, theirs = in_turn(_drawing(large, camera), Rays(large, camera).cast, effort)
    return Row(
        name="depth beside rays", peer_name="mujoco.batch.Batch.ray", unit="us/frame", bar=RAYS_BAR,
        gate=gate, ours_all=per(ours, large.num_envs), peer_all=per(theirs, large.num_envs),
    )  # fmt: skip


def _carried(views: dict[str, CameraSpec], small: MujocoSim, large: MujocoSim, effort: Effort) -> Row:
    """Compare a camera on a body with one of the world that sees the same: neither may cost more."""
    _, is_flat = Rays(small, views["depth"]).pictures()
    carried, still = (picture(small, views[name])[:, 0] for name in ("carried", "depth"))
    gate = Gate(name="the same as the fixed camera", measures=agreement.depths(carried, still, is_flat))
    ours, fixed = in_turn(_drawing(large, views["carried"]), _drawing(large, views["depth"]), effort)
    return Row(
        name="depth, camera on a body", peer_name="ours, camera fixed", unit="us/frame", bar=CARRIED_BAR,
        gate=gate, ours_all=per(ours, large.num_envs), peer_all=per(fixed, large.num_envs),
    )  # fmt: skip


def _drawing(sim: Sim, camera: CameraSpec) -> Callable[[], None]:
    """Return what draws all worlds once; depth in m, which is what the peers give."""
    renderer = RasterCfg().build(sim, [camera], threads=1)
    out = np.empty((sim.num_envs, *camera.shape), np.float32 if camera.is_depth else camera.dtype)
    return lambda: renderer.render(sim, [camera], {camera.name: out})


def _name(camera: str) -> str:
    return f"{KINDS[camera]} beside OpenGL"
