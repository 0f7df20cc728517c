"""The cameras of many environments: rendered, spoiled as a sensor spoils pictures, encoded, shown when due.

Shapes: N environments; images (N, *camera.shape).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robokd import UserError
from robokd.draws import Draws
from robokd.geometry import multiply
from robokd.sim.base import Sim
from robokd.specs import CameraSpec
from robokd.vision.base import RendererCfg
from robokd.vision.corrupt import FrameStore, Timing, corrupt_depth, corrupt_rgb, mounting_error
from robokd.vision.encode import encode
from robokd.vision.sensor import Corruption


class Eyes:
    """What the cameras of an environment show. Its memory is the frames under way."""

    def __init__(
        self, sim: Sim, renderer: RendererCfg, cameras: Sequence[CameraSpec], corruption: Corruption, *,
        control_dt: float, draws: Draws, threads: int,
    ) -> None:  # fmt: skip
        """Build the renderer; raises UserError for what it cannot draw."""
        self.cameras, self.corruption = tuple(cameras), corruption
        self._sim, self._draws = sim, draws
        self._masks = _masks(cameras, corruption)
        self._drawn = (*self.cameras, *self._masks.values())
        self._renderer = renderer.build(sim, self._drawn, threads)
        self._fovy_deg = _views(cameras, corruption)
        self._device = torch.device(sim.device)
        self._stores: dict[str, FrameStore] = {}
        if corruption.changes_timing:
            for camera in cameras:
                frames = self._empty(camera, camera.dtype, self._device)
                timing = Timing(corruption=corruption, camera=camera, control_dt=control_dt)
                self._stores[camera.name] = FrameStore(timing, frames)
        # geoms of the world itself are background: floor, walls, table
        is_background = torch.from_numpy(np.append(sim.model.geom_bodyid == 0, True))  # last: nothing
        self._is_background = is_background.to(self._device)
        age_s = torch.zeros(sim.num_envs, device=self._device)
        self.ages_s = {camera.name: age_s.clone() for camera in cameras}  # (N,), of the last look

    def begin(self, mask: Tensor, episode: Tensor) -> None:
        """Begin the episodes (N,) of mask (N,): nothing is under way, the cameras stand a little wrong."""
        for store in self._stores.values():
            store.reset(mask)
        if not self.corruption.changes_pose:
            return
        position, quaternion, fovy = (
            self._sim.get(field).clone() for field in ("cam_pos", "cam_quat", "cam_fovy")
        )
        for name in dict.fromkeys(camera.scene_camera for camera in self.cameras):
            index = self._sim.model.camera(name).id
            shift, turn, wider = mounting_error(self.corruption, name, self._draws, episode)
            position[:, index] += shift
            quaternion[:, index] = multiply(quaternion[:, index], turn, torch)
            if self.corruption.fovy_error_deg:
                fovy[:, index] = self._fovy_deg[name] + wider
        for field, value in (("cam_pos", position), ("cam_quat", quaternion), ("cam_fovy", fovy)):
            self._sim.set(field, value, mask)

    def look(self, episode: Tensor, step: Tensor) -> dict[str, Tensor]:
        """Return {camera: (N, *camera.shape)} as seen at `step` (N,) of `episode` (N,), fresh memory."""
        raw = {camera.name: self._buffer(camera) for camera in self._drawn}
        self._renderer.render(self._sim, self._drawn, raw)
        raw = {name: image.to(self._device, non_blocking=True) for name, image in raw.items()}
        seen = {}
        for camera in self.cameras:
            seen[camera.name] = self._spoil(camera, raw, episode, step)
            if camera.name in self._stores:
                frames, age_s = self._stores[camera.name].show(seen[camera.name], self._draws, episode, step)
                seen[camera.name], self.ages_s[camera.name] = frames, age_s
        return seen

    def snapshot(self) -> dict[str, Any]:
        """Return the frames under way."""
        return {name: store.snapshot() for name, store in self._stores.items()}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Return to a snapshot."""
        for name, store in self._stores.items():
            store.restore(snapshot[name])

    def _buffer(self, camera: CameraSpec) -> Tensor:
        spoiled = camera.is_depth and self.corruption.changes_depth
        return self._empty(camera, np.float32 if spoiled else camera.dtype, self._renderer.device)

    def _empty(self, camera: CameraSpec, kind: np.dtype | type, device: torch.device | str) -> Tensor:
        dtype, shape = getattr(torch, np.dtype(kind).name), (self._sim.num_envs, *camera.shape)
        # what a renderer draws on the host for a GPU is sent on without a wait
        is_sent = self._device.type == "cuda" and torch.device(device).type == "cpu"
        return torch.empty(shape, dtype=dtype, device=device, pin_memory=is_sent)

    def _spoil(self, camera: CameraSpec, raw: dict[str, Tensor], episode: Tensor, step: Tensor) -> Tensor:
        image = raw[camera.name]
        if camera.is_depth and self.corruption.changes_depth:
            depth = corrupt_depth(image, self.corruption, camera, self._draws, episode, step)
            return encode(depth, camera, torch)
        if camera.encoding == "rgb_u8" and self.corruption.changes_colour:
            background = None
            if camera.name in self._masks:
                background = self._is_background[raw[self._masks[camera.name].name][:, 0].long()]
            return corrupt_rgb(
                image, self.corruption, camera, self._draws, episode, step, background_nhw=background
            )
        return image


def _views(cameras: Sequence[CameraSpec], corruption: Corruption) -> dict[str, float]:
    """Return the fields of view by camera of the scene; UserError for two of one that is to be spoiled."""
    found: dict[str, float] = {}
    for camera in cameras:
        known = found.setdefault(camera.scene_camera, camera.fovy_deg)
        if known != camera.fovy_deg and corruption.fovy_error_deg:
            both = f"{known:g} and {camera.fovy_deg:g} degrees of {camera.scene_camera!r}"
            raise UserError(f"corrupt.fovy_error_deg moves one field of view a camera, not {both}")
    return found


def _masks(cameras: Sequence[CameraSpec], corruption: Corruption) -> dict[str, CameraSpec]:
    """Return the cameras that tell what is background, by the colour cameras that need to know."""
    swapped = [camera for camera in cameras if corruption.background_rate and camera.encoding == "rgb_u8"]
    return {
        camera.name: dataclasses.replace(
            camera, name=f"{camera.name}/segment", view=camera.scene_camera, encoding="segment_i16"
        )
        for camera in swapped
    }
