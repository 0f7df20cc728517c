"""`what=teach`: an iteration of PPO on the task reach, ours beside rsl_rl's own runner.

The same environments, networks, settings and seed; algorithm and storage are rsl_rl's on both sides, so what
differs is the loop around them.
Shapes: N environments.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
from rsl_rl.runners import OnPolicyRunner

from robokd.bench.row import Effort, Gate, Measure, Row, in_turn, per
from robokd.config import compose
from robokd.env.base import TaskEnv
from robokd.learn.stage import begin, build_env
from robokd.learn.teach import PpoLearner
from robokd.teachers.ppo import PpoCfg

WEIGHTS_LIMIT = 1e-5  # after one iteration, relative


def rows(effort: Effort) -> Iterator[Row]:
    """Measure iterations, collecting and learning."""
    begin(effort.seed, threads=1)
    settings = PpoCfg()
    steps = settings.steps_per_iteration * effort.num_envs
    gate = Gate(name="the same weights after an iteration", measures=(_apart(settings, effort),))
    ours, theirs = _ours(settings, effort), _theirs(settings, effort)
    turns = in_turn(lambda: ours.learn(1), lambda: _iterate(theirs), effort)
    yield Row(
        name="iteration of PPO", peer_name="rsl_rl's OnPolicyRunner, the same environments", unit="us/step",
        gate=gate, ours_all=per(turns[0], steps), peer_all=per(turns[1], steps),
    )  # fmt: skip


def _env(settings: PpoCfg, effort: Effort) -> TaskEnv:
    words = ["task=reach", f"num_envs={effort.num_envs}", "threads=1", f"seed={effort.seed}"]
    groups = tuple(dict.fromkeys((*settings.actor_groups, *settings.critic_groups)))
    return build_env(compose("teach", words), groups, "train")


def _ours(settings: PpoCfg, effort: Effort) -> PpoLearner:
    torch.manual_seed(effort.seed)
    env = _env(settings, effort)
    algorithm = settings.algorithm(env.get_observations(), env.num_actions, "cpu")
    return PpoLearner(env, algorithm, settings)


def _theirs(settings: PpoCfg, effort: Effort) -> OnPolicyRunner:
    """Return rsl_rl's runner with the settings of teacher=ppo, and no log."""
    model = {"class_name": "MLPModel", "activation": "elu", "obs_normalization": True}
    noise = {"class_name": "GaussianDistribution", "init_std": settings.initial_std, "std_type": "log"}
    config = {
        "num_steps_per_env": settings.steps_per_iteration, "save_interval": 10**9,
        "obs_groups": {"actor": [*settings.actor_groups], "critic": [*settings.critic_groups]},
        "actor": {**model, "hidden_dims": [*settings.hidden], "distribution_cfg": noise},
        "critic": {**model, "hidden_dims": [*settings.critic_hidden]},
        "algorithm": {
            "class_name": "PPO", "num_learning_epochs": settings.epochs,
            "num_mini_batches": settings.mini_batches, "clip_param": settings.clip,
            "gamma": settings.discount, "lam": settings.gae_lambda, "schedule": "adaptive",
            "value_loss_coef": settings.value_weight, "entropy_coef": settings.entropy,
            "learning_rate": settings.learning_rate, "max_grad_norm": settings.max_grad_norm,
            "desired_kl": settings.desired_kl,
        },
    }  # fmt: skip
    torch.manual_seed(effort.seed)
    with contextlib.redirect_stdout(io.StringIO()):  # its networks
        env: Any = _env(settings, effort)  # conforms, and does not inherit
        return OnPolicyRunner(env, config, log_dir=None, device="cpu")


def _iterate(runner: OnPolicyRunner) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # its table
        runner.learn(1)


def _apart(settings: PpoCfg, effort: Effort) -> Measure:
    """Return how far the actors are apart after one iteration from the same start."""
    ours, theirs = _ours(settings, effort), _theirs(settings, effort)
    before = ours.algorithm.actor.state_dict()
    theirs.alg.actor.load_state_dict(before)
    theirs.alg.critic.load_state_dict(ours.algorithm.critic.state_dict())
    for learn in (lambda: ours.learn(1), lambda: _iterate(theirs)):
        torch.manual_seed(effort.seed)
        learn()
    pairs = zip(ours.algorithm.actor.parameters(), theirs.alg.actor.parameters(), strict=True)
    worst = max(float((one - other).norm() / one.norm().clip(min=1e-9)) for one, other in pairs)
    return Measure(name="relative difference of a weight", value=worst, limit=WEIGHTS_LIMIT)
