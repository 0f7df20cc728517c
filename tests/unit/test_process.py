"""A child is started, ended and asked what became of it; what it printed is kept, whenever one looks."""

import os
import signal
import subprocess
import sys
import time

import pytest
from robokd.sim2real import process as process_module
from robokd.sim2real.process import PRIORITY, Process, pin, prioritise, quantiles

from robokd import UserError


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a child that runs this code."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = []

    def run(code: str, words=(), descriptors=()) -> Process:
        (tmp_path / f"child{len(made)}.py").write_text(code)
        made.append(Process("guard", f"child{len(made)}", words, descriptors))
        return made[-1]

    yield run
    for one in made:
        one.end(0)


def until(claim, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_child_gets_its_words_and_descriptors(start):
    reads, writes = os.pipe()
    child = start(
        "import os, sys; os.write(int(sys.argv[1]), ' '.join(sys.argv[2:]).encode())",
        [str(writes), "a=1", "b"], [writes],
    )  # fmt: skip
    os.close(writes)
    with os.fdopen(reads) as pipe:
        assert pipe.read() == "a=1 b"
    child.end(5)
    assert not child.is_alive()


def test_a_child_has_no_input_and_one_thread(start):
    child = start("import os, sys; print(repr(sys.stdin.read()), os.environ['OMP_NUM_THREADS'])")
    child.end(5)
    assert child.printed() == "'' 1\n"


def test_one_that_ends_by_itself_is_waited_for(start):
    child = start("import time; print('x'); time.sleep(0.1); print('y')")
    child.end(5)
    assert child.printed() == "x\ny\n"
    assert child.fate() == "the guard exited with 0; the last it said: y"


def test_one_that_does_not_end_is_killed(start):
    child = start(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    until(child.printed)
    assert child.is_alive()
    child.end(0.05)
    assert not child.is_alive()
    assert child.fate() == "the guard was killed by SIGKILL; the last it said: 1"
    child.end(0.05)  # once more does no harm


def test_the_fate_of_a_failure_is_its_last_line(start):
    child = start("print('hello', flush=True); raise SystemExit('no robot at 10.0.0.1')")
    assert child.fate(5) == "the guard exited with 1; the last it said: no robot at 10.0.0.1"


def test_the_fate_of_one_that_said_nothing(start):
    assert start("import os; os._exit(3)").fate(5) == "the guard exited with 3; the last it said: nothing"


def test_the_fate_of_one_that_hangs(start):
    child = start("import time; time.sleep(60)")
    started = time.monotonic()
    assert child.fate(0.1) == f"the guard (process {child.pid}) does not answer in time"
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGSEGV, "SIGSEGV"), (signal.SIGRTMIN + 1, f"signal {signal.SIGRTMIN + 1}")]
)
def test_the_fate_names_every_signal(start, number, name):
    child = start("import time; print(1, flush=True); time.sleep(60)")
    until(child.printed)
    os.kill(child.pid, number)
    assert f"was killed by {name};" in child.fate(5)


def test_looking_at_what_is_being_printed_loses_nothing(start):
    child = start("for i in range(30000): print(i, flush=True)")
    while child.is_alive():
        seen = child.printed()
        assert seen.startswith("0\n"[: len(seen)])
    assert child.printed().split() == [str(i) for i in range(30000)]


def test_bytes_that_are_no_text_are_shown_all_the_same(start):
    child = start("import sys; sys.stdout.buffer.write(b'a\\xff')")
    child.end(5)
    assert child.printed() == "a\ufffd"


def test_only_what_was_printed_is_kept(start, tmp_path):
    silent, loud = start("pass"), start("import sys; print('é'); print('error', file=sys.stderr)")
    for child, path in ((silent, tmp_path / "silent"), (loud, tmp_path / "loud")):
        child.end(5)
        child.keep_output(path)
    assert not (tmp_path / "silent").exists()
    assert sorted((tmp_path / "loud").read_text(encoding="utf-8").split()) == ["error", "é"]


def test_no_process_of_ours_is_pinned_where_nothing_is_said():
    before = os.sched_getaffinity(0)
    pin((), 1)
    assert os.sched_getaffinity(0) == before


def test_a_process_is_pinned_to_the_core_of_its_place():
    core = max(os.sched_getaffinity(0))
    code = (
        "from robokd.sim2real.process import pin; import os\n"
        f"pin((9999, {core}), 1); print(os.sched_getaffinity(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({core})


def test_a_core_that_there_is_not_is_a_mistake(monkeypatch):
    monkeypatch.setattr(process_module.os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(UserError, match=r"runtime.cores=\[0, 1023\]: this machine has cores 0"):
        pin((0, 1023), 1)


def test_real_time_priority_that_is_not_allowed_is_a_mistake(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(process_module.os, "sched_setscheduler", refuse)
    with pytest.raises(UserError, match=r"runtime\.fifo=true needs the right to real-time priority: start"):
        prioritise([0], PRIORITY)


def test_quantiles_of_measured_times():
    # 1 to 1001: the p-quantile is 1 + 1000 p
    found = quantiles([float(i) for i in range(1001, 0, -1)])
    assert found == pytest.approx({"p50": 501, "p99": 991, "p999": 1000, "max": 1001})
    assert quantiles([]) == {"p50": None, "p99": None, "p999": None, "max": None}
