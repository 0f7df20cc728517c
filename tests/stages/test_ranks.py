"""Processes of torchrun that learn one student together end as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robokd import UserError
from robokd.cli import main
from robokd.learn import ranks
from robokd.learn.dataset import own_part
from robokd.run import Run

ROOT = Path(__file__).parents[2]
WORDS = (
    "task=hidden_goal", "plugins=[tests.worlds.hidden_goal]", "student=mlp", "cameras=[]", "threads=2",
    "num_envs=16", "dagger.rounds=3", "dagger.steps_per_round=8", "dagger.evaluate_every=2",
    "dagger.evaluate_episodes=16", "dagger.gradient_steps=8", "dagger.batch_size=32",
    "dagger.validation_share=0.3", "dagger.stop_retention=9", "dagger.capacity=200",
)  # fmt: skip
WAYS = {
    "dagger by priority": ["teacher=scripted", "loss=[action_mse]", "dagger.sampling=priority"],
    "reward and twin": ["teacher=twin", "loss=[ppo,kl]", "student.gaussian=true", "dagger.acting.share=0.5"],
}


def run(processes: int, words: list[str], root: Path) -> subprocess.CompletedProcess:
    """Run robokd in one process, or in several by torchrun."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), "-m", "robokd", *words, f"runs={root}"]
    settings = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=120
    )


def distilled(processes: int, words: list[str], root: Path) -> Run:
    """Return the run, of which there is one however many processes made it."""
    done = run(processes, ["distill", *WORDS, *words], root)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = root.iterdir()
    assert done.stdout.splitlines()[-1] == str(path / "summary.json")
    assert done.stdout.count("summary.json") == 1
    return Run.open(path)


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_end_as_one_does(way, tmp_path):
    one, two = (distilled(count, WAYS[way], tmp_path / str(count)) for count in (1, 2))
    single, shared = one.load_checkpoint("last"), two.load_checkpoint("last")
    assert single["student"].keys() == shared["student"].keys()
    for name, value in single["student"].items():
        torch.testing.assert_close(shared["student"][name], value, atol=1e-5, rtol=0)
    assert shared["totals"].keys() == single["totals"].keys()
    for name, value in single["totals"].items():
        assert shared["totals"][name] == pytest.approx(value), name
    for left, right in zip(one.metrics(), two.metrics(), strict=True):
        assert left.keys() == right.keys()
        for name in left:
            if not name.startswith("time/"):
                assert right[name] == pytest.approx(left[name], abs=1e-5), name
    costs = ("env_steps", "teacher_labels", "grad_samples", "frames_rendered")
    assert [one.read_summary()[name] for name in costs] == [two.read_summary()[name] for name in costs]


def test_what_cannot_be_shared_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    with pytest.raises(UserError, match="num_envs=15 cannot be shared by 2 processes: it must be a multiple"):
        ranks.share(15, "num_envs")
    with pytest.raises(UserError, match="a batch of 1 rows cannot be shared by 2 processes"):
        own_part(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["teach", "task=reach", f"runs={tmp_path}"]) == 2
    assert "torchrun has started 2 processes; only distill can share its work" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(UserError, match="all must run on one: --nnodes=1"):
        ranks.join("cpu")
