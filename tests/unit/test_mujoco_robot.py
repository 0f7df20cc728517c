"""The simulated robot as the guard sees it."""

from __future__ import annotations

import threading
import time

import numpy as np
from robokd.sim2real.mujoco import MujocoRobotCfg
from robokd.sim2real.packets import Channel, Kind, pair
from robot_samples import make_bundle


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
