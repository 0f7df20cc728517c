"""`what=collect`: physics, camera and student on the task reach, ours beside a plain loop over `mj_step`.

Ours is the vectorised environment, with rewards, resets and noise, on one thread. The plain loop is one
world, the same model, substeps and student, `mujoco.Renderer` for its eyes, and leaves out all that it can.
Shapes: N worlds, A action dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.bench import agreement
from robokd.bench.opengl import OpenGl, check_opengl
from robokd.bench.rays import Rays
from robokd.bench.render import picture
from robokd.bench.row import Effort, Gate, LeftOut, Measure, Row, in_turn, per
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.env.native import NativeEnv
from robokd.learn.rollout import Policy
from robokd.learn.stage import begin
from robokd.registry import find
from robokd.sim.mujoco import MujocoCfg, MujocoSim
from robokd.specs import Limits, decode
from robokd.students.base import Interface, StudentPolicy
from robokd.students.cnn import CnnCfg
from robokd.students.modular import ModularStudent
from robokd.vision.encode import encode
from robokd.vision.raster import RasterCfg
from robokd.vision.sensor import Corruption

if TYPE_CHECKING:
    import mujoco

TASK, CAMERA, PROPRIO = "reach", "front", "proprio"
WITHOUT_STUDENT = "physics and pictures"
STUDENTS = ((CnnCfg(), 30.0), (CnnCfg(channels=(8, 8), keypoints=8), None))  # with the ratio that is wanted
QPOS_LIMIT = 1e-9  # rad and m
_STATE = ("qpos", "qvel", "mocap_pos", "mocap_quat")


def rows(effort: Effort) -> Iterator[Row | LeftOut]:
    """Measure without a student and with each of STUDENTS, or leave all out where there is no OpenGL."""
    begin(effort.seed, threads=1)
    env = _env(effort, effort.num_envs)
    asked = _asked(env)
    try:
        check_opengl(env.sim, env.camera_specs[CAMERA])
    except UserError as error:
        yield from (LeftOut(name=name, why=str(error)) for name in asked)
        return
    gate = Gate(name="the same motion and pictures as the plain loop", measures=_agreement(effort))
    for name, policies in asked.items():
        yield _row(name, env, policies, gate, effort)
    env.close()


@dataclass(frozen=True, kw_only=True)
class _Policies:
    """Who acts in a row, for all worlds and for the plain loop's one, and the ratio that is wanted."""

    ours: Policy
    plain: Policy
    bar: float | None
    needs: str  # what the plain loop uses for it


def _asked(env: NativeEnv) -> dict[str, _Policies]:
    """Return who acts, by the names of the rows, which say what a student is."""
    still = Still(env.num_actions)
    asked = {WITHOUT_STUDENT: _Policies(ours=still, plain=still, bar=None, needs="")}
    for cfg, bar in STUDENTS:
        student = _student(env, cfg)
        weights = sum(one.numel() for one in student.parameters())
        channels = "-".join(str(count) for count in cfg.channels)
        name = f"physics, pictures, cnn {channels}, {cfg.keypoints} points, {weights / 1000:.0f}k weights"
        asked[name] = _Policies(
            ours=StudentPolicy(student, env.num_envs), plain=StudentPolicy(student, 1), bar=bar,
            needs=" and torch, one world at a time",
        )  # fmt: skip
    return asked


def _row(name: str, env: NativeEnv, policies: _Policies, gate: Gate, effort: Effort) -> Row:
    """Measure the environment beside the plain loop."""
    env.reset()

    def step_all() -> None:
        _, _, done, _ = env.step(policies.ours.act(env.get_observations()))
        policies.ours.reset(done.bool())

    with closing(PlainLoop(env, 0, policies.plain)) as plain:
        ours, theirs = in_turn(step_all, plain.step, effort)
        peer_name = f"mj_step and {plain.eye.name}{policies.needs}"
    return Row(
        name=name, peer_name=peer_name, unit="us/step", bar=policies.bar, gate=gate,
        ours_all=per(ours, env.num_envs), peer_all=per(theirs, 1),
    )  # fmt: skip


class Still:
    """The Policy protocol: no motion, and no cost."""

    inputs: tuple[str, ...] = (PROPRIO, CAMERA)

    def __init__(self, actions: int) -> None:
        self._actions = actions

    def act(self, obs: TensorDict) -> Tensor:
        """Return zeros (N, A)."""
        return torch.zeros(len(obs), self._actions)

    def reset(self, mask: Tensor) -> None:
        """Nothing is remembered."""


class PlainLoop:
    """One world of an environment, stepped, looked at and acted in without the rest of it."""

    def __init__(self, env: NativeEnv, world: int, policy: Policy, *, slices: int = 0) -> None:
        """Begin where `world` of env is, at the beginning of an episode."""
        self.model, self.data = _copy(env, world)
        self.camera, self.policy = env.camera_specs[CAMERA], policy
        self.eye = OpenGl(self.model, self.camera, slices=slices)
        self._substeps, self._horizon, self._step = env.substeps, env.max_episode_length, 0
        self._limits = Limits.of(env.action_spec)
        self._start = {field: getattr(self.data, field).copy() for field in _STATE}
        self._start_command = env.state.command[world].numpy().copy()
        self._command, self._rate = self._start_command, np.zeros_like(self._start_command)
        # what the actuators beside the arm's are told
        self._ctrl = env.task.control(env.state.command, env.state)[world].numpy().copy()

    def step(self) -> None:
        """Look, act, and step the physics by one control step."""
        joints = len(self._command)
        image = encode(self.eye.draw(self.data), self.camera)
        proprio = np.concatenate((self.data.qpos[:joints], self.data.qvel[:joints], self._rate))
        seen = {CAMERA: torch.from_numpy(image)[None, None], PROPRIO: torch.from_numpy(proprio)[None].float()}
        action = self.policy.act(TensorDict(seen, batch_size=[1]))[0].numpy()
        self._command, self._rate = decode(action, self._command, self._rate, self._limits)
        self._ctrl[:joints] = self._command
        self.advance(self._ctrl)
        self._step += 1
        if self._step == self._horizon:
            self._begin()

    def advance(self, ctrl: np.ndarray) -> None:
        """Step the physics by one control step under ctrl (nu,)."""
        import mujoco

        self.data.ctrl[:] = ctrl
        mujoco.mj_step(self.model, self.data, self._substeps)

    def picture(self) -> np.ndarray:
        """Return depth (H, W) in m of where everything is now; `step` sees it as it was a substep ago."""
        import mujoco

        mujoco.mj_forward(self.model, self.data)
        return self.eye.picture(self.data)[0]

    def close(self) -> None:
        """Free the OpenGL context."""
        self.eye.close()

    def _begin(self) -> None:
        import mujoco

        mujoco.mj_resetData(self.model, self.data)
        for field, value in self._start.items():
            getattr(self.data, field)[...] = value
        mujoco.mj_forward(self.model, self.data)
        self._command, self._rate, self._step = self._start_command, np.zeros_like(self._rate), 0


def _env(effort: Effort, worlds: int) -> NativeEnv:
    setup = Setup(num_envs=worlds, groups=(PROPRIO, CAMERA), draws=Draws(effort.seed, "test"))
    env = find("task", TASK)().build(sim=MujocoCfg(), renderer=RasterCfg(), corrupt=Corruption(), setup=setup)
    assert isinstance(env, NativeEnv), type(env)
    return env


def _student(env: NativeEnv, cfg: CnnCfg) -> ModularStudent:
    specs, cameras = {PROPRIO: env.obs_specs[PROPRIO]}, [env.camera_specs[CAMERA]]
    interface = Interface(
        obs_specs=specs, cameras=tuple(cameras), action_size=env.num_actions, targets={"goal_position": 3}
    )
    return cfg.build(interface).eval()


def _copy(env: NativeEnv, world: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Return a model and a state of their own that are those of one world."""
    import mujoco

    model = copy.copy(env.sim.model)
    for name, values in env.sim.snapshot().items():
        if name.startswith("model."):
            getattr(model, name.removeprefix("model."))[...] = values[world].numpy()
    data = mujoco.MjData(model)
    for field in _STATE:
        getattr(data, field)[...] = env.sim.get(field)[world].numpy()
    mujoco.mj_forward(model, data)
    return model, data


def _agreement(effort: Effort) -> tuple[Measure, ...]:
    """Compare motion under the student's commands and pictures at its end, from the same starts."""
    env = _env(effort, effort.compared)
    assert isinstance(env.sim, MujocoSim), type(env.sim)
    policy = StudentPolicy(_student(env, CnnCfg()), env.num_envs)
    plain = [PlainLoop(env, world, policy, slices=effort.slices) for world in range(env.num_envs)]
    is_going = np.ones(env.num_envs, dtype=bool)  # what has ended begins elsewhere
    for _ in range(effort.control_steps):
        _, _, done, _ = env.step(policy.act(env.get_observations()))
        is_going &= ~done.bool().numpy()
        for ctrl, loop in zip(env.sim.get("ctrl").numpy(), plain, strict=True):
            loop.advance(ctrl)
    apart = np.abs(env.sim.get("qpos").numpy() - np.stack([loop.data.qpos for loop in plain]))[is_going]
    camera = env.camera_specs[CAMERA]
    ours = picture(env.sim, camera)
    depth = np.stack([loop.picture() for loop in plain])
    _, is_flat = Rays(env.sim, camera).pictures()
    for loop in plain:
        loop.close()
    env.close()
    return (
        Measure(name="largest difference of qpos", value=float(apart.max(initial=0)), limit=QPOS_LIMIT),
        *agreement.depths(ours[is_going, 0], depth[is_going], is_flat[is_going]),
    )
