"""Export: student, normalisation, residual, picture and action decoding as one ONNX graph in a bundle.

Shapes: batch 1. Inputs: 1-D groups (1, D) float32, encoded pictures (1, C, H, W), `memory_<part>` of a policy
that remembers, `anchor` and `rate` (1, A): the last sent target and its rate. Outputs: `command` (1, A) rad,
`command_rate`, `action`, the estimates, and `next_memory_<part>`, which is the next step's memory.
"""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd import UserError, keys
from robokd.env.base import TaskEnv, VecEnv
from robokd.evaluate import load_policy, policy_groups
from robokd.export.bundle import write_bundle
from robokd.export.contract import Pictures, ages_s, clock_s, make_manifest, robot, sag_rad
from robokd.export.metadata import annotate
from robokd.export.parity import (
    MAX_ABS,
    MEMORY,
    NEXT_MEMORY,
    Sample,
    parity,
    strided,
    write_samples,
)  # fmt: skip
from robokd.files import writable
from robokd.learn.rollout import rollout
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.nets.action import ActionDecoder
from robokd.nets.residual import RefinedPolicy, refined_action
from robokd.run import Run
from robokd.specs import Limits, decode

if TYPE_CHECKING:
    from robokd.config import ExportConfig
    from robokd.students.base import StudentPolicy

    Exportable = StudentPolicy | RefinedPolicy

OPSET = 18
EPISODES = 8  # whole ones that samples are taken from, at least
WORLDS = 32  # an episode of each says what pictures may look like
GOLDEN = 8  # samples that travel with the bundle


class PolicyGraph(nn.Module):
    """The whole policy as a function of tensors: encoded observations in, commands out."""

    def __init__(self, policy: Exportable, env: VecEnv) -> None:
        super().__init__()
        self.student: Any = policy.student  # a torch module
        self.inputs, self.memory = policy.inputs, tuple(sorted(map(str, policy.state.keys())))
        self.is_refined = isinstance(policy, RefinedPolicy)
        if isinstance(policy, RefinedPolicy):
            self.actor, self.scale = policy.actor, policy.scale
        self.decoder = ActionDecoder(env.action_spec)

    def forward(self, **tensors: Tensor) -> tuple[Tensor, ...]:
        """Return (command, command_rate, action, *estimates, *next memory)."""
        obs = {name: tensors[name] for name in self.inputs}
        state = TensorDict({name: tensors[MEMORY + name] for name in self.memory}, batch_size=[1])
        output, after = self.student(obs, state)
        if self.is_refined:
            action = refined_action(output, obs, self.actor, self.scale)
        else:
            action = output.action.clip(-1, 1)
        command, rate = self.decoder(action, tensors["anchor"], tensors["rate"])
        memory = (after[name] for name in self.memory)
        return (command, rate, action, *output.estimates.values(), *memory)

    def output_names(self) -> list[str]:
        """Return the names of what forward returns."""
        memory = (NEXT_MEMORY + name for name in self.memory)
        return ["command", "command_rate", "action", *self.student.targets, *memory]


def export(config: ExportConfig, resume: Run | None = None) -> Path:
    """Write the run's bundle after the parity proof and return the path of the stage's summary."""
    begin(config.seed, config.threads)
    parent = Run.open(config.run)
    if parent.stage not in ("distill", "refine"):
        raise UserError(f"a {parent.stage} run cannot be exported: it acts on what only a simulator knows")
    out, key = writable(config.out) if config.out else None, keys.signing_key(config.key)
    env = build_env(config, policy_groups(parent), "test", num_envs=1)
    policy = cast("Exportable", load_policy(parent, config.checkpoint, env))
    # refuse what does not fit before there is a run
    robot(config, env)
    ages_s(config, env, policy.inputs)
    clock_s(config, env, policy.inputs)
    seen = build_env(config, policy_groups(parent), "test", num_envs=WORLDS)
    sag = sag_rad(seen)
    run = resume or create_run(config, "export", [parent])
    met = record_episodes(env, policy, config.parity_samples)
    pictures = record_pictures(seen, cast("Exportable", load_policy(parent, config.checkpoint, seen)))
    samples = strided(met, config.parity_samples)
    first = {name: torch.from_numpy(value) for name, value in samples[0].inputs.items()}
    manifest = make_manifest(config, env, parent, samples[0], pictures, sag)
    data = annotate(to_onnx(PolicyGraph(policy, env).eval(), first), manifest, parent.path.name)
    worst = parity(data, samples, env.action_spec.control_dt)
    largest = float(np.max(list(worst.values())))
    if not largest <= MAX_ABS:
        raise RuntimeError(f"ONNX and torch differ by {largest:.2e} ({worst}), at most {MAX_ABS:.0e} may be")
    out = out or run.path / f"{config.task.name}.robokd"
    members = {"policy.onnx": data, "samples.json": write_samples(strided(met, GOLDEN))}
    digest = write_bundle(out, {**manifest, "parity_max_abs": largest}, members, key)
    env.close()
    seen.close()
    return run.write_summary({
        **shared_fields(config), "parity_max_abs": largest, "parity": worst, "parity_samples": len(samples),
        "opset": OPSET, "inputs": manifest["graph"]["inputs"], "outputs": manifest["graph"]["outputs"],
        "bytes": out.stat().st_size, "sha256": digest,
        "signer": key.public_key().public_bytes_raw().hex() if key else None,
        "bundle": str(out), "env_steps": len(met) + len(pictures.episodes),
        "frames_rendered": env.frames_rendered + seen.frames_rendered,
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


def record_pictures(env: TaskEnv, policy: Exportable) -> Pictures:
    """Return what the cameras show in one episode of every world, in order of time within each."""
    cameras = [name for name in policy.inputs if name in env.camera_specs]
    seen: list[dict[str, np.ndarray]] = []
    whose: list[np.ndarray] = []  # (T, N): whether a world is still in its first episode
    is_first = torch.ones(env.num_envs, dtype=torch.bool)

    def look(obs: TensorDict, step: Tensor) -> TensorDict:
        nonlocal is_first
        is_first = is_first & ((step > 0) | (not seen))
        seen.append({name: obs[name].numpy() for name in cameras})
        whose.append(is_first.numpy())
        return obs

    rollout(env, policy, env.num_envs, look)
    kept = np.stack(whose).T
    images = {name: np.stack([one[name] for one in seen], axis=1)[kept] for name in cameras}
    return Pictures(images=images, episodes=np.nonzero(kept)[0])


def record_episodes(env: VecEnv, policy: Exportable, count: int) -> list[Sample]:
    """Return every control step of EPISODES whole episodes of a one-world env, of more if those have few.

    The outputs are those of the policy as `evaluate` runs it (`act`, then `specs.decode` from the target last
    sent and its rate), not of the module that is exported.
    """
    limits = Limits.of(env.action_spec, torch.tensor)
    everywhere = torch.ones(1, dtype=torch.bool)
    obs = env.reset(torch.zeros(1, dtype=torch.int64))
    policy.reset(everywhere)
    samples: list[Sample] = []
    ended = 0
    while ended < EPISODES or len(samples) < count:
        anchor, rate = env.state.command, env.state.rate
        before = {MEMORY + str(name): value for name, value in policy.state.items()}
        inputs = {name: obs[name] for name in policy.inputs} | before | {"anchor": anchor, "rate": rate}
        with torch.no_grad():
            said, _ = policy.student.forward(obs, policy.state)
        action = policy.act(obs)
        command, command_rate = decode(action, anchor, rate, limits, torch)
        outputs = {"command": command, "command_rate": command_rate, "action": action, **said.estimates}
        outputs |= {NEXT_MEMORY + str(name): value for name, value in policy.state.items()}
        samples.append(Sample(inputs=_arrays(inputs), outputs=_arrays(outputs)))
        obs, _, dones, _ = env.step(action)
        policy.reset(dones.bool())
        ended += int(dones.sum())
    return samples


def _arrays(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in tensors.items()}
