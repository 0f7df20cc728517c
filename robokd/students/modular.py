"""A student put together from parts: eyes, a memory, and heads that say all that a student can say.

    x = (eyes(pictures), normalised 1-D groups)             of one step
    features, evidence = memory(x, state)                   a memory of rows keeps them as measured
    estimates, latent = heads(evidence)                     each by a head of its own
    action, value = heads(trunk(features, sg estimates, sg latent))

The guesses reach the action detached (sg), so that imitation cannot bend them; the code that a twin is told
in the place of the latent learns from the action too (see nets.hint). A sequence runs eyes and heads on all
of its steps at once and loops over the memory alone.
Shapes: see students.base; N = B or B * T, X = what the eyes say (`seen`) and the 1-D groups (`known`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd import UserError
from robokd.nets.cnn import KeypointEncoder
from robokd.nets.hint import SHOWN, Code, Hint
from robokd.nets.memory import Memory, Recurrent, State, blank, cleared, unroll
from robokd.nets.mlp import mlp
from robokd.nets.normalizer import Normalizer
from robokd.nets.pointnet import PointEncoder
from robokd.nets.votes import Votes
from robokd.students.base import Interface, StudentOutput, unflat
from robokd.students.options import HeadsCfg

Eyes = Mapping[str, KeypointEncoder | PointEncoder]  # by camera
Drive = Callable[[Recurrent, Tensor], dict[str, Tensor]]  # steps of a part -> its states after each
LOG_STD = (-5.0, 1.0)  # bounds; a sigmoid keeps them, so that the gradient never dies
BRANCH_UNITS = 64


class ModularStudent(nn.Module):
    """The Student protocol for any mix of 1-D groups and cameras; see the module."""

    memory: Memory

    def __init__(
        self, cfg: HeadsCfg, interface: Interface, eyes: Eyes, memory: Memory, votes: Votes | None = None
    ) -> None:
        super().__init__()
        self.inputs, self.targets = interface.inputs, dict(interface.targets)
        self.latent_size = interface.latent_size
        self.groups, self.shown = tuple(interface.obs_specs), tuple(SHOWN + name for name in interface.shown)
        self._widths = [spec.size for spec in interface.obs_specs.values()]
        self.normalizers = nn.ModuleDict({
            name: Normalizer(spec.size) for name, spec in interface.obs_specs.items()
        })  # fmt: skip
        self.encoders = nn.ModuleDict(eyes)
        self.memory, self.votes = memory, votes
        targets, evidence = sum(interface.targets.values()), memory.evidence_size
        size, actions = memory.size + targets + interface.latent_size, interface.action_size
        self.estimator = mlp(evidence, cfg.estimate_hidden, targets) if targets else None
        self.trunk = mlp(size, cfg.hidden[:-1], cfg.hidden[-1])
        self.head = nn.Linear(cfg.hidden[-1], actions * (votes.steps if votes else 1))
        self.hint = _hint(cfg, interface, size)
        self.blend = cfg.blend
        self.second = _correction(cfg.hidden[-1], actions) if cfg.blend else None
        self.adapter = (
            mlp(evidence, cfg.estimate_hidden, interface.latent_size) if interface.latent_size else None
        )
        self.spread = nn.Parameter(first_spread(cfg.initial_std, actions)) if cfg.gaussian else None
        self.critic = nn.Linear(cfg.hidden[-1], 1) if cfg.value else None
        self.branches = nn.ModuleDict(_branches(cfg, memory, sum(widths(eyes, interface)), actions))
        said = {
            "log_std": cfg.gaussian, "latent": interface.latent_size > 0, "value": cfg.value,
            "chunk": votes is not None, "branches": cfg.branches,
        }  # fmt: skip
        self.offers = frozenset(name for name, is_said in said.items() if is_said)
        self.feature_size = cfg.hidden[-1] + size - memory.echo_size
        self._shapes = {**memory.shapes, **(votes.shapes if votes else {})}

    def initial_state(self, count: int) -> TensorDict:
        """See Student: zeros."""
        return TensorDict(blank(self._shapes, count, self.head.weight.device), batch_size=[count])

    def reset(self, state: TensorDict, mask: Tensor) -> TensorDict:
        """See Student."""
        kept = cleared(self._shapes, state, mask)
        return TensorDict(kept, batch_size=state.batch_size) if kept else state

    def forward(self, obs: TensorDict, state: TensorDict) -> tuple[StudentOutput, TensorDict]:
        """See Student."""
        said, after = self._run(obs, lambda part, x: part.step(x, state))
        return said, TensorDict(after, batch_size=state.batch_size) if after else state

    def sequence(self, obs: TensorDict, state: TensorDict, fresh: Tensor) -> StudentOutput:
        """See Student."""
        said, _ = self._run(obs.flatten(0, 1), lambda part, x: unroll(part, x, state, fresh))
        return unflat(said, fresh.shape)

    def update_normalizers(self, obs: TensorDict) -> None:
        """See Student."""
        for name in self.groups:
            normalizer = self.normalizers[name]
            assert isinstance(normalizer, Normalizer)
            normalizer.update(obs[name])
        if self.hint is not None:
            self.hint.update(obs)

    def _run(self, obs: State, drive: Drive) -> tuple[StudentOutput, dict[str, Tensor]]:
        """Return the output for obs (N, ...) and the states after, as `drive` finds them."""
        seen = [encoder(obs[name]) for name, encoder in self.encoders.items()]
        known = [obs[name] for name in self.groups]
        x = torch.cat((*seen, *self._normalised(known)), -1)
        after = drive(self.memory, torch.cat((*seen, *known), -1) if self.memory.measured else x)
        said = self._say(x, after, obs)
        if self.votes is not None and said.chunk is not None:
            counted = drive(self.votes, said.chunk)
            said.action = self.votes.recall(said.chunk, counted)
            after = {**after, **counted}
        return said, after

    def _normalised(self, known: Iterable[Tensor]) -> list[Tensor]:
        return [normalizer(rows) for normalizer, rows in zip(self.normalizers.values(), known, strict=True)]

    def _say(self, x: Tensor, state: Mapping[str, Tensor], obs: State) -> StudentOutput:
        rows = {
            name: torch.cat(self._normalised(state[name].split(self._widths, -1)), -1)
            for name in self.memory.measured
        }
        features, evidence = self.memory.recall(x, {**state, **rows})
        estimates, latent, guesses = self._guess(evidence, obs)
        *layers, last = self.trunk
        middle = torch.cat((features, *guesses), -1)
        if isinstance(self.hint, Hint):
            middle = self.hint(obs, middle)
        for layer in layers:
            middle = layer(middle)
        hidden = nn.functional.elu(last(middle))
        action, chunk, imitated = self.head(hidden), None, None
        if self.votes is not None:
            chunk = action.unflatten(-1, (self.votes.steps, -1))
            action = chunk[:, 0]
        if self.second is not None:
            imitated, action = action, action.detach() + self.blend * self.second(hidden)
        own = features[..., : self.memory.size - self.memory.echo_size]
        early = {"senses": x, "memory": features, "trunk": middle}
        return StudentOutput(
            action=action, features=torch.cat((hidden, own, *guesses), -1), estimates=estimates,
            log_std=None if self.spread is None else _log_std(self.spread).expand_as(action), latent=latent,
            value=None if self.critic is None else self.critic(hidden).squeeze(-1), chunk=chunk,
            branches={name: branch(early[name]) for name, branch in self.branches.items()},
            imitated=imitated,
        )  # fmt: skip

    def _guess(self, evidence: Tensor, obs: State) -> tuple[dict[str, Tensor], Tensor | None, list[Tensor]]:
        """Return the estimates, the latent, and what the action reads of them."""
        guesses: list[Tensor] = []
        estimates: dict[str, Tensor] = {}
        if self.estimator is not None:
            estimate = self.estimator(evidence)
            estimates = dict(zip(self.targets, estimate.split(list(self.targets.values()), -1), strict=True))
            guesses.append(estimate.detach())
        code = self.hint(obs) if isinstance(self.hint, Code) else None
        if code is not None:
            return estimates, code, [*guesses, code]
        latent = self.adapter(evidence) if self.adapter is not None else None
        if latent is not None:
            guesses.append(latent.detach())
        return estimates, latent, guesses


def widths(eyes: Eyes, interface: Interface) -> tuple[int, int]:
    """Return how many numbers the eyes say, and how many the 1-D groups have; UserError for none at all."""
    if not interface.inputs:
        raise UserError("a student needs at least one observation group or camera, got none")
    return sum(eye.size for eye in eyes.values()), sum(spec.size for spec in interface.obs_specs.values())


def _hint(cfg: HeadsCfg, interface: Interface, size: int) -> Hint | Code | None:
    """Return how a twin is told what it is shown, if there is one: as a code where a latent is guessed."""
    shown = {name: spec.size for name, spec in interface.shown.items()}
    if shown and interface.latent_size:
        return Code(shown, cfg.estimate_hidden, interface.latent_size)
    return Hint(shown, size) if shown else None


def _branches(cfg: HeadsCfg, memory: Memory, size: int, actions: int) -> dict[str, nn.Module]:
    """Return early action heads: on the step, on what is remembered, and before the trunk's last layer.

    Source: the branches of OFA-KD (Hao et al. 2023), with actions in the place of logits.
    """
    if not cfg.branches:
        return {}
    early = {"senses": size}
    if memory.shapes:
        early["memory"] = memory.size
    if len(cfg.hidden) > 1:
        early["trunk"] = cfg.hidden[-2]
    return {name: mlp(size, (BRANCH_UNITS,), actions) for name, size in early.items()}


def first_spread(std: float, actions: int) -> Tensor:
    """Return the parameter of a spread that is `std` in every dimension."""
    low, high = LOG_STD
    return torch.full((actions,), math.log((math.log(std) - low) / (high - math.log(std))))


def _correction(size: int, actions: int) -> nn.Linear:
    """Return a head that says 0 at first: the second head begins as the first."""
    head = nn.Linear(size, actions)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _log_std(spread: Tensor) -> Tensor:
    low, high = LOG_STD
    return low + (high - low) * torch.sigmoid(spread)
