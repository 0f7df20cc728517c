"""A task of Isaac Lab 3.0 as Worlds, in the process that it has for itself.

Quaternions of Isaac Lab are (x, y, z, w), ours (w, x, y, z). Its observations and pictures are copied out.
Shapes: N environments, A action dimensions, D numbers of a group; its pictures are (N, H, W, C).
"""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium
import torch
from robokd.tasks.foreign.isaaclab_joints import JointTargets
from robokd.tasks.foreign.managed import (
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
from robokd.env.foreign import SEEDS, Outcome
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    from robokd.tasks.isaaclab import IsaacLabCfg

# of its camera sensors; both are planar depth in metres, "distance_to_camera" is not planar
DEPTHS, COLOURS = ("distance_to_image_plane", "depth"), ("rgb",)


class IsaacLab:
    """The Worlds protocol. An environment whose episode ended has begun the next one when `step` returns."""

    begins_itself = True

    def __init__(self, cfg: IsaacLabCfg, num_envs: int, device: str, *, seed: int, ends: bool) -> None:
        """Launch what the task's physics and renderer need, and build it; UserError for what it lacks.

        Args:
            cfg: names the task and what its groups are.
            num_envs: its environments.
            device: of torch, and of its physics.
            seed: of what it draws when it is built.
            ends: whether Outcome.final is wanted: its observations are computed twice then, pictures too.
        """
        self._cfg, self.num_envs, self.device = cfg, num_envs, device
        made = _configured(cfg, num_envs, device)
        made.seed, made.compute_final_obs = seed, ends
        self._joints = JointTargets(cfg, made) if cfg.action == "joint_delta" else None
        self._stack = contextlib.ExitStack()
        launch = importlib.import_module("isaaclab.app.sim_launcher").launch_simulation
        self._stack.enter_context(launch(made, {}))
        self._env: Any = _made(cfg.env_id, made)
        self._ends_for_good = bool(made.is_finite_horizon)
        self.control_dt, self.physics_dt = float(self._env.step_dt), float(self._env.physics_dt)
        self.max_episode_length = int(self._env.max_episode_length)
        self._groups = flat(self._env.reset(seed=seed)[0])
        self.obs_specs = obs_specs(cfg, self._env, self._groups)
        self._sensors: dict[str, tuple[Any, str]] = {}
        self.camera_specs: dict[str, CameraSpec] = {}
        self._find_cameras()
        if self._joints:
            self.action_spec = self._joints.bind(self._env)
            self.obs_specs |= self._joints.obs_specs()
        else:
            self.action_spec = native(self._env)
        check_success_term(cfg, self._env)

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """See Worlds.begin: all begin, from one seed that is a function of theirs."""
        if not bool(mask.all()):
            raise ValueError("Isaac Lab begins single episodes by itself")
        self._groups = flat(self._env.reset(seed=int(seeds.sum()) % SEEDS)[0])
        if self._joints:
            self._joints.begin(mask)

    def step(self, actions: Tensor) -> Outcome:
        """See Worlds.step."""
        raw = self._joints.raw(actions) if self._joints else self._cfg.action_scale * actions
        said, reward, ended, late, extras = self._env.step(raw)
        self._groups = flat(said)
        begun = ended | late
        if self._joints:
            self._joints.begin(begun)
        success = succeeded(self._cfg, self._env, ended=ended, late=late)
        if self._ends_for_good:  # what ends at a finite horizon is worth nothing beyond
            ended = begun
        # it keeps the last one: what is there after a step that ended nothing is of another
        final = extras.get("final_obs") if bool(begun.any()) else None
        kept = {name: rows for name, rows in flat(final).items() if name in self.obs_specs} if final else None
        return Outcome(
            reward=reward.float(), terminated=ended.bool(), truncated=late.bool(), success=success,
            final={name: numbers(rows) for name, rows in kept.items()} if kept else None,
        )  # fmt: skip

    def observe(self, groups: Sequence[str]) -> dict[str, Tensor]:
        """See Worlds.observe; a camera that nobody asks for is not rendered."""
        return {name: self._picture(name) if name in self._sensors else numbers(self._groups[name]).clone()
                for name in groups}  # fmt: skip

    def close(self) -> None:
        """See Worlds.close."""
        self._env.close()
        self._stack.close()

    def targets(self) -> tuple[Tensor, Tensor]:
        """See JointWorlds.targets; UserError, as all that follows, where the task decodes its own actions."""
        joints = self._decoded()
        return joints.command, joints.rate

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See JointWorlds.start_envelope."""
        return self._decoded().start_envelope()

    def gains(self) -> dict[str, list[float] | None]:
        """See JointWorlds.gains; None where the servos are not plain ones."""
        return self._decoded().gains()

    def drive(self, targets: Tensor) -> None:
        """See RobotWorlds.drive."""
        self._decoded().drive(targets)

    def joints(self) -> tuple[Tensor, Tensor]:
        """See RobotWorlds.joints."""
        return self._decoded().positions_and_speeds()

    def judge(self) -> tuple[Tensor, Tensor]:
        """See RobotWorlds.judge: what its own step does after physics, but for rewards and resets."""
        env = self._env
        if env.sim.is_rendering:
            env.sim.render()
        env.episode_length_buf += 1
        env.common_step_counter += 1
        over = env.termination_manager.compute().clone()
        ended, late = env.termination_manager.terminated, env.termination_manager.time_outs
        env.command_manager.compute(dt=env.step_dt)
        if "interval" in env.event_manager.active_terms:
            env.event_manager.apply(mode="interval", dt=env.step_dt)
        return succeeded(self._cfg, env, ended=ended, late=late), over

    def _decoded(self) -> JointTargets:
        if self._joints is None:
            raise UserError("task.action=native: no joint targets are known that a robot could be sent")
        return self._joints

    def _find_cameras(self) -> None:
        for name, sensor in self._env.scene.sensors.items():
            kinds = list(getattr(sensor.cfg, "data_types", ()))
            depth = next((kind for kind in DEPTHS if kind in kinds), None)
            colour = next((kind for kind in COLOURS if kind in kinds), None)
            for kind, encoding in ((depth, self._cfg.depth), (colour, "rgb_u8")):
                if kind is None:
                    continue
                group = f"{name}_rgb" if kind is colour and depth else name
                self._sensors[group] = sensor, kind
                self.camera_specs[group] = _camera_spec(self._cfg, self._env, group, sensor, encoding)

    def _picture(self, name: str) -> Tensor:
        sensor, kind = self._sensors[name]
        image = sensor.data.output[kind].torch.permute(0, 3, 1, 2)
        camera = self.camera_specs[name]
        return encode(image, camera) if camera.is_depth else image[:, :3].contiguous()


def _configured(cfg: IsaacLabCfg, num_envs: int, device: str) -> Any:  # noqa: ANN401
    """Return the task's own config with our numbers; UserError for an id that names no task of Isaac Lab."""
    importlib.import_module("isaaclab_tasks")  # registers its own
    parse = importlib.import_module("isaaclab_tasks.utils.parse_cfg").parse_env_cfg
    try:
        found = gymnasium.spec(cfg.env_id)
    except gymnasium.error.Error as error:
        raise UserError(f"task.env_id={cfg.env_id}: {' '.join(str(error).split())}") from None
    if "env_cfg_entry_point" not in found.kwargs:
        raise UserError(f"task.env_id={cfg.env_id} is registered, but is no task of Isaac Lab")
    try:
        made = parse(cfg.env_id, device=device, num_envs=num_envs, overrides=list(cfg.overrides))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if not cfg.overrides:
            raise
        raise UserError(f"task.overrides={list(cfg.overrides)}: {' '.join(str(error).split())}") from error
    if hasattr(made, "possible_agents") or not hasattr(made, "is_finite_horizon"):
        raise UserError(
            f"task.env_id={cfg.env_id} has several agents, or no rewards: wanted a task for one policy"
        )
    return made


def _made(env_id: str, made: Any) -> Any:  # noqa: ANN401
    """Return the environment of a config; UserError where a file of its scene's is out of reach."""
    try:
        return gymnasium.make(env_id, cfg=made).unwrapped
    except FileNotFoundError as error:
        raise UserError(
            f"task.env_id={env_id}: {error}: it is downloaded, and this machine cannot. Set "
            "ISAACSIM_ASSET_ROOT, or NEWTON_ASSET_DIR, to a folder that has it"
        ) from error


def _camera_spec(cfg: IsaacLabCfg, env: Any, group: str, sensor: Any, encoding: str) -> CameraSpec:  # noqa: ANN401
    """Return a camera sensor's contract: its lens from its intrinsics, its pose from where it is mounted."""
    height, width = (int(side) for side in sensor.image_shape)
    focal_px = float(sensor.data.intrinsic_matrices.torch[0, 1, 1])
    offset, parent = sensor.cfg.offset, _parent(sensor.cfg.prim_path)
    convert = importlib.import_module("isaaclab.utils.math").convert_camera_frame_orientation_convention
    x, y, z, w = convert(torch.tensor(offset.rot), origin=offset.convention, target="opengl").tolist()
    return CameraSpec(
        name=group, width=width, height=height, fovy_deg=math.degrees(2 * math.atan(height / 2 / focal_px)),
        near_m=cfg.near_m, far_m=cfg.far_m, encoding=encoding, mount=parent,
        position_m=tuple(map(float, offset.pos)), quaternion_wxyz=(w, x, y, z),
    )  # fmt: skip


def _parent(prim_path: str) -> str:
    """Return the name of the prim above a sensor's; "world" for what holds a whole environment."""
    # the environments' own name is a pattern, in which a bracket may hold a slash
    above = re.sub(r"\[[^]]*\]", "", prim_path).rstrip("/").split("/")[-2]
    return "world" if above in ("World", "{ENV_REGEX_NS}") or above.startswith("env_") else above
