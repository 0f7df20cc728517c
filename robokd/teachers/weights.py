"""What a file of weights may be and must hold, and the hash of what decides a frozen teacher's answers.

Files are read with `torch.load(weights_only=True)`: a pickle that would call anything is refused, never run.
Shapes: N environments, D numbers of all groups of a teacher together.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from robokd import UserError
from robokd.registry import unknown
from robokd.specs import ObsSpec


def read_file(path: str, teacher: str, what: str) -> bytes:
    """Return the bytes of a teacher's file; `what` says which file is wanted."""
    if not path:
        raise UserError(f"teacher={teacher} needs teacher.path=…: {what}")
    file = Path(path)
    if file.is_dir():
        inside = sorted(str(one) for one in file.rglob("*") if one.suffix in (".pt", ".zip", ".onnx"))
        raise UserError(f"{path} is a folder, wanted {what}. In it: {', '.join(inside[:5]) or 'none'}")
    if not file.is_file():
        near = sorted(one.name for one in file.parent.glob(f"*{file.suffix or ''}") if one.is_file())
        raise UserError(
            f"{path} does not exist, wanted {what}. In {file.parent}: {', '.join(near[:5]) or 'none'}"
        )
    return file.read_bytes()


def read_tensors(data: bytes, owner: str, what: str) -> Mapping[str, object]:
    """Return what torch saved under names; UserError for anything else, none of which is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that are refused anyhow
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of bytes that are no checkpoint torch raises what its parser stumbles on
        why = str(error).strip().splitlines() or [type(error).__name__]
        refused = "Weights only" in why[0] or "Unsupported" in why[0]
        text = "it holds more than tensors and plain python, and was not loaded" if refused else why[0][:120]
        raise UserError(f"{owner} is not {what}: {text}") from None
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{owner} is not {what}: it holds a {type(found).__name__}, wanted tensors by name")
    return found


def finite_tensors(found: object, owner: str) -> dict[str, Tensor]:
    """Return a state dict as read, every tensor of it finite and on the CPU."""
    if not isinstance(found, Mapping):
        raise UserError(f"{owner} is a {type(found).__name__}, wanted tensors by name")
    tensors: dict[str, Tensor] = {}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{owner}: {name} is a {type(value).__name__}, wanted a tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise UserError(f"{owner}: {count} of {value.numel()} numbers of {name} are not finite")
        tensors[str(name)] = value
    return tensors


def linear_layers(tensors: Mapping[str, Tensor], prefix: str, owner: str) -> list[nn.Linear]:
    """Return the layers `<prefix>0`, `<prefix>2` … of a multi-layer perceptron, activations between them.

    Whatever else stands under the prefix (a normalisation, another order) is refused by name.
    """
    inside = [name for name in tensors if name.startswith(prefix)]
    layers: list[nn.Linear] = []
    while f"{prefix}{2 * len(layers)}.weight" in tensors:
        key = f"{prefix}{2 * len(layers)}"
        weight = tensors[f"{key}.weight"]
        if weight.ndim != 2 or (layers and weight.shape[1] != layers[-1].out_features):
            wanted = f"(*, {layers[-1].out_features if layers else '*'})"
            raise UserError(f"{owner}: {key}.weight has shape {tuple(weight.shape)}, wanted {wanted}")
        layers.append(linear(tensors, key, owner))
        inside = [name for name in inside if name not in (f"{key}.weight", f"{key}.bias")]
    if inside:
        raise UserError(f"{owner}: {inside[0]} is of no plain multi-layer perceptron, which is wanted")
    return layers


def linear(tensors: Mapping[str, Tensor], key: str, owner: str) -> nn.Linear:
    """Return the layer `key`, in float32."""
    if f"{key}.weight" not in tensors:
        raise UserError(f"{owner} has no {key}.weight: it was cut or altered")
    weight, bias = tensors[f"{key}.weight"], tensors.get(f"{key}.bias")
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = f"{tuple(weight.shape)} and {None if bias is None else tuple(bias.shape)}"
        raise UserError(
            f"{owner}: weight and bias of {key} have shapes {shapes}, wanted (out, in) and (out,)"
        )
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    assert isinstance(layer, nn.Linear), layer
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def check_width(got: int, groups: Sequence[str], specs: Mapping[str, ObsSpec], owner: str) -> None:
    """Refuse a network that reads `got` numbers unless the groups together have as many."""
    width = group_width(groups, specs, owner)
    if got != width:
        parts = " + ".join(f"{group} {specs[group].size}" for group in groups)
        raise UserError(f"{owner} reads {got} numbers, its groups have {width} ({parts}): set teacher.groups")


def group_width(groups: Sequence[str], specs: Mapping[str, ObsSpec], owner: str) -> int:
    """Return D of groups; UserError for one that the task does not have as numbers."""
    if not groups:
        raise UserError(f"{owner} reads no groups: set teacher.groups. Known: {', '.join(specs)}")
    for group in groups:
        if group not in specs:
            raise UserError(f"{owner}: {unknown('observation group', group, specs)}")
    return sum(specs[group].size for group in groups)


def check_actions(got: int, wanted: int, owner: str) -> None:
    """Refuse a network with another number of actions than the task."""
    if got != wanted:
        raise UserError(f"{owner} gives {got} actions, the task takes {wanted}")


def flat(obs: TensorDict, groups: Sequence[str]) -> Tensor:
    """Return the groups side by side, (N, D)."""
    return torch.cat([obs[group] for group in groups], -1)


def sha256(tensors: Mapping[str, Tensor], settings: Iterable[object] = ()) -> str:
    """Return the hash of every number of `tensors`, and of the settings that decide how they are used."""
    digest = hashlib.sha256(repr([str(one) for one in settings]).encode())
    for name, value in sorted(tensors.items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()
