"""The newest picture of every camera, in memory that the camera process writes and the policy process reads.

Each camera has two places, written in turn; a reader takes the newer one that checks. Nobody waits for
anybody: a reader that is stopped in the middle finds a newer picture, a writer that is stopped leaves the
last whole one, whose age tells.
"""

from __future__ import annotations

import mmap
import os
import zlib

import numpy as np
from robokd.sim2real.robot import Frame

from robokd.specs import CameraSpec

HEAD = np.dtype([("sequence", "<u8"), ("captured_s", "<f8"), ("crc", "<u4"), ("rest", "<u4")])
PLACES = 2
TRIES = 3  # both places can be torn for a reader that is stopped in the middle


class Board:
    """Pictures by camera in shared memory; one process may `write`."""

    def __init__(self, cameras: dict[str, CameraSpec], descriptor: int | None = None) -> None:
        """Make the memory, or open what another process made."""
        self._layouts = {
            name: np.dtype([("head", HEAD), ("image", np.dtype(spec.dtype).newbyteorder("<"), spec.shape)])
            for name, spec in cameras.items()
        }
        size = max(sum(PLACES * layout.itemsize for layout in self._layouts.values()), 1)
        self.descriptor = os.memfd_create("robokd-board") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, size)
        self._memory = mmap.mmap(self.descriptor, size)
        self._places: dict[str, np.ndarray] = {}
        offset = 0
        for name, layout in self._layouts.items():
            self._places[name] = np.frombuffer(self._memory, layout, PLACES, offset)
            offset += PLACES * layout.itemsize
        self._written = dict.fromkeys(cameras, 0)
        self._read: dict[str, tuple[Frame, int]] = {}  # what was read last

    def write(self, frame: Frame) -> None:
        """Put a picture in the place of the older one."""
        self._written[frame.camera] = sequence = self._written[frame.camera] + 1
        place = self._places[frame.camera][sequence % PLACES : sequence % PLACES + 1]
        place["head"]["crc"] = 0  # nobody reads what is being written
        place["head"]["sequence"] = 0
        place["image"][0] = frame.image
        place["head"]["captured_s"] = frame.captured_s
        head, image = _sealed(sequence, frame.captured_s), place["image"].tobytes()
        place["head"]["sequence"] = sequence
        place["head"]["crc"] = zlib.crc32(image, zlib.crc32(head))

    def read(self, camera: str) -> tuple[Frame, int] | None:
        """Return the newest picture, the reader's own copy, and its number; None where there is none yet.

        Never an older one than before: while a place is written only the other one may be whole.
        """
        for _ in range(TRIES):
            if (found := self._glance(camera)) is not None:
                last = self._read.get(camera)
                self._read[camera] = newest = found if last is None or found[1] > last[1] else last
                return newest
        return self._read.get(camera)

    def _glance(self, camera: str) -> tuple[Frame, int] | None:
        found = self._places[camera].copy()
        for row in sorted(found, key=lambda one: -int(one["head"]["sequence"])):
            sequence, captured_s = int(row["head"]["sequence"]), float(row["head"]["captured_s"])
            crc = zlib.crc32(row["image"].tobytes(), zlib.crc32(_sealed(sequence, captured_s)))
            if sequence and crc == int(row["head"]["crc"]):
                return Frame(camera=camera, captured_s=captured_s, image=row["image"]), sequence
        return None

    def close(self) -> None:
        """Let go of the memory."""
        self._places.clear()
        self._memory.close()
        os.close(self.descriptor)


def _sealed(sequence: int, captured_s: float) -> bytes:
    """Return what a picture's checksum covers besides its pixels."""
    return np.array((sequence, captured_s), "<u8,<f8").tobytes()
