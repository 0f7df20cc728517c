"""An environment of gymnasium's as a task, by its id: `task=gymnasium task.env_id=Pendulum-v1`.

Its bounded actions are scaled to [-1, 1]. An observation of one axis is the group `proprio`, a picture the
camera `image`; those of a Dict are named by their keys, nested ones joined by "_". Each environment begins
every episode from a seed of its own, so that an episode does not depend on how many there are.
Whatever an id runs has been installed and registered by a person: ids that name a module, and the ids of
gymnasium's that import what their arguments name, are refused.
Shapes: N environments, A actions, D numbers of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from robokd import UserError
from robokd.env.base import Setup
from robokd.env.foreign import ForeignEnv, Outcome, check_parts
from robokd.registry import register
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term

if TYPE_CHECKING:
    from robokd.sim.base import SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

IMPORTING = ("GymV21Environment", "GymV26Environment")  # they import the module that their env_id names
OWN_OPTIONS = (
    "id", "num_envs", "vectorization_mode", "vector_kwargs", "wrappers", "max_episode_steps",
    "disable_env_checker",
)  # fmt: skip
PICTURE_CHANNELS = (1, 3)
Path = tuple[str, ...]  # the keys of a part of a nested observation, from the outside in


@register("task", "gymnasium")
@dataclass(kw_only=True)
class GymnasiumCfg:
    """Any environment of gymnasium's with bounded continuous actions, by its id."""

    suite: ClassVar[str] = "gymnasium"

    env_id: str = ""  # of gymnasium's registry, e.g. Pendulum-v1
    kwargs: dict[str, int | float | str | bool] = field(default_factory=dict)  # that it is made with
    privileged: tuple[str, ...] = ()  # groups that only a simulator knows
    max_episode_steps: int = 0  # control steps; 0 = as it is registered
    control_dt: float = 0.0  # s; 0 = as it says by `dt`, or by its frame rate
    success_return: float | None = None  # an episode succeeds if it ends with as much; null = see success_key
    success_key: str = "is_success"  # of its infos; where they lack it, who lasts to the end succeeds
    vectorized: bool = False  # by its own vector form: faster, but an episode depends on how many there are

    def __post_init__(self) -> None:
        if self.max_episode_steps < 0 or not 0 <= self.control_dt < np.inf:
            got = f"{self.max_episode_steps} and {self.control_dt}"
            raise ValueError(f"task.max_episode_steps and task.control_dt must be >= 0, got {got}")
        if taken := sorted(set(self.kwargs) & set(OWN_OPTIONS)):
            raise ValueError(f"task.kwargs are of the environment itself; {taken[0]!r} is gymnasium's")
        if self.success_return is not None and not np.isfinite(self.success_return):
            raise ValueError(f"task.success_return must be finite or null, got {self.success_return}")

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> ForeignEnv:
        """Return environments of the id; UserError for one that does not exist or does not fit."""
        check_parts(sim, renderer, corrupt)
        if setup.device != "cpu":
            raise UserError(f"task=gymnasium runs on the processor: leave device={setup.device} out")
        return ForeignEnv(GymnasiumWorlds(self, setup.num_envs), setup)


class GymnasiumWorlds:
    """The Worlds protocol over a vector environment of gymnasium's."""

    device = "cpu"

    def __init__(self, cfg: GymnasiumCfg, num_envs: int) -> None:
        self.cfg, self.num_envs, self._envs = cfg, num_envs, open_envs(cfg, num_envs)
        mode = self._envs.metadata.get("autoreset_mode")
        if mode not in (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP):
            got = f"{cfg.env_id} begins episodes by {getattr(mode, 'name', mode)}"
            raise UserError(f"task.vectorized: {got}; wanted SAME_STEP or DISABLED, or task.vectorized=false")
        self.begins_itself = mode is AutoresetMode.SAME_STEP
        one = self._envs.envs[0] if isinstance(self._envs, SyncVectorEnv) else self._envs
        self.control_dt, self.max_episode_length = _control_dt(cfg, one), _horizon(cfg, one)
        box = _action_box(cfg.env_id, self._envs.single_action_space)
        self._low, self._high, self._kind = box.low.astype(float), box.high.astype(float), box.dtype
        names = tuple(f"action_{index}" for index in range(len(box.low)))
        self.action_spec = ActionSpec(names=names, control_dt=self.control_dt, mode="native", anchor="none")
        self._paths, self.obs_specs, self.camera_specs = groups(cfg, self._envs.single_observation_space)
        self._returns = torch.zeros(num_envs, dtype=torch.float64)
        self._seen: Any = None

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """See Worlds."""
        if isinstance(self._envs, SyncVectorEnv):
            options = {"reset_mask": mask.numpy()}
            self._seen, _ = self._envs.reset(seed=seeds.tolist(), options=options)
        else:  # there is one seed for all
            options = {} if self.begins_itself else {"reset_mask": mask.numpy()}
            self._seen, _ = self._envs.reset(seed=int(seeds[mask][0]), options=options)
        self._returns = self._returns.masked_fill(mask, 0.0)

    def step(self, actions: Tensor) -> Outcome:
        """See Worlds."""
        share = (actions.numpy().astype(float) + 1) / 2
        sent = np.clip(self._low + share * (self._high - self._low), self._low, self._high)
        self._seen, reward, terminated, truncated, infos = self._envs.step(sent.astype(self._kind))
        ended = torch.from_numpy(terminated | truncated)
        self._returns = self._returns + torch.from_numpy(np.asarray(reward, float))
        success, final = self._success(terminated, truncated, infos), None
        if self.begins_itself:
            self._returns = self._returns.masked_fill(ended, 0.0)
            final = self._final(infos, ended) if ended.any() else None
        return Outcome(
            reward=torch.tensor(reward, dtype=torch.float32), terminated=torch.tensor(terminated),
            truncated=torch.tensor(truncated), success=success, final=final,
        )  # fmt: skip

    def observe(self, groups: Sequence[str]) -> dict[str, Tensor]:
        """See Worlds."""
        return {name: self._row(_at(self._seen, self._paths[name]), name) for name in groups}

    def close(self) -> None:
        """See Worlds."""
        self._envs.close()

    def _row(self, values: np.ndarray, name: str) -> Tensor:
        """Return a group's values of all worlds as its spec says, in fresh memory."""
        if name in self.obs_specs:
            return torch.tensor(values, dtype=torch.float32)
        first = values if values.shape[-1] not in PICTURE_CHANNELS else np.moveaxis(values, -1, 1)
        return torch.tensor(np.broadcast_to(first, (self.num_envs, *self.camera_specs[name].shape)).copy())

    def _success(self, terminated: np.ndarray, truncated: np.ndarray, infos: Mapping[str, Any]) -> Tensor:
        """Return (N,) bool: by the return if a threshold is given, else by the infos, else by lasting."""
        if self.cfg.success_return is not None:
            return self._returns >= self.cfg.success_return
        key, said, is_known = self.cfg.success_key, np.zeros(self.num_envs, bool), False
        # of worlds that have begun the next episode, the last infos stand apart
        for found in (infos, infos.get("final_info", {})):
            if key in found:
                is_known, has = True, np.asarray(found.get(f"_{key}", True))
                said = np.where(has, np.asarray(found[key]).astype(bool), said)
        return torch.from_numpy(said if is_known else truncated & ~terminated)

    def _final(self, infos: Mapping[str, Any], ended: Tensor) -> dict[str, Tensor]:
        """Return the 1-D groups at the end of the step, of worlds that have begun the next episode."""
        found = self.observe(list(self.obs_specs))
        for world in ended.nonzero()[:, 0].tolist():
            for name, row in found.items():
                last = _at(infos["final_obs"][world], self._paths[name])
                row[world] = torch.tensor(last, dtype=torch.float32)
        return found


def open_envs(cfg: GymnasiumCfg, num_envs: int) -> VectorEnv:
    """Return the vector environment of an id; UserError, in gymnasium's own words, where there is none."""
    if not cfg.env_id:
        raise UserError("task.env_id is empty: name an environment of gymnasium's, e.g. Pendulum-v1")
    if ":" in cfg.env_id:
        module = cfg.env_id.split(":")[0]
        raise UserError(
            f"task.env_id={cfg.env_id} would import a module: type plugins=[{module}] and the id without it"
        )
    if cfg.env_id.split("/")[-1].split("-v")[0] in IMPORTING:
        raise UserError(f"task.env_id={cfg.env_id} imports what its kwargs name: wanted another id")
    try:
        return _made(cfg, num_envs)
    except UserError:
        raise
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"task.env_id={cfg.env_id}: {text}") from error


def _made(cfg: GymnasiumCfg, num_envs: int) -> VectorEnv:
    own: dict[str, Any] = dict(cfg.kwargs)
    if cfg.vectorized:
        if gymnasium.spec(cfg.env_id).vector_entry_point is None:
            raise UserError(f"task.vectorized: {cfg.env_id} has no vector form of its own")
        return gymnasium.make_vec(cfg.env_id, num_envs, vectorization_mode="vector_entry_point", **own)
    steps = cfg.max_episode_steps or None

    def one() -> gymnasium.Env:
        return gymnasium.make(cfg.env_id, max_episode_steps=steps, **own)

    return SyncVectorEnv([one] * num_envs, copy=False, autoreset_mode=AutoresetMode.DISABLED)


def groups(
    cfg: GymnasiumCfg, space: spaces.Space
) -> tuple[dict[str, Path], dict[str, ObsSpec], dict[str, CameraSpec]]:
    """Return where each group is in an observation, and the specs of the 1-D ones and of the pictures."""
    paths: dict[str, Path] = {}
    numbers: dict[str, ObsSpec] = {}
    cameras: dict[str, CameraSpec] = {}
    for path, part in _parts(space):
        shape, is_box = part.shape or (), isinstance(part, spaces.Box)
        # a dot in a name would be a path to torch
        name = "_".join(path).replace(".", "_") or ("proprio" if len(shape) == 1 else "image")
        if name in paths:
            raise UserError(f"{cfg.env_id} has two observations that would both be the group {name!r}")
        paths[name] = path
        if is_box and len(shape) == 1:
            terms = (Term(name=name, elements=tuple(map(str, range(shape[0]))), unit="1"),)
            role = "privileged" if name in cfg.privileged else "proprio"
            numbers[name] = ObsSpec(group=name, role=role, terms=terms)
        elif is_box and part.dtype == np.uint8 and len(shape) == 3 and set(PICTURE_CHANNELS) & {*shape[::2]}:
            height, width = shape[:2] if shape[2] in PICTURE_CHANNELS else shape[1:]
            cameras[name] = CameraSpec(name=name, width=width, height=height, encoding="rgb_u8")
        else:
            wanted = "a Box of one axis, or a picture: uint8, (H, W, 1 or 3) or (1 or 3, H, W)"
            raise UserError(f"{cfg.env_id}: observation {name!r} is {part}; wanted {wanted}")
    if unknown := [name for name in cfg.privileged if name not in numbers]:
        raise UserError(f"task.privileged: no group named {unknown[0]!r}. Known: {', '.join(numbers)}")
    return paths, numbers, cameras


def _parts(space: spaces.Space, path: Path = ()) -> Iterator[tuple[Path, spaces.Space]]:
    """Yield the spaces in a nest of Dicts, with the keys that lead to them."""
    if not isinstance(space, spaces.Dict):
        yield path, space
        return
    for key, inner in space.spaces.items():
        yield from _parts(inner, (*path, key))


def _at(values: Any, path: Path) -> np.ndarray:  # noqa: ANN401  (a nest of dicts of arrays)
    for key in path:
        values = values[key]
    return values


def _action_box(env_id: str, space: spaces.Space) -> spaces.Box:
    """Return the space of actions; UserError unless it is of numbers that have bounds."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise UserError(f"{env_id} takes actions of {space}; wanted a bounded Box of one axis")
    if not space.is_bounded():
        raise UserError(f"{env_id} takes actions without bounds, {space}; wanted a bounded Box")
    return space


def _horizon(cfg: GymnasiumCfg, env: gymnasium.Env | VectorEnv) -> int:
    steps = cfg.max_episode_steps or (env.spec.max_episode_steps if env.spec else None)
    if not steps:
        raise UserError(f"{cfg.env_id} is registered without an end: say task.max_episode_steps=…")
    return steps


def _control_dt(cfg: GymnasiumCfg, env: gymnasium.Env | VectorEnv) -> float:
    own, rate = getattr(env.unwrapped, "dt", None), env.metadata.get("render_fps")
    for seconds in (cfg.control_dt, own, 1 / rate if rate else None):
        if isinstance(seconds, float) and seconds > 0:
            return seconds
    raise UserError(f"{cfg.env_id} does not say how long a step takes: say task.control_dt=… in s")
