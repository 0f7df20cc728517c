"""The proof that a graph says what the evaluated policy says, on samples of real episodes. No torch.

The export makes the proof before it writes a bundle, and puts some of the samples into it: the golden
vectors, on which the robot's computer repeats the proof with its own onnxruntime before anything moves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from robokd.files import parse_json

MAX_ABS = 1e-5  # rad for commands and for a rate's share of one, 1 for actions, the estimates' own units
NOWHERE = "/nonexistent/robokd"
LARGE = 4.0  # what is larger, which no joint angle is, differs by its share: a thrust of 12 N is 3 of 4
RATE = "command_rate"  # the output in rad/s
# a policy that remembers has an input and an output for each part of its memory: zeros begin an episode, and
# what comes out of a step goes into the next
MEMORY, NEXT_MEMORY = "memory_", "next_memory_"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One control step, batch 1: {name: (1, ...)} of the graph's inputs, and of the outputs it must give."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def describe(sample: Sample) -> dict[str, Any]:
    """Return what a manifest says of a graph with such inputs and outputs."""

    def rows(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {
            name: {"shape": list(value.shape), "dtype": value.dtype.name} for name, value in values.items()
        }

    return {
        "member": "policy.onnx", "samples": "samples.json", "inputs": rows(sample.inputs),
        "outputs": rows(sample.outputs),
    }  # fmt: skip


def errors(
    wanted: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray], control_dt: float
) -> dict[str, float]:
    """Return the largest absolute difference of each output.

    `command_rate` counts as what it adds to a target in one control period: rate * control_dt, in rad. In
    rad/s, one unit in the last place of a float32 target (2.4e-7 at 3 rad) would be 6e-6 of the 1e-5 allowed.
    A number beyond LARGE counts as if it were LARGE: its difference is divided by as much.
    """
    found = {}
    for name, value in wanted.items():
        unit = control_dt if name == RATE else 1.0
        size = np.maximum(1.0, np.abs(value) * unit / LARGE)
        found[name] = float((np.abs(value - got[name]) * unit / size).max())
    return found


def open_graph(graph: bytes) -> onnxruntime.InferenceSession:
    """Return a graph as a robot runs it: on one thread that does not spin while it waits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # a spinning worker would take a core from the robot's driver
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # weights that lie in other files are in no hash and under no signature: there is no such folder
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
    options.log_severity_level = 4  # what is wrong is said once, by who catches it
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def parity(graph: bytes, samples: Sequence[Sample], control_dt: float) -> dict[str, float]:
    """Return the largest error of each output over the samples, the graph run as on a robot: one thread."""
    session = open_graph(graph)
    names = [output.name for output in session.get_outputs()]
    worst = dict.fromkeys(names, 0.0)
    for sample in samples:
        got = dict(zip(names, map(np.asarray, session.run(names, sample.inputs)), strict=True))
        for name, error in errors(sample.outputs, got, control_dt).items():
            worst[name] = float(np.maximum(worst[name], error))  # unlike max(), keeps a NaN
    return worst


def strided(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return `count` samples evenly spaced over all (all, where there are no more)."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples)))
    return [samples[round(place)] for place in places]


def write_samples(samples: Sequence[Sample]) -> bytes:
    """Return samples as JSON; every number comes back bit for bit."""

    def flat(rows: dict[str, np.ndarray]) -> dict[str, list[float]]:
        return {name: value.flatten().tolist() for name, value in rows.items()}

    rows = [{"inputs": flat(one.inputs), "outputs": flat(one.outputs)} for one in samples]
    return json.dumps(rows).encode()


def read_samples(data: bytes, graph: Mapping[str, Any]) -> list[Sample]:
    """Return what `write_samples` wrote, shaped as a manifest's `graph` says; ValueError unless it fits."""
    rows = parse_json(data)
    if not isinstance(rows, list) or not rows:
        raise ValueError("there is none")

    def shaped(side: str, row: dict[str, Any]) -> dict[str, np.ndarray]:
        if set(row) != set(graph[side]):
            raise ValueError(f"it has the {side} {', '.join(row)}; wanted {', '.join(graph[side])}")
        return {
            name: np.array(row[name], about["dtype"]).reshape(about["shape"])
            for name, about in graph[side].items()
        }

    try:
        return [
            Sample(inputs=shaped("inputs", row["inputs"]), outputs=shaped("outputs", row["outputs"]))
            for row in rows
        ]
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__} {error}") from None
