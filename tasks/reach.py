"""Reach: bring the tip between the fingers to a floating sphere and keep it there.

Body: the arm of panda.py, joint-delta control at 25 Hz. Privileged: where the sphere is. The student sees the
joints and depth pictures. Frames: everything in the arm's base frame, which is the world's.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from robokd.tasks.bodies import panda
from robokd.tasks.parts import cameras, dynamics
from robokd.tasks.parts.dynamics import DynamicsCfg
from tensordict import TensorDict
from torch import Tensor

from robokd import geometry
from robokd.env import native
from robokd.env.base import Range, Setup, State, TaskEnv
from robokd.registry import register
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import Sim, SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

GOAL_RADIUS_M = 0.05
# what the config's ranges and single numbers may be; the start pose stays within the joints' limits
RANGES = {"radius_m": (0.2, 0.85), "height_m": (0.0, 1.0), "stiffness": (0.1, 10.0)}
LARGEST = {
    "azimuth_rad": np.pi, "start_rad": panda.ROOM_RAD, "camera_shift_m": 0.1, "camera_tilt_rad": 0.2,
    "joint_noise_rad": 0.05, "joint_step_rad": 0.5, "distance_weight": np.inf, "near_weight": np.inf,
    "action_weight": np.inf, "action_rate_weight": np.inf, "success_reward": np.inf,
}  # fmt: skip
# of the scripted controller, found by trial on the validation stream
SCRIPT_GAIN = 0.3  # share of the remaining distance that is asked for in one control step
SCRIPT_DAMPING_M = 0.05  # of the least squares
SCRIPT_HOMING = 0.05  # share of the way to the ready pose, in one control step, where the tip does not mind
_MOVED = ("front", "wrist")
_FRONT = np.array([1.30, 0.0, 0.60]), np.array([0.45, 0.0, 0.31])  # from, at; m
_OUTSIDE = np.array([1.05, -1.25, 0.85]), np.array([0.30, 0.0, 0.32])


@register("task", "reach")
@dataclass(kw_only=True)
class ReachCfg(DynamicsCfg):
    """Reach a floating sphere with a 7-joint arm; the student sees depth pictures."""

    tolerance_m: float = 0.02  # tip to sphere centre
    hold_s: float = 0.4  # how long within the tolerance
    horizon_s: float = 4.0
    joint_step_rad: float = 0.06  # target motion per control step at |action| = 1
    azimuth_rad: float = 0.7  # the sphere's, both ways
    radius_m: tuple[float, float] = (0.35, 0.65)  # the sphere's distance from the base axis
    height_m: tuple[float, float] = (0.10, 0.55)
    start_rad: float = 0.25  # start pose around the ready pose, both ways
    stiffness: tuple[float, float] = (0.8, 1.2)  # factor on the joint gains
    camera_shift_m: float = 0.005  # both ways, each axis
    camera_tilt_rad: float = 0.005  # both ways, each axis
    joint_noise_rad: float = 0.002  # largest standard deviation of the measured joint positions
    distance_weight: float = 1.0  # reward per metre and control step
    near_weight: float = 0.3  # reward for being within about 1.5 tolerances, per control step
    action_weight: float = 0.02  # cost of mean squared actions
    action_rate_weight: float = 0.05  # cost of mean squared changes of the action
    success_reward: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        dynamics.parameters(self, len(panda.JOINTS), Reach.control_dt)
        if not 0 < self.tolerance_m <= GOAL_RADIUS_M:
            raise ValueError(f"task.tolerance_m must be in (0, {GOAL_RADIUS_M}] m, got {self.tolerance_m}")
        if not 0 <= self.hold_s < self.horizon_s:
            raise ValueError(f"task.hold_s must be in [0, {self.horizon_s}) s, got {self.hold_s}")
        for name, (lowest, highest) in RANGES.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"task.{name} must be [low, high] within [{lowest}, {highest}], got [{low}, {high}]"
                )
        for name, highest in LARGEST.items():
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(f"task.{name} must be in [0, {highest}], got {getattr(self, name)}")
        if self.joint_step_rad == 0:
            raise ValueError("task.joint_step_rad must be > 0, got 0: the arm could not move")

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(Reach(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class Seen(NamedTuple):
    """Live views of a simulation."""

    tip: Tensor  # (N, 3), m
    position: Tensor  # (N, 7), rad
    velocity: Tensor  # (N, 7), rad/s
    fingers: Tensor  # (N, 2), m
    gripper: Tensor  # (N, 2), m, what they are told: no view, always the same


class Reach:
    """The Task protocol; see DESIGN for who calls what."""

    control_dt = 0.04
    script_groups = ("proprio", "privileged")

    def __init__(self, cfg: ReachCfg) -> None:
        self.cfg = cfg
        self.horizon_s = cfg.horizon_s
        # a differentiated encoder: its speed is several times noisier than its angle
        self._noise = torch.tensor([1.0] * 7 + [5.0] * 7)
        self._home = torch.tensor(panda.HOME, dtype=torch.float64)
        self._placed: dict[tuple[torch.device, str], Tensor] = {}
        self._seen_of: tuple[Sim, Seen] | None = None
        self._reward = {
            name: getattr(cfg, f"{name}_weight") for name in ("distance", "near", "action", "action_rate")
        }

    def scene(self) -> mujoco.MjSpec:
        """Return the arm, a floor, the sphere (seen, never touched) and the cameras."""
        import mujoco

        spec = panda.spec()
        floor = spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1])
        floor.rgba = [0.5, 0.55, 0.6, 1]
        cameras.light(spec)
        goal = spec.worldbody.add_body(name="goal", mocap=True, pos=[0.5, 0, 0.4])
        goal.add_geom(
            name="goal", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[GOAL_RADIUS_M, 0, 0], contype=0,
            conaffinity=0, rgba=[0.9, 0.3, 0.1, 1],
        )  # fmt: skip
        cameras.add(spec, tuple(self.camera_specs().values()))
        return spec

    def action_spec(self) -> ActionSpec:
        """Return joint-delta control of the 7 joints within the published limits."""
        return ActionSpec(
            names=panda.JOINTS, scale=(self.cfg.joint_step_rad,) * 7, control_dt=self.control_dt,
            position_lower=panda.LOWER, position_upper=panda.UPPER, velocity=panda.VELOCITY,
            acceleration=panda.ACCELERATION,
        )  # fmt: skip

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return the groups proprio (a robot has it), privileged (teacher) and physics (critic)."""
        joints, axes = panda.JOINTS, ("x", "y", "z")
        position = Term(name="joint_pos", elements=joints, unit="rad")
        velocity = Term(name="joint_vel", elements=joints, unit="rad/s")
        rate = Term(name="command_rate", elements=joints, unit="rad/s")
        goal, tip, offset = (
            Term(name=name, elements=axes, unit="m")
            for name in ("goal_position", "tip_position", "goal_from_tip")
        )
        stiffness = Term(name="stiffness", elements=joints, unit="1")
        held = Term(name="held", elements=("time",), unit="s")
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=(position, velocity, rate)),
            "privileged": ObsSpec(group="privileged", role="privileged", terms=(goal, tip, offset)),
            "physics": ObsSpec(
                group="physics", role="privileged", terms=(position, velocity, stiffness, held)
            ),
        }

    def camera_specs(self) -> dict[str, CameraSpec]:
        """Return front and wrist for students; outside is for people."""
        views = {
            name: tuple(geometry.look_at(*view, np).tolist())
            for name, view in (("front", _FRONT), ("out", _OUTSIDE))
        }
        return {
            "front": CameraSpec(
                name="front", fovy_deg=60, near_m=0.4, far_m=1.4, position_m=tuple(_FRONT[0].tolist()),
                quaternion_wxyz=views["front"],
            ),
            "wrist": CameraSpec(
                name="wrist", fovy_deg=80, near_m=0.03, far_m=1.03, mount="hand", position_m=(0.07, 0.0, 0.0),
                quaternion_wxyz=(0.0, 0.70710678, 0.70710678, 0.0),
            ),
            "outside": CameraSpec(
                name="outside", width=192, height=144, fovy_deg=45, near_m=0.6, far_m=2.6,
                encoding="rgb_u8", position_m=tuple(_OUTSIDE[0].tolist()), quaternion_wxyz=views["out"],
            ),
        }  # fmt: skip

    def parameters(self) -> dict[str, Range]:
        """Return what differs between episodes; the outer tenth of each range is held out."""
        cfg = self.cfg
        return {
            "goal": Range(
                low=(-cfg.azimuth_rad, cfg.radius_m[0], cfg.height_m[0]),
                high=(cfg.azimuth_rad, cfg.radius_m[1], cfg.height_m[1]),
                unit="rad, m, m",
            ),
            "start": Range(low=(-cfg.start_rad,) * 7, high=(cfg.start_rad,) * 7, unit="rad"),
            "stiffness": Range(low=(cfg.stiffness[0],) * 7, high=(cfg.stiffness[1],) * 7, unit="1"),
            "joint_noise": Range(low=(0.0,), high=(cfg.joint_noise_rad,), unit="rad"),
            **cameras.parameters(_MOVED, cfg.camera_shift_m, cfg.camera_tilt_rad),
            **dynamics.parameters(cfg, len(panda.JOINTS), self.control_dt),
        }

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task.start_envelope."""
        # as measured, so with room for the sensors' noise
        reach = self.cfg.start_rad + 5 * self.cfg.joint_noise_rad
        return tuple(q - reach for q in panda.HOME), tuple(q + reach for q in panda.HOME)

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task.reset."""
        sim, episode = state.sim, state.episode
        azimuth, radius, height = values["goal"].unbind(1)
        goal = torch.stack((radius * torch.cos(azimuth), radius * torch.sin(azimuth), height), 1)
        stiffness, noise = values["stiffness"], values["joint_noise"]
        for name, value in (("goal", goal), ("stiffness", stiffness), ("joint_noise", noise)):
            episode[name] = value.float()  # of episodes that go on: what it was
        held = episode.get("held", None)
        episode["held"] = torch.zeros_like(azimuth) if held is None else held * ~mask
        sim.set("mocap_pos", goal[:, None, :], mask)
        start = self._on(goal.device, "home", self._home) + values["start"]
        sim.set("qpos", torch.cat((start, self._seen(sim).fingers), 1), mask)
        panda.set_gains(stiffness, sim, mask)
        dynamics.write(values, state, mask, range(7))
        if state.is_seen:
            cameras.move(_MOVED, values, state, mask)
        return start

    def control(self, command: Tensor, state: State) -> Tensor:
        """Return the joint targets beside the gripper's, which stays half open."""
        gripper = self._seen(state.sim).gripper
        return torch.cat((dynamics.delayed(command, state).to(gripper.dtype), gripper), 1)

    def progress(self, state: State, dt: float) -> None:
        """Count the time within the tolerance."""
        distance, episode = self.distance(state), state.episode
        episode["distance"] = distance  # which the reward asks for again
        episode["held"] = (episode["held"] + dt) * (distance <= self.cfg.tolerance_m)

    def observe(self, group: str, state: State) -> Tensor:
        """See Task.observe. Joint noise is drawn afresh every control step."""
        episode = state.episode
        if group == "privileged":
            tip, goal = self._tip(state), episode["goal"]
            return torch.cat((goal, tip, goal - tip), 1)
        seen = self._seen(state.sim)
        joints = torch.cat((seen.position, seen.velocity), 1).float()
        if group == "physics":
            return torch.cat((joints, episode["stiffness"], episode["held"].float()[:, None]), 1)
        noise = state.draws.normal("joint_noise", state.episode_id, state.step, 14).float()
        scale = self._on(noise.device, "noise", self._noise)
        return torch.cat((joints + noise * episode["joint_noise"] * scale, state.rate), 1)

    def reward(self, state: State) -> dict[str, Tensor]:
        """Return what is paid for nearness and success, and charged for large and jerky actions."""
        distance, weight = state.episode["distance"], self._reward
        change, share = state.action - state.previous_action, distance / (1.5 * self.cfg.tolerance_m)
        return {
            "distance": -weight["distance"] * distance,
            "near": weight["near"] * (torch.exp(-share * share) - 1),
            "action": -weight["action"] / 7 * (state.action * state.action).sum(1),
            "action_rate": -weight["action_rate"] / 7 * (change * change).sum(1),
            "success": self.cfg.success_reward * self.success(state).float(),
        }

    def success(self, state: State) -> Tensor:
        """See Task.success: within the tolerance for hold_s."""
        return state.episode["held"] >= self.cfg.hold_s - 1e-6

    def terminated(self, state: State) -> Tensor:
        """See Task.terminated: success ends the episode."""
        return self.success(state)

    def distance(self, state: State) -> Tensor:
        """Return tip to sphere centre (N,), m."""
        way = state.episode["goal"] - self._tip(state)
        return (way * way).sum(1).sqrt()

    def script(self, observations: TensorDict) -> Tensor:
        """Return actions (N, 7) in [-1, 1] of a resolved-rate controller from the groups `script_groups`.

        dq = J# g e + (1 - J# J) h (home - q), J# = J' (J J' + d^2)^-1, e the way from tip to sphere; slowed
        as a whole where a joint would be too fast. The servos' lag is what bounds g.
        Source: Wampler (1986), damped least squares; Liegeois (1977), motion that leaves the tip alone.
        """
        specs, read = self.obs_specs(), {}
        for group in self.script_groups:
            read |= {name: observations[group][:, place] for name, place in specs[group].slices().items()}
        angles = read["joint_pos"]
        jacobian = self._tip_jacobian(angles)
        square = jacobian @ jacobian.mT + SCRIPT_DAMPING_M**2 * torch.eye(3, device=angles.device)
        home = SCRIPT_HOMING * (self._on(angles.device, "home", self._home).to(angles) - angles)
        toward = SCRIPT_GAIN * read["goal_from_tip"] - _apply(jacobian, home)
        # never singular, so nobody has to wait to learn whether it was
        step = home + _apply(jacobian.mT, torch.linalg.solve_ex(square, toward).result)
        action = step / self.cfg.joint_step_rad
        return action / action.abs().amax(1, keepdim=True).clamp(min=1.0)

    def script_constants(self) -> dict[str, Tensor]:
        """Return the numbers that decide `script` beside its code."""
        offsets, turns = self._links
        step = torch.tensor(self.cfg.joint_step_rad)
        return {"offsets": offsets, "turns": turns, "home": self._home, "joint_step_rad": step}

    @functools.cached_property
    def _links(self) -> tuple[Tensor, Tensor]:
        """Return each joint's frame in the one before, at angle 0, then the tip's: (8, 3) m, (8, 4)."""
        model = panda.spec().compile()
        bodies = [model.joint(name).bodyid[0] for name in panda.JOINTS]
        site, hand = model.site("tip"), model.body("hand")
        turn = torch.from_numpy(hand.quat)
        tip = torch.from_numpy(hand.pos) + geometry.rotate(turn, torch.from_numpy(site.pos), torch)
        offsets = torch.cat((torch.from_numpy(model.body_pos[bodies]), tip[None]))
        return offsets, torch.cat((torch.from_numpy(model.body_quat[bodies]), turn[None]))

    def _tip_jacobian(self, angles: Tensor) -> Tensor:
        """Return how fast the tip moves with each joint, (N, 3, 7) in m/rad, at angles (N, 7)."""
        offsets, turns = (
            self._on(angles.device, name, value).to(angles)
            for name, value in zip(("offsets", "turns"), self._links, strict=True)
        )
        up, turn = (angles.new_zeros(len(angles), size) for size in (3, 4))
        up[:, 2:], turn[:, :1] = 1.0, 1.0  # every joint turns about its own z
        origin, origins, axes = torch.zeros_like(up), [], []
        for i in range(7):
            origin = origin + geometry.rotate(turn, offsets[i].expand_as(up), torch)
            about = geometry.from_rotation_vector(up * angles[:, i : i + 1], torch)
            turn = geometry.multiply(geometry.multiply(turn, turns[i].expand_as(turn), torch), about, torch)
            origins.append(origin)
            axes.append(geometry.rotate(turn, up, torch))
        tip = origin + geometry.rotate(turn, offsets[7].expand_as(up), torch)
        return torch.linalg.cross(torch.stack(axes, 1), tip[:, None] - torch.stack(origins, 1)).mT

    def _tip(self, state: State) -> Tensor:
        return self._seen(state.sim).tip.float()

    def _seen(self, sim: Sim) -> Seen:
        """Return live views of the simulation, made once."""
        if self._seen_of is None or self._seen_of[0] is not sim:
            tip = sim.get("site_xpos")[:, sim.model.site("tip").id]
            angles, speeds, ctrl = (sim.get(name) for name in ("qpos", "qvel", "ctrl"))
            gripper = torch.full_like(ctrl[:, 7:], panda.GRIPPER_OPEN_M)
            self._seen_of = sim, Seen(tip, angles[:, :7], speeds[:, :7], angles[:, 7:], gripper)
        return self._seen_of[1]

    def _on(self, device: torch.device, name: str, value: Tensor) -> Tensor:
        """Return a constant on a device; it is copied once, because a copy from the host waits."""
        if (device, name) not in self._placed:
            self._placed[device, name] = value.to(device)
        return self._placed[device, name]


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the products of matrices (N, I, J) and vectors (N, J), (N, I)."""
    return (matrix @ vector[..., None])[..., 0]
