"""A guard for tests: within it, nothing may ask the device for a value: on a GPU that waits for its work.

It needs no GPU: what would wait on one is refused by name on a CPU too. What it cannot see there are copies
between devices (`.to(...)` of a tensor that lies on the host); on a CUDA device torch's own check refuses
those as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# operators whose result, or its size, is known to the host alone: they wait
WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "argwhere",
    "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
    "bincount", "_linalg_check_errors",
}  # fmt: skip
FROM_HOST = {"lift_fresh"}  # of indices that are lists, where not a single number: copied from the host
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# no operators: on a CPU they share memory, on a GPU they copy it, and wait
CALLS = {"cpu", "numpy", "tolist", "__array__", "tensor", "as_tensor", "new_tensor", "from_numpy"}


class HostSyncError(AssertionError):
    """Something would have waited for a GPU."""


@dataclass
class Guard:
    """What is refused; nothing while it is paused."""

    is_paused: bool = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let everything through: for what is of the host by its nature."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    def refuse(self, what: str) -> None:
        """Raise HostSyncError, unless paused."""
        if not self.is_paused:
            raise HostSyncError(f"{what} would wait for the device")


class _Operators(TorchDispatchMode):
    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            self._guard.refuse(str(func))
        elif name in FROM_HOST and args[0].ndim > 0:
            self._guard.refuse(f"{func}, an index made of numbers of the host,")
        elif name in INDEXING:
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self._guard.refuse(f"{func} by a mask")
        elif name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            self._guard.refuse(f"{func} without output_size")
        return func(*args, **(kwargs or {}))


class _Calls(TorchFunctionMode):
    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if (name := getattr(func, "__name__", "")) in CALLS:
            self._guard.refuse(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_sync() -> Iterator[Guard]:
    """Refuse what waits for the device, by HostSyncError; `with guard.paused()` lets the host work."""
    guard, is_cuda = Guard(), torch.cuda.is_available()
    before = torch.cuda.get_sync_debug_mode() if is_cuda else 0
    try:
        if is_cuda:
            torch.cuda.set_sync_debug_mode("error")
        with _Calls(guard), _Operators(guard):
            yield guard
    finally:
        if is_cuda:
            torch.cuda.set_sync_debug_mode(before)
