"""The guard: the process that alone talks to the robot, and has the last word on every command.

    python -m robokd.sim2real.guard <descriptor of the policy's socket> <of the robot's, or -1> key=value …

A command passes: whole -> newer than the last -> finite -> (the first one) within reach -> position,
velocity, acceleration and jerk limits over the guard's own times. If commands stop, the ladder is walked
(ladder.py, rest.py), whatever became of the process that sent them. It ignores Ctrl-C: the policy process
tells it to stop, or is gone. Shapes: A commands, see robot.py; rad, rad/s, s on time.monotonic().
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from robokd.sim2real import safety
from robokd.sim2real.arming import check_arm
from robokd.sim2real.grid import SHORTEST, Grid
from robokd.sim2real.guard_link import ACCOUNT
from robokd.sim2real.interrupts import TERMINAL_SIGNALS
from robokd.sim2real.ladder import Ladder, Patience, Rung
from robokd.sim2real.limiter import Bounds, Limiter
from robokd.sim2real.packets import REASONS, Channel, Kind, Packet, told_values
from robokd.sim2real.process import GUARD_PRIORITY, pin, print_error, prioritise, quantiles
from robokd.sim2real.rest import rest_of
from robokd.sim2real.robot import UNTOLD, Command, JointReading, Robot
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.stop_key import KEY_S, StopKey

from robokd import UserError
from robokd.config import DeployConfig, compose
from robokd.export.bundle import Bundle, read_bundle
from robokd.files import to_json, write_atomic

SPIN_S = 0.3e-3  # the last part of a wait is spun: select wakes late
HOMING_SPEED = 0.15  # share of the velocity limit
HOME_S = 0.5  # that a policy may not have said that it still wants the robot home
LATEST = 2  # control periods from when a command was sent until it is too old to be followed
HOMING_ERROR = 0.2  # rad that a joint may lag behind while it goes home, beside what it rests apart
ANSWER_S = 2.0  # for the policy process to take the last packets


class Guard:
    """One robot, one policy process at the other end of the channel."""

    def __init__(
        self, robot: Robot, channel: Channel, *, bundle: Bundle, config: DeployConfig, key: StopKey
    ) -> None:
        self.robot, self.channel, self.bundle, self.key = robot, channel, bundle, key
        self.action = bundle.action
        self.is_shadow = robot.is_hardware and not config.arm
        self.limiter = Limiter(Bounds.of(self.action, bundle.manifest["robot"], speed=config.guard.speed))
        period = self.action.control_dt
        patience = Patience(late_s=config.guard.late * period, rest_s=config.guard.stop_after_s)
        self.ladder, self.grid, self.rest = Ladder(patience), Grid(period), rest_of(bundle)
        self.tick_s, self.budget_s = 1 / config.guard.rate_hz, safety.joints_budget_s(bundle)
        self.counts: Counter[str] = Counter()
        self.added_s: list[float] = []  # from when the policy sent a command until the robot had it
        self.reading: JointReading | None = None
        self._token = self._origin = self._sequence = 0
        self._pending: tuple[int, np.ndarray, float, float] | None = None  # number, target, sent, arrived
        self._home: np.ndarray | None = None
        self._asked: tuple[int, np.ndarray | None, float] | None = None  # token, home, until when
        self._is_over = self._has_said = False
        self.folder: Path | None = None  # of the run
        self._home_s = 0.0  # when the policy last said that it wants the robot home
        self.longest_gap_s = 0.0  # between two turns of the loop
        # longest that a wait took beyond what it was to take, and when it ended: a guard that is not
        # scheduled cannot guard
        self.overslept_s = 0.0, 0.0

    def run(self) -> None:
        """Serve until the policy lets go, is gone, or the robot must be stopped; then it has been stopped."""
        tick_s = last_s = time.monotonic()
        while not self._is_over:
            self._wait(tick_s)
            now = time.monotonic()
            self.longest_gap_s, last_s = max(self.longest_gap_s, now - last_s), now
            self._hear()
            self._guarded(self._hand_over)
            if (now := time.monotonic()) >= tick_s:
                tick_s = max(tick_s + self.tick_s, now)
                self._guarded(self._feel)
            if not self._guarded(self._act):
                self._is_over = True  # nothing more can be sent: the robot's own timeout has to do

    def report(self) -> dict[str, Any]:
        """Return the guard's account, ready for JSON."""
        changes = [[moment, old.name, new.name, why] for moment, old, new, why in self.ladder.changes]
        kind, message = self.ladder.why
        return {
            "stop": {"kind": kind, "message": message} if kind else None, "rungs": changes[-1000:],
            "commands": self._sequence, "limited": dict(self.counts), "packets": dict(self.channel.counts),
            "added_s": quantiles(self.added_s), "shadow": self.is_shadow,
            "longest_gap_s": self.longest_gap_s, "overslept_s": list(self.overslept_s),
        }  # fmt: skip

    def _guarded(self, part: Callable[[], object]) -> bool:
        """Do a part of the loop; what fails, or cannot be trusted, brings the robot to rest.

        Return whether it was done. Joints that cannot be read do not keep the robot from being slowed.
        """
        try:
            part()
        except SafetyStop as stop:
            self._stop(stop.kind, stop.message)
        except (OSError, RuntimeError) as error:
            self._stop("robot_lost", str(error) or type(error).__name__)
            return False
        except Exception as error:
            print_error()
            self._stop("guard_fault", repr(error))
            return False
        return True

    def _stop(self, kind: str, message: str) -> None:
        self._pending = self._asked = None  # what came before is not followed any more
        self.ladder.stop(time.monotonic(), kind, message)
        self._say_stopped()

    def _say_stopped(self) -> None:
        if not self._has_said:
            kind, message = self.ladder.why
            self._has_said = self.channel.send(Kind.STOPPED, kind=kind, message=message)

    def _wait(self, tick_s: float) -> None:
        """Wait for a packet, a key, or the next thing to do."""
        until, is_exact = tick_s, False
        if self._pending is not None:
            until, is_exact = min(tick_s, self.grid.release_s(self._pending[3])), True
        elif self.ladder.rung in (Rung.SLOW, Rung.REST) or self._home is not None:
            until = min(tick_s, self.grid.due_s)
        begun = time.monotonic()
        if (rest := until - begun) > SPIN_S or not is_exact:
            files = [*([self.channel] if self.channel.is_open else []), *self.key.files()]
            with contextlib.suppress(ValueError):  # of a socket that was closed meanwhile
                select.select(files, [], [], max(rest - SPIN_S * is_exact, 0.0))
        if is_exact:
            while time.monotonic() < until:
                pass
        now = time.monotonic()
        self.overslept_s = max(self.overslept_s, (now - max(until, begun), now))

    def _hear(self) -> None:
        for packet in self.channel.receive():
            arrived = time.monotonic()
            self._guarded(partial(self._take, packet, arrived))
        if not self.channel.is_open:
            self._stop("policy_lost", "the policy process is gone")
        if said := self.key.pressed():
            self._stop("operator", said)

    def _take(self, packet: Packet, arrived_s: float) -> None:
        row = packet.row
        if packet.kind == Kind.COMMAND:
            self._take_command(packet, arrived_s)
        elif packet.kind in (Kind.HANDOVER, Kind.HOME):
            self._ask(int(row["token"]), row["position"] if packet.kind == Kind.HOME else None)
        elif packet.kind == Kind.RELEASE:
            self._token, self._pending, self._home, self._asked = int(row["token"]), None, None, None
            self.ladder.release(arrived_s)
        elif packet.kind == Kind.LOG:
            self.folder = Path(str(row.get("folder", ".")))
        elif packet.kind == Kind.STOP:
            self._stop(str(row.get("kind", "policy")), str(row.get("message", "")))

    def _take_command(self, packet: Packet, arrived_s: float) -> None:
        number, target = int(packet.row["number"]), np.array(packet.row["target"])
        age = arrived_s - packet.sent_s
        if number <= self._origin or not -safety.CLOCK_TOLERANCE_S <= age <= self.grid.period_s:
            self.counts["command_stale"] += 1  # one that does not come in time is one that did not come
            return
        safety.check_command(target)
        if self._home is not None or not self.ladder.command(arrived_s):
            self.counts["command_refused"] += 1
            return
        if self.grid.is_first:
            safety.check_first(target, self.limiter.position, self.action)
        self._origin = number
        self._pending = number, target, packet.sent_s, arrived_s

    def _ask(self, token: int, home: np.ndarray | None) -> None:
        """Take note that the robot is wanted; `_hand_over` gives it as soon as the operator lets it move.

        That it is wanted home is said again and again: a policy that is frozen does not want it.
        """
        self._home_s = now = time.monotonic()
        if token == self._token or (self._asked is not None and token == self._asked[0]):
            return
        if home is not None:
            safety.check_home(home, self.action)
        self.key.begin()
        self._asked = token, home, now + KEY_S

    def _hand_over(self) -> None:
        """Anchor the limits where the robot is and follow from there; refuse what is no place to begin."""
        if self._asked is None or self.ladder.is_stopping:
            return
        token, home, until_s = self._asked
        if not self._is_at_rest():  # limits are anchored at rest: to begin now would be a jolt
            raise SafetyStop("start", "the policy asks for a robot that is moving; it is to release it first")
        if not self.key.is_ready():
            if time.monotonic() > until_s:
                raise SafetyStop("operator", f"nobody held the dead-man key within {KEY_S:g} s")
            return
        reading = self._feel(is_fresh=True)
        now = time.monotonic()
        if UNTOLD != reading.sequence < self._sequence:  # its target is not yet the last one that was sent
            if now > until_s:
                raise SafetyStop("start", f"the robot has not taken the last command within {KEY_S:g} s")
            return
        if home is None:
            self.limiter.begin(safety.start_anchor(reading, self.bundle))
        else:
            self.limiter.begin(safety.held_anchor(reading, self.bundle))
            home = np.clip(home, self.action.position_lower, self.action.position_upper)
        self._token, self._pending, self._home, self._asked = token, None, home, None
        self.grid.begin(now)
        self.ladder.hand_over(now)
        self._feel()

    def _feel(self, *, is_fresh: bool = False) -> JointReading:
        """Read the joints, judge them and pass them on."""
        reading = self.robot.read()
        now = time.monotonic()
        if self.ladder.rung != Rung.IDLE or is_fresh:
            safety.check_age("joints", reading.captured_s, now, self.budget_s)
            safety.check_joints(reading)
        self.reading = reading
        limiter = self.limiter
        self.channel.send(
            Kind.STATE, token=self._token, mode=self.ladder.rung, captured_s=reading.captured_s,
            position=reading.position, velocity=reading.velocity, anchor=limiter.position, rate=limiter.rate,
            origin=self._origin, **told_values(reading),
        )  # fmt: skip
        return reading

    def _act(self) -> None:
        """Send the command that is due, or walk the ladder."""
        now, limiter = time.monotonic(), self.limiter
        if self._home is not None and self.ladder.rung == Rung.FOLLOW:
            if now >= self.grid.release_s(now):
                self._go_home(now)
        elif self._pending is not None and now >= self.grid.release_s(self._pending[3]):
            self._follow(*self._pending, now)
        before = self.ladder.rung
        rung = self.ladder.climb(now, self.grid.due_s, is_at_rest=self._is_at_rest())
        is_due = now >= (
            self.grid.due_s if before == rung else self.grid.stamp_s + SHORTEST * self.grid.period_s
        )
        # at rest the target is told again and again, or the robot's own timeout would let it go
        if rung in (Rung.SLOW, Rung.REST) and is_due:
            stamp, step = self.grid.next(now)
            imu = None if self.reading is None else self.reading.imu
            moved = self.rest.next(limiter, imu, now, step)
            self._send(stamp, step, 0, moved, moved, ())
        if rung == Rung.STOP:
            self._is_over = True
            self._say_stopped()

    def _follow(self, number: int, target: np.ndarray, sent_s: float, arrived_s: float, now: float) -> None:
        """Send what the policy has commanded, within the limits."""
        self._pending = None
        if now - sent_s > LATEST * self.grid.period_s:  # this process was frozen
            self.counts["command_stale"] += 1
            return
        self.rest.begin()
        stamp, step = self.grid.next(now, has_waited=self.grid.release_s(arrived_s) > arrived_s)
        moved, reasons = self.limiter.limit(target, step)
        self.added_s.append(self._send(stamp, step, number, target, moved, reasons) - sent_s)

    def _is_at_rest(self) -> bool:
        return self.rest.is_at_rest(self.limiter)

    def _go_home(self, now: float) -> None:
        """Send the next target of a slow way home."""
        assert self._home is not None
        assert self.reading is not None
        anchor = self.limiter.position
        if now - self._home_s > HOME_S:
            raise SafetyStop("command_timeout", f"the policy has not asked for home for {HOME_S:g} s")
        sag = safety.sag_rad(self.bundle)
        if (lag := (np.abs(self.reading.position - anchor) - sag).max()) > HOMING_ERROR:
            raise SafetyStop("homing", f"a joint lags {lag:.3f} rad behind on the way home: is it blocked?")
        most = HOMING_SPEED * np.array(self.action.velocity) * self.grid.period_s
        target = (anchor + np.clip(self._home - anchor, -most, most)).astype(np.float32)
        stamp, step = self.grid.next(now)
        moved, reasons = self.limiter.limit(target, step)
        self._send(stamp, step, 0, target, moved, reasons)
        if np.abs(self._home - self.limiter.position).max() < safety.TOLERANCE and self._is_at_rest():
            self._home = None
            self.ladder.release(now)

    def _send(
        self, stamp: float, step: float, origin: int, wanted: np.ndarray, moved: np.ndarray,
        reasons: tuple[str, ...],
    ) -> float:  # fmt: skip
        """Send targets to the robot and tell the policy what was sent; return when the robot had them."""
        self._sequence += 1
        command = Command(
            target=moved, stamp_s=stamp, sequence=self._sequence, origin=origin, rung=int(self.ladder.rung),
            step_s=step,
        )  # fmt: skip
        if self.is_shadow:
            had_s, sent, reasons = time.monotonic(), moved, (*reasons, "shadow")
        else:
            sent = self.robot.write(command)
            had_s = time.monotonic()
            if not np.array_equal(sent, moved):
                try:
                    self.limiter.accept(sent, step)
                except ValueError as error:
                    raise RuntimeError(f"the driver says that it has sent no targets: {error}") from None
        if np.abs(moved - wanted).max() > safety.TOLERANCE:
            self.counts.update(reasons)
        mask = sum(1 << REASONS.index(reason) for reason in reasons)
        self.channel.send(
            Kind.SENT, origin=origin, sequence=self._sequence, stamp_s=stamp, commanded=wanted, sent=sent,
            reasons=mask, rung=self.ladder.rung,
        )  # fmt: skip
        if self.is_shadow and self.reading is not None:
            self.limiter.begin(self.reading.position)  # it does not move: the next one begins where it is
        return had_s


def main(argv: list[str]) -> int:
    """Guard a robot; return the exit code."""
    for name in TERMINAL_SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    policy, link, *words = argv
    channel, robot, guard = None, None, None
    try:
        config = compose("deploy", words)
        bundle = read_bundle(config.bundle, config.sha256)
        sizes = bundle.action.size, len(bundle.action.joints)
        channel = Channel(socket.socket(fileno=int(policy)), *sizes)
        pin(config.runtime.cores, 1)
        if config.runtime.fifo:
            prioritise([0], GUARD_PRIORITY)
        robot = config.robot.joints(
            bundle=bundle, link=None if link == "-1" else socket.socket(fileno=int(link))
        )
        check_arm(robot, bundle, config)
        mode = robot.stop_key if robot.is_hardware and config.arm else ""
        with StopKey(mode) as key:
            signal.signal(signal.SIGTERM, lambda *_: key.press("the guard was asked to end"))
            robot.connect()
            guard = Guard(robot, channel, bundle=bundle, config=config, key=key)
            channel.send(Kind.READY, shadow=guard.is_shadow, pid=os.getpid(), stop_key=mode)
            gc.collect()
            gc.freeze()
            gc.disable()
            guard.run()
    except Exception as error:
        print_error()
        if channel is not None:
            kind = "mistake" if isinstance(error, UserError) else "fault"
            channel.send(Kind.STOPPED, kind=kind, message=str(error) or repr(error))
        return 1
    finally:
        try:
            if robot is not None:
                robot.stop()
        finally:
            if guard is not None:
                _say_report(guard)
    return 0


def _say_report(guard: Guard) -> None:
    """Tell the policy process the account, and leave it in the run's folder for whoever is still there.

    In this order: a busy disk takes seconds, and a guard that says nothing for one is given up.
    """
    report = guard.report()
    is_told = guard.channel.is_open and guard.channel.send(Kind.REPORT, **report)
    if guard.folder is not None:
        with contextlib.suppress(OSError):  # a full disk does not keep the robot from being let go
            write_atomic(guard.folder / ACCOUNT, to_json(report))
    deadline = time.monotonic() + ANSWER_S
    while not is_told and guard.channel.is_open and time.monotonic() < deadline:
        time.sleep(0.01)
        is_told = guard.channel.send(Kind.REPORT, **report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
