"""A second policy that runs silently beside the first: what it would have commanded, joint by joint.

Shapes: A joints; rad.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from robokd.sim2real.log import Tick
from robokd.sim2real.loop import Watcher
from robokd.sim2real.policy import Policy

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.specs import differences, to_dict

FORGET = 0.9  # share of what it cost at most that it is still expected to cost


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
        if rows:
            raise UserError(f"shadow={bundle.path} is for another robot than {beside.path}: {rows[0]}")
        self._policy, self._names = Policy(bundle), bundle.action.names
        self._apart: list[np.ndarray] = []
        self._missed, self._cost_s = 0, 0.0

    def begin(self) -> None:
        """Remember nothing."""
        self._policy.begin()

    def idle(self, tick: Tick, until_s: float) -> None:
        """Ask the policy what it would do; a period without time for it is counted."""
        begun = time.monotonic()
        if begun + self._cost_s > until_s:
            self._missed += 1
            self._cost_s *= FORGET  # or one slow turn would be the last
            return
        said = self._policy.act(tick.channels, tick.anchor, tick.rate, time.monotonic)
        self._cost_s = max(time.monotonic() - begun, FORGET * self._cost_s)
        self._apart.append(np.abs(said.command - tick.decision.command))

    def report(self) -> dict[str, Any]:
        """Return how far its commands were from those that were sent, by joint."""
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
        return {"ticks": len(apart), "missed": self._missed, "divergence_rad": by_joint}
