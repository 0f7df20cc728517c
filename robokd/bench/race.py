"""Students as they learn: success against frames and seconds, of our distillation and of rsl_rl's.

Both on the same environments, from the same teacher, with the same student network and validation episodes.
Seconds are of collecting and learning, without validation. rsl_rl's learner has no loss for where the goal
is, so its student has no estimate; ours keeps its defaults.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from robokd.bench import peer
from robokd.bench.row import Effort, Gate, Measure, Row
from robokd.config import DistillConfig, compose
from robokd.learn.dagger import distill
from robokd.learn.instructor import open_teacher, teacher_outcomes, training_env, validation
from robokd.learn.pupil import build_student
from robokd.learn.stage import begin
from robokd.run import Run

WORDS = ("task=reach", "cameras=[front,wrist]", "teacher=scripted", "threads=1", "dagger.stop_retention=9")
APART = 0.1  # of frames or seconds, relative: a side stops with a round


@dataclass(frozen=True, kw_only=True)
class Point:
    """How a student did, and what it had cost until then."""

    frames: int  # environment steps, each with its label
    seconds: float
    grad_samples: int  # frames learned from
    success: float
    taught: float  # success of the teacher


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How rsl_rl's learner is run; its defaults."""

    epochs: int = 1
    gradient_length: int = 15  # steps of all environments in a gradient step
    steps: int = 15  # of an iteration
    learning_rate: float = 1e-3


def ours(run: Run) -> Iterator[Point]:
    """Read the curve of a distillation that has ended."""
    seconds, total = 0.0, run.read_summary()
    taught, each = total["teacher_validation_success"], total["grad_samples"] / total["rounds"]
    for line in run.metrics():
        seconds += (line["time/collect_s"] or 0.0) + (line["time/learn_s"] or 0.0)
        success = line.get("validation/success")
        if success is not None:
            learned, frames = round((line["step"] or 0) * each), round(line["frames"] or 0)
            yield Point(frames=frames, seconds=seconds, grad_samples=learned, success=success, taught=taught)


def theirs(config: DistillConfig, settings: Peer, looks: Callable[[int, float], bool]) -> Iterator[Point]:
    """Run rsl_rl's learner for ever; yield a point after each iteration where it `looks(frames, seconds)`."""
    begin(config.seed, config.threads)
    env = training_env(config)
    teacher, student = open_teacher(config, env), build_student(config, env)
    validate = validation(config, student)
    taught = teacher_outcomes(config, teacher).success.mean().item()
    algorithm = peer.distillation(
        peer.PeerStudent(student, env.num_envs), teacher, env.get_observations(), actions=env.num_actions,
        steps=settings.steps, epochs=settings.epochs, gradient_length=settings.gradient_length,
        learning_rate=settings.learning_rate,
    )  # fmt: skip
    seconds, frames = 0.0, 0
    while True:
        began = time.perf_counter()
        peer.collect(algorithm, env)
        algorithm.update()
        seconds += time.perf_counter() - began
        frames += settings.steps * env.num_envs
        if looks(frames, seconds):
            algorithm.eval_mode()
            success = validate().success.mean().item()
            algorithm.train_mode()
            yield Point(
                frames=frames, seconds=seconds, grad_samples=frames * settings.epochs, success=success,
                taught=taught,
            )  # fmt: skip


def rows(effort: Effort) -> Iterator[Row]:
    """Measure how often students fail at equal frames and at equal seconds."""
    rounds = effort.race_rounds
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *WORDS, f"seed={effort.seed}", f"num_envs={effort.num_envs}", f"dagger.rounds={rounds}",
            f"dagger.evaluate_every={rounds}", f"dagger.evaluate_episodes={min(effort.num_envs, 128)}",
            f"runs={folder}",
        ]  # fmt: skip
        (end,) = ours(Run.open(distill(compose("distill", words)).parent))
    steps = 1 if effort.num_envs < 256 else Peer.steps  # of a small one the gates would be coarse
    settings = dataclasses.replace(Peer(), steps=steps, gradient_length=min(steps, Peer.gradient_length))
    config = compose("distill", [*words, "loss=[action_mse]"])
    # one run, looked at where it has had as many frames and where it has had as many seconds
    looks = itertools.tee(theirs(config, settings, _passes(end)))
    for name, points in zip(("frames", "seconds"), looks, strict=True):
        limit = getattr(end, name)
        found = next(point for point in points if getattr(point, name) >= limit)
        apart = getattr(found, name) / limit - 1
        measures = (
            Measure(
                name="difference of the teachers' success", value=abs(found.taught - end.taught), limit=0.0
            ),
            Measure(name=f"relative difference of {name}", value=apart, limit=APART),
        )
        yield Row(
            name=f"failures of a student after equal {name}", unit="failures",
            peer_name=f"rsl_rl's Distillation, its defaults: {found.frames} frames, {found.seconds:.0f} s; "
            f"ours {end.frames}, {end.seconds:.0f} s",
            gate=Gate(name=f"the same teacher, equal {name}", measures=measures),
            ours_all=(_failures(end, config),), peer_all=(_failures(found, config),),
        )  # fmt: skip


def _passes(end: Point) -> Callable[[int, float], bool]:
    """Return what tells whether (frames, seconds) are the first to reach those of `end`, in either."""
    before = {(False, False)}

    def looks(frames: int, seconds: float) -> bool:
        now = (frames >= end.frames, seconds >= end.seconds)
        is_first = now not in before
        before.add(now)
        return is_first

    return looks


def _failures(point: Point, config: DistillConfig) -> float:
    """Return the share of episodes that failed, as if half of one more had: none is not never."""
    count = config.dagger.evaluate_episodes
    return ((1 - point.success) * count + 0.5) / (count + 1)
