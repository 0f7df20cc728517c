"""What a user gets wrong costs one line, exit code 2, and leaves no folder behind."""

from __future__ import annotations

import pytest

from robokd.cli import main

TEACH = ["teach", "task=reach"]
PIPELINE = ["pipeline", "task=reach"]
MISTAKES = [
    ([*TEACH, "sim.physics_dt=0.003"], "control_dt 0.04 s is not a multiple of sim.physics_dt 0.003 s"),
    ([*TEACH, "task.radius_m=[0.7,0.3]"], "task.radius_m must be [low, high] within [0.2, 0.85]"),
    ([*TEACH, "task.start_rad=2.5"], "task.start_rad must be in [0, 0.7], got 2.5"),
    ([*TEACH, "task.joint_step_rad=0"], "task.joint_step_rad must be > 0"),
    ([*TEACH, "teacher.actor_groups=[proprio,front]"], "camera 'front' is asked for by a stage that renders"),
    ([*TEACH, "teacher.actor_groups=[]"], "teacher.actor_groups must name at least one"),
    ([*TEACH, "teacher.evaluate_episodes=0"], "teacher.evaluate_episodes must be >= 1, got 0"),
    ([*TEACH, "teacher.hidden=[]"], "teacher.hidden must be one layer or more"),
    ([*TEACH, "teacher.initial_std=0"], "teacher.initial_std must be > 0"),
    ([*TEACH, "num_envs=0"], "num_envs must be >= 1, got 0"),
    ([*TEACH, "num_envs=2147483648"], "sim=mujoco simulates fewer than 2^31 environments at once, got 21"),
    ([*TEACH, "teacher.hidden=[1000000000000000]"], "error: memory does not suffice for these sizes ("),
    (["distill", "parent={teach}", "student.hidden=[1000000000000000]"], "memory does not suffice for these"),
    (["distill", "parent={teach}", "dagger.learning_rate={{begn: 1}}"], "has no key 'begn'. Did you mean 'b"),
    (["distill", "parent={teach}", "loss=[kl]", "loss.kl.anneal={{shpe: linear}}"],
     "loss.kl.anneal has no key 'shpe'. Did you mean 'shape'? Keys: begin, end"),
    (["distill", "parent={teach}", "cameras=[proprio]"], "no camera named 'proprio'. Known: front, wrist"),
    (["distill", "parent={teach}", "cameras=[front,front]"], "cameras names 'front' twice"),
    (["distill", "parent={teach}", "dagger.validation_share=1"], "dagger.validation_share must be in [0, 1)"),
    (["distill", "parent={teach}", "loss.estimate.terms=[]"], "loss.estimate.terms must name at least one"),
    (["distill", "parent={teach}", "loss.estimate.terms=[x]"], "no privileged term named 'x' to estimate"),
    (["distill", "parent={teach}", "loss.estimate.scale_m=0"], "loss.estimate.scale_m must be > 0 m"),
    (["refine", "parent={distill}", "teacher.critic_groups=[front]"], "'front' is a camera"),
    (["evaluate", "run={distill}", "num_envs=1"], "shuffled cameras need two environments"),
    (["evaluate", "run={distill}", "spaces=[nowhere]"], "no space of parameters named 'nowhere'"),
    (["play", "run={distill}", "video=no/x.mp4"], "cannot write no/x.mp4: there is no folder no"),
    (["export", "run={distill}", "out=no/x.robokd"], "cannot write no/x.robokd: there is no folder no"),
    (["deploy", "bundle=no.robokd"], "bundle no.robokd: No such file"),
    ([*TEACH, "seed=9223372036854775808"], "seed must be < 2^63"),
    (["distill", "parent={teach}", "dagger.learning_rate=inf"], "a schedule's begin and end must be finite"),
    (["look", "task=reach", "cameras=[]"], "cameras must name at least one camera, or all"),
    ([*PIPELINE, "evaluate.spaces=[x]"], "no space of parameters named 'x'"),
    ([*PIPELINE, "distill.cameras=[nope]"], "no observation group or camera named 'nope'"),
    ([*PIPELINE, "refine.teacher.actor_groups=[privileged]"], "a residual may not act on 'privileged'"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "wanted"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_line_and_leaves_nothing(words, wanted, chain, tmp_path, capsys):
    words = [word.format(**chain) for word in words]
    assert main([*words, f"runs={tmp_path}"]) == 2
    printed = capsys.readouterr()
    assert wanted in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_report_is_not_written_into_a_folder_that_is_absent(chain, capsys):
    assert main(["report", f"runs=[{chain['teach']}]", "out=no/x.html"]) == 2
    assert "cannot write no/x.html: there is no folder no" in capsys.readouterr().err
