"""The simulated robot: its process (mujoco_host.py), its joints' driver and its cameras.

They share nothing but sockets, as a robot and its computer do. This side needs neither torch nor MuJoCo.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from robokd.sim2real.packets import BACKLOG, Channel, Kind, pair, told_of
from robokd.sim2real.process import Process
from robokd.sim2real.robot import Command, Frame, JointReading
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.wire import Say, Wire, frame_layout

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.export.manifest import IMPORTED
from robokd.registry import plugins, register

HOST = "robokd.sim2real.mujoco_host"
REPORT = "robot_log.json"
LEAST_PATIENCE_S = 5.0  # to write that report
NEEDS = ("torch", "tensordict", "mujoco")  # packages, besides those of a robot's computer
CURE = "pip install 'robokd[train,mujoco]'"


@register("robot", "mujoco")
@dataclass(kw_only=True)
class MujocoRobotCfg:
    """A simulated robot: the bundle's own task and simulator, in real time, in a process of its own."""

    space: str = "seen"  # where episodes are drawn from: seen, unseen or unseen_all
    start_timeout_s: float = 120.0  # to build and compile the simulation
    reply_timeout_s: float = 1.0  # for every other answer
    command_timeout_s: float = 0.5  # without a command, after which the robot holds still by itself

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "reply_timeout_s", "command_timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"robot.{name} must be > 0 s, got {getattr(self, name)}")

    def joints(self, *, bundle: Bundle, link: socket.socket | None) -> MujocoJoints:
        """See RobotCfg.joints."""
        return MujocoJoints(self, bundle, _linked(link))

    def cameras(self, *, bundle: Bundle, link: socket.socket | None) -> MujocoCameras:
        """See RobotCfg.cameras."""
        return MujocoCameras(bundle, _linked(link))

    def plant(self, *, bundle: Bundle, seed: int) -> MujocoPlant:
        """See SimulatedCfg.plant."""
        return MujocoPlant(self, bundle, seed)


class MujocoJoints:
    """The joints' driver: the robot says all the time how it is, and takes targets."""

    is_hardware = False
    stop_key = ""

    def __init__(self, cfg: MujocoRobotCfg, bundle: Bundle, link: socket.socket) -> None:
        self.command_timeout_s: float | None = cfg.command_timeout_s
        self._timeout_s = cfg.reply_timeout_s
        self._channel = Channel(link, bundle.action.size, len(bundle.action.joints))
        self._newest: JointReading | None = None

    def connect(self) -> None:
        """See Robot.connect; the plant has compared the bundle before."""
        for _ in range(BACKLOG):
            self._take()
        self._newest = None  # what was said before anybody listened is old, and the newest had no room
        self.read()

    def read(self) -> JointReading:
        """See Robot.read."""
        self._take()
        if self._newest is None:
            select.select([self._channel], [], [], self._timeout_s)
            self._take()
        if not self._channel.is_open:
            raise ConnectionError("the simulated robot has closed the connection")
        if self._newest is None or time.monotonic() - self._newest.captured_s > self._timeout_s:
            raise TimeoutError(f"the simulated robot has said nothing for {self._timeout_s:g} s")
        return self._newest

    def write(self, command: Command) -> np.ndarray:
        """See Robot.write."""
        is_sent = self._channel.send(
            Kind.TARGET, stamp_s=command.stamp_s, sequence=command.sequence, origin=command.origin,
            rung=command.rung, step_s=command.step_s, target=command.target,
        )  # fmt: skip
        if not is_sent:
            raise ConnectionError("the simulated robot takes no commands")
        return command.target.copy()

    def stop(self) -> None:
        """See Robot.stop: nobody's targets follow, and the robot holds the last one."""
        self._channel.close()

    def _take(self) -> None:
        for packet in self._channel.receive():
            if packet.kind == Kind.JOINTS:
                row = packet.row
                self._newest = JointReading(
                    captured_s=float(row["captured_s"]), position=row["position"], velocity=row["velocity"],
                    target=row["target"], sequence=int(row["sequence"]), strangers=int(row["strangers"]),
                    **told_of(row),
                )  # fmt: skip


class MujocoCameras:
    """The cameras: the robot's process sends every new picture."""

    def __init__(self, bundle: Bundle, link: socket.socket) -> None:
        self._wire = Wire(link)
        self._names = list(bundle.cameras)
        self._layouts = [frame_layout(spec) for spec in bundle.cameras.values()]

    def connect(self) -> None:
        """See Cameras.connect; the plant has compared the bundle before."""

    def read(self, timeout_s: float) -> Frame | None:
        """See Cameras.read."""
        if not select.select([self._wire.socket], [], [], timeout_s)[0]:
            return None
        kind, number, payload = self._wire.receive(timeout_s + 1.0)
        if kind != Say.FRAME or number >= len(self._names):
            raise ConnectionError(f"the simulated robot's cameras say {kind.name} {number}")
        row = np.frombuffer(payload, self._layouts[number], 1)[0]
        return Frame(camera=self._names[number], captured_s=float(row["captured_s"]), image=row["image"])

    def stop(self) -> None:
        """See Cameras.stop."""
        self._wire.close()


class MujocoPlant:
    """The robot's process. It outlives whoever drives it, until this end lets it go."""

    def __init__(self, cfg: MujocoRobotCfg, bundle: Bundle, seed: int) -> None:
        self._cfg, self._bundle, self._seed = cfg, bundle, seed
        self.alone_s = cfg.command_timeout_s + 0.2
        self._process: Process | None = None
        self._wire: Wire | None = None
        self._folder: Path | None = None
        self._outcome: bool | None = None
        self._is_ready = False
        self._report: dict[str, Any] = {}

    def start(self) -> None:
        """See Plant.start."""
        check_simulated(self._bundle.manifest, self._bundle.path)
        check_installed()
        ours, theirs = socket.socketpair()
        self.joints, joints = pair()
        self.cameras, cameras = socket.socketpair()
        self._wire = Wire(ours)
        ends = (theirs, joints, cameras)
        numbers = [end.fileno() for end in ends]
        typed = sorted(plugins())  # of which one may be the bundle's task
        self._process = Process("simulated robot", HOST, [*map(str, numbers), *typed], numbers)
        self.pid = self._process.pid
        for end in ends:
            end.close()
        parts = (f"{kind}_config" for kind in ("task", "sim", "renderer", "corrupt"))
        setup = {
            "bundle": str(self._bundle.path),
            **{
                name: self._bundle.manifest[name]
                for name in (*parts, "action", "observations", "cameras", "robot")
            },
            "seed": self._seed, "space": self._cfg.space, "command_timeout_s": self._cfg.command_timeout_s,
        }  # fmt: skip
        self._send(Say.OPEN, payload=json.dumps(setup).encode())
        self._receive(Say.READY, self._cfg.start_timeout_s)
        self._is_ready = True

    def log_into(self, folder: str) -> None:
        """See Plant.log_into."""
        self._folder = Path(folder)
        report = str((self._folder / REPORT).absolute())
        self._send(Say.LOG, payload=json.dumps({"report": report}).encode())

    def begin(self, episode: int) -> None:
        """See Plant.begin."""
        self._outcome = None
        self._send(Say.BEGIN, sequence=episode)
        self._receive(Say.BEGUN, self._cfg.reply_timeout_s)

    def outcome(self) -> bool | None:
        """See Plant.outcome."""
        assert self._wire is not None
        while self._outcome is None and select.select([self._wire.socket], [], [], 0)[0]:
            self._outcome = bool(json.loads(self._receive(Say.OVER, self._cfg.reply_timeout_s))["is_success"])
        return self._outcome

    def stop(self) -> None:
        """See Plant.stop: it holds still, writes its log and exits, or is killed."""
        patience_s = max(self._cfg.reply_timeout_s, LEAST_PATIENCE_S)
        try:
            if self._process and self._wire and self._is_ready and self._process.is_alive():
                self._is_ready = False
                try:
                    self._report = self._ask_report(self._wire)
                except OSError:  # who does not answer will not end by itself either
                    patience_s = 0.0
        finally:
            if self._wire is not None:
                self._wire.close()
            if self._process is not None:
                self._process.end(patience_s)
                if self._folder is not None:
                    with contextlib.suppress(OSError):  # a full disk
                        self._process.keep_output(self._folder / "robot_output.txt")

    def report(self) -> dict[str, Any]:
        """See Plant.report; empty where the process died before it could say."""
        return self._report

    def _ask_report(self, wire: Wire) -> dict[str, Any]:
        wire.send(Say.STOP, timeout_s=self._cfg.reply_timeout_s)
        while True:  # what it said before may come first
            kind, _, payload = wire.receive(self._cfg.reply_timeout_s)
            if kind == Say.REPORT:
                return json.loads(payload)

    def _send(self, kind: Say, sequence: int = 0, payload: bytes = b"") -> None:
        if self._wire is None:
            raise RuntimeError("the simulated robot is not started")
        try:
            self._wire.send(kind, sequence, payload, timeout_s=self._cfg.reply_timeout_s)
        except OSError as error:
            self._fail(error)

    def _receive(self, wanted: Say, timeout_s: float) -> bytearray:
        assert self._wire is not None
        try:
            kind, _, payload = self._wire.receive(timeout_s)
            while kind == Say.OVER != wanted:  # of the episode before
                kind, _, payload = self._wire.receive(timeout_s)
        except OSError as error:
            self._fail(error)
        if kind == Say.FAILED:
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
        fate = self._process.fate(self._cfg.reply_timeout_s)
        if self._is_ready:
            self._is_ready = self._process.is_alive()
            raise SafetyStop("robot_lost", fate) from error
        raise RuntimeError(fate) from error


def check_simulated(manifest: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a bundle of a policy that was imported: another suite has simulated its robot."""
    if manifest["sim_config"].get("part") == IMPORTED:
        cure = "deploy it with robot=ros2, unitree or replay"
        raise UserError(f"bundle {path} was imported: there is no simulation of it; {cure}")


def check_fixed(bundle: Bundle) -> None:
    """Refuse a robot without joints, and one whose base floats: commands do not tell how its joints move."""
    if not bundle.action.joints:
        raise UserError(f"{bundle.path}: a body that flies has no joints, whose motion is what is looked at")
    if bundle.manifest["robot"]["sag"] is not None:
        why = "its joints bear a body that floats, and what they do depends on where that is"
        raise UserError(f"{bundle.path}: {why}, which no log tells")


def check_installed() -> None:
    """Refuse where what the robot's process needs is not installed."""
    for package in NEEDS:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"the simulated robot needs the package {package!r}, which is not installed: {CURE}"
            )


def _linked(link: socket.socket | None) -> socket.socket:
    assert link is not None, "a simulated robot is reached by the sockets of its plant"
    return link
