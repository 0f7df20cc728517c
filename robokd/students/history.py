"""A convolution over the last H steps of the 1-D groups: what cannot be seen shows in how the body moves.

    code = conv(f(o_{t-H+1}), ..., f(o_t)),  o the normalised groups, f an MLP shared by all steps
    estimates = g(code, x_t),  latent = phi(code, x_t)       x_t = (eyes(pictures), o_t)
    action = pi(code, x_t, sg estimates, sg latent)         without code if `narrow`

Source: Kumar et al. (2021), RMA: phi is its adaptation module, and `narrow` its policy. Sizes after HORA (Qi
et al. 2022), which has H = 30 and kernels 9 (stride 2), 5 and 5; they scale with H. Departures: the policy
learns along with phi by imitation, where RMA copies the teacher's and freezes it; the first kernel is 10,
because from 9 strides of 2 leave the newest step over; of past actions the history shows what the groups hold
of them. The queue holds rows as they were measured, normalised where they are read.
At the start of an episode the first observation stands for the steps before it: a body at rest, where zeros
would be a jump that no body makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robokd import UserError
from robokd.nets.memory import State
from robokd.registry import register
from robokd.students.base import Interface
from robokd.students.modular import ModularStudent, widths
from robokd.students.options import STANDARD, TINY, EyesCfg, HeadsCfg, Profiles

KERNELS, STRIDES = (9 / 30, 5 / 11, 5 / 7), (2, 1, 1)  # kernels as shares of what they run over


@register("student", "history")
@dataclass(kw_only=True)
class HistoryCfg(EyesCfg, HeadsCfg):
    """A temporal convolution over the last steps of the 1-D groups, beside key points; RMA's adaptation."""

    steps: int = 30  # control steps that are remembered, this one included
    filters: int = 0  # of the temporal convolutions; 0 = the profile's
    narrow: bool = False  # of the past the action knows what is guessed (estimates, latent), and no more

    sizes: ClassVar[Profiles] = {
        "tiny": {**TINY, "filters": 32, "hidden": (128, 96), "estimate_hidden": (64, 64)},
        "standard": {**STANDARD, "filters": 96},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"student.steps must be >= 1, got {self.steps}")

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that sees, remembers and says what interface says; see Student."""
        eyes = self.eyes(interface)
        seen, known = widths(eyes, interface)
        if not known:
            raise UserError("student=history remembers 1-D groups, and it is given none")
        if self.narrow and not (interface.targets or interface.latent_size):
            raise UserError("student.narrow acts on guesses, and no loss asks for one: say loss=[…,latent]")
        memory = HistoryMemory(seen, known, self.steps, self.filters, narrow=self.narrow)
        return ModularStudent(self, interface, eyes, memory)


class HistoryMemory(nn.Module):
    """The Memory protocol: a queue of H rows, the oldest first, under a convolution, beside the step."""

    def __init__(self, seen: int, known: int, steps: int, filters: int, *, narrow: bool = False) -> None:
        super().__init__()
        self.seen, self.narrow = seen, narrow
        self.each = nn.Sequential(
            nn.Linear(known, filters), nn.ReLU(), nn.Linear(filters, filters), nn.ReLU()
        )
        layers: list[nn.Module] = []
        length = steps
        for share, stride in zip(KERNELS, STRIDES, strict=True):
            kernel = min(length, max(stride, round(share * length)))
            kernel += (length - kernel) % stride  # or the newest steps would be left over
            layers += [nn.Conv1d(filters, filters, kernel, stride), nn.ReLU()]
            length = (length - kernel) // stride + 1
        self.convolution = nn.Sequential(*layers)
        self.shapes: dict[str, tuple[int, ...]] = {"rows": (steps, known), "begun": (1,)}
        self.evidence_size = filters * length + seen + known
        self.size = seen + known if narrow else self.evidence_size
        self.echo_size, self.measured = known, ("rows",)

    def step(self, x: Tensor, state: State) -> dict[str, Tensor]:
        """See Recurrent."""
        row, rows = x[:, None, self.seen :], state["rows"]
        queue = torch.cat((rows[:, 1:], row), 1)
        rows = torch.where(state["begun"][..., None] > 0, queue, row.expand_as(rows))
        return {"rows": rows, "begun": state["begun"].clamp(min=1.0)}

    def recall(self, x: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """See Memory."""
        code = self.convolution(self.each(state["rows"]).transpose(1, 2)).flatten(1)
        evidence = torch.cat((code, x), -1)
        return x if self.narrow else evidence, evidence
