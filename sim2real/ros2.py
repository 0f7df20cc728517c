"""ROS 2 without a ROS installation: joint states in, position targets out, camera pictures in.

The robot side is any node that publishes sensor_msgs/JointState and a controller of ros2_control
(joint_trajectory_controller or forward_command_controller). Joints are found by name, never by place.
Capture times are the sender's stamps (`MonotonicStamps`), or the times of arrival (`ArrivalTimes`).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from robokd.sim2real.cdr import Content, decode, encode
from robokd.sim2real.dds import LOOPBACK, check_address
from robokd.sim2real.dds_line import Address, Arrived, Foreign, Line, check_timeouts, finite_targets
from robokd.sim2real.imu import channels_read, felt
from robokd.sim2real.robot import Command, ImuReading, JointReading
from robokd.sim2real.ros2_cameras import CLOCK_SLACK_S, CLOCKS_DIFFER, Ros2Cameras
from robokd.sim2real.ros2_types import (
    FLOAT64_MULTI_ARRAY,
    IMU,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    float64_multi_array,
    joint_trajectory,
    nanoseconds_of,
)

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.registry import register, unknown

COMMANDS = {"joint_trajectory": JOINT_TRAJECTORY, "float64_multi_array": FLOAT64_MULTI_ARRAY}
STAMPS = ("sender", "arrival")
STOP_KEYS = ("any", "hold")
NAME = re.compile(r"[A-Za-z_~]\w*(/[A-Za-z_]\w*)*")


@register("robot", "ros2")
@dataclass(kw_only=True)
class Ros2RobotCfg:
    """A robot that speaks ROS 2, over DDS from pip (cyclonedds); no ROS installation is needed here."""

    interface: str = LOOPBACK  # network interface; nothing is sent over another one
    domain: int = 0  # ROS_DOMAIN_ID
    joint_states: str = "joint_states"  # topic of sensor_msgs/JointState
    joint_commands: str = "joint_commands"  # topic of the controller, e.g. arm_controller/joint_trajectory
    command: str = "joint_trajectory"  # or float64_multi_array: what the controller takes
    command_joints: tuple[str, ...] = ()  # of float64_multi_array: the controller's joints, in its order
    imu: str = "imu"  # topic of sensor_msgs/Imu, of policies that read one
    images: tuple[str, ...] = ()  # camera:topic, of cameras whose topic is not <camera>/image
    camera_infos: tuple[str, ...] = ()  # camera:topic, of cameras whose camera_info is not beside their image
    stamp: str = "sender"  # capture times: sender = the headers' stamps (one clock), or arrival
    connect_timeout_s: float = 5.0  # for the first joint state and the first picture of every camera
    state_timeout_s: float = 0.2  # without a joint state, after which the robot counts as lost
    command_timeout_s: float = 0.0  # after which the controller itself stops without commands; 0 = never
    stop_key: str = "any"  # any, or hold: a key that must stay pressed

    def __post_init__(self) -> None:
        check_address(self.interface, self.domain)
        for name, known in (("command", COMMANDS), ("stamp", STAMPS), ("stop_key", STOP_KEYS)):
            if getattr(self, name) not in known:
                raise ValueError(f"robot.{name}: {unknown('way', getattr(self, name), known)}")
        check_timeouts(
            connect_timeout_s=self.connect_timeout_s, state_timeout_s=self.state_timeout_s,
            command_timeout_s=self.command_timeout_s,
        )  # fmt: skip
        for topic in (self.joint_states, self.joint_commands, self.imu):
            wire_name(topic)
        check_topics(images=self.images, camera_infos=self.camera_infos)

    def joints(self, *, bundle: Bundle, link: socket.socket | None) -> Ros2Robot:
        """See RobotCfg.joints."""
        return Ros2Robot(self, bundle)

    def cameras(self, *, bundle: Bundle, link: socket.socket | None) -> Ros2Cameras:
        """See RobotCfg.cameras."""
        images = image_topics(self.images, bundle)
        return Ros2Cameras(
            bundle, images, info_topics(self.camera_infos, images), interface=self.interface,
            domain=self.domain, timeout_s=self.connect_timeout_s, is_stamped=self.stamp == "sender",
        )  # fmt: skip


def named(field: str, words: tuple[str, ...]) -> dict[str, str]:
    """Return what words like name:value say; ValueError where one is none, or names something twice."""
    found: dict[str, str] = {}
    for word in words:
        name, colon, value = word.partition(":")
        if not (name and colon and value) or name in found:
            raise ValueError(f"robot.{field} wants words like name:value, each name once, got {word!r}")
        found[name] = value
    return found


def check_topics(**fields: tuple[str, ...]) -> None:
    """Refuse settings that are no camera:topic; ValueError."""
    for field, words in fields.items():
        for topic in named(field, words).values():
            wire_name(topic)


def image_topics(words: tuple[str, ...], bundle: Bundle) -> dict[str, str]:
    """Return the DDS topic of the pictures of each of the bundle's cameras; see `_told`."""
    return _told("images", words, {name: f"rt/{name}/image" for name in bundle.cameras})


def info_topics(words: tuple[str, ...], images: Mapping[str, str]) -> dict[str, str]:
    """Return the DDS topic of each camera's CameraInfo, by default beside its pictures; see `_told`."""
    beside = {name: f"{topic.rpartition('/')[0]}/camera_info" for name, topic in images.items()}
    return _told("camera_infos", words, beside)


def wire_name(topic: str) -> str:
    """Return the DDS topic of a ROS topic; ValueError where it is none."""
    bare = topic.removeprefix("/")
    if not NAME.fullmatch(bare):
        raise ValueError(f"{topic!r} is no ROS topic: words of letters, digits and _, with / between")
    return f"rt/{bare}"


class Ros2Robot:
    """The Robot protocol over JointState and a trajectory or position controller."""

    is_hardware = True

    def __init__(self, cfg: Ros2RobotCfg, bundle: Bundle) -> None:
        self._cfg, self._names, self._dt = cfg, bundle.action.names, bundle.action.control_dt
        self.command_timeout_s, self.stop_key = cfg.command_timeout_s or None, cfg.stop_key
        self._order = list(range(len(self._names)))  # of our joints in a Float64MultiArray
        if cfg.command == "float64_multi_array":
            self._order = _order(cfg.command_joints, self._names)
        self._type = COMMANDS[cfg.command]
        self._line = Line(Address(
            interface=cfg.interface, domain=cfg.domain, states=wire_name(cfg.joint_states),
            state_type=JOINT_STATE, commands=wire_name(cfg.joint_commands), command_type=self._type,
        ))  # fmt: skip
        self._state: _State | None = None
        self._sent: np.ndarray | None = None
        self._reads_imu = bool(channels_read(bundle))
        self._imu: ImuReading | None = None
        self._take_imu: Callable[[], Arrived | None] = lambda: None

    def connect(self) -> None:
        """See Robot.connect."""
        if self._line.is_open:
            raise RuntimeError("the robot is connected already")
        try:
            self._state = state = self._line.open(self._parse, self._cfg.connect_timeout_s)
            self._check_clock(state)
            if self._reads_imu:
                self._find_imu()
        except (
            RuntimeError,
            ValueError,
        ) as error:  # what `read` calls broken is a robot that does not fit here
            self._line.close()
            raise UserError(str(error)) from None

    def read(self) -> JointReading:
        """See Robot.read."""
        for state in self._line.states(self._parse):
            self._state = state
        state = self._state
        assert state is not None, "a line that is open without a state"
        self._line.check_age(state.captured_s, self._cfg.state_timeout_s)
        self._feel()
        return JointReading(
            captured_s=state.captured_s, position=state.position, velocity=state.velocity,
            target=np.full(len(self._names), np.nan, np.float32), strangers=self._line.strangers,
            imu=self._imu,
        )  # fmt: skip

    def write(self, command: Command) -> np.ndarray:
        """See Robot.write."""
        sent = finite_targets(command, len(self._names))
        self._line.send(self._bytes(sent, rest=False), command.stamp_s)
        self._sent = sent
        return sent.copy()

    def stop(self) -> None:
        """Hold the last target, at rest, if anything was ever sent; then leave the wire.

        The guard has brought that target to rest within the limits; a measured pose would be a step from it.
        """
        line = self._line
        try:
            if line.is_open and line.has_written and self._sent is not None:
                line.send_last(self._bytes(self._sent, rest=True))
                line.flush()
        finally:
            line.close()
            line.has_written = False
            self._state = self._sent = self._imu = None

    def _bytes(self, target: np.ndarray, *, rest: bool) -> bytes:
        if self._type is JOINT_TRAJECTORY:
            return encode(JOINT_TRAJECTORY, joint_trajectory(self._names, target, self._dt, rest=rest))
        return encode(FLOAT64_MULTI_ARRAY, float64_multi_array(target[self._order]))

    def _parse(self, arrived: Arrived) -> _State:
        """Return the state of our joints; Foreign where none of them is in the message."""
        try:
            content = decode(JOINT_STATE, arrived.data)
        except ValueError as error:
            raise RuntimeError(f"a broken joint state: {error}") from None
        there = {name: place for place, name in enumerate(content["name"])}
        if missing := [name for name in self._names if name not in there]:
            if len(missing) == len(self._names):
                raise Foreign(
                    f"joints {', '.join(there) or 'none'}, the bundle's are {', '.join(self._names)}"
                )
            raise RuntimeError(
                f"a joint state without the bundle's joint {missing[0]!r}. It has: {', '.join(there)}"
            )
        if len(there) != len(content["name"]):
            raise RuntimeError(f"a joint state names a joint twice: {', '.join(content['name'])}")
        places, values = [there[name] for name in self._names], []
        for kind in ("position", "velocity"):
            if len(content[kind]) != len(there):
                raise RuntimeError(
                    f"a joint state of {len(there)} joints with {len(content[kind])} of {kind}"
                )
            value = content[kind][places].astype(np.float32)
            if not np.isfinite(value).all():
                odd = self._names[int(np.argmin(np.isfinite(value)))]
                raise RuntimeError(f"a joint state in which the {kind} of {odd!r} is not finite")
            values.append(value)
        captured_s, lag_s = self._captured("joint states are", content, arrived)
        return _State(captured_s=captured_s, lag_s=lag_s, position=values[0], velocity=values[1])

    def _captured(self, what: str, content: Content, arrived: Arrived) -> tuple[float, float]:
        """Return when a message was captured, and how long after its stamp it arrived."""
        stamp_ns = nanoseconds_of(content["header"]["stamp"])
        lag_s = self._line.stamps.lag(stamp_ns, arrived.arrived_s)
        if self._cfg.stamp != "sender":
            return arrived.captured_s, lag_s
        if lag_s < -CLOCK_SLACK_S:  # any state would look new
            raise RuntimeError(f"{what} stamped {lag_s:.3f} s before they arrive; {CLOCKS_DIFFER}")
        return self._line.stamps.captured(stamp_ns, arrived.arrived_s), lag_s

    def _find_imu(self) -> None:
        topic = wire_name(self._cfg.imu)
        self._take_imu = self._line.newest(topic, IMU)
        deadline = time.monotonic() + self._cfg.connect_timeout_s
        while self._imu is None:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the policy reads an IMU; none on {topic} within {self._cfg.connect_timeout_s:g} s"
                )
            time.sleep(0.005)
            self._feel()

    def _feel(self) -> None:
        """Take the newest of the IMU, if one has come."""
        if (arrived := self._take_imu()) is None:
            return
        try:
            content = decode(IMU, arrived.data)
        except ValueError as error:
            raise RuntimeError(f"a broken message of the IMU: {error}") from None
        turn, rate = content["orientation"], content["angular_velocity"]
        captured_s, _ = self._captured("messages of the IMU are", content, arrived)
        self._imu = felt(
            captured_s, np.array([turn[name] for name in "wxyz"]), np.array([rate[name] for name in "xyz"])
        )

    def _check_clock(self, state: _State) -> None:
        """Refuse a sender whose clock is not ours."""
        if self._cfg.stamp == "sender" and not -CLOCK_SLACK_S <= state.lag_s <= self._cfg.state_timeout_s:
            raise RuntimeError(
                f"joint states on {self._line.address.states} are stamped {state.lag_s:.3f} s before they "
                f"arrive; {CLOCKS_DIFFER}"
            )


@dataclass(frozen=True, kw_only=True)
class _State:
    captured_s: float
    lag_s: float  # from its stamp to its arrival
    position: np.ndarray  # (A,) float32 rad
    velocity: np.ndarray  # (A,) float32 rad/s


def _told(field: str, words: tuple[str, ...], usual: Mapping[str, str]) -> dict[str, str]:
    """Return each camera's DDS topic, the usual one unless told; UserError where there is no such camera."""
    told = named(field, words)
    if odd := sorted(set(told) - set(usual)):
        raise UserError(unknown("camera", odd[0], usual))
    return {**usual, **{name: wire_name(topic) for name, topic in told.items()}}


def _order(controller: tuple[str, ...], ours: tuple[str, ...]) -> list[int]:
    """Return for each joint of a controller which of ours it is."""
    if sorted(controller) != sorted(ours):
        raise UserError(
            "a Float64MultiArray names no joints: give robot.command_joints as the controller lists them, "
            f"each of the bundle's once ({', '.join(ours)}), got {', '.join(controller) or 'none'}"
        )
    return [ours.index(name) for name in controller]
