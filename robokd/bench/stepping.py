"""Environments stepped by random actions, as what a step costs is measured.

Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from robokd.env.base import TaskEnv

ACTIONS = 8  # that are drawn beforehand, in turn


def stepping(env: TaskEnv) -> Callable[[], object]:
    """Return what steps env by random actions, its episodes spread over their length."""
    share = env.draws.uniform("stagger", env.state.episode_id, 0, 1)[:, 0]
    env.episode_length_buf = (share * env.max_episode_length).long()
    turn = itertools.cycle(random_actions(env, ACTIONS))
    return lambda: env.step(next(turn))


def random_actions(env: TaskEnv, count: int) -> list[Tensor]:
    """Return `count` actions (N, A), uniform on [-1, 1), the same on every device."""
    generator = torch.Generator().manual_seed(0)
    shape = env.num_envs, env.num_actions
    return [(2 * torch.rand(*shape, generator=generator) - 1).to(env.device) for _ in range(count)]
