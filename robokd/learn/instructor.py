"""The teacher of a distillation: the policy of a parent run, or one that is opened from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robokd import UserError
from robokd.config import load
from robokd.env.base import Task, VecEnv
from robokd.learn.pupil import begin_as, build_student
from robokd.learn.rollout import Outcomes, rollout
from robokd.learn.stage import build_env
from robokd.learn.teach import load_teacher
from robokd.run import Run
from robokd.students.base import StudentModule, StudentPolicy
from robokd.teachers.parent import ParentCfg
from robokd.teachers.twin import TwinCfg, TwinTeacher

if TYPE_CHECKING:
    from robokd.config import DistillConfig
    from robokd.learn.objective import Objective
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


def open_teacher(config: DistillConfig, env: VecEnv) -> Teacher:
    """Return the frozen teacher, refused if env is not what it was made for."""
    if isinstance(config.teacher, TwinCfg):
        raise UserError("teacher=twin is the student itself: there is nothing to ask before it has learned")
    if isinstance(config.teacher, ParentCfg):
        return load_teacher(Run.open(config.parent), config.checkpoint, env)
    return config.teacher.open(env)


def cast(config: DistillConfig, env: VecEnv, objective: Objective) -> tuple[StudentModule, Teacher]:
    """Return the student, which begins afresh or as the baseline, and who teaches it."""
    teacher: Teacher
    if isinstance(config.teacher, TwinCfg):
        student = build_student(config, env)
        teacher = TwinTeacher(StudentPolicy(student, env.num_envs))
    else:
        teacher = open_teacher(config, env)
        student = build_student(config, env, latent_size(objective, teacher, env))
    if config.baseline:
        begin_as(student, config, env)
    return student, teacher


def latent_size(objective: Objective, teacher: Teacher, env: VecEnv) -> int:
    """Return the size of the teacher's latent if a loss matches it, else 0."""
    if "latent" not in objective.of_teacher or "latent" not in teacher.offers:
        return 0
    latent = teacher.label(env.get_observations()).latent
    assert latent is not None, "the teacher offers a latent and says none"
    return latent.shape[-1]


def teacher_outcomes(config: DistillConfig, teacher: Teacher, groups: tuple[str, ...]) -> Outcomes:
    """Return how the teacher does on the validation episodes; a twin is yet to learn: it ought to succeed."""
    count = config.dagger.evaluate_episodes
    if isinstance(teacher, TwinTeacher):
        return Outcomes.ideal(count)
    return rollout(build_env(config, groups, "validation", num_envs=count), teacher, count)
