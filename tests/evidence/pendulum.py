"""DAgger's acceptance test: labels where the teacher goes do not teach how to come back.

    python -m tests.evidence.pendulum results/distill_pendulum.json      five seeds, about eight minutes

A double pendulum balanced by LQR; 2400 labels, once all of the teacher's own states (behaviour cloning), once
of the student's (DAgger). It counts control steps until the fall, at most 500, over 64 test episodes.
Source: Ross, Gordon, Bagnell (2011), whose bound for cloning grows with the square of the horizon.
"""

from __future__ import annotations

import sys
from pathlib import Path

from robokd.config import compose
from robokd.files import read_json
from robokd.learn.dagger import distill
from tests.evidence.table import Row, fill, means, tested

LABELS, SEEDS, EPISODES = 2400, range(5), 64
WAYS = {
    "bc": ["dagger.acting.share=1"],
    "dagger": ["dagger.acting.share.after=0", "dagger.acting.share.over=2"],
}
WORDS = (
    "plugins=[tests.worlds.double_pendulum]", "task=double_pendulum", "sim.physics_dt=0.01",
    "teacher=scripted", "student=mlp", "cameras=[]", "loss=[action_mse]", "num_envs=8", "dagger.rounds=10",
    "dagger.steps_per_round=30", "dagger.gradient_steps=400", "dagger.validation_share=0",
    "dagger.evaluate_every=10", "dagger.evaluate_episodes=32", "dagger.stop_retention=1",
)  # fmt: skip


def balanced(way: str, seed: int, runs: Path) -> dict[str, float]:
    """Distil and return the mean steps until the fall, of test episodes, and the labels that it took."""
    made = distill(compose("distill", [*WORDS, *WAYS[way], f"seed={seed}", f"runs={runs}"]))
    found = tested(made, seed, f"episodes={EPISODES}", "spaces=[seen]")
    return {"steps": found["steps_mean"], "labels": read_json(made)["teacher_labels"]}


def main(out: str) -> None:
    """Write all seeds of both ways, as they come."""
    cells = [(way, seed) for seed in SEEDS for way in WAYS]

    def about(rows: list[Row]) -> Row:
        return {"cap_steps": 500, "mean_steps": means(rows, "steps")}

    fill(out, f"python -m tests.evidence.pendulum {out}", cells, balanced, about=about)


if __name__ == "__main__":
    main(sys.argv[1])
