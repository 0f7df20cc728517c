"""The bundle: one file that carries a policy and everything a robot must know to run it. Numpy only.

Layout, little-endian: MAGIC (8 bytes), format version (uint32), length of the manifest (uint64), the manifest
(JSON, UTF-8), the members back to back, SHA-256 of every byte before. Reading runs no code and fails closed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from robokd import UserError
from robokd.files import write_atomic
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Spec, differences, from_dict, to_dict

MAGIC = b"\x89robokd\n"  # not text, and a transfer that alters line ends breaks it
FORMAT = "robokd-bundle"
VERSION = 2
_HEADER = struct.Struct("<8sIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size
_WRITTEN = ("format", "version", "members")  # the fields that write_bundle fills in
FIELDS: dict[str, type] = {  # every field of a manifest, all required
    "format": str, "version": int, "task": str, "task_config": dict, "sim_config": dict,
    "renderer_config": dict, "corrupt_config": dict, "created": str, "robokd": str, "action": dict,
    "observations": dict, "cameras": dict, "control_dt": float, "graph": dict, "start": dict, "ages_s": dict,
    "lineage": list, "evaluation": dict, "parity_max_abs": float, "members": list,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that has passed every check, in memory."""

    path: Path
    sha256: str  # of the whole file
    manifest: dict[str, Any]
    action: ActionSpec
    observations: dict[str, ObsSpec]
    cameras: dict[str, CameraSpec]
    _members: dict[str, bytes] = field(repr=False)

    def member(self, name: str) -> bytes:
        """Return the content of a member."""
        if name not in self._members:
            raise UserError(f"{self.path} has no member {name!r}. It has: {', '.join(self._members)}")
        return self._members[name]


def write_bundle(path: str | Path, manifest: dict[str, Any], members: dict[str, bytes]) -> str:
    """Write a bundle atomically and return the SHA-256 of the file.

    `manifest` holds FIELDS but for the three written here: format, version and members. What `read_bundle`
    would refuse is refused before anything is written.
    """
    if taken := sorted(set(manifest) & set(_WRITTEN)):
        raise UserError(f"manifest field {taken[0]!r} is written by write_bundle; leave it out")
    rows, offset = [], 0
    for name, data in members.items():
        digest = hashlib.sha256(data).hexdigest()
        rows.append({"name": name, "offset": offset, "bytes": len(data), "sha256": digest})
        offset += len(data)
    whole = {"format": FORMAT, "version": VERSION, **manifest, "members": rows}
    text = json.dumps(whole, allow_nan=False).encode()
    body = b"".join((_HEADER.pack(MAGIC, VERSION, len(text)), text, *members.values()))
    data = body + hashlib.sha256(body).digest()
    path = Path(path)
    _parse(path, data)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_bundle(path: str | Path) -> Bundle:
    """Return the bundle at `path`; UserError, saying what is wrong, unless it is whole and valid."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        near = ", ".join(sorted(file.name for file in path.parent.glob("*.robokd"))) or "none"
        raise UserError(f"bundle {path}: {error.strerror}. Bundles in {path.parent}: {near}") from None
    return _parse(path, data)


def _parse(path: Path, data: bytes) -> Bundle:
    text, body = _split(path, data)
    manifest = _load_manifest(path, text)
    _check_fields(path, manifest)
    members = _cut_members(path, manifest["members"], body)
    action = _spec(path, ActionSpec, manifest["action"], "action")
    observations = {
        name: _spec(path, ObsSpec, row, f"observations.{name}")
        for name, row in manifest["observations"].items()
    }
    cameras = {
        name: _spec(path, CameraSpec, row, f"cameras.{name}") for name, row in manifest["cameras"].items()
    }
    bundle = Bundle(
        path=path, sha256=hashlib.sha256(data).hexdigest(), manifest=manifest, action=action,
        observations=observations, cameras=cameras, _members=members,
    )  # fmt: skip
    _check_contract(bundle)
    return bundle


def _split(path: Path, data: bytes) -> tuple[bytes, bytes]:
    """Return (manifest text, members) after checking frame and hash."""
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise UserError(f"{path} is not a bundle: it does not begin with {MAGIC!r}")
    if len(data) < _HEADER.size + _DIGEST_BYTES:
        raise UserError(f"{path} is truncated: {len(data)} bytes, the shortest bundle is longer")
    _, version, length = _HEADER.unpack_from(data)
    if version != VERSION:
        raise UserError(f"{path} has bundle version {version}; this robokd reads version {VERSION}")
    room = len(data) - _HEADER.size - _DIGEST_BYTES
    if length > room:
        raise UserError(f"{path} is truncated: its manifest has {length} bytes, {room} are there")
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise UserError(f"{path} is truncated or altered: its closing sha256 does not match its content")
    end = _HEADER.size + length
    return data[_HEADER.size : end], data[end:-_DIGEST_BYTES]


def _load_manifest(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        if len(row) != len(pairs):
            raise ValueError("a key stands twice")
        return row

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number} is not a finite number")
        return value

    try:
        manifest = json.loads(text, object_pairs_hook=unique, parse_float=finite, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its manifest is not valid JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: its manifest is a {type(manifest).__name__}; wanted fields")
    return manifest


def _check_fields(path: Path, manifest: dict[str, Any]) -> None:
    if missing := sorted(set(FIELDS) - set(manifest)):
        raise UserError(f"{path}: its manifest has no field {missing[0]!r}")
    if unknown := sorted(set(manifest) - set(FIELDS)):
        raise UserError(f"{path}: unknown manifest field {unknown[0]!r}. Known: {', '.join(FIELDS)}")
    for name, kind in FIELDS.items():
        if not _is_a(manifest[name], kind):
            got = f"{manifest[name]!r:.60}"
            raise UserError(f"{path}: manifest field {name!r} wants a {kind.__name__}, got {got}")
    for name, wanted in (("format", FORMAT), ("version", VERSION)):
        if manifest[name] != wanted:
            raise UserError(f"{path}: manifest field {name!r} is {manifest[name]!r}, wanted {wanted!r}")
    for group in ("observations", "cameras"):
        for name, row in manifest[group].items():
            if not isinstance(row, dict):
                raise UserError(f"{path}: manifest field '{group}.{name}' wants a dict, got {row!r:.60}")


def _is_a(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _cut_members(path: Path, rows: list[Any], body: bytes) -> dict[str, bytes]:
    """Return {name: content}; members follow each other without gap or overlap and fill the body."""
    members: dict[str, bytes] = {}
    end = 0
    for index, row in enumerate(rows):
        wanted = {"name": str, "offset": int, "bytes": int, "sha256": str}
        if not isinstance(row, dict) or set(row) != set(wanted):
            raise UserError(f"{path}: manifest field 'members[{index}]' wants exactly {', '.join(wanted)}")
        if bad := [key for key, kind in wanted.items() if not _is_a(row[key], kind)]:
            raise UserError(f"{path}: manifest field 'members[{index}].{bad[0]}' is {row[bad[0]]!r:.60}")
        name = row["name"]
        if name in members:
            raise UserError(f"{path}: two members are named {name!r}")
        if row["offset"] != end or row["bytes"] < 0:
            what = "overlaps the one before or leaves a gap"
            raise UserError(f"{path}: member {name!r} begins at {row['offset']}, wanted {end}: it {what}")
        end += row["bytes"]
        members[name] = body[row["offset"] : end]
        if end > len(body) or hashlib.sha256(members[name]).hexdigest() != row["sha256"]:
            raise UserError(f"{path}: member {name!r} is truncated or altered: its sha256 does not match")
    if end != len(body):
        raise UserError(f"{path}: {len(body) - end} bytes after the last member belong to none")
    return members


def _spec(path: Path, kind: type[Spec], row: dict[str, Any], where: str) -> Spec:
    try:
        spec = from_dict(kind, row)
        # a field left to its default would be a silent change of the contract
        rows = differences(row, to_dict(spec))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: manifest field {where!r}: {error}") from None
    if rows:
        name = f"{where}.{rows[0].split(':')[0]}"
        raise UserError(f"{path}: manifest field {name!r} is missing or of another type than its spec has")
    return spec


def _check_contract(bundle: Bundle) -> None:
    """Refuse a manifest whose parts do not agree with each other."""
    manifest, count = bundle.manifest, bundle.action.size
    if not (bundle.observations or bundle.cameras):
        _refuse(bundle, "observations", "is empty, as is 'cameras': the policy would see nothing")
    for name, spec in bundle.observations.items():
        if name != spec.group or spec.role not in ("proprio", "history"):
            why = f"is group {spec.group!r} of role {spec.role!r}: no robot has it"
            _refuse(bundle, f"observations.{name}", why)
    for name, camera in bundle.cameras.items():
        if name != camera.name:
            _refuse(bundle, f"cameras.{name}", f"describes camera {camera.name!r}")
    if manifest["control_dt"] != bundle.action.control_dt:
        why = f"is {manifest['control_dt']} s, action.control_dt is {bundle.action.control_dt} s"
        _refuse(bundle, "control_dt", why)
    for name in ("task_config", "sim_config", "renderer_config", "corrupt_config"):
        if not isinstance(manifest[name].get("part"), str):
            _refuse(bundle, f"{name}.part", "wants the name of a part")
    _check_numbers(bundle, "start", {"joint_pos_lower": count, "joint_pos_upper": count})
    _check_numbers(bundle, "ages_s", dict.fromkeys((*bundle.observations, *bundle.cameras), 0))
    if low := [name for name, age in manifest["ages_s"].items() if age <= 0]:
        _refuse(bundle, f"ages_s.{low[0]}", "must be > 0 s")
    _check_graph(bundle)


def _check_graph(bundle: Bundle) -> None:
    """Refuse a description of the graph that is not whole, or names members that are not there."""
    graph = bundle.manifest["graph"]
    if set(graph) != {"member", "samples", "inputs", "outputs"}:
        _refuse(bundle, "graph", "wants exactly member, samples, inputs, outputs")
    for role in ("member", "samples"):
        if not isinstance(graph[role], str) or graph[role] not in bundle._members:
            _refuse(bundle, f"graph.{role}", f"is {graph[role]!r}. Members: {', '.join(bundle._members)}")
    for side in ("inputs", "outputs"):
        if not isinstance(graph[side], dict):
            _refuse(bundle, f"graph.{side}", "wants {name: {shape, dtype}}")
        for name, row in graph[side].items():
            if not isinstance(row, dict) or set(row) != {"shape", "dtype"}:
                _refuse(bundle, f"graph.{side}.{name}", "wants exactly shape, dtype")


def _refuse(bundle: Bundle, name: str, why: str) -> NoReturn:
    raise UserError(f"{bundle.path}: manifest field {name!r} {why}")


def _check_numbers(bundle: Bundle, name: str, sizes: dict[str, int]) -> None:
    """Refuse a field that is not exactly these entries, each a number (size 0) or a list of so many."""
    row = bundle.manifest[name]
    if set(row) != set(sizes):
        raise UserError(f"{bundle.path}: manifest field {name!r} wants exactly {', '.join(sizes)}")
    for key, size in sizes.items():
        values = row[key] if size else [row[key]]
        if (
            not isinstance(values, list)
            or len(values) != max(size, 1)
            or not all(_is_a(v, float) for v in values)
        ):
            wanted = f"{size} numbers" if size else "a number"
            raise UserError(
                f"{bundle.path}: manifest field '{name}.{key}' wants {wanted}, got {row[key]!r:.60}"
            )
