"""Lift: pick an object from the table and hold it at the height of a mark beside it.

Body: the arm of panda.py with its gripper, joint-delta control at 25 Hz. Privileged: the object's pose and
size, the goal, how the fingers press. The student sees the joints and pictures of object and mark.
Frames: everything in the arm's base frame, which is the world's; the table is at height 0. Shapes: N worlds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from robokd.tasks.bodies import panda
from robokd.tasks.parts import cameras, dynamics, lift_starts, objects
from robokd.tasks.parts.dynamics import DynamicsCfg
from robokd.tasks.parts.grasp import Grasp, grasp, way
from robokd.tasks.parts.lift_starts import OPEN_M
from tensordict import TensorDict
from torch import Tensor

from robokd import geometry
from robokd.env import native
from robokd.env.base import Range, Setup, State, TaskEnv
from robokd.registry import register
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

# what the config's ranges and single numbers may be; the start pose stays within the joints' limits
RANGES = {
    "mass_kg": (0.01, 1.0), "object_friction": (0.2, 3.0), "radius_m": (0.35, 0.65), "height_m": (0.08, 0.45),
    "stiffness": (0.1, 10.0),
}  # fmt: skip
LARGEST = {
    "azimuth_rad": 1.0, "yaw_rad": np.pi / 2, "start_rad": panda.ROOM_RAD, "camera_shift_m": 0.1,
    "camera_tilt_rad": 0.2, "joint_noise_rad": 0.05, "joint_step_rad": 0.5,
    "tolerance_m": 0.05, "hold_s": np.inf, "horizon_s": np.inf, "reach_weight": np.inf,
    "grasp_weight": np.inf, "lift_weight": np.inf, "hold_weight": np.inf, "action_rate_weight": np.inf,
    "success_reward": np.inf, "lost_penalty": np.inf,
}  # fmt: skip
SIZES_M = 0.01, 0.035  # smallest half size, and the largest across which the hand can close
TILT = 0.6  # cosine of how far an object may lean and not be lost
ROAM_M, ROAM_RAD = 0.08, 0.2  # how far beyond the places of objects it may roll and not be lost
SCRIPT_GAIN = 0.3  # of the scripted controller: share of the remaining way asked for in one control step
MARK_M = 0.03  # radius of the mark
MARK_AT = (0.36, 0.30)  # m
_FRONT = np.array([0.98, 0.0, 0.48]), np.array([0.44, 0.04, 0.10])  # from, at; m
_OUTSIDE = np.array([1.15, -1.05, 0.75]), np.array([0.40, 0.0, 0.20])
_WRIST = (0.1830127, 0.6830127, 0.6830127, 0.1830127)  # along the hand, turned 30 degrees to its tip
_MOVED = ("front", "wrist")


@register("task", "lift")
@dataclass(kw_only=True)
class LiftCfg(DynamicsCfg):
    """Pick an object from a table and hold it at a marked height; the student sees depth or colour."""

    tolerance_m: float = 0.03  # of the object's height
    hold_s: float = 0.4  # how long within the tolerance
    horizon_s: float = 5.0
    joint_step_rad: float = 0.04  # target motion per control step at |action| = 1
    shapes: tuple[str, ...] = ("box", "cylinder", "sphere")  # that are seen in training
    held_out: tuple[str, ...] = ("capsule", "compound")
    size_low: tuple[float, ...] = (0.02, 0.014, 0.018)  # half sizes, m: long way, way across, height
    size_high: tuple[float, ...] = (0.045, 0.03, 0.035)
    mass_kg: tuple[float, float] = (0.05, 0.25)
    object_friction: tuple[float, float] = (0.6, 1.2)
    azimuth_rad: float = 0.5  # the object's, both ways
    radius_m: tuple[float, float] = (0.4, 0.6)  # its distance from the base axis
    yaw_rad: float = 0.8  # how it is turned, both ways
    height_m: tuple[float, float] = (0.12, 0.3)  # of the goal
    start_rad: float = 0.15  # start pose around the ready pose, both ways
    stiffness: tuple[float, float] = (0.8, 1.2)  # factor on the joint gains
    camera_shift_m: float = 0.005  # both ways, each axis
    camera_tilt_rad: float = 0.005  # both ways, each axis
    joint_noise_rad: float = 0.002  # largest standard deviation of the measured joint positions
    reach_weight: float = 0.1  # rewards per control step; see Lift.reward
    grasp_weight: float = 0.06
    lift_weight: float = 0.08
    hold_weight: float = 0.03
    action_rate_weight: float = 0.01  # cost of mean squared changes of the action
    success_reward: float = 1.0
    lost_penalty: float = 12.0  # more than what is left of the worst episode costs, discounted

    def __post_init__(self) -> None:
        super().__post_init__()
        dynamics.parameters(self, len(Lift.joints), Lift.control_dt)
        for name in ("shapes", "held_out"):
            got = getattr(self, name)
            if not got or not set(got) <= set(objects.SHAPES):
                known = ", ".join(objects.SHAPES)
                raise ValueError(f"task.{name} must name one shape or more of {known}, got {list(got)}")
        _check_numbers(self)
        low, high = self.size_low, self.size_high
        if len(low) != 3 or len(high) != 3 or any(a > b for a, b in zip(low, high, strict=True)):
            got = f"{list(low)} and {list(high)}"
            raise ValueError(f"task.size_low and size_high must be 3 half sizes each, low <= high, got {got}")
        if min(low) < SIZES_M[0] or high[1] > SIZES_M[1]:
            wanted = (
                f"size_low >= {SIZES_M[0]} m and size_high[1], to close the hand across, <= {SIZES_M[1]} m"
            )
            raise ValueError(f"task wants {wanted}, got {list(low)} and {high[1]}")

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(Lift(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


def _check_numbers(cfg: LiftCfg) -> None:
    for name, (lowest, highest) in RANGES.items():
        low, high = getattr(cfg, name)
        if not lowest <= low <= high <= highest:
            wanted = f"[low, high] within [{lowest}, {highest}]"
            raise ValueError(f"task.{name} must be {wanted}, got [{low}, {high}]")
    for name, highest in LARGEST.items():
        if not 0 <= getattr(cfg, name) <= highest:
            raise ValueError(f"task.{name} must be in [0, {highest}], got {getattr(cfg, name)}")
    for name in ("tolerance_m", "joint_step_rad"):
        if getattr(cfg, name) == 0:
            raise ValueError(f"task.{name} must be > 0, got 0")
    if cfg.hold_s >= cfg.horizon_s:
        raise ValueError(f"task.hold_s must be < horizon_s, {cfg.horizon_s} s, got {cfg.hold_s}")


class Lift:
    """The Task protocol; see DESIGN for who calls what."""

    control_dt = 0.04
    joints = (*panda.JOINTS, panda.FINGERS[0])  # the other finger mirrors this one
    script_groups = ("privileged",)
    has_reference_states = True

    def __init__(self, cfg: LiftCfg) -> None:
        self.cfg = cfg
        self.horizon_s = cfg.horizon_s

    def scene(self) -> mujoco.MjSpec:
        """Return the arm on a table, the object, the mark (seen, never touched) and the cameras."""
        import mujoco

        spec = panda.spec()
        # as MuJoCo is by default, a ball creeps out of the grasp in 3 s
        spec.option.cone, spec.option.impratio = mujoco.mjtCone.mjCONE_ELLIPTIC, 10.0
        table = spec.worldbody.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1])
        table.rgba = [0.5, 0.55, 0.6, 1]
        cameras.light(spec)
        fingers = [f"{part}_{side}" for part in ("finger", "pad") for side in ("left", "right")]
        objects.add(spec, rgba=(0.9, 0.3, 0.1, 1.0), touched_by=("table", "hand", *fingers))
        mark = spec.worldbody.add_body(name="mark", mocap=True, pos=[*MARK_AT, 0.2])
        mark.add_geom(
            name="mark", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[MARK_M, 0, 0], contype=0, conaffinity=0,
            rgba=[0.2, 0.7, 0.3, 1],
        )  # fmt: skip
        cameras.add(spec, tuple(self.camera_specs().values()))
        return spec

    def action_spec(self) -> ActionSpec:
        """Return joint-delta control of the 7 joints and, in metres, the gripper within published limits."""
        speed = panda.GRIPPER_VELOCITY
        return ActionSpec(
            names=self.joints, scale=(self.cfg.joint_step_rad,) * 7 + (speed * self.control_dt,),
            control_dt=self.control_dt, position_lower=(*panda.LOWER, panda.GRIPPER_LIMITS_M[0]),
            position_upper=(*panda.UPPER, OPEN_M), velocity=(*panda.VELOCITY, speed),
            acceleration=(*panda.ACCELERATION, panda.GRIPPER_ACCELERATION), units=("rad",) * 7 + ("m",),
        )  # fmt: skip

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return the groups proprio (a robot has it), privileged (teacher) and physics (critic)."""
        axes = ("x", "y", "z")

        def group(name: str, role: str, **terms: tuple[tuple[str, ...], str]) -> ObsSpec:
            made = tuple(Term(name=key, elements=rows, unit=unit) for key, (rows, unit) in terms.items())
            return ObsSpec(group=name, role=role, terms=made)

        return {
            "proprio": group(
                "proprio", "proprio", joint_pos=(self.joints, "rad"), joint_vel=(self.joints, "rad/s"),
                command_rate=(self.joints, "rad/s"),
            ),
            "privileged": group(
                "privileged", "privileged", tip_position=(axes, "m"), object_position=(axes, "m"),
                grasp_from_tip=(axes, "m"), hand_down=(axes[:2], "1"), hand_turn=(("yaw",), "rad"),
                half_size=(axes, "m"), goal_from_object=(("z",), "m"), grip=(panda.FINGERS, "10 N"),
                object_velocity=(axes, "m/s"), way=(self.joints, "rad, m"),
            ),
            "physics": group(
                "physics", "privileged", shape=(objects.SHAPES, "1"), mass=(("mass",), "kg"),
                friction=(("friction",), "1"), stiffness=(panda.JOINTS, "1"), held=(("held",), "s"),
            ),
        }  # fmt: skip

    def camera_specs(self) -> dict[str, CameraSpec]:
        """Return the front camera (depth and colour), the wrist camera and one for people."""
        views = {
            name: tuple(geometry.look_at(*view, np).tolist())
            for name, view in (("front", _FRONT), ("out", _OUTSIDE))
        }
        front = {"fovy_deg": 55, "position_m": tuple(_FRONT[0].tolist()), "quaternion_wxyz": views["front"]}
        return {
            "front": CameraSpec(name="front", near_m=0.25, far_m=1.25, **front),
            "wrist": CameraSpec(
                name="wrist", fovy_deg=70, near_m=0.03, far_m=0.83, mount="hand",
                position_m=(0.07, 0.0, 0.05), quaternion_wxyz=_WRIST,
            ),
            "front_rgb": CameraSpec(name="front_rgb", view="front", encoding="rgb_u8", **front),
            "outside": CameraSpec(
                name="outside", width=192, height=144, fovy_deg=45, near_m=0.6, far_m=2.6,
                encoding="rgb_u8", position_m=tuple(_OUTSIDE[0].tolist()), quaternion_wxyz=views["out"],
            ),
        }  # fmt: skip

    def parameters(self) -> dict[str, Range]:
        """Return what differs between episodes; the outer tenth of each range is held out."""
        cfg = self.cfg
        return {
            "shape": Range(low=(0.0,), high=(1.0,), unit="1"),
            "size": Range(low=cfg.size_low, high=cfg.size_high, unit="m"),
            "object_mass": Range(low=cfg.mass_kg[:1], high=cfg.mass_kg[1:], unit="kg"),
            "object_friction": Range(low=cfg.object_friction[:1], high=cfg.object_friction[1:], unit="1"),
            "place": Range(
                low=(-cfg.azimuth_rad, cfg.radius_m[0], -cfg.yaw_rad),
                high=(cfg.azimuth_rad, cfg.radius_m[1], cfg.yaw_rad),
                unit="rad, m, rad",
            ),
            "goal": Range(low=cfg.height_m[:1], high=cfg.height_m[1:], unit="m"),
            "start": Range(low=(-cfg.start_rad,) * 7, high=(cfg.start_rad,) * 7, unit="rad"),
            "stiffness": Range(low=(cfg.stiffness[0],) * 7, high=(cfg.stiffness[1],) * 7, unit="1"),
            "joint_noise": Range(low=(0.0,), high=(cfg.joint_noise_rad,), unit="rad"),
            **cameras.parameters(_MOVED, cfg.camera_shift_m, cfg.camera_tilt_rad),
            **dynamics.parameters(cfg, len(self.joints), self.control_dt),
        }

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task.start_envelope."""
        # as measured, so with room for the sensors' noise
        noise = 5 * self.cfg.joint_noise_rad
        reach = self.cfg.start_rad + noise
        lower, upper = tuple(q - reach for q in panda.HOME), tuple(q + reach for q in panda.HOME)
        return (*lower, OPEN_M - noise), (*upper, OPEN_M + noise)

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task.reset."""
        sim, cfg = state.sim, self.cfg
        shape = objects.shape_of(values["shape"][:, 0], cfg.shapes, cfg.held_out)
        half = objects.extents(shape, values["size"])
        mass, friction = values["object_mass"][:, 0], values["object_friction"][:, 0]
        objects.write(shape, half, mass, friction, state, mask)
        angles = torch.stack(
            [q + off for q, off in zip(panda.HOME, values["start"].unbind(1), strict=True)], 1
        )
        start, rejected = lift_starts.ready(angles, values["place"], half, cfg.radius_m, state, mask)
        goal = values["goal"][:, 0]
        if state.reference_share > 0:
            start = lift_starts.reference(start, goal, half, state)
        state.episode.update({  # of episodes that go on: what it was
            "half": half.float(), "goal": values["goal"].float(), "noise": values["joint_noise"].float(),
            "shape": torch.stack([shape == place for place in range(len(objects.SHAPES))], 1).float(),
            "physics": torch.cat((mass[:, None], friction[:, None], values["stiffness"]), 1).float(),
            "rejected": state.episode.get("rejected", torch.zeros_like(rejected)) + rejected,
            "held": state.episode.get("held", torch.zeros_like(goal)).masked_fill(mask, 0.0),
        })  # fmt: skip
        mark = torch.stack((torch.full_like(goal, MARK_AT[0]), torch.full_like(goal, MARK_AT[1]), goal), 1)
        sim.set("mocap_pos", mark[:, None, :], mask)
        qpos = sim.get("qpos").clone()
        qpos[:, :7], qpos[:, 7:9], qpos[:, 9:12] = start.angles, start.finger[:, None], start.position
        about = torch.nn.functional.pad(start.yaw[:, None], (2, 0))
        qpos[:, 12:16] = geometry.from_rotation_vector(about, torch).to(qpos)
        sim.set("qpos", qpos, mask)
        panda.set_gains(values["stiffness"], sim, mask)
        drawn = {name: values[name] for name in dynamics.FIELDS if name in values}
        both = {name: torch.cat((value, value[:, -1:]), 1) for name, value in drawn.items()}
        dynamics.write(values | both, state, mask, range(9))
        if state.is_seen:
            cameras.move(_MOVED, values, state, mask)
        return torch.cat((start.angles, start.target[:, None]), 1)

    def control(self, command: Tensor, state: State) -> Tensor:
        """Return the joint targets; both fingers follow one command."""
        target = dynamics.delayed(command, state)
        return torch.cat((target, target[:, 7:]), 1).to(state.sim.get("ctrl"))

    def progress(self, state: State, dt: float) -> None:
        """Count the time within the tolerance."""
        seen = grasp(state)
        inside = (seen.object[:, 2] - state.episode["goal"][:, 0]).abs() <= self.cfg.tolerance_m
        held = state.episode["held"]
        state.episode["held"] = torch.where(inside & seen.is_grasped, held + dt, 0.0)

    def observe(self, group: str, state: State) -> Tensor:
        """See Task.observe. Joint noise is drawn afresh every control step."""
        sim, episode = state.sim, state.episode
        if group == "proprio":
            position, velocity = sim.get("qpos")[:, :8].float(), sim.get("qvel")[:, :8].float()
            noise = state.draws.normal("joint_noise", state.episode_id, state.step, 16).float()
            noise = (noise * episode["noise"]).unflatten(1, (2, 8))
            noise[:, :, 7] *= 0.1  # metres
            # a differentiated encoder: its speed is several times noisier than its angle
            parts = (position + noise[:, 0], velocity + 5 * noise[:, 1], state.rate)
        elif group == "privileged":
            seen, goal = grasp(state), episode["goal"]
            parts = (
                seen.tip, seen.object, seen.way, seen.down[:, :2], seen.turn[:, None], episode["half"],
                goal - seen.object[:, 2:], (seen.grip / 10).clamp(max=2.0), sim.get("qvel")[:, 9:12].float(),
                way(seen, goal[:, 0], sim.get("qpos")[:, :8].float()),
            )  # fmt: skip
        else:
            parts = (episode["shape"], episode["physics"], episode["held"].float()[:, None])
        return torch.cat(parts, 1)

    def reward(self, state: State) -> dict[str, Tensor]:
        """Return what is paid for the stages, none positive before success: approach, grasp, lift and hold.

        Each is 0 when it is done: so an end by success costs nothing that waiting would have paid.
        """
        cfg, episode = self.cfg, state.episode
        seen = grasp(state)
        distance = torch.linalg.vector_norm(seen.way, dim=1)
        along = torch.cat((seen.way[:, :2], (seen.way[:, 2] + seen.above)[:, None]), 1)
        funnel = torch.linalg.vector_norm(along, dim=1) + 0.5 * seen.above
        height, goal, rest = seen.object[:, 2], episode["goal"][:, 0], episode["half"][:, 2]
        grasped = seen.is_grasped.float()
        near = torch.exp(-((distance / 0.02) ** 2)) * torch.exp(-((seen.turn / 0.3) ** 2))
        opened = state.sim.get("qpos")[:, 7].float()
        wanted = OPEN_M + near * (episode["half"][:, 1] - OPEN_M)
        lifted = ((height - rest) / (goal - rest)).clamp(0.0, 1.0) * grasped
        off = (height - goal) / cfg.tolerance_m
        change = state.action - state.previous_action
        reach = 0.5 * (funnel / 0.6).clamp(max=1.0) + 0.5 * torch.tanh(funnel / 0.03)
        return {
            "reach": -cfg.reach_weight * (reach + 0.5 * (seen.down[:, 2] + 1) + 0.3 * seen.turn.abs()),
            "grasp": -cfg.grasp_weight * (1 - grasped) * (0.4 + 0.6 * (opened - wanted).abs() / OPEN_M),
            "lift": -cfg.lift_weight * (1 - lifted),
            "hold": -cfg.hold_weight * (1 - torch.exp(-(off**2)) * grasped),
            "action_rate": -cfg.action_rate_weight * (change**2).mean(1),
            "success": cfg.success_reward * self.success(state).float(),
            "lost": -cfg.lost_penalty * self._is_lost(state, seen).float(),
        }

    def success(self, state: State) -> Tensor:
        """See Task.success: grasped and within the tolerance for hold_s."""
        return state.episode["held"] >= self.cfg.hold_s - 1e-6

    def terminated(self, state: State) -> Tensor:
        """See Task.terminated: success ends the episode, and an object that was knocked over or away."""
        return self.success(state) | self._is_lost(state, grasp(state))

    def _is_lost(self, state: State, seen: Grasp) -> Tensor:
        """Return where nobody holds the object, and it lies on its side or far from where objects stand."""
        sim, cfg, (x, y) = state.sim, self.cfg, seen.object[:, :2].unbind(1)
        up = sim.get("xmat")[:, sim.model.body("object").id, 8].float()
        rolls = state.episode["shape"][:, objects.ROLLING].sum(1) > 0  # and is none the worse for it
        radius, azimuth = torch.hypot(x, y), torch.atan2(y, x).abs()
        near, far = cfg.radius_m
        is_away = (radius < near - ROAM_M) | (radius > far + ROAM_M) | (azimuth > cfg.azimuth_rad + ROAM_RAD)
        return ~seen.is_grasped & (is_away | ((up < TILT) & ~rolls))

    def script(self, observations: TensorDict) -> Tensor:
        """Return actions (N, 8) in [-1, 1] that take a share of the way; the arm is slowed as a whole."""
        place = self.obs_specs()["privileged"].slices()["way"]
        share = SCRIPT_GAIN * observations["privileged"][:, place]
        *_, arm_step, gripper_step = self.action_spec().scale
        arm, gripper = share[:, :7] / arm_step, share[:, 7:] / gripper_step
        return torch.cat((arm / arm.abs().amax(1, keepdim=True).clamp(min=1.0), gripper.clip(-1, 1)), 1)

    def script_constants(self) -> dict[str, Tensor]:
        """Return the numbers that decide `script` beside its code."""
        return {"scale": torch.tensor(self.action_spec().scale)}
