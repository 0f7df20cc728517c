"""A student without eyes: a multi-layer perceptron on the 1-D groups of one step.

    estimates = g(o),    action = pi(o, sg estimates),    o = the normalised groups

The control for every student that sees: what joints alone can do. A picture is refused and never flattened:
a linear layer on pixels has a weight for every pixel and has to learn each place of an object afresh.
Source: the actor of Schulman et al. (2017), PPO; the estimates as in students.cnn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robokd import UserError
from robokd.nets.memory import NoMemory
from robokd.registry import register
from robokd.students.base import Interface
from robokd.students.modular import ModularStudent, widths
from robokd.students.options import HeadsCfg, Profiles


@register("student", "mlp")
@dataclass(kw_only=True)
class MlpCfg(HeadsCfg):
    """An MLP on 1-D observations; no camera, no memory."""

    sizes: ClassVar[Profiles] = {
        "tiny": {"hidden": (256, 128), "estimate_hidden": (128, 64)},
        "standard": {"hidden": (512, 512, 256), "estimate_hidden": (256, 128)},
    }

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that says what interface says; see Student."""
        for camera in interface.cameras:
            raise UserError(f"student=mlp reads no pictures, and {camera.name!r} is a camera; say cameras=[]")
        return ModularStudent(self, interface, {}, NoMemory(*widths({}, interface)))
