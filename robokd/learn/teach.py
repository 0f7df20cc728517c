"""Teach: PPO on privileged state. The loop is ours and visible; algorithm, networks and storage are rsl_rl's.

rsl_rl's own runner repeats an iteration on resume and saves neither random state nor environments; this loop
resumes bit for bit, and its checkpoints can still be read by that runner.
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rsl_rl.algorithms import PPO
from tensordict import TensorDict
from torch import Tensor

from robokd.config import load
from robokd.env.base import VecEnv, check_contract, contract
from robokd.learn.rollout import SATURATED, Outcomes, rollout
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.progress import Progress
from robokd.run import Run
from robokd.teachers.ppo import PpoCfg, PpoTeacher

if TYPE_CHECKING:
    from robokd.config import TeachConfig


def teach(config: TeachConfig, resume: Run | None = None) -> Path:
    """Train a teacher and return the path of its summary."""
    begin(config.seed, config.threads)
    settings: PpoCfg = config.teacher
    groups = tuple(dict.fromkeys((*settings.actor_groups, *settings.critic_groups)))
    env = build_env(config, groups, "train")
    validation = build_env(config, settings.actor_groups, "validation", num_envs=settings.evaluate_episodes)
    algorithm = settings.algorithm(env.get_observations(), env.num_actions, config.device)
    run = resume or create_run(config, "teach")
    env.failures = run.path / "failures"

    def validate() -> Outcomes:
        return rollout(
            validation, PpoTeacher(algorithm.actor, settings.actor_groups), settings.evaluate_episodes
        )

    extra = {"contract": contract(env, settings.actor_groups)}
    totals = optimise(env, algorithm, settings, run, validate, extra)
    return run.write_summary({**totals, **shared_fields(config)})


def optimise(
    env: VecEnv,
    algorithm: PPO,
    settings: PpoCfg,
    run: Run,
    validate: Callable[[], Outcomes],
    extra: dict[str, Any],
) -> dict[str, Any]:
    """PPO until the validation success or the iterations are reached; returns the totals for the summary.

    Resumes from the run's last checkpoint, if it has one. `extra` goes into every checkpoint.
    """
    totals = _restore(run, env, algorithm)
    is_best = False
    steps = settings.steps_per_iteration * env.num_envs
    with Progress(settings.iterations, "iterations", start=totals["iteration"]) as bar:
        while totals["iteration"] < settings.iterations and not totals["stopped"]:
            started = time.perf_counter()
            stats = _collect(env, algorithm, settings.steps_per_iteration)
            collected = time.perf_counter()
            # a cold critic would spoil a good actor; without gradients the optimiser leaves it alone
            algorithm.actor.requires_grad_(totals["iteration"] >= settings.critic_warmup)
            losses = algorithm.update()
            totals["iteration"] += 1
            totals["env_steps"] += steps
            totals["grad_samples"] += steps * settings.epochs
            iteration, finished = totals["iteration"], totals["iteration"] == settings.iterations
            row = {
                **stats, **{f"loss/{name}": value for name, value in losses.items()},
                "env_steps": totals["env_steps"], "learning_rate": algorithm.learning_rate,
                "action_std": _action_std(algorithm),
                "time/collect_s": collected - started, "time/learn_s": time.perf_counter() - collected,
            }  # fmt: skip
            if iteration % settings.evaluate_every == 0 or finished:
                outcomes = validate()
                row |= {f"validation/{name}": value for name, value in outcomes.means().items()}
                score = [outcomes.success.mean().item(), outcomes.returns.mean().item()]
                is_best = score > totals["best"]
                totals["best"] = max(score, totals["best"])
                totals["stopped"] = score[0] >= settings.stop_success
                totals["saturation"] = outcomes.saturation
                totals["validation_steps"] += outcomes.env_steps
                totals["validation_frames"] += outcomes.frames
            run.log(iteration, row)
            if iteration % settings.evaluate_every == 0 or finished:
                run.save_checkpoint(iteration, _state(env, algorithm, totals, extra), best=is_best)
            bar.advance(1, success=row.get("validation/success"), reward=stats["reward"])
    return {
        "env_steps": totals["env_steps"] + totals["validation_steps"],
        "training_env_steps": totals["env_steps"], "grad_samples": totals["grad_samples"],
        "frames_rendered": env.frames_rendered + totals["validation_frames"],
        "iterations": totals["iteration"], "episodes": env.episodes_ended, "diverged": env.episodes_diverged,
        "validation_success": totals["best"][0], "action_saturation": totals["saturation"],
    }  # fmt: skip


def _collect(env: VecEnv, algorithm: PPO, steps: int) -> dict[str, float]:
    """Fill the rollout storage, compute returns; statistics stay on the device until the end."""
    sums: dict[str, Tensor] = {}
    obs = env.get_observations()
    with torch.no_grad():
        for _ in range(steps):
            actions = algorithm.act(obs)
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
    ended = max(sums["episodes"].item(), 1.0)
    return {
        "reward": sums["reward"].item() / steps,
        "success": sums["successes"].item() / ended,
        "saturation": sums["saturation"].item() / steps,
    }


def _action_std(algorithm: PPO) -> float:
    noise = algorithm.actor.distribution
    assert noise is not None, "PPO's actor is stochastic"
    return noise.std.mean().item()


def _state(env: VecEnv, algorithm: PPO, totals: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint: what rsl_rl's runner reads, and what an exact resume needs."""
    return {
        **algorithm.save(), "iter": totals["iteration"], "infos": None,
        "env": env.snapshot(), "rng": torch.get_rng_state(), "totals": totals, **extra,
    }  # fmt: skip


def _restore(run: Run, env: VecEnv, algorithm: PPO) -> dict[str, Any]:
    """Return the totals so far, everything else restored; of a fresh run, zeros and staggered episodes."""
    run.rewind()
    if not run.has_checkpoint("last"):
        share = env.draws.uniform("stagger", env.state.episode_id, 0, 1)[:, 0]
        env.episode_length_buf = (share * env.max_episode_length / 2).long()
        return {
            "iteration": 0, "env_steps": 0, "grad_samples": 0, "best": [-math.inf, -math.inf],
            "stopped": False, "saturation": 0.0, "validation_steps": 0, "validation_frames": 0,
        }  # fmt: skip
    saved = run.load_checkpoint("last")
    algorithm.load(saved, None, strict=True)
    env.restore(saved["env"])
    torch.set_rng_state(saved["rng"])
    return saved["totals"]


def load_teacher(run: Run, checkpoint: str, env: VecEnv) -> PpoTeacher:
    """Return the frozen teacher of a teach run, refused if env is not what it was made for."""
    saved = run.load_checkpoint(checkpoint)
    check_contract(saved["contract"], env, f"the teacher of {run.path}")
    settings: PpoCfg = load("teach", run.config).teacher
    rows = {group: torch.zeros(1, env.obs_specs[group].size) for group in settings.actor_groups}
    return settings.build(TensorDict(rows, batch_size=[1]), env.num_actions, saved)
