"""mjlab's worlds on CPU: `make test-mjlab`, in an environment of its own."""

import json

import pytest
import torch

from robokd import UserError
from robokd.cli import main
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.registry import load_plugins
from robokd.vision.sensor import Corruption

pytest.importorskip("mjlab")

PLUGIN, TASK = "tests.lab.cart_seen", "Robokd-Cart-Seen"
EVERYWHERE = torch.arange(3)


def make(num_envs, groups, **fields):
    from robokd.tasks.mjlab import MjlabCfg

    load_plugins([PLUGIN])
    setup = Setup(num_envs=num_envs, groups=groups, draws=Draws(0, "test"))
    return MjlabCfg(**fields).build(sim=None, renderer=None, corrupt=Corruption(), setup=setup)


@pytest.fixture(scope="module")
def cart():
    env = make(3, ("actor", "critic", "eye", "eye_rgb"), env_id=TASK, near_m=0.3, far_m=1.3)
    yield env
    env.close()


def test_groups_have_roles_and_terms(cart):
    assert {name: spec.role for name, spec in cart.obs_specs.items()} == {
        "actor": "proprio", "critic": "privileged"
    }  # fmt: skip
    terms = {term.name: term.size for term in cart.obs_specs["actor"].terms}
    assert terms == {"cart_pos": 1, "pole_angle": 2, "cart_vel": 1, "pole_vel": 1}
    assert cart.action_spec.control_dt == pytest.approx(0.05)
    assert cart.max_episode_length == 20


def test_depth_is_planar_and_what_is_far_is_a_miss(cart):
    obs = cart.reset(EVERYWHERE)
    camera = cart.camera_specs["eye"]
    assert obs["eye_rgb"].shape == (3, 3, 32, 32)
    metres = camera.near_m + (obs["eye"][:, 0].float() - 1) * camera.step_m
    face = metres[:, 13:19, 10:22]  # of the cart, whatever its place: it starts within 0.1 m
    # along the ray its edge would be at 0.5 m / cos(14 degrees) = 0.515 m
    assert (face - 0.5).abs().max() <= camera.step_m
    assert (obs["eye"][:, 0, 0, 0] == 0).all()  # above the rails there is nothing


def test_episodes_out_of_time_leave_their_last_numbers(cart):
    cart.reset(EVERYWHERE)
    for _ in range(cart.max_episode_length):
        _, _, done, extras = cart.step(torch.full((3, 1), 0.3))
    assert done.all()
    assert extras["time_outs"].all()
    assert extras["success"].all()  # it lasted its time
    assert (extras["terminal"]["critic"][:, 0].abs() > 0.1).all()  # pushed for a second
    assert (cart.get_observations()["critic"][:, 0].abs() <= 0.1 + 1e-5).all()


def test_episodes_of_the_same_numbers_begin_alike(cart):
    first, again, other = (
        cart.reset(numbers)["critic"] for numbers in (EVERYWHERE, EVERYWHERE, EVERYWHERE + 3)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"env_id": "Mjlab-Cartpole-Balanc"},
            r"no task of mjlab named .* Did you mean 'Mjlab-Cartpole-Balance'",
        ),
        ({"env_id": TASK, "proprio": ("policy",)}, r"no observation group 'policy' .*: it has actor, critic"),
        ({"env_id": TASK, "success_term": "won"}, r"no termination term 'won' .*: it has time_out"),
        (
            {"env_id": "Mjlab-Tracking-Flat-Unitree-G1"},
            r"wants a file that is not there .*: register a task of your own whose config names it",
        ),
        ({}, r"needs task.env_id=…"),
    ],
    ids=["unknown", "group", "success", "motion", "none"],
)
def test_a_task_that_cannot_be_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        make(1, (), **fields)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_chain_runs_from_teacher_to_evaluation(tmp_path):
    task = [f"task.env_id={TASK}", "task.near_m=0.3", "task.far_m=1.3"]
    shared = [f"plugins=[{PLUGIN}]", "threads=1", f"runs={tmp_path}"]
    tiny = [
        "num_envs=4", "teacher.iterations=1", "teacher.steps_per_iteration=8", "teacher.evaluate_every=1",
        "teacher.evaluate_episodes=4", "teacher.hidden=[16]", "teacher.critic_hidden=[16]",
        "teacher.actor_groups=[critic]", "teacher.critic_groups=[critic]",
    ]  # fmt: skip
    assert main(["teach", "task=mjlab", *task, *shared, *tiny]) == 0
    teacher = next(tmp_path.glob("*_teach_*"))
    tiny = [
        "num_envs=4", "cameras=[eye]", "groups=[actor]", "loss=[action_huber]", "dagger.rounds=1",
        "dagger.steps_per_round=4", "dagger.gradient_steps=2", "dagger.batch_size=8",
        "dagger.evaluate_every=1", "dagger.evaluate_episodes=4", "student.channels=[4,4]",
        "student.keypoints=4",
    ]  # fmt: skip
    assert main(["distill", f"parent={teacher}", *shared, *tiny]) == 0
    student = next(tmp_path.glob("*_distill_*"))
    words = ["num_envs=4", "episodes=4", "spaces=[seen]", "ablations=false"]
    assert main(["evaluate", f"run={student}", *shared, *words]) == 0
    found = json.loads(next(tmp_path.glob("*_evaluate_*/summary.json")).read_text())
    assert found["episodes"] == 4
