"""Cameras held to what training saw: all of them before the robot moves, and every new picture after.

Times are s on time.monotonic().
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from robokd.sim2real.board import Board
from robokd.sim2real.loop import Watcher
from robokd.sim2real.monitor import Monitor
from robokd.sim2real.robot import Frame, Plant
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.senses import Reading
from robokd.sim2real.sight import Burst, Finding, check_all

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.export.sight import read_statistics

BURST_S = 1.0  # of pictures that are judged before the robot moves
POLL_S = 0.5e-3


class Lookout(Watcher):
    """Judges pictures: with `mismatch` "stop" what is unlike training stops the run, else it is counted."""

    def __init__(self, bundle: Bundle, mismatch: str, *, is_simulated: bool) -> None:
        statistics = bundle.manifest["statistics"]
        self._bundle, self._is_strict = bundle, mismatch == "stop"
        self._sights = {
            name: read_statistics(statistics[name], spec) for name, spec in bundle.cameras.items()
        }
        # No two pictures of a real sensor are the same, however clean those of training were. What is at the
        # other end of a wire may be simulated all the same: a person says so with mismatch=warn.
        self._flickers = None if is_simulated else True
        self._monitors = {
            name: Monitor(sight, flickers=self._flickers) for name, sight in self._sights.items()
        }
        self._seen: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._worst = dict.fromkeys(self._sights, 0.0)
        self.findings: list[Finding] = []

    def inspect(self, board: Board, plant: Plant | None) -> None:
        """Look at a second of pictures while the robot stands still; UserError where they are unlike."""
        if not self._sights:
            return
        if plant is not None:
            plant.begin(0)  # a simulated robot's cameras run while an episode does
        bursts = self._take(board)
        self.findings = check_all(bursts, self._bundle.cameras, self._bundle.manifest["optics"], self._sights)
        for finding in self.findings:
            if finding.is_fatal:
                raise UserError(str(finding))
            if self._is_strict:
                raise UserError(f"{finding}. To go on all the same: mismatch=warn")
            print(f"warning: {finding}", file=sys.stderr, flush=True)

    def begin(self) -> None:
        """Begin an episode."""
        self._seen.clear()
        for monitor in self._monitors.values():
            monitor.begin()

    def see(self, reading: Reading) -> None:
        """Judge the pictures that are new."""
        for name, monitor in self._monitors.items():
            if self._seen.get(name) == reading.numbers[name]:
                continue
            self._seen[name] = reading.numbers[name]
            self._worst[name] = max(self._worst[name], monitor.see(reading.channels[name]))
            if not monitor.began:
                continue
            self._counts[name] += 1
            unlike = f"shows what training never saw ({monitor.median:.2f})"
            what = "is frozen" if monitor.is_frozen else unlike
            if self._is_strict:
                raise SafetyStop("mismatch", f"camera {name} {what}; mismatch=warn would only count it")
            print(f"warning: camera {name} {what}", file=sys.stderr, flush=True)

    def report(self) -> dict[str, Any]:
        """Return what was found, ready for JSON; a distance above 1 is beyond the limit."""
        return {
            "findings": [str(one) for one in self.findings], "mismatches": dict(self._counts),
            "largest_distance": self._worst,
        }  # fmt: skip

    def _take(self, board: Board) -> dict[str, Burst]:
        """Return what every camera shows for a while."""
        found: dict[str, dict[int, Frame]] = {name: {} for name in self._sights}
        until = time.monotonic() + BURST_S
        while time.monotonic() < until:
            for name, frames in found.items():
                if (newest := board.read(name)) is not None:
                    frames[newest[1]] = newest[0]
            time.sleep(POLL_S)
        return {name: self._burst(name, list(frames.values())) for name, frames in found.items()}

    def _burst(self, name: str, frames: Sequence[Frame]) -> Burst:
        frames = frames[1:]  # the first was there before
        return Burst(
            frames=[frame.image for frame in frames], captured_s=[frame.captured_s for frame in frames],
            flickers=self._flickers or bool(self._sights[name].data["flickers"]),
        )  # fmt: skip
