"""The safety layer: what may reach the robot. Stops on what it cannot trust, moves what is out of limits.

Shapes: A joints. Positions in rad, rates in rad/s, times in s on time.monotonic().
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from robokd.sim2real.robot import JOINT_CHANNELS, Reading

from robokd.export.bundle import Bundle
from robokd.specs import Limits, limit

TOLERANCE = 1e-5  # rad; what is moved by less is float noise, not a clipped command
# rad between a joint at rest and the target it holds: room for sag under load; the simulated arm has none of
# that, and 0.0064 of noise
HELD_TOLERANCE = 0.05
CLOCK_TOLERANCE_S = 1e-3  # a capture time may be this far ahead of now


class SafetyStop(Exception):  # noqa: N818 - it is an outcome with an exit code of its own, not an error
    """The robot was stopped because going on was not safe; `kind` is what the summary counts."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class Safety:
    """Checks readings and commands of one robot; owns the last sent target and its rate.

    A command passes: finite -> (the first one) within reach of the target that is held -> position, velocity
    and acceleration limits from the last target sent. `counts` holds how often each kind of check acted.
    """

    def __init__(self, bundle: Bundle) -> None:
        action, start = bundle.action, bundle.manifest["start"]
        self.names = action.names
        self.limits = Limits.of(action)
        self.start_lower = np.array(start["joint_pos_lower"], np.float32)
        self.start_upper = np.array(start["joint_pos_upper"], np.float32)
        self.ages_s = {
            group: (JOINT_CHANNELS if group in bundle.observations else (group,), budget)
            for group, budget in bundle.manifest["ages_s"].items()
        }
        if not bundle.observations:  # a policy that reads no joints moves them all the same
            self.ages_s["joints"] = (JOINT_CHANNELS, min(bundle.manifest["ages_s"].values()))
        self.counts: Counter[str] = Counter()
        self.anchor = np.zeros(action.size, np.float32)  # rad, the last target sent
        self.rate = np.zeros(action.size, np.float32)  # rad/s, of the last target sent
        self._limited = (self.anchor, self.rate)
        self._is_first = True

    def begin(self, reading: Reading) -> None:
        """Start at rest from the target that the robot holds, which is where training starts.

        From the measured pose the first command would jump by its noise. Refused are a pose that no training
        episode started from, and a target that the robot cannot be holding or may not hold.
        """
        measured, held = (self._finite(reading, name) for name in ("joint_pos", "joint_target"))
        outside = (measured < self.start_lower) | (measured > self.start_upper)
        if outside.any():
            joint = int(np.argmax(outside))
            wanted = f"[{self.start_lower[joint]:.4f}, {self.start_upper[joint]:.4f}] rad"
            self._stop("start", f"{self.names[joint]} starts at {measured[joint]:.4f} rad, wanted {wanted}")
        self._check_held(held, measured)
        self.anchor = np.clip(held, self.limits.lower, self.limits.upper)
        self.rate = np.zeros_like(self.anchor)
        self._is_first = True

    def check_reading(self, reading: Reading, now_s: float) -> None:
        """Stop on data older than its budget, of the future, or not finite."""
        for group, (channels, budget) in self.ages_s.items():
            for channel in channels:
                age = now_s - reading.captured_s[channel]
                # written so that a NaN age stops too
                if not -CLOCK_TOLERANCE_S <= age <= budget:
                    self._stop(
                        f"stale_{group}", f"{channel} is {age:.4f} s old, at most {budget} s is allowed"
                    )
        for channel in JOINT_CHANNELS:
            self._finite(reading, channel)

    def limit(self, command: np.ndarray) -> np.ndarray:
        """Return the command (A,) moved as little as needed to keep every limit."""
        if not np.isfinite(command).all():
            self._stop("non_finite", f"the policy commands {command.tolist()}")
        if self._is_first:
            self._check_first(command)
        target, rate = limit(command, self.anchor, self.rate, self.limits)
        if np.abs(target - command).max() > TOLERANCE:
            self.counts.update(self._broken(command))
        self._limited = (target, rate)
        return target

    def accept(self, sent: np.ndarray) -> None:
        """Take what the robot was really sent as the anchor of the next command."""
        target, rate = self._limited
        self.rate = rate if np.array_equal(sent, target) else (sent - self.anchor) / self.limits.dt
        self.anchor = np.array(sent, np.float32)
        self._is_first = False

    def _finite(self, reading: Reading, channel: str) -> np.ndarray:
        values = reading.channels[channel]
        if not np.isfinite(values).all():
            self._stop("non_finite_proprio", f"{channel} reads {values.tolist()}")
        return values.astype(np.float32)

    def _check_held(self, held: np.ndarray, measured: np.ndarray) -> None:
        distance, limits = np.abs(held - measured), self.limits
        if (distance > HELD_TOLERANCE).any():
            joint = int(np.argmax(distance))
            far = f"is {measured[joint]:.4f} rad, the target it holds {held[joint]:.4f}"
            self._stop("held_target", f"{self.names[joint]} {far}: at most {HELD_TOLERANCE} apart is allowed")
        outside = (held < limits.lower - TOLERANCE) | (held > limits.upper + TOLERANCE)
        if outside.any():
            joint = int(np.argmax(outside))
            allowed = f"[{limits.lower[joint]:.4f}, {limits.upper[joint]:.4f}] rad"
            self._stop(
                "held_target", f"{self.names[joint]} holds {held[joint]:.4f} rad, limits are {allowed}"
            )

    def _check_first(self, command: np.ndarray) -> None:
        distance = np.abs(command - self.anchor)
        # the farthest that one action can ask for; more means that policy and robot mean different joints
        bound = self.limits.scale + TOLERANCE
        if (distance > bound).any():
            joint = int(np.argmax(distance - bound))
            far = f"{distance[joint]:.4f} rad from the target it holds, allowed is {bound[joint]:.4f}"
            self._stop("start", f"the first command for {self.names[joint]} is {far}")

    def _broken(self, command: np.ndarray) -> list[str]:
        """Return the kinds of limits that a clipped command breaks."""
        limits, slack = self.limits, TOLERANCE / self.limits.dt
        rate = (command - self.anchor) / limits.dt
        broken = {
            "position": (command < limits.lower - TOLERANCE) | (command > limits.upper + TOLERANCE),
            "velocity": np.abs(rate) > limits.velocity + slack,
            "acceleration": np.abs(rate - self.rate) > limits.acceleration * limits.dt + slack,
        }
        # what breaks none of them was clipped to be able to brake before the position limit
        return [kind for kind, where in broken.items() if where.any()] or ["position"]

    def _stop(self, kind: str, message: str) -> None:
        self.counts[kind] += 1
        raise SafetyStop(kind, message)
