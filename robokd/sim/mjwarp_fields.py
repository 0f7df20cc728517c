"""Fields of mujoco_warp's Model and Data as tensors of MuJoCo's shapes, and what a scene says of them.

Shapes: N worlds.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import mujoco


def per_world(record: Any, like: object) -> dict[str, tuple[int, ...]]:  # noqa: ANN401
    """Return MuJoCo's shapes of the fields of mujoco_warp's Model or Data that differ between worlds."""
    found = {}
    for field in dataclasses.fields(record):
        if (getattr(field.type, "shape", None) or (None,))[0] not in ("nworld", "*"):
            continue
        array, value = getattr(record, field.name), getattr(like, field.name, None)
        size = math.prod(array.shape[1:]) * math.prod(getattr(array.dtype, "_shape_", ()))
        # some have the name of a field of MuJoCo and are laid out in another way
        if value is not None and np.size(value) == size:
            found[field.name] = np.shape(value)
    return found


def as_tensor(wp: ModuleType, array: Any, shape: tuple[int, ...], num_envs: int) -> Tensor:  # noqa: ANN401
    """Return warp's array as a tensor (N, *shape) of the same memory; what all share is one row, repeated."""
    if not array.size:
        return torch.zeros(num_envs, *shape, device=wp.device_to_torch(array.device))
    rows = wp.to_torch(array)
    return rows.view(len(rows), *shape).expand(num_envs, *shape)


def write(view: Tensor, value: Tensor, mask: Tensor | None) -> None:
    """Write values into the worlds of mask, without asking the device which they are."""
    if mask is not None:
        value = torch.where(mask.view(-1, *[1] * (view.ndim - 1)), value, view)
    view.copy_(value)


def static_geoms(model: mujoco.MjModel) -> np.ndarray:
    """Return the geoms of the world itself, and of bodies that are welded to it and no mocap body's."""
    body = model.geom_bodyid
    is_mocap = model.body_mocapid[model.body_rootid[body]] >= 0
    return np.flatnonzero((model.body_weldid[body] == 0) & ~is_mocap).astype(np.int32)


def acceleration_columns(model: mujoco.MjModel) -> np.ndarray:
    """Return where in sensordata the sensors are that only a step tells."""
    stage = importlib.import_module("mujoco").mjtStage.mjSTAGE_ACC
    of = np.repeat(model.sensor_needstage == int(stage), model.sensor_dim)
    return np.flatnonzero(of)
