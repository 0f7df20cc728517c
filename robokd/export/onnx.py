"""Export: student, normalisation, residual, picture and action decoding as one ONNX graph in a bundle.

Shapes: batch 1. Inputs: 1-D groups (1, D) float32, encoded pictures (1, 1, H, W), `anchor` and `rate` (1, A):
the last sent target and its rate. Outputs: `command` (1, A) rad, `command_rate`, `action`, and the estimates.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

import robokd
from robokd import UserError
from robokd.config import dump
from robokd.env.base import TaskEnv, VecEnv, contract
from robokd.evaluate import load_policy, policy_groups
from robokd.export.bundle import write_bundle
from robokd.export.parity import MAX_ABS, parity
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.nets.action import ActionDecoder
from robokd.nets.residual import RefinedPolicy, compose
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import ExportConfig
    from robokd.learn.rollout import Policy
    from robokd.students.base import StudentPolicy

OPSET = 18
STREAM_ENVS = 16  # environments that parity samples come from
AGE_BUDGET_S = 0.2  # oldest data that a command may rest on: five control periods of the simulated robot


class PolicyGraph(nn.Module):
    """The whole policy as a function of tensors: encoded observations in, joint targets out."""

    def __init__(self, policy: StudentPolicy | RefinedPolicy, env: VecEnv) -> None:
        super().__init__()
        self.student: Any = policy.student  # a torch module; a stateless one needs no state
        self.inputs = policy.inputs
        self.is_refined = isinstance(policy, RefinedPolicy)
        if isinstance(policy, RefinedPolicy):
            self.actor, self.scale = policy.actor, policy.scale
        self.decoder = ActionDecoder(env.action_spec)

    def forward(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        """Return (command, command_rate, action, *estimates)."""
        obs = {name: tensors[name] for name in self.inputs}
        output, _ = self.student(obs, None)
        action = output.action.clip(-1, 1)
        if self.is_refined:
            seen = {**obs, "base_action": action, "features": output.features}
            rows = torch.cat([seen[group] for group in self.actor.obs_groups], -1)
            action = compose(action, self.actor.mlp(self.actor.obs_normalizer(rows)), self.scale)
        command, rate = self.decoder(action, tensors["anchor"], tensors["rate"])
        return (command, rate, action, *output.estimates.values())

    def output_names(self) -> list[str]:
        """Return the names of what forward returns."""
        return ["command", "command_rate", "action", *self.student.targets]


def export(config: ExportConfig, resume: Run | None = None) -> Path:
    """Write the run's bundle after the parity proof and return the path of the stage's summary."""
    begin(config.seed, config.threads)
    parent = Run.open(config.run)
    if parent.stage not in ("distill", "refine"):
        raise UserError(f"a {parent.stage} run cannot be exported: it acts on what only a simulator knows")
    run = resume or create_run(config, "export", [parent])
    env = build_env(config, policy_groups(parent), "test", num_envs=STREAM_ENVS)
    policy = cast("StudentPolicy | RefinedPolicy", load_policy(parent, config.checkpoint, env))
    graph = PolicyGraph(policy, env).eval()
    samples = record_samples(env, policy, config.parity_samples)
    data = to_onnx(graph, samples[0])
    worst = parity(data, graph, samples)
    largest = max(worst.values())
    if not largest <= MAX_ABS:
        raise RuntimeError(f"ONNX and torch differ by {largest:.2e} ({worst}), at most {MAX_ABS:.0e} may be")
    out = Path(config.out) if config.out else run.path / f"{config.task.name}.robokd"
    manifest = make_manifest(config, env, graph, samples[0], parent, largest)
    digest = write_bundle(out, manifest, {"policy.onnx": data, "samples.json": golden(graph, samples[:8])})
    return run.write_summary({
        **shared_fields(config), "parity_max_abs": largest,
        "parity": worst, "opset": OPSET, "inputs": manifest["graph"]["inputs"],
        "outputs": manifest["graph"]["outputs"], "bytes": out.stat().st_size, "sha256": digest,
        "bundle": str(out), "env_steps": config.parity_samples,
    })  # fmt: skip


def to_onnx(graph: PolicyGraph, sample: dict[str, Tensor]) -> bytes:
    """Return the graph as one ONNX file (opset OPSET, no external data)."""
    stream = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a stream is taken, though torch declares a path
        torch.onnx.export(
            graph, (), stream,  # pyright: ignore[reportArgumentType]
            kwargs=sample, input_names=list(sample), output_names=graph.output_names(),
            opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    return stream.getvalue()


def record_samples(env: VecEnv, policy: Policy, count: int) -> list[dict[str, Tensor]]:
    """Return graph inputs {name: (1, ...)} met on the way of real episodes."""
    obs = env.reset()
    policy.reset(torch.ones(env.num_envs, dtype=torch.bool))
    samples: list[dict[str, Tensor]] = []
    while len(samples) < count:
        rows = {name: obs[name] for name in policy.inputs}
        rows |= {"anchor": env.state.command, "rate": env.state.rate}
        samples += [
            {name: value[i : i + 1].clone() for name, value in rows.items()} for i in range(env.num_envs)
        ]
        obs, _, dones, _ = env.step(policy.act(obs))
        policy.reset(dones.bool())
    return samples[:count]


def make_manifest(
    config: ExportConfig,
    env: TaskEnv,
    graph: PolicyGraph,
    sample: dict[str, Tensor],
    parent: Run,
    largest: float,
) -> dict[str, Any]:
    """Return the bundle's manifest: the full contract between policy and robot."""
    agreed = contract(env, graph.inputs)
    with torch.no_grad():
        outputs = dict(zip(graph.output_names(), graph(**sample), strict=True))
    start = env.task.start_envelope()
    return {
        "task": config.task.name,
        "task_config": dump(config)["task"],
        "sim_config": dump(config)["sim"],
        "renderer_config": dump(config)["renderer"],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "robokd": robokd.__version__,
        **agreed,
        "control_dt": env.action_spec.control_dt,
        "graph": {
            "member": "policy.onnx",
            "inputs": {name: _describe(value) for name, value in sample.items()},
            "outputs": {name: _describe(value) for name, value in outputs.items()},
        },
        "start": {"joint_pos_lower": start[0], "joint_pos_upper": start[1]},
        "ages_s": dict.fromkeys(graph.inputs, AGE_BUDGET_S),
        "lineage": [{"path": parent.path.name, "stage": parent.stage, "sha256": parent.sha256()}],
        "evaluation": {"validation_success": parent.read_summary().get("validation_success")},
        "parity_max_abs": largest,
    }


def golden(graph: PolicyGraph, samples: list[dict[str, Tensor]]) -> bytes:
    """Return inputs and outputs of a few real observations as JSON, for a check on the robot's computer."""
    rows = []
    for sample in samples:
        with torch.no_grad():
            outputs = dict(zip(graph.output_names(), graph(**sample), strict=True))
        rows.append(
            {
                "inputs": {name: value.flatten().tolist() for name, value in sample.items()},
                "outputs": {name: value.flatten().tolist() for name, value in outputs.items()},
            }
        )
    return json.dumps(rows).encode()


def _describe(value: Tensor) -> dict[str, Any]:
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
