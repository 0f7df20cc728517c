"""Identification: needs the extras mujoco and sysid."""

import dataclasses

import numpy as np
import pytest
from robokd.sim2real.excitation import Room, plan
from robokd.sim2real.trace import Trace, delay_s
from robokd.tasks.bodies import panda

from robokd import UserError
from robokd.specs import ActionSpec

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("mujoco.batch")
from robokd.sim2real import identify  # noqa: E402
from robokd.sim2real.replica import BOUNDS, Replica, Rollouts  # noqa: E402
from sysid_engine import needs_engine  # noqa: E402

ARM = """<mujoco><option integrator="implicitfast" gravity="0 0 0"/>
<default><joint armature="0.1" axis="0 0 1"/><geom contype="0" conaffinity="0" type="capsule"/></default>
<worldbody>
<body><joint name="shoulder"/><geom size="0.04" fromto="0 0 0 0.4 0 0" mass="3"/>
<body pos="0.4 0 0"><joint name="elbow"/><geom size="0.03" fromto="0 0 0 0.3 0 0" mass="1.5"/></body></body>
</worldbody>
<actuator><position joint="shoulder" kp="900" kv="45"/><position joint="elbow" kp="150" kv="8"/></actuator>
</mujoco>"""
SMALL = ActionSpec(
    names=("shoulder", "elbow"), scale=(0.06, 0.06), control_dt=0.04, position_lower=(-2.0, -2.0),
    position_upper=(2.0, 2.0), velocity=(2.0, 2.0), acceleration=(10.0, 15.0),
)  # fmt: skip
NOISE = 0.002  # rad; speeds five times as much, as the tasks have it


def small_arm(dt=0.004):
    model = mujoco.MjModel.from_xml_string(ARM)
    return Replica.of(model, SMALL.names, np.zeros(2), np.zeros(2), dt)


def panda_arm(dt):
    model = panda.spec().compile()
    qpos = model.qpos0.copy()
    qpos[:7] = panda.HOME
    ctrl = np.zeros(model.nu)
    ctrl[7:] = panda.GRIPPER_OPEN_M
    return Replica.of(model, panda.JOINTS, qpos, ctrl, dt)


def planted_in(replica, planted):
    """The replica with a model that MuJoCo compiled with the planted numbers: none of ours wrote them."""
    spec = mujoco.MjSpec.from_string(ARM) if len(replica.names) == 2 else panda.spec()
    for i, name in enumerate(replica.names):
        joint = spec.joint(name)
        joint.frictionloss, joint.armature = planted["friction_nm"][i], planted["armature"][i]
        joint.damping = [planted["damping"][i], 0, 0] if np.ndim(joint.damping) else planted["damping"][i]
        servo = spec.actuators[int(replica.actuators[i])]
        servo.gainprm[0] *= planted["stiffness"][i]
        servo.biasprm[1:3] *= planted["stiffness"][i]
    return dataclasses.replace(replica, model=spec.compile())


def recorded(replica, action, planted, *, motions=3, motion_s=5.0, seed=0, noise=NOISE, rate_hz=250.0):
    """What a robot with these parameters did: sampled at rate_hz, commands with jitter, delayed, noisy."""
    random = np.random.default_rng(seed)
    base = replica.qpos[replica.positions]
    room = Room.of(action, (base - 0.26, base + 0.26), 0.5)
    rollouts = Rollouts(planted_in(replica, planted), 1)
    nominal = {name: value[None] for name, value in planted_in(replica, planted).nominal().items()}
    nominal["delay_s"] = planted["delay_s"][None]
    found = []
    for motion in plan(room, base, motions=motions, motion_s=motion_s, seed=seed)[1:]:
        sent_s = (
            5
            + action.control_dt * np.arange(len(motion.targets))
            + random.uniform(0, 5e-4, len(motion.targets))
        )
        times = np.arange(sent_s[0] - 0.4, sent_s[-1], 1 / rate_hz)
        still = np.broadcast_to(base, (len(times), len(base)))
        trace = Trace(
            name=motion.name, is_held_out=motion.is_held_out, times_s=times, position=still,
            velocity=0 * still, sent_s=sent_s, sent=motion.targets, held=base,
        )  # fmt: skip
        position, velocity = (rows[0] for rows in rollouts.predict(trace, nominal))
        found.append(dataclasses.replace(
            trace, position=position + noise * random.normal(size=position.shape),
            velocity=velocity + 5 * noise * random.normal(size=position.shape),
        ))  # fmt: skip
    return found


def small_truth():
    return {
        "friction_nm": np.array([0.6, 0.25]), "damping": np.array([3.0, 0.8]),
        "armature": np.array([0.2, 0.12]), "stiffness": np.array([1.1, 0.92]), "delay_s": np.array([0.0137]),
    }  # fmt: skip


def check_recovered(found, planted):
    for name, wanted in planted.items():
        if name == "delay_s":
            assert abs(found.value[name] - wanted)[0] < 1e-3, found.value[name]
        else:
            np.testing.assert_allclose(found.value[name], wanted, rtol=0.1, err_msg=name)


@needs_engine
def test_planted_friction_damping_armature_stiffness_and_delay_are_recovered_through_noise():
    # half of the usual noise: with all of it the two stiff joints want the usual minute of motion
    replica, planted = small_arm(0.008), small_truth()
    traces = recorded(replica, SMALL, planted, motion_s=10.0, noise=NOISE / 2)
    found = identify.fit(replica, [one for one in traces if not one.is_held_out])
    check_recovered(found, planted)
    assert not found.unsure
    for name in BOUNDS:
        assert (found.low[name] <= found.value[name]).all()
        assert (found.value[name] <= found.high[name]).all()
        # 95 % intervals: four of them widths wide is sure
        width = (found.high[name] - found.low[name]) / 2
        assert (np.abs(found.value[name] - planted[name]) < 2 * width + 0.01 * planted[name]).all(), name
    held_out = [one for one in identify.score(replica, traces, found) if one.is_held_out]
    assert held_out
    for one in held_out:
        assert (one.after < 1.15 * NOISE / 2).all(), (
            "nothing but the noise is left on motions it has not seen"
        )
        assert (one.before > 2 * one.after).all()


@needs_engine
@pytest.mark.slow
def test_the_arm_of_reach_is_recovered_within_a_tenth_and_a_millisecond():
    action = ActionSpec(
        names=panda.JOINTS, scale=(0.06,) * 7, control_dt=0.04, position_lower=panda.LOWER,
        position_upper=panda.UPPER, velocity=panda.VELOCITY, acceleration=panda.ACCELERATION,
    )  # fmt: skip
    random = np.random.default_rng(0)
    planted = {
        "friction_nm": random.uniform(0.3, 1.0, 7),
        "damping": random.uniform(1.0, 5.0, 7) * [1, 1, 1, 1, 0.4, 0.4, 0.4],
        "armature": random.uniform(0.1, 0.3, 7), "stiffness": random.uniform(0.9, 1.1, 7),
        "delay_s": np.array([0.0221]),
    }  # fmt: skip
    replica = panda_arm(0.004)
    traces = recorded(replica, action, planted, motions=9, motion_s=12.0)
    found = identify.fit(replica, [one for one in traces if not one.is_held_out])
    check_recovered(found, planted)


@needs_engine
def test_a_robot_that_does_not_follow_is_refused():
    replica = small_arm()
    still = [
        dataclasses.replace(
            one, position=0 * one.position + np.random.default_rng(0).normal(size=one.position.shape)
        )
        for one in recorded(replica, SMALL, small_truth())
    ]
    with pytest.raises(ValueError, match="the motion does not follow the commands: correlation"):
        identify.fit(replica, still[:1])


@needs_engine
def test_a_motion_without_rest_before_it_is_refused():
    replica = small_arm()
    trace = recorded(replica, SMALL, small_truth())[0]
    late = trace.times_s > trace.sent_s[0] - 0.01
    cut = dataclasses.replace(
        trace, times_s=trace.times_s[late], position=trace.position[late], velocity=trace.velocity[late]
    )
    with pytest.raises(ValueError, match="samples at rest before its first command, wanted 10 or more"):
        identify.fit(replica, [cut])


def test_a_joint_without_a_servo_is_refused():
    model = mujoco.MjModel.from_xml_string(ARM.replace('<position joint="elbow" kp="150" kv="8"/>', ""))
    with pytest.raises(UserError, match="joint elbow has 0 servos in the model; one can be fitted"):
        Replica.of(model, SMALL.names, np.zeros(2), np.zeros(1), 0.004)


@pytest.mark.parametrize("planted", [0.0, 0.0031, 0.0137, 0.0449])
@pytest.mark.parametrize("rate_hz", [25.0, 100.0, 250.0])
def test_a_delay_is_found_to_a_tenth_of_a_millisecond_between_the_samples(planted, rate_hz):
    random = np.random.default_rng(1)
    frequencies, phases = random.uniform(0.2, 2.5, (8, 3)), random.uniform(0, 6, (8, 3))

    def motion(times):
        return np.sin(2 * np.pi * frequencies[:, None] * times[None, :, None] + phases[:, None]).sum(0) * 0.05

    dense, times = np.arange(0, 10, 1e-3), np.arange(0.01, 9.9, 1 / rate_hz)
    measured = motion(times - planted) + 0.002 * random.normal(size=(len(times), 3))
    found = delay_s([(dense, motion(dense))], [(times, measured)])
    assert abs(found - planted) < (1e-3 if rate_hz < 100 else 3e-4)


def test_signals_that_say_nothing_have_no_delay():
    times = np.arange(0, 5, 0.004)
    with pytest.raises(ValueError, match="nothing moves"):
        delay_s([(times, np.zeros((len(times), 1)))], [(times, np.zeros((len(times), 1)))])
    with pytest.raises(ValueError, match="too short to find a delay in"):
        delay_s([(times[:50], times[:50, None])], [(times[:50], times[:50, None])])


def test_the_command_is_averaged_over_the_steps_of_physics():
    trace = Trace(
        name="one", is_held_out=False, times_s=np.array([0.0, 1.0]), position=np.zeros((2, 1)),
        velocity=np.zeros((2, 1)), sent_s=np.array([0.25, 0.5]), sent=np.array([[1.0], [2.0]]),
        held=np.array([0.0]),
    )  # fmt: skip
    # steps of 0.2 s; 0 until 0.25, 1 until 0.5, then 2: 0; 0.15 * 1 / 0.2; (0.1 * 1 + 0.1 * 2) / 0.2; 2
    np.testing.assert_allclose(trace.command(0.0, 0.2, 4)[:, 0], [0.0, 0.75, 1.5, 2.0])
    assert trace.command(-1.0, 0.5, 2).tolist() == [[0.0], [0.0]]


def test_a_trace_that_cannot_be_is_refused():
    good = {"name": "one", "is_held_out": False, "times_s": np.array([0.0, 1.0]),
            "position": np.zeros((2, 1)), "velocity": np.zeros((2, 1)),
            "sent_s": np.array([0.2, 0.5]), "sent": np.zeros((2, 1)),
            "held": np.zeros(1)}  # fmt: skip
    with pytest.raises(ValueError, match="motion one: position is not finite"):
        Trace(**{**good, "position": np.array([[0.0], [np.nan]])})
    with pytest.raises(ValueError, match="sent_s must be two or more rising times"):
        Trace(**{**good, "sent_s": np.array([0.5, 0.5])})


def test_a_delay_moves_the_prediction_by_itself():
    replica = small_arm()
    trace = recorded(replica, SMALL, small_truth())[0]
    rows = {name: np.stack([value, value]) for name, value in replica.nominal().items()}
    rows["delay_s"] = np.array([[0.0], [0.012]])
    now, later = Rollouts(replica, 2).predict(trace, rows)[0]
    # three samples of 4 ms later
    np.testing.assert_allclose(later[3:], now[:-3], atol=1e-9)
