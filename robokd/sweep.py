"""A sweep: one command with several values for some of its keys.

`robokd teach --multirun task=reach seed=0,1,2 hydra/launcher=joblib`: Hydra reads what is swept and launches
the jobs, one by one, by joblib or by submitit. Each is a robokd command in a process of its own, so that one
that fails takes no other with it; its run stands in the sweep's folder, and `robokd resume` goes on with it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from robokd import UserError, registry
from robokd.overrides import CONFIGS
from robokd.run import COUNTERS, Run
from robokd.schemas import RUN_WITH_POLICY

if TYPE_CHECKING:
    from omegaconf import DictConfig

FLAGS = {"--multirun", "-m"}  # Hydra's own
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
OUTPUT = "output.txt"  # of a job, in its folder


def sweep(stage: str, words: Sequence[str], compose: Callable[[list[str]], Any]) -> Path:
    """Run a stage once for every combination of what is swept; return the path of the summary.

    `compose` returns the configuration of a job's words: a mistake is told before any job has begun.
    UserError at the end if a job has failed; the summary has them all.
    """
    if stage not in RUN_WITH_POLICY:
        raise UserError(registry.unknown("stage to sweep", stage, RUN_WITH_POLICY))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("torchrun starts one run in several processes; --multirun launches several runs")
    typed = [word for word in words if word not in FLAGS]
    own = [word for word in typed if not word.startswith(LAUNCHER)]
    jobs = combinations(own)
    configs = [compose(job) for job in jobs]
    launcher = [word for word in typed if word.startswith(LAUNCHER)]
    check_launcher(launcher)
    first = configs[0]
    saved = {"stage": stage, "words": own}
    run = Run.create(first.runs, task=first.task.name, stage="sweep", config=saved, seed=first.seed)
    return _finish(run, stage, jobs, launcher)


def again(run: Run, words: Sequence[str]) -> Path:
    """Go on with the jobs of a sweep that have not finished; return the path of its summary.

    Launcher and plugins are typed anew: what a file names must not run code.
    """
    plugins = [word for word in words if word.startswith("plugins=")]
    saved = [word for word in run.config["words"] if not word.startswith("plugins=")]
    launcher = [word for word in words if word.startswith(LAUNCHER)]
    check_launcher(launcher)
    return _finish(run, run.config["stage"], combinations([*saved, *plugins]), launcher)


def check_launcher(words: Sequence[str]) -> None:
    """Raise UserError for a launcher that is not installed, or that does not have what it is told."""
    try:
        with initialize_config_module(CONFIGS, job_name="sweep", version_base=None):
            hydra_compose(overrides=list(words), return_hydra_config=True)
    except HydraException as error:
        why = " ".join(str(error).split())
        raise UserError(f"{' '.join(words)}: {why} (joblib, submitit: pip install 'robokd[sweep]')") from None


def combinations(words: Sequence[str]) -> list[list[str]]:
    """Return the words of every job: one for each combination of the values that Hydra's grammar reads."""
    return [list(job) for job in itertools.product(*[_values(word) for word in words])]


def _values(word: str) -> list[str]:
    """Return a word once for each of its values; one that is not swept stays as it was typed."""
    if word.startswith("@"):
        return [word]
    try:
        found = OverridesParser.create().parse_override(word)
    except HydraException:
        raise UserError(
            f"{word!r} cannot be read: values are swept as key=1,2, text is quoted: key='a, b'"
        ) from None
    if not found.is_sweep_override():
        return [word]
    if not found.is_discrete_sweep() or found.key_or_group in ("plugins", "runs"):
        raise UserError(f"{word!r} cannot be swept; values are listed, as in seed=0,1,2")
    return [f"{found.get_key_element()}={value}" for value in found.sweep_string_iterator()]


@dataclass(frozen=True)
class Jobs:
    """What Hydra calls with the number of a job, in whatever process that is to run."""

    stage: str
    words: list[list[str]]  # of each job
    folder: str  # of the sweep

    def __call__(self, config: DictConfig) -> None:
        """Do a job, or go on with it, or leave it as it is: finished. What it says goes to a file."""
        words, folder = self.words[config.job], Path(self.folder, str(config.job))
        found = run_in(folder)
        if found is not None and found.is_finished:
            return
        command = [self.stage, *words, f"runs={folder}"]
        if found is not None:
            plugins = [word for word in words if word.startswith("plugins=")]
            command = ["resume", f"run={found.path}", *plugins]
        folder.mkdir(exist_ok=True)
        with (folder / OUTPUT).open("ab") as output:
            subprocess.run(
                [sys.executable, "-m", "robokd", *command], stdout=output, stderr=output, check=False
            )


def run_in(folder: Path) -> Run | None:
    """Return the run that a job has made, if it has."""
    found = sorted(folder.glob("*/lineage.json"))
    return Run.open(found[-1].parent) if found else None


def _finish(run: Run, stage: str, jobs: list[list[str]], launcher: list[str]) -> Path:
    """Launch the jobs, and write and show what became of them."""
    print(f"{len(jobs)} jobs of {stage}: {run.path}", flush=True)
    try:
        _launch(Jobs(stage, jobs, str(run.path.absolute())), launcher)
    except RuntimeError as error:  # of joblib or submitit: a worker was lost, and its jobs have not finished
        print(error, file=sys.stderr)
    rows, done = _rows(run.path, jobs)
    for row in rows:
        success = "failed" if row["error"] else f"validation success {row['validation_success']:.3f}"
        print(f"{' '.join(row['overrides'])}: {success}", flush=True)
    counts = {name: sum(one[name] for one in done) for name in COUNTERS}
    counts |= {name: done[0][name] for name in ("sim", "device") if done}
    path = run.write_summary({**counts, "swept": stage, "jobs": rows})
    if failed := [row["error"] for row in rows if row["error"]]:
        print(path, flush=True)
        raise UserError(f"{len(failed)} of {len(jobs)} jobs failed; the first: {failed[0]}")
    return path


def _launch(jobs: Jobs, launcher: list[str]) -> None:
    """Let Hydra's sweeper hand the number of every job to its launcher, and wait for them all."""
    folder = jobs.folder.replace("\\", "\\\\").replace("'", "\\'")
    words = [
        *launcher, f"+job={','.join(map(str, range(len(jobs.words))))}", f"hydra.sweep.dir='{folder}'",
        "hydra.output_subdir=null", "hydra/hydra_logging=disabled", "hydra/job_logging=disabled",
    ]  # fmt: skip
    with initialize_config_module(CONFIGS, job_name="sweep", version_base=None):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None, "Hydra was initialised"
        hydra.multirun(config_name=None, task_function=jobs, overrides=words)


def _rows(folder: Path, jobs: list[list[str]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row of the table for each job, and the summaries of those that have finished."""
    shared = set(jobs[0]).intersection(*jobs)
    rows, done = [], []
    for number, words in enumerate(jobs):
        found = run_in(folder / str(number))
        summary = found.read_summary() if found is not None and found.is_finished else {}
        rows.append({
            "run": None if found is None else str(found.path),
            "overrides": [word for word in words if word not in shared] or words,
            "validation_success": summary.get("validation_success"),
            "error": None if summary else _last_words(folder / str(number) / OUTPUT),
        })  # fmt: skip
        done += [summary] if summary else []
    return rows, done


def _last_words(file: Path) -> str:
    """Return the last line that a job has written."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it was not begun")
