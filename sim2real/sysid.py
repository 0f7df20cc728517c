"""Sysid: move a robot within its limits, find out what its joints are like, and say how to randomise them.

Excite -> log -> delay -> fit -> validate on motions that were held out -> a YAML file for teach and distill.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from robokd.sim2real.deploy import started
from robokd.sim2real.excitation import REST_S, Motion, Room, plan
from robokd.sim2real.guard_link import GuardLink
from robokd.sim2real.log import Log
from robokd.sim2real.log_reader import LOG, Recording, find_log, read_log
from robokd.sim2real.loop import Pace
from robokd.sim2real.mujoco import check_fixed, check_simulated
from robokd.sim2real.playback import ReplayRobotCfg
from robokd.sim2real.robot import JointReading, SimulatedCfg
from robokd.sim2real.stage import create_run, open_to_run
from robokd.sim2real.trace import Trace

from robokd import UserError, registry
from robokd.config import DeployConfig
from robokd.export.bundle import Bundle
from robokd.files import writable, write_atomic
from robokd.run import Run
from robokd.specs import ActionSpec

if TYPE_CHECKING:
    from robokd.sim2real.identify import Fit, Score

    from robokd.config import SysidConfig

MOTION, HELD_OUT, OVER = "motion", "held_out_motion", "motions_over"  # kinds of events in the log
SETTLE_S = 0.2  # of the rest before a motion, in which the one before may still swing
ENDLESS_S = 1e6  # horizon of the simulated robot's episode
LEAST_WIDTH = 0.05  # of a range, as a share of its middle: an interval knows nothing of what was not modelled
FILE = "randomise.yaml"


def sysid(config: SysidConfig, resume: Run | None = None) -> Path:
    """Identify the robot's joints and return the path of the stage's summary.

    What does not fit is refused before anything moves. A resumed one begins anew.
    """
    if config.out:
        writable(config.out)
    name = config.robot.name
    moves_hardware = not (config.log or isinstance(config.robot, SimulatedCfg))
    if isinstance(config.robot, ReplayRobotCfg) and not config.log:
        played = config.robot.log or "<an earlier sysid run>"
        raise UserError(f"robot=replay plays a log, which no motion changes; what is logged: log={played}")
    bundle = open_to_run(config.bundle, is_hardware=moves_hardware)
    check_simulated(bundle.manifest, bundle.path)
    check_fixed(bundle)
    check_randomisable(bundle)
    tools = _tools()
    motions_of = read_log(find_log(config.log), pictures=False) if config.log else None
    if moves_hardware and not config.arm:
        raise UserError("sysid moves the robot: say arm=true, or log=<an excitation recorded before>")
    if motions_of is not None and (other := motions_of.about.get("bundle_sha256")) != bundle.sha256:
        made = f"{motions_of.path} was made with a bundle of sha256 {other}"
        raise UserError(f"{made}; {bundle.path} has {bundle.sha256}")
    if motions_of is None:
        run = record(config, bundle, resume)
        traces = traces_of(motions_of := read_log(run.path / LOG, pictures=False))
    else:
        traces = traces_of(motions_of)
        run = resume or create_run(config, "sysid", bundle)
    replica = tools.replica_of(bundle)
    print(f"fitting {len(replica.names)} joints to {len(traces)} motions", file=sys.stderr, flush=True)
    try:
        found = tools.fit(replica, [one for one in traces if not one.is_held_out])
    except ValueError as error:
        raise UserError(f"{motions_of.path}: {error}") from None
    scores = tools.score(replica, traces, found)
    told = account(found, scores, bundle.action)
    out = Path(config.out) if config.out else run.path / FILE
    if told["passed"]:
        write_atomic(out, randomisation(found, bundle.action).encode())
    summary = run.write_summary({
        "robot": name, "bundle": str(bundle.path), "bundle_sha256": bundle.sha256,
        "log": str(motions_of.path), "randomise": str(out) if told["passed"] else None, **told,
    })  # fmt: skip
    say(told, bundle.action.control_dt, summary)
    return summary


def say(told: dict[str, Any], control_dt: float, summary: Path) -> None:
    """Tell a person what to doubt; UserError where what was found is not to be trained with.

    Motions that were held out have to be told better, and the delay has to be within a control step (s).
    """
    if told["unsure"]:
        names = ", ".join(told["unsure"])
        print(
            f"warning: the motions tell next to nothing of {names}: more or longer ones would",
            file=sys.stderr,
        )
    if told["worse_held_out"]:
        names = ", ".join(told["worse_held_out"])
        raise UserError(
            f"what was found foretells held-out motions of {names} worse than the model: see {summary}"
        )
    if not told["passed"]:
        got = f"the commands are felt {told['delay_s']['value']:.4f} s late"
        raise UserError(
            f"{got}, a task can be trained with at most its control step of {control_dt:g} s: see {summary}"
        )


def check_randomisable(bundle: Bundle) -> None:
    """Refuse a bundle of a task that could not be trained with what is found."""
    task = bundle.manifest["task"]
    known = {field.name for field in dataclasses.fields(registry.find("task", task))}
    if missing := sorted({"friction_low", "stiffness"} - known):
        raise UserError(f"task={task} has no key {missing[0]!r}: what is found could not be randomised in it")


def room_of(bundle: Bundle, amplitude: float) -> Room:
    """Return where the robot may be moved; UserError where the bundle leaves it no room."""
    start, jerk = bundle.manifest["start"], bundle.manifest["robot"]["jerk"]
    envelope = np.array(start["joint_pos_lower"]), np.array(start["joint_pos_upper"])
    try:
        return Room.of(bundle.action, envelope, amplitude, None if jerk is None else np.array(jerk))
    except ValueError as error:
        raise UserError(f"{bundle.path}: {error}") from None


def record(config: SysidConfig, bundle: Bundle, resume: Run | None) -> Run:
    """Let the robot do the motions, through its guard, and return the run with the log of what it did.

    There is a run once the robot is connected and may move.
    """
    room = room_of(bundle, config.amplitude)
    deploy = DeployConfig(
        bundle=config.bundle, robot=config.robot, arm=config.arm, seed=config.seed, runs=config.runs,
        plugins=config.plugins,
    )  # fmt: skip
    about = {"task": bundle.manifest["task"], "bundle_sha256": bundle.sha256, "robot": config.robot.name}
    with started(deploy, _blind(bundle)) as hands:
        if hands.link.is_shadow:
            raise UserError("the guard is in shadow and lets nothing move: say arm=true")
        run = resume or create_run(config, "sysid", bundle)
        hands.log_into(run.path)
        log = Log(run.path / LOG, about)
        try:
            if hands.plant is not None:
                hands.plant.begin(0)
            anchor = hands.link.hand_over().anchor
            motions = plan(room, anchor, motions=config.motions, motion_s=config.motion_s, seed=config.seed)
            drive(motions, hands.link, log, Pace(bundle.action.control_dt))
            if hands.plant is not None and hands.plant.outcome() is not None:
                raise UserError(
                    f"the simulated robot's episode ended early; try another than seed={config.seed}"
                )
            hands.link.release()
        finally:
            hands.stop("end", "")
            lost_s = (hands.plant.report() if hands.plant else {}).get("lost_s", 0.0)
            if lost_s > 0:
                why = "this machine is too busy to simulate it in time, which spoils what is found"
                print(f"warning: the simulated robot stood still for {lost_s:.2f} s: {why}", file=sys.stderr)
            for sent in hands.link.sents:
                log.sent(sent)
            log.close()
    return run


def drive(motions: list[Motion], link: GuardLink, log: Log, pace: Pace) -> None:
    """Send every motion's targets at the pace of control and log the joints' states."""
    newest_s = -np.inf
    pace.begin()
    for number, motion in enumerate(motions):  # the first is the way to where they begin
        what = f"motion {number} of {len(motions) - 1}" if number else "going to where the motions begin"
        lasts_s = len(motion.targets) * pace.period_s
        print(f"{what}: {motion.name}, {lasts_s:.0f} s", file=sys.stderr, flush=True)
        if motion.kind != "approach":
            log.event(time.monotonic(), HELD_OUT if motion.is_held_out else MOTION, motion.name)
        for target in motion.targets:
            link.command(target.astype(np.float32))
            pace.wait()
            link.listen()
            for state in [one for one in link.states if one.captured_s > newest_s]:
                newest_s = state.captured_s
                log.state(JointReading(
                    captured_s=state.captured_s, position=state.position, velocity=state.velocity,
                    target=state.anchor, sequence=state.origin,
                ))  # fmt: skip
            log.work(pace.tick_s + 0.5 * pace.period_s)
    log.event(time.monotonic(), OVER, "")


def traces_of(recording: Recording) -> list[Trace]:
    """Return the motions of a log; UserError where it has none, or was cut within them."""
    marks = [one for one in recording.events if one.kind in (MOTION, HELD_OUT, OVER)]
    if not marks or marks[-1].kind != OVER or len(marks) < 2:
        raise UserError(f"{recording.path} holds no whole excitation; `robokd sysid` without log= makes one")
    states = [one for _, one in sorted({one.captured_s: one for one in recording.states}.items())]
    sents = sorted(recording.sents, key=lambda one: one.stamp_s)
    times = np.array([one.captured_s for one in states])
    stamps = np.array([one.stamp_s for one in sents])
    found = []
    for mark, following in itertools.pairwise(marks):
        first, last = np.searchsorted(stamps, [mark.moment_s, following.moment_s])
        if first == 0 or last - first < 2:
            raise UserError(f"{recording.path}: next to nothing was sent in motion {mark.message}")
        rest_s = stamps[first] - REST_S + SETTLE_S
        here = [states[i] for i in range(*np.searchsorted(times, [rest_s, stamps[last - 1]]))]
        try:
            found.append(Trace(
                name=mark.message, is_held_out=mark.kind == HELD_OUT,
                times_s=np.array([one.captured_s for one in here]),
                position=np.array([one.position for one in here], np.float64),
                velocity=np.array([one.velocity for one in here], np.float64), sent_s=stamps[first:last],
                sent=np.array([one.sent for one in sents[first:last]], np.float64),
                held=np.array(sents[first - 1].sent, np.float64),
            ))  # fmt: skip
        except ValueError as error:
            raise UserError(f"{recording.path}: {error}") from None
    return found


def randomisation(found: Fit, action: ActionSpec) -> str:
    """Return the YAML that teach and distill take: ranges that hold every 95 % interval.

    But for a delay beyond the control step, which no task is trained with: there the range ends.
    """
    low, high = {}, {}
    for name, value in found.value.items():
        slack = LEAST_WIDTH * value / 2
        low[name] = np.minimum(found.low[name], np.maximum(value - slack, 0))
        high[name] = np.maximum(found.high[name], value + slack)
    dynamics: dict[str, list[float]] = {}
    for name, of in (("friction", "friction_nm"), ("damping", "damping"), ("armature", "armature")):
        dynamics[f"{name}_low"] = [_round(one) for one in low[of]]
        dynamics[f"{name}_high"] = [_round(one) for one in high[of]]
    # after rounding, which may go beyond the control step too
    dynamics["delay_s"] = [min(_round(one["delay_s"][0]), action.control_dt) for one in (low, high)]
    stiffness = [_round(low["stiffness"].min()), _round(high["stiffness"].max())]  # of all joints alike
    task = {"stiffness": stiffness, **dynamics}
    text = yaml.safe_dump({"task": task}, default_flow_style=None, sort_keys=False, width=100)
    return f"# What robokd sysid found. Joints: {', '.join(action.names)}\n{text}"


def account(found: Fit, scores: list[Score], action: ActionSpec) -> dict[str, Any]:
    """Return what the summary says of a fit: every value, and how it does on motions that it has not seen."""
    parameters = {
        name: [
            {"value": float(a), "low": float(b), "high": float(c)}
            for a, b, c in zip(found.value[name], found.low[name], found.high[name], strict=True)
        ]
        for name in found.value
    }
    delay = parameters.pop("delay_s")[0]
    held_out = [one for one in scores if one.is_held_out]
    joints = list(enumerate(action.names))
    worse = [joint for i, joint in joints if any(one.after[i] > one.before[i] for one in held_out)]
    of_joints = {joint: {name: rows[i] for name, rows in parameters.items()} for i, joint in joints}
    return {
        "joints": of_joints,
        "delay_s": delay, "lag_s": found.lag_s, "unsure": list(found.unsure),
        "motions": [
            {
                "name": one.name, "held_out": one.is_held_out,
                "before_rad": one.before.tolist(), "after_rad": one.after.tolist(),
            }
            for one in scores
        ],
        "worse_held_out": worse, "passed": not worse and delay["value"] <= action.control_dt,
    }  # fmt: skip


def _blind(bundle: Bundle) -> Bundle:
    """Return the bundle for a robot without cameras, whose episode does not end with the task's time."""
    task = {**bundle.manifest["task_config"]}
    if "horizon_s" in task:
        task["horizon_s"] = ENDLESS_S
    manifest = {**bundle.manifest, "task_config": task, "cameras": {}}
    return dataclasses.replace(bundle, manifest=manifest, cameras={})


def _tools() -> Any:  # noqa: ANN401  (a module with MuJoCo)
    try:
        from robokd.sim2real import identify
    except ImportError as error:
        raise UserError(f"sysid simulates the robot ({error}): pip install 'robokd[train,sysid]'") from None
    identify.check_engine()
    return identify


def _round(number: float) -> float:
    return float(f"{number:.4g}")
