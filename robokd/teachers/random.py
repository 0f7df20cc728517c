"""A network that was never trained: the control of what a distillation owes to its teacher.

    h_0 = o,  h_k = tanh(W_k h_k-1),  a = clip(W h_K, -1, 1)
    W_k ~ N(0, gain^2 / width),  W ~ N(0, 1 / width)

A student that learns it to the letter solves no task; a claim that a teacher helps needs one beside it.
Nothing is fitted to the observations: with a gain above 1 the layers keep their scale whatever that of the
groups is, so that actions are neither all nought nor all at their limits.
Source: Sarnthein et al. (2023), Random teachers are good teachers; the gain is of Poole et al. (2016).
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import nn

from robokd.registry import register
from robokd.teachers.base import Place
from robokd.teachers.ppo import PpoTeacher, actor_model
from robokd.teachers.weights import group_width


@register("teacher", "random")
@dataclass(kw_only=True)
class RandomCfg:
    """A network with random weights, frozen: a control, which can solve no task."""

    seed: int = 0  # of its weights, whatever the run's is
    gain: float = 5 / 3  # of its hidden layers; more bends it more
    hidden: tuple[int, ...] = (256, 128, 64)  # units; as those of teacher=ppo
    groups: tuple[str, ...] = ("proprio", "privileged")  # that it reads; as those of teacher=ppo

    def __post_init__(self) -> None:
        if not 0 < self.gain < math.inf:
            raise ValueError(f"teacher.gain must be > 0, got {self.gain}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(
                f"teacher.hidden must be one layer or more of >= 1 units, got {list(self.hidden)}"
            )

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """See OpenCfg."""
        return self.groups

    def open(self, place: Place) -> PpoTeacher:
        """See OpenCfg."""
        group_width(self.groups, place.obs_specs, "teacher=random")
        rows = {name: torch.zeros(1, place.obs_specs[name].size) for name in self.groups}
        with torch.random.fork_rng(devices=[]):  # the student's first weights do not depend on its teacher
            actor = actor_model(
                TensorDict(rows, batch_size=[1]), self.groups, place.num_actions, hidden=self.hidden,
                noise=None, activation="tanh", normalises=False,
            )  # fmt: skip
        generator = torch.Generator().manual_seed(self.seed)
        *hidden, last = (layer for layer in actor.mlp if isinstance(layer, nn.Linear))
        for layer, gain in (*((one, self.gain) for one in hidden), (last, 1.0)):
            nn.init.normal_(layer.weight, 0, gain / math.sqrt(layer.in_features), generator)
            nn.init.zeros_(layer.bias)
        return PpoTeacher(actor.to(place.device).eval().requires_grad_(False), self.groups)
