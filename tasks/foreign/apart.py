"""Worlds in a process of their own: simulators of which a process can hold one, where a stage needs several.

A stage has its training worlds beside those that it validates on. What a step leaves lies in tensors that
both processes see; over the pipe go only words. The child says nothing on our output: its own is kept, and
shown where it dies.
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokd import UserError
from robokd.env.base import Setup
from robokd.env.foreign import ForeignEnv, Outcome, Worlds
from robokd.registry import load_plugins, plugins
from robokd.specs import ActionSpec, CameraSpec, ObsSpec

END_S = 20.0  # that the child has to free its worlds
LAST_WORDS = 12  # lines of a child that died
SAID = ("num_envs", "device", "control_dt", "max_episode_length", "begins_itself", "action_spec", "obs_specs",
        "camera_specs")  # fmt: skip
RESULTS = tuple(field.name for field in dataclasses.fields(Outcome) if field.name != "final")


class Apart:
    """The Worlds protocol over worlds that `opener` builds in a child process."""

    # what the worlds say of themselves, see Worlds
    num_envs: int
    device: str
    control_dt: float
    max_episode_length: int
    begins_itself: bool
    action_spec: ActionSpec
    obs_specs: dict[str, ObsSpec]
    camera_specs: dict[str, CameraSpec]

    def __init__(self, opener: Callable[[], Worlds], plugins: Iterable[str] = ()) -> None:
        """Start the child and wait until its worlds stand; raises UserError where `opener` does.

        Args:
            opener: is sent to the child, so of a module, with arguments that can be pickled.
            plugins: modules that a person typed, which the child imports first.
        """
        ours, theirs = multiprocessing.Pipe()
        self._link = ours
        handle, self._log = tempfile.mkstemp(prefix="robokd_worlds_", suffix=".log")
        os.close(handle)
        context = multiprocessing.get_context("spawn")
        self._child = context.Process(
            target=_serve, args=(theirs, opener, tuple(plugins), self._log, torch.get_num_threads()),
            daemon=True,
        )  # fmt: skip
        self._shared: dict[str, Tensor] = {}
        self._child.start()
        theirs.close()
        # also where nobody closes them: a simulator that is left behind holds a gigabyte
        self._end = weakref.finalize(self, _end, ours, self._child, self._log)
        try:
            said = self._hear()
        except BaseException:
            self._child.kill()
            self.close()
            raise
        for name, value in said.items():
            setattr(self, name, value)

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """See Worlds.begin."""
        self._ask("begin", mask.tolist(), seeds.tolist())

    def step(self, actions: Tensor) -> Outcome:
        """See Worlds.step."""
        self._shared["actions"].copy_(actions)
        has_final, groups = self._ask("step")
        final = self._taken(f"final/{name}" for name in groups) if has_final else None
        if final is not None:
            final = {name.removeprefix("final/"): value for name, value in final.items()}
        return Outcome(**self._taken(RESULTS), final=final)

    def observe(self, groups: Sequence[str]) -> dict[str, Tensor]:
        """See Worlds.observe."""
        self._ask("observe", tuple(groups))
        return self._taken(groups)

    def ask(self, question: str) -> Any:  # noqa: ANN401  (what the worlds say to it)
        """Return what a method of the worlds without arguments returns."""
        return self._ask("ask", question)

    def targets(self) -> tuple[Tensor, Tensor]:
        """Return the joint targets last sent, rad, and their rates, rad/s, (N, A)."""
        command, rate = self.ask("targets")
        return command.clone(), rate.clone()

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the lowest and highest joint positions (A,), rad, that an episode may begin from."""
        return self.ask("start_envelope")

    def gains(self) -> dict[str, list[float] | None]:
        """Return kp, kd and the largest torque of the joints' servos, None where they are not known."""
        return self.ask("gains")

    def close(self) -> None:
        """Free the worlds and end the child; a second time does nothing."""
        self._end()

    def _taken(self, names: Iterable[str]) -> dict[str, Tensor]:
        taken = {name: self._shared[name].clone() for name in names}
        _settle(self.device)  # the child writes there again as soon as it is asked
        return taken

    def _ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401
        _settle(self.device)
        try:
            self._link.send((method, arguments))
        except OSError:
            raise self._died() from None
        return self._hear()

    def _hear(self) -> Any:  # noqa: ANN401
        try:
            kind, fresh, payload = self._link.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if kind == "mistake":
            raise UserError(payload)
        if kind == "fault":
            raise RuntimeError(f"the worlds' process failed: {payload}{self._last_words()}")
        self._shared |= fresh
        return payload

    def _died(self) -> RuntimeError:
        self._child.join(1.0)
        return RuntimeError(f"the worlds' process ended with code {self._child.exitcode}{self._last_words()}")

    def _last_words(self) -> str:
        if not Path(self._log).exists():  # they were closed before
            return ""
        lines = Path(self._log).read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_WORDS:]
        return ". It said last:\n" + "\n".join(lines) if lines else ""


def _end(link: Connection, child: SpawnProcess, log: str) -> None:
    """End a child and what there is of it."""
    with contextlib.suppress(OSError):
        link.send(("close", ()))
    child.join(END_S)
    if child.is_alive():
        child.kill()
        child.join()
    link.close()
    Path(log).unlink(missing_ok=True)


def opened(opener: Callable[[], Worlds], setup: Setup) -> ForeignEnv:
    """Return the environment of worlds that `opener` builds in a child process; see Apart."""
    worlds = Apart(opener, sorted(plugins()))
    try:
        return ForeignEnv(worlds, setup)
    except BaseException:
        worlds.close()
        raise


class _Shelf:
    """Tensors that both processes see, by name."""

    def __init__(self) -> None:
        self.known: dict[str, Tensor] = {}
        self._fresh: dict[str, Tensor] = {}

    def put(self, values: dict[str, Tensor]) -> None:
        """Copy tensors to where the other side reads them."""
        for name, value in values.items():
            if name not in self.known:
                # of its own memory and contiguous: only such a tensor can be shared whole
                place = torch.empty(value.shape, dtype=value.dtype, device=value.device)
                self.known[name] = self._fresh[name] = place if place.is_cuda else place.share_memory_()
            self.known[name].copy_(value)

    def fresh(self) -> dict[str, Tensor]:
        """Return, once, the tensors that the other side does not know yet."""
        fresh, self._fresh = self._fresh, {}
        return fresh


def _serve(
    link: Connection, opener: Callable[[], Worlds], plugins: Sequence[str], log: str, threads: int
) -> None:
    """Build the worlds and answer for them until told to close, or until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides when to end
    _speak_into(log)
    torch.set_num_threads(threads)
    shelf, worlds = _Shelf(), None
    try:
        load_plugins(plugins)
        worlds = opener()
        shelf.put({"actions": torch.zeros(worlds.num_envs, worlds.action_spec.size, device=worlds.device)})
        link.send(("answer", shelf.fresh(), {name: getattr(worlds, name) for name in SAID}))
        with torch.no_grad():
            while (asked := link.recv())[0] != "close":
                payload = _answer(worlds, shelf, *asked)
                _settle(worlds.device)
                link.send(("answer", shelf.fresh(), payload))
    except (EOFError, ConnectionError):
        pass
    except UserError as error:
        link.send(("mistake", {}, str(error)))
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        link.send(("fault", {}, " ".join(f"{type(error).__name__}: {error}".split())))
    finally:
        if worlds is not None:
            worlds.close()
        link.close()
        os._exit(0)  # some simulators hang in what the interpreter does at its end


def _answer(worlds: Worlds, shelf: _Shelf, method: str, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
    if method == "begin":
        mask, seeds = (torch.tensor(row, device=worlds.device) for row in arguments)
        worlds.begin(mask, seeds)
        return None
    if method == "observe":
        shelf.put(worlds.observe(arguments[0]))
        return None
    if method == "ask":
        return getattr(worlds, arguments[0])()
    outcome = worlds.step(shelf.known["actions"].clone())
    shelf.put({name: getattr(outcome, name) for name in RESULTS})
    final = outcome.final or {}
    shelf.put({f"final/{name}": value for name, value in final.items()})
    return outcome.final is not None, tuple(final)


def _speak_into(log: str) -> None:
    """Send all that this process prints, libraries in C included, to a file."""
    with Path(log).open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)


def _settle(device: str) -> None:
    """Wait until what was asked of a GPU is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
