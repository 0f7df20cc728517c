"""What the tasks of manager-based suites (Isaac Lab, mjlab) share: their groups, terms and pictures as ours.

Shapes: N environments, D numbers of a group.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from robokd import UserError
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term
from robokd.vision.encode import steps_per_metre

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9_.-]+)(?:\[[^]]*\])?(?P<sign>==|~=)(?P<version>[^,;\s]+)\s*(?P<marker>;.*)?"
)


class Mapped(Protocol):
    """The part of a task's config that says what its groups and terms are to us."""

    env_id: str
    proprio: tuple[str, ...]  # its groups that a robot has
    history: tuple[str, ...]  # its groups of what a robot had before
    privileged: tuple[str, ...]  # its groups that only a simulator has; () = all others
    success_term: str  # its termination term or key of extras that says success; "" = it survived


def flat(said: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return observations by group; a group that is not concatenated gives one of each of its terms."""
    found: dict[str, Tensor] = {}
    for name, value in said.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": rows for inner, rows in flat(value).items()}
        else:
            found[name] = value
    return found


def numbers(rows: Tensor) -> Tensor:
    """Return a group of numbers as (N, D) float32."""
    return (rows[:, None] if rows.ndim == 1 else rows).float()


def obs_specs(cfg: Mapped, env: Any, groups: Mapping[str, Tensor]) -> dict[str, ObsSpec]:  # noqa: ANN401
    """Return the 1-D groups by role; pictures among them are left to the camera sensors that took them."""
    sizes = {name: numbers(rows).shape[1] for name, rows in groups.items() if rows.ndim <= 2}
    roles = dict.fromkeys(cfg.privileged or sizes, "privileged")
    roles |= dict.fromkeys(cfg.history, "history") | dict.fromkeys(cfg.proprio, "proprio")
    for kind in ("proprio", "history", "privileged"):
        for name in getattr(cfg, kind):
            if name not in sizes:
                known = ", ".join(sizes) or "none"
                raise UserError(
                    f"{cfg.env_id} has no observation group {name!r} of numbers (task.{kind}): it has {known}"
                )
    return {
        name: ObsSpec(group=name, role=role, terms=_terms(env, name, sizes[name]))
        for name, role in roles.items()
    }


def _terms(env: Any, group: str, size: int) -> tuple[Term, ...]:  # noqa: ANN401
    """Return the named parts of a group as the observation manager has them, or one of all its numbers."""
    manager = getattr(env, "observation_manager", None)
    parts = {group: size}
    if manager is not None and group in manager.active_terms and manager.group_obs_concatenate[group]:
        shapes = manager.group_obs_term_dim[group]
        if sum(map(math.prod, shapes)) == size:
            parts = {
                name: math.prod(shape)
                for name, shape in zip(manager.active_terms[group], shapes, strict=True)
            }
    return tuple(
        Term(name=name, elements=tuple(map(str, range(count))), unit=_unit(name))
        for name, count in parts.items()
    )


def _unit(term: str) -> str:
    """Return the unit of a term, as far as its name says it."""
    return {"joint_pos": "rad", "joint_vel": "rad/s", "command_rate": "rad/s"}.get(term, "the task's own")


def native(env: Any) -> ActionSpec:  # noqa: ANN401
    """Return how many actions there are, by joint where terms have joints; the task decodes them."""
    names: list[str] = []
    if (manager := getattr(env, "action_manager", None)) is not None:
        count = int(manager.total_action_dim)
        for name in manager.active_terms:
            term = manager.get_term(name)
            joints = getattr(term, "_joint_names", None) or getattr(term, "_target_names", ())
            own = [f"{name}_{index}" for index in range(term.action_dim)]
            names += joints if len(joints) == term.action_dim else own
    else:
        space = env.single_action_space
        if not hasattr(space, "low"):
            raise UserError(f"wanted a task with continuous actions, got {space}")
        count = math.prod(space.shape)
    if len(set(names)) != count:
        names = [f"action_{index}" for index in range(count)]
    return ActionSpec(names=tuple(names), control_dt=float(env.step_dt), mode="native", anchor="none")


def check_success_term(cfg: Mapped, env: Any) -> None:  # noqa: ANN401
    """Raise UserError for a termination term that the task does not have."""
    name, manager = cfg.success_term, getattr(env, "termination_manager", None)
    if name and manager is not None and name not in manager.active_terms:
        known = ", ".join(manager.active_terms)
        raise UserError(f"{cfg.env_id} has no termination term {name!r} (task.success_term): it has {known}")


def succeeded(cfg: Mapped, env: Any, *, ended: Tensor, late: Tensor) -> Tensor:  # noqa: ANN401
    """Return (N,) bool of the step: what the named term says, or that an episode lasted its time.

    Args:
        cfg: names the term; a task without termination terms says it in its extras.
        env: that has stepped.
        ended: (N,) bool, terminated.
        late: (N,) bool, out of time.
    """
    name, manager = cfg.success_term, getattr(env, "termination_manager", None)
    if not name:
        return late & ~ended
    if manager is not None:
        return manager.get_term(name).clone()
    told = {
        key: rows for key, rows in env.extras.items() if isinstance(rows, Tensor) and rows.shape == late.shape
    }
    if name not in told:
        what = f"{cfg.env_id} says no {name!r} of each environment in extras (task.success_term)"
        raise UserError(f"{what}: it says {', '.join(told) or 'nothing'}")
    return told[name].bool()


def encode(depth_nchw: Tensor, camera: CameraSpec) -> Tensor:
    """Return encoded depth: `vision.encode.encode` on the tensor's own device, bit for bit."""
    near, far = (
        torch.tensor(end, dtype=torch.float32, device=depth_nchw.device)
        for end in (camera.near_m, camera.far_m)
    )
    hit = (depth_nchw > 0) & (depth_nchw <= far)  # false for Newton's 0, RTX's inf and for NaN
    clipped = torch.where(hit, depth_nchw.maximum(near), near)
    if camera.encoding == "depth_f16":
        return torch.where(hit, clipped.clip(min=2.0**-14), 0.0).to(torch.float16)
    code = (clipped - near) * float(steps_per_metre(camera)) + 1.5
    return torch.where(hit, code.to(torch.int32), 0).to(torch.uint8)


def check_installed(package: str, version: str, cure: str, *, besides: Sequence[str] = ()) -> None:
    """Raise UserError where a suite is missing, of another version, or beside versions that it does not want.

    Args:
        package: of the suite.
        version: that it is to begin with.
        cure: how to install it.
        besides: packages whose versions it pins and that may differ all the same.
    """
    found = _installed(package)
    if found == "none":
        raise UserError(f"this task needs {package} {version}, which is not installed; {cure}")
    if not f"{found}.".startswith(f"{version}."):
        raise UserError(f"this task needs {package} {version}, got {found}; {cure}")
    wrong = [
        f"{name}{sign}{wanted} (got {got})"
        for name, sign, wanted in pins(importlib.metadata.requires(package) or [])
        if name not in besides and not _fits(got := _installed(name), sign, wanted)
    ]
    if wrong:
        raise UserError(f"{package} {found} wants {', '.join(wrong)}; {cure}")


def pins(requirements: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (package, sign, version) of requirements that fix a version; extras and platforms aside."""
    found = (_PIN.fullmatch(row.strip()) for row in requirements)
    return [(one["name"], one["sign"], one["version"]) for one in found if one and not one["marker"]]


def _fits(got: str, sign: str, wanted: str) -> bool:
    """Whether a version is the wanted one, or (~=) has all of its parts but the last."""
    if sign == "==":
        return got == wanted
    return f"{got}.".startswith(wanted.rpartition(".")[0] + ".")


def _installed(name: str) -> str:
    """Return a package's version without its local part (2.11.0+cpu is 2.11.0); "none" where it lacks."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "none"
