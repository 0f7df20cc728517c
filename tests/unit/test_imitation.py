"""A teacher that copies its task's script first: who drives, what is learned, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from tensordict import TensorDict

from robokd.cli import main
from robokd.learn.imitation import Imitation
from robokd.run import Run

SMALL = (
    "num_envs=64", "threads=1", "teacher.steps_per_iteration=24", "teacher.evaluate_episodes=64",
    "teacher.initial_std=0.1", "teacher.learning_rate=1e-4", "task.horizon_s=2",
)  # fmt: skip


class One:
    """A script that always says one."""

    def act(self, obs):
        return torch.ones(len(obs["proprio"]), 2)


@pytest.mark.parametrize(("iteration", "taken"), [(0, 8), (1, 6), (2, 4), (3, 2)])
def test_the_script_drives_ever_fewer_worlds(iteration, taken):
    imitation = Imitation(One(), torch.nn.Linear(2, 2), iterations=4)
    obs = TensorDict({"proprio": torch.zeros(8, 2)}, batch_size=[8])
    sent = imitation.drive(obs, torch.zeros(8, 2), iteration)
    assert sent[:, 0].tolist() == [1.0] * taken + [0.0] * (8 - taken)


def test_a_teacher_that_copies_its_script_succeeds_before_reinforcement_learning_could(tmp_path):
    pytest.importorskip("mujoco")
    words = ["teach", "task=reach", *SMALL, "teacher.iterations=12", "teacher.evaluate_every=12"]
    found = {}
    for copied in (0, 12):
        assert main([*words, f"teacher.imitate={copied}", f"runs={tmp_path / str(copied)}"]) == 0
        run = Run.open(next((tmp_path / str(copied)).glob("*")))
        found[copied] = json.loads(run.summary_path.read_text())["validation_success"]
    assert found[0] < 0.2 < 0.6 < found[12]


def test_a_task_without_a_script_cannot_be_copied(tmp_path, capsys):
    pytest.importorskip("gymnasium")
    words = ["teach", "task=gymnasium", "task.env_id=Pendulum-v1", "task.success_return=-250"]
    groups = ["teacher.actor_groups=[proprio]", "teacher.critic_groups=[proprio]"]
    assert main([*words, *groups, "teacher.imitate=3", f"runs={tmp_path}"]) == 2
    assert "has no script" in capsys.readouterr().err


def test_a_residual_copies_nothing(chain, tmp_path, capsys):
    assert main(["refine", f"parent={chain['distill']}", "teacher.imitate=3", f"runs={tmp_path}"]) == 2
    assert "teacher.imitate=3" in capsys.readouterr().err
