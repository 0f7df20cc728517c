"""Unitree's robots at their lowest level: LowState in, LowCmd out, over the same DDS as ROS 2.

The robot's own controllers must have been switched off (motion switcher), or they write commands too and the
run stops. LowState has no time: a state counts from its arrival (`ArrivalTimes`), if its tick is newer than
the last one's. A robot that starts again begins at tick 0: to this run it has fallen silent.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from robokd.sim2real import unitree_types
from robokd.sim2real.dds import check_address
from robokd.sim2real.dds_line import Address, Arrived, Foreign, Line, check_timeouts, finite_targets
from robokd.sim2real.imu import channels_read, felt
from robokd.sim2real.robot import Command, JointReading
from robokd.sim2real.ros2 import STOP_KEYS, check_topics, image_topics, info_topics, named
from robokd.sim2real.ros2_cameras import Ros2Cameras
from robokd.sim2real.unitree_types import FAMILIES

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.registry import register, unknown

STATES, COMMANDS = "rt/lowstate", "rt/lowcmd"
HEAD = (0xFE, 0xEF)
LOW_LEVEL = 0xFF
ENABLED = 1  # mode of a motor
MODES_PR = (0, 1)  # ankles and waist of an hg robot by pitch and roll, or by their two motors
DAMPING_WRITES = 20  # of the stop
DAMPING_S = 0.1  # in which they are written


@register("robot", "unitree")
@dataclass(kw_only=True)
class UnitreeRobotCfg:
    """A Unitree robot at its lowest level, over DDS from pip (cyclonedds); cameras as ROS 2 images."""

    interface: str = "lo"  # network interface; nothing is sent over another one
    domain: int = 0  # of DDS
    family: str = "go"  # go (Go2, B2: 20 motors) or hg (G1, H1-2: 35 motors)
    motors: tuple[str, ...] = ()  # joint:number, the motor of each of the bundle's joints
    mode_pr: int = 0  # hg only: 0 = ankles and waist by pitch and roll, 1 = by their motors
    damping: float = 5.0  # N m s/rad of every motor at the stop, and always of motors without a joint
    images: tuple[str, ...] = ()  # camera:topic, of cameras whose ROS topic is not <camera>/image
    camera_infos: tuple[str, ...] = ()  # camera:topic, of cameras whose camera_info is not beside their image
    connect_timeout_s: float = 5.0  # for the first state and the first picture of every camera
    state_timeout_s: float = 0.1  # without a state, after which the robot counts as lost
    command_timeout_s: float = 0.0  # after which the robot itself stops without commands; 0 = never
    stop_key: str = "hold"  # any, or hold: a key that must stay pressed

    def __post_init__(self) -> None:
        check_address(self.interface, self.domain)
        for name, known in (("family", FAMILIES), ("stop_key", STOP_KEYS)):
            if getattr(self, name) not in known:
                raise ValueError(f"robot.{name}: {unknown('way', getattr(self, name), known)}")
        if self.mode_pr not in MODES_PR:
            raise ValueError(f"robot.mode_pr must be 0 or 1, got {self.mode_pr}")
        check_timeouts(
            connect_timeout_s=self.connect_timeout_s, state_timeout_s=self.state_timeout_s,
            command_timeout_s=self.command_timeout_s,
        )  # fmt: skip
        if not self.damping > 0:
            raise ValueError(f"robot.damping must be > 0 N m s/rad, got {self.damping}")
        check_topics(images=self.images, camera_infos=self.camera_infos)
        for motor in named("motors", self.motors).values():
            if not motor.isdecimal():
                raise ValueError(f"robot.motors: the number of a motor must be whole and >= 0, got {motor!r}")

    def joints(self, *, bundle: Bundle, link: socket.socket | None) -> UnitreeRobot:
        """See RobotCfg.joints."""
        return UnitreeRobot(self, bundle)

    def cameras(self, *, bundle: Bundle, link: socket.socket | None) -> Ros2Cameras:
        """See RobotCfg.cameras."""
        images = image_topics(self.images, bundle)
        return Ros2Cameras(
            bundle, images, info_topics(self.camera_infos, images), interface=self.interface,
            domain=self.domain, timeout_s=self.connect_timeout_s, is_stamped=True,
        )  # fmt: skip


def motor_numbers(words: tuple[str, ...], names: tuple[str, ...], count: int) -> np.ndarray:
    """Return the motor of each joint, (A,); UserError unless each joint has one of its own."""
    motors = {name: int(number) for name, number in named("motors", words).items()}
    if odd := sorted(set(names) ^ set(motors)):
        what = "has no motor" if odd[0] in names else "is no joint of the bundle"
        raise UserError(f"robot.motors: {odd[0]!r} {what}; give joint:number for each of {', '.join(names)}")
    numbers = [motors[name] for name in names]
    if len(set(numbers)) < len(numbers) or not all(0 <= number < count for number in numbers):
        raise UserError(
            f"robot.motors: wanted a different motor in [0, {count}) for each joint, got {motors}"
        )
    return np.array(numbers)


def gains(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Return (kp, kd) of the bundle's joints, each (A,), N m/rad and N m s/rad; UserError without."""
    robot = bundle.manifest.get("robot", {})
    found = [robot.get(name) for name in ("kp", "kd")]
    if None in found:
        raise UserError(
            f"{bundle.path} has no robot.kp and robot.kd (null in its manifest): its task's motors are of "
            "another kind, and with other gains the policy would not do what it has learned"
        )
    kp, kd = (np.array(row, np.float32) for row in found)
    return kp, kd


def is_newer(tick: int, last: int) -> bool:
    """Whether a tick, uint32, is less than half a turn of the counter after the last one."""
    return 0 < (tick - last) % 2**32 < 2**31


class UnitreeRobot:
    """The Robot protocol over LowCmd and LowState."""

    is_hardware = True

    def __init__(self, cfg: UnitreeRobotCfg, bundle: Bundle) -> None:
        self._cfg, self._family = cfg, FAMILIES[cfg.family]
        self.command_timeout_s, self.stop_key = cfg.command_timeout_s or None, cfg.stop_key
        self._motors = motor_numbers(cfg.motors, bundle.action.names, self._family.motors)
        self._kp, self._kd = gains(bundle)
        self._reads_imu = bool(channels_read(bundle))
        self._line = Line(Address(
            interface=cfg.interface, domain=cfg.domain, states=STATES, state_type=self._family.state,
            commands=COMMANDS, command_type=self._family.command,
        ))  # fmt: skip
        self._state: _State | None = None

    def connect(self) -> None:
        """See Robot.connect."""
        if self._line.is_open:
            raise RuntimeError("the robot is connected already")
        try:
            self._state = self._line.open(self._parse, self._cfg.connect_timeout_s)
        except RuntimeError as error:
            self._line.close()
            raise UserError(str(error)) from None

    def read(self) -> JointReading:
        """See Robot.read."""
        for state in self._line.states(self._parse):
            self._state = state
        state = self._state
        assert state is not None, "a line that is open without a state"
        self._line.check_age(state.captured_s, self._cfg.state_timeout_s)
        motors = state.row["motor_state"]
        position, velocity = motors["q"][self._motors], motors["dq"][self._motors]
        if not (np.isfinite(position).all() and np.isfinite(velocity).all()):
            raise RuntimeError("a state in which a joint's position or velocity is not finite")
        imu = state.row["imu_state"]
        return JointReading(
            captured_s=state.captured_s, position=position, velocity=velocity,
            target=np.full(len(position), np.nan, np.float32), strangers=self._line.strangers,
            imu=felt(state.captured_s, imu["quaternion"], imu["gyroscope"]) if self._reads_imu else None,
        )  # fmt: skip

    def write(self, command: Command) -> np.ndarray:
        """See Robot.write."""
        sent = finite_targets(command, len(self._motors))
        row = self._damped()
        motors = row["motor_cmd"]
        motors["q"][self._motors] = sent
        motors["kp"][self._motors], motors["kd"][self._motors] = self._kp, self._kd
        self._line.send(unitree_types.encode(self._family.command, row), command.stamp_s)
        return sent

    def stop(self) -> None:
        """Damp all motors, if anything was ever sent; then leave the wire.

        Every write is tried, whatever became of the one before; the first that failed is raised at the end.
        """
        line, failed = self._line, []
        try:
            if line.is_open and line.has_written:
                damped = unitree_types.encode(self._family.command, self._damped())
                for _ in range(DAMPING_WRITES):
                    try:
                        line.send_last(damped)
                    except RuntimeError as error:
                        failed.append(error)
                    time.sleep(DAMPING_S / DAMPING_WRITES)
        finally:
            line.close()
            line.has_written, self._state = False, None
        if failed:
            raise failed[0]

    def _damped(self) -> Any:  # noqa: ANN401 - a record, see unitree_types
        """Return a command under which every motor is damped."""
        row = unitree_types.empty(self._family.command)
        if self._cfg.family == "go":
            row["head"], row["level_flag"] = HEAD, LOW_LEVEL
        else:
            row["mode_pr"] = self._cfg.mode_pr
            # an hg robot refuses commands for another build than its own
            row["mode_machine"] = 0 if self._state is None else self._state.row["mode_machine"]
        row["motor_cmd"]["mode"] = ENABLED
        row["motor_cmd"]["kd"] = self._cfg.damping
        return row

    def _parse(self, arrived: Arrived) -> _State:
        """Return the state; Foreign where it was damaged on its way, or is not newer than the last one."""
        try:
            row = unitree_types.decode(self._family.state, arrived.data)
        except ValueError as error:
            raise Foreign(str(error)) from None
        tick = int(row["tick"])
        if self._state is not None and not is_newer(tick, last := int(self._state.row["tick"])):
            raise Foreign(f"a state of tick {tick} after one of tick {last}")
        return _State(row=row, captured_s=arrived.captured_s)


@dataclass(frozen=True, kw_only=True)
class _State:
    row: Any  # a record, see unitree_types
    captured_s: float
