"""The bundle's policy on a robot: its ONNX graph under onnxruntime, on one thread.

Shapes: batch 1; A joints.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.export.parity import MAX_ABS, MEMORY, NEXT_MEMORY, errors, open_graph, read_samples
from robokd.specs import CHANNELS, RATE_UNITS, ActionSpec, ObsSpec, differences, elements

OUTPUTS = ("command", "command_rate", "action")
WARMUP_RUNS = 20
LONGEST_RUN_S = 10.0  # of a graph, before it is taken for one that never ends
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the policy says to one observation; fresh arrays."""

    command: np.ndarray  # (A,) float32, rad of joints, or rad/s and N
    action: np.ndarray  # (A,) float32 in [-1, 1]
    estimates: dict[str, np.ndarray]  # the graph's other outputs
    inference_s: float


class Policy:
    """Maps the robot's channels to a command.

    Refuses a graph that is not what the manifest says, and one that does not say here what it said at export.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._session = _open(bundle)
        _check_graph(bundle, self._session)
        self._slices = {name: _slices(bundle, spec) for name, spec in bundle.observations.items()}
        self._feeds = {
            name: np.zeros(row["shape"], row["dtype"])
            for name, row in bundle.manifest["graph"]["inputs"].items()
        }
        self._cameras, self._clock_s = tuple(bundle.cameras), bundle.manifest["clock_s"]
        self._memory = {NEXT_MEMORY + name: MEMORY + name for name in _memory(bundle)}  # output -> input
        _check_golden(bundle, self._session)
        self._said = {
            name: np.zeros(row["shape"], row["dtype"])
            for name, row in bundle.manifest["graph"]["outputs"].items()
        }
        self._binding = bound(self._session, self._feeds, self._said)
        for _ in range(WARMUP_RUNS):
            self._session.run_with_iobinding(self._binding)

    def begin(self) -> None:
        """Begin an episode: nothing is remembered."""
        for name in self._memory.values():
            self._feeds[name].fill(0)

    def act(
        self,
        channels: dict[str, np.ndarray],
        anchor: np.ndarray,
        rate: np.ndarray,
        clock: Callable[[], float],
    ) -> Decision:
        """Return the decision from the channels, the last sent target (A,) and its rate (A,)."""
        terms = {**channels, "command": anchor, "command_rate": rate}
        if self._clock_s:
            terms["clock"] = dial(channels["elapsed"], self._clock_s)
        for group, slices in self._slices.items():
            for term, where in slices.items():
                _fill(self._feeds[group][0, where], terms[term], term)
        for camera in self._cameras:
            _fill(self._feeds[camera][0], channels[camera], camera)
        _fill(self._feeds["anchor"][0], anchor, "anchor")
        _fill(self._feeds["rate"][0], rate, "rate")
        started = clock()
        self._session.run_with_iobinding(self._binding)
        seconds = clock() - started
        values = {name: row[0].copy() for name, row in self._said.items()}
        for after, before in self._memory.items():
            np.copyto(self._feeds[before][0], values[after])
        estimates = {name: value for name, value in values.items() if name not in (*OUTPUTS, *self._memory)}
        return Decision(
            command=values["command"], action=values["action"], estimates=estimates, inference_s=seconds
        )


def dial(elapsed_s: np.ndarray, period_s: float) -> np.ndarray:
    """Return what a clock shows after `elapsed_s` (1,): sine and cosine of its hand's angle, (2,) float32."""
    angle = 2 * np.pi * float(elapsed_s[0]) / period_s
    return np.array([np.sin(angle), np.cos(angle)], np.float32)


def _fill(buffer: np.ndarray, value: np.ndarray, name: str) -> None:
    if value.shape != buffer.shape:  # copyto would repeat one number for all joints
        raise RuntimeError(f"channel {name!r} has shape {value.shape}, the policy wants {buffer.shape}")
    np.copyto(buffer, value, casting="same_kind")


def _open(bundle: Bundle) -> onnxruntime.InferenceSession:
    name = bundle.manifest["graph"]["member"]
    try:
        return open_graph(bundle.member(name))
    except Exception as error:  # onnxruntime's errors share no narrower class
        first = str(error).splitlines()[0]
        raise UserError(f"{bundle.path}: onnxruntime cannot run member {name!r}: {first}") from error


def bound(
    session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], said: dict[str, np.ndarray]
) -> Any:  # noqa: ANN401  (onnxruntime has no name for it)
    """Bind arrays to inputs and outputs: a run reads and writes them where they are."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, array in said.items():
        binding.bind_output(name, "cpu", 0, array.dtype.type, list(array.shape), array.ctypes.data)
    return binding


def _check_graph(bundle: Bundle, session: onnxruntime.InferenceSession) -> None:
    """Hold the manifest's graph to the contract, and the graph to the manifest."""
    described = bundle.manifest["graph"]
    joints = {"shape": [1, bundle.action.size], "dtype": "float32"}
    inputs = {
        name: {"shape": [1, spec.size], "dtype": "float32"} for name, spec in bundle.observations.items()
    }
    for name, camera in bundle.cameras.items():
        inputs[name] = {"shape": [1, *camera.shape], "dtype": np.dtype(camera.dtype).name}
    memory = {name: described["inputs"][MEMORY + name] for name in _memory(bundle)}
    inputs |= {"anchor": joints, "rate": joints}
    inputs |= {MEMORY + name: row for name, row in memory.items()}
    outputs = {name: described["outputs"].get(name) for name in (*OUTPUTS, *map(NEXT_MEMORY.__add__, memory))}
    wanted = dict.fromkeys(OUTPUTS, joints) | {NEXT_MEMORY + name: row for name, row in memory.items()}
    rows = differences(inputs, described["inputs"], "graph.inputs")
    rows += differences(wanted, outputs, "graph.outputs")
    rows += differences(described["inputs"], _describe(session.get_inputs()), "policy.onnx inputs")
    rows += differences(described["outputs"], _describe(session.get_outputs()), "policy.onnx outputs")
    if rows:
        raise UserError(f"{bundle.path}: the graph does not fit its contract: {'; '.join(rows[:3])}")


def _memory(bundle: Bundle) -> list[str]:
    """Return the parts of the policy's memory, by name."""
    inputs = bundle.manifest["graph"]["inputs"]
    return sorted(name.removeprefix(MEMORY) for name in inputs if name.startswith(MEMORY))


def _check_golden(bundle: Bundle, session: onnxruntime.InferenceSession) -> None:
    """Repeat the proof of the export on this machine, with its own onnxruntime."""
    described = bundle.manifest["graph"]
    try:
        samples = read_samples(bundle.member(described["samples"]), described)
    except ValueError as error:
        what = f"member {described['samples']!r} does not hold golden vectors of the graph"
        raise UserError(f"{bundle.path}: {what}: {error}") from None
    names = list(described["outputs"])
    for number, sample in enumerate(samples):
        said = dict(zip(names, _run(bundle, session, names, sample.inputs), strict=True))
        for name, error in errors(sample.outputs, said, bundle.action.control_dt).items():
            if not error <= MAX_ABS:
                raise UserError(
                    f"{bundle.path}: onnxruntime {onnxruntime.__version__} on this machine is off by "
                    f"{error:.1e} from what {name!r} of golden vector {number} was at export, at most "
                    f"{MAX_ABS:.0e} may be"
                )


def _run(
    bundle: Bundle, session: onnxruntime.InferenceSession, names: list[str], feeds: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """Return what a graph says; UserError where it cannot be run, or runs for longer than LONGEST_RUN_S."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # what is wrong is said once
    timer = threading.Timer(LONGEST_RUN_S, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        return list(map(np.asarray, session.run(names, feeds, options)))
    except Exception as error:  # onnxruntime's errors share no narrower class
        why = f"it ran for more than {LONGEST_RUN_S:g} s" if options.terminate else str(error).splitlines()[0]
        raise UserError(f"{bundle.path}: onnxruntime cannot run the policy: {why:.200}") from None
    finally:
        timer.cancel()


def _describe(nodes: Sequence[Any]) -> dict[str, Any]:
    return {
        node.name: {"shape": list(node.shape), "dtype": _DTYPES.get(node.type, node.type)} for node in nodes
    }


def terms_of(action: ActionSpec) -> dict[str, str]:
    """Return what 1-D groups may be made of -> unit; what is of joints only where there are any.

    As in CHANNELS the unit of joints is rad; those that slide, a gripper's, are in m all the same.
    """
    units = dict.fromkeys(("rad",) if action.joints else action.units)
    own = {"command": ", ".join(units), "command_rate": ", ".join(RATE_UNITS.get(one, "") for one in units)}
    told = {name: unit for name, unit in CHANNELS.items() if action.joints or not name.startswith("joint_")}
    return told | own | {"clock": "1"}


def _slices(bundle: Bundle, spec: ObsSpec) -> dict[str, slice]:
    """Return where each term of a group stands, after checking that this runtime has it, joint by joint."""
    units, action = terms_of(bundle.action), bundle.action
    for term in spec.terms:
        if term.name not in units:
            got, known = f"{term.name!r} of {spec.group}", ", ".join(units)
            raise UserError(f"{bundle.path}: the policy reads {got}. This runtime has: {known}")
        wanted = elements(term.name, action.names)
        if term.elements != wanted:
            got = f"{term.name!r} of {', '.join(term.elements)}, this runtime has it of {', '.join(wanted)}"
            raise UserError(f"{bundle.path}: the policy reads {got}")
        if term.unit != units[term.name]:
            wanted = f"{term.name!r} in {term.unit!r}, this runtime has it in {units[term.name]}"
            raise UserError(f"{bundle.path}: the policy reads {wanted}")
    return spec.slices()
