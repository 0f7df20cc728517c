"""Datagrams between policy and guard, and between guard and simulated robot: fixed layouts, no code.

A packet is a header (magic, version, kind, sequence, time sent, CRC32 of all the rest) and one record of a
structured dtype, or JSON where it is rare; all little-endian. What does not check is dropped and counted: to
its receiver a broken packet is one that did not come. Times are s on time.monotonic(), shapes A joints.
"""

from __future__ import annotations

import enum
import json
import socket
import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from robokd.sim2real.robot import ImuReading, JointReading, Odometry, Order

MAGIC, VERSION = 0x6B626F72, 2
REASONS = ("position", "velocity", "acceleration", "jerk", "shadow")  # bits of SENT: why it is another
# what a JointReading tells beside the joints: its kind, and for each of its fields the packet's
TOLD: dict[str, tuple[type, dict[str, str]]] = {
    "imu": (ImuReading, {"captured_s": "imu_s", "gyro": "gyro", "gravity": "gravity"}),
    "order": (Order, {"captured_s": "order_s", "velocity": "order"}),
    "odometry": (Odometry, {"captured_s": "odometry_s", "velocity": "moving"}),
}
MOST_BYTES = 64 * 1024
MOST_AT_ONCE = 64
BACKLOG = 32  # times so many: more than a socket holds
HEADER = np.dtype([
    ("magic", "<u4"), ("version", "<u2"), ("kind", "<u2"), ("sequence", "<u8"), ("sent_s", "<f8"),
    ("crc", "<u4"),
])  # fmt: skip
CRC_AT = HEADER.fields["crc"][1] if HEADER.fields else 0


class Kind(enum.IntEnum):
    """What a packet says. The policy, or the guard as a driver, says what is on the left."""

    HANDOVER = 1  # token_layout: take the robot where it stands, and follow me
    COMMAND = 2  # command_layout
    RELEASE = 3  # token_layout: bring the robot to rest and wait
    STOP = 4  # JSON {kind, message}: bring the robot to rest, stop it and end
    HOME = 5  # home_layout: go slowly to these positions and wait there
    LOG = 6  # JSON {folder}: the run's, where the guard is to leave its account
    STATE = 16  # state_layout: how the robot is, and what the guard does
    SENT = 17  # sent_layout: what became of a command
    STOPPED = 18  # JSON {kind, message}: the guard has taken the robot away
    REPORT = 19  # JSON: the guard's account, its last packet
    READY = 20  # JSON: the robot is connected
    TARGET = 32  # target_layout: the guard's command to the simulated robot
    JOINTS = 33  # joints_layout: what the simulated robot measures


def layouts(size: int, joints: int | None = None) -> dict[Kind, np.dtype[np.void]]:
    """Return the layout of every kind that has one, for so many commands; rad, rad/s, s.

    `joints` are as many, or 0 of a body that has none.
    """
    commands, measured = ("<f4", (size,)), ("<f4", (size if joints is None else joints,))
    # a time of 0: the robot has no IMU, nobody tells it where to go, or it has no odometry
    told = [
        ("imu_s", "<f8"), ("gyro", "<f4", (3,)), ("gravity", "<f4", (3,)),
        ("order_s", "<f8"), ("order", "<f4", (3,)), ("odometry_s", "<f8"), ("moving", "<f4", (3,)),
    ]  # fmt: skip
    rows: dict[Kind, list[tuple[Any, ...]]] = {
        Kind.HANDOVER: [("token", "<u8")],
        Kind.RELEASE: [("token", "<u8")],
        Kind.HOME: [("token", "<u8"), ("position", *commands)],
        Kind.COMMAND: [("number", "<u8"), ("target", *commands)],
        Kind.STATE: [
            ("token", "<u8"), ("mode", "<u1"), ("captured_s", "<f8"), ("position", *measured),
            ("velocity", *measured), ("anchor", *commands), ("rate", *commands), ("origin", "<u8"),
            *told,
        ],
        Kind.SENT: [
            ("origin", "<u8"), ("sequence", "<u8"), ("stamp_s", "<f8"), ("commanded", *commands),
            ("sent", *commands), ("reasons", "<u4"), ("rung", "<u1"),
        ],
        Kind.TARGET: [
            ("stamp_s", "<f8"), ("step_s", "<f8"), ("sequence", "<u8"), ("origin", "<u8"), ("rung", "<u1"),
            ("target", *commands),
        ],
        Kind.JOINTS: [
            ("captured_s", "<f8"), ("position", *measured), ("velocity", *measured), ("target", *commands),
            ("sequence", "<u8"), ("strangers", "<u4"), *told,
        ],
    }  # fmt: skip
    return {kind: np.dtype(fields) for kind, fields in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Packet:
    """One packet that passed every check."""

    kind: Kind
    sequence: int  # of the sender, from 1
    sent_s: float
    row: Any  # a record of the kind's layout; a dict where the kind has none


def told_values(reading: JointReading) -> dict[str, Any]:
    """Return what a STATE or JOINTS says of all that is told beside the joints."""
    told = ((getattr(reading, name), fields) for name, (_, fields) in TOLD.items())
    return {
        field: getattr(one, name) for one, fields in told if one is not None for name, field in fields.items()
    }


def told_of(row: Any) -> dict[str, Any]:  # noqa: ANN401  (a record)
    """Return what `told_values` was given: imu, order and odometry, None where there is none."""
    return {name: _told(row, kind, fields) for name, (kind, fields) in TOLD.items()}


def _told(row: Any, kind: type, fields: dict[str, str]) -> Any:  # noqa: ANN401  (a record; of that kind)
    if not (captured_s := float(row[fields["captured_s"]])):
        return None
    return kind(**{name: row[field] for name, field in fields.items()} | {"captured_s": captured_s})


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection that keeps the bounds of packets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel:
    """One end of a connection. It never waits: what the other end has no room for is dropped and counted.

    `counts`: `corrupt` packets, those that came `twice` or out of `order`, those that are `lost` by the gaps
    in their numbers, and those that were `dropped` here for want of room.
    """

    def __init__(self, end: socket.socket, size: int, joints: int | None = None) -> None:
        """`size` and `joints` are those of `layouts`."""
        self.socket = end
        end.setblocking(False)
        self.layouts = layouts(size, joints)
        self.counts: Counter[str] = Counter()
        self.is_open = True
        self._sequence = self._heard = 0

    def fileno(self) -> int:
        """Return what select waits for."""
        return self.socket.fileno()

    def send(self, kind: Kind, /, **values: Any) -> bool:  # noqa: ANN401  (what the layout takes)
        """Send a record (JSON where the kind has no layout); return whether there was room for it."""
        if kind in self.layouts:
            row = np.zeros((), self.layouts[kind])
            for name, value in values.items():
                row[name] = value
            payload = row.tobytes()
        else:
            payload = json.dumps(values).encode()
        self._sequence += 1
        data = encode(kind, self._sequence, payload)
        if len(data) > MOST_BYTES:  # its receiver would drop it
            self.counts["dropped"] += 1
            return False
        return self.put(data)

    def put(self, data: bytes) -> bool:
        """Send bytes as they are; return whether there was room."""
        try:
            self.socket.send(data)
        except BlockingIOError:
            self.counts["dropped"] += 1
            return False
        except OSError:  # nobody listens, but what was said before may still be there to be heard
            self.is_open = self._has_more()
            return False
        return True

    def receive(self) -> list[Packet]:
        """Return what has come, in order, MOST_AT_ONCE at most; `is_open` tells whether more can come.

        What comes faster than it is read must not keep the reader from everything else.
        """
        packets = []
        for _ in range(MOST_AT_ONCE):
            if not self.is_open:
                break
            try:
                data = self.socket.recv(MOST_BYTES + 1)
            except BlockingIOError:
                break
            except ConnectionResetError:  # the other end went without reading all; what it said follows
                continue
            except OSError:
                data = b""
            if not data:
                self.is_open = False
                break
            packet = decode(data, self.layouts)
            if packet is None:
                self.counts["corrupt"] += 1
            elif self._is_next(packet.sequence):
                packets.append(packet)
        return packets

    def close(self) -> None:
        """Close this end; the other one notices."""
        self.is_open = False
        self.socket.close()

    def _has_more(self) -> bool:
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _is_next(self, sequence: int) -> bool:
        if sequence <= self._heard:
            self.counts["twice" if sequence == self._heard else "order"] += 1
            return False
        self.counts["lost"] += sequence - self._heard - 1
        self._heard = sequence
        return True


def encode(kind: Kind, sequence: int, payload: bytes, sent_s: float | None = None) -> bytes:
    """Return the bytes of a packet, sent now if not said otherwise."""
    moment = time.monotonic() if sent_s is None else sent_s
    header = np.array((MAGIC, VERSION, kind, sequence, moment, 0), HEADER).tobytes()
    crc = zlib.crc32(payload, zlib.crc32(header[:CRC_AT]))
    return header[:CRC_AT] + crc.to_bytes(4, "little") + payload


def decode(data: bytes, known: dict[Kind, np.dtype[np.void]]) -> Packet | None:
    """Return the packet that bytes hold; None for what was altered, cut or never one."""
    if not HEADER.itemsize <= len(data) <= MOST_BYTES:
        return None
    header = np.frombuffer(data, HEADER, 1)[0]
    payload = data[HEADER.itemsize :]
    if header["magic"] != MAGIC or header["version"] != VERSION or header["kind"] not in KINDS:
        return None
    if int(header["crc"]) != zlib.crc32(payload, zlib.crc32(data[:CRC_AT])):
        return None
    kind = Kind(int(header["kind"]))
    row: Any
    if kind in known:
        if len(payload) != known[kind].itemsize:
            return None
        row = np.frombuffer(payload, known[kind], 1)[0]
    else:
        try:
            row = json.loads(payload)
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict):
            return None
    return Packet(kind=kind, sequence=int(header["sequence"]), sent_s=float(header["sent_s"]), row=row)


KINDS = frozenset(Kind)
