"""Where the arm's hand stands to the object that it is to grasp, and the way there.

The hand comes from above with its fingers across the object, through a funnel that ends in the grasp: whoever
is beside it stays above it, so that no finger knocks the object over. Shapes: N worlds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from robokd.tasks.bodies import panda
from robokd.tasks.parts import objects
from torch import Tensor
from torch.nn.functional import pad

from robokd.env.base import State

DEEPEST_M = 0.028  # below the object's top, where the tip grasps it: the palm is 0.037 m above the tip
NEAR_M = 0.03  # between tip and grasp point, where it is the object that the fingers press
NECK_M, NECK_RAD = 0.01, 0.15  # how far beside and turned the hand may be in the funnel's neck
RISE_M, FUNNEL_M = 0.02, 0.12  # how much higher for each of those, and at most
WIDER, THERE_M = 2.0, 0.02  # times the neck, and above or below the grasp: where the hand closes
GRIP_N = 1.0  # that both fingers press with at least; of their own they do not lag that far


class Grasp(NamedTuple):
    """What observations and rewards are made of."""

    tip: Tensor  # (N, 3), m
    object: Tensor  # (N, 3), m
    way: Tensor  # (N, 3) from the tip to where the object is to be grasped, m
    down: Tensor  # (N, 3) where the hand points
    turn: Tensor  # (N,) that the hand lacks about the vertical to grasp the object across, rad
    above: Tensor  # (N,) height of the funnel over the grasp, where the tip is, m
    grip: Tensor  # (N, 2) how the fingers press, N
    is_grasped: Tensor  # (N,) bool: both fingers press the object


def deepest(half: Tensor) -> Tensor:
    """Return how far above the centre of objects of half sizes (N, 3) the tip grasps them, (N,) m."""
    return (half[:, 2] - DEEPEST_M).clamp(min=0.0)


def grasp(state: State) -> Grasp:
    """Return how hand and object stand to each other; reads "half" and "shape" of the episode."""
    sim, episode = state.sim, state.episode
    tip = sim.get("site_xpos")[:, sim.model.site("tip").id].float()
    at = sim.get("xpos")[:, sim.model.body("object").id].float()
    way = at - tip
    way[:, 2] += deepest(episode["half"])
    axes = [sim.get("xmat")[:, sim.model.body(name).id].float() for name in ("hand", "object")]
    across, wanted, down = axes[0][:, 1::3], axes[1][:, 1::3], axes[0][:, 2::3]  # columns y, y and z
    lacks = torch.atan2(wanted[:, 1], wanted[:, 0]) - torch.atan2(across[:, 1], across[:, 0])
    turn = torch.atan2(torch.sin(2 * lacks), torch.cos(2 * lacks)) / 2  # the fingers are alike
    turn = turn * (1 - episode["shape"][:, objects.ROUND].sum(1))
    beside = torch.linalg.vector_norm(way[:, :2], dim=1) / NECK_M
    above = ((torch.maximum(beside, turn.abs() / NECK_RAD) - 1) * RISE_M).clamp(0.0, FUNNEL_M)
    # what keeps a finger from its target is pressed; to touch is not enough: the table is touched too
    kept = sim.get("qpos")[:, 7:9].float() - state.command[:, 7:]
    grip = panda.GRIPPER_STIFFNESS * kept.clamp(min=0.0)
    is_grasped = (grip > GRIP_N).all(1) & (torch.linalg.vector_norm(way, dim=1) < NEAR_M)
    return Grasp(tip, at, way, down, turn, above, grip, is_grasped)


def way(seen: Grasp, goal: Tensor, joints: Tensor) -> Tensor:
    """Return how far joints and gripper are from where the stage at hand leads them, (N, 8) rad and m.

    Down the funnel with an open hand; there, closed; and what is held goes up to the goal. The stage follows
    from where things are and how the fingers press, so nothing is remembered.

    Args:
        seen: of the same moment.
        goal: (N,) height that the object is to be held at, m.
        joints: (N, 8) of arm and gripper now, rad and m.
    """
    beside, angles = torch.linalg.vector_norm(seen.way[:, :2], dim=1), joints[:, :7]
    is_in_neck = (beside < WIDER * NECK_M) & (seen.turn.abs() < WIDER * NECK_RAD)
    is_there = is_in_neck & (seen.way[:, 2].abs() < THERE_M)
    is_held = seen.is_grasped
    lift = torch.stack((torch.zeros_like(goal),) * 2 + (goal - seen.object[:, 2],), 1)
    descent = seen.way + pad(seen.above[:, None], (2, 0))
    yaw = math.pi / 4 + angles[:, 0] - angles[:, 6] + torch.where(is_held, 0.0, seen.turn)
    pose = panda.reach_down(seen.tip + torch.where(is_held[:, None], lift, descent), yaw)
    gripper = torch.where(is_there | is_held, *panda.GRIPPER_LIMITS_M)
    return torch.cat((pose, gripper[:, None]), 1) - joints
