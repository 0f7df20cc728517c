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
from robokd.teachers.twin import TwinCfg

if TYPE_CHECKING:
    from robokd.config import DistillConfig
    from robokd.learning import DaggerConfig

IN_A_ROW = 16  # steps of a sequence, for a student that remembers or plans ahead
NEW_HEADS = ("spread", "critic.", "second.", "hint.", "branches.")  # which a baseline may lack


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
                f"loss.estimate.terms: no privileged term named {name!r} to estimate. "
                f"Known: {', '.join(sorted(found))}. An experiment=<name> says those that its task needs"
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
        latent_size=latent_size, shown=shown_groups(config, env),
    )  # fmt: skip
    return config.student.build(interface).eval().to(env.device)


def shown_groups(config: DistillConfig, env: VecEnv) -> dict[str, ObsSpec]:
    """Return what the student's twin is shown beside what the student sees."""
    if not isinstance(config.teacher, TwinCfg):
        return {}
    return {name: env.obs_specs[name] for name in config.teacher.groups}


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


def begin_as(student: StudentModule, config: DistillConfig, env: VecEnv) -> None:
    """Give a fresh student the weights of the baseline's; UserError, naming them, where they do not fit.

    Heads that the other one lacks stay as they are, and so does the spread: one that was distilled has
    collapsed, and a student that goes on learning must try what it would not do yet.
    """
    run = Run.open(config.baseline)
    saved, before = run.load_checkpoint(config.checkpoint), load("distill", run.config)
    check_contract(saved["contract"], env, f"the student of baseline={run.path}")
    for what, now, then in (
        ("groups and cameras", student_inputs(config), student_inputs(before)),
        ("estimated terms (of loss=[…,estimate])", estimated_terms(config), estimated_terms(before)),
        ("student.blend", config.student.blend, before.student.blend or config.student.blend),
    ):
        if now != then:
            raise UserError(f"baseline={run.path} has other {what}: this one {now}, that one {then}")
    own = student.state_dict()
    theirs = {k: v for k, v in saved["student"].items() if k in own or not k.startswith("hint.")}
    theirs.pop("spread", None)
    absent = [name for name in own if name not in theirs and not name.startswith(NEW_HEADS)]
    other = [name for name, value in theirs.items() if name not in own or own[name].shape != value.shape]
    if wrong := [*absent, *other]:
        shown = ", ".join(wrong[:3]) + (" …" if len(wrong) > 3 else "")
        raise UserError(
            f"baseline={run.path} is another student than this one: they differ in {shown}. "
            "Type the student=, cameras=, groups= and loss.estimate.terms= that it was distilled with"
        )
    student.load_state_dict({**own, **theirs})


def row_length(settings: DaggerConfig, student: StudentModule) -> int:
    """Return how many steps a student learns from in a row; UserError if rounds are no multiple of it."""
    looks_far = not student.initial_state(1).is_empty() or "chunk" in student.offers
    length = settings.sequence or (IN_A_ROW if looks_far else 1)
    if settings.steps_per_round % length:
        steps = f"dagger.steps_per_round={settings.steps_per_round}"
        raise UserError(f"this student learns from {length} steps in a row, which must divide {steps}")
    return length
