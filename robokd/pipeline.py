"""Pipeline: teach, distill, refine, evaluate, export, deploy, report, each handing its run to the next.

A pipeline's folder holds the runs of its stages; `robokd resume` skips the finished ones and resumes the one
that was cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robokd.config import dump
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import PipelineConfig


def pipeline(config: PipelineConfig, resume: Run | None = None) -> Path:
    """Run the whole chain and return the path of its summary."""
    from robokd.evaluate import evaluate
    from robokd.export.onnx import export
    from robokd.learn.dagger import distill
    from robokd.learn.residual import refine
    from robokd.learn.teach import teach
    from robokd.report import write_report
    from robokd.sim2real.deploy import deploy

    task = config.teach.task.name
    run = resume or Run.create(
        config.teach.runs,
        task=task,
        stage="pipeline",
        config=dump(config),
        parents=[],
        seed=config.teach.seed,
    )
    steps = Steps(run)
    teacher = steps.do("teach", teach, config.teach)
    student = steps.do("distill", distill, config.distill, parent=teacher)
    refined = steps.do("refine", refine, config.refine, parent=student)
    examine = config.evaluate
    steps.do("evaluate_teacher", evaluate, examine, run=teacher)
    steps.do("evaluate_student", evaluate, examine, run=student, baseline=teacher)
    final = steps.do("evaluate", evaluate, examine, run=refined, baseline=student)
    precise = dataclasses.replace(examine, task=config.refine.task, ablations=False, spaces=("seen",))
    steps.do("evaluate_precise", evaluate, precise, run=refined, baseline=student)
    exported = steps.do("export", export, config.export, run=refined)
    steps.do("deploy", deploy, config.deploy, bundle=exported.read_summary()["bundle"])
    report = write_report([steps.runs[name] for name in steps.runs], run.path / "report.html")
    print(f"report: {report}", flush=True)
    summaries = {name: str(step.path / "summary.json") for name, step in steps.runs.items()}
    totals = {
        name: sum(step.read_summary()[name] for step in steps.runs.values())
        for name in ("env_steps", "frames_rendered", "teacher_labels", "grad_samples")
    }
    shared = {"task": task, "sim": config.teach.sim.name, "device": config.teach.device}
    success = final.read_summary()["success"]
    return run.write_summary(
        {**totals, **shared, "stages": summaries, "success": success, "report": str(report)}
    )


class Steps:
    """The steps of one pipeline: begins, resumes or skips each."""

    def __init__(self, run: Run) -> None:
        self._folder = run.path
        self.runs: dict[str, Run] = {}

    def do(
        self,
        name: str,
        stage: Callable[..., Path],
        config: Any,  # noqa: ANN401  (any of the schemas)
        **links: Run | str,
    ) -> Run:
        """Run a stage on the runs it needs (`parent=`, `run=`, `baseline=`), unless it is finished."""
        inputs = {key: str(value.path) if isinstance(value, Run) else value for key, value in links.items()}
        config = dataclasses.replace(config, runs=str(self._folder / name), **inputs)
        found = self._find(name)
        if found is None or not found.is_finished:
            print(f"{name}: {found.path if found else config.runs}", flush=True)
            stage(config, found)
            found = self._find(name)
            assert found is not None, f"stage {name} left no run in {config.runs}"
        self.runs[name] = found
        return found

    def _find(self, name: str) -> Run | None:
        folders = sorted((self._folder / name).glob("*/config.yaml"))
        return Run.open(folders[-1].parent) if folders else None
