"""Primitive shapes of all kinds at random poses, looked at from all around: the scene whose bars count.

The middles of the solids fill a ball over a floor; every camera stands outside of it, over the floor, and has
all of them in view. One flat colour each, the headlight and one directional light, no gloss.
Shapes: N worlds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from robokd import geometry
from robokd.bench.row import Effort
from robokd.bench.scene import PLANE, SOLIDS, add_cameras, place_cameras
from robokd.sim.mjwarp import MjwarpCfg, MjwarpSim
from robokd.sim.mujoco import MujocoCfg, MujocoSim

if TYPE_CHECKING:
    import mujoco

COUNT = 60  # as many of each kind of solid
RADIUS_M = 1.0  # of the ball that their middles are in
SIZES_M = (0.05, 0.25)  # half sizes and radii
FLOOR_M = 2.0  # from its middle to its sides; it touches the ball
DISTANCES_M = (2.0, 3.0)  # of the cameras from the middle


def build_scatter(effort: Effort, worlds: int) -> MujocoSim:
    """Return the shapes of this seed with the first `worlds` views of them, derived fields up to date."""
    sim = MujocoCfg().build(_spec(np.random.default_rng(effort.seed)), worlds)
    place_cameras(sim, *_views(np.random.default_rng(effort.seed + 1), worlds))
    return sim


def scatter_on(device: str, effort: Effort, worlds: int) -> MjwarpSim:
    """Return the same of sim=mjwarp; raises UserError without it, or without the device."""
    sim = MjwarpCfg().build(_spec(np.random.default_rng(effort.seed)), worlds, device)
    place_cameras(sim, *_views(np.random.default_rng(effort.seed + 1), worlds))
    return sim


def _spec(rng: np.random.Generator) -> mujoco.MjSpec:
    import mujoco

    spec = mujoco.MjSpec()
    spec.visual.headlight.specular = [0, 0, 0]  # a gloss follows the eye; the fast renderer has none
    world = spec.worldbody
    world.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[-0.3, 0.4, -1], specular=[0, 0, 0],
        castshadow=False,
    )  # fmt: skip
    world.add_geom(
        type=PLANE, size=[FLOOR_M, FLOOR_M, 1], pos=[0, 0, -RADIUS_M], rgba=[*rng.uniform(0.2, 1, 3), 1]
    )
    for index in range(COUNT):
        world.add_geom(
            type=SOLIDS[index % len(SOLIDS)], size=rng.uniform(*SIZES_M, 3), pos=_in_ball(rng) * RADIUS_M,
            quat=rng.normal(size=4), rgba=[*rng.uniform(0.2, 1, 3), 1],
        )  # fmt: skip
    add_cameras(spec)
    return spec


def _views(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (count, 3) and quaternions (count, 4) of cameras that look at the ball."""
    eyes, turns = [], []
    for _ in range(count):  # one after the other: the first views are the same, however many there are
        away = rng.normal(size=3)
        # MuJoCo draws the back of a plane too, see-through; we draw its front, as rays see it
        away[2] = abs(away[2])
        eye = away / np.linalg.norm(away) * rng.uniform(*DISTANCES_M)
        half = rng.uniform(0, np.pi)
        roll = np.array([np.cos(half), 0, 0, np.sin(half)])
        turn = geometry.multiply(geometry.look_at(eye, np.zeros(3), np), roll, np)
        eyes.append(eye)
        turns.append(turn / np.linalg.norm(turn))
    return np.array(eyes), np.array(turns)


def _in_ball(rng: np.random.Generator) -> np.ndarray:
    """Return a point (3,) that is anywhere in the unit ball, with equal chances."""
    direction = rng.normal(size=3)
    return direction / np.linalg.norm(direction) * np.cbrt(rng.uniform())
