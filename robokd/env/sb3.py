"""Our VecEnv as stable-baselines3's: `PPO("MultiInputPolicy", Sb3VecEnv(env))`.

Source: the conventions of its DummyVecEnv: `terminal_observation` and `TimeLimit.truncated` in the infos.
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from tensordict import TensorDict

from robokd import UserError
from robokd.env.base import TaskEnv
from robokd.env.gymnasium import EPISODES, Endings, Observation, action_space, arrays, observation_space, row


class Sb3VecEnv(VecEnv):
    """A batch of our worlds for stable-baselines3.

    Without a seed, `reset` begins the episodes 0 .. N-1, each time the same ones.
    """

    def __init__(self, env: TaskEnv, *, is_flat: bool = False) -> None:
        """Take over an environment.

        Args:
            env: that is stepped; it is closed with this one.
            is_flat: observe one row of all groups, in their order, and no Dict of them; without cameras only.
        """
        self.env, self.endings, self.is_flat = env, Endings(env), is_flat
        groups: spaces.Space = observation_space(env)
        if is_flat:
            if cameras := [name for name in env.groups if name in env.camera_specs]:
                raise UserError(f"camera {cameras[0]!r} fits no row of numbers: say is_flat=False")
            width = sum(env.obs_specs[name].size for name in env.groups)
            groups = spaces.Box(-np.inf, np.inf, (width,), np.float32)
        super().__init__(env.num_envs, groups, action_space(env))
        self._actions = np.zeros((env.num_envs, env.num_actions), np.float32)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every world."""
        numbers = torch.arange(self.num_envs)
        if self._seeds[0] is not None:
            drawn = [int(np_random(seed)[0].integers(EPISODES)) for seed in self._seeds]
            numbers = torch.tensor(drawn)
        self._reset_seeds()
        self._reset_options()
        obs = self.env.reset(numbers)
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return self._shown(arrays(obs))

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions (N, A)."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Apply them."""
        sent = torch.as_tensor(self._actions, dtype=torch.float32, device=self.env.device)
        obs, reward, done, extras = self.env.step(sent)
        ended = done.bool().cpu().numpy()
        infos = [
            {"TimeLimit.truncated": bool(is_late), "is_success": bool(is_success)}
            for is_late, is_success in zip(extras["time_outs"], extras["success"], strict=True)
        ]
        if ended.any():
            self._add_last(infos, ended, self.endings.last(obs, extras))
        return self._shown(arrays(obs)), reward.cpu().numpy(), ended, infos

    def close(self) -> None:
        """Free the worlds."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the batch, once for each of the worlds asked for."""
        value = None if attr_name == "render_mode" else getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> NoReturn:  # noqa: ANN401
        """Refuse: the worlds are one batch."""
        raise UserError(f"{attr_name}: the worlds are one batch, and none has attributes that could be set")

    def env_method(
        self,
        method_name: str,
        *method_args: object,
        indices: VecEnvIndices = None,
        **method_kwargs: object,
    ) -> NoReturn:
        """Refuse: the worlds are one batch."""
        raise UserError(f"{method_name}: the worlds are one batch, and none has methods that could be called")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Say that no world is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _add_last(self, infos: Sequence[dict[str, Any]], ended: np.ndarray, last: TensorDict) -> None:
        for world in ended.nonzero()[0].tolist():
            infos[world]["terminal_observation"] = self._shown(row(last, world))

    def _shown(self, groups: Observation) -> Any:  # noqa: ANN401  (an array or a dict of them)
        return np.concatenate([groups[name] for name in self.env.groups], -1) if self.is_flat else groups
