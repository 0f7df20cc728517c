"""The parameters of episodes: drawn from a task's ranges, the outer parts of which training never sees.

Shapes: N episodes, P numbers of all parameters, D of one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from robokd.curricula.base import CurriculumCfg
from robokd.curricula.uniform import UniformCfg
from robokd.draws import Draws
from robokd.env.base import HELD_OUT, SPACES, Range


class Parameters:
    """A task's ranges on a device, who picks places in them, and from which space (one of SPACES).

    "seen" keeps to the inner part of every range; "unseen" draws one randomly chosen parameter of each
    episode from the held-out outer parts (HELD_OUT at each end), "unseen_all" all of them.
    """

    def __init__(
        self, ranges: Mapping[str, Range], draws: Draws, space: str = "seen", device: str = "cpu",
        curriculum: CurriculumCfg | None = None,
    ) -> None:  # fmt: skip
        if space not in SPACES:
            raise ValueError(f"no parameter space named {space!r}. Known: {', '.join(SPACES)}")
        self._draws, self._space = draws, space
        self.sizes = {name: len(span.low) for name, span in ranges.items()}
        easy = [span.easy for span in ranges.values() for _ in span.low]
        how = curriculum or UniformCfg()
        self.sampler = how.build(sizes=self.sizes, easy=easy, draws=draws, device=device)

        def row(numbers: list[float]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float64, device=device)

        self._low = row([number for span in ranges.values() for number in span.low])
        self._span = row([number for span in ranges.values() for number in span.high]) - self._low
        self._owner = row([place for place, size in enumerate(self.sizes.values()) for _ in range(size)])

    def at(self, unit: Tensor, episode: Tensor) -> Tensor:
        """Return the values (N, P) float64 of the episodes numbered (N,) at places (N, P) in [0, 1]."""
        share = HELD_OUT + (1 - 2 * HELD_OUT) * unit
        if self._space != "seen":
            outer = torch.where(unit < 0.5, 2 * HELD_OUT * unit, 1 - 2 * HELD_OUT * (1 - unit))
            chosen = self._draws.integer("held_out_parameter", episode, 0, 1, len(self.sizes))
            share = outer if self._space == "unseen_all" else torch.where(chosen == self._owner, outer, share)
        return self._low + share * self._span

    def named(self, values: Tensor) -> dict[str, Tensor]:
        """Return views of values (N, P) as {name: (N, D)}."""
        return dict(zip(self.sizes, values.split(list(self.sizes.values()), 1), strict=True))
