"""A belief: a memory that learns when to trust its eyes.

    h_t = GRU((e_t, o_t), h_{t-1})               e the exteroception, o the normalised groups
    alpha_t = sigmoid(W_a h_t)                   the gate, a number for each of e
    b_t = W_b h_t + alpha_t * e_t                the belief
    estimates = decoder(h_t),  action = pi(b_t, o_t, sg estimates)

Source: Miki et al. (2022), the belief encoder with its gate and decoder. e is what the eyes say of the
cameras; without a camera it is the 1-D groups, which then reach the action through the gate alone.
Departures: one layer of GRU for two, linear maps of h for MLPs, and a decoder for the privileged targets
only, because a picture holds too much to be reconstructed beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robokd.nets.memory import State
from robokd.registry import register
from robokd.students.base import Interface
from robokd.students.modular import ModularStudent, widths
from robokd.students.options import STANDARD, TINY, EyesCfg, HeadsCfg, Profiles


@register("student", "belief")
@dataclass(kw_only=True)
class BeliefCfg(EyesCfg, HeadsCfg):
    """A GRU whose gate weighs what the eyes say, with a decoder of privileged terms."""

    units: int = 0  # of the GRU; 0 = the profile's

    sizes: ClassVar[Profiles] = {
        "tiny": {**TINY, "units": 80, "hidden": (128, 96), "estimate_hidden": (64, 64)},
        "standard": {**STANDARD, "units": 256},
    }

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that sees, believes and says what interface says; see Student."""
        eyes = self.eyes(interface)
        return ModularStudent(self, interface, eyes, BeliefMemory(*widths(eyes, interface), self.units))


class BeliefMemory(nn.Module):
    """The Memory protocol: features (b, o), evidence h."""

    def __init__(self, seen: int, known: int, units: int) -> None:
        super().__init__()
        self.outer = seen or known  # numbers of e
        self.cell = nn.GRUCell(seen + known, units)
        self.gate = nn.Linear(units, self.outer)
        self.prior = nn.Linear(units, self.outer)
        self.shapes: dict[str, tuple[int, ...]] = {"hidden": (units,)}
        self.size, self.evidence_size = seen + known, units
        self.echo_size, self.measured = known if seen else 0, ()

    def step(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """See Recurrent."""
        return {"hidden": self.cell(x, state["hidden"])}

    def recall(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """See Memory."""
        hidden = state["hidden"]
        belief = self.prior(hidden) + torch.sigmoid(self.gate(hidden)) * x[:, : self.outer]
        return torch.cat((belief, x[:, self.outer :]), -1), hidden
