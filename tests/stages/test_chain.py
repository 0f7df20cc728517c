"""Teach, distill, refine and evaluate: small runs of the real stages."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from robokd.tasks.reach import Reach, ReachCfg

from robokd.cli import main
from robokd.env import native
from robokd.export.bundle import read_bundle
from robokd.files import sha256_of
from robokd.registry import register
from robokd.run import Run


@register("task", "reach_joints")
@dataclasses.dataclass(kw_only=True)
class JointsCfg(ReachCfg):
    """Reach, whose robot has a second group of numbers."""

    def build(self, *, sim, renderer, corrupt, setup):
        return native.build(Joints(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class Joints(Reach):
    def obs_specs(self):
        specs = super().obs_specs()
        terms = specs["proprio"].terms[:2]
        return {**specs, "joints": dataclasses.replace(specs["proprio"], group="joints", terms=terms)}

    def observe(self, group, state):
        is_new = group == "joints"
        return super().observe("proprio" if is_new else group, state)[:, : 14 if is_new else None]


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


def test_a_student_of_a_file_names_the_file_by_hash_and_goes_on_from_no_other(chain, tmp_path, capsys):
    from tests.conftest import TINY

    file = tmp_path / "teacher.pt"
    shutil.copy(next((chain["teach"] / "checkpoints").glob("step_*.pt")), file)
    words = ["task=reach", "task.horizon_s=0.8", "teacher=rsl_rl", f"teacher.path={file}", *TINY["distill"]]
    assert main(["distill", *words, "dagger.rounds=1", f"runs={tmp_path}", "threads=2"]) == 0
    run = Run.open(next(tmp_path.glob("*_distill_*")))
    wanted = [{"path": str(file), "sha256": sha256_of(file)}]
    assert run.lineage["parents"] == run.read_summary()["parents"] == wanted
    run.summary_path.unlink()  # as if it had been killed
    file.write_bytes(file.read_bytes()[::-1])
    assert main(["resume", f"run={run.path}"]) == 2
    assert f"{run.path} was begun from {file} with sha256" in capsys.readouterr().err


def test_a_seed_gives_the_same_teacher_curve_twice(tmp_path):
    from tests.conftest import TINY

    rows = []
    for name in ("a", "b"):
        assert main(["teach", "task=reach", *TINY["teach"], f"runs={tmp_path / name}"]) == 0
        run = Run.open(next((tmp_path / name).glob("*_teach_*")))
        rows.append([{k: v for k, v in row.items() if not k.startswith("time/")} for row in run.metrics()])
    assert len(rows[0]) == 4
    assert rows[0] == rows[1]


def test_the_checkpoint_of_a_teacher_is_what_rsl_rl_s_runner_reads_and_goes_on_from(chain, tmp_path):
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
    }, log_dir=str(tmp_path))  # fmt: skip
    file = next((chain["teach"] / "checkpoints").glob("step_*.pt"))
    runner.load(str(file))
    assert runner.current_learning_iteration in (2, 4)
    runner.learn(1)  # with its logger, which reads what a step tells beside the reward
    assert list(tmp_path.glob("events*"))


def test_a_refined_student_counts_the_weights_of_both(chain):
    refined, parent = Run.open(chain["refine"]), Run.open(chain["distill"])
    actor = refined.load_checkpoint("last")["actor_state_dict"]
    learned = sum(value.numel() for name, value in actor.items() if "normalizer" not in name)
    assert learned > 32  # of its hidden layer alone
    own = parent.read_summary()["student_parameters"]
    assert refined.read_summary()["student_parameters"] == own + learned


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


@pytest.mark.parametrize(
    ("task", "groups", "actor"),
    [("reach_joints", ["proprio", "joints"], ["features", "joints", "base_action"]),
     pytest.param("reach", [], ["features", "base_action"], marks=pytest.mark.slow)],
    ids=["two groups", "no group"],
)  # fmt: skip
def test_every_stage_shows_a_student_the_groups_that_it_was_made_for(task, groups, actor, tmp_path, capsys):
    from tests.conftest import TINY

    def done(*words):
        assert main([*words, f"runs={tmp_path}", "threads=2"]) == 0
        return Path(capsys.readouterr().out.strip().splitlines()[-1])

    typed, small = f"groups=[{','.join(groups)}]", "dagger.rounds=1"
    words = ["distill", f"task={task}", "teacher=scripted", "task.horizon_s=0.8", typed]
    student = done(*words, *TINY["distill"], small).parent
    acts = f"teacher.actor_groups=[{','.join(actor)}]"
    refined = done("refine", f"parent={student}", *TINY["refine"], "teacher.iterations=1", acts).parent
    done("evaluate", f"run={refined}", f"baseline={student}", "episodes=4", "num_envs=4", "spaces=[seen]")
    for run in [refined]:
        done("export", f"run={run}", f"out={tmp_path / 'a.robokd'}", "parity_samples=8")
        assert list(read_bundle(tmp_path / "a.robokd").observations) == groups
        assert done("play", f"run={run}", "episodes=1", f"video={tmp_path / 'a.mp4'}").is_file()


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
