"""How the joints of a task's robot differ between episodes: dry friction, damping, armature and a delay.

`robokd sysid` finds the ranges on a robot. With none of them nothing is drawn and nothing changes.
Shapes: N worlds, A joints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from robokd.env.base import Range, State

# what is drawn: the model's field
FIELDS = {"friction": "dof_frictionloss", "damping": "dof_damping", "armature": "dof_armature"}


@dataclass(kw_only=True)
class DynamicsCfg:
    """What a task's config inherits: ranges of every joint's dynamics; empty = as the model has it."""

    friction_low: tuple[float, ...] = ()  # N m, dry, least of each joint
    friction_high: tuple[float, ...] = ()  # N m, most
    damping_low: tuple[float, ...] = ()  # N m s/rad, beside the servo's own, least of each joint
    damping_high: tuple[float, ...] = ()  # N m s/rad, most
    armature_low: tuple[float, ...] = ()  # kg m^2, of the motor as the joint feels it, least of each joint
    armature_high: tuple[float, ...] = ()  # kg m^2, most
    delay_s: tuple[float, float] = (0.0, 0.0)  # of the commands, at most a control step

    def __post_init__(self) -> None:
        rows = {name: (getattr(self, f"{name}_low"), getattr(self, f"{name}_high")) for name in FIELDS}
        rows["delay_s"] = self.delay_s[:1], self.delay_s[1:]
        for name, (low, high) in rows.items():
            if len(low) != len(high):
                raise ValueError(f"task.{name} has {len(low)} low and {len(high)} high ends")
            if not all(0 <= a <= b < math.inf for a, b in zip(low, high, strict=True)):
                got = f"{list(low)} and {list(high)}"
                raise ValueError(f"task.{name} wants 0 <= low <= high, got {got}")


def parameters(cfg: DynamicsCfg, joints: int, control_dt: float) -> dict[str, Range]:
    """Return what is drawn for every episode, by default nothing; ValueError where the task is another."""
    found = {}
    for name, unit in zip(FIELDS, ("N m", "N m s/rad", "kg m^2"), strict=True):
        low, high = getattr(cfg, f"{name}_low"), getattr(cfg, f"{name}_high")
        if low:
            if len(low) != joints:
                raise ValueError(f"task.{name} has {len(low)} ranges, the robot {joints} joints")
            found[name] = Range(low=low, high=high, unit=unit)
    if cfg.delay_s[1] > control_dt:
        limit = f"at most a control step of {control_dt} s"
        raise ValueError(f"task.delay_s must be {limit}, got {list(cfg.delay_s)}")
    if cfg.delay_s[1] > 0:
        found["delay_s"] = Range(low=cfg.delay_s[:1], high=cfg.delay_s[1:], unit="s")
    return found


def write(values: dict[str, Tensor], state: State, mask: Tensor, dofs: range) -> None:
    """Set the joints with these degrees of freedom in the worlds of mask from what was drawn."""
    for name, field in FIELDS.items():
        if name in values:
            whole = state.sim.get(field).clone()
            whole[:, dofs.start : dofs.stop] = values[name]
            state.sim.set(field, whole, mask)
    if "delay_s" in values:
        state.episode["delay_s"] = values["delay_s"].float()


def delayed(command: Tensor, state: State) -> Tensor:
    """Return the targets (N, A) that are felt in this control step, on average, if there is a delay.

    A drive that takes a target `delay_s` late feels the last one for that long. Source: Laakso et al. (1996),
    "Splitting the unit delay", eq. 39: of the first order, which keeps the mean over a step exact.
    """
    if "delay_s" not in state.episode:
        return command
    return command - state.episode["delay_s"] * state.rate
