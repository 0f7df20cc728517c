"""The policy's end of the line to the guard: what it says, what it waits for, and how it lets go."""

import json
import threading
import time

import numpy as np
import pytest
from robokd.sim2real import guard_link
from robokd.sim2real.guard_link import ENDING_S, REMEMBERED, GuardLink
from robokd.sim2real.ladder import Rung
from robokd.sim2real.packets import REASONS, Channel, Kind, pair
from robokd.sim2real.safety import SafetyStop

from robokd import UserError


class Child:
    """A guard's process that is none."""

    def __init__(self, name, module, words, descriptors) -> None:
        self.said, self.ended, self.is_there = (name, module, words, descriptors), [], True

    def is_alive(self):
        return self.is_there

    def end(self, timeout_s):
        self.ended.append(timeout_s)

    def fate(self):
        return "the guard was killed by SIGKILL"


@pytest.fixture
def ends(monkeypatch):
    """A link, and the guard's end of its line."""
    monkeypatch.setattr(guard_link, "Process", Child)
    ours, theirs = pair()
    kept = theirs.dup()
    link = GuardLink(["bundle=b"], 2, None, lambda: (ours, theirs))
    guard = Channel(kept, 2)
    yield link, guard
    link.channel.close()
    guard.close()


def state(guard, mode=Rung.FOLLOW, token=1, **values):
    joints = {name: np.zeros(2) for name in ("position", "velocity", "anchor", "rate")}
    guard.send(
        Kind.STATE, **{"token": token, "mode": mode, "captured_s": 1.0, "origin": 0, **joints, **values}
    )


def test_the_guard_is_started_with_its_end_of_the_line(ends):
    name, module, words, descriptors = ends[0].process.said
    assert (name, module) == ("guard", "robokd.sim2real.guard")
    assert words == [str(descriptors[0]), "-1", "bundle=b"]


def test_a_command_has_a_number_and_arrives_as_it_is(ends):
    link, guard = ends
    assert [link.command(np.float32([0.1, -0.2])), link.command(np.zeros(2))] == [1, 2]
    first, second = guard.receive()
    assert first.row["target"].tolist() == np.float32([0.1, -0.2]).tolist()
    assert (first.row["number"], second.row["number"]) == (1, 2)
    assert first.sent_s <= second.sent_s <= time.monotonic()


def test_a_hand_over_waits_for_the_guard_to_obey_this_very_one(ends):
    link, guard = ends
    state(guard, Rung.FOLLOW, token=0)  # of before
    threading.Timer(0.05, state, (guard, Rung.IDLE, 1)).start()
    threading.Timer(0.10, state, (guard, Rung.FOLLOW, 1), {"anchor": [0.3, 0.4]}).start()
    assert link.hand_over().anchor == pytest.approx([0.3, 0.4])
    assert [packet.kind for packet in guard.receive()] == [Kind.HANDOVER]


def test_a_release_waits_for_the_robot_to_rest(ends):
    link, guard = ends
    for delay, mode in ((0.02, Rung.SLOW), (0.06, Rung.IDLE)):
        threading.Timer(delay, state, (guard, mode, 1)).start()
    begun = time.monotonic()
    link.release()
    assert time.monotonic() - begun >= 0.05


def test_a_guard_that_does_not_obey_in_time_is_lost(ends):
    with pytest.raises(SafetyStop, match=r"the guard does not bring the robot to rest within 0\.1 s") as stop:
        ends[0].release(timeout_s=0.1)
    assert stop.value.kind == "guard_lost"


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("mistake", UserError, "^no such robot$"),
        ("fault", RuntimeError, "^no such robot$"),
        ("operator", SafetyStop, "^operator: no such robot$"),
    ],
)
def test_what_the_guard_says_of_a_stop_is_raised_as_what_it_is(ends, kind, error, said):
    link, guard = ends
    guard.send(Kind.STOPPED, kind=kind, message="no such robot")
    guard.send(Kind.STOPPED, kind="later", message="another")
    guard.close()
    for _ in range(2):
        with pytest.raises(error, match=said):
            link.listen()


def test_a_guard_that_is_gone_is_lost_and_its_fate_told(ends):
    link, guard = ends
    state(guard)
    guard.close()
    with pytest.raises(SafetyStop, match="guard_lost: the guard was killed by SIGKILL"):
        link.listen()
    assert len(link.states) == 1  # what it said before is kept


def test_a_stop_that_found_no_room_in_the_line_is_read_from_the_guards_account(ends, tmp_path):
    link, guard = ends
    link.log_into(tmp_path)
    account = {"stop": {"kind": "operator", "message": "a key was pressed"}, "commands": 7}
    (tmp_path / "guard.json").write_text(json.dumps(account))
    guard.close()
    with pytest.raises(SafetyStop, match="operator: a key was pressed"):
        link.listen()
    link.stop()
    assert link.report == account


def test_what_was_sent_is_kept_with_its_reasons(ends):
    link, guard = ends
    both = {"commanded": [0.5, 0.0], "sent": [0.1, 0.0]}
    mask = 1 << REASONS.index("velocity") | 1 << REASONS.index("jerk")
    guard.send(Kind.SENT, origin=3, sequence=4, stamp_s=9.0, reasons=mask, rung=Rung.SLOW, **both)
    link.listen()
    (sent,) = link.sents
    assert sent.reasons == ("velocity", "jerk")
    assert (sent.origin, sent.sequence, sent.stamp_s, sent.rung) == (3, 4, 9.0, 3)
    assert sent.sent == pytest.approx([0.1, 0.0])


def test_about_a_second_of_states_is_remembered(ends):
    link, guard = ends
    for number in range(REMEMBERED + 50):
        state(guard, captured_s=float(number))
        link.listen()
    assert [link.states[0].captured_s, link.states[-1].captured_s] == [50.0, REMEMBERED + 49.0]


def test_a_stop_waits_for_the_account_and_lets_the_process_end(ends):
    link, guard = ends
    threading.Timer(0.05, lambda: guard.send(Kind.REPORT, commands=3)).start()
    link.stop("stale_front", "front is old")
    assert link.report == {"commands": 3}
    assert guard.receive()[0].row == {"kind": "stale_front", "message": "front is old"}
    link.stop()  # twice is once
    assert link.process.ended == [ENDING_S, ENDING_S]
    assert not guard.receive()


def test_a_guard_that_says_nothing_any_more_is_killed(ends, monkeypatch):
    monkeypatch.setattr(guard_link, "ANSWER_S", 0.1)
    ends[0].stop()
    assert ends[0].process.ended == [0.0]


def test_a_guard_that_is_at_work_is_not_killed_by_an_impatient_user(ends, monkeypatch):
    # Ctrl-C while the robot is being brought to rest: the guard needs nobody to go on with that
    link, guard = ends
    state(guard, Rung.SLOW)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(guard_link.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        link.stop()
    assert link.process.ended == [ENDING_S]
    guard.receive()
    assert not guard.is_open  # so that it knows


def test_a_guard_that_is_dead_is_not_waited_for(ends):
    link, _ = ends
    link.process.is_there = False
    begun = time.monotonic()
    link.stop()
    assert time.monotonic() - begun < 0.5
