"""What `robokd teach teacher=sb3` can be told, and the algorithm of stable-baselines3 that it makes.

Source: PPO of Schulman et al. (2017), SAC of Haarnoja et al. (2018), TD3 of Fujimoto et al. (2018); the
implementations are stable-baselines3's. What is not told stays its default.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from robokd import UserError
from robokd.registry import unknown

if TYPE_CHECKING:
    from stable_baselines3 import PPO, SAC, TD3
    from stable_baselines3.common.vec_env import VecEnv

EVERY = (
    "algorithm", "iterations", "steps_per_iteration", "hidden", "learning_rate", "discount", "normalizes",
    "evaluate_every", "evaluate_episodes", "stop_success",
)  # fmt: skip
ON_POLICY = (
    "epochs", "mini_batches", "gae_lambda", "clip", "entropy", "value_weight", "max_grad_norm", "target_kl",
    "initial_std",
)  # fmt: skip
OFF_POLICY = ("batch_size", "gradient_steps", "buffer_size", "learning_starts", "target_rate")
ALGORITHMS = {"ppo": ON_POLICY, "sac": OFF_POLICY, "td3": (*OFF_POLICY, "exploration_std")}  # and EVERY
COUNTS = (
    "iterations", "steps_per_iteration", "epochs", "mini_batches", "batch_size", "gradient_steps",
    "buffer_size", "evaluate_every", "evaluate_episodes",
)  # fmt: skip
POSITIVE = ("learning_rate", "clip", "max_grad_norm", "initial_std")
NOT_NEGATIVE = ("entropy", "value_weight", "target_kl", "learning_starts", "exploration_std")
SHARES = ("discount", "gae_lambda", "target_rate")


@dataclass(kw_only=True)
class Sb3Training:
    """How stable-baselines3 trains; the fields after `normalizes` are of the algorithms that they name."""

    algorithm: str = "ppo"  # ppo, sac or td3
    iterations: int = 150  # of collecting and learning
    steps_per_iteration: int = 24  # control steps of every environment
    hidden: tuple[int, ...] = (256, 128, 64)  # of the actor, and of each critic
    learning_rate: float = 1e-3
    discount: float = 0.98
    normalizes: bool = True  # what it reads, by running mean and variance
    epochs: int = 5  # ppo: over the steps of an iteration
    mini_batches: int = 4  # ppo: of an epoch
    gae_lambda: float = 0.95  # ppo
    clip: float = 0.2  # ppo
    entropy: float = 0.0  # ppo: weight of its bonus
    value_weight: float = 0.5  # ppo: of the critic's loss
    max_grad_norm: float = 0.5  # ppo
    target_kl: float = 0.0  # ppo: nats, at 1.5 of which an iteration learns no more; 0 = it goes on
    initial_std: float = 0.5  # ppo: of the action noise
    batch_size: int = 256  # sac, td3: steps, of a gradient step
    gradient_steps: int = 16  # sac, td3: after each control step of all environments
    buffer_size: int = 300_000  # sac, td3: env steps kept; they are in every checkpoint
    learning_starts: int = 10_000  # sac, td3: env steps of random actions before the first gradient
    target_rate: float = 0.005  # sac, td3: share of the critics that their slow copies take over
    exploration_std: float = 0.1  # td3: of the action noise
    evaluate_every: int = 10  # iterations
    evaluate_episodes: int = 256  # of the validation stream
    stop_success: float = 0.995  # stop when the validation success reaches this

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"teacher.algorithm: {unknown('algorithm', self.algorithm, ALGORITHMS)}")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"teacher.{name} must be >= 1, got {getattr(self, name)}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"teacher.{name} must be > 0, got {getattr(self, name)}")
        for name in NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"teacher.{name} must be >= 0, got {getattr(self, name)}")
        for name in SHARES:
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"teacher.{name} must be in (0, 1], got {getattr(self, name)}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"teacher.hidden must be one layer or more of >= 1 units, got {list(self.hidden)}"
            )
        for name in self.told((*EVERY, *ALGORITHMS[self.algorithm])):
            owners = " and ".join(one for one, names in ALGORITHMS.items() if name in names)
            raise ValueError(f"teacher.{name} is of {owners}, got teacher.algorithm={self.algorithm}")

    def told(self, besides: Iterable[str] = ()) -> list[str]:
        """Return the names of the training's fields that are not at their defaults, `besides` left out."""
        own = [one for one in fields(Sb3Training) if one.name not in besides]
        return [one.name for one in own if getattr(self, one.name) != one.default]

    def model(self, venv: VecEnv, device: str) -> PPO | SAC | TD3:
        """Return stable-baselines3's algorithm with fresh networks, for environments of a flat Box."""
        if self.algorithm == "ppo":
            return self._ppo(venv, device)
        return self._sac(venv, device) if self.algorithm == "sac" else self._td3(venv, device)

    def _ppo(self, venv: VecEnv, device: str) -> PPO:
        from stable_baselines3 import PPO

        rows = self.steps_per_iteration * venv.num_envs
        if rows < 2 * self.mini_batches:
            got = f"{self.steps_per_iteration} steps of {venv.num_envs} environments"
            raise UserError(f"teacher.mini_batches={self.mini_batches} need two rows each, got {got}")
        return PPO(
            "MlpPolicy", venv, learning_rate=self.learning_rate, n_steps=self.steps_per_iteration,
            batch_size=math.ceil(rows / self.mini_batches), n_epochs=self.epochs, gamma=self.discount,
            gae_lambda=self.gae_lambda, clip_range=self.clip, ent_coef=self.entropy,
            vf_coef=self.value_weight, max_grad_norm=self.max_grad_norm, target_kl=self.target_kl or None,
            policy_kwargs={"net_arch": list(self.hidden), "log_std_init": math.log(self.initial_std)},
            device=device,
        )  # fmt: skip

    def _sac(self, venv: VecEnv, device: str) -> SAC:
        from stable_baselines3 import SAC

        return SAC(
            "MlpPolicy", venv, learning_rate=self.learning_rate, buffer_size=self.buffer_size,
            learning_starts=self.learning_starts, batch_size=self.batch_size, tau=self.target_rate,
            gamma=self.discount, gradient_steps=self.gradient_steps,
            policy_kwargs={"net_arch": list(self.hidden)}, device=device,
        )  # fmt: skip

    def _td3(self, venv: VecEnv, device: str) -> TD3:
        from stable_baselines3 import TD3
        from stable_baselines3.common.noise import NormalActionNoise

        size = venv.action_space.shape
        assert size is not None, "the action space is a Box"
        return TD3(
            "MlpPolicy", venv, learning_rate=self.learning_rate, buffer_size=self.buffer_size,
            learning_starts=self.learning_starts, batch_size=self.batch_size, tau=self.target_rate,
            gamma=self.discount, gradient_steps=self.gradient_steps,
            action_noise=NormalActionNoise(np.zeros(size), np.full(size, self.exploration_std)),
            policy_kwargs={"net_arch": list(self.hidden)}, device=device,
        )  # fmt: skip
