"""Pipeline: teach, distill, refine, evaluate, export, deploy, report, each handing its run to the next.

A pipeline's folder holds the runs of its stages; `robokd resume` skips the finished ones and resumes the one
that was cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from robokd import UserError
from robokd.config import dump, words
from robokd.deploying import is_hardware
from robokd.run import COUNTERS, Run, created

if TYPE_CHECKING:
    from robokd.config import DeployConfig, PipelineConfig


def pipeline(config: PipelineConfig, resume: Run | None = None) -> Path:
    """Run the whole chain and return the path of its summary."""
    from robokd.evaluate import evaluate
    from robokd.export.onnx import export
    from robokd.learn.dagger import distill
    from robokd.learn.residual import refine
    from robokd.learn.teach import teach
    from robokd.report import write_report

    foresee(config)
    task = config.teach.task.name
    run = resume or Run.create(
        config.teach.runs, task=task, stage="pipeline", config=dump(config), seed=config.teach.seed
    )
    steps = Steps(run.path)
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
    bundle = exported.read_summary()["bundle"]
    if resume and not steps.is_done("deploy"):
        check_armed_now(config.deploy, bundle)
    steps.do("deploy", deploy_apart, config.deploy, bundle=bundle)
    report = write_report([steps.runs[name] for name in steps.runs], run.path / "report.html")
    print(f"report: {report}", flush=True)
    done = {name: step.read_summary() for name, step in steps.runs.items()}
    return run.write_summary({
        **{name: sum(summary[name] for summary in done.values()) for name in COUNTERS},
        "task": task, "sim": config.teach.sim.name, "device": config.teach.device,
        "peak_rss_mb": max(summary["peak_rss_mb"] for summary in done.values()),
        "stages": {name: str(step.summary_path) for name, step in steps.runs.items()},
        "success": final.read_summary()["success"], "report": str(report),
    })  # fmt: skip


class Steps:
    """Steps whose runs lie in one folder: begins, resumes or skips each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        if found is None or not self.is_done(name):
            print(f"{name}: {found.path if found else config.runs}", flush=True)
            if found is not None:
                found.rewind()
            stage(config, found)
            found = self._find(name)
            assert found is not None, f"stage {name} left no run in {config.runs}"
        self.runs[name] = found
        return found

    def is_done(self, name: str) -> bool:
        """Whether a step has ended as it should: a robot that was stopped has not."""
        found = self._find(name)
        return found is not None and found.is_finished and _ended_well(found)

    def _find(self, name: str) -> Run | None:
        folders = sorted(path.parent for path in (self._folder / name).glob("*/lineage.json"))
        return Run.open(folders[-1]) if folders else None


def foresee(config: PipelineConfig) -> None:
    """Refuse now what a later stage would refuse after hours of work."""
    from robokd.env.base import check_groups
    from robokd.env.native import NativeEnv
    from robokd.evaluate import check_spaces
    from robokd.export.contract import ages_s, robot
    from robokd.learn.pupil import build_student, student_inputs
    from robokd.learn.residual import check_residual_groups
    from robokd.learn.room import check_room
    from robokd.learn.stage import build_env
    from robokd.nets.residual import BASE, FEATURES

    check_spaces(config.evaluate.spaces)
    seen = student_inputs(config.distill)
    residual = config.refine.teacher
    check_residual_groups(residual.actor_groups, seen, config.refine.cameras)
    asked = [one for one in (*residual.actor_groups, *residual.critic_groups) if one not in (BASE, FEATURES)]
    with contextlib.closing(build_env(config.distill, seen, "train", num_envs=1)) as env:
        robot(config.export, env)  # also that there are joint targets, which a robot can be sent
        ages_s(config.export, env, seen)
        check_groups(asked, env.obs_specs, env.camera_specs)
        build_student(config.distill, env, _latent_to_come(config))
        if isinstance(env, NativeEnv):
            for name in ("teach", "distill", "refine"):
                check_room(name, getattr(config, name), env.sim.model)


def _latent_to_come(config: PipelineConfig) -> int:
    """Return the size of the latent that the student will have to guess; UserError if nobody will tell it."""
    from robokd.learn.objective import Objective

    taught = config.distill.teacher.name
    if taught != "parent":
        raise UserError(f"a pipeline distils its own teacher: distill.teacher={taught} is for robokd distill")
    if "latent" not in Objective(config.distill.loss).of_teacher:
        return 0
    size = getattr(config.teach.teacher, "latent", 0)
    if not size:
        raise UserError("distill.loss=latent needs a teacher with a latent: say teach.teacher.latent=8")
    return size


def check_armed_now(config: DeployConfig, bundle: str) -> None:
    """Refuse to move hardware because that was asked for when a pipeline that is resumed was begun."""
    if config.arm and is_hardware(config.robot):
        said = " ".join(words("deploy", dataclasses.replace(config, bundle=bundle)))
        raise UserError(f"a pipeline that is resumed moves no hardware; type: robokd deploy {said}")


def deploy_apart(config: DeployConfig, resume: Run | None = None) -> Path:
    """Deploy in a process of its own, as on a robot: without torch and without this one's memory.

    A deployment is not continued but done again. What the process refuses it says itself, on stderr.
    """
    from robokd.sim2real.interrupts import one_interrupt

    command = [sys.executable, "-m", "robokd", "deploy", *words("deploy", config)]
    with one_interrupt():  # also of SIGTERM: it is not to outlive who started it
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            output, _ = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(SIGINT)  # a second one is ignored: it brings the robot to rest first
            process.wait()
            raise
    if process.returncode == 0:
        return Path(output.strip().splitlines()[-1])
    if process.returncode == 3:
        from robokd.sim2real.safety import SafetyStop

        created.extend(Path(line).parent for line in output.strip().splitlines()[-1:])  # its run is told
        raise SafetyStop("deploy", "the robot was stopped, see above; `robokd resume` deploys again")
    if process.returncode == 2:
        raise UserError("deploy refused what it was given, see above")
    raise RuntimeError(f"deploy exited with {process.returncode}, see above")


def _ended_well(run: Run) -> bool:
    return run.read_summary().get("stop_reason", "end") == "end"
