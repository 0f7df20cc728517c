"""Reads a log back, bit for bit, and strictly: what is no log, or was altered, is a UserError.

A file that was cut, by a kill or a full disk, is read up to there. Nothing in a file runs as code.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Message, Metadata
from mcap.stream_reader import breakup_chunk
from mcap.writer import MCAP0_MAGIC
from robokd.sim2real import log_format as form
from robokd.sim2real.log import Sent, Tick
from robokd.sim2real.policy import Decision
from robokd.sim2real.robot import JointReading

from robokd import UserError

LOG = "log.mcap"  # in a run's folder
_HEAD = struct.Struct("<BQ")
# what the readers of records and of JSON raise on bytes that were altered
_BROKEN = (McapError, struct.error, ValueError, TypeError, KeyError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Where the policy's memory was emptied."""

    begun_s: float
    number: int
    tick: int  # index of the first tick after it


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened."""

    moment_s: float
    kind: str
    message: str


@dataclass(kw_only=True)
class Recording:
    """What a log holds, in the order in which it was written."""

    path: Path
    about: dict[str, str] = field(default_factory=dict)  # task, bundle_sha256, robot, versions, …
    ticks: list[Tick] = field(default_factory=list)
    sents: list[Sent] = field(default_factory=list)
    states: list[JointReading] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    is_whole: bool = False  # the log was closed; otherwise it was cut, and this is what there is
    actions_sha256: str = ""  # over the ticks that there are


def find_log(path: str | Path) -> Path:
    """Return the log file that a run's folder holds, or that is named itself."""
    path = Path(path)
    file = path / LOG if path.is_dir() else path
    if not file.is_file():
        what = f"there is no {LOG} in {path}" if path.is_dir() else f"{path} does not exist"
        folder = path if path.is_dir() else path.parent
        near = ", ".join(sorted(str(one) for one in [*folder.glob("*.mcap"), *folder.glob(f"*/{LOG}")][-5:]))
        raise UserError(f"log: {what}. Logs near: {near or 'none'}; `robokd deploy …` leaves one in its run")
    return file


def read_log(path: str | Path, *, pictures: bool = True) -> Recording:
    """Return what a log holds; without `pictures` a tick's channels are those of the joints."""
    path = Path(path)
    reader = _Reader(path, pictures=pictures)
    try:
        with path.open("rb") as stream:
            for opcode, content in _records(stream, os.fstat(stream.fileno()).st_size):
                reader.take(opcode, content)
        return reader.finish()
    except OSError as error:
        raise UserError(f"log {path}: {error.strerror}") from None
    except UserError:
        raise
    except _ForeignError as error:
        cure = "`robokd deploy …` leaves one in its run"
        raise UserError(f"{path} is not a log of robokd {form.VERSION}: {error}; {cure}") from None
    except _BROKEN as error:
        said = str(error) or type(error).__name__
        raise UserError(f"log {path} was altered, or is none of robokd {form.VERSION}: {said:.200}") from None


class _ForeignError(Exception):
    """A file that something else has made."""


def _records(stream: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (opcode, content) of the records that are whole; FOOTER only where the file ends as it should."""
    start = stream.read(len(MCAP0_MAGIC))
    if not MCAP0_MAGIC.startswith(start):
        raise _ForeignError(f"it begins with {start!r}, an MCAP file with {MCAP0_MAGIC!r}")
    crc = zlib.crc32(start)
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        opcode, length = _HEAD.unpack(head)
        if length > size - stream.tell():
            return  # it was cut
        content = stream.read(length)
        if opcode == Opcode.DATA_END:
            wanted = DataEnd.read(_stream(content)).data_section_crc
            if wanted not in (0, crc):
                raise ValueError(f"its data have the checksum {crc:#x}, it says {wanted:#x}")
        crc = zlib.crc32(content, zlib.crc32(head, crc))
        if opcode == Opcode.FOOTER:
            if (rest := stream.read(len(MCAP0_MAGIC) + 1)) != MCAP0_MAGIC[: len(rest)]:
                raise ValueError(f"{rest!r} stands after its end")
            if rest != MCAP0_MAGIC:
                return
        yield opcode, content


def _stream(content: bytes) -> ReadDataStream:
    return ReadDataStream(BytesIO(content))


class _Reader:
    """Takes the records of a file, one after the other."""

    def __init__(self, path: Path, *, pictures: bool) -> None:
        self.recording = Recording(path=path)
        self._pictures = pictures
        self._topics: dict[int, str] = {}
        self._shown: dict[str, tuple[int, np.ndarray]] = {}  # by camera: the newest picture and its number
        self._hash = form.ActionHash()
        self._end: dict[str, str] | None = None
        self._readers: dict[str, Callable[[Message, Any], None]] = {
            form.TICK: self._tick, form.SENT: self._sent, form.STATE: self._state,
            form.EPISODE: self._episode, form.EVENT: self._event,
        }  # fmt: skip

    def take(self, opcode: int, content: bytes) -> None:
        """Take one record; MCAP says that unknown ones are to be left."""
        if opcode == Opcode.METADATA:
            self._metadata(Metadata.read(_stream(content)))
        elif opcode == Opcode.CHUNK:
            if not self.recording.about:
                raise _ForeignError(f"it does not begin with metadata {form.ABOUT!r}")
            chunk = Chunk.read(_stream(content))
            if chunk.compression or not chunk.uncompressed_crc:
                raise ValueError("it is compressed, or has no checksums; robokd writes it otherwise")
            for record in breakup_chunk(chunk, validate_crc=True):
                if isinstance(record, Channel):
                    self._topics[record.id] = record.topic
                elif isinstance(record, Message):
                    self._message(record)
        elif opcode == Opcode.MESSAGE:
            raise ValueError("it has messages outside of chunks")
        elif opcode == Opcode.FOOTER:
            if not self.recording.about:
                raise _ForeignError(f"it has no metadata {form.ABOUT!r}")
            self.recording.is_whole = self._end is not None

    def finish(self) -> Recording:
        """Return the recording, after comparing it with what the file says of itself at its end."""
        recording = self.recording
        if not recording.about:
            size = recording.path.stat().st_size
            what = f"was cut within its first record: nothing can be read of its {size} bytes"
            what = what if size else "is empty: nothing was recorded"
            raise UserError(f"log {recording.path} {what}; `robokd deploy …` makes another")
        recording.actions_sha256 = self._hash.hex()
        if self._end is not None:
            found = {"actions_sha256": recording.actions_sha256, "ticks": str(len(recording.ticks))}
            if found != self._end:
                raise ValueError(f"it holds {found}, its end says {self._end}")
        return recording

    def _metadata(self, record: Metadata) -> None:
        if record.name == form.ABOUT and not self.recording.about:
            if (version := record.metadata.get("version")) != form.VERSION:
                raise ValueError(f"it has version {version}, this robokd reads {form.VERSION}")
            self.recording.about = record.metadata
        elif record.name == form.END and self._end is None:
            self._end = record.metadata
        else:
            raise ValueError(f"it has metadata {record.name!r:.60}, perhaps twice")

    def _message(self, record: Message) -> None:
        topic = self._topics[record.channel_id]
        if topic.startswith(form.CAMERA):
            self._show(topic.removeprefix(form.CAMERA), record)
        elif topic in self._readers:
            self._readers[topic](record, json.loads(record.data, parse_constant=_no_number))
        else:
            raise ValueError(f"it has the topic {topic!r:.60}. Known: {', '.join(self._readers)}")

    def _show(self, camera: str, record: Message) -> None:
        if self._pictures:
            self._shown[camera] = record.sequence, form.picture(json.loads(record.data), camera)

    def _tick(self, record: Message, content: object) -> None:
        wanted = {
            "episode": int, "number": int, "inference_s": float, "captured_ns": dict, "pictures": dict,
            "anchor": list, "rate": list, "command": list, "action": list, "channels": dict,
            "estimates": dict, "exact": list,
        }  # fmt: skip
        row = dict(zip(wanted, form.fields(content, wanted, form.TICK), strict=True))
        lists = {name: row[name] for name in ("anchor", "rate", "command", "action")}
        for group in ("channels", "estimates"):
            lists |= {f"{group}.{name}": values for name, values in row[group].items()}
        arrays = form.unpack(lists, row["exact"])
        channels = {name: arrays[f"channels.{name}"] for name in row["channels"]}
        if self._pictures:
            for name, number in row["pictures"].items():
                shown, channels[name] = self._shown[name]
                if shown != number:
                    raise ValueError(f"tick {row['number']} shows {number!r:.20} of {name}, not {shown}")
        captured = row["captured_ns"]
        if set(captured) != {*row["channels"], *row["pictures"]} or not _are_times(captured.values()):
            raise ValueError(f"tick {row['number']} has channels without times: {captured!r:.80}")
        decision = Decision(
            command=arrays["command"], action=arrays["action"], inference_s=row["inference_s"],
            estimates={name: arrays[f"estimates.{name}"] for name in row["estimates"]},
        )  # fmt: skip
        self._hash.add(decision.command, decision.action)
        self.recording.ticks.append(Tick(
            begun_s=form.seconds(record.log_time), episode=row["episode"], number=row["number"],
            channels=channels, captured_s={name: form.seconds(when) for name, when in captured.items()},
            anchor=arrays["anchor"], rate=arrays["rate"], decision=decision,
        ))  # fmt: skip

    def _sent(self, record: Message, content: object) -> None:
        wanted = {
            "origin": int, "sequence": int, "rung": int, "commanded": list, "sent": list, "reasons": list,
            "exact": list,
        }  # fmt: skip
        origin, sequence, rung, commanded, sent, reasons, exact = form.fields(content, wanted, form.SENT)
        if not all(type(reason) is str for reason in reasons):
            raise ValueError(f"{form.SENT} has the reasons {reasons!r:.60}")
        arrays = form.unpack({"commanded": commanded, "sent": sent}, exact)
        self.recording.sents.append(Sent(
            origin=origin, sequence=sequence, stamp_s=form.seconds(record.log_time), rung=rung,
            reasons=tuple(reasons), **arrays,
        ))  # fmt: skip

    def _state(self, record: Message, content: object) -> None:
        names = ("position", "velocity", "target")
        wanted = {**dict.fromkeys(names, list), "sequence": int, "strangers": int, "exact": list}
        *lists, sequence, strangers, exact = form.fields(content, wanted, form.STATE)
        arrays = form.unpack(dict(zip(names, lists, strict=True)), exact)
        self.recording.states.append(JointReading(
            captured_s=form.seconds(record.log_time), sequence=sequence, strangers=strangers,
            position=arrays["position"], velocity=arrays["velocity"], target=arrays["target"],
        ))  # fmt: skip

    def _episode(self, record: Message, content: object) -> None:
        (number,) = form.fields(content, {"number": int}, form.EPISODE)
        begun_s, tick = form.seconds(record.log_time), len(self.recording.ticks)
        self.recording.episodes.append(Episode(begun_s=begun_s, number=number, tick=tick))

    def _event(self, record: Message, content: object) -> None:
        wanted = {"timestamp": dict, "level": int, "name": str, "message": str, "file": str, "line": int}
        _, _, kind, message, _, _ = form.fields(content, wanted, form.EVENT)
        moment_s = form.seconds(record.log_time)
        self.recording.events.append(Event(moment_s=moment_s, kind=kind, message=message))


def _are_times(values: Any) -> bool:  # noqa: ANN401  (of a dict that a file holds)
    return all(value is None or (type(value) is int and abs(value) <= form.LATEST_NS) for value in values)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")
