"""`robokd faults` on the simulated robot, shortened; `make soak` is the whole of it."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from robokd.sim2real.faults import process_faults
from robokd.sim2real.tap import KINDS
from test_deploy import LONG_S, STEP, write

from robokd.cli import main

QUICK = ("drop", "policy_kill")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundle") / "long.robokd", STEP, horizon_s=LONG_S)


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
