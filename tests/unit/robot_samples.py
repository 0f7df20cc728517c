"""A tiny bundle, its graph, and a robot that lives in the test's process."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from robokd.sim2real.robot import Reading

from robokd.export.bundle import read_bundle, write_bundle
from robokd.export.parity import Sample, write_samples
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term, to_dict

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


def manifest() -> dict:
    return {
        "task": "tiny", "task_config": {"part": "tiny"}, "sim_config": {"part": "mujoco"},
        "renderer_config": {"part": "raster"}, "corrupt_config": {"part": "clean"},
        "created": "2026-01-01T00:00:00+00:00", "robokd": "0.1.0",
        "action": to_dict(action_spec()), "observations": {"proprio": to_dict(proprio_spec())},
        "cameras": {"front": to_dict(camera_spec())}, "control_dt": DT,
        "graph": described(),
        "start": {"joint_pos_lower": [-0.3, -0.3], "joint_pos_upper": [0.3, 0.3]},
        "ages_s": {"proprio": 0.1, "front": 0.1}, "lineage": [], "evaluation": {}, "parity_max_abs": 0.0,
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
    """Follows commands exactly; what it is told to break, breaks at `break_at`."""

    def __init__(self, clock, *, horizon: int = 5, break_at: int = 10**9, broken=None) -> None:
        self.clock, self.horizon, self.break_at, self.broken = clock, horizon, break_at, broken
        self.position = self.held = np.zeros(2, np.float32)
        self.written: list[np.ndarray] = []
        self.reads = self.stops = self.episode = 0
        self.is_connected = False
        self.calls: list[str] = []

    def connect(self):
        self.is_connected = True
        self.calls.append("connect")

    def log_into(self, folder):
        self.calls.append("log_into")

    def begin(self, episode):
        self.calls.append(f"begin {episode}")
        self.episode, self.reads, self.position = episode, 0, np.zeros(2, np.float32)
        self.held = self.position

    def read(self):
        self.reads += 1
        now = self.clock()
        channels = {
            "joint_pos": self.position.copy(), "joint_vel": np.zeros(2, np.float32),
            "joint_target": self.held.copy(),
            "front": np.full((1, 3, 4), 2, np.uint8),
        }  # fmt: skip
        captured = dict.fromkeys(channels, now)
        if self.reads >= self.break_at:
            self.broken(channels, captured)
        done = self.reads > self.horizon
        return Reading(
            sequence=self.reads, channels=channels, captured_s=captured, is_done=done, is_success=done,
        )  # fmt: skip

    def write(self, command):
        self.written.append(command.copy())
        self.position = self.held = command.copy()
        return command

    def stop(self):
        self.stops += 1
        self.calls.append("stop")

    def report(self):
        return {"commands": len(self.written)}


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
