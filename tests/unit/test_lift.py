"""The lift task: what rests, what is grasped, what is held out, where episodes begin, what is paid."""

import math

import pytest
import torch

pytest.importorskip("mujoco")

from robokd.tasks.bodies import panda
from robokd.tasks.lift import LiftCfg
from robokd.tasks.parts import lift_starts, objects
from robokd.tasks.parts.grasp import grasp

from robokd.curricula.uniform import UniformCfg
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.learn.teach import rejected_spawns
from robokd.sim.mujoco import MujocoCfg
from robokd.teachers.scripted import ScriptedTeacher
from robokd.vision.sensor import Corruption
from tests.host_sync import no_host_sync

GROUPS = ("proprio", "privileged", "physics")
STILL = torch.zeros(8)


def make(num_envs=8, *, space="seen", reference_share=0.0, **fields):
    curriculum = UniformCfg(reference_share=reference_share)
    setup = Setup(
        num_envs=num_envs, groups=GROUPS, draws=Draws(0, "validation"), space=space, curriculum=curriculum
    )  # fmt: skip
    return LiftCfg(**fields).build(sim=MujocoCfg(), renderer=None, corrupt=Corruption(), setup=setup)


def height(env):
    return grasp(env.state).object[:, 2]


def success_of_the_script(env):
    """Share of first episodes in which the scripted controller succeeds."""
    script = ScriptedTeacher(env.task, env.task.script_groups)
    obs, is_over, won = env.get_observations(), torch.zeros(env.num_envs, dtype=torch.bool), 0
    for _ in range(env.max_episode_length):
        obs, _, done, extras = env.step(script.act(obs))
        won += int((extras["success"] & ~is_over).sum())
        is_over |= done.bool()
    return won / env.num_envs


@pytest.mark.parametrize("shape", objects.SHAPES)
def test_an_object_rests_on_its_own_underside(shape):
    env = make(shapes=(shape,))
    for _ in range(20):
        env.step(STILL.expand(8, 8))
    half = env.state.episode["half"]
    assert len(half.unique(dim=0)) == 8
    torch.testing.assert_close(height(env), half[:, 2], atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", objects.SHAPES)
def test_a_shape_fills_its_half_sizes_and_hides_what_it_does_not_use(shape):
    number = torch.tensor([objects.SHAPES.index(shape)])
    half = objects.extents(number, torch.tensor([[0.04, 0.02, 0.03]]))
    size, at = objects.geoms(number, half)
    used = size[0].amax(1) > objects.GRAIN_M
    # half heights: box z, cylinder half length, sphere radius, capsule (lying) radius
    tall = torch.stack((size[0, 0, 2], size[0, 1, 1], size[0, 2, 0], size[0, 3, 0]))
    assert used.sum() == (2 if shape == "compound" else 1)
    assert (at[0, :, 2] + tall)[used].max() == pytest.approx(float(half[0, 2]))
    assert (at[0, :, 2] - tall)[used].min() == pytest.approx(-float(half[0, 2]))


def test_the_outer_tenths_of_the_shape_are_the_held_out_ones():
    numbers = torch.tensor([0.0, 0.04, 0.06, 0.0999, 0.1, 0.36, 0.37, 0.64, 0.9, 0.901, 0.94, 0.96, 1.0])
    got = objects.shape_of(numbers.double(), ("box", "cylinder", "sphere"), ("capsule", "compound"))
    names = [objects.SHAPES[place] for place in got.tolist()]
    # the inner 0.8 in thirds: to 0.3667 and to 0.6333
    assert names == ["capsule"] * 4 + ["box"] * 2 + ["cylinder"] + ["sphere"] * 2 + ["compound"] * 4


@pytest.mark.parametrize(("space", "wanted"), [("seen", {0, 1, 2}), ("unseen_all", {3, 4})])
def test_training_never_sees_a_held_out_shape(space, wanted):
    shapes = make(64, space=space).state.episode["shape"].argmax(1)
    assert set(shapes.tolist()) == wanted


@pytest.mark.parametrize("space", ["seen", "unseen_all"])
def test_the_scripted_hand_lifts_nine_of_ten_objects(space):
    assert success_of_the_script(make(48, space=space)) > 0.9


def test_a_grasp_holds_its_object_for_as_long_as_an_episode_lasts():
    env = make(24, reference_share=1.0, height_m=(0.12, 0.12), tolerance_m=1e-6)
    seen = grasp(env.state)
    is_held = env.state.command[:, 7] < lift_starts.OPEN_M
    before = (seen.object - seen.tip).clone()
    action = STILL.clone()
    action[7] = -1.0
    for _ in range(100):
        env.step(action.expand(24, 8))
    after = grasp(env.state)
    assert 6 <= is_held.sum() <= 18
    assert after.is_grasped[is_held].all()
    assert (after.object - after.tip - before)[is_held].abs().max() < 0.005


def test_a_hand_that_presses_open_on_table_and_object_has_grasped_nothing():
    env = make(16, reference_share=1.0)
    state = env.state
    down = grasp(state).object.clone()
    down[:, 2] = -0.01
    command = torch.cat((panda.reach_down(down, torch.zeros(16)), torch.full((16, 1), lift_starts.OPEN_M)), 1)
    state.command = command
    qpos = env.sim.get("qpos").clone()
    qpos[:, :7], qpos[:, 7:9] = panda.reach_down(down + torch.tensor([0, 0, 0.05]), torch.zeros(16)), 0.04
    env.sim.set("qpos", qpos)
    for _ in range(25):
        env.sim.step(env.task.control(command, state), env.substeps)
        assert not grasp(state).is_grasped.any()
    assert grasp(state).tip[:, 2].min() < 0.02


def test_a_share_of_the_episodes_begins_at_the_object():
    away = {
        share: torch.linalg.vector_norm(grasp(make(256, reference_share=share).state).way, dim=1)
        for share in (0.0, 0.5, 1.0)
    }
    assert away[0.0].min() > 0.2
    assert away[1.0].max() < 0.13
    assert 0.4 < (away[0.5] < 0.13).float().mean() < 0.6


def test_an_object_that_would_begin_in_the_hand_is_put_to_its_mirror_place():
    env = make(3)
    state = env.state
    place = torch.tensor([[0.3, 0.5, 0.0], [0.0, 0.45, 0.2], [0.3, 0.5, 0.0]], dtype=torch.float64)
    tip = torch.tensor([[0.5 * math.cos(0.3), 0.5 * math.sin(0.3), 0.05], [0.45, 0.0, 0.05], [0.5, 0.0, 0.5]])
    angles = panda.reach_down(tip.double(), torch.zeros(3))
    half, everywhere = torch.full((3, 3), 0.02), torch.ones(3, dtype=torch.bool)
    start, rejected = lift_starts.ready(angles, place, half, (0.4, 0.6), state, everywhere)
    # world 0: to the other side; world 1 has none, so 0.45 of [0.4, 0.6] becomes 0.55; world 2 is as drawn
    assert rejected.tolist()[::2] == [1, 0]
    wanted = [0.5 * math.cos(0.3), -0.5 * math.sin(0.3), 0.02]
    assert start.position[0].tolist() == pytest.approx(wanted)
    assert start.position[2].tolist() == pytest.approx([wanted[0], -wanted[1], 0.02])


def test_rejected_spawns_are_counted_for_the_summary():
    env = make()
    assert rejected_spawns(env) == 0
    env.state.episode["rejected"] += 2
    assert rejected_spawns(env) == 2 * env.num_envs
    del env.state.episode["rejected"]  # as of a task that rejects none
    assert rejected_spawns(env) == 0


def test_no_stage_is_paid_for_waiting():
    env = make(16, reference_share=1.0)
    for _ in range(10):
        env.step(torch.rand(16, 8) * 2 - 1)
        terms = env.task.reward(env.state)
        success = terms.pop("success")
        assert (torch.stack(list(terms.values())) <= 1e-6).all()
        assert torch.equal(success > 0, env.task.success(env.state))


@pytest.mark.parametrize(
    ("shape", "moved", "turned", "is_lost"),
    [
        ("box", 0.0, 0.0, False), ("box", 0.0, 1.2, True), ("cylinder", 0.0, 1.2, True),
        ("sphere", 0.0, 1.2, False), ("capsule", 0.0, 1.2, False), ("sphere", 0.4, 0.0, True),
    ],
)  # fmt: skip
def test_an_object_that_was_knocked_over_or_away_ends_the_episode_at_a_price(shape, moved, turned, is_lost):
    env = make(shapes=(shape,))
    before = sum(env.task.reward(env.state).values())
    qpos = env.state.sim.get("qpos").clone()
    qpos[:, 9] += moved
    qpos[:, 12:16] = torch.tensor([math.cos(turned / 2), math.sin(turned / 2), 0.0, 0.0])
    env.state.sim.set("qpos", qpos, torch.ones(8, dtype=torch.bool))
    env.state.sim.forward()
    assert env.task.terminated(env.state).tolist() == [is_lost] * 8
    assert not env.task.success(env.state).any()
    cost = before - sum(env.task.reward(env.state).values())
    assert ((cost > 10.0) == is_lost).all()


def test_a_control_step_and_a_reset_ask_the_device_for_nothing(monkeypatch):
    env = make(4, reference_share=0.5)
    task, state = env.task, env.state
    values = {
        name: torch.tensor([span.low, span.high] * 2, dtype=torch.float64)
        for name, span in task.parameters().items()
    }
    mask = torch.tensor([True, False, True, False])
    with monkeypatch.context() as patch, no_host_sync() as guard:

        def free(way):
            def called(*args):
                with guard.paused():
                    return way(*args)

            return called

        # MuJoCo on the CPU and its draws are of the host
        for owner, names in ((env.sim, ("get", "set", "forward")), (Draws, ("bits", "uniforms"))):
            for name in names:
                patch.setattr(owner, name, free(getattr(owner, name)))
        start = task.reset(values, state, mask)
        task.progress(state, 0.04)
        terms = task.reward(state)
        groups = {group: task.observe(group, state) for group in GROUPS}
        task.control(start.float(), state)
        task.script(groups)
    assert start.shape == (4, 8)
    assert torch.stack(list(terms.values())).isfinite().all()


def test_both_fingers_follow_one_command():
    env = make(2)
    env.step(torch.full((2, 8), -1.0))
    ctrl = env.sim.get("ctrl")
    assert torch.equal(ctrl[:, 7], ctrl[:, 8])
    # 1 m/s^2 for 0.04 s gives 0.04 m/s, for 0.04 s
    assert float(ctrl[0, 7]) == pytest.approx(0.04 - 0.04 * 0.04)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shapes": ("cone",)}, "task.shapes must name one shape or more of box, cylinder, sphere"),
        (
            {"mass_kg": (0.5, 0.1)},
            r"task.mass_kg must be \[low, high\] within \[0.01, 1.0\], got \[0.5, 0.1\]",
        ),
        ({"tolerance_m": 0.0}, "task.tolerance_m must be > 0, got 0"),
        ({"hold_s": 5.0}, "task.hold_s must be < horizon_s, 5.0 s, got 5.0"),
        ({"size_high": (0.05, 0.04, 0.03)}, "to close the hand across, <= 0.035 m, got"),
        ({"yaw_rad": 2.0}, r"task.yaw_rad must be in \[0, 1.5\d+\], got 2.0"),
    ],
)
def test_numbers_beyond_what_the_task_can_do_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LiftCfg(**fields)
