"""Plain Gymnasium environments of one world, as one would write them: what process pools are measured with.

Numpy and MuJoCo alone, so that a process of a pool starts soon. Physics, observations, reward and limits are
those of `Hover` and of the task reach without noise; what a task randomises stays as the model has it.
Shapes: A action dimensions, D observation numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from robokd.specs import ActionSpec, Limits, decode


@dataclass(frozen=True, kw_only=True)
class World:
    """What both bodies have: the model as XML, how actions become commands, how long, and where it starts."""

    xml: str
    action: ActionSpec
    physics_dt: float  # s
    substeps: int
    horizon: int  # control steps
    start: tuple[float, ...]  # first numbers of qpos
    command: tuple[float, ...]  # (A,) with which an episode begins
    spare: tuple[float, ...] = ()  # of ctrl beyond the commands


class PlainEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One world; a body says what it sees and what that is worth."""

    size: int  # D

    def __init__(self, world: World) -> None:
        self.world = world
        self.model = mujoco.MjModel.from_xml_string(world.xml)
        self.model.opt.timestep = world.physics_dt
        self.data = mujoco.MjData(self.model)
        count = world.action.size
        self.action_space = Box(-1.0, 1.0, (count,), np.float32)
        self.observation_space = Box(-np.inf, np.inf, (self.size,), np.float32)
        self._limits = Limits.of(world.action)
        self._previous = np.zeros(count, np.float32)
        self._command = self._rate = self._previous
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """See gymnasium.Env."""
        super().reset(seed=seed, options=options)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[: len(self.world.start)] = self.world.start
        self._command = np.asarray(self.world.command, np.float32)
        self._rate = self._previous = np.zeros_like(self._command)
        self._steps = 0
        self.data.ctrl[len(self._command) :] = self.world.spare
        self.place()
        mujoco.mj_forward(self.model, self.data)
        return self.look(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """See gymnasium.Env. Derived fields are as `mj_step` leaves them, a substep old."""
        action = np.clip(action, -1, 1)
        self._command, self._rate = decode(action, self._command, self._rate, self._limits)
        self.data.ctrl[: len(action)] = self._command
        mujoco.mj_step(self.model, self.data, self.world.substeps)
        self._steps += 1
        reward, is_success, is_over = self.judge(action)
        self._previous = action
        return self.look(), reward, is_over, self._steps >= self.world.horizon, {"is_success": is_success}

    def place(self) -> None:
        """Draw where an episode begins."""
        raise NotImplementedError

    def aim(self, goal: np.ndarray) -> None:
        """Set the goal (3,) m of this episode."""
        raise NotImplementedError

    def look(self) -> np.ndarray:
        """Return what is observed, (D,) float32."""
        raise NotImplementedError

    def judge(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """Return (reward, success, over) of a step."""
        raise NotImplementedError


class PlainReach(PlainEnv):
    """The task reach: joints, their speed and target rate; sphere, tip and the way between."""

    size = 30

    def __init__(
        self, world: World, weights: dict[str, float], tolerance_m: float, hold_s: float, goals: np.ndarray
    ) -> None:
        """`goals` (2, 3): least and largest azimuth, radius and height of the sphere."""
        self._weights, self._tolerance_m, self._hold_s, self._goals = weights, tolerance_m, hold_s, goals
        super().__init__(world)
        self._tip = self.model.site("tip").id
        self._held_s = 0.0

    def place(self) -> None:
        """See PlainEnv."""
        azimuth, radius, height = self.np_random.uniform(*self._goals)
        self.aim(np.array((radius * np.cos(azimuth), radius * np.sin(azimuth), height)))
        self._held_s = 0.0

    def aim(self, goal: np.ndarray) -> None:
        """See PlainEnv."""
        self.data.mocap_pos[0] = goal

    def look(self) -> np.ndarray:
        """See PlainEnv."""
        goal, tip = self.data.mocap_pos[0], self.data.site_xpos[self._tip]
        joints = len(self._command)
        parts = self.data.qpos[:joints], self.data.qvel[:joints], self._rate, goal, tip, goal - tip
        return np.concatenate(parts, dtype=np.float32)

    def judge(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """See PlainEnv."""
        weights, offset = self._weights, self.data.mocap_pos[0] - self.data.site_xpos[self._tip]
        distance, change = float(np.sqrt(offset @ offset)), action - self._previous
        is_inside = distance <= self._tolerance_m
        self._held_s = self._held_s + self.world.action.control_dt if is_inside else 0.0
        is_success = self._held_s >= self._hold_s - 1e-6
        nearness = np.exp(-((distance / (1.5 * self._tolerance_m)) ** 2)) - 1
        reward = -weights["distance"] * distance + weights["near"] * nearness
        reward -= weights["action"] * np.mean(action**2) + weights["action_rate"] * np.mean(change**2)
        return float(reward + weights["success"] * is_success), is_success, is_success


class PlainHover(PlainEnv):
    """The task of `Hover`: pose and speed of a quadrotor, and the way to where it is to stay."""

    size = 16

    def __init__(self, world: World, near_m: float, room_m: float) -> None:
        self._near_m, self._room_m, self._goal = near_m, room_m, np.zeros(3)
        super().__init__(world)

    def place(self) -> None:
        """See PlainEnv."""
        self.aim(self.np_random.uniform(-self._near_m, self._near_m, 3) + self.world.start[:3])

    def aim(self, goal: np.ndarray) -> None:
        """See PlainEnv."""
        self._goal = goal

    def look(self) -> np.ndarray:
        """See PlainEnv."""
        parts = self.data.qpos, self.data.qvel, self._goal - self.data.qpos[:3]
        return np.concatenate(parts, dtype=np.float32)

    def judge(self, action: np.ndarray) -> tuple[float, bool, bool]:
        """See PlainEnv."""
        offset = self._goal - self.data.qpos[:3]
        distance, spin = float(np.sqrt(offset @ offset)), self.data.qvel[3:]
        reward = -distance - 0.01 * float(spin @ spin) - 0.01 * float(np.mean(action**2))
        return reward, False, distance > self._room_m
