"""The guard has the last word: only sound commands within limits reach the robot, and it always stops.

Time is simulated: the guard's own `run` is in this thread, and waits move a clock that only they and its
readings move. So a busy machine changes nothing, and every moment of the ladder can be asked for.
"""

import functools
import gc
import itertools
import json
import os
import select as real_select
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real import arming, packets
from robokd.sim2real import guard as guard_module
from robokd.sim2real.arming import check_arm
from robokd.sim2real.grid import NEAR, SHORTEST
from robokd.sim2real.guard import ACCOUNT, HOME_S, HOMING_ERROR, HOMING_SPEED, Guard, main
from robokd.sim2real.ladder import Rung
from robokd.sim2real.packets import MOST_BYTES, Channel, Kind, encode, layouts, pair
from robokd.sim2real.robot_account import RobotAccount
from robokd.sim2real.safety import HELD_TOLERANCE
from robokd.sim2real.stop_key import KEY_S, StopKey
from robot_samples import DT, FakeClock, FakeRobot, make_bundle

from robokd import UserError
from robokd.deploying import GuardConfig

CREEP = 0.0005  # rad a command: 5 rad/s^2 from rest, where 10 is allowed
TICK_S = 1 / GuardConfig().rate_hz
EPSILON = 1e-9


class Bench:
    """A guard, its robot, and a policy that does what was planned when it is time."""

    def __init__(self, bundle, monkeypatch, *, arm=False, key=None, home=(0.0, 0.0), **robot) -> None:
        self.clock, self.bundle = FakeClock(tick=1e-5), bundle
        clocks = SimpleNamespace(monotonic=self.clock, sleep=self.clock.sleep)
        monkeypatch.setattr(guard_module, "time", clocks)
        monkeypatch.setattr(packets, "time", clocks)
        monkeypatch.setattr(guard_module, "select", SimpleNamespace(select=self.select))
        self.robot = FakeRobot(self.clock, **robot)
        ours, theirs = pair()
        self.policy, self.layouts = Channel(ours, 2), layouts(2)
        self.config = SimpleNamespace(arm=arm, guard=GuardConfig())
        self.key = key or StopKey("")
        self.guard = Guard(self.robot, Channel(theirs, 2), bundle=bundle, config=self.config, key=self.key)
        self.plans: list = []
        self.heard: list = []
        self.numbers, self.tokens, self.sequences = itertools.count(1), itertools.count(1), itertools.count(1)
        self.begun_s, self.limit_s = self.clock.now, 60.0
        self.held = self.robot.held.copy()
        self.begins: set[int] = set()  # numbers of the commands that follow a hand-over
        begin = self.guard.grid.begin
        self.guard.grid.begin = lambda now: (self.begins.add(len(self.robot.commands)), begin(now))

    def select(self, reads, _, __, timeout):
        """Move the clock to the next plan, or to the end of the wait."""
        self.listen()
        if real_select.select(reads, [], [], 0)[0]:
            return
        until = self.clock.now + timeout
        assert self.clock.now < self.begun_s + self.limit_s, "the guard does not end"
        if self.plans and self.plans[0][0] <= until:
            when, _, act = self.plans.pop(0)
            self.clock.now = max(self.clock.now, when)
            act()
        else:
            self.clock.now = until

    def at(self, moment_s, act) -> None:
        """Plan something, in seconds from the beginning."""
        self.plans.append((self.begun_s + moment_s, len(self.plans), act))
        self.plans.sort(key=lambda plan: plan[:2])

    def say(self, kind, /, moment_s=None, **values) -> None:
        """Send a packet, sent at a time (s, of the clock) if that is not now."""
        if kind in self.layouts:
            row = np.zeros((), self.layouts[kind])
            for name, value in values.items():
                row[name] = value
            payload = row.tobytes()
        else:
            payload = json.dumps(values).encode()
        self.policy.put(encode(kind, next(self.sequences), payload, moment_s))

    def command(self, target, number=None, moment_s=None) -> None:
        self.say(Kind.COMMAND, moment_s, number=number or next(self.numbers), target=np.float32(target))

    def hand_over(self) -> None:
        self.say(Kind.HANDOVER, token=next(self.tokens))

    def release(self) -> None:
        self.say(Kind.RELEASE, token=next(self.tokens))

    def stop(self) -> None:
        self.say(Kind.STOP, kind="end", message="")

    def creep(self, count, begin_s=0.0, step=CREEP) -> float:
        """Plan a hand-over and so many commands; return when the last one is sent."""
        self.at(begin_s, self.hand_over)
        for number in range(1, count + 1):
            self.at(begin_s + number * DT, lambda number=number: self.command([number * step] * 2))
        return begin_s + count * DT

    def listen(self) -> None:
        self.heard += self.policy.receive()

    def run(self):
        self.guard.run()
        self.listen()
        return self

    def rows(self, kind):
        return [packet.row for packet in self.heard if packet.kind == kind]

    @property
    def targets(self) -> np.ndarray:
        return np.array([command.target for command in self.robot.commands]).reshape(-1, 2)

    @property
    def stopped(self):
        rows = self.rows(Kind.STOPPED)
        return (rows[0]["kind"], rows[0]["message"]) if rows else ("", "")

    def walk(self) -> list[str]:
        return [rung for _, _, rung, _ in self.guard.report()["rungs"]]

    def when(self, rung) -> float:
        """When the guard came to a rung last, s from the beginning."""
        return next(
            when - self.begun_s for when, _, name, _ in self.guard.report()["rungs"][::-1] if name == rung
        )

    def violations(self) -> dict:
        """Judge, as the simulated robot does, what the robot was told."""
        account = RobotAccount(self.bundle.action, self.bundle.manifest["robot"], 0.5)
        account.begin(0, 0.0, self.held)
        held, last_s = self.held, -np.inf
        for number, command in enumerate(self.robot.commands):
            # from rest, the first one is judged as if it had come a control period after
            if number in self.begins and command.stamp_s - last_s > DT:
                account.begin(0, 0.0, held)
            account.command(command, self.robot.arrived_s[number])
            held, last_s = command.target, command.stamp_s
        summary = account.summary()
        assert summary["commands_lost"] == 0
        return summary["violations"]

    def assert_sound(self) -> None:
        """Whatever happened: limits kept, by stamps that are about true, and rest at the end."""
        assert self.violations() == {}
        assert np.isfinite(self.targets).all()
        stamps = np.array([command.stamp_s for command in self.robot.commands])
        late = np.array(self.robot.arrived_s) - stamps
        assert (np.abs(late) <= NEAR * DT + 1e-3).all()
        assert (np.diff(stamps) >= SHORTEST * DT - EPSILON).all()
        if len(stamps) > 1 and self.walk()[-1] == "STOP" and self.stopped[0] != "robot_lost":
            assert (self.targets[-1] == self.targets[-2]).all()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "a.robokd")


@pytest.fixture(scope="module")
def tiny(bundle):
    return lambda: bundle  # hypothesis would print a bundle whole


@pytest.fixture
def bench(bundle, monkeypatch):
    return Bench(bundle, monkeypatch)


def test_commands_within_the_limits_reach_the_robot_as_they_are_and_are_told(bench):
    end = bench.creep(20)
    bench.at(end + 0.005, bench.stop)
    bench.run().assert_sound()
    assert bench.targets[:20] == pytest.approx(np.arange(1, 21)[:, None] * CREEP * np.ones(2), abs=1e-7)
    assert [command.origin for command in bench.robot.commands[:20]] == list(range(1, 21))
    assert [command.sequence for command in bench.robot.commands] == list(range(1, len(bench.targets) + 1))
    sents = bench.rows(Kind.SENT)
    assert [int(row["sequence"]) for row in sents] == list(range(1, len(bench.targets) + 1))
    assert (np.array([row["sent"] for row in sents]) == bench.targets).all()
    assert bench.guard.report()["limited"] == {}
    assert bench.stopped == ("end", "")
    assert bench.walk() == ["FOLLOW", "SLOW", "STOP"]


def test_the_state_of_the_robot_is_told_at_the_rate_that_was_asked_for(bench):
    end = bench.creep(100)
    bench.at(end, bench.stop)
    bench.run()
    states = bench.rows(Kind.STATE)
    assert len(states) == pytest.approx(1.0 / TICK_S, rel=0.1)
    last = [row for row in states if row["mode"] == Rung.FOLLOW][-1]
    assert last["origin"] == 100
    assert last["token"] == 1
    assert last["anchor"] == pytest.approx([100 * CREEP] * 2, abs=2 * CREEP)
    assert last["rate"] == pytest.approx([CREEP / DT] * 2, rel=1e-2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_command_that_is_not_finite_stops_and_never_reaches_the_robot(bench, bad):
    end = bench.creep(10)
    bench.at(end + DT, lambda: bench.command([0.0, bad]))
    bench.run().assert_sound()
    kind, said = bench.stopped
    assert kind == "non_finite"
    assert str(bad) in said
    assert bench.walk() == ["FOLLOW", "SLOW", "STOP"]


@pytest.mark.parametrize("shift_s", [-1.1 * DT, -3600.0, 0.002, 3600.0, np.nan])
def test_a_command_from_another_time_is_one_that_did_not_come(bench, shift_s):
    end = bench.creep(10)
    bench.at(end + DT, lambda: bench.command([0.1, 0.1], moment_s=bench.clock.now + shift_s))
    bench.at(end + 1.2 * DT, bench.stop)
    bench.run().assert_sound()
    assert bench.guard.counts["command_stale"] == 1
    assert max(command.origin for command in bench.robot.commands) == 10


def test_an_old_command_in_a_new_packet_is_not_followed_twice(bench):
    end = bench.creep(10)
    bench.at(end + DT, lambda: bench.command([10 * CREEP] * 2, number=10))
    bench.at(end + DT, lambda: bench.command([9 * CREEP] * 2, number=3))
    bench.at(end + 1.2 * DT, bench.stop)
    bench.run().assert_sound()
    assert bench.guard.counts["command_stale"] == 2


def test_packets_that_are_broken_repeated_or_overtaken_are_dropped_and_counted(bench):
    end = bench.creep(10)

    def whole(sequence):
        row = np.array((11, [1.0, 1.0]), bench.layouts[Kind.COMMAND]).tobytes()
        return encode(Kind.COMMAND, sequence, row)

    def send_broken():
        data = bytearray(whole(next(bench.sequences)))
        data[-1] ^= 1
        bench.policy.put(bytes(data))
        bench.policy.put(whole(11))  # the hand-over was 1, the commands 2 to 11
        bench.policy.put(whole(5))
        bench.policy.put(b"nothing of ours")

    bench.at(end + DT, send_broken)
    bench.at(end + 1.2 * DT, bench.stop)
    bench.run().assert_sound()
    assert bench.guard.report()["packets"] == {"corrupt": 2, "twice": 1, "order": 1, "lost": 1}
    assert max(command.origin for command in bench.robot.commands) == 10


@pytest.mark.parametrize(("joint", "reach"), [(0, 0.01), (1, 0.02)])
def test_a_first_command_out_of_reach_of_the_held_target_is_refused(bundle, monkeypatch, joint, reach):
    for far in (False, True):
        bench = Bench(bundle, monkeypatch)
        target = np.zeros(2)
        target[joint] = -reach * (1.01 if far else 1.0)
        bench.at(0.0, bench.hand_over)
        bench.at(DT, lambda bench=bench, target=target: bench.command(target))
        bench.at(1.5 * DT, bench.stop)
        bench.run().assert_sound()
        assert bench.stopped[0] == ("start" if far else "end")
        assert (len(bench.targets) == 0) == far


def test_a_later_command_out_of_reach_is_limited_and_counted(bench):
    end = bench.creep(3)
    bench.at(end + DT, lambda: bench.command([0.9, 0.0]))
    bench.at(end + 1.2 * DT, bench.stop)
    bench.run().assert_sound()
    assert bench.guard.report()["limited"] == {"acceleration": 1}
    moved = bench.rows(Kind.SENT)[3]
    assert moved["commanded"] == pytest.approx([0.9, 0.0])
    assert moved["sent"][0] < 0.01
    assert packets.REASONS[int(moved["reasons"]).bit_length() - 1] == "acceleration"


@pytest.mark.parametrize(
    ("position", "changes", "kind"),
    [
        ((0.31, 0.0), {}, "start"),
        ((0.0, -0.31), {}, "start"),
        ((0.0, 0.0), {"target": np.float32([0.0, 1.01 * HELD_TOLERANCE])}, "held_target"),
        ((0.0, 0.0), {"target": np.float32([0.0, np.nan])}, "held_target"),
        ((0.0, 0.0), {"position": np.float32([np.nan, 0.0])}, "non_finite_joints"),
        ((0.0, 0.0), {"velocity": np.float32([0.0, np.inf])}, "non_finite_joints"),
        ((0.0, 0.0), {"captured_s": 0.0}, "stale_joints"),
        ((0.0, 0.0), {"captured_s": 1e6}, "stale_joints"),
        ((0.0, 0.0), {"captured_s": np.nan}, "stale_joints"),
        ((0.0, 0.0), {"strangers": 1}, "second_writer"),
    ],
)
def test_no_policy_is_given_a_robot_that_is_not_fit_to_begin(bundle, monkeypatch, position, changes, kind):
    bench = Bench(bundle, monkeypatch, position=position)
    bench.robot.changes = changes
    bench.creep(3, begin_s=0.1)
    bench.run()
    assert bench.stopped[0] == kind
    assert bench.robot.commands == []
    assert bench.walk() == ["STOP"]


def test_a_robot_that_does_not_tell_its_target_is_anchored_where_it_is_measured(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, position=(0.2, -0.1))
    bench.robot.changes = {"target": np.full(2, np.nan, np.float32)}
    bench.at(0.0, bench.hand_over)
    bench.at(DT, lambda: bench.command([0.2 + CREEP, -0.1]))
    bench.at(2 * DT, bench.stop)
    bench.run().assert_sound()
    assert bench.targets[0] == pytest.approx([0.2 + CREEP, -0.1])


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"position": np.float32([0.0, np.nan])}, "non_finite_joints"),
        ({"captured_s": 100.0}, "stale_joints"),
        ({"strangers": 3}, "second_writer"),
    ],
)
def test_a_reading_that_cannot_be_trusted_brings_the_robot_to_rest(bench, changes, kind):
    bench.creep(30)
    bench.at(0.2, lambda: bench.robot.changes.update(changes))
    bench.run().assert_sound()
    assert bench.stopped[0] == kind
    assert bench.walk() == ["FOLLOW", "SLOW", "STOP"]


def test_joints_that_nobody_has_are_not_judged(bench):
    bench.robot.changes = {"captured_s": 0.0}
    bench.at(0.2, bench.robot.changes.clear)
    end = bench.creep(5, begin_s=0.21)
    bench.at(end, bench.stop)
    bench.run().assert_sound()
    assert bench.stopped[0] == "end"


@pytest.mark.parametrize("error", [OSError("cable"), RuntimeError("cable"), TimeoutError("cable")])
@pytest.mark.parametrize("moment_s", [-1.0, 0.0, 0.2])
def test_a_robot_that_does_not_answer_is_brought_to_rest_blind_and_ends_the_guard(bench, error, moment_s):
    bench.creep(30)
    begin = bench.hand_over

    def hand_over_broken():
        bench.robot.read_error = error
        begin()

    if moment_s == 0.0:  # just when the policy takes it
        bench.plans[0] = (*bench.plans[0][:2], hand_over_broken)
    else:
        bench.at(max(moment_s, 0.0), lambda: setattr(bench.robot, "read_error", error))
    if moment_s < 0:
        bench.robot.read_error = error
    bench.run()
    assert bench.stopped == ("robot_lost", "cable")
    assert bench.guard.report()["stop"] == {"kind": "robot_lost", "message": "cable"}
    # commands still go out: it is slowed as it would be with joints that can be read
    assert bench.clock.now - bench.begun_s < max(moment_s, 0) + 2 * TICK_S + 5 * DT * (moment_s > 0)
    assert bench.violations() == {}
    if moment_s > 0:
        written = [one.target.tolist() for one in bench.robot.commands]
        assert written[-1] == written[-2]


def test_a_robot_that_cannot_be_told_anything_ends_the_guard_at_once(bench):
    bench.creep(30)
    bench.at(0.2, lambda: setattr(bench.robot, "write_error", OSError()))
    bench.run()
    assert bench.stopped == ("robot_lost", "OSError")
    assert bench.clock.now - bench.begun_s < 0.2 + 2 * DT


def test_the_next_command_is_limited_from_what_the_robot_was_really_sent(bench):
    # its own gateway halves every step, of which the guard does not know before
    before = np.zeros(2, np.float32)

    def halve(target):
        before[:] = before + (target - before) / 2
        return before.copy()

    bench.robot.answer = halve
    for number in range(1, 60):
        bench.at(number * DT, lambda: bench.command([0.2, 0.2]))
    bench.plans[0] = (*bench.plans[0][:2], lambda: bench.command([0.001, 0.001]))
    bench.at(0.0, bench.hand_over)
    bench.run()
    # had it reckoned with its own targets, a step from what was sent would be up to twice as long
    sent = np.array([row["sent"] for row in bench.rows(Kind.SENT)], float)
    asked = bench.targets.astype(float)
    held = np.vstack([np.zeros(2), sent[:-1]])
    rates = np.abs(asked - held) / DT
    assert (rates <= np.array([1.0, 2.0]) * (1 + 1e-3)).all()
    # from the rate at which it truly moves, and no more than the limits allow on top
    true = np.diff(np.vstack([np.zeros(2), sent]), axis=0) / DT
    change = np.abs((asked - held)[1:] / DT - true[:-1]) / DT
    assert (change <= np.array([20.0, 10.0]) * (1 + 1e-2)).all()


@pytest.mark.parametrize("answer", [np.full(2, np.nan), np.zeros(3), np.float32([np.inf, 0.0])])
def test_a_robot_that_says_it_sent_nonsense_is_not_trusted_any_more(bench, answer):
    bench.creep(30)

    def lie():
        bench.robot.answer = lambda target: answer
        bench.robot.is_stuck = True

    bench.at(0.2, lie)
    bench.run()
    assert bench.stopped[0] == "robot_lost"
    assert bench.clock.now - bench.begun_s < 0.2 + 2 * DT


def test_a_silent_policy_leads_down_the_ladder_at_the_promised_times(bench):
    end = bench.creep(30)
    bench.run().assert_sound()
    assert bench.walk() == ["FOLLOW", "HOLD", "SLOW", "REST", "STOP"]
    config, slack = bench.config.guard, TICK_S + 1e-3
    assert 0 <= bench.when("HOLD") - (end + DT) <= slack
    assert 0 <= bench.when("SLOW") - (end + DT) - config.late * DT <= slack
    # from 0.05 rad/s at 10 rad/s^2, by steps of DT: a few periods
    slowing = bench.when("REST") - bench.when("SLOW")
    assert 0 < slowing <= 5 * DT
    assert 0 <= bench.when("STOP") - bench.when("REST") - config.stop_after_s <= slack
    longest = bench.guard.ladder.patience.longest_s(DT, slowing)
    assert bench.when("STOP") - end <= longest + 3 * slack
    assert bench.guard.report()["stop"]["kind"] == "command_timeout"


def test_a_policy_that_wakes_up_too_late_is_told_why_it_lost_the_robot(bench):
    bench.creep(5)
    bench.run()
    kind, said = bench.stopped
    assert kind == "command_timeout"
    assert "no command for 1 s" in said


def test_a_policy_that_never_begins_is_stopped_too(bench):
    bench.creep(0)
    bench.run()
    assert bench.walk() == ["FOLLOW", "HOLD", "SLOW", "REST", "STOP"]
    assert bench.when("HOLD") == pytest.approx(3 * DT, abs=2 * TICK_S)
    assert bench.clock.now - bench.begun_s < 3 * DT + 0.5 * DT + 1.0 + 5 * DT
    bench.assert_sound()


@pytest.mark.parametrize(
    ("pause_s", "walk"),
    [
        (0.004, ["HOLD", "FOLLOW"]),
        (0.012, ["HOLD", "SLOW", "FOLLOW"]),
        (0.5, ["HOLD", "SLOW", "REST", "FOLLOW"]),
    ],
)
def test_a_policy_that_comes_back_is_followed_again_from_where_the_robot_is(bench, pause_s, walk):
    end = bench.creep(30)
    again_s = end + DT + pause_s
    for number in range(20):
        target = 31 * CREEP + number * CREEP
        bench.at(again_s + number * DT, lambda target=target: bench.command([target] * 2))
    bench.at(again_s + 20 * DT, bench.stop)
    bench.run().assert_sound()
    assert bench.walk()[: len(walk) + 1] == ["FOLLOW", *walk]
    assert bench.stopped[0] == "end"
    assert bench.robot.commands[-1].target == pytest.approx([50 * CREEP] * 2, abs=3 * CREEP)


def test_a_release_brings_the_robot_to_rest_and_a_hand_over_begins_anew(bench):
    end = bench.creep(30)
    bench.at(end + 0.2 * DT, bench.release)
    bench.at(end + 5 * DT, lambda: bench.command([0.3, 0.3]))  # nobody has the robot
    bench.at(0.6, bench.hand_over)
    bench.at(0.61, lambda: bench.command(bench.robot.held + CREEP))
    bench.at(0.615, bench.stop)
    bench.run().assert_sound()
    assert bench.walk() == ["FOLLOW", "SLOW", "IDLE", "FOLLOW", "SLOW", "STOP"]
    assert bench.guard.counts["command_refused"] == 1
    idle = [row for row in bench.rows(Kind.STATE) if row["mode"] == Rung.IDLE and row["token"] == 2]
    assert idle
    assert not idle[-1]["rate"].any()


def test_the_first_command_after_a_hand_over_keeps_the_limits_however_soon_it_comes(bench):
    # at rest since a moment, the robot was told its last target within this very period
    end = bench.creep(30)
    bench.at(end + 0.2 * DT, bench.release)
    begun = []

    def again():
        if bench.guard.ladder.rung != Rung.IDLE:
            bench.at(bench.clock.now - bench.begun_s + 1e-4, again)
            return
        begun.append(bench.clock.now)
        bench.hand_over()
        for number in range(1, 20):
            moment = bench.clock.now - bench.begun_s + 1e-4 + (number - 1) * DT
            bench.at(moment, lambda number=number: bench.command(bench.robot.held + 0.002 * number))
        bench.at(bench.clock.now - bench.begun_s + 20 * DT, bench.stop)

    bench.at(end + DT, again)
    bench.run()
    assert begun
    bench.assert_sound()


@pytest.mark.parametrize("home", [False, True])
def test_a_hand_over_of_a_robot_that_moves_is_refused(bench, home):
    # a policy that lost its place: the limits are anchored at rest, so this would be a jolt
    end = bench.creep(60, step=0.004)
    again = (lambda: bench.say(Kind.HOME, token=7, position=[0.0, 0.0])) if home else bench.hand_over
    bench.at(end - 10.5 * DT, again)
    bench.at(end, bench.stop)
    bench.run().assert_sound()
    assert bench.stopped[0] == "start"


def go_home(bench, position, moment_s=0.0, last_s=40.0):
    """Ask for home again and again, as the policy process does while it waits."""
    for when in np.arange(moment_s, last_s, 0.1):
        bench.at(when, lambda: bench.say(Kind.HOME, token=99, position=np.float32(position)))


def test_homing_goes_slowly_to_the_very_place_and_waits_there(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, position=(0.6, -0.4))  # no policy may begin here, but homing may
    go_home(bench, [0.05, 0.1])
    bench.at(0.5, lambda: bench.command([0.6, -0.4]))  # nobody's business now
    bench.at(20.0, bench.stop)
    bench.run().assert_sound()
    assert bench.walk() == ["FOLLOW", "SLOW", "IDLE", "STOP"]
    assert bench.targets[-1] == pytest.approx([0.05, 0.1], abs=1e-5)
    rates = np.abs(np.diff(bench.targets, axis=0)) / DT
    assert (rates.max(0) <= HOMING_SPEED * np.array([1.0, 2.0]) * (1 + 1e-3)).all()
    assert bench.when("IDLE") == pytest.approx(0.55 / (HOMING_SPEED * 1.0), rel=0.05)
    assert bench.guard.counts["command_refused"] == 1
    assert bench.rows(Kind.STATE)[-1]["token"] == 99


def test_a_policy_that_is_frozen_does_not_bring_the_robot_home(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, position=(0.6, -0.4))
    go_home(bench, [0.05, 0.1], last_s=0.55)
    bench.run().assert_sound()
    assert bench.walk() == ["FOLLOW", "SLOW", "STOP"]
    assert bench.when("SLOW") == pytest.approx(0.5 + HOME_S, abs=2 * DT)
    assert bench.guard.report()["stop"]["kind"] == "command_timeout"


def test_homing_at_home_ends_at_once(bench):
    go_home(bench, [0.0, 0.0])
    bench.at(0.1, bench.stop)
    bench.run().assert_sound()
    assert bench.walk() == ["FOLLOW", "SLOW", "IDLE", "STOP"]


def test_homing_beyond_the_limits_ends_at_them(bench):
    go_home(bench, [3.0, -3.0])
    bench.at(30.0, bench.stop)
    bench.run().assert_sound()
    assert bench.targets[-1] == pytest.approx([1.0, -0.5], abs=1e-5)


@pytest.mark.parametrize("home", [[np.nan, 0.0], [np.inf, 0.0]])
def test_a_home_that_is_no_place_is_refused(bench, home):
    go_home(bench, home)
    bench.at(0.2, bench.stop)
    bench.run().assert_sound()
    assert bench.stopped[0] == "non_finite"
    assert bench.robot.commands == []


def test_homing_against_an_obstacle_stops(bench):
    bench.robot.is_stuck = True
    go_home(bench, [0.6, 0.0])
    bench.run().assert_sound()
    assert bench.stopped[0] == "homing"
    assert np.abs(bench.targets).max() == pytest.approx(HOMING_ERROR, abs=0.02)


@pytest.mark.parametrize("way", ["release", "stop", "gone"])
def test_homing_can_be_broken_off(bundle, monkeypatch, way):
    bench = Bench(bundle, monkeypatch)
    go_home(bench, [0.6, 0.6])
    bench.at(0.5, {"release": bench.release, "stop": bench.stop, "gone": bench.policy.close}[way])
    if way == "release":
        bench.at(0.8, bench.stop)
    calls = []
    monkeypatch.setattr(bench, "select", bench.select)
    before = bench.guard._wait
    bench.guard._wait = lambda tick_s: (calls.append(bench.clock.now), before(tick_s))
    bench.run().assert_sound()
    assert bench.walk()[-1] == "STOP"
    assert bench.targets[-1].max() < 0.3
    if way == "release":
        # at rest and idle, it waits for its ticks and does not spin
        idle = [when for when in calls if bench.begun_s + 0.7 < when < bench.begun_s + 0.79]
        assert len(idle) < 3 * 0.09 / TICK_S


@pytest.mark.parametrize("way", ["key", "gone", "sigterm"])
def test_the_robot_comes_to_rest_when_the_policy_is_gone_or_a_person_stops_it(bundle, monkeypatch, way):
    read, write = os.pipe()
    key = StopKey("any")
    os.set_blocking(read, False)
    key._file = read
    try:
        bench = Bench(bundle, monkeypatch, key=key)
        end = bench.creep(30)
        act = {
            "key": lambda: os.write(write, b" "), "gone": bench.policy.close,
            "sigterm": lambda: key.press("the guard was asked to end"),
        }[way]  # fmt: skip
        bench.at(end + 0.3 * DT, act)
        bench.run().assert_sound()
    finally:
        os.close(read)
        os.close(write)
    assert bench.walk() == ["FOLLOW", "SLOW", "STOP"]
    assert bench.when("STOP") - end < 6 * DT
    stop = bench.guard.report()["stop"]
    assert stop["kind"] == ("policy_lost" if way == "gone" else "operator")


class DeadManKey(StopKey):
    """A dead-man key without a terminal."""

    def __init__(self) -> None:
        super().__init__("hold")
        self.is_down = False

    def is_ready(self) -> bool:
        return self.is_down


def test_a_robot_waits_for_the_dead_man_key(bundle, monkeypatch):
    key = DeadManKey()
    bench = Bench(bundle, monkeypatch, key=key)
    bench.at(0.0, bench.hand_over)
    bench.at(3.0, lambda: setattr(key, "is_down", True))
    for number in range(1, 31):
        bench.at(3.0 + number * DT, lambda number=number: bench.command([number * CREEP] * 2))
    bench.at(3.0 + 31 * DT, bench.release)
    bench.at(3.8, bench.stop)
    bench.run().assert_sound()
    assert bench.when("FOLLOW") == pytest.approx(3.0, abs=2 * TICK_S)
    assert len(bench.robot.commands) >= 30
    assert bench.guard.report()["stop"]["kind"] == "end"


def test_a_policy_that_waits_for_the_dead_man_key_can_stop(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, key=DeadManKey())
    bench.at(0.0, bench.hand_over)
    bench.at(1.0, bench.stop)
    bench.run()
    assert bench.clock.now - bench.begun_s < 1.1
    assert bench.robot.commands == []
    assert bench.guard.report()["stop"]["kind"] == "end"


def test_nobody_at_the_dead_man_key_is_no_robot_that_moves(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, key=DeadManKey())
    bench.at(0.0, bench.hand_over)
    bench.run()
    assert bench.clock.now - bench.begun_s == pytest.approx(KEY_S, abs=0.1)
    assert bench.robot.commands == []
    stop = bench.guard.report()["stop"]
    assert stop == {"kind": "operator", "message": f"nobody held the dead-man key within {KEY_S:g} s"}


def test_a_robot_that_does_not_yet_hold_the_last_command_is_waited_for(bench):
    # what it says of its target is from before: limits that begin there would begin with a step
    bench.creep(30)
    bench.at(31 * DT, bench.release)
    bench.at(31 * DT + 0.2, lambda: bench.robot.changes.update(sequence=1, target=np.zeros(2, np.float32)))
    bench.at(31 * DT + 0.3, bench.hand_over)
    bench.at(31 * DT + 0.5, bench.robot.changes.clear)
    bench.at(31 * DT + 0.8, bench.stop)
    bench.run()
    assert bench.when("FOLLOW") == pytest.approx(31 * DT + 0.5, abs=2 * TICK_S)
    assert bench.guard.report()["stop"]["kind"] == "end"


def test_a_robot_that_never_takes_the_last_command_is_not_handed_over(bench):
    bench.creep(30)
    bench.at(31 * DT, bench.release)
    bench.at(31 * DT + 0.2, lambda: bench.robot.changes.update(sequence=1))
    bench.at(31 * DT + 0.3, bench.hand_over)
    bench.run().assert_sound()
    assert bench.guard.report()["stop"]["kind"] == "start"
    assert bench.walk()[-1] == "STOP"


def test_a_command_that_waited_through_a_freeze_is_not_followed(bench):
    bench.creep(30)
    # it comes too soon after the last one and has to wait; meanwhile the guard is frozen
    bench.at(30 * DT + 0.2 * DT, lambda: bench.command([31 * CREEP] * 2))
    bench.at(30 * DT + 0.3 * DT, lambda: setattr(bench.clock, "now", bench.clock.now + 5 * DT))
    bench.at(31 * DT + 1.0, bench.stop)
    bench.run().assert_sound()
    assert bench.guard.counts["command_stale"] == 1
    assert bench.targets.max() == pytest.approx(30 * CREEP, abs=1e-6)


def test_the_first_reason_of_a_stop_is_the_one_that_is_told(bench):
    end = bench.creep(30)
    bench.at(end + 0.2 * DT, lambda: bench.say(Kind.STOP, kind="stale_front", message="front is old"))
    bench.at(end + 0.3 * DT, lambda: bench.command([np.nan, 0.0]))
    bench.at(end + 0.4 * DT, bench.policy.close)
    bench.run().assert_sound()
    assert bench.guard.report()["stop"] == {"kind": "stale_front", "message": "front is old"}


@pytest.mark.parametrize("says", ["target", "nothing"])
def test_hardware_that_is_not_armed_is_never_written_to(bundle, monkeypatch, says):
    bench = Bench(bundle, monkeypatch, is_hardware=True, arm=False)
    if says == "nothing":
        bench.robot.changes = {"target": np.full(2, np.nan, np.float32)}
    end = bench.creep(20)
    bench.at(0.05, lambda: bench.command([0.004, 0.0], number=500))
    bench.at(end, bench.release)
    bench.at(end + 0.2, bench.stop)
    bench.run()
    assert bench.robot.commands == []
    sents = bench.rows(Kind.SENT)
    assert len(sents) > 3
    shadow = 1 << packets.REASONS.index("shadow")
    assert all(int(row["reasons"]) & shadow for row in sents)
    assert bench.guard.report()["shadow"] is True
    assert bench.stopped[0] == "end"


def test_armed_hardware_is_written_to(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, is_hardware=True, arm=True)
    end = bench.creep(20)
    bench.at(end, bench.stop)
    bench.run().assert_sound()
    assert len(bench.robot.commands) >= 20
    assert bench.guard.report()["shadow"] is False


def test_joints_that_read_nonsense_stop_a_shadow_run_as_they_stop_any_other(bundle, monkeypatch):
    bench = Bench(bundle, monkeypatch, is_hardware=True, arm=False)
    end = bench.creep(20, step=0.001)
    bench.at(end / 2, lambda: bench.robot.changes.update(position=np.float32([np.nan, 0.0])))
    bench.run()
    assert bench.stopped[0] == "non_finite_joints"
    assert bench.robot.commands == []


@pytest.mark.parametrize("seed", range(12))
def test_limits_hold_between_stamps_whatever_is_asked_and_whenever(bundle, monkeypatch, seed):
    generator = np.random.default_rng(seed)
    bench = Bench(bundle, monkeypatch, position=generator.uniform(-0.3, 0.3, 2))
    size, jitter = generator.choice([0.002, 0.02, 0.3, 5.0]), generator.choice([0.0, 0.1, 0.4, 1.5])
    bench.at(0.0, bench.hand_over)
    moment, place = 0.0, bench.held.copy()
    for number in range(300):
        moment += DT * max(0.0, 1 + jitter * generator.standard_normal())
        if generator.random() < 0.02:
            moment += generator.choice([0.5, 1, 3, 20]) * DT
        place = np.clip(place + size * generator.standard_normal(2), -8, 8) if number else place
        bench.at(moment, functools.partial(bench.command, place.copy()))
    bench.at(moment + DT, bench.stop)
    bench.run().assert_sound()
    # with its own speed limits, not just some
    assert len(bench.robot.commands) > 100


@given(data=st.data())
@settings(max_examples=25)
def test_no_sequence_of_packets_breaks_a_limit_or_the_guard(tiny, data):
    acts = st.sampled_from(
        ["command"] * 12 + ["nan", "hand_over", "release", "home", "stop", "junk", "stale"]
    )
    script = data.draw(st.lists(st.tuples(acts, st.integers(0, 30), st.floats(-1, 1)), max_size=60))
    with pytest.MonkeyPatch.context() as monkeypatch:
        bench = Bench(tiny(), monkeypatch)
        does = {
            "command": lambda far: bench.command(bench.robot.held + far * 0.01),
            "nan": lambda far: bench.command([np.nan, far]),
            "hand_over": lambda _: bench.hand_over(),
            "release": lambda _: bench.release(),
            "home": lambda far: bench.say(Kind.HOME, token=next(bench.tokens), position=[far, -far]),
            "stop": lambda _: bench.stop(),
            "junk": lambda far: bench.policy.put(repr(far).encode()),
            "stale": lambda far: bench.command([far, far], moment_s=1.0),
        }
        moment = 0.0
        bench.at(0.0, bench.hand_over)
        for what, wait_ms, far in script:
            moment += wait_ms * 1e-3
            bench.at(moment, lambda what=what, far=far: does[what](far))
        bench.at(moment + 0.1, bench.stop)
        bench.run().assert_sound()
    assert bench.guard.report()["stop"] is not None


def test_a_guard_that_was_not_scheduled_says_so_and_keeps_the_limits(bench):
    end = bench.creep(40, step=0.002)
    bench.at(0.2, lambda: setattr(bench.clock, "now", bench.clock.now + 0.05))
    bench.at(end, bench.stop)
    bench.run().assert_sound()
    assert bench.guard.report()["longest_gap_s"] == pytest.approx(0.05, abs=0.005)


def test_the_account_of_a_run_of_many_troubles_fits_into_a_packet(bench):
    changes = [(47000.123456789 + i, Rung.FOLLOW, Rung.SLOW, "command_timeout") for i in range(5000)]
    bench.guard.ladder.changes += changes
    bench.guard.added_s += [1e-4] * 100
    bench.stop()
    bench.run()
    size = len(encode(Kind.REPORT, 1, json.dumps(bench.guard.report()).encode()))
    assert size <= MOST_BYTES
    guard_module._say_report(bench.guard)
    bench.listen()
    assert bench.rows(Kind.REPORT)


def test_the_account_is_told_before_a_busy_disk_takes_its_time(bench, monkeypatch, tmp_path):
    bench.stop()
    bench.run()
    bench.guard.folder, heard = tmp_path, []

    def slow_write(*_):
        bench.listen()
        heard.append(len(bench.rows(Kind.REPORT)))

    monkeypatch.setattr(guard_module, "write_atomic", slow_write)
    guard_module._say_report(bench.guard)
    bench.listen()
    assert heard == [len(bench.rows(Kind.REPORT))] == [1]


def test_hardware_is_not_armed_where_nothing_would_stop_it(bundle, monkeypatch):
    monkeypatch.setattr(arming, "check_trust", lambda *_, **__: None)
    config = SimpleNamespace(arm=True, robot=SimpleNamespace(name="steel"))
    robot = FakeRobot(FakeClock(), is_hardware=True, command_timeout_s=None)
    with pytest.raises(UserError, match=r"arm=true is refused: robot=steel .* robot\.command_timeout_s"):
        check_arm(robot, bundle, config)
    config.arm = False
    check_arm(robot, bundle, config)
    robot.command_timeout_s, config.arm = 0.1, True
    check_arm(robot, bundle, config)
    robot.stop_key = ""
    with pytest.raises(UserError, match=r"arm=true is refused: no stop key named ''.* Known: any, hold"):
        check_arm(robot, bundle, config)


def test_hardware_takes_no_bundle_that_nobody_vouches_for(bundle):
    config = SimpleNamespace(arm=False, robot=SimpleNamespace(name="steel"))
    with pytest.raises(UserError, match="not signed"):
        check_arm(FakeRobot(FakeClock(), is_hardware=True), bundle, config)
    check_arm(FakeRobot(FakeClock()), bundle, config)


class Process:
    """`main` in this thread, with a fake robot and a policy that has said all it will say before."""

    def __init__(self, bundle, monkeypatch) -> None:
        ours, theirs = pair()
        self.policy = Channel(ours, 2)
        self.robot = FakeRobot(guard_module.time.monotonic)
        self.given = theirs.detach()
        config = SimpleNamespace(
            bundle=str(bundle.path), arm=False, guard=GuardConfig(),
            sha256="", runtime=SimpleNamespace(cores=(), fifo=False),
            robot=SimpleNamespace(name="fake", joints=lambda **_: self.robot),
        )  # fmt: skip
        self.config = config
        monkeypatch.setattr(guard_module, "compose", lambda *_: config)

    def run(self):
        code = main([str(self.given), "-1"])
        return code, {packet.kind: packet.row for packet in self.policy.receive()}


@pytest.fixture
def process(bundle, monkeypatch):
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.getsignal(name) for name in names}
    yield Process(bundle, monkeypatch)
    for name, handler in before.items():
        signal.signal(name, handler)
    gc.unfreeze()
    gc.enable()


def test_the_process_says_that_it_is_ready_and_leaves_its_account(process, tmp_path):
    process.policy.send(Kind.LOG, folder=str(tmp_path))
    process.policy.send(Kind.STOP, kind="end", message="")
    code, said = process.run()
    assert code == 0
    assert said[Kind.READY]["shadow"] is False
    assert said[Kind.REPORT] == json.loads((tmp_path / ACCOUNT).read_text())
    assert process.robot.calls == ["connect", "stop"]


def test_a_run_folder_that_is_gone_does_not_keep_the_account_back(process, tmp_path):
    process.policy.send(Kind.LOG, folder=str(tmp_path / "gone"))
    process.policy.send(Kind.STOP, kind="end", message="")
    code, said = process.run()
    assert code == 0
    assert said[Kind.REPORT]["stop"]["kind"] == "end"


def test_a_process_whose_policy_is_gone_ends_by_itself(process):
    process.policy.close()
    assert process.run()[0] == 0
    assert process.robot.calls == ["connect", "stop"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RuntimeError("no answer"), "fault"), (UserError("it has six joints"), "mistake"), (OSError(), "fault")],
)
def test_a_robot_that_cannot_be_had_is_told_and_let_go(process, capsys, error, kind):
    def connect():
        raise error

    process.robot.connect = connect
    code, said = process.run()
    assert code == 1
    assert said[Kind.STOPPED] == {"kind": kind, "message": str(error) or repr(error)}
    assert process.robot.calls == ["stop"]


def test_a_fault_of_the_guard_itself_lets_go_of_the_robot_too(process, monkeypatch, capsys):
    monkeypatch.setattr(Guard, "run", lambda _: 1 / 0)
    code, said = process.run()
    assert code == 1
    assert said[Kind.STOPPED]["kind"] == "fault"
    assert process.robot.calls == ["connect", "stop"]
    assert Kind.REPORT in said


def test_a_driver_whose_stop_fails_does_not_keep_the_account_back(process, capsys):
    def stop():
        raise RuntimeError("stuck")

    process.robot.stop = stop
    process.policy.send(Kind.STOP, kind="end", message="")
    with pytest.raises(RuntimeError, match="stuck"):
        process.run()
    assert Kind.REPORT in {packet.kind for packet in process.policy.receive()}


def test_wrong_cores_are_the_users_mistake(process, capsys):
    process.config.runtime.cores = (0, 4096)
    code, said = process.run()
    assert code == 1
    assert said[Kind.STOPPED]["kind"] == "mistake"
    assert "runtime.cores=[0, 4096]: this machine has cores" in said[Kind.STOPPED]["message"]
    assert process.robot.calls == []


def test_a_terminal_that_is_closed_or_interrupted_does_not_end_the_process(process, monkeypatch):
    begin = process.robot.connect

    def connect():
        begin()
        for name in (signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), name)

    process.robot.connect = connect
    process.policy.send(Kind.STOP, kind="end", message="")
    assert process.run()[0] == 0


def test_who_asks_the_process_to_end_ends_it_by_the_ladder(process, monkeypatch):
    run = Guard.run

    def terminated(guard):
        os.kill(os.getpid(), signal.SIGTERM)
        run(guard)

    monkeypatch.setattr(Guard, "run", terminated)
    code, said = process.run()
    assert code == 0
    assert said[Kind.REPORT]["stop"] == {"kind": "operator", "message": "the guard was asked to end"}
