"""DDS by cyclonedds from pip, with bytes in and bytes out: what a message says is cdr.py's business.

Everything is sent over one network interface, loopback unless another is named. Over loopback nothing is
multicast, and nothing that comes from elsewhere is heard. The environment's CYCLONEDDS_URI does not count
here. Anyone on the interface may listen and write: DDS Security is not in the wheel.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from robokd.sim2real.cdr import TEXT, Array, Kind, Message, Sequence

from robokd import UserError

if TYPE_CHECKING:
    import cyclonedds.domain

LOOPBACK = "lo"
DOMAINS = range(233)  # more have no ports
PARTICIPANTS = 60  # that can find each other over loopback
DRIFT = 1e-4  # s/s, how fast two clocks drift apart at most
SENDERS = 64  # on one topic whose clocks are remembered
BLOCK_S = 0.05  # longest that a write waits for a slow taker
CURE = "pip install 'robokd[ros2]'"
SIOCGIFFLAGS, SIOCGIFADDR, IFF_UP, IFNAMSIZ = 0x8913, 0x8915, 1, 16  # of linux/sockios.h and net/if.h
# over loopback participants knock at each other's ports in turn; elsewhere they announce themselves
KNOCK = f"""<Discovery><ParticipantIndex>auto</ParticipantIndex>
<MaxAutoParticipantIndex>{PARTICIPANTS}</MaxAutoParticipantIndex>
<Peers><Peer address="127.0.0.1"/></Peers></Discovery>"""
CONFIG = """<CycloneDDS><Domain Id="any"><General>
<Interfaces><NetworkInterface name="{interface}"/></Interfaces>
<AllowMulticast>{multicast}</AllowMulticast></General>{discovery}</Domain></CycloneDDS>"""

_types: dict[Message, type] = {}
_domains: WeakValueDictionary[int, _Domain] = WeakValueDictionary()


@dataclass(frozen=True)
class Sample:
    """One message as it came, undecoded."""

    data: bytes
    writer: int  # which of the writers on the wire it is from
    stamp_ns: int  # when it was written, by the sender's wall clock


class Participant:
    """This process on one interface in one domain. What it made ends with `close`."""

    def __init__(self, interface: str, domain: int) -> None:
        check_address(interface, domain)
        try:
            from cyclonedds.core import DDSException
            from cyclonedds.domain import DomainParticipant
        except ModuleNotFoundError as error:
            raise UserError(f"DDS needs the package {error.name!r}, which is not installed: {CURE}") from None
        self._error = DDSException
        try:
            self._domain = _domain(interface, domain)
            self._participant: Any = DomainParticipant(domain)
        except DDSException as error:
            why = str(error) if is_up(interface) else "it is down or has no IPv4 address"
            up = ", ".join(name for _, name in socket.if_nameindex() if is_up(name)) or "none"
            raise UserError(
                f"cannot speak DDS on interface {interface!r}, domain {domain}: {why}. Interfaces up: {up}"
            ) from None
        self._waits: Any = None

    def writer(self, topic: str, message: Message) -> Writer:
        """Return a writer, reliable, for one message at a time."""
        from cyclonedds.pub import DataWriter

        qos = self._qos(depth=1, is_reliable=True)
        return Writer(DataWriter(self._participant, self._topic(topic, message), qos=qos), topic, self._error)

    def reader(
        self, topic: str, message: Message, *, depth: int, ignores_own: bool = False, wakes: bool = True
    ) -> Reader:  # fmt: skip
        """Return a reader of the newest `depth` messages of reliable and best-effort writers alike.

        With `wakes` its messages end a `wait`, until they are taken.
        """
        from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState, WaitSet
        from cyclonedds.sub import DataReader

        qos = self._qos(depth=depth, is_reliable=False, ignores_own=ignores_own)
        made = DataReader(self._participant, self._topic(topic, message), qos=qos)
        if wakes:
            if self._waits is None:
                self._waits = WaitSet(self._participant)
            self._waits.attach(ReadCondition(made, ViewState.Any | InstanceState.Any | SampleState.NotRead))
        return Reader(made, depth, topic, self._error)

    def wait(self, timeout_s: float) -> bool:
        """Wait until any reader has a message; return whether one has."""
        return self._waits.wait(max(round(timeout_s * 1e9), 0)) > 0

    def topics(self) -> list[str]:
        """Return what others write, as 'topic (type)'."""
        from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication

        reader = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        found = {
            f"{one.topic_name} ({one.type_name})" for one in reader.take(1000) if hasattr(one, "topic_name")
        }
        return sorted(found)

    def close(self) -> None:
        """Leave the wire. Readers and writers must be dropped too: each keeps the participant."""
        self._waits = self._participant = None

    def _topic(self, name: str, message: Message) -> Any:  # noqa: ANN401 - a cyclonedds.topic.Topic
        from cyclonedds.topic import Topic

        return Topic(self._participant, name, _raw(message))

    def _qos(self, *, depth: int, is_reliable: bool, ignores_own: bool = False) -> Any:  # noqa: ANN401
        from cyclonedds.core import Policy, Qos

        reliable = Policy.Reliability.Reliable(round(BLOCK_S * 1e9))
        policies = [
            reliable if is_reliable else Policy.Reliability.BestEffort, Policy.Durability.Volatile,
            Policy.History.KeepLast(depth),
            Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
        ]  # fmt: skip
        if is_reliable:
            policies.append(Policy.WriterDataLifecycle(autodispose=False))
        if ignores_own:
            policies.append(Policy.IgnoreLocal.Participant)
        return Qos(*policies)


class Writer:
    """Writes one topic. RuntimeError where the wire does not take it."""

    def __init__(self, writer: Any, topic: str, error: type[Exception]) -> None:  # noqa: ANN401
        self._writer, self._topic, self._error = writer, topic, error

    def write(self, data: bytes, stamp_ns: int | None = None) -> None:
        """Send one message, stamped as now, or as of a time of the wall clock."""
        try:
            self._writer.write(self._writer.data_type(data), stamp_ns)
        except self._error as error:
            raise RuntimeError(f"cannot write {self._topic}: {error}") from None

    def takers(self) -> int:
        """Return how many read the topic with what we offer."""
        return self._writer.get_publication_matched_status().current_count

    def flush(self, timeout_s: float) -> bool:
        """Wait until every taker has what was written; return whether they do."""
        try:
            return self._writer.wait_for_acks(round(timeout_s * 1e9))
        except (
            self._error,
            AttributeError,
        ):  # cyclonedds-python 11.0.1 looks for its timeout in the wrong class
            return False


class Reader:
    """Reads one topic."""

    def __init__(self, reader: Any, depth: int, topic: str, error: type[Exception]) -> None:  # noqa: ANN401
        self._reader, self._depth, self._topic, self._error = reader, depth, topic, error

    def take(self) -> list[Sample]:
        """Return what has come since the last call, oldest first; never waits."""
        try:
            taken = self._reader.take(self._depth)
        except self._error as error:
            raise RuntimeError(f"cannot read {self._topic}: {error}") from None
        return [
            Sample(one.data, one.sample_info.publication_handle, one.sample_info.source_timestamp)
            for one in taken
            if one.sample_info.valid_data  # the others say that a writer went
        ]

    def sources(self) -> dict[int, str]:
        """Return who writes the topic with what we ask for: GIDs, as `ros2 topic info` shows them, by writer.

        A writer that was deleted is none any more; one whose process was killed is, until its lease ends.
        """
        found = {}
        for writer in self._reader.get_matched_publications():
            with contextlib.suppress(self._error):  # it went in between
                known = self._reader.get_matched_publication_data(writer)
                found[writer % 2**64] = known.key.bytes.hex(".")  # signed here, and not so in a sample
        return found


class MonotonicStamps:
    """Capture times of a sender whose stamps are wall clock, on our monotonic clock.

    The difference of our two clocks is taken once: later steps of our wall clock do not count. That the
    sender's wall clock is ours (one machine, or NTP or PTP between them) has to be checked by `lag`. Stamps
    are whole nanoseconds: a float of the wall clock is good to a quarter of a microsecond only.
    """

    def __init__(self) -> None:
        pairs = []
        for _ in range(5):
            before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
            pairs.append((after - before, wall - (before + after) // 2))
        self._wall_ns = min(pairs)[1]  # of the wall clock at 0 of the monotonic one

    def lag(self, stamp_ns: int, arrived_s: float) -> float:
        """Return how long before it arrived a message was stamped, in s; negative: after."""
        return arrived_s - (stamp_ns - self._wall_ns) * 1e-9

    def captured(self, stamp_ns: int, arrived_s: float) -> float:
        """Return when a message was stamped; nothing was measured after it arrived."""
        return min((stamp_ns - self._wall_ns) * 1e-9, arrived_s)

    def stamp(self, captured_s: float) -> int:
        """Return the wall clock's stamp, in ns, of a time on the monotonic clock."""
        return round(captured_s * 1e9) + self._wall_ns


class ArrivalTimes:
    """Capture times of senders whose clocks are not ours: when their messages came, had none been held up.

    The quickest of a sender so far counts as not held up at all; the rest is told by the sender's own stamps.
    So a message that lay in a queue, or in a process that was stopped, is as old as it is.
    """

    def __init__(self) -> None:
        # by writer, the longest silent first: difference of the clocks of its quickest message, last arrival
        self._clocks: dict[int, tuple[int, int]] = {}

    def captured(self, sample: Sample, arrived_s: float) -> float:
        """Return the time on the monotonic clock; that of arrival where there is no stamp."""
        if sample.stamp_ns <= 0:
            return arrived_s
        now_ns = round(arrived_s * 1e9)
        lag_ns = now_ns - sample.stamp_ns
        least_ns, last_ns = self._clocks.pop(sample.writer, (lag_ns, now_ns))
        # clocks drift apart: an old quickest message counts less and less
        least_ns = min(lag_ns, least_ns + round(DRIFT * max(now_ns - last_ns, 0)))
        self._clocks[sample.writer] = least_ns, now_ns
        if len(self._clocks) > SENDERS:  # each restart of a node is a new writer
            del self._clocks[next(iter(self._clocks))]
        return arrived_s - (lag_ns - least_ns) * 1e-9


def check_address(interface: str, domain: int) -> None:
    """Refuse what cannot be an interface of this machine, or a domain."""
    known = [name for _, name in socket.if_nameindex()]
    if interface not in known:
        raise UserError(f"no network interface named {interface!r}. Known: {', '.join(known)}")
    if domain not in DOMAINS:
        raise UserError(f"domain must be in [0, {DOMAINS[-1]}], got {domain}")


def is_up(interface: str) -> bool:
    """Whether an interface of this machine is up and has an IPv4 address."""
    name = struct.pack("256s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            fcntl.ioctl(asked, SIOCGIFADDR, name)
            (flags,) = struct.unpack_from("h", fcntl.ioctl(asked, SIOCGIFFLAGS, name), IFNAMSIZ)
        except OSError:
            return False
    return bool(flags & IFF_UP)


class _Domain:
    """A domain of this process: it has one configuration, and ends with its last participant."""

    def __init__(self, interface: str, domain: cyclonedds.domain.Domain) -> None:
        self.interface, self.domain = interface, domain


def _domain(interface: str, number: int) -> _Domain:
    from cyclonedds.domain import Domain

    if (known := _domains.get(number)) is not None:
        if known.interface != interface:
            wanted = f"domain {number} is on interface {known.interface!r} already in this process"
            raise UserError(f"{wanted}, it cannot be on {interface!r} too")
        return known
    is_loopback = interface == LOOPBACK
    config = CONFIG.format(
        interface=interface, multicast=str(not is_loopback).lower(), discovery=KNOCK if is_loopback else ""
    )
    before = _datagram_sockets()
    made = _Domain(interface, Domain(number, config))
    if is_loopback:
        _shut_out(_datagram_sockets() - before)
    _domains[number] = made
    return made


def _datagram_sockets() -> set[int]:
    """Return the descriptors of this process's datagram sockets."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of a descriptor that is no socket, or is closed by now
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as seen:
                    if seen.family == socket.AF_INET and seen.type == socket.SOCK_DGRAM:
                        found.add(int(name))
    return found


def _shut_out(descriptors: set[int]) -> None:
    """Let sockets hear loopback only: cyclonedds binds them to every address (its issue 1923)."""
    for descriptor in descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as one:
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LOOPBACK.encode())
            except OSError as error:
                raise UserError(
                    f"cannot keep DDS on {LOOPBACK!r} (needs Linux 5.7): {error.strerror}"
                ) from None


def _raw(message: Message) -> type:
    """Return the type that cyclonedds is to announce; its instances hold bytes, for us to parse."""
    if message not in _types:
        made: Any = _idl(message)
        made.__init__ = _hold
        made.serialize = _held
        made.deserialize = made.deserialize_key = classmethod(_hold_new)
        _types[message] = made
    return _types[message]


def _hold(self: Any, data: bytes) -> None:  # noqa: ANN401 - an instance of a type made above
    self.data = data


def _hold_new(cls: Any, data: bytes) -> Any:  # noqa: ANN401
    return cls(data)


def _held(self: Any, use_version_2: bool | None = None) -> bytes:  # noqa: ANN401
    return self.data


def _idl(kind: Kind) -> Any:  # noqa: ANN401 - a type annotation as cyclonedds reads it
    from cyclonedds.idl import make_idl_struct, types

    if isinstance(kind, Message):
        name = kind.dds_name.rpartition(".")[2]
        return make_idl_struct(name, kind.dds_name, {field: _idl(one) for field, one in kind.fields.items()})
    if isinstance(kind, Array):
        return types.array[_idl(kind.of), kind.count]
    if isinstance(kind, Sequence):
        return types.sequence[_idl(kind.of)]
    return {TEXT: str, "bool": bool}.get(kind) or getattr(types, kind)
