"""Options that students share, and the two sizes that they come in.

A width that is left at 0 or [] is the profile's: `sizes` of a student's config has them by profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from robokd import UserError
from robokd.nets.cnn import KeypointEncoder
from robokd.nets.pointnet import PointEncoder
from robokd.specs import CameraSpec
from robokd.students.base import Interface

Sizes = Mapping[str, int | tuple[int, ...]]  # widths by field
Profiles = Mapping[str, Sizes]  # every width of a student, by profile
# of a student with eyes and no memory
TINY: Sizes = {"channels": (12, 16, 16), "keypoints": 16, "hidden": (256, 128), "estimate_hidden": (128, 64)}
STANDARD: Sizes = {
    "channels": (32, 64, 64), "keypoints": 32, "hidden": (512, 256), "estimate_hidden": (256, 128)
}  # fmt: skip


@dataclass(kw_only=True)
class HeadsCfg:
    """What a student says beside its action, and how large it is."""

    profile: str = "tiny"  # widths that are not set: tiny (<= 100 k weights) or standard (<= 2 M)
    hidden: tuple[int, ...] = ()  # units of the action head; [] = the profile's
    estimate_hidden: tuple[int, ...] = ()  # units of the heads that estimate; [] = the profile's
    gaussian: bool = False  # says the spread of its actions too
    initial_std: float = 0.37  # of that spread at first, in action units
    blend: float = 0.0  # > 0: a second head learns from reward; its share that is added to the first
    value: bool = False  # says the value of the state too
    branches: bool = False  # has early action heads, that are left out of what is exported

    name: ClassVar[str]  # set by `register`
    sizes: ClassVar[Profiles]

    def __post_init__(self) -> None:
        if self.profile not in self.sizes:
            known = " or ".join(self.sizes)
            raise ValueError(f"student.profile must be {known}, got {self.profile!r}")
        if not 0.01 <= self.initial_std <= 2:
            raise ValueError(f"student.initial_std must be in [0.01, 2], got {self.initial_std}")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"student.blend must be in [0, 1], got {self.blend}")
        for field, size in self.sizes[self.profile].items():
            value = getattr(self, field) or size
            widths = [value] if isinstance(value, int) else list(value)
            if min(widths) < 1:
                empty, got = (0, value) if isinstance(value, int) else ([], widths)
                raise ValueError(f"student.{field} must be >= 1, or {empty} for the profile's, got {got}")
            setattr(self, field, value)


@dataclass(kw_only=True)
class EyesCfg:
    """Key points of pictures."""

    channels: tuple[int, ...] = ()  # of the convolutions; [] = the profile's
    keypoints: int = 0  # per camera; 0 = the profile's
    bfloat16: bool = True  # convolutions learn in bfloat16; acting and export stay in float32

    name: ClassVar[str]

    def eyes(self, interface: Interface) -> dict[str, KeypointEncoder | PointEncoder]:
        """Return an encoder of every camera, by name."""
        return {camera.name: self.eye(camera) for camera in interface.cameras}

    def eye(self, camera: CameraSpec) -> KeypointEncoder | PointEncoder:
        """Return an encoder of a camera's pictures."""
        if not camera.is_depth and camera.encoding != "rgb_u8":
            got = f"{camera.name!r} gives {camera.encoding}"
            raise UserError(f"student={self.name} sees depth and colour, and {got}")
        return KeypointEncoder(camera, self.channels, self.keypoints, bfloat16=self.bfloat16)
