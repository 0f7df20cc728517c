"""Warp as renderers use it: quiet, on one device, in one order with torch; and buffers as tensors."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.specs import CameraSpec
from robokd.vision.base import check_buffer


def load_warp(part: str, *others: str) -> tuple[ModuleType, ...]:
    """Return warp, told not to report what it loads and compiles, and other modules that need it.

    Raises UserError with the cure, in the name of the renderer `part`.
    """
    try:
        wp = importlib.import_module("warp")
        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        wp.init()
        return wp, *(importlib.import_module(name) for name in others)
    except ImportError as error:
        raise UserError(f"renderer={part} lacks a package ({error}): pip install 'robokd[gpu]'") from None
    except OSError as error:
        raise UserError(
            f"renderer={part}: warp cannot keep what it compiles ({error}); set WARP_CACHE_PATH"
        ) from None


def warp_device(wp: ModuleType, part: str, name: str) -> str:
    """Return warp's name of a device; raises UserError if there is none."""
    try:
        return str(wp.get_device(name))
    except (ValueError, RuntimeError):
        known = ", ".join(str(device) for device in wp.get_devices())
        raise UserError(f"renderer={part}: warp has no device {name!r} here. It has: {known}") from None


def torch_stream(wp: ModuleType, device: str) -> Any:  # noqa: ANN401  (warp's Stream)
    """Return the stream on which torch works now, None on a CPU."""
    if not device.startswith("cuda"):
        return None
    return _stream(wp, device, torch.cuda.current_stream(wp.device_to_torch(device)).cuda_stream)


@functools.cache  # warp makes an event for each
def _stream(wp: ModuleType, device: str, handle: int) -> Any:  # noqa: ANN401
    return wp.Stream(device, cuda_stream=handle)


def as_pictures(camera: CameraSpec, num_envs: int, buffer: np.ndarray | Tensor) -> Tensor:
    """Return a caller's buffer as a tensor of the same memory; UserError if it is not what is needed."""
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.writeable or any(stride < 0 for stride in buffer.strides):
            raise UserError(f"buffer of camera {camera.name!r}: it must be writable and run forward")
        buffer = torch.from_numpy(buffer)
    check_buffer(camera, num_envs, buffer.shape, str(buffer.dtype).removeprefix("torch."))
    return buffer
