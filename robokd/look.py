"""Look: a sheet of what students see: clean, spoiled as a sensor spoils it, and beside MuJoCo's own renderer.

Shapes: N moments, each of another episode; images (N, C, H, W).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robokd import UserError, charts
from robokd.draws import Draws
from robokd.env.base import TaskEnv, check_groups
from robokd.files import writable, write_atomic
from robokd.learn.stage import begin, build_env
from robokd.specs import CameraSpec
from robokd.vision.encode import encode
from robokd.vision.gl import GlCfg
from robokd.vision.sensor import Corruption

if TYPE_CHECKING:
    from robokd.config import LookConfig
    from robokd.run import Run

STEPS = 12  # control steps of wandering before the pictures are taken
WORST_M = 0.02  # depth difference that is white
WORST_LEVEL = 16.0  # colour difference that is white, of 255
SLICES = 128  # of MuJoCo's round shapes: its default is off by millimetres


def look(config: LookConfig, resume: Run | None = None) -> Path:
    """Write the sheet and return its path."""
    path = writable(config.out)
    begin(config.seed, config.threads)
    clean_env = _wander(dataclasses.replace(config, corrupt=Corruption()))
    cameras = [clean_env.camera_specs[name] for name in clean_env.groups]
    clean = clean_env.get_observations()
    rows = {camera.name: _painted(clean[camera.name].numpy(), camera) for camera in cameras}
    if not config.corrupt.is_clean:
        spoiled_env = _wander(config)
        spoiled = spoiled_env.get_observations()
        rows |= {f"{c.name}\n{config.corrupt.name}": _painted(spoiled[c.name].numpy(), c) for c in cameras}
        spoiled_env.close()
    try:
        rows |= _beside_mujoco(clean_env, config, cameras)
    except UserError as error:
        print(f"without MuJoCo's own pictures: {error}", file=sys.stderr)
    clean_env.close()
    grouped = {label: row for camera in cameras for label, row in rows.items() if _is_of(label, camera)}
    write_atomic(path, charts.sheet(grouped))
    return path


def _wander(config: LookConfig) -> TaskEnv:
    """Return an environment of `moments` episodes after some steps of random actions."""
    known = build_env(config, (), "test", num_envs=1)
    if not config.cameras:
        raise UserError("cameras must name at least one camera, or all, got none")
    names = tuple(known.camera_specs) if config.cameras == ("all",) else config.cameras
    check_groups(names, {}, known.camera_specs)
    known.close()
    env = build_env(config, names, "test", num_envs=config.moments)
    draws = Draws(config.seed, "test")
    for _ in range(STEPS):
        actions = 2 * draws.uniform("look", env.state.episode_id, env.state.step // 4, env.num_actions) - 1
        env.step(actions.float())
    return env


def _beside_mujoco(
    env: TaskEnv, config: LookConfig, cameras: Sequence[CameraSpec]
) -> dict[str, list[np.ndarray]]:
    """Return MuJoCo's pictures of the same moments and how far ours are from them; prints by how much."""
    reference = GlCfg(slices=SLICES).build(env.sim, cameras, config.threads)
    ours = config.renderer.build(env.sim, cameras, config.threads)
    rows = {}
    for camera in cameras:
        kind = np.float32 if camera.is_depth else camera.dtype
        drawn = [np.zeros((env.num_envs, *camera.shape), kind) for _ in range(2)]
        for renderer, image in zip((ours, reference), drawn, strict=True):
            renderer.render(env.sim, [camera], {camera.name: image})
        distance = np.abs(drawn[0].astype(np.float32) - drawn[1]).max(1)
        shown = encode(drawn[1], camera) if camera.is_depth else drawn[1]
        rows[f"{camera.name}\nmujoco"] = _painted(shown, camera)
        worst = WORST_M if camera.is_depth else WORST_LEVEL
        rows[f"{camera.name}\ndifference"] = [charts.error_map(one, worst) for one in distance]
        unit = "m" if camera.is_depth else "of 255"
        print(
            f"{camera.name}: median difference to mujoco {np.median(distance):.2g} {unit}, "
            f"{(distance > worst).mean():.2%} of pixels more than {worst:g} {unit}",
            file=sys.stderr,
        )
    reference.close()
    return rows


def _painted(images: np.ndarray, camera: CameraSpec) -> list[np.ndarray]:
    return [charts.painted(image, camera) for image in images]


def _is_of(label: str, camera: CameraSpec) -> bool:
    return label.split("\n")[0] == camera.name
