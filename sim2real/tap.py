"""A line between policy and guard that breaks what passes through it, as a plan says, and notes what it did.

    python -m robokd.sim2real.tap <descriptor of the policy's end> <of the guard's> <plan.json> <notes.jsonl>

Only commands are touched. A note is {kind, number, moment_s}: of the fault, of the command hit, and when.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from robokd.sim2real.packets import HEADER, MOST_BYTES, Kind, decode, encode, layouts

KINDS = ("drop", "delay", "duplicate", "reorder", "freeze", "nan", "clock_jump", "bit_flip")
NOTHING = "pass"  # what is "hit" is noted and goes through as it is
Sending = tuple[float, bytes]  # when, what


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """What is done to commands."""

    kind: str  # one of KINDS, or NOTHING
    count: int  # of faults, at most
    first: int = 20  # number of the command that is hit first
    every: int = 4  # commands from one fault to the next
    delay_s: float = 0.0  # of a delayed command
    seed: int = 0


class Breaker:
    """Applies a plan to packets, one after the other. Pure but for the time that it is given."""

    def __init__(self, plan: Breakage, size: int) -> None:
        self.plan, self._layouts = plan, layouts(size)
        self._generator = np.random.default_rng(plan.seed)
        self._done = 0
        self._last = b""  # payload of the last command that went through whole
        self._held_s = 0.0  # until when the line is held up
        self._kept: bytes | None = None  # the command that is overtaken by the next
        self.notes: list[dict[str, Any]] = []

    def pass_on(self, data: bytes, now_s: float) -> list[Sending]:
        """Return what is sent in place of a packet, and when."""
        packet = decode(data, self._layouts)
        if packet is None or packet.kind != Kind.COMMAND:
            return [(now_s, data)]
        number, plan = int(packet.row["number"]), self.plan
        if self._kept is not None:
            kept, self._kept = self._kept, None
            return [(now_s, data), (now_s, kept)]
        is_hit = number >= plan.first and (number - plan.first) % plan.every == 0 and self._done < plan.count
        if not is_hit:
            self._last = data[HEADER.itemsize :]
            return [(max(now_s, self._held_s), data)]  # a line that is held up keeps its order
        self._done += 1
        self.notes.append({"kind": plan.kind, "number": number, "moment_s": now_s})
        broken: Callable[[bytes, float], list[Sending]] = getattr(self, f"_{plan.kind}")
        return broken(data, now_s)

    def _pass(self, data: bytes, now_s: float) -> list[Sending]:
        return [(now_s, data)]

    def _drop(self, _: bytes, now_s: float) -> list[Sending]:
        return []

    def _delay(self, data: bytes, now_s: float) -> list[Sending]:
        self._held_s = now_s + self.plan.delay_s
        return [(self._held_s, data)]

    def _duplicate(self, data: bytes, now_s: float) -> list[Sending]:
        return [(now_s, data), (now_s, data)]

    def _reorder(self, data: bytes, now_s: float) -> list[Sending]:
        self._kept = data
        return []

    def _freeze(self, data: bytes, now_s: float) -> list[Sending]:
        """Send the last command once more, in a packet that is whole and new."""
        return [(now_s, self._made(data, self._last, now_s))]

    def _nan(self, data: bytes, now_s: float) -> list[Sending]:
        row = np.frombuffer(data[HEADER.itemsize :], self._layouts[Kind.COMMAND]).copy()
        row["target"][0, self._generator.integers(row["target"].shape[1])] = np.nan
        return [(now_s, self._made(data, row.tobytes(), now_s))]

    def _clock_jump(self, data: bytes, now_s: float) -> list[Sending]:
        """Say that it was sent long ago, or is from the future."""
        jump = float(self._generator.choice([-3600.0, -1.0, 1.0, 3600.0]))
        return [(now_s, self._made(data, data[HEADER.itemsize :], now_s + jump))]

    def _bit_flip(self, data: bytes, now_s: float) -> list[Sending]:
        broken = bytearray(data)
        bit = int(self._generator.integers(8 * len(data)))
        broken[bit // 8] ^= 1 << bit % 8
        return [(now_s, bytes(broken))]

    def _made(self, like: bytes, payload: bytes, sent_s: float) -> bytes:
        sequence = int(np.frombuffer(like, HEADER, 1)[0]["sequence"])
        return encode(Kind.COMMAND, sequence, payload, sent_s)


def run(policy: socket.socket, guard: socket.socket, breaker: Breaker, notes: Path) -> None:
    """Pass packets on, both ways, until an end is closed."""
    waiting: list[Sending] = []
    written = 0
    with notes.open("a", encoding="utf-8") as file:
        while True:
            rest = min((when for when, _ in waiting), default=time.monotonic() + 1.0) - time.monotonic()
            ready, _, _ = select.select([policy, guard], [], [], max(rest, 0.0))
            for data in _arrived(policy) if policy in ready else ():
                if data is None:
                    return
                waiting += breaker.pass_on(data, time.monotonic())
            for data in _arrived(guard) if guard in ready else ():
                if data is None:
                    return
                _send(policy, data)
            now = time.monotonic()
            for _, data in [one for one in waiting if one[0] <= now]:
                _send(guard, data)
            waiting = [one for one in waiting if one[0] > now]
            for note in breaker.notes[written:]:
                file.write(json.dumps(note) + "\n")
                file.flush()
            written = len(breaker.notes)


def _arrived(end: socket.socket) -> Iterator[bytes | None]:
    """Yield what has come; None when the other end is closed."""
    while True:
        try:
            data = end.recv(MOST_BYTES + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        yield data or None
        if not data:
            return


def _send(end: socket.socket, data: bytes) -> None:
    try:
        end.send(data)
    except OSError:  # full, or gone, which receiving tells
        return


def main(argv: list[str]) -> int:
    """Break what passes; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    policy, guard = (socket.socket(fileno=int(one)) for one in argv[:2])
    for end in (policy, guard):
        end.setblocking(False)
    plan = json.loads(Path(argv[2]).read_text(encoding="utf-8"))
    run(policy, guard, Breaker(Breakage(**plan["breakage"]), plan["size"]), Path(argv[3]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
