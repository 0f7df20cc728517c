"""A racing quadrotor of the 250 mm class as tasks use it: its numbers, its model and its flight controller.

Source: Bauersfeld et al. (2021), "NeuroBEM" (mass, largest thrust and lag of the motors; inertia: the readme
of its data); the configuration of that vehicle in Agilicious, Foehn et al. (2022) (places and drag torque of
the rotors, linear drag). Quadratic drag: ours, of 0.02 m^2 with a drag coefficient of 1.
Frame: body x forward, y left, z up, origin in the centre of mass, where the inertia is diagonal.
Dynamics of thrusts f (4,), rates w, speed through the air v, all in the body's axes (F_z: of the sum of f):
    m dv/dt = F_z + R^T m g - D v - c |v| v          Source: Faessler et al. (2018), eq. 1 and 2
    J dw/dt = G f - w x J w
    df/dt = (u - f) / tau                            first order in thrust, exact over a physics step
    u = clip(G^-1 (T, J K (w_wanted - w) + w x J w), 0, THRUST_N)
The last line is the flight controller: it knows the numbers of this page, not how an episode's differ.
Shapes: N worlds; rotors in the order of ROTORS.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robokd import geometry

if TYPE_CHECKING:
    import mujoco

    from robokd.sim.base import Sim

FACTORS = ("mass", "inertia_x", "inertia_y", "inertia_z", "motor", "thrust")  # see `vary`
COMMANDS = ("roll_rate", "pitch_rate", "yaw_rate", "thrust")
UNITS = ("rad/s", "rad/s", "rad/s", "N")
ROTORS = ("front_right", "back_left", "back_right", "front_left")
MASS_KG = 0.752
INERTIA = (2.5e-3, 2.1e-3, 4.3e-3)  # kg m^2
THRUST_N = 8.25  # of one rotor, at most
MOTOR_S = 0.033  # tau
TORQUE_M = 0.022  # drag torque of a rotor about z, by its thrust
DRAG = (0.26, 0.28, 0.42)  # D, N s/m
SQUARE_DRAG = 0.012  # c, N s^2/m^2
RATE_GAIN = (16.0, 16.0, 8.0)  # K, 1/s: with the motors' lag a damping of 0.7 in roll and pitch
GRAVITY = 9.81  # m/s^2
HOVER_N = MASS_KG * GRAVITY
TILT_GAIN, YAW_GAIN = 8.0, 3.0  # 1/s, of `steer`; by trial
_ARMS = ((0.075, -0.1), (-0.075, 0.1), (-0.075, -0.1), (0.075, 0.1))  # x and y of each rotor, m
_SPIN = (-1, -1, 1, 1)  # sign of each rotor's torque about z
BLADE_M = 0.064  # radius of a propeller, 5 inches across
HULL_M = 0.19  # radius of the ball around it all that must touch nothing


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """Return numbers as a tensor of the device and type of another: made once, or a GPU would wait."""
    return _numbers(tuple(values), like.device, like.dtype)


@functools.cache
def _numbers(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)


@functools.cache
def mixing(device: torch.device) -> Tensor:
    """Return the thrusts (4, 4) of a unit of (collective thrust, torque about x, y, z): the inverse of G."""
    x, y = torch.tensor(_ARMS, dtype=torch.float64).T
    spin = torch.tensor(_SPIN, dtype=torch.float64)
    return torch.linalg.inv(torch.stack((torch.ones_like(x), y, -x, TORQUE_M * spin))).to(device)


def xml() -> str:
    """Return the model: body "drone", which touches what has contype 1, its rotors, the air, sensor "touch".

    Actuators: the four rotors, ctrl in N, act the thrust; then the air's force along the body's x, y, z, N.
    """
    rotors = "".join(
        f'<site name="{name}" pos="{x} {y} 0"/>'
        f'<geom type="cylinder" size="{BLADE_M} 0.006" pos="{x} {y} 0.012" rgba="{colour}"/>'
        f'<geom type="capsule" size="0.008" fromto="0 0 0 {x} {y} 0" rgba="0.15 0.15 0.15 1"/>'
        for name, (x, y), colour in zip(
            ROTORS, _ARMS, ("0.9 0.2 0.1 1", *["0.3 0.3 0.35 1"] * 2, "0.9 0.2 0.1 1"), strict=True
        )
    )
    motors = "".join(
        f'<general name="{name}" site="{name}" gear="0 0 1 0 0 {TORQUE_M * spin}" dyntype="filterexact" '
        f'dynprm="{MOTOR_S}" ctrllimited="true" ctrlrange="0 {THRUST_N}"/>'
        for name, spin in zip(ROTORS, _SPIN, strict=True)
    )
    air = "".join(
        f'<motor name="air_{axis}" site="middle" gear="{gear}"/>'
        for axis, gear in zip("xyz", ("1 0 0 0 0 0", "0 1 0 0 0 0", "0 0 1 0 0 0"), strict=True)
    )
    return (
        '<mujoco model="quadrotor"><default><geom mass="0" contype="0" conaffinity="0"/></default><worldbody>'
        '<body name="drone" pos="0 0 1"><freejoint name="drone"/>'
        f'<inertial pos="0 0 0" mass="{MASS_KG}" diaginertia="{" ".join(map(str, INERTIA))}"/>'
        '<geom type="box" size="0.07 0.025 0.02" rgba="0.2 0.25 0.3 1"/>'
        f'<geom name="hull" type="sphere" size="{HULL_M}" contype="0" conaffinity="1" group="3"/>'
        f'<site name="middle" type="sphere" size="{1.2 * HULL_M}"/>{rotors}</body></worldbody>'
        f'<actuator>{motors}{air}</actuator><sensor><touch name="touch" site="middle"/></sensor></mujoco>'
    )


def spec() -> mujoco.MjSpec:
    """Return the model of `xml`."""
    import mujoco

    return mujoco.MjSpec.from_string(xml())


def rotors(command: Tensor, rates: Tensor) -> Tensor:
    """Return what the flight controller asks of the rotors, (N, 4) N.

    Args:
        command: (N, 4) of COMMANDS: rates wanted in rad/s, and the sum of the thrusts in N.
        rates: (N, 3) of the body, about its own axes, rad/s.
    """
    inertia, gain = numbers(INERTIA, rates), numbers(RATE_GAIN, rates)
    spin = torch.linalg.cross(rates, inertia * rates)
    torque = inertia * gain * (command[:, :3] - rates) + spin
    wanted = torch.cat((command[:, 3:].to(torque), torque), 1)
    return (wanted @ mixing(wanted.device).to(wanted.dtype).mT).clip(0, THRUST_N)


def air_force(speed: Tensor, factor: Tensor) -> Tensor:
    """Return the drag (N, 3) in N at a speed through the air (N, 3) in m/s, both in the body's axes.

    `factor` (N, 1) is how much larger it is than the published one.
    """
    fast = torch.linalg.vector_norm(speed, dim=1, keepdim=True)
    return -factor * (numbers(DRAG, speed) + SQUARE_DRAG * fast) * speed


def in_body(vector: Tensor, quaternion: Tensor) -> Tensor:
    """Return vectors (N, 3) of the world in the axes of a body that stands as quaternion (N, 4) says."""
    back = torch.cat((quaternion[:, :1], -quaternion[:, 1:]), 1)
    return geometry.rotate(back, vector.to(back), torch)


def steer(acceleration: Tensor, gravity: Tensor, look: Tensor) -> Tensor:
    """Return the command (N, 4) that turns the thrust to where it is wanted, and the nose to a thing.

    Args:
        acceleration: (N, 3) wanted of the thrust alone, gravity and drag made up for, m/s^2.
        gravity: (N, 3) the direction of gravity.
        look: (N, 3) the way to what the nose is to point at; its height does not count.

    All in the body's axes; the thrust is that of the published mass.
    Source: Mellinger and Kumar (2011), their attitude error for small angles, with rates as the inputs.
    """
    size = torch.linalg.vector_norm(acceleration, dim=1, keepdim=True)
    tilt = acceleration / size.clip(min=1e-6)
    side = look[:, 1] * -gravity[:, 2] + look[:, 2] * gravity[:, 1]  # of up x nose
    ahead = look[:, 0] - gravity[:, 0] * (look * gravity).sum(1)
    yaw = torch.atan2(side, ahead)
    rates = torch.stack((-TILT_GAIN * tilt[:, 1], TILT_GAIN * tilt[:, 0], YAW_GAIN * yaw), 1)
    return torch.cat((rates, MASS_KG * acceleration[:, 2:]), 1)


def vary(factors: Tensor, sim: Sim, mask: Tensor) -> None:
    """Make the quadrotors of mask's worlds differ from the published one by factors (N, 6) of FACTORS."""
    drone = sim.model.body("drone").id
    for field, factor in (("body_mass", factors[:, 0]), ("body_inertia", factors[:, 1:4])):
        value = sim.get(field).clone()
        value[:, drone] *= factor.to(value)
        sim.set(field, value, mask)
    for field, column in (("actuator_dynprm", 4), ("actuator_gainprm", 5)):
        value = sim.get(field).clone()
        value[:, : len(ROTORS), 0] *= factors[:, column : column + 1].to(value)
        sim.set(field, value, mask)
