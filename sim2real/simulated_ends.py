"""The robot's end of the hardware protocols, for the simulated robot: states and pictures out, commands in.

What a command lacks or has too much is counted by reason and not obeyed.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from robokd.sim2real import unitree_types
from robokd.sim2real.cdr import decode, encode
from robokd.sim2real.dds import MonotonicStamps, Participant, Sample
from robokd.sim2real.imu import orientation
from robokd.sim2real.robot import Frame, JointReading
from robokd.sim2real.ros2 import wire_name
from robokd.sim2real.ros2_cameras import image
from robokd.sim2real.ros2_types import (
    CAMERA_INFO,
    IMAGE,
    IMU,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    camera_info,
    imu,
    joint_state,
)
from robokd.sim2real.unitree import COMMANDS, STATES, gains
from robokd.sim2real.unitree_types import GO_COMMAND, GO_STATE

from robokd.export.bundle import Bundle

DEPTH = 64  # commands kept between two looks


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A command as it came."""

    writer: int
    stamp_s: float  # on the monotonic clock, when it was sent
    target: np.ndarray | None  # (A,) float32 rad; None: hold, or damp


class SimulatedEnd(Protocol):
    """How a simulated robot speaks one protocol."""

    refused: Counter[str]  # commands that were not obeyed, by reason

    def tell(self, reading: JointReading) -> None:
        """Publish the joints."""
        ...

    def show(self, frame: Frame) -> None:
        """Publish a picture; from another thread than the rest."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for a command."""
        ...

    def hear(self) -> list[Heard]:
        """Return the commands that have come since."""
        ...

    def close(self) -> None:
        """Leave the wire."""
        ...


class _Pictures:
    """Publishes pictures as ROS 2 images on <camera>/image, and the lens beside on <camera>/camera_info."""

    def __init__(self, line: Participant, bundle: Bundle) -> None:
        self._specs, self._optics, self._stamps = bundle.cameras, bundle.manifest["optics"], MonotonicStamps()
        self._writers = {name: line.writer(wire_name(f"{name}/image"), IMAGE) for name in bundle.cameras}
        self._infos = {
            name: line.writer(wire_name(f"{name}/camera_info"), CAMERA_INFO) for name in bundle.cameras
        }

    def show(self, frame: Frame) -> None:
        spec, stamp_ns = self._specs[frame.camera], self._stamps.stamp(frame.captured_s)
        self._writers[frame.camera].write(encode(IMAGE, image(frame, spec, stamp_ns)))
        lens = camera_info(self._optics[frame.camera], spec.width, spec.height, stamp_ns)
        self._infos[frame.camera].write(encode(CAMERA_INFO, lens))


class Ros2End:
    """JointState on joint_states, Imu on imu; of a JointTrajectory on joint_commands the last point."""

    def __init__(self, bundle: Bundle, interface: str, domain: int) -> None:
        self.refused: Counter[str] = Counter()
        self._names, self._stamps = bundle.action.names, MonotonicStamps()
        self._line = line = Participant(interface, domain)
        self._states = line.writer("rt/joint_states", JOINT_STATE)
        self._imu = line.writer("rt/imu", IMU)
        self._commands = line.reader("rt/joint_commands", JOINT_TRAJECTORY, depth=DEPTH)
        self._pictures = _Pictures(line, bundle)
        self.show, self.wait = self._pictures.show, line.wait

    def tell(self, reading: JointReading) -> None:
        """See SimulatedEnd.tell."""
        stamp_ns = self._stamps.stamp(reading.captured_s)
        state = joint_state(self._names, reading.position, reading.velocity, stamp_ns)
        self._states.write(encode(JOINT_STATE, state))
        if reading.imu is not None:
            stamp_ns = self._stamps.stamp(reading.imu.captured_s)
            self._imu.write(encode(IMU, imu(orientation(reading.imu.gravity), reading.imu.gyro, stamp_ns)))

    def hear(self) -> list[Heard]:
        """See SimulatedEnd.hear."""
        samples = [(sample, self._target(sample.data)) for sample in self._commands.take()]
        return [_heard(sample, target, self._stamps) for sample, target in samples if target is not None]

    def close(self) -> None:
        """See SimulatedEnd.close."""
        del self._states, self._imu, self._commands, self._pictures, self.show, self.wait
        self._line.close()

    def _target(self, data: bytes) -> np.ndarray | None:
        try:
            content = decode(JOINT_TRAJECTORY, data)
        except ValueError:
            return self._refuse("broken")
        names, points = content["joint_names"], content["points"]
        if sorted(names) != sorted(self._names):
            return self._refuse("joints")
        if not points or len(points[-1]["positions"]) != len(names):
            return self._refuse("points")
        target = points[-1]["positions"][[names.index(name) for name in self._names]].astype(np.float32)
        return target if np.isfinite(target).all() else self._refuse("not finite")

    def _refuse(self, why: str) -> None:
        self.refused[why] += 1


class UnitreeEnd:
    """LowState and LowCmd of the go family, the joints on the first motors; gains must be the bundle's."""

    def __init__(self, bundle: Bundle, interface: str, domain: int) -> None:
        self.refused: Counter[str] = Counter()
        self._kp, self._kd = gains(bundle)
        self._count = bundle.action.size
        self._line = line = Participant(interface, domain)
        self._states = line.writer(STATES, GO_STATE)
        self._commands = line.reader(COMMANDS, GO_COMMAND, depth=DEPTH)
        self._pictures = _Pictures(line, bundle)
        self.show, self.wait = self._pictures.show, line.wait
        self._begun_s, self._stamps = time.monotonic(), MonotonicStamps()

    def tell(self, reading: JointReading) -> None:
        """See SimulatedEnd.tell."""
        row = unitree_types.empty(GO_STATE)
        row["level_flag"] = 0xFF
        row["tick"] = round((reading.captured_s - self._begun_s) * 1e3) % 2**32
        row["motor_state"]["q"][: self._count] = reading.position
        row["motor_state"]["dq"][: self._count] = reading.velocity
        if reading.imu is not None:
            row["imu_state"]["quaternion"] = orientation(reading.imu.gravity)
            row["imu_state"]["gyroscope"] = reading.imu.gyro
        self._states.write(unitree_types.encode(GO_STATE, row))

    def hear(self) -> list[Heard]:
        """See SimulatedEnd.hear."""
        heard = []
        for sample in self._commands.take():
            try:
                motors = unitree_types.decode(GO_COMMAND, sample.data)["motor_cmd"][: self._count]
            except ValueError:
                self.refused["CRC"] += 1
                continue
            if not motors["kp"].any() and (motors["kd"] > 0).all():
                heard.append(_heard(sample, None, self._stamps))
            elif not (np.array_equal(motors["kp"], self._kp) and np.array_equal(motors["kd"], self._kd)):
                self.refused["gains"] += 1
            elif not np.isfinite(motors["q"]).all():
                self.refused["not finite"] += 1
            else:
                heard.append(_heard(sample, motors["q"].copy(), self._stamps))
        return heard

    def close(self) -> None:
        """See SimulatedEnd.close."""
        del self._states, self._commands, self._pictures, self.show, self.wait
        self._line.close()


def _heard(sample: Sample, target: np.ndarray | None, stamps: MonotonicStamps) -> Heard:
    stamp_s = stamps.captured(sample.stamp_ns, time.monotonic())
    return Heard(writer=sample.writer, stamp_s=stamp_s, target=target)


ENDS: dict[str, type[Ros2End] | type[UnitreeEnd]] = {"ros2": Ros2End, "unitree": UnitreeEnd}
