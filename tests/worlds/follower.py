"""Two joints that follow their targets, as a task of another suite, for the bundle of unit/robot_samples.py.

Its pictures are noise. An episode succeeds when the shoulder is at GOAL_RAD, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from robokd.env.base import Setup
from robokd.env.foreign import ForeignEnv, Outcome
from robokd.registry import register
from tests.unit.robot_samples import DT, action_spec, camera_spec, proprio_spec

GOAL_RAD = 0.03
SUBSTEPS = 2


@register("task", "follower")
@dataclass(kw_only=True)
class FollowerCfg:
    """Joints that follow."""

    suite: ClassVar[str] = "followers"

    limit: int = 1000  # control steps of an episode

    def opener(self, setup: Setup) -> Callable[[], Followers]:
        """Return what makes the worlds."""
        return partial(Followers, setup.num_envs, self.limit)

    def build(self, *, sim: object, renderer: object, corrupt: object, setup: Setup) -> ForeignEnv:
        """Return environments, in this process."""
        return ForeignEnv(self.opener(setup)(), setup)


class Followers:
    """The RobotWorlds protocol; only what a robot is asked."""

    device, control_dt, physics_dt, begins_itself = "cpu", DT, DT / SUBSTEPS, False
    action_spec, camera_specs = action_spec(), {"front": camera_spec()}
    obs_specs: ClassVar = {"proprio": proprio_spec()}

    def __init__(self, num_envs: int, limit: int) -> None:
        self.num_envs, self.max_episode_length = num_envs, limit
        self.position = torch.zeros(num_envs, 2)
        self.velocity = torch.zeros(num_envs, 2)
        self.age = torch.zeros(num_envs)

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        self.position = self.position.masked_fill(mask[:, None], 0.0)
        self.velocity = self.velocity.masked_fill(mask[:, None], 0.0)
        self.age = self.age.masked_fill(mask, 0)
        self.noise = torch.Generator().manual_seed(int(seeds[0]))

    def step(self, actions: Tensor) -> Outcome:
        raise NotImplementedError

    def observe(self, groups: Sequence[str]) -> dict[str, Tensor]:
        shape = (self.num_envs, *camera_spec().shape)
        picture = torch.randint(0, 256, shape, dtype=torch.uint8, generator=self.noise)
        found = {"front": picture, "proprio": torch.zeros(self.num_envs, proprio_spec().size)}
        return {name: found[name] for name in groups}

    def close(self) -> None:
        pass

    def targets(self) -> tuple[Tensor, Tensor]:
        return self.position.clone(), self.velocity.clone()

    def drive(self, targets: Tensor) -> None:
        moved = 0.5 * (targets - self.position)
        self.position, self.velocity = self.position + moved, moved / self.physics_dt

    def judge(self) -> tuple[Tensor, Tensor]:
        self.age = self.age + 1
        success = self.position[:, 0] >= GOAL_RAD
        return success, success | (self.age >= self.max_episode_length)

    def joints(self) -> tuple[Tensor, Tensor]:
        return self.position, self.velocity
