"""A frozen student with a residual policy on top.

Source: Silver et al. (2018), residual policy learning; Johannink et al. (2019); the scale and the per-step
correction after ResiP (Ankile et al. 2024). Shapes: B environments, A action dimensions, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor, nn

if TYPE_CHECKING:
    from rsl_rl.models import MLPModel

    from robokd.students.base import Student, StudentOutput

BASE, FEATURES = "base_action", "features"


def zero_last_layer(actor: MLPModel) -> None:
    """Make an rsl_rl actor say exactly 0, so that the composed policy is the base bit for bit."""
    last = [layer for layer in actor.mlp if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def compose(base: Tensor, residual: Tensor, scale: float) -> Tensor:
    """Return clip(base + scale * clip(residual)), (B, A) in [-1, 1]."""
    return (base + scale * residual.clip(-1, 1)).clip(-1, 1)


def refined_action(
    output: StudentOutput, obs: Mapping[str, Tensor] | TensorDict, actor: MLPModel, scale: float
) -> Tensor:
    """Return the composed action (B, A) in [-1, 1]; what is evaluated and what is exported are this function.

    The actor's mean is put together from its parts, because its `forward` takes a TensorDict, which no graph
    can hold; `obs` has the groups that the actor reads, but for `base_action` and `features`.
    """
    base = output.action.clip(-1, 1)
    own = {BASE: base, FEATURES: output.features}
    rows = torch.cat([own[group] if group in own else obs[group] for group in actor.obs_groups], -1)
    return compose(base, actor.mlp(actor.obs_normalizer(rows)), scale)


class RefinedPolicy:
    """Student plus residual at work; deterministic, never learns. The Policy protocol of evaluate."""

    def __init__(self, student: Student, actor: MLPModel, scale: float, count: int) -> None:
        self.student, self.actor, self.scale = student, actor, scale
        self.inputs = student.inputs
        self.state = student.initial_state(count)

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped actions (B, A)."""
        with torch.no_grad():
            output, self.state = self.student.forward(obs, self.state)
            return refined_action(output, obs, self.actor, self.scale)

    def reset(self, mask: Tensor) -> None:
        """Begin the episodes of mask (B,) afresh."""
        self.state = self.student.reset(self.state, mask)


def with_base(obs: TensorDict, base: Tensor, features: Tensor) -> TensorDict:
    """Return obs with the groups `base_action` (B, A) and `features` (B, F) added."""
    seen = obs.clone(recurse=False)
    seen[BASE], seen[FEATURES] = base, features
    return seen
