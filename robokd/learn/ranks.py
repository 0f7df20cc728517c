"""The processes of `torchrun` that learn one student together; for one alone, nothing happens here.

Each simulates its share of the environments and learns from its share of every batch; sums are taken over all
of them, so that what is learned does not depend on how many there are. The first one alone writes the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from robokd import UserError

T = TypeVar("T")


def join(device: str) -> None:
    """Meet the other processes, if torchrun has started more than one."""
    count, here = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if count == 1 or distributed.is_initialized():
        return
    if here != count:
        raise UserError(
            f"torchrun started {here} of {count} processes on this machine; they share a data set through "
            "its memory, so that all must run on one: --nnodes=1"
        )
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")


def refuse() -> None:
    """Raise UserError if torchrun has started several processes of a stage that is for one."""
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UserError(f"torchrun has started {count} processes; only distill can share its work")


def world() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this one writes the run."""
    return rank() == 0


def share(count: int, key: str) -> int:
    """Return this process's part of `count` things; UserError, with the key, where they do not divide."""
    if count % world():
        raise UserError(f"{key}={count} cannot be shared by {world()} processes: it must be a multiple")
    return count // world()


def own_threads(count: int) -> int:
    """Return this process's part of the processor's threads, one at least."""
    return max(count // world(), 1)


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


def summed(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return scalars, each the sum over all processes."""
    if not values:
        return {}
    numbers = total(torch.stack([value.detach().float() for value in values.values()])).tolist()
    return dict(zip(values, numbers, strict=True))
