"""Episodes under a fixed policy: the same episodes 0 .. E-1 for every policy and any num_envs.

Shapes: E episodes, N environments, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.env.base import VecEnv

SATURATED = 0.98  # |action| from which a label says nothing of how much
LOOK_EVERY = 16  # steps between looks at whether all have ended, for each of which a GPU is waited for


class Policy(Protocol):
    """Teachers, students and refined students alike."""

    inputs: tuple[str, ...]

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped actions (N, A)."""
        ...

    def reset(self, mask: Tensor) -> None:
        """Begin the episodes of mask (N,) afresh."""
        ...


@dataclass
class Outcomes:
    """What became of episodes 0 .. E-1, in their order."""

    success: Tensor  # (E,) float32, 0 or 1
    returns: Tensor  # (E,) undiscounted
    steps: Tensor  # (E,) control steps
    saturation: float  # share of actions at the edge of [-1, 1]
    env_steps: int  # control steps taken, those after the last wanted episode included
    frames: int  # pictures rendered for them

    @classmethod
    def ideal(cls, episodes: int) -> Outcomes:
        """Return the outcomes that are wanted, of episodes that nobody has run."""
        none = torch.zeros(episodes)
        return cls(torch.ones(episodes), none, none.long(), saturation=0.0, env_steps=0, frames=0)

    def means(self) -> dict[str, float]:
        """Return the averages that training logs."""
        return {
            "success": self.success.mean().item(), "return": self.returns.mean().item(),
            "steps": self.steps.float().mean().item(), "saturation": self.saturation,
        }  # fmt: skip


def rollout(
    env: VecEnv,
    policy: Policy,
    episodes: int,
    alter: Callable[[TensorDict, Tensor], TensorDict] | None = None,
) -> Outcomes:
    """Run episodes 0 .. E-1 to their ends and return what became of them.

    `alter(obs, step)` may change what the policy sees (camera ablations); step (N,) counts from the episode's
    begin.
    """
    count, frames, device = env.num_envs, env.frames_rendered, torch.device(env.device)
    success, returns = (torch.zeros(episodes + count, device=device) for _ in range(2))
    lengths = torch.zeros(episodes + count, dtype=torch.int64, device=device)
    obs = env.reset(torch.arange(count, device=device))
    policy.reset(torch.ones(count, dtype=torch.bool, device=device))
    step = torch.zeros(count, dtype=torch.int64, device=device)
    saturated, taken = torch.zeros((), device=device), 0
    is_open = torch.arange(episodes + count, device=device) < episodes
    while taken % look_every(device) or is_open.any():
        actions = policy.act(alter(obs, step) if alter else obs)
        obs, rewards, dones, extras = env.step(actions)
        ended = dones.bool()
        row = extras["episode_id"].clamp(max=episodes + count - 1)
        returns[row] += rewards
        lengths[row] += 1
        success[row] = (extras["success"] & ended).float()
        is_open[row] = is_open[row] & ~ended
        policy.reset(ended)
        step = (step + 1).masked_fill(ended, 0)
        saturated, taken = saturated + (actions.abs() > SATURATED).float().mean(), taken + 1
    return Outcomes(
        success=success[:episodes].cpu(), returns=returns[:episodes].cpu(), steps=lengths[:episodes].cpu(),
        saturation=(saturated / taken).item(), env_steps=taken * count, frames=env.frames_rendered - frames,
    )  # fmt: skip


def look_every(device: torch.device) -> int:
    """Return in which steps of a rollout it is asked whether all episodes have ended.

    Those taken in vain are counted as steps, and in the saturation, and are of no episode that is asked for.
    """
    return 1 if device.type == "cpu" else LOOK_EVERY


def pictures(env: VecEnv, policy: Policy, count: int) -> list[dict[str, np.ndarray]]:
    """Return `count` moments, evenly spaced, of episode 0 in a one-world env: {camera: encoded (C, H, W)}."""
    cameras = [name for name in policy.inputs if name in env.camera_specs]
    obs = env.reset(torch.zeros(1, dtype=torch.int64, device=env.device))
    policy.reset(torch.ones(1, dtype=torch.bool, device=env.device))
    shots = []
    for _ in range(env.max_episode_length):
        shots.append({name: obs[name][0].numpy(force=True) for name in cameras})
        obs, _, done, _ = env.step(policy.act(obs))
        if done[0]:
            break
    return [shots[round(i * (len(shots) - 1) / max(count - 1, 1))] for i in range(count)]
