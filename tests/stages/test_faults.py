"""`robokd faults` on the simulated robot, shortened; `make soak` is the whole of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from robokd.sim2real import faults as module
from robokd.sim2real.faults import _slack_s, _unguarded, _unrested, _unseen, process_faults
from robokd.sim2real.ladder import Rung
from robokd.sim2real.tap import KINDS
from robot_samples import make_bundle
from test_deploy import LONG_S, STEP, children, is_alive, write

from robokd import UserError
from robokd.cli import main
from robokd.config import compose
from robokd.run import Run

QUICK = ("drop", "policy_kill")
AGES_S = dict.fromkeys(("proprio", "front"), 0.5)  # for so long a fault of the cameras is not noticed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "long.robokd"
    return write(path, STEP, horizon_s=LONG_S, ages_s=AGES_S)


def run(bundle, tmp_path, *words) -> tuple[int, dict]:
    out = tmp_path / "faults.json"
    said = [f"bundle={bundle}", f"runs={tmp_path / 'runs'}", f"out={out}", *words]
    return main(["faults", *said]), json.loads(out.read_text()) if out.exists() else {}


def test_faults_land_and_the_robot_keeps_its_limits(bundle, tmp_path, capsys):
    code, found = run(bundle, tmp_path, f"cases=[{','.join(QUICK)}]", "messages=2", "processes=1")
    cases = {case["name"]: case for case in found["cases"]}
    assert code == 0, capsys.readouterr()
    assert list(cases) == list(QUICK)
    for case in cases.values():
        assert case["ok"], case["why"]
        assert case["landed"] == case["injected"] > 0
        assert case["limit_excess"] == case["non_finite"] == 0
    assert cases["policy_kill"]["reaction_s"]["max"] < 2  # a busy machine


@pytest.mark.slow
def test_every_fault_lands(bundle, tmp_path):
    code, found = run(bundle, tmp_path, "messages=3", "processes=1")
    assert code == 0
    assert [case["name"] for case in found["cases"]] == [*KINDS, *process_faults()]


def test_a_case_that_does_not_exist_is_refused(bundle, tmp_path, capsys):
    assert run(bundle, tmp_path, "cases=[drap]")[0] == 2
    assert "Did you mean 'drop'?" in capsys.readouterr().err


def test_hardware_is_not_broken(bundle, tmp_path, capsys):
    assert run(bundle, tmp_path, "robot=unitree")[0] == 2
    assert "faults are not for hardware" in capsys.readouterr().err


def test_a_camera_cannot_fail_where_there_is_none(tmp_path, monkeypatch):
    blind = SimpleNamespace(path="blind.robokd", cameras={})
    monkeypatch.setattr(module, "open_to_run", lambda *_, **__: blind)
    with pytest.raises(UserError, match=r"no case of blind\.robokd named 'camera_kill'"):
        module.faults(compose("faults", ["bundle=blind.robokd", "cases=[camera_kill]"]))


MOMENT = 10.0
DT = 0.04


def followed(*, origin=True, step=0.01, until=MOMENT) -> list:
    """What a robot is told until a time: commands of the policy, the last of number 20, or the guard's."""
    count = round((until - MOMENT) / DT) + 20
    return [
        [0, n, when, [step * n], when, n if origin else 0, int(Rung.FOLLOW)]
        for n, when in ((n, MOMENT + (n - 20.5) * DT) for n in range(1, count + 1))
    ]


def log_of(rows, **more) -> dict:
    return {"commands_received": rows, **more}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (followed(), []),
        (followed(until=MOMENT + 0.5), ["the policy's commands went on"]),
        (followed(step=0.0), ["the policy did not move it before"]),
        (followed(until=MOMENT - 1.0), ["the policy did not move it before"]),
        (followed(origin=False), ["the policy did not move it before"]),
        ([], ["the policy did not move it before"]),
    ],
)
def test_a_fault_that_the_robots_log_does_not_show_has_not_landed(rows, said):
    assert [why.partition(": ")[2] for why in _unseen(log_of(rows), 20, MOMENT, 0.3)] == said


def test_only_a_fault_of_the_cameras_is_given_the_time_until_a_picture_is_too_old(tmp_path):
    bundle = make_bundle(tmp_path / "a.robokd", ages_s={"proprio": 7.0, "front": 5.0}, control_dt=0.01)
    slack = {name: _slack_s(fault, bundle) for name, fault in process_faults().items()}
    assert slack.pop("camera_kill") == slack.pop("camera_stop") == pytest.approx(5.1)
    assert slack.pop("disk_full") > 1.0  # until the log is written
    assert all(seconds == pytest.approx(0.1) for seconds in slack.values())


def victim_of(stop=None, stop_reason=None):
    return SimpleNamespace(
        period_s=DT,
        guard_account=lambda: {"stop": {"kind": stop}},
        summary=lambda: {"stop_reason": stop_reason},
    )


def slowed(count=2) -> list:
    return [[0, 20 + n, MOMENT + n * DT, [0.21], 0.0, 0, int(Rung.SLOW)] for n in range(1, count + 1)]


TRIAL = {"moment_s": MOMENT, "reaction_s": DT, "unscheduled": 0}


@pytest.mark.parametrize(
    ("stop", "rows", "said"),
    [
        ("stale_front", [*followed(), *slowed()], []),
        ("stale_joints", [*followed(), *slowed()], ["stopped for 'stale_joints', wanted stale_front"]),
        (None, [*followed(), *slowed()], ["stopped for None, wanted stale_front"]),
        ("stale_front", [*followed(), *slowed(1)], ["two targets differ"]),
        ("stale_front", followed(), ["two targets differ", "did not bring the robot to rest"]),
    ],
)
def test_a_stop_for_another_reason_and_a_robot_that_is_not_brought_to_rest_are_no_proof(stop, rows, said):
    fault = process_faults()["camera_kill"]
    why = _unrested(fault, ["stale_front"], TRIAL, victim_of(stop), log_of(rows))
    assert len(why) == len(said)
    assert all(part in row for part, row in zip(said, why, strict=True))


def test_a_guard_is_only_gone_where_the_deployment_says_so_and_the_robot_noticed():
    fault, alone = process_faults()["guard_kill"], {"command_timeouts_s": [MOMENT + 0.5]}
    gone = victim_of(stop_reason="guard_lost")
    assert _unguarded(fault, ["guard_lost"], TRIAL, gone, alone) == []
    assert "did not notice" in _unguarded(fault, ["guard_lost"], TRIAL, gone, {})[0]
    other = victim_of(stop_reason="stale_front")
    assert "stopped for 'stale_front'" in _unguarded(fault, ["guard_lost"], TRIAL, other, alone)[0]


def row_of(name) -> dict:
    return {
        "name": name, "ok": True, "landed": 1, "injected": 1, "reaction_s": {"max": None}, "stop_s": None,
        "unscheduled": 0, "why": [],
    }  # fmt: skip


def test_what_was_done_before_ctrl_c_is_kept_and_not_done_again(bundle, tmp_path, monkeypatch, capsys):
    done, limit = [], 1

    def case(name, *_):
        if len(done) == limit:
            raise KeyboardInterrupt
        done.append(name)
        return row_of(name)

    monkeypatch.setattr(module, "_case", case)
    out = tmp_path / "out.json"
    words = [f"bundle={bundle}", f"runs={tmp_path / 'runs'}", "cases=[drop,nan]", f"out={out}"]
    assert main(["faults", *words]) == 130
    (path,) = (tmp_path / "runs").iterdir()
    assert f"go on with: robokd resume run={path}" in capsys.readouterr().err
    assert [one["name"] for one in json.loads((path / "cases.json").read_text())["cases"]] == ["drop"]
    assert not out.exists()
    limit = 2
    assert main(["resume", f"run={path}"]) == 0
    assert done == ["drop", "nan"]
    assert [one["name"] for one in json.loads(out.read_text())["cases"]] == ["drop", "nan"]
    assert Run.open(path).read_summary()["failed"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_is_told_to_end_leaves_no_process_of_a_deployment(bundle, tmp_path, number):
    said = [f"bundle={bundle}", f"runs={tmp_path / 'runs'}", "cases=[policy_kill]"]
    stage = subprocess.Popen([sys.executable, "-m", "robokd", "faults", *said], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    try:
        while not (family := [(pid, one) for pid in children(stage.pid) for one in children(pid)]):
            assert stage.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(stage.pid, number)
        _, told = stage.communicate(timeout=60)
    finally:
        stage.kill()
        stage.wait()
    assert stage.returncode == 130
    assert b"go on with: robokd resume" in told
    while any(is_alive(pid) for pair in family for pid in pair):
        assert time.monotonic() < deadline
        time.sleep(0.02)
