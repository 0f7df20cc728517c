"""A quadrotor that stays where it is told to: the light body that environments are measured with.

Mass, arms and thrust of the Crazyflie 2.x (Foerster 2015, "System identification of the Crazyflie 2.0"):
27 g, 46 mm from its middle to each rotor, 0.16 N of thrust each at most; drag torque 6 mm times the thrust.
The command of a rotor is its share of the largest thrust.
Shapes: N environments.
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from robokd.env.base import Range, State
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term

MASS_KG, ARM_M, THRUST_N, DRAG_M = 0.027, 0.046, 0.16, 0.006
INERTIA = "1.66e-5 1.66e-5 2.93e-5"  # kg m^2
START = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0)  # m and (w, x, y, z)
HOVER = MASS_KG * 9.81 / (4 * THRUST_N)  # share of the thrust that carries it
NEAR_M, ROOM_M = 0.5, 2.0  # of the goal around the start; farther from it an episode ends
_SIDES = ((1, 1, -1), (-1, 1, 1), (-1, -1, -1), (1, -1, 1))  # x, y and spin of each rotor
ROTORS = tuple(f"rotor{i}" for i in range(4))


def xml() -> str:
    """Return the model."""
    sites = "".join(
        f'<site name="rotor{i}" pos="{x * ARM_M * 0.7071:.5f} {y * ARM_M * 0.7071:.5f} 0"/>'
        for i, (x, y, _) in enumerate(_SIDES)
    )
    motors = "".join(
        f'<motor site="rotor{i}" gear="0 0 {THRUST_N} 0 0 {spin * THRUST_N * DRAG_M}" '
        'ctrllimited="true" ctrlrange="0 1"/>'
        for i, (_, _, spin) in enumerate(_SIDES)
    )
    return (
        "<mujoco><worldbody><body><freejoint/>"
        f'<inertial pos="0 0 0" mass="{MASS_KG}" diaginertia="{INERTIA}"/>'
        '<geom type="cylinder" size="0.05 0.01" contype="0" conaffinity="0" mass="0"/>'
        f"{sites}</body></worldbody><actuator>{motors}</actuator></mujoco>"
    )


class Hover:
    """The Task protocol."""

    control_dt, horizon_s = 0.01, 5.0

    def scene(self) -> mujoco.MjSpec:
        """See Task."""
        return mujoco.MjSpec.from_string(xml())

    def action_spec(self) -> ActionSpec:
        """Return four shares of the largest thrust, in place of joint targets."""
        return ActionSpec(
            names=ROTORS, scale=(0.2,) * 4, control_dt=self.control_dt, position_lower=(0.0,) * 4,
            position_upper=(1.0,) * 4, velocity=(20.0,) * 4, acceleration=(4000.0,) * 4,
        )  # fmt: skip

    def obs_specs(self) -> dict[str, ObsSpec]:
        """See Task."""
        axes = ("x", "y", "z")
        pose = Term(name="pose", elements=(*axes, "qw", "qx", "qy", "qz"), unit="m, 1")
        speed = Term(name="speed", elements=(*axes, "wx", "wy", "wz"), unit="m/s, rad/s")
        way = Term(name="way", elements=axes, unit="m")
        return {"proprio": ObsSpec(group="proprio", role="proprio", terms=(pose, speed, way))}

    def camera_specs(self) -> dict[str, CameraSpec]:
        """See Task."""
        return {}

    def parameters(self) -> dict[str, Range]:
        """Return where it is to stay, from the start."""
        return {"goal": Range(low=(-NEAR_M,) * 3, high=(NEAR_M,) * 3, unit="m")}

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task."""
        return (HOVER,) * 4, (HOVER,) * 4

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task."""
        qpos = torch.tensor(START, dtype=torch.float64).expand(len(mask), 7)
        state.sim.set("qpos", qpos, mask)
        goal = values["goal"] + qpos[:, :3]
        state.episode["goal"] = torch.where(mask[:, None], goal, state.episode.get("goal", goal))
        return torch.full((len(mask), 4), HOVER)

    def control(self, command: Tensor, state: State) -> Tensor:
        """See Task."""
        return command

    def progress(self, state: State, dt: float) -> None:
        """Advance nothing."""

    def observe(self, group: str, state: State) -> Tensor:
        """See Task."""
        qpos, qvel = state.sim.get("qpos"), state.sim.get("qvel")
        return torch.cat((qpos, qvel, state.episode["goal"] - qpos[:, :3]), 1).float()

    def reward(self, state: State) -> dict[str, Tensor]:
        """See Task."""
        spin = state.sim.get("qvel")[:, 3:]
        return {
            "distance": -self.distance(state), "spin": -0.01 * (spin * spin).sum(1),
            "action": -0.01 * (state.action**2).mean(1),
        }  # fmt: skip

    def success(self, state: State) -> Tensor:
        """See Task: there is none before its time is over."""
        return torch.zeros_like(state.step, dtype=torch.bool)

    def terminated(self, state: State) -> Tensor:
        """See Task: it is lost."""
        return self.distance(state) > ROOM_M

    def distance(self, state: State) -> Tensor:
        """Return how far it is from where it is to stay, (N,) m."""
        return torch.linalg.vector_norm(state.episode["goal"] - state.sim.get("qpos")[:, :3], dim=1)
