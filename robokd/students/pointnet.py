"""A student that sees depth as points in metres.

    p_i = ray_i * depth_i                          of a fixed grid of pixels
    seen = max over pixels with a hit of f(p_i)    see nets.pointnet
    estimates = g(seen, known),    action = pi(seen, known, sg estimates)

Source: Qi et al. (2017), PointNet, eq. 1; as the student of UniDexGrasp++ (Wan et al. 2023). The grid takes
the place of random or farthest points: it is the same in every frame and on every machine, and it can be
exported. Colour cameras have the key points of students.cnn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robokd.nets.cnn import KeypointEncoder
from robokd.nets.memory import NoMemory
from robokd.nets.pointnet import PointEncoder
from robokd.registry import register
from robokd.specs import CameraSpec
from robokd.students.base import Interface
from robokd.students.modular import ModularStudent, widths
from robokd.students.options import STANDARD, TINY, EyesCfg, HeadsCfg, Profiles


@register("student", "pointnet")
@dataclass(kw_only=True)
class PointnetCfg(EyesCfg, HeadsCfg):
    """Points of depth cameras under a PointNet, and an MLP; one frame, no memory."""

    points: int = 0  # per depth camera, at most; 0 = the profile's
    point_widths: tuple[int, ...] = ()  # of the network of each point; [] = the profile's

    sizes: ClassVar[Profiles] = {
        "tiny": {**TINY, "points": 256, "point_widths": (32, 64, 96)},
        "standard": {**STANDARD, "points": 1024, "point_widths": (64, 128, 512)},
    }

    def build(self, interface: Interface) -> ModularStudent:
        """Return a student that sees and says what interface says; see Student."""
        eyes = self.eyes(interface)
        return ModularStudent(self, interface, eyes, NoMemory(*widths(eyes, interface)))

    def eye(self, camera: CameraSpec) -> KeypointEncoder | PointEncoder:
        """See EyesCfg: depth is seen as points."""
        if camera.is_depth:
            return PointEncoder(camera, self.point_widths, self.points)
        return super().eye(camera)
