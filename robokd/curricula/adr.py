"""Automatic domain randomisation: ranges begin narrow and grow where the policy masters their edges.

Source: OpenAI et al. (2019), "Solving Rubik's Cube with a Robot Hand", algorithm 1. With probability
`edge_share` an episode lies on one edge of one range, and anywhere between the edges otherwise. Of `episodes`
on an edge, a success of `widen_above` moves it outwards by `step`, less than `narrow_below` inwards.
Shapes: N environments, D numbers of an episode's parameters, K of them with edges, 2 K edges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robokd import UserError
from robokd.curricula.base import CurriculumCfg, Uniform
from robokd.draws import Draws
from robokd.registry import register


@register("curriculum", "adr")
@dataclass(kw_only=True)
class AdrCfg(CurriculumCfg):
    """Widen the ranges where the policy masters their edges (automatic domain randomisation)."""

    learns: ClassVar[bool] = True

    parameters: tuple[str, ...] = ()  # whose ranges grow, by name; empty = all. The others are drawn whole
    start: float = 0.1  # share of a range that is drawn from at first, where episodes are easiest
    step: float = 0.05  # share of a range by which an edge moves
    edge_share: float = 0.5  # of episodes that lie on an edge
    episodes: int = 64  # on an edge, before it is judged
    widen_above: float = 0.8  # success
    narrow_below: float = 0.4  # success

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "step", "edge_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"curriculum.{name} must be in (0, 1], got {getattr(self, name)}")
        if not 0 <= self.narrow_below < self.widen_above <= 1:
            got = f"{self.narrow_below} and {self.widen_above}"
            raise ValueError(f"curriculum wants 0 <= narrow_below < widen_above <= 1, got {got}")
        if self.episodes < 1:
            raise ValueError(f"curriculum.episodes must be >= 1, got {self.episodes}")

    def build(
        self, *, sizes: Mapping[str, int], easy: Sequence[float], draws: Draws, device: str
    ) -> AdrSampler:
        """See CurriculumCfg.build."""
        for name in self.parameters:
            if name not in sizes:
                raise UserError(
                    f"curriculum.parameters: no parameter named {name!r}. Known: {', '.join(sizes)}"
                )
        return AdrSampler(self, sizes, easy, draws, device)


class AdrSampler:
    """The TaskSampler protocol. What it learns: where the edges are, and what is known of each."""

    def __init__(
        self, cfg: AdrCfg, sizes: Mapping[str, int], easy: Sequence[float], draws: Draws, device: str
    ) -> None:
        self._cfg, self._draws, self._uniform = cfg, draws, Uniform(sizes, draws)
        owners = [name for name, size in sizes.items() for _ in range(size)]
        growing = [not cfg.parameters or name in cfg.parameters for name in owners]
        self._names = [name for name, is_growing in zip(owners, growing, strict=True) if is_growing]
        columns = [column for column, is_growing in enumerate(growing) if is_growing]
        self._columns = torch.tensor(columns, dtype=torch.int64, device=device)  # (K,)
        self._easy = torch.tensor(easy, dtype=torch.float64, device=device)[self._columns]
        half = cfg.start / 2
        # (2, K): the lower edges, then the upper ones
        self._edges = torch.stack((self._easy - half, self._easy + half)).clip(0, 1)
        self._successes = torch.zeros_like(self._edges)
        self._tries = torch.zeros_like(self._edges)

    def sample(self, episode: Tensor) -> Tensor:
        """See TaskSampler.sample."""
        place = self._uniform(episode)
        low, high = self._edges
        inside = low + (high - low) * place[:, self._columns]
        is_upper, number, is_edge = self._edge_of(episode)
        on_edge = torch.where(is_upper, high[number], low[number])
        is_chosen = is_edge[:, None] & (torch.arange(len(low), device=low.device) == number[:, None])
        place[:, self._columns] = torch.where(is_chosen, on_edge[:, None], inside)
        return place

    def update(self, episode: Tensor, place: Tensor, outcome: Tensor, mask: Tensor) -> None:
        """See TaskSampler.update."""
        is_upper, number, is_edge = self._edge_of(episode)
        edge = is_upper.long() * len(self._columns) + number
        put = place.gather(1, self._columns[number][:, None])[:, 0]
        # an edge that has moved since the episode began has nothing to learn from it
        counts = (mask & is_edge & (put == self._edges.flatten()[edge])).double()
        self._tries.view(-1).index_add_(0, edge, counts)
        self._successes.view(-1).index_add_(0, edge, counts * outcome)
        self._move()

    def _move(self) -> None:
        cfg = self._cfg
        is_known = self._tries >= cfg.episodes
        success = self._successes / self._tries.clip(min=1)
        outwards = (success >= cfg.widen_above).double() - (success < cfg.narrow_below).double()
        shift = cfg.step * outwards * is_known
        low = (self._edges[0] - shift[0]).clip(min=0).minimum(self._easy)
        high = (self._edges[1] + shift[1]).clip(max=1).maximum(self._easy)
        self._edges = torch.stack((low, high))
        self._tries = self._tries.masked_fill(is_known, 0.0)
        self._successes = self._successes.masked_fill(is_known, 0.0)

    def _edge_of(self, episode: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return of each episode (N,) whether its edge is an upper one, of which number, if it has one."""
        chance = self._draws.uniform("curriculum", episode, 0, 1)[:, 0] / self._cfg.edge_share
        count = len(self._columns)
        edge = (chance * 2 * count).long().clip(max=2 * count - 1)
        return edge >= count, edge % count, chance < 1

    def state_dict(self) -> dict[str, Tensor]:
        """See TaskSampler.state_dict."""
        return {
            "edges": self._edges.clone(), "successes": self._successes.clone(), "tries": self._tries.clone()
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See TaskSampler.load_state_dict."""
        device = self._edges.device
        self._edges, self._successes, self._tries = (
            state[name].to(device, copy=True) for name in ("edges", "successes", "tries")
        )

    def summary(self) -> dict[str, Tensor]:
        """Return how much of each growing range is drawn from, 0 to 1, by its parameter's name."""
        width = self._edges[1] - self._edges[0]
        return {
            name: width[[place for place, owner in enumerate(self._names) if owner == name]].mean()
            for name in dict.fromkeys(self._names)
        }
