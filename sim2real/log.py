"""The log of a run as MCAP, which opens in Foxglove. Within an episode it only remembers; `work` writes.

Topics: /tick, /sent, /state, /episode, /event, /camera/<name>; log_format.py says what they hold. A chunk is
written at once or not at all, so a file that was cut, or found no room, can be read up to there.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from mcap.data_stream import RecordBuilder
from mcap.records import DataEnd, Footer
from mcap.writer import MCAP0_MAGIC, CompressionType, Writer
from robokd.sim2real import log_format as form
from robokd.sim2real.policy import Decision
from robokd.sim2real.robot import JointReading

import robokd

PACKAGES = ("numpy", "onnxruntime", "mcap")
FIRST_COST_S = 0.5e-3  # of a message, before one was measured
FORGET = 0.9  # share of what a message cost at most that the next one is still expected to cost


class LogError(RuntimeError):
    """The log cannot be written any further; what stands there can be read."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One tick of the loop. The arrays are kept, not copied: nobody writes them again."""

    begun_s: float
    episode: int
    number: int  # of the policy's command, from 1 on through all episodes
    channels: dict[str, np.ndarray]  # what the policy was given: (A,) of joints, (C, H, W) of cameras
    captured_s: dict[str, float]  # by channel
    anchor: np.ndarray  # (A,) rad, what the policy was given
    rate: np.ndarray  # (A,) rad/s, likewise
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What the guard sent to the robot."""

    origin: int  # number of the policy's command that it follows; 0: the guard's own
    sequence: int  # the guard's count
    stamp_s: float
    commanded: np.ndarray  # (A,) rad
    sent: np.ndarray  # (A,) rad
    reasons: tuple[str, ...]  # why they differ
    rung: int  # of the guard's ladder


class Log:
    """One MCAP file. Floats and pictures come back bit for bit; see log_reader.py.

    LogError, once, from whoever meets a file that cannot be written; after it nothing is kept any more.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        """Begin the file; `about` says which bundle, task and robot the run is of."""
        self._path = path
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()  # (topic, what writes the message)
        self._cost_s: dict[str, float] = {}  # by topic
        self._channels: dict[str, int] = {}
        self._seen: dict[str, tuple[int, float, np.ndarray]] = {}  # by camera: number, time, picture
        self._hash = form.ActionHash()
        self._ticks = 0
        self._is_open, self._is_broken = True, False
        try:
            self._tape = Tape(path)
        except OSError as error:
            raise LogError(f"cannot write {path}: {error.strerror}") from error
        # the messages are small and the robot's computer has better to do: not compressed
        self._writer = Writer(
            cast("IO[bytes]", self._tape), chunk_size=form.CHUNK_BYTES, compression=CompressionType.NONE,
            enable_data_crcs=True,
        )  # fmt: skip
        with self._told():
            self._writer.start(profile="robokd", library=f"robokd {robokd.__version__}")
            self._writer.add_metadata(form.ABOUT, {**_circumstances(), **about})

    def tick(self, tick: Tick) -> None:
        """Remember one tick; a picture that was seen before is not remembered again."""
        self._hash.add(tick.decision.command, tick.decision.action)
        self._ticks += 1
        pictures = {
            name: self._see(name, image, tick.captured_s[name])
            for name, image in tick.channels.items()
            if image.ndim == 3
        }
        self._remember(form.TICK, lambda: self._write_tick(tick, pictures))

    def sent(self, sent: Sent) -> None:
        """Remember what the guard sent."""

        def write() -> None:
            lists, exact = form.pack({"commanded": sent.commanded, "sent": sent.sent})
            self._message(form.SENT, sent.stamp_s, {
                "origin": sent.origin, "sequence": sent.sequence, "rung": sent.rung, **lists,
                "reasons": list(sent.reasons), "exact": exact,
            })  # fmt: skip

        self._remember(form.SENT, write)

    def state(self, reading: JointReading) -> None:
        """Remember how the joints were."""

        def write() -> None:
            names = ("position", "velocity", "target")
            lists, exact = form.pack({name: getattr(reading, name) for name in names})
            self._message(form.STATE, reading.captured_s, {
                **lists, "sequence": reading.sequence, "strangers": reading.strangers, "exact": exact,
            })  # fmt: skip

        self._remember(form.STATE, write)

    def episode(self, moment_s: float, number: int) -> None:
        """Remember that an episode begins: the policy's memory is empty."""
        self._remember(form.EPISODE, lambda: self._message(form.EPISODE, moment_s, {"number": number}))

    def event(self, moment_s: float, kind: str, message: str) -> None:
        """Remember what happened."""
        time_ns = form.moment(moment_s)
        content = {
            "timestamp": {"sec": time_ns // 10**9, "nsec": time_ns % 10**9}, "level": form.WARNING,
            "name": kind, "message": message, "file": "", "line": 0,
        }  # fmt: skip
        self._remember(form.EVENT, lambda: self._message(form.EVENT, moment_s, content))

    def work(self, until_s: float) -> None:
        """Write while the next message is expected to be written before `until_s`, on time.monotonic()."""
        while self._waiting:
            topic = self._waiting[0][0]
            expected = self._cost_s.get(topic, FIRST_COST_S) * FORGET
            if time.monotonic() + expected > until_s:
                self._cost_s[topic] = expected  # or one slow write would be the last
                return
            # of this thread alone: how long others will have the core, the past does not say
            begun = time.thread_time()
            self._write_next()
            self._cost_s[topic] = max(time.thread_time() - begun, expected)

    def flush(self) -> None:
        """Write what is remembered; never called within an episode."""
        while self._waiting:
            self._write_next()
        if self._is_open and not self._is_broken:
            with self._told():
                self._writer.flush()

    def close(self) -> str:
        """Write what is remembered, finish the file and return the hash of all actions. Also twice."""
        try:
            if self._is_open and not self._is_broken:
                self.flush()
                with self._told():
                    end = {"actions_sha256": self._hash.hex(), "ticks": str(self._ticks)}
                    self._writer.add_metadata(form.END, end)
                    self._writer.finish()
        finally:
            self._is_open = False
            self._tape.close()
        return self._hash.hex()

    def _remember(self, topic: str, write: Callable[[], None]) -> None:
        if self._is_open and not self._is_broken:
            self._waiting.append((topic, write))

    def _see(self, camera: str, image: np.ndarray, captured_s: float) -> int:
        """Return the number of a picture, which is remembered if it is a new one."""
        number, when, last = self._seen.get(camera, (0, captured_s, image))
        if number and when == captured_s and (last is image or _is_same(last, image)):
            return number
        number += 1
        self._seen[camera] = number, captured_s, image
        topic = form.CAMERA + camera
        self._remember(
            topic, lambda: self._message(
                topic, captured_s, form.picture_message(camera, captured_s, image), number=number
            )
        )  # fmt: skip
        return number

    def _write_next(self) -> None:
        _, write = self._waiting.popleft()
        with self._told():
            write()

    def _write_tick(self, tick: Tick, pictures: dict[str, int]) -> None:
        decision = tick.decision
        groups = {
            "channels": {name: value for name, value in tick.channels.items() if name not in pictures},
            "estimates": decision.estimates,
        }
        lists, exact = form.pack({
            "anchor": tick.anchor, "rate": tick.rate, "command": decision.command, "action": decision.action
        })  # fmt: skip
        content: dict[str, Any] = {
            "episode": tick.episode, "number": tick.number, "inference_s": float(decision.inference_s),
            "captured_ns": {name: form.nanoseconds(when) for name, when in tick.captured_s.items()},
            "pictures": pictures, **lists,
        }  # fmt: skip
        for group, arrays in groups.items():
            content[group], more = form.pack(arrays)
            exact += [{**row, "name": f"{group}.{row['name']}"} for row in more]
        content["exact"] = exact
        self._message(form.TICK, tick.begun_s, content, number=tick.number)

    def _message(self, topic: str, seconds: float, content: dict[str, Any], number: int = 0) -> None:
        if topic not in self._channels:
            self._channels[topic] = self._open_channel(topic, content)
        time_ns = form.moment(seconds)
        self._writer.add_message(
            self._channels[topic], log_time=time_ns, data=form.to_json(content), publish_time=time_ns,
            sequence=number % 2**32,
        )  # fmt: skip

    def _open_channel(self, topic: str, content: dict[str, Any]) -> int:
        if topic.startswith(form.CAMERA):
            schema = form.RAW_IMAGE
        else:
            schema = form.tick_schema(content) if topic == form.TICK else form.SCHEMAS[topic]
        number = self._writer.register_schema(schema["title"], "jsonschema", form.to_json(schema))
        return self._writer.register_channel(topic, "json", number)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._is_broken = True
            self._waiting.clear()
            self._tape.end()
            raise LogError(f"cannot write {self._path}: {error.strerror or error}") from error


class Tape:
    """The file under a Writer: a write is done wholly or not at all."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._end = self._before = 0  # of the file, and of what stood there before the last long write

    def write(self, data: bytes) -> int:
        """Append; OSError where there is no room, and then nothing has been appended."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._cut(self._end)
            raise
        if len(data) >= len(ENDING):
            self._before = self._end
        self._end += len(data)
        return len(data)

    def tell(self) -> int:
        """Return how much there is."""
        return self._end

    def flush(self) -> None:
        """See IO.flush: nothing waits here."""

    def end(self) -> None:
        """Finish the file as it is; where there is not even room for that, in place of the last write."""
        for place in (self._end, self._before):
            with contextlib.suppress(OSError):
                self._cut(place)
                self.write(ENDING)
                return

    def close(self) -> None:
        """Close the file. Also twice."""
        self._file.close()

    def _cut(self, place: int) -> None:
        with contextlib.suppress(OSError):  # of a device that is gone
            self._file.truncate(place)
            self._file.seek(place)
        self._end = place


def _ending() -> bytes:
    """Return how the data of an MCAP file ends that has no summary."""
    records = RecordBuilder()
    DataEnd(0).write(records)
    Footer(summary_start=0, summary_offset_start=0, summary_crc=0).write(records)
    return records.end() + MCAP0_MAGIC


ENDING = _ending()


def _circumstances() -> dict[str, str]:
    """Return what every log says of itself."""
    found = {"version": form.VERSION, "robokd": robokd.__version__}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found | {"wall_offset_ns": str(time.time_ns() - time.monotonic_ns())}


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
