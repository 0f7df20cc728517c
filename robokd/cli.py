"""The command line: `robokd <stage> key=value …`. All is found by name, and only what a stage needs."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    from robokd import UserError, __version__, registry, sweep
    from robokd import run as runs
    from robokd.config import SCHEMAS, compose, load, schema
    from robokd.deploying import is_hardware
    from robokd.run import Run
except KeyboardInterrupt:  # these take their time
    print("\ninterrupted; nothing was begun", file=sys.stderr)
    raise SystemExit(130) from None

STAGES = {
    "teach": "robokd.learn.teach:teach",
    "distill": "robokd.learn.dagger:distill",
    "doctor": "robokd.doctor.doctor:doctor",
    "refine": "robokd.learn.residual:refine",
    "evaluate": "robokd.evaluate:evaluate",
    "export": "robokd.export.onnx:export",
    "deploy": "robokd.sim2real.deploy:deploy",
    "simulate": "robokd.sim2real.simulate:simulate",
    "replay": "robokd.sim2real.replay:replay",
    "faults": "robokd.sim2real.faults:faults",
    "sysid": "robokd.sim2real.sysid:sysid",
    "gap": "robokd.sim2real.gap:gap",
    "import": "robokd.export.foreign:import_foreign",
    "play": "robokd.play:play",
    "look": "robokd.look:look",
    "bench": "robokd.bench.bench:bench",
    "report": "robokd.report:report",
    "pipeline": "robokd.pipeline:pipeline",
}
DONE, FAULT, MISTAKE, SAFETY_STOP, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes
# what numpy, torch, C++ and the system say where an allocation failed
NO_MEMORY = (
    "allocate memory", "bad_alloc", "not enough memory", "out of memory", "size calculation overflowed"
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    # threads that spin while they wait are several times slower on cores that others use; OpenMP reads this
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    before = len(runs.created)
    try:
        _command(words)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print(f"\ninterrupted; {_how_to_go_on(words, before)}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if _is_safety_stop(error):
            print(f"safety stop: {error}", file=sys.stderr)
            summaries = [path / "summary.json" for path in runs.created[before:]]
            print(*[path for path in summaries if path.is_file()][-1:], sep="\n", flush=True)
            return SAFETY_STOP
        if _lacks_memory(error):
            first = (str(error).splitlines() or ["MemoryError"])[0]
            sizes = "num_envs, counts of episodes and steps, batches, widths of networks and pictures"
            print(f"error: memory does not suffice for these sizes ({first}): lower {sizes}", file=sys.stderr)
            return MISTAKE
        traceback.print_exc()
        print(
            f"error: this is a fault of robokd {__version__}, not yours; please report the above",
            file=sys.stderr,
        )
        return FAULT
    return DONE


def _command(words: Sequence[str]) -> None:
    """Do what the words say and print what is asked for; mistakes raise UserError."""
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    if command in ("--help", "-h", "help"):
        from robokd import manual

        print(manual.overview())
    elif command == "--version":
        print(f"robokd {__version__}")
    elif command == "list":
        from robokd import manual

        print(manual.list_parts(rest))
    elif command == "keys":
        from robokd import keys

        print(keys.command(rest))
    elif command == "resume":
        _tell(_resume(rest))
    elif command not in STAGES:
        raise UserError(registry.unknown("stage", command, [*STAGES, "resume", "list", "keys"]))
    elif {"--help", "-h"} & set(rest):
        from robokd import manual

        print(manual.stage_help(command, rest))
    elif sweep.FLAGS & set(rest):
        _tell(sweep.sweep(command, rest, lambda job: compose(command, job, _inherited(command, job))))
    else:
        config = compose(command, rest, _inherited(command, rest))
        _tell(_stage(command)(config, None))


def _tell(summary: Path) -> None:
    """Print where the summary is; of the processes of torchrun the first one does."""
    if os.environ.get("RANK", "0") == "0":
        print(summary, flush=True)


def _stage(name: str) -> Any:  # noqa: ANN401  (a function; its config differs from stage to stage)
    """Import a stage's function: (config, resume) -> path of the summary."""
    module, _, function = STAGES[name].partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("robokd", ""):
            raise
        cure = "pip install 'robokd[train,mujoco]'"
        raise UserError(f"{name} needs the package {package!r}, which is not installed: {cure}") from error


def _inherited(stage: str, words: Sequence[str]) -> dict[str, Any] | None:
    """Return the configuration of the run that a stage works on; refuse runs of which it cannot make use."""
    typed = {key: value.strip("'\"") for key, _, value in (word.partition("=") for word in words)}
    inherited = None
    opened: dict[str, Run] = {}
    for field in dataclasses.fields(SCHEMAS[stage]):
        allowed = field.metadata.get("run_of", ())
        if not allowed or not typed.get(field.name):
            continue
        run = opened[field.name] = Run.open(typed[field.name])
        if run.stage not in allowed:
            wanted = " or ".join(allowed)
            why = f": {field.metadata['why']}" if field.metadata.get("why") else ""
            got = f"{field.name}={run.path} is a {run.stage} run"
            raise UserError(f"{got}; {stage} works on the run of a {wanted} stage{why}")
        run.checkpoint_step(typed.get("checkpoint", "best"))
        if "required" in field.metadata:
            inherited = run.config
    if len({run.task for run in opened.values()}) > 1:
        tasks = " and ".join(f"{name}={run.path} of task {run.task}" for name, run in opened.items())
        raise UserError(f"cannot compare {tasks}")
    return inherited


def _resume(words: Sequence[str]) -> Path:
    """Go on with a run and return the path of its summary."""
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    launcher = [word for word in words if word.startswith(sweep.LAUNCHER)]
    other = set(typed) - {"run", "plugins"}
    if "run" not in typed or len(typed) != len(words) or len(other) != len(launcher):
        raise UserError(
            f"resume takes run=<run folder> and at most plugins=[…], got {' '.join(words) or 'nothing'}"
        )
    run = Run.open(typed["run"].strip("'\""))
    if run.stage == "sweep":
        return sweep.again(run, words)
    if launcher:
        raise UserError(f"{launcher[0]} is for a sweep, and {run.path} is a {run.stage} run")
    if run.is_finished:
        run.read_summary()  # a summary that was cut is not a finished run
        print(f"{run.path} is finished; nothing to resume")
        return run.summary_path
    registry.load_plugins(
        name.strip() for name in typed.get("plugins", "").strip("[]").split(",") if name.strip()
    )
    schema(run.stage)
    config = load(run.stage, run.config)
    if _moves_hardware(config):
        why = "nobody has said now that it may move"
        raise UserError(
            f"{run.path}: a {run.stage} on hardware is not resumed, {why}; type the {run.stage} command again"
        )
    run.rewind()
    runs.created.append(run.path)
    return _stage(run.stage)(config, run)


def _how_to_go_on(words: Sequence[str], before: int) -> str:
    """Return the command that goes on where Ctrl-C stopped."""
    if words[:1] == ["resume"]:
        return f"go on with: robokd {' '.join(words)}"
    made = runs.created[before:]
    if words[:1] in (["deploy"], ["sysid"]) and made:
        run = Run.open(made[0])
        if _moves_hardware(load(run.stage, run.config)):
            log = run.path / "log.mcap"
            return f"the log is {log}" if log.is_file() else f"there is no log yet in {run.path}"
    if made:  # the first: a pipeline's own folder comes before those of its stages
        plugins = [word for word in words if word.startswith("plugins=")]
        return f"go on with: robokd resume {' '.join([f'run={made[0]}', *plugins])}"
    return "nothing was begun"


def _moves_hardware(config: Any) -> bool:  # noqa: ANN401  (any of the schemas)
    """Whether a stage works on a robot, and not on a simulated one or on a log."""
    robot = getattr(config, "robot", None)
    return robot is not None and is_hardware(robot) and not getattr(config, "log", "")


def _lacks_memory(error: Exception) -> bool:
    """Whether an allocation failed; of which size, the configuration decides."""
    if isinstance(error, MemoryError):
        return True
    said = str(error) if isinstance(error, RuntimeError | ValueError | OSError) else ""
    return any(words in said for words in NO_MEMORY)


def _is_safety_stop(error: Exception) -> bool:
    """Whether a robot was stopped; a module that was never imported cannot have raised it."""
    safety = sys.modules.get("robokd.sim2real.safety")
    return safety is not None and isinstance(error, safety.SafetyStop)
