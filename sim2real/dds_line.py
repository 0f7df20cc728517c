"""What every robot on DDS has: a topic of states, one of commands, and others who may write there too."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from robokd.sim2real.cdr import Message
from robokd.sim2real.dds import ArrivalTimes, MonotonicStamps, Participant, Reader, Writer

from robokd import UserError

DEPTH = 64  # messages kept between two reads: several nodes may share a topic of states
FIND_TAKER_S = 1.0  # for the reader of commands to be found once there are states
FLUSH_S = 0.2
State = TypeVar("State")


class Foreign(Exception):  # noqa: N818 - not an error
    """A message that is another node's, or was damaged on its way: the next one counts."""


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
        self.has_written = False
        self.stamps, self._arrivals = MonotonicStamps(), ArrivalTimes()
        self._participant: Participant | None = None
        self._states: Reader | None = None
        self._others: Reader | None = None
        self._writer: Writer | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self._participant is not None

    def open(self, parse: Callable[[Arrived], State], timeout_s: float) -> State:
        """Open it and return what `parse` makes of the first state that is ours; UserError where none comes.

        `parse` raises Foreign for a message that is not ours to judge.
        """
        to, self.stamps, self._arrivals = self.address, MonotonicStamps(), ArrivalTimes()
        line = self._participant = Participant(to.interface, to.domain)
        self._states = line.reader(to.states, to.state_type, depth=DEPTH)
        self._writer = line.writer(to.commands, to.command_type)
        self._others = line.reader(to.commands, to.command_type, depth=DEPTH, ignores_own=True)
        self.strangers, self.has_written = 0, False
        deadline = time.monotonic() + timeout_s
        first, heard = None, ""
        while first is None and time.monotonic() < deadline:
            line.wait(min(0.1, max(deadline - time.monotonic(), 0.0)))
            for arrived in self.take():
                try:
                    first = parse(arrived)
                except Foreign as error:
                    heard = f"; heard: {error}"
        if first is None:
            self._refuse(timeout_s, heard)
        deadline = time.monotonic() + FIND_TAKER_S
        while not self._writer.takers() and time.monotonic() < deadline:
            time.sleep(0.005)  # in shadow there need not be one; `send` wants one
        return first

    def take(self) -> list[Arrived]:
        """Return the states that have come since, oldest first; count foreign commands."""
        if self._states is None or self._others is None:
            raise RuntimeError("the robot is not connected")
        samples = self._states.take()
        arrived_s = time.monotonic()
        self.strangers += len(self._others.take())
        return [
            Arrived(
                data=sample.data, arrived_s=arrived_s,
                captured_s=self._arrivals.captured(sample.stamp_ns, arrived_s),
            )
            for sample in samples
        ]  # fmt: skip

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

    def _refuse(self, timeout_s: float, heard: str) -> NoReturn:
        assert self._participant is not None
        to, topics = self.address, self._participant.topics()
        own = f"{to.commands} ({to.command_type.dds_name.replace('.', '::')})"
        seen = ", ".join(topic for topic in topics if topic != own) or "none"
        where = f"interface {to.interface!r}, domain {to.domain}"
        self.close()
        raise UserError(
            f"no joint state on {to.states} within {timeout_s:g} s ({where}){heard}. Topics there: {seen}"
        )
