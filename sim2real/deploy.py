"""Deploy: run a bundle on a robot behind the safety layer, and say how it went."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from robokd.sim2real.log import Log
from robokd.sim2real.loop import Account, Pace, Plan, connected, run_loop
from robokd.sim2real.policy import Policy
from robokd.sim2real.robot import EpisodicRobot, Robot
from robokd.sim2real.safety import Safety, SafetyStop

from robokd import UserError
from robokd.config import dump
from robokd.export.bundle import Bundle, read_bundle
from robokd.intervals import wilson
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import DeployConfig


def deploy(config: DeployConfig, resume: Run | None = None) -> Path:
    """Run the bundle and return the path of the stage's summary; a safety stop is raised after it is written.

    What does not fit is refused before there is a run: bundle, task, plan, and a robot as it is connected.
    A deployment is not continued but done again: a resumed one begins with its first episode.
    """
    bundle = read_bundle(config.bundle)
    check_task(config, bundle)
    policy = Policy(bundle)
    robot = config.robot.build(bundle=bundle, seed=config.seed)
    plan = make_plan(config, robot, bundle)
    safety, pace, account = Safety(bundle), Pace(bundle.action.control_dt), Account()
    stopped: SafetyStop | None = None
    # the robot is stopped first, then the log is written to its end
    with contextlib.ExitStack() as files, connected(robot):
        run = resume or create_run(config, bundle)
        robot.log_into(run.path)
        log = files.enter_context(contextlib.closing(open_log(config, bundle, run)))
        try:
            run_loop(
                robot, policy, safety=safety, pace=pace, log=log, account=account, plan=plan,
                after_episode=lambda: say(account),
            )  # fmt: skip
        except SafetyStop as stop:
            stopped = stop
            log.event(time.monotonic(), stop.kind, str(stop))
    report = robot.report() if isinstance(robot, EpisodicRobot) else {}
    summary = run.write_summary({
        "sim": bundle.manifest["sim_config"]["part"] if isinstance(robot, EpisodicRobot) else None,
        "robot": config.robot.name, "bundle": str(bundle.path), "bundle_sha256": bundle.sha256,
        "env_steps": account.ticks, **outcome(account), "deadline_misses": pace.misses,
        "safety": dict(safety.counts), "stop_reason": stopped.kind if stopped else "end",
        "frames_rendered": report.get("frames_rendered", 0),
        "robot_peak_rss_mb": report.get("peak_rss_mb"), "robot_log": report,
    })  # fmt: skip
    if stopped:
        raise stopped
    return summary


def check_task(config: DeployConfig, bundle: Bundle) -> None:
    """Refuse a bundle for another task than the one that is asked for, if one is."""
    if config.task and config.task != bundle.manifest["task"]:
        raise UserError(f"{bundle.path} is for task={bundle.manifest['task']}, not for task={config.task}")


def create_run(config: DeployConfig, bundle: Bundle) -> Run:
    """Return a fresh run folder whose parent is the bundle."""
    return Run.create(
        config.runs, task=bundle.manifest["task"], stage="deploy", config=dump(config), seed=config.seed,
        parents=[{"path": str(bundle.path), "sha256": bundle.sha256}],
    )  # fmt: skip


def open_log(config: DeployConfig, bundle: Bundle, run: Run) -> Log:
    """Return the log of a run, open."""
    about = {"task": bundle.manifest["task"], "bundle_sha256": bundle.sha256, "robot": config.robot.name}
    return Log(run.path / "log.mcap", about)


def say(account: Account) -> None:
    """Tell a person how the last episode ended."""
    word = "success" if account.successes and account.successes[-1] else "failure"
    print(f"episode {account.episodes}: {word}, {account.ticks} ticks so far", file=sys.stderr, flush=True)


def make_plan(config: DeployConfig, robot: Robot, bundle: Bundle) -> Plan:
    """Return how long to run; only a robot that has episodes can be asked for so many."""
    if config.duration_s > 0:
        return Plan(episodes=0, ticks=max(1, round(config.duration_s / bundle.action.control_dt)))
    if not isinstance(robot, EpisodicRobot):
        raise UserError(f"robot={config.robot.name} has no episodes; say how long with duration_s=…")
    return Plan(episodes=config.episodes, ticks=0)


def outcome(account: Account) -> dict[str, Any]:
    """Return the success rate and the distribution of every time."""
    return {
        "success": wilson(account.successes),
        "ticks": account.ticks,
        "period_s": percentiles(account.periods_s),
        "inference_s": percentiles(account.inferences_s),
        "late_s": percentiles(account.late_s),
        "age_s": {channel: percentiles(ages) for channel, ages in account.ages_s.items()},
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return the median, the tails and the largest of measured times."""
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: float(np.quantile(seconds, share)) if seconds else None for name, share in shares.items()}
