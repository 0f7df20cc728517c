"""Time until a teacher of reach succeeds in 98 %: ours beside stable-baselines3's PPO on its SubprocVecEnv.

    python -m tests.evidence.reach_sb3 results/teach_sb3.json [seeds=3] [patience=8]

Theirs steps plain Gymnasium environments (robokd/bench/plain.py) of the same body, rewards and limits, which
have no noise and randomise less, and is judged by episodes of those. Seconds are wall time of collecting and
learning, without validation. Who has not learned after `patience` times our median is given up. The settings
of stable-baselines3 are its defaults, and those that ours has (networks, rates, batches, epochs).
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from robokd.bench.plain import PlainEnv
from robokd.bench.sim import arm
from robokd.config import compose
from robokd.learn.teach import teach
from robokd.run import Run
from tests.evidence.table import fill, written

WANTED, EPISODES, EVERY_S = 0.98, 128, 10.0
POOL = 16
DEFAULTS: dict[str, Any] = {}
LIKE_OURS: dict[str, Any] = {
    "n_steps": 96, "batch_size": 384, "n_epochs": 5, "gamma": 0.98, "learning_rate": 1e-3, "target_kl": 0.024,
    "policy_kwargs": {"net_arch": [256, 128, 64], "activation_fn": torch.nn.ELU, "log_std_init": -0.7},
}  # fmt: skip
THEIRS = {"sb3, settings like ours": LIKE_OURS, "sb3, its defaults": DEFAULTS}


def ours(seed: int, runs: Path) -> dict[str, Any]:
    """Teach and return when the validation success was there."""
    words = ["task=reach", f"seed={seed}", f"runs={runs}", f"teacher.stop_success={WANTED}",
             "teacher.evaluate_every=5", f"teacher.evaluate_episodes={EPISODES}"]  # fmt: skip
    run, seconds, curve = Run.open(teach(compose("teach", words)).parent), 0.0, []
    for line in run.metrics():
        seconds += (line["time/collect_s"] or 0.0) + (line["time/learn_s"] or 0.0)
        if (success := line.get("validation/success")) is not None:
            curve.append((round(line["env_steps"] or 0), seconds, success))
    return _found(curve)


def theirs(settings: dict[str, Any], seed: int, limit_s: float) -> dict[str, Any]:
    """Learn until the success is there, or for so long."""
    make = arm().plain
    pool = VecNormalize(SubprocVecEnv([make] * POOL, start_method="spawn"), norm_reward=False)
    pool.seed(seed)
    model = PPO("MlpPolicy", pool, seed=seed, device="cpu", **settings)
    chunk, seconds, steps, curve = model.n_steps * POOL, 0.0, 0, []
    looked_s, judge = 0.0, make()
    while seconds < limit_s and (not curve or curve[-1][2] < WANTED):
        began = time.perf_counter()
        model.learn(chunk, reset_num_timesteps=False)
        seconds, steps = seconds + time.perf_counter() - began, steps + chunk
        if seconds - looked_s >= EVERY_S or seconds >= limit_s:
            looked_s = seconds
            curve.append((steps, seconds, _success(lambda seen: _action(model, pool, seen), judge, seed)))
    pool.close()
    return _found(curve)


def _action(model: PPO, pool: VecNormalize, seen: np.ndarray) -> np.ndarray:
    return model.predict(pool.normalize_obs(seen), deterministic=True)[0]


def _success(act: Callable[[np.ndarray], np.ndarray], env: PlainEnv, seed: int) -> float:
    """Return the share of episodes that succeed."""
    count = 0
    for episode in range(EPISODES):
        seen, _ = env.reset(seed=1000 * seed + episode)
        is_over = is_late = False
        while not (is_over or is_late):
            seen, _, is_over, is_late, info = env.step(act(seen))
        count += info["is_success"]
    return count / EPISODES


def _found(curve: list[tuple[int, float, float]]) -> dict[str, Any]:
    met = next((row for row in curve if row[2] >= WANTED), None)
    return {
        "seconds": met[1] if met else None, "env_steps": met[0] if met else None, "given_up_s": curve[-1][1],
        "best": max(row[2] for row in curve), "curve": curve,
    }  # fmt: skip


def main(out: str, *words: str) -> None:
    """Write all rows, as they come; those that `out` has already are not made again."""
    said = {"seeds": "3", "patience": "8", **dict(word.split("=") for word in words)}
    seconds = [row["seconds"] or row["given_up_s"] for row in written(out) if row["way"] not in THEIRS]

    def found(way: str, seed: int, runs: Path) -> dict[str, Any]:
        if way not in THEIRS:
            row = ours(seed, runs)
            seconds.append(row["seconds"] or row["given_up_s"])
            return row
        return theirs(THEIRS[way], seed, float(said["patience"]) * statistics.median(seconds))

    seeds = range(int(said["seeds"]))
    cells = [("ours", seed) for seed in seeds] + [(way, seed) for seed in seeds for way in THEIRS]
    command = " ".join(["python -m tests.evidence.reach_sb3", f"results/{Path(out).name}", *words])
    fill(out, command, cells, found, goes_on=True)


if __name__ == "__main__":
    main(sys.argv[1], *sys.argv[2:])
