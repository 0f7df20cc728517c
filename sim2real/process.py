"""Processes of a deployment: how one is started, ended and asked what became of it; and its priority."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robokd import UserError

# of SCHED_FIFO, as ros2_control has it; the guard is not to wait for a policy that computes
GUARD_PRIORITY, PRIORITY = 50, 49


class Process:
    """A Python module run as a child; what it prints is kept."""

    def __init__(self, name: str, module: str, words: Sequence[str], descriptors: Sequence[int]) -> None:
        """Start it; the descriptors of these numbers are its own too."""
        self.name = name
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process lives
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words], pass_fds=tuple(descriptors), stdin=subprocess.DEVNULL,
            stdout=self._output, stderr=self._output, env={**os.environ, **one_thread},
        )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def end(self, timeout_s: float) -> None:
        """Wait for it to end by itself, and kill it if it does not."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def printed(self) -> str:
        """Return all it has printed."""
        file = self._output.fileno()  # not `seek`: the child writes at the place that both share
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")

    def keep_output(self, path: Path) -> None:
        """Write what it printed, if it did."""
        if text := self.printed():
            path.write_text(text, encoding="utf-8")

    def fate(self, patience_s: float = 1.0) -> str:
        """Return what became of it, as half a sentence."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        code = self._process.returncode
        if code is None:
            return f"the {self.name} (process {self.pid}) does not answer in time"
        names = {one.value: one.name for one in signal.Signals}
        how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"exited with {code}"
        lines = self.printed().strip().splitlines() or ["nothing"]
        return f"the {self.name} {how}; the last it said: {lines[-1]}"


def pin(cores: Sequence[int], place: int) -> None:
    """Pin this process to its core of `cores`, if there are any."""
    if cores:
        try:
            os.sched_setaffinity(0, {cores[place]})
        except OSError:
            have = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise UserError(f"runtime.cores={list(cores)}: this machine has cores {have}") from None


def prioritise(pids: Sequence[int], priority: int) -> None:
    """Give processes real-time priority, SCHED_FIFO; 0 is this one."""
    for pid in pids:
        try:
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))
        except ProcessLookupError:
            pass  # who waits for it will say what became of it
        except PermissionError:
            cure = "start it with CAP_SYS_NICE (or set rtprio in /etc/security/limits.conf)"
            raise UserError(f"runtime.fifo=true needs the right to real-time priority: {cure}") from None


def print_error() -> None:
    """Print a traceback, where there is room for it: a full disk is no reason to let the robot go."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def quantiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return the median, the tails and the largest of measured times."""
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: float(np.quantile(seconds, share)) if seconds else None for name, share in shares.items()}
