"""The teacher of a distillation: the policy of a parent run, or one that is opened from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robokd import UserError
from robokd.config import load
from robokd.env.base import Task, TaskEnv, VecEnv
from robokd.learn.objective import Objective
from robokd.learn.pupil import begin_as, build_student, estimated_terms, student_inputs, target_slices
from robokd.learn.reinforcement import critic_groups
from robokd.learn.rollout import Outcomes, rollout
from robokd.learn.stage import build_env
from robokd.learn.teach import load_teacher
from robokd.run import Run
from robokd.students.base import StudentModule, StudentPolicy
from robokd.teachers.parent import ParentCfg
from robokd.teachers.twin import TwinCfg, TwinTeacher

if TYPE_CHECKING:
    from collections.abc import Callable

    from robokd.config import DistillConfig
    from robokd.teachers.base import Teacher


def parents(config: DistillConfig) -> list[Run]:
    """Return the runs that a distillation is of: its teacher's, if it is of one, and its baseline."""
    teaching = [config.parent] if isinstance(config.teacher, ParentCfg) else []
    return [Run.open(path) for path in (*teaching, config.baseline) if path]


def teacher_inputs(config: DistillConfig, task: Task) -> tuple[str, ...]:
    """Return the groups that the teacher acts on."""
    if isinstance(config.teacher, ParentCfg):
        return load("teach", Run.open(config.parent).config).teacher.actor_groups
    return config.teacher.reads(task)


def training_env(config: DistillConfig) -> TaskEnv:
    """Return the environments to learn in, with all that student, teacher, losses and critic read."""
    known = build_env(config, (), "train", num_envs=1)
    groups = [*student_inputs(config), *teacher_inputs(config, known.task)]
    groups += [group for group, _ in target_slices(known, estimated_terms(config)).values()]
    known.close()
    if Objective(config.loss).is_reinforced:
        groups += critic_groups(config.rl, known)
    return build_env(config, tuple(dict.fromkeys(groups)), "train")


def open_teacher(config: DistillConfig, env: VecEnv) -> Teacher:
    """Return the frozen teacher, refused if env is not what it was made for."""
    if isinstance(config.teacher, TwinCfg):
        raise UserError("teacher=twin is the student itself: there is nothing to ask before it has learned")
    if isinstance(config.teacher, ParentCfg):
        return load_teacher(Run.open(config.parent), config.checkpoint, env)
    return config.teacher.open(env)


def cast(config: DistillConfig, env: VecEnv) -> tuple[StudentModule, Teacher]:
    """Return the student, which begins afresh or as the baseline, and who teaches it.

    UserError for a loss that reads what they do not say.
    """
    objective = Objective(config.loss)
    teacher: Teacher
    if isinstance(config.teacher, TwinCfg):
        student = build_student(config, env, config.teacher.latent)
        teacher = TwinTeacher(StudentPolicy(student, env.num_envs))
    else:
        teacher = open_teacher(config, env)
        student = build_student(config, env, latent_size(objective, teacher, env))
    if config.baseline:
        begin_as(student, config, env)
    objective.check(student, teacher)
    return student, teacher


def latent_size(objective: Objective, teacher: Teacher, env: VecEnv) -> int:
    """Return the size of the teacher's latent if a loss matches it, else 0."""
    if "latent" not in objective.of_teacher or "latent" not in teacher.offers:
        return 0
    latent = teacher.label(env.get_observations()).latent
    assert latent is not None, "the teacher offers a latent and says none"
    return latent.shape[-1]


def teacher_outcomes(config: DistillConfig, teacher: Teacher) -> Outcomes:
    """Return how the teacher does on the validation episodes; a twin is yet to learn: it ought to succeed."""
    count = config.dagger.evaluate_episodes
    if isinstance(teacher, TwinTeacher):
        return Outcomes.ideal(count)
    env = build_env(config, teacher.inputs, "validation", num_envs=count)
    try:
        return rollout(env, teacher, count)
    finally:
        env.close()


def validation(config: DistillConfig, student: StudentModule) -> Callable[[], Outcomes]:
    """Return what finds how the student, as it then is, does on the validation episodes."""
    count = config.dagger.evaluate_episodes
    env = build_env(config, student.inputs, "validation", num_envs=count)
    return lambda: rollout(env, StudentPolicy(student, count), count)
