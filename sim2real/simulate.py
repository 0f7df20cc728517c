"""Simulate: let the simulated robot speak a hardware protocol, for drivers to be tried without hardware.

The process of the simulation is that of `robot=mujoco`; this one stands between it and the wire. An episode
that is over is followed by the next as soon as nobody commands the robot: none jumps while it is commanded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from robokd.sim2real.interrupts import INTERRUPTS, deafen, one_interrupt
from robokd.sim2real.robot import Cameras, Command, Frame, JointReading, Plant, Robot, SimulatedCfg
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.simulated_ends import ENDS, Heard, SimulatedEnd
from robokd.sim2real.stage import create_run, open_to_run

from robokd import UserError, registry
from robokd.export.bundle import Bundle
from robokd.intervals import wilson
from robokd.run import Run, check_root

if TYPE_CHECKING:
    from robokd.deploying import SimulateConfig

STATES_HZ = 250.0
STILL_S = 0.02  # between two pictures of a simulation that stands still


def simulate(config: SimulateConfig, resume: Run | None = None) -> Path:
    """Speak the protocol until Ctrl-C or for so long, and return the path of the stage's summary.

    A simulation that is lost is a SafetyStop, raised after the summary is written.
    """
    bundle = open_to_run(config.bundle, is_hardware=False)
    if not bundle.action.joints:
        why = f"{bundle.path}: its commands are in {', '.join(dict.fromkeys(bundle.action.units))}"
        raise UserError(f"{why}. protocol={config.protocol} has joint positions, in rad or m")
    check_root(config.runs)
    cfg = _simulator(config)
    with one_interrupt():
        run, stand_in, stopped = _serve(config, cfg, bundle, resume)
        report = stand_in.plant.report()
        summary = run.write_summary({
            "sim": bundle.manifest["sim_config"]["part"], "protocol": config.protocol,
            "bundle": str(bundle.path), "bundle_sha256": bundle.sha256, **stand_in.summary(),
            "stop_reason": stopped.kind if stopped else "end", "robot_log": report,
            "frames_rendered": report.get("frames_rendered", 0),
        })  # fmt: skip
    if stopped:
        raise stopped
    return summary


def _serve(
    config: SimulateConfig, cfg: SimulatedCfg, bundle: Bundle, resume: Run | None
) -> tuple[Run, StandIn, SafetyStop | None]:
    """Speak the protocol; return the run, what happened, and what ended it if nobody asked for the end."""
    stopped = None
    with contextlib.ExitStack() as ending:
        end = ENDS[config.protocol](bundle, config.interface, config.domain)
        ending.callback(end.close)
        plant = cfg.plant(bundle=bundle, seed=config.seed)
        ending.callback(plant.stop)
        plant.start()
        joints = cfg.joints(bundle=bundle, link=plant.joints)
        ending.callback(joints.stop)
        cameras = cfg.cameras(bundle=bundle, link=plant.cameras)
        ending.callback(cameras.stop)
        stand_in = StandIn(plant, joints, cameras, end, timeout_s=config.command_timeout_s)
        run = resume or create_run(config, "simulate", bundle)
        try:
            plant.log_into(str(run.path))
            plant.begin(0)
            joints.connect()
            cameras.connect()
            _greet(config, bundle)
            with _until_asked_to_end() as asked:
                stand_in.run(asked, config.duration_s)
        except SafetyStop as stop:
            stopped = stop
        except (ConnectionError, TimeoutError) as error:
            stopped = SafetyStop("robot_lost", f"{error}: this machine is too busy to simulate, or it hangs")
    return run, stand_in, stopped


class StandIn:
    """A simulated robot on the wire: tells states and pictures, obeys, times out, starts afresh."""

    def __init__(
        self, plant: Plant, joints: Robot, cameras: Cameras, end: SimulatedEnd, *, timeout_s: float
    ) -> None:
        self.plant, self.joints, self.cameras, self.end = plant, joints, cameras, end
        self.commands = self.strangers = self.timeouts = self.stops = self.episodes = 0
        self.successes: list[bool] = []
        self._timeout_s = timeout_s
        self._heard_s, self._writer = -np.inf, 0
        self._was_commanded = self._is_alone = False  # in this episode; for longer than the timeout
        self._outcome: bool | None = None
        self._failure: BaseException | None = None
        self._reading: JointReading | None = None

    def run(self, asked: threading.Event, duration_s: float) -> None:
        """Go on until asked to end, or for so many seconds if they are more than 0."""
        eyes = threading.Thread(target=self._show, args=(asked,), daemon=True)
        eyes.start()
        begun_s = due_s = time.monotonic()
        try:
            while not asked.is_set() and not 0 < duration_s < time.monotonic() - begun_s:
                self._tell()
                self._judge()
                due_s = max(due_s + 1 / STATES_HZ, time.monotonic())
                while (rest := due_s - time.monotonic()) > 0:
                    if self.end.wait(rest):
                        for heard in self.end.hear():
                            self._obey(heard)
        finally:
            asked.set()
            eyes.join()
        if self._failure is not None:
            raise self._failure

    def summary(self) -> dict[str, Any]:
        """Return what happened, ready for JSON."""
        return {
            "commands": self.commands, "refused": dict(self.end.refused), "strangers": self.strangers,
            "command_timeouts": self.timeouts, "stops": self.stops, "episodes": self.episodes,
            "success": wilson(self.successes),
        }  # fmt: skip

    def _tell(self) -> None:
        reading = self.joints.read()
        if self._reading is None or reading.captured_s > self._reading.captured_s:
            self._reading = reading
            self.end.tell(reading)

    def _judge(self) -> None:
        """Note the end of an episode and that commands stopped; begin again when all is quiet."""
        now = time.monotonic()
        is_quiet = now - self._heard_s > self._timeout_s
        if is_quiet and not self._is_alone and self._was_commanded:
            self._is_alone = True
            self.timeouts += 1
        if self._outcome is None:
            self._outcome = self.plant.outcome()
            if self._outcome is not None and self._was_commanded:
                self.episodes += 1
                self.successes.append(self._outcome)
                word = "success" if self._outcome else "failure"
                print(
                    f"episode {self.episodes}: {word}, {self.commands} commands so far",
                    file=sys.stderr,
                    flush=True,
                )
        if self._outcome is not None and is_quiet:
            self.plant.begin(self.episodes)
            self._outcome, self._was_commanded, self._is_alone = None, False, False

    def _obey(self, heard: Heard) -> None:
        """Pass a command on; a second writer is obeyed too, as robots do, and counted."""
        now = time.monotonic()
        if heard.writer != self._writer and now - self._heard_s <= self._timeout_s:
            self.strangers += 1
        else:
            self._writer = heard.writer
        target = heard.target
        if target is None:
            self.stops += 1
            target = self._reading.position if self._reading is not None else None
        else:
            self._heard_s, self._was_commanded, self._is_alone = now, True, False
        self.commands += 1
        if target is not None and self._outcome is None:
            self.joints.write(
                Command(target=target, stamp_s=heard.stamp_s, sequence=self.commands, origin=0, rung=0)
            )

    def _show(self, asked: threading.Event) -> None:
        """Pass pictures on, in a thread: a picture must not hold up the joints."""
        newest: dict[str, Frame] = {}
        try:
            while not asked.is_set():
                if (frame := self.cameras.read(STILL_S)) is not None:
                    newest[frame.camera] = frame
                    self.end.show(frame)
                elif self._outcome is not None:
                    for name, still in newest.items():
                        newest[name] = dataclasses.replace(still, captured_s=time.monotonic())
                        self.end.show(newest[name])
        except BaseException as error:
            self._failure = error
            asked.set()


def _simulator(config: SimulateConfig) -> SimulatedCfg:
    try:
        return registry.find("robot", "mujoco")(
            space=config.space, command_timeout_s=config.command_timeout_s
        )
    except ValueError as error:
        raise UserError(str(error)) from None


def _greet(config: SimulateConfig, bundle: Bundle) -> None:
    """Say where the robot is and how to reach it."""
    words = [
        f"robot={config.protocol}",
        f"robot.interface={config.interface}",
        f"robot.domain={config.domain}",
    ]
    if config.protocol == "unitree":
        motors = ",".join(f"{name}:{number}" for number, name in enumerate(bundle.action.names))
        words.append(f"robot.motors=[{motors}]")
    words.append(f"robot.command_timeout_s={config.command_timeout_s:g}")
    if not all(one["flickers"] for one in bundle.manifest["statistics"].values()):
        words.append("mismatch=warn")  # cameras without noise repeat a picture, as one that is frozen does
    reach = f"robokd deploy bundle={bundle.path} {' '.join(words)} …"
    print(f"the simulated robot is on the wire; Ctrl-C ends it. {reach}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _until_asked_to_end() -> Iterator[threading.Event]:
    """Let INTERRUPTS ask for the end instead of interrupting; after the block nothing disturbs the end."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    for number in INTERRUPTS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, lambda *_: asked.set())
    try:
        yield asked
    finally:
        deafen()
