"""What the scenes of `what=render` share: the kinds of shapes, and two cameras that see the same.

"fixed" belongs to the world, "carried" to a body that is moved; each world has a pose of its own for both.
Shapes: N worlds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from robokd.sim.base import Sim
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    import mujoco

FOVY_DEG, FAR_M = 60.0, 12.0
PLANE, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX = 0, 2, 3, 4, 5, 6  # mjtGeom
SOLIDS = (SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX)


def cameras(pixels: int) -> dict[str, CameraSpec]:
    """Return what is looked at: "depth", "rgb" and "segment" of the fixed camera, "carried" depth."""

    def spec(name: str, view: str, encoding: str) -> CameraSpec:
        return CameraSpec(
            name=name, view=view, width=pixels, height=pixels, fovy_deg=FOVY_DEG, far_m=FAR_M,
            encoding=encoding,
        )  # fmt: skip

    return {
        "depth": spec("depth", "fixed", "depth_u8"), "rgb": spec("rgb", "fixed", "rgb_u8"),
        "segment": spec("segment", "fixed", "segment_i16"), "carried": spec("carried", "carried", "depth_u8"),
    }  # fmt: skip


def add_cameras(spec: mujoco.MjSpec) -> None:
    """Add both cameras; `place_cameras` says where they are."""
    spec.worldbody.add_camera(name="fixed", fovy=FOVY_DEG)
    spec.worldbody.add_body(name="carrier", mocap=True).add_camera(name="carried", fovy=FOVY_DEG)


def place_cameras(sim: Sim, position: np.ndarray, quaternion: np.ndarray) -> None:
    """Put both cameras of each world at position (N, 3) and quaternion (N, 4); compute derived fields."""
    fixed = sim.model.camera("fixed").id
    for field, value in (("cam_pos", position), ("cam_quat", quaternion)):
        moved = sim.get(field).clone()
        moved[:, fixed] = torch.from_numpy(value).to(moved)
        sim.set(field, moved)
    sim.set("mocap_pos", torch.from_numpy(position)[:, None])
    sim.set("mocap_quat", torch.from_numpy(quaternion)[:, None])
    for field in ("cam_xpos", "cam_xmat", "geom_xpos", "geom_xmat"):
        sim.get(field)  # asked for before they are computed, or they stay zero
    sim.forward()
