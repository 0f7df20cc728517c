"""stable-baselines3's PPO, A2C, SAC, TD3 or DDPG with MlpPolicy as a frozen teacher, without its library.

    PPO, A2C    a = clip(action_net(policy_net(o)), -1, 1)       value = value_net(value_net(o))
    SAC         a = tanh(mu(latent_pi(o)))
    TD3, DDPG   a = tanh(mu(o))                                  o: (N, D) -> a: (N, A), value: (N,)

It is of a zip or of a teach run, which trained it (see sb3_training). Of a zip, `policy.pth` is read with
weights_only, and plain fields of the JSON `data` as text; what is pickled in it stays so. A squashed
Gaussian's log_std is that of its linearisation: log_std + log(1 - a^2).
Source: stable-baselines3 2.9, `ActorCriticPolicy`, `sac.policies.Actor`, `td3.policies.Actor`,
`StateDependentNoiseDistribution` (gSDE), `VecNormalize`.
Shapes: N environments, D numbers of all groups, A action dimensions.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd import UserError
from robokd.registry import register, unknown
from robokd.teachers.base import Place, TeacherOutput
from robokd.teachers.sb3_training import Sb3Training
from robokd.teachers.weights import (
    check_actions,
    check_width,
    finite_tensors,
    flat,
    group_width,
    linear,
    linear_layers,
    read_file,
    read_tensors,
    sha256,
)

WHAT = "a zip that stable-baselines3 saved"
ACTIVATIONS = {
    "CELU": nn.CELU, "ELU": nn.ELU, "GELU": nn.GELU, "Identity": nn.Identity, "LeakyReLU": nn.LeakyReLU,
    "Mish": nn.Mish, "ReLU": nn.ReLU, "SELU": nn.SELU, "SiLU": nn.SiLU, "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus, "Tanh": nn.Tanh,
}  # fmt: skip
NOT_THE_ACTOR = ("actor_target.", "critic.", "critic_target.")  # of the algorithms that learn off policy
LOG_STD = (-20.0, 2.0)  # range that SAC keeps its log_std in
CLIP_MEAN = 2.0  # that gSDE keeps SAC's mean in, where the zip does not say
TINY = 1e-6
NUMBERS = {"mean", "variance", "epsilon", "clip"}


@register("teacher", "sb3")
@dataclass(kw_only=True)
class Sb3Cfg(Sb3Training):
    """PPO, SAC or TD3 by stable-baselines3: trained by teach; for distill, a zip of it or of A2C or DDPG."""

    path: str = ""  # distill: of the zip
    groups: tuple[str, ...] = ("proprio", "privileged")  # that it reads, in the order it was trained with
    normalizer: str = ""  # distill: .npz or .json with mean, variance [, epsilon, clip] of VecNormalize

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.groups:
            raise ValueError("teacher.groups must name at least one observation group, got none")
        if twice := [group for group in self.groups if self.groups.count(group) > 1]:
            raise ValueError(f"teacher.groups names {twice[0]!r} twice")
        if self.path and (told := self.told()):
            raise ValueError(f"teacher.{told[0]} is of training; teacher.path={self.path} is opened as it is")

    @property
    def actor_groups(self) -> tuple[str, ...]:
        """The groups that a policy trained by teach acts on."""
        return self.groups

    @property
    def critic_groups(self) -> tuple[str, ...]:
        """The groups that its critic reads: the same."""
        return self.groups

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """See OpenCfg."""
        return self.groups

    def files(self) -> tuple[str, ...]:
        """Return what it is read from."""
        return tuple(path for path in (self.path, self.normalizer) if path)

    def open(self, place: Place) -> Sb3Teacher:
        """See OpenCfg."""
        members = _members(read_file(self.path, "sb3", WHAT), self.path)
        group_width(self.groups, place.obs_specs, self.path)
        owner = f"{self.path}, policy.pth"
        tensors = finite_tensors(read_tensors(members["policy.pth"], owner, "SB3's state dict"), self.path)
        facts = Facts.of(members["data"], self.path)
        actor = build_actor(tensors, facts, self.path)
        check_actions(actor.mean.out_features, place.num_actions, self.path)
        check_width(actor.size, self.groups, place.obs_specs, self.path)
        try:
            actor(torch.zeros(2, actor.size))
        except RuntimeError as error:
            raise UserError(f"{self.path}: its layers do not fit one another: {error}") from None
        normalizer = None
        if self.normalizer:
            normalizer = Normalizer(_numbers(self.normalizer, actor.size), actor.size).to(place.device)
        return Sb3Teacher(actor.to(place.device), self.groups, normalizer)

    def build(self, obs: TensorDict, num_actions: int, tensors: dict[str, Any]) -> Sb3Teacher:
        """Return the frozen teacher of a teach run's checkpoint; obs fixes the widths of its groups."""
        device, owner = obs[self.groups[0]].device, "the checkpoint"
        actor = build_actor(tensors["model"]["policy"], PLAIN, owner)
        check_actions(actor.mean.out_features, num_actions, owner)
        normalizer = None
        if (saved := tensors["normalizer"]) is not None:
            numbers = {name: np.asarray(value, np.float64) for name, value in saved.items()}
            normalizer = Normalizer(numbers, actor.size).to(device)
        return Sb3Teacher(actor.to(device), self.groups, normalizer)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a zip's JSON says in plain text of how its tensors are used."""

    activation: str  # a name of ACTIVATIONS; empty = the algorithm's usual one
    uses_sde: bool
    squashes: bool  # PPO with gSDE may
    clip_mean: float  # of SAC with gSDE
    bounds: frozenset[float]  # of the actions it was trained for

    @classmethod
    def of(cls, data: bytes, owner: str) -> Facts:
        """Return the facts of the member `data`; UserError for a policy that its tensors do not make up."""
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, Mapping):
            raise UserError(f"{owner}: its member data is not a JSON object: it was cut or altered")
        # some classes are written by their name's text, next to a pickle that we leave alone
        kwargs = fields.get("policy_kwargs") or {}
        seen, acts = fields.get("observation_space") or {}, fields.get("action_space") or {}
        limit = kwargs.get("clip_mean", CLIP_MEAN) if isinstance(kwargs, Mapping) else None
        if not isinstance(limit, int | float) or not all(isinstance(one, Mapping) for one in (seen, acts)):
            raise UserError(f"{owner}: its member data is not what stable-baselines3 writes: it was altered")
        for what, space in (("observations", seen), ("actions", acts)):
            if "box.Box" not in (kind := str(space.get(":type:"))):
                raise UserError(f"{owner} was trained for {what} of {kind}, wanted a flat Box")
        for key in ("features_extractor_class", "use_expln"):
            if kwargs.get(key) and "FlattenExtractor" not in str(kwargs[key]):
                raise UserError(f"{owner}: policy_kwargs has {key}={kwargs[key]}, wanted a plain MlpPolicy")
        bounds = {float(one) for end in ("low", "high") for one in _floats(str(acts.get(end, "")))}
        return cls(
            activation=_activation(kwargs.get("activation_fn"), owner),
            uses_sde=fields.get("use_sde") is True, squashes=kwargs.get("squash_output") is True,
            clip_mean=float(limit), bounds=frozenset(bounds),
        )  # fmt: skip


PLAIN = Facts(  # what teach trains
    activation="", uses_sde=False, squashes=False, clip_mean=CLIP_MEAN, bounds=frozenset((-1.0, 1.0))
)


class Actor(nn.Module):
    """The deterministic actor of any of the algorithms, and what else it knows."""

    log_std: Tensor | None  # (A,), with gSDE (features, A)

    def __init__(
        self, hidden: nn.Sequential, mean: nn.Linear, *, squashes: bool, limit: float = 0.0,
        spread: nn.Linear | None = None, log_std: Tensor | None = None, value: nn.Sequential | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.hidden, self.mean, self.spread, self.value = hidden, mean, spread, value
        self.squashes, self.limit = squashes, limit  # limit: of the mean before it is squashed; 0 = none
        self.register_buffer("log_std", log_std)
        first = hidden[0] if len(hidden) else mean
        assert isinstance(first, nn.Linear)
        self.size = first.in_features
        self.eval().requires_grad_(False)

    def forward(self, rows: Tensor) -> TeacherOutput:
        """Return what the actor says of normalised rows (N, D)."""
        features = self.hidden(rows)
        mean = self.mean(features)
        mean = mean.clamp(-self.limit, self.limit) if self.limit else mean
        action = torch.tanh(mean) if self.squashes else mean.clip(-1, 1)
        log_std = self._log_std(features, mean)
        if log_std is not None and self.squashes:
            log_std = log_std + torch.log(1 - action.square() + TINY)
        value = None if self.value is None else self.value(rows)[:, 0]
        return TeacherOutput(
            action=action, log_std=log_std, value=value, features=features if len(self.hidden) else None
        )

    def _log_std(self, features: Tensor, mean: Tensor) -> Tensor | None:
        if self.spread is not None:
            return self.spread(features).clamp(*LOG_STD)
        if self.log_std is None or self.log_std.ndim == 1:
            return None if self.log_std is None else self.log_std.expand_as(mean)
        variance = features.square() @ self.log_std.exp().square()
        return 0.5 * torch.log(variance + TINY).expand_as(mean)


class Normalizer(nn.Module):
    """VecNormalize's `clip((o - mean) / sqrt(variance + epsilon), -clip, clip)`, (N, D), frozen."""

    mean: Tensor
    variance: Tensor

    def __init__(self, numbers: Mapping[str, np.ndarray], size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(numbers["mean"].reshape(size)))
        self.register_buffer("variance", torch.from_numpy(numbers["variance"].reshape(size)))
        self.epsilon, self.clip = numbers["epsilon"].item(), numbers["clip"].item()

    def forward(self, rows: Tensor) -> Tensor:
        """Return normalised rows, float32."""
        deviation = torch.sqrt(self.variance + self.epsilon)
        return ((rows.double() - self.mean) / deviation).clamp(-self.clip, self.clip).float()


class Sb3Teacher:
    """The Teacher protocol over a rebuilt actor."""

    def __init__(self, actor: Actor, inputs: tuple[str, ...], normalizer: Normalizer | None) -> None:
        self.actor, self.inputs, self.normalizer = actor, inputs, normalizer
        has_std = actor.spread is not None or actor.log_std is not None
        offers = {"log_std": has_std, "value": actor.value is not None, "features": len(actor.hidden) > 0}
        self.offers = frozenset(name for name, is_offered in offers.items() if is_offered)

    def label(self, obs: TensorDict) -> TeacherOutput:
        """See Teacher."""
        with torch.no_grad():
            rows = flat(obs, self.inputs).float()
            return self.actor(rows if self.normalizer is None else self.normalizer(rows))

    def act(self, obs: TensorDict) -> Tensor:
        """See Teacher."""
        return self.label(obs).action

    def reset(self, mask: Tensor) -> None:
        """See Teacher: nothing is remembered."""

    def sha256(self) -> str:
        """See Teacher."""
        layers = [type(layer).__name__ for layer in self.actor.modules()]
        settings = [*self.inputs, *layers, self.actor.squashes, self.actor.limit]
        tensors = self.actor.state_dict()
        if self.normalizer is not None:
            tensors |= {f"normalizer.{name}": value for name, value in self.normalizer.state_dict().items()}
            settings += [self.normalizer.epsilon, self.normalizer.clip]
        return sha256(tensors, settings)


def build_actor(tensors: dict[str, Tensor], facts: Facts, owner: str) -> Actor:
    """Return the actor of a policy's tensors, of whichever algorithm their names are."""
    own = {name: value for name, value in tensors.items() if not name.startswith(NOT_THE_ACTOR)}
    is_on_policy = "action_net.weight" in own
    keys = ("mlp_extractor.", "action_net.", "value_net.", "log_std") if is_on_policy else ("actor.",)
    if strange := [name for name in own if not name.startswith(keys)]:
        raise UserError(f"{owner}: {strange[0]} is of no plain MlpPolicy of PPO, A2C, SAC, TD3 or DDPG")
    if not is_on_policy and not any(name.startswith("actor.mu.") for name in own):
        has = ", ".join(sorted(own)[:6]) or "nothing"
        raise UserError(f"{owner} has no actor: wanted action_net or actor.mu, got {has}")
    activation = ACTIVATIONS[facts.activation or ("Tanh" if is_on_policy else "ReLU")]
    unbounded = {-np.inf, np.inf} if is_on_policy and not facts.squashes else set()
    if strange := sorted(facts.bounds - {-1.0, 1.0} - unbounded):
        raise UserError(f"{owner} was trained for actions to {strange[-1]:g}, this task's are in [-1, 1]")
    if is_on_policy:
        return _on_policy(own, facts, activation, owner)
    if "actor.latent_pi.0.weight" in own or any(name.startswith("actor.log_std") for name in own):
        return _sac(own, facts, activation, owner)
    *hidden, mean = linear_layers(own, "actor.mu.", owner)
    return Actor(_stack(hidden, activation), mean, squashes=True)


def _on_policy(own: dict[str, Tensor], facts: Facts, activation: type[nn.Module], owner: str) -> Actor:
    hidden = linear_layers(own, "mlp_extractor.policy_net.", owner)
    value = None
    if "value_net.weight" in own:
        layers = linear_layers(own, "mlp_extractor.value_net.", owner)
        value = nn.Sequential(*_stack(layers, activation), linear(own, "value_net", owner))
    return Actor(
        _stack(hidden, activation), linear(own, "action_net", owner), log_std=own.get("log_std"), value=value,
        squashes=facts.uses_sde and facts.squashes,
    )  # fmt: skip


def _sac(own: dict[str, Tensor], facts: Facts, activation: type[nn.Module], owner: str) -> Actor:
    hidden = _stack(linear_layers(own, "actor.latent_pi.", owner), activation)
    if not facts.uses_sde:
        spread = linear(own, "actor.log_std", owner) if "actor.log_std.weight" in own else None
        return Actor(hidden, linear(own, "actor.mu", owner), spread=spread, squashes=True)
    is_limited = "actor.mu.0.weight" in own
    mean = linear(own, "actor.mu.0" if is_limited else "actor.mu", owner)
    limit = facts.clip_mean if is_limited else 0.0
    return Actor(hidden, mean, log_std=own.get("actor.log_std"), squashes=True, limit=limit)


def _stack(layers: list[nn.Linear], activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(part for layer in layers for part in (layer, activation())))


def _members(data: bytes, owner: str) -> dict[str, bytes]:
    """Return the two members that are read; the others, pickles among them, are left alone."""
    wanted = ("policy.pth", "data")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            has = archive.namelist()
            if missing := [name for name in wanted if name not in has]:
                raise UserError(f"{owner} is not {WHAT}: no {missing[0]} in it, it has {', '.join(has[:6])}")
            return {name: archive.read(name) for name in wanted}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise UserError(f"{owner} is not {WHAT}: {error}") from None


def _activation(text: object, owner: str) -> str:
    """Return the name in the text of a class, "" for none."""
    if text is None:
        return ""
    found = re.fullmatch(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>", str(text))
    if str(text) == "<class 'torch.nn.modules.linear.Identity'>":
        return "Identity"
    if found is None or found[1] not in ACTIVATIONS:
        raise UserError(f"{owner}: {unknown('activation', found[1] if found else str(text), ACTIVATIONS)}")
    return found[1]


def _floats(text: str) -> list[str]:
    return re.findall(r"-?(?:inf|\d+\.?\d*(?:e[+-]?\d+)?)", text)


def _numbers(path: str, size: int) -> dict[str, np.ndarray]:
    """Return the numbers of a normaliser's file, checked; a pickle of VecNormalize is never opened."""
    data = read_file(path, "sb3", "a .npz or .json with mean and variance")
    if path.endswith(".json"):
        found = _json_numbers(data, path)
    else:
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                found = {name: np.asarray(archive[name], np.float64) for name in archive.files}
        except Exception:  # of other bytes numpy raises what its parser stumbles on
            raise UserError(
                f"{path} is no .npz of numbers; a pickle of VecNormalize can run code and is not read. Save "
                "its numbers where you trust it: np.savez('normalizer.npz', mean=v.obs_rms.mean, "
                "variance=v.obs_rms.var, epsilon=v.epsilon, clip=v.clip_obs)"
            ) from None
    if set(found) - NUMBERS or not {"mean", "variance"} <= set(found):
        raise UserError(
            f"{path} has {', '.join(sorted(found)) or 'nothing'}, wanted mean, variance [, epsilon, clip]"
        )
    found = {"epsilon": np.array(1e-8), "clip": np.array(10.0), **found}
    for name, value in found.items():
        wanted = size if name in ("mean", "variance") else 1
        if value.size != wanted:
            raise UserError(f"{path}: {name} has {value.size} numbers, the policy reads {wanted}")
        if not np.isfinite(value).all() or (name != "mean" and (value < 0).any()):
            raise UserError(f"{path}: {name} must be finite{'' if name == 'mean' else ' and >= 0'}")
    return found


def _json_numbers(data: bytes, path: str) -> dict[str, np.ndarray]:
    try:
        return {str(name): np.asarray(value, np.float64) for name, value in json.loads(data).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is no JSON object of numbers: {error}") from None
