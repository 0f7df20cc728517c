"""Unitree's low-level messages: C structs whose CRC is over the struct, though CDR is what is sent.

Held as one record of a numpy dtype with the layout of the C struct: `row["motor_cmd"]["q"][3] = …`, and a
field that does not exist cannot be written. CDR lays the same bytes out otherwise (a struct in it is not
aligned), so each is a gather of the other.
Source: unitree_sdk2_python (IDL files, utils/crc.py).
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from robokd.sim2real.cdr import HEADER_BYTES, LITTLE, NUMBERS, Array, Kind, Message

GO_MOTOR_COMMAND = Message(
    "unitree_go/msg/MotorCmd",
    {
        "mode": "uint8", "q": "float32", "dq": "float32", "tau": "float32", "kp": "float32", "kd": "float32",
        "reserve": Array("uint32", 3),
    },
)  # fmt: skip
GO_COMMAND = Message(
    "unitree_go/msg/LowCmd",
    {
        "head": Array("uint8", 2), "level_flag": "uint8", "frame_reserve": "uint8", "sn": Array("uint32", 2),
        "version": Array("uint32", 2), "bandwidth": "uint16", "motor_cmd": Array(GO_MOTOR_COMMAND, 20),
        "bms_cmd": Message("unitree_go/msg/BmsCmd", {"off": "uint8", "reserve": Array("uint8", 3)}),
        "wireless_remote": Array("uint8", 40), "led": Array("uint8", 12), "fan": Array("uint8", 2),
        "gpio": "uint8", "reserve": "uint32", "crc": "uint32",
    },
)  # fmt: skip
GO_MOTOR_STATE = Message(
    "unitree_go/msg/MotorState",
    {
        "mode": "uint8", "q": "float32", "dq": "float32", "ddq": "float32", "tau_est": "float32",
        "q_raw": "float32", "dq_raw": "float32", "ddq_raw": "float32", "temperature": "uint8",
        "lost": "uint32", "reserve": Array("uint32", 2),
    },
)  # fmt: skip
IMU = {
    "quaternion": Array("float32", 4), "gyroscope": Array("float32", 3), "accelerometer": Array("float32", 3),
    "rpy": Array("float32", 3),
}  # fmt: skip
GO_BATTERY = Message(
    "unitree_go/msg/BmsState",
    {
        "version_high": "uint8", "version_low": "uint8", "status": "uint8", "soc": "uint8",
        "current": "int32", "cycle": "uint16", "bq_ntc": Array("uint8", 2),
        "mcu_ntc": Array("uint8", 2), "cell_vol": Array("uint16", 15),
    },
)  # fmt: skip
GO_STATE = Message(
    "unitree_go/msg/LowState",
    {
        "head": Array("uint8", 2), "level_flag": "uint8", "frame_reserve": "uint8", "sn": Array("uint32", 2),
        "version": Array("uint32", 2), "bandwidth": "uint16",
        "imu_state": Message("unitree_go/msg/IMUState", {**IMU, "temperature": "uint8"}),
        "motor_state": Array(GO_MOTOR_STATE, 20), "bms_state": GO_BATTERY, "foot_force": Array("int16", 4),
        "foot_force_est": Array("int16", 4), "tick": "uint32", "wireless_remote": Array("uint8", 40),
        "bit_flag": "uint8", "adc_reel": "float32", "temperature_ntc1": "uint8", "temperature_ntc2": "uint8",
        "power_v": "float32", "power_a": "float32", "fan_frequency": Array("uint16", 4), "reserve": "uint32",
        "crc": "uint32",
    },
)  # fmt: skip
HG_MOTOR_COMMAND = Message("unitree_hg/msg/MotorCmd", {**GO_MOTOR_COMMAND.fields, "reserve": "uint32"})
HG_COMMAND = Message(
    "unitree_hg/msg/LowCmd",
    {
        "mode_pr": "uint8", "mode_machine": "uint8", "motor_cmd": Array(HG_MOTOR_COMMAND, 35),
        "reserve": Array("uint32", 4), "crc": "uint32",
    },
)  # fmt: skip
HG_MOTOR_STATE = Message(
    "unitree_hg/msg/MotorState",
    {
        "mode": "uint8", "q": "float32", "dq": "float32", "ddq": "float32", "tau_est": "float32",
        "temperature": Array("int16", 2), "vol": "float32", "sensor": Array("uint32", 2),
        "motorstate": "uint32", "reserve": Array("uint32", 4),
    },
)  # fmt: skip
HG_STATE = Message(
    "unitree_hg/msg/LowState",
    {
        "version": Array("uint32", 2), "mode_pr": "uint8", "mode_machine": "uint8", "tick": "uint32",
        "imu_state": Message("unitree_hg/msg/IMUState", {**IMU, "temperature": "int16"}),
        "motor_state": Array(HG_MOTOR_STATE, 35), "wireless_remote": Array("uint8", 40),
        "reserve": Array("uint32", 4), "crc": "uint32",
    },
)  # fmt: skip
SPOKEN = (GO_COMMAND, GO_STATE, HG_COMMAND, HG_STATE)

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Family:
    """One of Unitree's two families of robots."""

    command: Message
    state: Message
    motors: int


FAMILIES = {"go": Family(GO_COMMAND, GO_STATE, 20), "hg": Family(HG_COMMAND, HG_STATE, 35)}


@functools.cache
def struct_of(kind: Kind) -> np.dtype:
    """Return the layout of the C struct, little-endian."""
    if isinstance(kind, Message):
        return np.dtype([(name, struct_of(one)) for name, one in kind.fields.items()], align=True)
    if isinstance(kind, Array):
        return np.dtype((struct_of(kind.of), (kind.count,)))
    assert isinstance(kind, str), f"{kind} has no fixed size"
    return np.dtype(NUMBERS[kind])


def empty(message: Message) -> np.ndarray:
    """Return a record, (), of zeros."""
    return np.zeros((), struct_of(message))


def crc(row: np.ndarray) -> int:
    """Return the CRC of a record but for its last word, which is to hold it.

    CRC-32 with polynomial 0x04c11db7, start 0xffffffff, highest bit first, over 32-bit words. zlib's takes
    the lowest bit first: bytes are mirrored on the way in, and the sum on the way out.
    """
    words = np.frombuffer(row.tobytes(), "<u4")[:-1]
    mirrored = zlib.crc32(words.byteswap().tobytes().translate(_MIRRORED)) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def encode(message: Message, row: np.ndarray) -> bytes:
    """Write the CRC into a record and return its bytes on the wire."""
    row["crc"] = crc(row)
    return LITTLE + np.append(np.frombuffer(row.tobytes(), np.uint8), np.uint8(0))[_gather(message)].tobytes()


def decode(message: Message, data: bytes) -> np.ndarray:
    """Return the record that the bytes are; ValueError where they are none, or its CRC is wrong."""
    gather = _gather(message)
    if data[:2] != LITTLE[:2] or not 0 <= len(data) - HEADER_BYTES - len(gather) <= 4:
        raise ValueError(f"{len(data)} bytes that begin with {data[:4].hex()} are no {message.name}")
    raw = np.zeros(struct_of(message).itemsize + 1, np.uint8)
    raw[gather] = np.frombuffer(data, np.uint8)[HEADER_BYTES : HEADER_BYTES + len(gather)]
    # a view: numpy does not say what padding is in a copy, and the CRC is over padding too
    row = raw[:-1].view(struct_of(message)).reshape(())
    if row["crc"] != (due := crc(row)):
        raise ValueError(f"{message.name}: its CRC is {int(row['crc']):#010x}, its content has {due:#010x}")
    return row


@functools.cache
def _gather(message: Message) -> np.ndarray:
    """Return where each byte of the CDR body is in the C struct; padding is the byte after the struct."""
    dtype = struct_of(message)
    found: list[int] = []
    _walk(message, 0, found, dtype.itemsize)
    return np.array(found, np.intp)


def _walk(kind: Kind, offset: int, found: list[int], nothing: int) -> None:
    """Append the bytes of a part that is at `offset` of the C struct."""
    dtype = struct_of(kind)
    if isinstance(kind, Message):
        places: Any = dtype.fields
        for name, one in kind.fields.items():
            _walk(one, offset + places[name][1], found, nothing)
    elif isinstance(kind, Array):
        for i in range(kind.count):
            _walk(kind.of, offset + i * dtype.base.itemsize, found, nothing)
    else:
        found += [nothing] * (-len(found) % dtype.itemsize)
        found += range(offset, offset + dtype.itemsize)
