"""RMA: a teacher that reads what only the simulator knows as a code, and a student that guesses the code."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from robokd import UserError
from robokd.cli import main
from robokd.config import compose, dump, load
from robokd.learn.dagger import Dagger
from robokd.learn.instructor import cast, training_env, validation
from robokd.run import Run
from robokd.teachers.ppo import PpoCfg, PpoTeacher

pytest.importorskip("mujoco")

PLUGIN = "plugins=[tests.worlds.hidden_wind]"
GROUPS = ("teacher.actor_groups=[proprio,wind]", "teacher.critic_groups=[proprio,wind]")
CODED = ("teacher.latent=2", "teacher.latent_groups=[wind]", "teacher.latent_hidden=[16]")
TEACH = (
    "teach", PLUGIN, "task=hidden_wind", *GROUPS, "teacher.hidden=[32,32]", "teacher.critic_hidden=[32]",
    "num_envs=64", "threads=1", "teacher.initial_std=0.2", "teacher.imitate=6", "teacher.iterations=6",
    "teacher.evaluate_every=3", "teacher.evaluate_episodes=64", "teacher.stop_success=1",
)  # fmt: skip
DISTILL = (
    PLUGIN, "cameras=[]", "num_envs=64", "threads=1", "dagger.rounds=16", "dagger.steps_per_round=12",
    "dagger.gradient_steps=60", "dagger.acting.share=0", "dagger.evaluate_every=16", "student.hidden=[32]",
    "dagger.stop_retention=2",
)  # fmt: skip
RMA = (
    "student=history", "student.steps=8", "student.filters=16", "student.estimate_hidden=[32]",
    "dagger.sequence=4", "student.narrow=true", "loss=[latent,action_huber]",
)  # fmt: skip


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> str:
    """Return the run of a teacher with a code of the wind."""
    root = tmp_path_factory.mktemp("taught")
    assert main([*TEACH, *CODED, f"runs={root}"]) == 0
    (run,) = root.iterdir()
    return str(run)


def engine_of(taught: str, folder: Path, *words: str) -> tuple[Dagger, partial]:
    """Return what distils the teacher, as `distill` makes it, and what says how its student does."""
    inherited = dump(load("teach", Run.open(taught).config))
    config = compose("distill", [*DISTILL, f"parent={taught}", *words], inherited)
    env = training_env(config)
    torch.manual_seed(0)
    student, teacher = cast(config, env)
    engine = Dagger(config, env, student, teacher)
    engine.run = Run.create(folder, task="hidden_wind", stage="distill", config=dump(config), seed=0)
    return engine, validation(config, student)


def success(taught: str, folder: Path, *words: str, is_shuffled: bool = False) -> float:
    """Return the success of a student on the validation episodes; shuffled: told other worlds' codes."""
    engine, validate = engine_of(taught, folder, *words)
    label = engine.teacher.label
    if is_shuffled:

        def told(obs: TensorDict):
            said = label(obs)
            said.latent = said.latent[torch.randperm(len(said.latent))]
            return said

        engine.teacher.label = told
    engine.train(validate, 1.0)
    return validate().success.mean().item()


# the chain


def test_a_student_that_guesses_the_code_follows_its_teacher_and_with_a_shuffled_code_it_does_not(
    taught, tmp_path
):
    assert Run.open(taught).read_summary()["validation_success"] == 1.0
    assert success(taught, tmp_path, *RMA) > 0.9
    assert success(taught, tmp_path, *RMA, is_shuffled=True) < 0.6
    assert success(taught, tmp_path, "student=mlp", "loss=[action_huber]") < 0.6  # who guesses nothing


def test_the_teacher_acts_on_the_wind_through_its_code_alone(taught):
    run = Run.open(taught)
    settings = load("teach", run.config).teacher
    obs = TensorDict(
        {"proprio": 0.1 * torch.randn(6, 2), "wind": torch.tensor([[1.0], [-1.0]] * 3)}, batch_size=[6]
    )
    teacher = settings.build(obs, 2, run.load_checkpoint("best"))
    assert teacher.offers == {"log_std", "features", "latent"}
    said = teacher.label(obs)
    assert torch.equal(said.action, teacher.act(obs))
    assert said.latent.shape == (6, 2)
    assert said.latent.abs().max() <= 1
    # nothing but the wind changes it, and the action follows it
    assert torch.equal(said.latent[0], said.latent[2])
    assert (said.latent[0] - said.latent[1]).abs().max() > 0.5
    assert (said.action[::2, 0] * said.action[1::2, 0] < 0).all()
    torch.nn.init.zeros_(teacher.actor.encoder[-1].weight)
    again = teacher.label(obs.clone().update({"wind": -obs["wind"]}))
    assert torch.equal(again.action, teacher.act(obs))


# the actor


def rows(count: int = 5) -> TensorDict:
    torch.manual_seed(3)
    return TensorDict({"a": torch.randn(count, 3), "b": 4 + torch.randn(count, 2)}, batch_size=[count])


def actor_of(**fields):
    torch.manual_seed(0)
    groups = ("b", "a") if fields.get("latent") else ("a", "b")
    settings = PpoCfg(actor_groups=groups, critic_groups=("a",), hidden=(8,), critic_hidden=(4,), **fields)
    return settings.algorithm(rows(), 2, "cpu").actor


def test_a_code_is_the_tanh_of_an_encoder_of_normalised_groups_beside_the_others():
    actor = actor_of(latent=2, latent_groups=("b",), latent_hidden=(7,))
    obs = rows()
    actor.update_normalization(obs)
    both = actor.obs_normalizer(torch.cat((obs["a"], obs["b"]), -1))
    code = actor.encoder(both[:, 3:]).tanh()
    assert actor.mlp[0].in_features == 3 + 2
    assert torch.allclose(actor(obs), actor.mlp(torch.cat((both[:, :3], code), -1)))
    assert torch.equal(PpoTeacher(actor, ("b", "a")).label(obs).latent, code)


def test_the_algorithm_s_optimiser_has_the_encoder():
    algorithm = PpoCfg(
        actor_groups=("a", "b"), critic_groups=("a",), latent=2, latent_groups=("b",)
    ).algorithm(rows(), 2, "cpu")  # fmt: skip
    held = {id(value) for group in algorithm.optimizer.param_groups for value in group["params"]}
    assert {id(value) for value in algorithm.actor.encoder.parameters()} <= held
    assert any(name.startswith("encoder.") for name in algorithm.save()["actor_state_dict"])


def test_without_a_code_the_actor_is_rsl_rl_s_own_and_its_hash_the_old_one():
    from rsl_rl.models import MLPModel

    from robokd.teachers.weights import sha256

    actor = actor_of()
    teacher = PpoTeacher(actor, ("a", "b"))
    assert type(actor) is MLPModel
    assert teacher.offers == {"log_std", "features"}
    assert teacher.label(rows()).latent is None
    assert teacher.sha256() == sha256(actor.state_dict(), ["a", "b", "Linear", "ELU", "Linear"])


def test_the_hash_follows_the_encoder_and_which_groups_it_reads():
    hashes = set()
    for groups in (("b",), ("a",)):
        obs = TensorDict({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}, batch_size=[1])
        torch.manual_seed(0)
        cfg = PpoCfg(actor_groups=("a", "b"), critic_groups=("a",), latent=2, latent_groups=groups)
        actor = cfg.algorithm(obs, 1, "cpu").actor
        for _ in range(2):
            hashes.add(PpoTeacher(actor, ("a", "b")).sha256())
            torch.nn.init.ones_(actor.encoder[0].weight)
    assert len(hashes) == 4


# mistakes


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["teacher.latent=-1"], "teacher.latent must be >= 0, got -1"),
        ([*CODED, "teacher.latent_groups=[]"], "teacher.latent_groups must name at least one"),
        ([*CODED, "teacher.latent_groups=[physics]"], "teacher.latent_groups names 'physics'; teacher.actor"),
        ([*CODED, "teacher.latent_hidden=[0]"], "teacher.latent_hidden must be one layer or more of >= 1"),
    ],
)
def test_a_code_that_cannot_be_is_refused(words, wanted, tmp_path, capsys):
    assert main([*TEACH, *words, f"runs={tmp_path}"]) == 2
    assert wanted in _only_line(capsys)


def test_a_guess_needs_a_teacher_with_a_code(tmp_path, capsys):
    words = [
        "distill",
        PLUGIN,
        "task=hidden_wind",
        "teacher=scripted",
        "cameras=[]",
        "loss=[latent,action_mse]",
    ]
    assert main([*words, f"runs={tmp_path}"]) == 2
    assert "loss=latent needs latent of the teacher, which offers its action alone" in _only_line(capsys)


def test_a_narrow_student_must_guess_something(taught, tmp_path, capsys):
    words = ["student=history", "student.narrow=true", "loss=[action_huber]", f"runs={tmp_path}"]
    assert main(["distill", *DISTILL, f"parent={taught}", *words]) == 2
    assert "student.narrow acts on guesses, and no loss asks for one" in _only_line(capsys)


def test_a_residual_has_no_code():
    with pytest.raises(UserError, match=r"teacher\.latent=2: a residual acts on what a robot has"):
        compose(
            "refine",
            ["parent=p", "teacher.latent=2", "teacher.latent_groups=[features]"],
            dump(compose("teach", ["task=reach"])),
        )


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["distill.loss=[latent,action_huber]"], "needs a teacher with a latent: say teach.teacher.latent=8"),
        (["distill.teacher=scripted"], "a pipeline distils its own teacher: distill.teacher=scripted is for"),
    ],
)
def test_a_pipeline_says_before_it_teaches_that_nobody_will_tell_the_code(words, wanted, tmp_path, capsys):
    assert main(["pipeline", "task=reach", *words, f"runs={tmp_path}"]) == 2
    assert wanted in _only_line(capsys)


def _only_line(capsys) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    return said
