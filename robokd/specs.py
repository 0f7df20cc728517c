"""What a policy sees and does, as data: observation, camera and action contracts. Numpy only.

Shapes: A action dimensions (one per command); a leading batch axis is allowed everywhere.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FARTHEST_M = 65504.0  # what a float16 can say
ROLES = ("proprio", "history", "camera", "privileged")
# encoding -> numpy type and channels of a pixel; see vision/encode.py for what the numbers mean
ENCODINGS = {
    "depth_u8": (np.uint8, 1), "depth_f16": (np.float16, 1), "rgb_u8": (np.uint8, 3),
    "segment_i16": (np.int16, 1),
}  # fmt: skip
MODES = {"joint_delta": "last_sent", "absolute": "last_sent", "native": "none"}  # of actions -> their anchor
LATER = ("offset", "units")  # fields of ActionSpec that older contracts lack: not written where empty
# what a robot's drivers tell -> unit; of every joint, or see ELEMENTS (sim2real/robot.py)
CHANNELS = {
    "joint_pos": "rad", "joint_vel": "rad/s", "gyro": "rad/s", "gravity": "1",
    "velocity_command": "m/s, m/s, rad/s", "velocity": "m/s",
}  # fmt: skip
IMU_CHANNELS, AXES = ("gyro", "gravity"), ("x", "y", "z")
# what is not of the joints: measured by an IMU or (velocity) by odometry, ordered by whoever leads the robot,
# or reckoned from the time since the episode's begin
ELEMENTS = {
    **dict.fromkeys((*IMU_CHANNELS, "velocity"), AXES), "velocity_command": ("ahead", "left", "turn"),
    "clock": ("sin", "cos"),
}  # fmt: skip
# commands of a body without joints that flies -> unit; the rates about its x, y, z
FLIGHT = {"roll_rate": "rad/s", "pitch_rate": "rad/s", "yaw_rate": "rad/s", "thrust": "N"}
RATE_UNITS = {"rad": "rad/s", "m": "m/s", "rad/s": "rad/s^2", "N": "N/s"}  # of a command -> of its rate
Array = TypeVar("Array", np.ndarray, "Tensor")
ToArray = Callable[[tuple[float, ...]], Any]  # a row of numbers -> its array


@dataclass(frozen=True, kw_only=True)
class Term:
    """One named part of a 1-D observation group."""

    name: str
    elements: tuple[str, ...]  # one name per number, in order
    unit: str

    @property
    def size(self) -> int:
        """How many numbers the term has."""
        return len(self.elements)


def elements(channel: str, joints: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a channel's numbers: the joints, but of those in ELEMENTS."""
    return ELEMENTS.get(channel, tuple(joints))


@dataclass(frozen=True, kw_only=True)
class ObsSpec:
    """A 1-D observation group, float32: its terms concatenated in this order."""

    group: str
    role: str  # one of ROLES
    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"group {self.group}: no role named {self.role!r}. Known: {', '.join(ROLES)}")

    @property
    def size(self) -> int:
        """Width of the group."""
        return sum(term.size for term in self.terms)

    def slices(self) -> dict[str, slice]:
        """Where each term stands in the group."""
        ends = np.cumsum([0, *(term.size for term in self.terms)])
        return {term.name: slice(int(ends[i]), int(ends[i + 1])) for i, term in enumerate(self.terms)}


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A camera and what its images hold: depth (planar z), colour, or which geom is where.

    The nominal pose is of the lens in its mount body, in MuJoCo's camera frame (looks along -z, y up);
    quaternion (w, x, y, z). Several specs may name one camera of the scene, e.g. its depth and its colour.
    """

    name: str  # of the observation group
    view: str = ""  # the scene's camera; empty = name
    width: int = 64  # pixels
    height: int = 64  # pixels
    fovy_deg: float = 60.0  # vertical field of view
    near_m: float = 0.05
    far_m: float = 2.0
    encoding: str = "depth_u8"  # one of ENCODINGS
    mount: str = "world"
    position_m: tuple[float, ...] = (0.0, 0.0, 0.0)
    quaternion_wxyz: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            raise ValueError(f"camera {self.name}: no encoding named {self.encoding!r}. Known: {known}")
        if not 0 <= self.near_m < self.far_m < FARTHEST_M:
            wanted = f"need 0 <= near < far < {FARTHEST_M:g} m"
            raise ValueError(f"camera {self.name}: {wanted}, got {self.near_m}, {self.far_m}")
        for pixels in (self.width, self.height):
            if not isinstance(pixels, int) or pixels < 1:
                got = f"{self.width}x{self.height}"
                raise ValueError(f"camera {self.name}: its size must be whole pixels, >= 1, got {got}")
        if not 0 < self.fovy_deg < 180:
            raise ValueError(f"camera {self.name}: fovy_deg must be in (0, 180), got {self.fovy_deg}")

    @property
    def dtype(self) -> type:
        """Numpy type of an encoded pixel."""
        return ENCODINGS[self.encoding][0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an encoded image."""
        return (ENCODINGS[self.encoding][1], self.height, self.width)

    @property
    def is_depth(self) -> bool:
        """Whether the images hold planar depth."""
        return self.encoding.startswith("depth")

    @property
    def scene_camera(self) -> str:
        """Name of the camera in the scene."""
        return self.view or self.name

    @property
    def step_m(self) -> float:
        """Coarsest depth difference the encoding can tell, in metres."""
        if self.encoding == "depth_u8":
            return (self.far_m - self.near_m) / 254
        return float(np.spacing(np.float16(self.far_m)))


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """How a policy's action in [-1, 1]^A becomes commands: joint positions, body rates, thrust ...

    mode "joint_delta": a command moves from the anchor by at most `scale` a control step.
    mode "absolute": a command is `offset` + `scale` * action, wherever the anchor is.
    In both the anchor is the last command that was *sent*. Limits of a command, of its rate and of that
    rate's change are part of the decoding, so a policy is trained under the limits that the robot enforces;
    of a command that may jump they are numbers so large that they never bind.
    mode "native", without an anchor: the environment, which is not ours, decodes its actions itself. There
    are no limits, and no robot is sent such actions.
    Where a field says rad and `units` something else, it is in that unit.
    """

    names: tuple[str, ...]  # of joints or other commands, in order
    control_dt: float  # s
    scale: tuple[float, ...] = ()  # rad at |action| = 1: per control step, or from the offset
    position_lower: tuple[float, ...] = ()  # rad
    position_upper: tuple[float, ...] = ()  # rad
    velocity: tuple[float, ...] = ()  # rad/s, symmetric
    acceleration: tuple[float, ...] = ()  # rad/s^2, symmetric
    mode: str = "joint_delta"  # one of MODES
    anchor: str = "last_sent"  # the mode's
    offset: tuple[float, ...] = ()  # rad, the command at action 0; of mode "absolute" only
    units: tuple[str, ...] = ()  # of each command; empty = all are joint positions in rad

    def __post_init__(self) -> None:
        if MODES.get(self.mode) != self.anchor:
            known = ", ".join(f"{mode!r} on {anchor!r}" for mode, anchor in MODES.items())
            raise ValueError(f"no action mode {self.mode!r} on {self.anchor!r}. Known: {known}")
        if not self.names:
            raise ValueError("names must name at least one action, got none")
        count = len(self.names) if self.is_decoded else 0
        for field in ("scale", "position_lower", "position_upper", "velocity", "acceleration"):
            if len(getattr(self, field)) != count:
                raise ValueError(f"{field} has {len(getattr(self, field))} values for {count} joints")
        wanted = count if self.mode == "absolute" else 0
        if len(self.offset) != wanted:
            raise ValueError(f"offset has {len(self.offset)} values, mode {self.mode!r} wants {wanted}")
        if len(self.units) not in (0, count):
            raise ValueError(f"units has {len(self.units)} values for {count} commands")
        if self.control_dt <= 0:
            raise ValueError(f"control_dt must be > 0 s, got {self.control_dt}")
        if not all(0 < number < math.inf for number in (*self.scale, *self.velocity, *self.acceleration)):
            raise ValueError("scale, velocity and acceleration must be > 0 and finite for every joint")

    @property
    def size(self) -> int:
        """A."""
        return len(self.names)

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints that are told positions; none of a body that is commanded otherwise."""
        return self.names if set(self.units) <= {"rad", "m"} else ()

    @property
    def flies(self) -> bool:
        """Whether the commands are FLIGHT's."""
        return tuple(zip(self.names, self.units, strict=False)) == tuple(FLIGHT.items())

    @property
    def is_decoded(self) -> bool:
        """Whether `decode` makes commands of such actions; if not, their environment does its own."""
        return self.mode != "native"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """An ActionSpec's numbers as (A,) float32 arrays of one kind (numpy, or torch on a device)."""

    scale: Any
    lower: Any
    upper: Any
    velocity: Any
    acceleration: Any
    dt: float
    offset: Any = None  # of mode "absolute"

    @classmethod
    def of(cls, spec: ActionSpec, asarray: ToArray = lambda values: np.asarray(values, np.float32)) -> Limits:
        """Return the limits of a spec; `asarray` makes the arrays (the default makes numpy's).

        ValueError for a spec of mode "native": there is nothing to decode by.
        """
        if not spec.is_decoded:
            raise ValueError(f"actions of mode {spec.mode!r} are decoded by the environment that they are of")
        return cls(
            scale=asarray(spec.scale), lower=asarray(spec.position_lower), upper=asarray(spec.position_upper),
            velocity=asarray(spec.velocity), acceleration=asarray(spec.acceleration), dt=spec.control_dt,
            offset=asarray(spec.offset) if spec.offset else None,
        )  # fmt: skip


def braking_rate(distance: Array, acceleration: Array, dt: float, xp: ModuleType = np) -> Array:
    """Return the largest rate (rad/s) from which a joint can still stop within `distance` (rad).

    The rate falls by acceleration*dt every step of dt, so n + f such units (n whole, 0 <= f < 1) cover
    (n(n+1)/2 + f(n+1)) units of acceleration*dt^2, this step's included; this inverts that exactly.
    """
    units = xp.clip(distance / (acceleration * dt * dt), 0, None)
    whole = xp.floor((xp.sqrt(1 + 8 * units) - 1) / 2)
    fraction = (units - whole * (whole + 1) / 2) / (whole + 1)
    return (whole + xp.clip(fraction, 0, 1)) * acceleration * dt


def limit(
    target: Array, anchor: Array, rate: Array, limits: Limits, xp: ModuleType = np
) -> tuple[Array, Array]:
    """Return (target, rate) moved as little as needed to keep position, velocity and acceleration limits.

    Args:
        target: (..., A) wanted commands, rad where they are joint targets.
        anchor: (..., A) the last command sent, within the position limits.
        rate: (..., A) (last command - the one before) / dt.
        limits: of the robot; `limits.dt` is the time since the last command.
        xp: numpy or torch.

    Idempotent up to rounding. Position wins over velocity, and acceleration is kept by braking in time.
    """
    dt = limits.dt
    step = limits.acceleration * dt
    # half a thousandth less, so that float32 rounding of the braking curve never costs acceleration
    brake = 0.9995 * limits.acceleration
    fastest_up = xp.minimum(limits.velocity, braking_rate(limits.upper - anchor, brake, dt, xp))
    fastest_down = xp.minimum(limits.velocity, braking_rate(anchor - limits.lower, brake, dt, xp))
    wanted = xp.minimum(xp.maximum((target - anchor) / dt, -fastest_down), fastest_up)
    new_rate = xp.minimum(xp.maximum(wanted, rate - step), rate + step)
    new_target = xp.minimum(xp.maximum(anchor + new_rate * dt, limits.lower), limits.upper)
    return new_target, new_rate


def decode(
    action: Array, anchor: Array, rate: Array, limits: Limits, xp: ModuleType = np
) -> tuple[Array, Array]:
    """Return (target, rate) of an action: base + scale * clip(action, -1, 1), then `limit`.

    The base is the anchor, or in mode "absolute" the offset. Shapes (..., A); the one definition that
    training (torch), the exported graph and numpy share.
    """
    base = anchor if limits.offset is None else limits.offset
    return limit(base + limits.scale * xp.clip(action, -1, 1), anchor, rate, limits, xp)


Spec = TypeVar("Spec", ObsSpec, CameraSpec, ActionSpec)


def to_dict(spec: ObsSpec | CameraSpec | ActionSpec) -> dict[str, Any]:
    """Return a spec as JSON-ready data, at full precision; fields of LATER only where they say something."""
    return {key: value for key, value in dataclasses.asdict(spec).items() if value or key not in LATER}


def from_dict(kind: type[Spec], data: dict[str, Any]) -> Spec:
    """Rebuild a spec from `to_dict`'s data; unknown or missing fields raise ValueError by name."""
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - known):
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}. Known: {', '.join(sorted(known))}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items()
    }
    if kind is ObsSpec:
        values["terms"] = tuple(
            Term(name=term["name"], elements=tuple(term["elements"]), unit=term["unit"])
            for term in data["terms"]
        )
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def differences(wanted: dict[str, Any], got: dict[str, Any], path: str = "") -> list[str]:
    """Return 'path: wanted X, got Y' for every field in which two contracts differ."""
    rows = []
    for key in sorted(set(wanted) | set(got)):
        where = f"{path}.{key}" if path else str(key)
        left, right = wanted.get(key, "nothing"), got.get(key, "nothing")
        if isinstance(left, dict) and isinstance(right, dict):
            rows += differences(left, right, where)
        elif _plain(left) != _plain(right):
            rows.append(f"{where}: wanted {left}, got {right}")
    return rows


def _plain(value: object) -> object:
    """Return a value with tuples as lists, as JSON would give it back."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
