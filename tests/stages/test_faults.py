"""`robokd faults` on the simulated robot, shortened; `make soak` is the whole of it."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from log_samples import ABOUT, tick
from robokd.sim2real import faults as module
from robokd.sim2real.faults import (
    ENDING,
    _judged,
    _landing,
    _messages,
    _overslept_s,
    _slack_s,
    _unguarded,
    _unrested,
    _unseen,
    process_faults,
)  # fmt: skip
from robokd.sim2real.ladder import Rung
from robokd.sim2real.log import ENDING as LOG_ENDING
from robokd.sim2real.log import Log
from robokd.sim2real.log_format import CHUNK_BYTES
from robokd.sim2real.tap import KINDS
from robokd.sim2real.victim import FULL_AFTER_BYTES, Victim, torn
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
        assert case["landed"] <= case["injected"]
        assert case["limit_excess"] == case["non_finite"] == 0
    assert cases["drop"]["landed"] >= 2
    assert cases["policy_kill"]["landed"] == 1
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


@pytest.mark.parametrize(
    ("kind", "came", "landed"),
    [
        ("drop", {19: 1, 21: 1, 22: 1}, True),
        ("drop", {19: 1, 22: 1}, True),  # the guard's own command came between
        ("drop", {19: 1, 20: 1, 21: 1}, False),
        ("drop", {19: 2, 21: 1, 22: 1}, False),
        ("drop", {21: 1, 22: 1}, None),  # the one before came too late as well
        ("drop", {19: 1}, None),
        ("drop", {19: 1, 20: 1}, False),  # whatever else is missing
        ("duplicate", {19: 1, 20: 1, 21: 1}, True),
        ("duplicate", {19: 1, 20: 2, 21: 1}, False),
        ("nan", {19: 1}, True),  # nothing comes after
        ("nan", {}, None),
    ],
)
def test_a_fault_has_landed_where_its_command_alone_is_missing_and_who_was_late_is_not_known(
    kind, came, landed
):
    assert _landing(kind, 20, Counter(came)) is landed


def test_only_a_fault_of_the_cameras_is_given_the_time_until_a_picture_is_too_old(tmp_path):
    bundle = make_bundle(tmp_path / "a.robokd", ages_s={"proprio": 7.0, "front": 5.0}, control_dt=0.01)
    slack = {name: _slack_s(fault, bundle) for name, fault in process_faults().items()}
    assert slack.pop("camera_kill") == slack.pop("camera_stop") == pytest.approx(5.1)
    assert slack.pop("disk_full") > 1.0  # until the log is written
    assert all(seconds == pytest.approx(0.1) for seconds in slack.values())


def victim_of(stop=None, stop_reason=None, **account):
    return SimpleNamespace(
        period_s=DT,
        folder=Path("kill/trial"),
        guard_account=lambda: {"stop": {"kind": stop}, **account},
        summary=lambda: {"stop_reason": stop_reason},
    )


def slowed(count=2) -> list:
    times = [MOMENT + n * DT for n in range(1, count + 1)]
    return [[0, 20 + n, when, [0.21], when, 0, int(Rung.SLOW)] for n, when in enumerate(times, 1)]


TRIAL = {"moment_s": MOMENT, "reaction_s": DT, "overslept_s": 0.0}


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
    why = _unrested(fault, ["stale_front"], TRIAL, victim_of(stop, "stale_front"), log_of(rows))
    assert len(why) == len(said)
    assert all(part in row for part, row in zip(said, why, strict=True))


@pytest.mark.parametrize("told", ["guard_lost", None])  # None: it left no summary
def test_a_deployment_that_lives_is_to_say_the_same_as_its_guard(told):
    faults, log = process_faults(), log_of([*followed(), *slowed()])
    lives = [name for name, fault in faults.items() if fault.has_guard and fault.has_policy]
    assert lives == ["policy_stop", "camera_kill", "camera_stop", "disconnect", "disk_full"]
    for fault in (*(faults[name] for name in lives), *ENDING.values()):
        (why,) = _unrested(fault, [fault.stop], TRIAL, victim_of(fault.stop, told), log)
        assert why == f"the deployment stopped for {told!r}, wanted {fault.stop}"
        assert _unrested(fault, [fault.stop], TRIAL, victim_of(fault.stop, fault.stop), log) == []
    killed = faults["policy_kill"]
    assert _unrested(killed, [killed.stop], TRIAL, victim_of(killed.stop, None), log) == []


@pytest.mark.parametrize(
    ("overslept", "wanted"),
    [
        ([0.5, MOMENT + 0.6], 0.5),
        ([0.5, MOMENT + 0.2], 0.2),  # what of it came before the fault did not delay the reaction
        ([0.5, MOMENT - 0.1], 0.0),  # before the fault
        ([0.5, MOMENT + 1.1], 0.0),  # after the reaction, 1 s after the fault
        (None, 0.0),
    ],
)
def test_a_guard_is_excused_by_what_it_overslept_between_fault_and_reaction_alone(overslept, wanted):
    account = {"longest_gap_s": 5.0} | ({"overslept_s": overslept} if overslept else {})
    assert _overslept_s(account, MOMENT, 1.0) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("account", "read_s", "sent_s", "is_late"),
    [
        ({}, 0.02, 0.02, False),
        ({"longest_gap_s": 1.0}, 1.01, 1.01, True),  # a guard that is slow by itself
        ({"longest_gap_s": 1.0, "overslept_s": [0.95, MOMENT + 0.96]}, 1.01, 1.01, False),
        ({"longest_gap_s": 1.0, "overslept_s": [0.95, MOMENT - 0.1]}, 1.01, 1.01, True),
        ({"longest_gap_s": 1.0, "overslept_s": [0.5, MOMENT + 0.6]}, 1.01, 1.01, True),
        ({"longest_gap_s": 0.01}, 1.01, 0.02, False),  # a robot that reads late
        ({"longest_gap_s": 1.0, "overslept_s": [0.99, MOMENT - 5]}, 1.01, 0.02, False),  # the gap was that
        ({"longest_gap_s": 1.0}, 1.01, 0.02, True),  # a guard that sends late what it stamped in time
    ],
)
def test_a_reaction_is_late_by_all_that_is_the_guards_doing(account, read_s, sent_s, is_late):
    """3 periods are 0.12 s."""
    fault, own = process_faults()["policy_kill"], slowed()
    for row in own:
        row[2], row[4] = row[2] - DT + read_s, row[4] - DT + sent_s
    victim, log = victim_of("policy_lost", **account), log_of([*followed(), *own])
    trial = _judged(victim, log, 1, 1, MOMENT, True, [])
    why = _unrested(fault, ["policy_lost"], trial, victim, log)
    assert why == (["the guard reacted after 1.010 s, wanted 3 periods"] if is_late else [])


def test_a_trial_counts_as_unscheduled_by_an_oversleep_of_more_than_a_period():
    log = log_of([*followed(), *slowed()])  # a reaction of 0.04 s, the period
    for overslept, wanted in ((0.03, 0), (0.05, 0)):  # of the latter 0.039 s after the fault
        victim = victim_of("policy_lost", overslept_s=[overslept, MOMENT + 0.039])
        assert _judged(victim, log, 1, 1, MOMENT, True, [])["unscheduled"] == wanted
    late = [[*row[:2], row[2] + 0.1, row[3], row[4] + 0.1, *row[5:]] for row in slowed()]
    victim = victim_of("policy_lost", overslept_s=[0.05, MOMENT + 0.1])
    assert _judged(victim, log_of([*followed(), *late]), 1, 1, MOMENT, True, [])["unscheduled"] == 1


@pytest.mark.parametrize(
    ("rows", "told", "said"),
    [
        (slowed(), "non_finite", []),
        ([], "non_finite", ["two targets differ", "did not bring the robot to rest"]),
        (slowed(1), "non_finite", ["two targets differ"]),
        (slowed(), "guard_lost", ["the deployment stopped for 'guard_lost', wanted non_finite"]),
    ],
)
def test_a_command_that_is_no_number_brings_the_robot_to_rest(monkeypatch, tmp_path, rows, told, said):
    victim = MagicMock(**vars(victim_of("non_finite", told)))
    victim.__enter__.return_value = victim
    victim.notes.return_value = [{"kind": "nan", "number": 20, "moment_s": MOMENT}]
    victim.robot_log.return_value = log_of([*followed()[:-1], *rows])
    victim.wait.return_value = 3
    monkeypatch.setattr(module, "Victim", lambda *_: victim)
    bundle = SimpleNamespace(action=SimpleNamespace(control_dt=DT))
    config = SimpleNamespace(seed=0)
    why = _messages("nan", 1, config, bundle, SimpleNamespace(path=tmp_path), 0)["why"]
    assert len(why) == len(said)
    assert all(part in row for part, row in zip(said, why, strict=True))


def logged(path, numbers=(1, 2, 3)) -> int:
    """Write a log that met a full disk after it had reached the disk; return its bytes at that time."""
    log = Log(path, ABOUT)
    for number in numbers:
        log.tick(tick(number))
    log.flush()
    size = path.stat().st_size
    log._tape.end()
    log._tape.close()
    return size


def test_a_log_that_ends_properly_on_a_full_disk_is_nottorn(tmp_path):
    path = tmp_path / "log.mcap"
    assert torn(path, logged(path)) == []


@pytest.mark.parametrize(
    ("cut", "end"),
    [
        (lambda size: size, b""),  # it was not ended
        (lambda size: size // 2, b""),
        (lambda size: size - 300, LOG_ENDING),  # an end after half a record
        (lambda size: size, LOG_ENDING[:-1]),
    ],
)
def test_a_log_that_a_full_disk_tore_is_seen(tmp_path, cut, end):
    path = tmp_path / "log.mcap"
    size = logged(path)
    path.write_bytes(path.read_bytes()[: cut(size)] + end)
    assert "the log is torn" in torn(path, size)[0]


def test_a_log_that_lost_what_it_had_before_the_disk_was_full_is_seen(tmp_path):
    path = tmp_path / "log.mcap"
    logged(path)
    (why,) = torn(path, path.stat().st_size + 1)
    assert "the log is torn" in why


@pytest.mark.parametrize("numbers", [(), (1, 3), (2, 3)])
def test_a_log_without_all_its_ticks_is_seen(tmp_path, numbers):
    path = tmp_path / "log.mcap"
    (why,) = torn(path, logged(path, numbers))
    assert f"{len(numbers)} in all, wanted all from 1" in why


def test_a_log_that_is_absent_or_cannot_be_read_is_seen(tmp_path):
    path = tmp_path / "log.mcap"
    assert torn(None, 0) == ["there is no log"]
    size = logged(path)
    data = bytearray(path.read_bytes())
    data[size // 2] ^= 1
    path.write_bytes(data)
    assert "was altered" in torn(path, size)[0]


def test_a_disk_is_only_full_once_ticks_have_reached_it(tmp_path):
    path = tmp_path / "log.mcap"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        victim = SimpleNamespace(process=process, log_file=lambda: path if path.exists() else None)
        assert not Victim.fill_disk(victim)
        path.write_bytes(b"." * (CHUNK_BYTES - 1))
        assert not Victim.fill_disk(victim)
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
        path.write_bytes(b"." * CHUNK_BYTES)
        assert Victim.fill_disk(victim)
        assert victim.logged_bytes == CHUNK_BYTES
        assert resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[0] == CHUNK_BYTES + FULL_AFTER_BYTES


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
