"""The student of a distillation: what it sees and says, made fresh or read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robokd import UserError
from robokd.config import load
from robokd.env.base import VecEnv, check_contract
from robokd.run import Run
from robokd.specs import ObsSpec
from robokd.students.base import Interface, StudentModule

if TYPE_CHECKING:
    from robokd.config import DistillConfig


def student_inputs(config: DistillConfig) -> tuple[str, ...]:
    """Return the groups that the student acts on: 1-D ones and its cameras."""
    for key, names in (("groups", config.groups), ("cameras", config.cameras)):
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{key} names {twice[0]!r} twice")
    if not config.groups and not config.cameras:
        raise UserError("groups and cameras name nothing that the student could see")
    return (*config.groups, *config.cameras)


def estimated_terms(config: DistillConfig) -> tuple[str, ...]:
    """Return the privileged terms that the losses ask the student to estimate."""
    asked = (term for loss in config.loss.values() for term in getattr(loss, "terms", ()))
    return tuple(dict.fromkeys(asked))


def privileged_terms(specs: Mapping[str, ObsSpec]) -> dict[str, tuple[str, slice]]:
    """Return {term: (group, columns)} of what only a simulator knows; of a term in several, the first."""
    found: dict[str, tuple[str, slice]] = {}
    for group, spec in specs.items():
        if spec.role == "privileged":
            found |= {term: (group, place) for term, place in spec.slices().items() if term not in found}
    return found


def target_slices(env: VecEnv, names: tuple[str, ...]) -> dict[str, tuple[str, slice]]:
    """Return {term: (group, columns)} of privileged terms; UserError for a term that no group has."""
    found = privileged_terms(env.obs_specs)
    for name in names:
        if name not in found:
            raise UserError(
                f"no privileged term named {name!r} to estimate. Known: {', '.join(sorted(found))}"
            )
    return {name: found[name] for name in names}


def build_student(config: DistillConfig, env: VecEnv, latent_size: int = 0) -> StudentModule:
    """Return a fresh student of the config's groups and cameras.

    Its privileged targets are those that the losses ask for; it guesses a latent of `latent_size`, 0 = none.
    """
    groups = student_inputs(config)
    for name in config.cameras:
        if name not in env.camera_specs:
            raise UserError(f"no camera named {name!r}. Known: {', '.join(env.camera_specs)}")
    for name in config.groups:
        check_robot_has(name, env)
    places = target_slices(env, estimated_terms(config))
    targets = {name: place.stop - place.start for name, (_, place) in places.items()}
    specs = {name: env.obs_specs[name] for name in groups if name in env.obs_specs}
    cameras = [env.camera_specs[name] for name in groups if name in env.camera_specs]
    interface = Interface(
        obs_specs=specs, cameras=tuple(cameras), action_size=env.num_actions, targets=targets,
        latent_size=latent_size,
    )  # fmt: skip
    return config.student.build(interface).eval()


def check_robot_has(group: str, env: VecEnv) -> None:
    """Raise UserError for a group that env lacks, or that only a simulator knows."""
    allowed = ", ".join(name for name, spec in env.obs_specs.items() if spec.role != "privileged")
    if group not in env.obs_specs:
        raise UserError(f"no observation group named {group!r}. A robot has: {allowed}")
    if env.obs_specs[group].role == "privileged":
        raise UserError(
            f"a student may not act on {group!r}: only a simulator knows it. A robot has: {allowed}"
        )


def load_student(run: Run, checkpoint: str, env: VecEnv) -> StudentModule:
    """Return the frozen student of a distill run, refused if env is not what it was made for."""
    saved = run.load_checkpoint(checkpoint)
    check_contract(saved["contract"], env, f"the student of {run.path}")
    student = build_student(load("distill", run.config), env, saved["latent_size"])
    student.load_state_dict(saved["student"])
    return student.eval().requires_grad_(False)
