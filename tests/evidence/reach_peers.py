"""Success of the task reach against frames and time: ours, rsl_rl's `Distillation`, and controls.

    python -m tests.evidence.reach_peers <teach run> <out.json> [seed ...]        half an hour a seed
    python -m tests.evidence.reach_peers summary <summary.json> <out.json> ...    of several such files

All see front and wrist camera, student=cnn, one thread, the same 128 validation episodes; seconds are of
collecting and learning, without validation. "To the target" is to 0.9 of the teacher's success. Rows are
written as they come; those that the file has are not made again. Two files may be made at once.

    ours                            distill as it comes, until the target
    rsl_rl                          its defaults: an Adam step on 15 x 256 frames, each used once
    rsl_rl, gradient steps as ours  75 steps of 256 frames on every 15 x 256; ours has 80 on 16 x 256
    dagger, bc, random teacher      until all episodes succeed, at most 102 400 frames and labels, 2000 steps
    reward alone                    PPO from the same pictures, 102 400 frames, each learned from five times

rsl_rl's learner has no loss for where the goal is, so its student has no estimate; ours has both as defaults.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from robokd.bench.race import Peer, Point, ours, theirs
from robokd.config import DistillConfig, compose
from robokd.files import read_json, to_json, write_atomic
from robokd.intervals import student_t
from robokd.learn.dagger import distill
from robokd.run import Run
from tests.evidence.table import Row, fill

TARGET = 0.9  # of the teacher's success
CAMERAS, LONG = "cameras=[front,wrist]", ["dagger.rounds=25", "dagger.stop_retention=1"]
OURS = {  # way -> what is said to distill
    "ours": ["dagger.evaluate_every=1", f"dagger.stop_retention={TARGET}"],
    "dagger": ["dagger.evaluate_every=2", *LONG],
    "bc": ["dagger.evaluate_every=2", "dagger.acting.share=1", *LONG],
    "random teacher": ["dagger.evaluate_every=5", "teacher=random", *LONG],
    "reward alone": [
        "dagger.evaluate_every=5", "loss=[ppo]", "student.gaussian=true", "dagger.acting.share=0", *LONG,
    ],
}  # fmt: skip
NUMBERS = ("success", "best", "frames_to_target", "seconds_to_target", "frames", "seconds", "grad_samples")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How rsl_rl's learner is run, how often it is looked at, and when it is given up."""

    settings: Peer
    every: int  # frames
    frames: int  # at most


PEERS = {
    "rsl_rl": Budget(settings=Peer(), every=38_400, frames=500_000),
    "rsl_rl, gradient steps as ours": Budget(
        settings=Peer(epochs=5, gradient_length=1), every=3840, frames=150_000
    ),
}
WAYS = (*OURS, *reversed(PEERS))  # what takes long comes last


def measured(
    parent: Run, way: str, seed: int, runs: Path, words: Sequence[str] = (), budget: Budget | None = None
) -> Row:
    """Return the numbers of a way; `words` and `budget` are for smaller ones than the full."""
    own = ["task=reach"] if "teacher=random" in OURS.get(way, ()) else [f"parent={parent.path}"]
    said = [*own, CAMERAS, "threads=1", f"seed={seed}", f"runs={runs}", *OURS.get(way, ()), *words]
    if way in PEERS:
        config = compose("distill", [*said, "loss=[action_mse]"], parent.config)
        return _row(_peer(config, budget or PEERS[way]))
    made = distill(compose("distill", said, parent.config))
    return _row(ours(Run.open(made.parent)))


def _peer(config: DistillConfig, budget: Budget) -> Iterator[Point]:
    """Run rsl_rl's learner until the target or the budget."""
    for point in theirs(config, budget.settings, lambda frames, _: frames % budget.every == 0):
        yield point
        if point.success >= TARGET * point.taught or point.frames + budget.every > budget.frames:
            return


def _row(points: Iterator[Point]) -> Row:
    """Return a curve, where it reached the target, and where it ended."""
    curve = list(points)
    last, reached = curve[-1], next((one for one in curve if 0 < TARGET * one.taught <= one.success), None)
    return {
        "teacher_success": last.taught, "target": TARGET * last.taught, "success": last.success,
        "best": max(one.success for one in curve), "frames": last.frames, "seconds": last.seconds,
        "grad_samples": last.grad_samples, "frames_to_target": reached.frames if reached else None,
        "seconds_to_target": reached.seconds if reached else None,
        "curve": [[one.frames, round(one.seconds, 2), one.success] for one in curve],
    }  # fmt: skip


def summary(outs: Sequence[str]) -> dict[str, Any]:
    """Return by way what the seeds of all files say: mean, least and most, and a 95 % t-interval.

    A way that some seed ended before the target has no mean of what it took, which would flatter it.
    """
    rows = [row for out in outs for row in read_json(out)["rows"]]
    found: dict[str, Any] = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        mine = [row for row in rows if row["way"] == way]
        seeds = [row["seed"] for row in mine]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{way} has a seed twice: {sorted(seeds)}")
        numbers = {name: _spread([row[name] for row in mine]) for name in NUMBERS}
        reached = sum(row["frames_to_target"] is not None for row in mine)
        found[way] = {"seeds": sorted(seeds), "reached": reached, **numbers}
    return {
        "target": f"{TARGET} of the teacher's success",
        "files": [Path(out).name for out in outs],
        "ways": found,
    }


def _spread(values: Sequence[float | None]) -> dict[str, float] | None:
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    spread = {"mean": sum(numbers) / len(numbers), "min": min(numbers), "max": max(numbers)}
    if len(numbers) == 1:
        return spread
    _, low, high = student_t(numbers)
    return {**spread, "lo": low, "hi": high}


def main(parent: str, out: str, *seeds: str) -> None:
    """Write all ways of all seeds, as they come."""
    cells = [(way, seed) for way in WAYS for seed in map(int, seeds or ("0",))]
    command = " ".join(["python -m tests.evidence.reach_peers", Path(parent).name, out, *seeds])
    fill(out, command, cells, partial(measured, Run.open(parent)), goes_on=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["summary"]:
        write_atomic(Path(sys.argv[2]), to_json(summary(sys.argv[3:])))
    else:
        main(*sys.argv[1:])
