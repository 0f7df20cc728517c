"""A world of another suite's task as the body of a robot, at that suite's own rate of physics.

Its sensors are exact and its pictures as fresh as a control step: what the suite adds to its own
observations, noise or delay, is not felt here.
Shapes: A joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from robokd.sim2real.body import check_fits, one_world

from robokd.env.foreign import ForeignEnv, RobotWorlds


class ForeignWorld:
    """The Body protocol; its worlds are opened in this process, which nobody else simulates in."""

    delay_s = 0.0

    def __init__(self, setup: Mapping[str, Any], task: Any) -> None:  # noqa: ANN401  (a part with an opener)
        """Open one world; UserError where its suite is not installed, or it does not fit the bundle.

        Args:
            setup: of the deployment, as the simulated robot's process is sent it.
            task: the bundle's, whose `opener` returns how RobotWorlds are made.
        """
        wanted = one_world(setup, setup["cameras"])
        self._worlds = cast("RobotWorlds", task.opener(wanted)())
        self._env = ForeignEnv(self._worlds, wanted)
        check_fits(setup, self._env)
        self.sim, self.dt = str(task.suite), self._worlds.physics_dt
        self.substeps = round(self._worlds.control_dt / self.dt)
        self.cameras = {name: self._env.camera_specs[name] for name in setup["cameras"]}
        self.ages_s = dict.fromkeys(self.cameras, 0.0)
        self.begin(0)
        for _ in range(self.substeps):  # compiles what is compiled on first use
            self.step(self.hold())

    @property
    def frames_rendered(self) -> int:
        """See Body.frames_rendered."""
        return self._env.frames_rendered

    def begin(self, episode: int) -> None:
        """See Body.begin."""
        self._steps, self._is_success, self._is_over = 0, False, False
        pictures = self._env.reset(torch.tensor([episode]))
        self.pictures = {name: pictures[name][0].numpy() for name in self.cameras}
        self._position, self._velocity = self._joints()

    def hold(self) -> np.ndarray:
        """See Body.hold."""
        return self._env.state.command[0].numpy().copy()

    def step(self, target: np.ndarray) -> bool:
        """See Body.step; a world that diverges is over at once."""
        self._worlds.drive(torch.from_numpy(target)[None])
        self._position, self._velocity = self._joints()
        self._steps += 1
        if not np.isfinite(self._position).all():
            self._is_success, self._is_over = False, True
            return False
        if self._steps % self.substeps:
            self._is_over = False
            return False
        success, over = self._worlds.judge()
        self._is_success, self._is_over = bool(success[0]), bool(over[0])
        pictures = self._env.observe()
        self.pictures = {name: pictures[name][0].numpy() for name in self.cameras}
        return True

    def sense(self) -> dict[str, np.ndarray]:
        """See Body.sense."""
        return {"joint_pos": self._position, "joint_vel": self._velocity}

    def fend(self, target: np.ndarray) -> np.ndarray:
        """See Body.fend: joints hold."""
        return target

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """See Body.truth."""
        return self._position, self._velocity

    def is_success(self) -> bool:
        """See Body.is_success."""
        return self._is_success

    def is_over(self) -> bool:
        """See Body.is_over."""
        return self._is_over

    def _joints(self) -> tuple[np.ndarray, np.ndarray]:
        position, velocity = self._worlds.joints()
        return position[0].numpy().copy(), velocity[0].numpy().copy()
