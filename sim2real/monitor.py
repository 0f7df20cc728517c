"""Whether a camera still shows what it showed in training, picture by picture while the robot runs.

A camera is off from the picture on at which the running median of its distances over WINDOW pictures exceeds
1, until it is below BACK again; and while a sensor that is never still repeats one picture for longer than it
ever did in training.
"""

from __future__ import annotations

import zlib
from bisect import insort
from collections import deque

import numpy as np

from robokd.export.sight import WINDOW, Sight

BACK = 0.9  # of the limit: below it the camera is as in training again


class Monitor:
    """Judges one camera. `see` wants every new picture once; it is for one thread."""

    def __init__(self, sight: Sight, *, flickers: bool | None = None) -> None:
        """`flickers`: whether no two pictures of the live sensor are the same; None = as in training."""
        self._sight = sight
        self._flickers = bool(sight.data["flickers"]) if flickers is None else flickers
        self._longest_repeat = int(sight.data["longest_repeat"]) + WINDOW
        self.begin()

    def begin(self) -> None:
        """Begin an episode: nothing has been seen."""
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._digest, self._repeats = -1, 0
        self.median = 0.0  # of the distances in the window
        self.off_for = 0  # pictures in a row at which the camera was off, this one included
        self.began = self.ended = False  # at the last picture

    @property
    def is_off(self) -> bool:
        """Whether the last picture is one of a camera that does not show what it should."""
        return self.off_for > 0

    @property
    def is_frozen(self) -> bool:
        """Whether a picture is repeated that cannot be."""
        return self._flickers and self._repeats > self._longest_repeat

    def see(self, image: np.ndarray) -> float:
        """Take a picture (C, H, W) and return how far it is from training; above 1 is beyond the limit."""
        distance = float(self._sight.distances(image[None])[0])
        if len(self._recent) == WINDOW:
            self._sorted.remove(self._recent.popleft())
        self._recent.append(distance)
        insort(self._sorted, distance)
        self.median = self._sorted[len(self._sorted) // 2]
        digest = zlib.crc32(image.tobytes())
        self._repeats = self._repeats + 1 if digest == self._digest else 0
        self._digest = digest
        limit = BACK if self.off_for else 1.0
        is_unlike = len(self._recent) == WINDOW and self.median > limit
        is_off = is_unlike or self.is_frozen
        self.began, self.ended = is_off and not self.off_for, bool(self.off_for) and not is_off
        self.off_for = self.off_for + 1 if is_off else 0
        return distance
