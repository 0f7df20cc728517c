"""Refine: residual PPO on a frozen student, by the same loop and algorithm that taught the teacher.

The residual sees what a robot has: the student's features, proprioception and the base action; its critic
sees the simulator's state. Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.config import load
from robokd.env.base import VecEnv, check_contract, contract
from robokd.learn import ranks
from robokd.learn.pupil import build_student, load_student, student_inputs
from robokd.learn.rollout import Outcomes, rollout
from robokd.learn.shared_ppo import share
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.learn.teach import PpoLearner, train
from robokd.nets.residual import BASE, FEATURES, RefinedPolicy, compose, with_base, zero_last_layer
from robokd.run import Run
from robokd.students.base import Student, StudentModule

if TYPE_CHECKING:
    from rsl_rl.models import MLPModel

    from robokd.config import RefineConfig


def refine(config: RefineConfig, resume: Run | None = None) -> Path:
    """Train a residual on the parent's student and return the path of its summary."""
    ranks.join(config.device)
    begin(config.seed, config.threads, alone=False)
    parent = Run.open(config.parent)
    settings = config.teacher
    seen = student_inputs(load("distill", parent.config))
    asked = (*settings.actor_groups, *settings.critic_groups)
    wanted = tuple(group for group in asked if group not in (BASE, FEATURES))
    check_residual_groups(settings.actor_groups, seen, config.cameras)
    inner = build_env(config, tuple(dict.fromkeys((*seen, *wanted))), "train", ends=False)  # as in teach
    student = load_student(parent, config.checkpoint, inner)
    env = ResidualEnv(inner, student, config.residual_scale, asked)
    algorithm = share(settings.algorithm(env.get_observations(), env.num_actions, config.device))
    zero_last_layer(algorithm.actor)
    count = settings.evaluate_episodes
    validation = build_env(config, seen, "validation", num_envs=count)
    run = resume or Run.open(ranks.first(lambda: create_run(config, "refine", [parent]).path))
    inner.failures = run.path / "failures"

    def validate() -> Outcomes:
        return rollout(
            validation, RefinedPolicy(student, algorithm.actor, config.residual_scale, count), count
        )

    extra = {
        "contract": contract(inner, seen),
        "student": student.state_dict(),
        "student_config": parent.config,
        "latent_size": student.latent_size,
    }
    totals = train(env, PpoLearner(env, algorithm, settings), settings, run, validate, extra)
    # both act on the robot
    parameters = sum(value.numel() for part in (student, algorithm.actor) for value in part.parameters())
    if ranks.is_first():
        run.write_summary({**totals, **shared_fields(config), "student_parameters": parameters})
    ranks.wait()
    return run.summary_path


class ResidualEnv:
    """The VecEnv that a residual policy acts in: actions are corrections, observations include the base."""

    def __init__(self, inner: VecEnv, student: Student, scale: float, groups: tuple[str, ...]) -> None:
        self.inner, self.student, self.scale, self.groups = inner, student, scale, groups
        self.num_envs, self.num_actions, self.device = inner.num_envs, inner.num_actions, inner.device
        self.max_episode_length, self.cfg = inner.max_episode_length, inner.cfg
        self.action_spec, self.obs_specs, self.camera_specs = (
            inner.action_spec,
            inner.obs_specs,
            inner.camera_specs,
        )
        self.draws, self.state, self.sampler = inner.draws, inner.state, inner.sampler
        self._student_state = self._state_before = student.initial_state(inner.num_envs)
        self._observations = self._extend(inner.get_observations())

    @property
    def frames_rendered(self) -> int:
        """See VecEnv."""
        return self.inner.frames_rendered

    @property
    def episodes_ended(self) -> int:
        """See VecEnv."""
        return self.inner.episodes_ended

    @property
    def episodes_diverged(self) -> int:
        """See VecEnv."""
        return self.inner.episodes_diverged

    @property
    def episode_length_buf(self) -> Tensor:
        """See VecEnv."""
        return self.inner.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.inner.episode_length_buf = value

    def reset(self, episodes: Tensor | None = None) -> TensorDict:
        """See VecEnv."""
        self._student_state = self.student.initial_state(self.num_envs)
        self._observations = self._extend(self.inner.reset(episodes))
        return self._observations

    def get_observations(self) -> TensorDict:
        """See VecEnv."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Add scaled corrections (N, A) to the student's actions and step."""
        composed = compose(self._observations[BASE], actions, self.scale)
        obs, reward, done, extras = self.inner.step(composed)
        self._student_state = self.student.reset(self._student_state, done.bool())
        self._observations = self._extend(obs)
        return self._observations, reward, done, extras

    def snapshot(self) -> dict[str, Any]:
        """See VecEnv."""
        # the memory before it saw the present observation: `restore` shows it that observation again
        return {"inner": self.inner.snapshot(), "student": dict(self._state_before.items())}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """See VecEnv."""
        self.inner.restore(snapshot["inner"])
        parts = {name: value.to(self.device) for name, value in snapshot["student"].items()}
        saved = TensorDict(parts, batch_size=[self.num_envs])
        # worlds that are not ours begin their episodes afresh
        self._student_state = self.student.reset(saved, self.inner.state.step == 0)
        self._observations = self._extend(self.inner.get_observations())

    def _extend(self, obs: TensorDict) -> TensorDict:
        self._state_before = self._student_state
        with torch.no_grad():
            output, self._student_state = self.student.forward(obs, self._student_state)
        return with_base(obs, output.action.clip(-1, 1), output.features).select(*dict.fromkeys(self.groups))


def check_residual_groups(groups: Sequence[str], seen: Sequence[str], cameras: Sequence[str]) -> None:
    """Raise UserError for a group that the residual's actor may not read: it runs on the robot too."""
    allowed = (*(group for group in seen if group not in cameras), FEATURES, BASE)
    for group in groups:
        if group not in allowed:
            raise UserError(
                f"teacher.actor_groups: a residual may not act on {group!r}: its student is not shown that. "
                f"Known: {', '.join(allowed)}"
            )


def load_refined(run: Run, checkpoint: str, env: VecEnv) -> tuple[StudentModule, MLPModel, float]:
    """Return (student, residual actor, scale) of a refine run, frozen; refused if env does not fit."""
    saved = run.load_checkpoint(checkpoint)
    check_contract(saved["contract"], env, f"the refined student of {run.path}")
    config = load("refine", run.config)
    student = build_student(load("distill", saved["student_config"]), env, saved["latent_size"])
    student.load_state_dict(saved["student"])
    widths = {name: spec.size for name, spec in env.obs_specs.items()}
    widths |= {BASE: env.num_actions, FEATURES: student.feature_size}
    rows = {group: torch.zeros(1, widths[group], device=env.device) for group in config.teacher.actor_groups}
    teacher = config.teacher.build(TensorDict(rows, batch_size=[1]), env.num_actions, saved)
    return student.eval().requires_grad_(False), teacher.actor, config.residual_scale
