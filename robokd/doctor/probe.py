"""What the checks look at: the teacher's episodes, and rows collected exactly as the stage collects them.

Half of the probe's environments follow their own teacher, the other half the answers meant for a neighbour.
A teacher's motion tells where its goal is: a blind student would seem to see it. Where the arm is misled,
only what is seen helps, as it is when a student that does not know yet acts.
Shapes: N environments, K control steps, R rows of T steps, M steps of all environments, A actions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.doctor.teacher import Alignment, Repeats
from robokd.draws import Draws
from robokd.env.base import State, TaskEnv
from robokd.learn.dagger import Dagger
from robokd.learn.dataset import FRESH, LABEL, DataSet
from robokd.learn.pupil import build_student
from robokd.learn.rollout import rollout
from robokd.learning import ActingConfig
from robokd.losses.action_huber import ActionHuberCfg
from robokd.losses.estimate import EstimateCfg
from robokd.run import Run
from robokd.schedule import Schedule
from robokd.students.base import Student, StudentModule, StudentPolicy

if TYPE_CHECKING:
    from robokd.config import DistillConfig, DoctorConfig
    from robokd.teachers.base import Teacher

NOISE = 0.3  # standard deviation of what is added to the actions sent: off the one path of the teacher
STEPS = 32  # control steps of the probe, if the frames allow: more environments are more episodes
FEWEST = 8  # environments, for some episodes to be held out
MOST = 256  # environments
HELD_OUT = 0.25  # of the probe's episodes: a score of the stage's 5 % would be of a handful
REPLAYED = 16  # control steps that are done twice
TIMED_FRAMES = 4  # control steps of the round that is timed


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What the teacher saw and said on validation episodes, in the student's environment."""

    success: Tensor  # (E,)
    rows: dict[str, Tensor]  # {1-D group: (M, D)}
    labels: Tensor  # (M, A)


class Recorder:
    """The Policy protocol over a teacher, which keeps what was seen and said."""

    def __init__(self, teacher: Teacher, groups: tuple[str, ...]) -> None:
        self.inputs, self.teacher, self.groups = teacher.inputs, teacher, groups
        self.seen: dict[str, list[Tensor]] = {name: [] for name in groups}
        self.said: list[Tensor] = []

    def act(self, obs: TensorDict) -> Tensor:
        """See Policy."""
        for name in self.groups:
            self.seen[name].append(obs[name])
        self.said.append(self.teacher.act(obs))
        return self.said[-1]

    def reset(self, mask: Tensor) -> None:
        """See Policy."""
        self.teacher.reset(mask)


def replay(env: TaskEnv, teacher: Teacher, episodes: int) -> Replay:
    """Return what the teacher saw and did on episodes 0 .. E-1."""
    groups = tuple(name for name in env.groups if name in env.obs_specs)
    recorder = Recorder(teacher, groups)
    outcomes = rollout(env, recorder, episodes)
    rows = {name: torch.cat(values) for name, values in recorder.seen.items()}
    return Replay(success=outcomes.success, rows=rows, labels=torch.cat(recorder.said))


def repeat(env: TaskEnv, teacher: Teacher) -> Repeats:
    """Ask the same twice: the same rows, in other batches too, and the same steps from a snapshot."""
    obs = env.reset()
    once, half = teacher.act(obs), max(len(obs) // 2, 1)
    split = torch.cat([teacher.act(part) for part in obs.split(half)])
    again = teacher.act(obs)
    before = env.snapshot()
    runs = []
    for _ in range(2):
        env.restore(before)
        obs, said = env.get_observations(), []
        for _ in range(REPLAYED):
            said.append(teacher.act(obs))
            obs, _, dones, _ = env.step(said[-1])
            teacher.reset(dones.bool())
        runs.append(torch.stack(said))
    return Repeats(again=_apart(once, again), split=_apart(once, split), replayed=_apart(*runs))


def _apart(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().max().item()


class Driver(StudentPolicy):
    """Who acts in the probe, in the student's place; the student is asked all the same, so that it remembers.

    Environments with an even number get their own teacher's actions, the others those of the one before,
    all with noise.
    """

    def __init__(self, student: Student, teacher: Teacher, state: State) -> None:
        super().__init__(student, len(state.step))
        self.teacher, self.live = teacher, state
        self.sent: list[Tensor] = []

    def act(self, obs: TensorDict) -> Tensor:
        """See StudentPolicy."""
        super().act(obs)
        label, live = self.teacher.act(obs), self.live
        odd = torch.arange(len(label))[:, None] % 2 == 1
        noise = live.draws.normal("doctor", live.episode_id, live.step, label.shape[1]).to(label)
        self.sent.append((torch.where(odd, label.roll(1, 0), label) + NOISE * noise).clip(-1, 1))
        return self.sent[-1]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Rows of a data set, and which of them are of what kind."""

    rows: TensorDict  # (R, ...), as the stage's data set gives them
    held_out: Tensor  # (R, T) bool, never learned from
    misled: Tensor  # (R,) bool, of environments that follow a neighbour's teacher
    place: Tensor  # (R,) in [0, 1), of the row's environment among all
    targets: tuple[str, ...]  # privileged terms that the rows hold
    alignment: Alignment

    @property
    def frames(self) -> int:
        """How many steps there are."""
        return self.held_out.numel()


def size(config: DoctorConfig) -> int:
    """Return N of the probe."""
    return max(min(config.frames // STEPS, MOST), FEWEST)


def probe_config(config: DoctorConfig, terms: tuple[str, ...]) -> DoctorConfig:
    """Return the config with losses of the probe's own, of actions and of all the terms."""
    losses = {"action_huber": ActionHuberCfg()}
    return dataclasses.replace(
        config, loss=losses | ({"estimate": EstimateCfg(terms=terms)} if terms else {})
    )


def collect(
    config: DoctorConfig, env: TaskEnv, teacher: Teacher, terms: dict[str, tuple[str, slice]], folder: Path
) -> Probe:
    """Collect rows by the stage's own engine and compare them with a replay from a snapshot."""
    own = probe_config(config, tuple(terms))
    student = build_student(own, env)
    length = make_engine(own, env, student, teacher, folder).length  # refuses what the stage would
    steps = max(math.ceil(config.frames / env.num_envs / length), 1) * length
    dagger = dataclasses.replace(
        config.dagger, acting=ActingConfig(share=Schedule(begin=0.0, end=0.0)), rounds=1,
        steps_per_round=steps, capacity=steps * env.num_envs, checkpoint_every=1, validation_share=HELD_OUT,
        sampling="uniform",
    )  # fmt: skip
    engine = make_engine(dataclasses.replace(own, dagger=dagger), env, student, teacher, folder)
    engine.targets = dict(terms)
    driver = engine.policy = Driver(student, teacher, env.state)
    share = env.draws.uniform("stagger", env.state.episode_id, 0, 1)[:, 0]
    env.episode_length_buf = (share * env.max_episode_length).long()  # some end while we look
    before = env.snapshot()
    env.restore(before)  # what is drawn by the step is seen anew
    with contextlib.redirect_stdout(io.StringIO()):  # it says how large the buffer is, and this one is not
        engine._collect(0.0)
    data, count = engine.data, len(engine.data.buffer)
    rows = data.buffer.rows(torch.arange(count))
    number = torch.arange(count) % env.num_envs
    return Probe(
        rows=rows, held_out=data.is_held_out(rows), misled=number % 2 == 1, place=number / env.num_envs,
        targets=tuple(terms), alignment=realign(env, teacher, rows, before, driver.sent),
    )  # fmt: skip


def make_engine(
    config: DistillConfig, env: TaskEnv, student: StudentModule, teacher: Teacher, folder: Path
) -> Dagger:
    """Return the stage's engine with its data in `folder`, its draws of the validation stream."""
    nowhere = Run(folder, {"stage": "doctor", "task": config.task.name, "seed": config.seed}, {})
    engine = Dagger(config, env, student, teacher)
    engine.run = nowhere
    engine.draws = Draws(config.seed, "validation")
    engine.data = DataSet(config.dagger, engine.draws, env.num_envs, engine.length)
    return engine


def timed_config(config: DoctorConfig, num_envs: int, length: int) -> DoctorConfig:
    """Return the config with a round that is small but for its batches."""
    steps = math.ceil(TIMED_FRAMES / length) * length
    small = {"rounds": 1, "steps_per_round": steps, "checkpoint_every": 1}
    capacity = 2 * steps * num_envs
    return dataclasses.replace(config, dagger=dataclasses.replace(config.dagger, capacity=capacity, **small))


def realign(
    env: TaskEnv, teacher: Teacher, rows: TensorDict, before: dict[str, object], sent: list[Tensor]
) -> Alignment:
    """Go the same steps again from a snapshot and compare what is stored with what was seen before each."""
    env.restore(before)
    kinds = [name for name in env.groups if name in rows.keys()]  # noqa: SIM118  (a TensorDict)
    stored = {name: by_step(rows[name], env.num_envs) for name in (LABEL, FRESH, *kinds)}
    obs, wrong, unlike = env.get_observations(), 0, 0
    for step, actions in enumerate(sent):
        wrong += int((teacher.act(obs) != stored[LABEL][step]).any(1).sum())
        alike = [torch.equal(obs[name], stored[name][step]) for name in kinds]
        unlike += not all(alike)
        obs, _, dones, _ = env.step(actions)
        teacher.reset(dones.bool())
    labels = stored[LABEL].shape[0] * env.num_envs
    return Alignment(labels=labels, wrong=wrong, unlike=unlike, resets=int(stored[FRESH][1:].sum()))


def by_step(rows: Tensor, num_envs: int) -> Tensor:
    """Return a column (R, T, ...) in the order of time, (K, N, ...); see dataset.rows_of."""
    return rows.unflatten(0, (-1, num_envs)).transpose(1, 2).flatten(0, 1)
