"""A bundle of task reach whose policy creeps, and logs of what an arm with planted joints did."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from robokd.sim2real.log import Log, Sent, Tick
from robokd.sim2real.policy import Decision
from robokd.sim2real.replica import Rollouts, replica_of
from robokd.sim2real.robot import JointReading
from robokd.sim2real.sysid import HELD_OUT, MOTION, OVER
from robokd.sim2real.trace import Trace
from robokd.tasks.bodies import panda
from robokd.tasks.reach import Reach
from robot_samples import TYPES, described, golden, manifest

from robokd import registry
from robokd.config import dump
from robokd.export.bundle import write_bundle
from robokd.export.manifest import focal_px
from robokd.export.sight import statistics
from robokd.specs import to_dict

NOISE = 0.002  # rad; speeds five times as much


def creeping(inputs, outputs, step=0.001):
    """command = anchor + step; command_rate = rate; action = the first numbers of proprio and a pixel."""

    def values(rows):
        return [helper.make_tensor_value_info(n, TYPES[r["dtype"]], r["shape"]) for n, r in rows.items()]

    size = np.array(outputs["action"]["shape"][1:])
    numbers = {"step": np.float32(step), "zero": np.array([0]), "size": size, "one": np.array([1])}
    nodes = [
        helper.make_node("Add", ["anchor", "step"], ["command"]),
        helper.make_node("Identity", ["rate"], ["command_rate"]),
        helper.make_node("Slice", ["proprio", "zero", "size", "one"], ["action"]),
    ]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    if "front" in inputs:
        nodes[2].output[0] = "head"
        nodes += [
            helper.make_node("Cast", ["front"], ["pixels"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
            helper.make_node("Add", ["head", "mean"], ["action"]),
        ]
    made = helper.make_graph(nodes, "creep", values(inputs), values(outputs), constants)
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()


def make_reach_bundle(path, *, cameras=(), **changes):
    """Write the bundle and return its path."""
    cfg = registry.find("task", "reach")()
    task = Reach(cfg)
    action, proprio = task.action_spec(), task.obs_specs()["proprio"]
    specs = {name: task.camera_specs()[name] for name in cameras}
    row = {"shape": [1, 7], "dtype": "float32"}
    inputs = {"proprio": {**row, "shape": [1, proprio.size]}}
    inputs |= {name: {"shape": [1, *one.shape], "dtype": "uint8"} for name, one in specs.items()}
    inputs |= {"anchor": row, "rate": row}
    outputs = dict.fromkeys(("command", "command_rate", "action"), row)
    data = creeping(inputs, outputs)
    random, start = np.random.default_rng(0), task.start_envelope()
    robot = {**manifest()["robot"], "home": list(panda.HOME), "torque": list(panda.TORQUE)}
    robot |= {"kp": [1450, 2150, 920, 1020, 150, 160, 110], "kd": [72, 107, 46, 51, 7.5, 8, 5.5]}
    content = manifest() | {
        "task": "reach", "task_config": dump(cfg), "sim_config": dump(registry.find("sim", "mujoco")()),
        "renderer_config": dump(registry.find("renderer", "raster")()),
        "corrupt_config": dump(registry.find("corrupt", "clean")()), "action": to_dict(action),
        "observations": {"proprio": to_dict(proprio)},
        "cameras": {name: to_dict(one) for name, one in specs.items()}, "control_dt": action.control_dt,
        "graph": described(inputs, outputs), "robot": robot,
        "optics": {
            name: {"fx": focal_px(one), "fy": focal_px(one), "cx": (one.width - 1) / 2,
                   "cy": (one.height - 1) / 2, "crop": None, "rate_hz": 25.0}
            for name, one in specs.items()
        },
        "statistics": {
            name: statistics(random.integers(0, 256, (40, *one.shape), np.uint8), one, np.arange(40) // 8,
                             flickers=True)
            for name, one in specs.items()
        },
        "latency_s": {"proprio": [0.0, 0.0], **{name: [0.0, 0.0] for name in cameras}},
        "start": {"joint_pos_lower": list(start[0]), "joint_pos_upper": list(start[1])},
        "ages_s": dict.fromkeys(("proprio", *cameras), 0.5),  # a busy machine is not what is tested
    }  # fmt: skip
    members = {"policy.onnx": data, "samples.json": golden(data, inputs)}
    write_bundle(path, content | changes, members)
    return path


def answered(bundle, planted, *, sent_s, sent, held, times, noise=NOISE, seed=0):
    """Positions and speeds (S, A) of an arm with planted joints at `times`, through noise."""
    replica = replica_of(bundle)
    rows = {name: value[None] for name, value in (replica.nominal() | planted).items()}
    still = np.broadcast_to(held, (len(times), 7))
    trace = Trace(
        name="", is_held_out=False, times_s=times, position=still, velocity=0 * still, sent_s=sent_s,
        sent=sent, held=held,
    )  # fmt: skip
    position, velocity = (one[0] for one in Rollouts(replica, 1).predict(trace, rows))
    random = np.random.default_rng(seed)
    return (
        (position + noise * random.normal(size=position.shape)).astype(np.float32),
        (velocity + 5 * noise * random.normal(size=position.shape)).astype(np.float32),
    )


def write_sents(log, sent_s, sent):
    for number, (moment, target) in enumerate(zip(sent_s, sent, strict=True), 1):
        target = target.astype(np.float32)
        log.sent(Sent(
            origin=number, sequence=number, stamp_s=moment, commanded=target, sent=target, reasons=(), rung=1,
        ))  # fmt: skip


def write_excitation(path, bundle, motions, planted):
    """The log of sysid's motions on an arm with planted joints; states at 250 Hz."""
    log = Log(path, {"task": "reach", "bundle_sha256": bundle.sha256, "robot": "mujoco"})
    held, moment = motions[0].targets[-1], 10.0
    marks, targets = [], []
    for motion in motions:
        if motion.kind != "approach":
            marks.append((moment, HELD_OUT if motion.is_held_out else MOTION, motion.name))
        targets.append(motion.targets)
        moment += len(motion.targets) * bundle.action.control_dt
    sent = np.concatenate(targets)
    sent_s = 10.0 + 0.001 + bundle.action.control_dt * np.arange(len(sent))
    times = np.arange(9.7, sent_s[-1] + 0.04, 0.004)
    position, velocity = answered(bundle, planted, sent_s=sent_s, sent=sent, held=held, times=times)
    write_sents(log, sent_s, sent)
    for row in zip(times, position, velocity, strict=True):
        log.state(
            JointReading(captured_s=row[0], position=row[1], velocity=row[2], target=np.full(7, np.nan))
        )
    for mark in [*marks, (moment, OVER, "")]:
        log.event(*mark)
    log.close()
    return path


def write_episode(path, bundle, planted, *, picture=None, ticks=60, noise=NOISE):
    """The log of a deployment's episode on an arm with planted joints."""
    dt, home = bundle.action.control_dt, np.array(panda.HOME)
    begun = 20.0 + dt * np.arange(ticks)
    sent_s = begun + 0.004
    sent = home + 0.2 * np.sin(np.linspace(0, 6, ticks))[:, None] * np.linspace(0.5, 1, 7)
    position, velocity = answered(
        bundle, planted, sent_s=sent_s, sent=sent, held=home, times=begun - 0.001, noise=noise
    )
    log = Log(path, {"task": "reach", "bundle_sha256": bundle.sha256, "robot": "mujoco"})
    log.episode(begun[0] - 0.01, 0)
    for i in range(ticks):
        target = sent[i].astype(np.float32)
        channels = {"joint_pos": position[i], "joint_vel": velocity[i], "joint_target": target}
        captured = dict.fromkeys(channels, begun[i] - 0.001)
        for camera in bundle.cameras:
            channels[camera], captured[camera] = picture(position[i]), begun[i] - 0.001
        decision = Decision(command=target, action=np.zeros(7, np.float32), inference_s=0.001, estimates={})
        log.tick(Tick(
            begun_s=begun[i], episode=0, number=i + 1, channels=channels, captured_s=captured,
            anchor=home.astype(np.float32) if i == 0 else sent[i - 1].astype(np.float32),
            rate=np.zeros(7, np.float32), decision=decision,
        ))  # fmt: skip
    write_sents(log, sent_s, sent)
    log.close()
    return path
