"""A tiny bundle, its graph, and a robot that lives in the test's process."""

import dataclasses
import functools

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from robokd.sim2real.robot import Command, JointReading

from robokd.export.bundle import read_bundle, write_bundle
from robokd.export.manifest import QUATERNION_ORDER, UNITS, focal_px
from robokd.export.parity import Sample, write_samples
from robokd.export.sight import statistics
from robokd.specs import ELEMENTS, ActionSpec, CameraSpec, ObsSpec, Term, to_dict

JOINTS = ("shoulder", "elbow")
DT = 0.01


def action_spec() -> ActionSpec:
    return ActionSpec(
        names=JOINTS, scale=(0.01, 0.02), control_dt=DT,
        position_lower=(-1.0, -0.5), position_upper=(1.0, 0.7),
        velocity=(1.0, 2.0), acceleration=(20.0, 10.0),
    )  # fmt: skip


def proprio_spec() -> ObsSpec:
    units = {"joint_pos": "rad", "joint_vel": "rad/s", "command_rate": "rad/s"}
    terms = tuple(Term(name=name, elements=JOINTS, unit=unit) for name, unit in units.items())
    return ObsSpec(group="proprio", role="proprio", terms=terms)


def felt_spec() -> ObsSpec:
    """Proprio that reads an IMU too."""
    imu = {"gyro": "rad/s", "gravity": "1"}
    terms = tuple(Term(name=name, elements=("x", "y", "z"), unit=unit) for name, unit in imu.items())
    return ObsSpec(group="proprio", role="proprio", terms=(*proprio_spec().terms, *terms))


def led_spec() -> ObsSpec:
    """Proprio that reads a velocity command and a clock too."""
    led = {"velocity_command": "m/s, m/s, rad/s", "clock": "1"}
    terms = tuple(Term(name=name, elements=ELEMENTS[name], unit=unit) for name, unit in led.items())
    return ObsSpec(group="proprio", role="proprio", terms=(*terms, *proprio_spec().terms))


def camera_spec() -> CameraSpec:
    return CameraSpec(name="front", width=4, height=3, position_m=(0.1, 1 / 3, np.pi))


GRAPH_INPUTS = {
    "proprio": {"shape": [1, 6], "dtype": "float32"},
    "front": {"shape": [1, 1, 3, 4], "dtype": "uint8"},
    "anchor": {"shape": [1, 2], "dtype": "float32"},
    "rate": {"shape": [1, 2], "dtype": "float32"},
}
GRAPH_OUTPUTS = {
    "command": {"shape": [1, 2], "dtype": "float32"},
    "command_rate": {"shape": [1, 2], "dtype": "float32"},
    "action": {"shape": [1, 2], "dtype": "float32"},
}
TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def graph(
    step: float = 0.001, inputs=None, outputs=None, size=2, *, head="proprio", is_broken=False
) -> bytes:
    """command = anchor + step; command_rate = rate; action = the first numbers of `head` plus the mean pixel.

    A broken one commands NaN as soon as it sees anything: golden vectors, which are black, do not show it.
    """
    inputs, outputs = inputs or GRAPH_INPUTS, outputs or GRAPH_OUTPUTS

    def values(rows):
        return [
            helper.make_tensor_value_info(name, TYPES[r["dtype"]], r["shape"]) for name, r in rows.items()
        ]

    def constant(name, value):
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("Add", ["anchor", "step"], ["sum" if is_broken else "command"]),
        helper.make_node("Identity", ["rate"], ["command_rate"]),
        helper.make_node("Slice", [head, "zero", "size", "one"], ["head"]),
        helper.make_node("Cast", ["front"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Add", ["head", "mean"], ["action"]),
    ]
    if is_broken:
        nodes += [
            helper.make_node("Neg", ["mean"], ["dark"]), helper.make_node("Sqrt", ["dark"], ["trap"]),
            helper.make_node("Add", ["sum", "trap"], ["command"]),
        ]  # fmt: skip
    constants = [
        constant("step", np.float32(step)), constant("zero", np.array([0])),
        constant("size", np.array([size])), constant("one", np.array([1])),
    ]  # fmt: skip
    made = helper.make_graph(nodes, "tiny", values(inputs), values(outputs), constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@functools.cache
def front_statistics() -> dict:
    """Those of noise in five episodes."""
    images = np.random.default_rng(0).integers(0, 256, (40, *camera_spec().shape), np.uint8)
    return statistics(images, camera_spec(), np.arange(40) // 8, flickers=True)


def manifest() -> dict:
    return {
        "task": "tiny", "task_config": {"part": "tiny"}, "sim_config": {"part": "mujoco"},
        "renderer_config": {"part": "raster"}, "corrupt_config": {"part": "clean"},
        "created": "2026-01-01T00:00:00+00:00", "robokd": "0.1.0",
        "action": to_dict(action_spec()), "observations": {"proprio": to_dict(proprio_spec())},
        "cameras": {"front": to_dict(camera_spec())}, "control_dt": DT,
        "robot": {
            "kp": [40.0, 30.0], "kd": [2.0, 1.5], "torque": [9.0, 8.0], "torque_rate": None, "jerk": None,
            "sag": None,
            "home": [0.0, 0.0], "quaternion_order": QUATERNION_ORDER, "units": UNITS,
        },
        "optics": {
            "front": {
                "fx": focal_px(camera_spec()), "fy": focal_px(camera_spec()), "cx": 1.5, "cy": 1.0,
                "crop": None, "rate_hz": 1 / DT,
            }
        },
        "statistics": {"front": front_statistics()},
        "latency_s": {"proprio": [0.0, 0.0], "front": [0.0, 0.02]},
        "graph": described(),
        "start": {"joint_pos_lower": [-0.3, -0.3], "joint_pos_upper": [0.3, 0.3]},
        "ages_s": {"proprio": 0.1, "front": 0.1}, "lineage": [], "evaluation": {}, "parity_max_abs": 0.0,
        "clock_s": 0.0,
    }  # fmt: skip


def described(inputs=None, outputs=None) -> dict:
    """What a manifest says of the tiny graph."""
    inputs, outputs = inputs or GRAPH_INPUTS, outputs or GRAPH_OUTPUTS
    return {"member": "policy.onnx", "samples": "samples.json", "inputs": inputs, "outputs": outputs}


def golden(data: bytes, inputs=None) -> bytes:
    """What a graph says here and now to joints anywhere and a black picture."""
    generator = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(data)
    names = [node.name for node in session.get_outputs()]
    samples = []
    for _ in range(3):
        feeds = {
            name: (generator.standard_normal(row["shape"]) * (row["dtype"] == "float32")).astype(row["dtype"])
            for name, row in (inputs or GRAPH_INPUTS).items()
        }
        samples.append(Sample(inputs=feeds, outputs=dict(zip(names, session.run(names, feeds), strict=True))))
    return write_samples(samples)


def make_bundle(path, *, data: bytes | None = None, samples: bytes | None = None, **changes):
    """Write the tiny bundle with some manifest fields changed, and read it."""
    data = graph() if data is None else data
    members = {"policy.onnx": data, "samples.json": golden(data) if samples is None else samples}
    write_bundle(path, {**manifest(), **changes}, members)
    return read_bundle(path)


class FakeRobot:
    """Joints that are where they were told to be, at once; what a test sets breaks."""

    stop_key = "any"

    def __init__(
        self, clock, *, is_hardware: bool = False, command_timeout_s: float | None = 0.5, position=(0.0, 0.0)
    ) -> None:
        self.clock, self.is_hardware, self.command_timeout_s = clock, is_hardware, command_timeout_s
        self.position = self.held = np.array(position, np.float32)
        self.commands: list[Command] = []
        self.arrived_s: list[float] = []
        self.calls: list[str] = []  # but for read and write
        self.reads = 0
        self.changes: dict = {}  # of what it reads
        self.is_stuck = False  # the joints do not follow
        self.read_error: Exception | None = None
        self.write_error: Exception | None = None
        self.answer = lambda target: target  # what it says that it sent

    def connect(self):
        self.calls.append("connect")

    def read(self):
        self.reads += 1
        if self.read_error is not None:
            raise self.read_error
        reading = JointReading(
            captured_s=self.clock(), position=self.position.copy(), velocity=np.zeros(2, np.float32),
            target=self.held.copy(), sequence=len(self.commands),
        )  # fmt: skip
        return dataclasses.replace(reading, **self.changes)

    def write(self, command):
        if self.write_error is not None:
            raise self.write_error
        self.commands.append(command)
        self.arrived_s.append(self.clock())
        sent = np.asarray(self.answer(command.target), np.float32)
        self.held = sent.copy()
        if not self.is_stuck:
            self.position = sent.copy()
        return sent

    def stop(self):
        self.calls.append("stop")


class FakeClock:
    """A monotonic clock that only sleep and reads move."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick, self.slept = 100.0, tick, []

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
