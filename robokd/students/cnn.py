"""A convolutional student: key points of each camera beside proprioception.

The estimates (where the goal is) come from a head of their own on the pictures and joints; detached, they
feed the action head, so that imitation cannot bend them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd import UserError
from robokd.nets.cnn import KeypointEncoder
from robokd.nets.mlp import mlp
from robokd.nets.normalizer import Normalizer
from robokd.registry import register
from robokd.students.base import Interface, StudentOutput, picture, unflat


@register("student", "cnn")
@dataclass(kw_only=True)
class CnnCfg:
    """Convolutions, spatial soft-argmax and an MLP; one frame, no memory."""

    channels: tuple[int, ...] = (12, 16, 16)  # of the convolutions
    keypoints: int = 16  # per camera
    hidden: tuple[int, ...] = (256, 128)  # of the action head
    estimate_hidden: tuple[int, ...] = (128, 64)  # of the position head
    bfloat16: bool = True  # convolutions learn in bfloat16; acting and export stay in float32

    def __post_init__(self) -> None:
        if self.keypoints < 1 or not self.channels or min(self.channels) < 1:
            raise ValueError(
                f"student needs keypoints and channels >= 1, got {self.keypoints}, {self.channels}"
            )

    def build(self, interface: Interface) -> CnnStudent:
        """Return a student that sees and says what interface says; see Student."""
        for camera in interface.cameras:
            if not camera.is_depth:
                got = f"{camera.name!r} gives {camera.encoding}"
                raise UserError(f"student=cnn finds key points in depth, and {got}")
        return CnnStudent(self, interface)


class CnnStudent(nn.Module):
    """The Student protocol, stateless."""

    def __init__(self, cfg: CnnCfg, interface: Interface) -> None:
        super().__init__()
        specs, cameras, targets = interface.obs_specs, interface.cameras, interface.targets
        self.cameras, self.targets, self.inputs = cameras, dict(targets), interface.inputs
        self.groups, self.offers = tuple(specs), frozenset[str]()
        self.normalizers = nn.ModuleDict({name: Normalizer(spec.size) for name, spec in specs.items()})
        encoders = {
            c.name: KeypointEncoder(c, cfg.channels, cfg.keypoints, bfloat16=cfg.bfloat16) for c in cameras
        }
        self.encoders = nn.ModuleDict(encoders)
        seen = sum(encoder.size for encoder in encoders.values())
        known = sum(spec.size for spec in specs.values())
        self.estimator = mlp(seen + known, cfg.estimate_hidden, sum(targets.values())) if targets else None
        self.trunk = mlp(seen + known + sum(targets.values()), cfg.hidden[:-1], cfg.hidden[-1])
        self.head = nn.Linear(cfg.hidden[-1], interface.action_size)
        self.feature_size = cfg.hidden[-1] + seen + sum(targets.values())

    def initial_state(self, count: int) -> TensorDict:
        """See Student: nothing is remembered."""
        return TensorDict({}, batch_size=[count])

    def reset(self, state: TensorDict, mask: Tensor) -> TensorDict:
        """See Student."""
        return state

    def forward(self, obs: TensorDict, state: TensorDict) -> tuple[StudentOutput, TensorDict]:
        """See Student."""
        pictures = {camera.name: picture(obs[camera.name], camera) for camera in self.cameras}
        seen = [encoder(pictures[name]) for name, encoder in self.encoders.items()]
        known = [normalizer(obs[name]) for name, normalizer in self.normalizers.items()]
        base = torch.cat((*seen, *known), -1)
        estimates: dict[str, Tensor] = {}
        parts = [base]
        if self.estimator is not None:
            estimate = self.estimator(base)
            estimates = dict(zip(self.targets, estimate.split(list(self.targets.values()), -1), strict=True))
            parts.append(estimate.detach())
        hidden = nn.functional.elu(self.trunk(torch.cat(parts, -1)))
        features = torch.cat((hidden, *seen, *parts[1:]), -1)
        return StudentOutput(action=self.head(hidden), features=features, estimates=estimates), state

    def sequence(self, obs: TensorDict, state: TensorDict, fresh: Tensor) -> StudentOutput:
        """See Student: nothing is remembered."""
        return unflat(self.forward(obs.flatten(0, 1), state)[0], fresh.shape)

    def update_normalizers(self, obs: TensorDict) -> None:
        """See Student."""
        for name in self.groups:
            normalizer = self.normalizers[name]
            assert isinstance(normalizer, Normalizer)
            normalizer.update(obs[name])
