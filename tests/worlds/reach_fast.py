"""The task reach at 50 Hz, where it is 25: `plugins=[tests.worlds.reach_fast] task=reach_fast`."""

from __future__ import annotations

from dataclasses import dataclass

from robokd.tasks.reach import Reach, ReachCfg

from robokd.env import native
from robokd.env.base import Setup, TaskEnv
from robokd.registry import register
from robokd.sim.base import SimCfg
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption


@register("task", "reach_fast")
@dataclass(kw_only=True)
class ReachFastCfg(ReachCfg):
    """Reach, with twice as many commands a second."""

    joint_step_rad: float = 0.02

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(ReachFast(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class ReachFast(Reach):
    """Reach at 50 Hz."""

    control_dt = 0.02
