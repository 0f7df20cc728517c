"""Ways to distil the same teacher of the task reach, at equal frames, labels and gradient steps.

    python -m tests.evidence.reach_ways runs/<teach run> results/distill_reach.json      half an hour

102 400 frames of two cameras, 2000 gradient steps of 256; 256 test episodes each, three student seeds.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from robokd.config import compose
from robokd.files import read_json
from robokd.learn.dagger import distill
from robokd.run import Run
from tests.evidence.table import Row, fill, tested

SEEDS, EPISODES = range(3), 256
WAYS = {
    "bc": ["dagger.acting.share=1"],
    "bc, noise on what is sent": ["dagger.acting.share=1", "dagger.acting.noise=0.3"],
    "dagger": [],
    "dagger, by priority": ["dagger.sampling=priority"],
    "the student acts alone": ["dagger.acting.share=0"],
}
WORDS = (
    "cameras=[front,wrist]", "dagger.rounds=25", "dagger.gradient_steps=80", "dagger.evaluate_every=25",
    "dagger.stop_retention=1", "threads=1",
)  # fmt: skip


def measured(parent: Run, way: str, seed: int, runs: Path) -> Row:
    """Distil and return the success on test episodes that training never saw."""
    words = [f"parent={parent.path}", *WORDS, *WAYS[way], f"seed={seed}", f"runs={runs}"]
    made = distill(compose("distill", words, parent.config))
    found, cost = tested(made, seed, f"episodes={EPISODES}", "checkpoint=last"), read_json(made)
    return {
        **{space: found[space] for space in ("seen", "unseen", "unseen_all")},
        **{name: cost[name] for name in ("teacher_labels", "frames_rendered", "grad_samples", "wall_s")},
    }  # fmt: skip


def main(parent: str, out: str) -> None:
    """Write all seeds of all ways, as they come."""
    command = f"python -m tests.evidence.reach_ways {Path(parent).name} {out}"
    fill(out, command, [(way, seed) for seed in SEEDS for way in WAYS], partial(measured, Run.open(parent)))


if __name__ == "__main__":
    main(*sys.argv[1:])
