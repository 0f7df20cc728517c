"""Counter-based random draws: every number is a pure function of (seed, episode, step, name, index).

So an episode depends neither on num_envs nor on the policy nor on other environments, and comparisons are
paired. Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) applied to the counters, after the idea
of counter-based generators (Salmon et al. 2011). Integer arithmetic only up to the last division, so CPU and
GPU agree bit for bit on uniforms.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

STREAMS = ("train", "validation", "test", "sim")
_GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as int64


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_MULTIPLY_A, _MULTIPLY_B = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift(bits: Tensor, places: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes it logical
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * _MULTIPLY_A
    bits = (bits ^ _shift(bits, 27)) * _MULTIPLY_B
    return bits ^ _shift(bits, 31)


@functools.cache
def _kernel() -> Callable[..., None] | None:
    """Return what draws the same numbers on a CPU in a fifth of the time, where numba is installed."""
    try:
        return importlib.import_module("robokd.draws_kernel").fill
    except (ImportError, RuntimeError):  # without numba, or a folder where it can keep what it compiles
        return None


def _key(seed: int, stream: str, name: str) -> int:
    if stream not in STREAMS:
        raise ValueError(f"no stream named {stream!r}. Known: {', '.join(STREAMS)}")
    digest = hashlib.sha256(f"{seed}/{stream}/{name}".encode()).digest()
    return _signed(int.from_bytes(digest[:8], "little"))


class Draws:
    """Named draws of one seed and stream (one of STREAMS), batched over environments."""

    def __init__(self, seed: int, stream: str) -> None:
        self.seed, self.stream = seed, stream
        self._columns: dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]] = {}
        _key(seed, stream, "")

    def bits(self, names: dict[str, int], episode: Tensor, step: Tensor | int) -> Tensor:
        """Return (N, D) int64 of independent bits, D the sum of the sizes in `names` {name: size}.

        `episode` is (N,) int64, `step` (N,) int64 or one number. A name's columns depend on no other name.
        """
        keys, owner, index = self._columns_of(names, episode.device)
        state = _mix((episode * _GOLDEN)[:, None] + keys)
        stride = (step * _GOLDEN)[:, None] if isinstance(step, Tensor) else _signed(step * _GOLDEN % 2**64)
        mixed = _mix(state + stride)
        return _mix((mixed if len(names) == 1 else mixed[:, owner]) + index)

    def uniforms(self, names: dict[str, int], episode: Tensor, step: Tensor | int) -> Tensor:
        """Return (N, D) float64, uniform on [0, 1), the columns of all names in one pass."""
        fill = _kernel() if episode.device.type == "cpu" else None
        if fill is None:
            return _shift(self.bits(names, episode, step), 11).double() * 2.0**-53
        columns = [column.numpy() for column in self._columns_of(names, episode.device)]
        out = np.empty((len(episode), len(columns[-1])))
        fill(out, episode.numpy(), step.numpy() if isinstance(step, Tensor) else np.array([step]), *columns)
        return torch.from_numpy(out)

    def uniform(self, name: str, episode: Tensor, step: Tensor | int, size: int) -> Tensor:
        """Return (N, size) float64, uniform on [0, 1)."""
        return self.uniforms({name: size}, episode, step)

    def normal(self, name: str, episode: Tensor, step: Tensor | int, size: int) -> Tensor:
        """Return (N, size) float64, standard normal (Box and Muller 1958)."""
        pair = self.uniform(name, episode, step, 2 * size)
        radius = torch.sqrt(-2 * torch.log1p(-pair[:, :size]))
        return radius * torch.cos(2 * math.pi * pair[:, size:])

    def integer(self, name: str, episode: Tensor, step: Tensor | int, size: int, high: int) -> Tensor:
        """Return (N, size) int64, uniform on [0, high)."""
        return (self.uniform(name, episode, step, size) * high).long()

    def _columns_of(self, names: dict[str, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return the names' keys (K,), and of each column (D,) its name's place and its number's own bits."""
        rows = tuple(names.items())
        cached = (device, rows)
        if cached not in self._columns:
            keys = [_key(self.seed, self.stream, name) for name in names]
            owner = [place for place, (_, size) in enumerate(rows) for _ in range(size)]
            index = [_signed((i + 1) * _GOLDEN % 2**64) for _, size in rows for i in range(size)]
            key, place, own = (
                torch.tensor(row, dtype=torch.int64, device=device) for row in (keys, owner, index)
            )
            self._columns[cached] = key, place, own
        return self._columns[cached]
