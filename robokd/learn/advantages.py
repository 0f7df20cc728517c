"""How much better than expected things turned out: generalised advantage estimation.

Source: Schulman et al. (2016), eq. 16; an episode cut by the clock goes on in its value (Pardo et al. 2018).
Shapes: S steps in the order of time, N environments.
"""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    reward: Tensor, value: Tensor, done: Tensor, beyond: Tensor, *, discount: float, gae_lambda: float
) -> Tensor:
    """Return A_t = d_t + discount lambda (1 - done_t) A_{t+1}, (S, N).

    d_t = r_t + discount ((1 - done_t) V_{t+1} + W_t) - V_t.

    Args:
        reward: (S, N).
        value: (S + 1, N), of the observation before each step, and after the last.
        done: (S, N) bool, the episode ended with the step.
        beyond: (S, N) W: the value of the observation in which the clock cut the episode, else 0.
        discount: a step.
        gae_lambda: 0 trusts the critic, 1 the rewards.
    """
    goes_on = 1.0 - done.float()
    surprise = reward + discount * (goes_on * value[1:] + beyond) - value[:-1]
    found, behind = [], torch.zeros_like(reward[0])
    for number in reversed(range(len(reward))):
        behind = surprise[number] + discount * gae_lambda * goes_on[number] * behind
        found.append(behind)
    return torch.stack(found[::-1])
