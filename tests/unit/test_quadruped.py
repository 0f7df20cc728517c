"""The quadruped: its body against the maker's numbers, its terrain, its commands, what is a success."""

import dataclasses

import mujoco
import numpy as np
import pytest
import torch
from robokd.tasks.bodies import go2
from robokd.tasks.parts import gait, terrain
from robokd.tasks.quadruped_terrain import REACH_RAD, SCAN_X, SCAN_Y, QuadrupedTerrainCfg

from robokd.cli import main
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.sim.mujoco import MujocoCfg
from robokd.vision.sensor import Corruption

CALM = {"push_n": 0.0, "start_m_s": 0.0, "noise": 0.0}


def build(num_envs=4, seed=0, **fields):
    setup = Setup(
        num_envs=num_envs, groups=("proprio", "privileged", "physics"), draws=Draws(seed, "train"), threads=1
    )
    cfg = QuadrupedTerrainCfg(**fields)
    return cfg.build(sim=MujocoCfg(), renderer=None, corrupt=Corruption(), setup=setup)


def part(env, observations, group, term):
    return observations[group][:, env.obs_specs[group].slices()[term]]


@pytest.fixture(scope="module")
def model():
    return go2.spec().compile()


def test_the_body_weighs_what_the_makers_parts_do(model):
    # trunk 6.921; a leg: hip 0.678, thigh 1.152, calf 0.154, foot 0.04
    assert model.body_subtreemass[model.body("trunk").id] == pytest.approx(6.921 + 4 * 2.024)


def test_joints_and_motors_stand_in_the_order_of_the_makers_motors(model):
    joints = [model.joint(int(j)).name for j in model.actuator_trnid[:, 0]]
    assert tuple(joints) == go2.JOINTS
    assert joints[:6] == ["FR_hip", "FR_thigh", "FR_calf", "FL_hip", "FL_thigh", "FL_calf"]
    sensors = [model.sensor(i).name for i in range(model.nsensor)]
    assert sensors == [*go2.FEET, *go2.KNOCKS, "trunk"]


def test_limits_of_the_model_are_those_that_tasks_are_told(model):
    ids = [model.joint(name).id for name in go2.JOINTS]
    np.testing.assert_allclose(model.jnt_range[ids].T, [go2.LOWER, go2.UPPER])
    np.testing.assert_allclose(model.actuator_forcerange[:, 1], go2.TORQUE)
    np.testing.assert_allclose(model.actuator_ctrlrange.T, [go2.LOWER, go2.UPPER])


def test_feet_are_where_two_links_of_213_mm_put_them(model):
    data = mujoco.MjData(model)
    draws = np.random.default_rng(0)
    for _ in range(10):
        angles = np.array(go2.STAND) + draws.uniform(-0.3, 0.3, 12)
        data.qpos[3:7], data.qpos[7:] = (1, 0, 0, 0), angles
        mujoco.mj_kinematics(model, data)
        for leg, name in enumerate(go2.LEGS):
            hip, thigh, calf = angles[3 * leg : 3 * leg + 3]
            front, side = (1 if leg < 2 else -1), (-1 if leg % 2 == 0 else 1)
            x = -0.213 * (np.sin(thigh) + np.sin(thigh + calf))
            down = 0.213 * (np.cos(thigh) + np.cos(thigh + calf))
            y = side * 0.0955 * np.cos(hip) + down * np.sin(hip)
            z = side * 0.0955 * np.sin(hip) - down * np.cos(hip)
            wanted = data.qpos[:3] + np.array([front * 0.1934 + x, side * 0.0465 + y, z])
            np.testing.assert_allclose(data.body(f"{name}_foot").xpos, wanted, atol=1e-9)


def test_no_part_of_the_robot_touches_another(model):
    data = mujoco.MjData(model)
    draws = np.random.default_rng(0)
    for _ in range(50):
        data.qpos[2], data.qpos[7:] = 5.0, draws.uniform(go2.LOWER, go2.UPPER)
        mujoco.mj_forward(model, data)
        assert data.ncon == 0


@pytest.mark.parametrize("kind", terrain.KINDS)
def test_without_actions_it_stands_on_its_feet_alone(kind):
    env = build(16, terrains=(kind,), **CALM)
    for _ in range(80):
        _, reward, done, extras = env.step(torch.zeros(16, 12))
        assert not done.any()
    episode = env.state.episode
    assert (episode["contact"] == 1).all()
    assert (episode["knocks"] == 0).all()
    height = env.sim.get("qpos")[:, 2]
    assert ((height > 0.27) & (height < 0.33)).all()
    assert not extras["success"].any()
    assert torch.isfinite(reward).all()


def test_a_scan_sees_the_ground_that_rays_hit():
    env = build(8, terrains=terrain.KINDS, difficulty=(1.0, 1.0), start_yaw_rad=0.3)
    env.step(torch.zeros(8, 12))
    scan = env.state.episode["scan"].reshape(8, len(SCAN_X), len(SCAN_Y))
    qpos, yaw = env.sim.get("qpos"), gait.yaw(env.state)
    for world in range(8):
        world_model = env.sim.batch.get_model(world)
        data = mujoco.MjData(world_model)
        data.qpos[:] = qpos[world]
        data.qpos[2] = 5.0  # out of the rays' way
        mujoco.mj_forward(world_model, data)
        cos, sin = float(yaw[world].cos()), float(yaw[world].sin())
        for i, ahead in enumerate(SCAN_X[::3]):
            for j, left in enumerate(SCAN_Y):
                x = float(qpos[world, 0]) + cos * ahead - sin * left
                y = float(qpos[world, 1]) + sin * ahead + cos * left
                ray = np.array([x, y, 3.0]), np.array([0, 0, -1.0])
                height = 3 - mujoco.mj_ray(world_model, data, *ray, None, 1, -1, None)
                assert float(scan[world, 3 * i, j]) == pytest.approx(height, abs=1e-4)


def test_what_an_episode_draws_reaches_its_world_alone():
    env = build(6, terrains=("flat",))
    get, episode = env.sim.get, env.state.episode
    model = env.sim.model
    feet = [model.geom(name).id for name in go2.FEET]
    trunk = model.body("trunk").id
    for world in range(6):
        friction = get("geom_friction")[world, :, 0]
        assert friction[feet].tolist() == pytest.approx([float(episode["friction"][world, 0])] * 4)
        assert float(friction[model.geom("head").id]) == 1.0
        assert float(get("body_mass")[world, trunk]) == pytest.approx(
            6.921 + float(episode["load"][world, 0]), abs=1e-5
        )
        assert float(get("actuator_gainprm")[world, 4, 0]) == pytest.approx(
            40 * float(episode["stiffness"][world, 0]), rel=1e-5
        )
    assert len(set(episode["friction"][:, 0].tolist())) == 6


def test_kinds_are_drawn_evenly_and_only_those_asked_for():
    env = build(512, terrains=("stairs", "gaps", "flat"))
    kinds = env.state.episode["kind"][:, 0].long()
    counts = torch.bincount(kinds, minlength=len(terrain.KINDS)).tolist()
    named = dict(zip(terrain.KINDS, counts, strict=True))
    assert named["slope"] == named["stones"] == 0
    assert min(named["flat"], named["stairs"], named["gaps"]) > 512 / 3 - 60


def test_off_the_flat_it_is_steered_back_to_the_middle():
    env = build(64, terrains=("stairs",), start_yaw_rad=0.0)
    command = env.state.episode["command"]
    y = env.sim.get("qpos")[:, 1]
    assert (command[:, 2].sign() == -y.sign().float()).all()
    assert (command[:, 0] >= 0.3).all()
    assert (command[:, 1] == 0).all()


def test_pushes_move_it_while_they_last():
    calm, pushed = (build(8, terrains=("flat",), noise=0.0, push_n=push) for push in (0.0, 100.0))
    for env in (calm, pushed):
        env.state.episode["push_at"] = torch.full((8, 1), 0.24)
        env.state.episode["push"] = torch.tensor([[80.0, 0.0]]).expand(8, 2).clone()
    speeds = []
    for step in range(20):
        for env in (calm, pushed):
            env.step(torch.zeros(8, 12))
        speeds.append((pushed.sim.get("qvel")[:, 0] - calm.sim.get("qvel")[:, 0]).mean().item())
        force = pushed.sim.get("xfrc_applied").abs().sum()
        assert bool(force > 0) == (0.24 <= step * 0.024 + 1e-6 < 0.44)
    assert abs(speeds[8]) < 1e-9
    assert speeds[-3] > 0.1


@pytest.mark.parametrize(
    ("changed", "is_success"),
    [({}, True), ({"fallen": 1.0}, False), ({"elapsed": 4.0}, False), ({"off": [2.5, 0.0]}, False),
     ({"off": [0.0, 3.0]}, False), ({"covered": [3.0, 0.0]}, False)],
)  # fmt: skip
def test_a_success_has_stood_to_the_end_near_the_command_and_covered_its_way(changed, is_success):
    env = build(2, terrains=("slope",))
    full = {"elapsed": 9.0, "off": [2.0, 2.5], "covered": [4.0, 0.0], "wanted": [5.0, 0.0], "fallen": 0.0}
    for name, value in (full | changed).items():
        entry = env.state.episode[name]
        env.state.episode[name] = torch.tensor(value).expand_as(entry).clone()
    assert env.task.success(env.state).tolist() == [is_success] * 2


@pytest.mark.parametrize(("height", "turn", "thigh"), [(0.09, 0.0, 2.5), (0.5, 0.8, 0.8), (0.5, 0.0, 0.8)])
def test_an_episode_ends_where_the_trunk_lies_on_the_ground_or_tips_over(height, turn, thigh):
    env = build(2, terrains=("flat",), **CALM)
    qpos = env.sim.get("qpos").clone()
    qpos[0, 2] = height
    qpos[0, 3:7] = torch.tensor([np.cos(turn), np.sin(turn), 0.0, 0.0])
    qpos[0, 7:] = torch.tensor([0.0, thigh, -2.7] * 4)
    env.sim.set("qpos", qpos)
    env.sim.forward()
    _, _, done, extras = env.step(torch.zeros(2, 12))
    assert done.tolist() == [int(height < 0.1 or turn > 0), 0]
    assert not extras["time_outs"].any()


def test_action_zero_is_the_standing_pose_and_one_is_its_reach():
    spec = build(1).action_spec
    assert spec.mode == "absolute"
    assert spec.offset == go2.STAND
    assert spec.scale == REACH_RAD


def test_what_a_robot_is_told_has_the_names_of_its_channels():
    env = build(1, **CALM)
    observations = env.get_observations()
    assert part(env, observations, "proprio", "gravity")[0].norm() == pytest.approx(1.0, abs=1e-5)
    qpos = env.sim.get("qpos")[:, 7:].float()
    torch.testing.assert_close(part(env, observations, "proprio", "joint_pos"), qpos)
    command = part(env, observations, "proprio", "velocity_command")
    torch.testing.assert_close(command, env.state.episode["command"])


def test_noise_of_an_episode_is_on_its_sensors():
    quiet, noisy = build(64, terrains=("flat",), noise=0.0), build(64, terrains=("flat",), noise=1.0)
    left, right = (part(env, env.get_observations(), "proprio", "joint_pos") for env in (quiet, noisy))
    spread = (right - left).std().item()
    assert 0.003 < spread < 0.01  # up to 0.01 rad, differing between episodes


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("task.terrains=[stars]", "task.terrains: no terrain named 'stars'. Did you mean 'stairs'?"),
     ("task.terrains=[]", "task.terrains: no terrain named ''"),
     ("task.difficulty=[1,0]", "task.difficulty must be [low, high] within [0, 3], got [1.0, 0.0]"),
     ("task.share=0", "task.share must be > 0, got 0"),
     ("task.share=1.5", "task.share must be in [0, 1], got 1.5"),
     ("task.push_n=-1", "task.push_n must be in [0, 200], got -1"),
     ("task.delay_s=[0,0.1]", "task.delay_s must be at most a control step of 0.024 s"),
     ("sim.physics_dt=0.01", "control_dt 0.024 s is not a multiple of sim.physics_dt 0.01 s")],
)  # fmt: skip
def test_a_mistake_is_one_line_that_says_what_was_wanted(word, wanted, tmp_path, capsys):
    code = main(["look", "task=quadruped_terrain", word, f"out={tmp_path / 'look.png'}"])
    assert code == 2
    said = capsys.readouterr().err.strip()
    assert wanted in said
    assert "\n" not in said


def test_the_weights_of_the_reward_are_fields_of_the_task():
    env = build(4, terrains=("flat",), **CALM)
    env.step(torch.zeros(4, 12))
    terms = env.task.reward(env.state)
    fields = {field.name for field in dataclasses.fields(gait.GaitCfg)}
    assert {f"{name}_weight" for name in terms} == fields
    # at rest the whole of "alive" is paid in every step: 0.2 / s
    assert terms["alive"].tolist() == pytest.approx([0.2 * 0.024] * 4)


def test_a_step_in_the_air_is_paid_when_the_foot_lands():
    env = build(1, terrains=("flat",), ahead_m_s=(0.5, 0.5), **CALM)
    env.step(torch.zeros(1, 12))
    episode = env.state.episode
    for flown, paid in ((0.3, 0.2), (0.05, 0.0), (0.9, 0.3)):  # from 0.1 to 0.4 s
        episode["landed"] = torch.tensor([[flown, 0.0, 0.0, 0.0]])
        assert env.task.reward(env.state)["stride"].item() == pytest.approx(paid, abs=1e-6)
