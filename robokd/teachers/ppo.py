"""rsl_rl's PPO (5.x, unmodified), and the frozen teacher read back from its tensors.

Source: Schulman et al. (2017); the implementation is rsl_rl's. Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.registry import register
from robokd.teachers.base import TeacherOutput
from robokd.teachers.encoded import EncodedModel
from robokd.teachers.weights import sha256

COUNTS = (
    "iterations", "steps_per_iteration", "epochs", "mini_batches", "evaluate_every", "evaluate_episodes"
)  # fmt: skip
POSITIVE = ("learning_rate", "desired_kl", "clip", "max_grad_norm", "initial_std")


@register("teacher", "ppo")
@dataclass(kw_only=True)
class PpoCfg:
    """Proximal policy optimisation by rsl_rl, with an asymmetric critic."""

    iterations: int = 150
    steps_per_iteration: int = 24  # control steps of every environment
    epochs: int = 5
    mini_batches: int = 4
    learning_rate: float = 1e-3  # first; adapted to desired_kl
    desired_kl: float = 0.012
    clip: float = 0.2
    discount: float = 0.98
    gae_lambda: float = 0.95
    entropy: float = 0.0
    value_weight: float = 1.0
    max_grad_norm: float = 1.0
    initial_std: float = 0.5  # of the action noise
    imitate: int = 0  # first iterations, in which the actor copies the task's script: see learn/imitation.py
    critic_warmup: int = 0  # iterations after those, in which only the critic learns
    hidden: tuple[int, ...] = (256, 128, 64)
    critic_hidden: tuple[int, ...] = (256, 128, 64)
    actor_groups: tuple[str, ...] = ("proprio", "privileged")
    critic_groups: tuple[str, ...] = ("proprio", "privileged", "physics")
    latent: int = 0  # > 0: the actor reads latent_groups as a code of so many numbers, for students to guess
    latent_groups: tuple[str, ...] = ("privileged",)  # of the actor's
    latent_hidden: tuple[int, ...] = (256, 128)  # units of what encodes them
    evaluate_every: int = 10  # iterations
    evaluate_episodes: int = 256  # of the validation stream
    stop_success: float = 0.995  # stop when the validation success reaches this

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"teacher.{name} must be >= 1, got {getattr(self, name)}")
        for name in POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"teacher.{name} must be > 0, got {getattr(self, name)}")
        for name in ("entropy", "value_weight", "imitate", "critic_warmup", "latent"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"teacher.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("discount", "gae_lambda"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"teacher.{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("hidden", "critic_hidden", "latent_hidden"):
            if not (sizes := getattr(self, name)) or min(sizes) < 1:
                raise ValueError(f"teacher.{name} must be one layer or more of >= 1 units, got {list(sizes)}")
        for name in ("actor_groups", "critic_groups", "latent_groups"):
            if not getattr(self, name):
                raise ValueError(f"teacher.{name} must name at least one observation group, got none")
        for name in self.latent_groups if self.latent else ():
            if name not in self.actor_groups:
                read = ", ".join(self.actor_groups)
                raise ValueError(f"teacher.latent_groups names {name!r}; teacher.actor_groups are {read}")

    def algorithm(self, obs: TensorDict, num_actions: int, device: str) -> PPO:
        """Return rsl_rl's PPO with fresh networks and a rollout storage shaped like obs."""
        for group in (*self.actor_groups, *self.critic_groups):
            if obs[group].ndim != 2:
                raise UserError(f"teacher=ppo reads no pictures, and {group!r} is a camera")
        num_envs = obs.batch_size[0]
        storage = RolloutStorage("rl", num_envs, self.steps_per_iteration, obs, [num_actions], device)
        return PPO(
            self._actor(obs, num_actions), self._critic(obs), storage, num_learning_epochs=self.epochs,
            num_mini_batches=self.mini_batches, clip_param=self.clip, gamma=self.discount,
            lam=self.gae_lambda, value_loss_coef=self.value_weight, entropy_coef=self.entropy,
            learning_rate=self.learning_rate, max_grad_norm=self.max_grad_norm, schedule="adaptive",
            desired_kl=self.desired_kl, device=device,
        )  # fmt: skip

    def build(self, obs: TensorDict, num_actions: int, tensors: dict[str, Any]) -> PpoTeacher:
        """Return the frozen teacher of a checkpoint's tensors; obs fixes its groups' widths and device."""
        actor = self._actor(obs, num_actions).to(obs[self.actor_groups[0]].device)
        actor.load_state_dict(tensors["actor_state_dict"])
        return PpoTeacher(actor.eval().requires_grad_(False), self.actor_groups)

    def _actor(self, obs: TensorDict, num_actions: int) -> MLPModel:
        noise = {"class_name": "GaussianDistribution", "init_std": self.initial_std, "std_type": "log"}
        if not self.latent:
            return actor_model(obs, self.actor_groups, num_actions, hidden=self.hidden, noise=noise)
        return EncodedModel(
            obs, self.actor_groups, num_actions, encoded=self.latent_groups, latent=self.latent,
            encoder=self.latent_hidden, hidden=self.hidden, noise=noise,
        )  # fmt: skip

    def _critic(self, obs: TensorDict) -> MLPModel:
        groups = {"critic": list(self.critic_groups)}
        return MLPModel(obs, groups, "critic", 1, hidden_dims=self.critic_hidden, obs_normalization=True)


def actor_model(
    obs: TensorDict, groups: Sequence[str], num_actions: int, *, hidden: Sequence[int],
    noise: dict[str, Any] | None, activation: str = "elu", normalises: bool = True,
) -> MLPModel:  # fmt: skip
    """Return an rsl_rl actor with fresh weights, without noise where that is None."""
    return MLPModel(
        obs, {"actor": list(groups)}, "actor", num_actions, hidden_dims=tuple(hidden), activation=activation,
        obs_normalization=normalises, distribution_cfg=noise,
    )  # fmt: skip


class PpoTeacher:
    """The Teacher protocol over an rsl_rl actor, its normaliser included; who makes it has frozen it.

    `action = clip(mlp((obs - mean) / (std + eps)), -1, 1)`, the mean of its Gaussian; the features are what
    the last layer reads. An actor without noise offers no log_std, and only one with a code has a latent.
    """

    def __init__(self, actor: MLPModel, inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        has = {"log_std": actor.distribution is not None, "latent": isinstance(actor, EncodedModel)}
        self.offers = frozenset(("features", *(name for name, is_there in has.items() if is_there)))
        self.actor = actor

    def label(self, obs: TensorDict) -> TeacherOutput:
        """See Teacher."""
        with torch.no_grad():
            *hidden, last = self.actor.mlp  # rsl_rl's MLP cannot be sliced
            features = read = self.actor.get_latent(obs)
            for layer in hidden:
                features = layer(features)
            mean = last(features)
            log_std = latent = None
            if isinstance(self.actor, EncodedModel):
                latent = read[:, -self.actor.latent :]
            if self.actor.distribution is not None:
                self.actor.distribution.update(mean)
                log_std = self.actor.distribution.std.expand_as(mean).log()
        return TeacherOutput(action=mean.clip(-1, 1), log_std=log_std, latent=latent, features=features)

    def act(self, obs: TensorDict) -> Tensor:
        """See Teacher."""
        with torch.no_grad():
            return self.actor(obs).clip(-1, 1)

    def reset(self, mask: Tensor) -> None:
        """See Teacher: nothing is remembered."""

    def sha256(self) -> str:
        """See Teacher: of every weight and normaliser number, the groups and the kinds of layers."""
        layers = [type(layer).__name__ for layer in self.actor.mlp]
        coded = self.actor.encoded if isinstance(self.actor, EncodedModel) else ()
        return sha256(self.actor.state_dict(), [*self.inputs, *layers, *coded])
