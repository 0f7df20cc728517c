"""The task's own analytic controller as a teacher: no training, no file.

    a = clip(task.script(o), -1, 1),  o: the groups of `task.script_groups`, (N, A)

A task that has one declares `script_groups`, `script(observations)` and `script_constants()`, the numbers
that decide it beside its code; of both the hash is made. A script is a pure function of its groups, so that
it may be asked in another environment than it was opened for, and its labels follow from the row stored.
Where several ways are as good, a task may also declare `script_modes(observations)`, (N, K, A), the script's
own action the first of them, and `script_std()`, (A,): what is taught is then a mixture of Gaussians.
Source: the task says where its controller is from. Shapes: N environments, K modes, A action dimensions.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError, registry
from robokd.registry import register
from robokd.teachers.base import Place, TeacherOutput
from robokd.teachers.weights import group_width, sha256


@register("teacher", "scripted")
@dataclass(kw_only=True)
class ScriptedCfg:
    """The task's own controller, for tasks that have one."""

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """See OpenCfg."""
        if not callable(getattr(task, "script", None)):
            raise UserError(f"the task {_name(task)} has no script. Tasks that have one: {_with_script()}")
        return tuple(task.script_groups)

    def open(self, place: Place) -> ScriptedTeacher:
        """See OpenCfg."""
        groups = self.reads(place.task)
        owner = f"the script of {_name(place.task)}"
        group_width(groups, place.obs_specs, owner)
        teacher = ScriptedTeacher(place.task, groups)
        rows = {name: torch.zeros(2, place.obs_specs[name].size, device=place.device) for name in groups}
        shape = tuple(place.task.script(TensorDict(rows, batch_size=[2])).shape)
        if shape != (2, place.num_actions):
            raise UserError(f"{owner} gives {shape} for 2 rows, wanted (2, {place.num_actions})")
        if teacher.offers:
            _check_mixture(teacher.label(TensorDict(rows, batch_size=[2])), owner)
        return teacher


class ScriptedTeacher:
    """The Teacher protocol over a task's script."""

    def __init__(self, task: Any, inputs: tuple[str, ...]) -> None:  # noqa: ANN401  (a Task)
        self.task, self.inputs = task, inputs
        is_mixture = callable(getattr(task, "script_modes", None))
        self.offers = frozenset[str](("log_std", "modes") if is_mixture else ())

    def label(self, obs: TensorDict) -> TeacherOutput:
        """See Teacher."""
        action = self.act(obs)
        if not self.offers:
            return TeacherOutput(action=action)
        with torch.no_grad():
            modes = self.task.script_modes(obs.select(*self.inputs)).clip(-1, 1)
            log_std = self.task.script_std().log().to(action).expand_as(action)
        return TeacherOutput(action=action, log_std=log_std, modes=modes)

    def act(self, obs: TensorDict) -> Tensor:
        """See Teacher."""
        with torch.no_grad():
            return self.task.script(obs.select(*self.inputs)).clip(-1, 1)

    def reset(self, mask: Tensor) -> None:
        """See Teacher: nothing is remembered."""

    def sha256(self) -> str:
        """See Teacher: of the file that the script stands in and of its constants."""
        code = Path(inspect.getfile(type(self.task))).read_text(encoding="utf-8")
        std = {"script_std": self.task.script_std()} if self.offers else {}
        return sha256({**self.task.script_constants(), **std}, [*self.inputs, code])


def _check_mixture(said: TeacherOutput, owner: str) -> None:
    """Refuse modes of another shape than actions have, and first ones that are not the script's action."""
    assert said.modes is not None, "a script without modes offers none"
    shape, (count, size) = tuple(said.modes.shape), said.action.shape
    if len(shape) != 3 or (shape[0], shape[2]) != (count, size):
        raise UserError(f"{owner} gives modes {shape} for {count} rows, wanted ({count}, K, {size})")
    if not torch.equal(said.modes[:, 0], said.action):
        first, action = said.modes[0, 0].tolist(), said.action[0].tolist()
        raise UserError(f"{owner} acts {action} where its first mode is {first}: they must be the same")


def _name(task: object) -> str:
    return type(task).__name__


def _with_script() -> str:
    """Return the names of the registered tasks whose file has a script."""
    having = [
        name
        for name in registry.names("task")
        if "def script(" in Path(inspect.getfile(registry.find("task", name))).read_text(encoding="utf-8")
    ]
    return ", ".join(having) or "none"
