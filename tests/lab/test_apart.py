"""Worlds in a process of their own, with worlds that need no simulator."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from robokd.tasks.foreign.apart import Apart

from robokd import UserError
from robokd.env.foreign import Outcome
from robokd.specs import ActionSpec, ObsSpec, Term


class Counters:
    """Worlds that add their actions up; each ends at `limit` and begins again by itself."""

    begins_itself, control_dt, max_episode_length, device = True, 0.1, 9, "cpu"
    camera_specs = {}  # noqa: RUF012
    action_spec = ActionSpec(names=("add",), control_dt=0.1, mode="native", anchor="none")
    obs_specs = {  # noqa: RUF012
        "sum": ObsSpec(group="sum", role="proprio", terms=(Term(name="sum", elements=("x",), unit="1"),))
    }

    def __init__(self, num_envs, limit):
        if limit <= 0:
            raise UserError(f"limit must be > 0, got {limit}")
        print("what a simulator prints")
        self.num_envs, self.limit = num_envs, limit
        self.sums = torch.zeros(num_envs, 1)

    def begin(self, mask, seeds):
        self.sums = torch.where(mask[:, None], seeds[:, None].float(), self.sums)

    def step(self, actions):
        if bool((actions < -0.5).any()):
            raise ZeroDivisionError("a simulator's bug")
        self.sums += actions
        ended = self.sums[:, 0] >= self.limit
        final = {"sum": self.sums.clone()} if bool(ended.any()) else None
        self.sums[ended] = 0
        no = torch.zeros_like(ended)
        return Outcome(reward=actions[:, 0], terminated=ended, truncated=no, success=ended, final=final)

    def observe(self, groups):
        return {name: self.sums for name in groups}

    def half(self):
        return self.sums / 2

    def close(self):
        pass


@pytest.fixture(scope="module")
def worlds():
    made = Apart(partial(Counters, 3, 2.0))
    yield made
    made.close()


def test_worlds_apart_do_what_they_would_do_here(worlds, capfd):
    here = Counters(3, 2.0)
    for one in (worlds, here):
        one.begin(torch.tensor([True, True, False]), torch.tensor([1, 0, 1]))
    assert (worlds.num_envs, worlds.begins_itself, worlds.action_spec) == (3, True, here.action_spec)
    for step in range(4):
        actions = torch.tensor([[0.5], [0.1 * step], [1.0]])
        ours, theirs = worlds.step(actions), here.step(actions)
        assert torch.equal(ours.reward, theirs.reward)
        assert torch.equal(ours.terminated, theirs.terminated)
        assert (ours.final is None) == (theirs.final is None)
        if theirs.final is not None:
            assert torch.equal(ours.final["sum"], theirs.final["sum"])
        assert torch.equal(worlds.observe(["sum"])["sum"], here.observe(["sum"])["sum"])
        assert torch.equal(worlds.ask("half"), here.half())


def test_what_was_observed_is_not_written_again(worlds):
    before = worlds.observe(["sum"])["sum"]
    kept = before.clone()
    worlds.step(torch.ones(3, 1))
    worlds.observe(["sum"])
    assert torch.equal(before, kept)


def test_what_the_child_prints_stays_with_it_and_closing_ends_it(capfd):
    made = Apart(partial(Counters, 1, 2.0))
    made.close()
    assert not made._child.is_alive()
    assert capfd.readouterr() == ("", "")


def test_worlds_that_nobody_holds_end_by_themselves():
    made = Apart(partial(Counters, 1, 2.0))
    child, log = made._child, Path(made._log)
    del made
    assert not child.is_alive()
    assert not log.exists()


def test_a_mistake_of_the_user_comes_through_as_one():
    with pytest.raises(UserError, match="limit must be > 0, got -1"):
        Apart(partial(Counters, 1, -1.0))


def test_an_interrupt_does_not_reach_the_child(worlds):
    os.kill(worlds._child.pid, signal.SIGINT)
    time.sleep(0.2)
    assert worlds.step(torch.ones(3, 1)).reward.tolist() == [1, 1, 1]


def test_a_fault_in_the_child_is_told_with_its_last_words_and_then_its_end(worlds):
    with pytest.raises(
        RuntimeError, match=r"(?s)ZeroDivisionError: a simulator's bug.*what a simulator prints"
    ):
        worlds.step(-torch.ones(3, 1))
    with pytest.raises(RuntimeError, match=r"the worlds' process ended with code 0"):
        worlds.step(torch.ones(3, 1))


def test_a_child_that_was_killed_is_told_and_its_log_is_not_left():
    made = Apart(partial(Counters, 1, 2.0))
    os.kill(made._child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"the worlds' process ended with code -9"):
        made.step(torch.zeros(1, 1))
    for _ in range(2):
        made.close()
    assert not Path(made._log).exists()
