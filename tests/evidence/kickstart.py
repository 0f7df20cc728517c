"""Kickstarting: a slow teacher shows the way to where its student does better, in a third of the steps.

    python -m tests.evidence.kickstart results/distill_kickstart.json      five seeds, about half an hour

Reach, told where the sphere is, with a script that moves at a third of its speed. Counts steps until the
student's validation return is the teacher's, and the return at the end, of reward alone and of reward with
the teacher, for ever or annealed. Reward alone keeps the settings of `rl.*`, by which it learns best; who
also imitates moves far at first, so that its rate is fixed. Source: Schmitt et al. (2018).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from robokd.config import compose, load
from robokd.learn.dagger import distill
from robokd.learn.instructor import open_teacher, teacher_outcomes
from robokd.learn.stage import build_env
from robokd.run import Run
from tests.evidence.table import fill

SEEDS = range(5)
BOTH = ["loss=[ppo,action_mse]", "rl.desired_kl=0", "rl.learning_rate=1e-3", "rl.mini_batches=16"]
RATE, FALLS = "loss.action_mse.anneal", ["begin=30", "end=0", "over=12"]
WAYS = {
    "reward alone": ["loss=[ppo]", "dagger.rounds=70"],
    "teacher for ever": [*BOTH, f"{RATE}=30", "dagger.rounds=36"],
    "teacher annealed": [*BOTH, *(f"{RATE}.{word}" for word in FALLS), "dagger.rounds=36"],
}
WORDS = (
    "plugins=[tests.worlds.reach_shown]", "task=reach_shown", "task.script_share=0.33", "teacher=scripted",
    "student=mlp", "student.gaussian=true", "student.initial_std=0.5", "cameras=[]", "groups=[proprio,goal]",
    "threads=1", "dagger.acting.share=0", "dagger.steps_per_round=24", "dagger.evaluate_every=2",
    "dagger.evaluate_episodes=256", "dagger.stop_retention=9", "dagger.checkpoint_every=60",
)  # fmt: skip


def found(way: str, seed: int, runs: Path) -> dict[str, Any]:
    """Distil and return the curve of validation returns, and when it met the teacher's."""
    made = distill(compose("distill", [*WORDS, *WAYS[way], f"seed={seed}", f"runs={runs}"]))
    run = Run.open(made.parent)
    config = load("distill", run.config)
    teacher = open_teacher(config, build_env(config, (), "train", num_envs=1))
    taught = teacher_outcomes(config, teacher).returns.mean().item()
    key = "validation/return"
    curve = [(round(line["frames"] or 0), line[key]) for line in run.metrics() if line.get(key) is not None]
    met = next((steps for steps, value in curve if value >= taught), None)
    last = [value for _, value in curve[-5:]]
    return {"teacher": taught, "steps_to_teacher": met, "end": sum(last) / len(last), "curve": curve}


def main(out: str) -> None:
    """Write all seeds of all ways, as they come."""
    cells = [(way, seed) for seed in SEEDS for way in WAYS]
    fill(out, f"python -m tests.evidence.kickstart {out}", cells, found)


if __name__ == "__main__":
    main(sys.argv[1])
