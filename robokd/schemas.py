"""What every stage can be told: one dataclass per stage.

A field stands with its default and, in the comment on its line, its meaning and unit; `--help` prints them.
The default parts of a stage stand in `configs/<stage>.yaml`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from robokd.cores import cores
from robokd.deploying import AGE_PERIODS, ROBOT_SCHEMAS, DeployConfig, check_periods
from robokd.fields import check, part, required
from robokd.learning import DaggerConfig, ReinforcementConfig

RUN_WITH_POLICY = ("teach", "distill", "refine")


@dataclass(kw_only=True)
class SimulatingConfig:
    """What every stage that simulates can be told."""

    seed: int = 0  # of every random draw
    device: str = "cpu"  # cpu, cuda or cuda:<number>
    threads: int = 0  # processor threads; 0 = all cores
    runs: str = "runs"  # folder that the run's folder is made in
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)
        # saved as a number: sums differ in the last bit by how many threads share them, and a run that is
        # resumed on another machine must end as it would have here
        self.threads = self.threads or cores()


@dataclass(kw_only=True)
class TeachConfig(SimulatingConfig):
    """Teach a policy by reinforcement learning on the simulator's own state."""

    task: Any = field(metadata=part("task"))
    sim: Any = field(metadata=part("sim"))
    teacher: Any = field(metadata=part("teacher"))
    curriculum: Any = field(metadata=part("curriculum"))
    num_envs: int = 256  # environments simulated at once

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trains(self.teacher)


@dataclass(kw_only=True)
class DistillConfig(SimulatingConfig):
    """Distil a teacher into a student that sees."""

    parent: str = field(
        default="",
        metadata=required(
            "the run of a teacher; `robokd teach task=…` makes one, or choose teacher=…", run_of=("teach",),
            unless="teacher",
        ),
    )  # fmt: skip
    checkpoint: str = "best"  # of the parent, and of the baseline: best or last
    task: Any = field(metadata=part("task", inherit=True, fixed=True))
    sim: Any = field(metadata=part("sim", inherit=True))
    renderer: Any = field(metadata=part("renderer"))
    corrupt: Any = field(metadata=part("corrupt"))
    teacher: Any = field(metadata=part("teacher"))
    student: Any = field(metadata=part("student"))
    loss: dict[str, Any] = field(default_factory=dict, metadata=part("loss"))
    cameras: tuple[str, ...] = ("front",)  # the student's eyes, by name; [] = it is blind
    groups: tuple[str, ...] = ("proprio",)  # what else it sees, of what a robot has
    dagger: DaggerConfig = field(default_factory=DaggerConfig)
    rl: ReinforcementConfig = field(default_factory=ReinforcementConfig)  # of loss=[ppo,…]
    baseline: str = field(  # a student to go on from, and not to fall behind
        default="", metadata={"run_of": ("distill",)}
    )
    num_envs: int = 256  # environments simulated at once

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.loss:
            raise ValueError("loss must name at least one loss, got none")
        if self.teacher.name in ("parent", "twin"):
            self._check_twin()
            return
        if self.parent:
            raise ValueError(f"parent={self.parent} and teacher={self.teacher.name}: only one can teach")
        if not hasattr(self.teacher, "open"):
            how = f"`robokd teach teacher={self.teacher.name}` and then parent=<its run>"
            raise ValueError(f"teacher={self.teacher.name} is trained before it labels: {how}")

    def _check_twin(self) -> None:
        if self.teacher.name != "twin":
            return
        if self.parent:
            raise ValueError(f"parent={self.parent} and teacher=twin: only one can teach")
        if not any(loss.of_rollout for loss in self.loss.values()):
            raise ValueError("teacher=twin knows nothing until rewards teach it: say loss=[ppo,…]")
        if self.teacher.latent and "latent" not in self.loss:
            got = f"teacher.latent={self.teacher.latent}"
            raise ValueError(f"{got}, and nothing teaches the student to guess it: say loss=[ppo,latent,…]")


@dataclass(kw_only=True)
class DoctorConfig(DistillConfig):
    """Say before a distillation why it would fail; every key of distill, and its own."""

    frames: int = 4096  # of the probe, that a student is fitted to for a short while
    episodes: int = 64  # of the validation stream, that the teacher is tried on
    out: str = ""  # JSON report to write; empty = print only


@dataclass(kw_only=True)
class RefineConfig(SimulatingConfig):
    """Refine a student by reinforcement learning of a residual on top of it."""

    parent: str = field(
        metadata=required("the run of a student; `robokd distill parent=…` makes one", run_of=("distill",))
    )
    checkpoint: str = "best"  # of the parent: best or last
    task: Any = field(metadata=part("task", inherit=True, fixed=True))
    sim: Any = field(metadata=part("sim", inherit=True))
    renderer: Any = field(metadata=part("renderer", inherit=True))
    corrupt: Any = field(metadata=part("corrupt", inherit=True))
    teacher: Any = field(metadata=part("teacher"))
    cameras: tuple[str, ...] = field(
        default=("front",), metadata={"inherit": True, "fixed": True}
    )  # the student's
    residual_scale: float = 0.3  # largest correction, as a share of the action's range
    num_envs: int = 256  # environments simulated at once

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trains(self.teacher)
        if not callable(self.teacher.algorithm):  # of sb3 it is a name
            raise ValueError(f"teacher={self.teacher.name} cannot refine: a residual is learned by ppo")
        for name, why in (
            ("imitate", "a script gives whole actions, and refining learns what to add to them"),
            ("latent", "a residual acts on what a robot has, of which nothing is to be guessed"),
        ):
            if said := getattr(self.teacher, name, 0):
                raise ValueError(f"teacher.{name}={said}: {why}")
        if not 0 < self.residual_scale <= 1:
            raise ValueError(f"residual_scale must be in (0, 1], got {self.residual_scale}")


@dataclass(kw_only=True)
class EvaluateConfig(SimulatingConfig):
    """Measure a policy on test episodes, paired with another one's if there is a baseline."""

    run: str = field(
        metadata=required("the run to measure; `robokd teach task=…` makes one", run_of=RUN_WITH_POLICY)
    )
    baseline: str = field(default="", metadata={"run_of": RUN_WITH_POLICY})  # a run on the same episodes
    checkpoint: str = "best"  # best or last
    task: Any = field(metadata=part("task", inherit=True, fixed=True))
    sim: Any = field(metadata=part("sim", inherit=True))
    renderer: Any = field(metadata=part("renderer", inherit=True))
    corrupt: Any = field(metadata=part("corrupt", inherit=True))
    episodes: int = 512  # of each test space
    spaces: tuple[str, ...] = ("seen", "unseen", "unseen_all")  # trained on, one range held out, all held out
    ablations: bool = True  # also with blank, shuffled and frozen cameras
    num_envs: int = 256  # environments simulated at once

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ablations and min(self.num_envs, self.episodes) < 2:
            counts = f"num_envs={self.num_envs} and episodes={self.episodes}"
            raise ValueError(f"shuffled cameras need two environments, got {counts}; or say ablations=false")


@dataclass(kw_only=True)
class ExportConfig(SimulatingConfig):
    """Export a policy as one bundle that a robot can run."""

    run: str = field(
        metadata=required(
            "the run of a student; `robokd distill parent=…` or `robokd refine parent=…` makes one",
            run_of=("distill", "refine"),
            why="a teacher acts on what only the simulator knows",
        )
    )
    checkpoint: str = "best"  # best or last
    out: str = ""  # file to write; empty = <task>.robokd in the run's folder
    task: Any = field(metadata=part("task", inherit=True, fixed=True))
    sim: Any = field(metadata=part("sim", inherit=True))
    renderer: Any = field(metadata=part("renderer", inherit=True))
    corrupt: Any = field(metadata=part("corrupt", inherit=True))
    parity_samples: int = 256  # control steps on which both policies are compared
    jerk: tuple[float, ...] = ()  # rad/s^3, each joint's or one for all; empty = as the acceleration implies
    torque_rate: tuple[float, ...] = ()  # N m/s, each joint's or one for all; empty = no limit
    age_periods: float = AGE_PERIODS  # control periods that data may be older than it was in training
    key: str = ""  # of robokd keys new; empty = "default" where there is one, else unsigned

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("jerk", "torque_rate"):
            if not all(0 < value < math.inf for value in getattr(self, name)):
                raise ValueError(f"{name} must be > 0, got {list(getattr(self, name))}")
        check_periods(self.age_periods)


@dataclass(kw_only=True)
class PlayConfig(SimulatingConfig):
    """Watch a policy act."""

    run: str = field(
        metadata=required("the run to watch; `robokd teach task=…` makes one", run_of=RUN_WITH_POLICY)
    )
    checkpoint: str = "best"  # best or last
    episodes: int = 3  # to play
    video: str = ""  # .mp4 file to write; empty = play.mp4 in the run's folder
    cameras: tuple[str, ...] = ()  # to show besides the policy's own, by name
    task: Any = field(metadata=part("task", inherit=True, fixed=True))
    sim: Any = field(metadata=part("sim", inherit=True))
    renderer: Any = field(metadata=part("renderer", inherit=True))
    corrupt: Any = field(metadata=part("corrupt", inherit=True))


@dataclass(kw_only=True)
class LookConfig(SimulatingConfig):
    """Look at what cameras show: clean, spoiled as a sensor spoils it, and beside MuJoCo's own renderer."""

    task: Any = field(metadata=part("task"))
    sim: Any = field(metadata=part("sim"))
    renderer: Any = field(metadata=part("renderer"))
    corrupt: Any = field(metadata=part("corrupt"))
    cameras: tuple[str, ...] = ("all",)  # by name, or all
    moments: int = 6  # pictures of each camera, each of another episode
    out: str = "look.png"  # file to write


@dataclass(kw_only=True)
class BenchConfig:
    """Measure how fast robokd is beside what one would use instead, correctness first."""

    what: str = "render"  # render, collect, sim, teach, distill or policy
    out: str = "rows.json"  # file to write
    repeats: int = 5  # of each side, in turn; the median counts
    seed: int = 0  # of every random draw
    plugins: tuple[str, ...] = ()  # modules that register more parts

    def __post_init__(self) -> None:
        check(self)


@dataclass(kw_only=True)
class ReportConfig:
    """Write what runs have measured into one page."""

    runs: tuple[str, ...] = field(
        metadata=required("the runs to report, as runs=[a,b], or runs=results: the table of all tasks")
    )
    out: str = "report.html"  # file to write; the table of all tasks may be .md


@dataclass(kw_only=True)
class PipelineConfig:
    """Do it all: teach, distill, refine, evaluate, export, deploy, report."""

    teach: TeachConfig
    distill: DistillConfig
    refine: RefineConfig
    evaluate: EvaluateConfig
    export: ExportConfig
    deploy: DeployConfig


SCHEMAS: dict[str, type] = {
    "teach": TeachConfig,
    "distill": DistillConfig,
    "doctor": DoctorConfig,
    "refine": RefineConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    **ROBOT_SCHEMAS,
    "play": PlayConfig,
    "look": LookConfig,
    "bench": BenchConfig,
    "report": ReportConfig,
    "pipeline": PipelineConfig,
}
# where a stage of the pipeline inherits from; evaluation is of the distilled task, whatever refining aims at
LINEAGE = {"distill": "teach", "refine": "distill", "evaluate": "distill", "export": "refine"}
# keys of the pipeline that go to every stage that has them
SHARED = ("task", "sim", "seed", "num_envs", "device", "threads", "runs", "plugins")


def check_trains(teacher: Any) -> None:  # noqa: ANN401  (any registered teacher)
    """Raise ValueError for a teacher that only labels."""
    if not hasattr(teacher, "algorithm"):
        raise ValueError(f"teacher={teacher.name} cannot be trained; it is for distill. teacher=ppo can")
