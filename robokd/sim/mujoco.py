"""MuJoCo on CPU: `mujoco.batch.Batch` (MuJoCo 4), the reference simulator.

State is float64, one thread pool, bit-identical at any thread count.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.registry import register
from robokd.sim.base import SETTLED

if TYPE_CHECKING:
    import mujoco

STATE_FIELDS = (
    "time", "qpos", "qvel", "act", "qacc_warmstart", "ctrl", "qfrc_applied", "xfrc_applied", "mocap_pos",
    "mocap_quat",
)  # fmt: skip


@register("sim", "mujoco")
@dataclass(kw_only=True)
class MujocoCfg:
    """MuJoCo 4 on CPU threads (the default; needs no GPU)."""

    physics_dt: float = 0.008  # s

    def __post_init__(self) -> None:
        if self.physics_dt <= 0:
            raise ValueError(f"sim.physics_dt must be > 0 s, got {self.physics_dt}")

    def build(self, spec: mujoco.MjSpec, num_envs: int, device: str = "cpu", threads: int = 1) -> MujocoSim:
        """Compile spec and return num_envs worlds of it on `threads` threads."""
        if device != "cpu":
            raise UserError(f"sim=mujoco runs on device=cpu, got device={device}")
        spec.option.timestep = self.physics_dt
        return MujocoSim(spec.compile(), num_envs, threads)


class MujocoSim:
    """The Sim protocol over one `mujoco.batch.Batch`."""

    device = "cpu"

    def __init__(self, model: mujoco.MjModel, num_envs: int, threads: int = 1) -> None:
        try:
            import mujoco
            from mujoco.batch import Batch
        except ImportError as error:
            raise UserError(f"sim=mujoco needs MuJoCo >= 4 ({error}): pip install 'robokd[mujoco]'") from None
        if num_envs < 1:
            raise UserError(f"num_envs must be >= 1, got {num_envs}")
        if num_envs >= 2**31:
            raise UserError(f"sim=mujoco simulates fewer than 2^31 environments at once, got {num_envs}")
        self.model = model
        self.num_envs = num_envs
        self.physics_dt = float(model.opt.timestep)
        # persistent: one MjData a world, so that the stages computed after a step are reused by the next
        self.batch = Batch(model, num_envs, nthread=threads, persistent=True)
        self._velocity_stage = int(mujoco.mjtStage.mjSTAGE_VEL)
        self._no_stage = int(mujoco.mjtStage.mjSTAGE_NONE)
        bad = (
            mujoco.mjtWarning.mjWARN_BADQPOS,
            mujoco.mjtWarning.mjWARN_BADQVEL,
            mujoco.mjtWarning.mjWARN_BADQACC,
        )
        self._bad_columns = [int(column) for column in bad]
        full = (mujoco.mjtWarning.mjWARN_CONTACTFULL, mujoco.mjtWarning.mjWARN_CNSTRFULL)
        self._full_columns = [int(column) for column in full]
        self._views: dict[str, Tensor] = {}
        self._expanded: dict[str, np.ndarray] = {}  # model fields that worlds have for themselves
        self._ctrl = self.get("ctrl")
        self._has_diverged = self._none = torch.zeros(num_envs, dtype=torch.bool)
        self._asked: tuple[Tensor | None, int, np.ndarray] = (None, 0, np.empty(0, int))
        self._has_overflowed: np.ndarray | None = None  # (N,); None = nowhere
        # whose model fields were set, and what MuJoCo derives of them does not follow yet; None = nobody's
        self._unsettled: np.ndarray | None = None

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """See Sim.step."""
        self._settle()
        self._ctrl.copy_(ctrl)
        self.batch.step(nstep=substeps, stage=self._velocity_stage)
        self._has_diverged = self._none
        if self.batch.warning.any():
            warning = self.batch.warning[:, :, 1]
            self._has_diverged = torch.from_numpy(warning[:, self._bad_columns].any(axis=1))
            is_full = warning[:, self._full_columns].any(axis=1)
            self._has_overflowed = is_full if self._has_overflowed is None else is_full | self._has_overflowed
            # the engine resets a diverged world in silence and its counters with it: count afresh every step
            self.batch.warning[...] = 0

    def forward(self, mask: Tensor | None = None) -> None:
        """See Sim.forward."""
        self._settle()
        self.batch.forward(None if mask is None else mask.numpy(), stage=self._velocity_stage)

    def reset(self, mask: Tensor | None = None) -> None:
        """See Sim.reset."""
        self.batch.reset(None if mask is None else mask.numpy(), stage=self._no_stage)
        rows = self._rows(mask)
        for field, own in self._expanded.items():
            own[rows] = getattr(self.model, field)
        if not self._expanded.keys().isdisjoint(SETTLED):
            self._unsettle(rows)

    def get(self, field: str) -> Tensor:
        """See Sim.get. Zero-copy: the tensor shares MuJoCo's memory."""
        if field not in self._views:
            self._views[field] = self._view(field)
        return self._views[field]

    def set(self, field: str, value: Tensor, mask: Tensor | None = None) -> None:
        """See Sim.set."""
        if field not in STATE_FIELDS and field not in self._expanded:
            self._expanded[field] = self._expand(field)
            self._views[field] = _tensor(self._expanded[field])
        rows = self._rows(mask)
        self.get(field).numpy()[rows] = value.numpy()[rows]
        if field in SETTLED:
            self._unsettle(rows)

    def diverged(self) -> Tensor:
        """See Sim.diverged."""
        return self._has_diverged

    def check(self) -> None:
        """See Sim.check."""
        if self._has_overflowed is None:
            return
        count, self._has_overflowed = int(self._has_overflowed.sum()), None
        if count:
            where = f"{count} of {self.num_envs} worlds"
            raise UserError(
                f"sim=mujoco had too little room for contacts or constraints in {where}, "
                "what follows is wrong: raise the scene's size.memory"
            )

    def snapshot(self) -> dict[str, Tensor]:
        """See Sim.snapshot."""
        model_fields = {f"model.{field}": self.get(field).clone() for field in sorted(self._expanded)}
        return {"state": torch.from_numpy(self.batch.state.copy()), **model_fields}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """See Sim.restore."""
        state = torch.from_numpy(self.batch.state)
        if state.shape != snapshot["state"].shape:
            got, want = tuple(snapshot["state"].shape), tuple(state.shape)
            raise UserError(f"snapshot has state of shape {got}, this simulation has {want}")
        for field in self._expanded:  # some since the snapshot
            self.set(field, torch.from_numpy(getattr(self.model, field)))
        for name, value in snapshot.items():
            if name != "state":
                self.set(name.removeprefix("model."), value)
        state.copy_(snapshot["state"])
        self.forward()

    def close(self) -> None:
        """See Sim.close."""
        self._views.clear()

    def _settle(self) -> None:
        if self._unsettled is not None:
            self.batch.set_const(self._unsettled)
            self._unsettled = None

    def _rows(self, mask: Tensor | None) -> np.ndarray | slice:
        """Return the worlds of mask; of the mask that was last asked for they are known."""
        if mask is None:
            return slice(None)
        if mask is not self._asked[0] or mask._version != self._asked[1]:
            self._asked = mask, mask._version, np.flatnonzero(mask.numpy())
        return self._asked[2]

    def _unsettle(self, rows: np.ndarray | slice) -> None:
        if self._unsettled is None:
            self._unsettled = np.zeros(self.num_envs, dtype=bool)
        self._unsettled[rows] = True

    def _expand(self, field: str) -> np.ndarray:
        try:
            return self.batch.expand(field)
        except ValueError as error:
            raise UserError(f"sim=mujoco cannot set {field!r} per world: {error}") from None

    def _view(self, field: str) -> Tensor:
        try:
            return _tensor(self.batch.bind(field))
        except ValueError:
            shared = getattr(self.model, field, None)
            if not isinstance(shared, np.ndarray):
                raise UserError(f"sim=mujoco has no field {field!r}") from None
            # a model field that no world has changed: one row, repeated without a copy
            return _tensor(np.broadcast_to(shared, (self.num_envs, *shared.shape)))


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # outputs are read-only in numpy; nobody writes a `get` view of a derived field
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
