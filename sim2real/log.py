"""The log of a run as MCAP with JSON messages. A tick only puts references into memory; `flush` writes.

Every time is nanoseconds on the monotonic clock. Topics: /tick, /camera/<name>, /event.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import Writer
from robokd.sim2real.policy import Decision
from robokd.sim2real.robot import JOINT_CHANNELS, Reading

_ANY_OBJECT = b'{"type": "object"}'


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One tick of the loop. The arrays are kept, not copied: nobody writes them again."""

    begun_s: float
    episode: int
    reading: Reading
    decision: Decision
    anchor: np.ndarray  # (A,) rad, what the policy was given
    rate: np.ndarray  # (A,) rad/s, likewise
    sent: np.ndarray  # (A,) rad


def nanoseconds(seconds: float) -> int:
    """Return a time as MCAP counts it."""
    return round(seconds * 1e9)


class Log:
    """One MCAP file. Floats come back bit for bit; images are base64 of their bytes."""

    def __init__(self, path: Path, about: dict[str, str], *, has_images: bool = True) -> None:
        self._has_images = has_images
        self._ticks: list[Tick] = []
        self._count = 0
        self._file = path.open("wb")
        self._writer = Writer(self._file)
        self._writer.start(profile="robokd", library="robokd")
        self._writer.add_metadata("robokd", about)
        self._schema = self._writer.register_schema("robokd.object", "jsonschema", _ANY_OBJECT)
        self._channels: dict[str, int] = {}

    def tick(self, tick: Tick) -> None:
        """Remember one tick."""
        self._ticks.append(tick)

    def event(self, moment_s: float, kind: str, message: str) -> None:
        """Write why the run ended; not for use within an episode."""
        self._message("/event", moment_s, {"kind": kind, "message": message})

    def flush(self) -> None:
        """Write what is remembered; never called within an episode."""
        ticks, self._ticks = self._ticks, []
        for tick in ticks:
            self._write(tick)
        self._file.flush()

    def close(self) -> None:
        """Write what is remembered and finish the file."""
        self.flush()
        self._writer.finish()
        self._file.close()

    def _write(self, tick: Tick) -> None:
        self._count += 1
        reading, decision = tick.reading, tick.decision
        captured = {name: nanoseconds(seconds) for name, seconds in reading.captured_s.items()}
        joints = {name: reading.channels[name].tolist() for name in JOINT_CHANNELS}
        self._message("/tick", tick.begun_s, {
            "episode": tick.episode, "sequence": reading.sequence, "captured_ns": captured, **joints,
            "anchor": tick.anchor.tolist(), "rate": tick.rate.tolist(), "action": decision.action.tolist(),
            "command": decision.command.tolist(), "sent": tick.sent.tolist(),
            "inference_s": decision.inference_s,
            "estimates": {name: value.tolist() for name, value in decision.estimates.items()},
        })  # fmt: skip
        if not self._has_images:
            return
        for name, image in reading.channels.items():
            if name not in JOINT_CHANNELS:
                self._message(f"/camera/{name}", reading.captured_s[name], {
                    "shape": list(image.shape), "dtype": str(image.dtype),
                    "data": base64.b64encode(image.tobytes()).decode(),
                })  # fmt: skip

    def _message(self, topic: str, seconds: float, content: dict[str, Any]) -> None:
        if topic not in self._channels:
            self._channels[topic] = self._writer.register_channel(topic, "json", self._schema)
        moment = nanoseconds(seconds)
        self._writer.add_message(
            self._channels[topic], log_time=moment, data=json.dumps(content).encode(), publish_time=moment,
            sequence=self._count,
        )  # fmt: skip
