"""Faults: break a running deployment in every way known, and prove from the robot's own log what it did.

Message faults hit commands on their way from the policy to the guard, many in one deployment; process faults
hit a process of it, one each. A case is ok when every fault landed, the robot was told nothing beyond its
limits and nothing that is no number, it was brought to rest and stopped as README's table says, and every
process that was left to say why said the same.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from robokd.sim2real.interrupts import one_interrupt
from robokd.sim2real.ladder import Rung
from robokd.sim2real.process import quantiles
from robokd.sim2real.robot import SimulatedCfg
from robokd.sim2real.stage import create_run, open_to_run
from robokd.sim2real.tap import KINDS, NOTHING, Breakage
from robokd.sim2real.victim import BEGIN_S, END_S, EYES, GUARD, TAP, Victim, torn

from robokd import UserError, registry
from robokd.export.bundle import Bundle
from robokd.files import read_json, to_json, writable, write_atomic
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import FaultsConfig

EVERY = 4  # commands from one message fault to the next
FIRST = 20  # command that is hit first
REACTION = 3  # control periods
SPARE = 100  # one more fault is injected for so many: the machine may have stalled around one
# what the guard counts of each kind of message fault; a late command may be overtaken by the next
COUNTED = {
    "drop": ("lost",), "delay": ("command_stale", "order"), "duplicate": ("twice",), "reorder": ("order",),
    "freeze": ("command_stale",), "clock_jump": ("command_stale",), "bit_flip": ("corrupt",),
}  # fmt: skip
Injection = Callable[[Victim], bool]  # whether there was something to hit


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault that ends the run: what is done to whom, and what is to become of it."""

    inject: Injection
    exit_code: int  # of the deployment
    stop: str  # kind of the stop, by the account of the guard and of the deployment, of whichever is left
    is_prompt: bool = False  # the guard notices at once, and acts within REACTION periods
    has_guard: bool = True  # that brings the robot to rest; without it the robot's own timeout does
    is_of_cameras: bool = False  # noticed when a picture is too old: the kind ends with the camera's name
    unnoticed_s: float = 0.0  # the policy goes on for so long at most
    is_of_the_log: bool = False  # which then is to hold something before, and all of it after

    @property
    def has_policy(self) -> bool:
        """Whether the policy process lives to leave a summary."""
        return self.exit_code >= 0


# message faults that end the run: one each, which the tap injects
ENDING = {"nan": Fault(inject=lambda _: True, exit_code=3, stop="non_finite", is_prompt=True)}


def _signal(module: str, number: int) -> Injection:
    return lambda victim: victim.signal(module, number)


def process_faults() -> dict[str, Fault]:
    """Return the process faults by name."""
    return {
        "policy_kill": Fault(
            inject=_signal("", signal.SIGKILL), exit_code=-signal.SIGKILL, stop="policy_lost", is_prompt=True
        ),
        "policy_stop": Fault(
            inject=_signal("", signal.SIGSTOP), exit_code=3, stop="command_timeout", is_prompt=True
        ),
        "camera_kill": Fault(
            inject=_signal(EYES, signal.SIGKILL), exit_code=3, stop="stale_", is_of_cameras=True
        ),
        "camera_stop": Fault(
            inject=_signal(EYES, signal.SIGSTOP), exit_code=3, stop="stale_", is_of_cameras=True
        ),
        "guard_kill": Fault(
            inject=_signal(GUARD, signal.SIGKILL), exit_code=3, stop="guard_lost", has_guard=False
        ),
        "guard_stop": Fault(
            inject=_signal(GUARD, signal.SIGSTOP), exit_code=3, stop="stale_joints", has_guard=False
        ),
        "disconnect": Fault(
            inject=_signal(TAP, signal.SIGKILL), exit_code=3, stop="policy_lost", is_prompt=True
        ),
        "disk_full": Fault(
            inject=lambda it: it.fill_disk(),
            exit_code=3,
            stop="log",
            unnoticed_s=5.0,  # the log reaches the disk in chunks
            is_of_the_log=True,
        ),
    }


def faults(config: FaultsConfig, resume: Run | None = None) -> Path:
    """Run every case and return the path of the stage's summary; a failed case is an error after it.

    A resumed one keeps the cases that are done.
    """
    bundle = open_to_run(config.bundle, is_hardware=False)
    possible = [
        *KINDS, *(name for name, one in process_faults().items() if bundle.cameras or not one.is_of_cameras)
    ]  # fmt: skip
    for name in config.cases:
        if name not in possible:
            raise UserError(registry.unknown(f"case of {bundle.path}", name, possible))
    if not isinstance(config.robot, SimulatedCfg):
        raise UserError(f"robot={config.robot.name} is no simulated robot: faults are not for hardware")
    out = writable(config.out) if config.out else None
    run = resume or create_run(config, "faults", bundle)
    done = run.path / "cases.json"
    cases = read_json(done)["cases"] if done.exists() else []
    with one_interrupt():  # also one that is told to end leaves nothing running
        for name in config.cases or possible:
            if name in {case["name"] for case in cases}:
                continue
            cases.append(_case(name, config, bundle, run))
            print(_line(cases[-1]), flush=True)
            write_atomic(done, to_json({"cases": cases}))
    if out is not None:
        write_atomic(out, to_json({"bundle_sha256": bundle.sha256, "cases": cases}))
    failed = [case["name"] for case in cases if not case["ok"]]
    summary = run.write_summary({"cases": cases, "failed": failed, "env_steps": 0})
    if failed:
        raise UserError(f"{len(failed)} of {len(cases)} cases failed: {', '.join(failed)}; see {summary}")
    return summary


def _case(name: str, config: FaultsConfig, bundle: Bundle, run: Run) -> dict[str, Any]:
    """Run a case and judge it."""
    if name in KINDS:
        count, times = (1, config.messages) if name in ENDING else (config.messages, 1)
        trials = [_messages(name, count, config, bundle, run, seed) for seed in range(times)]
    else:
        trials = [_process(name, config, bundle, run, seed) for seed in range(config.processes)]
    period = bundle.action.control_dt
    reactions = [one["reaction_s"] for one in trials if one["reaction_s"] is not None]
    return {
        "name": name, "injected": sum(one["injected"] for one in trials),
        "landed": sum(one["landed"] for one in trials), "stopped": sum(one["stopped"] for one in trials),
        "reaction_s": quantiles(reactions), "reaction_periods_p99": _periods(reactions, period),
        "stop_s": max((one["stop_s"] for one in trials if one["stop_s"] is not None), default=None),
        "unscheduled": sum(one["unscheduled"] for one in trials),
        "limit_excess": max(one["limit_excess"] for one in trials),
        "measured_excess": max(one["measured_excess"] for one in trials),
        "non_finite": sum(one["non_finite"] for one in trials),
        "why": sorted({why for one in trials for why in one["why"]}), "trials": trials,
        "ok": all(not one["why"] for one in trials),
    }  # fmt: skip


def _messages(
    kind: str, count: int, config: FaultsConfig, bundle: Bundle, run: Run, seed: int
) -> dict[str, Any]:
    """Break so many commands of one deployment."""
    period = bundle.action.control_dt
    fault = ENDING.get(kind)
    spare = 0 if fault else -(-count // SPARE)
    plan = Breakage(
        kind=kind, count=count + spare, first=FIRST + 3 * seed, every=EVERY, delay_s=1.2 * period,
        seed=config.seed + seed,
    )  # fmt: skip
    ticks = plan.first + EVERY * (plan.count + 2)
    with Victim(config, bundle, plan, [f"duration_s={ticks * period}"], run.path / kind) as victim:
        victim.wait_until_commanded()
        code = victim.wait(BEGIN_S + 3 * ticks * period)
        notes, log = victim.notes(), victim.robot_log()
        why = []
        if len(notes) < plan.count:
            why.append(f"only {len(notes)} of {plan.count} faults were injected")
        followed = Counter(row[5] for row in log.get("commands_received", []))
        seen = Counter(_landing(kind, note["number"], followed) for note in notes)
        landed = seen[True]
        if seen[False] or landed < count:
            why.append(f"{len(notes) - landed} faults did not land, by the robot's log")
        if code != (wanted := fault.exit_code if fault else 0):
            why.append(f"the deployment exited with {code}, wanted {wanted}")
        if fault is None:
            why += _unaccounted(kind, len(notes), victim.guard_account())
        moment = notes[0]["moment_s"] if notes and fault else None
        trial = _judged(victim, log, len(notes), landed, moment, code == 3, why)
        if fault and notes:
            why += _unrested(fault, [fault.stop], trial, victim, log)
        return trial


def _landing(kind: str, number: int, followed: Counter[int]) -> bool | None:
    """Whether the robot's log, how often each command came, shows the fault of a command.

    That is: it never came, those around it did, and none twice. Of the next two one may be missing: the
    guard's own command came between, and the newer one replaced it. None where it never came, but neither did
    another of those around it: they came too late, and who was late for which the log does not say.
    """
    if followed[number] != (kind == "duplicate"):
        return False
    before, after = followed[number - 1], (followed[number + 1], followed[number + 2])
    if before > 1 or max(after) > 1:
        return False
    return True if before and (kind in ENDING or any(after)) else None


def _unaccounted(kind: str, count: int, account: dict[str, Any]) -> list[str]:
    """Return what the guard's own account lacks of the faults that were injected."""
    counts = {**account.get("limited", {}), **account.get("packets", {})}
    counted, names = sum(counts.get(name, 0) for name in COUNTED[kind]), " or ".join(COUNTED[kind])
    return [] if counted >= count else [f"the guard counted {counted} as {names}, wanted {count}"]


def _process(name: str, config: FaultsConfig, bundle: Bundle, run: Run, seed: int) -> dict[str, Any]:
    """Hit one process of one deployment."""
    fault, random = process_faults()[name], np.random.default_rng([config.seed, seed])
    period = bundle.action.control_dt
    plan = Breakage(kind=NOTHING, count=1, first=int(random.integers(FIRST // 2, FIRST)))
    with Victim(config, bundle, plan, ["duration_s=600"], run.path / name) as victim:
        note = victim.wait_until_commanded()
        if fault.is_of_the_log:
            victim.wait_until_logged()
        time.sleep(period * random.random())
        moment = time.monotonic()
        injected = fault.inject(victim)
        if name == "policy_stop":
            victim.wait_for_guard()
            victim.signal("", signal.SIGCONT)
        code = victim.wait(END_S)
        if fault.has_guard:
            victim.wait_for_guard()
        log = victim.robot_log()
        why = [] if injected else ["there was no such process to hit any more"]
        why += _unseen(log, note["number"], moment, _slack_s(fault, bundle))
        landed = not why
        if code != fault.exit_code:
            why.append(f"the deployment exited with {code}, wanted {fault.exit_code}")
        trial = _judged(victim, log, int(injected), int(landed), moment, landed, why)
        stops = [fault.stop + camera for camera in bundle.cameras] if fault.is_of_cameras else [fault.stop]
        judge = _unrested if fault.has_guard else _unguarded
        why += judge(fault, stops, trial, victim, log)
        if fault.is_of_the_log:
            why += torn(victim.log_file(), victim.logged_bytes)
        return trial


def _slack_s(fault: Fault, bundle: Bundle) -> float:
    """Return for how long a policy may go on: what is on its way, and until it has noticed."""
    ages_s = [bundle.manifest["ages_s"][camera] for camera in bundle.cameras] if fault.is_of_cameras else []
    return max(ages_s, default=fault.unnoticed_s) + 10 * bundle.action.control_dt


def _unseen(log: dict[str, Any], number: int, moment: float, slack_s: float) -> list[str]:
    """Return why a robot's log does not show a fault at a time, before which command `number` was on its way.

    The policy's commands are to move the robot until then, and not any more `slack_s` after.
    """
    followed = [row for row in log.get("commands_received", []) if row[5] > 0]
    # by when the guard sent them: a busy robot reads them later
    last = [row for row in followed if row[4] <= moment and row[5] >= number - REACTION]
    why = []
    if all(row[3] == last[0][3] for row in last):
        why.append("the robot's log shows no fault: the policy did not move it before")
    if any(row[2] > moment + slack_s for row in followed):
        why.append("the robot's log shows no fault: the policy's commands went on")
    return why


def _unguarded(
    fault: Fault, stops: Sequence[str], trial: dict[str, Any], victim: Victim, log: dict[str, Any]
) -> list[str]:
    """Return what is wrong with a robot whose guard is gone: its own timeout has to show in its log."""
    why = []
    if (stop := victim.summary().get("stop_reason")) not in stops:
        why.append(f"the deployment stopped for {stop!r}, wanted {' or '.join(stops)}")
    if not any(when > trial["moment_s"] for when in log.get("command_timeouts_s", [])):
        why.append("the robot did not notice that its guard was gone")
    return why


def _unrested(
    fault: Fault, stops: Sequence[str], trial: dict[str, Any], victim: Victim, log: dict[str, Any]
) -> list[str]:
    """Return what is wrong with how the guard brought the robot to rest and stopped."""
    moment, said = trial["moment_s"], {"guard": (victim.guard_account().get("stop") or {}).get("kind")}
    if fault.has_policy:
        said["deployment"] = victim.summary().get("stop_reason")
    wanted = " or ".join(stops)
    why = [
        f"the {who} stopped for {stop!r}, wanted {wanted}" for who, stop in said.items() if stop not in stops
    ]
    rows = log.get("commands_received", [])
    if len(rows) > 1 and rows[-1][3] != rows[-2][3]:
        why.append("the robot's last two targets differ: it was not brought to rest")
    if not any(row[6] == Rung.SLOW and row[2] > moment for row in rows):
        why.append("the guard did not bring the robot to rest")
    reaction = trial["reaction_s"]
    # what the guard was not let run for is not its doing; all else that it took is
    is_late = reaction is not None and reaction - trial["overslept_s"] > REACTION * victim.period_s
    if fault.is_prompt and is_late:
        why.append(f"the guard reacted after {reaction:.3f} s, wanted {REACTION} periods")
    return why


def _sent_s(account: dict[str, Any], row: Sequence[Any]) -> float:
    """Return when the guard had sent a command, by its stamp: a busy robot reads it later.

    From the stamp on it took at most what the guard itself was busy for in one turn of its loop: its longest
    gap, less what it overslept.
    """
    turn_s = account.get("longest_gap_s", 0.0) - account.get("overslept_s", (0.0, 0.0))[0]
    return min(row[2], row[4] + max(turn_s, 0.0))


def _overslept_s(account: dict[str, Any], moment: float, reaction_s: float) -> float:
    """Return for how long of its reaction to a fault the guard was not scheduled, by its own account.

    It is told of the longest such time of its run only: any other excuses nothing.
    """
    longest, ended = account.get("overslept_s", (0.0, 0.0))
    return min(longest, ended - moment) if moment <= ended <= moment + reaction_s else 0.0


def _judged(
    victim: Victim, log: dict[str, Any], injected: int, landed: int, moment: float | None, is_stopped: bool,
    why: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Return a trial's row: what the robot was told after a fault at `moment`, and if it kept its limits."""
    rows = log.get("commands_received", [])
    violations = {k: v for k, v in log.get("violations", {}).items() if k.startswith("command_")}
    worst = {kind: one["excess"] for kind, one in log.get("worst", {}).items()}
    if not log:
        why.append("the robot left no log")
    if violations:
        why.append(f"the robot was told what is beyond its limits: {violations}")
    if log.get("commands_lost"):
        why.append(f"{log['commands_lost']} commands were lost on their way to the robot")
    own = [row for row in rows if moment is not None and min(row[2], row[4]) > moment and row[5] == 0]
    at_rest = [row[2] for row in own if row[3] == own[-1][3]]  # it is told the last target again and again
    account, reaction, overslept = victim.guard_account(), None, 0.0
    if own and moment is not None:
        reaction = _sent_s(account, own[0]) - moment
        overslept = _overslept_s(account, moment, reaction)
    return {
        "moment_s": moment, "injected": injected, "landed": landed, "stopped": int(is_stopped),
        "reaction_s": reaction,
        "stop_s": at_rest[0] - moment if at_rest and moment is not None else None,
        "overslept_s": overslept, "unscheduled": int(overslept > victim.period_s),
        # by what it was told; and by how it moved, which is the physics' doing: shown, not judged
        "limit_excess": max((worst[kind] for kind in violations if kind in worst), default=0.0),
        "measured_excess": max((worst[kind] for kind in worst if kind not in violations), default=0.0),
        "non_finite": violations.get("command_non_finite", 0), "why": why,
        "log": f"{victim.folder.parent.name}/{victim.folder.name}",  # in the run's folder
    }  # fmt: skip


def _periods(seconds: Sequence[float], period_s: float) -> float | None:
    return float(np.quantile(seconds, 0.99)) / period_s if seconds else None


def _line(case: dict[str, Any]) -> str:
    word, reaction = "ok" if case["ok"] else "FAILED", case["reaction_s"]["max"]
    took = "" if reaction is None else f", first own command after {1000 * reaction:.0f} ms at most"
    rest = "" if case["stop_s"] is None else f", at rest after {1000 * case['stop_s']:.0f} ms"
    busy = f", guard not scheduled in {case['unscheduled']} trials" if case["unscheduled"] else ""
    why = f": {'; '.join(case['why'])}" if case["why"] else ""
    return f"{case['name']:<12} {word}: {case['landed']} of {case['injected']} landed{took}{rest}{busy}{why}"
