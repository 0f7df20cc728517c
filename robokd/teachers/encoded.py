"""An actor that reads some of its groups through a code: what only a simulator knows, said in Z numbers.

    z = tanh(enc(e)),  action = pi(o, z)        e the groups that are encoded, o the others, all normalised

Source: Kumar et al. (2021), RMA, the first stage; the tanh is HORA's (Qi et al. 2022). Z is small so that a
student can guess it: what does not fit into the code, no action can depend on.
Shapes: N environments, Z numbers of the code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rsl_rl.models import MLPModel
from rsl_rl.modules import HiddenState
from tensordict import TensorDict
from torch import Tensor

from robokd.nets.mlp import mlp


class EncodedModel(MLPModel):
    """rsl_rl's actor with an encoder before it; the groups that are encoded come last in its normaliser."""

    def __init__(
        self, obs: TensorDict, groups: Sequence[str], num_actions: int, *, encoded: Sequence[str],
        latent: int, encoder: Sequence[int], hidden: Sequence[int], noise: dict[str, Any],
    ) -> None:  # fmt: skip
        """`encoded`: some of `groups`; `encoder`: units of what encodes them to `latent` numbers."""
        plain, inner = ([name for name in groups if (name in encoded) == is_in] for is_in in (False, True))
        self.encoded, self.latent = tuple(inner), latent
        self.widths = [sum(obs[name].shape[-1] for name in part) for part in (plain, inner)]
        super().__init__(
            obs, {"actor": [*plain, *inner]}, "actor", num_actions, hidden_dims=tuple(hidden),
            obs_normalization=True, distribution_cfg=noise,
        )  # fmt: skip
        self.encoder = mlp(self.widths[1], encoder, latent)

    def get_latent(
        self, obs: TensorDict, masks: Tensor | None = None, hidden_state: HiddenState = None
    ) -> Tensor:
        """Return what pi reads (N, ...): the code is the last of it; rsl_rl calls all of it latent."""
        plain, inner = super().get_latent(obs, masks, hidden_state).split(self.widths, -1)
        return torch.cat((plain, self.encoder(inner).tanh()), -1)

    def _get_latent_dim(self) -> int:
        return self.widths[0] + self.latent
