"""A trot by hand for the Go2: feet on lines under the hips, stepped over what the scan shows.

Diagonal pairs take turns. A foot on the ground is moved against the commanded velocity; one in the air goes
to where it will be under its hip half a stance later, and further out the faster the trunk is than it should
be. Footholds keep off edges and pits, the trunk is kept level: along a slope it stalled sooner. Nothing is
remembered: the phase is the episode's time, and what became of a foot is where it is.
Source: Raibert (1986), "Legged robots that balance", for where to step; the rest and the gains are ours,
found by trial on the validation stream.
Shapes: N worlds, 4 feet and 12 joints in the order of go2.py, K candidates. m, rad, s; frame: the trunk's.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from robokd.tasks.bodies import go2
from torch import Tensor

PHASE = (0.0, 0.5, 0.5, 0.0)  # of a stride at its begin; the first half is on the ground
FREED, RISEN = 0.12, 0.35  # share of the time in the air until a foot goes ahead, and until it is up
FARTHEST_M = (0.2, 0.12)  # of a foothold from under the hip: ahead, aside
STEPS_M = tuple(0.02 * i for i in range(-9, 11))  # from the foothold wanted to others, ahead
EDGES = {0.05: 0.2, 0.08: 0.1}  # m around a foothold where the ground should be even, and the cost if not
STEEP_M, PIT_M = 0.03, 0.15  # of a bend within EDGES, and below the best candidate, that are kept off
BACK = 0.25  # how much dearer a step back is than one ahead
HELD = 0.7  # cost of a metre from where a foot is by now, at the end of its flight
UNEVEN_M = 0.22  # of ground over or under the mean, at most


@dataclass(frozen=True, kw_only=True)
class Gait:
    """The numbers of the trot."""

    period: float = 0.26  # s, of a stride
    height: float = 0.3  # m, of the hips over the ground
    lift: float = 0.07  # m, of a foot over the highest ground on its way
    sink: float = 0.05  # m, of a standing foot's target into the ground: what bears the weight
    lead: float = 0.15  # s, that targets of feet on the ground are ahead
    pull: float = 0.09  # share of the way back to where a standing foot would be by the plan
    speed_gain: float = 2.0  # of the error of the trunk's velocity
    turn_gain: float = 1.2  # of the error of the trunk's turn
    step_gain: float = 0.08  # s, of a foothold by the error of the velocity
    tilt_gain: float = 0.19  # of the trunk's tilt, by leg length
    sway_gain: float = 0.012  # s, of the trunk's rates


def constants() -> dict[str, Tensor]:
    """Return what decides a trot: the numbers of its gait, and a hash of this file."""
    code = hashlib.sha256(Path(__file__).read_bytes()).digest()
    return {"gait": torch.tensor(dataclasses.astuple(Gait())), "code": torch.tensor(list(code))}


def feet(angles: Tensor) -> Tensor:
    """Return where the feet are from their hips' joints, (N, 4, 3), at joint angles (N, 12)."""
    hip, thigh, calf = angles.unflatten(1, (4, 3)).unbind(-1)
    side = _sides(angles)
    x = -go2.LINK_M * (thigh.sin() + (thigh + calf).sin())
    z = -go2.LINK_M * (thigh.cos() + (thigh + calf).cos())
    return torch.stack((x, side * hip.cos() - z * hip.sin(), side * hip.sin() + z * hip.cos()), -1)


def joints(place: Tensor) -> Tensor:
    """Return the joint angles (N, 12) that put the feet at (N, 4, 3), or as near as a leg reaches."""
    x, y, z = place.unbind(-1)
    side = _sides(place)
    down = (y * y + z * z - side * side).clamp(min=0.05**2).sqrt()
    hip = torch.atan2(z, y) - torch.atan2(-down, side.expand_as(down))
    length = torch.hypot(x, down).clamp(0.12, 2 * go2.LINK_M - 0.002)
    calf = -2 * torch.acos(length / (2 * go2.LINK_M))
    hip, thigh = torch.atan2(hip.sin(), hip.cos()), torch.atan2(-x, down) - calf / 2
    return torch.stack((hip, thigh, calf), -1).flatten(1)


def targets(read: dict[str, Tensor], heights: Heights, gait: Gait) -> Tensor:
    """Return the joint targets (N, 12) of a trot.

    Args:
        read: joint_pos (N, 12), velocity, moved, gyro, gravity, velocity_command (N, 3) and elapsed (N, 1).
        heights: of the ground around.
        gait: its numbers.
    """
    command, velocity, gyro, gravity = (
        read[name] for name in ("velocity_command", "velocity", "gyro", "gravity")
    )
    corner = _corners(command)
    half = gait.period / 2
    phase = (read["elapsed"] / gait.period + command.new_tensor(PHASE)) % 1.0
    is_down, flown = phase < 0.5, (2 * phase - 1).clamp(min=0.0)
    moved = torch.cat((velocity[:, :2], gyro[:, 2:]), 1)
    gains = command.new_tensor([gait.speed_gain, gait.speed_gain, gait.turn_gain])
    # a stride turns back and forth by itself: what is put right is its mean
    slow = torch.cat((moved[:, :2], read["moved"][:, 2:]), 1)
    wanted = _at(corner, command + gains * (command - slow))
    is_at, should = _at(corner, moved), _at(corner, command)
    foot = feet(read["joint_pos"])
    under = corner - _hips(command)
    plan = under + should * (half * (0.5 - 2 * phase))[..., None]
    stand = foot[..., :2] + gait.pull * (plan - foot[..., :2]) - (1 - gait.pull) * gait.lead * wanted
    farthest = command.new_tensor(FARTHEST_M)
    step = (is_at + should) * (half / 4) + gait.step_gain * (is_at - should)
    land = under + torch.maximum(torch.minimum(step, farthest), -farthest)
    # the ground goes on moving back until the foot is down; once on its way a foot keeps to its choice
    rest = is_at * (half * (1 - flown) * ~is_down)[..., None]
    land = heights.foothold(land + rest, foot[..., :2] + rest, HELD * flown) - rest
    swing = torch.where((flown > FREED)[..., None], land, foot[..., :2])
    flat = torch.where(is_down[..., None], stand, swing)
    rise = heights.level()
    here, there = heights.over(foot[..., :2], rise), heights.over(land, rise)
    top = torch.maximum(heights.way(foot[..., :2], land, rise), torch.maximum(here, there)) + gait.lift
    up, fall = (flown / RISEN).clamp(max=1.0), ((1 - flown) / RISEN).clamp(max=1.0)
    down = there - gait.sink / 2 * (1 - fall) + (top - there) * fall
    air = torch.where(flown < 1 - RISEN, here + (top - here) * up, down)
    z = torch.where(is_down, here - gait.sink, air) - gait.height
    nose, roll = torch.atan2(-gravity[:, :1], -gravity[:, 2:]), torch.atan2(-gravity[:, 1:2], -gravity[:, 2:])
    level = corner[:, 0] * (gait.tilt_gain * nose - gait.sway_gain * gyro[:, 1:2])
    level = level + corner[:, 1] * (gait.tilt_gain * roll + gait.sway_gain * gyro[:, :1])
    z = (z + level * is_down).clamp(max=-0.1)
    return joints(torch.cat((flat, z[..., None]), -1))


class Heights:
    """The ground around the trunk, as the scan tells it: from where it would stand at its usual height."""

    def __init__(self, scan: Tensor, ahead: tuple[float, ...], left: tuple[float, ...]) -> None:
        """Take a scan (N, X, Y) at places `ahead` (X) and `left` (Y) of even spacing."""
        self._scan, self._first = scan, scan.new_tensor([ahead[0], left[0]])
        self._spacing = scan.new_tensor([ahead[1] - ahead[0], left[1] - left[0]])
        self._corner = _corners(scan)
        self._hips = _hips(scan)

    def at(self, place: Tensor) -> Tensor:
        """Return the heights (N, ...) at places (N, ..., 2) from the trunk: of the nearest point."""
        most = self._first.new_tensor(self._scan.shape[1:]) - 1
        row = torch.minimum(((place - self._first) / self._spacing).round().clamp(min=0.0), most).long()
        index = row[..., 0] * self._scan.shape[2] + row[..., 1]
        return self._scan.flatten(1).gather(1, index.flatten(1)).view(index.shape)

    def level(self) -> Tensor:
        """Return the mean height of the ground under the feet of a standing robot, (N, 1)."""
        places = torch.stack([self._corner + self._corner.new_tensor([d, 0.0]) for d in (-0.06, 0.06)])
        under = torch.stack([self.at(place.expand(len(self._scan), 4, 2)) for place in places]).amax(0)
        return torch.maximum(under, under.amax(1, keepdim=True) - UNEVEN_M).mean(1, keepdim=True)

    def over(self, foot: Tensor, rise: Tensor) -> Tensor:
        """Return how high the ground at feet (N, 4, 2), from their hips' joints, is over the level."""
        return (self.at(foot + self._hips) - rise).clamp(-UNEVEN_M, UNEVEN_M)

    def way(self, foot: Tensor, land: Tensor, rise: Tensor) -> Tensor:
        """Return the highest ground between where feet are and where they go, over the level."""
        shares = torch.linspace(0, 1, 4).tolist()
        return torch.stack([self.over(foot + share * (land - foot), rise) for share in shares]).amax(0)

    def foothold(self, land: Tensor, foot: Tensor, held: Tensor) -> Tensor:
        """Return footholds off edges and out of pits (N, 4, 2), from the hips' joints.

        Args:
            land: (N, 4, 2) that are wanted: the others are ahead of them and behind.
            foot: (N, 4, 2) where they are by now.
            held: (N, 4) what a metre from there costs; one from where they are wanted 1, or more behind.
        """
        ahead = land.new_tensor([[step, 0.0] for step in STEPS_M])
        candidate = land[:, :, None] + ahead
        place = candidate + self._hips[:, None]
        level, way = self.at(place), (candidate - foot[:, :, None])[..., 0].abs()
        cost = torch.where(ahead[:, 0] < 0, 1 + BACK, 1.0) * ahead[:, 0].abs() + held[..., None] * way
        cost = cost + 10.0 * (level.amax(-1, keepdim=True) - level > PIT_M)
        for distance, price in EDGES.items():
            edge = land.new_tensor([distance, 0.0])
            bend = self.at(place - edge) + self.at(place + edge) - 2 * level  # none along a slope
            cost = cost + price * (bend.abs() > STEEP_M)
        best = cost.argmin(-1, keepdim=True)[..., None].expand(*land.shape[:2], 1, 2)
        return candidate.gather(2, best)[:, :, 0]


def _hips(like: Tensor) -> Tensor:
    """Return where the hips' joints are in the trunk, (4, 2)."""
    return like.new_tensor(go2.HIPS_M)


def _sides(like: Tensor) -> Tensor:
    """Return how far to the left of their hips' joints the legs hang, (4,)."""
    return like.new_tensor([go2.SIDE_M * (1 if y > 0 else -1) for _, y in go2.HIPS_M])


def _corners(like: Tensor) -> Tensor:
    """Return where feet stand under the trunk, (4, 2)."""
    return _hips(like) + torch.stack((0 * _sides(like), _sides(like)), -1)


def _at(corner: Tensor, motion: Tensor) -> Tensor:
    """Return the velocities (N, 4, 2) at corners (4, 2) of a motion (N, 3): ahead, left, turn."""
    turn = motion[:, 2:]
    return torch.stack((motion[:, :1] - turn * corner[:, 1], motion[:, 1:2] + turn * corner[:, 0]), -1)
