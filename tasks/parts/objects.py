"""An object on a table that is of another shape, size, mass and friction in every world.

A world's geoms keep their kind, so the object has one geom of each kind: those that an episode's shape does
not use are a grain in the middle of the others, where nothing touches or sees them.
A shape fills a box of half sizes (x, y, z); x is its longest way and y the one to grasp it across.
Shapes: N worlds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robokd.env.base import HELD_OUT, State

if TYPE_CHECKING:
    import mujoco

SHAPES = ("box", "cylinder", "sphere", "capsule", "compound")
ROUND = slice(1, 3)  # of SHAPES: those that may be grasped from any side
ROLLING = slice(2, 4)  # of SHAPES: those that do not stand
GEOMS = ("object_box", "object_cylinder", "object_sphere", "object_capsule")
GRAIN_M = 1e-3  # size of a geom that is not used
NECK = 0.6  # radius of a compound's upper half, as a share of its width
_TOUCH = 4  # bit of contype and conaffinity: the object's own
_ROLLING_M = 1e-4  # rolling friction: a ball comes to rest
_TORSION_M = 0.005  # friction against turning in the grasp


def add(scene: mujoco.MjSpec, rgba: tuple[float, ...], touched_by: Sequence[str]) -> None:
    """Add the free body "object" to a scene; it touches the geoms named and passes through all others.

    Every kind of pair that may meet takes a GPU's compiler long, and every pair a CPU time.
    """
    import mujoco

    for name in touched_by:
        scene.geom(name).conaffinity |= _TOUCH

    kinds = mujoco.mjtGeom
    body = scene.worldbody.add_body(name="object", pos=[0.5, 0, 0.03])
    body.add_freejoint(name="object")
    body.mass, body.inertia, body.ipos, body.explicitinertial = 0.1, [1e-4] * 3, [0, 0, 0], True
    upright, lying = [1, 0, 0, 0], [math.sqrt(0.5), 0, math.sqrt(0.5), 0]
    ways = (upright, upright, upright, lying)
    for name, kind, quat in zip(
        GEOMS, (kinds.mjGEOM_BOX, kinds.mjGEOM_CYLINDER, kinds.mjGEOM_SPHERE, kinds.mjGEOM_CAPSULE), ways,
        strict=True,
    ):  # fmt: skip
        # by priority, the friction of a contact is the object's and not the greater of the two
        body.add_geom(
            name=name, type=kind, size=[0.02] * 3, quat=quat, rgba=rgba, condim=6 if "sphere" in name else 4,
            friction=[0.8, _TORSION_M, _ROLLING_M], priority=1, contype=_TOUCH, conaffinity=0,
        )  # fmt: skip


def shape_of(number: Tensor, seen: tuple[str, ...], held_out: tuple[str, ...]) -> Tensor:
    """Return the place in SHAPES (N,) of a number in [0, 1]: in its outer tenths the held-out shapes."""
    inner = ((number - HELD_OUT) / (1 - 2 * HELD_OUT) * len(seen)).long().clamp(0, len(seen) - 1)
    is_low, is_high = number < HELD_OUT, number > 1 - HELD_OUT + 1e-9
    outer = torch.where(is_low, number, number - 1 + 2 * HELD_OUT) / (2 * HELD_OUT)
    last = (outer * len(held_out)).long().clamp(0, len(held_out) - 1)
    return torch.where(is_low | is_high, _named(last, held_out), _named(inner, seen))


def _named(place: Tensor, names: tuple[str, ...]) -> Tensor:
    found = torch.full_like(place, SHAPES.index(names[0]))
    for number, name in enumerate(names):  # a table of them would be copied to a GPU
        found = torch.where(place == number, SHAPES.index(name), found)
    return found


def extents(shape: Tensor, size: Tensor) -> Tensor:
    """Return the half sizes (N, 3), m, of shapes (N,) that are to fill a box of `size` (N, 3)."""
    x, y, z = size.unbind(1)
    rows = (
        (x, y, z), (y, y, z), (y, y, y), (torch.maximum(x, y + 0.005), y, y), (x, y, z),
    )  # fmt: skip
    found = torch.zeros_like(size)
    for number, row in enumerate(rows):
        found = torch.where((shape == number)[:, None], torch.stack(row, 1), found)
    return found


def geoms(shape: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Return sizes and places in the body (N, 4, 3) of GEOMS, for shapes (N,) of half sizes (N, 3)."""
    x, y, z = half.unbind(1)
    none = torch.zeros_like(x)
    place = {name: shape == number for number, name in enumerate(SHAPES)}
    is_compound = place["compound"]
    low = torch.where(is_compound, z / 2, z)  # a compound stands on its box
    neck = torch.where(is_compound, NECK * torch.minimum(x, y), y)
    wanted = (
        (torch.stack((x, y, low), 1), place["box"] | is_compound),
        (torch.stack((neck, low, none), 1), place["cylinder"] | is_compound),
        (torch.stack((y, none, none), 1), place["sphere"]),
        (torch.stack((y, x - y, none), 1), place["capsule"]),
    )
    size = torch.stack([torch.where(used[:, None], row, GRAIN_M) for row, used in wanted], 1)
    at = torch.zeros_like(size)
    shift = torch.where(is_compound, z / 2, none)
    at[:, 0, 2], at[:, 1, 2] = -shift, shift
    return size, at


def write(shape: Tensor, half: Tensor, mass: Tensor, friction: Tensor, state: State, mask: Tensor) -> None:
    """Make the objects of the worlds of mask: shape (N,), half (N, 3) m, mass (N,) kg, friction (N,)."""
    sim = state.sim
    first = sim.model.geom(GEOMS[0]).id
    places = slice(first, first + len(GEOMS))
    size, at = geoms(shape, half)
    body = sim.model.body("object").id
    # as of a box of even density
    square = half**2
    inertia = mass[:, None] / 3 * (square.sum(1, keepdim=True) - square)
    for field, where, value in (
        ("geom_size", places, size), ("geom_pos", places, at), ("body_mass", body, mass),
        ("body_inertia", body, inertia),
    ):  # fmt: skip
        whole = sim.get(field).clone()
        whole[:, where] = value
        sim.set(field, whole, mask)
    whole = sim.get("geom_friction").clone()
    whole[:, places, 0] = friction[:, None]
    sim.set("geom_friction", whole, mask)
