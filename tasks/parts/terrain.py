"""Terrain along a robot's way, +x: flat, slopes, stairs, gaps, stepping stones; of BOXES boxes and a plane.

A terrain is the top faces of its boxes: rectangles that may rise along x. What lies around them is the plane:
at height 0, or a pit's bottom where one can fall. An episode has a kind, a difficulty and numbers of chance,
and every world has a terrain of its own. At difficulty 1: slopes of 17 degrees, steps of 10 cm, gaps of up
to 15 cm, stones 15 cm apart; above 1 it goes on in the same way.
Shapes: N worlds, B boxes, P points. m, rad. Frame: the world's; the robot begins near its origin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import mujoco

KINDS = ("flat", "slope", "stairs", "gaps", "stones")
BOXES = 20  # of a world
CHANCES = BOXES  # uniform numbers that a terrain is made from, one for each box
START_M = 0.7  # the way is flat from behind the robot to here
WIDTH_M = 3.0  # half, of the way
SLOPE_RAD, RISE_M, GAP_M, JUMP_M = math.radians(17), 0.10, 0.15, 0.04  # at difficulty 1
RAMP_M, PLATEAU_M = 1.5, 1.0  # of a slope: up, on top, down
STEPS, TREAD_M = 6, 0.3  # of stairs, up and down
PLATFORMS, PLATFORM_M = 5, (0.7, 1.0)  # between gaps
ROWS, ROW_M, STONE_M = 9, 0.45, 0.35  # of stones: how many, how far apart, half their width
PIT_M = -0.5  # bottom
AWAY_M = -8.0  # where boxes lie that are not needed
LEAST_M = 0.01  # of a rise or a gap
THICK_M = 1.0  # half, of a box


class Terrain(NamedTuple):
    """The terrains of N worlds."""

    faces: Tensor  # (N, B, 6) x0, x1, y0, y1, z at x0, z at x1
    plane: Tensor  # (N,) height


def add(scene: mujoco.MjSpec) -> None:
    """Add the plane, "plane", and the boxes, "ground0" and on, to a scene; where they lie, a reset says."""
    import mujoco

    scene.worldbody.add_geom(
        name="plane", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 0.1], rgba=[0.45, 0.5, 0.45, 1]
    )
    for index in range(BOXES):
        shade = 0.5 + 0.1 * (index % 3)
        # in a row, as they mostly are: MuJoCo sorts them into a tree by where they are here
        scene.worldbody.add_geom(
            name=f"ground{index}", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.2, 1, 1],
            pos=[0.4 * index, 0, AWAY_M], rgba=[shade, 0.9 * shade, 0.75 * shade, 1],
        )  # fmt: skip


def make(kind: Tensor, difficulty: Tensor, chance: Tensor) -> Terrain:
    """Return terrains.

    Args:
        kind: (N,) int64, of KINDS.
        difficulty: (N,) float, >= 0.
        chance: (N, CHANCES) uniform on [0, 1).
    """
    makers = (_flat, _slope, _stairs, _gaps, _stones)
    every = torch.stack([maker(difficulty.to(chance), chance) for maker in makers], 1)
    faces = every[torch.arange(len(kind), device=kind.device), kind]
    has_pit = (kind == KINDS.index("gaps")) | (kind == KINDS.index("stones"))
    return Terrain(faces, has_pit.to(chance) * PIT_M)


def boxes(faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes under faces: centres and half sizes (N, B, 3), quaternions wxyz (N, B, 4)."""
    x0, x1, y0, y1, z0, z1 = faces.unbind(-1)
    pitch = -torch.atan2(z1 - z0, x1 - x0)  # about y: what rises ahead turns the nose up
    size = torch.stack((torch.hypot(x1 - x0, z1 - z0) / 2, (y1 - y0) / 2, torch.full_like(x0, THICK_M)), -1)
    down = THICK_M * torch.stack((pitch.sin(), torch.zeros_like(pitch), pitch.cos()), -1)
    centre = torch.stack((x0 + x1, y0 + y1, z0 + z1), -1) / 2 - down
    zero = torch.zeros_like(pitch)
    return centre, size, torch.stack(((pitch / 2).cos(), zero, (pitch / 2).sin(), zero), -1)


def heights(terrain: Terrain, x: Tensor, y: Tensor) -> Tensor:
    """Return the heights of the ground under points x, y (N, P): (N, P)."""
    x0, x1, y0, y1, z0, z1 = terrain.faces[:, :, None].unbind(-1)
    x, y = x[:, None], y[:, None]
    is_on = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    found = torch.where(is_on, z0 + (x - x0) * ((z1 - z0) / (x1 - x0)), AWAY_M)
    return torch.maximum(found.amax(1), terrain.plane[:, None])


def _rows(*columns: Tensor | float, like: Tensor) -> Tensor:
    """Return faces (N, K, 6) of columns of (N, K), (N, 1) or numbers."""
    rows = [column if isinstance(column, Tensor) else like.new_tensor(column) for column in columns]
    *rows, _ = torch.broadcast_tensors(*rows, like[:, :1])
    return torch.stack(rows, -1)


def _filled(chance: Tensor, *parts: Tensor) -> Tensor:
    """Return faces (N, B, 6): those of parts in their order, and the rest away, in a row along x."""
    along = torch.arange(BOXES - sum(part.shape[1] for part in parts)).to(chance)[None]
    return torch.cat((*parts, _rows(along, along + 0.5, -0.5, 0.5, AWAY_M, AWAY_M, like=chance)), 1)


def _flat(difficulty: Tensor, chance: Tensor) -> Tensor:
    return _filled(chance)


def _slope(difficulty: Tensor, chance: Tensor) -> Tensor:
    """A ramp up, a plateau, a ramp down."""
    top = RAMP_M * torch.tan(SLOPE_RAD * difficulty.clamp(max=3.0))[:, None]
    low = torch.zeros_like(top)
    ends = [START_M, START_M + RAMP_M, START_M + RAMP_M + PLATEAU_M, START_M + 2 * RAMP_M + PLATEAU_M]
    levels = (low, top, top, low)
    ramps = [
        _rows(ends[i], ends[i + 1], -WIDTH_M, WIDTH_M, levels[i], levels[i + 1], like=top) for i in range(3)
    ]
    return _filled(chance, *ramps)


def _stairs(difficulty: Tensor, chance: Tensor) -> Tensor:
    """Steps up and as many down: each box lies on the one before and is a step shorter at both ends."""
    step = torch.arange(STEPS).to(chance)[None]
    rise = (RISE_M * difficulty).clamp(min=LEAST_M)[:, None]
    end = START_M + 2 * STEPS * TREAD_M + PLATEAU_M
    top = (step + 1) * rise
    return _filled(
        chance, _rows(START_M + step * TREAD_M, end - step * TREAD_M, -WIDTH_M, WIDTH_M, top, top, like=rise)
    )


def _gaps(difficulty: Tensor, chance: Tensor) -> Tensor:
    """Platforms over a pit, of chance lengths, 60 to 100 % of the widest gap apart."""
    low, high = PLATFORM_M
    length = low + (high - low) * chance[:, :PLATFORMS]
    share = 0.6 + 0.4 * chance[:, PLATFORMS : 2 * PLATFORMS]
    gap = (GAP_M * difficulty[:, None] * share).clamp(min=LEAST_M)
    begin = START_M + torch.cumsum(gap + length, 1) - length
    last = begin[:, -1:] + length[:, -1:] + gap[:, -1:]
    way = _rows(begin, begin + length, -WIDTH_M, WIDTH_M, 0.0, 0.0, like=gap[:, :1])
    return _filled(chance, _start(gap), way, _goal(last))


def _stones(difficulty: Tensor, chance: Tensor) -> Tensor:
    """Two columns of stones over a pit, which chance puts a little higher or lower."""
    gap = (GAP_M * difficulty).clamp(LEAST_M, 0.8 * ROW_M)[:, None]
    row = torch.arange(ROWS).to(chance)[None]
    begin = START_M + gap + row * ROW_M
    rows = []
    for column, side in enumerate((-1.0, 1.0)):
        jump = JUMP_M * difficulty[:, None] * (2 * chance[:, column * ROWS : (column + 1) * ROWS] - 1)
        near, far = gap / 4, gap / 4 + STONE_M
        low, high = (near, far) if side > 0 else (-far, -near)
        rows.append(_rows(begin, begin + ROW_M - gap, low, high, jump, jump, like=gap))
    return _filled(chance, _start(gap), *rows, _goal(begin[:, -1:] + ROW_M))


def _start(like: Tensor) -> Tensor:
    return _rows(-WIDTH_M, START_M, -WIDTH_M, WIDTH_M, 0.0, 0.0, like=like[:, :1])


def _goal(begin: Tensor) -> Tensor:
    return _rows(begin, begin + 10.0, -WIDTH_M, WIDTH_M, 0.0, 0.0, like=begin)
