"""Teach, distill, refine and evaluate: small runs of the real stages."""

import json
from pathlib import Path

import pytest
import torch

from robokd.cli import main
from robokd.run import Run


def test_every_stage_leaves_a_summary_with_the_common_fields(chain):
    common = [
        "stage", "task", "sim", "seed", "device", "wall_s", "env_steps", "frames_rendered", "teacher_labels",
        "grad_samples", "peak_rss_mb", "peak_vram_mb", "git", "config_sha256", "parents",
    ]  # fmt: skip
    for stage, path in chain.items():
        summary = Run.open(path).read_summary()
        assert set(common) <= set(summary), stage
        assert summary["stage"] == stage
        assert summary["env_steps"] > 0
        assert (summary["frames_rendered"] > 0) == (stage != "teach")


def test_each_run_names_its_parent_by_hash(chain):
    parent = Run.open(chain["teach"])
    assert Run.open(chain["distill"]).read_summary()["parents"] == [
        {"path": str(chain["teach"]), "sha256": parent.sha256()}
    ]


def test_a_seed_gives_the_same_teacher_curve_twice(tmp_path):
    from tests.conftest import TINY

    rows = []
    for name in ("a", "b"):
        assert main(["teach", "task=reach", *TINY["teach"], f"runs={tmp_path / name}"]) == 0
        run = Run.open(next((tmp_path / name).glob("*_teach_*")))
        rows.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in run.metrics()])
    assert len(rows[0]) == 4
    assert rows[0] == rows[1]


def test_the_checkpoint_of_a_teacher_is_what_rsl_rl_s_runner_reads(chain):
    saved = Run.open(chain["teach"]).load_checkpoint("last")
    assert {"actor_state_dict", "critic_state_dict", "optimizer_state_dict", "iter", "infos"} <= set(saved)
    from rsl_rl.runners import OnPolicyRunner

    from robokd.config import load
    from robokd.learn.stage import build_env

    config = load("teach", Run.open(chain["teach"]).config)
    settings = config.teacher
    groups = {"actor": list(settings.actor_groups), "critic": list(settings.critic_groups)}
    env = build_env(config, tuple(dict.fromkeys((*groups["actor"], *groups["critic"]))), "train")
    model = {"class_name": "MLPModel", "hidden_dims": settings.hidden, "obs_normalization": True}
    noise = {"class_name": "GaussianDistribution", "init_std": 0.5, "std_type": "log"}
    runner = OnPolicyRunner(env, {
        "num_steps_per_env": 8, "save_interval": 1, "obs_groups": groups, "algorithm": {"class_name": "PPO"},
        "actor": {**model, "distribution_cfg": noise}, "critic": dict(model),
    })  # fmt: skip
    file = next((chain["teach"] / "checkpoints").glob("step_*.pt"))
    runner.load(str(file))
    assert runner.current_learning_iteration in (2, 4)


def test_an_evaluation_is_paired_has_intervals_and_spoils_the_camera(chain, tmp_path, capsys):
    words = [
        "evaluate",
        f"run={chain['refine']}",
        f"baseline={chain['distill']}",
        "episodes=12",
        "num_envs=5",
    ]
    assert main([*words, f"runs={tmp_path}"]) == 0
    path = capsys.readouterr().out.strip().splitlines()[-1]
    summary = json.loads(Path(path).read_text())
    assert summary["success"]["method"] == "wilson95"
    assert summary["success"]["lo"] <= summary["success"]["rate"] <= summary["success"]["hi"]
    assert set(summary["camera_use"]) == {"blank", "shuffled", "frozen"}
    assert {"seen", "unseen", "unseen_all", "paired", "retention"} <= set(summary)


def test_a_student_refuses_a_task_whose_contract_differs(chain, tmp_path, capsys):
    words = [
        "evaluate",
        f"run={chain['distill']}",
        "task.joint_step_rad=0.03",
        "episodes=4",
        f"runs={tmp_path}",
    ]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "does not fit this task: action.scale" in message


def test_a_camera_that_does_not_exist_is_one_line(chain, tmp_path, capsys):
    assert main(["distill", f"parent={chain['teach']}", "cameras=[frnot]", f"runs={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "frnot" in message
    assert "front, wrist" in message
    assert not list(tmp_path.glob("*"))


def test_a_truncated_checkpoint_is_one_line(chain, tmp_path, capsys):
    import shutil

    copy = tmp_path / chain["teach"].name
    shutil.copytree(chain["teach"], copy)
    for file in (copy / "checkpoints").glob("step_*.pt"):
        file.write_bytes(file.read_bytes()[:-100])
    assert main(["distill", f"parent={copy}", f"runs={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "step_" in message


@pytest.mark.parametrize("stage", ["teach", "distill", "refine"])
def test_all_checkpoints_hold_tensors_and_plain_data_only(chain, stage):
    for file in (chain[stage] / "checkpoints").glob("step_*.pt"):
        assert torch.load(file, weights_only=True)
