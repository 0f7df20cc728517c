"""How four legs walk: what is kept account of in every control step, and what a walk is paid and charged for.

A task of the Go2 (go2.py) keeps these entries in its episodes: `command` (N, 3) is what is to be followed,
ahead and to the left in m/s and the turn in rad/s, in the trunk's frame.
Source: the terms are those of Rudin et al. (2022), "Learning to walk in minutes using massively parallel deep
reinforcement learning", table 2; `trot` and `height` are ours.
Shapes: N worlds, feet and joints in the order of go2.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from robokd.tasks.bodies import go2
from robokd.tasks.parts import trot
from torch import Tensor

from robokd import geometry
from robokd.env.base import State

TOUCH_N = 1.0  # from which a touch counts
TILT = -0.4  # gravity along the trunk's z, above which it has fallen: 66 degrees
STRIDE_S, LONGEST_S = 0.1, 0.4  # of a foot in the air: what lies between is paid
SMOOTH_S = 0.25  # over which what is followed is averaged: a stride's own back and forth is no error
SPEED_SCALE, TURN_SCALE = 0.3, 0.25  # m/s, rad/s off the command at which a third of the pay is left
# what a step leaves in the episode, and how many numbers it is
TRACES = {
    "contact": 4, "air": 4, "landed": 4, "knocks": 1, "fallen": 1, "joint_vel": 12, "joint_change": 1,
    "moved": 3, "speed_off": 1, "turn_off": 1, "elapsed": 1,
}  # fmt: skip


@dataclass(kw_only=True)
class GaitCfg:
    """What a task's config inherits: what a second of walking is paid and charged."""

    clock_s: ClassVar[float] = trot.Gait().period  # of the clock that is observed: a stride of trot.py
    speed_weight: float = 1.5  # of the commanded velocity
    way_weight: float = 1.5  # of the share of the commanded speed that is gone along it
    turn_weight: float = 1.0  # of the commanded turn
    alive_weight: float = 0.2
    stride_weight: float = 1.0  # of a foot's time in the air beyond STRIDE_S, at touchdown
    trot_weight: float = 0.3  # of feet that touch with the one across, and not with the others
    bounce_weight: float = 1.0  # cost of the square of the vertical velocity
    sway_weight: float = 0.05  # cost of the squared roll and pitch rates
    tilt_weight: float = 1.0  # cost of the squared sine of the tilt
    height_weight: float = 10.0  # cost of the squared distance from the standing height
    splay_weight: float = 0.5  # cost of the squared hip angles
    torque_weight: float = 2e-4  # cost of the squared torques
    joint_change_weight: float = 2.5e-7  # cost of the squared accelerations of the joints
    action_rate_weight: float = 0.05  # cost of squared changes of the action
    knock_weight: float = 1.0  # cost of a thigh or calf that touches the ground


def motion(state: State) -> tuple[Tensor, Tensor, Tensor]:
    """Return the trunk's velocity, its rates and gravity in its own frame, (N, 3) each: m/s, rad/s, 1."""
    quaternion, qvel = state.sim.get("qpos")[:, 3:7].float(), state.sim.get("qvel")[:, :6].float()
    back = quaternion * quaternion.new_tensor([1.0, -1.0, -1.0, -1.0])
    down = qvel.new_tensor([0.0, 0.0, -1.0]).expand(len(qvel), 3)
    return geometry.rotate(back, qvel[:, :3], torch), qvel[:, 3:], geometry.rotate(back, down, torch)


def yaw(state: State) -> Tensor:
    """Return where the trunk heads, (N,) rad from the world's x."""
    w, x, y, z = state.sim.get("qpos")[:, 3:7].float().unbind(1)
    return torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def account(state: State, dt: float, lowest_m: float) -> None:
    """Write TRACES after a step of dt seconds; below height lowest_m (world) the trunk has fallen."""
    episode, get = state.episode, state.sim.get
    feet, legs, trunk = (get("sensordata") > TOUCH_N).split((4, 8, 1), 1)
    velocity, gyro, gravity = motion(state)
    command, joint_vel = episode["command"], get("qvel")[:, 6:].float()
    is_low = get("qpos")[:, 2:3] < lowest_m
    now = torch.cat((velocity[:, :2], gyro[:, 2:]), 1)
    moved = episode["moved"] + (now - episode["moved"]) * (dt / SMOOTH_S)
    found = {
        "contact": feet.float(), "landed": episode["air"] * feet,
        "air": (episode["air"] + dt).masked_fill(feet, 0.0),
        "knocks": legs.float().sum(1, keepdim=True),
        "fallen": (trunk | is_low | (gravity[:, 2:] > TILT)).float(),
        "joint_change": ((joint_vel - episode["joint_vel"]) / dt).square().sum(1, keepdim=True),
        "joint_vel": joint_vel, "moved": moved,
        "speed_off": (moved[:, :2] - command[:, :2]).norm(dim=1, keepdim=True),
        "turn_off": (moved[:, 2:] - command[:, 2:]).abs(),
        "elapsed": episode["elapsed"] + dt,
    }  # fmt: skip
    for name, value in found.items():
        episode[name] = value


def rewards(cfg: GaitCfg, state: State, height: Tensor, dt: float) -> dict[str, Tensor]:
    """Return the weighted terms (N,) of a step of dt seconds; `height` (N,) m, of the trunk over ground."""
    episode = state.episode
    velocity, gyro, gravity = motion(state)
    hips = state.sim.get("qpos")[:, 7::3].float()
    torque = state.sim.get("actuator_force").float()
    contact, landed = episode["contact"] > 0, episode["landed"]
    is_moving = (episode["command"].abs().amax(1) > 0.1).float()
    first, second = ((contact[:, a] == contact[:, b]) for a, b in go2.DIAGONALS)
    is_trot = first & second & (contact[:, 0] != contact[:, 1])
    terms = {
        "speed": torch.exp(-((episode["speed_off"][:, 0] / SPEED_SCALE) ** 2)),
        "way": _way(episode["moved"][:, :2], episode["command"][:, :2]) * is_moving,
        "turn": torch.exp(-((episode["turn_off"][:, 0] / TURN_SCALE) ** 2)),
        "alive": torch.ones_like(is_moving),
        # paid at once for a time that went before, so not by the second
        "stride": (landed.clamp(STRIDE_S, LONGEST_S) - STRIDE_S).sum(1) * is_moving / dt,
        "trot": is_trot.float() * is_moving,
        "bounce": -(velocity[:, 2] ** 2),
        "sway": -(gyro[:, :2] ** 2).sum(1),
        "tilt": -(gravity[:, :2] ** 2).sum(1),
        "height": -((height - go2.STAND_HEIGHT_M) ** 2),
        "splay": -(hips**2).sum(1),
        "torque": -(torque**2).sum(1),
        "joint_change": -episode["joint_change"][:, 0],
        "action_rate": -((state.action - state.previous_action) ** 2).sum(1),
        "knock": -episode["knocks"][:, 0],
    }  # fmt: skip
    return {name: dt * getattr(cfg, f"{name}_weight") * term for name, term in terms.items()}


def _way(moved: Tensor, command: Tensor) -> Tensor:
    """Return which share of the commanded speed is gone along the command, (N,) in [-1, 1]."""
    squared = command.square().sum(1).clamp(min=0.1**2)
    return ((moved * command).sum(1) / squared).clamp(-1.0, 1.0)
