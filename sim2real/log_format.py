"""What a log's messages look like: topics, schemas that Foxglove knows, arrays and pictures bit for bit.

Foxglove wants a type for every property and takes no lists of lists, so arrays are flat lists of numbers.
What those do not say bit for bit (NaN, another type, another shape) stands in `exact`, beside them.
Times are nanoseconds on the monotonic clock.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

TICK, SENT, STATE, EPISODE, EVENT, CAMERA = "/tick", "/sent", "/state", "/episode", "/event", "/camera/"
ABOUT, END = "robokd", "robokd.end"  # metadata at the beginning, and at the end of a whole log
VERSION = "1"
CHUNK_BYTES = 64 * 1024  # that wait in memory before they are written: what a killed process loses at most
WARNING = 3  # of foxglove.Log
# (type, channels) of a picture -> Foxglove's word for it and the type of the bytes
ENCODINGS = {
    ("uint8", 1): ("mono8", "<u1"),
    ("uint8", 3): ("rgb8", "<u1"),
    ("int16", 1): ("16UC1", "<i2"),
    ("float16", 1): ("32FC1", "<f4"),  # Foxglove has no half floats; every one is a float
}
PIXELS = {encoding: (np.dtype(name), channels) for (name, channels), (encoding, _) in ENCODINGS.items()}
DTYPES = frozenset({
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32",
    "float64",
})  # fmt: skip
LATEST_NS = 2**63 - 1
Schema = dict[str, Any]
NUMBER, INTEGER, STRING = {"type": "number"}, {"type": "integer"}, {"type": "string"}
NUMBERS, STRINGS = {"type": "array", "items": NUMBER}, {"type": "array", "items": STRING}


def nanoseconds(seconds: float) -> int | None:
    """Return a time as a log has it; None for what is no time."""
    return round(seconds * 1e9) if math.isfinite(seconds) else None


def moment(seconds: float) -> int:
    """Return the time of a message: MCAP knows none before 0."""
    return min(max(nanoseconds(seconds) or 0, 0), LATEST_NS)


def seconds(time_ns: int | None) -> float:
    """Return what `nanoseconds` was given."""
    return math.nan if time_ns is None else time_ns / 1e9


class ActionHash:
    """SHA-256 over the float32 bytes of command and action of every tick, in order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, command: np.ndarray, action: np.ndarray) -> None:
        """Go on by one tick."""
        self._sha256.update(np.asarray(command, "<f4").tobytes() + np.asarray(action, "<f4").tobytes())

    def hex(self) -> str:
        """Return the hash up to here."""
        return self._sha256.hexdigest()


def objects(properties: Mapping[str, Schema], title: str = "") -> Schema:
    """Return the schema of an object."""
    return {"type": "object", "properties": dict(properties)} | ({"title": title} if title else {})


_TIME = objects({"sec": INTEGER, "nsec": INTEGER}, "time")
_EXACT = {
    "type": "array",
    "items": objects({"name": STRING, "dtype": STRING, "shape": NUMBERS, "data": STRING}),
}
_LEVELS = ("UNKNOWN", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL")
RAW_IMAGE = objects({
    "timestamp": _TIME, "frame_id": STRING, "width": INTEGER, "height": INTEGER, "encoding": STRING,
    "step": INTEGER, "data": {"type": "string", "contentEncoding": "base64"},
}, "foxglove.RawImage")  # fmt: skip
FOXGLOVE_LOG = objects({
    "timestamp": _TIME, "level": {"oneOf": [{"title": name, "const": i} for i, name in enumerate(_LEVELS)]},
    "message": STRING, "name": STRING, "file": STRING, "line": INTEGER,
}, "foxglove.Log")  # fmt: skip
SCHEMAS: dict[str, Schema] = {
    SENT: objects({
        "origin": INTEGER, "sequence": INTEGER, "rung": INTEGER, "commanded": NUMBERS, "sent": NUMBERS,
        "reasons": STRINGS, "exact": _EXACT,
    }, "robokd.Sent"),
    STATE: objects({
        **dict.fromkeys(("position", "velocity", "target"), NUMBERS),
        **dict.fromkeys(("sequence", "strangers"), INTEGER), "exact": _EXACT,
    }, "robokd.State"),
    EPISODE: objects({"number": INTEGER}, "robokd.Episode"),
    EVENT: FOXGLOVE_LOG,
}  # fmt: skip


def tick_schema(content: Mapping[str, Any]) -> Schema:
    """Return the schema of ticks like this one; the policy decides which channels and estimates there are."""
    named = {"captured_ns": INTEGER, "pictures": INTEGER, "channels": NUMBERS, "estimates": NUMBERS}
    return objects({
        "episode": INTEGER, "number": INTEGER, "inference_s": NUMBER,
        **dict.fromkeys(("anchor", "rate", "command", "action"), NUMBERS),
        **{name: objects({one: kind for one in content[name]}) for name, kind in named.items()},
        "exact": _EXACT,
    }, "robokd.Tick")  # fmt: skip


def to_json(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a message."""
    return json.dumps(content, allow_nan=False).encode()


def pack(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """Return (numbers to plot by name, what those do not say): `unpack` gives the arrays back bit for bit."""
    lists, exact = {}, []
    for name, array in arrays.items():
        is_finite = array.dtype.kind in "iub" or bool(np.isfinite(array).all())
        values = array.ravel().tolist()
        lists[name] = values if is_finite else [v if math.isfinite(v) else None for v in values]
        if not is_finite or array.dtype != np.float32 or array.ndim != 1:
            data = array.astype(array.dtype.newbyteorder("<")).tobytes()
            exact.append({
                "name": name, "dtype": array.dtype.name, "shape": list(array.shape),
                "data": base64.b64encode(data).decode(),
            })  # fmt: skip
    return lists, exact


def unpack(lists: Mapping[str, Any], exact: object) -> dict[str, np.ndarray]:
    """Return the arrays of `pack`; ValueError where something else stands."""
    found = {name: _floats(values, name) for name, values in lists.items()}
    wanted = {"name": str, "dtype": str, "shape": list, "data": str}
    for row in _list(exact, "exact"):
        name, dtype, shape, data = fields(row, wanted, "exact")
        if name not in lists or dtype not in DTYPES:
            raise ValueError(f"exact has {name!r} of type {dtype!r}")
        found[name] = _shaped(unbase64(data), np.dtype(dtype), shape, name)
    if empty := [name for name, array in found.items() if array is None]:
        raise ValueError(f"{empty[0]!r} has numbers that are none")
    return {name: array for name, array in found.items() if array is not None}


def _floats(values: object, name: str) -> np.ndarray | None:
    numbers = _list(values, name)
    if all(type(value) in (float, int) for value in numbers):
        array = np.array(numbers, np.float64)
        if not (np.abs(array) <= np.finfo(np.float32).max).all():
            return None  # of another type: `exact` has it
        return array.astype(np.float32)
    if any(value is not None and type(value) not in (float, int, bool) for value in numbers):
        raise ValueError(f"{name!r} wants numbers, got {numbers!r:.60}")
    return None


def _shaped(data: bytes, dtype: np.dtype[Any], shape: list[Any], name: str) -> np.ndarray:
    if len(shape) > 8 or not all(type(n) is int and 0 <= n <= len(data) for n in shape):
        raise ValueError(f"{name!r} has the shape {shape!r:.60}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name!r} of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def unbase64(text: str) -> bytes:
    """Return the bytes; ValueError for what is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"broken base64: {error}") from None


def picture_message(camera: str, captured_s: float, image: np.ndarray) -> dict[str, Any]:
    """Return a picture (C, H, W) as foxglove.RawImage."""
    key = image.dtype.name, image.shape[0]
    if key not in ENCODINGS:
        raise ValueError(f"camera {camera}: a log cannot hold {key[1]} channels of {key[0]}")
    encoding, dtype = ENCODINGS[key]
    rows = np.ascontiguousarray(image.transpose(1, 2, 0)).astype(dtype, copy=False)
    time_ns = moment(captured_s)
    content = {
        "timestamp": {"sec": time_ns // 10**9, "nsec": time_ns % 10**9}, "frame_id": camera,
        "width": image.shape[2], "height": image.shape[1], "encoding": encoding,
        "step": image.shape[2] * image.shape[0] * rows.itemsize,
        "data": base64.b64encode(rows.tobytes()).decode(),
    }  # fmt: skip
    if encoding == "32FC1" and rows.astype(np.float16).tobytes() != image.tobytes():
        content["half"] = base64.b64encode(image.tobytes()).decode()  # of NaN the conversion may change bits
    return content


def picture(content: object, camera: str) -> np.ndarray:
    """Return the picture (C, H, W) of a message; ValueError where it is none."""
    wanted = {
        "timestamp": dict, "frame_id": str, "width": int, "height": int, "encoding": str, "step": int,
        "data": str,
    }  # fmt: skip
    row = content if isinstance(content, dict) else {}
    _, name, width, height, encoding, step, data = fields(
        {key: value for key, value in row.items() if key != "half"}, wanted, CAMERA + camera
    )
    if name != camera or encoding not in PIXELS:
        raise ValueError(f"a picture of {camera} is of {name!r} in {encoding!r}")
    dtype, channels = PIXELS[encoding]
    wide = np.dtype(ENCODINGS[dtype.name, channels][1])
    if step != width * channels * wide.itemsize:
        raise ValueError(f"a picture of {camera}, {width} pixels wide, has rows of {step} bytes")
    rows = _shaped(unbase64(data), wide, [height, width, channels], camera)
    if "half" in row:
        if type(row["half"]) is not str or encoding != "32FC1":
            raise ValueError(f"a picture of {camera} has no half floats")
        rows = _shaped(unbase64(row["half"]), dtype, [height, width, channels], camera)
    return np.ascontiguousarray(rows.astype(dtype).transpose(2, 0, 1))


def fields(row: object, wanted: Mapping[str, type], where: str) -> list[Any]:
    """Return the values of exactly these fields; ValueError where there are others, or of other types."""
    if not isinstance(row, dict) or set(row) != set(wanted):
        raise ValueError(f"{where} wants exactly {', '.join(wanted)}, got {row!r:.80}")
    for name, kind in wanted.items():
        if type(row[name]) is not kind:
            raise ValueError(f"{where}.{name} wants {kind.__name__}, got {row[name]!r:.60}")
    return [row[name] for name in wanted]


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name!r} wants a list, got {value!r:.60}")
    return value
