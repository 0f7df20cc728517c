"""Which direction of the KL divergence picks a way, where the teacher may take either.

    python -m tests.evidence.two_ways results/distill_two_ways.json      five seeds, about a minute

A pillar that may be passed on either side; the teacher's label is a mixture of both ways. Counts test
episodes that pass, by the student's mean action and by actions drawn from its Gaussian, afresh in every step.
The student acts alone: where the teacher has driven, the place itself tells which way it chose, and labels
are no longer ambiguous. Source: METHODS B1, after GKD (Agarwal et al. 2024).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.config import compose, load
from robokd.files import read_json
from robokd.learn.dagger import distill
from robokd.learn.pupil import load_student, student_inputs
from robokd.learn.rollout import rollout
from robokd.learn.stage import build_env
from robokd.run import Run
from robokd.students.base import StudentModule, StudentPolicy
from tests.evidence.table import Row, fill, means

SEEDS, EPISODES = range(5), 128
WAYS = {
    "action_mse": ["loss=[action_mse]"],
    "kl reverse, one mode a label": ["loss=[kl]", "loss.kl.direction=reverse"],
    "mixture forward": ["loss=[mixture]", "loss.mixture.direction=forward"],
    "mixture reverse": ["loss=[mixture]", "loss.mixture.direction=reverse"],
}
WORDS = (
    "plugins=[tests.worlds.two_ways]", "task=two_ways", "teacher=scripted", "student=mlp",
    "student.gaussian=true", "cameras=[]", "num_envs=32", "dagger.acting.share=0", "dagger.rounds=4",
    "dagger.steps_per_round=44", "dagger.gradient_steps=120", "dagger.learning_rate=0.003",
    "dagger.validation_share=0", "dagger.evaluate_every=4", "dagger.evaluate_episodes=32",
    "dagger.stop_retention=1",
)  # fmt: skip


class Sampled(StudentPolicy):
    """A student whose actions are drawn from its Gaussian, not its mean."""

    def __init__(self, student: StudentModule, count: int, seed: int) -> None:
        super().__init__(student, count)
        self.generator = torch.Generator().manual_seed(seed)

    def act(self, obs: TensorDict) -> Tensor:
        """Return clipped actions (B, A)."""
        said = self.say(obs)
        assert said.log_std is not None, "the student is not Gaussian"
        noise = torch.randn(said.action.shape, generator=self.generator)
        return (said.action + said.log_std.exp() * noise).clip(-1, 1)


def passed(way: str, seed: int, runs: Path) -> dict[str, float]:
    """Distil and return the success on test episodes, by the mean action and by sampled ones, and sigma."""
    made = distill(compose("distill", [*WORDS, *WAYS[way], f"seed={seed}", f"runs={runs}"]))
    run = Run.open(made.parent)
    config = load("distill", run.config)
    env = build_env(config, student_inputs(config), "test", num_envs=EPISODES)
    student = load_student(run, "last", env)
    said, _ = student(env.get_observations(), student.initial_state(EPISODES))
    rates = {
        name: rollout(env, policy, EPISODES).success.mean().item()
        for name, policy in (
            ("mean", StudentPolicy(student, EPISODES)), ("sampled", Sampled(student, EPISODES, seed)),
        )
    }  # fmt: skip
    env.close()
    taught = read_json(made)["teacher_validation_success"]
    return {**rates, "sigma": said.log_std.exp().mean().item(), "teacher": taught}


def about(rows: list[Row]) -> Row:
    """Return what stands before the rows."""
    mean, sampled = means(rows, "mean"), means(rows, "sampled")
    return {
        "episodes": EPISODES, "success": {way: {"mean": mean[way], "sampled": sampled[way]} for way in mean}
    }  # fmt: skip


def main(out: str) -> None:
    """Write all seeds of all ways, as they come."""
    cells = [(way, seed) for seed in SEEDS for way in WAYS]
    fill(out, f"python -m tests.evidence.two_ways {out}", cells, passed, about=about)


if __name__ == "__main__":
    main(sys.argv[1])
