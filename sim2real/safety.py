"""What stops a robot: readings and commands that cannot be trusted. Pure checks; each raises SafetyStop.

Shapes: A joints. Positions in rad, rates in rad/s, times in s on time.monotonic().
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from robokd.sim2real.robot import JointReading

from robokd.export.bundle import Bundle
from robokd.specs import ActionSpec

TOLERANCE = 1e-5  # rad; what is moved by less is float noise, not a limited command
# rad between a joint at rest and the target it holds, beside what the bundle says of legs that bear a body
# (`sag_rad`): the simulated arm has no sag, and 0.0064 of noise
HELD_TOLERANCE = 0.05
CLOCK_TOLERANCE_S = 1e-3  # a capture time may be this far ahead of now


class SafetyStop(Exception):  # noqa: N818 - it is an outcome with an exit code of its own, not an error
    """The robot was stopped because going on was not safe; `kind` is what the summary counts."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message


def sag_rad(bundle: Bundle) -> np.ndarray:
    """Return how far joints that bear a floating body rest from their targets (A,); 0 of all others."""
    return np.array(bundle.manifest["robot"]["sag"] or [0.0] * bundle.action.size)


def joints_budget_s(bundle: Bundle) -> float:
    """Return how old joint states may be; a policy that reads none moves them all the same."""
    ages = bundle.manifest["ages_s"]
    return min([ages[group] for group in bundle.observations] or ages.values())


def check_age(channel: str, captured_s: float, now_s: float, budget_s: float) -> None:
    """Refuse data older than its budget, and of the future."""
    age = now_s - captured_s
    # written so that a NaN age stops too
    if not -CLOCK_TOLERANCE_S <= age <= budget_s:
        said = f"{channel} is {age:.4f} s old, at most {budget_s:g} s is allowed"
        raise SafetyStop(f"stale_{channel}", said)


def check_joints(reading: JointReading) -> None:
    """Refuse readings that are no finite numbers, and a robot that somebody else commands too."""
    measured = {"position": reading.position, "velocity": reading.velocity}
    if reading.imu is not None:
        measured |= {"gyro": reading.imu.gyro, "gravity": reading.imu.gravity}
    if reading.order is not None:
        measured |= {"velocity command": reading.order.velocity}
    if reading.odometry is not None:
        measured |= {"odometry": reading.odometry.velocity}
    for name, values in measured.items():
        if not np.isfinite(values).all():
            raise SafetyStop("non_finite_joints", f"the robot's {name} reads {values.tolist()}")
    if reading.strangers:
        said = f"{reading.strangers} commands on the wire were not ours: somebody else drives this robot"
        raise SafetyStop("second_writer", said)


def check_home(home: np.ndarray, action: ActionSpec) -> None:
    """Refuse to send home what has no joints, or to where nothing is."""
    if not action.joints:
        raise SafetyStop("homing", "a body that flies has no joints to be sent home")
    check_command(home)


def check_command(target: np.ndarray) -> None:
    """Refuse a command that is not finite."""
    if not np.isfinite(target).all():
        raise SafetyStop("non_finite", f"the policy commands {target.tolist()}")


def check_first(target: np.ndarray, anchor: np.ndarray, action: ActionSpec) -> None:
    """Refuse a first command farther than one action can ask for: policy and robot mean different joints."""
    distance, bound = np.abs(target - anchor), np.array(action.scale) + TOLERANCE
    if (distance > bound).any():
        joint = int(np.argmax(distance - bound))
        far = f"{distance[joint]:.4f} rad from the target it holds, allowed is {bound[joint]:.4f}"
        raise SafetyStop("start", f"the first command for {action.names[joint]} is {far}")


def held_anchor(reading: JointReading, bundle: Bundle) -> np.ndarray:
    """Return the target (A,) that the robot holds, held against where it is measured.

    Where the robot does not tell, it is the measured pose, and the first command jumps by the sensor's noise.
    A body that flies has to tell: what it holds is not measured.
    """
    action, allowed = bundle.action, HELD_TOLERANCE + sag_rad(bundle)
    lower, upper = np.array(action.position_lower), np.array(action.position_upper)
    bounds = lower - TOLERANCE, upper + TOLERANCE
    if not action.joints:
        _check_range("held_target", reading.target, bounds, [f"{name} holds" for name in action.names])
        return np.clip(reading.target, lower, upper).astype(np.float32)
    if np.isnan(reading.target).all():
        # from farther out, the clipped pose would be a jump
        near = lower - HELD_TOLERANCE, upper + HELD_TOLERANCE
        _check_range("held_target", reading.position, near, [f"{name} stands at" for name in action.names])
        return np.clip(reading.position, lower, upper).astype(np.float32)
    distance = np.abs(reading.target - reading.position)
    if not (distance <= allowed).all():
        joint = int(np.argmax(np.where(np.isnan(distance), np.inf, distance - allowed)))
        far = f"is {reading.position[joint]:.4f} rad, the target it holds {reading.target[joint]:.4f}"
        said = f"{action.names[joint]} {far}: at most {allowed[joint]:.4g} apart is allowed"
        raise SafetyStop("held_target", said)
    _check_range("held_target", reading.target, bounds, [f"{name} holds" for name in action.names])
    return np.clip(reading.target, lower, upper).astype(np.float32)


def start_anchor(reading: JointReading, bundle: Bundle) -> np.ndarray:
    """Return the target (A,) from which a policy may begin; refuse a pose that no episode began from.

    Of a body that flies it is the commands that it holds which an episode must have begun from.
    """
    start, names = bundle.manifest["start"], bundle.action.names
    room = TOLERANCE + sag_rad(bundle)
    bounds = np.array(start["joint_pos_lower"]) - room, np.array(start["joint_pos_upper"]) + room
    begun = reading.position if bundle.action.joints else reading.target
    _check_range("start", begun, bounds, [f"{name} starts at" for name in names])
    return held_anchor(reading, bundle)


def _check_range(
    kind: str, values: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], claims: list[str]
) -> None:
    lower, upper = bounds
    outside = ~((values >= lower) & (values <= upper))
    if outside.any():
        joint = int(np.argmax(outside))
        wanted = f"[{lower[joint]:.4f}, {upper[joint]:.4f}] rad"
        raise SafetyStop(kind, f"{claims[joint]} {values[joint]:.4f} rad, wanted {wanted}")


def check_pictures(captured_s: Mapping[str, float], now_s: float, ages_s: Mapping[str, float]) -> None:
    """Refuse pictures that are older than their budgets."""
    for camera, moment in captured_s.items():
        check_age(camera, moment, now_s, ages_s[camera])
