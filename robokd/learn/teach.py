"""Teach: reinforcement learning on privileged state. The loop is ours and visible; what it asks is a Learner.

That is PPO by default: algorithm, networks and storage are rsl_rl's, whose own runner repeats an iteration on
resume and saves neither random state nor environments; this loop resumes bit for bit, and its checkpoints can
still be read by that runner.
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rsl_rl.algorithms import PPO
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.config import load
from robokd.env.base import TaskEnv, VecEnv, check_contract, contract
from robokd.learn import ranks
from robokd.learn.imitation import Imitation
from robokd.learn.rollout import SATURATED, Outcomes, rollout
from robokd.learn.shared_ppo import share
from robokd.learn.stage import (
    begin,
    build_env,
    create_run,
    random_state,
    restore_random_state,
    shared_fields,
)
from robokd.progress import Progress
from robokd.run import Run
from robokd.teachers.ppo import PpoCfg, PpoTeacher
from robokd.teachers.sb3 import Sb3Cfg, Sb3Teacher
from robokd.teachers.scripted import ScriptedCfg, ScriptedTeacher

if TYPE_CHECKING:
    from robokd.config import TeachConfig


class Learner(Protocol):
    """An algorithm that learns in an environment, an iteration at a time."""

    def learn(self, iteration: int) -> tuple[dict[str, float], int]:
        """Collect and learn once; return what is to be logged, and how many samples were learned from."""
        ...

    def teacher(self) -> PpoTeacher | Sb3Teacher:
        """Return the teacher as it now is."""
        ...

    def state(self) -> dict[str, Any]:
        """Return all that decides what follows but the environments, as tensors and plain python."""
        ...

    def restore(self, saved: dict[str, Any]) -> None:
        """Return to a state, in environments that have returned to theirs."""
        ...


def teach(config: TeachConfig, resume: Run | None = None) -> Path:
    """Train a teacher and return the path of its summary."""
    settings: PpoCfg | Sb3Cfg = config.teacher
    if is_shared := isinstance(settings, PpoCfg):
        ranks.join(config.device)
    begin(config.seed, config.threads, alone=not is_shared)
    if ranks.world() > 1 and config.curriculum.learns:
        name = config.curriculum.name
        raise UserError(f"curriculum={name} learns in one process, got {ranks.world()}")
    groups = (*settings.actor_groups, *settings.critic_groups, *_copied_groups(config))
    # of an episode's end rsl_rl's PPO makes no use
    env = build_env(config, tuple(dict.fromkeys(groups)), "train", ends=not is_shared)
    validation = build_env(config, settings.actor_groups, "validation", num_envs=settings.evaluate_episodes)
    learner = _learner(config, env)
    run = resume or Run.open(ranks.first(lambda: create_run(config, "teach").path))
    env.failures = run.path / "failures"

    def validate() -> Outcomes:
        return rollout(validation, learner.teacher(), settings.evaluate_episodes)

    extra = {"contract": contract(env, settings.actor_groups)}
    totals = train(env, learner, settings, run, validate, extra)
    if ranks.is_first():
        run.write_summary({**totals, **shared_fields(config)})
    ranks.wait()
    return run.summary_path


def _copied_groups(config: TeachConfig) -> tuple[str, ...]:
    """Return the groups that the script reads, if it is copied first."""
    if not isinstance(config.teacher, PpoCfg) or not config.teacher.imitate:
        return ()
    known = build_env(config, (), "train", num_envs=1)
    try:
        return ScriptedCfg().reads(known.task)
    finally:
        known.close()


def _learner(config: TeachConfig, env: TaskEnv) -> Learner:
    """Return what learns, with fresh networks."""
    settings: PpoCfg | Sb3Cfg = config.teacher
    if isinstance(settings, PpoCfg):
        algorithm = share(settings.algorithm(env.get_observations(), env.num_actions, config.device))
        return PpoLearner(env, algorithm, settings, ScriptedCfg().open(env) if settings.imitate else None)
    try:
        from robokd.learn.sb3 import Sb3Learner
    except ModuleNotFoundError as error:
        cure = "pip install 'robokd[train]'"
        raise UserError(f"teacher=sb3 needs stable-baselines3 ({error}): {cure}") from None
    return Sb3Learner(env, settings, config.seed, config.device)


def train(
    env: VecEnv,
    learner: Learner,
    settings: PpoCfg | Sb3Cfg,
    run: Run,
    validate: Callable[[], Outcomes],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Learn until the validation success or the iterations are reached; returns the totals for the summary.

    Resumes from the run's last checkpoint, if it has one. `extra` goes into every checkpoint.
    """
    totals = _restore(run, env, learner)
    is_best = False
    with Progress(settings.iterations, "iterations", start=totals["iteration"]) as bar:
        while totals["iteration"] < settings.iterations and not totals["stopped"]:
            row, samples = learner.learn(totals["iteration"])
            totals["iteration"] += 1
            totals["env_steps"] += settings.steps_per_iteration * env.num_envs * ranks.world()
            totals["grad_samples"] += samples
            row["env_steps"] = totals["env_steps"]
            iteration, finished = totals["iteration"], totals["iteration"] == settings.iterations
            if iteration % settings.evaluate_every == 0 or finished:
                outcomes = ranks.first(validate)
                row |= {f"validation/{name}": value for name, value in outcomes.means().items()}
                told = env.sampler.summary() if env.sampler else {}
                row |= {f"curriculum/{name}": float(value) for name, value in told.items()}
                score = [outcomes.success.mean().item(), outcomes.returns.mean().item()]
                is_best = score > totals["best"]
                totals["best"] = max(score, totals["best"])
                totals["stopped"] = score[0] >= settings.stop_success
                totals["saturation"] = outcomes.saturation
                totals["validation_steps"] += outcomes.env_steps
                totals["validation_frames"] += outcomes.frames
            if ranks.is_first():
                run.log(iteration, row)
            if iteration % settings.evaluate_every == 0 or finished:
                state = _state(env, learner, totals, extra)
                if ranks.is_first():
                    run.save_checkpoint(iteration, state, best=is_best)
            bar.advance(1, success=row.get("validation/success"), reward=row["reward"])
    return {
        "env_steps": totals["env_steps"] + totals["validation_steps"],
        "training_env_steps": totals["env_steps"], "grad_samples": totals["grad_samples"],
        "frames_rendered": ranks.count(env.frames_rendered) + totals["validation_frames"],
        "iterations": totals["iteration"], "episodes": ranks.count(env.episodes_ended),
        "diverged": ranks.count(env.episodes_diverged), "rejected_spawns": ranks.count(rejected_spawns(env)),
        "validation_success": totals["best"][0], "action_saturation": totals["saturation"],
    }  # fmt: skip


def rejected_spawns(env: VecEnv) -> int:
    """Return how often a thing would have begun inside another and was put elsewhere; see State.episode."""
    rejected = env.state.episode.get("rejected")
    return 0 if rejected is None else int(rejected.sum().item())


class PpoLearner:
    """The Learner protocol over rsl_rl's PPO; its state is what rsl_rl's runner reads, and random state."""

    def __init__(
        self, env: VecEnv, algorithm: PPO, settings: PpoCfg, script: ScriptedTeacher | None = None
    ) -> None:
        """`script`: what is copied first, for settings.imitate iterations."""
        self.env, self.algorithm, self.settings = env, algorithm, settings
        self._imitation = Imitation(script, algorithm.actor, settings.imitate) if script else None

    def learn(self, iteration: int) -> tuple[dict[str, float], int]:
        """See Learner."""
        settings, algorithm = self.settings, self.algorithm
        imitation = self._imitation if iteration < settings.imitate else None
        drive = None if imitation is None else functools.partial(imitation.drive, iteration=iteration)
        started = time.perf_counter()
        stats = _collect(self.env, algorithm, settings.steps_per_iteration, drive)
        collected = time.perf_counter()
        # a cold critic would spoil a good actor; without gradients the optimiser leaves it alone
        algorithm.actor.requires_grad_(iteration >= settings.imitate + settings.critic_warmup)
        losses = algorithm.update()
        if imitation is not None:
            algorithm.actor.requires_grad_(True)
            losses |= imitation.learn(algorithm)
        losses = ranks.averaged(losses)
        row = {
            **stats, **{f"loss/{name}": value for name, value in losses.items()},
            "learning_rate": algorithm.learning_rate, "action_std": _action_std(algorithm),
            "time/collect_s": collected - started, "time/learn_s": time.perf_counter() - collected,
        }  # fmt: skip
        samples = settings.steps_per_iteration * self.env.num_envs * settings.epochs
        return row, samples * ranks.world()

    def teacher(self) -> PpoTeacher:
        """See Learner."""
        return PpoTeacher(self.algorithm.actor, self.settings.actor_groups)

    def state(self) -> dict[str, Any]:
        """See Learner."""
        copied = {} if self._imitation is None else self._imitation.state()
        return {**self.algorithm.save(), "infos": None, **copied, **random_state(self.env.device)}

    def restore(self, saved: dict[str, Any]) -> None:
        """See Learner."""
        self.algorithm.load(saved, None, strict=True)
        if self._imitation is not None:
            self._imitation.restore(saved)
        restore_random_state(saved, self.env.device)


def _collect(
    env: VecEnv, algorithm: PPO, steps: int, drive: Callable[[TensorDict, Tensor], Tensor] | None
) -> dict[str, float]:
    """Fill the rollout storage, compute returns; statistics stay on the device until the end.

    `drive(obs, actions)` returns what is sent in the place of the actor's actions.
    """
    sums: dict[str, Tensor] = {}
    obs = env.get_observations()
    with torch.no_grad():
        for _ in range(steps):
            actions = algorithm.act(obs)
            if drive is not None:
                actions = drive(obs, actions)
            obs, rewards, dones, extras = env.step(actions)
            algorithm.process_env_step(obs, rewards, dones, extras)
            ended = dones.bool()
            for name, value in (
                ("reward", rewards.mean()),
                ("episodes", ended.sum().float()),
                ("successes", (extras["success"] & ended).sum().float()),
                ("saturation", (actions.abs() > SATURATED).float().mean()),
            ):
                sums[name] = sums.get(name, 0.0) + value
        algorithm.compute_returns(obs)
    found = ranks.summed(sums)
    return {
        "reward": found["reward"] / steps / ranks.world(),
        "success": found["successes"] / max(found["episodes"], 1.0),
        "saturation": found["saturation"] / steps / ranks.world(),
    }


def _action_std(algorithm: PPO) -> float:
    noise = algorithm.actor.distribution
    assert noise is not None, "PPO's actor is stochastic"
    return noise.std.mean().item()


def _state(env: VecEnv, learner: Learner, totals: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint: the learner's state, and what else an exact resume needs."""
    return {
        **learner.state(), "iter": totals["iteration"], "env": ranks.joined(env.snapshot()),
        "totals": totals, **extra,
    }  # fmt: skip


def _restore(run: Run, env: VecEnv, learner: Learner) -> dict[str, Any]:
    """Return the totals so far, everything else restored; of a fresh run, zeros and staggered episodes."""
    if ranks.is_first():
        run.rewind()
    ranks.wait()
    if not run.has_checkpoint("last"):
        share = env.draws.uniform("stagger", env.state.episode_id, 0, 1)[:, 0]
        env.episode_length_buf = (share * env.max_episode_length / 2).long()
        return {
            "iteration": 0, "env_steps": 0, "grad_samples": 0, "best": [-math.inf, -math.inf],
            "stopped": False, "saturation": 0.0, "validation_steps": 0, "validation_frames": 0,
        }  # fmt: skip
    saved = run.load_checkpoint("last")
    env.restore(ranks.divided(saved["env"]))
    learner.restore(saved)
    return saved["totals"]


def load_teacher(run: Run, checkpoint: str, env: VecEnv) -> PpoTeacher | Sb3Teacher:
    """Return the frozen teacher of a teach run, refused if env is not what it was made for."""
    saved = run.load_checkpoint(checkpoint)
    check_contract(saved["contract"], env, f"the teacher of {run.path}")
    settings: PpoCfg | Sb3Cfg = load("teach", run.config).teacher
    rows = {
        group: torch.zeros(1, env.obs_specs[group].size, device=env.device) for group in settings.actor_groups
    }
    return settings.build(TensorDict(rows, batch_size=[1]), env.num_actions, saved)
