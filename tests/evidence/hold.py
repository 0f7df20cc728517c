"""The rate of a deployment whose processes all share one core, while the other is kept busy.

    python -m tests.evidence.hold <bundle> <out.json> [seconds] [key=value of deploy ...]

The robot is the simulated one, so its physics is on that core too. Wants two cores; each row as it comes:

    real time   with runtime.fifo=true, where that is allowed
    plain       as `robokd deploy` comes
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robokd.files import to_json, write_atomic

WAYS = {"real time": ["runtime.fifo=true"], "plain": []}
KEPT = (
    "rate_hz", "ticks", "period_s", "late_s", "deadline_misses", "inference_s", "age_s", "stop_reason",
    "safety", "machine",
)  # fmt: skip


@contextmanager
def busy(core: int) -> Iterator[None]:
    """Keep a core busy."""
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    spinner = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()


def row(bundle: str, seconds: float, words: Sequence[str], core: int) -> dict[str, Any]:
    """Deploy on one core and return what the summary says."""
    with tempfile.TemporaryDirectory() as runs:
        command = [
            sys.executable, "-m", "robokd", "deploy", f"bundle={bundle}", "robot=mujoco",
            f"duration_s={seconds:g}", f"runs={runs}", *words,
        ]  # fmt: skip
        done = subprocess.run(
            command, preexec_fn=lambda: os.sched_setaffinity(0, {core}), stdout=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        found = json.loads(next(Path(runs).glob("*/summary.json")).read_text())
    guard, robot = found["guard"], found["robot_log"]
    return {
        "exit": done.returncode, **{name: found[name] for name in KEPT if name in found},
        "guard_added_s": guard["added_s"], "guard_longest_gap_s": guard["longest_gap_s"],
        "robot_times_behind": robot["times_behind"], "robot_violations": robot["violations"],
    }  # fmt: skip


def main(bundle: str, out: str, seconds: str = "600", *words: str) -> None:
    """Write a row for each way."""
    load, ours = sorted(os.sched_getaffinity(0))[:2]
    said = " ".join(["python -m tests.evidence.hold", Path(bundle).name, Path(out).name, seconds, *words])
    rows: dict[str, Any] = {}
    for way, more in WAYS.items():
        with busy(load):
            rows[way] = row(bundle, float(seconds), [*more, *words], ours)
        print(way, rows[way], flush=True)
        write_atomic(Path(out), to_json({"command": said, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
