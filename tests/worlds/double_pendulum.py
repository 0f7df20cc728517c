"""A double pendulum on a cart, balanced by LQR; the student sees only four noisy position frames.

The acceptance test of DAgger: errors of a student that never drove grow until it falls. The proportions are
those of Gymnasium's InvertedDoublePendulum; the model is written here. Shapes: N environments.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.env import native
from robokd.env.base import Range, Setup, State, TaskEnv
from robokd.registry import register
from robokd.sim.base import SimCfg
from robokd.specs import ActionSpec, ObsSpec, Term
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption
from tests.worlds.unlimited import unlimited

FORCE_N = 200.0  # of the cart's motor at |action| = 1
FRAMES = 4
FALLEN_M = 1.0  # a tip that is lower has fallen; upright it is at 1.2
JOINTS = ("slider", "lower", "upper")
XML = f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01" integrator="RK4"/>
  <default><geom contype="0" conaffinity="0"/><joint damping="0.05"/></default>
  <worldbody>
    <body name="cart">
      <joint name="slider" type="slide" axis="1 0 0" limited="true" range="-1 1"/>
      <geom type="capsule" size="0.1 0.1" quat="0.707 0 0.707 0"/>
      <body name="lower">
        <joint name="lower" type="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.045"/>
        <body name="upper" pos="0 0 0.6">
          <joint name="upper" type="hinge" axis="0 1 0"/>
          <geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.045"/>
          <site name="tip" pos="0 0 0.6"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slider" gear="{FORCE_N}" ctrllimited="true" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


@register("task", "double_pendulum")
@dataclass(kw_only=True)
class DoublePendulumCfg:
    """Balance two poles on a cart for 500 control steps."""

    start_rad: float = 0.05  # both ways, of every joint
    noise_rad: float = 0.003  # standard deviation of a seen position, m and rad

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(DoublePendulum(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class DoublePendulum:
    """The Task protocol."""

    control_dt, horizon_s = 0.05, 25.0
    script_groups = ("privileged",)

    def __init__(self, cfg: DoublePendulumCfg) -> None:
        self.cfg = cfg
        self.gain = torch.from_numpy(lqr(mujoco.MjModel.from_xml_string(XML), 5)).float()

    def scene(self) -> mujoco.MjSpec:
        """Return the cart and its poles."""
        return mujoco.MjSpec.from_string(XML)

    def action_spec(self) -> ActionSpec:
        """Return one number; `control` reads the action itself, a share of FORCE_N."""
        return unlimited(("slider",), self.control_dt)

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return what the student sees and what the teacher knows."""
        seen = tuple(Term(name=f"position_{age}", elements=JOINTS, unit="m, rad") for age in range(FRAMES))
        known = tuple(Term(name=name, elements=JOINTS, unit="SI") for name in ("position", "velocity"))
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=seen),
            "privileged": ObsSpec(group="privileged", role="privileged", terms=known),
        }

    def camera_specs(self) -> dict:
        """Return none."""
        return {}

    def parameters(self) -> dict[str, Range]:
        """Return where an episode begins."""
        reach = self.cfg.start_rad / 0.8  # the outer tenths are held out
        return {"start": Range(low=(-reach,) * 3, high=(reach,) * 3, unit="m, rad")}

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task."""
        return (-1.0,), (1.0,)

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task."""
        state.sim.set("qpos", values["start"], mask)
        frames = values["start"].float().repeat(1, FRAMES)
        old = state.episode.get("frames", frames)
        state.episode["frames"] = torch.where(mask[:, None], frames, old)
        return torch.zeros(len(mask), 1)

    def control(self, command: Tensor, state: State) -> Tensor:
        """See Task."""
        return state.action.to(state.sim.get("ctrl").dtype)

    def progress(self, state: State, dt: float) -> None:
        """Remember the noisy positions of the last FRAMES steps, newest first."""
        noise = state.draws.normal("position_noise", state.episode_id, state.step, 3).float()
        now = state.sim.get("qpos").float() + self.cfg.noise_rad * noise
        state.episode["frames"] = torch.cat((now, state.episode["frames"][:, :-3]), 1)

    def observe(self, group: str, state: State) -> Tensor:
        """See Task."""
        if group == "proprio":
            return state.episode["frames"].clone()
        return torch.cat((state.sim.get("qpos"), state.sim.get("qvel")), 1).float()

    def reward(self, state: State) -> dict[str, Tensor]:
        """See Task."""
        return {"upright": (self._tip(state) > FALLEN_M).float()}

    def success(self, state: State) -> Tensor:
        """See Task: it stood for 500 steps."""
        return (state.step >= round(self.horizon_s / self.control_dt)) & (self._tip(state) > FALLEN_M)

    def terminated(self, state: State) -> Tensor:
        """See Task: it fell."""
        return self._tip(state) <= FALLEN_M

    def script(self, observations: TensorDict) -> Tensor:
        """Return -K x: the linear quadratic regulator around upright."""
        return -observations["privileged"] @ self.gain.T

    def script_constants(self) -> dict[str, Tensor]:
        """Return the gain."""
        return {"gain": self.gain}

    def _tip(self, state: State) -> Tensor:
        q = state.sim.get("qpos").float()
        return 0.6 * torch.cos(q[:, 1]) + 0.6 * torch.cos(q[:, 1] + q[:, 2])


def lqr(model: mujoco.MjModel, substeps: int) -> np.ndarray:
    """Return the gain K (1, 6) of the control step's linearised dynamics, by iterating Riccati's equation."""
    data, width = mujoco.MjData(model), 2 * model.nv

    def stepped(x: np.ndarray, u: float) -> np.ndarray:
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = x[:3], x[3:], u
        mujoco.mj_step(model, data, substeps)
        return np.concatenate((data.qpos, data.qvel))

    small = 1e-6
    a = np.stack([(stepped(small * e, 0) - stepped(-small * e, 0)) / (2 * small) for e in np.eye(width)], 1)
    b = ((stepped(np.zeros(width), small) - stepped(np.zeros(width), -small)) / (2 * small))[:, None]
    q, r = np.diag([1.0, 10, 10, 0.1, 0.1, 0.1]), np.array([[1.0]])
    p = q
    for _ in range(2000):
        gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a - b @ gain)
    return gain
