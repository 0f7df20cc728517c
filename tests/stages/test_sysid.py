"""Sysid as a stage: an excitation's log in, parameters and a file for teach out."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytest.importorskip("mujoco")
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from reach_bundle import make_reach_bundle, write_episode, write_excitation
from robokd.sim2real import identify
from robokd.sim2real import sysid as module
from robokd.sim2real.excitation import KINDS, Motion, Room, plan
from robokd.sim2real.log import Log
from robokd.sim2real.loop import Pace
from robokd.sim2real.sysid import account, randomisation, say, sysid
from robokd.tasks.reach import Reach
from sysid_engine import needs_engine

from robokd import UserError, registry
from robokd.config import compose, dump
from robokd.deploying import LEAST_MOTIONS
from robokd.export.bundle import read_bundle
from robokd.overrides import compose_stage, flatten, parse
from robokd.schemas import SCHEMAS

PLANTED = {
    "friction_nm": np.array([1.0, 0.9, 0.8, 0.7, 0.5, 0.5, 0.4]),
    "damping": np.array([4.0, 4.0, 3.0, 3.0, 1.0, 1.0, 0.8]),
    "armature": np.array([0.3, 0.3, 0.25, 0.25, 0.15, 0.15, 0.12]),
    "stiffness": np.array([1.05, 0.95, 1.05, 0.95, 1.05, 0.95, 1.05]),
    "delay_s": np.array([0.0153]),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_reach_bundle(tmp_path_factory.mktemp("bundle") / "reach.robokd")


@pytest.fixture(scope="module")
def log(bundle, tmp_path_factory):
    found = read_bundle(bundle)
    start = found.manifest["start"]
    room = Room.of(
        found.action, (np.array(start["joint_pos_lower"]), np.array(start["joint_pos_upper"])), 0.5
    )
    motions = plan(room, room.base, motions=3, motion_s=4.0, seed=0)
    return write_excitation(tmp_path_factory.mktemp("log") / "log.mcap", found, motions, PLANTED)


@pytest.fixture(scope="module")
def action():
    return Reach(registry.find("task", "reach")()).action_spec()


def found_with(delay_s, low_s, high_s):
    """A fit of the planted numbers but for the delay, which is known to within an interval."""
    value, low, high = (PLANTED | {"delay_s": np.array([one])} for one in (delay_s, low_s, high_s))
    return identify.Fit(value=value, low=low, high=high, unsure=(), lag_s=0.06)


def config(bundle, tmp_path, *more):
    return compose("sysid", [f"bundle={bundle}", f"runs={tmp_path / 'runs'}", *more])


def as_found(path, stage):
    """The stage's configuration with the file's values, as `task=reach` and a saved part give them."""
    kind = SCHEMAS[stage]
    data = yaml.safe_load(Path(path).read_text())
    words = [parse("task=reach", stage, kind)]
    if stage == "distill":
        words += [parse("teacher=parent", stage, kind), parse("parent=somewhere", stage, kind)]
    return compose_stage(stage, kind, [*words, *flatten(kind, data)], [])


@needs_engine
def test_a_log_gives_parameters_delay_validation_and_a_file_that_teach_takes(bundle, log, tmp_path, capsys):
    summary = json.loads(sysid(config(bundle, tmp_path, f"log={log}")).read_text())
    assert "fitting 7 joints to 3 motions" in capsys.readouterr().err
    assert abs(summary["delay_s"]["value"] - PLANTED["delay_s"][0]) < 1e-3
    assert summary["passed"] is True
    assert summary["worse_held_out"] == []
    held_out = [one for one in summary["motions"] if one["held_out"]]
    assert [one["name"] for one in held_out] == ["chirp_2"]
    assert max(held_out[0]["after_rad"]) < 0.0025, "the noise is left"
    assert min(held_out[0]["before_rad"]) > 0.004
    # eight seconds tell the joints whose servos are weak; the rest needs the usual six motions
    for i in (4, 5, 6):
        row = summary["joints"][f"joint{i + 1}"]
        assert row["friction_nm"]["value"] == pytest.approx(PLANTED["friction_nm"][i], rel=0.15)
        assert row["damping"]["value"] == pytest.approx(PLANTED["damping"][i], rel=0.15)
        assert row["armature"]["value"] == pytest.approx(PLANTED["armature"][i], rel=0.15)
    task = as_found(summary["randomise"], "teach").task
    assert len(task.friction_low) == 7
    assert task.delay_s[0] < PLANTED["delay_s"][0] < task.delay_s[1] < 0.04
    assert all(low < high for low, high in zip(task.damping_low, task.damping_high, strict=True))
    assert dump(as_found(summary["randomise"], "distill").task) == dump(task)


def test_ranges_hold_the_intervals_and_are_never_a_point(action):
    value = {name: one.copy() for name, one in PLANTED.items()}
    low = {name: one * 0.99 for name, one in value.items()} | {"damping": value["damping"] * 0.5}
    found = identify.Fit(value=value, low=low, high=value, unsure=(), lag_s=0.06)
    task = yaml.safe_load(randomisation(found, action))["task"]
    assert task["damping_low"] == pytest.approx(value["damping"] * 0.5, rel=1e-3)
    assert task["friction_low"] == pytest.approx(value["friction_nm"] * 0.975, rel=1e-3)
    assert task["friction_high"] == pytest.approx(value["friction_nm"] * 1.025, rel=1e-3)
    assert task["stiffness"] == pytest.approx([0.95 * 0.975, 1.05 * 1.025], rel=1e-3)


@pytest.mark.parametrize("delay_s", [0.0, 0.0153, 0.0395, 0.04])
def test_a_delay_that_may_be_longer_than_a_control_step_is_written_as_teach_takes_it(
    tmp_path, action, delay_s
):
    # reach is commanded every 0.04 s
    path = tmp_path / "randomise.yaml"
    path.write_text(randomisation(found_with(delay_s, max(delay_s - 0.01, 0.0), delay_s + 0.01), action))
    task = as_found(path, "teach").task
    assert Reach(task).parameters()["delay_s"].high == task.delay_s[1:]
    assert task.delay_s[1] == pytest.approx(min(delay_s + 0.01, 0.04))


def test_a_control_step_that_rounding_would_exceed_is_kept(action):
    slow = dataclasses.replace(action, control_dt=1 / 15)  # 0.0666…, rounded to 0.06667
    task = yaml.safe_load(randomisation(found_with(0.06, 0.05, 0.07), slow))["task"]
    assert task["delay_s"][1] == 1 / 15


def test_a_delay_that_is_longer_than_a_control_step_is_refused_in_one_line(action):
    told = account(found_with(0.0512, 0.05, 0.052), [], action)
    assert told["passed"] is False
    with pytest.raises(UserError, match=r"felt 0\.0512 s late, .* at most its control step of 0\.04 s"):
        say(told, action.control_dt, Path("summary.json"))
    assert account(found_with(0.0395, 0.03, 0.05), [], action)["passed"] is True


@needs_engine
def test_a_log_without_motions_and_one_of_another_bundle_are_refused(bundle, log, tmp_path):
    found = read_bundle(bundle)
    plain = write_episode(tmp_path / "log.mcap", found, {})
    with pytest.raises(UserError, match="holds no whole excitation; `robokd sysid` without log= makes one"):
        sysid(config(bundle, tmp_path, f"log={plain}"))
    other = make_reach_bundle(tmp_path / "other.robokd", created="2026-02-02T00:00:00+00:00")
    with pytest.raises(UserError, match="was made with a bundle of sha256"):
        sysid(config(other, tmp_path, f"log={log}"))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="does not exist"):
        sysid(config(bundle, tmp_path, f"log={tmp_path / 'none.mcap'}"))


def test_values_that_no_excitation_can_have_are_refused(bundle, tmp_path):
    with pytest.raises(UserError, match=r"amplitude must be in \(0, 1\], got 2"):
        config(bundle, tmp_path, "amplitude=2.0")
    with pytest.raises(UserError, match=r"motions must be >= 3, got 2: every third is held out"):
        config(bundle, tmp_path, "motions=2")
    with pytest.raises(UserError, match=r"motion_s must be >= 1 s, got 0\.5: shorter ones tell nothing"):
        config(bundle, tmp_path, "motion_s=0.5")
    assert len(KINDS) == LEAST_MOTIONS


def connected(link):
    """Stands for `started`: hands whose robot is connected by this link."""

    @contextlib.contextmanager
    def started(*_):
        yield SimpleNamespace(link=link, plant=None)

    return started


def refused(*_):
    raise UserError("arm=true is refused")


@pytest.mark.parametrize(
    ("started", "said"),
    [
        (refused, "arm=true is refused"),
        (connected(SimpleNamespace(is_shadow=True)), "the guard is in shadow"),
    ],
)
def test_a_robot_that_may_not_move_leaves_no_run(bundle, tmp_path, monkeypatch, started, said):
    monkeypatch.setattr(module, "started", started)
    with pytest.raises(UserError, match=said):
        module.record(config(bundle, tmp_path), read_bundle(bundle), None)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out={}/none/x.yaml"], r"cannot write .*x\.yaml: there is no folder .*none$"),
        (["robot=replay", "robot.log={}/a.mcap"], r"robot=replay plays a log.*: log=.*a\.mcap$"),
        (["robot=replay"], r"robot=replay plays a log.*: log=<an earlier sysid run>$"),
    ],
)
def test_what_cannot_end_well_is_refused_before_the_bundle_is_even_opened(tmp_path, words, said):
    absent = tmp_path / "absent.robokd"
    with pytest.raises(UserError, match=said):
        sysid(config(absent, tmp_path, *(word.format(tmp_path) for word in words)))
    assert not (tmp_path / "runs").exists()


def test_an_imported_bundle_is_refused_before_anything_moves(tmp_path):
    imported = make_reach_bundle(tmp_path / "imported.robokd", sim_config={"part": "imported"})
    with pytest.raises(UserError, match=r"imported\.robokd was imported: there is no simulation of it"):
        sysid(config(imported, tmp_path))


def test_every_motion_is_told_as_it_begins(tmp_path, capsys):
    still = np.zeros((2, 7))
    motions = [
        Motion(name=name, kind=name, seed=0, is_held_out=False, targets=still)
        for name in ("approach", "steps", "chirp")
    ]
    link = SimpleNamespace(command=lambda target: None, listen=lambda: None, states=[])
    log = Log(tmp_path / "log.mcap", {"task": "reach"})
    module.drive(motions, link, log, Pace(0.001))
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "going to where the motions begin: approach, 0 s", "motion 1 of 2: steps, 0 s",
        "motion 2 of 2: chirp, 0 s",
    ]  # fmt: skip
