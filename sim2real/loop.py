"""The fixed-rate loop: read, check, infer, limit, write, log, wait. The robot is stopped on every way out.

All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from robokd.sim2real.log import Log, Tick
from robokd.sim2real.policy import Policy
from robokd.sim2real.robot import EpisodicRobot, Robot
from robokd.sim2real.safety import Safety

SPIN_S = 1e-3  # the last part of a wait is spun: sleep wakes late
SLACK = 0.1  # share of the period that a tick may begin late before its deadline counts as missed


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


@dataclass(kw_only=True)
class Plan:
    """How long to run: so many episodes, or so many ticks of as many episodes as it takes."""

    episodes: int  # 0: no limit
    ticks: int  # 0: no limit

    def is_over(self, account: Account) -> bool:
        """Whether no further episode is to begin."""
        return self.is_out_of_ticks(account) or 0 < self.episodes <= account.episodes

    def is_out_of_ticks(self, account: Account) -> bool:
        """Whether no further tick is to begin."""
        return 0 < self.ticks <= account.ticks


@dataclass(kw_only=True)
class Account:
    """What a run of the loop leaves to the summary."""

    episodes: int = 0  # finished, by the robot's word
    successes: list[bool] = field(default_factory=list)
    inferences_s: list[float] = field(default_factory=list)
    periods_s: list[float] = field(default_factory=list)  # between the beginnings of two ticks of an episode
    late_s: list[float] = field(default_factory=list)  # how long after its deadline each tick began
    # by channel: how old its data was when a command was computed from it
    ages_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def ticks(self) -> int:
        """Commands sent."""
        return len(self.inferences_s)


class Pace:
    """Absolute deadlines `period_s` apart; after a missed one the grid starts afresh, without a burst."""

    def __init__(
        self,
        period_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.period_s, self.clock, self._sleep = period_s, clock, sleep
        self.misses = 0
        self.tick_s = self._deadline = clock()

    def begin(self) -> None:
        """Start the grid now."""
        self.tick_s = self._deadline = self.clock()

    def wait(self) -> tuple[float, float]:
        """Wait for the next deadline; return (period, lateness) of the tick that begins."""
        self._deadline += self.period_s
        now = self.clock()
        is_missed = now > self._deadline
        if (rest := self._deadline - SPIN_S - now) > 0:
            self._sleep(rest)
        while (now := self.clock()) < self._deadline:
            pass
        late = now - self._deadline
        if is_missed or late > SLACK * self.period_s:
            # on the old grid the next command would follow this one too soon, and the robot be too fast
            self.misses += 1
            self._deadline = now
        period, self.tick_s = now - self.tick_s, now
        return period, late


def run_loop(
    robot: Robot,
    policy: Policy,
    *,
    safety: Safety,
    pace: Pace,
    log: Log,
    account: Account,
    plan: Plan,
    after_episode: Callable[[], None] = lambda: None,
) -> None:
    """Run the plan on a robot within `connected`; however it ends, the robot is stopped at once."""
    try:
        with _no_garbage_collection():
            while not plan.is_over(account):
                if isinstance(robot, EpisodicRobot):
                    robot.begin(account.episodes)
                _run_episode(robot, policy, safety=safety, pace=pace, log=log, account=account, plan=plan)
                # the robot rests: time for the disk
                log.flush()
                after_episode()
                gc.collect()
    finally:
        robot.stop()


@contextlib.contextmanager
def connected(robot: Robot) -> Iterator[None]:
    """Connect a robot; however the block ends, the robot has been stopped."""
    with _one_interrupt():
        try:
            try:
                robot.connect()
                yield
            finally:
                robot.stop()
        finally:
            # the one interrupt may have hit the stop above; none can hit this one
            robot.stop()


def _run_episode(
    robot: Robot, policy: Policy, *, safety: Safety, pace: Pace, log: Log, account: Account, plan: Plan
) -> None:
    reading = robot.read()
    safety.begin(reading)
    policy.begin()
    pace.begin()
    while not (reading.is_done or plan.is_out_of_ticks(account)):
        now_s = pace.clock()
        safety.check_reading(reading, now_s)
        for channel, captured_s in reading.captured_s.items():
            account.ages_s[channel].append(now_s - captured_s)
        anchor, rate = safety.anchor, safety.rate
        decision = policy.act(reading.channels, anchor, rate, pace.clock)
        command = safety.limit(decision.command)
        sent = robot.write(command)
        safety.accept(sent)
        account.inferences_s.append(decision.inference_s)
        log.tick(Tick(
            begun_s=pace.tick_s, episode=account.episodes, reading=reading, decision=decision, anchor=anchor,
            rate=rate, sent=sent,
        ))  # fmt: skip
        period, late = pace.wait()
        account.periods_s.append(period)
        account.late_s.append(late)
        reading = robot.read()
    if reading.is_done:
        account.episodes += 1
        account.successes.append(reading.is_success)


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM raise, and none after it: what cleans up is not interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    for name in before:
        signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
