"""Who acts while a student is taught: who drives an environment, and what is sent.

Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from robokd.draws import Draws
    from robokd.learning import ActingConfig


def executed(
    settings: ActingConfig,
    share: float,
    label: Tensor,
    said: Tensor,
    draws: Draws,
    episode: Tensor,
    step: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the actions (N, A) to send, and where the teacher drives, (N,) bool.

    The teacher drives with probability `share` (Ross et al. 2011), drawn by episode or by step. Drawn by
    episode, an episode changes hands once at most, when the share falls below its draw. Where the student
    drives, a gap > 0 gives the step back to the teacher when their actions are further apart than that in
    any dimension (as in SafeDAgger: Zhang and Cho 2017). Noise goes on what the teacher sends, never on its
    labels (DART: Laskey et al. 2017).

    Args:
        settings: `dagger.acting`.
        share: of the teacher, in this round.
        label: what the teacher would send, (N, A).
        said: what the student would send, (N, A).
        draws: of the training stream.
        episode: numbers of the episodes, (N,).
        step: control steps since they began, (N,).
    """
    if settings.per == "episode":
        drawn = draws.uniform("beta", episode, 0, 1)[:, 0]
    else:
        drawn = draws.uniform("beta_step", episode, step, 1)[:, 0]
    driven = drawn < share
    if settings.gap > 0:
        driven = driven | ((label - said).abs().amax(-1) > settings.gap)
    sent = label
    if settings.noise > 0:
        noise = settings.noise * draws.normal("acting_noise", episode, step, label.shape[1])
        sent = (label + noise).clip(-1, 1)
    return torch.where(driven[:, None], sent, said), driven
