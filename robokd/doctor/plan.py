"""What a distillation would cost: disk, memory and time, from one small round that was measured.

Shapes: B rows of a batch, T steps of a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robokd.doctor.finding import FAIL, OK, WARN, Finding
from robokd.draws import Draws
from robokd.learn.buffer import Column, planned_bytes
from robokd.learn.dataset import DataSet, batch_rows
from robokd.learn.room import room
from robokd.memory import forget_peak_memory, peak_rss_mb

if TYPE_CHECKING:
    import mujoco

    from robokd.config import DistillConfig
    from robokd.learn.dagger import Dagger

DISK_SHARE = 0.9  # of the free disk may be planned: the same that the buffer's own message leaves
MEMORY_SHARE = 0.8  # of what is available; the page cache of the data set wants the rest
WARM_STEPS, TIMED_STEPS = 2, 6  # gradient steps; the first ones choose their kernels


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one small round took."""

    columns: Mapping[str, Column]  # of the data set
    collect_s: float  # per frame, labelled and stored
    fit_s: float  # per gradient step
    peak_mb: float  # resident, of this process


def measured(engine: Dagger) -> Costs:
    """Collect and fit a small round; `engine` is of the stage's own losses and batches."""
    with contextlib.redirect_stdout(io.StringIO()):  # it says how large the buffer is, and this one is not
        engine._collect(0.0)
    started = time.perf_counter()
    engine._collect(0.0)
    collect_s = (time.perf_counter() - started) / (engine.settings.steps_per_round * engine.env.num_envs)
    settings = engine.settings
    forget_peak_memory()
    for steps in (WARM_STEPS, TIMED_STEPS):
        engine.settings = dataclasses.replace(settings, gradient_steps=steps)
        started = time.perf_counter()
        engine._learn(0, settings.learning_rate.begin)
    fit_s = (time.perf_counter() - started) / TIMED_STEPS
    return Costs(columns=engine.data.buffer.columns, collect_s=collect_s, fit_s=fit_s, peak_mb=peak_rss_mb())


def worlds(config: DistillConfig, model: mujoco.MjModel, available_mb: float) -> Finding | None:
    """Hold the worlds of the stage to the memory of their device, in MiB; None where they take little."""
    found = room(config, model, available_mb)
    if found is None:
        return None
    return Finding(
        check="worlds", level=OK if found.is_enough else FAIL, value=found.wanted_mb, limit=available_mb,
        measured=found.said(), cure=found.cure,
    )  # fmt: skip


def disk(config: DistillConfig, costs: Costs, length: int, free: int) -> Finding:
    """Hold the data set of `length` steps a row to the free disk, in bytes."""
    data = DataSet(config.dagger, Draws(config.seed, "validation"), config.num_envs, length)
    rows, each = data.size, planned_bytes(dict(costs.columns), 1)
    room, wanted = int(free * DISK_SHARE), rows * each
    most = data.capacity_in(room, each)
    if wanted <= room:
        level, cure = OK, ""
    elif most:
        level, cure = FAIL, f"dagger.capacity={most} would fit, or free the disk of {config.runs}"
    else:
        level = FAIL
        cure = f"no capacity fits: free the disk of {config.runs}, or lower num_envs or checkpoint_every"
    return Finding(
        check="disk", level=level, value=float(wanted), limit=float(room), cure=cure,
        measured=f"{rows * length:,} frames of {each // length:,} B: {wanted / 1e9:.2f} GB of data, "
        f"{free / 1e9:.2f} GB free",
    )  # fmt: skip


def memory(config: DistillConfig, costs: Costs, length: int, available_mb: float) -> Finding:
    """Hold the memory of a batch, as measured, to what is available, in MiB."""
    rows = batch_rows(config.dagger.batch_size, length)
    batch = rows * planned_bytes(dict(costs.columns), 1) / 2**20
    level = WARN if costs.peak_mb > MEMORY_SHARE * available_mb else OK
    return Finding(
        check="memory", level=level, value=costs.peak_mb, limit=MEMORY_SHARE * available_mb,
        measured=f"a batch of {rows * length} frames is {batch:.1f} MiB encoded; the process takes "
        f"{costs.peak_mb:.0f} MiB with it, {available_mb:.0f} MiB are available",
        cure="lower dagger.batch_size",
    )  # fmt: skip


def wall_time(config: DistillConfig, costs: Costs, length: int, horizon: int) -> Finding:
    """Say how long all rounds would take; `horizon` is the most steps of an episode."""
    settings = config.dagger
    frames = settings.rounds * settings.steps_per_round * config.num_envs
    steps = settings.rounds * settings.gradient_steps
    looks = math.ceil(settings.rounds / settings.evaluate_every) * settings.evaluate_episodes * horizon
    collect_s, fit_s, look_s = (
        frames * costs.collect_s, steps * costs.fit_s, looks * costs.collect_s,
    )  # fmt: skip
    total = collect_s + fit_s + look_s
    samples = steps * batch_rows(settings.batch_size, length) * length
    return Finding(
        check="time", level=OK, value=total,
        measured=f"about {spoken(total)} for all {settings.rounds} rounds on {config.threads} threads: "
        f"{frames:,} frames {spoken(collect_s)}, {samples:,} gradient samples {spoken(fit_s)}, "
        f"validation {spoken(look_s)} at most",
    )  # fmt: skip


def spoken(seconds: float) -> str:
    """Return a duration as one would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
