"""Worlds of one point: what its teachers do there, and what a student can learn; see tests/evidence."""

from __future__ import annotations

import pytest
import torch

from robokd import registry
from robokd.config import compose
from robokd.learn.instructor import open_teacher
from robokd.learn.rollout import rollout
from robokd.learn.stage import build_env

pytest.importorskip("mujoco")


@pytest.mark.parametrize("task", ["hidden_goal", "two_ways"])
@pytest.mark.parametrize("space", ["seen", "unseen", "unseen_all"])
def test_the_script_always_succeeds_and_uses_both_sides(task, space):
    registry.load_plugins([f"tests.worlds.{task}"])
    config = compose("distill", [f"task={task}", "teacher=scripted", "student=mlp", "cameras=[]"])
    env = build_env(config, ("privileged",), "test", num_envs=64, space=space)
    sides = env.get_observations()["privileged"][:, 2]
    assert 0.3 < (sides > 0).float().mean() < 0.7
    assert torch.equal(sides.abs(), torch.ones(64))
    assert rollout(env, open_teacher(config, env), 64).success.all()
    env.close()


def test_the_clue_of_hidden_goal_is_shown_from_above_and_stays_for_the_episode():
    registry.load_plugins(["tests.worlds.hidden_goal"])
    config = compose("distill", ["task=hidden_goal", "teacher=scripted", "student=mlp", "cameras=[]"])
    env = build_env(config, ("proprio", "privileged"), "test", num_envs=8)
    assert not env.get_observations()["proprio"][:, 2].any()
    up, down = torch.tensor([[0.0, 1.0]]).expand(8, 2), torch.tensor([[0.0, -1.0]]).expand(8, 2)
    for _ in range(8):
        obs = env.step(up)[0]
        is_up = obs["proprio"][:, 1] > 0.5
        assert torch.equal(obs["proprio"][:, 2] != 0, is_up)
    assert is_up.all()
    for _ in range(8):
        obs = env.step(down)[0]
    assert (obs["proprio"][:, 1] < 0.5).all()
    assert torch.equal(obs["proprio"][:, 2], obs["privileged"][:, 2])
    env.close()


def test_of_a_teacher_that_may_go_either_way_only_the_reverse_mixture_learns_one(tmp_path):
    from tests.evidence.two_ways import passed

    found = {
        way: passed(f"mixture {way}", 0, tmp_path / way)["mean"] for way in ("forward", "reverse")
    }  # fmt: skip
    assert found["forward"] <= 0.1
    assert found["reverse"] >= 0.9
