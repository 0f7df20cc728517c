"""Who made a bundle: the block that closes the file, with an ed25519 signature or word that there is none.

Layout: kind (8 bytes), SHA-256 of every byte before the block, public key (32), signature (64). The signature
is of every byte of the file before it. The key in a block says who signed, never that they are to be trusted.
Source: RFC 8032 (ed25519).
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from robokd import UserError

UNSIGNED, SIGNED = b"unsigned", b"ed25519\0"
SIGNATURE_BYTES = 64
BLOCK = struct.Struct(f"<8s32s32s{SIGNATURE_BYTES}s")
# points of small order, without the sign of x, canonical or not: signatures by them need no private key
# (Source: the block list of libsodium, `ge25519_has_small_order`)
_WEAK = {
    bytes.fromhex(row)
    for row in (
        "00" * 32, "01" + "00" * 31, *(first + "ff" * 30 + "7f" for first in ("ec", "ed", "ee")),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
}  # fmt: skip
_NO_KEY, _NO_SIGNATURE = bytes(32), bytes(SIGNATURE_BYTES)


def close(body: bytes, key: Ed25519PrivateKey | None = None) -> bytes:
    """Return `body` with its closing block, signed where there is a key."""
    kind, public = (SIGNED, key.public_key().public_bytes_raw()) if key else (UNSIGNED, _NO_KEY)
    data = body + BLOCK.pack(kind, hashlib.sha256(body).digest(), public, b"")[:-SIGNATURE_BYTES]
    return data + (key.sign(data) if key else _NO_SIGNATURE)


def is_weak(public: bytes) -> bool:
    """Whether anybody can sign for this public key."""
    return public[:-1] + bytes([public[-1] & 0x7F]) in _WEAK


def check(path: Path, data: bytes) -> str | None:
    """Return the signer's public key in hex, None of an unsigned file; UserError where anything was altered.

    `data` is the whole file, longer than BLOCK.
    """
    kind, digest, public, signature = BLOCK.unpack(data[-BLOCK.size :])
    if kind not in (UNSIGNED, SIGNED):
        raise UserError(f"{path} is truncated or altered: its closing block begins with {kind!r}")
    if hashlib.sha256(data[: -BLOCK.size]).digest() != digest:
        raise UserError(f"{path} is truncated or altered: its closing sha256 does not match its content")
    if kind == UNSIGNED:
        if public != _NO_KEY or signature != _NO_SIGNATURE:
            raise UserError(f"{path} is altered: it says that it is unsigned and carries a signature")
        return None
    try:
        if is_weak(public):
            raise ValueError(public)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data[:-SIGNATURE_BYTES])
    except (InvalidSignature, ValueError):
        what = "its ed25519 signature does not match its content: it was altered, or never signed by that key"
        raise UserError(f"{path}: {what} ({public.hex()[:16]}…)") from None
    return public.hex()
