"""The teacher of a distillation: the policy of a parent run, or one that is opened from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robokd.config import load
from robokd.env.base import Task, VecEnv
from robokd.learn.teach import load_teacher
from robokd.run import Run
from robokd.teachers.parent import ParentCfg

if TYPE_CHECKING:
    from robokd.config import DistillConfig
    from robokd.teachers.base import Teacher


def parents(config: DistillConfig) -> list[Run]:
    """Return the run that the teacher is of, if it is of one."""
    return [Run.open(config.parent)] if isinstance(config.teacher, ParentCfg) else []


def teacher_inputs(config: DistillConfig, task: Task) -> tuple[str, ...]:
    """Return the groups that the teacher acts on."""
    if isinstance(config.teacher, ParentCfg):
        return load("teach", Run.open(config.parent).config).teacher.actor_groups
    return config.teacher.reads(task)


def open_teacher(config: DistillConfig, env: VecEnv) -> Teacher:
    """Return the frozen teacher, refused if env is not what it was made for."""
    if isinstance(config.teacher, ParentCfg):
        return load_teacher(Run.open(config.parent), config.checkpoint, env)
    return config.teacher.open(env)
