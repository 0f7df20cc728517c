"""What the stages on the robot's side can be told: one dataclass per stage, as in `schemas.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from robokd.fields import check, part, required

BUNDLE = "a bundle file; `robokd export run=…` makes one"
PROTOCOLS = ("ros2", "unitree")  # that the simulated robot can speak
# that data may be older than it ever was in training, in control periods; of the simulated robot it is 0.2
# old at most, and 1.04 where two cores are shared with four processes that never rest
AGE_PERIODS = 3.0
LONGEST_REST_S = 30.0  # that a guard holds a robot that nobody commands
LEAST_MOTIONS = 3  # of sysid: steps, holds and the chirp that is held out
LEAST_MOTION_S = 1.0  # shorter ones hardly move a joint before it has to come back
MISMATCH = ("stop", "warn")


def is_hardware(robot: object) -> bool:
    """Whether a robot's config is of no simulated one (sim2real/robot.py, SimulatedCfg)."""
    return not hasattr(robot, "plant")


@dataclass(kw_only=True)
class GuardConfig:
    """The guard process, which alone talks to the robot: what it allows and when it takes over."""

    speed: float = 1.0  # share of the contract's velocity, acceleration and jerk limits that is allowed
    late: float = 0.5  # control periods after a command was due, after which the robot is brought to rest
    stop_after_s: float = 1.0  # at rest without commands, after which the robot is stopped for good
    rate_hz: float = 250.0  # joints are read and passed on so often

    def __post_init__(self) -> None:
        check(self, "guard.")
        if not 0 < self.speed <= 1:
            raise ValueError(f"guard.speed must be in (0, 1], got {self.speed}")
        if not 0 < self.late <= 5:
            raise ValueError(f"guard.late must be in (0, 5] control periods, got {self.late}")
        if self.stop_after_s > LONGEST_REST_S:
            raise ValueError(f"guard.stop_after_s must be <= {LONGEST_REST_S:g} s, got {self.stop_after_s}")
        if not 10 <= self.rate_hz <= 1000:
            raise ValueError(f"guard.rate_hz must be in [10, 1000] Hz, got {self.rate_hz}")


@dataclass(kw_only=True)
class RuntimeConfig:
    """How the processes run, and what a run must have kept to end well."""

    fifo: bool = False  # SCHED_FIFO for every process of a deployment; needs the right to it
    cores: tuple[int, ...] = ()  # processor cores of policy and guard, in this order; empty = any
    period_p99_s: float = 0.0  # largest allowed deviation from the control period, 99th percentile; 0 = any
    inference_p99_s: float = 0.0  # longest allowed inference, 99th percentile; 0 = any

    def __post_init__(self) -> None:
        check(self, "runtime.")
        if len(self.cores) not in (0, 2) or any(core < 0 for core in self.cores):
            raise ValueError(f"runtime.cores must be two cores >= 0 (policy, guard), got {list(self.cores)}")


@dataclass(kw_only=True)
class DeployConfig:
    """Run a bundle on a robot, behind a guard in a process of its own."""

    bundle: str = field(metadata=required(BUNDLE))
    robot: Any = field(metadata=part("robot"))
    sha256: str = ""  # that the bundle must have; empty = any
    arm: bool = False  # let hardware move; without it commands are computed and logged, not sent
    episodes: int = 20  # at most
    duration_s: float = 0.0  # seconds instead of episodes; 0 = count episodes
    home: bool = False  # go slowly to the ready pose first, and back to it at the end
    shadow: str = ""  # another bundle, whose policy runs silently beside
    mismatch: str = "stop"  # on pictures unlike those of training: stop, or warn
    velocity_command: tuple[float, ...] = ()  # m/s ahead, m/s left, rad/s turn; empty = what the robot tells
    guard: GuardConfig = field(default_factory=GuardConfig)  # what may reach the robot, and when it stops
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)  # how the processes run
    task: str = ""  # the bundle must be for; empty = any
    seed: int = 0  # of the simulated robot's episodes
    runs: str = "runs"  # folder that the run's folder is made in
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)
        if self.mismatch not in MISMATCH:
            raise ValueError(f"mismatch must be {' or '.join(MISMATCH)}, got {self.mismatch!r}")
        if len(self.velocity_command) not in (0, 3) or not all(map(math.isfinite, self.velocity_command)):
            wanted = "3 numbers: m/s ahead, m/s left, rad/s turn"
            raise ValueError(f"velocity_command wants {wanted}; got {list(self.velocity_command)}")


@dataclass(kw_only=True)
class SimulateConfig:
    """Let the simulated robot speak a hardware protocol, for drivers to be tried against, until Ctrl-C."""

    bundle: str = field(metadata=required(BUNDLE))
    protocol: str = "ros2"  # ros2 or unitree
    interface: str = "lo"  # network interface
    domain: int = 0  # DDS domain
    space: str = "seen"  # where episodes are drawn from: seen, unseen or unseen_all
    command_timeout_s: float = 0.5  # without a command, after which the robot holds by itself
    duration_s: float = 0.0  # 0 = until Ctrl-C
    seed: int = 0  # of the episodes
    runs: str = "runs"  # folder that the run's folder is made in
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be {' or '.join(PROTOCOLS)}, got {self.protocol!r}")


@dataclass(kw_only=True)
class ReplayConfig:
    """Feed the observations of a log through a bundle again and prove that the actions are the same."""

    log: str = field(metadata=required("a deploy run's folder or its log.mcap; `robokd deploy …` leaves one"))
    bundle: str = ""  # empty = the one that the log names
    runs: str = "runs"  # folder that the run's folder is made in

    def __post_init__(self) -> None:
        check(self)


@dataclass(kw_only=True)
class FaultsConfig:
    """Inject faults into a running deployment and prove that the robot stayed within its limits."""

    bundle: str = field(metadata=required(BUNDLE))
    robot: Any = field(metadata=part("robot"))
    cases: tuple[str, ...] = ()  # of the table in README; empty = all
    messages: int = 20  # faults of each kind into messages
    processes: int = 2  # faults of each kind into processes
    out: str = ""  # file for the cases; empty = only the run's summary
    seed: int = 0  # of where faults land
    runs: str = "runs"  # folder that the run's folder is made in
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)


@dataclass(kw_only=True)
class SysidConfig:
    """Identify a robot's joints: excite within limits, log, estimate the delay, fit, validate."""

    bundle: str = field(metadata=required(BUNDLE))
    robot: Any = field(metadata=part("robot"))
    log: str = ""  # an excitation that was recorded before, instead of moving the robot
    arm: bool = False  # let hardware move
    motions: int = 6  # chirps, random steps and holds, some of which are held out
    motion_s: float = 8.0  # length of each
    amplitude: float = 0.5  # share of each joint's room inside its limits and the start envelope
    out: str = ""  # YAML that teach and distill take as it is; empty = randomise.yaml in the run's folder
    seed: int = 0  # of the excitation
    runs: str = "runs"  # folder that the run's folder is made in
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.amplitude <= 1:
            raise ValueError(f"amplitude must be in (0, 1], got {self.amplitude}")
        if self.motions < LEAST_MOTIONS:
            why = "every third is held out to validate on"
            raise ValueError(f"motions must be >= {LEAST_MOTIONS}, got {self.motions}: {why}")
        if self.motion_s < LEAST_MOTION_S:
            why = "shorter ones tell nothing of a joint"
            raise ValueError(f"motion_s must be >= {LEAST_MOTION_S:g} s, got {self.motion_s}: {why}")


@dataclass(kw_only=True)
class GapConfig:
    """Replay a robot's log in simulation and say how far joints and pictures are apart."""

    log: str = field(metadata=required("a deploy run's folder or its log.mcap; `robokd deploy …` leaves one"))
    bundle: str = ""  # empty = the one that the log names
    joint_rad: float = 0.02  # root mean square that passes, of each joint
    picture: float = 0.1  # mean absolute difference that passes, of each camera, as a share of its range
    seed: int = 0  # of the simulation
    runs: str = "runs"  # folder that the run's folder is made in
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)


def check_periods(age_periods: float) -> None:
    """Raise ValueError where a bundle's data would be too old as soon as it is seen."""
    if not 1 <= age_periods < math.inf:
        raise ValueError(f"age_periods must be >= 1 control period, got {age_periods}")


@dataclass(kw_only=True)
class ImportConfig:
    """Turn another suite's export into a bundle, with what it does not say supplied by a contract file."""

    foreign: str = field(metadata=required("an .onnx of mjlab or holosoma, or unitree's deploy.yaml"))
    contract: str = ""  # JSON file with the fields that the export lacks; without it they are listed
    out: str = "imported.robokd"  # file to write
    age_periods: float = AGE_PERIODS  # control periods that data may be older than it was in training
    runs: str = "runs"  # folder that the run's folder is made in

    def __post_init__(self) -> None:
        check(self)
        check_periods(self.age_periods)


ROBOT_SCHEMAS: dict[str, type] = {
    "deploy": DeployConfig,
    "simulate": SimulateConfig,
    "replay": ReplayConfig,
    "faults": FaultsConfig,
    "sysid": SysidConfig,
    "gap": GapConfig,
    "import": ImportConfig,
}
