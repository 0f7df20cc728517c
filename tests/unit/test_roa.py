"""ROA: a twin that is told a code, a student that guesses it, and each held to the other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_reinforcement import is_same, weights

from robokd.cli import main
from robokd.config import compose, dump
from robokd.learn.dagger import Dagger
from robokd.learn.dataset import FRESH, said
from robokd.learn.instructor import cast, training_env, validation
from robokd.run import Run
from robokd.students.base import StudentPolicy

pytest.importorskip("mujoco")

WIND = ("plugins=[tests.worlds.hidden_wind]", "task=hidden_wind", "cameras=[]", "threads=1")
ROA = (
    "teacher=twin", "teacher.groups=[wind]", "teacher.latent=4", "loss=[ppo,latent]", "student=history",
    "student.steps=8", "student.filters=8", "student.hidden=[32]", "student.estimate_hidden=[32]",
    "student.narrow=true", "student.gaussian=true", "dagger.sequence=4",
)  # fmt: skip
TINY = (*WIND, *ROA, "num_envs=8", "dagger.steps_per_round=8", "rl.critic_hidden=[8]")
TOLD = "shown.wind"


def make_engine(folder: Path, *words: str) -> Dagger:
    """Return an engine as `distill` makes it."""
    config = compose("distill", [*TINY, *words])
    env = training_env(config)
    torch.manual_seed(0)
    student, teacher = cast(config, env)
    engine = Dagger(config, env, student, teacher)
    engine.run = Run.create(folder, task="hidden_wind", stage="distill", config=dump(config), seed=0)
    return engine


def _gradients(engine: Dagger, losses: dict[str, float]) -> dict[str, bool]:
    """Return which weights learn from a round, losses weighed as told."""
    engine._collect(0.5)
    rows = engine._round
    with torch.no_grad():
        rows.update(engine.lesson.before(rows))
    engine.student.zero_grad()
    engine.lesson(rows, torch.ones_like(rows[FRESH]), losses)[0].backward()
    return {name: value.grad is not None and bool(value.grad.any()) for name, value in _named(engine)}


def _named(engine: Dagger):
    return engine.student.named_parameters()


# who is told, and who guesses


def test_the_twin_acts_on_the_code_of_what_it_is_shown_and_the_student_on_its_guess(tmp_path):
    engine = make_engine(tmp_path)
    student = engine.student
    engine._collect(0.0)
    rows = engine._round
    own, twin = said(student, rows), said(student, rows, student.shown)
    code = student.hint({TOLD: rows[TOLD].flatten(0, 1)}).view_as(twin.latent)
    assert torch.allclose(twin.latent, code)
    assert not torch.allclose(own.latent, code, atol=1e-3)
    # they share all but the code: a guess that is the code makes them one
    student._guess = lambda evidence, obs: ({}, code.flatten(0, 1), [code.flatten(0, 1)])
    assert torch.allclose(said(student, rows).action, twin.action, atol=1e-6)


def test_the_student_is_not_told(tmp_path):
    engine = make_engine(tmp_path)
    obs = engine.env.get_observations()
    alone = StudentPolicy(engine.student, 8).say(obs.select("proprio"))
    among = StudentPolicy(engine.student, 8).say(obs)
    assert torch.equal(alone.action, among.action)
    torch.nn.init.normal_(engine.student.hint.net[-1].weight, std=9.0)
    assert torch.equal(StudentPolicy(engine.student, 8).say(obs).action, alone.action)


# 6: gradients on the right side


@pytest.mark.parametrize(("weight", "guesses", "encodes"), [(0.0, True, False), (1.0, False, True)])
def test_6_each_half_of_the_latent_loss_moves_its_own_code_alone(tmp_path, weight, guesses, encodes):
    engine = make_engine(tmp_path, f"teacher.weight={weight}")
    learns = _gradients(engine, {"ppo": 0.0, "latent": 1.0})
    assert learns["adapter.0.weight"] == guesses
    assert learns["hint.net.0.weight"] == encodes
    assert not learns["head.weight"]


@pytest.mark.parametrize(("weight", "encodes"), [(0.0, False), (1.0, True)])
def test_6_reward_teaches_the_twin_its_code_and_never_the_student_its_guess(tmp_path, weight, encodes):
    engine = make_engine(tmp_path, f"teacher.weight={weight}")
    learns = _gradients(engine, {"ppo": 1.0, "latent": 0.0})
    assert not learns["adapter.0.weight"]
    assert learns["hint.net.0.weight"] == encodes
    assert learns["head.weight"]


def test_follow_weighs_what_holds_the_twin_to_the_student_and_not_its_reward(tmp_path):
    engine = make_engine(tmp_path, "teacher.weight=1")
    engine._collect(0.5)
    rows, valid = engine._round, torch.ones_like(engine._round[FRESH])
    with torch.no_grad():
        rows.update(engine.lesson.before(rows))
        found = {}
        for engine.lesson.follow in (0.0, 1.0, 3.0):
            loss, terms, _ = engine.lesson(rows, valid, {"ppo": 1.0, "latent": 2.0})
            found[engine.lesson.follow] = loss.item()
    assert found[0.0] == pytest.approx(terms["twin_ppo"].item(), abs=1e-6)
    for follow in (1.0, 3.0):
        wanted = terms["twin_ppo"] + follow * 2 * terms["twin_latent"]
        assert found[follow] == pytest.approx(wanted.item(), abs=1e-6)


def test_follow_goes_by_its_schedule(tmp_path):
    engine = make_engine(
        tmp_path, "teacher.follow.begin=0", "teacher.follow.end=0.4", "dagger.rounds=3",
        "dagger.evaluate_every=9", "dagger.evaluate_episodes=8",
    )  # fmt: skip
    seen, learn = [], engine._learn
    engine._learn = lambda number, rate: seen.append(engine.lesson.follow) or learn(number, rate)
    before = weights(engine.student)
    engine.train(validation(engine.config, engine.student), 1.0)
    assert seen == pytest.approx([0.0, 0.2, 0.4])
    assert not is_same(before, weights(engine.student))


# what it leaves


def test_a_student_of_roa_is_evaluated_and_goes_on_without_its_twin(tmp_path, capsys):
    words = ["dagger.rounds=1", "dagger.evaluate_episodes=8", f"runs={tmp_path / 'roa'}"]
    assert main(["distill", *TINY, *words]) == 0
    (run,) = (tmp_path / "roa").iterdir()
    assert (
        main(["evaluate", f"run={run}", WIND[0], "episodes=8", "num_envs=8", f"runs={tmp_path / 'e'}"]) == 0
    )
    assert Run.open(next((tmp_path / "e").iterdir())).read_summary()["episodes"] == 8


@pytest.mark.slow
def test_a_student_learns_from_reward_to_guess_the_code_and_acts_on_its_guess(tmp_path):
    engine = make_engine(
        tmp_path, "task.wrong_cost=8", "task.success_reward=8", "teacher.latent=8", "num_envs=128",
        "student.initial_std=1", "student.filters=16", "dagger.acting.share=0.8", "teacher.weight=0.9",
        "teacher.follow.begin=0", "teacher.follow.end=0.1", "dagger.rounds=20", "dagger.steps_per_round=24",
        "dagger.evaluate_every=20", "dagger.stop_retention=2", "rl.epochs=10", "rl.mini_batches=8",
        "rl.critic_hidden=[256,128]", "rl.critic_warmup=2",
    )  # fmt: skip
    validate = validation(engine.config, engine.student)
    engine.train(validate, 1.0)
    assert validate().success.mean() > 0.9
    adapter = engine.student.adapter
    adapter.register_forward_hook(lambda module, told, guess: guess[torch.randperm(len(guess))])
    assert validate().success.mean() < 0.7  # with others' guesses


# mistakes


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["teacher.latent=-1"], "teacher.latent must be >= 0, got -1"),
        (["loss=[ppo]"], "teacher.latent=4, and nothing teaches the student to guess it: say loss=[ppo,lat"),
        (["teacher.latent=0"], "loss=latent needs latent of the teacher, which offers log_std"),
        (["teacher.follow=-1"], "teacher.follow must stay >= 0, got -1 to -1"),
    ],
)
def test_what_cannot_be_is_refused(words, wanted, tmp_path, capsys):
    assert main(["distill", *TINY, "student.narrow=false", *words, f"runs={tmp_path}"]) == 2
    printed = capsys.readouterr().err
    assert wanted in printed
    assert printed.count("\n") == 1
