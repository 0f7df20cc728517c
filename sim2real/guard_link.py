"""The guard as the policy process sees it: a child that has the robot, at the other end of a channel.

Shapes: A commands, J joints (see robot.py); rad, rad/s, s on time.monotonic().
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from robokd.sim2real.ladder import Rung
from robokd.sim2real.log import Sent
from robokd.sim2real.packets import BACKLOG, REASONS, Channel, Kind, pair, told_of
from robokd.sim2real.process import Process
from robokd.sim2real.robot import ImuReading, Odometry, Order
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.stop_key import KEY_S

from robokd import UserError
from robokd.files import read_json

MODULE = "robokd.sim2real.guard"
ACCOUNT = "guard.json"  # in the run's folder
REMEMBERED = 256  # states of the joints: about a second
READY_S = 60.0  # for the guard to find its robot
ANSWER_S = 1.0
POLL_S, HOME_AGAIN_S = 0.5e-3, 0.02
ENDING_S = 15.0  # for the robot to come to rest, and for the account


@dataclass(frozen=True, kw_only=True)
class State:
    """How the robot was, and what the guard did, at one time."""

    captured_s: float
    position: np.ndarray  # (J,) float32 rad
    velocity: np.ndarray  # (J,) float32 rad/s
    anchor: np.ndarray  # (A,) float32 rad, the target that the next command is limited from
    rate: np.ndarray  # (A,) float32 rad/s, how fast that one is moving
    mode: Rung
    token: int  # of the last hand-over or release that the guard has obeyed
    origin: int  # number of the last command that it has taken
    imu: ImuReading | None = None
    order: Order | None = None
    odometry: Odometry | None = None


class GuardLink:
    """Starts the guard and speaks with it. Every call that waits has a time limit.

    `connect` (a function like `packets.pair`) is where a test comes between the two.
    """

    def __init__(
        self,
        words: Sequence[str],
        size: int,
        robot: socket.socket | None = None,
        connect: Callable[[], tuple[socket.socket, socket.socket]] = pair,
        joints: int | None = None,
    ) -> None:
        """Start the guard; `words` are those of deploy, `robot` is what a simulated robot is reached by.

        `size` and `joints` are those of `packets.layouts`.
        """
        ours, theirs = connect()
        link = -1 if robot is None else robot.fileno()
        with theirs:
            said = [str(theirs.fileno()), str(link), *words]
            self.process = Process("guard", MODULE, said, [theirs.fileno(), *([link] if robot else [])])
        if robot is not None:
            robot.close()  # only the guard is to reach the robot
        self.channel = Channel(ours, size, joints)
        self.states: deque[State] = deque(maxlen=REMEMBERED)
        self.sents: list[Sent] = []  # since they were last taken away
        self.report: dict[str, Any] = {}
        self.is_shadow, self.stop_key = False, ""  # see StopKey
        self._is_ready = False
        self._token = self._number = 0
        self._stopped: tuple[str, str] | None = None
        self._folder: Path | None = None  # of the run

    def ready(self) -> None:
        """Wait until the guard has its robot; UserError where it cannot have it."""
        self._until(lambda: self._is_ready, READY_S, "the guard has not found its robot")

    def is_led(self) -> bool:
        """Whether the robot tells where it is to go."""
        self._until(lambda: bool(self.states), ANSWER_S, "the guard does not say how the robot is")
        return self.states[-1].order is not None

    def hand_over(self) -> State:
        """Take the robot where it stands; SafetyStop where no policy may begin there."""
        self.listen()  # makes room: what the guard says next is not to be dropped
        self._token += 1
        self.channel.send(Kind.HANDOVER, token=self._token)
        patience_s = ANSWER_S + KEY_S
        self._until(lambda: self._is_in(Rung.FOLLOW), patience_s, "the guard does not hand the robot over")
        return self.states[-1]

    def home(self, position: np.ndarray, timeout_s: float) -> None:
        """Let the guard move the robot slowly to joint positions (A,) and wait there."""
        self.listen()
        self._token += 1

        def ask() -> None:
            self.channel.send(Kind.HOME, token=self._token, position=position)
            time.sleep(HOME_AGAIN_S)

        # again and again: the guard does not move a robot for a policy that is frozen
        self._until(lambda: self._is_in(Rung.IDLE), timeout_s, "the robot does not get home", ask)

    def command(self, target: np.ndarray) -> int:
        """Send joint targets (A,) and return their number."""
        self._number += 1
        self.channel.send(Kind.COMMAND, number=self._number, target=target)
        return self._number

    def release(self, timeout_s: float = ENDING_S) -> None:
        """Let the guard bring the robot to rest and wait."""
        self._token += 1
        self.channel.send(Kind.RELEASE, token=self._token)
        self._until(lambda: self._is_in(Rung.IDLE), timeout_s, "the guard does not bring the robot to rest")

    def listen(self) -> None:
        """Take what the guard has said; SafetyStop when it has taken the robot away, or is gone."""
        for _ in range(BACKLOG):  # a process that was frozen finds more than it takes at once
            if not self._take():
                break
        if self._stopped:
            kind, message = self._stopped
            if kind == "mistake":
                raise UserError(message)
            if kind == "fault":  # before there was a robot to stop
                raise RuntimeError(message)
            raise SafetyStop(kind, message)
        if not self.channel.is_open:
            fate = self.process.fate()  # which waits until it has written its account
            self._read_account()
            if stop := self.report.get("stop"):
                raise SafetyStop(stop["kind"], stop["message"])
            raise SafetyStop("guard_lost", fate)

    def stop(self, kind: str = "end", message: str = "") -> None:
        """Let the guard stop the robot, take its account and end it. Called on every way out, also twice."""
        patience_s = ENDING_S
        try:
            if self.channel.is_open and self.process.is_alive():
                self.channel.send(Kind.STOP, kind=kind, message=message)
                begun = heard = time.monotonic()
                while self.channel.is_open and not self.report and time.monotonic() < begun + ENDING_S:
                    if self._take():
                        heard = time.monotonic()
                    if time.monotonic() > heard + ANSWER_S:  # it does not even say how the robot is
                        patience_s = 0.0
                        break
                    time.sleep(0.002)
        finally:
            # who is interrupted here leaves a guard that goes on bringing the robot to rest
            self.channel.close()
            self.process.end(patience_s)
            self._read_account()

    def log_into(self, folder: Path) -> None:
        """Let the guard leave its account in the run's folder."""
        self._folder = folder
        self.channel.send(Kind.LOG, folder=str(folder.absolute()))

    def keep_output(self, folder: Path) -> None:
        """Write what the guard printed into the run's folder."""
        self.process.keep_output(folder / "guard_output.txt")

    def _read_account(self) -> None:
        """Read the account that the guard has left, where what it said of it found no room in the channel."""
        if self._folder is not None and not self.report:
            with contextlib.suppress(UserError):
                self.report = read_json(self._folder / ACCOUNT)

    def _is_in(self, mode: Rung) -> bool:
        return bool(self.states) and self.states[-1].token == self._token and self.states[-1].mode == mode

    def _until(
        self, is_done: Callable[[], bool], timeout_s: float, complaint: str,
        meanwhile: Callable[[], None] = lambda: time.sleep(POLL_S),
    ) -> None:  # fmt: skip
        deadline = time.monotonic() + timeout_s
        self.listen()
        while not is_done():
            if time.monotonic() > deadline:
                raise SafetyStop("guard_lost", f"{complaint} within {timeout_s:g} s")
            meanwhile()
            self.listen()

    def _take(self) -> bool:
        """Take what has come; return whether anything had."""
        packets = self.channel.receive()
        for packet in packets:
            row = packet.row
            if packet.kind == Kind.STATE:
                self.states.append(State(
                    captured_s=float(row["captured_s"]), position=row["position"], velocity=row["velocity"],
                    anchor=row["anchor"], rate=row["rate"], mode=Rung(int(row["mode"])),
                    token=int(row["token"]), origin=int(row["origin"]), **told_of(row),
                ))  # fmt: skip
            elif packet.kind == Kind.SENT:
                mask = int(row["reasons"])
                self.sents.append(Sent(
                    origin=int(row["origin"]), sequence=int(row["sequence"]), stamp_s=float(row["stamp_s"]),
                    commanded=row["commanded"], sent=row["sent"], rung=int(row["rung"]),
                    reasons=tuple(name for bit, name in enumerate(REASONS) if mask >> bit & 1),
                ))  # fmt: skip
            elif packet.kind == Kind.READY:
                self._is_ready, self.is_shadow = True, bool(row["shadow"])
                self.stop_key = str(row["stop_key"])
            elif packet.kind == Kind.STOPPED:
                self._stopped = self._stopped or (str(row["kind"]), str(row["message"]))
            elif packet.kind == Kind.REPORT:
                self.report = row
        return bool(packets)
