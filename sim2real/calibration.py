"""Whether a camera's lens, as its sensor_msgs/CameraInfo tells it, is the one that a bundle was trained with.

K is judged: of the picture as it is sent, before the bundle's crop. Distortion is not.
Pixels: centres are whole numbers, in ROS as in a bundle.
Source: sensor_msgs/CameraInfo: K is of the full picture; roi is cut out of that, and what is left is binned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robokd.sim2real.cdr import Content

from robokd.specs import CameraSpec

# how far a lens may be off the bundle's; both shares are ours
FOCAL_SHARE = 0.02  # of the focal length
CENTRE_SHARE = 0.02  # of the picture's width, for the principal point


def is_calibrated(info: Content) -> bool:
    """Whether a camera knows its lens: ROS writes a focal length of 0 where it does not."""
    return bool(info["k"][0])


def lens_of(info: Content) -> dict[str, float]:
    """Return fx, fy, cx and cy, in px, of the picture that is sent."""
    fx, _, cx, _, fy, cy, *_ = info["k"].tolist()
    across, down = _binning(info)
    # a pixel's centre is a whole number, so its left edge is half a pixel before
    return {
        "fx": fx / across, "cx": (cx - info["roi"]["x_offset"] + 0.5) / across - 0.5,
        "fy": fy / down, "cy": (cy - info["roi"]["y_offset"] + 0.5) / down - 0.5,
    }  # fmt: skip


def size_of(info: Content) -> tuple[int, int]:
    """Return width and height of the picture that is sent; a roi without a size is all of it."""
    across, down = _binning(info)
    roi = info["roi"]
    return (roi["width"] or info["width"]) // across, (roi["height"] or info["height"]) // down


def corner(crop: Sequence[int] | None, spec: CameraSpec, width: int, height: int) -> tuple[int, int]:
    """Return where (x, y) the policy's picture begins in one that is sent; ValueError where it is not in it.

    Args:
        crop: (x, y, width, height) that the policy sees of the picture that is sent; None for all of it.
        spec: of the camera.
        width: of the picture that is sent, px.
        height: of it, px.
    """
    x, y, *size = crop or (0, 0, width, height)
    if size != [spec.width, spec.height] or x + size[0] > width or y + size[1] > height:
        wanted = f"{spec.width}x{spec.height} pixels" + (f", cut out at {x},{y}" if crop else "")
        raise ValueError(f"camera {spec.name}: wanted {wanted}, got {width}x{height}; nothing is scaled here")
    return x, y


def check_lens(info: Content, spec: CameraSpec, optics: Mapping[str, Any]) -> None:
    """Refuse another lens than the bundle's; ValueError with what was got and what was wanted.

    Args:
        info: what the camera says.
        spec: of the camera.
        optics: of the bundle: fx, fy, cx, cy in px, and the crop (x, y, width, height) or None.
    """
    left, top = corner(optics["crop"], spec, *size_of(info))
    lens = lens_of(info)
    lens |= {"cx": lens["cx"] - left, "cy": lens["cy"] - top}
    room = {name: FOCAL_SHARE * optics[name] for name in ("fx", "fy")}
    room |= dict.fromkeys(("cx", "cy"), CENTRE_SHARE * spec.width)
    odd = [
        f"{name} {lens[name]:.2f} px, wanted {optics[name]:.2f} +- {most:.2f} px"
        for name, most in room.items()
        if not abs(lens[name] - optics[name]) <= most
    ]
    if odd:
        raise ValueError(f"camera {spec.name}: another lens than training's: got {'; '.join(odd)}")


def _binning(info: Content) -> tuple[int, int]:
    return max(info["binning_x"], 1), max(info["binning_y"], 1)  # 0 means 1
