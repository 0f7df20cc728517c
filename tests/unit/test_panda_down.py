"""The closed form of the hand that points down, against the model's own kinematics."""

import numpy as np
import pytest
import torch

mujoco = pytest.importorskip("mujoco")

from robokd.tasks.bodies import panda  # noqa: E402


def test_the_hand_points_down_where_and_as_it_is_told():
    model = panda.spec().compile()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    azimuth, out, up = rng.uniform(-0.7, 0.7, 50), rng.uniform(0.35, 0.65, 50), rng.uniform(0.01, 0.45, 50)
    tip = np.stack((out * np.cos(azimuth), out * np.sin(azimuth), up), 1)
    yaw = rng.uniform(-1.2, 1.2, 50)
    rows = panda.reach_down(torch.from_numpy(tip), torch.from_numpy(yaw)).numpy()
    assert (rows >= panda.LOWER).all()
    assert (rows <= panda.UPPER).all()
    for angles, wanted, turn in zip(rows, tip, yaw, strict=True):
        data.qpos[:7] = angles
        mujoco.mj_kinematics(model, data)
        hand = data.body("hand").xmat.reshape(3, 3)
        np.testing.assert_allclose(data.site("tip").xpos, wanted, atol=1e-9)
        np.testing.assert_allclose(hand[:, 2], [0, 0, -1], atol=1e-9)
        # at yaw 0 the fingers open along -y, whose ready pose is 0.0004 rad short of that
        np.testing.assert_allclose(hand[:2, 1], [np.sin(turn), -np.cos(turn)], atol=1e-9)
