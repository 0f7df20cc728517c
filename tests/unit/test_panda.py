"""The arm against its published numbers: kinematics by its DH table, limits, servo behaviour."""

import mujoco
import numpy as np
import pytest
from robokd.tasks.bodies import panda

from robokd.specs import ActionSpec, Limits, decode

# the maker's table (Craig's convention): a (m), d (m), alpha (rad) for each joint, then the flange
DH = [
    (0, 0.333, 0), (0, 0, -np.pi / 2), (0, 0.316, np.pi / 2), (0.0825, 0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2), (0, 0, np.pi / 2), (0.088, 0, np.pi / 2),
]  # fmt: skip
FLANGE_M, TIP_FROM_FLANGE_M = 0.107, 0.1034


@pytest.fixture(scope="module")
def model():
    spec = panda.spec()
    spec.option.timestep = 0.008
    return spec.compile()


def forward_kinematics(angles):
    """Tip position by the DH table alone."""
    pose = np.eye(4)
    for (a, d, alpha), theta in zip(DH, angles, strict=True):
        ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        step = [
            [ct, -st, 0, a],
            [st * ca, ct * ca, -sa, -d * sa],
            [st * sa, ct * sa, ca, d * ca],
            [0, 0, 0, 1],
        ]
        pose = pose @ np.array(step)
    return (pose @ np.array([0, 0, FLANGE_M + TIP_FROM_FLANGE_M, 1]))[:3]


def simulate(model, start, targets, substeps=5):
    """Joint positions after each physics step of a staircase of targets, and the data."""
    data = mujoco.MjData(model)
    data.qpos[:7] = start
    data.ctrl[7:] = panda.GRIPPER_OPEN_M
    positions = []
    for target in targets:
        data.ctrl[:7] = target
        for _ in range(substeps):
            mujoco.mj_step(model, data)
            positions.append(data.qpos[:7].copy())
    return np.array(positions), data


def with_gains(model, factor):
    scaled = panda.spec().compile()
    scaled.opt.timestep = model.opt.timestep
    scaled.actuator_gainprm[:7, 0] *= factor
    scaled.actuator_biasprm[:7, 1:3] *= factor
    return scaled


def test_tip_follows_the_published_kinematics(model):
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    for angles in [panda.HOME, *rng.uniform(panda.LOWER, panda.UPPER, (20, 7))]:
        data.qpos[:7] = angles
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site("tip").xpos, forward_kinematics(angles), atol=1e-6)


def test_tip_is_between_the_fingers(model):
    data = mujoco.MjData(model)
    for opening in (0.0, 0.02, 0.04):
        data.qpos[7:] = opening
        mujoco.mj_kinematics(model, data)
        left, right = data.geom("pad_left").xpos, data.geom("pad_right").xpos
        # a pad is 0.0075 m thick on each side of its centre, so closed fingers touch
        assert np.linalg.norm(left - right) == pytest.approx(2 * opening + 2 * 0.0075, abs=1e-9)
        across = np.abs((data.site("tip").xpos - (left + right) / 2) @ data.body("hand").xmat.reshape(3, 3))
        assert across[0] < 1e-9
        assert across[1] < 1e-9
        assert across[2] < 0.005


def test_limits_are_the_published_ones(model):
    ids = [model.joint(name).id for name in panda.JOINTS]
    assert ids == list(range(7))
    np.testing.assert_array_equal(model.jnt_range[ids], np.transpose([panda.LOWER, panda.UPPER]))
    assert panda.LOWER == (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973)
    assert panda.UPPER == (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
    assert panda.VELOCITY == (2.175,) * 4 + (2.61,) * 3
    assert panda.ACCELERATION == (15, 7.5, 10, 12.5, 15, 20, 20)
    np.testing.assert_array_equal(model.actuator_forcerange[:7, 1], panda.TORQUE)
    np.testing.assert_array_equal(model.actuator_forcerange[:7, 0], np.negative(panda.TORQUE))
    np.testing.assert_allclose(model.actuator_ctrlrange[:7], model.jnt_range[:7], atol=1e-12)
    fingers = [model.joint(name).id for name in panda.FINGERS]
    np.testing.assert_array_equal(model.jnt_range[fingers], [panda.GRIPPER_LIMITS_M] * 2)


def test_home_is_within_the_limits_and_the_names_exist(model):
    assert all(low < at < high for low, at, high in zip(panda.LOWER, panda.HOME, panda.UPPER, strict=True))
    for body in ("base", "hand"):
        assert model.body(body).id > 0
    assert [model.actuator(i).name for i in range(model.nu)] == [*panda.JOINTS, *panda.FINGERS]


def test_masses_are_plausible_and_shapes_few_and_simple(model):
    # arm about 17.5 kg with the hand's 0.73 kg; the maker says "about 18 kg"
    assert 16 < model.body_mass.sum() < 19
    assert model.ngeom <= 25
    assert set(model.geom_type.tolist()) <= {2, 3, 5, 6}  # sphere, capsule, cylinder, box


def test_arm_stands_still_without_gravity_sag(model):
    positions, data = simulate(model, panda.HOME, [panda.HOME] * 25)
    assert np.abs(positions - panda.HOME).max() < 1e-9
    assert np.abs(data.qpos[7:] - panda.GRIPPER_OPEN_M).max() < 1e-9


def test_arm_does_not_touch_itself_but_touches_the_floor():
    spec = panda.spec()
    spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1])
    model = spec.compile()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    floor_contacts = 0
    for angles in rng.uniform(panda.LOWER, panda.UPPER, (200, 7)):
        data.qpos[:7] = angles
        mujoco.mj_forward(model, data)
        assert (data.contact.geom == model.geom("floor").id).any(axis=1).all()
        floor_contacts += data.ncon
    assert floor_contacts > 0


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_servo_follows_a_staircase_within_60_ms(model, factor):
    frequency, dt, count = 0.5, model.opt.timestep, 250
    times = np.arange(count) * 5 * dt
    targets = np.array(panda.HOME) + 0.15 * (1 - np.cos(2 * np.pi * frequency * times))[:, None]
    positions, _ = simulate(with_gains(model, factor), panda.HOME, targets)
    stairs = np.repeat(targets, 5, axis=0)
    wave = np.exp(-2j * np.pi * frequency * dt * np.arange(1, len(stairs) + 1))
    phases = [np.angle(wave @ (signal - signal.mean(0))) for signal in (stairs, positions)]
    lag_s = (phases[0] - phases[1]) / (2 * np.pi * frequency)
    assert (lag_s > 0.02).all()
    assert (lag_s < 0.06).all()


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3])
def test_servo_is_stable_under_rough_commands(model, factor):
    spec = ActionSpec(
        names=panda.JOINTS, scale=(0.06,) * 7, control_dt=0.04, position_lower=panda.LOWER,
        position_upper=panda.UPPER, velocity=panda.VELOCITY, acceleration=panda.ACCELERATION,
    )  # fmt: skip
    limits, rng = Limits.of(spec), np.random.default_rng(1)
    anchor, rate = np.array(panda.HOME, np.float32), np.zeros(7, np.float32)
    targets = []
    for step in range(150):
        if step % 8 == 0:
            action = rng.choice([-1.0, 1.0], 7)
        anchor, rate = decode(action, anchor, rate, limits)
        targets.append(anchor)
    targets += [anchor] * 25
    positions, data = simulate(with_gains(model, factor), panda.HOME, targets)
    assert np.abs(positions - np.repeat(targets, 5, axis=0)).max() < 0.25
    assert np.abs(data.qvel[:7]).max() < 0.02
    assert np.abs(positions[-1] - targets[-1]).max() < 1e-3
