"""Gap as a stage: a deployment's log against the simulation of the same commands."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from reach_bundle import make_reach_bundle, write_episode
from robokd.sim2real.gap import difference, gap, joint_gap
from robokd.sim2real.log import Log
from robokd.sim2real.mujoco_host import World

from robokd import UserError
from robokd.config import compose
from robokd.export.bundle import read_bundle
from robokd.specs import CameraSpec


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_reach_bundle(tmp_path_factory.mktemp("bundle") / "reach.robokd")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    return make_reach_bundle(tmp_path_factory.mktemp("seeing") / "reach.robokd", cameras=("front",))


def config(log, bundle, tmp_path, *more):
    return compose("gap", [f"log={log}", f"bundle={bundle}", f"runs={tmp_path / 'runs'}", *more])


def test_an_arm_that_is_the_model_differs_by_its_sensors_noise_only(bundle, tmp_path):
    log = write_episode(tmp_path / "log.mcap", read_bundle(bundle), {}, noise=0.001)
    summary = json.loads(gap(config(log, bundle, tmp_path)).read_text())
    assert summary["passed"] is True
    assert summary["episodes"] == 1
    for row in summary["joints"].values():
        assert 0.0005 < row["rms_rad"] < 0.0015
        assert row["max_rad"] < 0.006


def test_an_arm_that_lags_and_sticks_does_not_pass_and_is_told_by_its_joints(bundle, tmp_path, capsys):
    planted = {"friction_nm": np.array([0, 0, 0, 0, 0, 0, 9.0]), "delay_s": np.array([0.0])}
    log = write_episode(tmp_path / "log.mcap", read_bundle(bundle), planted)
    with pytest.raises(UserError, match=r"the simulation is not what the robot did: joint7; joint_rad=0.02"):
        gap(config(log, bundle, tmp_path))
    assert "joint7: rms" in capsys.readouterr().err
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    assert json.loads(summary.read_text())["passed"] is False
    assert json.loads(gap(config(log, bundle, tmp_path, "joint_rad=0.5")).read_text())["passed"] is True


def test_pictures_are_compared_with_what_the_simulation_sees(seeing, tmp_path):
    found = read_bundle(seeing)
    parts = ("task_config", "sim_config", "renderer_config", "corrupt_config", "action", "observations",
             "cameras", "robot")  # fmt: skip
    world = World({
        **{name: found.manifest[name] for name in parts}, "bundle": str(seeing), "seed": 0, "space": "seen",
    })  # fmt: skip
    world.begin(0)

    def picture(joints):
        world.env.sim.get("qpos").numpy()[0, :7] = joints
        world.env.sim.forward()
        return world.env.observe()["front"][0].numpy().copy()

    log = write_episode(tmp_path / "same.mcap", found, {}, picture=picture, ticks=12, noise=1e-5)
    summary = json.loads(gap(config(log, seeing, tmp_path)).read_text())
    assert summary["pictures"]["front"]["mean"] < 0.01
    assert summary["pictures"]["front"]["count"] == 12

    def dark(joints):
        return np.zeros_like(picture(joints))

    log = write_episode(tmp_path / "dark.mcap", found, {}, picture=dark, ticks=12, noise=1e-5)
    with pytest.raises(UserError, match=r"not what the robot did: front; joint_rad=0\.02 and picture=0\.1"):
        gap(config(log, seeing, tmp_path))


def test_a_log_without_episodes_or_without_the_pictures_is_refused(bundle, seeing, tmp_path):
    found = read_bundle(bundle)
    empty = Log(tmp_path / "empty.mcap", {"task": "reach", "bundle_sha256": found.sha256, "robot": "mujoco"})
    empty.close()
    with pytest.raises(UserError, match="holds no episode with commands and joints in it"):
        gap(config(tmp_path / "empty.mcap", bundle, tmp_path))
    with pytest.raises(UserError, match="was made with a bundle of sha256"):
        gap(config(tmp_path / "empty.mcap", seeing, tmp_path))
    with pytest.raises(UserError, match="does not exist"):
        gap(config(tmp_path / "none.mcap", bundle, tmp_path))


def test_an_imported_bundle_is_refused_as_there_is_no_simulation_of_it(tmp_path):
    imported = make_reach_bundle(tmp_path / "imported.robokd", sim_config={"part": "imported"})
    about = {"task": "reach", "bundle_sha256": read_bundle(imported).sha256, "robot": "mujoco"}
    Log(tmp_path / "log.mcap", about).close()
    with pytest.raises(UserError, match=r"imported\.robokd was imported: there is no simulation of it"):
        gap(config(tmp_path / "log.mcap", imported, tmp_path))
    assert not (tmp_path / "runs").exists()


def test_errors_of_joints_are_root_mean_squares_and_largest():
    # joint a: errors 0.03 and -0.04: sqrt((9 + 16) / 2) = 3.5355 hundredths
    rows = joint_gap(("a", "b"), np.array([[0.03, 0.0], [-0.04, 0.01]]), 0.02)
    assert rows["a"] == {"rms_rad": pytest.approx(0.035355, rel=1e-4), "max_rad": 0.04, "passed": False}
    assert rows["b"]["passed"] is True


@pytest.mark.parametrize(
    ("encoding", "one", "other", "wanted"),
    [
        ("depth_u8", 0, 51, 0.2),
        ("depth_f16", 1.0, 1.5, 0.25),
        ("segment_i16", 3, 4, 1.0),
        ("rgb_u8", 255, 0, 1.0),
    ],
)
def test_pictures_differ_by_a_share_of_their_range(encoding, one, other, wanted):
    spec = CameraSpec(name="front", width=4, height=3, encoding=encoding, far_m=2.0)
    left, right = (np.full(spec.shape, value, spec.dtype) for value in (one, other))
    assert difference(left, right, spec) == pytest.approx(wanted)
    assert difference(left, left, spec) == 0
