"""Messages between the simulated robot and its driver: a stream socket and fixed binary layouts, no code.

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
from robokd.sim2real.robot import JOINT_CHANNELS

from robokd.specs import ActionSpec, CameraSpec

HEADER = np.dtype([("kind", "<u4"), ("bytes", "<u4"), ("sequence", "<u8")])
MAX_BYTES = 64 * 2**20  # of a payload; more is a broken header


class Kind(enum.IntEnum):
    """What a message says. The driver asks on the left, the robot answers on the right."""

    OPEN = 1  # JSON: what to build
    READY = 2  # empty
    BEGIN = 3  # sequence: the episode's number
    BEGUN = 4  # empty
    READ = 5  # empty
    READING = 6  # reading_layout
    COMMAND = 7  # command_layout; no answer
    STOP = 8  # empty
    REPORT = 9  # JSON: the robot's account
    FAILED = 10  # JSON: why the robot gave up
    LOG = 11  # JSON: where the robot is to write its account; no answer


KINDS = frozenset(Kind)


def reading_layout(action: ActionSpec, cameras: dict[str, CameraSpec]) -> np.dtype[np.void]:
    """Return the layout of a READING: times in s on the monotonic clock, joints in rad and rad/s, images."""
    joints = [(name, "<f4", (action.size,)) for name in JOINT_CHANNELS]
    images = [
        field
        for name, camera in cameras.items()
        for field in ((f"{name}_s", "<f8"), (name, np.dtype(camera.dtype).newbyteorder("<"), camera.shape))
    ]
    return np.dtype([("is_done", "?"), ("is_success", "?"), ("joints_s", "<f8"), *joints, *images])


def command_layout(action: ActionSpec) -> np.dtype[np.void]:
    """Return the layout of a COMMAND: joint targets in rad."""
    return np.dtype([("target", "<f4", (action.size,))])


class Wire:
    """One end of the connection. ConnectionError when the other end is gone, TimeoutError when it is late."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, kind: Kind, sequence: int = 0, payload: bytes = b"", *, timeout_s: float) -> None:
        """Send one message."""
        header = np.array((kind, len(payload), sequence), HEADER)
        self.socket.settimeout(timeout_s)
        self.socket.sendall(header.tobytes() + payload)

    def send_json(self, kind: Kind, content: dict[str, Any], *, timeout_s: float) -> None:
        """Send one message of JSON."""
        self.send(kind, 0, json.dumps(content).encode(), timeout_s=timeout_s)

    def receive(self, timeout_s: float) -> tuple[Kind, int, bytearray]:
        """Return (kind, sequence, payload) of the next message; the payload is the caller's."""
        deadline = time.monotonic() + timeout_s
        header = np.frombuffer(self._exactly(HEADER.itemsize, deadline), HEADER)[0]
        if header["bytes"] > MAX_BYTES or header["kind"] not in KINDS:
            raise ConnectionError(f"the connection is broken: a message began with {header}")
        payload = self._exactly(int(header["bytes"]), deadline)
        return Kind(int(header["kind"])), int(header["sequence"]), payload

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
