"""A task of another suite as the simulated robot, with joints that need no simulator."""

from __future__ import annotations

import json

import numpy as np
import pytest
from robokd.sim2real.foreign_world import ForeignWorld
from robokd.sim2real.mujoco_host import build_env, open_body
from robot_samples import DT, camera_spec, make_bundle, manifest

from robokd import UserError
from robokd.cli import main
from robokd.registry import load_plugins
from tests.worlds.follower import GOAL_RAD, FollowerCfg

PLUGIN = "tests.worlds.follower"
CONFIGS = {
    "task_config": {"part": "follower"}, "sim_config": {"part": "mujoco", "physics_dt": 0.002},
    "renderer_config": {"part": "raster"}, "corrupt_config": {"part": "clean"},
}  # fmt: skip


def setup(**changes):
    return {**manifest(), **CONFIGS, "bundle": "b.robokd", "seed": 0, "space": "seen", **changes}


def world(limit=100):
    return ForeignWorld(setup(), FollowerCfg(limit=limit))


def test_joints_feel_a_target_at_the_rate_of_the_suites_own_physics():
    body = world()
    assert (body.sim, body.dt, body.substeps) == ("followers", DT / 2, 2)
    body.begin(3)
    assert np.array_equal(body.hold(), [0, 0])
    target = np.array([0.02, -0.02], np.float32)
    assert [body.step(target) for _ in range(4)] == [False, True, False, True]
    # half of the way that is left in each of four steps: 0.02 (1 - 1 / 16)
    assert body.truth()[0] == pytest.approx([0.01875, -0.01875])
    assert body.sense()["joint_pos"] == pytest.approx([0.01875, -0.01875])
    assert body.sense()["joint_vel"] == pytest.approx([0.00125 / (DT / 2), -0.00125 / (DT / 2)])


def test_pictures_are_taken_at_the_ends_of_control_steps():
    body = world()
    body.begin(0)
    before, taken = body.pictures["front"], body.frames_rendered
    body.step(body.hold())
    assert body.pictures["front"] is before
    body.step(body.hold())
    assert not np.array_equal(body.pictures["front"], before)
    assert body.frames_rendered == taken + 1
    assert body.pictures["front"].shape == camera_spec().shape
    assert body.ages_s == {"front": 0.0}


def test_an_episode_ends_with_a_control_step_by_its_goal_or_by_time():
    body = world(limit=3)
    body.begin(0)
    goal = np.array([2 * GOAL_RAD, 0], np.float32)
    body.step(goal)  # there, by half of the way
    assert not body.is_over()
    body.step(goal)
    assert body.is_over()
    assert body.is_success()
    body.begin(1)
    assert not body.is_over()
    for _ in range(3 * body.substeps):
        assert not body.is_over()
        body.step(body.hold())
    assert body.is_over()
    assert not body.is_success()


def test_a_world_that_diverges_is_over_at_once_and_no_success():
    body = world()
    body.begin(0)
    body.step(np.array([2 * GOAL_RAD, np.nan], np.float32))
    assert body.is_over()
    assert not body.is_success()


def test_what_other_suites_lack_is_refused_by_name():
    load_plugins([PLUGIN])
    assert isinstance(open_body(setup()), ForeignWorld)
    with pytest.raises(UserError, match=r"is of a task of followers: there is no model of its robot"):
        build_env(setup())
    with pytest.raises(UserError, match="nothing is held out of an environment that is not ours"):
        open_body(setup(space="unseen"))
    action = {**manifest()["action"], "control_dt": 0.02}
    with pytest.raises(UserError, match=r"does not fit this task: action\.control_dt: wanted 0\.02"):
        open_body(setup(action=action))


def test_a_bundle_of_another_suites_task_is_deployed_onto_that_suite(tmp_path, capsys):
    # patient with a busy machine: at its 100 Hz pictures would be missed
    optics = {"front": {**manifest()["optics"]["front"], "rate_hz": 20.0}}
    ages_s = {"proprio": 0.4, "front": 0.4}
    bundle = make_bundle(tmp_path / "b.robokd", **CONFIGS, optics=optics, ages_s=ages_s)
    words = [f"bundle={bundle.path}", f"plugins=[{PLUGIN}]", f"runs={tmp_path}", "episodes=2"]
    words += ["robot.reply_timeout_s=10"]
    assert main(["deploy", *words]) == 0
    with open(capsys.readouterr().out.strip().splitlines()[-1], encoding="utf-8") as file:
        summary = json.load(file)
    assert summary["sim"] == "followers"
    assert summary["success"]["rate"] == 1.0  # its policy creeps towards the goal
    assert summary["robot_log"]["outcomes"] == [True, True]
    assert summary["ticks"] >= 2 * GOAL_RAD / 0.001
    assert not summary["robot_log"]["violations"]
