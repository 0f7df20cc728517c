"""The process of the simulated robot: one world of the bundle's own task, stepped in real time.

    python -m robokd.sim2real.mujoco_host <descriptors of three sockets: control, joints, cameras> <plugin> …

It applies joint targets as they arrive and holds the last one, says by itself how its joints are and sends
every new picture, and keeps an account of its own (robot_account.py). It ignores Ctrl-C and SIGTERM. When
whoever drives it is gone it goes on by itself: it ends when both the control line and the joints' are closed.
The one place on the robot's side that needs torch and the simulator.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import select
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robokd.sim2real.body import Body, check_fits, one_world
from robokd.sim2real.foreign_world import ForeignWorld
from robokd.sim2real.mujoco import check_simulated
from robokd.sim2real.packets import Channel, Kind
from robokd.sim2real.rest import levelling, sinking
from robokd.sim2real.robot import Command
from robokd.sim2real.robot_account import RobotAccount
from robokd.sim2real.wire import Outbox, Say, Wire, frame_layout, message
from tensordict import TensorDict

from robokd import UserError
from robokd.config import PlayConfig, load
from robokd.env.native import NativeEnv
from robokd.files import write_atomic
from robokd.memory import peak_rss_mb
from robokd.registry import load_plugins
from robokd.specs import CHANNELS, ActionSpec, from_dict

OPEN_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 1.0
PHYSICS_DT = 2e-3  # s, at most: a robot's body does not wait for the policy's simulation
SPEAK_S = 4e-3  # how often the joints are told
TOLD = {  # channel -> the fields of a JOINTS that hold it and its time
    "gyro": ("gyro", "imu_s"), "gravity": ("gravity", "imu_s"), "velocity_command": ("order", "order_s"),
    "velocity": ("moving", "odometry_s"),
}  # fmt: skip
SETTLE_S = 1.0  # after the last command between episodes, until the world stands still


class World:
    """The Body protocol over one world of a task of ours."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.env = build_env(setup)
        env = self.env
        self.joints, self.sim = env.action_spec.joints, str(setup["sim_config"]["part"])
        self.cameras = {name: env.camera_specs[name] for name in setup["cameras"]}
        self.dt, self.substeps = env.sim.physics_dt, env.substeps
        model = env.sim.model
        self._position_ids = [int(model.joint(name).qposadr[0]) for name in self.joints]
        self._velocity_ids = [int(model.joint(name).dofadr[0]) for name in self.joints]
        self._hover = np.array(env.task.start_envelope()[0]) if env.action_spec.flies else None
        specs = {name: env.obs_specs[name] for name in env.groups if name in env.obs_specs}
        self._places = {  # of each channel: its group, and where in it
            term: (name, where)
            for name, spec in specs.items() for term, where in spec.slices().items() if term in CHANNELS
        }  # fmt: skip
        self._groups = list(specs)
        self.begin(0)
        self.step(self.hold())  # compiles what is compiled on first use

    def begin(self, episode: int) -> None:
        """See Body.begin."""
        self.steps, self._has_diverged = 0, False
        self._take(self.env.reset(torch.tensor([episode])))

    @property
    def delay_s(self) -> float:
        """See Body.delay_s: the task's parameter, if it has that."""
        drawn = self.env.state.episode.get("delay_s", None)
        return 0.0 if drawn is None else float(drawn[0, 0])

    @property
    def frames_rendered(self) -> int:
        """See Body.frames_rendered."""
        return self.env.frames_rendered

    def hold(self) -> np.ndarray:
        """See Body.hold."""
        return self.env.state.command[0].numpy().copy()

    def step(self, target: np.ndarray) -> bool:
        """See Body.step."""
        env, state = self.env, self.env.state
        # as in training, where what changes with time is of the step's end
        if self.steps % self.substeps == 0:
            state.step = state.step + 1
        state.command = torch.from_numpy(target)[None]
        env.sim.step(env.task.control(state.command, state), 1)
        self._has_diverged |= bool(env.sim.diverged()[0])  # the engine resets such a world in silence
        self.steps += 1
        if is_control_step := self.steps % self.substeps == 0:
            # timers, goal and time are judged when training judges them, not at every substep
            env.task.progress(state, self.substeps * self.dt)
            self._take(env.observe())
        else:
            self._feel({name: env.task.observe(name, state) for name in self._groups})
        return is_control_step

    def sense(self) -> dict[str, np.ndarray]:
        """See Body.sense."""
        return self._sensed

    def fend(self, target: np.ndarray) -> np.ndarray:
        """See Body.fend: joints hold, and the flight controller levels the body and sinks."""
        if self._hover is None or "gravity" not in self._sensed:
            return target
        asked = levelling(self._sensed["gravity"], sinking(self._hover))
        spec = self.env.action_spec
        return np.clip(asked, spec.position_lower, spec.position_upper).astype(np.float32)

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """See Body.truth."""
        get = self.env.sim.get
        return get("qpos")[0, self._position_ids].numpy(), get("qvel")[0, self._velocity_ids].numpy()

    def is_success(self) -> bool:
        """See Body.is_success."""
        return bool(self.env.task.success(self.env.state)[0]) and not self._has_diverged

    def is_over(self) -> bool:
        """See Body.is_over."""
        env = self.env
        if self._has_diverged or self.steps % self.substeps:
            return self._has_diverged
        is_late = int(env.state.step[0]) >= env.max_episode_length
        return is_late or bool(env.task.terminated(env.state)[0])

    def _take(self, observations: TensorDict) -> None:
        self._feel({name: observations[name] for name in self._groups})
        self.pictures = {name: observations[name][0].numpy() for name in self.cameras}
        eyes = self.env.eyes
        self.ages_s = {name: float(eyes.ages_s[name][0]) for name in self.cameras} if eyes else {}

    def _feel(self, groups: dict[str, torch.Tensor]) -> None:
        """Keep what the sensors give, of the 1-D groups as they are now."""
        rows = {name: value[0].numpy() for name, value in groups.items()}
        self._sensed = {term: rows[name][where] for term, (name, where) in self._places.items()}


def open_body(setup: dict[str, Any]) -> Body:
    """Return one world of the bundle's task, by whoever simulates that; UserError where it does not fit."""
    task = _saved(setup).task
    return ForeignWorld(setup, task) if hasattr(task, "suite") else World(setup)


def build_env(setup: dict[str, Any]) -> NativeEnv:
    """Return one world of the bundle's task; UserError where it is no longer what the policy was made for."""
    config = _saved(setup)
    if suite := getattr(config.task, "suite", None):
        why = f"bundle {setup['bundle']} is of a task of {suite}"
        raise UserError(f"{why}: there is no model of its robot for MuJoCo")
    env = config.task.build(
        sim=config.sim, renderer=config.renderer, corrupt=config.corrupt,
        setup=one_world(setup, tuple(dict.fromkeys(("proprio", *setup["observations"], *setup["cameras"])))),
    )  # fmt: skip
    check_fits(setup, env)
    return env


def _saved(setup: dict[str, Any]) -> PlayConfig:
    """Return the bundle's task and what simulates it, as they were saved; physics in steps of our own."""
    check_simulated(setup, setup["bundle"])
    parts = {name: setup[f"{name}_config"] for name in ("task", "sim", "renderer", "corrupt")}
    trained = parts["sim"]["physics_dt"]
    parts["sim"] = {**parts["sim"], "physics_dt": trained / math.ceil(trained / PHYSICS_DT - 1e-9)}
    return load("play", {"run": setup["bundle"], **parts})


class Host:
    """Steps the world on absolute deadlines, speaks of it, and listens in between."""

    def __init__(
        self, control: Wire, joints: Channel, cameras: socket.socket, world: Body, account: RobotAccount
    ) -> None:
        self.control, self.joints, self.world, self.account = control, joints, world, account
        self.pictures = Outbox(cameras)
        self._frames = [np.zeros(1, frame_layout(spec)) for spec in world.cameras.values()]
        self._is_running, self._is_controlled = False, True
        self._begun_s = self._spoken_s = time.monotonic()  # of the substep due next; of what was last said
        self._target = world.hold()
        self._coming: deque[tuple[float, np.ndarray]] = deque()  # when they are felt, and targets
        account.begin(-1, self._begun_s, self._target)  # before the first episode, it may be sent home
        self._sequence, self._live_until_s = 0, 0.0  # of the last command; see _is_live
        self.report: Path | None = None  # where the account is to be written
        self._answers: dict[Say, Callable[[int, bytearray], None]] = {
            Say.BEGIN: self._begin,
            Say.LOG: self._log,
        }

    def serve(self) -> None:
        """Run until told to stop, or until nobody is left."""
        while self._is_controlled or self.joints.is_open:
            now = time.monotonic()
            due_s = self._begun_s + self.world.dt if self._is_live() else self._spoken_s + SPEAK_S
            listening = [self.control.socket] if self._is_controlled else []
            listening += [self.joints] if self.joints.is_open else []
            ready, _, _ = select.select(listening, [], [], max(due_s - now, 0.0))
            # physics first: what comes after a deadline comes after what was due then
            self._catch_up()
            self.account.watch(time.monotonic())
            self.pictures.pump()
            if not self._is_live() and time.monotonic() >= self._spoken_s + SPEAK_S:
                self._begun_s = time.monotonic()
                self._say_joints()
            self._take_commands()
            if self.control.socket in ready and not self._obey():
                return

    def _obey(self) -> bool:
        """Do what the control line asks; return whether to go on."""
        try:
            kind, sequence, payload = self.control.receive(SEND_TIMEOUT_S)
        except ConnectionError:
            self._is_controlled = False
            return True
        if kind == Say.STOP:
            return False
        self._answers[kind](sequence, payload)
        return True

    def _is_live(self) -> bool:
        """Whether the world moves: in an episode, and for a while after each command: it may be sent home."""
        return self._is_running or time.monotonic() < self._live_until_s

    def _catch_up(self) -> None:
        """Do the substeps whose time is over; what cannot be made up within a control step is lost time."""
        world, account = self.world, self.account
        while self._is_live() and (late := time.monotonic() - self._begun_s - world.dt) >= 0:
            if late > world.dt * world.substeps:
                self._begun_s += late
                account.lose(late)
            # a command counts from the substep's beginning that is nearest to when it is felt
            while self._coming and self._coming[0][0] <= self._begun_s + world.dt / 2:
                _, self._target = self._coming.popleft()
            self._begun_s += world.dt
            if account.is_left:
                self._target = world.fend(self._target)
            has_seen = world.step(self._target)
            if self._is_running:
                account.measure(*world.truth(), self._begun_s, late)
            if self._is_running and world.is_over():
                self._is_running = False
                is_success = world.is_success()
                account.end(is_success)
                with contextlib.suppress(OSError):  # who drives it may be gone; the guard is still there
                    self.control.send_json(Say.OVER, {"is_success": is_success}, timeout_s=SEND_TIMEOUT_S)
            if self._begun_s - self._spoken_s >= SPEAK_S - world.dt / 2:
                self._say_joints()
            if has_seen:
                self._show()

    def _say_joints(self) -> None:
        sensed = self.world.sense()
        self._spoken_s = self._begun_s
        nothing = np.zeros(0, np.float32)
        position, velocity = (sensed.get(name, nothing) for name in ("joint_pos", "joint_vel"))
        told: dict[str, Any] = {}
        for name, (field, moment) in TOLD.items():
            if name in sensed:
                told |= {field: sensed[name], moment: self._begun_s}
        self.joints.send(
            Kind.JOINTS, captured_s=self._begun_s, position=position, velocity=velocity,
            target=self._coming[-1][1] if self._coming else self._target, sequence=self._sequence, **told,
        )  # fmt: skip

    def _show(self) -> None:
        for place, (name, frame) in enumerate(zip(self.world.cameras, self._frames, strict=True)):
            frame["image"], frame["captured_s"] = (
                self.world.pictures[name],
                self._begun_s - self.world.ages_s[name],
            )
            self.pictures.offer(place, message(Say.FRAME, place, frame.tobytes()))

    def _begin(self, episode: int, _: bytearray) -> None:
        self._take_commands()
        self.world.begin(episode)
        gc.collect()
        self._target = self.world.hold()
        self._coming.clear()
        self._is_running = True
        self._begun_s = time.monotonic()
        self.account.begin(episode, self._begun_s, self._target)
        self._say_joints()
        self._show()
        self.control.send(Say.BEGUN, episode, timeout_s=SEND_TIMEOUT_S)

    def _log(self, _: int, payload: bytearray) -> None:
        self.report = Path(json.loads(payload)["report"])

    def summary(self) -> dict[str, Any]:
        """Return the account of the robot and of its process."""
        packets = dict(self.joints.counts)
        return {
            **self.account.summary(), "sim": self.world.sim, "packets": packets,
            "peak_rss_mb": peak_rss_mb(), "frames_rendered": self.world.frames_rendered,
        }  # fmt: skip

    def _take_commands(self) -> None:
        for packet in self.joints.receive():
            if packet.kind != Kind.TARGET:
                continue
            arrived_s, row = time.monotonic(), packet.row
            command = Command(
                target=np.array(row["target"]), stamp_s=float(row["stamp_s"]), sequence=int(row["sequence"]),
                origin=int(row["origin"]), rung=int(row["rung"]), step_s=float(row["step_s"]),
            )  # fmt: skip
            self._sequence = command.sequence
            self.account.command(command, arrived_s)
            if np.isfinite(command.target).all():  # a drive would refuse it too
                self._coming.append((arrived_s + self.world.delay_s, command.target))
                self._live_until_s = arrived_s + SETTLE_S


def main(argv: list[str]) -> int:
    """Serve whoever is at the other ends of the sockets; return the exit code."""
    for name in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    torch.set_num_threads(1)
    control, joints, cameras = (socket.socket(fileno=int(one)) for one in argv[:3])
    wire, host = Wire(control), None
    try:
        _, _, payload = wire.receive(OPEN_TIMEOUT_S)
        setup = json.loads(payload)
        load_plugins(argv[3:])  # a person typed them
        with torch.no_grad():
            world = open_body(setup)
            spec = from_dict(ActionSpec, setup["action"])
            account = RobotAccount(spec, setup["robot"], setup["command_timeout_s"])
            line = Channel(joints, spec.size, len(spec.joints))
            host = Host(wire, line, cameras, world, account)
            gc.collect()
            gc.freeze()
            gc.disable()
            wire.send(Say.READY, timeout_s=SEND_TIMEOUT_S)
            host.serve()
        wire.send_json(Say.REPORT, host.summary(), timeout_s=SEND_TIMEOUT_S)
    except OSError:
        return 0  # the deployment is gone: there is nobody to tell
    except Exception as error:
        traceback.print_exc()
        content = {"is_user_error": isinstance(error, UserError), "message": str(error) or repr(error)}
        with contextlib.suppress(OSError):
            wire.send_json(Say.FAILED, content, timeout_s=SEND_TIMEOUT_S)
        return 1
    finally:
        if host is not None and host.report is not None:
            content = {**host.summary(), "commands_received": host.account.received}
            write_atomic(host.report, json.dumps(content).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
