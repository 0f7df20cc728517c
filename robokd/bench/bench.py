"""Bench: how fast robokd is beside what one would use instead, correctness first, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robokd import UserError
from robokd.bench import collect, distill, policy, render, sim, teach
from robokd.bench.row import Effort, LeftOut, Row
from robokd.cores import cores
from robokd.files import to_json, writable, write_atomic
from robokd.registry import unknown

if TYPE_CHECKING:
    from robokd.config import BenchConfig
    from robokd.run import Run

WHAT = {
    "render": render.rows,
    "collect": collect.rows,
    "distill": distill.rows,
    "policy": policy.rows,
    "sim": sim.rows,
    "teach": teach.rows,
}
PACKAGES = ("robokd", "numpy", "mujoco", "numba", "torch")
_NAME = 56  # width of the column


def bench(config: BenchConfig, resume: Run | None = None, effort: Effort | None = None) -> Path:
    """Measure what `config.what` names, write the rows and return their path.

    `effort` is for tests; without it the config's repeats and seed count, and a full measurement.
    Raises RuntimeError, after writing, if a gate failed: then what was timed is not the same work.
    """
    if config.what not in WHAT:
        raise UserError(unknown("benchmark", config.what, WHAT))
    path = writable(config.out)
    effort = effort or Effort(repeats=config.repeats, seed=config.seed)
    begin, load = time.monotonic(), os.getloadavg()[0]
    rows: list[Row] = []
    left_out: list[LeftOut] = []
    for one in _shown(WHAT[config.what](effort)):
        if isinstance(one, Row):
            rows.append(one)
        else:
            left_out.append(one)
    found = {
        "stage": "bench", "what": config.what, "seed": effort.seed, "effort": dataclasses.asdict(effort),
        "machine": {**_machine(), "load_before": load}, "wall_s": time.monotonic() - begin,
        "rows": [row.to_dict() for row in rows], "left_out": [dataclasses.asdict(one) for one in left_out],
    }  # fmt: skip
    write_atomic(path, to_json(found))
    if failed := [row.name for row in rows if not row.gate.ok]:
        raise RuntimeError(f"not the same work, so no comparison: {', '.join(failed)}; see {path}")
    return path


def _shown(found: Iterable[Row | LeftOut]) -> Iterable[Row | LeftOut]:
    """Print each row on stderr as it comes, and pass it on."""
    header = f"{'CPU time':<{_NAME}}{'ours':>10}{'peer':>10} {'unit':<10}{'ratio':>8}  {'gate':<13}peer"
    print(header, file=sys.stderr, flush=True)
    for one in found:
        if isinstance(one, LeftOut):
            print(f"{one.name:<{_NAME}}left out: {one.why}", file=sys.stderr, flush=True)
        else:
            gate = f"{'ok' if one.gate.ok else 'FAILED'} {one.gate.value:.2f}"
            numbers = f"{one.ours:>10.4g}{one.peer:>10.4g} {one.unit:<10}{one.ratio:>8.3g}"
            print(f"{one.name:<{_NAME}}{numbers}  {gate:<13}{one.peer_name}", file=sys.stderr, flush=True)
        yield one


def _machine() -> dict[str, Any]:
    """Return what a reader must know of the machine to repeat the numbers."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"cpu": _cpu_model(), "cores": cores(), "python": platform.python_version(), **versions}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # Linux only
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
