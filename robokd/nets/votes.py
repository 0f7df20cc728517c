"""Several predictions of one action, made at different times, averaged: temporal aggregation of chunks.

    a_t = sum_i w_i chunk_i[t] / sum_i w_i,    w_i = exp(-m i),  i = 0 the oldest chunk that reaches t

Source: Zhao et al. (2023), ACT, algorithm 2. Its code finds the predictions that exist by a test for != 0,
which drops a true zero; here they are counted. A later prediction never changes the weight of an earlier one,
so that sums of weighted predictions for the next K steps are all that is kept.
Shapes: N environments, K steps of a chunk, A action dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robokd.nets.memory import State


class Votes(nn.Module):
    """Chunks (N, K, A) to actions (N, A), the Recurrent protocol; m = 0 takes the newest chunk's first."""

    def __init__(self, steps: int, action_size: int, rate: float) -> None:
        super().__init__()
        self.steps, self.rate = steps, rate
        self.shapes: dict[str, tuple[int, ...]] = {}
        if rate:
            self.shapes = {"sums": (steps, action_size), "weights": (steps, 1), "counts": (steps, 1)}

    def step(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """Return the sums of weighted predictions, of weights, and the counts, for this step and the next."""
        if not self.rate:
            return {}
        sums, weights, counts = (_advanced(state[name]) for name in self.shapes)
        weight = torch.exp(-self.rate * counts)
        return {"sums": sums + weight * x, "weights": weights + weight, "counts": counts + 1}

    def recall(self, x: Tensor, state: State) -> Tensor:
        """Return the action after the votes of chunk x are counted in `state`."""
        return state["sums"][:, 0] / state["weights"][:, 0] if self.rate else x[:, 0]


def _advanced(value: Tensor) -> Tensor:
    """Return (N, K, ·) a step on: the second is the first, and nothing is known of the last."""
    return torch.cat((value[:, 1:], torch.zeros_like(value[:, :1])), 1)
