"""Deploy: run a bundle on a robot behind the guard, and say how it went."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from robokd.sim2real.board import Board
from robokd.sim2real.eyes import READY
from robokd.sim2real.guard_link import GuardLink
from robokd.sim2real.interrupts import deafen, one_interrupt
from robokd.sim2real.log import Log, LogError
from robokd.sim2real.log_reader import LOG
from robokd.sim2real.lookout import Lookout
from robokd.sim2real.loop import Account, Crew, Pace, Plan, run_loop
from robokd.sim2real.packets import pair
from robokd.sim2real.policy import Policy
from robokd.sim2real.process import PRIORITY, Process, pin, prioritise, quantiles
from robokd.sim2real.robot import Plant, SimulatedCfg
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.senses import Senses
from robokd.sim2real.shadow import Shadow
from robokd.sim2real.stage import create_run, open_to_run
from robokd.sim2real.stop_key import HOW, terminal_kept

from robokd import UserError
from robokd.config import words
from robokd.export.bundle import Bundle
from robokd.intervals import wilson
from robokd.run import Run, check_root

if TYPE_CHECKING:
    from robokd.config import DeployConfig

EYES = "robokd.sim2real.eyes"
HOMING_S = 60.0
LISTEN_S = 0.05
EYES_END_S = 5.0  # for a camera process that gives up to be gone
Connect = Callable[[], tuple[socket.socket, socket.socket]]


def deploy(config: DeployConfig, resume: Run | None = None, connect: Connect = pair) -> Path:
    """Run the bundle and return the path of the stage's summary; a safety stop is raised after it is written.

    What does not fit is refused before there is a run: bundle, task, plan, and a robot as it is connected.
    A deployment is not continued but done again: a resumed one begins with its first episode. `connect` makes
    the two ends of the line between policy and guard.
    """
    bundle = open_to_run(config.bundle, config.sha256, is_hardware=not is_simulated(config))
    check_task(config, bundle)
    policy, plan = Policy(bundle), make_plan(config, bundle)
    shadow = open_shadow(config, bundle)
    lookout = Lookout(bundle, config.mismatch, is_simulated=is_simulated(config))
    check_root(config.runs)
    account, pace = Account(), Pace(bundle.action.control_dt)
    with started(config, bundle, connect) as hands:
        check_led(config, bundle, hands.link)
        lookout.inspect(hands.board, hands.plant)
        pin(config.runtime.cores, 0)  # not before: robot and cameras would inherit the core
        if config.runtime.fifo:
            prioritise([0, *hands.pids()], PRIORITY)
        run = resume or create_run(config, "deploy", bundle)
        hands.log_into(run.path)
        log = open_log(config, bundle, run)
        crew = Crew(
            link=hands.link, senses=hands.senses, policy=policy, log=log, pace=pace, account=account,
            watchers=(lookout, shadow) if shadow else (lookout,), plant=hands.plant,
        )  # fmt: skip
        digest, stopped = led(config, bundle, crew, plan, hands)
    stopped = stopped or over_budget(config, account, pace)
    report = hands.plant.report() if hands.plant else {}
    content = {
        "sim": report.get("sim"), "robot": config.robot.name,
        "bundle": str(bundle.path), "bundle_sha256": bundle.sha256,
        "env_steps": account.ticks, **outcome(account), "deadline_misses": pace.misses,
        "latency_s": latency(bundle, account), "guard": hands.link.report,
        "safety": safety_counts(hands.link.report, stopped), "shadow": shadow.report() if shadow else None,
        "lookout": lookout.report(),
        "stop_reason": stopped.kind if stopped else "end", "actions_sha256": digest,
        "frames_rendered": report.get("frames_rendered", 0),
        "robot_peak_rss_mb": report.get("peak_rss_mb"), "robot_log": report,
    }  # fmt: skip
    return written(run, content, stopped)


def open_shadow(config: DeployConfig, bundle: Bundle) -> Shadow | None:
    """Return the policy that is to run beside the bundle's, if there is one."""
    if not config.shadow:
        return None
    return Shadow(open_to_run(config.shadow, is_hardware=not is_simulated(config)), bundle)


def written(run: Run, content: dict[str, Any], stopped: SafetyStop | None) -> Path:
    """Write the summary and return its path, or raise what stopped the run, also on a full disk."""
    try:
        summary = run.write_summary(content)
    except OSError as error:
        raise stopped or SafetyStop("log", f"cannot write the summary: {error}") from None
    if stopped:
        raise stopped
    return summary


@contextlib.contextmanager
def at_home(config: DeployConfig, bundle: Bundle, link: GuardLink) -> Iterator[None]:
    """If that is asked for, go slowly to the ready pose before the block, and after it when it ended well."""
    if not config.home or link.is_shadow:  # a robot that is not to move does not get there
        yield
        return
    home = np.array(bundle.manifest["robot"]["home"], np.float32)
    link.home(home, HOMING_S)
    yield
    link.home(home, HOMING_S)


def led(
    config: DeployConfig, bundle: Bundle, crew: Crew, plan: Plan, hands: Hands
) -> tuple[str, SafetyStop | None]:
    """Follow the plan, then bring the robot to rest and close the log, whatever happens.

    Return the hash of all actions, and the stop that ended the run, if one did.
    """
    stopped, end = None, ("interrupt", "")
    try:
        with at_home(config, bundle, crew.link):
            run_loop(crew, plan, after_episode=lambda: say(crew.account))
        end = "end", ""
    except LogError as error:  # what is not recorded does not go on
        stopped = SafetyStop("log", str(error))
    except SafetyStop as stop:
        stopped = stop
    finally:
        if stopped is not None:
            end = stopped.kind, stopped.message
        try:
            hands.stop(*end)
        finally:
            digest, failed = close_log(crew, *end)
    return digest, stopped or failed


def close_log(crew: Crew, kind: str, message: str) -> tuple[str, SafetyStop | None]:
    """Write what is left, and why the run ended; return the hash of all actions, and the stop."""
    log = crew.log
    try:
        for sent in crew.link.sents:
            log.sent(sent)
        if kind != "end":
            log.event(time.monotonic(), kind, message)
        return log.close(), None
    except LogError as error:
        return log.close(), SafetyStop("log", str(error))


def over_budget(config: DeployConfig, account: Account, pace: Pace) -> SafetyStop | None:
    """Return the stop of a run that did not keep its budgets, if it has any."""
    budgets = {
        "period": (config.runtime.period_p99_s, [abs(one - pace.period_s) for one in account.periods_s]),
        "inference": (config.runtime.inference_p99_s, account.inferences_s),
    }
    for name, (budget, seconds) in budgets.items():
        p99 = quantiles(seconds)["p99"]
        if budget and p99 is not None and p99 > budget:
            return SafetyStop(
                "budget", f"runtime.{name}_p99_s={budget:g} s was not kept: p99 was {p99:.6f} s"
            )
    return None


def latency(bundle: Bundle, account: Account) -> dict[str, dict[str, Any]]:
    """Return by camera how much older than a command its picture was, and what training had."""
    trained = bundle.manifest["latency_s"]
    return {
        name: {"trained": trained[name], "measured": quantiles(account.ages_s[name])}
        for name in bundle.cameras
    }


def is_simulated(config: DeployConfig) -> bool:
    """Whether the robot is a simulated one, which is neither signed for nor armed."""
    return isinstance(config.robot, SimulatedCfg)


@dataclass(kw_only=True)
class Hands:
    """The processes of a deployment besides this one."""

    link: GuardLink
    senses: Senses
    board: Board
    eyes: Process | None
    leash: socket.socket  # closed, it ends the camera process
    plant: Plant | None
    alone_s: float = 0.0  # after which a simulated robot notices that nobody commands it
    folder: Path | None = None

    def pids(self) -> list[int]:
        """Return the numbers of those besides the guard, which sees to itself."""
        return [one.pid for one in (self.eyes, self.plant) if one is not None]

    def log_into(self, folder: Path) -> None:
        """Let the processes keep their own files in the run's folder."""
        self.folder = folder
        self.link.log_into(folder)
        if self.plant is not None:
            self.plant.log_into(str(folder))

    def stop(self, kind: str, message: str) -> None:
        """Bring the robot to rest, then end every process: nothing interrupts that. Also twice."""
        deafen()
        try:
            self.link.stop(kind, message)
        finally:
            self.leash.close()
            if self.eyes is not None:
                self.eyes.end(1.0)
            if self.plant is not None:
                if not self.link.report:  # the guard is gone: what follows is the robot's own timeout
                    time.sleep(self.alone_s)
                    self.alone_s = 0.0
                self.plant.stop()
            if self.folder is not None:
                with contextlib.suppress(OSError):  # a full disk
                    self.link.keep_output(self.folder)
                    if self.eyes is not None:
                        self.eyes.keep_output(self.folder / "eyes_output.txt")


@contextlib.contextmanager
def started(config: DeployConfig, bundle: Bundle, connect: Connect = pair) -> Iterator[Hands]:
    """Start the robot if it is a simulated one, its guard and its cameras; all have ended after the block."""
    with terminal_kept(), one_interrupt(), contextlib.ExitStack() as ends:
        plant = None
        if isinstance(config.robot, SimulatedCfg):
            plant = config.robot.plant(bundle=bundle, seed=config.seed)
            ends.callback(plant.stop)
            plant.start()
        # a file that is exchanged meanwhile is refused
        said = words("deploy", dataclasses.replace(config, sha256=bundle.sha256))
        action, reached = bundle.action, plant.joints if plant else None
        link = GuardLink(said, action.size, reached, connect, len(action.joints))
        ends.callback(link.stop)
        board = Board(bundle.cameras)
        ends.callback(board.close)
        leash, far = socket.socketpair()
        eyes = None
        if bundle.cameras:
            camera = plant.cameras if plant else None
            number = -1 if camera is None else camera.fileno()
            given = [board.descriptor, far.fileno(), *([number] if camera else [])]
            eyes = Process("camera process", EYES, [*map(str, given[:2]), str(number), *said], given)
        far.close()
        if plant is not None:
            plant.cameras.close()
        hands = Hands(
            link=link,
            senses=Senses(bundle, link, board, eyes, config.velocity_command),
            board=board,
            eyes=eyes,
            leash=leash,
            plant=plant,
            alone_s=plant.alone_s if plant else 0.0,
        )
        ends.callback(hands.stop, "end", "")
        link.ready()
        if eyes is not None:
            wait_for(eyes, leash, link)
            print(eyes.printed(), end="", file=sys.stderr, flush=True)  # what it warns of
        if link.stop_key:
            print(HOW[link.stop_key], file=sys.stderr, flush=True)
        try:
            yield hands
        finally:
            # the one interrupt may have hit a stop within the block; none can hit this one
            hands.stop("interrupt", "")


def wait_for(eyes: Process, leash: socket.socket, link: GuardLink) -> None:
    """Wait until the cameras are open or give up, how long is theirs to say; UserError with what they say."""
    while eyes.is_alive() and not select.select([leash], [], [], LISTEN_S)[0]:
        link.listen()  # what the guard says meanwhile is to find room
    if not select.select([leash], [], [], 0)[0] or leash.recv(len(READY)) != READY:
        raise UserError(f"the cameras cannot be opened: {eyes.fate(EYES_END_S)}")


def check_task(config: DeployConfig, bundle: Bundle) -> None:
    """Refuse a bundle for another task than the one that is asked for."""
    if config.task and config.task != bundle.manifest["task"]:
        raise UserError(f"{bundle.path} is for task={bundle.manifest['task']}, not for task={config.task}")
    if not bundle.action.joints:
        got = f"{bundle.path}: its commands are in {', '.join(dict.fromkeys(bundle.action.units))}"
        if not (bundle.action.flies and is_simulated(config)):
            raise UserError(f"{got}. robot={config.robot.name} takes joint positions, in rad or m")
        if config.home:
            raise UserError(f"{got}: home=true would send joints home, and it has none")
    if config.velocity_command and "velocity_command" not in bundle.terms:
        said = ",".join(f"{number:g}" for number in config.velocity_command)
        raise UserError(f"velocity_command=[{said}]: the policy of {bundle.path} follows none")


def check_led(config: DeployConfig, bundle: Bundle, link: GuardLink) -> None:
    """Refuse a policy that follows a velocity command where nobody gives one."""
    if "velocity_command" in bundle.terms and not config.velocity_command and not link.is_led():
        cure = "velocity_command=[m/s ahead, m/s left, rad/s turn] does"
        why = f"the policy of {bundle.path} follows a velocity command"
        raise UserError(f"{why}, and robot={config.robot.name} gives none; {cure}")


def open_log(config: DeployConfig, bundle: Bundle, run: Run) -> Log:
    """Return the log of a run, open; one of before, of a run that is done again, is kept beside it."""
    about = {"task": bundle.manifest["task"], "bundle_sha256": bundle.sha256, "robot": config.robot.name}
    path = run.path / LOG
    if path.exists():
        free = (path.with_name(f"log.{number}.mcap") for number in itertools.count(1))
        kept = path.rename(next(one for one in free if not one.exists()))
        print(f"the log of before is kept as {kept}", file=sys.stderr, flush=True)
    try:
        return Log(path, about)
    except LogError as error:
        raise UserError(str(error)) from None


def say(account: Account) -> None:
    """Tell a person how the last episode ended."""
    word = "success" if account.successes and account.successes[-1] else "failure"
    ended = f"episode {account.episodes}: {word}, " if account.episodes else ""
    print(f"{ended}{account.ticks} ticks so far", file=sys.stderr, flush=True)


def make_plan(config: DeployConfig, bundle: Bundle) -> Plan:
    """Return how long to run; only a robot that has episodes can be asked for so many."""
    if config.duration_s > 0:
        return Plan(episodes=0, ticks=max(1, round(config.duration_s / bundle.action.control_dt)))
    if not is_simulated(config):
        raise UserError(f"robot={config.robot.name} has no episodes; say how long with duration_s=…")
    return Plan(episodes=config.episodes, ticks=0)


def outcome(account: Account) -> dict[str, Any]:
    """Return the success rate and the distribution of every time."""
    return {
        "success": wilson(account.successes),
        "ticks": account.ticks,
        "rate_hz": len(account.periods_s) / sum(account.periods_s) if account.periods_s else None,
        "period_s": quantiles(account.periods_s),
        "inference_s": quantiles(account.inferences_s),
        "late_s": quantiles(account.late_s),
        "age_s": {channel: quantiles(ages) for channel, ages in account.ages_s.items()},
    }


def safety_counts(report: dict[str, Any], stopped: SafetyStop | None) -> dict[str, int]:
    """Return how often each kind of limit moved a command, and what stopped the run."""
    counts = dict(report.get("limited", {}))
    if stopped is not None:
        counts.setdefault(stopped.kind, 1)
    return counts
