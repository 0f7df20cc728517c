"""One line of a benchmark: what both sides cost, and the gate that says whether they did the same work."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured. Smaller numbers are for tests: what they say of speed is not worth much."""

    repeats: int = 5  # of each side, in turn; the median counts
    seed: int = 0
    worlds: int = 64  # frames in a call of ours; also how many different views the peers draw
    gpu_worlds: int = 4096  # frames in a call where a GPU draws
    num_envs: int = 256  # of ours where a step is measured; what one trains with
    compared: int = 6  # of those worlds, that the gates look at
    pixels: int = 64  # a side of the pictures
    solids: int = 48  # in the room, beside floor and walls
    slices: int = 512  # around and along a round shape where the gates compare with OpenGL's polyhedra
    burst_s: float = 0.25  # CPU seconds that a side has at a time, or one call
    control_steps: int = 10  # after which the gates compare the physics
    gradient_steps: int = 20  # of a student, in a call of ours
    race_rounds: int = 12  # that a student learns for, until it is held to the peer's
    is_cold: bool = True  # the first frame is measured without compiled kernels of an earlier one


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How far ours is from the peer in one respect; at most `limit` is allowed."""

    name: str
    value: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Whether both sides give the same; a row whose gate fails says nothing."""

    name: str
    measures: tuple[Measure, ...]

    @property
    def ok(self) -> bool:
        """Whether every measure is within its limit."""
        return all(one.value <= one.limit for one in self.measures)

    @property
    def value(self) -> float:
        """The worst of the measures, as a share of what is allowed."""
        return max((one.value / one.limit if one.limit else float(one.value > 0)) for one in self.measures)

    def to_dict(self) -> dict[str, Any]:
        """Return the gate, ready for JSON."""
        return {
            "name": self.name, "value": self.value, "ok": self.ok,
            "measures": [vars(one) for one in self.measures],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """What ours and the peer cost, in `unit`; less is better, and a ratio above 1 means that ours is."""

    name: str
    peer_name: str
    unit: str
    gate: Gate
    ours_all: tuple[float, ...]  # one for each repeat, in turn with peer_all
    peer_all: tuple[float, ...]
    bar: float | None = None  # the ratio that is wanted; missing it is no fault, machines differ

    @property
    def ours(self) -> float:
        """Median of ours."""
        return statistics.median(self.ours_all)

    @property
    def peer(self) -> float:
        """Median of the peer."""
        return statistics.median(self.peer_all)

    @property
    def ratio(self) -> float:
        """How many times cheaper ours is."""
        return self.peer / self.ours

    def to_dict(self) -> dict[str, Any]:
        """Return the row, ready for JSON."""
        turns = [peer / ours for ours, peer in zip(self.ours_all, self.peer_all, strict=True)]
        rates = {}
        if self.unit.startswith("us/"):
            what = self.unit.removeprefix("us/")
            rates = {f"ours_{what}s_per_s": 1e6 / self.ours, f"peer_{what}s_per_s": 1e6 / self.peer}
        return {
            "name": self.name, "ours": self.ours, "peer": self.peer, "peer_name": self.peer_name,
            "ratio": self.ratio, "unit": self.unit, "gate": self.gate.to_dict(), "bar": self.bar,
            "ratio_min": min(turns), "ratio_max": max(turns), "repeats": len(turns), **rates,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A row that cannot be measured here."""

    name: str
    why: str


def cpu_seconds(call: Callable[[], object], count: int) -> float:
    """Return the CPU seconds of one of `count` calls, of all threads of this process."""
    begin = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - begin) / count


def wall_seconds(call: Callable[[], object], count: int, wait: Callable[[], object] = lambda: None) -> float:
    """Return the wall seconds of one of `count` calls, for who has others work, whom he may `wait` for."""
    wait()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - begin) / count


def until_done(call: Callable[[], object], count: int) -> float:
    """Return the wall seconds of one of `count` calls, until a GPU has done them all."""
    import torch

    return wall_seconds(call, count, torch.cuda.synchronize if torch.cuda.is_available() else lambda: None)


def in_turn(
    ours: Callable[[], object],
    peer: Callable[[], object],
    effort: Effort,
    seconds: Callable[[Callable[[], object], int], float] = cpu_seconds,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the seconds of a call of each, (repeats,) twice; whatever slows the machine slows both."""
    sides = ours, peer
    counts = []
    for side in sides:
        side()  # compiles, and touches its memory for the first time
        counts.append(max(1, math.ceil(effort.burst_s / max(seconds(side, 1), 1e-9))))
    turns = [
        [seconds(side, count) for side, count in zip(sides, counts, strict=True)]
        for _ in range(effort.repeats)
    ]
    first, second = zip(*turns, strict=True)
    return first, second


def per(seconds: Sequence[float], count: int) -> tuple[float, ...]:
    """Return microseconds each of `count` things that take so many seconds together."""
    return tuple(1e6 * one / count for one in seconds)
