"""Faults: break a running deployment in every way known, and prove from the robot's own log what it did.

Message faults hit commands on their way from the policy to the guard, many in one deployment; process faults
hit a process of it, one each. A case is ok when every fault landed, the robot was told nothing beyond its
limits and nothing that is no number, and the guard ended where README's table says.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from robokd.sim2real.ladder import Rung
from robokd.sim2real.process import quantiles
from robokd.sim2real.robot import SimulatedCfg
from robokd.sim2real.tap import KINDS, Breakage

from robokd import UserError, registry
from robokd.config import dump
from robokd.export.bundle import Bundle, read_bundle
from robokd.files import read_json, to_json, writable, write_atomic
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import FaultsConfig

ENDING = ("nan",)  # message faults that end the run: one each
EVERY = 4  # commands from one message fault to the next
FIRST = 20  # command that is hit first
GUARD_S = 10.0  # for the guard to leave its account
BEGIN_S, END_S = 180.0, 60.0  # for a deployment to begin, and to end after a fault
GUARD, EYES, TAP = "robokd.sim2real.guard", "robokd.sim2real.eyes", "robokd.sim2real.tap"
REACTION = 3  # control periods
# what the guard counts of each kind of message fault
COUNTED = {
    "drop": "lost", "delay": "command_stale", "duplicate": "twice", "reorder": "order",
    "freeze": "command_stale", "clock_jump": "command_stale", "bit_flip": "corrupt",
}  # fmt: skip
FULL_AFTER_BYTES = 2000  # that a full disk still takes
# process fault -> what is done to whom, and how the deployment is to exit
Injection = Callable[["Victim"], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A process fault and what is to become of it."""

    inject: Injection
    exit_code: int  # of the deployment
    stop: str  # how the kind of the stop begins, by the guard's account
    is_prompt: bool = False  # the guard notices at once, and acts within REACTION periods
    has_guard: bool = True  # that brings the robot to rest; without it the robot's own timeout does


def process_faults() -> dict[str, Fault]:
    """Return the process faults by name."""
    return {
        "policy_kill": Fault(
            inject=lambda it: it.signal("", signal.SIGKILL),
            exit_code=-signal.SIGKILL,
            stop="policy_lost",
            is_prompt=True,
        ),
        "policy_stop": Fault(
            inject=lambda it: it.signal("", signal.SIGSTOP),
            exit_code=3,
            stop="command_timeout",
            is_prompt=True,
        ),
        "camera_kill": Fault(inject=lambda it: it.signal(EYES, signal.SIGKILL), exit_code=3, stop="stale_"),
        "camera_stop": Fault(inject=lambda it: it.signal(EYES, signal.SIGSTOP), exit_code=3, stop="stale_"),
        "guard_kill": Fault(
            inject=lambda it: it.signal(GUARD, signal.SIGKILL), exit_code=3, stop="", has_guard=False
        ),
        "guard_stop": Fault(
            inject=lambda it: it.signal(GUARD, signal.SIGSTOP), exit_code=3, stop="", has_guard=False
        ),
        "disconnect": Fault(
            inject=lambda it: it.signal(TAP, signal.SIGKILL), exit_code=3, stop="policy_lost", is_prompt=True
        ),
        "disk_full": Fault(inject=lambda it: it.fill_disk(), exit_code=3, stop="log"),
    }


def faults(config: FaultsConfig, resume: Run | None = None) -> Path:
    """Run every case and return the path of the stage's summary; a failed case is an error after it."""
    bundle = read_bundle(config.bundle)
    known = [*KINDS, *process_faults()]
    for name in config.cases:
        if name not in known:
            raise UserError(registry.unknown("case", name, known))
    if not isinstance(config.robot, SimulatedCfg):
        raise UserError(f"robot={config.robot.name} is no simulated robot: faults are not for hardware")
    out = writable(config.out) if config.out else None
    run = resume or Run.create(
        config.runs, task=bundle.manifest["task"], stage="faults", config=dump(config), seed=config.seed,
        parents=[{"path": str(bundle.path), "sha256": bundle.sha256}],
    )  # fmt: skip
    cases = []
    for name in config.cases or known:
        cases.append(_case(name, config, bundle, run))
        print(_line(cases[-1]), flush=True)
        write_atomic(run.path / "cases.json", to_json({"cases": cases}))
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
        "non_finite": sum(one["non_finite"] for one in trials),
        "why": sorted({why for one in trials for why in one["why"]}), "trials": trials,
        "ok": all(not one["why"] for one in trials),
    }  # fmt: skip


def _messages(
    kind: str, count: int, config: FaultsConfig, bundle: Bundle, run: Run, seed: int
) -> dict[str, Any]:
    """Break so many commands of one deployment."""
    period = bundle.action.control_dt
    plan = Breakage(
        kind=kind, count=count, first=FIRST + 3 * seed, every=EVERY, delay_s=1.2 * period,
        seed=config.seed + seed,
    )  # fmt: skip
    ticks = plan.first + EVERY * (count + 2)
    with Victim(config, bundle, plan, [f"duration_s={ticks * period}"], run.path / kind) as victim:
        code = victim.wait(BEGIN_S + 3 * ticks * period)
        notes, log = victim.notes(), victim.robot_log()
        why = []
        if len(notes) < count:
            why.append(f"only {len(notes)} of {count} faults were injected")
        rows = log.get("commands_received", [])
        landed = sum(_has_landed(kind, note, rows) for note in notes)
        if landed < len(notes):
            why.append(f"{len(notes) - landed} faults did not land, by the robot's log")
        if code != (3 if kind in ENDING else 0):
            why.append(f"the deployment exited with {code}")
        why += _unaccounted(kind, len(notes), victim.guard_account())
        moment = notes[0]["moment_s"] if notes and kind in ENDING else None
        return _judged(victim, log, len(notes), landed, moment, code == 3, why)


def _has_landed(kind: str, note: dict[str, Any], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether the robot's log shows a fault: the command never came, those around it did, and none twice.

    Of the next two one may be missing: the guard's own command came between, and the newer one replaced it.
    """
    followed = Counter(row[5] for row in rows)
    number = note["number"]
    after = {followed[number + 1], followed[number + 2]}
    around = followed[number - 1] == 1 and (kind in ENDING or after in ({1}, {0, 1}))
    return around and followed[number] == (kind == "duplicate")


def _unaccounted(kind: str, count: int, account: dict[str, Any]) -> list[str]:
    """Return what the guard's own account lacks of the faults that were injected."""
    if kind in ENDING:
        stop = (account.get("stop") or {}).get("kind")
        return [] if stop == "non_finite" else [f"the guard stopped for {stop!r}, wanted 'non_finite'"]
    counted = {**account.get("limited", {}), **account.get("packets", {})}.get(COUNTED[kind], 0)
    return [] if counted >= count else [f"the guard counted {counted} as {COUNTED[kind]}, wanted {count}"]


def _process(name: str, config: FaultsConfig, bundle: Bundle, run: Run, seed: int) -> dict[str, Any]:
    """Hit one process of one deployment."""
    fault = process_faults()[name]
    with Victim(
        config, bundle, Breakage(kind="drop", count=0), ["duration_s=600"], run.path / name
    ) as victim:
        victim.wait_until_moving()
        time.sleep(bundle.action.control_dt * (10 + 10 * np.random.default_rng(seed).random()))
        moment = time.monotonic()
        fault.inject(victim)
        if name == "policy_stop":
            victim.wait_for_guard()
            victim.signal("", signal.SIGCONT)
        code = victim.wait(END_S)
        if fault.has_guard:
            victim.wait_for_guard()
        log, why = victim.robot_log(), []
        after = [row for row in log.get("commands_received", []) if row[2] > moment]
        # what was on its way, and what a policy that has not noticed yet still may say
        slack = max(bundle.manifest["ages_s"].values()) + 10 * bundle.action.control_dt
        followed = [row for row in after if row[5] > 0 and row[2] > moment + slack]
        landed = bool(log) and not followed
        if not landed:
            why.append("the robot's log shows no fault: the policy's commands went on")
        if code != fault.exit_code:
            why.append(f"the deployment exited with {code}, wanted {fault.exit_code}")
        trial = _judged(victim, log, 1, int(landed), moment, landed, why)
        why += _unguarded(log, moment) if not fault.has_guard else _unrested(fault, trial, victim, log)
        return trial


def _unguarded(log: dict[str, Any], moment: float) -> list[str]:
    """Return what is wrong with a robot whose guard is gone: its own timeout has to show in its log."""
    noticed = [when for when in log.get("command_timeouts_s", []) if when > moment]
    return [] if noticed else ["the robot did not notice that its guard was gone"]


def _unrested(fault: Fault, trial: dict[str, Any], victim: Victim, log: dict[str, Any]) -> list[str]:
    """Return what is wrong with how the guard brought the robot to rest and stopped."""
    why, moment = [], trial["moment_s"]
    stop = (victim.guard_account().get("stop") or {}).get("kind", "nothing")
    if not stop.startswith(fault.stop):
        why.append(f"the guard stopped for {stop!r}, wanted {fault.stop!r}")
    rows = log.get("commands_received", [])
    if len(rows) > 1 and rows[-1][3] != rows[-2][3] and _was_moving(log, moment):
        why.append("the robot's last two targets differ: it was not brought to rest")
    if not any(row[6] == Rung.SLOW and row[2] > moment for row in rows) and _was_moving(log, moment):
        why.append("the guard did not bring the robot to rest")
    reaction = trial["reaction_s"]
    is_late = reaction is not None and reaction > REACTION * victim.period_s
    if fault.is_prompt and is_late and not trial["unscheduled"]:
        why.append(f"the guard reacted after {reaction:.3f} s, wanted {REACTION} periods")
    return why


def _was_moving(log: dict[str, Any], moment: float) -> bool:
    """Whether the last two commands before a time differ."""
    before = [row[3] for row in log.get("commands_received", []) if row[2] <= moment][-2:]
    return len(before) == 2 and before[0] != before[1]


def _judged(
    victim: Victim, log: dict[str, Any], injected: int, landed: int, moment: float | None, is_stopped: bool,
    why: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Return a trial's row: what the robot was told after a fault at `moment`, and if it kept its limits."""
    rows = log.get("commands_received", [])
    violations = {k: v for k, v in log.get("violations", {}).items() if k.startswith("command_")}
    excess = max((log["worst"][kind]["excess"] for kind in violations if kind in log["worst"]), default=0.0)
    if not log:
        why.append("the robot left no log")
    if violations:
        why.append(f"the robot was told what is beyond its limits: {violations}")
    if log.get("commands_lost"):
        why.append(f"{log['commands_lost']} commands were lost on their way to the robot")
    own = [row for row in rows if moment is not None and row[2] > moment and row[5] == 0]
    at_rest = [row[2] for row in own if row[3] == own[-1][3]]  # it is told the last target again and again
    gap = victim.guard_account().get("longest_gap_s", 0.0)
    return {
        "moment_s": moment, "injected": injected, "landed": landed, "stopped": int(is_stopped),
        "reaction_s": own[0][2] - moment if own and moment is not None else None,
        "stop_s": at_rest[0] - moment if at_rest and moment is not None else None,
        "unscheduled": int(gap > victim.period_s), "limit_excess": excess,
        "non_finite": violations.get("command_non_finite", 0), "why": why, "log": str(victim.folder),
    }  # fmt: skip


def _periods(seconds: Sequence[float], period_s: float) -> float | None:
    return float(np.quantile(seconds, 0.99)) / period_s if seconds else None


def _line(case: dict[str, Any]) -> str:
    word, reaction = "ok" if case["ok"] else "FAILED", case["reaction_s"]["max"]
    took = "" if reaction is None else f", first own command after {1000 * reaction:.0f} ms at most"
    rest = "" if case["stop_s"] is None else f", at rest after {1000 * case['stop_s']:.0f} ms"
    why = f": {'; '.join(case['why'])}" if case["why"] else ""
    return f"{case['name']:<12} {word}: {case['landed']} of {case['injected']} landed{took}{rest}{why}"


class Victim:
    """A deployment in a process of its own, which is to be broken."""

    def __init__(
        self, config: FaultsConfig, bundle: Bundle, plan: Breakage, words: Sequence[str], folder: Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=folder, prefix="trial"))
        self.period_s = bundle.action.control_dt
        self._notes = self.folder / "notes.jsonl"
        said = {"breakage": vars(plan), "size": bundle.action.size}
        (self.folder / "plan.json").write_bytes(to_json(said))
        robot = dump(config.robot)
        named = [f"robot={robot.pop('part')}", *(f"robot.{key}={value}" for key, value in robot.items())]
        command = [
            sys.executable, "-m", "robokd.sim2real.victim", str(self.folder / "plan.json"), str(self._notes),
            f"bundle={config.bundle}", *named, f"seed={config.seed}", f"runs={self.folder / 'runs'}",
            f"plugins=[{','.join(config.plugins)}]", "mismatch=warn", *words,
        ]  # fmt: skip
        self._output = (self.folder / "output.txt").open("wb")
        self.process = subprocess.Popen(
            command, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def __enter__(self) -> Victim:
        """Return itself; after the block nothing of it runs."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left."""
        with contextlib.suppress(ProcessLookupError):  # also those that have outlived it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()

    def family(self) -> dict[str, int]:
        """Return the process numbers of its children by module."""
        found = {}
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split() if children.exists() else []:
            said = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"-m" in said:
                found[said[said.index(b"-m") + 1].decode()] = int(pid)
        return found

    def signal(self, module: str, number: int) -> None:
        """Send a signal to the policy process ("") or to one of its children."""
        os.kill(self.family()[module] if module else self.process.pid, number)

    def fill_disk(self) -> None:
        """Let the policy process's files grow by so little more."""
        log = self._log()
        assert log is not None
        size = log.stat().st_size + FULL_AFTER_BYTES
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, size))

    def wait_until_moving(self) -> None:
        """Wait until commands flow."""
        deadline = time.monotonic() + BEGIN_S
        while not ((log := self._log()) and log.stat().st_size > 50_000):
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "output.txt").read_text(errors="replace").strip().splitlines()
                raise UserError(f"the deployment to be broken did not begin: {said[-1:]}")
            time.sleep(0.02)

    def wait_for_guard(self) -> None:
        """Wait until the guard has ended."""
        deadline = time.monotonic() + GUARD_S
        while not self.guard_account() and time.monotonic() < deadline:
            time.sleep(0.02)

    def wait(self, timeout_s: float) -> int | None:
        """Wait until it has ended and the robot has left its log; return the exit code, None if it hangs."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        deadline = time.monotonic() + END_S
        while not self.robot_log() and time.monotonic() < deadline:
            time.sleep(0.05)
        return code

    def notes(self) -> list[dict[str, Any]]:
        """Return what the tap says that it did."""
        text = self._notes.read_text(encoding="utf-8") if self._notes.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def robot_log(self) -> dict[str, Any]:
        """Return the robot's own log; empty while there is none."""
        return self._read("robot_log.json")

    def guard_account(self) -> dict[str, Any]:
        """Return the guard's own account; empty while there is none."""
        return self._read("guard.json")

    def _read(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        return read_json(path) if path else {}

    def _log(self) -> Path | None:
        return self._file("log.mcap")

    def _file(self, name: str) -> Path | None:
        """Return a file of the deployment's run, if it is there."""
        return next((self.folder / "runs").glob(f"*_deploy_*/{name}"), None)
