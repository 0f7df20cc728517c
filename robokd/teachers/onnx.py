"""Any ONNX graph that maps observation groups to actions, as a frozen teacher under onnxruntime on the CPU.

    {output: (N, …)} = graph({input: (N, D)}),  label = clip(output[action], -1, 1)

A graph of one input reads `groups` side by side; one of several reads the group that `inputs` names for each.
All are float32 with a free first axis. Refused, each by name: fixed batch sizes, other widths and types,
weights in other files or not finite, and nodes that draw random numbers.
Source: ONNX IR specification; onnxruntime's InferenceSession.
Shapes: N environments, D numbers of an input, A action dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.registry import register, unknown
from robokd.teachers.base import OFFERS, Place, TeacherOutput
from robokd.teachers.weights import check_actions, check_width, flat, group_width, read_file

if TYPE_CHECKING:
    import onnxruntime
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

WHAT = "an ONNX file"
FLOAT = "tensor(float)"
RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
PROBE = 3  # rows of the trial run that shows the outputs' shapes


@register("teacher", "onnx")
@dataclass(kw_only=True)
class OnnxCfg:
    """An ONNX graph from observations to actions, run by onnxruntime on the CPU."""

    path: str = ""  # of the file
    groups: tuple[str, ...] = ("proprio", "privileged")  # side by side, for a graph of one input
    inputs: dict[str, str] = field(default_factory=dict)  # {input: group} for a graph of several
    action: str = "action"  # the output of actions
    log_std: str = ""  # an output, as are the next three; empty = the graph says none
    latent: str = ""
    value: str = ""
    features: str = ""
    threads: int = 1  # of onnxruntime within a node

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"teacher.threads must be >= 1, got {self.threads}")
        if not self.action:
            raise ValueError("teacher.action must name the graph's output of actions, got nothing")

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """See OpenCfg."""
        return tuple(dict.fromkeys(self.inputs.values())) if self.inputs else self.groups

    def files(self) -> tuple[str, ...]:
        """Return what it is read from."""
        return (self.path,)

    def open(self, place: Place) -> OnnxTeacher:
        """See OpenCfg."""
        data = read_file(self.path, "onnx", WHAT)
        check_model(data, self.path)
        session = _session(data, self.threads, self.path)
        feeds = self._feeds(session, place)
        teacher = OnnxTeacher(session, feeds, self._outputs(session), hashlib.sha256(data).hexdigest())
        self._try(teacher, place)
        return teacher

    def _feeds(self, session: onnxruntime.InferenceSession, place: Place) -> dict[str, tuple[str, ...]]:
        """Return {input: its groups}, every input checked."""
        known = {one.name: one for one in session.get_inputs()}
        if self.inputs:
            for name in self.inputs:
                if name not in known:
                    raise UserError(f"{self.path}: {unknown('input', name, known)}")
        elif len(known) != 1:
            say = ",".join(f"{name}:<group>" for name in known)
            raise UserError(
                f"{self.path} has {len(known)} inputs, say which reads what: teacher.inputs={{{say}}}"
            )
        feeds = {name: (group,) for name, group in self.inputs.items()} or {next(iter(known)): self.groups}
        if missing := [name for name in known if name not in feeds]:
            raise UserError(f"{self.path}: its input {missing[0]!r} reads nothing; add it to teacher.inputs")
        for name, groups in feeds.items():
            owner = f"{self.path}, input {name!r},"
            group_width(groups, place.obs_specs, owner)
            check_input(known[name].type, known[name].shape, owner)
            if isinstance(known[name].shape[1], int):
                check_width(known[name].shape[1], groups, place.obs_specs, owner)
        return feeds

    def _outputs(self, session: onnxruntime.InferenceSession) -> dict[str, str]:
        """Return {field of TeacherOutput: output}."""
        known = {one.name: one for one in session.get_outputs()}
        wanted = {"action": self.action} | {
            name: getattr(self, name) for name in OFFERS if getattr(self, name, "")
        }
        for field_name, output in wanted.items():
            if output not in known:
                told = unknown("output", output, known)
                raise UserError(f"{self.path}: {told}; say teacher.{field_name}=<output>")
            if known[output].type != FLOAT:
                raise UserError(f"{self.path}: output {output!r} is a {known[output].type}, wanted a {FLOAT}")
        return wanted

    def _try(self, teacher: OnnxTeacher, place: Place) -> None:
        """Run the graph once: the shapes of its outputs, where they are not written down, are seen."""
        rows = {name: torch.zeros(PROBE, place.obs_specs[name].size) for name in teacher.inputs}
        said = teacher.run(TensorDict(rows, batch_size=[PROBE]))
        for name, value in said.items():
            wanted = (1, 2) if name == "value" else (2,)
            if (
                value.ndim not in wanted
                or len(value) != PROBE
                or (name == "value" and value.numel() != PROBE)
            ):
                shape = f"({PROBE},) or ({PROBE}, 1)" if name == "value" else f"({PROBE}, *)"
                got = f"output {teacher.outputs[name]!r} has shape {tuple(value.shape)} for {PROBE} rows"
                raise UserError(f"{self.path}: {got}, wanted {shape}")
            if name in ("action", "log_std"):
                check_actions(
                    value.shape[1], place.num_actions, f"{self.path}, output {teacher.outputs[name]!r},"
                )


class OnnxTeacher:
    """The Teacher protocol over an onnxruntime session."""

    def __init__(
        self, session: onnxruntime.InferenceSession, feeds: Mapping[str, tuple[str, ...]],
        outputs: Mapping[str, str], file_sha256: str,
    ) -> None:  # fmt: skip
        self.session, self.feeds, self.outputs, self.file_sha256 = session, feeds, outputs, file_sha256
        self.inputs = tuple(dict.fromkeys(group for groups in feeds.values() for group in groups))
        self.offers = frozenset(name for name in outputs if name != "action")

    def run(self, obs: TensorDict) -> dict[str, Tensor]:
        """Return what the graph says, by field of TeacherOutput, on the CPU."""
        rows = {
            name: np.ascontiguousarray(flat(obs, groups).float().cpu().numpy())
            for name, groups in self.feeds.items()
        }
        try:
            said = self.session.run(list(self.outputs.values()), rows)
        except Exception as error:  # onnxruntime's errors share no narrower class
            first = str(error).splitlines()[0]
            raise UserError(f"onnxruntime cannot run the teacher's graph: {first}") from None
        return {
            name: torch.from_numpy(np.asarray(value)) for name, value in zip(self.outputs, said, strict=True)
        }

    def label(self, obs: TensorDict) -> TeacherOutput:
        """See Teacher; UserError where a number is not finite."""
        said = self.run(obs)
        for name, value in said.items():
            if not torch.isfinite(value).all():
                count = int((~torch.isfinite(value)).sum())
                raise UserError(
                    f"output {self.outputs[name]!r} of the teacher's graph: {count} numbers not finite"
                )
        device = next(iter(obs.values())).device
        if "value" in said:
            said["value"] = said["value"].reshape(len(said["value"]))
        said["action"] = said["action"].clip(-1, 1)
        return TeacherOutput(**{name: value.to(device) for name, value in said.items()})

    def act(self, obs: TensorDict) -> Tensor:
        """See Teacher."""
        return self.label(obs).action

    def reset(self, mask: Tensor) -> None:
        """See Teacher: nothing is remembered."""

    def sha256(self) -> str:
        """See Teacher: of the file and of what is fed and read."""
        text = f"{self.file_sha256} {list(self.feeds.items())} {list(self.outputs.items())}"
        return hashlib.sha256(text.encode()).hexdigest()


def check_input(kind: str, shape: Sequence[object], owner: str) -> None:
    """Refuse an input that is not float32 (N, D) with a free N."""
    if kind != FLOAT:
        raise UserError(f"{owner} is a {kind}, wanted a {FLOAT}")
    if len(shape) != 2:
        raise UserError(f"{owner} has shape {list(shape)}, wanted [batch, numbers]")
    if isinstance(shape[0], int):
        raise UserError(
            f"{owner} takes exactly {shape[0]} row(s) at a time, wanted any number of them: "
            "export it with a free first axis (torch.onnx.export: dynamic_axes={'<input>': {0: 'batch'}, …})"
        )


def check_model(data: bytes, owner: str) -> None:
    """Refuse what is no model of one file, of finite weights and without random numbers."""
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # of other bytes protobuf raises what its parser stumbles on
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{owner} is not {WHAT}: {first}") from None
    if not model.graph.node:
        raise UserError(f"{owner} is not {WHAT}: it has no nodes")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            cure = "save it as one file (onnx.save with save_as_external_data=False)"
            raise UserError(f"{owner} keeps {tensor.name!r} in another file: {cure}")
    for node in _nodes(model):
        if node.op_type in RANDOM:
            raise UserError(f"{owner} draws random numbers (node {node.op_type}), a teacher may not")
    for tensor in model.graph.initializer:
        try:
            values = numpy_helper.to_array(tensor) if tensor.dims else np.zeros(0)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{owner} is not {WHAT}: {tensor.name}: {error}") from None
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise UserError(f"{owner}: {count} of {values.size} numbers of {tensor.name} are not finite")


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yield the graph and those inside its nodes."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for one in node.attribute:
                waiting += [*([one.g] if one.HasField("g") else []), *one.graphs]


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for one in node.attribute:
            yield from (*([one.t] if one.HasField("t") else []), *one.tensors)


def _session(data: bytes, threads: int, owner: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # its warnings are not ours to show
    # a spinning worker would take a core from the simulator
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # without the fallback, whose notes would stand above our one line
        return onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # onnxruntime's errors share no narrower class
        raise UserError(f"{owner}: onnxruntime cannot run it: {str(error).splitlines()[0]}") from None
