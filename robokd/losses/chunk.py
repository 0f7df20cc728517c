"""Distance between the student's chunk of actions and the teacher's actions of these steps.

Source: ACT (Zhao et al. 2023), the L1 of action chunks. Departure: `imitate_episodes.py` sets padded steps to
zero but counts them in the mean, so short ends weigh less; here the mean is over the steps that exist.
Shapes: B samples, T steps, K steps of a chunk, A action dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.losses.base import DistillLoss, LossCfg
from robokd.registry import register
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput


@register("loss", "chunk")
@dataclass(kw_only=True)
class ChunkCfg(LossCfg):
    """Distance between the student's chunk of actions and the teacher's actions of these steps.

    The student says this action and the next K - 1; the teacher's are those of the same sequence and the same
    episode. Steps beyond either are neither trained nor counted. Sequences of T steps train a chunk's entry k
    from T - k places only: T should be well above K, and with T = 1 all but the first entry learn nothing.

    ACT chunks demonstrations. Where the student drives (DAgger), later labels answer states that its own
    actions led to, so a chunk is then no plan of the teacher's. Unit: normalised action units, mean over A.
    """

    of_student: ClassVar[tuple[str, ...]] = ("chunk",)

    def build(self) -> DistillLoss:
        """Return the loss."""
        return partial(chunk)


def chunk(student: StudentOutput, teacher: TeacherOutput, batch: TensorDict) -> Tensor:
    """Return mean over valid k and over A of |chunk[t, k] - mu_T[t + k]| as (B, T), in action units.

    k is valid where t + k < T and no step of t + 1 .. t + k begins an episode; k = 0 always is. Predictions
    for the other k get no gradient, whatever they are. The teacher is detached.

    Args:
        student: `chunk` (B, T, K, A).
        teacher: `action` (B, T, A).
        batch: `fresh` (B, T) bool, the steps that begin an episode.
    """
    assert student.chunk is not None, "the engine refuses a student without chunk: of_student"
    steps, ahead = student.chunk.shape[1:3]
    device = student.chunk.device
    later = torch.arange(steps, device=device)[:, None] + torch.arange(ahead, device=device)  # (T, K)
    inside = later < steps
    later = later.clamp(max=steps - 1)
    episode = batch["fresh"].long().cumsum(1)
    is_valid = inside & (episode[:, later] == episode[:, :, None])  # (B, T, K)
    # filled, not multiplied by 0: what lies beyond the end may be anything, NaN included
    error = (student.chunk - teacher.action.detach()[:, later]).masked_fill(~is_valid[..., None], 0.0)
    return error.abs().mean(-1).sum(-1) / is_valid.sum(-1)
