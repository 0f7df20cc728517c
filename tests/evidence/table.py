"""A table of evidence: one row for a way and a seed, written as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from robokd.config import compose
from robokd.evaluate import evaluate
from robokd.files import read_json, to_json, write_atomic
from robokd.run import Run

Row = dict[str, Any]


def fill(
    out: str, command: str, cells: Iterable[tuple[str, int]], found: Callable[[str, int, Path], Row], *,
    rows: Sequence[Row] = (), about: Callable[[list[Row]], Row] = lambda rows: {},
) -> None:  # fmt: skip
    """Write the rows of `cells`, each a way and a seed; those that `rows` has are not made again.

    `found(way, seed, runs)` measures, with a folder for its runs; `about(rows)` stands before the rows.
    """
    rows = list(rows)
    for way, seed in cells:
        if any((row["way"], row["seed"]) == (way, seed) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as runs:
            rows.append({"way": way, "seed": seed, **found(way, seed, Path(runs))})
        print({name: value for name, value in rows[-1].items() if name != "curve"}, flush=True)
        write_atomic(Path(out), to_json({"command": command, **about(rows), "rows": rows}))


def by_way(rows: Iterable[Row], name: str) -> dict[str, list[float]]:
    """Return what the rows of each way say of a number."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["way"], []).append(row[name])
    return found


def means(rows: Iterable[Row], name: str) -> dict[str, float]:
    """Return the mean of a number over the rows of each way."""
    return {way: sum(values) / len(values) for way, values in by_way(rows, name).items()}


def tested(made: Path, seed: int, *words: str) -> Row:
    """Return what `evaluate` finds of the run whose summary is `made`."""
    run = Run.open(made.parent)
    asked = [f"run={run.path}", "ablations=false", *words, f"runs={run.path.parent}", f"seed={seed}"]
    return read_json(evaluate(compose("evaluate", asked, run.config)))
