"""The keys that sign bundles, and those that are trusted: `robokd keys new|trust|list`.

The store is $ROBOKD_KEYS, or ~/.config/robokd/keys: `<name>.key` (private, 0600), `<name>.pub` beside it, and
`trusted/<name>.pub`. A file is one line: what it is, and 32 bytes in hex.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from robokd import UserError, registry
from robokd.export.signature import is_weak
from robokd.files import refuse_others, sync_folder

PRIVATE, PUBLIC = "robokd-private-key", "robokd-public-key"
DEFAULT = "default"  # the key that signs where none is named
COMMANDS = {
    "new": ("name",),
    "trust": ("file", "name"),
    "list": (),
}
USAGE = """robokd keys new [name=default]              make a key that signs exports, and trust it here
robokd keys trust file=<name>.pub [name=…]  trust what the owner of this public key signs
robokd keys list                            the keys here, and those that are trusted"""
LETTERS = "letters, digits, _ and -, at most 64"  # that a name is made of
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_LONGEST_FILE = 4096  # bytes


def command(words: Sequence[str]) -> str:
    """Do what the words say and return what to print."""
    if not words or {"--help", "-h", "help"} & set(words):
        return USAGE
    if words[0] not in COMMANDS:
        raise UserError(registry.unknown("keys command", words[0], COMMANDS))
    given = _values(words[0], words[1:])
    if words[0] == "new":
        return new(given.get("name", DEFAULT))
    if words[0] == "list":
        return list_keys()
    if not given.get("file"):
        raise UserError("keys trust needs file=<name>.pub, the public key that the signer gave you")
    return trust(Path(given["file"]), given.get("name"))


def new(name: str) -> str:
    """Make a key and trust it here; return where it is."""
    file, trusted_file = _file(store(), name, ".key"), _file(store() / "trusted", name, ".pub")
    _made(trusted_file.parent)
    key = Ed25519PrivateKey.generate()
    public = _line(PUBLIC, key.public_key().public_bytes_raw())
    if trusted_file.exists() and not file.exists():
        raise UserError(f"{trusted_file} is another's key under this name; choose another name=")
    if not _create(file, _line(PRIVATE, key.private_bytes_raw()), 0o600):
        raise UserError(f"key {name!r} exists: {file}. Choose another name=, it is not overwritten")
    _create(file.with_suffix(".pub"), public, 0o644)
    _create(trusted_file, public, 0o644)
    return (
        f"made {file} (private: it stays here)\n"
        f"give {file.with_suffix('.pub')} to those who run your bundles: robokd keys trust file={name}.pub"
    )


def trust(file: Path, name: str | None = None) -> str:
    """Trust the public key in a file, under its own name or another; return what to say of it."""
    public = _read(file, PUBLIC)
    if is_weak(public):
        raise UserError(f"{file} is a key that anybody can sign for; it is not trusted")
    if not name and not _NAME.fullmatch(file.stem):
        raise UserError(f"no key can be named {file.stem!r} ({LETTERS}): give it a name with name=…")
    target = _file(store() / "trusted", name or file.stem, ".pub")
    if known := trusted().get(public.hex()):
        unused = f"; name={name} was not used" if name and name != known else ""
        return f"{public.hex()} is trusted already, as {known!r}{unused}"
    _made(target.parent)
    if not _create(target, _line(PUBLIC, public), 0o644):
        raise UserError(f"{target} is another key; choose another name=, it is not overwritten")
    return f"what {public.hex()} signs is trusted now, as {target.stem!r}"


def list_keys() -> str:
    """Return the keys of the store, one a line."""
    own = {file.stem: _public(file).hex() for file in _files(store(), "*.key")}
    rows = [f"keys in {store()}:", *(f"  {name:16} {public}" for name, public in own.items())]
    rows += ["  none; `robokd keys new` makes one"] if not own else []
    known = trusted()
    rows += ["trusted:", *(f"  {name:16} {public}" for public, name in known.items())]
    return "\n".join(rows + (["  none"] if not known else []))


def trusted() -> dict[str, str]:
    """Return {public key in hex: name} of the keys whose bundles may run on hardware.

    UserError where others could have written that they are.
    """
    folder = store() / "trusted"
    files = _files(folder, "*.pub")
    for path in (folder.parent, folder, *files) if files else ():
        refuse_others(path)
    return {_read(file, PUBLIC).hex(): file.stem for file in files}


def signing_key(name: str = "") -> Ed25519PrivateKey | None:
    """Return a key of the store by name; empty: the one named DEFAULT, or None where there is no such key."""
    file = _file(store(), name or DEFAULT, ".key")
    if not file.is_file():
        if not name:
            return None
        known = [one.stem for one in _files(store(), "*.key")]
        cure = f"`robokd keys new name={name}` makes one"
        raise UserError(f"{registry.unknown('key', name, known)} in {store()}; {cure}")
    return Ed25519PrivateKey.from_private_bytes(_private(file))


def store() -> Path:
    """Return the folder of the keys, which need not exist."""
    if folder := os.environ.get("ROBOKD_KEYS"):
        return Path(folder)
    try:
        return Path.home() / ".config" / "robokd" / "keys"
    except RuntimeError:
        raise UserError("there is no home folder to keep keys in; set ROBOKD_KEYS to a folder") from None


def _values(name: str, words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"keys {name}: {word!r} is not key=value; `robokd keys --help` lists them")
        if key not in COMMANDS[name]:
            known = ", ".join(COMMANDS[name]) or "none"
            near = registry.did_you_mean(key, COMMANDS[name])
            raise UserError(f"keys {name} has no key {key!r}.{near} Keys: {known}")
        if key in given:
            raise UserError(f"keys {name}: {key} is given twice")
        given[key] = value
    return given


def _file(folder: Path, name: str, suffix: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UserError(f"name must be {LETTERS}, got {name!r}")
    return folder / f"{name}{suffix}"


def _files(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError as error:
        raise UserError(f"cannot read the keys in {folder}: {error.strerror}") from None


def _line(kind: str, content: bytes) -> bytes:
    return f"{kind} {content.hex()}\n".encode()


def _read(file: Path, kind: str) -> bytes:
    """Return the 32 bytes of a key file; UserError where it is something else."""
    try:
        with file.open("rb") as stream:
            words = stream.read(_LONGEST_FILE).decode("ascii", "replace").split()
    except OSError as error:
        near = ", ".join(str(one) for one in _files(file.parent, "*.pub")) or "none"
        raise UserError(f"key {file}: {error.strerror}. Public keys there: {near}") from None
    if words[:1] == [PRIVATE] and kind == PUBLIC:
        raise UserError(f"{file} is a private key: give the .pub beside it, and this file to nobody")
    if len(words) != 2 or words[0] != kind or not re.fullmatch(r"[0-9a-f]{64}", words[1]):
        raise UserError(f"{file} is not a key: wanted one line of {kind} and 64 hex digits")
    return bytes.fromhex(words[1])


def _private(file: Path) -> bytes:
    """Return a private key that nobody else can read."""
    with contextlib.suppress(OSError):  # `_read` says what is wrong
        if file.stat().st_mode & 0o077:
            raise UserError(f"{file} can be read by others: chmod 600 {file}, or make another key")
    return _read(file, PRIVATE)


def _public(file: Path) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(_private(file)).public_key().public_bytes_raw()


def _made(folder: Path) -> None:
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # a mode is of the last folder only
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; ROBOKD_KEYS names another folder") from None


def _create(path: Path, data: bytes, mode: int) -> bool:
    """Write a new file whole, with these rights from its first byte on; False where there is one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike a rename, never over what is there
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True
