"""Small worlds and small runs that the tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# as the command line does; OpenMP reads it when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# a machine that others use too is slow by no fault of a test; fixtures here are the same for every example
KNOWN = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
# `make test` tries the same examples each time, so that a change alone makes it fail; `make search` others
settings.register_profile("same", deadline=None, suppress_health_check=KNOWN, derandomize=True)
settings.register_profile("search", deadline=None, suppress_health_check=KNOWN, max_examples=1000)
settings.load_profile("same")

TINY = {
    "teach": [
        "num_envs=16", "teacher.iterations=4", "teacher.steps_per_iteration=8", "teacher.evaluate_every=2",
        "teacher.evaluate_episodes=8", "teacher.hidden=[32]", "teacher.critic_hidden=[32]",
        "task.horizon_s=0.8",
    ],
    "distill": [
        "num_envs=16", "dagger.rounds=4", "dagger.steps_per_round=4", "dagger.gradient_steps=2",
        "dagger.batch_size=16", "dagger.evaluate_every=2", "dagger.evaluate_episodes=8",
        "dagger.checkpoint_every=1", "dagger.acting.share.after=0", "dagger.acting.share.over=3",
        "student.channels=[4,4]", "student.keypoints=4",
    ],
    "refine": [
        "num_envs=16", "teacher.iterations=4", "teacher.steps_per_iteration=8", "teacher.evaluate_every=2",
        "teacher.evaluate_episodes=8", "teacher.hidden=[32]", "teacher.critic_hidden=[32]",
        "teacher.critic_warmup=1",
    ],
}  # fmt: skip


@pytest.fixture
def make_env() -> Callable:
    """Return a maker of reach environments: make_env(num_envs, groups, **task fields)."""
    pytest.importorskip("mujoco")
    from robokd.tasks.reach import ReachCfg

    from robokd.draws import Draws
    from robokd.env.base import Setup
    from robokd.sim.mujoco import MujocoCfg
    from robokd.vision.raster import RasterCfg
    from robokd.vision.sensor import Corruption

    def make(
        num_envs: int = 4, groups: Sequence[str] = ("proprio", "privileged"), *, seed: int = 0,
        stream: str = "test", space: str = "seen", threads: int = 1, sim: MujocoCfg | None = None,
        sees: bool = True, corrupt: Corruption | None = None, **fields: object,
    ):  # fmt: skip
        setup = Setup(
            num_envs=num_envs, groups=groups, draws=Draws(seed, stream), space=space, threads=threads
        )
        renderer, corrupt = RasterCfg() if sees else None, corrupt or Corruption()
        return ReachCfg(**fields).build(
            sim=sim or MujocoCfg(), renderer=renderer, corrupt=corrupt, setup=setup
        )

    return make


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of a tiny teach, distill and refine run, made once a session."""
    pytest.importorskip("mujoco")
    from robokd.cli import main
    from robokd.config import SCHEMAS

    assert {"teach", "distill", "refine"} <= set(SCHEMAS)
    root = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}
    for stage, link in (
        ("teach", ["task=reach"]),
        ("distill", ["parent=teach"]),
        ("refine", ["parent=distill"]),
    ):
        words = [word if "parent=" not in word else f"parent={made[word.split('=')[1]]}" for word in link]
        assert main([stage, *words, *TINY[stage], f"runs={root}", "threads=2"]) == 0
        made[stage] = next(root.glob(f"*_reach_{stage}_*"))
    return made
