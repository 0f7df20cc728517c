"""What a manifest must hold: every field, of one type, with finite numbers, agreeing with each other.

Shapes: A joints, in the order of `action.names`. Optics are in pixels of the picture that the policy sees;
the centres of pixels are whole numbers (as in OpenCV and ROS), that of a picture W wide is (W - 1) / 2.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from robokd import UserError
from robokd.export.sight import read_statistics
from robokd.files import is_number
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Spec, Term, differences, from_dict, to_dict

FORMAT = "robokd-bundle"
VERSION = 4
FIELDS: dict[str, type] = {  # every field of a manifest, all required
    "format": str, "version": int, "task": str, "task_config": dict, "sim_config": dict,
    "renderer_config": dict, "corrupt_config": dict, "created": str, "robokd": str, "action": dict,
    "observations": dict, "cameras": dict, "control_dt": float, "robot": dict, "optics": dict,
    "statistics": dict, "latency_s": dict, "graph": dict, "start": dict, "ages_s": dict,
    "lineage": list, "evaluation": dict, "parity_max_abs": float, "members": list, "clock_s": float,
}  # fmt: skip
QUATERNION_ORDER = "wxyz"
UNITS = {  # of numbers of the contract, but where action.units says another, and of the robot's channels
    "position": "rad", "velocity": "rad/s", "acceleration": "rad/s^2", "jerk": "rad/s^3", "kp": "N m/rad",
    "kd": "N m s/rad", "torque": "N m", "torque_rate": "N m/s", "length": "m", "depth": "m", "time": "s",
}  # fmt: skip
# of the robot; null where nothing is known. `sag`: rad, how far joints that bear a floating body rest from
# the targets that they hold
GAINS = ("kp", "kd", "torque", "torque_rate", "jerk", "sag")
MOST_SAG_RAD = 0.6  # a larger one would switch the check of a robot's start off
PERIODS_S = (1e-3, 1.0)  # that a control period may have
# that joints and an IMU may have been late in training; pictures that dropped out or froze were later
LONGEST_LATENCY_S = 1.0
LONGEST_AGE_S = 10.0  # of any data that a command may rest on: a larger budget would switch the check off
LONGEST_CLOCK_S = 100.0  # period of the clock that a policy reads
LENS = ("fx", "fy", "cx", "cy")
DTYPES = ("float32", "float16", "uint8", "int16", "int32", "int64", "bool")
MOST_NUMBERS = 1 << 24  # of a tensor
IMPORTED = "imported"  # the part that stands for task and simulator of another suite
MOST_PIXELS = 1 << 24  # of a picture, which is no longer than the root of it
_PARTS = ("task_config", "sim_config", "renderer_config", "corrupt_config")
POSITIVE = ("torque", "torque_rate", "jerk")  # of GAINS; the others may be 0
_TASK = re.compile(r"\w[\w.-]{0,63}")
_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_NARROWEST_DEG = 0.1  # field of view
_SAME_LENS = 1e-6  # relative difference of a focal length and of what the field of view says


@dataclass(frozen=True)
class Contract:
    """The specs of a manifest."""

    action: ActionSpec
    observations: dict[str, ObsSpec]
    cameras: dict[str, CameraSpec]


def check(path: Path, manifest: dict[str, Any], members: Iterable[str]) -> Contract:
    """Return the specs of a manifest, whose JSON is sound; UserError, naming the field, unless all agree."""
    return _Check(path, manifest).contract(tuple(members))


class _Check:
    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest

    def refuse(self, name: str, why: str) -> NoReturn:
        raise UserError(f"{self.path}: manifest field {name!r} {why}")

    def fields(self) -> None:
        """Refuse a manifest that has not exactly FIELDS, each of its type."""
        manifest = self.manifest
        if missing := sorted(set(FIELDS) - set(manifest)):
            raise UserError(f"{self.path}: its manifest has no field {missing[0]!r}")
        if unknown := sorted(set(manifest) - set(FIELDS)):
            raise UserError(f"{self.path}: unknown manifest field {unknown[0]!r}. Known: {', '.join(FIELDS)}")
        for name, kind in FIELDS.items():
            self.typed(name, manifest[name], kind)
        for name, wanted in (("format", FORMAT), ("version", VERSION)):
            if manifest[name] != wanted:
                self.refuse(name, f"is {manifest[name]!r}, wanted {wanted!r}")
        # a terminal obeys what it is shown, and a task is part of a folder's name
        if wrong := next((text for text in _texts(manifest) if not text.isprintable()), None):
            raise UserError(f"{self.path}: its manifest holds text that cannot be shown: {wrong!r:.60}")
        if wrong_task(manifest["task"]):
            self.refuse("task", wrong_task(manifest["task"]))

    def typed(self, name: str, value: object, kind: object) -> None:
        """Refuse a value that is not of a field's type: a plain one, Term, or tuple[<one of them>, ...]."""
        if typing.get_origin(kind) is tuple:
            if not isinstance(value, list):
                self.refuse(name, f"wants a list, got {value!r:.60}")
            for index, one in enumerate(value):
                self.typed(f"{name}[{index}]", one, typing.get_args(kind)[0])
        elif kind is Term:
            self.keys(name, value, [field.name for field in dataclasses.fields(Term)])
            for key, hint in typing.get_type_hints(Term).items():
                self.typed(f"{name}.{key}", typing.cast("dict[str, Any]", value)[key], hint)
        elif not (is_number(value, kind) if kind in (int, float) else type(value) is kind):
            self.refuse(name, f"wants a {getattr(kind, '__name__', kind)}, got {value!r:.60}")

    def keys(self, name: str, row: object, wanted: Sequence[str]) -> None:
        """Refuse what is not a dict with exactly these keys."""
        if not isinstance(row, dict) or set(row) != set(wanted):
            self.refuse(name, f"wants exactly {', '.join(wanted) or 'nothing'}")

    def numbers(self, name: str, row: object, count: int) -> list[float]:
        """Return a list of exactly so many numbers."""
        if not isinstance(row, list) or len(row) != count or not all(map(is_number, row)):
            self.refuse(name, f"wants {count} numbers, got {row!r:.60}")
        return row

    def contract(self, members: Sequence[str]) -> Contract:
        """Check everything, each part before what rests on it."""
        self.fields()
        manifest = self.manifest
        action = self.spec(ActionSpec, manifest["action"], "action")
        observations = {
            name: self.spec(ObsSpec, row, f"observations.{name}")
            for name, row in manifest["observations"].items()
        }
        cameras = {
            name: self.spec(CameraSpec, row, f"cameras.{name}") for name, row in manifest["cameras"].items()
        }
        if not (observations or cameras):
            self.refuse("observations", "is empty, as is 'cameras': the policy would see nothing")
        self.action(action)
        self.groups(observations, cameras)
        self.start(action)
        self.robot(action)
        self.optics(cameras)
        self.times((*observations, *cameras))
        self.clock(observations)
        self.graph(members)
        self.lineage()
        return Contract(action, observations, cameras)

    def spec(self, kind: type[Spec], row: Any, where: str) -> Spec:  # noqa: ANN401  (of JSON)
        if not isinstance(row, dict):
            self.refuse(where, f"wants a dict, got {row!r:.60}")
        hints = typing.get_type_hints(kind)
        for key in sorted(set(row) & set(hints)):
            self.typed(f"{where}.{key}", row[key], hints[key])
        try:
            spec = from_dict(kind, row)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise UserError(f"{self.path}: manifest field {where!r}: {error}") from None
        # a field left to its default would be a silent change of the contract
        if rows := differences(row, to_dict(spec)):
            self.refuse(f"{where}.{rows[0].split(':')[0]}", "is missing")
        return spec

    def action(self, action: ActionSpec) -> None:
        if not action.is_decoded:
            self.refuse("action.mode", f"is {action.mode!r}: no commands that a robot could be sent")
        if not all(action.names) or len(set(action.names)) != action.size:
            self.refuse("action.names", f"wants names of joints, each once, got {action.names!r:.60}")
        if any(low >= high for low, high in zip(action.position_lower, action.position_upper, strict=True)):
            self.refuse("action.position_lower", "must be below action.position_upper for every joint")
        for name in ("scale", "position_lower", "position_upper", "velocity", "acceleration", "offset"):
            # the runtime has them as float32, where one that is infinite or 0 would be no limit
            row = getattr(action, name)
            if not all(map(fits_float32, row)):
                self.refuse(f"action.{name}", f"wants numbers that float32 holds, got {list(row)!r:.60}")
        if self.manifest["control_dt"] != action.control_dt:
            why = f"is {self.manifest['control_dt']} s, action.control_dt is {action.control_dt} s"
            self.refuse("control_dt", why)
        if why := wrong_period(action.control_dt):
            self.refuse("control_dt", why)

    def groups(self, observations: dict[str, ObsSpec], cameras: dict[str, CameraSpec]) -> None:
        for name, spec in observations.items():
            where = f"observations.{name}"
            if name != spec.group or spec.role not in ("proprio", "history"):
                self.refuse(where, f"is group {spec.group!r} of role {spec.role!r}: no robot has it")
            if not spec.size or len({term.name for term in spec.terms}) != len(spec.terms):
                self.refuse(f"{where}.terms", "wants terms, each once and of something")
        for name, camera in cameras.items():
            if name != camera.name or name in observations:
                self.refuse(f"cameras.{name}", f"describes camera {camera.name!r}, or is a group too")
            if len(camera.position_m) != 3:
                self.refuse(f"cameras.{name}.position_m", "wants 3 numbers")
            turned = camera.quaternion_wxyz
            if len(turned) != 4 or not abs(math.hypot(*turned) - 1) < 1e-3:
                self.refuse(f"cameras.{name}.quaternion_wxyz", "wants 4 numbers of norm 1")
            if camera.width * camera.height > MOST_PIXELS or max(camera.shape) > MOST_PIXELS**0.5:
                got = f"{camera.width}x{camera.height}"
                self.refuse(f"cameras.{name}.width", f"and height are not of a picture: {got}")
        for name in _PARTS:
            if not isinstance(self.manifest[name].get("part"), str):
                self.refuse(f"{name}.part", "wants the name of a part")

    def start(self, action: ActionSpec) -> None:
        start = self.manifest["start"]
        self.keys("start", start, ("joint_pos_lower", "joint_pos_upper"))
        lower, upper = (self.numbers(f"start.{key}", row, action.size) for key, row in sorted(start.items()))
        if any(low > high for low, high in zip(lower, upper, strict=True)):
            self.refuse("start.joint_pos_lower", "must not be above start.joint_pos_upper")

    def robot(self, action: ActionSpec) -> None:
        robot, start = self.manifest["robot"], self.manifest["start"]
        self.keys("robot", robot, (*GAINS, "home", "quaternion_order", "units"))
        for name in GAINS:
            if robot[name] is not None:
                least = min(self.numbers(f"robot.{name}", robot[name], action.size))
                if least < 0 or (least == 0 and name in POSITIVE):
                    self.refuse(f"robot.{name}", f"must be {'>' if name in POSITIVE else '>='} 0")
        if robot["sag"] is not None and (most := max(robot["sag"])) > MOST_SAG_RAD:
            self.refuse("robot.sag", f"must be <= {MOST_SAG_RAD:g} rad, got {most:g}")
        home = self.numbers("robot.home", robot["home"], action.size)
        for what, low, high in (
            ("the start envelope", start["joint_pos_lower"], start["joint_pos_upper"]),
            ("the position limits", action.position_lower, action.position_upper),
        ):
            if any(not a <= q <= b for a, q, b in zip(low, home, high, strict=True)):
                self.refuse("robot.home", f"is outside {what}")
        if robot["quaternion_order"] != QUATERNION_ORDER:
            got = f"{robot['quaternion_order']!r:.60}"
            self.refuse("robot.quaternion_order", f"is {got}, wanted {QUATERNION_ORDER!r}")
        self.keys("robot.units", robot["units"], tuple(UNITS))
        if rows := differences(UNITS, robot["units"], "robot.units"):
            self.refuse(rows[0].split(":")[0], f"is another unit: {rows[0].partition(': ')[2]:.60}")

    def optics(self, cameras: dict[str, CameraSpec]) -> None:
        for group in ("optics", "statistics"):
            self.keys(group, self.manifest[group], tuple(cameras))
        for name, camera in cameras.items():
            row, where = self.manifest["optics"][name], f"optics.{name}"
            self.keys(where, row, (*LENS, "crop", "rate_hz"))
            for key in (*LENS, "rate_hz"):
                self.typed(f"{where}.{key}", row[key], float)
            self.lens(where, row, camera)
            if row["crop"] is not None:
                self.crop(f"{where}.crop", row["crop"], camera)
            try:
                read_statistics(self.manifest["statistics"][name], camera, f"statistics.{name}")
            except UserError as error:
                raise UserError(f"{self.path}: manifest field {error}") from None

    def lens(self, where: str, row: dict[str, Any], camera: CameraSpec) -> None:
        """Refuse a lens that cannot have made the pictures: a pinhole's, square pixels, its axis in them."""
        if camera.fovy_deg < _NARROWEST_DEG:
            self.refuse(
                f"cameras.{camera.name}.fovy_deg", f"is {camera.fovy_deg}, wanted >= {_NARROWEST_DEG}"
            )
        seen = focal_px(camera)
        for key in ("fx", "fy"):
            if not abs(row[key] - seen) <= _SAME_LENS * seen:
                why = f"is {row[key]}; cameras.{camera.name}.fovy_deg says {seen}"
                self.refuse(f"{where}.{key}", why)
        for key, side in (("cx", camera.width), ("cy", camera.height)):
            if not -0.5 <= row[key] <= side - 0.5:
                self.refuse(f"{where}.{key}", f"is {row[key]}, outside the picture: -0.5 to {side - 0.5}")
        if row["rate_hz"] <= 0:
            self.refuse(f"{where}.rate_hz", f"is {row['rate_hz']}, wanted > 0")

    def crop(self, where: str, crop: object, camera: CameraSpec) -> None:
        """Refuse what is no part of a sensor's picture, or has another shape than what the policy sees."""
        if not (
            isinstance(crop, list) and len(crop) == 4 and all(is_number(side, int) for side in crop)
            and min(crop[:2]) >= 0 and min(crop[2:]) >= 1
        ):  # fmt: skip
            self.refuse(where, f"wants null or [x, y, width, height], got {crop!r:.60}")
        x, y, wide, high = crop
        if max(x + wide, y + high) > MOST_PIXELS**0.5:
            self.refuse(where, f"is {crop}: no picture is longer than {MOST_PIXELS**0.5:.0f} pixels")
        if abs(wide * camera.height - high * camera.width) > max(camera.width, camera.height):
            got = f"{wide}x{high}, the policy's pictures are {camera.width}x{camera.height}"
            self.refuse(where, f"is {got}: another shape, which square pixels cannot be scaled to")

    def times(self, names: Sequence[str]) -> None:
        ages, latency = self.manifest["ages_s"], self.manifest["latency_s"]
        self.keys("ages_s", ages, names)
        self.keys("latency_s", latency, names)
        for name in names:
            self.typed(f"ages_s.{name}", ages[name], float)
            if not 0 < ages[name] <= LONGEST_AGE_S:
                self.refuse(f"ages_s.{name}", f"must be > 0 s and <= {LONGEST_AGE_S:g} s, got {ages[name]}")
            row = self.numbers(f"latency_s.{name}", latency[name], 2)
            longest_s = LONGEST_AGE_S if name in self.manifest["cameras"] else LONGEST_LATENCY_S
            if why := wrong_latency(row, longest_s):
                self.refuse(f"latency_s.{name}", why)

    def clock(self, observations: dict[str, ObsSpec]) -> None:
        """Refuse a clock whose period is not said, and a period without a clock."""
        period = self.manifest["clock_s"]
        has_clock = any(term.name == "clock" for spec in observations.values() for term in spec.terms)
        if has_clock and not PERIODS_S[0] <= period <= LONGEST_CLOCK_S:
            wanted = f"{PERIODS_S[0]:g} to {LONGEST_CLOCK_S:g} s"
            self.refuse("clock_s", f"is {period:g}: the policy reads a clock, whose period is {wanted}")
        if not has_clock and period != 0:
            self.refuse("clock_s", f"is {period:g}, and the policy reads no clock: wanted 0")

    def graph(self, members: Sequence[str]) -> None:
        """Refuse a description of the graph that is not whole, or names members that are not there."""
        graph = self.manifest["graph"]
        self.keys("graph", graph, ("member", "samples", "inputs", "outputs"))
        for role in ("member", "samples"):
            if not isinstance(graph[role], str) or graph[role] not in members:
                self.refuse(f"graph.{role}", f"is {graph[role]!r:.60}. Members: {', '.join(members)}")
        for side in ("inputs", "outputs"):
            if not isinstance(graph[side], dict):
                self.refuse(f"graph.{side}", "wants {name: {shape, dtype}}")
            for name, row in graph[side].items():
                where = f"graph.{side}.{name}"
                self.keys(where, row, ("shape", "dtype"))
                self.typed(f"{where}.shape", row["shape"], tuple[int, ...])
                if row["shape"][:1] != [1] or min(row["shape"]) < 1 or math.prod(row["shape"]) > MOST_NUMBERS:
                    wanted = f"wanted one of a batch, (1, …), of at most {MOST_NUMBERS} numbers"
                    self.refuse(f"{where}.shape", f"is {row['shape']!r:.60}; {wanted}")
                if row["dtype"] not in DTYPES:
                    self.refuse(f"{where}.dtype", f"is {row['dtype']!r:.60}. Known: {', '.join(DTYPES)}")

    def lineage(self) -> None:
        for index, row in enumerate(self.manifest["lineage"]):
            where = f"lineage[{index}]"
            self.keys(where, row, ("path", "stage", "checkpoint", "sha256"))
            for key, value in row.items():
                self.typed(f"{where}.{key}", value, str)
        for name, value in self.manifest["evaluation"].items():
            if value is not None:
                self.typed(f"evaluation.{name}", value, float)
        if self.manifest["parity_max_abs"] < 0:
            self.refuse("parity_max_abs", f"must be >= 0, got {self.manifest['parity_max_abs']}")


def _texts(value: object) -> Iterator[str]:
    """Yield every text of a manifest, the names of fields too."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one


def wrong_period(control_dt: float) -> str:
    """Return what is wrong with a control period in s, empty where nothing is."""
    least, most = PERIODS_S
    return "" if least <= control_dt <= most else f"wants {least:g} to {most:g} s, got {control_dt:g}"


def wrong_latency(row: Sequence[float], longest_s: float = LONGEST_LATENCY_S) -> str:
    """Return what is wrong with the least and most that data were late, s, empty where nothing is."""
    least, most = row
    if 0 <= least <= most <= longest_s:
        return ""
    return f"wants 0 <= least <= most <= {longest_s:g} s, got {[least, most]}"


def wrong_task(task: str) -> str:
    """Return what is wrong with a task's name, empty where nothing is."""
    if _TASK.fullmatch(task):
        return ""
    return f"is {task!r:.60}; wanted letters, digits, _, - and ., at most 64"


def fits_float32(value: float) -> bool:
    """Whether float32 has a number without making it 0 or infinite."""
    return value == 0 or _TINY <= abs(value) <= _HUGE


def focal_px(camera: CameraSpec) -> float:
    """Return the focal length of a camera with square pixels."""
    return camera.height / 2 / math.tan(math.radians(camera.fovy_deg) / 2)
