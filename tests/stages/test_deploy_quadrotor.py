"""A body without joints: it is sent rates and thrust, and is levelled where an arm would be held."""

import dataclasses
import json
import sys
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from bodies import deployed, make_env, make_quadrotor_bundle, world_of
from robokd.sim2real.arming import check_arm
from robokd.sim2real.deploy import check_task
from robokd.sim2real.limiter import Bounds, Limiter
from robokd.sim2real.log_reader import read_log
from robokd.sim2real.policy import Policy
from robokd.sim2real.rest import is_level, rest_of
from robokd.sim2real.robot import ImuReading
from robokd.tasks.bodies.quadrotor import HOVER_N
from robokd.tasks.quadrotor_gate import QuadrotorGateCfg

from robokd import UserError, registry
from robokd.cli import main
from robokd.config import compose
from robokd.export.bundle import read_bundle

HORIZON_S = 0.6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_quadrotor_bundle(
        tmp_path_factory.mktemp("bundle") / "hover.robokd", horizon_s=HORIZON_S, step=0.002
    )


@pytest.fixture(scope="module")
def done(bundle, tmp_path_factory):
    """A deployment of two episodes."""
    return deployed(bundle, tmp_path_factory.mktemp("done"))


def test_a_quadrotor_flies_for_its_episodes_and_breaks_no_limit(done):
    code, run = done
    summary = json.loads(run.summary_path.read_text())
    assert (code, summary["stop_reason"], summary["success"]["episodes"]) == (0, "end", 2)
    assert summary["robot_log"]["violations"] == {}
    assert set(summary["age_s"]) >= {"gyro", "gravity", "velocity"}
    rungs = [change[2] for change in summary["guard"]["rungs"] if change[2] not in ("HOLD", "FOLLOW")]
    assert [rung for rung, _ in groupby(rungs)][:4] == ["SLOW", "IDLE"] * 2


def test_between_episodes_it_sinks_level_within_the_limits(done):
    _, run = done
    received = json.loads((run.path / "robot_log.json").read_text())["commands_received"]
    own = [row for row in received if row[5] == 0]
    assert own[-1][3] == own[-2][3] == pytest.approx([0, 0, 0, 0.9 * HOVER_N])


def test_the_log_has_what_the_policy_was_given_and_replays_bit_for_bit(done, tmp_path):
    _, run = done
    first = read_log(run.path / "log.mcap").ticks[0]
    assert first.anchor == pytest.approx([0, 0, 0, HOVER_N])
    assert first.channels["joint_pos"].shape == (0,)
    assert np.linalg.norm(first.channels["gravity"]) == pytest.approx(1, abs=0.1)
    assert first.decision.command == pytest.approx(first.anchor + 0.002)
    assert main(["replay", f"log={run.path}", f"runs={tmp_path}"]) == 0


def test_the_robot_tells_what_the_training_environment_does(bundle):
    world, cfg = world_of(bundle), QuadrotorGateCfg(horizon_s=HORIZON_S)
    sim = registry.find("sim", "mujoco")(physics_dt=world.dt)
    env = make_env(cfg, 1, sim=sim, groups=("proprio", "odometry"))
    observations = env.reset(torch.tensor([3]))
    world.begin(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        sensed = world.sense()
        assert set(sensed) == {"gyro", "gravity", "velocity"}
        for group in ("proprio", "odometry"):
            for name, where in env.obs_specs[group].slices().items():
                if name in sensed:
                    assert np.array_equal(sensed[name], observations[group][0, where].numpy()), name
        observations, *_ = env.step(torch.rand(1, 4, generator=generator) - 0.5)
        for _ in range(world.substeps):
            world.step(env.state.command[0].numpy())


def test_the_policy_is_given_the_command_that_was_sent_last(bundle):
    found = read_bundle(bundle)
    seen = {name: np.zeros(3, np.float32) for name in ("gyro", "gravity", "velocity")}
    anchor, rate = np.arange(4, dtype=np.float32), np.arange(4, 8, dtype=np.float32)
    policy = Policy(found)
    policy.act(seen, anchor, rate, lambda: 0.0)
    slices = found.observations["proprio"].slices()
    assert policy._feeds["proprio"][0, slices["command"]].tolist() == anchor.tolist()
    assert policy._feeds["proprio"][0, slices["command_rate"]].tolist() == rate.tolist()


@pytest.mark.parametrize("turn", [(5.0, 0, 0), (0, -5.0, 0), (4.0, 4.0, 3.0)])
def test_however_it_turned_it_is_level_before_it_has_fallen_far(bundle, turn):
    found, world = read_bundle(bundle), world_of(bundle)
    limiter, rest, dt = Limiter(Bounds.of(found.action, {})), rest_of(found), found.action.control_dt
    world.begin(1)
    limiter.begin(world.hold())

    def step(target):
        for _ in range(world.substeps):
            world.step(target)

    for _ in range(8):  # 0.19 s: to 45 degrees and beyond
        step(limiter.limit(np.array([*turn, HOVER_N]), dt)[0])
        rest.begin()
    height = float(world.env.sim.get("qpos")[0, 2])
    spent_s = 0.0
    while not rest.is_at_rest(limiter):
        sensed = world.sense()
        felt = ImuReading(captured_s=0.0, gyro=sensed["gyro"], gravity=sensed["gravity"])
        step(rest.next(limiter, felt, 0.0, dt))
        spent_s += dt
    assert spent_s < 1.2
    # a little more than level: what it measures has noise, and the rates that are held at 0 a bias
    assert np.arctan2(np.hypot(*felt.gravity[:2]), -felt.gravity[2]) < 0.15
    assert height - float(world.env.sim.get("qpos")[0, 2]) < 1.5


def test_one_that_nobody_commands_levels_itself_and_sinks(bundle):
    world = world_of(bundle)
    world.begin(1)
    target = world.hold()
    for _ in range(120):
        world.step(np.array([5.0, 0, 0, HOVER_N], np.float32))
    before = world.sense()["gravity"].copy()
    assert np.hypot(*before[:2]) > 0.2
    for _ in range(400):
        target = world.fend(target)
        world.step(target)
    assert is_level(ImuReading(captured_s=0.0, gyro=np.zeros(3), gravity=world.sense()["gravity"]))
    assert target[3] < HOVER_N


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy", "home=true"], "home=true would send joints home, and it has none"),
        (["deploy", "velocity_command=[1,0,0]"], "follows none"),
        (["simulate", "protocol=ros2"], "in rad/s, N. protocol=ros2 has joint positions, in rad or m"),
        (["sysid"], "a body that flies has no joints"),
    ],
)
def test_what_takes_joints_refuses_one_that_has_none_in_one_line(bundle, tmp_path, capsys, words, said):
    assert main([*words, f"bundle={bundle}", f"runs={tmp_path / 'runs'}"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("robot", ["ros2", "unitree"])
def test_no_hardware_is_sent_rates_for_positions(bundle, robot):
    config, found = compose("deploy", [f"bundle={bundle}", f"robot={robot}"]), read_bundle(bundle)
    with pytest.raises(UserError, match=f"in rad/s, N. robot={robot} takes joint positions, in rad or m"):
        check_task(config, found)
    signed = dataclasses.replace(found, trust="trusted")
    with pytest.raises(UserError, match=f"is for no joints: robot={robot} takes nothing but positions"):
        check_arm(SimpleNamespace(is_hardware=True), signed, config)  # the guard by itself


def test_no_gap_is_reckoned_of_a_body_without_joints(done, tmp_path, capsys):
    assert main(["gap", f"log={done[1].path}", f"runs={tmp_path / 'runs'}"]) == 2
    assert "a body that flies has no joints" in capsys.readouterr().err.splitlines()[-1]


def test_commands_that_are_neither_joints_nor_rates_and_thrust_are_refused(tmp_path, capsys):
    action = read_bundle(make_quadrotor_bundle(tmp_path / "a.robokd")).manifest["action"]
    other = make_quadrotor_bundle(tmp_path / "b.robokd", action={**action, "names": ["a", "b", "c", "d"]})
    assert main(["deploy", f"bundle={other}", f"runs={tmp_path / 'runs'}"]) == 2
    assert "its commands are in rad/s, N. robot=mujoco takes" in capsys.readouterr().err


def test_a_flying_policy_reads_no_joints(tmp_path):
    path = make_quadrotor_bundle(tmp_path / "a.robokd")
    spec = read_bundle(path).manifest["observations"]["proprio"]
    spec["terms"][2] = {**spec["terms"][2], "name": "joint_pos"}
    odd = make_quadrotor_bundle(path, observations={"proprio": spec}, groups=("proprio",))
    with pytest.raises(UserError, match=r"the policy reads 'joint_pos' of proprio\. This runtime has: gyro"):
        Policy(read_bundle(odd))


@pytest.mark.parametrize("case", ["policy_kill", "guard_kill", "nan"])
def test_a_fault_brings_it_to_rest(tmp_path, case):
    """In the robot's own log: levelled by the guard, or by itself where that is gone."""
    flying = make_quadrotor_bundle(tmp_path / "long.robokd", horizon_s=60.0, step=0.002)
    said = (f"cases=[{case}]", "messages=1", "processes=1", f"runs={tmp_path / 'runs'}")
    assert main(["faults", f"bundle={flying}", "robot=mujoco", "robot.reply_timeout_s=20", *said]) == 0
