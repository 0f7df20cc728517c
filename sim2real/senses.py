"""What the policy is given: the newest pictures, and the joints as they were when those were taken.

In training joints are measured when the picture is taken, or as much later as the sensor's delay was: a
robot's joints are newer than its pictures, so they are put back to where training had them, between two
states that the guard has told. Times are s on time.monotonic(), shapes A commands, J joints (robot.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from robokd.sim2real.board import Board
from robokd.sim2real.guard_link import GuardLink, State
from robokd.sim2real.imu import channels_read
from robokd.sim2real.process import Process
from robokd.sim2real.robot import ImuReading, Odometry, Order
from robokd.sim2real.safety import SafetyStop, check_age, check_pictures, joints_budget_s

from robokd.export.bundle import Bundle

POLL_S = 0.3e-3
Felt = TypeVar("Felt", ImuReading, Odometry)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the policy sees of one moment; the arrays are the reader's and never written again."""

    # joint_pos, joint_vel (J,), joint_target (A,); if the policy reads them, gyro, gravity, velocity and
    # velocity_command (3,), and for its clock `elapsed` (1,) float64 s; pictures by camera
    channels: dict[str, np.ndarray]
    captured_s: dict[str, float]  # when each channel was measured
    read_s: float  # when they were read, after all of them
    numbers: dict[str, int]  # of the pictures, by camera: a picture that is new has another
    anchor: np.ndarray  # (A,) float32 rad, the target that the next command is limited from
    rate: np.ndarray  # (A,) float32 rad/s


class Senses:
    """Reads the board and what the guard tells.

    A velocity command that is said here, (3,), holds throughout; empty = the policy follows the robot's.
    """

    def __init__(
        self,
        bundle: Bundle,
        link: GuardLink,
        board: Board,
        eyes: Process | None,
        velocity_command: Sequence[float] = (),
    ) -> None:
        self._link, self._board, self._eyes = link, board, eyes
        manifest = bundle.manifest
        self._cameras = tuple(bundle.cameras)
        self._ages_s = {name: manifest["ages_s"][name] for name in self._cameras}
        self._behind_s = {name: manifest["latency_s"][name] for name in self._cameras}
        self._joints_s = joints_budget_s(bundle)
        self._imu, self._terms = channels_read(bundle), bundle.terms
        self._fixed = np.array(velocity_command, np.float32)

    def read(self, clock: Callable[[], float] = time.monotonic, elapsed_s: float = 0.0) -> Reading:
        """Return the newest that there is; SafetyStop where it is too old, or was never there.

        `elapsed_s` is the time since the episode's begin, for a policy that reads a clock.
        """
        self._link.listen()
        newest = self._link.states[-1]
        found = {name: self._board.read(name) for name in self._cameras}
        now_s = clock()  # not before: what comes while this process waits for its core is not of the future
        check_age("joints", newest.captured_s, now_s, self._joints_s)
        frames = {name: one for name, one in found.items() if one is not None}
        if len(frames) < len(found):
            lacking = next(name for name in found if name not in frames)
            raise SafetyStop(f"stale_{lacking}", self._blame(f"{lacking} has shown no picture yet"))
        seen_s = {name: frame.captured_s for name, (frame, _) in frames.items()}
        try:
            check_pictures(seen_s, now_s, self._ages_s)
        except SafetyStop as stop:
            raise SafetyStop(stop.kind, self._blame(stop.message)) from None
        state = matched(self._link.states, wanted_s(newest.captured_s, seen_s, self._behind_s))
        joints = {"joint_pos": state.position, "joint_vel": state.velocity, "joint_target": newest.anchor}
        body, felt_s = self._feel(newest, state, now_s)
        led, led_s = self._follow(newest.order, state.order, now_s)
        if "clock" in self._terms:
            led["elapsed"], led_s["elapsed"] = np.array([elapsed_s]), now_s
        return Reading(
            channels=joints | body | led | {name: frame.image for name, (frame, _) in frames.items()},
            captured_s=dict.fromkeys(joints, state.captured_s) | felt_s | led_s | seen_s, read_s=now_s,
            numbers={name: number for name, (_, number) in frames.items()},
            anchor=newest.anchor, rate=newest.rate,
        )  # fmt: skip

    def _feel(
        self, newest: State, state: State, now_s: float
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return what the policy reads of IMU and odometry, and when it was measured; SafetyStop if old."""
        found: dict[str, np.ndarray] = {}
        felt_s: dict[str, float] = {}
        for sensor, says, names in (
            ("imu", "IMU", self._imu), ("odometry", "odometry", tuple({"velocity"} & self._terms))
        ):  # fmt: skip
            last, then = getattr(newest, sensor), getattr(state, sensor)
            if not names:
                continue
            if last is None or then is None:
                why = f"the policy reads {', '.join(names)}, and the robot tells no {says}"
                raise SafetyStop(f"stale_{sensor}", why)
            check_age(sensor, last.captured_s, now_s, self._joints_s)
            found |= {name: getattr(then, name) for name in names}
            felt_s |= {name: float(then.captured_s) for name in names}
        return found, felt_s

    def _follow(
        self, newest: Order | None, then: Order | None, now_s: float
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Return the velocity command if the policy reads one, and when it was given; SafetyStop if too old.

        A robot's own is that of when its joints were, as in training.
        """
        if "velocity_command" not in self._terms:
            return {}, {}
        if self._fixed.size:
            return {"velocity_command": self._fixed}, {"velocity_command": now_s}
        if newest is None or then is None:
            raise SafetyStop("stale_velocity_command", "the policy follows orders, and the robot tells none")
        check_age("velocity_command", newest.captured_s, now_s, self._joints_s)
        return {"velocity_command": then.velocity}, {"velocity_command": then.captured_s}

    def wait_for_picture(self, after_s: float, timeout_s: float) -> None:
        """Wait until every camera has shown one that was taken after this time, or until the time is over."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [self._board.read(name) for name in self._cameras]
            if all(one is not None and one[0].captured_s > after_s for one in found):
                return
            time.sleep(POLL_S)

    def _blame(self, said: str) -> str:
        """Add what became of the camera process, if it is why."""
        if self._eyes is None or self._eyes.is_alive():
            return said
        return f"{said}: {self._eyes.fate()}"


def wanted_s(newest_s: float, seen_s: dict[str, float], behind_s: dict[str, Sequence[float]]) -> float:
    """Return of when the joints are to be, given when pictures were taken and how long before, in training.

    The picture that is farthest behind what training had decides.
    """
    latest = [seen_s[name] + most for name, (_, most) in behind_s.items()]
    return min([newest_s, *latest])


def matched(states: Sequence[State], moment_s: float) -> State:
    """Return the state at a time, between the two around it; the oldest there is for a time before all."""
    after = states[-1]
    for before in reversed(states):
        if before.captured_s <= moment_s:
            span = after.captured_s - before.captured_s
            share = (moment_s - before.captured_s) / span if span > 0 else 0.0
            if share <= 0 or share > 1:
                return before
            return State(
                captured_s=moment_s, position=_between(before.position, after.position, share),
                velocity=_between(before.velocity, after.velocity, share), anchor=before.anchor,
                rate=before.rate, mode=before.mode, token=before.token, origin=before.origin,
                imu=_felt(before.imu, after.imu, share), order=before.order,
                odometry=_felt(before.odometry, after.odometry, share),
            )  # fmt: skip
        after = before
    return after


def _felt(before: Felt | None, after: Felt | None, share: float) -> Felt | None:
    """Return what a sensor felt between two readings of it; None where one of them is missing."""
    if before is None or after is None:
        return None
    captured_s = before.captured_s + share * (after.captured_s - before.captured_s)
    arrays = {
        field.name: _between(getattr(before, field.name), getattr(after, field.name), share)
        for field in dataclasses.fields(before) if field.name != "captured_s"
    }  # fmt: skip
    return dataclasses.replace(before, captured_s=captured_s, **arrays)


def _between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    return (before + np.float32(share) * (after - before)).astype(np.float32)
