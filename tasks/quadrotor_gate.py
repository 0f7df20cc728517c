"""Quadrotor gate: fly through gates that stand at random places, in order, without touching anything.

Body and flight controller: quadrotor.py. Commands: body rates and thrust, 42 a second; the rate controller
feeds back at every physics step. Privileged: where the next two gates are, the speed, the wind. A student has
an IMU (proprio), a nose camera and, where it is given it, the speed that visual odometry tells (odometry).
Gates: course.py. Frame: the world's, z up.
Shapes: N environments, G gates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from robokd.tasks.bodies import quadrotor
from robokd.tasks.parts import cameras, course
from tensordict import TensorDict
from torch import Tensor

from robokd import geometry
from robokd.env import native
from robokd.env.base import Range, Setup, State, TaskEnv
from robokd.registry import register
from robokd.specs import AXES, ActionSpec, CameraSpec, ObsSpec, Term

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import SimCfg
    from robokd.vision.base import RendererCfg
    from robokd.vision.sensor import Corruption

START_M = (0.0, 0.0, 1.5)
ROOM_M, CEILING_M = (4.0, 5.0)  # so much farther from the next gate than at first, or so high, it is lost
SIGHT = -10.0  # of the reward for seeing the next gate: exp(SIGHT * angle^4). Source: Kaufmann et al. (2023)
# of the scripted pilot, by trial on the validation stream
SCRIPT_MPS, SCRIPT_GAIN, SCRIPT_MPS2 = (3.0, 5.0, 8.0)  # speed; 1/s; largest acceleration but gravity
SCRIPT_LINE, SCRIPT_AHEAD_M = (1.5, 1.0)  # how early it lines up; how far ahead it aims at least
SCRIPT_PAST_M = 0.7  # from here on it looks at the gate after
_NOSE_M = (0.1, 0.0, 0.02)
# what the config's ranges and single numbers may be
RANGES = {
    "distance_m": (2.0, 10.0), "height_m": (1.2, 3.5), "mass": (0.5, 1.5), "inertia": (0.5, 2.0),
    "motor": (0.3, 2.0), "thrust": (0.7, 1.3), "drag": (0.0, 4.0),
}  # fmt: skip
BETWEEN = {
    "gates": (1, 8), "inner_m": (0.5, 3.0), "bar_m": (0.05, 0.5), "horizon_s": (0.5, 60.0),
    "rate_rps": (0.5, 15.0), "yaw_rate_rps": (0.5, 15.0), "bearing_rad": (0.0, 1.2), "turn_rad": (0.0, 0.8),
    "start_m": (0.0, 0.8), "start_mps": (0.0, 2.0), "start_rad": (0.0, 0.5), "wind_mps": (0.0, 6.0),
    "gust_mps": (0.0, 4.0), "camera_up_rad": (0.0, 0.8), "camera_shift_m": (0.0, 0.05),
    "camera_tilt_rad": (0.0, 0.2), "gyro_noise": (0.0, 0.5), "gravity_noise": (0.0, 0.2),
    "odometry_noise": (0.0, 1.0), "speed_mps": (1.0, 20.0),
    **dict.fromkeys(("progress_weight", "gate_reward", "success_reward", "crash_cost"), (0.0, math.inf)),
    **dict.fromkeys(("sight_weight", "rate_weight", "change_weight", "speed_weight"), (0.0, math.inf)),
}  # fmt: skip


@register("task", "quadrotor_gate")
@dataclass(kw_only=True)
class QuadrotorGateCfg:
    """Fly a small quadrotor through gates by body rates and thrust; the student sees from its nose."""

    gates: int = 3  # how many
    inner_m: float = 1.4  # width of the opening
    bar_m: float = 0.25  # width of the frame around it
    horizon_s: float = 9.6
    rate_rps: float = 5.0  # rad/s, commanded roll and pitch rate at |action| = 1
    yaw_rate_rps: float = 3.0  # rad/s
    distance_m: tuple[float, float] = (3.0, 5.0)  # from the start, or a gate, to the next one
    height_m: tuple[float, float] = (1.3, 2.5)  # of a gate's centre
    bearing_rad: float = 0.5  # of the next gate from the axis of the last one, both ways
    turn_rad: float = 0.35  # of a gate's axis from the way to it, both ways
    start_m: float = 0.4  # around START_M, both ways, each axis
    start_mps: float = 0.5  # speed, both ways, each axis
    start_rad: float = 0.2  # roll, pitch and yaw, both ways
    mass: tuple[float, float] = (0.85, 1.15)  # factor on the published one, as the four that follow
    inertia: tuple[float, float] = (0.8, 1.25)
    motor: tuple[float, float] = (0.7, 1.4)  # time constant
    thrust: tuple[float, float] = (0.85, 1.1)  # of what is asked for: battery, propellers
    drag: tuple[float, float] = (0.5, 2.0)
    wind_mps: float = 2.0  # steady, level, both ways, each axis
    gust_mps: float = 1.0  # one sine of 0.2 to 1 Hz on top, each axis
    camera_up_rad: float = 0.25  # the nose camera looks up by so much
    camera_shift_m: float = 0.005  # both ways, each axis
    camera_tilt_rad: float = 0.02  # both ways, each axis
    gyro_noise: float = 0.03  # rad/s, standard deviation; its bias is drawn from as much, both ways
    gravity_noise: float = 0.01  # 1, standard deviation
    odometry_noise: float = 0.05  # m/s, standard deviation; bias as of the gyro
    progress_weight: float = 1.0  # reward per metre nearer to the next gate's centre
    gate_reward: float = 4.0  # for each gate, through its middle; nothing along the frame
    success_reward: float = 3.0
    crash_cost: float = 6.0  # of touching something, missing a gate and getting lost
    sight_weight: float = 0.02  # reward for looking at the next gate, per control step
    speed_mps: float = 3.5  # faster costs
    speed_weight: float = 0.05  # cost of the square of what it is faster, per control step
    rate_weight: float = 0.01  # cost of mean squared rate actions
    change_weight: float = 0.02  # cost of mean squared changes of the action

    def __post_init__(self) -> None:
        for name, (lowest, highest) in RANGES.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"task.{name} must be [low, high] within [{lowest}, {highest}], got [{low}, {high}]"
                )
        for name, (lowest, highest) in BETWEEN.items():
            if not lowest <= getattr(self, name) <= highest:
                wanted = f"must be in [{lowest}, {highest}]"
                raise ValueError(f"task.{name} {wanted}, got {getattr(self, name)}")

    def build(
        self, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
    ) -> TaskEnv:
        """Return environments of the task."""
        return native.build(QuadrotorGate(self), sim=sim, renderer=renderer, corrupt=corrupt, setup=setup)


class QuadrotorGate:
    """The Task protocol; see DESIGN for who calls what."""

    control_dt = 0.024
    closes_loop = True
    script_groups = ("proprio", "privileged")

    def __init__(self, cfg: QuadrotorGateCfg) -> None:
        self.cfg = cfg
        self.horizon_s = cfg.horizon_s
        self._slices = {name: spec.slices() for name, spec in self.obs_specs().items()}

    def scene(self) -> mujoco.MjSpec:
        """Return the quadrotor, a floor, the gates and the cameras."""
        spec = quadrotor.spec()
        course.add_ground(spec)
        for index in range(self.cfg.gates):
            place = [4.0 * (index + 1), 0, 2]
            course.add_gate(spec, f"gate_{index}", self.cfg.inner_m, self.cfg.bar_m, place)
        cameras.add(spec, tuple(self.camera_specs().values()))
        return spec

    def action_spec(self) -> ActionSpec:
        """Return body rates and thrust: action 0 hovers, and from end to end takes four control steps."""
        scale = (*(self.cfg.rate_rps,) * 2, self.cfg.yaw_rate_rps, 0.95 * quadrotor.HOVER_N)
        offset = (0.0, 0.0, 0.0, quadrotor.HOVER_N)
        velocity = tuple(2 * size / (4 * self.control_dt) for size in scale)
        return ActionSpec(
            names=quadrotor.COMMANDS, units=quadrotor.UNITS, mode="absolute", control_dt=self.control_dt,
            scale=scale, offset=offset,
            position_lower=tuple(middle - size for middle, size in zip(offset, scale, strict=True)),
            position_upper=tuple(middle + size for middle, size in zip(offset, scale, strict=True)),
            velocity=velocity, acceleration=tuple(2 * rate / self.control_dt for rate in velocity),
        )  # fmt: skip

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return proprio and odometry (a robot has them), privileged (teacher) and physics (critic)."""
        gyro = Term(name="gyro", elements=AXES, unit="rad/s")
        gravity = Term(name="gravity", elements=AXES, unit="1")
        command = Term(name="command", elements=quadrotor.COMMANDS, unit="rad/s, N")
        rate = Term(name="command_rate", elements=quadrotor.COMMANDS, unit="rad/s^2, N/s")
        velocity, wind, position = (
            Term(name=name, elements=AXES, unit=unit)
            for name, unit in (("velocity", "m/s"), ("wind", "m/s"), ("position", "m"))
        )
        gates = [
            Term(name=f"{which}_gate_{what}", elements=AXES, unit=unit)
            for which in ("next", "second") for what, unit in (("position", "m"), ("axis", "1"))
        ]  # fmt: skip
        thrusts = Term(name="thrusts", elements=quadrotor.ROTORS, unit="N")
        physics = Term(name="factors", elements=(*quadrotor.FACTORS, "drag"), unit="1")
        left = Term(name="gates_left", elements=("count",), unit="1")
        return {
            "proprio": ObsSpec(group="proprio", role="proprio", terms=(gyro, gravity, command, rate)),
            "odometry": ObsSpec(group="odometry", role="proprio", terms=(velocity,)),
            "privileged": ObsSpec(group="privileged", role="privileged", terms=(velocity, *gates, wind)),
            "physics": ObsSpec(
                group="physics", role="privileged", terms=(position, thrusts, physics, left)
            ),
        }  # fmt: skip

    def camera_specs(self) -> dict[str, CameraSpec]:
        """Return the nose camera's depth and colour for students; outside is for people."""
        up, eye = self.cfg.camera_up_rad, torch.zeros(3, dtype=torch.float64)
        ahead = torch.tensor([math.cos(up), 0.0, math.sin(up)], dtype=torch.float64)
        side = torch.tensor([-2.0, -6.5, 4.0]), torch.tensor([6.0, 0.5, 1.3])
        nose = {
            "view": "nose", "fovy_deg": 90.0, "near_m": 0.2, "far_m": 8.0, "mount": "drone",
            "position_m": _NOSE_M, "quaternion_wxyz": tuple(geometry.look_at(eye, ahead, torch).tolist()),
        }  # fmt: skip
        return {
            "nose": CameraSpec(name="nose", **nose),
            "nose_rgb": CameraSpec(name="nose_rgb", encoding="rgb_u8", **nose),
            "outside": CameraSpec(
                name="outside", width=384, height=288, fovy_deg=50, near_m=0.5, far_m=40, encoding="rgb_u8",
                position_m=tuple(side[0].tolist()),
                quaternion_wxyz=tuple(geometry.look_at(*side, torch).tolist()),
            ),
        }  # fmt: skip

    def parameters(self) -> dict[str, Range]:
        """Return what differs between episodes; the outer tenth of each range is held out."""
        cfg = self.cfg
        gate = Range(
            low=(cfg.distance_m[0], -cfg.bearing_rad, cfg.height_m[0], -cfg.turn_rad),
            high=(cfg.distance_m[1], cfg.bearing_rad, cfg.height_m[1], cfg.turn_rad), unit="m, rad, m, rad",
        )  # fmt: skip
        start = (*(cfg.start_m,) * 3, *(cfg.start_rad,) * 3, *(cfg.start_mps,) * 3)
        low, high = zip(cfg.mass, *(cfg.inertia,) * 3, cfg.motor, cfg.thrust, cfg.drag, strict=True)
        return {
            **{f"gate_{index}": gate for index in range(cfg.gates)},
            "start": _both_ways(start, "m, rad, m/s"),
            "factors": Range(low=low, high=high, unit="1"),
            "wind": _both_ways((cfg.wind_mps, cfg.wind_mps, 0.25 * cfg.wind_mps), "m/s"),
            "gust": _both_ways((cfg.gust_mps, cfg.gust_mps, 0.5 * cfg.gust_mps), "m/s"),
            "gust_wave": Range(low=(0.2, -math.pi), high=(1.0, math.pi), unit="Hz, rad"),
            "gyro_bias": _both_ways((cfg.gyro_noise,) * 3, "rad/s"),
            "odometry_bias": _both_ways((cfg.odometry_noise,) * 3, "m/s"),
            **cameras.parameters(("nose",), cfg.camera_shift_m, cfg.camera_tilt_rad),
        }

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task.start_envelope: it hovers."""
        hover = (0.0, 0.0, 0.0, quadrotor.HOVER_N)
        return hover, hover

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """See Task.reset."""
        sim, start, factors = state.sim, values["start"], values["factors"]
        laid = torch.stack([values[f"gate_{index}"] for index in range(self.cfg.gates)], 1)
        gates, yaws = course.lay(laid, quadrotor.numbers(START_M, start))
        place, turn, speed = start.split(3, 1)
        position = place + quadrotor.numbers(START_M, place)
        sim.set("qpos", torch.cat((position, geometry.from_rotation_vector(turn, torch)), 1), mask)
        sim.set("qvel", torch.cat((speed, torch.zeros_like(speed)), 1), mask)
        sim.set("act", torch.full_like(sim.get("act"), quadrotor.HOVER_N / 4), mask)
        sim.set("mocap_pos", gates[:, :-2], mask)
        around = torch.stack((torch.cos(yaws / 2), 0 * yaws, 0 * yaws, torch.sin(yaws / 2)), 2)
        sim.set("mocap_quat", around[:, :-2], mask)
        quadrotor.vary(factors[:, :-1], sim, mask)
        if state.is_seen:
            cameras.move(("nose",), values, state, mask)
        axes = torch.stack((torch.cos(yaws), torch.sin(yaws), 0 * yaws), 2)
        rows = {
            "gates": gates, "axes": axes, "factors": factors, "passed": torch.zeros_like(factors[:, 0]),
            "room": torch.linalg.vector_norm(gates[:, 0] - position, dim=1) + ROOM_M,
            **{name: values[name] for name in ("wind", "gust", "gust_wave", "gyro_bias", "odometry_bias")},
            **course.to_gate(position, gates[:, 0], axes[:, 0]),
            **{name: torch.zeros_like(factors[:, 0]) for name in ("nearer", "credit", "has_missed")},
        }  # fmt: skip
        for name, row in rows.items():
            new = row.float()
            old = state.episode.get(name, torch.zeros_like(new))
            state.episode[name] = torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
        return quadrotor.numbers(self.start_envelope()[0], start).expand(len(mask), 4)

    def control(self, command: Tensor, state: State) -> Tensor:
        """Return what the rotors are told and the air's force, by the speeds as they are now."""
        sim, episode = state.sim, state.episode
        velocity, rates = sim.get("qvel").split(3, 1)
        speed = quadrotor.in_body(velocity - self._wind(state), sim.get("qpos")[:, 3:7])
        drag = episode["factors"][:, -1:].to(speed)
        return torch.cat((quadrotor.rotors(command, rates), quadrotor.air_force(speed, drag)), 1)

    def progress(self, state: State, dt: float) -> None:
        """Find whether the next gate's plane was crossed, and where; then look at the one after it."""
        episode, position = state.episode, state.sim.get("qpos")[:, :3].float()
        before, distance = episode["local"], episode["distance"]
        now = course.to_gate(position, *self._gate(state, 0))
        has_crossed, aside = course.crossing(before, now["local"])
        middle = 1 - aside / (self.cfg.inner_m / 2)
        has_passed = has_crossed & (middle > 0)
        episode["nearer"] = distance - now["distance"]
        episode["credit"] = has_passed * middle
        episode["has_missed"] = (has_crossed & ~has_passed).float()
        episode["passed"] = episode["passed"] + has_passed
        ahead = course.to_gate(position, *self._gate(state, 0))
        episode["local"], episode["distance"] = ahead["local"], ahead["distance"]
        episode["room"] = torch.where(has_passed, ahead["distance"] + ROOM_M, episode["room"])

    def observe(self, group: str, state: State) -> Tensor:
        """See Task.observe. Noise is drawn afresh every control step."""
        sim, episode = state.sim, state.episode
        qpos, qvel = sim.get("qpos"), sim.get("qvel")
        turn = qpos[:, 3:7]
        if group == "proprio":
            noise = state.draws.normal("imu", state.episode_id, state.step, 6)
            down = quadrotor.numbers((0.0, 0.0, -1.0), turn).expand(len(turn), 3)
            gyro = qvel[:, 3:] + episode["gyro_bias"] + self.cfg.gyro_noise * noise[:, :3]
            gravity = quadrotor.in_body(down, turn) + self.cfg.gravity_noise * noise[:, 3:]
            parts = (gyro, gravity, state.command, state.rate)
        elif group == "odometry":
            noise = state.draws.normal("odometry", state.episode_id, state.step, 3)
            off = episode["odometry_bias"] + self.cfg.odometry_noise * noise
            parts = (quadrotor.in_body(qvel[:, :3], turn) + off,)
        elif group == "privileged":
            ways = [
                one
                for ahead in (0, 1)
                for place, axis in (self._gate(state, ahead),)
                for one in (place - qpos[:, :3], axis)
            ]
            parts = tuple(quadrotor.in_body(one, turn) for one in (qvel[:, :3], *ways, self._wind(state)))
        else:
            left = self.cfg.gates - episode["passed"][:, None]
            parts = (qpos[:, :3], sim.get("act"), episode["factors"], left)
        return torch.cat([part.float() for part in parts], 1)

    def reward(self, state: State) -> dict[str, Tensor]:
        """Return what is paid for coming nearer, gates and seeing the next one, and charged for the rest."""
        cfg, episode = self.cfg, state.episode
        change = state.action - state.previous_action
        speed = torch.linalg.vector_norm(state.sim.get("qvel")[:, :3], dim=1).float()
        return {
            "progress": cfg.progress_weight * episode["nearer"],
            "gate": cfg.gate_reward * episode["credit"],
            "success": cfg.success_reward * self.success(state).float(),
            "crash": -cfg.crash_cost * self._has_failed(state).float(),
            "sight": cfg.sight_weight * torch.exp(SIGHT * self.sight_angle(state) ** 4),
            "speed": -cfg.speed_weight * (speed - cfg.speed_mps).clip(min=0) ** 2,
            "rates": -cfg.rate_weight * (state.action[:, :3] ** 2).mean(1),
            "change": -cfg.change_weight * (change**2).mean(1),
        }

    def success(self, state: State) -> Tensor:
        """See Task.success: through the last gate, without having touched anything."""
        return (state.episode["passed"] >= self.cfg.gates) & ~self._has_failed(state)

    def terminated(self, state: State) -> Tensor:
        """See Task.terminated."""
        return self.success(state) | self._has_failed(state)

    def script(self, observations: TensorDict) -> Tensor:
        """Return actions (N, 4) in [-1, 1] of a pilot that lines up with the next gate and flies through."""
        read = {
            name: observations[group][:, place]
            for group in self.script_groups for name, place in self._slices[group].items()
        }  # fmt: skip
        way, axis, velocity = (read["next_gate_position"], read["next_gate_axis"], read["velocity"])
        toward = course.approach(way, axis, line=SCRIPT_LINE, ahead_m=SCRIPT_AHEAD_M)
        error = SCRIPT_MPS * toward - velocity
        gain = (SCRIPT_MPS2 / torch.linalg.vector_norm(error, dim=1, keepdim=True)).clip(max=SCRIPT_GAIN)
        air = quadrotor.air_force(velocity - read["wind"], torch.ones_like(gain)) / quadrotor.MASS_KG
        wanted = gain * error - air - quadrotor.GRAVITY * read["gravity"]
        is_near = (way * axis).sum(1, keepdim=True) < SCRIPT_PAST_M
        look = torch.where(is_near, read["second_gate_position"], way)
        command, spec = (quadrotor.steer(wanted, read["gravity"], look), self.action_spec())
        middle, scale = (quadrotor.numbers(spec.offset, command), quadrotor.numbers(spec.scale, command))
        return ((command - middle) / scale).clip(-1, 1)

    def script_constants(self) -> dict[str, Tensor]:
        """Return the numbers that decide `script` beside its code."""
        spec = self.action_spec()
        numbers = (quadrotor.MASS_KG, quadrotor.TILT_GAIN, quadrotor.YAW_GAIN, quadrotor.SQUARE_DRAG)
        body = torch.tensor((*numbers, *quadrotor.DRAG))
        return {"offset": torch.tensor(spec.offset), "scale": torch.tensor(spec.scale), "body": body}

    def sight_angle(self, state: State) -> Tensor:
        """Return the angle (N,) in rad between where the nose camera looks and the next gate's centre."""
        up, turn = self.cfg.camera_up_rad, state.sim.get("qpos")[:, 3:7]
        way = quadrotor.in_body(self._gate(state, 0)[0] - state.sim.get("qpos")[:, :3], turn)
        ahead = quadrotor.numbers((math.cos(up), 0.0, math.sin(up)), way)
        beside = torch.linalg.vector_norm(torch.linalg.cross(ahead.expand_as(way), way), dim=1)
        return torch.atan2(beside, way @ ahead).float()

    def _has_failed(self, state: State) -> Tensor:
        """Return (N,) bool: it touched something, missed a gate or got lost."""
        episode = state.episode
        is_lost = (episode["distance"] > episode["room"]) | (state.sim.get("qpos")[:, 2] > CEILING_M)
        return (state.sim.get("sensordata")[:, 0] > 0) | (episode["has_missed"] > 0) | is_lost

    def _gate(self, state: State, ahead: int) -> tuple[Tensor, Tensor]:
        """Return place and axis (N, 3) of the gate that comes `ahead` gates after the next one."""
        index = (state.episode["passed"].long() + ahead).clip(max=self.cfg.gates + 1)[:, None, None]
        gates, axes = (state.episode[name].gather(1, index.expand(-1, 1, 3)) for name in ("gates", "axes"))
        return gates[:, 0], axes[:, 0]

    def _wind(self, state: State) -> Tensor:
        """Return the wind (N, 3) in m/s along the world's axes: steady, and a gust."""
        episode = state.episode
        hertz, phase = episode["gust_wave"].unbind(1)
        wave = torch.sin(2 * math.pi * hertz * state.step * self.control_dt + phase)
        return episode["wind"] + wave[:, None] * episode["gust"]


def _both_ways(ends: tuple[float, ...], unit: str) -> Range:
    return Range(low=tuple(-end for end in ends), high=ends, unit=unit)
