"""`what=policy`: one inference as the robot makes it, onnxruntime beside torch, batch 1 on one thread.

Ours is the exported graph with bound arrays, peer the module it was exported from, which a plain deployment
would call: both from encoded pictures and joints to limited joint targets. Students as they come, untrained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import torch

from robokd.bench.row import Effort, Gate, Measure, Row, in_turn, per
from robokd.config import compose
from robokd.export.onnx import PolicyGraph, record_episodes, to_onnx
from robokd.export.parity import MAX_ABS, open_graph, parity
from robokd.learn.pupil import build_student, student_inputs
from robokd.learn.stage import begin, build_env
from robokd.sim2real.policy import bound
from robokd.students.base import StudentPolicy
from robokd.students.modular import ModularStudent

STUDENTS = {"cnn": 4.0, "cnn_gru": None}  # with the ratio that is wanted
SAMPLES = 64


def rows(effort: Effort) -> Iterator[Row]:
    """Measure every one of STUDENTS."""
    begin(effort.seed, threads=1)
    for name, bar in STUDENTS.items():
        yield _row(name, bar, effort)


def _row(name: str, bar: float | None, effort: Effort) -> Row:
    words = ["task=reach", "teacher=scripted", f"student={name}", "cameras=[front,wrist]", "threads=1"]
    config = compose("distill", [*words, f"seed={effort.seed}", "num_envs=1"])
    with closing(build_env(config, student_inputs(config), "test", num_envs=1)) as env:
        student = build_student(config, env)
        assert isinstance(student, ModularStudent), type(student)
        policy, weights = StudentPolicy(student, 1), sum(one.numel() for one in student.parameters())
        samples = record_episodes(env, policy, SAMPLES)
        graph = PolicyGraph(policy, env).eval()
    first = {key: torch.from_numpy(value) for key, value in samples[0].inputs.items()}
    data = to_onnx(graph, first)
    apart = parity(data, samples, env.action_spec.control_dt)
    gate = Gate(name="the same outputs", measures=tuple(
        Measure(name=f"largest difference of {output}", value=worst, limit=MAX_ABS)
        for output, worst in apart.items()
    ))  # fmt: skip
    session = open_graph(data)
    feeds = {key: value.copy() for key, value in samples[0].inputs.items()}
    said = {key: np.zeros_like(value) for key, value in samples[0].outputs.items()}
    binding = bound(session, feeds, said)
    with torch.inference_mode():
        ours, peer = in_turn(lambda: session.run_with_iobinding(binding), lambda: graph(**first), effort)
    return Row(
        name=f"inference of student={name}, {weights / 1000:.0f}k weights", peer_name="torch, eager",
        unit="us/command", bar=bar, gate=gate, ours_all=per(ours, 1), peer_all=per(peer, 1),
    )  # fmt: skip
