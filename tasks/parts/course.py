"""A course of gates: square frames that stand upright, each with an axis that points the way through.

Shapes: N environments, G gates. Frame: the world's, z up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from robokd.tasks.parts import cameras
from torch import Tensor

if TYPE_CHECKING:
    import mujoco

AFTER_M = 3.0  # between the gates that only say where it goes on after the last one
DEEP_M = 0.1  # of a frame, along its axis


def add_ground(spec: mujoco.MjSpec) -> None:
    """Add a floor that may be touched, and the light."""
    import mujoco

    plane = mujoco.mjtGeom.mjGEOM_PLANE
    floor = spec.worldbody.add_geom(name="floor", type=plane, size=[30, 30, 0.1], contype=1)
    floor.rgba = [0.5, 0.55, 0.6, 1]
    cameras.light(spec)


def add_gate(spec: mujoco.MjSpec, name: str, inner_m: float, bar_m: float, place_m: list[float]) -> None:
    """Add a frame of four bars around an opening of inner_m, as a mocap body that may be touched."""
    import mujoco

    thick, middle = bar_m / 2, (inner_m + bar_m) / 2
    gate = spec.worldbody.add_body(name=name, mocap=True, pos=place_m)
    for y, z in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        gate.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0, y * middle, z * middle], rgba=[0.95, 0.45, 0.1, 1],
            size=[DEEP_M / 2, thick if y else middle + thick, thick if z else middle - thick], contype=1,
        )  # fmt: skip


def lay(gates: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return places (N, G + 2, 3) and headings (N, G + 2) of the gates; the last two are not there.

    Args:
        gates: (N, G, 4) of each: distance from the one before, m; bearing from its axis, rad; height of the
            centre, m; turn of the own axis from the way here, rad.
        start: (3,) where the course begins, along x.
    """
    count = gates.shape[1]
    point = start.expand(len(gates), 3)
    heading = torch.zeros_like(point[:, 0])
    points, headings = [], []
    for index in range(count + 2):
        if index < count:
            distance, bearing, height, turn = gates[:, index].unbind(1)
        else:
            distance, bearing, height, turn = AFTER_M, 0.0, point[:, 2], 0.0
        way = heading + bearing
        point = torch.stack(
            (point[:, 0] + distance * torch.cos(way), point[:, 1] + distance * torch.sin(way), height), 1
        )
        heading = way + turn
        points.append(point)
        headings.append(heading)
    return torch.stack(points, 1), torch.stack(headings, 1)


def to_gate(position: Tensor, place: Tensor, axis: Tensor) -> dict[str, Tensor]:
    """Return where positions (N, 3) are in their gates' axes (through, left, up), m, and how far off, m."""
    away = position - place
    left = torch.stack((-axis[:, 1], axis[:, 0], axis[:, 2]), 1)
    local = torch.stack(((away * axis).sum(1), (away * left).sum(1), away[:, 2]), 1)
    return {"local": local, "distance": torch.linalg.vector_norm(away, dim=1)}


def crossing(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether a way between places (N, 3) in a gate's axes goes forward through its plane, and where.

    Where is the larger of the two distances from the gate's centre in its plane, (N,) m.
    """
    has_crossed = (before[:, 0] < 0) & (now[:, 0] >= 0)
    share = (-before[:, :1] / (now - before)[:, :1].clip(min=1e-6)).clip(0, 1)
    return has_crossed, (before + share * (now - before))[:, 1:].abs().amax(1)


def approach(way: Tensor, axis: Tensor, *, line: float, ahead_m: float) -> Tensor:
    """Return the direction (N, 3) that leads onto a gate's axis and along it through the gate.

    l + n max(d - line |l|, ahead_m), of norm 1: n the axis, d and l the way (N, 3) to the gate's centre along
    the axis and beside it.
    """
    along = (way * axis).sum(1, keepdim=True)
    beside = way - along * axis
    aim = along - line * torch.linalg.vector_norm(beside, dim=1, keepdim=True)
    aim = beside + axis * aim.clip(min=ahead_m)
    return aim / torch.linalg.vector_norm(aim, dim=1, keepdim=True)
