"""What became of an environment's steps: episodes that ended or diverged, numbers that are not finite.

On a CPU each step is judged at once. To ask a GPU is to wait for all the work that it was given, so there
steps are only noted, and judged together: every JUDGED_EVERY steps, where a counter is read, and before a
snapshot or the end. Errors are the same, but up to so many steps late; what is saved of a failure then holds
what decided the step that failed, and not the state after it.
Shapes: N environments, D numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.draws import Draws
from robokd.sim.base import Sim

JUDGED_EVERY = 32  # steps, where judging is waiting; what is noted of them takes that much memory
MAX_DIVERGED_SHARE = 1e-3  # of episodes; above it the run stops
DIVERGED_GRACE = 5  # diverged episodes before the share is judged


class Check(NamedTuple):
    """Numbers that must be finite."""

    what: str
    values: Tensor  # (N,) or (N, D)
    wanted: Tensor | None  # (N,) bool: where; None = everywhere
    names: Sequence[str]  # of the D numbers, if they are to be told apart
    moment: dict[str, Tensor]  # (N, ...) what decided the step


class Ends(NamedTuple):
    """Which episodes (N,) bool ended in a step."""

    done: Tensor
    success: Tensor  # what ended or not
    diverged: Tensor
    moment: dict[str, Tensor]


class Found(NamedTuple):
    """What is known of the steps that were judged together."""

    ended: int
    succeeded: int


class Ledger:
    """Counts and checks of a NativeEnv; `every` steps are judged together, 1 = each at once."""

    def __init__(self, sim: Sim, draws: Draws, every: int) -> None:
        self.every = every
        self.failures: Path | None = None  # where the state of a divergence or a NaN is saved
        self.ended = self.diverged = 0  # episodes, as of the steps that were judged
        self._sim, self._draws = sim, draws
        self._moment: dict[str, Tensor] = {}
        self._checks: list[Check] = []
        self._ends: list[Ends] = []

    def begin(self, moment: dict[str, Tensor]) -> None:
        """Say what decides the numbers that follow: tensors (N, ...) that nobody writes again."""
        self._moment = moment

    def check(
        self, what: str, values: Tensor, wanted: Tensor | None = None, names: Sequence[str] = ()
    ) -> None:
        """Raise UserError, now or later, if values (N,) or (N, D) are not finite where `wanted` (N,)."""
        check = Check(what, values, wanted, names, self._moment)
        if self.every == 1:
            if not math.isfinite(float(values.sum())):
                self._examine(check)
        elif names or values.ndim == 1:
            self._checks.append(check)
        else:  # the caller may write into them until they are judged
            self._checks.append(check._replace(values=values.sum(1)))

    def end(self, done: Tensor, success: Tensor, diverged: Tensor) -> Found | None:
        """Note the end of a step, return what is known then: None if this is not the step to judge."""
        self._ends.append(Ends(done, success, diverged, self._moment))
        return self.judge() if len(self._ends) >= self.every else None

    def judge(self) -> Found:
        """Judge what was noted; UserError for numbers that are not finite, and for too many divergences."""
        checks, ends, self._checks, self._ends = self._checks, self._ends, [], []
        if checks:
            # one question on the good path
            total = torch.cat([check.values.flatten() for check in checks]).sum()
            if not math.isfinite(float(total)):
                for check in checks:
                    self._examine(check)
        if not ends:
            return Found(0, 0)
        flags = [flag for step in ends for flag in (step.done, step.success & step.done, step.diverged)]
        counts = torch.stack(flags).sum(1).tolist()
        if any(counts[::3]):
            self._sim.check()
        for step, ended, diverged in zip(ends, counts[::3], counts[2::3], strict=True):
            self.ended += ended
            if diverged:
                self._count(diverged, step)
        return Found(sum(counts[::3]), sum(counts[1::3]))

    def _examine(self, check: Check) -> None:
        bad = ~torch.isfinite(check.values)
        worlds = bad if bad.ndim == 1 else bad.any(1)
        if check.wanted is not None:
            worlds = worlds & check.wanted
        if not worlds.any():
            return
        name = f" {check.names[int(bad[worlds].any(0).int().argmax())]!r}" if check.names else ""
        step = int(check.moment["step"][worlds][0])
        where = f"{int(worlds.sum())} of {len(worlds)} worlds at step {step} of their episode"
        saved = self._save("nan", worlds, check.moment)
        raise UserError(f"{check.what}{name} is not finite in {where}{saved}")

    def _count(self, diverged: int, step: Ends) -> None:
        self.diverged += diverged
        where = self._save("diverged", step.diverged, step.moment)
        if self.diverged > max(DIVERGED_GRACE, MAX_DIVERGED_SHARE * self.ended):
            counts = f"{self.diverged} of {self.ended} episodes"
            raise UserError(
                f"the simulation diverged in {counts} (at most {MAX_DIVERGED_SHARE:.1%} may){where}"
            )

    def _save(self, kind: str, bad: Tensor, moment: dict[str, Tensor]) -> str:
        """Save what decided the step that failed in the bad worlds, and if it is the last the state after."""
        if self.failures is None:
            return ""
        self.failures.mkdir(parents=True, exist_ok=True)
        path = self.failures / f"{kind}_{self.ended}.npz"
        after = self._sim.snapshot() if self.every == 1 else {}
        rows = {**moment, **{f"sim_{name}": value for name, value in after.items()}}
        arrays: dict[str, Any] = {name: value[bad].cpu().numpy() for name, value in rows.items()}
        np.savez(path, seed=self._draws.seed, stream=self._draws.stream, **arrays)
        return f"; state saved to {path}"
