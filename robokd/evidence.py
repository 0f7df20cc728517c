"""The table of all tasks: what `tests.evidence.suite` has measured, a line for a policy.

A policy of one seed has the Wilson interval of its episodes; one of several the mean over seeds and Student's
interval of it, which reaches as far as the Wilson interval of all their episodes or farther: seeds that are
alike by chance say no more than that. What was not run is an empty line with the command that would run it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robokd import UserError
from robokd.files import read_json
from robokd.intervals import student_t, wilson

PATTERN = "suite_*.json"
HEAD = (
    "task", "policy", "seeds", "seen [95 %]", "one held out", "all held out", "blank camera", "frames",
    "labels", "wall", "weights", "inference p99",
)  # fmt: skip
EXPECTED = ("teacher", "bc", "dagger", "refined")  # of every task
ALSO = {"reach": ("direct",), "quadrotor_gate": ("direct",)}
Row = dict[str, Any]


def is_evidence(folder: Path) -> bool:
    """Whether a folder holds what the suite has measured."""
    return folder.is_dir() and any(folder.glob(PATTERN))


def lines(folder: Path) -> list[tuple[str, ...]]:
    """Return the cells of every line, HEAD first; UserError for a file that is none of the suite's."""
    found: list[tuple[str, ...]] = [HEAD]
    for path in sorted(folder.glob(PATTERN)):
        task = path.stem.removeprefix("suite_")
        data = read_json(path)
        try:
            by_way: dict[str, list[Row]] = {}
            for row in data["rows"]:
                by_way.setdefault(row["way"], []).append(row)
            ways = dict.fromkeys((*EXPECTED, *ALSO.get(task, ()), *by_way))
            found += [_line(task, way, by_way.get(way, []), data["command"]) for way in ways]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is not a table of the suite: it lacks {error}") from None
    return found


def markdown(folder: Path) -> str:
    """Return the table as Markdown."""
    head, *rows = lines(folder)
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)) + "\n"


def page(folder: Path) -> str:
    """Return the table as HTML."""
    head, *rows = lines(folder)
    titles = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{row}</tr>' for row in body)}</table>"


def _line(task: str, way: str, rows: Sequence[Row], command: str) -> tuple[str, ...]:
    if not rows:
        return (task, way, "-", f"not run: `{command} ways={way}`", *[""] * (len(HEAD) - 4))
    blank = [row["camera_use"]["blank"] for row in rows if row.get("camera_use")]
    thinks = [row["inference_cpu_s"]["p99"] for row in rows if "inference_cpu_s" in row]
    return (
        task, way, ", ".join(str(row["seed"]) for row in rows),
        *(_rate([row[space] for row in rows]) for space in ("seen", "unseen", "unseen_all")),
        f"{_mean(blank):.2f}" if blank else "",
        *(_thousands(row[name] for row in rows) for name in ("frames_rendered", "teacher_labels")),
        f"{_mean(row['wall_s'] for row in rows):.0f} s",
        _thousands(row.get("student_parameters", 0) for row in rows),
        f"{_mean(thinks) * 1e3:.2f} ms" if thinks else "",
    )  # fmt: skip


def _rate(found: Sequence[dict[str, Any]]) -> str:
    """Return a rate and its interval: of episodes for one seed, of seeds for several."""
    if len(found) == 1:
        rate, low, high = (found[0][name] for name in ("rate", "lo", "hi"))
    else:
        rate, low, high = student_t([one["rate"] for one in found])
        good = sum(round(one["rate"] * one["episodes"]) for one in found)
        every = wilson(np.arange(sum(one["episodes"] for one in found)) < good)
        low, high = min(low, every["lo"]), max(high, every["hi"])
    return f"{rate:.3f} [{max(low, 0):.3f}, {min(high, 1):.3f}]"


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _thousands(values: Iterable[float]) -> str:
    mean = _mean(values)
    return f"{mean / 1000:.0f} k" if mean else ""
