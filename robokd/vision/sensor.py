"""What is wrong with a real camera, as numbers: the spec that training and the bundle share. No torch here.

Pixels are of two kinds: `px` of the camera's image, `native px` of the sensor at its own resolution, whose
focal length is `focal_px`. A (low, high) is drawn uniformly once an episode, unless it says otherwise.

Sources: depth noise of structured light: Nguyen, Izadi, Lovell 2012, "Modeling Kinect Sensor Noise for
Improved 3D Reconstruction and Tracking"; depth from noisy, quantised disparity and jittered edges: Handa,
Whelan, McDonald, Davison 2014, "A Benchmark for RGB-D Visual Odometry, 3D Reconstruction and SLAM"; colour
noise: Foi, Trimeche, Katkovnik, Egiazarian 2008, "Practical Poissonian-Gaussian Noise Modeling and Fitting
for Single-Image Raw-Data".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robokd import UserError
from robokd.registry import find, register, unknown

DIRECTIONS = ("any", "horizontal", "vertical")
Range = tuple[float, float]
_DEPTH = (
    "subpixel_px", "disparity_step_px", "axial_noise", "lateral_px", "depth_gain_error", "edge_hole_rate",
    "casts_shadow", "dropout_rate", "sticks", "min_range_m", "max_range_m", "border_px",
)  # fmt: skip
_COLOUR = (
    "exposure_stops", "flicker_stops", "white_balance", "shot_noise", "read_noise", "blur_px",
    "background_rate", "border_px",
)  # fmt: skip
_TIMING = ("rate_hz", "latency_s", "jitter_s", "drop_rate", "freezes_per_minute")
_SHARES = ("edge_hole_rate", "dropout_rate", "sticks_wrong", "background_rate", "white_balance")
_SIGNED = ("baseline_m", "axial_noise", "exposure_stops")
_LONGEST_DROP_SHARE = 0.875  # every eighth frame always arrives


@register("corrupt", "clean")
@dataclass(kw_only=True)
class Corruption:
    """A camera without flaws: what every field is by default. JSON-ready by `to_dict`."""

    strength: Range = (1.0, 1.0)  # factor on depth noise and on the rates of holes, an episode's

    # depth: a pair of eyes, or an eye and a projector
    focal_px: float = 0.0  # of the sensor at its own resolution; 0 = the camera's own
    baseline_m: float = 0.0  # between the eyes; > 0: the other eye is to the right of the one that is shown
    subpixel_px: float = 0.0  # native px, standard deviation of disparity: sigma_z = z^2 * this / (f * b)
    disparity_step_px: float = 0.0  # native px; 0 = continuous
    axial_noise: tuple[float, float, float] = (0.0, 0.0, 0.0)  # a (m), b, c (1/m): sigma_z = a + b z + c z^2
    lateral_px: float = 0.0  # native px, standard deviation of where a ray lands along each axis
    depth_gain_error: float = 0.0  # an episode's depth is off by a factor of up to 1 +- this
    edge_jump: float = 0.05  # a neighbour nearer by this share is an edge
    edge_hole_rate: float = 0.0  # share of pixels on the far side of an edge that are lost
    casts_shadow: bool = False  # whether what the other eye cannot see is lost
    dropout_rate: float = 0.0  # share of pixels lost anywhere
    sticks: int = 0  # short lines of no or wrong depth in a frame, at most; each is there half of the time
    stick_px: Range = (2.0, 8.0)  # px, length, a stick's
    sticks_wrong: float = 0.5  # share of sticks that have a wrong depth; the others have none
    min_range_m: float = 0.0
    max_range_m: float = 0.0  # 0 = no limit

    # colour; levels are those of a picture from 0 to 255
    exposure_stops: Range = (0.0, 0.0)  # brightness is doubled by a stop
    flicker_stops: float = 0.0  # standard deviation, a frame's
    white_balance: float = 0.0  # red and blue gain are off by a factor of up to 1 +- this
    shot_noise: float = 0.0  # levels: variance = read_noise^2 + shot_noise * level
    read_noise: float = 0.0  # levels, standard deviation
    blur_px: Range = (0.0, 0.0)  # px, length of the streak of a point, a frame's
    blur_direction: str = "any"  # one of DIRECTIONS
    background_rate: float = 0.0  # share of episodes whose background is a random texture

    # time
    rate_hz: float = 0.0  # frames a second; 0, or more than the control rate = one every control step
    latency_s: Range = (0.0, 0.0)  # from capture to the policy
    jitter_s: float = 0.0  # a frame's further latency is uniform in [0, this]
    drop_rate: float = 0.0  # share of frames that never arrive
    freezes_per_minute: float = 0.0  # times at which the picture stands still
    freeze_s: Range = (0.2, 0.5)  # for how long, a freeze's

    # mounting and lens: uniform, up to, an episode's
    position_error_m: float = 0.0  # along each axis
    rotation_error_deg: float = 0.0  # about each axis
    fovy_error_deg: float = 0.0

    border_px: int = 0  # px along each side that are invalid, or black

    def __post_init__(self) -> None:
        for name, default in _CLEAN.items():
            _check(name, getattr(self, name), default)
        if self.blur_direction not in DIRECTIONS:
            raise UserError(unknown("blur_direction", self.blur_direction, DIRECTIONS))
        if not self.baseline_m and (self.subpixel_px or self.disparity_step_px or self.casts_shadow):
            raise UserError("subpixel_px, disparity_step_px and casts_shadow need a baseline_m other than 0")
        if self.max_range_m and self.max_range_m <= self.min_range_m:
            raise UserError(f"need min_range_m < max_range_m, got {self.min_range_m} and {self.max_range_m}")
        if self.drop_rate > _LONGEST_DROP_SHARE:
            raise UserError(f"drop_rate must be <= {_LONGEST_DROP_SHARE}, got {self.drop_rate}")
        if self.freezes_per_minute * 2 * self.freeze_s[1] > 60:
            raise UserError(
                f"{self.freezes_per_minute} freezes_per_minute of {self.freeze_s} s do not fit in one"
            )

    @property
    def is_clean(self) -> bool:
        """Whether there is no flaw at all."""
        return not _differs(self, tuple(_CLEAN))

    @property
    def changes_depth(self) -> bool:
        """Whether a depth image comes out differently."""
        return _differs(self, _DEPTH)

    @property
    def changes_colour(self) -> bool:
        """Whether a colour image comes out differently."""
        return _differs(self, _COLOUR)

    @property
    def changes_timing(self) -> bool:
        """Whether the frame shown may be older than the control step."""
        return _differs(self, _TIMING)

    @property
    def changes_pose(self) -> bool:
        """Whether the camera stands or looks other than its CameraSpec says."""
        return _differs(self, ("position_error_m", "rotation_error_deg", "fovy_error_deg"))


def to_dict(corruption: Corruption) -> dict[str, Any]:
    """Return a corruption as JSON-ready data, at full precision."""
    return dataclasses.asdict(corruption)


def from_dict(data: Mapping[str, Any]) -> Corruption:
    """Rebuild a corruption from `to_dict`'s data; a field that is left out has its default."""
    for name in data:
        if name not in _CLEAN:
            raise UserError(unknown("field of Corruption", name, _CLEAN))
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
    return Corruption(**values)


def _check(name: str, value: object, default: object) -> None:
    """Refuse a value of another kind than the default, or out of its range."""
    if isinstance(default, bool | str):
        if type(value) is not type(default):
            raise UserError(f"{name} must be like {default!r}, got {value!r}")
        return
    wanted = default if isinstance(default, tuple) else (default,)
    got = value if isinstance(value, tuple) else (value,)
    kinds = int if isinstance(default, int) else int | float
    numbers = [one for one in got if isinstance(one, kinds) and not isinstance(one, bool)]
    if isinstance(value, tuple) != isinstance(default, tuple) or not len(numbers) == len(got) == len(wanted):
        what = f"{len(wanted)} numbers" if isinstance(default, tuple) else f"a number like {default!r}"
        raise UserError(f"{name} must be {what}, got {value!r}")
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise UserError(f"{name} must be (low, high), got {value!r}")
    if not all(math.isfinite(one) for one in numbers) or (name not in _SIGNED and min(numbers) < 0):
        raise UserError(f"{name} must be finite and >= 0, got {value!r}")
    if name in _SHARES and max(numbers) > 1:
        raise UserError(f"{name} is a share, at most 1, got {value!r}")


def _differs(corruption: Corruption, names: tuple[str, ...]) -> bool:
    return any(getattr(corruption, name) != _CLEAN[name] for name in names)


_CLEAN = {field.name: field.default for field in dataclasses.fields(Corruption)}


@register("corrupt", "realsense_d435")
@dataclass(kw_only=True)
class RealsenseD435(Corruption):
    """Intel RealSense D435: active stereo, depth and colour.

    At 848 x 480, which Intel names as its best: focal length 424 / tan(43.5 deg). Source: the data sheet of
    the D400 family (50 mm baseline, 87 x 58 degrees, error of at most 2 % to 2 m); Grunnet-Jepsen et al.,
    Tuning depth cameras for best performance, and Subpixel linearity improvement (disparities of up to 126
    pixels, so depth from focal * baseline / 126 on, in steps of 1/32 pixel; a good scene has less than 0.1
    pixel of noise). The other numbers are our choice, wide rather than measured.
    """

    strength: Range = (0.5, 1.5)
    focal_px: float = 446.8
    baseline_m: float = 0.05
    subpixel_px: float = 0.08
    disparity_step_px: float = 1 / 32
    lateral_px: float = 0.5
    depth_gain_error: float = 0.02
    edge_hole_rate: float = 0.3
    casts_shadow: bool = True
    dropout_rate: float = 0.005
    sticks: int = 2
    min_range_m: float = 0.177
    max_range_m: float = 10.0
    exposure_stops: Range = (-0.5, 0.5)
    flicker_stops: float = 0.03
    white_balance: float = 0.1
    shot_noise: float = 0.1
    read_noise: float = 2.0
    blur_px: Range = (0.0, 2.0)
    rate_hz: float = 30.0
    latency_s: Range = (0.03, 0.07)
    jitter_s: float = 0.01
    drop_rate: float = 0.01
    freezes_per_minute: float = 0.5
    position_error_m: float = 0.005
    rotation_error_deg: float = 1.0
    fovy_error_deg: float = 0.5


@register("corrupt", "kinect")
@dataclass(kw_only=True)
class Kinect(Corruption):
    """Microsoft Kinect (the first): structured light, depth and colour.

    Source: Nguyen et al. 2012 for axial noise (below 60 degrees of slant: 0.0012 + 0.0019 (z - 0.4)^2) and
    for lateral (0.8 px); eighths of a pixel; 75 mm. The other numbers are our
    choice, wide rather than measured.
    """

    strength: Range = (0.5, 1.5)
    focal_px: float = 585.0
    baseline_m: float = 0.075
    disparity_step_px: float = 1 / 8
    axial_noise: tuple[float, float, float] = (0.001504, -0.00152, 0.0019)
    lateral_px: float = 0.8
    edge_hole_rate: float = 0.5
    casts_shadow: bool = True
    dropout_rate: float = 0.01
    sticks: int = 3
    min_range_m: float = 0.4
    max_range_m: float = 4.0
    exposure_stops: Range = (-0.5, 0.5)
    white_balance: float = 0.1
    shot_noise: float = 0.2
    read_noise: float = 3.0
    blur_px: Range = (0.0, 2.0)
    rate_hz: float = 30.0
    latency_s: Range = (0.05, 0.1)
    jitter_s: float = 0.01
    drop_rate: float = 0.02
    position_error_m: float = 0.005
    rotation_error_deg: float = 1.0
    fovy_error_deg: float = 0.5


@register("corrupt", "webcam")
@dataclass(kw_only=True)
class Webcam(Corruption):
    """A webcam: colour only, late and unsteady; its numbers are our choice, wide rather than measured."""

    exposure_stops: Range = (-1.0, 1.0)
    flicker_stops: float = 0.05
    white_balance: float = 0.2
    shot_noise: float = 0.3
    read_noise: float = 4.0
    blur_px: Range = (0.0, 4.0)
    background_rate: float = 0.5
    rate_hz: float = 30.0
    latency_s: Range = (0.05, 0.15)
    jitter_s: float = 0.03
    drop_rate: float = 0.03
    freezes_per_minute: float = 1.0
    position_error_m: float = 0.01
    rotation_error_deg: float = 2.0
    fovy_error_deg: float = 1.0


def preset(name: str) -> Corruption:
    """Return a registered corruption by name; UserError with the nearest and all names otherwise."""
    return find("corrupt", name)()
