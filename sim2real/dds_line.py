"""What every robot on DDS has: a topic of states, one of commands, and others who may write there too.

One node alone may state our robot's joints; others that share the topic state other joints (Foreign). Its
successor takes over once that node has left the wire. One that was killed has not, until its lease ends: then
its silence stops the run first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np
from robokd.sim2real.cdr import Message
from robokd.sim2real.dds import ArrivalTimes, MonotonicStamps, Participant, Reader, Sample, Writer
from robokd.sim2real.robot import Command

from robokd import UserError

DEPTH = 64  # messages kept between two reads: several nodes may share a topic of states
# 290 joints with names of 24 letters. At worst, in names without a letter, it takes 8 ms to decode: the guard
# does nothing else meanwhile.
MOST_BYTES = 1 << 14
FIND_TAKER_S = 1.0  # for the reader of commands to be found once there are states
FLUSH_S = 0.2
State = TypeVar("State")


class Foreign(Exception):  # noqa: N818 - not an error
    """A message that is another node's, was damaged on its way or is no news: the next one counts."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a robot is and what it speaks."""

    interface: str
    domain: int
    states: str  # topics, as DDS has them
    state_type: Message
    commands: str
    command_type: Message


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A state as it came."""

    data: bytes
    arrived_s: float
    captured_s: float  # see ArrivalTimes


class Line:
    """One connection. RuntimeError where it is not open, or the wire does not take what is sent."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.strangers = 0  # commands that were not ours
        self.passed_over = 0  # states that were Foreign
        self.has_written = False
        self.stamps, self._arrivals = MonotonicStamps(), ArrivalTimes()
        self._participant: Participant | None = None
        self._states: Reader | None = None
        self._others: Reader | None = None
        self._writer: Writer | None = None
        self._source: int | None = None  # writer of our joints' states
        self._why = ""  # the last state was passed over

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self._participant is not None

    def open(self, parse: Callable[[Arrived], State], timeout_s: float) -> State:
        """Open it and return what `parse` makes of the first state that is ours; UserError where none comes.

        See `states` for what is raised else.
        """
        to, self.stamps, self._arrivals = self.address, MonotonicStamps(), ArrivalTimes()
        line = self._participant = Participant(to.interface, to.domain)
        self._states = line.reader(to.states, to.state_type, depth=DEPTH)
        writer = self._writer = line.writer(to.commands, to.command_type)
        self._others = line.reader(to.commands, to.command_type, depth=DEPTH, ignores_own=True)
        self.strangers, self.passed_over, self.has_written, self._source = 0, 0, False, None
        deadline = time.monotonic() + timeout_s
        found: list[State] = []
        while not found and time.monotonic() < deadline:
            line.wait(min(0.1, max(deadline - time.monotonic(), 0.0)))
            found = list(self.states(parse))
        if not found:
            self._refuse(timeout_s)
        deadline = time.monotonic() + FIND_TAKER_S
        while not writer.takers() and time.monotonic() < deadline:
            time.sleep(0.005)  # in shadow there need not be one; `send` wants one
        return found[-1]

    def newest(self, topic: str, kind: Message) -> Callable[[], Arrived | None]:
        """Return what takes the newest message of another topic, None where none has come since."""
        if self._participant is None:
            raise RuntimeError("the robot is not connected")
        reader = self._participant.reader(topic, kind, depth=1)

        def take() -> Arrived | None:
            samples = reader.take()
            with contextlib.suppress(Foreign):
                return self._arrived(samples[-1], time.monotonic()) if samples else None
            return None

        return take

    def states(self, parse: Callable[[Arrived], State]) -> Iterator[State]:
        """Yield what `parse` makes of the states that have come since, oldest first; count foreign commands.

        `parse` is called as the states are asked for, and may look at the one before. It raises Foreign for a
        message that is not ours to judge: it is passed over. RuntimeError where two writers state our joints.
        """
        if self._states is None or self._others is None:
            raise RuntimeError("the robot is not connected")
        samples, arrived_s = self._states.take(), time.monotonic()
        self.strangers += len(self._others.take())
        for sample in samples:
            try:
                state = parse(self._arrived(sample, arrived_s))
            except Foreign as error:
                self.passed_over, self._why = self.passed_over + 1, str(error)
                continue
            if sample.writer != self._source:
                self._hand_over(sample.writer, self._states.sources())
            yield state

    def check_age(self, captured_s: float, timeout_s: float) -> None:
        """Refuse a newest state that is older than `timeout_s`: TimeoutError, with what was passed over."""
        if (old := time.monotonic() - captured_s) > timeout_s:
            raise TimeoutError(f"no new joint state on {self.address.states} for {old:.3f} s{self._heard()}")

    def send(self, data: bytes, stamp_s: float) -> None:
        """Send a command that counts from a time on the monotonic clock."""
        if self._writer is None:
            raise RuntimeError("the robot is not connected")
        if not self._writer.takers():
            raise RuntimeError(
                f"nobody takes commands from {self.address.commands}: is the controller active?"
            )
        self.has_written = True
        self._writer.write(data, self.stamps.stamp(stamp_s))

    def send_last(self, data: bytes) -> None:
        """Send a command on the way out, whether anybody takes it or not."""
        if self._writer is not None:
            self._writer.write(data)

    def flush(self) -> None:
        """Wait until those who take commands have the last one, for a while."""
        if self._writer is not None:
            self._writer.flush(FLUSH_S)

    def close(self) -> None:
        """Leave the wire; also twice."""
        self._states = self._others = self._writer = None
        if self._participant is not None:
            self._participant.close()
            self._participant = None

    def _arrived(self, sample: Sample, arrived_s: float) -> Arrived:
        if (size := len(sample.data)) > MOST_BYTES:
            raise Foreign(f"a message of {size} bytes, a state has at most {MOST_BYTES}")
        captured_s = self._arrivals.captured(sample, arrived_s)
        return Arrived(data=sample.data, arrived_s=arrived_s, captured_s=captured_s)

    def _hand_over(self, writer: int, there: dict[int, str]) -> None:
        """Take our joints' states from another writer, unless the one before is still there."""
        if self._source in there:
            pair = f"{there[self._source]} and {there.get(writer, 'one that has left')}"
            raise RuntimeError(
                f"{self.address.states}: two writers state this robot's joints, wanted one; GIDs: {pair}"
            )
        self._source = writer

    def _heard(self) -> str:
        return f"; passed over {self.passed_over}, the last: {self._why}" if self.passed_over else ""

    def _refuse(self, timeout_s: float) -> NoReturn:
        assert self._participant is not None
        to, topics = self.address, self._participant.topics()
        own = f"{to.commands} ({to.command_type.dds_name.replace('.', '::')})"
        seen = ", ".join(topic for topic in topics if topic != own) or "none"
        where = f"interface {to.interface!r}, domain {to.domain}"
        self.close()
        raise UserError(
            f"no joint state on {to.states} within {timeout_s:g} s ({where}){self._heard()}. "
            f"Topics there: {seen}"
        )


def check_timeouts(*, connect_timeout_s: float, state_timeout_s: float, command_timeout_s: float) -> None:
    """Refuse a robot's timeouts that cannot be: ValueError."""
    for name, value in (("connect_timeout_s", connect_timeout_s), ("state_timeout_s", state_timeout_s)):
        if not value > 0:
            raise ValueError(f"robot.{name} must be > 0 s, got {value}")
    if not command_timeout_s >= 0:
        raise ValueError(f"robot.command_timeout_s must be >= 0 s, got {command_timeout_s}")


def finite_targets(command: Command, joints: int) -> np.ndarray:
    """Return a copy of a command's targets, (A,) float32 rad; RuntimeError unless each joint has one."""
    targets = np.array(command.target, np.float32)
    if targets.shape != (joints,) or not np.isfinite(targets).all():
        raise RuntimeError(f"not sent: {joints} finite joint targets wanted, got {targets.tolist()}")
    return targets
