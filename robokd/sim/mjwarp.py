"""MuJoCo on a GPU: `mujoco_warp`, all worlds in one batch; on a CPU too, slowly.

State is float32. What the engine does is recorded once, a CUDA graph on a GPU, and replayed: a step waits for
nothing and launches little. A substep ends with the stages that depend on position and velocity, so that
derived fields are current after a step and the next substep continues from them.
Shapes: N worlds.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.memory import available_mb
from robokd.registry import did_you_mean, register
from robokd.sim.base import SETTLED
from robokd.sim.mjwarp_fields import acceleration_columns, as_tensor, per_world, static_geoms, write
from robokd.sim.mujoco import STATE_FIELDS

if TYPE_CHECKING:
    import mujoco

# of a world's data: what is worked in beside it (a fifth, counted on a CPU), and model fields of its own
WORKSPACE_SHARE = 0.5
# what mujoco_warp reports as too small (OverflowType), and what makes it larger; of the others, too few
# iterations and a coarse horizon of a collision, the result is less exact and not wrong
_ROOMS = {
    "NEFC": "sim.njmax", "NJMAX_NNZ": "sim.njmax", "BROADPHASE": "sim.nconmax", "NARROWPHASE": "sim.nconmax",
    "CCD": "sim.nconmax", "HFIELD": "the grid of the height field", "TACTILE": "the tactile sensors",
    "CONTACT_MATCH": "the scene's numeric contact_sensor_maxmatch",
}  # fmt: skip

# what mujoco_warp derives of SETTLED
_DERIVED = (
    "body_subtreemass", "body_invweight0", "dof_invweight0", "tendon_invweight0", "tendon_length0",
    "geom_aabb", "geom_rbound", "actuator_acc0", "cam_pos0", "cam_poscom0", "cam_mat0", "light_pos0",
    "light_poscom0", "light_dir0",
)  # fmt: skip

Modules = tuple[ModuleType, ModuleType, ModuleType]


@register("sim", "mjwarp")
@dataclass(kw_only=True)
class MjwarpCfg:
    """MuJoCo on a GPU (mujoco_warp): thousands of worlds; with device=cpu slow."""

    physics_dt: float = 0.008  # s
    nconmax: int = 0  # contacts that there is room for, a world on average; 0 = mujoco_warp's guess
    njmax: int = 0  # constraints that there is room for in every world; 0 = mujoco_warp's guess
    deterministic: bool = True  # on a GPU: the same bits every time, somewhat slower

    def __post_init__(self) -> None:
        if self.physics_dt <= 0:
            raise ValueError(f"sim.physics_dt must be > 0 s, got {self.physics_dt}")
        for name in ("nconmax", "njmax"):
            if getattr(self, name) < 0:
                raise ValueError(f"sim.{name} must be >= 0 (0 = a guess), got {getattr(self, name)}")

    def build(self, spec: mujoco.MjSpec, num_envs: int, device: str = "cpu", threads: int = 1) -> MjwarpSim:
        """Compile spec and return num_envs worlds of it; `threads` is not used: on a CPU, warp has one."""
        if device.startswith("cuda") and not torch.cuda.is_available():  # warp says it in three lines
            cure = "a GPU of NVIDIA and its driver are needed, or sim=mujoco"
            raise UserError(f"sim=mjwarp: warp has no device {device!r} here, it has cpu: {cure}")
        modules()  # the line that says what to install comes before any other
        spec.option.timestep = self.physics_dt
        return MjwarpSim(self, spec.compile(), num_envs, device)


class MjwarpSim:
    """The Sim protocol over mujoco_warp's Model and Data."""

    def __init__(self, cfg: MjwarpCfg, model: mujoco.MjModel, num_envs: int, device: str = "cpu") -> None:
        self._warp, self._engine, self._kernels = modules()
        self._place = _place(self._warp, device)
        self.device = str(self._warp.device_to_torch(self._place))
        if num_envs < 1:
            raise UserError(f"num_envs must be >= 1, got {num_envs}")
        _check_scene(model)
        self.model, self.num_envs, self.physics_dt = model, num_envs, float(model.opt.timestep)
        _check_memory(cfg, model, num_envs, self.device)
        with self._warp.ScopedDevice(self._place):
            self._put(cfg)
        self._views: dict[str, Tensor] = {}
        self._defaults: dict[str, Tensor] = {}  # of the model fields that worlds have for themselves
        self._graphs: dict[str, Any] = {}
        self._is_stale = True  # derived fields: not of the state that was set
        self._is_settled = True  # what is derived of the model: of the model fields that were set
        self._ctrl, self._sensors = self.get("ctrl"), self.get("sensordata")
        self._felt = torch.from_numpy(acceleration_columns(model)).to(self.device)
        if self._place.is_cuda:
            self._warp.synchronize_device(self._place)  # torch works in another order than warp does

    def _put(self, cfg: MjwarpCfg) -> None:
        """Put model and data on the device."""
        wp, engine, count = self._warp, self._engine, self.num_envs
        try:
            self._model = engine.put_model(self.model)
            self._data = _make_data(engine, cfg, self.model, count)
        except (NotImplementedError, ValueError) as error:
            raise UserError(f"sim=mjwarp: mujoco_warp does not take this scene: {error}") from None
        self._model.opt.warn_overflow = 0  # printing holds a GPU up; `check` reports
        if cfg.deterministic and self._place.is_cuda:  # a CPU has no other way
            self._model.opt.deterministic = int(engine.DeterminismType.ALL)
        data = importlib.import_module("mujoco").MjData(self.model)
        self._fields = {True: per_world(self._data, data), False: per_world(self._model, self.model)}
        self._chosen, self._flags = (wp.zeros(count, dtype=wp.bool) for _ in range(2))
        self._mask, self._has_diverged, self._overflow = (
            wp.to_torch(array) for array in (self._chosen, self._flags, self._data.overflow)
        )
        self._overflowed = torch.zeros_like(self._overflow)  # in episodes that are over
        self._static = wp.array(static_geoms(self.model), dtype=wp.int32)

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """See Sim.step."""
        if self._is_stale:
            self._refresh()
        self._ctrl.copy_(ctrl)
        self._has_diverged.zero_()
        for _ in range(substeps):
            self._replay(self._substep)

    def forward(self, mask: Tensor | None = None) -> None:
        """See Sim.forward. Brings all worlds up to date: those outside of mask are so already."""
        self._refresh()

    def reset(self, mask: Tensor | None = None) -> None:
        """See Sim.reset."""
        if mask is None:
            self._mask.fill_(True)
        else:
            self._mask.copy_(mask)
        for field, default in self._defaults.items():
            write(self._views[field], default, self._mask)
        self._overflowed |= self._overflow  # which is forgotten now
        self._replay(self._clear)
        self._is_stale = True
        self._is_settled &= self._defaults.keys().isdisjoint(SETTLED)

    def get(self, field: str) -> Tensor:
        """See Sim.get. Zero-copy: the tensor shares warp's memory."""
        if field not in self._views:
            self._views[field] = self._view(field)
        return self._views[field]

    def set(self, field: str, value: Tensor, mask: Tensor | None = None) -> None:
        """See Sim.set."""
        if field not in STATE_FIELDS and field not in self._defaults:
            self._expand(field)
        view = self.get(field)
        write(view, value.to(view), None if mask is None else mask.to(view.device))
        self._is_stale = True
        self._is_settled &= field not in SETTLED

    def diverged(self) -> Tensor:
        """See Sim.diverged."""
        return self._has_diverged.clone()

    def check(self) -> None:
        """See Sim.check."""
        bits = (self._overflowed | self._overflow).cpu()
        for seen in (self._overflowed, self._overflow):
            seen.zero_()
        for name, room in _ROOMS.items():
            count = int(((bits & int(self._engine.OverflowType[name])) != 0).sum())
            if count:
                size = {"sim.njmax": self._data.njmax, "sim.nconmax": self._data.naconmax // self.num_envs}
                had = f" beyond {size[room]}" if room in size else ""
                raise UserError(
                    f"sim=mjwarp had too little room for contacts or constraints in {count} of "
                    f"{self.num_envs} worlds ({name}), what follows is wrong: raise {room}{had}"
                )

    def snapshot(self) -> dict[str, Tensor]:
        """See Sim.snapshot."""
        fields = sorted(self._defaults.keys() - set(_DERIVED))
        own = {f"model.{field}": self._views[field].clone() for field in fields}
        return {**{field: self.get(field).clone() for field in (*STATE_FIELDS, "sensordata")}, **own}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """See Sim.restore."""
        for field in (*STATE_FIELDS, "sensordata"):
            got, want = tuple(snapshot.get(field, torch.empty(0)).shape), tuple(self.get(field).shape)
            if got != want:
                raise UserError(f"snapshot has {field} of shape {got}, this simulation has {want}")
        for field, default in self._defaults.items():
            self._views[field].copy_(default)
        self._is_settled &= self._defaults.keys().isdisjoint(SETTLED)
        for name, value in snapshot.items():
            if name != "sensordata":
                self.set(name.removeprefix("model."), value)
        self._refresh()
        self._sensors.copy_(snapshot["sensordata"])

    def close(self) -> None:
        """See Sim.close."""
        self._graphs.clear()
        self._views.clear()

    def _refresh(self) -> None:
        if not self._is_settled:
            self._replay(self._settle)
            self._is_settled = True
        # what acceleration sensors felt in the last step stays; only a step tells
        felt = self._sensors[:, self._felt]
        self._replay(self._place_and_look)
        self._sensors[:, self._felt] = felt
        self._is_stale = False

    def _replay(self, work: Callable[[], None]) -> None:
        """Let the device do work, as it was recorded at the first time."""
        wp, name = self._warp, work.__name__
        if name not in self._graphs:
            with wp.ScopedDevice(self._place), wp.ScopedCapture() as capture:
                work()
            self._graphs[name] = capture.graph
        # in one order with torch
        stream = wp.stream_from_torch(torch.cuda.current_stream(self.device)) if self._place.is_cuda else None
        wp.capture_launch(self._graphs[name], stream=stream)

    def _substep(self) -> None:
        engine, model, data = self._engine, self._model, self._data
        data.sensordata.zero_()  # some sensors add up, and some write only what is not zero
        is_runge_kutta = model.opt.integrator == engine.IntegratorType.RK4  # which step2 does not know
        (engine.step if is_runge_kutta else engine.step2)(model, data)
        state = (data.qpos, data.qvel, data.qacc, data.act, data.qacc_warmstart)
        self._warp.launch(
            self._kernels.arrest, dim=self.num_envs, inputs=[model.qpos0], outputs=[*state, self._flags]
        )
        self._look()

    def _place_and_look(self) -> None:
        engine, model, data = self._engine, self._model, self._data
        data.sensordata.zero_()
        if self._static.size:
            # mujoco_warp places them once for all; a world may have moved its own
            engine.kinematics(model, data)
            geoms, bodies = (model.geom_bodyid, model.geom_pos, model.geom_quat), (data.xpos, data.xquat)
            self._warp.launch(
                self._kernels.place_static, dim=(self.num_envs, self._static.size),
                inputs=[self._static, *geoms, *bodies], outputs=[data.geom_xpos, data.geom_xmat],
            )  # fmt: skip
        self._look()

    def _look(self) -> None:
        """Compute what depends on position and velocity."""
        engine, model, data = self._engine, self._model, self._data
        engine.fwd_position(model, data)
        engine.sensor_pos(model, data)
        engine.fwd_velocity(model, data)
        engine.sensor_vel(model, data)

    def _settle(self) -> None:
        self._engine.set_const(self._model, self._data, restore=False)  # what follows looks anyway

    def _clear(self) -> None:
        self._engine.reset_data(self._model, self._data, reset=self._chosen)

    def _view(self, field: str) -> Tensor:
        for is_data, owner in ((True, self._data), (False, self._model)):
            shape = self._fields[is_data].get(field)
            if shape is not None:
                return as_tensor(self._warp, getattr(owner, field), shape, self.num_envs)
        shared = getattr(self.model, field, None)
        if not isinstance(shared, np.ndarray):
            known = (name for fields in self._fields.values() for name in fields)
            raise UserError(f"sim=mjwarp has no field {field!r}.{did_you_mean(field, known)}")
        return torch.from_numpy(shared.copy()).to(self.device).expand(self.num_envs, *shared.shape)

    def _expand(self, field: str) -> None:
        """Give every world its own values of a model field, in the place of those that all share."""
        if field not in self._fields[False]:
            self.get(field)
            why = "it is computed" if field in self._fields[True] else "mujoco_warp has one for all worlds"
            raise UserError(f"sim=mjwarp cannot set {field!r} per world: {why}")
        array = getattr(self._model, field)
        if not array.size:
            raise UserError(f"sim=mjwarp cannot set {field!r} per world: the scene has none")
        shared = self._warp.to_torch(array)
        own = shared.expand(self.num_envs, *shared.shape[1:]).clone()
        setattr(self._model, field, self._warp.from_torch(own, dtype=array.dtype))
        shape = self._fields[False][field]
        self._defaults[field] = shared.reshape(1, *shape)
        self._views[field] = own.view(self.num_envs, *shape)
        self._graphs.clear()  # they would read the shared values for ever
        if field in SETTLED:
            for derived in _DERIVED:
                if derived not in self._defaults and getattr(self._model, derived).size:
                    self._expand(derived)


def world_bytes(model: mujoco.MjModel, nconmax: int = 0, njmax: int = 0) -> int:
    """Return what a world of sim=mjwarp takes of the device's memory; raises UserError without warp."""
    wp, engine, _ = modules()
    cfg = MjwarpCfg(nconmax=nconmax, njmax=njmax)
    with wp.ScopedDevice("cpu"):
        one, two = (_bytes(wp, _make_data(engine, cfg, model, count)) for count in (1, 2))
    return round((two - one) * (1 + WORKSPACE_SHARE))


def modules() -> Modules:
    """Return warp, told not to report what it loads and compiles, mujoco_warp and our kernels."""
    try:
        wp = importlib.import_module("warp")
        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        wp.init()
        engine = importlib.import_module("mujoco_warp")
    except ImportError as error:
        raise UserError(f"sim=mjwarp needs mujoco_warp ({error}): pip install 'robokd[gpu]'") from None
    except OSError as error:
        cure = "set WARP_CACHE_PATH"
        raise UserError(f"sim=mjwarp: warp cannot keep what it compiles ({error}); {cure}") from None
    return wp, engine, importlib.import_module("robokd.sim.mjwarp_kernels")


def _place(wp: ModuleType, name: str) -> Any:  # noqa: ANN401  (warp's Device)
    try:
        return wp.get_device(name)
    except (ValueError, RuntimeError):
        known = ", ".join(str(device) for device in wp.get_devices())
        cure = "" if wp.is_cuda_available() else ": a GPU of NVIDIA and its driver are needed, or sim=mujoco"
        raise UserError(f"sim=mjwarp: warp has no device {name!r} here, it has {known}{cure}") from None


def _check_scene(model: mujoco.MjModel) -> None:
    """Raise UserError for what a step of ours leaves out."""
    sleep = importlib.import_module("mujoco").mjtEnableBit.mjENBL_SLEEP
    lost = {"bodies that sleep": model.opt.enableflags & sleep, "delays in the scene": model.nhistory}
    for what, is_used in lost.items():
        if is_used:
            raise UserError(f"sim=mjwarp cannot simulate {what}; sim=mujoco can")


def _check_memory(cfg: MjwarpCfg, model: mujoco.MjModel, num_envs: int, device: str) -> None:
    """Raise UserError if so many worlds do not fit into what is free."""
    each, free_mb = world_bytes(model, cfg.nconmax, cfg.njmax), available_mb(device)
    if num_envs * each > free_mb * 2**20:
        needs, fits = num_envs * each / 2**20, int(free_mb * 2**20 / each)
        raise UserError(
            f"sim=mjwarp: {num_envs} worlds need about {needs:.0f} MiB of {device}, which has "
            f"{free_mb:.0f} MiB free: num_envs={fits} would fit"
        )


def _make_data(engine: ModuleType, cfg: MjwarpCfg, model: mujoco.MjModel, count: int) -> Any:  # noqa: ANN401
    return engine.make_data(model, nworld=count, nconmax=cfg.nconmax or None, njmax=cfg.njmax or None)


def _bytes(wp: ModuleType, record: object) -> int:
    """Return what the arrays of a dataclass take, nested ones included."""
    values = [getattr(record, field.name) for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    nested = sum(_bytes(wp, value) for value in values if dataclasses.is_dataclass(value))
    return nested + sum(value.capacity for value in values if isinstance(value, wp.array))
