"""Evaluate: success on fixed test episodes, with intervals, paired comparisons and camera ablations.

The episodes 0 .. E-1 of a stream are the same for every policy and any num_envs. Shapes: E episodes, N
environments.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.config import load
from robokd.env.base import SPACES, VecEnv
from robokd.files import write_atomic
from robokd.intervals import paired, wilson
from robokd.learn import pupil, residual, teach
from robokd.learn.rollout import Outcomes, Policy, rollout
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.nets.residual import RefinedPolicy
from robokd.registry import unknown
from robokd.run import Run
from robokd.students.base import StudentPolicy

if TYPE_CHECKING:
    from robokd.config import EvaluateConfig

ABLATIONS = ("blank", "shuffled", "frozen")


def ablation(name: str, cameras: tuple[str, ...]) -> Callable[[TensorDict, Tensor], TensorDict]:
    """Return what spoils camera groups: all misses, another environment's picture, or the episode's first."""
    first: dict[str, Tensor] = {}

    def alter(obs: TensorDict, step: Tensor) -> TensorDict:
        spoiled = obs.clone(recurse=False)
        for camera in cameras:
            now: Tensor = obs[camera]
            if name == "blank":
                spoiled[camera] = torch.zeros_like(now)
            elif name == "shuffled":
                spoiled[camera] = now.roll(1, 0)
            else:
                is_new = (step == 0)[:, None, None, None]
                first[camera] = torch.where(is_new, now, first.get(camera, now))
                spoiled[camera] = first[camera]
        return spoiled

    if name not in ABLATIONS:
        raise ValueError(f"no camera ablation named {name!r}. Known: {', '.join(ABLATIONS)}")
    return alter


def policy_groups(run: Run) -> tuple[str, ...]:
    """Return the groups that the policy of a run acts on."""
    if run.stage == "teach":
        return load("teach", run.config).teacher.actor_groups
    config = run.config if run.stage == "distill" else run.load_checkpoint("last")["student_config"]
    return pupil.student_inputs(load("distill", config))


def load_policy(run: Run, checkpoint: str, env: VecEnv) -> Policy:
    """Return the frozen policy of a teach, distill or refine run for env; refused if env does not fit."""
    if run.stage == "teach":
        return teach.load_teacher(run, checkpoint, env)
    if run.stage == "distill":
        return StudentPolicy(pupil.load_student(run, checkpoint, env), env.num_envs)
    if run.stage == "refine":
        return RefinedPolicy(*residual.load_refined(run, checkpoint, env), env.num_envs)
    raise UserError(f"a {run.stage} run has no policy; wanted a teach, distill or refine run: {run.path}")


def check_spaces(spaces: Sequence[str]) -> None:
    """Raise UserError naming the first space of parameters that does not exist."""
    for space in spaces:
        if space not in SPACES:
            raise UserError(unknown("space of parameters", space, SPACES))


def check_policy(config: EvaluateConfig, run: Run) -> bool:
    """Return whether the task has parameters, of which something could be held out.

    Raises UserError, before anything is begun, where the policy of a run does not fit the config's task.
    """
    env = build_env(config, policy_groups(run), "test", num_envs=1)
    load_policy(run, config.checkpoint, env)
    env.close()
    return bool(env.task.parameters())


def evaluate(config: EvaluateConfig, resume: Run | None = None) -> Path:
    """Evaluate a run on the test episodes, beside a baseline if one is named; return the summary's path."""
    begin(config.seed, config.threads)
    parent = Run.open(config.run)
    baseline = Run.open(config.baseline) if config.baseline else None
    parents = [parent, baseline] if baseline else [parent]
    check_spaces(config.spaces)
    has_unseen = all([check_policy(config, one) for one in parents])
    wanted = ("seen", *(config.spaces if has_unseen else ()))
    if not has_unseen and set(config.spaces) - {"seen"}:
        print(f"nothing is held out of task={config.task.name}: only seen is judged", file=sys.stderr)
    run = resume or create_run(config, "evaluate", parents)
    spaces = {space: _judge(config, parent, space) for space in dict.fromkeys(wanted)}
    seen = spaces["seen"]
    summary: dict[str, Any] = {
        **shared_fields(config), "policy": parent.stage,
        "episodes": config.episodes, "success": wilson(seen.success.numpy()),
        "return_mean": seen.returns.mean().item(), "steps_mean": seen.steps.float().mean().item(),
        "action_saturation": seen.saturation,
        **{space: wilson(outcomes.success.numpy()) for space, outcomes in spaces.items()},
    }  # fmt: skip
    done = list(spaces.values())
    columns = {f"success_{space}": outcomes.success.numpy() for space, outcomes in spaces.items()}
    if baseline:
        other = _judge(config, baseline, "seen")
        done.append(other)
        summary["paired"] = {
            "baseline": str(baseline.path),
            "stage": baseline.stage,
            "success": wilson(other.success.numpy()),
            **paired(seen.success.numpy(), other.success.numpy()),
        }
        summary["retention"] = seen.success.mean().item() / max(other.success.mean().item(), 1e-9)
        columns["success_baseline"] = other.success.numpy()
    if config.ablations and parent.stage != "teach":
        uses = {name: _judge(config, parent, "seen", name) for name in ABLATIONS}
        summary["camera_use"] = {
            name: wilson(outcomes.success.numpy())["rate"] for name, outcomes in uses.items()
        }
        done += uses.values()
    write_atomic(run.path / "episodes.npz", _npz(columns))
    costs = {"env_steps": sum(o.env_steps for o in done), "frames_rendered": sum(o.frames for o in done)}
    return run.write_summary({**summary, **costs})


def _judge(config: EvaluateConfig, run: Run, space: str, spoil: str | None = None) -> Outcomes:
    """Return the outcomes of a run's policy on the test episodes of a space."""
    groups = policy_groups(run)
    env = build_env(config, groups, "test", space=space, num_envs=min(config.num_envs, config.episodes))
    policy = load_policy(run, config.checkpoint, env)
    cameras = tuple(name for name in groups if name in env.camera_specs)
    outcomes = rollout(env, policy, config.episodes, ablation(spoil, cameras) if spoil else None)
    env.close()
    return outcomes


def _npz(columns: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **columns)
    return stream.getvalue()
