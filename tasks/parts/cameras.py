"""Cameras of a task's scene, the light they see by, and how far off they stand between episodes.

Shapes: N worlds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robokd import geometry
from robokd.env.base import Range, State
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    import mujoco


def light(scene: mujoco.MjSpec) -> None:
    """Add a lamp like the sun; no renderer of ours draws highlights."""
    import mujoco

    scene.visual.headlight.specular = [0, 0, 0]
    scene.worldbody.add_light(
        name="lamp", type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[0.4, 0.5, -1], diffuse=[0.6] * 3,
        specular=[0, 0, 0],
    )  # fmt: skip


def add(scene: mujoco.MjSpec, cameras: Sequence[CameraSpec]) -> None:
    """Add the cameras to a scene, one for all specs that share a view."""
    for name in dict.fromkeys(camera.scene_camera for camera in cameras):
        camera = next(camera for camera in cameras if camera.scene_camera == name)
        body = scene.worldbody if camera.mount == "world" else scene.body(camera.mount)
        body.add_camera(
            name=name, pos=camera.position_m, quat=camera.quaternion_wxyz, fovy=camera.fovy_deg,
            resolution=[camera.width, camera.height],
        )  # fmt: skip


def parameters(names: Sequence[str], shift_m: float, tilt_rad: float) -> dict[str, Range]:
    """Return what is drawn of the cameras `names` for every episode: how far they are off, both ways."""
    high = (shift_m,) * 3 + (tilt_rad,) * 3
    low = tuple(-value for value in high)
    return {f"camera_{name}": Range(low=low, high=high, unit="m, rad") for name in names}


def move(names: Sequence[str], values: dict[str, Tensor], state: State, mask: Tensor) -> None:
    """Put the cameras `names` in the worlds of mask to where they were drawn."""
    sim = state.sim
    position, quaternion = sim.get("cam_pos").clone(), sim.get("cam_quat").clone()
    for name in names:  # one by one: a list of them would be copied to a GPU
        index = sim.model.camera(name).id
        shift, tilt = values[f"camera_{name}"].to(position).split(3, 1)
        position[:, index] += shift
        turn = geometry.from_rotation_vector(tilt, torch)
        quaternion[:, index] = geometry.multiply(quaternion[:, index], turn, torch)
    sim.set("cam_pos", position, mask)
    sim.set("cam_quat", quaternion, mask)
