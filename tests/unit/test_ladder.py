"""The ladder leads to STOP from everywhere, in bounded time, and back only as long as nothing was stopped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.ladder import MOVING, OWNED, Ladder, Patience, Rung

DT = 0.04
PATIENCE = Patience(late_s=0.08, rest_s=1.0)
SOON, LONG = 0.001, 100.0


@pytest.fixture
def ladder():
    return Ladder(PATIENCE)


def at(rung: Rung) -> Ladder:
    """A ladder that has come to a rung by itself, at time 0; STOP by the operator."""
    ladder = Ladder(PATIENCE)
    if rung != Rung.IDLE:
        ladder.hand_over(0.0)
    if rung in (Rung.HOLD, Rung.SLOW, Rung.REST):
        due = 0.0 if rung == Rung.HOLD else -1.0
        ladder.climb(SOON, due, is_at_rest=rung == Rung.REST)
    if rung == Rung.STOP:
        ladder.stop(0.0, "operator", "a key")
        ladder.climb(0.0, 1.0, is_at_rest=True)
    assert ladder.rung == rung
    return ladder


def walk(ladder: Ladder) -> list[tuple[Rung, Rung]]:
    return [(old, new) for _, old, new, _ in ladder.changes]


def test_it_begins_idle_and_stays_there(ladder):
    assert ladder.climb(LONG, 0.0, is_at_rest=True) == Rung.IDLE
    assert not ladder.is_stopping
    assert ladder.why == ("", "")


def test_commands_on_time_are_followed(ladder):
    ladder.hand_over(0.0)
    for step in range(50):
        now = step * DT
        assert ladder.command(now)
        assert ladder.climb(now, now + DT, is_at_rest=False) == Rung.FOLLOW
        assert ladder.climb(now + DT, now + DT, is_at_rest=False) == Rung.FOLLOW  # due is not late
    assert walk(ladder) == [(Rung.IDLE, Rung.FOLLOW)]


def test_every_step_of_the_way_down_has_its_time(ladder):
    ladder.hand_over(0.0)
    due = 0.1
    assert ladder.climb(0.1, due, is_at_rest=False) == Rung.FOLLOW
    assert ladder.climb(0.1 + SOON, due, is_at_rest=False) == Rung.HOLD
    assert ladder.climb(0.18, due, is_at_rest=True) == Rung.HOLD  # nothing is sent in HOLD, at rest or not
    assert ladder.climb(0.18 + SOON, due, is_at_rest=False) == Rung.SLOW
    assert ladder.climb(5.0, due, is_at_rest=False) == Rung.SLOW  # as long as it takes
    assert ladder.climb(5.1, due, is_at_rest=True) == Rung.REST
    assert ladder.climb(6.1, due, is_at_rest=True) == Rung.REST
    assert not ladder.is_stopping
    assert ladder.climb(6.1 + SOON, due, is_at_rest=True) == Rung.STOP
    assert ladder.why == ("command_timeout", "no command for 1 s after the robot had come to rest")
    assert [why for *_, why in ladder.changes] == ["hand-over", "late", "late", "at rest", "command_timeout"]
    assert [moment for moment, *_ in ladder.changes] == [0.0, 0.1 + SOON, 0.18 + SOON, 5.1, 6.1 + SOON]


def test_a_guard_that_wakes_late_takes_several_steps_at_once(ladder):
    ladder.hand_over(0.0)
    assert ladder.climb(LONG, 0.1, is_at_rest=True) == Rung.REST
    assert (
        ladder.climb(LONG + PATIENCE.rest_s, 0.1, is_at_rest=True) == Rung.REST
    )  # from when it was seen at rest


@pytest.mark.parametrize("rung", sorted(OWNED))
def test_a_command_leads_back_from_every_rung_of_the_policy(rung):
    ladder = at(rung)
    assert ladder.command(0.5)
    assert ladder.rung == Rung.FOLLOW


@pytest.mark.parametrize("rung", [Rung.IDLE, Rung.STOP])
def test_a_command_without_the_robot_is_not_followed(rung):
    ladder = at(rung)
    assert not ladder.command(0.5)
    assert ladder.rung == rung


@pytest.mark.parametrize("rung", sorted(MOVING))
def test_a_release_brings_a_moving_robot_to_rest_first(rung):
    ladder = at(rung)
    ladder.release(1.0)
    assert ladder.rung == Rung.SLOW
    assert not ladder.command(1.1)  # what was under way
    assert ladder.climb(1.2, 9.0, is_at_rest=False) == Rung.SLOW
    assert ladder.climb(1.3, 9.0, is_at_rest=True) == Rung.IDLE
    assert ladder.climb(LONG, 9.0, is_at_rest=True) == Rung.IDLE
    assert not ladder.is_stopping


@pytest.mark.parametrize("rung", [Rung.IDLE, Rung.REST])
def test_a_release_at_rest_is_idle_at_once(rung):
    ladder = at(rung)
    ladder.release(1.0)
    assert ladder.rung == Rung.IDLE


@pytest.mark.parametrize("rung", [Rung.IDLE, Rung.REST, Rung.SLOW])
def test_after_a_release_only_a_hand_over_gives_the_robot_back(rung):
    ladder = at(rung)
    ladder.release(1.0)
    ladder.climb(1.0, 9.0, is_at_rest=True)
    assert not ladder.command(1.1)
    ladder.hand_over(1.2)
    assert ladder.command(1.3)


@pytest.mark.parametrize("rung", sorted(MOVING))
def test_a_moving_robot_is_brought_to_rest_before_it_is_stopped(rung):
    ladder = at(rung)
    ladder.stop(1.0, "stale_front", "old")
    assert ladder.rung == Rung.SLOW
    assert ladder.is_stopping
    assert not ladder.command(1.1)
    ladder.release(1.1)
    assert ladder.climb(1.2, 9.0, is_at_rest=False) == Rung.SLOW
    assert ladder.climb(1.3, 9.0, is_at_rest=True) == Rung.STOP
    assert ladder.why == ("stale_front", "old")


@pytest.mark.parametrize("rung", [Rung.IDLE, Rung.REST, Rung.STOP])
def test_a_robot_at_rest_is_stopped_at_once(rung):
    ladder = at(rung)
    ladder.stop(1.0, "operator", "a key")
    assert ladder.rung == Rung.STOP


def test_the_first_reason_is_kept():
    ladder = at(Rung.FOLLOW)
    ladder.stop(1.0, "first", "a")
    ladder.stop(1.1, "second", "b")
    assert ladder.why == ("first", "a")


def test_slowing_for_a_release_ends_in_stop_if_it_is_stopped_meanwhile():
    ladder = at(Rung.FOLLOW)
    ladder.release(1.0)
    ladder.stop(1.1, "operator", "a key")
    assert ladder.climb(1.2, 9.0, is_at_rest=True) == Rung.STOP


@pytest.mark.parametrize("rung", sorted(Rung))
def test_there_is_no_hand_over_after_a_stop(rung):
    ladder = at(rung)
    ladder.stop(1.0, "operator", "a key")
    before = ladder.rung
    ladder.hand_over(1.1)
    assert ladder.rung == before
    assert not ladder.command(1.2)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["hand_over", "command", "release", "stop", "climb"]),
        st.floats(0, 2), st.floats(-1, 1), st.booleans(),
    ),
    max_size=60,
)  # fmt: skip
ALLOWED = {
    Rung.IDLE: {Rung.FOLLOW, Rung.STOP},
    Rung.FOLLOW: {Rung.HOLD, Rung.SLOW},
    Rung.HOLD: {Rung.FOLLOW, Rung.SLOW},
    Rung.SLOW: {Rung.FOLLOW, Rung.REST, Rung.IDLE, Rung.STOP},
    Rung.REST: {Rung.FOLLOW, Rung.IDLE, Rung.STOP},
    Rung.STOP: set(),
}


@given(EVENTS)
@settings(max_examples=150)
def test_whatever_happens_it_goes_along_its_edges_and_never_back_from_a_stop(events):
    ladder, now = Ladder(PATIENCE), 0.0
    stopped_at = None
    for name, step, due, is_at_rest in events:
        now += step
        if name == "stop":
            ladder.stop(now, "operator", "a key")
        elif name == "climb":
            ladder.climb(now, now + due, is_at_rest=is_at_rest)
        else:
            getattr(ladder, name)(now)
        if ladder.is_stopping and stopped_at is None:
            stopped_at = len(ladder.changes)
        assert not ladder.is_stopping or ladder.rung in (Rung.SLOW, Rung.STOP)
    assert all(new in ALLOWED[old] for old, new in walk(ladder))
    if stopped_at is not None:
        assert {new for _, _, new, _ in ladder.changes[stopped_at:]} <= {Rung.STOP}
    times = [moment for moment, *_ in ladder.changes]
    assert times == sorted(times)


@given(EVENTS)
@settings(max_examples=60)
def test_from_anywhere_silence_leads_to_stop_or_idle(events):
    ladder, now = Ladder(PATIENCE), 0.0
    for name, step, due, is_at_rest in events:
        now += step
        if name == "climb":
            ladder.climb(now, now + due, is_at_rest=is_at_rest)
        elif name != "stop":
            getattr(ladder, name)(now)
    for more in (10.0, 20.0, 30.0):
        ladder.climb(now + more, now, is_at_rest=True)
    assert ladder.rung in (Rung.IDLE, Rung.STOP)


def silence(generator: np.random.Generator) -> tuple[float, float, float]:
    """Follow for a while, then be silent; return s from the last command to STOP, what is promised, tick."""
    patience = Patience(late_s=generator.uniform(0.01, 0.2), rest_s=generator.uniform(0.01, 1.0))
    period, slowing, tick = (
        generator.uniform(0.002, 0.1),
        generator.uniform(0, 0.5),
        generator.uniform(2e-3, 8e-3),
    )
    ladder, now, due, rest = Ladder(patience), 0.0, 0.0, None
    ladder.hand_over(now)
    last, count = 0.0, generator.integers(1, 20)
    while ladder.rung != Rung.STOP:
        if count and now >= last + period * generator.uniform(0.9, 1.6):
            assert ladder.command(now)
            last, due, rest, count = now, now + period, None, count - 1
        now += tick * generator.uniform(0.2, 1)
        if ladder.rung == Rung.SLOW and rest is None:
            rest = now + slowing
        if (
            ladder.climb(now, max(due, last + period), is_at_rest=rest is not None and now >= rest)
            == Rung.FOLLOW
        ):
            rest = None
    return now - last, patience.longest_s(period, slowing), tick


def test_stop_comes_no_later_than_promised_but_for_the_guards_own_ticks():
    generator = np.random.default_rng(0)
    for _ in range(100):
        took, promised, tick = silence(generator)
        # the guard must wake to see what the time is: to slow, at rest, to stop, and once to begin
        assert promised - tick <= took <= promised + 4 * tick
