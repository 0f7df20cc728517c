"""The simulated robot's control line and its pictures: a stream socket and fixed binary layouts, no code.

A message is a header (kind, bytes, sequence; little-endian) and its payload: JSON where it is rare, one
record of a structured dtype where it is frequent. Every call has a time limit, in seconds.
"""

from __future__ import annotations

import enum
import json
import socket
import time
from typing import Any

import numpy as np

from robokd.specs import CameraSpec

HEADER = np.dtype([("kind", "<u4"), ("bytes", "<u4"), ("sequence", "<u8")])
MAX_BYTES = 64 * 2**20  # of a payload; more is a broken header


class Say(enum.IntEnum):
    """What a message says. The deployment asks on the left, the robot answers on the right."""

    OPEN = 1  # JSON: what to build
    READY = 2  # empty
    BEGIN = 3  # sequence: the episode's number
    BEGUN = 4  # empty
    OVER = 5  # JSON: how the episode ended; unasked
    FRAME = 6  # frame_layout, sequence: the camera's place in the bundle; unasked
    STOP = 8  # empty
    REPORT = 9  # JSON: the robot's account
    FAILED = 10  # JSON: why the robot gave up
    LOG = 11  # JSON: where the robot is to write its account; no answer


SAYINGS = frozenset(Say)


def frame_layout(camera: CameraSpec) -> np.dtype[np.void]:
    """Return the layout of a FRAME: when it was taken, in s on the monotonic clock, and its pixels."""
    return np.dtype([
        ("captured_s", "<f8"), ("image", np.dtype(camera.dtype).newbyteorder("<"), camera.shape),
    ])  # fmt: skip


def message(kind: Say, sequence: int = 0, payload: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    return np.array((kind, len(payload), sequence), HEADER).tobytes() + payload


class Outbox:
    """Sends whole messages without ever waiting.

    One that has begun is finished, a newer one may replace what waits behind it.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)  # MSG_DONTWAIT alone would wait for the time limit of a socket that has one
        self.socket = end
        self._begun = b""
        self._waiting: dict[int, bytes] = {}

    def offer(self, place: int, data: bytes) -> None:
        """Send a message as soon as there is room, in place of an older one of this place."""
        self._waiting[place] = data
        self.pump()

    def pump(self) -> None:
        """Send what there is room for; a reader that is gone gets nothing."""
        while self._begun or self._waiting:
            self._begun = self._begun or self._waiting.pop(next(iter(self._waiting)))
            try:
                count = self.socket.send(self._begun, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self._begun, self._waiting = b"", {}
                return
            self._begun = self._begun[count:]


class Wire:
    """One end of the connection. ConnectionError when the other end is gone, TimeoutError when it is late."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, kind: Say, sequence: int = 0, payload: bytes = b"", *, timeout_s: float) -> None:
        """Send one message."""
        self.socket.settimeout(timeout_s)
        self.socket.sendall(message(kind, sequence, payload))

    def send_json(self, kind: Say, content: dict[str, Any], *, timeout_s: float) -> None:
        """Send one message of JSON."""
        self.send(kind, 0, json.dumps(content).encode(), timeout_s=timeout_s)

    def receive(self, timeout_s: float) -> tuple[Say, int, bytearray]:
        """Return (kind, sequence, payload) of the next message; the payload is the caller's."""
        deadline = time.monotonic() + timeout_s
        header = np.frombuffer(self._exactly(HEADER.itemsize, deadline), HEADER)[0]
        if header["bytes"] > MAX_BYTES or header["kind"] not in SAYINGS:
            raise ConnectionError(f"the connection is broken: a message began with {header}")
        payload = self._exactly(int(header["bytes"]), deadline)
        return Say(int(header["kind"])), int(header["sequence"]), payload

    def close(self) -> None:
        """Close this end; the other one notices."""
        self.socket.close()

    def _exactly(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            # a limit of 0 would mean not to wait at all and fail otherwise than by TimeoutError
            self.socket.settimeout(max(deadline - time.monotonic(), 1e-6))
            received = self.socket.recv_into(view)
            if received == 0:
                raise ConnectionError("the other end closed the connection")
            view = view[received:]
        return data
