"""Bytes of DDS messages: XCDR1 (CDR version 1, final types) after its header of four bytes. Numpy only.

A message is described by data (`Message`) and held as a dict with exactly its fields: numbers, text, dicts,
numpy arrays of numbers, lists of the rest. A field too many or too few is an error, never a default.
Source: OMG DDS-XTypes 1.3, 7.4.1; ROS 2 sends exactly this.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

LITTLE, BIG = b"\0\1\0\0", b"\0\0\0\0"  # encapsulation: plain CDR of this byte order, no options
HEADER_BYTES = 4
# name of a number in IDL -> its numpy type, little-endian
NUMBERS = {
    "uint8": "<u1", "int8": "<i1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4",
    "float32": "<f4", "float64": "<f8", "bool": "<b1",
}  # fmt: skip
TEXT = "string"


@dataclass(frozen=True)
class Sequence:
    """As many as the message says."""

    of: Kind


@dataclass(frozen=True)
class Array:
    """Always so many."""

    of: Kind
    count: int


@dataclass(frozen=True, eq=False)
class Message:
    """A type of message: `name` as ROS writes it (package/msg/Type), its fields in order."""

    name: str
    fields: Mapping[str, Kind]

    @property
    def dds_name(self) -> str:
        """Its name on the wire, as cyclonedds is given it; a dot stands for ::."""
        package, _, kind = self.name.split("/")
        return f"{package}.msg.dds_.{kind}_"


Kind = str | Sequence | Array | Message  # a string: one of NUMBERS, or TEXT
Content = dict[str, Any]  # of a message, by field; see the top


def encode(message: Message, content: Content) -> bytes:
    """Return the bytes of a message; ValueError where a field is missing, unknown or of a wrong length."""
    writer = _Writer()
    writer.put(message, content, message.name)
    body = writer.data
    return LITTLE + bytes(body) + b"\0" * (-len(body) % 4)


def decode(message: Message, data: bytes) -> Content:
    """Return what the bytes say; ValueError where they are no such message, whole and with nothing after it.

    Arrays of numbers are read-only views of `data`.
    """
    order = {LITTLE[:2]: "<", BIG[:2]: ">"}.get(data[:2])
    if order is None or len(data) < HEADER_BYTES:
        raise ValueError(
            f"{message.name}: not plain CDR, it begins with {data[:HEADER_BYTES].hex() or 'nothing'}"
        )
    reader = _Reader(memoryview(data).toreadonly()[HEADER_BYTES:], order)
    content = reader.get(message, message.name)
    if (rest := len(reader.data) - reader.at) > 7:  # writers round up to 4 or 8
        raise ValueError(f"{message.name}: {rest} bytes follow it")
    return content


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, kind: Kind, value: Any, where: str) -> None:  # noqa: ANN401 - whatever the kind says
        if isinstance(kind, Message):
            if set(value) != set(kind.fields):
                odd = ", ".join(sorted(set(value) ^ set(kind.fields)))
                raise ValueError(f"{where} has exactly {', '.join(kind.fields) or 'nothing'}; wrong: {odd}")
            for name, one in kind.fields.items():
                self.put(one, value[name], f"{where}.{name}")
        elif kind == TEXT:
            raw = value.encode() + b"\0"
            self.align(4)
            self.data += struct.pack("<I", len(raw)) + raw
        elif isinstance(kind, str):
            numbers = np.asarray([value], NUMBERS[kind])
            self.align(numbers.itemsize)
            self.data += numbers.tobytes()
        else:
            self.put_many(kind, value, where)

    def put_many(self, kind: Sequence | Array, value: Any, where: str) -> None:  # noqa: ANN401
        if isinstance(kind, Array) and len(value) != kind.count:
            raise ValueError(f"{where} wants {kind.count} values, got {len(value)}")
        if isinstance(kind, Sequence):
            self.align(4)
            self.data += struct.pack("<I", len(value))
        if isinstance(kind.of, str) and kind.of != TEXT:
            numbers = np.ascontiguousarray(value, NUMBERS[kind.of])
            if numbers.ndim != 1:
                raise ValueError(f"{where} wants a row of numbers, got shape {numbers.shape}")
            if numbers.size:
                self.align(numbers.itemsize)
                self.data += numbers.tobytes()
            return
        for one in value:
            self.put(kind.of, one, where)

    def align(self, size: int) -> None:
        self.data += b"\0" * (-len(self.data) % size)


class _Reader:
    def __init__(self, data: memoryview, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def get(self, kind: Kind, where: str) -> Any:  # noqa: ANN401 - whatever the kind says
        if isinstance(kind, Message):
            return {name: self.get(one, f"{where}.{name}") for name, one in kind.fields.items()}
        if kind == TEXT:
            return self.text(where)
        if isinstance(kind, str):
            return self.numbers(kind, 1, where)[0].item()
        count = kind.count if isinstance(kind, Array) else self.length(where)
        if isinstance(kind.of, str) and kind.of != TEXT:
            return self.numbers(kind.of, count, where)
        # everything takes a byte at least: no message makes us count further than it is long
        if count > len(self.data) - self.at:
            raise ValueError(f"{where}: {count} of them cannot be in {len(self.data)} bytes")
        return [self.get(kind.of, where) for _ in range(count)]

    def length(self, where: str) -> int:
        return int(self.numbers("uint32", 1, where)[0])

    def text(self, where: str) -> str:
        raw = self.take(self.length(where), where)
        if not raw or raw[-1] or 0 in raw[:-1]:
            raise ValueError(f"{where}: a text without its end")
        try:
            return bytes(raw[:-1]).decode()
        except UnicodeDecodeError:
            raise ValueError(f"{where}: a text that is not UTF-8") from None

    def numbers(self, kind: str, count: int, where: str) -> np.ndarray:
        dtype = np.dtype(self.order + NUMBERS[kind][1:])
        if count:
            self.at += -self.at % dtype.itemsize
        return np.frombuffer(self.take(count * dtype.itemsize, where), dtype)

    def take(self, count: int, where: str) -> memoryview:
        if count > len(self.data) - self.at:
            raise ValueError(f"{where}: the message ends before it")
        self.at += count
        return self.data[self.at - count : self.at]
