"""A task's teacher and students on test episodes, seen and held out, beside what a reviewer would ask for.

    python -m tests.evidence.suite <task> [ways=teacher,dagger,...] [seeds=3] [out=results/suite_<task>.json]

runs/suite_<task>/ keeps the runs: what was cut off goes on, what is finished is not made again. A row for
each way and seed is written as it comes; `robokd report runs=results out=table.md` makes the table of all
tasks. One teacher, of seed 0; every learning takes one thread.

    teacher     what it knows is the simulator's state
    dagger      as the task's experiment says
    bc          the same with the teacher driving, as many rounds: equal labels, frames and gradient steps
    refined     residual reinforcement learning on top of dagger
    standard    dagger with student.profile=standard
    blind       dagger without cameras, as many rounds
    colour      dagger from colour: lift's front camera, the quadrotor's nose
    points      dagger from a cloud of points (lift)
    belief      dagger with a belief of the ground in the place of a memory (quadruped)
    direct      PPO from pictures, with the same estimates beside, for as many seconds of learning as teacher
                and dagger took together
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from robokd.sim2real.policy import bound

from robokd import UserError
from robokd.config import compose
from robokd.evaluate import evaluate
from robokd.export.bundle import read_bundle
from robokd.export.onnx import export
from robokd.export.parity import open_graph, read_samples
from robokd.learn.dagger import distill
from robokd.learn.residual import refine
from robokd.learn.teach import teach
from robokd.pipeline import Steps
from robokd.registry import unknown
from robokd.run import Run
from tests.evidence.table import Row, fill

EXPERIMENTS = {
    "reach": "demo", "lift": "lift", "quadrotor_gate": "quadrotor", "quadruped_terrain": "quadruped"
}  # fmt: skip
ALONE = ("student.gaussian=true", "loss=[ppo,estimate]", "dagger.acting.share=0", "dagger.stop_retention=2")
WAYS: dict[str, tuple[str, ...]] = {  # what is said to distill beside the task's experiment
    "dagger": (),
    "bc": ("dagger.acting.share=1", "dagger.stop_retention=2"),
    "blind": ("cameras=[]", "dagger.stop_retention=2"),
    "standard": ("student.profile=standard",),
    "direct": ALONE,
}
OWN: dict[str, dict[str, tuple[str, ...]]] = {  # of a task
    "lift": {"colour": ("cameras=[front_rgb,wrist]",), "points": ("student=pointnet",)},
    "quadrotor_gate": {"colour": ("cameras=[nose_rgb]",)},
    "quadruped_terrain": {"belief": ("student=belief",)},
}
EQUAL = ("bc", "blind")  # that have as many rounds as dagger of the same seed
EPISODES, PILOT_ROUNDS, INFERENCES = 256, 4, 2000
COSTS = ("frames_rendered", "teacher_labels", "env_steps", "grad_samples", "wall_s")


class Suite:
    """The runs of a task, each made when it is first asked for."""

    def __init__(self, task: str, folder: Path) -> None:
        self._said = f"experiment={EXPERIMENTS[task]}"
        self._task, self._ways = f"task={task}", ways(task)
        self.steps = Steps(folder)

    def teacher(self) -> Run:
        """Return the teacher's run."""
        return self.steps.do("teacher", teach, compose("teach", [self._task, self._said, "threads=1"]))

    def student(self, way: str, seed: int) -> Run:
        """Return a student's run."""
        teacher, more = self.teacher(), list(self._ways[way])
        if way in EQUAL:
            more.append(f"dagger.rounds={self.student('dagger', seed).read_summary()['rounds']}")
        if way == "direct":
            more.append(f"dagger.rounds={self._rounds_alone(seed)}")
        return self._distilled(f"{way}_{seed}", teacher, seed, more)

    def refined(self, seed: int) -> Run:
        """Return the run of a refined student."""
        parent = self.student("dagger", seed)
        said = [self._said, f"parent={parent.path}", f"seed={seed}", "threads=1"]
        return self.steps.do(f"refined_{seed}", refine, compose("refine", said, parent.config))

    def run(self, way: str, seed: int) -> Run:
        """Return the run of a way and a seed."""
        if way == "teacher":
            return self.teacher()
        return self.refined(seed) if way == "refined" else self.student(way, seed)

    def _distilled(self, name: str, teacher: Run, seed: int, more: Sequence[str]) -> Run:
        said = [self._said, f"parent={teacher.path}", f"seed={seed}", "threads=1", *more]
        return self.steps.do(name, distill, compose("distill", said, teacher.config))

    def _rounds_alone(self, seed: int) -> int:
        """Return how many rounds of PPO take as long as teacher and student did: a short run tells."""
        words = [*ALONE, f"dagger.rounds={PILOT_ROUNDS}"]
        pilot = self._distilled(f"pilot_{seed}", self.teacher(), seed, words)
        own = sorted(map(_learning_s, pilot.metrics()))[PILOT_ROUNDS // 2]
        spent = sum(
            sum(map(_learning_s, run.metrics())) for run in (self.teacher(), self.student("dagger", seed))
        )
        return max(round(spent / own), PILOT_ROUNDS)


def ways(task: str) -> dict[str, tuple[str, ...]]:
    """Return what is said to distill, by the names of the students that a task can have."""
    return WAYS | OWN.get(task, {})


def measured(suite: Suite, way: str, seed: int, runs: Path) -> Row:
    """Return what test episodes show of a policy, what it cost, and how large and fast it is."""
    run = suite.run(way, seed)
    sees = suite.student("dagger", seed).config if way == "refined" else run.config
    looks = way not in ("teacher", "bc", "blind", "direct")
    said = [f"run={run.path}", f"episodes={EPISODES}", f"seed={seed}", "threads=1", f"ablations={looks}"]
    baseline = [] if way == "teacher" else [f"baseline={suite.teacher().path}"]
    config = compose("evaluate", [*said, *baseline], sees)
    found = suite.steps.do(f"evaluate_{way}_{seed}", evaluate, config).read_summary()
    cost = run.read_summary()
    return {
        **{space: found[space] for space in ("seen", "unseen", "unseen_all")},
        **{name: found[name] for name in ("retention", "camera_use") if name in found},
        **{name: cost[name] for name in COSTS}, "learning_s": sum(map(_learning_s, run.metrics())),
        **({} if way == "teacher" else _exported(suite, way, seed, run, sees)),
    }  # fmt: skip


def _learning_s(row: dict[str, Any]) -> float:
    """Return the seconds of collecting and learning of an iteration or a round, without validation."""
    return row["time/collect_s"] + row["time/learn_s"]


def _exported(suite: Suite, way: str, seed: int, run: Run, sees: dict[str, Any]) -> Row:
    """Return how large a student is and how long it thinks; of a task that cannot be exported, less."""
    sizes = {"student_parameters": run.read_summary()["student_parameters"]}
    try:
        config = compose("export", [f"run={run.path}", "threads=1"], sees)
        made = suite.steps.do(f"export_{way}_{seed}", export, config).read_summary()
    except UserError as error:
        return {**sizes, "not_exported": str(error)}
    bundle = Path(made["bundle"])
    return {**sizes, "bundle_bytes": bundle.stat().st_size, "inference_cpu_s": _thinking(bundle)}


def _thinking(path: Path) -> dict[str, float]:
    """Return the processor time of one inference on golden samples, s: others may use the machine."""
    bundle = read_bundle(path)
    graph = bundle.manifest["graph"]
    sample = read_samples(bundle.member(graph["samples"]), graph)[0]
    session = open_graph(bundle.member(graph["member"]))
    feeds, said = (
        {key: value.copy() for key, value in part.items()} for part in (sample.inputs, sample.outputs)
    )
    binding, taken = bound(session, feeds, said), []
    for _ in range(INFERENCES):
        begun = time.thread_time()
        session.run_with_iobinding(binding)
        taken.append(time.thread_time() - begun)
    return {"p50": float(np.quantile(taken, 0.5)), "p99": float(np.quantile(taken, 0.99))}


def main(task: str, *words: str) -> None:
    """Write the rows of the ways and seeds asked for."""
    said = dict(word.split("=", 1) for word in words if "=" in word)
    chosen = said.get("ways", "teacher,dagger,bc,refined").split(",")
    known = ("teacher", "refined", *ways(task))
    for what, names, allowed in (("task", [task], EXPERIMENTS), ("way", chosen, known)):
        for name in names:
            if name not in allowed:
                raise SystemExit(unknown(what, name, allowed))
    out = said.get("out", f"results/suite_{task}.json")
    folder = Path("runs") / f"suite_{task}"
    seeds = range(int(said.get("seeds", "3")))
    cells = [(way, seed) for way in chosen for seed in (seeds if way != "teacher" else (0,))]
    command = f"python -m tests.evidence.suite {task}"
    fill(out, command, cells, partial(measured, Suite(task, folder)), goes_on=True)


if __name__ == "__main__":
    import sys

    main(*sys.argv[1:])
