"""A student that plans: it predicts this action and the next K - 1.

    chunk_t = pi(x_t, sg estimates), (K, A);    action_t = chunk_t[0]

Executed by receding horizon: every step plans anew and takes the first action of the newest chunk. With
`aggregate` m > 0 it takes the average of all chunks that reach this step, with weights exp(-m i), i = 0 the
oldest: smoother, and slower to react (see nets.votes).
Source: Zhao et al. (2023), ACT: action chunking and temporal aggregation, with m = 0.01. Here without its
transformer and its latent style, whose prior mean 0 is what ACT acts on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from robokd.nets.memory import NoMemory
from robokd.nets.votes import Votes
from robokd.registry import register
from robokd.students.base import Interface
from robokd.students.modular import ModularStudent, widths
from robokd.students.options import STANDARD, TINY, EyesCfg, HeadsCfg, Profiles


@register("student", "chunk")
@dataclass(kw_only=True)
class ChunkCfg(EyesCfg, HeadsCfg):
    """Key points of each camera and an MLP that predicts the next actions too (ACT's chunks)."""

    steps: int = 8  # control steps that a chunk covers
    aggregate: float = 0.0  # rate m by which later chunks weigh less in the action; 0 = the newest alone

    sizes: ClassVar[Profiles] = {"tiny": TINY, "standard": STANDARD}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"student.steps must be >= 1, got {self.steps}")
        if self.blend:
            raise ValueError("student.blend: a student of chunks has one head; say blend=0")
        if not 0 <= self.aggregate < math.inf:
            raise ValueError(f"student.aggregate must be >= 0 and finite, got {self.aggregate}")

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that sees, plans and says what interface says; see Student."""
        eyes = self.eyes(interface)
        votes = Votes(self.steps, interface.action_size, self.aggregate)
        return ModularStudent(self, interface, eyes, NoMemory(*widths(eyes, interface)), votes)
