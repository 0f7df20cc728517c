"""Files that are whole or not there: atomic writes, checked reads."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from robokd import UserError

DEEPEST = 32  # levels of what is read: far below what recursion over it can bear
LARGEST = 1 << 53  # of a whole number: beyond it a float skips some
LARGEST_YAML = 1 << 18  # bytes: a person writes no more, and PyYAML takes seconds for them
_TOO_DEEP = f"it is nested more than {DEEPEST} deep"


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
        data = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): it was cut or altered") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, wanted a JSON object")
    return data


def parse_json(text: bytes, decoder: json.JSONDecoder | None = None) -> Any:  # noqa: ANN401  (of JSON)
    """Return what UTF-8 JSON holds; ValueError unless it is that, at most DEEPEST levels deep.

    A `decoder` is stricter about keys and numbers than JSON is.
    """
    try:
        value = (decoder or json.JSONDecoder()).decode(text.decode())
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    _check_depth(value)
    return value


def is_number(value: object, kind: object = float) -> TypeGuard[float]:
    """Whether what was read is a finite number, with `kind` int a whole one; true and false are none."""
    if type(value) is int:
        return abs(value) <= LARGEST
    return kind is float and type(value) is float and math.isfinite(value)


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, of which bombs are made, and without keys that stand twice."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            alias = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"aliases (*{alias.anchor}) are not read; write it out", problem_mark=alias.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, also by a merge."""
        made = super().construct_mapping(node, deep)
        if len(made) == len(node.value):
            return made
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        at = next(at for at, key in enumerate(keys) if key in keys[:at])
        raise yaml.MarkedYAMLError(
            problem=f"the key {keys[at]!r} stands twice", problem_mark=node.value[at][0].start_mark
        )


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return a mapping of plain YAML, at most LARGEST_YAML bytes; UserError, with the line, unless it is one.

    No tag makes an object, no alias repeats one, no key stands twice, no nesting is deeper than DEEPEST.
    """
    text = read_bytes(Path(path), LARGEST_YAML)
    try:
        data = yaml.load(text, PlainLoader)  # a SafeLoader
        _check_depth(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        said = _TOO_DEEP if isinstance(error, RecursionError) else getattr(error, "problem", None) or error
        raise UserError(f"{where} is not plain YAML: {' '.join(str(said).split()):.200}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, wanted keys and values")
    return data


def sha256_of(path: str | Path) -> str:
    """Return the hex SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Return the content of a file, at most so many bytes; UserError where there is none, or more."""
    if not path.is_file():
        raise UserError(f"{path} is not a file" if path.exists() else f"{path} does not exist")
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise UserError(f"{path} has {size} bytes; at most {most} are read")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def refuse_others(path: Path) -> None:
    """Raise UserError where another user than us and root owns a file or folder, or can write to it."""
    try:
        about = path.stat()
    except OSError as error:
        what = "it is a link to nothing" if path.is_symlink() else error.strerror
        raise UserError(f"cannot read {path}: {what}; remove it, or put back what was there") from None
    if about.st_uid not in (0, os.geteuid()):
        cure = f"remove it, or `sudo chown {os.geteuid()} {path}` if you know what is in it"
        raise UserError(f"{path} belongs to another user, of id {about.st_uid}: {cure}")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path} can be written by others: look at what is in it, then `chmod go-w {path}`")


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


def _check_depth(value: object) -> None:
    """Raise ValueError for what is nested more than DEEPEST deep, and for text that cannot be written."""
    level, depth = [value], 0
    while level:
        if (depth := depth + 1) > DEEPEST:
            raise ValueError(_TOO_DEEP)
        below: list[object] = []
        for one in level:
            if isinstance(one, dict):
                below += [*one, *one.values()]
            elif isinstance(one, list):
                below += one
            elif isinstance(one, str):
                one.encode()  # a lone surrogate has no UTF-8
        level = below


def _plain_number(value: object) -> object:
    """Return what a numpy or torch scalar or array holds."""
    if tolist := getattr(value, "tolist", None):
        return tolist()
    raise TypeError(f"{type(value).__name__} cannot stand in JSON")
