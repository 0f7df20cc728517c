"""Quadruped over terrain: follow velocity commands over flat ground, slopes, stairs, gaps, stepping stones.

Body: go2.py, joint targets around the standing pose at 42 Hz. Terrain: terrain.py. On flat ground the command
is an episode's own: ahead, sideways, turning. Elsewhere it is a speed ahead, and whoever gives it steers back
to the middle of the way. Privileged: the heights of the ground around the trunk, its velocity, what the feet
touch, friction and load. The student sees what its joints and IMU tell, and depth from its nose.
Frames: velocities and commands in the trunk's, x ahead, y left, z up. Shapes: N worlds, P points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from robokd.tasks.bodies import go2
from robokd.tasks.parts import cameras, dynamics, gait, terrain, trot
from robokd.tasks.parts.dynamics import DynamicsCfg
from robokd.tasks.parts.gait import GaitCfg
from tensordict import TensorDict
from torch import Tensor

from robokd import geometry
from robokd.env import native
from robokd.env.base import HELD_OUT, Range, Setup, State, TaskEnv
from robokd.registry import register, unknown
from robokd.specs import AXES, ActionSpec, CameraSpec, ObsSpec, Term

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

# where the heights of the ground are scanned, from the trunk: ahead and to the left, m
SCAN_X = tuple(round(-0.35 + 0.05 * i, 2) for i in range(21))  # so near that no gap hides between them
SCAN_Y = (-0.3, -0.15, 0.0, 0.15, 0.3)
SCAN_LIMIT_M = 0.5  # beyond which a height says no more
REACH_RAD = (0.5, 1.0, 1.2) * 4  # of a joint's target from the standing pose at |action| = 1
LOWEST_M = 0.1  # of the trunk, over height 0
PUSH_S = 0.2  # how long a push lasts
AIM_M = 1.5  # how far ahead whoever steers looks at the middle of the way
STEER, STEER_RAD_S = 1.5, 0.8  # turn per angle that is off, 1/s, and at most
SLACK_M, SLACK_RAD = 0.3, 0.4  # of the distance and the turn that are to be covered: standing still covers it
NOISE = {"gyro": 0.1, "gravity": 0.03, "joint_pos": 0.01, "joint_vel": 0.4}  # at noise = 1, in their units
_AHEAD, _OUTSIDE = np.array([1.0, 0.0, -0.7]), np.array([-1.0, -1.7, 0.9])  # of the cameras, from the trunk
# what a step leaves in the episode beside gait.TRACES: sums over time, of distance and turn
_SUMS = {"covered": 2, "wanted": 2, "off": 2}


@register("task", "quadruped_terrain")
@dataclass(kw_only=True)
class QuadrupedTerrainCfg(DynamicsCfg, GaitCfg):
    """Follow velocity commands on four legs over terrain; the student sees depth from its nose."""

    terrains: tuple[str, ...] = ("flat", "slope", "stairs", "gaps")  # also stones
    difficulty: tuple[float, float] = (0.0, 1.0)  # see terrain.py for what 1 is
    horizon_s: float = 9.0
    speed_m_s: tuple[float, float] = (0.3, 0.8)  # ahead, where it is not flat
    ahead_m_s: tuple[float, float] = (-0.6, 1.0)  # on flat ground
    sideways_m_s: float = 0.4  # on flat ground, both ways
    turn_rad_s: float = 0.8  # on flat ground, both ways
    speed_error: float = 0.25  # m/s, mean distance to the commanded velocity over strides, of a success
    turn_error: float = 0.3  # rad/s, of a success
    share: float = 0.75  # of the commanded distance that is covered, of a success
    friction: tuple[float, float] = (0.5, 1.2)  # of the feet
    load_kg: tuple[float, float] = (-1.0, 3.0)  # on the trunk
    load_shift_m: float = 0.04  # of the trunk's centre of mass, both ways, each axis
    stiffness: tuple[float, float] = (0.9, 1.1)  # factor on the joint gains
    push_n: float = 50.0  # largest push, both ways, each axis
    start_rad: float = 0.15  # of each joint from the standing pose, both ways
    start_yaw_rad: float = 0.3  # both ways
    start_m_s: float = 0.3  # both ways
    noise: float = 1.0  # largest of an episode, as a factor on what the sensors usually have
    camera_shift_m: float = 0.005  # both ways, each axis
    camera_tilt_rad: float = 0.01  # both ways, each axis

    def __post_init__(self) -> None:
        super().__post_init__()
        dynamics.parameters(self, len(go2.JOINTS), QuadrupedTerrain.control_dt)
        for name in self.terrains or ("",):
            if name not in terrain.KINDS:
                raise ValueError(f"task.terrains: {unknown('terrain', name, terrain.KINDS)}")
        for name, (lowest, highest) in {
            "difficulty": (0, 3), "speed_m_s": (0, 2), "ahead_m_s": (-2, 2), "friction": (0.1, 3),
            "load_kg": (-3, 10), "stiffness": (0.5, 2),
        }.items():  # fmt: skip
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                wanted = f"[low, high] within [{lowest}, {highest}]"
                raise ValueError(f"task.{name} must be {wanted}, got [{low}, {high}]")
        for name, highest in {
            "sideways_m_s": 1.5, "turn_rad_s": 3, "load_shift_m": 0.1, "push_n": 200, "start_rad": 0.5,
            "start_yaw_rad": math.pi, "start_m_s": 1, "noise": 5, "camera_shift_m": 0.1,
            "camera_tilt_rad": 0.2, "share": 1,
            **{name: math.inf for name in self.__dataclass_fields__ if name.endswith("_weight")},
        }.items():  # fmt: skip
            if not 0 <= getattr(self, name) <= highest:
                raise ValueError(f"task.{name} must be in [0, {highest}], got {getattr(self, name)}")
        for name in ("horizon_s", "speed_error", "turn_error", "share"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"task.{name} must be > 0, got {getattr(self, name)}")

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(QuadrupedTerrain(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class QuadrupedTerrain:
    """The Task protocol; see DESIGN for who calls what."""

    control_dt = 0.024
    script_groups = ("proprio", "privileged", "physics")

    def __init__(self, cfg: QuadrupedTerrainCfg) -> None:
        self.cfg = cfg
        self.horizon_s = cfg.horizon_s
        self._stand = torch.tensor(go2.STAND, dtype=torch.float64)
        self._kinds = torch.tensor([terrain.KINDS.index(name) for name in cfg.terrains])
        grid = torch.meshgrid(torch.tensor(SCAN_X), torch.tensor(SCAN_Y), indexing="ij")
        self._scan = torch.stack(grid, -1).reshape(-1, 2)

    def scene(self) -> mujoco.MjSpec:
        """Return the robot, a plane, the boxes of the terrain (placed at reset) and the cameras."""
        import mujoco

        spec = go2.spec()
        cameras.light(spec)
        terrain.add(spec)
        cameras.add(spec, tuple(self.camera_specs().values()))
        spec.camera("outside").mode = mujoco.mjtCamLight.mjCAMLIGHT_TRACK
        return spec

    def action_spec(self) -> ActionSpec:
        """Return joint targets around the standing pose, within the published limits."""
        return ActionSpec(
            names=go2.JOINTS, mode="absolute", offset=go2.STAND, scale=REACH_RAD, control_dt=self.control_dt,
            position_lower=go2.LOWER, position_upper=go2.UPPER, velocity=go2.VELOCITY,
            acceleration=go2.ACCELERATION,
        )  # fmt: skip

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return the groups proprio (a robot has it, and is told the command), privileged and physics."""
        joints, axes = go2.JOINTS, AXES
        points = tuple(f"{x:+.2f} {y:+.2f}" for x in SCAN_X for y in SCAN_Y)

        def term(name: str, elements: tuple[str, ...], unit: str) -> Term:
            return Term(name=name, elements=elements, unit=unit)

        proprio = (
            term("gyro", axes, "rad/s"), term("gravity", axes, "1"), term("joint_pos", joints, "rad"),
            term("joint_vel", joints, "rad/s"), term("command_rate", joints, "rad/s"),
            term("velocity_command", ("ahead", "left", "turn"), "m/s, m/s, rad/s"),
            term("clock", ("sin", "cos"), "1"),
        )  # fmt: skip
        privileged = (
            term("velocity", axes, "m/s"), term("joint_target", joints, "rad"),
            term("contact", go2.FEET, "1"), term("friction", ("feet",), "1"),
            term("load", ("mass", *axes), "kg, m"), term("scan", points, "m"),
        )  # fmt: skip
        physics = (
            term("air", go2.FEET, "s"), term("stiffness", ("joints",), "1"), term("push", ("x", "y"), "N"),
            term("moved", ("ahead", "left", "turn"), "m/s, m/s, rad/s"), term("elapsed", ("time",), "s"),
            term("height", ("trunk",), "m"),
        )  # fmt: skip
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=proprio),
            "privileged": ObsSpec(group="privileged", role="privileged", terms=privileged),
            "physics": ObsSpec(group="physics", role="privileged", terms=physics),
        }

    def camera_specs(self) -> dict[str, CameraSpec]:
        """Return the nose's for students; outside, which follows, is for people."""
        nose, outside = (
            tuple(geometry.look_at(*view, np).tolist())
            for view in ((0 * _AHEAD, _AHEAD), (_OUTSIDE, np.array([0.3, 0.0, 0.0])))
        )
        return {
            "nose": CameraSpec(
                name="nose", fovy_deg=75, near_m=0.1, far_m=2.1, mount="trunk", position_m=go2.NOSE_M,
                quaternion_wxyz=nose,
            ),
            "outside": CameraSpec(
                name="outside", width=192, height=144, fovy_deg=50, near_m=0.5, far_m=6.0, encoding="rgb_u8",
                mount="trunk", position_m=tuple(_OUTSIDE.tolist()), quaternion_wxyz=outside,
            ),
        }  # fmt: skip

    def parameters(self) -> dict[str, Range]:
        """Return what differs between episodes; the outer tenth of each range is held out."""
        cfg, count = self.cfg, len(self.cfg.terrains)
        edge = count * HELD_OUT / (1 - 2 * HELD_OUT)  # of kinds none is held out: only numbers beyond them
        sideways, turn, com = cfg.sideways_m_s, cfg.turn_rad_s, cfg.load_shift_m
        return {
            "terrain": Range(low=(-edge,), high=(count + edge,), unit="number in task.terrains"),
            "difficulty": _range(cfg.difficulty, "1", easy=0.0),
            "speed": _range(cfg.speed_m_s, "m/s"),
            "command": Range(
                low=(cfg.ahead_m_s[0], -sideways, -turn), high=(cfg.ahead_m_s[1], sideways, turn),
                unit="m/s, m/s, rad/s",
            ),
            "friction": _range(cfg.friction, "1"),
            "load": Range(
                low=(cfg.load_kg[0], *(-com,) * 3), high=(cfg.load_kg[1], *(com,) * 3), unit="kg, m"
            ),
            "stiffness": _range(cfg.stiffness, "1"),
            "push": _both((cfg.push_n,) * 2, "N"),
            "push_at": Range(low=(0.0,), high=(cfg.horizon_s,), unit="s"),
            "start": _both((0.2, 0.2, cfg.start_yaw_rad), "m, m, rad"),
            "start_joints": _both((cfg.start_rad,) * 12, "rad"),
            "start_speed": _both((cfg.start_m_s,) * 2, "m/s"),
            "noise": Range(low=(0.0,), high=(cfg.noise,), unit="1"),
            **cameras.parameters(("nose",), cfg.camera_shift_m, cfg.camera_tilt_rad),
            **dynamics.parameters(cfg, len(go2.JOINTS), self.control_dt),
        }  # fmt: skip

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task.start_envelope."""
        # as measured, so with room for the sensors' noise
        reach = self.cfg.start_rad + 5 * self.cfg.noise * NOISE["joint_pos"]
        return tuple(q - reach for q in go2.STAND), tuple(q + reach for q in go2.STAND)

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task.reset."""
        sim, episode, count = state.sim, state.episode, len(mask)
        number = values["terrain"][:, 0].floor().clamp(0, len(self._kinds) - 1).long()
        kind = self._kinds.to(number.device)[number]
        chance = state.draws.uniform("terrain", state.episode_id, 0, terrain.CHANCES)
        ground = terrain.make(kind, values["difficulty"][:, 0], chance)
        is_flat = (kind == terrain.KINDS.index("flat"))[:, None]
        ahead = torch.nn.functional.pad(values["speed"], (0, 2))
        entries = {
            "kind": kind[:, None], "faces": ground.faces, "plane": ground.plane,
            "order": torch.where(is_flat, values["command"], ahead),
            **{name: values[name] for name in ("friction", "load", "stiffness", "push", "push_at", "noise")},
            **{name: ahead.new_zeros(count, width) for name, width in (gait.TRACES | _SUMS).items()},
        }  # fmt: skip
        for name, value in entries.items():
            old = episode.get(name, torch.zeros_like(value, dtype=torch.float32))
            episode[name] = torch.where(mask.view(-1, *[1] * (value.ndim - 1)), value.float(), old)
        stand = self._stand.to(values["start_joints"]) + values["start_joints"]
        x, y, yaw = values["start"].unbind(1)
        zero = torch.zeros_like(x)
        height = torch.full_like(x, go2.STAND_HEIGHT_M + 0.02)
        base = torch.stack((x, y, height, (yaw / 2).cos(), zero, zero, (yaw / 2).sin()), 1)
        sim.set("qpos", torch.cat((base, stand), 1), mask)
        qvel = torch.zeros_like(sim.get("qvel"))
        qvel[:, :2] = values["start_speed"]
        sim.set("qvel", qvel, mask)
        self._set_model(values, ground, state, mask)
        dynamics.write(values, state, mask, range(6, 18))
        if state.is_seen:
            cameras.move(("nose",), values, state, mask)
        self._look_down(state)
        return stand

    def control(self, command: Tensor, state: State) -> Tensor:
        """Return the joint targets; while an episode's push lasts, it pushes."""
        if self.cfg.push_n > 0:
            episode, force = state.episode, torch.zeros_like(state.sim.get("xfrc_applied"))
            since = episode["elapsed"] - episode["push_at"]
            force[:, _trunk(state), :2] = episode["push"] * ((since >= 0) & (since < PUSH_S))
            state.sim.set("xfrc_applied", force)
        return dynamics.delayed(command, state)

    def progress(self, state: State, dt: float) -> None:
        """Keep account of the gait and of how well the command is followed."""
        episode = state.episode
        gait.account(state, dt, LOWEST_M)
        velocity, gyro, _ = gait.motion(state)
        command, is_flat = episode["command"], self._is_flat(state)[:, None]
        speed = command[:, :2].norm(dim=1, keepdim=True)
        along = (velocity[:, :2] * command[:, :2]).sum(1, keepdim=True) / speed.clamp(min=1e-6)
        along = torch.where(is_flat, along, state.sim.get("qvel")[:, :1].float())
        # off the flat it turns back and forth: only the way counts
        turned, turn = is_flat * gyro[:, 2:] * command[:, 2:].sign(), is_flat * command[:, 2:].abs()
        for name, *parts in (
            ("covered", along, turned), ("wanted", speed, turn),
            ("off", episode["speed_off"], episode["turn_off"]),
        ):  # fmt: skip
            episode[name] = episode[name] + dt * torch.cat(parts, 1)
        self._look_down(state)

    def observe(self, group: str, state: State) -> Tensor:
        """See Task.observe. Noise is drawn afresh every control step."""
        episode, get = state.episode, state.sim.get
        velocity, gyro, gravity = gait.motion(state)
        position, rate = get("qpos")[:, 7:].float(), get("qvel")[:, 6:].float()
        if group == "proprio":
            sizes = (3, 3, 12, 12)
            draws = state.draws.normal("noise", state.episode_id, state.step, sum(sizes)).float()
            noise = (draws * episode["noise"]).split(sizes, 1)
            felt = dict(zip(NOISE, (gyro, gravity, position, rate), strict=True))
            parts = [felt[name] + NOISE[name] * one for name, one in zip(NOISE, noise, strict=True)]
            phase = episode["elapsed"] * (2 * math.pi / self.cfg.clock_s)
            return torch.cat((*parts, state.rate, episode["command"], phase.sin(), phase.cos()), 1)
        if group == "privileged":
            under = get("qpos")[:, 2:3].float() - go2.STAND_HEIGHT_M
            scan = (episode["scan"] - under).clamp(-SCAN_LIMIT_M, SCAN_LIMIT_M)
            told = [episode[name] for name in ("contact", "friction", "load")]
            return torch.cat((velocity, state.command, *told, scan), 1)
        names = ("air", "stiffness", "push", "moved", "elapsed")
        return torch.cat((*(episode[name] for name in names), self._height(state)), 1)

    def reward(self, state: State) -> dict[str, Tensor]:
        """Return what is paid for following the command in an even gait, and charged for rough ways of it."""
        return gait.rewards(self.cfg, state, self._height(state)[:, 0], self.control_dt)

    def success(self, state: State) -> Tensor:
        """See Task.success: on its legs to the end, the command followed on average and its way covered."""
        episode, cfg = state.episode, self.cfg
        elapsed, limits = episode["elapsed"], episode["off"].new_tensor([cfg.speed_error, cfg.turn_error])
        slack = limits.new_tensor([SLACK_M, SLACK_RAD])
        is_there = elapsed >= self.horizon_s - self.control_dt / 2
        is_near = episode["off"] <= limits * elapsed
        is_covered = episode["covered"] >= cfg.share * episode["wanted"] - slack
        return (is_there & is_near & is_covered).all(1) & (episode["fallen"][:, 0] == 0)

    def terminated(self, state: State) -> Tensor:
        """See Task.terminated: the trunk touches the ground, tips over or falls into a pit."""
        return state.episode["fallen"][:, 0] > 0

    def script(self, observations: TensorDict) -> Tensor:
        """Return actions (N, 12) in [-1, 1] of the trot of trot.py, from the groups `script_groups`."""
        specs, read = self.obs_specs(), {}
        for group in self.script_groups:
            read |= {name: observations[group][:, place] for name, place in specs[group].slices().items()}
        scan = read["scan"].unflatten(1, (len(SCAN_X), len(SCAN_Y)))
        targets = trot.targets(read, trot.Heights(scan, SCAN_X, SCAN_Y), trot.Gait())
        return ((targets - self._stand.to(targets)) / targets.new_tensor(REACH_RAD)).clip(-1, 1)

    def script_constants(self) -> dict[str, Tensor]:
        """Return the numbers that decide `script`, and a hash of the file where most of it stands."""
        return {"stand": self._stand, "reach": torch.tensor(REACH_RAD), **trot.constants()}

    def _look_down(self, state: State) -> None:
        """Scan the ground around the trunk, and steer by where it is."""
        episode, qpos = state.episode, state.sim.get("qpos").float()
        heading = gait.yaw(state)
        cos, sin = heading.cos()[:, None], heading.sin()[:, None]
        ahead, left = self._scan.to(qpos).unbind(1)
        ground = terrain.Terrain(episode["faces"], episode["plane"])
        points = qpos[:, :1] + cos * ahead - sin * left, qpos[:, 1:2] + sin * ahead + cos * left
        episode["scan"] = terrain.heights(ground, *points)
        off = torch.atan2(-qpos[:, 1], torch.full_like(heading, AIM_M)) - heading
        turn = STEER * torch.atan2(off.sin(), off.cos())
        order = episode["order"]
        steered = torch.cat((order[:, :2], turn.clamp(-STEER_RAD_S, STEER_RAD_S)[:, None]), 1)
        episode["command"] = torch.where(self._is_flat(state)[:, None], order, steered)

    def _is_flat(self, state: State) -> Tensor:
        return state.episode["kind"][:, 0] == terrain.KINDS.index("flat")

    def _height(self, state: State) -> Tensor:
        """Return how high the trunk is over the ground beneath it (N, 1), m; a gap counts little."""
        scan = state.episode["scan"].unflatten(1, (len(SCAN_X), len(SCAN_Y)))
        beneath = scan[:, 3:12, 1:4].flatten(1)  # within 20 cm ahead and behind
        beneath = torch.maximum(beneath, beneath.amax(1, keepdim=True) - 0.15)
        return state.sim.get("qpos")[:, 2:3].float() - beneath.mean(1, keepdim=True)

    def _set_model(
        self, values: dict[str, Tensor], ground: terrain.Terrain, state: State, mask: Tensor
    ) -> None:
        """Place the terrain and set friction, load and gains in the worlds of mask."""
        sim = state.sim
        model, trunk = sim.model, _trunk(state)
        first, feet = model.geom("ground0").id, [model.geom(name).id for name in go2.FEET]
        names = ("geom_pos", "geom_size", "geom_quat", "geom_friction", "body_mass", "body_ipos")
        fields = {name: sim.get(name).clone() for name in (*names, "actuator_gainprm", "actuator_biasprm")}
        for name, value in zip(names, terrain.boxes(ground.faces), strict=False):
            fields[name][:, first : first + terrain.BOXES] = value.to(fields[name])
        fields["geom_pos"][:, model.geom("plane").id, 2] = ground.plane.to(fields["geom_pos"])
        fields["geom_friction"][:, feet, 0] = values["friction"].to(fields["geom_friction"])
        fields["body_mass"][:, trunk] += values["load"][:, 0]
        fields["body_ipos"][:, trunk] += values["load"][:, 1:]
        fields["actuator_gainprm"][:, :, 0] *= values["stiffness"]
        fields["actuator_biasprm"][:, :, 1:3] *= values["stiffness"][:, :, None]
        for name, value in fields.items():
            sim.set(name, value, mask)


def _trunk(state: State) -> int:
    return state.sim.model.body("trunk").id


def _range(ends: tuple[float, float], unit: str, easy: float = 0.5) -> Range:
    return Range(low=ends[:1], high=ends[1:], unit=unit, easy=easy)


def _both(high: tuple[float, ...], unit: str) -> Range:
    return Range(low=tuple(-value for value in high), high=high, unit=unit)
