"""The action decoding of an ActionSpec as a module, for the exported graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robokd.specs import ActionSpec, Limits, decode


class ActionDecoder(nn.Module):
    """Actions in [-1, 1] to commands, limits kept: `specs.decode` in torch."""

    def __init__(self, spec: ActionSpec) -> None:
        super().__init__()
        self.limits = Limits.of(spec, torch.tensor)

    def forward(self, action: Tensor, anchor: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Return (command, rate), (B, A) each, from the last sent command and its rate."""
        return decode(action, anchor, rate, self.limits, torch)
