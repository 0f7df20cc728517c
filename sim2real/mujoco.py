"""The simulated robot: a driver for `mujoco_host.py`, the process that runs the bundle's task in real time.

The two share nothing but a socket, as a robot and its computer do. This side needs neither torch nor MuJoCo.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from robokd.sim2real.robot import JOINT_CHANNELS, Reading
from robokd.sim2real.wire import Kind, Wire, command_layout, reading_layout

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.registry import register

HOST = "robokd.sim2real.mujoco_host"
REPORT = "robot_log.json"
OUTPUT = "robot_output.txt"


@register("robot", "mujoco")
@dataclass(kw_only=True)
class MujocoRobotCfg:
    """A simulated robot: the bundle's own task in MuJoCo, in real time, in a process of its own."""

    space: str = "seen"  # where episodes are drawn from: seen, unseen or unseen_all
    start_timeout_s: float = 120.0  # to build and compile the simulation
    reply_timeout_s: float = 1.0  # for every other answer
    command_timeout_s: float = 0.5  # without a command, after which the robot records that it is left alone

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "reply_timeout_s", "command_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"robot.{name} must be > 0 s, got {getattr(self, name)}")

    def build(self, *, bundle: Bundle, seed: int) -> MujocoRobot:
        """Return the driver; nothing is started before `connect`."""
        return MujocoRobot(self, bundle, seed)


class MujocoRobot:
    """The EpisodicRobot protocol over a child process, which never outlives it."""

    def __init__(self, cfg: MujocoRobotCfg, bundle: Bundle, seed: int) -> None:
        self._cfg, self._bundle, self._seed = cfg, bundle, seed
        self._folder: Path | None = None  # of the run
        # what the process prints; it goes to the folder once there is one
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the driver lives
        self._reading = reading_layout(bundle.action, bundle.cameras)
        self._command = np.zeros(1, command_layout(bundle.action))
        self._wire: Wire | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._reads = self._writes = 0
        self._report: dict[str, Any] = {}

    def connect(self) -> None:
        """Start the process, wait until its simulation runs; UserError where it does not fit the bundle."""
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours)
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", HOST, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output,
                env={**os.environ, **one_thread},
            )  # fmt: skip
        parts = (f"{kind}_config" for kind in ("task", "sim", "renderer", "corrupt"))
        setup = {
            "bundle": str(self._bundle.path),
            **{name: self._bundle.manifest[name] for name in (*parts, "action", "observations", "cameras")},
            "seed": self._seed, "space": self._cfg.space, "command_timeout_s": self._cfg.command_timeout_s,
        }  # fmt: skip
        self._send(Kind.OPEN, payload=json.dumps(setup).encode())
        self._receive(Kind.READY, self._cfg.start_timeout_s)
        self._is_ready = True

    def log_into(self, folder: Path) -> None:
        """See Robot.log_into."""
        self._folder = folder
        report = str((folder / REPORT).absolute())
        self._send(Kind.LOG, payload=json.dumps({"report": report}).encode())

    def begin(self, episode: int) -> None:
        """See EpisodicRobot.begin."""
        self._send(Kind.BEGIN, sequence=episode)
        self._receive(Kind.BEGUN, self._cfg.reply_timeout_s)

    def read(self) -> Reading:
        """See Robot.read."""
        self._reads += 1
        self._send(Kind.READ, sequence=self._reads)
        row = np.frombuffer(self._receive(Kind.READING, self._cfg.reply_timeout_s), self._reading)[0]
        channels = {name: row[name] for name in (*JOINT_CHANNELS, *self._bundle.cameras)}
        captured = dict.fromkeys(JOINT_CHANNELS, float(row["joints_s"]))
        captured |= {name: float(row[f"{name}_s"]) for name in self._bundle.cameras}
        return Reading(
            sequence=self._reads, channels=channels, captured_s=captured, is_done=bool(row["is_done"]),
            is_success=bool(row["is_success"]),
        )  # fmt: skip

    def write(self, command: np.ndarray) -> np.ndarray:
        """See Robot.write."""
        self._writes += 1
        self._command["target"] = command
        self._send(Kind.COMMAND, sequence=self._writes, payload=self._command.tobytes())
        return self._command["target"][0].copy()

    def stop(self) -> None:
        """End the process: it holds still, writes its log and exits, or is killed."""
        process, wire, patience_s = self._process, self._wire, self._cfg.reply_timeout_s
        try:
            if process is not None and wire is not None and self._is_ready and process.poll() is None:
                self._is_ready = False
                try:
                    self._report = self._ask_report(wire)
                except OSError:  # who does not answer will not end by itself either
                    patience_s = 0.0
        finally:
            if wire is not None:
                wire.close()
            if process is not None:
                _end(process, patience_s)
            if self._folder is not None and (printed := self._printed()):
                (self._folder / OUTPUT).write_bytes(printed)

    def report(self) -> dict[str, Any]:
        """See EpisodicRobot.report; empty where the process died before it could say."""
        return self._report

    def _ask_report(self, wire: Wire) -> dict[str, Any]:
        wire.send(Kind.STOP, timeout_s=self._cfg.reply_timeout_s)
        while True:  # an answer to what was asked before may come first
            kind, _, payload = wire.receive(self._cfg.reply_timeout_s)
            if kind == Kind.REPORT:
                return json.loads(payload)

    def _send(self, kind: Kind, sequence: int = 0, payload: bytes = b"") -> None:
        if self._wire is None:
            raise RuntimeError("the simulated robot is not connected")
        try:
            self._wire.send(kind, sequence, payload, timeout_s=self._cfg.reply_timeout_s)
        except OSError as error:
            self._fail(error)

    def _receive(self, wanted: Kind, timeout_s: float) -> bytearray:
        assert self._wire is not None
        try:
            kind, _, payload = self._wire.receive(timeout_s)
        except OSError as error:
            self._fail(error)
        if kind == Kind.FAILED:
            content = json.loads(payload)
            raise (UserError if content["is_user_error"] else RuntimeError)(content["message"])
        if kind != wanted:
            raise RuntimeError(f"the simulated robot answers {kind.name}, wanted {wanted.name}")
        return payload

    def _fail(self, error: OSError) -> NoReturn:
        """Say what became of the process."""
        assert self._process is not None
        if isinstance(error, TimeoutError) and not self._is_ready:
            limit = self._cfg.start_timeout_s
            raise UserError(
                f"the simulated robot was not ready within robot.start_timeout_s={limit:g}"
            ) from None
        if isinstance(error, TimeoutError):
            raise RuntimeError(
                f"the simulated robot (process {self._process.pid}) does not answer in time"
            ) from error
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._cfg.reply_timeout_s)
        code = self._process.returncode
        how = (
            f"was killed by {signal.Signals(-code).name}"
            if code is not None and code < 0
            else f"exited with {code}"
        )
        lines = self._printed().decode(errors="replace").strip().splitlines() or ["nothing"]
        raise RuntimeError(f"the simulated robot {how}; the last it said: {lines[-1]}") from error

    def _printed(self) -> bytes:
        self._output.seek(0)
        return self._output.read()


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait for a process that has been told to end, and kill it if it does not."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
