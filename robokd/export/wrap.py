"""A foreign graph, observation to action, inside one of ours: channels in, joint targets within limits out.

Shapes: A joints, 3 axes of an IMU. The wrapped graph's action a (1, A) asks for the target
offset + scale * a. Our own `action` is that target's distance from the last one sent, in steps of
velocity * control_dt, clipped to [-1, 1]: by `specs.decode` it gives the command, so that the contract's
action means here what it means everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from robokd import UserError
from robokd.export.parity import MEMORY, NEXT_MEMORY
from robokd.export.tracing import Node, Trace
from robokd.specs import CHANNELS, ActionSpec, Limits, decode, elements

# what an observation may be made of besides CHANNELS; part of the memory: zeros begin an episode
LAST_ACTION = "action"
OLDEST_OPSET = 11
PREFIX = "foreign/"


@dataclass(frozen=True, kw_only=True)
class Reads:
    """One term of the foreign observation: (channel - offset) * scale, or constant values."""

    channel: str  # one of CHANNELS, LAST_ACTION, or empty where `values` stand
    offset: np.ndarray  # (1, A) or (1, 3), as the channel is
    scale: np.ndarray  # likewise
    values: np.ndarray  # (1, any)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What a foreign action means."""

    scale: np.ndarray  # (A,) rad
    offset: np.ndarray  # (A,) rad
    lower: np.ndarray  # (A,) rad, targets are clipped to it before any limit; -inf where they are not
    upper: np.ndarray  # (A,) rad

    def targets(self, action: np.ndarray) -> np.ndarray:
        """Return what an action asks for, rad."""
        return np.clip(self.offset + self.scale * action, self.lower, self.upper)


def width(channel: str, count: int) -> int:
    """Return how many columns a channel has, of a robot with so many joints."""
    return len(elements(channel, ("",) * count))


def used(terms: Sequence[Reads]) -> list[str]:
    """Return which CHANNELS an observation is made of, in their order: that of our own `proprio`."""
    return [name for name in CHANNELS if any(one.channel == name for one in terms)]


def observe(terms: Sequence[Reads], channels: dict[str, np.ndarray]) -> np.ndarray:
    """Return the foreign observation (1, D) from channels (1, A), those of the IMU (1, 3)."""
    return np.concatenate(
        [(channels[one.channel] - one.offset) * one.scale if one.channel else one.values for one in terms], 1
    )


def wrap(path: Path, model: Any, terms: Sequence[Reads], decoding: Decoding, spec: ActionSpec) -> bytes:  # noqa: ANN401  (of onnx)
    """Return our graph around a foreign ModelProto: proprio, anchor, rate (and memory) to commands."""
    import onnx
    from onnx import TensorProto, compose, helper

    count = spec.size
    source, action_name = ends(path, model, sum(_width(one, count) for one in terms), count)
    inner = compose.add_prefix(model, PREFIX)
    before, after = Trace("before"), Trace("after")
    sizes = {name: width(name, count) for name in used(terms)}
    has_memory = any(one.channel == LAST_ACTION for one in terms)
    inputs = {"proprio": sum(sizes.values())} if sizes else {}
    inputs |= {"anchor": count, "rate": count} | ({MEMORY + LAST_ACTION: count} if has_memory else {})
    channels = {LAST_ACTION: Node(before, MEMORY + LAST_ACTION)}
    for (name, size), end in zip(sizes.items(), accumulate(sizes.values()), strict=True):
        channels[name] = before.columns(Node(before, "proprio"), slice(end - size, end))
    parts = [
        (channels[one.channel] - before.constant(one.offset)) * before.constant(one.scale)
        if one.channel else before.constant(one.values) for one in terms
    ]  # fmt: skip
    before.concatenate(parts, name=PREFIX + source)
    outputs = _decode(after, PREFIX + action_name, decoding, spec, has_memory)
    graph = helper.make_graph(
        [*before.nodes, *inner.graph.node, *after.nodes], "imported",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count]) for name in outputs],
        [*before.constants, *inner.graph.initializer, *after.constants],
    )  # fmt: skip
    made = helper.make_model(
        graph, opset_imports=inner.opset_import, ir_version=inner.ir_version, functions=inner.functions
    )
    try:
        onnx.checker.check_model(made)
    except onnx.checker.ValidationError as error:
        raise UserError(f"{path} cannot be wrapped: {str(error).splitlines()[0]}") from None
    return made.SerializeToString(deterministic=True)


def ends(path: Path, model: Any, width: int, count: int) -> tuple[str, str]:  # noqa: ANN401  (of onnx)
    """Return the names of the observation and of the action of a graph, which must have no other input."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < OLDEST_OPSET:
        raise UserError(f"{path} is of ONNX opset {opset}; wanted {OLDEST_OPSET} or later")
    weights = {tensor.name for tensor in model.graph.initializer}
    sources = [one for one in model.graph.input if one.name not in weights]
    if len(sources) != 1:
        got = ", ".join(one.name for one in sources) or "none"
        raise UserError(f"{path} has the inputs {got}; only one, the observation, can be fed")
    actions = [one for one in model.graph.output if one.name == "actions"] or list(model.graph.output)
    if len(actions) != 1:
        got = ", ".join(one.name for one in actions)
        raise UserError(f"{path} has the outputs {got}; which of them is the action is not said")
    for what, one, size in (("observation", sources[0], width), ("action", actions[0], count)):
        tensor = one.type.tensor_type
        shape = [side.dim_value for side in tensor.shape.dim]
        if tensor.elem_type != 1 or len(shape) != 2 or shape[0] > 1 or shape[1] not in (0, size):
            wanted = f"float32 of shape (1, {size}), as its terms and joints say"
            raise UserError(f"{path}: its {what} {one.name!r} has shape {shape}; wanted {wanted}")
    return sources[0].name, actions[0].name


def _decode(trace: Trace, action: str, decoding: Decoding, spec: ActionSpec, has_memory: bool) -> list[str]:
    """Add what becomes of a foreign action; return the names of the outputs."""
    said, anchor, rate = (Node(trace, name) for name in (action, "anchor", "rate"))
    target = trace.constant(decoding.offset) + trace.constant(decoding.scale) * said
    if np.isfinite(decoding.lower).all():
        target = trace.maximum(target, trace.constant(decoding.lower))
        target = trace.minimum(target, trace.constant(decoding.upper))
    limits = Limits.of(spec, trace.constant)
    ours = trace.clip((target - anchor) / limits.scale, -1, 1)
    command, new_rate = decode(ours, anchor, rate, limits, trace)  # pyright: ignore
    results = {"command": command, "command_rate": new_rate, "action": ours}
    if has_memory:
        results[NEXT_MEMORY + LAST_ACTION] = said
    for name, value in results.items():
        trace.node("Identity", value, name=name)
    return list(results)


def _width(one: Reads, count: int) -> int:
    return width(one.channel, count) if one.channel else one.values.shape[1]
