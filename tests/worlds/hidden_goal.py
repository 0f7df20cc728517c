"""Two doors, one of them right: whoever does not know which must first go up and look.

The teacher knows the side and walks straight there. A student that copies it never looks, and guesses: the
gap between what the two see is the gap between 1 and 1/2 (METHODS B2's T-maze). Shapes: N environments.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.env import native
from robokd.env.base import Range, Setup, State, TaskEnv
from robokd.registry import register
from robokd.sim.base import SimCfg
from robokd.specs import ActionSpec, ObsSpec, Term
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption
from tests.worlds.point import AXES, XML
from tests.worlds.unlimited import unlimited

SPEED_M_S = 2.5  # at |action| = 1: 0.1 m in a control step
DOOR_M = 1.0  # |x| of both doors
LOOKOUT_M = 0.5  # a y above it shows which one
WALL_M = 0.8  # |y| beyond which it goes no further out


@register("task", "hidden_goal")
@dataclass(kw_only=True)
class HiddenGoalCfg:
    """Leave by the right one of two doors; a look from above tells which it is."""

    start_m: float = 0.05  # both ways, of x and y
    success_reward: float = 5.0
    wrong_cost: float = 1.0  # of the other door
    time_cost: float = 0.02  # of a control step

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(HiddenGoal(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class HiddenGoal:
    """The Task protocol."""

    control_dt, horizon_s = 0.04, 2.4
    script_groups = ("privileged",)

    def __init__(self, cfg: HiddenGoalCfg) -> None:
        self.cfg = cfg

    def scene(self) -> mujoco.MjSpec:
        """Return the point."""
        return mujoco.MjSpec.from_string(XML)

    def action_spec(self) -> ActionSpec:
        """Return two numbers; `control` reads the action itself, a share of SPEED_M_S."""
        return unlimited(AXES, self.control_dt)

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return what the student sees and what the teacher knows."""
        position = Term(name="position", elements=AXES, unit="m")
        clue, side = (Term(name=name, elements=("sign",), unit="1") for name in ("clue", "side"))
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=(position, clue)),
            "privileged": ObsSpec(group="privileged", role="privileged", terms=(position, side)),
        }

    def camera_specs(self) -> dict:
        """Return none."""
        return {}

    def parameters(self) -> dict[str, Range]:
        """Return where it begins, and a number whose sign is the right door's: both ends hold both doors."""
        reach = (self.cfg.start_m / 0.8,) * 2  # the outer tenths are held out
        return {
            "start": Range(low=(-reach[0], -reach[1]), high=reach, unit="m"),
            "side": Range(low=(-1.0,), high=(1.0,), unit="1"),
        }

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task."""
        return (-1.0,) * 2, (1.0,) * 2

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task."""
        state.sim.set("qpos", values["start"], mask)
        sides = torch.where(values["side"] < 0, -1.0, 1.0)
        for name, fresh in (("side", sides), ("clue", torch.zeros_like(sides))):
            state.episode[name] = torch.where(mask[:, None], fresh, state.episode.get(name, fresh))
        return torch.zeros(len(mask), 2)

    def control(self, command: Tensor, state: State) -> Tensor:
        """See Task: velocities, none of them further up or down than the walls."""
        y, up = state.sim.get("qpos")[:, 1], state.action[:, 1]
        velocity = SPEED_M_S * state.action
        velocity[:, 1].masked_fill_((y.abs() > WALL_M) & (y * up > 0), 0.0)
        return velocity.to(state.sim.get("ctrl").dtype)

    def progress(self, state: State, dt: float) -> None:
        """Show which door it is, for the rest of the episode, to who has come up."""
        is_up = state.sim.get("qpos")[:, 1:] > LOOKOUT_M
        state.episode["clue"] = torch.where(is_up, state.episode["side"], state.episode["clue"])

    def observe(self, group: str, state: State) -> Tensor:
        """See Task."""
        sign = state.episode["clue" if group == "proprio" else "side"]
        return torch.cat((state.sim.get("qpos").float(), sign), 1)

    def reward(self, state: State) -> dict[str, Tensor]:
        """See Task."""
        right, out, cfg = self.success(state), self.terminated(state), self.cfg
        return {
            "success": cfg.success_reward * right.float(),
            "wrong": -cfg.wrong_cost * (out & ~right).float(),
            "time": torch.full((len(right),), -cfg.time_cost),
        }

    def success(self, state: State) -> Tensor:
        """See Task: it left by the right door."""
        return state.sim.get("qpos")[:, 0] * state.episode["side"][:, 0] >= DOOR_M

    def terminated(self, state: State) -> Tensor:
        """See Task: it left."""
        return state.sim.get("qpos")[:, 0].abs() >= DOOR_M

    def script(self, observations: TensorDict) -> Tensor:
        """Return the straight way to the right door, at full speed."""
        side = observations["privileged"][:, 2]
        return torch.stack((side, torch.zeros_like(side)), 1)

    def script_constants(self) -> dict[str, Tensor]:
        """Return none."""
        return {}
