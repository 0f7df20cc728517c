"""A room full of primitive shapes, looked at from everywhere in it: textures, a spot light, and much unseen.

Much of it is behind each camera. No ceiling, so that some pixels see nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robokd import geometry
from robokd.bench.row import Effort
from robokd.bench.scene import BOX, PLANE, SOLIDS, add_cameras, place_cameras
from robokd.sim.mujoco import MujocoCfg, MujocoSim

if TYPE_CHECKING:
    import mujoco

SIDE_M, HEIGHT_M = 3.0, 2.6  # from the middle to the walls; of the walls
CLEARANCE_M = 0.15  # around the camera: inside of a shape the renderers may differ


def build_room(effort: Effort, worlds: int) -> MujocoSim:
    """Return the room of this seed with the first `worlds` views of it, derived fields up to date."""
    sim = MujocoCfg().build(_spec(np.random.default_rng(effort.seed), effort.solids), worlds)
    place_cameras(sim, *_views(np.random.default_rng(effort.seed + 1), sim.model, worlds))
    return sim


def _spec(rng: np.random.Generator, solids: int) -> mujoco.MjSpec:
    import mujoco

    spec = mujoco.MjSpec()
    spec.visual.headlight.specular = [0, 0, 0]  # a gloss follows the eye; the fast renderer has none
    spec.add_texture(
        name="checker", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=[0.4, 0.4, 0.5], rgb2=[0.6, 0.6, 0.6], width=64, height=64,
    )  # fmt: skip
    material = spec.add_material(name="checker", texrepeat=[1, 1], texuniform=True, specular=0)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "checker"
    world = spec.worldbody
    world.add_light(pos=[1, -1, 4], dir=[-0.2, 0.2, -1], specular=[0, 0, 0], castshadow=False)
    half = HEIGHT_M / 2
    world.add_geom(type=PLANE, size=[SIDE_M, SIDE_M, 1], material="checker")
    # a plane is seen from its front only, which is its own +z: turned to look along +x, and along -y
    world.add_geom(
        type=PLANE, size=[half, SIDE_M, 1], pos=[-SIDE_M, 0, half], quat=[1, 0, 1, 0], rgba=[0.7, 0.7, 0.6, 1]
    )
    world.add_geom(
        type=PLANE, size=[SIDE_M, half, 1], pos=[0, SIDE_M, half], quat=[1, 1, 0, 0], rgba=[0.6, 0.7, 0.6, 1]
    )
    world.add_geom(type=BOX, size=[0.1, SIDE_M, half], pos=[SIDE_M, 0, half], rgba=[0.5, 0.6, 0.7, 1])
    world.add_geom(type=BOX, size=[SIDE_M, 0.1, half], pos=[0, -SIDE_M, half], rgba=[0.7, 0.5, 0.6, 1])
    for index in range(solids):
        at = rng.uniform((-SIDE_M + 0.3, -SIDE_M + 0.3, 0.1), (SIDE_M - 0.3, SIDE_M - 0.3, HEIGHT_M - 0.4))
        world.add_geom(
            type=SOLIDS[index % len(SOLIDS)], size=rng.uniform(0.05, 0.3, 3), pos=at,
            quat=rng.normal(size=4), rgba=[*rng.uniform(0.2, 1, 3), 1],
        )  # fmt: skip
    add_cameras(spec)
    return spec


def _views(rng: np.random.Generator, model: mujoco.MjModel, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (count, 3) and quaternions (count, 4) of cameras that stand free in the room."""
    # the radii of walls are larger, that of a plane is 0
    is_solid = (model.geom_rbound > 0) & (model.geom_rbound < SIDE_M / 2)
    centre, radius = model.geom_pos[is_solid], model.geom_rbound[is_solid]
    eyes, targets = [], []
    while len(eyes) < count:  # one after the other: the first views are the same, however many there are
        eye = rng.uniform((-SIDE_M + 0.3, -SIDE_M + 0.3, 0.3), (SIDE_M - 0.3, SIDE_M - 0.3, HEIGHT_M))
        target = rng.uniform((-1.5, -1.5, 0.2), (1.5, 1.5, 1.6))
        if (np.linalg.norm(centre - eye, axis=1) > radius + CLEARANCE_M).all():
            eyes.append(eye)
            targets.append(target)
    turns = np.array([geometry.look_at(*view, np) for view in zip(eyes, targets, strict=True)])
    return np.array(eyes), turns / np.linalg.norm(turns, axis=1, keepdims=True)
