"""What a foreign export says, and what a person says besides, as one: complete, of the right shape, agreeing.

Shapes: A joints, 3 axes of an IMU. Fields go by dotted names; a contract file is JSON, nested by the dots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from robokd import UserError, registry
from robokd.export.dialects import Foreign
from robokd.export.manifest import (
    GAINS,
    POSITIVE,
    fits_float32,
    wrong_latency,
    wrong_period,
    wrong_task,
)
from robokd.export.wrap import LAST_ACTION, Reads, width
from robokd.files import is_number, read_json
from robokd.specs import CHANNELS

LIMITS = ("position_lower", "position_upper", "velocity", "acceleration")
START = ("start.joint_pos_lower", "start.joint_pos_upper")
REQUIRED = (
    "action.names", "control_dt", "action.scale", "default_joint_pos",
    *(f"action.{name}" for name in LIMITS), *START, "latency_s",
)  # fmt: skip
OPTIONAL = ("action.offset", "action.clip", "robot.home", *(f"robot.{name}" for name in GAINS), "task")
TERM = ("scale", "channel", "values")  # of observations.<term>
RELATIVE = "joint_pos_rel"  # joint_pos less default_joint_pos
_CHANNELS = {  # names that suites give to what we have; `joint_pos` is missing: see _UNTOLD
    RELATIVE: RELATIVE, "joint_vel": "joint_vel", "joint_vel_rel": "joint_vel", "actions": LAST_ACTION,
    "last_action": LAST_ACTION, "base_ang_vel": "gyro", "projected_gravity": "gravity",
}  # fmt: skip
# the term `joint_pos` of mjlab and of Isaac Lab's own tasks calls mdp.joint_pos_rel, others' mdp.joint_pos,
# and an export has the name alone: only a person can tell whether it is absolute
_UNTOLD = {
    "joint_pos": f'"joint_pos" of the angle itself, "{RELATIVE}" of its distance from default_joint_pos'
}
_COMMAND = "command"  # in the name of a term that a person may hold constant
Fields = dict[str, Any]  # by dotted names


def complete(foreign: Foreign, contract: Path | None) -> tuple[Fields, list[Reads]]:
    """Return all fields and the terms of the observation; UserError, listing them, where some are lacking."""
    supplied = dict(_flat(read_json(contract))) if contract else {}
    terms = foreign.terms or _terms(supplied)
    fields = foreign.fields | supplied
    for name in terms:
        _check_term(foreign, name, fields, contract if f"observations.{name}.channel" in supplied else None)
    _refuse_unknown(contract, supplied, terms)
    wanted = [
        *REQUIRED,
        *(f"observations.{name}.{key}" for name in terms for key in _wanted(name, fields)),
    ]
    lacking = [name for name in wanted if fields.get(name) is None] + ([] if terms else ["observations"])
    if lacking:
        cure = f"add them to {contract}" if contract else "write them to a JSON file, contract=<file>"
        said = ", ".join(f"{name}{_meanings(name)}" for name in lacking)
        raise UserError(f"{foreign.path} ({foreign.dialect}) does not say {said}: {cure}")
    count = len(_names(foreign.path, fields["action.names"]))
    owners = dict.fromkeys(fields, foreign.path) | dict.fromkeys(supplied, contract or foreign.path)
    sizes = {f"observations.{name}.scale": _size(name, fields, owners, count) for name in terms}
    shaped = {
        name: _shape(owners[name], name, value, sizes.get(name, count)) for name, value in fields.items()
    }
    for name in sorted(set(supplied) & set(foreign.fields)):
        said = _shape(foreign.path, name, foreign.fields[name], sizes.get(name, count))
        if not _agree(said, shaped[name], foreign):
            what = f"{foreign.path} says {said!s:.60}, {contract} says {shaped[name]!s:.60}"
            raise UserError(f"{name}: {what}; only digits can be added to what an export says")
    _check_values(shaped, owners)
    _check_places(shaped, owners)
    return shaped, [_reads(name, shaped, sizes[f"observations.{name}.scale"]) for name in terms]


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _terms(supplied: Fields) -> tuple[str, ...]:
    """Return the terms that a contract describes, in its order."""
    rows = (key.split(".") for key in supplied)
    return tuple(dict.fromkeys(row[1] for row in rows if row[0] == "observations" and len(row) == 3))


def _refuse_unknown(contract: Path | None, supplied: Fields, terms: Sequence[str]) -> None:
    known = [*REQUIRED, *OPTIONAL, *(f"observations.{name}.{key}" for name in terms for key in TERM)]
    for key in supplied:
        if key not in known:
            near = registry.did_you_mean(key, known)
            raise UserError(f"{contract}: a contract has no field {key!r}.{near} Known: {', '.join(known)}")


def _check_term(foreign: Foreign, name: str, fields: Fields, contract: Path | None) -> None:
    """Refuse a term that is made of nothing that this runtime has; `contract` where it says the channel."""
    said, known = fields.get(f"observations.{name}.channel"), (*CHANNELS, RELATIVE, LAST_ACTION)
    channel = _CHANNELS.get(name) if said is None else said
    if fields.get(f"observations.{name}.values") is not None:
        if _COMMAND not in name:
            raise UserError(
                f"observations.{name}.values: only a command can be held constant, no measurement"
            )
    elif said is not None and said not in known:
        where = f"{contract or foreign.path}: observations.{name}.channel is {said!r:.60}, which this runtime"
        near = registry.did_you_mean(str(said), known)
        raise UserError(f"{where} has not.{near} Known: {', '.join(known)}")
    elif channel not in known and not (channel is None and (_COMMAND in name or name in _UNTOLD)):
        have = f"{', '.join(CHANNELS)}, {RELATIVE} and the last {LAST_ACTION}"
        what = f"{foreign.path} observes {name!r}, which this runtime has not; it has {have}"
        raise UserError(f"{what} (observations.{name}.channel says if it is one of them under another name)")


def _wanted(name: str, fields: Fields) -> tuple[str, ...]:
    """Return which fields of a term must be there."""
    if name in _UNTOLD:
        return ("channel", "scale")
    is_known = name in _CHANNELS or f"observations.{name}.channel" in fields
    return ("scale",) if is_known else ("values",)


def _meanings(field: str) -> str:
    """Return what a lacking field may be, where its name does not say it."""
    *_, term, key = field.split(".") if field.startswith("observations.") else ("", "")
    return f" ({_UNTOLD[term]})" if key == "channel" and term in _UNTOLD else ""


def _names(owner: Path, value: object) -> list[str]:
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(name, str) and name for name in value)
        or len(set(value)) != len(value)
        or not all(name.isprintable() for name in value)
    ):
        raise UserError(f"{owner}: action.names wants names of joints, each once, got {value!r:.60}")
    return value


def _check_values(fields: Fields, owners: dict[str, Path]) -> None:
    """Refuse values that nothing can have, by the file that says them and the joint."""
    for name, wrong in (("control_dt", wrong_period), ("latency_s", wrong_latency), ("task", wrong_task)):
        if fields.get(name) is not None and (why := wrong(fields[name])):
            seconds = "" if name == "task" else "; it is in seconds, not ms"
            raise UserError(f"{owners[name]}: {name} {why}{seconds}")
    for name, value in fields.items():
        if name == "action.names" or not isinstance(value, list):
            continue
        if wrong := [one for one in np.ravel(value).tolist() if not fits_float32(one)]:
            raise UserError(f"{owners[name]}: {name} wants numbers that float32 holds, got {wrong[0]:g}")
    dt = fields["control_dt"]
    _check_each(
        fields, owners, "action.velocity", lambda value: value > 0 and fits_float32(value * dt), "> 0"
    )
    _check_each(fields, owners, "action.acceleration", lambda value: value > 0, "> 0")
    for name in GAINS:
        if fields.get(f"robot.{name}") is None:
            continue
        if name in POSITIVE:
            _check_each(fields, owners, f"robot.{name}", lambda value: value > 0, "> 0")
        else:
            _check_each(fields, owners, f"robot.{name}", lambda value: value >= 0, ">= 0")
    if clip := fields.get("action.clip"):
        for joint, (low, high) in zip(fields["action.names"], clip, strict=True):
            if low > high:
                got = f"action.clip of {joint} is [{low:g}, {high:g}]"
                raise UserError(f"{owners['action.clip']}: {got}, wanted [low, high] with low <= high")


def _check_each(
    fields: Fields, owners: dict[str, Path], name: str, is_right: Callable[[float], bool], wanted: str
) -> None:
    for joint, value in zip(fields["action.names"], fields[name], strict=True):
        if not is_right(value):
            raise UserError(
                f"{owners[name]}: {name} of {joint} is {value:g}, wanted {wanted} for every joint"
            )


def _check_places(fields: Fields, owners: dict[str, Path]) -> None:
    """Refuse limits and start poses that are the wrong way round, and a ready pose outside of them."""
    home = "default_joint_pos" if fields.get("robot.home") is None else "robot.home"
    why, cure = "", f"change {home}"
    if home != "robot.home":
        why = f", which is the ready pose as no robot.home is said ({owners[home]} says it)"
        cure = "say another robot.home"
    for lower, upper, is_strict in (
        ("action.position_lower", "action.position_upper", True),
        (*START, False),
    ):
        rows = (fields[name] for name in ("action.names", lower, home, upper))
        for joint, low, at, high in zip(*rows, strict=True):
            if low > high or (is_strict and low == high):
                wanted = "wanted it below" if is_strict else "wanted it not above"
                raise UserError(f"{owners[lower]}: {lower} of {joint} is {low:g}, {wanted} {upper}, {high:g}")
            if not low <= at <= high:
                got = f"{lower} and {upper} of {joint} are {low:g} and {high:g}"
                raise UserError(
                    f"{owners[lower]}: {got}: outside is {home}, {at:g}{why}; widen them, or {cure}"
                )


def _size(name: str, fields: Fields, owners: dict[str, Path], count: int) -> int:
    """Return how many columns a term has: as many as the values it is held at, or as its channel."""
    held = f"observations.{name}.values"
    if fields.get(held) is not None:
        return len(_shape(owners[held], held, fields[held], count))
    return width(_channel(name, fields), count)


def _channel(name: str, fields: Fields) -> str:
    return fields.get(f"observations.{name}.channel") or _CHANNELS[name]


def _shape(owner: Path, name: str, value: Any, count: int) -> Any:  # noqa: ANN401  (of JSON)
    """Return a field's value, one number as `count` of them; UserError unless it is of its shape."""
    if name in ("action.names", "task") or name.endswith(".channel"):
        if isinstance(value, list if name == "action.names" else str):
            return value
        raise UserError(f"{owner}: {name} wants text, got {value!r:.60}")
    if name == "action.clip":
        if isinstance(value, list) and len(value) == count and all(_is_row(row, 2) for row in value):
            return value
        raise UserError(f"{owner}: {name} wants [low, high] for each of {count} joints, got {value!r:.60}")
    if name == "control_dt":
        if is_number(value):
            return float(value)
        raise UserError(f"{owner}: {name} wants a number of seconds, got {value!r:.60}")
    if name.endswith(".values"):
        if isinstance(value, list) and value and _is_row(value, len(value)):
            return value
        raise UserError(f"{owner}: {name} wants numbers, got {value!r:.60}")
    if value is None and name.startswith("robot."):
        return None
    if is_number(value) and name != "latency_s":
        return [float(value)] * count
    length = 2 if name == "latency_s" else count
    if not _is_row(value, length):
        raise UserError(f"{owner}: {name} wants {length} numbers, got {value!r:.60}")
    return [float(number) for number in value]


def _is_row(value: object, count: int) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == count and all(map(is_number, value))


def _agree(said: Any, told: Any, foreign: Foreign) -> bool:  # noqa: ANN401  (of JSON)
    """Whether what a person says is what the export says, rounded as its suite rounds."""
    if isinstance(said, list) and isinstance(told, list):
        return len(said) == len(told) and all(_agree(a, b, foreign) for a, b in zip(said, told, strict=True))
    if is_number(said) and is_number(told):
        return said in (told, foreign.rounds(told))
    return said == told


def _reads(name: str, fields: Fields, size: int) -> Reads:
    nothing = np.zeros((1, size), np.float32)
    values, said = (fields.get(f"observations.{name}.{key}") for key in ("values", "scale"))
    if values is not None:  # the command's own, in its own units: a scale is still to come
        row = np.asarray([np.multiply(values, 1.0 if said is None else said)], np.float32)
        return Reads(channel="", offset=nothing, scale=nothing, values=row)
    channel = _channel(name, fields)
    offset = np.asarray([fields["default_joint_pos"]], np.float32) if channel == RELATIVE else nothing
    scale = np.asarray([said], np.float32)
    channel = "joint_pos" if channel == RELATIVE else channel
    return Reads(channel=channel, offset=offset, scale=scale, values=nothing)
