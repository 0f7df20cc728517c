"""Reach where the robot is told where the sphere is: what reward and teacher do for each other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from robokd.tasks.reach import Reach, ReachCfg
from tensordict import TensorDict
from torch import Tensor

from robokd.env import native
from robokd.env.base import Setup, State, TaskEnv
from robokd.registry import register
from robokd.sim.base import SimCfg
from robokd.specs import ObsSpec
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption


@register("task", "reach_shown")
@dataclass(kw_only=True)
class ReachShownCfg(ReachCfg):
    """Reach a sphere whose place the robot is told, as by motion capture."""

    script_share: float = 1.0  # of the script's motion that it asks for: below 1 it is slow

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(ReachShown(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class ReachShown(Reach):
    """The Task protocol: `goal` is what only the simulator knew, in a group that the robot has."""

    cfg: ReachShownCfg

    def obs_specs(self) -> dict[str, ObsSpec]:
        """See Task."""
        specs = super().obs_specs()
        return {**specs, "goal": replace(specs["privileged"], group="goal", role="proprio")}

    def observe(self, group: str, state: State) -> Tensor:
        """See Task."""
        return super().observe("privileged" if group == "goal" else group, state)

    def script(self, observations: TensorDict) -> Tensor:
        """See ScriptedCfg."""
        return self.cfg.script_share * super().script(observations)

    def script_constants(self) -> dict[str, Tensor]:
        """See ScriptedCfg."""
        return {**super().script_constants(), "share": torch.tensor(self.cfg.script_share)}
