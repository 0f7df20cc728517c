"""The loop keeps its pace, follows its plan, and lets every way out be the way out."""

import gc
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from robokd.sim2real.board import Board
from robokd.sim2real.guard_link import State
from robokd.sim2real.interrupts import one_interrupt
from robokd.sim2real.ladder import Rung
from robokd.sim2real.log import Log, Sent
from robokd.sim2real.log_reader import read_log
from robokd.sim2real.loop import (
    Account,
    Crew,
    Pace,
    Plan,
    Watcher,
    run_loop,
)
from robokd.sim2real.policy import Policy
from robokd.sim2real.robot import Frame
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.senses import Reading, Senses
from robot_samples import DT, FakeClock, make_bundle


class World:
    """A guard, its robot, the senses and the episodes: what is told to the loop, and what it does."""

    def __init__(self, clock, horizon) -> None:
        self.clock, self.horizon = clock, horizon
        self.calls: list[str] = []
        self.commands: list[np.ndarray] = []
        self.sents: list[Sent] = []
        self.held = np.zeros(2, np.float32)
        self.reads = self.left = 0
        self.on_read = lambda world, reading: None

    # a GuardLink
    def hand_over(self):
        self.calls.append("hand_over")

    def release(self):
        self.calls.append("release")

    def listen(self):
        pass

    def command(self, target):
        self.commands.append(target)
        self.held = target.copy()
        number = len(self.commands)
        self.sents.append(Sent(
            origin=number, sequence=number, stamp_s=self.clock(), commanded=target, sent=target,
            reasons=(), rung=1,
        ))  # fmt: skip
        self.left -= 1
        return number

    # Senses
    def wait_for_picture(self, after_s, timeout_s):
        self.calls.append("wait")

    def read(self, clock, elapsed_s=0.0):
        self.reads += 1
        now = clock()
        joints = {"joint_pos": self.held, "joint_vel": np.zeros(2, np.float32), "joint_target": self.held}
        channels = {**joints, "front": np.full((1, 3, 4), self.reads, np.uint8)}
        reading = Reading(
            channels=channels, captured_s=dict.fromkeys(channels, now), numbers={"front": self.reads},
            read_s=now, anchor=self.held, rate=np.zeros(2, np.float32),
        )  # fmt: skip
        self.on_read(self, reading)
        return reading

    # a Plant
    def begin(self, episode):
        self.calls.append(f"begin {episode}")
        self.left = self.horizon

    def outcome(self):
        return None if self.left > 0 else True


class Bench:
    """A loop around a fake world on a fake clock."""

    def __init__(self, tmp_path, horizon=5, *watchers) -> None:
        self.clock = FakeClock(tick=1e-5)
        self.world = World(self.clock, horizon)
        self.path, self.account = tmp_path / "log.mcap", Account()
        self.crew = Crew(
            link=self.world, senses=self.world, policy=Policy(make_bundle(tmp_path / "a.robokd")),
            log=Log(self.path, {}), pace=Pace(DT, self.clock, self.clock.sleep), account=self.account,
            watchers=watchers, plant=self.world,
        )  # fmt: skip

    def run(self, episodes=1, ticks=0, **more) -> None:
        try:
            run_loop(self.crew, Plan(episodes=episodes, ticks=ticks), **more)
        finally:
            self.crew.log.close()


def test_each_episode_is_begun_handed_over_and_released(tmp_path):
    bench = Bench(tmp_path, 4)
    ends = []
    bench.run(episodes=3, after_episode=lambda: ends.append(bench.account.episodes))
    one = ["hand_over", "wait", "wait", "release"]
    assert bench.world.calls == ["begin 0", *one, "begin 1", *one, "begin 2", *one]
    assert ends == [1, 2, 3]
    assert bench.account.successes == [True, True, True]
    assert bench.account.ticks == len(bench.world.commands) == 12
    # the graph asks for 0.001 rad more than the last target
    assert bench.world.commands[3] == pytest.approx([0.004, 0.004], abs=1e-6)


def test_ticks_end_a_run_within_an_episode_which_does_not_count(tmp_path):
    bench = Bench(tmp_path, 4)
    bench.run(episodes=0, ticks=6)
    assert bench.account.ticks == 6
    assert bench.account.successes == [True]
    assert bench.world.calls[-1] == "release"


def test_a_plan_is_over_by_what_comes_first():
    account = Account()
    account.episodes, account.inferences_s = 3, [0.0] * 10
    assert Plan(episodes=3, ticks=0).is_over(account)
    assert not Plan(episodes=4, ticks=0).is_over(account)
    assert Plan(episodes=4, ticks=10).is_over(account)
    assert not Plan(episodes=0, ticks=0).is_over(account)
    assert not Plan(episodes=3, ticks=0).is_out_of_ticks(account)


def test_a_robot_without_episodes_is_run_for_so_many_ticks(tmp_path):
    bench = Bench(tmp_path)
    bench.crew = Crew(**{**vars(bench.crew), "plant": None})
    bench.run(episodes=0, ticks=9)
    assert bench.account.ticks == 9
    assert (bench.account.episodes, bench.account.successes) == (0, [])
    assert bench.world.calls == ["hand_over", "wait", "wait", "release"]


@pytest.mark.parametrize(
    "error", [RuntimeError("cable"), KeyboardInterrupt(), SystemExit(), SafetyStop("stale_front", "old")]
)
def test_every_exception_is_the_callers_who_stops_the_robot(tmp_path, error):
    bench = Bench(tmp_path)

    def fail(world, reading):
        if world.reads == 4:  # the first is the rehearsal
            raise error

    bench.world.on_read = fail
    with pytest.raises(type(error)):
        bench.run()
    assert len(bench.world.commands) == 2
    assert gc.isenabled()


def test_the_rehearsal_commands_nothing_and_leaves_no_memory(tmp_path):
    bench = Bench(tmp_path)
    begins, act = [], bench.crew.policy.act
    bench.crew.policy.begin = lambda: begins.append(len(bench.world.commands))
    acts = []
    bench.crew.policy.act = lambda *args: (acts.append(len(begins)), act(*args))[1]
    bench.run(episodes=2)
    assert begins == [0, 5]
    assert acts == [0, *[1] * 6, *[2] * 5]  # of each episode the first is before the memory is cleared


def test_the_age_of_what_a_command_rests_on_is_kept_by_channel(tmp_path):
    bench = Bench(tmp_path, 4)
    bench.world.on_read = lambda _, reading: reading.captured_s.update(front=reading.read_s - 0.03)
    bench.run()
    assert len(bench.account.ages_s["joint_pos"]) == bench.account.ticks == 4
    assert bench.account.ages_s["front"] == pytest.approx([0.03] * 4, abs=1e-3)
    assert len(bench.account.periods_s) == len(bench.account.late_s) == 4
    assert bench.account.periods_s == pytest.approx([DT] * 4, abs=1e-4)


def test_watchers_see_every_reading_and_have_the_idle_time(tmp_path):
    class Witness(Watcher):
        seen, until, begins = [], [], 0

        def see(self, reading):
            self.seen.append(reading.numbers["front"])

        def idle(self, tick, until_s):
            assert tick.number == len(self.seen)
            self.until.append(until_s - tick.begun_s)

        def begin(self):
            self.begins += 1

    witness = Witness()
    Bench(tmp_path, 3, witness).run(episodes=2)
    assert witness.seen == [2, 3, 4, 6, 7, 8]
    assert all(0 < rest < DT for rest in witness.until)
    assert witness.begins == 2


def test_a_watcher_can_stop_the_run_before_the_policy_is_asked(tmp_path):
    class Judge(Watcher):
        def see(self, reading):
            raise SafetyStop("unlike", "another world")

    bench = Bench(tmp_path, 3, Judge())
    with pytest.raises(SafetyStop, match="unlike"):
        bench.run()
    assert bench.world.commands == []


def test_the_log_holds_every_tick_and_what_was_sent_bit_for_bit(tmp_path):
    bench = Bench(tmp_path, 3)
    bench.run(episodes=2)
    recording = read_log(bench.path)
    assert [tick.episode for tick in recording.ticks] == [0, 0, 0, 1, 1, 1]
    assert [tick.number for tick in recording.ticks] == list(range(1, 7))
    commands = np.array(bench.world.commands)
    assert (np.array([tick.decision.command for tick in recording.ticks]) == commands).all()
    assert (np.array([sent.sent for sent in recording.sents]) == commands).all()
    assert [int(tick.channels["front"].max()) for tick in recording.ticks] == [2, 3, 4, 6, 7, 8]
    assert len(recording.episodes) == 2


def test_the_garbage_collector_rests_during_the_loop(tmp_path):
    seen = []
    bench = Bench(tmp_path)
    bench.world.on_read = lambda *_: seen.append(gc.isenabled())
    bench.run()
    assert seen
    assert not any(seen)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_data_that_comes_while_the_process_waits_for_its_core_is_not_of_the_future(tmp_path):
    # between the clock and the line another process had the core for 20 ms
    clock = FakeClock()
    states = [joints(clock.now)]

    def listen():
        clock.now += 0.02
        states.append(joints(clock.now))
        board.write(Frame(camera="front", captured_s=clock.now, image=np.zeros((1, 3, 4), np.uint8)))

    bundle = make_bundle(tmp_path / "a.robokd")
    board = Board(bundle.cameras)
    try:
        reading = Senses(bundle, SimpleNamespace(states=states, listen=listen), board, None).read(clock)
    finally:
        board.close()
    assert all(reading.read_s >= moment for moment in reading.captured_s.values())


def joints(captured_s):
    zero = np.zeros(2, np.float32)
    return State(
        captured_s=captured_s, position=zero, velocity=zero, anchor=zero, rate=zero, mode=Rung.FOLLOW,
        token=1, origin=0,
    )  # fmt: skip


def test_deadlines_are_absolute():
    clock = FakeClock(tick=1e-6)
    pace = Pace(0.01, clock, clock.sleep)
    pace.begin()
    begun = clock.now
    for tick in range(1, 500):
        clock.now += 0.0037  # work
        _, late = pace.wait()
        assert clock.now == pytest.approx(begun + 0.01 * tick, abs=1e-4)  # no drift
        assert 0 <= late < 1e-4
    assert pace.misses == 0


@pytest.mark.parametrize(
    ("work", "misses"), [(0.0100, 0), (0.0105, 0), (0.0115, 1), (0.0175, 1), (0.0205, 1), (0.0355, 3)]
)
def test_an_overrun_is_counted_and_the_grid_is_kept(work, misses):
    # a tick that begins late is missed once, and once more each deadline that is left out
    clock = FakeClock(tick=1e-6)
    pace = Pace(0.01, clock, clock.sleep)
    pace.begin()
    begun = clock.now
    clock.now += work
    period, late = pace.wait()
    assert period == pytest.approx(work, abs=1e-4)
    assert late == pytest.approx((work + 1e-6) % 0.01, abs=1e-4)
    assert pace.misses == misses
    for _ in range(3):  # never made up by a burst
        clock.now += 0.001
        _, late = pace.wait()
        assert late < 1e-4
    assert (clock.now - begun) / 0.01 == pytest.approx(round((clock.now - begun) / 0.01), abs=0.01)
    assert pace.misses == misses


def test_the_time_of_an_episode_is_whole_periods_also_where_some_were_left_out():
    clock = FakeClock(tick=1e-6)
    pace = Pace(0.01, clock, clock.sleep)
    for _ in range(2):  # each episode has its own
        pace.begin()
        told = [pace.elapsed_s]
        for work in (0.001, 0.013, 0.0355, 0.001):
            clock.now += work
            pace.wait()
            told.append(pace.elapsed_s)
        # the second is late, and before the third two deadlines are left out
        assert told == pytest.approx([0.0, 0.01, 0.02, 0.05, 0.06], abs=1e-9)


def test_real_time_is_kept_on_the_real_clock():
    pace = Pace(0.005)
    pace.begin()
    begun = pace.deadline_s
    for _ in range(60):
        pace.wait()
    # a busy machine may miss some, but none begins before its time and the grid stays where it was
    assert time.monotonic() - begun >= 60 * 0.005
    assert (pace.deadline_s - begun) / 0.005 == pytest.approx(round((pace.deadline_s - begun) / 0.005))


def test_the_loop_runs_outside_the_main_thread_too(tmp_path):
    bench = Bench(tmp_path)

    def run():
        with one_interrupt():
            bench.run()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert bench.account.successes == [True]


def test_the_robot_side_imports_neither_torch_nor_a_simulator():
    code = (
        "import sys, robokd.sim2real.deploy, robokd.sim2real.guard, robokd.sim2real.eyes;"
        "import robokd.registry as r; r.find('robot', 'mujoco');"
        "print([name for name in ('torch', 'mujoco', 'numba', 'tensordict') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "[]\n", done.stderr
