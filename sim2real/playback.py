"""A log as a robot: its joints and cameras show what was recorded, at the times at which it was.

Nothing is simulated: what is written is returned and has no effect on what is read, but for the target that
is held. Every episode of the log is one of this robot's; before it and after it the robot rests as it was at
its beginning and its end. Whether it succeeded no log says: it counts as a failure. Times are s, on
time.monotonic() where not said otherwise.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import math
import select
import socket
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from robokd.sim2real.log import Tick
from robokd.sim2real.log_reader import Recording, find_log, read_log
from robokd.sim2real.packets import pair
from robokd.sim2real.robot import JOINT_CHANNELS, Command, Frame, JointReading

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.registry import register

MOST_BYTES = 4096  # of a cue


@register("robot", "replay")
@dataclass(kw_only=True)
class ReplayRobotCfg:
    """A log as a robot: the readings of a run are played again, commands have no effect."""

    log: str = ""  # whose readings are played: a deploy run's folder or its log.mcap

    def joints(self, *, bundle: Bundle, link: socket.socket | None) -> PlayedJoints:
        """See RobotCfg.joints; without a link the first episode is played once, from `connect` on."""
        return PlayedJoints(Play(self._scenes(bundle, pictures=False), link))

    def cameras(self, *, bundle: Bundle, link: socket.socket | None) -> PlayedCameras:
        """See RobotCfg.cameras; see `joints`."""
        return PlayedCameras(Play(self._scenes(bundle), link), bundle.action.control_dt)

    def plant(self, *, bundle: Bundle, seed: int) -> Player:
        """See SimulatedCfg.plant: who says when an episode begins."""
        return Player([scene.length_s for scene in self._scenes(bundle)])

    def _scenes(self, bundle: Bundle, *, pictures: bool = True) -> list[Scene]:
        if not self.log:
            raise UserError("robot=replay plays a log: say which with robot.log=<deploy run or log.mcap>")
        return scenes(read_log(find_log(self.log), pictures=pictures), bundle, pictures=pictures)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An episode of a log; all times are the log's."""

    begun_s: float  # when the oldest was captured that its first tick rests on
    ended_s: float
    readings: list[JointReading]  # by time, at least one
    frames: list[Frame]  # of all cameras, by time

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.ended_s - self.begun_s


def scenes(recording: Recording, bundle: Bundle, *, pictures: bool = True) -> list[Scene]:
    """Return the episodes that have ticks; UserError where there are none, or they are of another robot."""
    ticks = recording.ticks
    firsts = sorted({mark.tick for mark in recording.episodes} | {0})
    found = []
    for first, last in zip(firsts, [*firsts[1:], len(ticks)], strict=True):
        part = ticks[first:last]
        for tick in part:
            check_fits(tick, bundle, recording.path, pictures=pictures)
        if not part:
            continue
        whole = [
            JointReading(
                captured_s=tick.captured_s["joint_pos"], position=tick.channels["joint_pos"],
                velocity=tick.channels["joint_vel"], target=tick.channels["joint_target"],
            )
            for tick in part
        ]  # fmt: skip
        ended_s = part[-1].begun_s + bundle.action.control_dt
        finer = [one for one in recording.states if whole[0].captured_s <= one.captured_s < ended_s]
        shown: dict[int, Frame] = {}  # one that was seen in two ticks is shown once
        for tick in part:
            for name in bundle.cameras if pictures else ():
                image = tick.channels[name]
                shown.setdefault(id(image), Frame(camera=name, captured_s=tick.captured_s[name], image=image))
        found.append(Scene(
            begun_s=min(part[0].captured_s.values()), ended_s=ended_s,
            readings=sorted(finer or whole, key=lambda reading: reading.captured_s),
            frames=sorted(shown.values(), key=lambda frame: frame.captured_s),
        ))  # fmt: skip
    if not found:
        raise UserError(f"{recording.path} holds no ticks: there is nothing to play")
    return found


def check_fits(tick: Tick, bundle: Bundle, path: Path, *, pictures: bool = True) -> None:
    """Refuse a tick of the log at `path` that the bundle's policy cannot have been given."""
    commands = (bundle.action.size,), np.dtype(np.float32)
    wanted = dict.fromkeys((*JOINT_CHANNELS, "anchor", "rate"), commands)
    wanted |= dict.fromkeys(("joint_pos", "joint_vel"), ((len(bundle.action.joints),), commands[1]))
    if pictures:
        wanted |= {name: (spec.shape, np.dtype(spec.dtype)) for name, spec in bundle.cameras.items()}
    given = {**tick.channels, "anchor": tick.anchor, "rate": tick.rate}
    for name, (shape, dtype) in wanted.items():
        if name not in given or not math.isfinite(tick.captured_s.get(name, tick.begun_s)):
            have = ", ".join(tick.channels)
            raise UserError(
                f"{path}: tick {tick.number} has no {name!r}, which the policy reads. It has: {have}"
            )
        if ((array := given[name]).shape, array.dtype) != (shape, dtype):
            got, wants = (
                f"{array.dtype} of shape {array.shape}",
                f"{bundle.path} wants {dtype} of shape {shape}",
            )
            raise UserError(f"{path}: {name!r} of tick {tick.number} is {got}; {wants}")


class Play:
    """Which scene is shown, and since when."""

    def __init__(self, found: list[Scene], link: socket.socket | None) -> None:
        self._scenes, self._link = found, link
        self.scene, self._start_s = found[0], math.inf

    def connect(self) -> None:
        """Begin at once where nobody will say when."""
        if self._link is None:
            self._start_s = time.monotonic()

    def has_begun(self) -> bool:
        """Take what the player says; whether a scene has begun. ConnectionError when the player is gone."""
        is_new = False
        while self._link is not None and select.select([self._link], [], [], 0)[0]:
            if not (data := self._link.recv(MOST_BYTES)):
                raise ConnectionError("nobody plays the log any more")
            cue = json.loads(data)
            self.scene, self._start_s = self._scenes[cue["scene"]], cue["start_s"]
            is_new = True
        return is_new

    def wait(self, timeout_s: float) -> None:
        """Wait, at most until the player says something."""
        select.select([] if self._link is None else [self._link], [], [], max(timeout_s, 0.0))

    def logged_s(self, now_s: float) -> float:
        """Return the log's time, also before and after the scene."""
        return self.scene.begun_s + now_s - self._start_s

    def now_s(self, logged_s: float) -> float:
        """Return when a moment of the log is."""
        return self._start_s + logged_s - self.scene.begun_s

    def has_ended(self, now_s: float) -> bool:
        """Whether the scene is over."""
        return now_s >= self._start_s + self.scene.length_s

    def rests(self, now_s: float) -> bool:
        """Whether the scene has not begun or is over."""
        return now_s < self._start_s or self.has_ended(now_s)

    def is_over(self, now_s: float) -> bool:
        """Whether no scene can come any more."""
        return self._link is None and self.has_ended(now_s)

    def close(self) -> None:
        """Let go of the player. Also twice."""
        if self._link is not None:
            self._link.close()


class PlayedJoints:
    """The driver of the joints."""

    is_hardware = False
    command_timeout_s: float | None = None  # nothing moves: there is nothing to hold
    stop_key = ""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._written: Command | None = None

    def connect(self) -> None:
        """See Robot.connect; that the log fits has been seen to."""
        self._play.connect()

    def read(self) -> JointReading:
        """See Robot.read; ConnectionError when the log is over."""
        play = self._play
        if play.has_begun():
            self._written = None
        now_s = time.monotonic()
        if play.is_over(now_s):
            raise ConnectionError("the log is over: it has been played to its end")
        newest = bisect.bisect(play.scene.readings, play.logged_s(now_s), key=lambda one: one.captured_s)
        found = play.scene.readings[max(newest - 1, 0)]
        captured_s = now_s if play.rests(now_s) else min(play.now_s(found.captured_s), now_s)
        found = replace(found, captured_s=captured_s, sequence=0, strangers=0)
        if self._written is None:
            return found
        return replace(found, target=self._written.target, sequence=self._written.sequence)

    def write(self, command: Command) -> np.ndarray:
        """See Robot.write; nothing moves."""
        self._written = replace(command, target=command.target.copy())
        return command.target.copy()

    def stop(self) -> None:
        """See Robot.stop."""
        self._play.close()


class PlayedCameras:
    """All cameras."""

    def __init__(self, play: Play, period_s: float) -> None:
        self._play, self._period_s = play, period_s
        self._next = 0  # index of the frame that comes next
        self._still: list[Frame] = []  # that are yet to be shown of a robot at rest
        self._still_s = -math.inf  # when all were shown

    def connect(self) -> None:
        """See Cameras.connect; that the log fits has been seen to."""
        self._play.connect()

    def read(self, timeout_s: float) -> Frame | None:
        """See Cameras.read."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            if self._play.has_begun():
                self._next, self._still = 0, []
            now_s = time.monotonic()
            frame, due_s = self._resting(now_s) if self._play.rests(now_s) else self._playing(now_s)
            if frame is not None or now_s >= deadline_s:
                return frame
            self._play.wait(min(due_s, deadline_s) - now_s)

    def stop(self) -> None:
        """See Cameras.stop."""
        self._play.close()

    def _playing(self, now_s: float) -> tuple[Frame | None, float]:
        """Return the frame that is due, or None and when the next thing happens."""
        play = self._play
        if self._next == len(play.scene.frames):
            return None, play.now_s(play.scene.ended_s)
        frame = play.scene.frames[self._next]
        if (due_s := play.now_s(frame.captured_s)) > now_s:
            return None, due_s
        self._next += 1
        return replace(frame, captured_s=due_s), now_s

    def _resting(self, now_s: float) -> tuple[Frame | None, float]:
        """Return what every camera shows before or after the scene, again and again, fresh."""
        play = self._play
        if play.is_over(now_s) or not play.scene.frames:
            return None, math.inf
        if not self._still:
            if now_s < self._still_s + self._period_s:
                return None, self._still_s + self._period_s
            shown = play.scene.frames if play.has_ended(now_s) else play.scene.frames[::-1]
            self._still, self._still_s = list({frame.camera: frame for frame in shown}.values()), now_s
        return replace(self._still.pop(), captured_s=now_s), now_s


class Player:
    """Says when which scene begins; what plays it are the joints and the cameras, each in its own process."""

    pid, alone_s = 0, 0.0

    def __init__(self, lengths_s: list[float]) -> None:
        self._lengths_s = lengths_s
        self._ends: list[socket.socket] = []
        self._ended_s = math.inf
        self._played = 0

    def start(self) -> None:
        """See Plant.start; the log has been compared with the bundle."""
        self.joints, joints = pair()
        self.cameras, cameras = pair()
        self._ends = [joints, cameras]
        for end in self._ends:
            end.setblocking(False)

    def log_into(self, folder: str) -> None:
        """See Plant.log_into: there is nothing to say that is not in the log already."""

    def begin(self, episode: int) -> None:
        """See Plant.begin; after the last scene comes the first."""
        scene, start_s = episode % len(self._lengths_s), time.monotonic()
        self._ended_s = start_s + self._lengths_s[scene]
        self._played += 1
        for end in self._ends:
            with contextlib.suppress(OSError):  # who is gone is missed by those who wait for its readings
                end.send(json.dumps({"scene": scene, "start_s": start_s}).encode())

    def outcome(self) -> bool | None:
        """See Plant.outcome; a log does not say whether it succeeded."""
        return None if time.monotonic() < self._ended_s else False

    def stop(self) -> None:
        """See Plant.stop."""
        for end in self._ends:
            end.close()

    def report(self) -> dict[str, Any]:
        """See Plant.report."""
        return {"scenes": len(self._lengths_s), "played": self._played}
