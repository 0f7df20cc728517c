"""The processes of `torchrun` that learn one policy together; for one alone, nothing happens here.

Each simulates its share of the environments and learns from its share of every batch; sums are taken over all
of them, so that what is learned does not depend on how many there are. The first one alone writes the run,
whose folder all see, also from other machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from robokd import UserError

T = TypeVar("T")
Snapshot = Any  # of environments: tensors (N, ...) and counts, in dicts and lists


def join(device: str) -> None:
    """Meet the other processes, if torchrun has started more than one; each takes a device of its own."""
    if _told("WORLD_SIZE", 1) == 1 or distributed.is_initialized():
        return
    here, local = _told("LOCAL_WORLD_SIZE", 1), _told("LOCAL_RANK", 0)
    if _told("RANK", 0) != _told("GROUP_RANK", 0) * here + local:
        raise UserError(
            f"torchrun started {here} processes on this machine and not as many on another: "
            "say the same --nproc-per-node on all"
        )
    if device.startswith("cuda"):
        if device != "cuda":
            raise UserError(f"device={device} is one for {here} processes; device=cuda gives each its own")
        if (count := torch.cuda.device_count()) < here:
            raise UserError(f"torchrun started {here} processes on this machine, which has {count} devices")
        torch.cuda.set_device(local)
    # counts are summed where they are, on the processor
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")


def refuse() -> None:
    """Raise UserError if torchrun has started several processes of a stage that is for one."""
    if (count := _told("WORLD_SIZE", 1)) > 1:
        who = "teach with teacher=ppo, distill and refine"
        raise UserError(f"torchrun has started {count} processes; only {who} can share their work")


def world() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def here() -> int:
    """Return how many of them run on this machine, and on every other."""
    return _told("LOCAL_WORLD_SIZE", 1) if world() > 1 else 1


def machines() -> int:
    """Return on how many machines they run."""
    return world() // here()


def machine() -> int:
    """Return on which of them this one runs, from 0."""
    return rank() // here()


def is_first_here() -> bool:
    """Whether this one is the first on its machine."""
    return rank() % here() == 0


def is_first() -> bool:
    """Whether this one writes the run."""
    return rank() == 0


def share(count: int, key: str) -> int:
    """Return this process's part of `count` things; UserError, with the key, where they do not divide."""
    if count % world():
        raise UserError(f"{key}={count} cannot be shared by {world()} processes: it must be a multiple")
    return count // world()


def own_threads(count: int) -> int:
    """Return this process's part of its machine's threads, one at least."""
    return max(count // here(), 1)


def wait() -> None:
    """Go on when all have come here."""
    if world() > 1:
        distributed.barrier()


def total(value: Tensor) -> Tensor:
    """Return the sum over all processes, detached."""
    value = value.detach()
    if world() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def count(number: int) -> int:
    """Return the sum of a whole number over all processes."""
    return int(total(torch.tensor(number)).item()) if world() > 1 else number


def gathered(value: Tensor) -> Tensor:
    """Return the rows (R, ...) of all processes in their order, (world R, ...); all have as many."""
    if world() == 1:
        return value
    parts = [torch.empty_like(value) for _ in range(world())]
    distributed.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def collected(value: T) -> list[T]:
    """Return the value of every process, in their order, to the first one; to others nothing."""
    if world() == 1:
        return [value]
    found: list[Any] | None = [None] * world() if is_first() else None
    distributed.gather_object(value, found)
    return found or []


def joined(snapshot: dict[str, Any]) -> dict[str, Any]:
    """Return to the first process the snapshots of all as one of all environments; to others nothing.

    A snapshot's tensors have a row for each environment; its numbers are counts, which add up.
    """
    parts = collected(_on_host(snapshot))
    return _joined(parts) if parts else {}


def divided(whole: Snapshot) -> Snapshot:
    """Return this process's part of what `joined` has returned, however many processes had made it."""
    if isinstance(whole, Mapping):
        return {name: divided(value) for name, value in whole.items()}
    if isinstance(whole, list):
        return [divided(value) for value in whole]
    if isinstance(whole, Tensor):
        own = share(len(whole), "num_envs")
        return whole[rank() * own : (rank() + 1) * own]
    return whole if is_first() else 0


def first(work: Callable[[], T]) -> T:
    """Return to all what the first process finds, which works alone."""
    box = [work() if is_first() else None]
    if world() > 1:
        distributed.broadcast_object_list(box)
    assert box[0] is not None, "the first process found nothing"
    return box[0]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient the sum over all processes, in one message."""
    if world() == 1:
        return
    own = [parameter for parameter in parameters if parameter.requires_grad]
    reached = torch.tensor([float(parameter.grad is not None) for parameter in own], device=own[0].device)
    parts = [one.new_zeros(one.numel()) if one.grad is None else one.grad.flatten() for one in own]
    flat = torch.cat((reached, *parts))
    distributed.all_reduce(flat)
    reached, *parts = flat.split([len(own), *(one.numel() for one in own)])
    for parameter, part, is_reached in zip(own, parts, reached.tolist(), strict=True):
        # what no process has reached keeps no gradient: AdamW then leaves it alone, as it does in one process
        parameter.grad = part.view_as(parameter) if is_reached else None


def averaged(values: Mapping[str, float]) -> dict[str, float]:
    """Return numbers, each the mean over all processes."""
    means = total(torch.tensor(list(values.values()), dtype=torch.float64)) / world()
    return dict(zip(values, means.tolist(), strict=True))


def summed(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars, each the sum over all processes."""
    if not values:
        return {}
    numbers = total(torch.stack([value.detach().float() for value in values.values()])).tolist()
    return dict(zip(values, numbers, strict=True))


def _joined(parts: list[Snapshot]) -> Snapshot:
    one = parts[0]
    if isinstance(one, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in one}
    if isinstance(one, list):
        return [_joined(list(values)) for values in zip(*parts, strict=True)]
    return torch.cat(parts) if isinstance(one, Tensor) else sum(parts)


def _on_host(part: Snapshot) -> Snapshot:
    """Return a snapshot that any machine can read, whatever devices it has."""
    if isinstance(part, Mapping):
        return {name: _on_host(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_on_host(value) for value in part]
    return part.cpu() if isinstance(part, Tensor) else part


def _told(name: str, default: int) -> int:
    """Return what torchrun says of this process."""
    return int(os.environ.get(name, default))
