"""A convolutional student: key points of each camera beside proprioception.

    seen = spatial softmax of convolutions, as points      of depth (x, y, z) in m, of colour two slopes
    estimates = g(seen, known)
    action = pi(seen, known, sg estimates)

Source: Levine et al. (2016), see nets.cnn. The estimates (where the goal is) come from a head of their own on
the pictures and joints; detached, they feed the action head, so that imitation cannot bend them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robokd.nets.memory import NoMemory
from robokd.registry import register
from robokd.students.base import Interface
from robokd.students.modular import ModularStudent, widths
from robokd.students.options import STANDARD, TINY, EyesCfg, HeadsCfg, Profiles


@register("student", "cnn")
@dataclass(kw_only=True)
class CnnCfg(EyesCfg, HeadsCfg):
    """Convolutions, spatial soft-argmax and an MLP; one frame, no memory."""

    sizes: ClassVar[Profiles] = {"tiny": TINY, "standard": STANDARD}

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that sees and says what interface says; see Student."""
        eyes = self.eyes(interface)
        return ModularStudent(self, interface, eyes, NoMemory(*widths(eyes, interface)))
