"""The simulated robot's own account: what it was told, whether that kept the limits, and how it really moved.

Shapes: A joints. Positions in rad, rates in rad/s, times in s on time.monotonic().
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from robokd.sim2real.limiter import Bounds
from robokd.sim2real.robot import Command

from robokd.specs import ActionSpec

TOLERANCE = 1e-4  # of a limit; position: of the joint's range
PAUSE = 2  # control periods: longer than the guard waits for a command before it takes over
STAMP_S = 1e-6  # that the guard's step may be off its stamps by rounding
ROUNDING = 2.4e-7  # rad, the last place of a float32 target around 3 rad


class RobotAccount:
    """Checks every command received and every measured state against the contract's limits, by counting.

    Rates are finite differences over the guard's own times, which each command carries, between commands that
    follow each other in sequence. A step from rest takes what the guard says, and after a pause, as at the
    start of an episode, a control period at most: the target moves at once, however long it has rested.
    """

    def __init__(self, action: ActionSpec, robot: dict[str, Any], command_timeout_s: float) -> None:
        """`robot` is the manifest's: it may hold the largest `jerk` and `torque_rate`."""
        self._names, self._dt = action.names, action.control_dt
        self._bounds, self._velocity = Bounds.of(action, robot), np.array(action.velocity)
        self._command_timeout_s = command_timeout_s
        self.received: list[list[Any]] = []  # [episode, sequence, arrival, [targets], stamp, origin, rung]
        self._violations: Counter[str] = Counter()
        self._worst: dict[str, dict[str, Any]] = {}
        self._counts: Counter[str] = Counter()
        self._outcomes: list[bool] = []
        self._late_s: list[float] = []
        self._timeouts_s: list[float] = []
        self._lost_s = 0.0
        self._sequence = 0  # of the last command; they are numbered from 1, through all episodes
        self._stamp_s = -math.inf
        self.begin(-1, 0.0, np.zeros(action.size, np.float32))

    def begin(self, episode: int, begun_s: float, held: np.ndarray) -> None:
        """Start an episode in which the robot holds joint targets (A,)."""
        self._episode, self._last_s, self._is_alone = episode, begun_s, True  # until it is commanded
        self.is_left = False
        self._target: np.ndarray | None = held.astype(float)
        self._rate: np.ndarray | None = np.zeros(len(held))
        self._change: np.ndarray | None = np.zeros(len(held))

    def end(self, is_success: bool) -> None:
        """End an episode."""
        self._outcomes.append(is_success)

    def command(self, command: Command, arrived_s: float) -> None:
        """Judge a command as it arrives."""
        target = command.target.astype(float)
        self.received.append([
            self._episode, command.sequence, arrived_s, target.tolist(), command.stamp_s, command.origin,
            command.rung,
        ])  # fmt: skip
        self._last_s, self._is_alone, self.is_left = arrived_s, False, False
        if command.sequence != self._sequence + 1:
            self._counts["commands_lost"] += 1
            self._target = self._rate = self._change = None
        self._sequence = command.sequence
        if not np.isfinite(target).all():
            self._violations["command_non_finite"] += 1
            self._rate = self._change = None  # refused: it holds the last
            return
        self._check_position("command_position", target)
        dt = self._step(command)
        rate = None if self._target is None else (target - self._target) / dt
        change = None if rate is None or self._rate is None else (rate - self._rate) / dt
        if rate is not None:
            self._check("command_velocity", np.abs(rate), self._bounds.velocity)
        if change is not None:
            self._check("command_acceleration", np.abs(change), self._bounds.acceleration)
            if self._change is not None:
                rounding = 4 * ROUNDING / dt**3  # of four float32 targets
                jerk = np.abs(change - self._change) / dt - rounding
                self._check("command_jerk", jerk, self._bounds.jerk)
        self._target, self._rate, self._change, self._stamp_s = target, rate, change, command.stamp_s

    def measure(self, position: np.ndarray, velocity: np.ndarray, now_s: float, late_s: float) -> None:
        """Judge a true state (J,) after a substep that ended at `now_s` and was done `late_s` later."""
        self._late_s.append(late_s)
        if not len(position):  # a body that flies
            return
        self._check_position("measured_position", position)
        self._check("measured_velocity", np.abs(velocity), self._velocity)

    def watch(self, now_s: float) -> None:
        """Note when the robot, once commanded, is left alone."""
        if now_s - self._last_s > self._command_timeout_s and not self._is_alone:
            self._is_alone = self.is_left = True
            self._timeouts_s.append(now_s)

    def lose(self, seconds: float) -> None:
        """Note that the simulation fell behind real time and let so much of it go."""
        self._counts["times_behind"] += 1
        self._lost_s += seconds

    def summary(self) -> dict[str, Any]:
        """Return the account as JSON-ready data.

        `violations` counts and `worst` shows what went beyond a limit: `command_*` of what the robot was
        told, which the policy's side has to keep; `measured_*` of how it truly moved. That is the physics'
        doing: a joint lags behind its target and overshoots, so under wild actions it can be faster than any
        command, and for a moment beyond the end of its range.
        """
        late, shares = self._late_s, {"p50": 0.5, "p99": 0.99, "max": 1.0}
        quantiles = {name: float(np.quantile(late, q)) if late else None for name, q in shares.items()}
        return {
            "commands": len(self.received),
            "commands_lost": self._counts["commands_lost"],
            "command_timeouts": len(self._timeouts_s),
            "command_timeouts_s": self._timeouts_s,
            "violations": dict(self._violations),
            "worst": self._worst,
            "outcomes": self._outcomes,
            "substeps": len(late),
            "times_behind": self._counts["times_behind"],
            "lost_s": self._lost_s,
            "substep_late_s": quantiles,
        }

    def _step(self, command: Command) -> float:
        """Return what time a step took: by the stamps, or from rest by the guard, if that is less."""
        dt = max(command.stamp_s - self._stamp_s, 1e-9)
        is_still = self._rate is not None and not self._rate.any()
        if command.step_s:
            is_right = (
                abs(command.step_s - dt) < STAMP_S or (is_still and command.step_s < dt) or self._rate is None
            )
            if not is_right:
                self._violations["command_step"] += 1
            dt = min(command.step_s, dt)
        return min(dt, self._dt) if is_still and dt > PAUSE * self._dt else dt

    def _check_position(self, kind: str, position: np.ndarray) -> None:
        lower, upper = self._bounds.lower, self._bounds.upper
        excess = np.maximum(lower - position, position - upper) / (upper - lower)
        self._count(kind, excess)

    def _check(self, kind: str, value: np.ndarray, allowed: np.ndarray) -> None:
        self._count(kind, value / allowed - 1)

    def _count(self, kind: str, excess: np.ndarray) -> None:
        """Count what is beyond the tolerance, and keep the worst."""
        joint = int(np.argmax(excess))
        if not excess[joint] > TOLERANCE:
            return
        self._violations[kind] += 1
        if excess[joint] > self._worst.get(kind, {"excess": 0.0})["excess"]:
            self._worst[kind] = {
                "excess": float(excess[joint]),
                "joint": self._names[joint],
                "episode": self._episode,
            }
