"""A deployment whose line between policy and guard goes through a tap: what `robokd faults` breaks.

    python -m robokd.sim2real.victim <plan.json> <notes.jsonl> key=value …

is that deployment, and `Victim` is who starts it, hits it and reads what it has left.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcap.opcode import Opcode
from mcap.writer import MCAP0_MAGIC
from robokd.sim2real.deploy import deploy
from robokd.sim2real.log_format import CHUNK_BYTES
from robokd.sim2real.log_reader import LOG, read_log
from robokd.sim2real.packets import pair
from robokd.sim2real.process import Process
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.tap import Breakage

from robokd import UserError
from robokd.config import compose, dump
from robokd.export.bundle import Bundle
from robokd.files import read_json, to_json

if TYPE_CHECKING:
    from robokd.config import FaultsConfig

GUARD, EYES, TAP = "robokd.sim2real.guard", "robokd.sim2real.eyes", "robokd.sim2real.tap"
GUARD_S = 10.0  # for the guard to leave its account
BEGIN_S, END_S = 180.0, 60.0  # for a deployment to begin, and to end after a fault
FULL_AFTER_BYTES = 2000  # that a full disk still takes: enough for a log to end, too few for a chunk


class Victim:
    """A deployment in a process of its own, which is to be broken."""

    def __init__(
        self, config: FaultsConfig, bundle: Bundle, plan: Breakage, words: Sequence[str], folder: Path
    ) -> None:
        """Start it; its files are in a fresh folder in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(dir=folder, prefix="trial"))
        self.period_s = bundle.action.control_dt
        self.logged_bytes = 0  # when the disk was full
        self._notes = self.folder / "notes.jsonl"
        said = {"breakage": vars(plan), "size": bundle.action.size}
        (self.folder / "plan.json").write_bytes(to_json(said))
        robot = dump(config.robot)
        named = [f"robot={robot.pop('part')}", *(f"robot.{key}={value}" for key, value in robot.items())]
        command = [
            sys.executable, "-m", "robokd.sim2real.victim", str(self.folder / "plan.json"), str(self._notes),
            f"bundle={config.bundle}", *named, f"seed={config.seed}", f"runs={self.folder / 'runs'}",
            f"plugins=[{','.join(config.plugins)}]", "mismatch=warn", *words,
        ]  # fmt: skip
        self._output = (self.folder / "output.txt").open("wb")
        self.process = subprocess.Popen(
            command, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def __enter__(self) -> Victim:
        """Return itself; after the block nothing of it runs."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill what is left."""
        self._signal_all(signal.SIGKILL)  # also those that have outlived it
        self.process.wait()
        self._output.close()

    def family(self) -> dict[str, int]:
        """Return the process numbers of its children by module."""
        found = {}
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split() if children.exists() else []:
            said = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"-m" in said:
                found[said[said.index(b"-m") + 1].decode()] = int(pid)
        return found

    def signal(self, module: str, number: int) -> bool:
        """Send a signal to the policy process ("") or to one of its children; whether there was one."""
        pid = self.family().get(module) if module else self.process.pid
        if pid is None or self.process.poll() is not None:
            return False
        os.kill(pid, number)
        return True

    def fill_disk(self) -> bool:
        """Let the policy process's log grow by so little more; whether there was one, with ticks in it.

        It is a limit on the size of each file, which only the log meets: with one that the summary or the
        output met too, the log could not be ended and nobody could say why the run was. So this is a log that
        finds no room, not a disk that takes nothing any more, and what the guard writes is not limited.
        """
        log = self.log_file()
        size = log.stat().st_size if log else 0
        if size < CHUNK_BYTES or self.process.poll() is not None:
            return False
        self.logged_bytes, most = size, size + FULL_AFTER_BYTES
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (most, most))
        return True

    def wait_until_logged(self) -> None:
        """Wait until the log has reached the disk, which it does in chunks; not for ever."""
        deadline = time.monotonic() + END_S
        while self.process.poll() is None and time.monotonic() < deadline:
            if (log := self.log_file()) and log.stat().st_size >= CHUNK_BYTES:
                return
            time.sleep(0.002)

    def wait_until_commanded(self) -> dict[str, Any]:
        """Wait until the tap has noted a command, and return its note; UserError where none ever comes."""
        deadline = time.monotonic() + BEGIN_S
        while not (notes := self.notes()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "output.txt").read_text(errors="replace").strip().splitlines()
                last = said[-1] if said else "it said nothing"
                raise UserError(f"the deployment to be broken did not begin: {last}")
            time.sleep(0.002)
        return notes[0]

    def wait_for_guard(self) -> None:
        """Wait until the guard has ended."""
        deadline = time.monotonic() + GUARD_S
        while not self.guard_account() and time.monotonic() < deadline:
            time.sleep(0.02)

    def wait(self, timeout_s: float) -> int | None:
        """Wait until it has ended and the robot has left its log; return the exit code, None if it hangs."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        deadline = time.monotonic() + END_S
        while not self.robot_log() and self._signal_all(0) and time.monotonic() < deadline:
            time.sleep(0.02)
        return code

    def notes(self) -> list[dict[str, Any]]:
        """Return what the tap says that it did."""
        text = self._notes.read_text(encoding="utf-8") if self._notes.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def robot_log(self) -> dict[str, Any]:
        """Return the robot's own log; empty while there is none."""
        return self._read("robot_log.json")

    def guard_account(self) -> dict[str, Any]:
        """Return the guard's own account; empty while there is none."""
        return self._read("guard.json")

    def log_file(self) -> Path | None:
        """Return the deployment's log, if there is one."""
        return self._file(LOG)

    def summary(self) -> dict[str, Any]:
        """Return the deployment's own summary; empty where it left none."""
        return self._read("summary.json")

    def _signal_all(self, number: int) -> bool:
        """Send a signal to all processes of the deployment; whether there is one."""
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _read(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        return read_json(path) if path else {}

    def _file(self, name: str) -> Path | None:
        """Return a file of the deployment's run, if it is there."""
        return next((self.folder / "runs").glob(f"*_deploy_*/{name}"), None)


def torn(path: Path | None, least_bytes: int) -> list[str]:
    """Return what is wrong with a log that met a full disk when it had so many bytes: it keeps them."""
    if path is None:
        return ["there is no log"]
    try:
        numbers = [tick.number for tick in read_log(path).ticks]
    except UserError as error:
        return [str(error)]
    data, why = path.read_bytes(), []
    if not _is_ended(data) or len(data) < least_bytes:
        why.append(f"the log is torn: {len(data)} bytes, {least_bytes} before the disk was full")
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        why.append(
            f"the log has the ticks {numbers[:1]} to {numbers[-1:]}, {len(numbers)} in all, wanted all from 1"
        )
    return why


def _is_ended(data: bytes) -> bool:
    """Whether the records of an MCAP file follow each other up to its end."""
    head = struct.Struct("<BQ")
    place, opcode = len(MCAP0_MAGIC), 0
    while opcode != Opcode.FOOTER and place + head.size <= len(data):
        opcode, length = head.unpack_from(data, place)
        place += head.size + length
    return opcode == Opcode.FOOTER and data[place:] == MCAP0_MAGIC


def main(argv: list[str]) -> int:
    """Deploy; return the exit code that the command line would."""
    plan, notes, *words = argv
    taps: list[Process] = []

    def connect() -> tuple[socket.socket, socket.socket]:
        (ours, tapped), (listening, theirs) = pair(), pair()
        given = [tapped.fileno(), listening.fileno()]
        taps.append(Process("tap", TAP, [*map(str, given), plan, notes], given))
        tapped.close()
        listening.close()
        return ours, theirs

    try:
        print(deploy(compose("deploy", words), connect=connect), flush=True)
    except SafetyStop as stop:
        print(f"safety stop: {stop}", file=sys.stderr)
        return 3
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        for tap in taps:
            tap.end(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
