"""The whole chain as one command, and what resuming it does not do again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robokd.cli import main

PPO = ["iterations=2", "steps_per_iteration=8", "evaluate_every=2", "evaluate_episodes=8"]
DAGGER = ["rounds=2", "steps_per_round=4", "gradient_steps=2", "batch_size=16", "evaluate_episodes=8"]
WORDS = [
    "task=reach", "task.horizon_s=0.8", "num_envs=16", "evaluate.episodes=12", "export.parity_samples=16",
    "deploy.episodes=1", *(f"{stage}.teacher.{word}" for stage in ("teach", "refine") for word in PPO),
    *(f"distill.dagger.{word}" for word in DAGGER),
]  # fmt: skip
BLIND = ["distill.cameras=[]", "distill.loss=[action_huber]"]


def _folders(root: Path) -> set[Path]:
    return {path.parent for path in root.rglob("config.yaml")}


def test_a_pipeline_runs_every_stage_and_resuming_repeats_none_of_the_finished_ones(tmp_path, capsys):
    assert main(["pipeline", *WORDS, f"runs={tmp_path}"]) == 0
    path = Path(capsys.readouterr().out.strip().splitlines()[-1])
    summary = json.loads(path.read_text())
    assert {"teach", "distill", "refine", "evaluate", "export", "deploy"} <= set(summary["stages"])
    assert all(Path(stage).is_file() for stage in summary["stages"].values())
    assert Path(summary["report"]).is_file()
    before = {folder: (folder / "summary.json").read_bytes() for folder in _folders(tmp_path)}
    # as if it had been cut off while the report was written
    path.unlink()
    assert main(["resume", f"run={path.parent}"]) == 0
    after = {folder: (folder / "summary.json").read_bytes() for folder in _folders(tmp_path)}
    assert before.keys() == after.keys()
    assert all(before[folder] == after[folder] for folder in before if folder != path.parent)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["task=gymnasium", "task.env_id=Pendulum-v1", *BLIND],
            "a policy of an environment that is not ours cannot be exported: no joint targets are known",
        ),
        (
            ["task=reach", "refine.teacher.critic_groups=[base_action,privilege]"],
            "no observation group or camera named 'privilege'",
        ),
        (["task=reach", "export.jerk=[1,2]"], "jerk wants one number, or one for each of joint1"),
        (["task=reach", "export.age_periods=400"], "age_periods=400: "),
    ],
    ids=["native", "group", "jerk", "age"],
)
def test_what_a_later_stage_would_refuse_is_refused_before_anything_is_taught(
    tmp_path, capsys, words, message
):
    assert main(["pipeline", *words, f"runs={tmp_path}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert message in said[-1]
    assert not any(tmp_path.iterdir())
