"""What stages on the robot's side begin with: who vouches for a bundle, and what a run is made from."""

import hashlib

import pytest
from robokd.sim2real.deploy import deploy
from robokd.sim2real.faults import faults
from robokd.sim2real.simulate import simulate
from robokd.sim2real.stage import create_run, open_to_run
from robokd.sim2real.sysid import sysid
from robot_samples import make_bundle

from robokd import UserError
from robokd.config import compose

UNSIGNED = "is not signed: nobody answers for what it does"


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "a.robokd")


def test_a_bundle_that_nobody_vouches_for_is_warned_of_in_simulation_and_refused_on_hardware(bundle, capsys):
    assert open_to_run(bundle.path, is_hardware=False).sha256 == bundle.sha256
    assert f"warning: {bundle.path} {UNSIGNED}" in capsys.readouterr().err
    with pytest.raises(UserError, match=UNSIGNED):
        open_to_run(bundle.path, is_hardware=True)


@pytest.mark.parametrize("stage", [deploy, faults, simulate, sysid])
def test_every_stage_that_runs_a_bundle_says_that_nobody_vouches_for_it(bundle, tmp_path, capsys, stage):
    # each refuses this one for its own reason, but only after
    words = {
        "deploy": ["task=other"],
        "faults": ["cases=[none]"],
        "simulate": ["command_timeout_s=0"],
        "sysid": [],
    }
    name = stage.__name__
    with pytest.raises((UserError, KeyError)):  # KeyError: there is no such task
        stage(compose(name, [f"bundle={bundle.path}", f"runs={tmp_path / 'runs'}", *words[name]]))
    assert UNSIGNED in capsys.readouterr().err


def test_the_policy_beside_is_vouched_for_like_the_first(bundle, tmp_path, monkeypatch, capsys):
    from robokd.sim2real import deploy as module

    def stop_here(*_):
        raise UserError("far enough")

    monkeypatch.setattr(module, "Shadow", stop_here)
    other = make_bundle(tmp_path / "other.robokd")
    with pytest.raises(UserError, match="far enough"):
        deploy(compose("deploy", [f"bundle={bundle.path}", f"shadow={other.path}", f"runs={tmp_path}"]))
    assert f"warning: {other.path} {UNSIGNED}" in capsys.readouterr().err


def test_hardware_refuses_what_nobody_vouches_for_also_beside(bundle, tmp_path, monkeypatch):
    from robokd.sim2real import deploy as module

    def opened(path, sha256="", *, is_hardware):
        assert is_hardware
        if path == "other.robokd":
            raise UserError("asked for the second, too")
        return bundle

    monkeypatch.setattr(module, "open_to_run", opened)
    words = [f"bundle={bundle.path}", "shadow=other.robokd", "robot=unitree", "duration_s=1"]
    with pytest.raises(UserError, match="asked for the second, too"):
        deploy(compose("deploy", [*words, f"runs={tmp_path}"]))


def test_a_run_is_made_from_its_bundle_and_from_a_log_where_there_is_one(bundle, tmp_path):
    config = compose("gap", ["log=log.mcap", "seed=3", f"runs={tmp_path / 'runs'}"])
    log = tmp_path / "log.mcap"
    log.write_bytes(b"log")
    made = {"path": str(bundle.path), "sha256": bundle.sha256}
    run = create_run(config, "gap", bundle, log=log)
    assert (run.task, run.stage, run.seed, run.config["log"]) == ("tiny", "gap", 3, "log.mcap")
    assert run.lineage["parents"] == [
        {"path": str(log), "sha256": hashlib.sha256(b"log").hexdigest()},
        made,
    ]
    replayed = compose("replay", ["log=log.mcap", f"runs={tmp_path / 'runs'}"])
    run = create_run(replayed, "replay", bundle)
    assert (run.seed, run.lineage["parents"]) == (0, [made])
