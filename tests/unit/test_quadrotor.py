"""The quadrotor against its equations, courses against hand values, and the task's rules about gates."""

import math

import mujoco
import pytest
import torch
from robokd.tasks.bodies import quadrotor
from robokd.tasks.parts import course
from robokd.tasks.quadrotor_gate import QuadrotorGateCfg
from tensordict import TensorDict

from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.sim.mujoco import MujocoCfg
from robokd.vision.sensor import Corruption
from tests.host_sync import no_host_sync

CALM = {
    "mass": (1.0, 1.0), "inertia": (1.0, 1.0), "motor": (1.0, 1.0), "thrust": (1.0, 1.0),
    "drag": (1.0, 1.0), "wind_mps": 0.0, "gust_mps": 0.0, "start_m": 0.0, "start_mps": 0.0,
    "start_rad": 0.0, "gyro_noise": 0.0, "gravity_noise": 0.0, "odometry_noise": 0.0,
}  # fmt: skip
AHEAD = {"bearing_rad": 0.0, "turn_rad": 0.0, "distance_m": (4.0, 4.0), "height_m": (1.5, 1.5)}
GROUPS = ("proprio", "odometry", "privileged", "physics")


def make(count=1, *, physics_dt=0.008, space="seen", **fields):
    setup = Setup(num_envs=count, groups=GROUPS, draws=Draws(0, "validation"), space=space)
    return QuadrotorGateCfg(**fields).build(
        sim=MujocoCfg(physics_dt=physics_dt), renderer=None, corrupt=Corruption(), setup=setup
    )


def place(env, position, velocity):
    """Put the world there, as level as it was."""
    qpos, qvel = env.sim.get("qpos").clone(), env.sim.get("qvel").clone()
    qpos[:, :3], qvel[:, :3] = torch.tensor(position), torch.tensor(velocity)
    env.sim.set("qpos", qpos)
    env.sim.set("qvel", qvel)
    env.sim.forward()
    env.task.progress(env.state, 0.0)


def fly(env, policy):
    """Return whether each world's first episode succeeded, (N,) bool."""
    obs, first = env.reset(), torch.ones(env.num_envs, dtype=torch.bool)
    success = torch.zeros_like(first)
    for _ in range(env.max_episode_length):
        obs, _, done, extras = env.step(policy(obs))
        success |= first & extras["success"]
        first &= ~done.bool()
    return success


def test_the_rotors_make_the_wrench_that_is_asked_for():
    # 8 N and 0.1 N m of roll: 2 N each, and 0.1 / (4 * 0.1 m) = 0.25 N more on the left, less on the right
    torque = torch.tensor([[0.1 / (2.5e-3 * 16), 0.0, 0.0]])
    thrusts = quadrotor.rotors(torch.cat((torque, torch.tensor([[8.0]])), 1), torch.zeros(1, 3))
    assert thrusts[0].tolist() == pytest.approx([1.75, 2.25, 1.75, 2.25], abs=1e-6)
    # of yaw 0.0344 N m = J 8/s 1 rad/s: 0.0344 / (4 * 0.022 m) = 0.3909 N
    yaw = quadrotor.rotors(torch.tensor([[0.0, 0.0, 1.0, 8.0]]), torch.zeros(1, 3))
    assert yaw[0].tolist() == pytest.approx([1.6091, 1.6091, 2.3909, 2.3909], abs=1e-4)
    wild = quadrotor.rotors(torch.tensor([[99.0, -99.0, 9.0, 30.0]]), torch.zeros(1, 3))
    assert wild.min() >= 0
    assert wild.max() <= quadrotor.THRUST_N


def test_drag_is_linear_and_square_in_the_speed_through_the_air():
    force = quadrotor.air_force(torch.tensor([[3.0, 0.0, 4.0]]), torch.tensor([[2.0]]))
    assert force[0].tolist() == pytest.approx([-2 * (0.26 + 0.06) * 3, 0.0, -2 * (0.42 + 0.06) * 4])


def test_a_rotor_follows_as_a_first_order_lag_of_the_published_time():
    spec = quadrotor.spec()
    spec.option.timestep = 0.008
    model = spec.compile()
    data = mujoco.MjData(model)
    data.ctrl[:4] = 2.0
    for _ in range(5):
        mujoco.mj_step(model, data)
    assert data.act == pytest.approx([2 * (1 - math.exp(-0.04 / 0.033))] * 4)
    assert model.body("drone").mass[0] == pytest.approx(0.752)
    assert model.body("drone").inertia == pytest.approx([2.5e-3, 2.1e-3, 4.3e-3])


def test_action_zero_hovers_where_it_starts():
    env = make(**CALM)
    for _ in range(40):
        obs, *_ = env.step(torch.zeros(1, 4))
    assert env.sim.get("qpos")[0, :3].tolist() == pytest.approx([0, 0, 1.5], abs=1e-5)
    assert obs["proprio"][0, :6].tolist() == pytest.approx([0, 0, 0, 0, 0, -1], abs=1e-5)
    assert obs["proprio"][0, 6:10].tolist() == pytest.approx([0, 0, 0, 0.752 * 9.81], abs=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_commanded_rate_is_reached_whatever_the_physics_step(axis):
    found = []
    for physics_dt in (0.008, 0.002):
        env, action = make(physics_dt=physics_dt, **CALM), torch.zeros(1, 4)
        action[0, axis] = 0.4
        rates = []
        for _ in range(16):
            env.step(action)
            rates.append(env.sim.get("qvel")[0, 3 + axis].item())
        found.append(rates)
    wanted = 0.4 * (5.0, 5.0, 3.0)[axis]
    coarse, fine = found
    assert coarse[-1] == pytest.approx(wanted, rel=0.06)
    assert max(coarse) < 1.15 * wanted
    assert coarse == pytest.approx(fine, abs=0.06 * wanted)


def test_the_rate_controller_is_asked_at_every_physics_step():
    env, calls = make(**CALM), []
    asked = env.task.control
    env.task.control = lambda *rows: (calls.append(1), asked(*rows))[1]
    env.step(torch.zeros(1, 4))
    assert len(calls) == env.substeps == 3


def test_mass_thrust_and_wind_of_an_episode_are_felt():
    heavy = make(**CALM | {"mass": (1.1, 1.1)})
    weak = make(**CALM | {"thrust": (0.9, 0.9)})
    for env in (heavy, weak):
        for _ in range(20):
            env.step(torch.zeros(1, 4))
        assert env.sim.get("qvel")[0, 2] < -0.3
    windy = make(64, **CALM | {"wind_mps": 2.0})
    for _ in range(20):
        windy.step(torch.zeros(64, 4))
    drift, wind = windy.sim.get("qvel")[:, :2], windy.state.episode["wind"][:, :2]
    assert ((drift * wind).sum(1) > 0).all()


def test_a_course_is_laid_by_hand_values():
    quarter = math.pi / 2
    gates = torch.tensor([[[4.0, 0.0, 2.0, 0.0], [3.0, quarter, 1.0, 0.0]]])
    places, headings = course.lay(gates, torch.tensor([0.0, 0.0, 1.5]))
    assert places[0].flatten().tolist() == pytest.approx([4, 0, 2, 4, 3, 1, 4, 6, 1, 4, 9, 1], abs=1e-5)
    assert headings[0].tolist() == pytest.approx([0.0, quarter, quarter, quarter])


def test_only_a_way_forward_through_the_plane_is_a_crossing():
    before = torch.tensor([[-0.1, 0.5, 0.2], [0.1, 0.0, 0.0], [-0.3, 0.0, 0.0]])
    now = torch.tensor([[0.3, -0.3, 0.2], [-0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]])
    has_crossed, aside = course.crossing(before, now)
    assert has_crossed.tolist() == [True, False, False]
    assert aside[0] == pytest.approx(0.3)  # a quarter of the way from 0.5 to -0.3


def test_a_place_is_told_in_the_axes_of_its_gate():
    found = course.to_gate(
        torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    )
    assert found["local"][0].tolist() == [2.0, 0.0, 2.0]
    assert found["distance"][0] == pytest.approx(math.sqrt(8))


def test_a_gate_is_passed_through_its_opening_and_the_next_one_is_seen():
    env = make(**CALM, **AHEAD)
    place(env, (3.9, 0.3, 1.5), (3.0, 0.0, 0.0))
    for _ in range(4):
        obs, _, done, _ = env.step(torch.zeros(1, 4))
    assert not done.any()
    assert env.state.episode["passed"].tolist() == [1.0]
    assert obs["privileged"][0, 3:6].tolist() == pytest.approx([3.84, -0.3, 0.0], abs=0.1)


@pytest.mark.parametrize(
    ("position", "velocity"),
    [
        ((3.95, 1.5, 1.5), (3.0, 0.0, 0.0)),  # beside the frame
        ((3.7, 0.8, 1.5), (3.0, 0.0, 0.0)),  # into the frame
        ((2.0, 0.0, 0.3), (0.0, 0.0, -3.0)),  # into the floor
        ((-4.1, 0.0, 1.5), (-3.0, 0.0, 0.0)),  # away
        ((0.0, 0.0, 4.9), (0.0, 0.0, 5.0)),  # up
    ],
)
def test_who_misses_a_gate_touches_something_or_gets_lost_has_failed(position, velocity):
    env = make(**CALM, **AHEAD)
    place(env, position, velocity)
    rewards, ends = [], []
    for _ in range(4):
        _, reward, done, extras = env.step(torch.zeros(1, 4))
        rewards.append(reward.item())
        ends.append(done.item())
        assert not extras["success"].any()
        assert not extras["time_outs"].any()
    assert sum(ends) == 1
    assert min(rewards) < -5


def test_the_scripted_pilot_flies_every_course_and_nobody_does_by_doing_nothing():
    env = make(96)
    assert fly(env, env.task.script).float().mean() >= 0.98
    assert not fly(env, lambda obs: torch.zeros(96, 4)).any()
    outer = make(96, space="unseen_all")
    assert fly(outer, outer.task.script).float().mean() >= 0.9


def test_a_straight_course_ends_as_a_success_after_its_last_gate():
    env = make(1, **CALM, **AHEAD, gates=1)
    place(env, (3.9, 0.0, 1.5), (3.0, 0.0, 0.0))
    _, _, _, first = env.step(torch.zeros(1, 4))
    _, reward, done, extras = env.step(torch.zeros(1, 4))
    assert (first["success"] | extras["success"]).all()
    assert done.any() or first["success"].all()
    assert reward.item() > -1


def test_a_gate_pays_more_through_its_middle():
    paid = []
    for aside in (0.0, 0.45):
        env = make(**CALM, **AHEAD)
        place(env, (3.95, aside, 1.5), (3.0, 0.0, 0.0))
        env.step(torch.zeros(1, 4))
        paid.append(env.task.reward(env.state)["gate"].item())
    assert paid == pytest.approx([4.0, 4.0 * (1 - 0.45 / 0.7)], abs=0.05)


def test_a_step_asks_the_device_for_nothing():
    env = make(4)
    task, state = env.task, env.state

    def step():
        task.control(state.command, state)
        task.progress(state, task.control_dt)
        task.reward(state), task.terminated(state)
        rows = {name: task.observe(name, state) for name in ("odometry", "physics", *task.script_groups)}
        task.script(TensorDict(rows, batch_size=[4]))

    step()  # constants are made
    with no_host_sync() as guard:
        draw = state.draws.normal
        state.draws.normal = lambda *rows: _paused(guard, draw, rows)
        step()


def _paused(guard, draw, rows):
    """Draw: on a CPU there is a way of its own, without tensors."""
    with guard.paused():
        return draw(*rows)


@pytest.mark.parametrize(
    ("field", "value"),
    [("gates", 0), ("inner_m", 0.3), ("rate_rps", 0.0), ("mass", (1.2, 1.1)), ("wind_mps", math.nan),
     ("crash_cost", -1.0), ("distance_m", (0.5, 3.0))],
)  # fmt: skip
def test_the_task_names_the_value_that_it_cannot_take(field, value):
    with pytest.raises(ValueError, match=f"task.{field} must be"):
        QuadrotorGateCfg(**{field: value})
