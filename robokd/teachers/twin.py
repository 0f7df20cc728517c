"""The student itself, shown what only a simulator knows: one network that teaches itself to do without.

    L = (1 - a) L(student; sg twin) + a L(twin; sg student),    a = teacher.weight

In the twin's half the losses but for reward count `follow` times, which may grow on a schedule.

Both views are the same network; the twin's trunk is told of the privileged groups, the student's is not. Each
learns from reward by its own likelihood of what was done, whoever did it, and from the other. So the twin
learns not to do what the student could not follow, which closes the gap that no imitation closes: where a
teacher who knows the way never looks, a student that must look first learns nothing from it.

With `latent` the trunk is told a code z of the groups, and the student guesses it from what it remembers:

    action = pi(x, z),    twin z = enc(groups),    student z = sg phi(history)

loss=[ppo,latent] then has |phi - sg enc|^2 in the student's half and |enc - sg phi|^2 in the twin's: this is
regularised online adaptation (ROA), and `follow` its lambda, which must begin at 0 and stay small: before
reward has taught it what to say the code would agree with the guess by saying nothing. Source: Fu et al.
(2022), Deep Whole-Body Control; Cheng et al. (2023), Extreme Parkour. Departures: both act in every round,
each in its share of the episodes (there every 20th iteration is the student's), and pi learns from reward
under the guess too.

Source: pi-Distill and OPSD (see `Emilianopp/Privileged-Information-Distillation`). With loss=[ppo,kl]:
`loss.kl.direction=reverse` has KL(twin || sg student) in the twin's half as pi-Distill has, and
KL(student || sg twin) in the student's as OPSD has; `forward` has pi-Distill's in the student's half.
Shapes: N environments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.nets.hint import SHOWN
from robokd.registry import register, unknown
from robokd.schedule import Schedule
from robokd.students.base import StudentOutput, StudentPolicy
from robokd.teachers.base import TeacherOutput
from robokd.teachers.weights import sha256


@register("teacher", "twin")
@dataclass(kw_only=True)
class TwinCfg:
    """The student's own network, shown privileged groups; it learns along."""

    groups: tuple[str, ...] = ("privileged",)  # that it is shown beside what the student sees
    weight: float = 0.5  # a: of the twin's half of the objective
    follow: Schedule = field(default_factory=Schedule)  # factor on what holds it to the student, in its half
    latent: int = 0  # > 0: it is shown a code of so many numbers, that the student guesses: ROA

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"teacher.weight must be in [0, 1], got {self.weight}")
        self.follow.check_range("teacher.follow", 0, math.inf)
        if self.latent < 0:
            raise ValueError(f"teacher.latent must be >= 0, got {self.latent}")
        if not self.groups:
            raise ValueError("teacher.groups must name at least one group, got none")

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """Return the groups that it is shown; UserError for one that the task lacks."""
        known = task.obs_specs()
        for name in self.groups:
            if name not in known:
                raise UserError(f"teacher.groups: {unknown('observation group', name, known)}")
        return self.groups


class TwinTeacher:
    """The Teacher protocol over a student at work, whose memory it shares; it is not frozen."""

    def __init__(self, policy: StudentPolicy) -> None:
        self.policy = policy
        self.groups = tuple(name.removeprefix(SHOWN) for name in policy.student.shown)
        self.inputs = (*policy.student.inputs, *self.groups)
        self.offers = policy.student.offers & {"log_std", "latent", "value"}

    def label(self, obs: TensorDict) -> TeacherOutput:
        """See Teacher; of the step that the student is about to be asked."""
        student = self.policy.student
        told = shown(obs, student.shown)
        with torch.no_grad():
            said, _ = student.forward(obs.select(*student.inputs).update(told), self.policy.state)
        return as_teacher(said)

    def act(self, obs: TensorDict) -> Tensor:
        """See Teacher."""
        return self.label(obs).action

    def reset(self, mask: Tensor) -> None:
        """See Teacher: the memory is the student's."""

    def sha256(self) -> str:
        """See Teacher: of what it is shown; its weights are the student's."""
        return sha256({}, self.inputs)


def shown(obs: TensorDict, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the groups of obs under the names that a twin is shown them by."""
    return {name: obs[name.removeprefix(SHOWN)] for name in names}


def as_teacher(said: StudentOutput) -> TeacherOutput:
    """Return what a view of the network says as what the other one is taught, without a gradient.

    Its action is not clipped, other than a teacher's: it is the mean of the Gaussian that is explored.
    """
    parts = {name: getattr(said, name) for name in ("log_std", "latent", "value")}
    detached = {name: None if value is None else value.detach() for name, value in parts.items()}
    return TeacherOutput(action=said.action.detach(), **detached)
