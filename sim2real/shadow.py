"""A second policy that runs silently beside the first: what it would have commanded, joint by joint.

One with a memory is given every tick once and in order, as the first was: a tick for which there was no time
waits for the next idle moment. Shapes: A joints; rad.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np
from robokd.sim2real.log import Tick
from robokd.sim2real.loop import Watcher
from robokd.sim2real.policy import Policy

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.export.parity import MEMORY
from robokd.specs import differences, to_dict

FORGET = 0.9  # share of what it cost at most that it is still expected to cost
OWN = {"joint_pos", "joint_vel", "command", "command_rate"}  # terms that every policy of a robot is given
AT_ONCE = 2  # ticks in the idle part of a period, at most: the log wants its time too
MOST_WAITING = 50  # ticks; a policy with a memory that is farther behind does not catch up


class Shadow(Watcher):
    """Gives another bundle's policy what the first one was given, in the idle part of each period."""

    def __init__(self, bundle: Bundle, beside: Bundle) -> None:
        """UserError where the two do not drive the same robot by the same cameras."""
        rows = differences(to_dict(beside.action), to_dict(bundle.action), "action")
        for name, camera in bundle.cameras.items():
            if name not in beside.cameras:
                have = ", ".join(beside.cameras) or "none"
                raise UserError(f"shadow={bundle.path} sees with camera {name!r}; {beside.path} has: {have}")
            rows += differences(to_dict(beside.cameras[name]), to_dict(camera), f"cameras.{name}")
        if lacking := sorted(bundle.terms - beside.terms - OWN):
            raise UserError(f"shadow={bundle.path} reads {lacking[0]!r}, which {beside.path} is not given")
        if rows:
            raise UserError(f"shadow={bundle.path} is for another robot than {beside.path}: {rows[0]}")
        self._policy, self._names = Policy(bundle), bundle.action.names
        self._apart: list[np.ndarray] = []
        self._missed, self._cost_s = 0, 0.0
        self._has_memory = any(name.startswith(MEMORY) for name in bundle.manifest["graph"]["inputs"])
        self._waiting: deque[Tick] = deque()
        self._is_lost = False  # with a memory that has not seen all: nothing it says until `begin` counts

    def begin(self) -> None:
        """Remember nothing."""
        self._forget_waiting()
        self._policy.begin()
        self._is_lost = False

    def idle(self, tick: Tick, until_s: float) -> None:
        """Ask the policy what it would do; a tick for which there never is time is counted."""
        if self._is_lost:
            self._missed += 1
            return
        if not self._has_memory:  # what comes now is as good as what was before
            self._forget_waiting()
        self._waiting.append(tick)
        for _ in range(min(AT_ONCE, len(self._waiting))):
            begun = time.monotonic()
            if begun + self._cost_s > until_s:
                self._cost_s *= FORGET  # or one slow turn would be the last
                break
            self._ask(self._waiting.popleft())
            self._cost_s = max(time.monotonic() - begun, FORGET * self._cost_s)
        if len(self._waiting) > MOST_WAITING:
            self._forget_waiting()
            self._is_lost = True

    def _ask(self, tick: Tick) -> None:
        said = self._policy.act(tick.channels, tick.anchor, tick.rate, time.monotonic)
        self._apart.append(np.abs(said.command - tick.decision.command))

    def _forget_waiting(self) -> None:
        self._missed += len(self._waiting)
        self._waiting.clear()

    def report(self) -> dict[str, Any]:
        """Return how far its commands were from those that were sent, by joint.

        `ticks` were compared and `missed` were not, for lack of time; together they are all.
        """
        apart = np.array(self._apart).reshape(-1, len(self._names))
        numbers = (
            {"mean": apart.mean(0), "p99": np.quantile(apart, 0.99, axis=0), "max": apart.max(0)}
            if len(apart)
            else {}
        )
        by_joint = {
            joint: {name: float(row[place]) for name, row in numbers.items()}
            for place, joint in enumerate(self._names)
        }
        return {"ticks": len(apart), "missed": self._missed + len(self._waiting), "divergence_rad": by_joint}
