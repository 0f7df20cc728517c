"""A table of evidence: one row for a way and a seed, written as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from robokd.config import compose
from robokd.evaluate import evaluate
from robokd.files import read_json, to_json, write_atomic
from robokd.run import Run

Row = dict[str, Any]


def fill(
    out: str, command: str, cells: Iterable[tuple[str, int]], found: Callable[[str, int, Path], Row], *,
    goes_on: bool = False, about: Callable[[list[Row]], Row] = lambda rows: {},
) -> None:  # fmt: skip
    """Write the rows of `cells`, each a way and a seed.

    `found(way, seed, runs)` measures, with a folder for its runs; `about(rows)` stands before the rows. With
    `goes_on` rows that `out` has are not made again, and others may fill the same table meanwhile.
    """
    rows: list[Row] = []
    for cell in cells:
        rows = written(out) if goes_on else rows
        if any((row["way"], row["seed"]) == cell for row in rows):
            continue
        with tempfile.TemporaryDirectory() as runs:
            row = {"way": cell[0], "seed": cell[1], **found(*cell, Path(runs))}
        print({name: value for name, value in row.items() if name != "curve"}, flush=True)
        rows = [*(written(out) if goes_on else rows), row]
        write_atomic(Path(out), to_json({"command": command, **about(rows), "rows": rows}))


def written(out: str) -> list[Row]:
    """Return the rows of a table, none where there is no table yet."""
    return read_json(out)["rows"] if Path(out).exists() else []


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
