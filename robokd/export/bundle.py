"""The bundle: one file that carries a policy and everything a robot must know to run it. Numpy only.

Layout, little-endian: MAGIC (8 bytes), format version (uint32), length of the manifest (uint64), the manifest
(JSON, UTF-8), the members back to back, and the block that `signature.py` closes the file with. Reading runs
no code and fails closed.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robokd import UserError, keys
from robokd.export import manifest as manifests
from robokd.export import signature
from robokd.export.manifest import FIELDS, FORMAT, VERSION
from robokd.files import LARGEST, parse_json, write_atomic
from robokd.specs import ActionSpec, CameraSpec, ObsSpec

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["FIELDS", "MAGIC", "VERSION", "Bundle", "check_trust", "read_bundle", "write_bundle"]

MAGIC = b"\x89robokd\n"  # not text, and a transfer that alters line ends breaks it
_HEADER = struct.Struct("<8sIQ")
LARGEST_FILE = 1 << 31  # bytes: a graph has no more
_WRITTEN = ("format", "version", "members")  # the fields that write_bundle fills in


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle that has passed every check, in memory."""

    path: Path
    sha256: str  # of the whole file
    signer: str | None  # public key in hex, whose signature is right; None of an unsigned bundle
    trust: str  # "trusted" where the signer is among the keys that are trusted here, "untrusted", "unsigned"
    manifest: dict[str, Any]
    action: ActionSpec
    observations: dict[str, ObsSpec]
    cameras: dict[str, CameraSpec]
    _members: dict[str, bytes] = field(repr=False)

    @property
    def terms(self) -> frozenset[str]:
        """Names of what its policy reads besides pictures."""
        return frozenset(term.name for spec in self.observations.values() for term in spec.terms)

    def member(self, name: str) -> bytes:
        """Return the content of a member."""
        if name not in self._members:
            raise UserError(f"{self.path} has no member {name!r}. It has: {', '.join(self._members)}")
        return self._members[name]


def write_bundle(
    path: str | Path,
    manifest: dict[str, Any],
    members: dict[str, bytes],
    key: Ed25519PrivateKey | None = None,
) -> str:
    """Write a bundle atomically, signed where there is a key, and return the SHA-256 of the file.

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
    path = Path(path)
    try:
        text = json.dumps(whole, allow_nan=False).encode()
    except ValueError as error:
        raise UserError(f"{path}: its manifest cannot be JSON: {error}") from None
    body = b"".join((_HEADER.pack(MAGIC, VERSION, len(text)), text, *members.values()))
    data = signature.close(body, key)
    _parse(path, data)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def read_bundle(path: str | Path, sha256: str = "") -> Bundle:
    """Return the bundle at `path`; UserError, saying what is wrong, unless it is whole and valid.

    With `sha256` it must be that very file. Whether a signer is trusted is told, not judged: `check_trust`.
    """
    path = Path(path)
    try:
        if not path.is_file() and path.exists():
            raise UserError(f"bundle {path} is not a file")
        if path.exists() and path.stat().st_size > LARGEST_FILE:
            raise UserError(f"bundle {path} has {path.stat().st_size} bytes; at most {LARGEST_FILE} are read")
        data = path.read_bytes()
    except OSError as error:
        near = ", ".join(sorted(file.name for file in path.parent.glob("*.robokd"))) or "none"
        raise UserError(f"bundle {path}: {error.strerror}. Bundles in {path.parent}: {near}") from None
    if sha256 and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise UserError(f"bundle {path} has sha256 {found}, wanted {sha256}: it is another file")
    return _parse(path, data)


def check_trust(bundle: Bundle, is_hardware: bool) -> str:
    """Return a warning about who signed, empty where they are trusted; on hardware it is a UserError."""
    if bundle.trust == "trusted":
        return ""
    if bundle.signer is None:
        what = f"{bundle.path} is not signed: nobody answers for what it does"
        cure = (
            "who exports it makes a key (`robokd keys new`) and exports it again, "
            "and here `robokd keys trust file=<name>.pub`"
        )
    else:
        what = f"{bundle.path} is signed by a key that is not trusted here, {bundle.signer}"
        cure = "`robokd keys trust file=<name>.pub`, with the file that the signer gave you"
    if is_hardware:
        raise UserError(f"{what}. To let it move hardware: {cure}")
    return f"{what}; hardware would refuse it. To cure it: {cure}"


def _parse(path: Path, data: bytes) -> Bundle:
    text, body, signer = _split(path, data)
    manifest = _load_manifest(path, text)
    members = _cut_members(path, manifest.get("members"), body)
    contract = manifests.check(path, manifest, members)
    return Bundle(
        path=path, sha256=hashlib.sha256(data).hexdigest(), signer=signer,
        trust=("trusted" if signer in keys.trusted() else "untrusted") if signer else "unsigned",
        manifest=manifest, action=contract.action, observations=contract.observations,
        cameras=contract.cameras, _members=members,
    )  # fmt: skip


def _split(path: Path, data: bytes) -> tuple[bytes, bytes, str | None]:
    """Return (manifest text, members, signer) after checking frame, hash and signature."""
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise UserError(f"{path} is not a bundle: it does not begin with {MAGIC!r}")
    if len(data) < _HEADER.size + signature.BLOCK.size:
        raise UserError(f"{path} is truncated: {len(data)} bytes, the shortest bundle is longer")
    _, version, length = _HEADER.unpack_from(data)
    if version != VERSION:
        cure = "" if version > VERSION else "; export it again"
        raise UserError(f"{path} has bundle version {version}; this robokd reads version {VERSION}{cure}")
    room = len(data) - _HEADER.size - signature.BLOCK.size
    if length > room:
        raise UserError(f"{path} is truncated: its manifest has {length} bytes, {room} are there")
    signer = signature.check(path, data)
    end = _HEADER.size + length
    return data[_HEADER.size : end], data[end : -signature.BLOCK.size], signer


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

    def whole(number: str) -> int:
        if len(number) > 17 or abs(value := int(number)) > LARGEST:
            raise ValueError(f"{number:.40} is not a whole number up to 2^53")
        return value

    try:
        manifest = parse_json(
            text,
            json.JSONDecoder(
                object_pairs_hook=unique, parse_float=finite, parse_constant=finite, parse_int=whole
            ),
        )
    except ValueError as error:
        raise UserError(f"{path}: its manifest is not valid JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: its manifest is a {type(manifest).__name__}; wanted fields")
    return manifest


def _cut_members(path: Path, rows: object, body: bytes) -> dict[str, bytes]:
    """Return {name: content}; members follow each other without gap or overlap and fill the body."""
    if not isinstance(rows, list):
        raise UserError(f"{path}: manifest field 'members' wants a list, got {rows!r:.60}")
    members: dict[str, bytes] = {}
    end = 0
    for index, row in enumerate(rows):
        wanted = {"name": str, "offset": int, "bytes": int, "sha256": str}
        if not isinstance(row, dict) or set(row) != set(wanted):
            raise UserError(f"{path}: manifest field 'members[{index}]' wants exactly {', '.join(wanted)}")
        if bad := [key for key, kind in wanted.items() if type(row[key]) is not kind]:
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
