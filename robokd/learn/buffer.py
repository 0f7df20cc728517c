"""The aggregated data set of DAgger: rows of observations and labels in memory-mapped files of the run.

They can be held on a device too, which then has all that it learns from: the files are what a resume reads.

Images stay encoded (uint8 or float16), only the groups in use are kept, and the size in bytes is known
before anything is allocated. Shapes: R rows, oldest first in writing order; the row number never wraps for
the caller.
"""

from __future__ import annotations

import shutil
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
        array: np.ndarray = value.numpy()  # pyright: ignore[reportAssignmentType]  (rows hold tensors only)
        columns[name] = Column(shape=array.shape[1:], dtype=array.dtype)
    return columns


def planned_bytes(columns: dict[str, Column], capacity: int) -> int:
    """Return how much disk the buffer takes, in bytes."""
    return capacity * sum(column.row_bytes for column in columns.values())


class Buffer:
    """A ring of `capacity` rows, with `slack` more so that a resume finds every row its checkpoint counts on.

    Between two checkpoints at most `slack` rows may be added; rows written since the last checkpoint then lie
    outside the window of `capacity` rows that the checkpoint sees.
    """

    def __init__(
        self, folder: Path, columns: dict[str, Column], capacity: int, slack: int, written: int = 0,
        *, exists: bool = False, device: str = "",
    ) -> None:  # fmt: skip
        """Map the files of `folder`; `written` rows of an earlier process are kept, 0 starts afresh.

        `exists`: another process has made the files, which both write to. `device`: where the rows are held
        beside them; none = they are read from the files.
        """
        self.columns, self.capacity, self._size = columns, capacity, capacity + slack
        self.written, self._folder, self._exists = written, folder, exists or written > 0
        folder.mkdir(parents=True, exist_ok=True)
        self._maps = {name: self._open(folder / f"{name}.bin", column) for name, column in columns.items()}
        self._held: dict[str, Tensor] = {}
        if device:
            self._held = {
                name: torch.from_numpy(one).to(device, copy=True) for name, one in self._maps.items()
            }

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, rows: TensorDict, places: Tensor | None = None, count: int = 0) -> None:
        """Append rows (R, ...); columns are matched by name.

        Where several processes append `count` rows together, these ones have `places` (R,) among them.
        """
        own = np.arange(rows.batch_size[0]) if places is None else places.numpy()
        slots = (self.written + own) % self._size
        for name, target in self._maps.items():
            target[slots] = rows[name].numpy()
        self.written += count or rows.batch_size[0]

    def fill(self, name: str, values: Tensor) -> None:
        """Write one column of the rows (R, ...) that `add` is about to append, of all processes."""
        slots = (self.written + np.arange(len(values))) % self._size
        self._maps[name][slots] = values.numpy()

    def hold(self, count: int) -> None:
        """Take the newest `count` rows, which all processes have appended, over to the device."""
        slots = (self.written - count + np.arange(count)) % self._size
        for name, target in self._held.items():
            target[torch.from_numpy(slots)] = torch.from_numpy(self._maps[name][slots]).to(target.device)

    def rows(self, numbers: Tensor) -> TensorDict:
        """Return rows (R, ...) by age: 0 is the oldest still in the window, len(self) - 1 the newest."""
        slots = (self.written - len(self) + numbers.numpy()) % self._size
        if self._held:
            where = torch.from_numpy(slots)
            held = {name: source[where.to(source.device)] for name, source in self._held.items()}
            return TensorDict(held, batch_size=[len(numbers)])
        fields = {name: torch.from_numpy(source[slots]) for name, source in self._maps.items()}
        return TensorDict(fields, batch_size=[len(numbers)])

    def column(self, name: str) -> np.ndarray:
        """Return one whole column of the window, oldest first (a copy)."""
        slots = (self.written - len(self) + np.arange(len(self))) % self._size
        return self._maps[name][slots]

    def flush(self) -> None:
        """Hand all rows to the operating system; they survive the death of this process."""
        for target in self._maps.values():
            target.flush()

    def remove(self) -> None:
        """Delete the files: a finished run is not resumed, and its pictures are many."""
        self._maps.clear()
        self._held.clear()
        shutil.rmtree(self._folder)

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
