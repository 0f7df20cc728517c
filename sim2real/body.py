"""What stands for a robot in its process: one world of a bundle's task, whoever simulates it.

`World` in mujoco_host.py is of our own tasks, `ForeignWorld` in foreign_world.py of another suite's.
Shapes: A joints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from robokd import UserError
from robokd.draws import Draws
from robokd.env.base import Setup, VecEnv, check_contract
from robokd.specs import CameraSpec


class Body(Protocol):
    """One world with what a robot has: joints that are sent targets, sensors and cameras."""

    sim: str  # who simulates it
    cameras: dict[str, CameraSpec]  # that it shows, in the bundle's order
    dt: float  # s, a substep
    substeps: int  # in a control step
    pictures: dict[str, np.ndarray]  # of the last control step, (C, H, W) in the camera's encoding
    ages_s: dict[str, float]  # how old those were when it ended

    @property
    def delay_s(self) -> float:
        """How late the drives feel a target in this episode."""
        ...

    @property
    def frames_rendered(self) -> int:
        """Pictures taken so far."""
        ...

    def begin(self, episode: int) -> None:
        """Put the world to the start of an episode."""
        ...

    def hold(self) -> np.ndarray:
        """Return the joint targets (A,) that hold the start pose, rad."""
        ...

    def step(self, target: np.ndarray) -> bool:
        """Advance a substep towards joint targets (A,) in rad; return whether it ends a control step."""
        ...

    def sense(self) -> dict[str, np.ndarray]:
        """Return CHANNELS: joint_pos and joint_vel (J,) if it has joints, and what else there is, (3,) each.

        gyro and gravity of an IMU, velocity of odometry; velocity_command, where the task leads the robot.
        """
        ...

    def fend(self, target: np.ndarray) -> np.ndarray:
        """Return what it does by itself when nobody commands it any more, (A,), the last being `target`."""
        ...

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the true positions, rad, and speeds, rad/s, of the joints (J,)."""
        ...

    def is_success(self) -> bool:
        """Whether the episode's goal is reached."""
        ...

    def is_over(self) -> bool:
        """Whether the episode has ended: by divergence, or with a control step by goal, failure or time."""
        ...


def one_world(setup: Mapping[str, Any], groups: Sequence[str]) -> Setup:
    """Return the Setup of a single world whose `groups` are emitted; UserError for a space that is none."""
    try:
        return Setup(
            num_envs=1, groups=tuple(groups), draws=Draws(setup["seed"], "test"), space=setup["space"],
            device="cpu", threads=1,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"robot.space: {error}") from None


def check_fits(setup: Mapping[str, Any], env: VecEnv) -> None:
    """Raise UserError where the bundle's task is no longer what its policy was made for."""
    saved = {name: setup[name] for name in ("action", "observations", "cameras")}
    check_contract(saved, env, f"bundle {setup['bundle']}")
