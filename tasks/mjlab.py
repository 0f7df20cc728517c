"""mjlab's tasks as ours: `task=mjlab task.env_id=Mjlab-…`, on its own simulator.

Its observation groups keep their names and get our roles, its camera sensors are camera groups in our
encoding. It runs in a process of its own (apart.py): a reset seeds the generators of its whole process.
Shapes: N environments, A action dimensions; its pictures are (N, H, W, C).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from robokd.tasks.foreign.apart import opened
from robokd.tasks.foreign.managed import (
    check_installed,
    check_success_term,
    encode,
    flat,
    native,
    numbers,
    obs_specs,
    succeeded,
)
from torch import Tensor

from robokd import UserError
from robokd.env.foreign import SEEDS, ForeignEnv, Outcome, check_parts
from robokd.registry import register, unknown
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    from robokd.env.base import Setup
    from robokd.sim.base import SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

VERSION = "1.6"  # of mjlab
CURE = "in an environment of its own: pip install mjlab==1.6.0, then pip install --no-deps robokd"
BESIDES = ("rsl-rl-lib",)  # it trains by that, we by our own


@register("task", "mjlab")
@dataclass(kw_only=True)
class MjlabCfg:
    """A task of mjlab 1.6, by its id."""

    suite: ClassVar[str] = "mjlab"

    env_id: str = ""  # e.g. Mjlab-Cartpole-Balance; one of your own is registered by a module of plugins=[…]
    proprio: tuple[str, ...] = ("actor",)  # its groups that a robot has
    history: tuple[str, ...] = ()  # its groups of what a robot had before
    privileged: tuple[str, ...] = ()  # its groups that only a simulator has; [] = all others
    near_m: float = 0.01  # of the depth encoding, for every camera
    far_m: float = 2.0  # beyond it is a miss
    depth: str = "depth_u8"  # or depth_f16
    action_scale: float = 1.0  # the task's own action at |action| = 1
    success_term: str = ""  # its termination term that says success; empty = the episode lasted its time

    def __post_init__(self) -> None:
        if not 0 <= self.near_m < self.far_m < math.inf:
            raise ValueError(f"task.near_m must be below task.far_m, got {self.near_m} and {self.far_m}")
        if not 0 < self.action_scale < math.inf:
            raise ValueError(f"task.action_scale must be > 0 and finite, got {self.action_scale}")
        if self.depth not in ("depth_u8", "depth_f16"):
            raise ValueError(f"task.depth must be depth_u8 or depth_f16, got {self.depth!r}")

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> ForeignEnv:
        """Return environments of the task; its own simulator and renderer are used, whatever ours are."""
        check_installed("mjlab", VERSION, CURE, besides=BESIDES)
        check_parts(sim, renderer, corrupt)
        if not self.env_id:
            raise UserError("task=mjlab needs task.env_id=…: the id of a task, e.g. Mjlab-Cartpole-Balance")
        opener = partial(Mjlab, self, setup.num_envs, setup.device, setup.draws.seed)
        return opened(opener, setup)


class Mjlab:
    """The Worlds protocol. Episodes begin when they are told to: their ends can be looked at."""

    begins_itself = False

    def __init__(self, cfg: MjlabCfg, num_envs: int, device: str, seed: int) -> None:
        """Build the task; UserError for what it lacks."""
        self._cfg, self.num_envs, self.device = cfg, num_envs, device
        importlib.import_module("mjlab.tasks")  # registers its own
        registry = importlib.import_module("mjlab.tasks.registry")
        if cfg.env_id not in (known := registry.list_tasks()):
            raise UserError(unknown("task of mjlab", cfg.env_id, known))
        made = registry.load_env_cfg(cfg.env_id)
        made.scene.num_envs, made.seed, made.auto_reset = num_envs, seed, False
        build = importlib.import_module("mjlab.envs").ManagerBasedRlEnv
        try:
            self._env: Any = build(made, device)
        except FileNotFoundError as error:  # of tracking a motion
            raise UserError(
                f"task.env_id={cfg.env_id} wants a file that is not there ({error}): register a task of your "
                "own whose config names it, in a module of plugins=[…]"
            ) from error
        self._ends_for_good = bool(made.is_finite_horizon)
        self.control_dt = float(self._env.step_dt)
        self.max_episode_length = int(self._env.max_episode_length)
        self._groups = flat(self._env.reset(seed=seed)[0])
        self.obs_specs = obs_specs(cfg, self._env, self._groups)
        self.action_spec = native(self._env)
        self._sensors: dict[str, tuple[Any, str]] = {}
        self.camera_specs: dict[str, CameraSpec] = {}
        self._find_cameras()
        check_success_term(cfg, self._env)

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """See Worlds.begin; what they draw is of one generator, so it depends on who begins beside them."""
        seed = int(seeds[mask].sum()) % SEEDS
        self._groups = flat(self._env.reset(seed=seed, env_ids=mask.nonzero()[:, 0])[0])

    def step(self, actions: Tensor) -> Outcome:
        """See Worlds.step."""
        said, reward, ended, late, _ = self._env.step(self._cfg.action_scale * actions)
        self._groups = flat(said)
        success = succeeded(self._cfg, self._env, ended=ended, late=late)
        if self._ends_for_good:  # what ends at a finite horizon is worth nothing beyond
            ended = ended | late
        return Outcome(reward=reward.float(), terminated=ended.bool(), truncated=late.bool(), success=success)

    def observe(self, groups: Sequence[str]) -> dict[str, Tensor]:
        """See Worlds.observe."""
        return {
            name: self._picture(name) if name in self._sensors else numbers(self._groups[name]).clone()
            for name in groups
        }

    def close(self) -> None:
        """See Worlds.close."""
        self._env.close()

    def _find_cameras(self) -> None:
        model = self._env.sim.mj_model
        for name, sensor in self._env.scene.sensors.items():
            kinds = [kind for kind in ("depth", "rgb") if kind in getattr(sensor.cfg, "data_types", ())]
            for kind in kinds:
                group = f"{name}_rgb" if kind == "rgb" and len(kinds) == 2 else name
                camera = model.camera(sensor.camera_name)
                mount = model.body(camera.bodyid[0]).name
                self._sensors[group] = sensor, kind
                self.camera_specs[group] = CameraSpec(
                    name=group, width=sensor.cfg.width, height=sensor.cfg.height,
                    fovy_deg=float(camera.fovy[0]), near_m=self._cfg.near_m, far_m=self._cfg.far_m,
                    encoding=self._cfg.depth if kind == "depth" else "rgb_u8", mount=mount,
                    position_m=tuple(camera.pos.tolist()), quaternion_wxyz=tuple(camera.quat.tolist()),
                )  # fmt: skip

    def _picture(self, name: str) -> Tensor:
        sensor, kind = self._sensors[name]
        image = getattr(sensor.data, kind).permute(0, 3, 1, 2)
        camera = self.camera_specs[name]
        return encode(image, camera) if camera.is_depth else image.contiguous()
