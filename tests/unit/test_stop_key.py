"""Any key stops the robot, or a key that is let go; a robot that nobody can stop does not move."""

import os
import signal
import termios
import time

import pytest
from robokd.sim2real import stop_key
from robokd.sim2real.stop_key import REPEAT_S, StopKey, terminal_kept

from robokd import UserError


class Terminal:
    """A terminal and the keys of who sits before it."""

    def __init__(self) -> None:
        self.keys, self.end = os.openpty()
        self.name = os.ttyname(self.end)

    def type(self, keys: bytes) -> None:
        os.write(self.keys, keys)

    def hang_up(self) -> None:
        os.close(self.keys)
        self.keys = -1

    def settings(self) -> list:
        return termios.tcgetattr(self.end)


@pytest.fixture
def terminal():
    made = Terminal()
    yield made
    if made.keys >= 0:
        made.hang_up()
    os.close(made.end)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stop_key.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(stop_key.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


CONTROL = {"ctrl_d": b"\x04", "ctrl_q": b"\x11", "ctrl_s": b"\x13", "ctrl_v": b"\x16", "ctrl_z": b"\x1a",
           "ctrl_backslash": b"\x1c", "ctrl_o": b"\x0f"}  # fmt: skip


@pytest.mark.parametrize(
    "key", [b" ", b"q", b"\r", b"\n", b"\x1b", b"\x1b[A", b"\0", "é".encode(), *CONTROL.values()]
)
def test_any_key_stops(terminal, key):
    with StopKey("any", terminal.name) as stop:
        assert stop.pressed() == ""
        terminal.type(key)
        assert stop.pressed() == "a key was pressed"


def test_a_key_wakes_who_waits_for_files(terminal):
    import select

    with StopKey("any", terminal.name) as stop:
        assert select.select(stop.files(), [], [], 0)[0] == []
        terminal.type(b"x")
        assert select.select(stop.files(), [], [], 1)[0] == stop.files()


def test_looking_never_waits(terminal):
    with StopKey("any", terminal.name) as stop:
        started = time.monotonic()
        for _ in range(1000):
            stop.pressed()
        assert time.monotonic() - started < 0.5


def test_keys_from_before_do_not_stop(terminal):
    terminal.type(b"robokd deploy\n")
    time.sleep(0.05)  # until they are through the line
    with StopKey("any", terminal.name) as stop:
        assert stop.pressed() == ""


@pytest.mark.parametrize("mode", ["any", "hold"])
def test_the_terminal_is_given_back_as_it_was(terminal, mode):
    before = terminal.settings()
    with StopKey(mode, terminal.name) as stop:
        assert terminal.settings() != before
        files = stop.files()
    assert terminal.settings() == before
    assert stop.files() == []
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(files[0])


def test_the_terminal_is_given_back_after_an_error_too(terminal):
    before = terminal.settings()
    with pytest.raises(RuntimeError), StopKey("any", terminal.name):
        raise RuntimeError
    assert terminal.settings() == before


def test_keys_for_the_robot_are_not_left_to_the_shell(terminal):
    with StopKey("any", terminal.name):
        terminal.type(b"rm -rf x\n")
    os.set_blocking(terminal.end, False)
    with pytest.raises(BlockingIOError):
        os.read(terminal.end, 64)


def test_ctrl_c_still_interrupts_who_runs_in_the_terminal(terminal):
    with StopKey("any", terminal.name):
        mode = terminal.settings()
        assert mode[3] & termios.ISIG
        assert mode[6][termios.VINTR] == b"\x03"


def test_without_a_terminal_nothing_is_armed(tmp_path):
    plain = tmp_path / "file"
    plain.touch()
    for path, why in ((tmp_path / "none", "No such file"), (plain, "Inappropriate ioctl")):
        opened = len(os.listdir("/proc/self/fd"))
        with pytest.raises(UserError, match=f"arm=true needs a terminal .*{why}.*; start robokd in one"):
            StopKey("any", str(path)).__enter__()
        assert len(os.listdir("/proc/self/fd")) == opened


def test_a_process_without_a_terminal_of_its_own_is_told():
    # a session of its own has no controlling terminal
    child = os.fork()
    if child == 0:
        os.setsid()
        try:
            StopKey("any").__enter__()
        except UserError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_where_no_key_is_wanted_no_terminal_is_opened():
    with StopKey("", "/does/not/exist") as stop:
        assert stop.files() == []
        assert stop.pressed() == ""
        assert stop.is_ready()
        stop.press("the guard was asked to end")
        assert stop.pressed() == "the guard was asked to end"


@pytest.mark.parametrize("mode", ["", "any", "hold"])
def test_a_signal_stops_as_a_key_would(terminal, mode):
    with StopKey(mode, terminal.name) as stop:
        before = signal.signal(signal.SIGUSR1, lambda *_: stop.press("asked to end"))
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.pressed() == "asked to end"
            assert stop.pressed() == "asked to end"
        finally:
            signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("mode", ["any", "hold"])
def test_a_terminal_that_is_gone_stops(terminal, clock, mode):
    with StopKey(mode, terminal.name) as stop:
        terminal.type(b"x")
        stop.pressed()
        terminal.hang_up()
        for _ in range(100):  # the hang-up may be told a moment later
            if said := stop.pressed():
                break
            os.sched_yield()
        assert said == "the terminal of the stop key is gone"


def test_a_held_key_lets_the_robot_move_until_it_is_let_go(terminal, clock):
    with StopKey("hold", terminal.name) as stop:
        assert stop.pressed() == ""  # nobody has begun
        for _ in range(50):
            terminal.type(b" ")
            assert stop.pressed() == ""
            clock[0] += 0.033
        clock[0] += REPEAT_S - 0.033 - 1e-6
        assert stop.pressed() == ""
        clock[0] += 2e-6
        assert stop.pressed() == "the dead-man key was let go"


def test_a_key_held_again_is_held(terminal, clock):
    with StopKey("hold", terminal.name) as stop:
        terminal.type(b" ")
        assert stop.is_ready()
        clock[0] += 2 * REPEAT_S
        assert stop.pressed() == "the dead-man key was let go"
        terminal.type(b" ")
        assert stop.pressed() == ""


def test_a_key_that_somebody_has_asked_for_is_known_to_who_asks_next(terminal):
    with StopKey("any", terminal.name) as stop:
        terminal.type(b"x")
        assert not stop.is_ready()
        assert stop.pressed() == "a key was pressed"
        assert not stop.is_ready()


def test_a_dead_man_key_from_before_the_robot_was_asked_for_is_none(terminal, clock):
    with StopKey("hold", terminal.name) as stop:
        terminal.type(b" ")
        stop.begin()
        assert not stop.is_ready()
        terminal.type(b" ")
        assert stop.is_ready()


def test_a_terminal_is_given_back_also_where_the_guard_was_killed(terminal):
    before = terminal.settings()
    with terminal_kept(terminal.name):
        StopKey("any", terminal.name).__enter__()
        assert terminal.settings() != before
    assert terminal.settings() == before
    with terminal_kept("/does/not/exist"):
        pass


def test_the_robot_may_move_while_a_key_is_down(terminal, clock):
    with StopKey("hold", terminal.name) as stop:
        assert not stop.is_ready()
        terminal.type(b" ")
        assert stop.is_ready()
        clock[0] += 5.0
        assert not stop.is_ready()


@pytest.mark.parametrize("mode", ["", "any", "hold"])
def test_the_robot_may_not_move_when_the_guard_is_asked_to_end(terminal, clock, mode):
    with StopKey(mode, terminal.name) as stop:
        terminal.type(b" " if mode == "hold" else b"")
        stop.press("the guard was asked to end")
        assert not stop.is_ready()


def test_any_key_need_not_be_held(terminal):
    with StopKey("any", terminal.name) as stop:
        assert stop.is_ready()
