"""Two doors, and the wind tells which is right: one picture of where one is says nothing, two say all.

What RMA is for: the wind is a parameter of the world that no sensor measures, and the history of any motion
shows it. Shapes: N environments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.env import native
from robokd.env.base import Range, Setup, State, TaskEnv
from robokd.registry import register
from robokd.sim.base import SimCfg
from robokd.specs import ObsSpec, Term
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption
from tests.worlds.hidden_goal import HiddenGoal, HiddenGoalCfg
from tests.worlds.point import AXES

WIND_M_S = 0.75  # along y: 3 cm in a control step
START_M = 0.8  # of y, both ways: where it begins says next to nothing of where it was blown


@register("task", "hidden_wind")
@dataclass(kw_only=True)
class HiddenWindCfg(HiddenGoalCfg):
    """Leave by the right one of two doors, that to which a wind from the left or the right belongs."""

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(HiddenWind(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class HiddenWind(HiddenGoal):
    """The Task protocol."""

    horizon_s = 0.8  # ten control steps more than the straight way takes: who waits to be blown is late
    script_groups = ("wind",)

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return what a robot sees, and the wind."""
        position = Term(name="position", elements=AXES, unit="m")
        wind = Term(name="wind", elements=("sign",), unit="1")
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=(position,)),
            "wind": ObsSpec(group="wind", role="privileged", terms=(wind,)),
        }

    def parameters(self) -> dict[str, Range]:
        """Return where it begins, and a number whose sign is the wind's."""
        reach = (self.cfg.start_m / 0.8, START_M / 0.8)  # the outer tenths are held out
        return {**super().parameters(), "start": Range(low=(-reach[0], -reach[1]), high=reach, unit="m")}

    def control(self, command: Tensor, state: State) -> Tensor:
        """See Task: velocities; along y the wind alone."""
        velocity = super().control(command, state)
        velocity[:, 1] = WIND_M_S * state.episode["side"][:, 0]
        return velocity

    def observe(self, group: str, state: State) -> Tensor:
        """See Task."""
        return state.sim.get("qpos").float() if group == "proprio" else state.episode["side"].clone()

    def script(self, observations: TensorDict) -> Tensor:
        """Return the straight way to the right door, at full speed."""
        return torch.nn.functional.pad(observations["wind"], (0, 1))
