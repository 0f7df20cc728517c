"""Isaac Lab's tasks as ours: `task=isaaclab task.env_id=…`, manager-based or direct, on its own simulators.

Its observation groups keep their names and get our roles, its camera sensors are camera groups in our
encoding, its termination terms say what success is. It runs in a process of its own (apart.py): one process
holds one simulation, and what it prints stays there. Its episodes begin by themselves, drawn by its own
generators: they depend on how many environments there are, and no two policies meet the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from robokd.tasks.foreign.apart import opened
from robokd.tasks.foreign.managed import check_installed

from robokd import UserError
from robokd.env.foreign import ForeignEnv, check_parts
from robokd.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable

    from robokd.env.base import Setup
    from robokd.env.foreign import Worlds
    from robokd.sim.base import SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

VERSION = "3.0"  # of Isaac Lab, whose names and conventions differ from 2.x
CURE = "on Python 3.12, in an environment of its own: pip install 'robokd[train,isaaclab]'"
ACTIONS = ("native", "joint_delta")


@register("task", "isaaclab")
@dataclass(kw_only=True)
class IsaacLabCfg:
    """A task of Isaac Lab 3.0, by its Gymnasium id."""

    suite: ClassVar[str] = "isaaclab"

    env_id: str = ""  # e.g. Isaac-Cartpole; one of your own is registered by a module that plugins=[…] names
    overrides: tuple[str, ...] = ()  # Isaac Lab's own, as physics=newton_mjwarp or env.decimation=4
    proprio: tuple[str, ...] = ("policy",)  # its groups that a robot has
    history: tuple[str, ...] = ()  # its groups of what a robot had before
    privileged: tuple[str, ...] = ()  # its groups that only a simulator has; [] = all others
    near_m: float = 0.05  # of the depth encoding, for every camera
    far_m: float = 2.0  # beyond it is a miss, as is its background: Newton's 0, RTX's inf
    depth: str = "depth_u8"  # or depth_f16
    action: str = "native"  # or joint_delta, which a robot can be sent: it needs one joint position term
    action_scale: float = 1.0  # native: the task's own action at |action| = 1
    joint_step_rad: float = 0.06  # joint_delta: target motion per control step at |action| = 1
    velocity: float = 0.0  # rad/s, joint_delta: of every joint; 0 = the articulation's own limits
    acceleration: float = 20.0  # rad/s^2, joint_delta: of every joint
    start_rad: float = 0.0  # joint_delta: how far from the default pose episodes begin; 0 = not known
    success_term: str = ""  # its termination term or key of extras that says success; empty = it survived

    def __post_init__(self) -> None:
        for name in ("near_m", "velocity", "start_rad"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"task.{name} must be >= 0 and finite, got {getattr(self, name)}")
        for name in ("far_m", "action_scale", "joint_step_rad", "acceleration"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"task.{name} must be > 0 and finite, got {getattr(self, name)}")
        if self.near_m >= self.far_m:
            raise ValueError(f"task.near_m must be below task.far_m, got {self.near_m} and {self.far_m}")
        for name, known in (("action", ACTIONS), ("depth", ("depth_u8", "depth_f16"))):
            if getattr(self, name) not in known:
                got = f"{getattr(self, name)!r}"
                raise ValueError(f"task.{name} must be {' or '.join(known)}, got {got}")
        named = [*self.proprio, *self.history, *self.privileged]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ValueError(f"task.proprio, history and privileged name {twice[0]!r} twice")
        if ":" in self.env_id:
            raise ValueError(
                f"task.env_id={self.env_id} names a module to import: type plugins=[<module>] and the bare id"
            )

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> ForeignEnv:
        """Return environments of the task; its own simulator and renderer are used, whatever ours are."""
        opener = self.opener(setup)
        check_parts(sim, renderer, corrupt)
        return opened(opener, setup)

    def opener(self, setup: Setup) -> Callable[[], Worlds]:
        """Return what opens the task's worlds in the process that calls it, which can hold no others."""
        check_installed("isaaclab", VERSION, CURE)
        if not self.env_id:
            raise UserError(
                "task=isaaclab needs task.env_id=…: the Gymnasium id of a task, e.g. Isaac-Cartpole"
            )
        return partial(
            open_worlds, self, setup.num_envs, setup.device, seed=setup.draws.seed, ends=setup.ends
        )


def open_worlds(cfg: IsaacLabCfg, num_envs: int, device: str, *, seed: int, ends: bool) -> Worlds:
    """Return the worlds of a task, in this process, which can hold no others; see IsaacLab."""
    from robokd.tasks.foreign.isaaclab_worlds import IsaacLab

    return IsaacLab(cfg, num_envs, device, seed=seed, ends=ends)
