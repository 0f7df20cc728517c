"""Uniform: every episode is drawn from the whole of every range, from the first to the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from robokd.curricula.base import CurriculumCfg, Uniform
from robokd.draws import Draws
from robokd.registry import register


@register("curriculum", "uniform")
@dataclass(kw_only=True)
class UniformCfg(CurriculumCfg):
    """Draw from the whole of every range (the default: plain domain randomisation)."""

    def build(
        self, *, sizes: Mapping[str, int], easy: Sequence[float], draws: Draws, device: str
    ) -> UniformSampler:
        """See CurriculumCfg.build."""
        return UniformSampler(sizes, draws)


class UniformSampler:
    """The TaskSampler protocol; learns nothing."""

    def __init__(self, sizes: Mapping[str, int], draws: Draws) -> None:
        self._uniform = Uniform(sizes, draws)

    def sample(self, episode: Tensor) -> Tensor:
        """See TaskSampler.sample."""
        return self._uniform(episode)

    def update(self, episode: Tensor, place: Tensor, outcome: Tensor, mask: Tensor) -> None:
        """See TaskSampler.update."""

    def state_dict(self) -> dict[str, Tensor]:
        """See TaskSampler.state_dict."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See TaskSampler.load_state_dict."""

    def summary(self) -> dict[str, Tensor]:
        """See TaskSampler.summary."""
        return {}
