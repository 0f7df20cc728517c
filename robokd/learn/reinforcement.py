"""What a round's rewards say of the actions taken, and the updates that follow: PPO's half of distilling.

Source: Schulman et al. (2017), algorithm 1; the learning rate follows the divergence as in rsl_rl.
Departures: the likelihood of what was done is taken when learning begins, in the numerics of learning, so
that the first ratio is 1 though convolutions learn in bfloat16; and the rate changes once an epoch, on the
device, for which nobody waits.
Shapes: N environments, S steps of a round, R rows, T steps of a row, A actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.learn import ranks
from robokd.learn.advantages import advantages
from robokd.learn.buffer import carried
from robokd.learn.dataset import places
from robokd.losses.base import ACTED, ADVANTAGE, BEHIND, DRIVEN, SENT
from robokd.nets.critic import Critic

if TYPE_CHECKING:
    from robokd.draws import Draws
    from robokd.env.base import State, VecEnv
    from robokd.learning import ReinforcementConfig

RETURN, KNOWN = "return", "known"  # what the critic learns, (R, T), from what, (R, T, D)
RATES = (1e-5, 1e-2)  # bounds of the learning rate
STEP = 1.5  # factor by which it changes


def critic_groups(settings: ReinforcementConfig, env: VecEnv) -> tuple[str, ...]:
    """Return the groups that the critic reads; UserError for one that is none."""
    for name in settings.critic_groups:
        if name not in env.obs_specs:
            raise UserError(f"rl.critic_groups names {name!r}. Known: {', '.join(env.obs_specs)}")
    return tuple(settings.critic_groups) or tuple(env.obs_specs)


def explored(action: Tensor, log_std: Tensor | None, draws: Draws, name: str, state: State) -> Tensor:
    """Return a sample (N, A) of a Gaussian policy, not clipped: its likelihood would not be a density's."""
    assert log_std is not None, "a loss of the rollout asks for a spread: of_student"
    noise = draws.normal(name, state.episode_id, state.step, action.shape[1])
    return action + log_std.exp() * noise.to(action)


class Reinforcement:
    """The critic, what a round was, and how fast the student may move."""

    def __init__(self, settings: ReinforcementConfig, env: VecEnv) -> None:
        self.settings = settings
        self.groups = critic_groups(settings, env)
        size = sum(env.obs_specs[name].size for name in self.groups)
        self.critic = Critic(size, settings.critic_hidden).to(env.device)
        self.optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=settings.critic_learning_rate, fused=True
        )
        self.num_envs, self._device = env.num_envs, torch.device(env.device)
        # how fast the student learns, and may learn at most
        self.rate, self.largest = self._numbers(settings.learning_rate, RATES[1])
        self.seen: dict[str, Tensor] = {}  # of the last round: mean reward, success of ended episodes
        self._steps: list[dict[str, Tensor]] = []

    def note(self, obs: TensorDict, sent: Tensor, driven: Tensor, acted: Tensor, outcome: tuple) -> None:
        """Remember a step: what was seen and done, and the outcome, which is what `VecEnv.step` returned."""
        _, reward, done, extras = outcome
        beyond = torch.zeros_like(reward)
        if "terminal" in extras:
            with torch.no_grad():
                beyond = torch.where(extras["time_outs"], self.critic(self._rows(extras["terminal"])), beyond)
        fields = {
            KNOWN: self._rows(obs), SENT: sent, DRIVEN: driven, ACTED: acted, "reward": reward,
            "done": done.bool(), "beyond": beyond,
        }  # fmt: skip
        fields["succeeded"] = extras["success"] & fields["done"]
        self._steps.append(fields)

    def judged(self, last: TensorDict) -> Iterator[TensorDict]:
        """Yield what the round says of each step (N, ...), and forget it; `last` was seen after them all."""
        steps = {name: torch.stack([step[name] for step in self._steps]) for name in self._steps[0]}
        self._steps = []
        known, acted = steps[KNOWN], steps[ACTED]
        with torch.no_grad():
            value = self.critic(torch.cat((known, self._rows(last)[None])))
        found = advantages(
            steps["reward"], value, steps["done"], steps["beyond"], discount=self.settings.discount,
            gae_lambda=self.settings.gae_lambda,
        )  # fmt: skip
        steps[RETURN] = found + value[:-1]
        steps[BEHIND] = (found <= 0) | steps[DRIVEN]  # how a teacher did says nothing against following it
        self.critic.update(ranks.gathered(known.flatten(0, 1)), ranks.gathered(steps[RETURN].flatten()))
        count = ranks.total(acted.sum()).clamp(min=1)
        mean = ranks.total((found * acted).sum()) / count
        spread = ranks.total(((found - mean).square() * acted).sum()).div(count).sqrt()
        steps[ADVANTAGE] = (found - mean) / (spread + 1e-8) * acted
        ended = ranks.total(steps["done"].sum()).clamp(min=1)
        self.seen = {
            "reward": steps["reward"].mean() / ranks.world(), "success": steps["succeeded"].sum() / ended
        }  # fmt: skip
        kept = (KNOWN, SENT, DRIVEN, ACTED, RETURN, BEHIND, ADVANTAGE)
        for number in range(len(found)):
            yield TensorDict({name: steps[name][number] for name in kept}, batch_size=found.shape[1:])

    def parts(self, rows: TensorDict, generator: torch.Generator) -> Iterator[TensorDict]:
        """Yield the mini-batches of one epoch, of several processes each its own rows of them."""
        own = places(len(rows), self.num_envs)
        where = torch.full((len(rows) * ranks.world(),), -1)
        where[own] = torch.arange(len(rows))
        # all of it is known to the host, which sends what it finds on ahead
        found = where[torch.randperm(len(where), generator=generator)]
        for part in found.chunk(self.settings.mini_batches):
            mine = part[part >= 0] if ranks.world() > 1 else part
            yield rows[carried(mine, self._device)]

    def fit_critic(self, rows: TensorDict) -> Tensor:
        """Take a gradient step of the critic; return its loss."""
        count = ranks.count(rows[RETURN].numel())
        loss = self.critic.loss(rows[KNOWN].flatten(0, 1), rows[RETURN].flatten()).sum() / count
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.sum_gradients(self.critic.parameters())
        self.optimizer.step()
        return loss.detach()

    def adapt(self, moved: Tensor) -> None:
        """Change the learning rate by how far an epoch moved the policy, in nats; 0: unknown."""
        wanted = self.settings.desired_kl
        if not wanted:
            return
        slower, faster = (self.rate / STEP).clamp(min=RATES[0]), (self.rate * STEP).minimum(self.largest)
        is_little = (moved > 0) & (moved < wanted / 2)
        self.rate = torch.where(moved > 2 * wanted, slower, torch.where(is_little, faster, self.rate))

    def slow_down(self) -> None:
        """Halve the learning rate, and what it may grow to again."""
        self.rate = self.largest = (self.rate / 2).clamp(min=RATES[0])

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs."""
        return {
            "critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict(),
            "rates": [self.rate.item(), self.largest.item()],
        }  # fmt: skip

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Return to what `state_dict` returned."""
        self.critic.load_state_dict(saved["critic"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.rate, self.largest = self._numbers(*saved["rates"])

    def _numbers(self, *values: float) -> list[Tensor]:
        return [torch.full((), value, dtype=torch.float64, device=self._device) for value in values]

    def _rows(self, obs: TensorDict) -> Tensor:
        return torch.cat([obs[name] for name in self.groups], -1)
