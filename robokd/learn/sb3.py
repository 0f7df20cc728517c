"""stable-baselines3 as a Learner: its own `learn`, an iteration at a time, so that a run may be cut off.

All random draws of an iteration follow from the seed and the iteration's number: no generator is saved.
Shapes: N environments, D numbers of all groups, A action dimensions.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from robokd import UserError
from robokd.env.base import TaskEnv
from robokd.env.sb3 import Sb3VecEnv
from robokd.learn.rollout import SATURATED
from robokd.teachers.sb3 import Sb3Cfg, Sb3Teacher
from robokd.teachers.weights import flat

# of a ReplayBuffer, each (rows, N, …)
COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Sb3Learner:
    """The Learner protocol over PPO, SAC or TD3 of stable-baselines3."""

    def __init__(self, env: TaskEnv, settings: Sb3Cfg, seed: int, device: str) -> None:
        if settings.path or settings.normalizer:
            file = settings.path or settings.normalizer
            raise UserError(f"teach trains a teacher and opens none: {file} is for distill teacher=sb3")
        self._env, self.settings, self.seed = env, settings, seed
        venv = Sb3VecEnv(env, is_flat=True)
        self._statistics = VecNormalize(venv, norm_reward=False) if settings.normalizes else None
        self.model = settings.model(self._statistics or venv, device)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        # its first `learn` would reset the environments, and undo how their episodes are staggered
        first = flat(env.get_observations(), settings.groups).cpu().numpy()
        if self._statistics is not None:
            _running(self._statistics).update(first)
        self._stand_at(first, np.ones(env.num_envs, dtype=bool))
        self._sums: dict[str, float] = {}

    def learn(self, iteration: int) -> tuple[dict[str, float], int]:
        """See Learner."""
        started, updates = time.perf_counter(), self.model._n_updates
        steps = self.settings.steps_per_iteration
        seed = int(np.random.SeedSequence([self.seed, iteration]).generate_state(1)[0])
        set_random_seed(seed, using_cuda=self.model.device.type == "cuda")
        self.model.action_space.seed(seed)
        self._sums = dict.fromkeys(("reward", "saturation", "episodes", "successes"), 0.0)
        self.model.learn(
            steps * self._env.num_envs, self._watch, log_interval=sys.maxsize, reset_num_timesteps=False
        )
        row = {
            "reward": self._sums["reward"] / steps,
            "success": self._sums["successes"] / max(self._sums["episodes"], 1.0),
            "saturation": self._sums["saturation"] / steps,
            **self._losses(), "time/iteration_s": time.perf_counter() - started,
        }  # fmt: skip
        in_an_update = steps * self._env.num_envs if isinstance(self.model, PPO) else self.model.batch_size
        return row, (self.model._n_updates - updates) * in_an_update

    def teacher(self) -> Sb3Teacher:
        """See Learner."""
        return self.settings.build(self._env.get_observations(), self._env.num_actions, self._policy())

    def state(self) -> dict[str, Any]:
        """See Learner; of SAC and TD3 with all that they remember."""
        model = self.model
        starts = model._last_episode_starts
        assert starts is not None, "it has looked at the environments"
        state = {
            **self._policy(), "num_timesteps": model.num_timesteps, "updates": model._n_updates,
            "episode_starts": torch.from_numpy(starts),
        }  # fmt: skip
        if isinstance(model, SAC):
            state["log_entropy_weight"] = _log_entropy_weight(model).detach()
        if isinstance(model, OffPolicyAlgorithm):
            buffer = _buffer(model)
            rows = {name: torch.from_numpy(getattr(buffer, name)[: buffer.size()]) for name in COLUMNS}
            state["buffer"] = {**rows, "position": buffer.pos, "full": buffer.full}
        return state

    def restore(self, saved: dict[str, Any]) -> None:
        """See Learner."""
        model = self.model
        model.set_parameters(saved["model"])
        model.num_timesteps, model._n_updates = saved["num_timesteps"], saved["updates"]
        if isinstance(model, SAC):
            _log_entropy_weight(model).data.copy_(saved["log_entropy_weight"])
        if isinstance(model, OffPolicyAlgorithm):
            buffer, found = _buffer(model), saved["buffer"]
            for name in COLUMNS:
                getattr(buffer, name)[: len(found[name])] = found[name].numpy()
            buffer.pos, buffer.full = found["position"], found["full"]
        if self._statistics is not None:
            numbers, running = saved["normalizer"], _running(self._statistics)
            running.mean, running.var = numbers["mean"].numpy(), numbers["variance"].numpy()
            running.count = numbers["count"]
        # of the environments as they are now: one that cannot be saved has begun afresh
        seen = flat(self._env.get_observations(), self.settings.groups).cpu().numpy()
        self._stand_at(seen, saved["episode_starts"].numpy())

    def _stand_at(self, seen: np.ndarray, starts: np.ndarray) -> None:
        """Go on from observations (N, D), of which `starts` (N,) are an episode's first."""
        model, norm = self.model, self._statistics
        model._last_obs, model._last_original_obs = seen, seen
        model._last_episode_starts = starts
        if norm is not None:
            norm.old_obs = seen
            model._last_obs = norm.normalize_obs(seen)

    def _watch(self, step: dict[str, Any], _: dict[str, Any]) -> bool:
        """Count what a step came to: stable-baselines3 calls this with its local variables after each."""
        sums, dones = self._sums, step["dones"]
        sums["reward"] += float(step["rewards"].mean())
        sums["saturation"] += float((np.abs(step["actions"]) > SATURATED).mean())
        sums["episodes"] += float(dones.sum())
        sums["successes"] += sum(bool(step["infos"][i]["is_success"]) for i in np.flatnonzero(dones))
        return True

    def _losses(self) -> dict[str, float]:
        """Return what stable-baselines3 logged of its last update, under our names."""
        logger = self.model.logger
        logged = {name.removeprefix("train/"): value for name, value in logger.name_to_value.items()}
        logger.dump()  # which empties it
        row = {
            f"loss/{name.removesuffix('_loss')}" if name.endswith("_loss") else f"train/{name}": float(value)
            for name, value in logged.items()
            if name not in ("learning_rate", "std")
        }
        row["learning_rate"] = self.settings.learning_rate
        return row | ({"action_std": float(logged["std"])} if "std" in logged else {})

    def _policy(self) -> dict[str, Any]:
        """Return what a teacher is built from: networks, optimisers beside them, and the normaliser."""
        numbers = None
        if (norm := self._statistics) is not None:
            running = _running(norm)
            numbers = {
                "mean": torch.from_numpy(running.mean), "variance": torch.from_numpy(running.var),
                "count": float(running.count), "epsilon": norm.epsilon, "clip": norm.clip_obs,
            }  # fmt: skip
        return {"model": self.model.get_parameters(), "normalizer": numbers}


def _buffer(model: OffPolicyAlgorithm) -> ReplayBuffer:
    assert model.replay_buffer is not None, "made with the model"
    return model.replay_buffer


def _running(norm: VecNormalize) -> RunningMeanStd:
    assert isinstance(norm.obs_rms, RunningMeanStd), "the observations are a flat Box"
    return norm.obs_rms


def _log_entropy_weight(model: SAC) -> Tensor:
    assert model.log_ent_coef is not None, "SAC finds its entropy weight"
    return model.log_ent_coef
