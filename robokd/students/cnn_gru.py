"""Eyes and a recurrent memory: what was seen once stays known.

    x_t = (eyes(pictures), normalised groups)
    h_t = GRU(x_t, h_{t-1}),  h = 0 at the start of an episode
    action = pi(h_t, x_t, sg estimates),  estimates = g(h_t, x_t)

Source: Cho et al. (2014), sec. 2.3, the gated recurrent unit; behind eyes as in the students of DEXTRAH (Lum
et al. 2024) and Extreme Parkour (Cheng et al. 2023). Here the step itself goes past the GRU too, so that
acting on what is in sight need not wait until the memory has learned to pass it on.
Learning goes back through all steps of a sequence.
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


@register("student", "cnn_gru")
@dataclass(kw_only=True)
class CnnGruCfg(EyesCfg, HeadsCfg):
    """Key points of each camera, a GRU and an MLP."""

    units: int = 0  # of the GRU; 0 = the profile's

    sizes: ClassVar[Profiles] = {
        "tiny": {**TINY, "units": 64, "hidden": (128, 96), "estimate_hidden": (64, 64)},
        "standard": {**STANDARD, "units": 256},
    }

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that sees, remembers and says what interface says; see Student."""
        eyes = self.eyes(interface)
        return ModularStudent(self, interface, eyes, GruMemory(*widths(eyes, interface), self.units))


class GruMemory(nn.Module):
    """The Memory protocol: the unit's state beside the step."""

    def __init__(self, seen: int, known: int, units: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(seen + known, units)
        self.shapes: dict[str, tuple[int, ...]] = {"hidden": (units,)}
        self.size = self.evidence_size = units + seen + known
        self.echo_size, self.measured = known, ()

    def step(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """See Recurrent."""
        return {"hidden": self.cell(x, state["hidden"])}

    def recall(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """See Memory."""
        features = torch.cat((state["hidden"], x), -1)
        return features, features
