"""The aggregated data set of DAgger: rows of observations and labels, in memory-mapped files of the run.

They can be held on a device, which then has all that it learns from: the files follow at `flush` and are what
a resume reads. Images stay encoded (uint8 or float16), only the groups in use are kept, and the size in bytes
is known before anything is allocated. Shapes: R rows, oldest first in writing order; the row number never
wraps for the caller.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError


@dataclass(frozen=True, kw_only=True)
class Column:
    """One stored field: the shape of a row and its numpy type."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def columns_of(rows: TensorDict) -> dict[str, Column]:
    """Return the columns that hold rows like these (R, ...)."""
    columns = {}
    for name, value in sorted(rows.items()):
        assert isinstance(value, Tensor), "rows hold tensors only"
        kind = np.dtype(str(value.dtype).removeprefix("torch."))
        columns[name] = Column(shape=tuple(value.shape[1:]), dtype=kind)
    return columns


def planned_bytes(columns: dict[str, Column], capacity: int) -> int:
    """Return how much disk the buffer takes, in bytes."""
    return capacity * sum(column.row_bytes for column in columns.values())


def carried(value: Tensor, device: torch.device) -> Tensor:
    """Return what lies on the host on a device, by way of pinned memory: nobody waits for it."""
    return value if device.type == "cpu" else value.pin_memory().to(device, non_blocking=True)


class Buffer:
    """A ring of `capacity` rows, with `slack` more so that a resume finds every row its checkpoint counts on.

    Between two checkpoints at most `slack` rows may be added; rows written since the last checkpoint then lie
    outside the window of `capacity` rows that the checkpoint sees.
    """

    def __init__(
        self, folder: Path, columns: dict[str, Column], capacity: int, slack: int, written: int = 0,
        *, exists: bool = False, device: str = "cpu", is_held: bool = False,
    ) -> None:  # fmt: skip
        """Map the files of `folder`; `written` rows of an earlier process are kept, 0 starts afresh.

        `exists`: another process has made the files, which both write to. `device`: where rows are given.
        `is_held`: whether all are held there, or else read from the files.
        """
        self.columns, self.capacity, self._size = columns, capacity, capacity + slack
        self.written, self._folder, self._exists = written, folder, exists or written > 0
        self.device = torch.device(device)
        self.place = self.device if is_held else torch.device("cpu")  # where numbers of rows are to be
        folder.mkdir(parents=True, exist_ok=True)
        self._maps = {name: self._open(folder / f"{name}.bin", column) for name, column in columns.items()}
        self._held: dict[str, Tensor] = {}
        self._unsaved: list[tuple[Tensor, tuple[str, ...]]] = []  # slots and columns that the files lack
        if is_held:
            self._held = {
                name: torch.from_numpy(one).to(self.device, copy=True) for name, one in self._maps.items()
            }

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, rows: TensorDict, places: Tensor | None = None, count: int = 0) -> None:
        """Append rows (R, ...); columns are matched by name.

        Where several processes append `count` rows together, these ones have `places` (R,) among them.
        """
        own = torch.arange(len(rows), device=self.place) if places is None else places
        self._write(self.written + own, {name: rows[name] for name in self.columns})
        self.written += count or len(rows)

    def fill(self, name: str, values: Tensor) -> None:
        """Write one column of the rows (R, ...) that `add` is about to append, of all processes."""
        self._write(self.written + torch.arange(len(values), device=self.place), {name: values})

    def hold(self, count: int) -> None:
        """Take the newest `count` rows from the files, to which all processes have written them."""
        slots = (self.written - count + np.arange(count)) % self._size
        for name, target in self._held.items():
            target[torch.from_numpy(slots)] = torch.from_numpy(self._maps[name][slots]).to(target.device)

    def rows(self, numbers: Tensor) -> TensorDict:
        """Return rows (R, ...) by age: 0 is the oldest still in the window, len(self) - 1 the newest."""
        fields = {name: carried(value, self.device) for name, value in self._read(numbers, self.columns)}
        return TensorDict(fields, batch_size=[len(numbers)])

    def column(self, name: str) -> Tensor:
        """Return one whole column of the window, oldest first, where numbers of rows are (a copy)."""
        ((_, value),) = self._read(torch.arange(len(self), device=self.place), [name])
        return value

    def save(self) -> None:
        """Write to the files what they lack; it waits for the device."""
        for slots, names in self._unsaved:
            where = slots.numpy(force=True)
            for name in names:
                self._maps[name][where] = self._held[name][slots].numpy(force=True)
        self._unsaved.clear()

    def flush(self) -> None:
        """Hand all rows to the operating system; they survive the death of this process."""
        self.save()
        for target in self._maps.values():
            target.flush()

    def remove(self) -> None:
        """Delete the files: a finished run is not resumed, and its pictures are many."""
        self._maps.clear()
        self._held.clear()
        shutil.rmtree(self._folder)

    def _write(self, numbers: Tensor, fields: Mapping[str, Tensor]) -> None:
        """Write rows (R, ...) by when they were appended, counted from the first one ever."""
        slots = numbers % self._size
        if self._held:
            for name, value in fields.items():
                self._held[name][slots] = value
            self._unsaved.append((slots, tuple(fields)))
            return
        for name, value in fields.items():
            self._maps[name][slots.numpy()] = value.numpy(force=True)

    def _read(self, numbers: Tensor, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield columns of rows (R, ...) by age."""
        slots = (self.written - len(self) + numbers) % self._size
        for name in names:
            if self._held:
                yield name, self._held[name][slots]
            else:
                yield name, torch.from_numpy(self._maps[name][slots.numpy()])

    def _open(self, path: Path, column: Column) -> np.memmap:
        shape = (self._size, *column.shape)
        expected = self._size * column.row_bytes
        if self._exists:
            if not path.exists() or path.stat().st_size != expected:
                got = path.stat().st_size if path.exists() else 0
                raise UserError(
                    f"buffer file {path} has {got} bytes, wanted {expected}: it cannot be resumed"
                )
            return np.memmap(path, column.dtype, "r+", shape=shape)
        return np.memmap(path, column.dtype, "w+", shape=shape)
