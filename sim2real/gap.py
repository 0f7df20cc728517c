"""Gap: do what a robot was told once more in simulation, open loop, and say how far the two are apart.

Joints: the commands of every episode, at the times they were sent, through the bundle's own task with its
nominal parameters. Pictures: what the task's cameras see at the joints of the simulation, against the log's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from robokd.sim2real.log_reader import Recording, find_log, read_log
from robokd.sim2real.mujoco import check_fixed, check_simulated
from robokd.sim2real.replay import open_bundle
from robokd.sim2real.stage import create_run
from robokd.sim2real.trace import Trace, root_mean_square

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.run import Run
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    from robokd.sim2real.log import Tick

    from robokd.config import GapConfig

MOST_PICTURES = 50  # of each camera in an episode, evenly spread; drawing them takes the time
Picture = tuple[float, str, np.ndarray]  # captured_s, camera, pixels


def gap(config: GapConfig, resume: Run | None = None) -> Path:
    """Return the path of the stage's summary; a gap that is too wide is a UserError after it is written."""
    path = find_log(config.log)
    recording = read_log(path)
    bundle = open_bundle(config, recording)
    check_simulated(bundle.manifest, bundle.path)
    check_fixed(bundle)
    for name in bundle.cameras:
        if recording.ticks and name not in recording.ticks[0].channels:
            raise UserError(f"{path} has no pictures of {name}, which the bundle's policy sees")
    traces = list(episodes(recording))
    if not traces:
        raise UserError(f"{path} holds no episode with commands and joints in it")
    positions = simulate(bundle, [trace for _, trace in traces])
    run = resume or create_run(config, "gap", bundle, log=path)
    errors = [guess - trace.position for (_, trace), guess in zip(traces, positions, strict=True)]
    joints = joint_gap(bundle.action.names, np.concatenate(errors), config.joint_rad)
    pictures = {}
    if bundle.cameras:
        seen = picture_gap(bundle, recording, traces, positions, config.seed)
        pictures = {
            camera: {"mean": float(np.mean(rows)), "worst": float(np.max(rows)), "count": len(rows),
                     "passed": bool(np.mean(rows) <= config.picture)}
            for camera, rows in seen.items() if rows
        }  # fmt: skip
    failed = [name for name, one in (*joints.items(), *pictures.items()) if not one["passed"]]
    say(joints, pictures)
    summary = run.write_summary({
        "log": str(path), "bundle": str(bundle.path), "bundle_sha256": bundle.sha256, "passed": not failed,
        "episodes": len(traces), "samples": sum(map(len, errors)), "joint_rad": config.joint_rad,
        "picture": config.picture, "joints": joints, "pictures": pictures, "log_is_whole": recording.is_whole,
        "by_episode": [
            {"episode": number, "rms_rad": root_mean_square(rows).tolist()}
            for (number, _), rows in zip(traces, errors, strict=True)
        ],
    })  # fmt: skip
    if failed:
        allowed = f"joint_rad={config.joint_rad:g} and picture={config.picture:g} are allowed"
        raise UserError(
            f"the simulation is not what the robot did: {', '.join(failed)}; {allowed}. See {summary}"
        )
    return summary


def episodes(recording: Recording) -> Iterator[tuple[int, Trace]]:
    """Yield (number, trace) of every episode in which commands were sent and joints measured."""
    ends = [one.tick for one in recording.episodes] + [len(recording.ticks)]
    stamps = np.array([one.stamp_s for one in recording.sents])
    for episode, (first, last) in zip(recording.episodes, pairwise(ends), strict=True):
        ticks = recording.ticks[first:last]
        if len(ticks) < 2:
            continue
        sents = [recording.sents[i] for i in np.flatnonzero(
            (stamps >= ticks[0].begun_s) & (stamps <= ticks[-1].begun_s)
        )]  # fmt: skip
        samples = _samples(recording, ticks)
        if len(sents) < 2 or len(samples) < 2:
            continue
        times, position, velocity = (np.array(column, np.float64) for column in zip(*samples, strict=True))
        yield episode.number, Trace(
            name=f"episode {episode.number}", is_held_out=False, times_s=times, position=position,
            velocity=velocity, sent_s=np.array([one.stamp_s for one in sents]),
            sent=np.array([one.sent for one in sents], np.float64),
            held=np.array(ticks[0].anchor, np.float64),
        )  # fmt: skip


def simulate(bundle: Bundle, traces: list[Trace]) -> list[np.ndarray]:
    """Return the positions (S, A) of every trace, as the bundle's task has them under the same commands."""
    try:
        from robokd.sim2real.replica import Rollouts, replica_of
    except ImportError as error:
        raise UserError(f"gap simulates the robot ({error}): pip install 'robokd[train,mujoco]'") from None
    replica = replica_of(bundle)
    rollouts = Rollouts(replica, 1)
    nominal = {name: value[None] for name, value in replica.nominal().items()}
    return [rollouts.predict(trace, nominal)[0][0] for trace in traces]


def joint_gap(names: tuple[str, ...], errors: np.ndarray, allowed_rad: float) -> dict[str, dict[str, Any]]:
    """Return root mean square and largest error (rad) of every joint, from errors (S, A)."""
    square, most = root_mean_square(errors), np.abs(errors).max(0)
    return {
        name: {"rms_rad": float(a), "max_rad": float(b), "passed": bool(a <= allowed_rad)}
        for name, a, b in zip(names, square, most, strict=True)
    }


def picture_gap(
    bundle: Bundle,
    recording: Recording,
    traces: list[tuple[int, Trace]],
    positions: list[np.ndarray],
    seed: int,
) -> dict[str, list[float]]:
    """Return, by camera, how far each picture of the log is from the one of the simulation.

    The scene is that of the episode with the same number and seed: a real one has to be set up alike.
    """
    from robokd.sim2real.mujoco_host import World

    parts = ("task_config", "sim_config", "renderer_config", "action", "observations", "cameras", "robot")
    world = World({
        **{name: bundle.manifest[name] for name in parts}, "bundle": str(bundle.path), "seed": seed,
        "space": "seen", "corrupt_config": {"part": "clean"},
    })  # fmt: skip
    model, sim = world.env.sim.model, world.env.sim
    places = [int(model.joint(name).qposadr[0]) for name in world.joints]
    found: dict[str, list[float]] = {camera: [] for camera in bundle.cameras}
    spans = {one.number: one.tick for one in recording.episodes}
    ends = [*sorted(spans.values()), len(recording.ticks)]
    for (number, trace), position in zip(traces, positions, strict=True):
        world.begin(number)
        last = next(end for end in ends if end > spans[number])
        for captured_s, camera, image in _pictures(recording.ticks[spans[number] : last], bundle):
            angles = [np.interp(captured_s, trace.times_s, column) for column in position.T]
            sim.get("qpos").numpy()[0, places] = angles  # shares the simulation's memory
            sim.forward()
            drawn = world.env.observe()[camera][0].numpy()
            found[camera].append(difference(image, drawn, bundle.cameras[camera]))
    return found


def difference(one: np.ndarray, other: np.ndarray, camera: CameraSpec) -> float:
    """Return the mean absolute difference of two pictures, of their range; of segments, how many differ."""
    if camera.encoding.startswith("segment"):
        return float((one != other).mean())
    whole = 255.0 if camera.dtype is np.uint8 else camera.far_m
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean() / whole)


def say(joints: dict[str, dict[str, Any]], pictures: dict[str, dict[str, Any]]) -> None:
    """Tell a person the result."""
    rows = [f"{name}: rms {one['rms_rad']:.4f} rad, max {one['max_rad']:.4f}" for name, one in joints.items()]
    rows += [f"{name}: mean {one['mean']:.3f} of the range" for name, one in pictures.items()]
    for row, one in zip(rows, (*joints.values(), *pictures.values()), strict=True):
        print(row if one["passed"] else f"{row}: too far", file=sys.stderr)


def _samples(recording: Recording, ticks: list[Tick]) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return (time, position, velocity) of an episode: the joints' states, or what the ticks were given."""
    begun, ended = ticks[0].captured_s["joint_pos"], ticks[-1].begun_s
    rows = [
        (one.captured_s, one.position, one.velocity)
        for one in recording.states if begun <= one.captured_s <= ended
    ] or [
        (one.captured_s["joint_pos"], one.channels["joint_pos"], one.channels["joint_vel"]) for one in ticks
    ]  # fmt: skip
    rising = sorted({row[0]: row for row in rows if np.isfinite(row[0])}.items())
    return [row for _, row in rising]


def _pictures(ticks: list[Tick], bundle: Bundle) -> Iterator[Picture]:
    """Yield the pictures of an episode, each once, evenly spread if there are many."""
    for camera in bundle.cameras:
        new: dict[float, np.ndarray] = {}
        for tick in ticks:
            new.setdefault(tick.captured_s[camera], tick.channels[camera])
        times = [moment for moment in new if np.isfinite(moment)]
        for moment in times[:: max(1, -(-len(times) // MOST_PICTURES))]:
            yield moment, camera, new[moment]
