"""Our native tasks as gymnasium's environments: `make("robokd.env.gymnasium:robokd/Reach-v0", groups=[…])`.

Importing this file registers them, as gymnasium asks of whoever has some: `robokd/<Task>-v0`, one world of it
by `make` and a batch of them by `make_vec`. A seed decides which numbered episodes are run.
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError, registry
from robokd.draws import Draws
from robokd.env.base import Setup, State, Task, TaskEnv
from robokd.env.native import NativeEnv

Observation = dict[str, Any]  # arrays by group
EPISODES = 2**62  # numbers of episodes are drawn below it
PARTS = {"sim": "mujoco", "renderer": "raster", "corrupt": "clean"}  # where nobody chooses


class Single(gymnasium.Env[Observation, np.ndarray]):
    """One world of a native task."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  (gymnasium's)

    def __init__(
        self, task: str, groups: Sequence[str] = (), *, fields: Mapping[str, Any] | None = None,
        parts: Mapping[str, str] | None = None, space: str = "seen",
    ) -> None:  # fmt: skip
        """Build the world.

        Args:
            task: name of a registered task.
            groups: that are observed, 1-D ones and cameras; empty = every 1-D group of the task.
            fields: of the task's config, e.g. {"horizon_s": 2.0}.
            parts: what is not to be as in PARTS, e.g. {"corrupt": "d435"}.
            space: that the episodes' parameters are drawn from, see env.base.
        """
        self.env = build(task, 1, groups, fields=fields, parts=parts, space=space)
        self.endings, self.dt = Endings(self.env), self.env.action_spec.control_dt
        self.observation_space, self.action_space = observation_space(self.env), action_space(self.env)
        self._is_open = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; there are no options."""
        super().reset(seed=seed)
        number = torch.tensor([int(self.np_random.integers(EPISODES))])
        obs, self._is_open = self.env.reset(number), True
        return row(obs, 0), {"episode_id": int(number)}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply an action (A,); an episode that has ended wants a reset."""
        if not self._is_open:
            raise ResetNeeded("this episode has ended: call reset()")
        sent = torch.as_tensor(np.asarray(action), dtype=torch.float32)[None]
        obs, reward, done, extras = self.env.step(sent)
        ended, is_late = bool(done[0]), bool(extras["time_outs"][0])
        self._is_open = not ended
        seen = self.endings.last(obs, extras) if ended else obs
        info = {"is_success": bool(extras["success"][0]), "episode_id": int(extras["episode_id"][0])}
        return row(seen, 0), float(reward[0]), ended and not is_late, is_late, info

    def close(self) -> None:
        """Free the world."""
        self.env.close()


class Vector(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """A batch of worlds of a native task; one whose episode has ended begins the next in the same step."""

    metadata: dict[str, Any] = {  # noqa: RUF012  (gymnasium's)
        "render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP
    }  # fmt: skip

    def __init__(
        self, task: str, num_envs: int = 1, *, groups: Sequence[str] = (),
        fields: Mapping[str, Any] | None = None, parts: Mapping[str, str] | None = None, space: str = "seen",
    ) -> None:  # fmt: skip
        """Build the worlds; the arguments are Single's."""
        self.env = build(task, num_envs, groups, fields=fields, parts=parts, space=space)
        self.endings, self.dt, self.num_envs = Endings(self.env), self.env.action_spec.control_dt, num_envs
        self.single_observation_space = observation_space(self.env)
        self.single_action_space = action_space(self.env)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every world; there are no options."""
        super().reset(seed=seed)
        numbers = torch.from_numpy(self.np_random.integers(EPISODES, size=self.num_envs))
        return arrays(self.env.reset(numbers)), {"episode_id": numbers.numpy()}

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Apply actions (N, A); infos have `final_obs` and `final_info` of the episodes that have ended."""
        sent = torch.as_tensor(np.asarray(actions), dtype=torch.float32)
        obs, reward, done, extras = self.env.step(sent)
        ended, is_late = done.bool().cpu().numpy(), extras["time_outs"].cpu().numpy()
        everywhere = np.ones(self.num_envs, bool)
        found = {"is_success": extras["success"], "episode_id": extras["episode_id"]}
        own = {name: value.cpu().numpy() for name, value in found.items()}
        infos: dict[str, Any] = {**own, **{f"_{name}": everywhere.copy() for name in own}}
        if ended.any():
            last = self.endings.last(obs, extras)
            final = np.full(self.num_envs, None, dtype=object)
            for world in ended.nonzero()[0]:
                final[world] = row(last, int(world))
            told = {name: value.copy() for name, value in own.items()}
            infos |= {"final_obs": final, "_final_obs": ended.copy(), "_final_info": ended.copy()}
            infos["final_info"] = {**told, **{f"_{name}": ended.copy() for name in own}}
        return arrays(obs), reward.cpu().numpy(), ended & ~is_late, is_late, infos

    def close_extras(self) -> None:
        """Free the worlds."""
        self.env.close()


class Endings:
    """What is seen at the end of an episode, which our environments no longer show as they begin the next.

    A native environment is asked while it decides who has ended: in such a step it looks twice.
    """

    def __init__(self, env: TaskEnv) -> None:
        self._seen: TensorDict | None = None
        if isinstance(env, NativeEnv):
            env.task = cast("Task", Watched(env, self))

    def note(self, seen: TensorDict) -> None:
        """Keep what is seen in a step in which some episode ends."""
        self._seen = seen

    def last(self, obs: TensorDict, extras: Mapping[str, Any]) -> TensorDict:
        """Return (N, ...) what was seen as the step ended that returned `obs` and `extras`.

        Of worlds that are not ours only 1-D groups are known; what is not is as it is in the next episode.
        """
        if self._seen is not None:
            seen, self._seen = self._seen, None
            return seen
        terminal = extras.get("terminal", {})
        return TensorDict({**dict(obs.items()), **dict(terminal.items())}, batch_size=obs.batch_size)


class Watched:
    """A native task, and who is told what is seen when an episode of it ends."""

    def __init__(self, env: NativeEnv, endings: Endings) -> None:
        self._env, self._task, self._endings = env, env.task, endings

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the task has)
        return getattr(self._task, name)

    def terminated(self, state: State) -> Tensor:
        """See Task; the last that is asked before the next episodes begin."""
        env, ended = self._env, self._task.terminated(state)
        if (ended | (state.step >= env.max_episode_length) | env.sim.diverged()).any():
            self._endings.note(env.observe())
        return ended


def build(
    task: str, num_envs: int, groups: Sequence[str], *, fields: Mapping[str, Any] | None = None,
    parts: Mapping[str, str] | None = None, space: str = "seen",
) -> TaskEnv:  # fmt: skip
    """Return environments of a task by name; see Single."""
    kind = registry.find("task", task)
    for what, given, known in (
        (f"field of task={task}", fields or {}, [field.name for field in dataclasses.fields(kind)]),
        ("kind of part", parts or {}, list(PARTS)),
    ):
        if wrong := [name for name in given if name not in known]:
            raise UserError(registry.unknown(what, wrong[0], known))
    chosen = {of: registry.find(of, name)() for of, name in {**PARTS, **(parts or {})}.items()}
    config, draws = kind(**(fields or {})), Draws(0, "train")
    if not groups:
        known = config.build(**chosen, setup=Setup(num_envs=1, groups=(), draws=draws))
        groups = tuple(known.obs_specs)
        known.close()
    return config.build(
        **chosen, setup=Setup(num_envs=num_envs, groups=tuple(groups), draws=draws, space=space)
    )


def observation_space(env: TaskEnv) -> spaces.Dict:
    """Return the space of one world's observations: a Box for each group that is emitted."""
    return spaces.Dict({name: group_space(env, name) for name in env.groups})


def group_space(env: TaskEnv, group: str) -> spaces.Box:
    """Return the space of a group; what is not a picture of whole numbers has no bounds that we know."""
    if group in env.obs_specs:
        return spaces.Box(-np.inf, np.inf, (env.obs_specs[group].size,), np.float32)
    camera = env.camera_specs[group]
    if np.issubdtype(camera.dtype, np.integer):
        bounds = np.iinfo(camera.dtype)
        return spaces.Box(int(bounds.min), int(bounds.max), camera.shape, camera.dtype)
    return spaces.Box(-np.inf, np.inf, camera.shape, camera.dtype)


def action_space(env: TaskEnv) -> spaces.Box:
    """Return the space of one world's actions."""
    return spaces.Box(-1.0, 1.0, (env.num_actions,), np.float32)


def arrays(obs: TensorDict) -> Observation:
    """Return observations (N, ...) as arrays."""
    return {str(name): value.cpu().numpy() for name, value in obs.items()}


def row(obs: TensorDict, world: int) -> Observation:
    """Return one world's observation, in memory of its own."""
    return {str(name): value[world].cpu().numpy().copy() for name, value in obs.items()}


def env_id(task: str) -> str:
    """Return the id under which a task is registered."""
    return f"robokd/{''.join(word.capitalize() for word in task.split('_'))}-v0"


def is_native(task: str) -> bool:
    """Whether our own environment runs a registered task; those of others name their suite."""
    return not hasattr(registry.find("task", task), "suite")


def register_tasks() -> None:
    """Register every native task that is known by now with gymnasium; plugins may bring more."""
    for task in filter(is_native, registry.names("task")):
        if env_id(task) not in gymnasium.registry:
            gymnasium.register(
                env_id(task), f"{__name__}:Single", vector_entry_point=f"{__name__}:Vector",
                kwargs={"task": task},
            )  # fmt: skip


register_tasks()
