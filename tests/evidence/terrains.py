"""How policies of the quadruped fare on each kind of ground, by how hard it is.

    python -m tests.evidence.terrains <out.json> teacher=<run> sees=<run> blind=<run>   10 minutes

Test episodes whose parameters are drawn as in training, but for the kind and the difficulty; at difficulty 1
slopes have 17 degrees, steps 10 cm, gaps up to 15 cm, stones lie 15 cm apart.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from robokd.config import compose
from robokd.evaluate import load_policy, policy_groups
from robokd.files import to_json, write_atomic
from robokd.intervals import wilson
from robokd.learn.rollout import rollout
from robokd.learn.stage import begin, build_env
from robokd.run import Run
from tests.evidence.table import Row

EPISODES = 256
HALVES, THIRDS = ((0.0, 0.5), (0.5, 1.0)), ((0.0, 0.3), (0.3, 0.6), (0.6, 1.0))
KINDS = {
    "flat": ((0.0, 1.0),), "slope": HALVES, "stairs": (*HALVES, (1.0, 1.5)), "gaps": THIRDS, "stones": THIRDS
}  # fmt: skip


def measured(run: Run, kind: str, low: float, high: float) -> Row:
    """Return the success on one kind of ground."""
    words = [f"task.terrains=[{kind}]", f"task.difficulty=[{low},{high}]", "threads=1"]
    config = compose("evaluate", [f"run={run.path}", *words], run.config)
    with contextlib.closing(build_env(config, policy_groups(run), "test", num_envs=EPISODES)) as env:
        found = rollout(env, load_policy(run, "best", env), EPISODES)
        fell = (found.steps < env.max_episode_length - 1).float().mean().item()
    return {"terrain": kind, "difficulty": [low, high], "seen": wilson(found.success.numpy()), "fell": fell}


def main(out: str, *named: str) -> None:
    """Write a row for each policy, kind and range of difficulties, as they come."""
    begin(0, threads=1)
    rows, runs = [], {name: Run.open(path) for name, path in (word.split("=", 1) for word in named)}
    places = " ".join(f"{name}=<run>" for name in runs)
    command = f"python -m tests.evidence.terrains {Path(out).name} {places}"
    grounds = [(kind, *ends) for kind, ranges in KINDS.items() for ends in ranges]
    for name, run in runs.items():
        for ground in grounds:
            rows.append({"policy": name, "stage": run.stage} | measured(run, *ground))
            print(rows[-1], flush=True)
            write_atomic(Path(out), to_json({"command": command, "rows": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
