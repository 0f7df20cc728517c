"""A checkpoint that rsl_rl 5.x saved (`model_1500.pt`), of any run of anybody's, as a frozen teacher.

    a = clip(mlp((o - mean) / (std + 0.01)), -1, 1), o the groups side by side, (N, D) -> (N, A)

Read are the tensors under `actor_state_dict`, and nothing is run. Sizes, normaliser and noise follow from
their names and shapes; the activation and the groups' order do not, and are told. A checkpoint of our own
teach runs also has a `contract`, which is then checked.
Source: rsl_rl 5.5, `PPO.save`, `MLPModel`, `GaussianDistribution`.
Shapes: N environments, D numbers of all groups together, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rsl_rl.models import MLPModel
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.registry import register, unknown
from robokd.specs import differences, to_dict
from robokd.teachers.base import Place
from robokd.teachers.ppo import PpoTeacher, actor_model
from robokd.teachers.weights import (
    check_actions,
    check_width,
    finite_tensors,
    group_width,
    linear_layers,
    read_file,
    read_tensors,
)

WHAT = "a checkpoint of rsl_rl 5.x"
ACTIVATIONS = (
    "elu", "selu", "relu", "crelu", "lrelu", "tanh", "sigmoid", "softplus", "gelu", "swish", "mish",
    "identity",
)  # fmt: skip
NOISE = {"distribution.std_param": "scalar", "distribution.log_std_param": "log"}


@register("teacher", "rsl_rl")
@dataclass(kw_only=True)
class RslRlCfg:
    """A checkpoint file of rsl_rl 5.x: an MLP actor with its normaliser."""

    path: str = ""  # of the file, e.g. logs/…/model_1500.pt
    groups: tuple[str, ...] = ("proprio", "privileged")  # that it reads, in the order it was trained with
    activation: str = "elu"  # between its layers; the file does not say

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"teacher.activation: {unknown('activation', self.activation, ACTIVATIONS)}")

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """See OpenCfg."""
        return self.groups

    def files(self) -> tuple[str, ...]:
        """Return what it is read from."""
        return (self.path,)

    def open(self, place: Place) -> PpoTeacher:
        """See OpenCfg."""
        saved = read_tensors(read_file(self.path, "rsl_rl", WHAT), self.path, WHAT)
        if "actor_state_dict" not in saved:
            older = "; model_state_dict is of rsl_rl < 5" if "model_state_dict" in saved else ""
            has = ", ".join(map(str, saved)) or "nothing"
            raise UserError(f"{self.path} is not {WHAT}: wanted actor_state_dict, it has {has}{older}")
        group_width(self.groups, place.obs_specs, self.path)
        self._check_contract(saved.get("contract"), place)
        actor = self._actor(finite_tensors(saved["actor_state_dict"], self.path), place)
        return PpoTeacher(actor.to(place.device).eval().requires_grad_(False), self.groups)

    def _actor(self, tensors: dict[str, Tensor], place: Place) -> MLPModel:
        """Return the actor that the names and shapes of its tensors tell of."""
        if any(name.startswith("encoder.") for name in tensors):
            raise UserError(f"{self.path} encodes groups (teacher.latent): say parent=<its teach run>")
        layers = linear_layers(tensors, "mlp.", self.path)
        if len(layers) < 2:
            raise UserError(
                f"{self.path}: {WHAT} has mlp.0, mlp.2 …, got {', '.join(sorted(tensors)[:6]) or 'nothing'}"
            )
        check_width(layers[0].in_features, self.groups, place.obs_specs, self.path)
        count, kind = layers[-1].out_features, next((NOISE[key] for key in NOISE if key in tensors), None)
        if kind is None and count == 2 * place.num_actions:
            raise UserError(
                f"{self.path} gives {count} numbers for {place.num_actions} actions: a spread that depends "
                "on the state, or a Beta distribution, and its tensors do not say which; "
                "wanted a GaussianDistribution"
            )
        check_actions(count, place.num_actions, self.path)
        rows = {name: torch.zeros(1, place.obs_specs[name].size) for name in self.groups}
        actor = actor_model(
            TensorDict(rows, batch_size=[1]), self.groups, count, activation=self.activation,
            hidden=[layer.out_features for layer in layers[:-1]],
            noise={"class_name": "GaussianDistribution", "std_type": kind} if kind else None,
            normalises="obs_normalizer._mean" in tensors,
        )  # fmt: skip
        self._load(actor, tensors)
        return actor

    def _load(self, actor: MLPModel, tensors: Mapping[str, Tensor]) -> None:
        own = {name: tuple(value.shape) for name, value in actor.state_dict().items()}
        got = {name: tuple(value.shape) for name, value in tensors.items()}
        if rows := differences(own, got):
            recurrent = any(name.startswith("rnn.") for name in got)
            cure = " (it remembers, which no teacher of ours may)" if recurrent else ""
            raise UserError(f"{self.path} is no plain MLP actor{cure}: {'; '.join(rows[:3])}")
        actor.load_state_dict(tensors)

    def _check_contract(self, saved: object, place: Place) -> None:
        """Hold a checkpoint of our own to the place: its actions, and its groups in their order."""
        if saved is None:
            return
        if not isinstance(saved, Mapping) or not isinstance(saved.get("observations"), Mapping):
            raise UserError(f"{self.path}: its contract was altered")
        if list(saved["observations"]) != list(self.groups):
            order = f"[{','.join(saved['observations'])}], got [{','.join(self.groups)}]"
            raise UserError(f"{self.path} was trained with teacher.groups={order}")
        seen = {name: to_dict(place.obs_specs[name]) for name in self.groups}
        present = {"action": to_dict(place.action_spec), "observations": seen, "cameras": {}}
        if rows := differences(dict(saved), present):
            raise UserError(f"{self.path} does not fit this task: {'; '.join(rows[:3])}")
