"""The scripted teacher and the pool: who answers which row, and what a controller without learning can do."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robokd import UserError, registry
from robokd.config import compose, dump, load
from robokd.teachers.base import TeacherOutput
from robokd.teachers.pool import PoolCfg, PoolTeacher, Route
from robokd.teachers.scripted import ScriptedCfg
from tests.unit.teacher_samples import Room, Task, action_spec, onnx_file, rows, rsl_rl_file


class Constant:
    """A teacher of one answer, and of what it offers."""

    inputs = ("proprio",)

    def __init__(self, number, size=2, **offered):
        self.number, self.size, self.offered = number, size, offered
        self.offers = frozenset(offered)

    def label(self, obs):
        extra = {name: torch.full((len(obs), width), self.number) for name, width in self.offered.items()}
        return TeacherOutput(action=self.act(obs), **extra)

    def act(self, obs):
        return torch.full((len(obs), self.size), self.number)

    def reset(self, mask):
        self.was_reset = mask

    def sha256(self):
        return f"{self.number}"


def pool(*teachers, edges=(0.0,), names=("low", "high", "top")):
    members = dict(zip(names, teachers, strict=False))
    return PoolTeacher(members, Route("privileged", 0, edges), rows(2))


def shown(*values):
    obs = rows(len(values))
    obs["privileged"][:, 0] = torch.tensor(values)
    return obs


def test_each_row_is_answered_by_the_member_of_its_range_and_the_upper_one_at_an_edge():
    three = pool(Constant(-0.5), Constant(0.25), Constant(0.75), edges=(-1.0, 2.0))
    said = three.label(shown(-3.0, -1.0, 1.9, 2.0, 9.0, -1.1))
    assert said.action[:, 0].tolist() == [-0.5, 0.25, 0.25, 0.75, 0.75, -0.5]
    assert torch.equal(three.act(shown(-3.0, 2.0)), torch.tensor([[-0.5, -0.5], [0.75, 0.75]]))


def test_a_pool_never_averages(tmp_path):
    rsl_rl_file(tmp_path / "a.pt")
    onnx_file(tmp_path / "b.onnx")
    members = {
        "a": {"part": "rsl_rl", "path": str(tmp_path / "a.pt")},
        "b": {"part": "onnx", "path": str(tmp_path / "b.onnx")},
    }
    routed = PoolCfg(members=members, route="privileged.goal.y", edges=(0.2,)).open(Room())
    obs = rows(64)
    said = routed.label(obs).action
    a, b = (one.label(obs).action for one in routed.members.values())
    is_upper = obs["privileged"][:, 1] >= 0.2
    assert 0 < is_upper.sum() < 64
    assert torch.equal(said[~is_upper], a[~is_upper])
    assert torch.equal(said[is_upper], b[is_upper])


def test_a_pool_offers_what_all_members_do_and_reads_what_any_does():
    both = pool(Constant(0.0, latent=3, features=4), Constant(1.0, latent=3))
    assert both.offers == {"latent"}
    assert both.inputs == ("proprio", "privileged")
    said = both.label(shown(-1.0, 1.0))
    assert said.latent.tolist() == [[0.0] * 3, [1.0] * 3]
    assert said.features is None


def test_a_pool_resets_all_members_and_its_hash_covers_them_and_the_route():
    low, high = Constant(0.0), Constant(1.0)
    two = pool(low, high)
    two.reset(torch.tensor([True, False]))
    assert torch.equal(low.was_reset, high.was_reset)
    others = (pool(high, low), pool(low, high, edges=(0.1,)), pool(low, Constant(2.0)))
    assert len({two.sha256(), *(one.sha256() for one in others)}) == 4


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("names", ("hip", "knee"), r"action.names: wanted \('hip', 'knee'\), got \('shoulder', 'elbow'\)"),
     ("scale", (0.5, 1.0), r"action.scale: wanted \(0.5, 1.0\), got \(1.0, 1.0\)"),
     ("control_dt", 0.2, "action.control_dt: wanted 0.2, got 0.1")],
)  # fmt: skip
def test_files_of_other_actions_are_no_members_of_one_pool(tmp_path, field, value, told):
    rsl_rl_file(tmp_path / "a.pt", own=action_spec())
    rsl_rl_file(tmp_path / "b.pt", own=dataclasses.replace(action_spec(), **{field: value}))
    files = {name: {"part": "rsl_rl", "path": str(tmp_path / f"{name}.pt")} for name in ("a", "b")}
    cfg = PoolCfg(members=files, route="privileged.mass", edges=(0.0,))
    with pytest.raises(UserError, match=rf"teacher.members.b: .*b.pt does not fit this task: {told}"):
        cfg.open(Room())
    alike = PoolCfg(members={"a": files["a"], "b": files["a"]}, route="privileged.mass", edges=(0.0,))
    assert alike.open(Room()).act(rows(3)).shape == (3, 2)


def test_members_whose_answers_have_other_widths_are_refused_with_both():
    with pytest.raises(UserError, match=r"width of action: low has \(2,\), high has \(3,\)"):
        pool(Constant(0.0), Constant(0.0, size=3))
    with pytest.raises(UserError, match=r"width of latent: low has \(3,\), high has \(4,\)"):
        pool(Constant(0.0, latent=3), Constant(0.0, latent=4))


def test_a_pool_needs_as_many_edges_as_there_are_borders_and_a_member():
    with pytest.raises(UserError, match=r"edges has 2 numbers, wanted 1 for 2 members \(low, high\)"):
        pool(Constant(0.0), Constant(1.0), edges=(0.0, 1.0))
    with pytest.raises(UserError, match="at least one member"):
        pool()
    for edges in ((1.0, 1.0), (float("nan"),)):
        with pytest.raises(ValueError, match=r"teacher\.edges must be finite and ascend, got \["):
            PoolCfg(edges=edges)
    assert pool(Constant(0.5), edges=()).act(shown(0.0, 1.0)).tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (
            "friction",
            "is a parameter of the task, which no teacher is shown; name a number of a group. Known: pro",
        ),
        (
            "privileged.goal",
            "no observed number named 'privileged.goal'. Did you mean 'privileged.goal.[xy]'",
        ),
        ("privileged.mass.m", "no observed number named 'privileged.mass.m'. Did you mean 'privileged.mass'"),
        ("", "no observed number named ''"),
    ],
)
def test_a_route_that_is_not_observed_is_refused_with_those_that_are(route, told):
    with pytest.raises(UserError, match=told):
        PoolCfg(members={"a": {"part": "scripted"}}, route=route).open(Room())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("x.pt", "members.a must be {part:<teacher>,…}, got 'x.pt'"),
        ({"path": "x.pt"}, "members.a must be {part:<teacher>,…}"),
        ({"part": "scriptd"}, "no teacher named 'scriptd'. Did you mean 'scripted'"),
        ({"part": "ppo"}, "members.a: teacher=ppo opens no file; .*step_….pt, opens as part:rsl_rl"),
        ({"part": "onnx", "pth": "x"}, "members.a: no key named 'pth'. Did you mean 'path'"),
        ({"part": "onnx", "threads": 0}, "members.a: teacher.threads must be >= 1, got 0"),
        ({"part": "onnx", "threads": "many"}, "members.a.threads: expected .*int.*, got 'many'"),
        ({"part": "onnx", "groups": [1]}, r"members.a.groups: expected tuple\[str, ...\], got \(1,\)"),
    ],
)
def test_a_member_that_is_misspelt_is_refused_by_name(fields, told):
    with pytest.raises(UserError, match=told) as caught:
        PoolCfg(members={"a": fields}, route="privileged.mass").open(Room())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["teacher=pool", "teacher.members={a:{part:rsl_rl,path:a/b.pt,groups:[proprio]},b:{part:scripted}}",
         "teacher.route=privileged.goal_position.x", "teacher.edges=[0.5]"],
        ["teacher=onnx", "teacher.path=a.onnx", "teacher.inputs={obs:proprio,goal:privileged}"],
    ],
)  # fmt: skip
def test_teachers_of_several_files_can_be_typed_saved_and_read_back(words):
    pytest.importorskip("mujoco")
    made = compose("distill", ["task=reach", *words])
    assert type(made.teacher) is registry.find("teacher", words[0].partition("=")[2])
    assert load("distill", dump(made)) == made


# scripted


def test_a_task_s_script_is_clipped_and_its_hash_covers_its_constants():
    room = Room()
    teacher = ScriptedCfg().open(room)
    obs = rows(16, 3.0)
    assert torch.equal(teacher.act(obs), room.task.script(obs).clip(-1, 1))
    assert teacher.sha256() != ScriptedCfg().open(Room(task=Task(gain=0.4))).sha256()


def test_a_task_without_a_script_is_refused_with_those_that_have_one():
    bare = type("Bare", (), {"parameters": lambda self: {}})()
    with pytest.raises(UserError, match=r"the task Bare has no script\. Tasks that have one: .*reach"):
        ScriptedCfg().open(Room(task=bare))


def test_a_script_of_another_width_is_refused_with_both():
    with pytest.raises(UserError, match=r"the script of Task gives \(2, 2\) for 2 rows, wanted \(2, 3\)"):
        ScriptedCfg().open(Room(num_actions=3))


def test_reach_s_script_reaches(make_env):
    from robokd.learn.rollout import rollout

    env = make_env(256, ("proprio", "privileged"), stream="validation", sees=False)
    outcomes = rollout(env, ScriptedCfg().open(env), 256)
    assert outcomes.success.mean() >= 0.95


def test_reach_s_jacobian_is_the_derivative_of_where_the_tip_is(make_env):
    env = make_env(6, ("proprio",), sees=False, start_rad=0.7)
    sim, tip = env.sim, env.sim.model.site("tip").id

    def tip_at(angles):
        state = sim.get("qpos").clone()
        state[:, :7] = angles
        sim.set("qpos", state)
        sim.forward()
        return sim.get("site_xpos")[:, tip].clone()

    angles = sim.get("qpos")[:, :7].clone()
    ours, small = env.task._tip_jacobian(angles), 1e-6
    for i in range(7):
        step = small * torch.eye(7, dtype=torch.float64)[i]
        difference = (tip_at(angles + step) - tip_at(angles - step)) / (2 * small)
        assert torch.allclose(ours[:, :, i], difference, atol=1e-7)


def test_reach_s_script_answers_in_another_environment_than_it_was_opened_for(make_env):
    first = ScriptedCfg().open(make_env(2, ("proprio", "privileged"), sees=False))
    env = make_env(5, ("proprio", "privileged"), sees=False, seed=3)
    obs = env.get_observations()
    assert torch.equal(first.act(obs), ScriptedCfg().open(env).act(obs))
