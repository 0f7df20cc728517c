"""An information gap: the teacher knows which door is right and never looks; the student must look first.

    python -m tests.evidence.hidden_goal results/distill_hidden_goal.json      five seeds, about eight minutes

Success on test episodes and the environment steps that training took, of imitation alone, of reward alone
(the control of equal cost), and of both together. Source: METHODS B2's T-maze; Schmitt et al. (2018).
"""

from __future__ import annotations

import sys
from pathlib import Path

from robokd.config import compose
from robokd.files import read_json
from robokd.learn.dagger import distill
from tests.evidence.table import Row, by_way, fill, tested

SEEDS, EPISODES = range(5), 512
ALONE, FALLS = "dagger.acting.share=0", ["begin=0.3", "end=0", "over=15"]
WAYS = {
    "dagger": ["teacher=scripted", "loss=[action_mse]", "dagger.gradient_steps=20"],
    "reward alone": ["teacher=scripted", "loss=[ppo]", ALONE],
    "reward and teacher": ["teacher=scripted", "loss=[ppo,action_mse]", ALONE, "loss.action_mse.anneal=0.3"],
    "reward and teacher, annealed": [
        "teacher=scripted", "loss=[ppo,action_mse]", ALONE,
        *(f"loss.action_mse.anneal.{word}" for word in FALLS),
    ],
    "twin": ["teacher=twin", "loss=[ppo,kl]", "loss.kl.direction=reverse", "dagger.acting.share=0.5"],
}  # fmt: skip
WORDS = (
    "plugins=[tests.worlds.hidden_goal]", "task=hidden_goal", "task.wrong_cost=3", "student=mlp",
    "student.gaussian=true", "student.initial_std=1", "cameras=[]", "dagger.rounds=60",
    "dagger.steps_per_round=24", "dagger.evaluate_every=5", "threads=1",
)  # fmt: skip


def found(way: str, seed: int, runs: Path) -> dict[str, float]:
    """Distil and return the success on test episodes, and what it took."""
    made = distill(compose("distill", [*WORDS, *WAYS[way], f"seed={seed}", f"runs={runs}"]))
    judged, cost = tested(made, seed, f"episodes={EPISODES}"), read_json(made)
    spaces = {space: judged[space]["rate"] for space in ("seen", "unseen", "unseen_all")}
    return {**spaces, "training_env_steps": cost["training_env_steps"], "wall_s": cost["wall_s"]}


def about(rows: list[Row]) -> Row:
    """Return what stands before the rows."""
    rates = {way: sorted(values) for way, values in by_way(rows, "seen").items()}
    return {"episodes": EPISODES, "success_by_seed": rates}


def main(out: str) -> None:
    """Write all seeds of all ways, as they come."""
    cells = [(way, seed) for seed in SEEDS for way in WAYS]
    fill(out, f"python -m tests.evidence.hidden_goal {out}", cells, found, about=about)


if __name__ == "__main__":
    main(sys.argv[1])
