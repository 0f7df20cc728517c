"""The process of the simulated robot: one world of the bundle's task, stepped in real time.

    python -m robokd.sim2real.mujoco_host <file descriptor of a socket>

It applies joint targets as they arrive, holds the last one, answers with its newest joint state and pictures,
and keeps an account of its own (robot_account.py). It ignores Ctrl-C and ends when the socket closes.
The one place on the robot's side that needs torch and the simulator.
"""

from __future__ import annotations

import contextlib
import gc
import json
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robokd.sim2real.robot_account import RobotAccount
from robokd.sim2real.wire import Kind, Wire, command_layout, reading_layout
from tensordict import TensorDict

from robokd import UserError
from robokd.config import load
from robokd.draws import Draws
from robokd.env.base import Setup, check_contract
from robokd.env.native import NativeEnv
from robokd.files import write_atomic
from robokd.memory import peak_rss_mb

OPEN_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 1.0
LONGEST_WAIT_S = 1.0


class World:
    """One world of the bundle's task: what a robot's body, sensors and cameras would be."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.env = build_env(setup)
        env = self.env
        self.joints = env.action_spec.names
        self.cameras = tuple(group for group in env.groups if group in env.camera_specs)
        self.dt, self.substeps = env.sim.physics_dt, env.substeps
        model = env.sim.model
        self._position_ids = [int(model.joint(name).qposadr[0]) for name in self.joints]
        self._velocity_ids = [int(model.joint(name).dofadr[0]) for name in self.joints]
        self._slices = env.obs_specs["proprio"].slices()
        self.begin(0)
        self.step(self.hold())  # compiles what is compiled on first use

    def begin(self, episode: int) -> None:
        """Put the world to the start of an episode."""
        self.steps, self._has_diverged = 0, False
        self._take(self.env.reset(torch.tensor([episode])))

    def hold(self) -> np.ndarray:
        """Return the joint targets (A,) that hold the start pose."""
        return self.env.state.command[0].numpy().copy()

    def step(self, target: np.ndarray) -> bool:
        """Advance a substep towards joint targets (A,) in rad; return whether it ends a control step."""
        env, state = self.env, self.env.state
        state.command = torch.from_numpy(target)[None]
        env.sim.step(env.task.control(state.command, state), 1)
        self._has_diverged |= bool(env.sim.diverged()[0])  # the engine resets such a world in silence
        self.steps += 1
        if is_control_step := self.steps % self.substeps == 0:
            # timers, goal and time are judged when training judges them, not at every substep
            state.step = state.step + 1
            env.task.progress(state, self.substeps * self.dt)
            self._take(env.observe())
        else:
            self._proprio = env.task.observe("proprio", state)[0].numpy()
        return is_control_step

    def sense(self) -> dict[str, np.ndarray]:
        """Return joint_pos and joint_vel (A,) as the sensors give them."""
        return {name: self._proprio[self._slices[name]] for name in ("joint_pos", "joint_vel")}

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the true positions and speeds of the joints (A,)."""
        get = self.env.sim.get
        return get("qpos")[0, self._position_ids].numpy(), get("qvel")[0, self._velocity_ids].numpy()

    def is_success(self) -> bool:
        """Whether the episode's goal is reached."""
        return bool(self.env.task.success(self.env.state)[0]) and not self._has_diverged

    def is_over(self) -> bool:
        """Whether the episode has ended: by divergence, or with a control step by goal, failure or time."""
        env = self.env
        if self._has_diverged or self.steps % self.substeps:
            return self._has_diverged
        is_late = int(env.state.step[0]) >= env.max_episode_length
        return is_late or bool(env.task.terminated(env.state)[0])

    def _take(self, observations: TensorDict) -> None:
        self._proprio = observations["proprio"][0].numpy()
        self.pictures = {name: observations[name][0].numpy() for name in self.cameras}
        eyes = self.env.eyes
        self.ages_s = {name: float(eyes.ages_s[name][0]) for name in self.cameras} if eyes else {}


def build_env(setup: dict[str, Any]) -> NativeEnv:
    """Return one world of the bundle's task; UserError where it is no longer what the policy was made for."""
    parts = {name: setup[f"{name}_config"] for name in ("task", "sim", "renderer", "corrupt")}
    config = load("play", {"run": setup["bundle"], **parts})
    try:
        wanted = Setup(
            num_envs=1, groups=("proprio", *setup["cameras"]), draws=Draws(setup["seed"], "test"),
            space=setup["space"], device="cpu", threads=1,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"robot.space: {error}") from None
    env = config.task.build(sim=config.sim, renderer=config.renderer, corrupt=config.corrupt, setup=wanted)
    saved = {name: setup[name] for name in ("action", "observations", "cameras")}
    check_contract(saved, env, f"bundle {setup['bundle']}")
    return env


class Host:
    """Steps the world on absolute deadlines and answers in between."""

    def __init__(self, wire: Wire, world: World, account: RobotAccount) -> None:
        self.wire, self.world, self.account = wire, world, account
        spec, cameras = world.env.action_spec, {name: world.env.camera_specs[name] for name in world.cameras}
        self._row = np.zeros(1, reading_layout(spec, cameras))
        self._layout = command_layout(spec)
        self._is_running = self._is_success = False
        self._begun_s = self._pictured_s = time.monotonic()  # of the substep due next; of the newest pictures
        self._target, self._next, self._next_s = world.hold(), None, 0.0
        self.report: Path | None = None  # where the account is to be written
        self._answers: dict[Kind, Callable[[int, bytearray], None]] = {
            Kind.BEGIN: self._begin, Kind.READ: self._read, Kind.COMMAND: self._take_command,
            Kind.LOG: self._log,
        }  # fmt: skip

    def serve(self) -> None:
        """Run until told to stop."""
        while True:
            wait = self._begun_s + self.world.dt - time.monotonic() if self._is_running else LONGEST_WAIT_S
            ready, _, _ = select.select([self.wire.socket], [], [], max(wait, 0.0))
            # physics first: who asks after a deadline is answered with what is due then
            self._catch_up()
            if not ready:
                continue
            kind, sequence, payload = self.wire.receive(SEND_TIMEOUT_S)
            if kind == Kind.STOP:
                return
            self._answers[kind](sequence, payload)

    def _catch_up(self) -> None:
        """Do the substeps whose time is over; what cannot be made up within a control step is lost time."""
        world = self.world
        while self._is_running and (late := time.monotonic() - self._begun_s - world.dt) >= 0:
            if late > world.dt * world.substeps:
                self._begun_s += late
                self.account.lose(late)
            # a command counts from the substep's beginning that is nearest to its arrival
            if self._next is not None and self._next_s <= self._begun_s + world.dt / 2:
                self._target, self._next = self._next, None
            self._begun_s += world.dt
            if world.step(self._target):
                self._pictured_s = self._begun_s
            self.account.measure(*world.truth(), self._begun_s, late)
            if world.is_over():
                self._is_running, self._is_success = False, world.is_success()
                self.account.end(self._is_success)

    def _begin(self, episode: int, _: bytearray) -> None:
        self.world.begin(episode)
        gc.collect()
        self._target, self._next, self._next_s = self.world.hold(), None, 0.0
        self._is_running, self._is_success = True, False
        self._begun_s = self._pictured_s = time.monotonic()
        self.account.begin(episode, self._begun_s, self._target)
        self.wire.send(Kind.BEGUN, episode, timeout_s=SEND_TIMEOUT_S)

    def _read(self, sequence: int, _: bytearray) -> None:
        row, sensed = self._row, self.world.sense()
        row["is_done"], row["is_success"] = not self._is_running, self._is_success
        row["joints_s"] = self._begun_s
        for name, value in sensed.items():
            row[name] = value
        row["joint_target"] = self._target
        for name, picture in self.world.pictures.items():
            row[name], row[f"{name}_s"] = picture, self._pictured_s - self.world.ages_s[name]
        self.wire.send(Kind.READING, sequence, row.tobytes(), timeout_s=SEND_TIMEOUT_S)

    def _log(self, _: int, payload: bytearray) -> None:
        self.report = Path(json.loads(payload)["report"])

    def summary(self) -> dict[str, Any]:
        """Return the account of the robot and of its process."""
        frames = self.world.env.frames_rendered
        return {**self.account.summary(), "peak_rss_mb": peak_rss_mb(), "frames_rendered": frames}

    def _take_command(self, sequence: int, payload: bytearray) -> None:
        arrived_s = time.monotonic()
        target = np.frombuffer(payload, self._layout)[0]["target"].copy()
        self.account.command(sequence, arrived_s, target)
        if np.isfinite(target).all():  # a drive would refuse it too
            self._next, self._next_s = target, arrived_s


def main(descriptor: int) -> int:
    """Serve the driver at the other end of the socket; return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    wire = Wire(socket.socket(fileno=descriptor))
    host = None
    try:
        _, _, payload = wire.receive(OPEN_TIMEOUT_S)
        setup = json.loads(payload)
        with torch.no_grad():
            world = World(setup)
            host = Host(wire, world, RobotAccount(world.env.action_spec, setup["command_timeout_s"]))
            gc.collect()
            gc.freeze()
            gc.disable()
            wire.send(Kind.READY, timeout_s=SEND_TIMEOUT_S)
            host.serve()
        wire.send_json(Kind.REPORT, host.summary(), timeout_s=SEND_TIMEOUT_S)
    except ConnectionError:
        return 0  # the driver is gone: there is nobody to tell
    except Exception as error:
        traceback.print_exc()
        content = {"is_user_error": isinstance(error, UserError), "message": str(error) or repr(error)}
        with contextlib.suppress(OSError):
            wire.send_json(Kind.FAILED, content, timeout_s=SEND_TIMEOUT_S)
        return 1
    finally:
        if host is not None and host.report is not None:
            content = {**host.summary(), "commands_received": host.account.received}
            write_atomic(host.report, json.dumps(content).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
