"""Files that are whole or not there: atomic writes, checked reads."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robokd import UserError


def writable(path: str | Path) -> Path:
    """Return where a file is to be written; UserError now, not after the work, where there is no folder."""
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder")
    return path


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader, or a kill, finds the old content or the new, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_json(path: str | Path) -> dict[str, Any]:
    """Return a JSON object; UserError where the file is absent, truncated or something else."""
    text = read_bytes(Path(path))
    try:
        data = json.loads(text)
    except ValueError as error:  # of JSON or of UTF-8
        raise UserError(f"{path} is not JSON ({error}): it was cut or altered") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, wanted a JSON object")
    return data


def sha256_of(path: str | Path) -> str:
    """Return the hex SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    return path.read_bytes()


def to_json(data: Mapping[str, Any]) -> bytes:
    """Return data as readable JSON; numbers and arrays of numpy and torch are plain ones."""
    return json.dumps(data, indent=2, default=_plain_number).encode() + b"\n"


def free_bytes(folder: str | Path) -> int:
    """Return the free disk where a folder stands, or would."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain_number(value: object) -> object:
    """Return what a numpy or torch scalar or array holds."""
    if tolist := getattr(value, "tolist", None):
        return tolist()
    raise TypeError(f"{type(value).__name__} cannot stand in JSON")
