"""The policy's loop: sense, infer, command, log, wait. However it ends, the robot is brought to rest.

All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from robokd.sim2real.guard_link import GuardLink
from robokd.sim2real.log import Log, Tick
from robokd.sim2real.policy import Policy
from robokd.sim2real.robot import Plant
from robokd.sim2real.senses import Reading, Senses

SPIN_S = 0.5e-3  # the last part of a wait is spun: sleep wakes late
SLACK = 0.1  # share of the period that a tick may begin late before its deadline counts as missed
RESERVE_S = 2e-3  # of each period that the log may not use
REHEARSAL_S = 1.0  # for an episode's first pictures


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
    """Absolute deadlines `period_s` apart; those that cannot be met any more are left out."""

    def __init__(
        self,
        period_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.period_s, self.clock, self._sleep = period_s, clock, sleep
        self.misses = 0
        self.begin()

    @property
    def elapsed_s(self) -> float:
        """When the tick was due, since the grid's start: whole periods, those that were left out too."""
        return self.deadline_s - self._begun_s

    def begin(self) -> None:
        """Start the grid now."""
        self.tick_s = self.deadline_s = self._begun_s = self.clock()

    def wait(self) -> tuple[float, float]:
        """Wait for the next deadline; return (period, lateness) of the tick that begins."""
        self.deadline_s += self.period_s
        # the guard keeps commands apart: after a small delay the old grid is kept, and with it the mean rate
        while (now := self.clock()) > self.deadline_s + self.period_s:
            self.deadline_s += self.period_s
            self.misses += 1
        if (rest := self.deadline_s - SPIN_S - now) > 0:
            self._sleep(rest)
        while (now := self.clock()) < self.deadline_s:
            pass
        late = now - self.deadline_s
        self.misses += late > SLACK * self.period_s
        period, self.tick_s = now - self.tick_s, now
        return period, late


class Watcher:
    """What looks on at every tick: it may stop the run by SafetyStop, and is given the idle time."""

    def see(self, reading: Reading) -> None:
        """Judge what the policy is about to be given."""

    def idle(self, tick: Tick, until_s: float) -> None:
        """Use the time that is left of a period."""

    def begin(self) -> None:
        """Begin an episode."""


@dataclass(frozen=True, kw_only=True)
class Crew:
    """All that takes part in a run of the loop."""

    link: GuardLink
    senses: Senses
    policy: Policy
    log: Log
    pace: Pace
    account: Account
    watchers: tuple[Watcher, ...] = ()
    plant: Plant | None = None


def run_loop(crew: Crew, plan: Plan, after_episode: Callable[[], None] = lambda: None) -> None:
    """Run the plan; an episode that ends, or is left, brings the robot to rest."""
    account = crew.account
    with _no_garbage_collection():
        while not plan.is_over(account):
            if crew.plant is not None:
                crew.plant.begin(account.episodes)
            outcome = _run_episode(crew, plan)
            crew.link.release()
            _log_sent(crew)
            # the robot rests: time for the disk
            crew.log.flush()
            if outcome is not None:
                account.episodes += 1
                account.successes.append(outcome)
            after_episode()
            gc.collect()


def _run_episode(crew: Crew, plan: Plan) -> bool | None:
    """Follow the policy until the episode, or the plan, is over; return the outcome if there was one."""
    link, pace, account, log = crew.link, crew.pace, crew.account, crew.log
    link.hand_over()
    _rehearse(crew)
    crew.policy.begin()
    log.episode(pace.clock(), account.episodes)
    for watcher in crew.watchers:
        watcher.begin()
    crew.senses.wait_for_picture(pace.clock(), 1.5 * pace.period_s)
    pace.begin()
    while not plan.is_out_of_ticks(account):
        reading = crew.senses.read(pace.clock, pace.elapsed_s)
        for watcher in crew.watchers:
            watcher.see(reading)
        for channel, captured_s in reading.captured_s.items():
            account.ages_s[channel].append(reading.read_s - captured_s)
        decision = crew.policy.act(reading.channels, reading.anchor, reading.rate, pace.clock)
        number = link.command(decision.command)
        account.inferences_s.append(decision.inference_s)
        tick = Tick(
            begun_s=pace.tick_s, episode=account.episodes, number=number, channels=reading.channels,
            captured_s=reading.captured_s, anchor=reading.anchor, rate=reading.rate, decision=decision,
        )  # fmt: skip
        log.tick(tick)
        for watcher in crew.watchers:
            watcher.idle(tick, pace.deadline_s + pace.period_s - RESERVE_S)
        _log_sent(crew)
        log.work(pace.deadline_s + pace.period_s - RESERVE_S)
        period, late = pace.wait()
        account.periods_s.append(period)
        account.late_s.append(late)
        if crew.plant is not None and (outcome := crew.plant.outcome()) is not None:
            return outcome
    return None


def _rehearse(crew: Crew) -> None:
    """Do once what a tick does, but for the command: the first one is to be as quick as the others."""
    crew.senses.wait_for_picture(0.0, REHEARSAL_S)
    reading = crew.senses.read(crew.pace.clock)
    crew.policy.act(reading.channels, reading.anchor, reading.rate, crew.pace.clock)


def _log_sent(crew: Crew) -> None:
    crew.link.listen()
    for sent in crew.link.sents:
        crew.log.sent(sent)
    crew.link.sents.clear()


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
