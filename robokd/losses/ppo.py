"""The clipped surrogate of policy gradients: what was done and turned out better than expected, do it more.

Source: Schulman et al. (2017), eq. 7. Shapes: B samples, T steps, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import ACTED, ADVANTAGE, LOG_PROB, SENT, DistillLoss, LossCfg, check_positive
from robokd.registry import register
from robokd.students.base import StudentOutput, log_likelihood
from robokd.teachers.base import TeacherOutput

LARGEST = 10.0  # nats: a likelihood that grew by more has no gradient, where it would have an infinite one


@register("loss", "ppo")
@dataclass(kw_only=True)
class PpoLossCfg(LossCfg):
    """The clipped surrogate of PPO: the student learns from reward too.

    Alone it is reinforcement learning from what the student sees. Beside `kl`, whose `anneal` ends at 0, it
    is kickstarting (Schmitt et al. 2018): the teacher shows the way and does not bound where it ends; with
    `gated=true` the teacher is followed only where the student did worse than expected. After
    `baseline=<distill run>` it goes on from a distilled student. `rl.*` sets the critic and the updates.

    Unit: advantages, which have unit variance over a round.
    """

    of_student: ClassVar[tuple[str, ...]] = ("log_std",)
    of_rollout: ClassVar[bool] = True

    clip: float = 0.2  # how far the likelihood of an action may move in one round, as a share of it

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("loss.ppo.clip", self.clip)

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(ppo, clip=self.clip)


def ppo(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict, *, clip: float) -> Tensor:
    """Return -min(r A, clip(r, 1 - clip, 1 + clip) A) as (B, T), r = p(sent) / p_before(sent).

    Where somebody acted whose likelihood is not known, A is 0. Nothing is differentiated through the sample.

    Args:
        student: `action` and `log_std` (B, T, A) of who learns.
        teacher: not read.
        batch: `sent` (B, T, A), before clipping; `log_prob` (B, T) of it when the round began; `acted`
            (B, T) bool, where that is known; `advantage` (B, T).
        clip: largest change of the likelihood that is rewarded.
    """
    change = log_likelihood(student, batch[SENT]) - batch[LOG_PROB]
    # another's action may be as good as impossible, and what a twin did may be so to the student
    ratio = change.masked_fill(~batch[ACTED], 0.0).clamp(max=LARGEST).exp()
    advantage = batch[ADVANTAGE]
    return -(ratio * advantage).minimum(ratio.clamp(1 - clip, 1 + clip) * advantage)
