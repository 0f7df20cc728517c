"""The loop keeps its pace, obeys the safety layer and stops the robot on every way out."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from mcap.reader import make_reader
from robokd.sim2real.log import Log
from robokd.sim2real.loop import SLACK, Account, Pace, Plan, Terminated, connected, run_loop
from robokd.sim2real.policy import Policy
from robokd.sim2real.safety import Safety, SafetyStop
from robot_samples import DT, FakeClock, FakeRobot, graph, make_bundle


class Bench:
    """A loop around a fake robot on a fake clock."""

    def __init__(self, tmp_path, data=None, **robot) -> None:
        self.clock = FakeClock(tick=1e-5)
        bundle = make_bundle(tmp_path / "a.robokd", data=data)
        self.robot, self.policy, self.safety = FakeRobot(self.clock, **robot), Policy(bundle), Safety(bundle)
        self.pace, self.account = Pace(DT, self.clock, self.clock.sleep), Account()
        self.log = Log(tmp_path / "log.mcap", {})

    def run(self, episodes=1, ticks=0) -> None:
        try:
            with connected(self.robot):
                run_loop(
                    self.robot, self.policy, safety=self.safety, pace=self.pace, log=self.log,
                    account=self.account, plan=Plan(episodes=episodes, ticks=ticks),
                )  # fmt: skip
        finally:
            self.log.close()


def raising(error):
    def broken(channels, captured):
        raise error

    return broken


def test_episodes_run_one_after_the_other_and_then_the_robot_is_stopped(tmp_path):
    bench = Bench(tmp_path, horizon=4)
    bench.run(episodes=3)
    assert bench.robot.calls == ["connect", "begin 0", "begin 1", "begin 2", "stop", "stop", "stop"]
    assert bench.account.successes == [True, True, True]
    assert bench.account.ticks == len(bench.robot.written) == 12
    # the graph asks for 0.001 rad more than the last target, from the held one on
    assert bench.robot.written[3] == pytest.approx([0.004, 0.004], abs=1e-6)
    assert not bench.safety.counts


def test_ticks_end_a_run_within_an_episode_which_does_not_count(tmp_path):
    bench = Bench(tmp_path, horizon=4)
    bench.run(episodes=0, ticks=6)
    assert bench.account.ticks == 6
    assert bench.account.successes == [True]
    assert bench.robot.stops > 0


@pytest.mark.parametrize("error", [RuntimeError("cable"), KeyboardInterrupt(), SystemExit(), ValueError()])
def test_the_robot_is_stopped_on_every_exception(tmp_path, error):
    bench = Bench(tmp_path, break_at=3, broken=raising(error))
    with pytest.raises(type(error)):
        bench.run()
    assert bench.robot.calls[-1] == "stop"
    assert len(bench.robot.written) == 2


def test_the_robot_is_stopped_when_it_cannot_be_reached(tmp_path):
    bench = Bench(tmp_path)
    bench.robot.connect = lambda: (_ for _ in ()).throw(RuntimeError("no answer"))
    with pytest.raises(RuntimeError, match="no answer"):
        bench.run()
    assert bench.robot.stops > 0


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_the_robot_is_stopped_by_signals_even_if_one_hits_the_stop(tmp_path, number, error):
    bench = Bench(tmp_path, break_at=3, broken=lambda *_: os.kill(os.getpid(), number))
    stop = bench.robot.stop

    def slow_stop():
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C again, out of impatience
        stop()

    bench.robot.stop = slow_stop
    before = signal.getsignal(number)
    with pytest.raises(error):
        bench.run()
    assert bench.robot.stops == 3
    assert signal.getsignal(number) is before


def test_a_signal_during_the_stop_of_a_normal_end_does_not_prevent_it(tmp_path):
    bench = Bench(tmp_path)
    stop, calls = bench.robot.stop, []

    def interrupted_stop():
        calls.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)  # where the first one raises
        stop()

    bench.robot.stop = interrupted_stop
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert (len(calls), bench.robot.stops) == (3, 2)


def test_a_command_that_is_not_finite_never_reaches_the_robot(tmp_path):
    bench = Bench(tmp_path, data=graph(is_broken=True))
    with pytest.raises(SafetyStop, match="non_finite"):
        bench.run()
    assert bench.robot.written == []
    assert bench.robot.stops > 0


def test_the_first_command_starts_from_the_held_target_and_not_from_a_noisy_measurement(tmp_path):
    def noise(channels, captured):
        channels["joint_pos"] = channels["joint_target"] + np.float32([0.0056, -0.0056])

    bench = Bench(tmp_path, break_at=1, broken=noise)
    bench.run()
    # from the measured pose it would be 0.66 rad/s from rest, where the acceleration allows 0.2
    assert bench.robot.written[0] == pytest.approx([0.001, 0.001], abs=1e-6)
    assert not bench.safety.counts


def test_an_exception_between_connecting_and_running_stops_the_robot_too(tmp_path):
    bench = Bench(tmp_path)
    with pytest.raises(OSError, match="disk full"), connected(bench.robot):
        raise OSError("disk full")
    assert bench.robot.calls == ["connect", "stop", "stop"]


def test_the_age_of_what_a_command_rests_on_is_kept_by_channel(tmp_path):
    old = lambda _, captured: captured.update(front=captured["front"] - 0.03)  # noqa: E731
    bench = Bench(tmp_path, horizon=4, break_at=1, broken=old)
    bench.run()
    assert len(bench.account.ages_s["joint_pos"]) == bench.account.ticks == 4
    assert bench.account.ages_s["front"] == pytest.approx([0.03] * 4, abs=1e-3)


def test_a_stale_camera_stops_the_loop(tmp_path):
    bench = Bench(tmp_path, horizon=100)
    frozen_s = bench.clock()
    bench.robot.break_at, bench.robot.broken = 1, lambda _, captured: captured.update(front=frozen_s)
    with pytest.raises(SafetyStop, match="stale_front"):
        bench.run()
    # the budget is 0.1 s, the period 0.01 s
    assert 9 <= len(bench.robot.written) <= 11
    assert bench.safety.counts == {"stale_front": 1}


def test_limits_hold_for_what_is_written(tmp_path):
    bench = Bench(tmp_path, data=graph(step=0.01), horizon=200)
    bench.run()
    written = np.array(bench.robot.written, float)
    rates = np.diff(written, axis=0) / DT
    assert written.max(0) == pytest.approx([1.0, 0.7], abs=1e-4)
    assert (np.abs(rates) <= np.array([1.0, 2.0]) * (1 + 1e-4)).all()
    assert (np.abs(np.diff(rates, axis=0)) <= np.array([20.0, 10.0]) * DT * (1 + 1e-3)).all()
    assert bench.safety.counts["position"] > 0


def test_deadlines_are_absolute():
    clock = FakeClock(tick=1e-6)
    pace = Pace(0.01, clock, clock.sleep)
    begun = clock.now
    pace.begin()
    for tick in range(1, 500):
        clock.now += 0.0037  # work
        _, late = pace.wait()
        assert clock.now == pytest.approx(begun + 0.01 * tick, abs=1e-4)  # no drift
        assert 0 <= late < 1e-4
    assert pace.misses == 0


def test_an_overrun_is_counted_and_never_made_up_by_a_burst():
    clock = FakeClock(tick=1e-6)
    pace = Pace(0.01, clock, clock.sleep)
    pace.begin()
    clock.now += 0.035
    period, late = pace.wait()
    assert (pace.misses, len(clock.slept)) == (1, 0)
    assert period == pytest.approx(0.035, abs=1e-4)
    assert late == pytest.approx(0.025, abs=1e-4)
    for _ in range(3):
        assert pace.wait()[0] == pytest.approx(0.01, abs=1e-4)
    assert pace.misses == 1


def test_a_late_wake_up_does_not_shorten_the_next_period_much():
    clock = FakeClock(tick=1e-6)
    pace = Pace(0.01, clock, lambda seconds: clock.sleep(seconds + 0.008))
    pace.begin()
    periods = [pace.wait()[0] for _ in range(10)]
    assert min(periods) >= 0.01 * (1 - SLACK) - 1e-4
    assert pace.misses == 10


def test_real_time_is_kept_on_the_real_clock():
    pace = Pace(0.005)
    pace.begin()
    begun = pace.tick_s
    periods = [pace.wait()[0] for _ in range(100)]
    # a busy machine may miss some; the pace is still that of the grid
    assert np.median(periods) == pytest.approx(0.005, rel=0.02)
    assert time.monotonic() - begun >= 0.5 - SLACK * 0.005


def test_the_garbage_collector_rests_during_the_loop(tmp_path):
    seen = []
    bench = Bench(tmp_path, break_at=1, broken=lambda *_: seen.append(gc.isenabled()))
    bench.run()
    assert not any(seen)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_the_loop_runs_outside_the_main_thread_too(tmp_path):
    bench = Bench(tmp_path)
    thread = threading.Thread(target=bench.run)
    thread.start()
    thread.join(10)
    assert bench.account.successes == [True]


def test_the_log_holds_every_tick_bit_for_bit(tmp_path):
    bench = Bench(tmp_path, horizon=3)
    bench.run(episodes=2)
    with (tmp_path / "log.mcap").open("rb") as file:
        messages = [(c.topic, m, json.loads(m.data)) for _, c, m in make_reader(file).iter_messages()]
    ticks = [content for topic, _, content in messages if topic == "/tick"]
    assert [tick["episode"] for tick in ticks] == [0, 0, 0, 1, 1, 1]
    written = np.array([tick["sent"] for tick in ticks], np.float32)
    assert (written == np.array(bench.robot.written)).all()
    assert np.float32(ticks[2]["joint_target"]).tolist() == written[1].tolist()
    assert all(0 < m.log_time - 100e9 < 1e9 for _, m, _ in messages)  # the fake clock starts at 100 s
    images = [content for topic, _, content in messages if topic == "/camera/front"]
    assert len(images) == 6
    assert images[0]["shape"] == [1, 3, 4]


def test_the_policy_process_imports_neither_torch_nor_a_simulator():
    code = (
        "import sys, robokd.sim2real.deploy, robokd.registry as r; r.find('robot', 'mujoco');"
        "print([name for name in ('torch', 'mujoco', 'numba', 'tensordict') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n", done.stderr
