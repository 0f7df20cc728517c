"""A sweep leaves a run for every combination and one table; what fails takes nothing with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from robokd import UserError
from robokd.cli import main
from robokd.run import Run
from robokd.sweep import combinations

WORDS = (
    "task=hidden_goal", "num_envs=8", "threads=1", "teacher.iterations=2", "teacher.steps_per_iteration=4",
    "teacher.evaluate_every=1", "teacher.evaluate_episodes=4", "teacher.hidden=[8]",
    "teacher.critic_hidden=[8]",
)  # fmt: skip
PLUGINS = "plugins=[tests.worlds.hidden_goal]"
# the second group is of no observation, which only the environment knows
SWEPT = ("teacher.learning_rate=1e-3,3e-4", "teacher.critic_groups=[privileged],[elsewhere]")


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Run:
    """Return a sweep of four jobs, of which two have failed."""
    pytest.importorskip("mujoco")
    root = tmp_path_factory.mktemp("swept")
    assert main(["teach", "--multirun", *WORDS, PLUGINS, *SWEPT, f"runs={root}"]) == 2
    (path,) = root.iterdir()
    return Run.open(path)


def test_a_sweep_ends_with_a_table_of_runs_overrides_and_success(swept):
    assert swept.path.name.split("_", 1)[1].startswith("hidden_goal_sweep_")
    rows = json.loads((swept.path / "summary.json").read_text())["jobs"]
    assert [row["overrides"] for row in rows] == [
        ["teacher.learning_rate=0.001", "teacher.critic_groups=[privileged]"],
        ["teacher.learning_rate=0.001", "teacher.critic_groups=[elsewhere]"],
        ["teacher.learning_rate=0.0003", "teacher.critic_groups=[privileged]"],
        ["teacher.learning_rate=0.0003", "teacher.critic_groups=[elsewhere]"],
    ]
    for row, rate in zip(rows[::2], (1e-3, 3e-4), strict=True):
        run = Run.open(row["run"])
        assert run.stage == "teach"
        assert run.config["teacher"]["learning_rate"] == rate
        assert row["validation_success"] == run.read_summary()["validation_success"]
        assert row["error"] is None
    steps = sum(Run.open(row["run"]).read_summary()["env_steps"] for row in rows[::2])
    assert swept.read_summary()["env_steps"] == steps


def test_a_job_that_fails_says_why_and_takes_no_other_with_it(swept):
    rows = swept.read_summary()["jobs"]
    for row in rows[1::2]:
        assert (row["run"], row["validation_success"]) == (None, None)
        assert "no observation group or camera named 'elsewhere'" in row["error"]
    assert all(row["run"] for row in rows[::2])


def test_a_sweep_that_is_resumed_leaves_finished_jobs_alone(swept, capsys):
    paths = [Path(row["run"], "summary.json") for row in swept.read_summary()["jobs"][::2]]
    before = [path.stat().st_mtime_ns for path in paths]
    Path(paths[1]).unlink()  # as if it had been cut off at the end
    assert main(["resume", f"run={swept.path}", PLUGINS]) == 2
    assert "2 of 4 jobs failed; the first: error: no observation group" in capsys.readouterr().err
    assert paths[0].stat().st_mtime_ns == before[0]
    assert paths[1].is_file()
    assert len(list(paths[1].parent.parent.glob("*/lineage.json"))) == 1


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        pytest.param(
            "hydra_joblib_launcher",
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "hydra_submitit_launcher",
            ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=30"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_launchers_of_others_run_the_jobs(plugin, words, tmp_path):
    pytest.importorskip("mujoco")
    pytest.importorskip(f"hydra_plugins.{plugin}")
    swept = ("teacher.critic_groups=[privileged]", "seed=0,1")
    said = ["teach", "--multirun", *WORDS, PLUGINS, *swept, *words, f"runs={tmp_path}"]
    # as a person does: some launchers send all parts that are known here, those of other tests too
    command = [sys.executable, "-m", "robokd", *said]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    rows = json.loads(Path(done.stdout.splitlines()[-1]).read_text())["jobs"]
    assert [row["overrides"] for row in rows] == [["seed=0"], ["seed=1"]]
    assert [Run.open(row["run"]).seed for row in rows] == [0, 1]


def test_what_is_not_swept_stays_as_it_was_typed():
    words = ["cameras=[front,hand]", "dagger.rounds=1e2", "parent='a, b'", "@more.yaml"]
    assert combinations(words) == [words]
    swept = [["cameras=[a]", "seed=1"], ["cameras=[a]", "seed=2"], ["cameras=[b,c]", "seed=1"]]
    assert combinations(["cameras=[a],[b,c]", "seed=range(1,3)"])[:3] == swept


@pytest.mark.parametrize("word", ["seed=interval(0,1)", "plugins=a,b", "runs=a,b", "seed=[0,1"])
def test_what_cannot_be_swept_is_refused(word):
    with pytest.raises(UserError, match="cannot be"):
        combinations([word])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["look", "task=reach"], "no stage to sweep named 'look'"),
        (["teach", "task=reach", "sed=0,1"], "teach has no key 'sed'. Did you mean 'seed'"),
        (
            ["teach", "task=reach", "seed=0,1", "hydra/launcher=jobslib"],
            "Could not find 'hydra/launcher/jobs",
        ),
        (["teach", "task=reach", "hydra.launcher.jobs=2"], "hydra.launcher.jobs=2"),
    ],
)
def test_a_mistake_is_told_before_any_job_has_begun(words, message, tmp_path, capsys):
    assert main([*words, "--multirun", f"runs={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_processes_of_torchrun_and_launchers_of_no_sweep_are_refused(tmp_path, monkeypatch, capsys):
    run = Run.create(tmp_path, task="reach", stage="teach", config={}, seed=0)
    assert main(["resume", f"run={run.path}", "hydra/launcher=joblib"]) == 2
    assert f"hydra/launcher=joblib is for a sweep, and {run.path} is a teach run" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["teach", "--multirun", "task=reach", "seed=0,1", f"runs={tmp_path}"]) == 2
    assert "--multirun launches several runs" in capsys.readouterr().err
