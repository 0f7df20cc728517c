"""A robot on legs: it is told where to go, its policy reads a clock, and its joints bear what floats."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from bodies import PATIENT, deployed, make_env, make_quadruped_bundle, standing, world_of
from robokd.sim2real.log_reader import read_log
from robokd.sim2real.policy import dial
from robokd.sim2real.robot import JointReading
from robokd.sim2real.safety import HELD_TOLERANCE, SafetyStop, start_anchor
from robokd.tasks.parts import trot
from robokd.tasks.quadruped_terrain import QuadrupedTerrainCfg

from robokd import UserError, registry
from robokd.cli import main
from robokd.export.bundle import read_bundle
from robokd.export.contract import clock_s, sag_rad

HORIZON_S = 0.6


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_quadruped_bundle(tmp_path_factory.mktemp("bundle") / "stand.robokd", horizon_s=HORIZON_S)


@pytest.fixture(scope="module")
def done(bundle, tmp_path_factory):
    """A deployment of two episodes."""
    return deployed(bundle, tmp_path_factory.mktemp("done"))


def test_a_quadruped_stands_for_its_episodes_and_breaks_no_limit(done):
    code, run = done
    summary = json.loads(run.summary_path.read_text())
    assert (code, summary["stop_reason"], summary["success"]["episodes"]) == (0, "end", 2)
    assert set(summary["safety"]) <= {"command_stale"}  # where the machine was busy
    assert summary["robot_log"]["violations"] == {}
    assert summary["robot_log"]["outcomes"] == [False, False]  # it was told to walk


def test_the_log_has_what_the_robot_was_told_and_the_time_of_each_episode(done, bundle):
    _, run = done
    recording, world = read_log(run.path / "log.mcap"), world_of(bundle)
    begins = [one.tick for one in recording.episodes]
    assert len(begins) == 2
    for number, first in enumerate(begins):
        ticks = recording.ticks[first : begins[number + 1] if number + 1 < len(begins) else None]
        elapsed = np.array([tick.channels["elapsed"][0] for tick in ticks])
        assert elapsed[0] == 0
        assert np.diff(elapsed) / 0.024 == pytest.approx(np.round(np.diff(elapsed) / 0.024), abs=1e-6)
        assert (np.diff(elapsed) > 0).all()
        # the way ahead and to the left is an episode's own, and the turn is steered; see the task
        world.begin(number)
        told = [tick.channels["velocity_command"] for tick in ticks]
        assert all((one[:2] == world.sense()["velocity_command"][:2]).all() for one in told)


def test_it_replays_bit_for_bit(done, tmp_path):
    assert main(["replay", f"log={done[1].path}", f"runs={tmp_path}"]) == 0


def test_the_robot_tells_and_the_clock_shows_what_the_training_environment_does(bundle):
    world, cfg = world_of(bundle), QuadrupedTerrainCfg(horizon_s=HORIZON_S, push_n=0.0)
    env = make_env(cfg, 1, sim=registry.find("sim", "mujoco")(physics_dt=world.dt))
    observations, slices = env.reset(torch.tensor([3])), env.obs_specs["proprio"].slices()
    world.begin(3)
    dt, period = world.env.action_spec.control_dt, read_bundle(bundle).manifest["clock_s"]
    for tick in range(12):
        seen = observations["proprio"][0].numpy()
        for name, value in world.sense().items():
            assert np.array_equal(value, seen[slices[name]]), name
        shown = dial(np.array([tick * dt]), period)
        assert shown == pytest.approx(seen[slices["clock"]], abs=1e-4)
        observations, *_ = env.step(torch.full((1, 12), 0.1))
        for _ in range(world.substeps):
            world.step(env.state.command[0].numpy())


def test_legs_rest_off_their_targets_and_a_policy_may_begin_there_only_as_the_bundle_says(bundle):
    world, found = world_of(bundle), read_bundle(bundle)
    world.begin(1)
    for _ in range(250):
        world.step(world.hold())
    sensed = world.sense()
    held = JointReading(
        captured_s=0.0, position=sensed["joint_pos"], velocity=sensed["joint_vel"], target=world.hold()
    )
    assert np.abs(held.position - held.target).max() > 2 * HELD_TOLERANCE
    assert start_anchor(held, found) == pytest.approx(world.hold())
    found.manifest["robot"]["sag"] = None
    with pytest.raises(SafetyStop, match=r"held_target: |start: "):
        start_anchor(held, found)


def test_how_far_legs_rest_is_measured_and_of_an_arm_it_is_nothing(make_env):
    sag = np.reshape(standing()["sag"], (4, 3))
    assert (sag > 0.02).all()
    assert (sag[:, 2] > sag[:, 0]).all()  # calves bear more than hips
    assert sag.max() < 0.6
    assert sag_rad(make_env(2, ("proprio",))) is None


def test_a_robot_that_cannot_stand_is_not_exported():
    soft = QuadrupedTerrainCfg(stiffness=(0.5, 0.5), load_kg=(10.0, 10.0))
    with pytest.raises(UserError, match=r"_calf rests \S+ rad from the target .*, at most 0\.6 rad may be"):
        sag_rad(make_env(soft, 2))
    tipped = QuadrupedTerrainCfg(load_kg=(10.0, 10.0), friction=(0.1, 0.1), start_m_s=1.0, push_n=200.0)
    with pytest.raises(UserError, match="falls where its start is held"):
        sag_rad(make_env(tipped, 1))


def test_the_period_of_a_clock_is_the_task_s_or_the_export_is_refused(bundle):
    class Config:
        task = QuadrupedTerrainCfg()

    env = make_env(QuadrupedTerrainCfg(), 1)
    assert clock_s(Config, env, ["proprio"]) == trot.Gait().period == read_bundle(bundle).manifest["clock_s"]
    assert clock_s(Config, env, []) == 0

    class Silent:
        class task:  # noqa: N801
            name = "silent"

    with pytest.raises(UserError, match=r"task=silent: the policy reads a clock whose period .* \(clock_s"):
        clock_s(Silent, env, ["proprio"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy", "robot=replay", "robot.log={log}"], "and robot=replay gives none; velocity_command="),
        (["deploy", "velocity_command=[0.5,0]"], "velocity_command wants 3 numbers"),
        (["deploy", "velocity_command=[0.5,0,1e999]"], "velocity_command wants 3 numbers"),
        (["sysid"], "its joints bear a body that floats"),
    ],
)
def test_what_legs_cannot_do_is_refused_in_one_line(done, bundle, tmp_path, capsys, words, said):
    words = [word.format(log=done[1].path) for word in words]
    assert main([*words, f"bundle={bundle}", f"runs={tmp_path / 'runs'}"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_no_gap_is_reckoned_of_a_body_that_floats(done, tmp_path, capsys):
    assert main(["gap", f"log={done[1].path}", f"runs={tmp_path / 'runs'}"]) == 2
    assert "its joints bear a body that floats" in capsys.readouterr().err.splitlines()[-1]


def test_a_person_may_say_where_the_robot_is_to_go(bundle, tmp_path):
    said = ("velocity_command=[0.5,0,-0.25]", "duration_s=0.2", *PATIENT)
    assert main(["deploy", f"bundle={bundle}", *said, f"runs={tmp_path}"]) == 0
    (path,) = tmp_path.glob("*_deploy_*/log.mcap")
    told = {tuple(tick.channels["velocity_command"].tolist()) for tick in read_log(path).ticks}
    assert told == {(0.5, 0.0, -0.25)}
