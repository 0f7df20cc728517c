"""A pillar ahead that may be passed on either side; what is seen does not tell which way the teacher takes.

A point goes forward by itself and is steered sideways. Nearer to the middle than the pillar is wide the
teacher takes either way, by a coin that it alone knows, and says so: its label is a mixture of both. Whoever
copies the mean of what it does runs into the pillar (METHODS B1, as episodes). Shapes: N environments.
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

FORWARD_M_S = 2.5  # 0.1 m in a control step
SIDEWAYS_M_S = 3.75  # at most: 0.15 m in a control step
AHEAD_M = 2.0  # of the pillar's middle, where an episode begins
PILLAR_M = (0.15, 0.5)  # half of its length and of its width
STD = 0.2  # of both ways, m


@register("task", "two_ways")
@dataclass(kw_only=True)
class TwoWaysCfg:
    """Pass a pillar on either side."""

    start_m: float = 0.05  # both ways, of y

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(TwoWays(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class TwoWays:
    """The Task protocol."""

    control_dt, horizon_s = 0.04, 1.2
    script_groups = ("privileged",)

    def __init__(self, cfg: TwoWaysCfg) -> None:
        self.cfg = cfg

    def scene(self) -> mujoco.MjSpec:
        """Return the point; the pillar is what `terminated` says it is."""
        return mujoco.MjSpec.from_string(XML)

    def action_spec(self) -> ActionSpec:
        """Return one number, the y in m to go to; `control` reads the action itself."""
        return unlimited(("y",), self.control_dt)

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return what the student sees, and with the coin what the teacher knows."""
        position = Term(name="position", elements=AXES, unit="m")
        coin = Term(name="coin", elements=("sign",), unit="1")
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=(position,)),
            "privileged": ObsSpec(group="privileged", role="privileged", terms=(position, coin)),
        }

    def camera_specs(self) -> dict:
        """Return none."""
        return {}

    def parameters(self) -> dict[str, Range]:
        """Return where it begins, and the coin: a number whose sign is the side that the teacher takes."""
        reach = self.cfg.start_m / 0.8  # the outer tenths are held out
        return {
            "start": Range(low=(-reach,), high=(reach,), unit="m"),
            "coin": Range(low=(-1.0,), high=(1.0,), unit="1"),
        }

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task."""
        return (-1.0,), (1.0,)

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task."""
        start = values["start"]
        state.sim.set("qpos", torch.cat((torch.full_like(start, -AHEAD_M), start), 1), mask)
        coin = torch.where(values["coin"] < 0, -1.0, 1.0)
        state.episode["coin"] = torch.where(mask[:, None], coin, state.episode.get("coin", coin))
        return torch.zeros(len(mask), 1)

    def control(self, command: Tensor, state: State) -> Tensor:
        """See Task: velocities, the one sideways such that y is where the action says, or on its way."""
        y = state.sim.get("qpos")[:, 1:]
        sideways = ((state.action - y) / self.control_dt).clip(-SIDEWAYS_M_S, SIDEWAYS_M_S)
        return torch.cat((torch.full_like(sideways, FORWARD_M_S), sideways), 1)

    def progress(self, state: State, dt: float) -> None:
        """Advance nothing."""

    def observe(self, group: str, state: State) -> Tensor:
        """See Task."""
        position = state.sim.get("qpos").float()
        return position.clone() if group == "proprio" else torch.cat((position, state.episode["coin"]), 1)

    def reward(self, state: State) -> dict[str, Tensor]:
        """See Task."""
        return {"passed": self.success(state).float()}

    def success(self, state: State) -> Tensor:
        """See Task: the pillar is behind it."""
        return state.sim.get("qpos")[:, 0] > PILLAR_M[0]

    def terminated(self, state: State) -> Tensor:
        """See Task: it touches the pillar, or has passed it."""
        x, y = state.sim.get("qpos").abs().unbind(1)
        return ((x <= PILLAR_M[0]) & (y < PILLAR_M[1])) | self.success(state)

    def script(self, observations: TensorDict) -> Tensor:
        """Return the way of the coin; outside the pillar's width, the side that it is on."""
        return self.script_modes(observations)[:, 0]

    def script_modes(self, observations: TensorDict) -> Tensor:
        """Return both ways (N, 2, 1), the script's own first; outside the pillar's width twice the nearer."""
        _, y, coin = observations["privileged"].unbind(1)
        side = torch.where(y < 0, -1.0, 1.0)
        is_open = y.abs() < PILLAR_M[1]
        own = torch.where(is_open, coin, side)
        return torch.stack((own, torch.where(is_open, -own, own)), 1)[..., None]

    def script_std(self) -> Tensor:
        """Return the sigma of either way."""
        return torch.tensor([STD])

    def script_constants(self) -> dict[str, Tensor]:
        """Return none."""
        return {}
