"""`robokd teach teacher=sb3`: stable-baselines3 trains, and what it leaves is a run like any other."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from robokd.cli import main
from robokd.config import compose
from robokd.learn.stage import build_env
from robokd.learn.teach import load_teacher
from robokd.run import Run
from robokd.teachers.sb3 import Sb3Cfg
from robokd.teachers.weights import flat

pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")
from robokd.learn.sb3 import Sb3Learner

GROUPS = ("proprio", "privileged")
WORDS = (
    "plugins=[tests.worlds.hidden_goal]", "task=hidden_goal", "teacher=sb3", "num_envs=8", "threads=1",
    "teacher.steps_per_iteration=24", "teacher.iterations=6", "teacher.hidden=[16]",
    "teacher.evaluate_every=2", "teacher.evaluate_episodes=8", "teacher.stop_success=1.0",
)  # fmt: skip
OFF_POLICY = (
    "teacher.learning_starts=200", "teacher.gradient_steps=2", "teacher.batch_size=16",
)  # fmt: skip
WAYS = {
    "ppo": ("teacher.algorithm=ppo",),
    "ppo_raw": ("teacher.normalizes=false", "teacher.target_kl=0.01"),
    "sac": ("teacher.algorithm=sac", *OFF_POLICY, "teacher.buffer_size=600"),  # so small that it goes round
    "td3": ("teacher.algorithm=td3", *OFF_POLICY),
}


def learner_of(*words: str) -> Sb3Learner:
    config = compose("teach", [*WORDS, *words])
    torch.manual_seed(config.seed)
    return Sb3Learner(build_env(config, GROUPS, "train"), config.teacher, config.seed, config.device)


def timeless(run: Run) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "memory/"))} for row in run.metrics()]


def tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{path}/{key}").items()}
    return {path: value} if isinstance(value, torch.Tensor) else {}


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> dict[str, Run]:
    """Return a run of each way."""
    root = tmp_path_factory.mktemp("runs")
    for way, words in WAYS.items():
        assert main(["teach", *WORDS, *words, f"runs={root / way}"]) == 0
    return {way: Run.open(next((root / way).glob("*"))) for way in WAYS}


@pytest.mark.parametrize("way", ["ppo", "sac", "td3"])
def test_a_run_that_was_cut_off_ends_as_the_uninterrupted_one(way, taught, tmp_path, monkeypatch, capsys):
    whole, learn = taught[way], Sb3Learner.learn

    def cut(self, iteration):
        if iteration == 3:  # one after a checkpoint
            raise KeyboardInterrupt
        return learn(self, iteration)

    monkeypatch.setattr(Sb3Learner, "learn", cut)
    assert main(["teach", *WORDS, *WAYS[way], f"runs={tmp_path}"]) == 130
    run = Run.open(next(tmp_path.glob("*")))
    assert f"go on with: robokd resume run={run.path}" in capsys.readouterr().err
    assert run.checkpoint_step() == 2
    monkeypatch.setattr(Sb3Learner, "learn", learn)
    np.random.seed(7)  # what stable-baselines3 draws from
    assert main(["resume", f"run={run.path}"]) == 0
    assert timeless(run) == timeless(whole)
    left, right = (tensors(one.load_checkpoint("last")) for one in (whole, run))
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("way", WAYS)
def test_the_teacher_of_a_run_acts_as_stable_baselines3_predicts(way, taught):
    learner, run = learner_of(*WAYS[way]), taught[way]
    learner.restore(run.load_checkpoint("last"))
    env = learner._env
    obs = env.get_observations()
    for name in GROUPS:
        obs[name] = torch.randn(obs[name].shape, generator=torch.Generator().manual_seed(0))
    seen = flat(obs, GROUPS).numpy()
    if way != "ppo_raw":
        seen = learner._statistics.normalize_obs(seen)
    wanted, _ = learner.model.predict(seen, deterministic=True)
    teacher = load_teacher(run, "last", env)
    assert np.abs(teacher.act(obs).numpy() - wanted).max() <= 1e-6
    assert teacher.sha256() == learner.teacher().sha256()
    assert ("value" in teacher.offers) == way.startswith("ppo")
    assert ("log_std" in teacher.offers) == (way != "td3")


def test_a_student_is_distilled_from_a_run_and_both_are_evaluated_on_the_same_episodes(taught, tmp_path):
    teacher = taught["sac"]
    words = ["plugins=[tests.worlds.hidden_goal]", f"runs={tmp_path}", "threads=1", "num_envs=8"]
    assert main([
        "distill", *words, f"parent={teacher.path}", "student=mlp", "cameras=[]", "loss=[action_huber]",
        "dagger.rounds=2", "dagger.steps_per_round=4", "dagger.gradient_steps=2", "dagger.batch_size=16",
        "dagger.evaluate_every=1", "dagger.evaluate_episodes=8",
    ]) == 0  # fmt: skip
    student = next(tmp_path.glob("*_distill_*"))
    assert Run.open(student).lineage["parents"] == [teacher.reference()]
    judged = [f"run={student}", f"baseline={teacher.path}", "episodes=8", "ablations=false"]
    assert main(["evaluate", *words, *judged]) == 0
    paired = json.loads(next(tmp_path.glob("*_evaluate_*/summary.json")).read_text())["paired"]
    assert paired["stage"] == "teach"


def test_the_summary_says_what_that_of_our_own_ppo_says(taught, tmp_path):
    own = [word for word in WORDS if not word.startswith("teacher=")] + ["teacher.critic_groups=[proprio]"]
    assert main(["teach", *own, f"runs={tmp_path}"]) == 0
    ours = Run.open(next(tmp_path.glob("*"))).read_summary()
    for way, run in taught.items():
        found = run.read_summary()
        assert found.keys() == ours.keys()
        assert found["training_env_steps"] == 6 * 24 * 8
        # of the 144 control steps of 8 environments, SAC and TD3 learn after those from the 26th on
        counts = {"ppo": 6 * 5 * 192, "sac": 119 * 2 * 16, "td3": 119 * 2 * 16}
        assert found["grad_samples"] == counts.get(way, found["grad_samples"])
        assert {"reward", "success", "saturation", "learning_rate", "env_steps"} <= run.metrics()[-1].keys()
    assert taught["ppo_raw"].read_summary()["grad_samples"] <= 6 * 5 * 192


def test_ppo_learns_which_door_is_the_right_one():
    more = ("task.start_m=0.7", "teacher.initial_std=1.0", "teacher.learning_rate=0.003")
    learner = learner_of("num_envs=64", *more)
    found = [learner.learn(iteration)[0]["success"] for iteration in range(9)]
    assert found[0] < 0.7
    assert found[-1] > 0.9


def test_the_episodes_of_a_fresh_run_stay_staggered():
    learner = learner_of("teacher.steps_per_iteration=1")
    learner._env.episode_length_buf = torch.arange(8)
    learner.learn(0)
    assert learner._env.episode_length_buf.tolist() == list(range(1, 9))


def test_an_iteration_draws_the_same_numbers_whatever_was_drawn_before():
    found = set()
    for disturbance in (0, 5):
        learner = learner_of("teacher.algorithm=td3", *OFF_POLICY)
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)
        learner.model.action_space.seed(disturbance)
        before = learner.teacher().sha256()
        for iteration in range(2):
            learner.learn(iteration)
        found.add(learner.teacher().sha256())
    assert len(found) == 1
    assert before not in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["teacher.algorithm=a2c"], "teacher.algorithm: no algorithm named 'a2c'"),
        (["teacher.buffer_size=9"], "teacher.buffer_size is of sac and td3, got teacher.algorithm=ppo"),
        (["teacher.algorithm=sac", "teacher.exploration_std=0.3"], "teacher.exploration_std is of td3, got"),
        (["teacher.algorithm=td3", "teacher.clip=0.3"], "teacher.clip is of ppo, got teacher.algorithm=td3"),
        (["teacher.epochs=0"], "teacher.epochs must be >= 1, got 0"),
        (["teacher.discount=1.1"], "teacher.discount must be in (0, 1], got 1.1"),
        (["teacher.learning_rate=0"], "teacher.learning_rate must be > 0, got 0"),
        (["teacher.hidden=[]"], "teacher.hidden must be one layer or more of >= 1 units, got []"),
        (["teacher.groups=[]"], "teacher.groups must name at least one observation group, got none"),
        (["teacher.groups=[proprio,proprio]"], "teacher.groups names 'proprio' twice"),
        (["teacher.groups=[propio]"], "no observation group or camera named 'propio'"),
        (["teacher.path=a.zip"], "teacher.iterations is of training; teacher.path=a.zip is opened as it is"),
        (["teacher.normalizer=n.npz"], "teach trains a teacher and opens none: n.npz is for distill"),
        (["teacher.steps_per_iteration=1", "num_envs=4"], "mini_batches=4 need two rows each, got 1 steps"),
    ],
)  # fmt: skip
def test_a_mistake_in_what_is_trained_is_one_line_before_a_run_is_begun(words, message, tmp_path, capsys):
    assert main(["teach", *WORDS, *words, f"runs={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_zip_and_the_run_that_it_is_saved_from_answer_alike(taught, tmp_path):
    learner = learner_of(*WAYS["ppo_raw"])
    learner.restore(taught["ppo_raw"].load_checkpoint("last"))
    learner.model.save(tmp_path / "ppo.zip")
    env = learner._env
    opened = Sb3Cfg(path=str(tmp_path / "ppo.zip")).open(env)
    assert opened.sha256() == learner.teacher().sha256()


def test_without_stable_baselines3_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "robokd.learn.sb3")
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert main(["teach", *WORDS, f"runs={tmp_path}"]) == 2
    assert "teacher=sb3 needs stable-baselines3" in (error := capsys.readouterr().err)
    assert "pip install 'robokd[train]'" in error
