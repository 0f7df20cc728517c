"""The simulated robot as the guard sees it."""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from robokd.sim2real.mujoco import NEEDS, MujocoRobotCfg
from robokd.sim2real.packets import Channel, Kind, pair
from robot_samples import make_bundle

from robokd import UserError
from robokd.cli import main


def test_a_guard_that_starts_late_hears_how_the_robot_is_now(tmp_path):
    bundle, (ours, theirs) = make_bundle(tmp_path / "b.robokd"), pair()
    robot, size = Channel(theirs, bundle.action.size), bundle.action.size

    def say(captured_s: float) -> bool:
        zeros = np.zeros(size)
        return robot.send(Kind.JOINTS, captured_s=captured_s, position=zeros, velocity=zeros, target=zeros)

    said = 0
    while say(time.monotonic() - 5.0):  # nobody listens yet, until there is no room
        said += 1
    assert said > 50
    joints = MujocoRobotCfg().joints(bundle=bundle, link=ours)
    now = time.monotonic()
    later = threading.Timer(0.05, say, (now,))
    later.start()
    joints.connect()
    later.join()
    assert joints.read().captured_s == now


@pytest.mark.parametrize("package", NEEDS)
def test_a_robots_computer_without_the_simulator_is_told_what_to_install(
    tmp_path, monkeypatch, capsys, package
):
    monkeypatch.setitem(sys.modules, package, None)
    bundle = make_bundle(tmp_path / "b.robokd")
    for stage in (["deploy"], ["simulate", "protocol=unitree", "interface=lo"]):
        assert main([*stage, f"bundle={bundle.path}", f"runs={tmp_path / 'runs'}"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"the simulated robot needs the package '{package}', which is not installed" in said
        assert said.endswith("pip install 'robokd[train,mujoco]'")
    assert not (tmp_path / "runs").exists()


def test_what_was_imported_is_not_simulated(tmp_path):
    from robokd.sim2real.mujoco_host import build_env

    imported = {f"{kind}_config": {"part": "imported"} for kind in ("task", "sim", "renderer", "corrupt")}
    bundle = make_bundle(tmp_path / "b.robokd", **imported)
    why = r"b\.robokd was imported: there is no simulation of it; .*robot=ros2, unitree or replay"
    with pytest.raises(UserError, match=why):
        MujocoRobotCfg().plant(bundle=bundle, seed=0).start()
    with pytest.raises(UserError, match=why):
        build_env({**imported, "bundle": str(bundle.path)})
