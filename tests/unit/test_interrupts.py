"""The first interrupt ends a run, and none disturbs what then brings the robot to rest.

Raised in this very thread: a signal to the process may come to another thread of it, and later.
"""

import signal
import time

import pytest
from robokd.sim2real.interrupts import INTERRUPTS, Terminated, deafen, one_interrupt


@pytest.fixture(autouse=True)
def hangups():
    """Let SIGHUP be heard, also where these tests are run by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGHUP, Terminated)],
)
def test_the_first_interrupt_raises_and_none_disturbs_the_cleaning_up(number, error):
    before = [signal.getsignal(name) for name in INTERRUPTS]
    cleaned = []

    def work():
        with one_interrupt():
            try:
                signal.raise_signal(number)
                time.sleep(1)
            finally:
                for name in INTERRUPTS:
                    signal.raise_signal(name)  # again, out of impatience
                time.sleep(0)
                cleaned.append(True)

    with pytest.raises(error) as caught:
        work()
    assert type(caught.value) is error
    assert cleaned
    assert [signal.getsignal(name) for name in INTERRUPTS] == before


def test_who_is_deaf_cleans_up_and_hears_again_after_the_block():
    before = [signal.getsignal(name) for name in INTERRUPTS]
    with one_interrupt():
        deafen()
        for name in INTERRUPTS:
            signal.raise_signal(name)
        time.sleep(0)
    assert [signal.getsignal(name) for name in INTERRUPTS] == before


def test_nohup_stays_what_it_is():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with one_interrupt():
            signal.raise_signal(signal.SIGHUP)
            time.sleep(0)
    finally:
        signal.signal(signal.SIGHUP, before)
