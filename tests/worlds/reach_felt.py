"""The task reach with an IMU in the hand: `plugins=[tests.worlds.reach_felt] task=reach_felt`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from robokd.tasks.reach import Reach, ReachCfg
from torch import Tensor

from robokd import geometry
from robokd.env import native
from robokd.env.base import Setup, State, TaskEnv
from robokd.registry import register
from robokd.sim.base import SimCfg
from robokd.specs import AXES, ObsSpec, Term
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption


@register("task", "reach_felt")
@dataclass(kw_only=True)
class ReachFeltCfg(ReachCfg):
    """Reach, and how the hand turns and stands."""

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(ReachFelt(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class ReachFelt(Reach):
    """Reach with an IMU."""

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return the groups of reach, and gyro and gravity in proprio."""
        specs = super().obs_specs()
        imu = Term(name="gyro", elements=AXES, unit="rad/s"), Term(name="gravity", elements=AXES, unit="1")
        return specs | {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=(*specs["proprio"].terms, *imu))
        }

    def observe(self, group: str, state: State) -> Tensor:
        """See Task.observe."""
        seen = super().observe(group, state)
        if group != "proprio":
            return seen
        hand = state.sim.model.body("hand").id
        back = state.sim.get("xquat")[:, hand] * torch.tensor([1.0, -1, -1, -1])
        turning = state.sim.get("cvel")[:, hand, :3]  # about the world's axes
        down = torch.tensor([0.0, 0, -1], dtype=back.dtype).expand(len(back), 3)
        return torch.cat((seen, *(geometry.rotate(back, one, torch).float() for one in (turning, down))), 1)
