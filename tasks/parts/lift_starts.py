"""How an episode of lift begins: around the ready pose, or in a reference state near or in a grasp.

Shapes: N worlds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from robokd.tasks.bodies import panda
from robokd.tasks.parts.grasp import deepest
from torch import Tensor
from torch.nn.functional import pad

from robokd.env.base import State

OPEN_M = panda.GRIPPER_LIMITS_M[1]
HAND_M = 0.11, 0.2  # radius and length of the room of the hand, upward from its tip
BESIDE_M, ABOVE_M, TURNED_RAD = 0.02, 0.12, 0.3  # how far from the grasp a reference state is at most
SQUEEZED_M = 2e-4  # of an object that is held, on either side
TIGHT_M = 0.01, 0.02  # how far inside of it the gripper's target is


class Start(NamedTuple):
    """How an episode begins."""

    angles: Tensor  # (N, 7) of the arm, rad
    finger: Tensor  # (N,) of each finger from the middle, m
    target: Tensor  # (N,) that the gripper is sent, m
    position: Tensor  # (N, 3) of the object, m
    yaw: Tensor  # (N,) of the object, rad


def ready(
    angles: Tensor, place: Tensor, half: Tensor, radius_m: tuple[float, float], state: State, mask: Tensor
) -> tuple[Start, Tensor]:
    """Return starts with an open hand, and how many places (N,) int64 the object was refused.

    Where the object would be inside the hand it is put to a mirror place: left or right, nearer or farther,
    as far out in the ranges as it was drawn, so that what is held out stays so.

    Args:
        angles: (N, 7) of the arm, rad.
        place: (N, 3) azimuth (rad), distance from the base axis (m) and yaw (rad) that were drawn.
        half: (N, 3) half sizes of the object, m.
        radius_m: the range of that distance.
        state: whose arms are put to the angles in the worlds of mask, to see where their hands are.
        mask: (N,) of the episodes that begin; the rows of others mean nothing.
    """
    sim = state.sim
    qpos = sim.get("qpos").clone()
    qpos[:, :7] = angles
    sim.set("qpos", qpos, mask)
    sim.forward(mask)
    tip = sim.get("site_xpos")[:, sim.model.site("tip").id]
    up = -sim.get("xmat")[:, sim.model.body("hand").id, 2::3]
    azimuth, radius, yaw = place.unbind(1)
    position, rejected = torch.zeros_like(tip), torch.zeros_like(mask, dtype=torch.int64)
    is_placed = torch.zeros_like(mask)
    room = HAND_M[0] + torch.linalg.vector_norm(half, dim=1)
    mirrored = sum(radius_m) - radius
    for side, out in ((1, radius), (-1, radius), (1, mirrored), (-1, mirrored)):
        at = torch.stack((out * torch.cos(azimuth), side * out * torch.sin(azimuth), half[:, 2]), 1).to(tip)
        along = ((at - tip) * up).sum(1).clamp(0.0, HAND_M[1])
        is_free = torch.linalg.vector_norm(at - tip - along[:, None] * up, dim=1) > room
        position = torch.where(is_placed[:, None], position, at)
        is_placed = is_placed | is_free
        rejected = rejected + (~is_placed).long()
    opened = torch.full_like(radius, OPEN_M)
    return Start(angles, opened, opened, position.to(place), yaw), rejected * mask


def reference(start: Start, goal: Tensor, half: Tensor, state: State) -> Start:
    """Return starts of which State.reference_share has the hand above the object or holding it on the way up.

    Half of them each; `goal` (N,) is the highest that an object of half sizes (N, 3) is held, m.
    """
    unit = state.draws.uniform("reference", state.episode_id, 0, 7).to(half)
    is_reference, is_held = unit[:, 0] < state.reference_share, unit[:, 1] < 0.5
    raised = is_held * unit[:, 2] * (goal - half[:, 2])
    position = start.position + pad(raised[:, None], (2, 0))
    beside = torch.cat((BESIDE_M * (2 * unit[:, 3:5] - 1), ABOVE_M * unit[:, 2:3]), 1)
    over = torch.where(is_held[:, None], 0.0, beside)
    over[:, 2] += deepest(half)
    yaw = start.yaw + torch.where(is_held, 0.0, TURNED_RAD * (2 * unit[:, 5] - 1))
    width = half[:, 1] - SQUEEZED_M
    finger = torch.where(is_held, width, OPEN_M)
    inside = TIGHT_M[0] + (TIGHT_M[1] - TIGHT_M[0]) * unit[:, 6]
    target = torch.where(is_held, (width - inside).clamp(min=0.0), OPEN_M)
    near = Start(panda.reach_down(position + over, yaw), finger, target, position, start.yaw)
    chosen = (
        torch.where(is_reference.view(-1, *[1] * (a.ndim - 1)), a, b)
        for a, b in zip(near, start, strict=True)
    )
    return Start(*chosen)
