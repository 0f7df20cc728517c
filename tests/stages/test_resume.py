"""A run killed in the middle and resumed ends as the uninterrupted one: metrics, weights, environments."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robokd.cli import main
from robokd.run import Run
from tests.conftest import TINY

LONGER = {
    "teach": ["teacher.iterations=40", "teacher.imitate=20"],  # killed while it imitates
    "distill": ["dagger.rounds=44", "dagger.capacity=200"],  # so small that old rows are written over
    "refine": ["teacher.iterations=24"],
}
PATIENCE_S = 120


def _words(stage: str, chain: dict[str, Path], root: Path) -> list[str]:
    links = {
        "teach": "task=reach",
        "distill": f"parent={chain['teach']}",
        "refine": f"parent={chain['distill']}",
    }
    return [stage, links[stage], *TINY[stage], *LONGER[stage], f"runs={root}"]


def _kill_in_the_middle(words: list[str], root: Path) -> Run:
    """Start a run, wait for its second checkpoint, kill -9."""
    child = subprocess.Popen(
        [sys.executable, "-m", "robokd", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            found = list(root.glob("*/checkpoints/last.json"))
            if found and Run.open(found[0].parent.parent).checkpoint_step() >= 4:
                break
            assert child.poll() is None, f"ended before it was killed: {child.stderr.read().decode()[-800:]}"
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stderr.close()
    return Run.open(found[0].parent.parent)


def _tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in _tensors(item, f"{path}/{key}").items()}
    return {path: value} if isinstance(value, torch.Tensor) else {}


def _timeless(run: Run) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in run.metrics()]


# memory, sequences, priorities and schedules that wait for the student
REMEMBERING = (
    "student=cnn_gru", "student.units=8", "student.hidden=[16]", "dagger.sequence=4",
    "dagger.steps_per_round=4", "dagger.sampling=priority", "dagger.acting.share.above=0.1",
    "dagger.acting.share.over=5",
    "loss.estimate.anneal.end=0.5", "dagger.rounds=40", "dagger.evaluate_every=5",
)  # fmt: skip
# learns from reward: on the newest round alone, often back to the best student so far
REINFORCED = (
    "distill", "plugins=[tests.worlds.hidden_goal]", "task=hidden_goal", "cameras=[]", "num_envs=8",
    "student.gaussian=true", "student.hidden=[16]", "dagger.steps_per_round=8", "dagger.rounds=24",
    "dagger.evaluate_every=3", "dagger.evaluate_episodes=8", "dagger.checkpoint_every=2", "threads=1",
    "rl.critic_hidden=[16]", "rl.critic_warmup=1", "rl.epochs=2", "rl.fall_back=0.01",
)  # fmt: skip
TAUGHT = ("teacher=scripted", "student=mlp", "loss=[ppo,action_huber]", "dagger.acting.share=0")
ITS_OWN_TEACHER = (
    "teacher=twin", "student=cnn_gru", "student.units=8", "dagger.sequence=4", "loss=[ppo,kl]",
    "dagger.acting.share=0.5", "dagger.validation_share=0",
)  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("teach", ()),
        pytest.param("teach", ("teacher.latent=2", "teacher.imitate=2"), marks=pytest.mark.slow),
        ("distill", ()),
        # its files are written where there is a checkpoint; test_ranks kills such a run too
        pytest.param("distill", ("dagger.store=device",), marks=pytest.mark.slow),
        pytest.param("distill", REMEMBERING, marks=pytest.mark.slow),
        ("refine", ()),
    ],
)
def test_a_run_killed_with_kill_9_resumes_bit_for_bit(stage, more, chain, tmp_path):
    _check_resume(lambda root: [*_words(stage, chain, root), *more], tmp_path)


@pytest.mark.parametrize("more", [pytest.param(TAUGHT, marks=pytest.mark.slow), ITS_OWN_TEACHER])
def test_a_student_that_learns_from_reward_resumes_bit_for_bit(more, tmp_path):
    pytest.importorskip("mujoco")
    _check_resume(lambda root: [*REINFORCED, *more, f"runs={root}"], tmp_path)


def _check_resume(words: Callable[[Path], list[str]], folder: Path) -> None:
    """Run it whole, and killed and resumed: both end the same."""
    whole, cut = folder / "whole", folder / "cut"
    assert main(words(whole)) == 0
    reference = Run.open(next(whole.glob("*")))
    killed = _kill_in_the_middle(words(cut), cut)
    assert not killed.is_finished
    assert killed.checkpoint_step() < reference.checkpoint_step()
    assert main(["resume", f"run={killed.path}"]) == 0
    resumed = Run.open(killed.path)
    assert not (resumed.path / "buffer").exists()  # what no resume needs is gone
    assert _timeless(resumed) == _timeless(reference)
    left = _tensors(reference.load_checkpoint("last"))
    right = _tensors(resumed.load_checkpoint("last"))
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert different == []


def test_a_finished_run_is_not_run_again(chain, capsys):
    before = (chain["teach"] / "metrics.jsonl").read_bytes()
    assert main(["resume", f"run={chain['teach']}"]) == 0
    assert capsys.readouterr().out.strip().endswith("summary.json")
    assert (chain["teach"] / "metrics.jsonl").read_bytes() == before
