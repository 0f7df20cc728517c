"""The data set of a distillation: sequences of steps on disk, which are held out, which are drawn.

Shapes: N environments, R rows, B rows of a batch, T steps of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.files import free_bytes
from robokd.learn import ranks
from robokd.learn.buffer import Buffer, columns_of, planned_bytes
from robokd.learn.priorities import Priorities, drawn, priority
from robokd.memory import available_mb
from robokd.students.base import Student, StudentOutput

if TYPE_CHECKING:
    from robokd.draws import Draws
    from robokd.learning import DaggerConfig

# columns beside the student's groups and the privileged terms
LABEL = "label"  # the teacher's actions; what else it says: label.<field>
EPISODE = "episode"  # number of the episode: held-out steps are whole episodes
FRESH = "fresh"  # whether a step begins an episode
MEMORY = "memory."  # before the name of a part of the student's state, which is that before the first step
_HELD_OUT_FRAMES = 2048  # of the validation loss, the newest
_SHARE = 0.6  # of a GPU's free memory that rows may have unasked: worlds and learning want the rest


def rows_of(steps: Sequence[TensorDict], memories: Sequence[TensorDict], length: int) -> TensorDict:
    """Return steps (N, ...), in the order of time, as rows (R, T, ...), and the memory before each, (R, ...).

    `memories` are those before every step whose number `length` divides; it divides the number of steps.
    """
    parts = []
    for index, memory in enumerate(memories):
        inside = steps[index * length : (index + 1) * length]
        fields = {name: torch.stack([step[name] for step in inside], 1) for name in inside[0].keys()}  # noqa: SIM118
        fields |= {MEMORY + name: value for name, value in memory.items()}
        parts.append(fields)
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return TensorDict(joined, batch_size=[len(joined[LABEL])])


def places(count: int, num_envs: int, device: torch.device | str = "cpu") -> Tensor:
    """Return where this process's rows (count,) stand among those of all: blocks of all environments."""
    row = torch.arange(count, device=device)
    block, environment = row // num_envs, row % num_envs
    return (block * ranks.world() + ranks.rank()) * num_envs + environment


def batch_rows(frames: int, length: int) -> int:
    """Return how many rows of `length` steps make a batch of so many frames, at least one."""
    return max(frames // length, 1)


def seen(rows: TensorDict, inputs: Sequence[str]) -> TensorDict:
    """Return the groups of rows that a student sees, (B, T, ...)."""
    return TensorDict({name: rows[name] for name in inputs}, batch_size=rows[FRESH].shape)


def said(student: Student, rows: TensorDict, shown: Sequence[str] = ()) -> StudentOutput:
    """Return what a student says of rows, (B, T, ...), from the memory that stands before each.

    `shown`: the privileged groups that it is shown beside what it sees.
    """
    kept = map(str, rows.keys())
    memory = {name.removeprefix(MEMORY): rows[name] for name in kept if name.startswith(MEMORY)}
    state = TensorDict(memory, batch_size=[len(rows)])
    return student.sequence(seen(rows, (*student.inputs, *shown)), state, rows[FRESH])


class DataSet:
    """A ring of rows, all of which the last checkpoint counts on are kept.

    The processes of one machine share it. Of several machines each holds the rows of its own environments,
    and its files have holes for the others; of which episode a row is, all know.
    """

    def __init__(self, settings: DaggerConfig, draws: Draws, num_envs: int, length: int) -> None:
        """`length` is T, the steps of a row; `num_envs` of all processes. `open` allocates."""
        self.settings, self.length, self._draws, self._num_envs = settings, length, draws, num_envs
        per_round = num_envs * settings.steps_per_round // length
        self._slack = min(settings.checkpoint_every, settings.rounds) * per_round
        self._capacity = max(min(settings.capacity // length, settings.rounds * per_round), 1)
        self.priorities: Priorities | None = None
        self._buffer: Buffer | None = None
        self._learnable = torch.ones(())  # how many rows of the last round's had a step to learn from
        self.bytes = 0  # on disk

    def open(self, folder: Path, like: TensorDict, written: int = 0, device: str = "cpu") -> None:
        """Allocate for rows like these, said in bytes; `written` rows of an earlier process are kept."""
        columns = columns_of(like)
        self.bytes = planned_bytes(columns, self.size)
        is_held = self.is_held(self.bytes, device)
        groups = ", ".join(f"{name} {column.row_bytes} B" for name, column in columns.items())
        each = f"rows of {self.length} steps:" if self.length > 1 else "rows of"
        if ranks.machines() > 1:
            folder = folder.with_name(f"{folder.name}_{ranks.machine()}")
        if ranks.is_first():
            size = f"{self.bytes / 1e6:,.0f} MB on disk" + (f" and on {device}" if is_held else "")
            print(f"buffer: {self._capacity:,} {each} {groups}: {size}", flush=True)
        if ranks.is_first_here():
            if not written:
                self.check_room(folder.parent, like, device)
            self._buffer = Buffer(
                folder, columns, self._capacity, self._slack, written, device=device, is_held=is_held
            )
        ranks.wait()
        if not ranks.is_first_here():
            self._buffer = Buffer(
                folder, columns, self._capacity, self._slack, written, exists=True, device=device,
                is_held=is_held,
            )  # fmt: skip
        if self.settings.sampling == "priority":
            self.priorities = Priorities(self.size, self.buffer.place)

    def is_held(self, wanted: float, device: str) -> bool:
        """Whether a device holds rows of so many bytes in all: where it is told to, or is a GPU with room."""
        if self.settings.store != "auto":
            return self.settings.store == "device"
        return device.startswith("cuda") and wanted <= _SHARE * available_mb(device) * 2**20

    def check_room(self, folder: Path | str, like: TensorDict, device: str = "cpu") -> None:
        """Raise UserError, with the largest capacity that fits, if rows like these would not fit.

        `folder`: where the files' folder stands, or would. `device`: whose memory is to hold them too.
        """
        each = planned_bytes(columns_of(like), 1)
        rooms = {"on disk": float(free_bytes(folder))}
        if self.settings.store == "device":
            rooms[f"in the memory of {device}"] = available_mb(device) * 2**20
        for where, free in rooms.items():
            if (wanted := each * self.size) > 0.95 * free:
                most = self.capacity_in(int(0.9 * free), each)
                fits = f"dagger.capacity={most}" if most else "none"
                need = f"the data set needs {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are free {where}"
                raise UserError(f"{need}; what fits: {fits}")

    @property
    def buffer(self) -> Buffer:
        """The rows; `open` comes first."""
        assert self._buffer is not None, "the data set is not open"
        return self._buffer

    @property
    def is_open(self) -> bool:
        """Whether there is room for rows."""
        return self._buffer is not None

    def add(self, rows: TensorDict) -> None:
        """Append rows (R, ...), of several processes all of theirs: blocks of all environments in order."""
        count = len(rows) * ranks.world()
        if self.priorities is not None:
            self.priorities.add(self.buffer.written, count)
        if ranks.machines() > 1:
            self.buffer.fill(EPISODE, self._of_all(rows[EPISODE]))
        own = places(len(rows), self._num_envs // ranks.world(), self.buffer.place)
        self.buffer.add(rows, own, count)
        if ranks.here() > 1:  # each holds what all of the machine have written
            self.buffer.save()
            ranks.wait()
            self.buffer.hold(count)

    def own_part(self, chosen: Tensor) -> Tensor:
        """Return which rows of a batch, by age (B,), this process learns from; each row is one process's.

        UserError where some would have none.
        """
        if len(chosen) < ranks.world():
            raise UserError(f"a batch of {len(chosen)} rows cannot be shared by {ranks.world()} processes")
        own = slice(ranks.rank() % ranks.here(), None, ranks.here())
        if ranks.machines() == 1:
            return torch.arange(len(chosen), device=chosen.device)[own]
        numbers = self.buffer.written - len(self.buffer) + chosen
        machine = numbers % self._num_envs * ranks.machines() // self._num_envs
        return (machine == ranks.machine()).nonzero()[:, 0][own]

    def remove(self) -> None:
        """Delete the files: a finished run is not resumed, and its pictures are many."""
        if ranks.is_first_here():
            self.buffer.remove()

    @property
    def size(self) -> int:
        """Rows that there is room for: those that are kept, and those that a resume counts on."""
        return self._capacity + self._slack

    def capacity_in(self, room: int, row_bytes: int) -> int:
        """Return the largest `dagger.capacity`, in frames, that fits in so many bytes; 0 = none."""
        return max((room // row_bytes - self._slack) * self.length, 0)

    def is_held_out(self, rows: TensorDict) -> Tensor:
        """Return which steps (B, T) are never learned from."""
        return self._held_out(rows[EPISODE])

    def held_out(self) -> Tensor:
        """Return the newest rows, by age, with a step that is never learned from; it waits for the device."""
        found = self._held_out(self.buffer.column(EPISODE)).any(1).nonzero()[:, 0]
        return found[-_HELD_OUT_FRAMES // self.length :]

    def batches(self, number: int, steps: int) -> Iterator[Tensor]:
        """Yield the rows (B,), by age, of a round's batches, with replacement: the same in every process.

        Each has a step to learn from, if any row has; `check_learnable` tells.
        """
        learnable = (~self._held_out(self.buffer.column(EPISODE))).any(1).long()
        ends = learnable.cumsum(0)
        self._learnable = ends[-1]
        rows = self.buffer.written - len(self.buffer) + torch.arange(len(ends), device=ends.device)
        step = torch.arange(steps, device=ends.device)
        count = batch_rows(self.settings.batch_size, self.length)
        for lots in self._draws.uniform("batch", torch.full_like(step, number), step, count):
            if self.priorities is not None:
                chances = learnable * self.priorities.chances(rows, self.settings.priority_power)
                ends = chances.cumsum(0)
            yield drawn(ends, lots)

    def check_learnable(self) -> None:
        """Raise UserError if there was nothing to draw batches from; it waits for the device."""
        if not self._learnable:
            share = f"dagger.validation_share={self.settings.validation_share:g}"
            frames = len(self.buffer) * self.length
            raise UserError(f"{share} leaves none of the {frames} frames to learn from")

    def weigh(self, chosen: Tensor, action: Tensor, rows: TensorDict, valid: Tensor) -> None:
        """Note how much is left to learn of rows, by age (B,), from the student's actions.

        These (B', T, A), and the rows, are of this process's part of what was chosen.
        """
        if self.priorities is not None:
            log_std = rows.get(f"{LABEL}.log_std", None)  # None: no loss reads it, so that it is not kept
            weights = torch.zeros(len(chosen), device=chosen.device)
            own = priority(action.detach(), rows[LABEL], log_std, valid)
            weights[self.own_part(chosen)] = own.to(chosen.device)
            weights = ranks.total(weights)
            self.priorities.update(self.buffer.written - len(self.buffer) + chosen, weights)

    def _of_all(self, values: Tensor) -> Tensor:
        """Return values of rows (R, ...) of every process as they stand among the rows of all."""
        blocks = len(values) * ranks.world() // self._num_envs
        parts = ranks.gathered(values).unflatten(0, (ranks.world(), blocks, -1))
        return parts.transpose(0, 1).flatten(0, 2)

    def _held_out(self, episodes: Tensor) -> Tensor:
        share = self._draws.uniform("validation_share", episodes.flatten(), 0, 1)[:, 0]
        return (share < self.settings.validation_share).view(episodes.shape)
