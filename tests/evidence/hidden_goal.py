"""An information gap: the teacher knows which door is right and never looks; the student must look first.

    python -m tests.evidence.hidden_goal results/distill_hidden_goal.json      five seeds, about eight minutes

Success on test episodes and the environment steps that training took, of imitation alone, of reward alone
(the control of equal cost), and of both together. Source: METHODS B2's T-maze; Schmitt et al. (2018).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from robokd import registry
from robokd.config import compose
from robokd.evaluate import evaluate
from robokd.files import read_json, to_json, write_atomic
from robokd.learn.dagger import distill
from robokd.run import Run

PLUGIN = "tests.worlds.hidden_goal"
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
    "task=hidden_goal", "task.wrong_cost=3", "student=mlp", "student.gaussian=true", "student.initial_std=1",
    "cameras=[]", "dagger.rounds=60", "dagger.steps_per_round=24", "dagger.evaluate_every=5", "threads=1",
)  # fmt: skip


def found(way: str, seed: int, runs: Path) -> dict[str, float]:
    """Distil and return the success on test episodes, and what it took."""
    registry.load_plugins([PLUGIN])
    made = distill(compose("distill", [*WORDS, *WAYS[way], f"seed={seed}", f"runs={runs}"]))
    asked = [f"run={made.parent}", f"episodes={EPISODES}", "ablations=false", f"runs={runs}", f"seed={seed}"]
    judged = read_json(evaluate(compose("evaluate", asked, Run.open(made.parent).config)))
    cost = read_json(made)
    spaces = {space: judged[space]["rate"] for space in ("seen", "unseen", "unseen_all")}
    return {**spaces, "training_env_steps": cost["training_env_steps"], "wall_s": cost["wall_s"]}


def main(out: str) -> None:
    """Write all seeds of all ways, as they come."""
    rows = []
    for seed in SEEDS:
        for way in WAYS:
            with tempfile.TemporaryDirectory() as runs:
                rows.append({"way": way, "seed": seed, **found(way, seed, Path(runs))})
            print(rows[-1], flush=True)
            rates = {one: sorted(row["seen"] for row in rows if row["way"] == one) for one in WAYS}
            told = {"command": f"python -m tests.evidence.hidden_goal {out}", "episodes": EPISODES}
            write_atomic(Path(out), to_json({**told, "success_by_seed": rates, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1])
