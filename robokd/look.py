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
from robokd.vision.gl import Gl, GlCfg
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
    names = _names(config)
    env = _wander(dataclasses.replace(config, corrupt=Corruption()), names)
    cameras = [env.camera_specs[name] for name in names]
    clean, spoiled = env.get_observations(), None
    if not config.corrupt.is_clean:
        other = _wander(config, names)
        spoiled = other.get_observations()
        other.close()
    reference = _reference(env, config, cameras)
    rows: dict[str, list[np.ndarray]] = {}
    for camera in cameras:
        rows[camera.name] = _painted(clean[camera.name].numpy(), camera)
        if spoiled is not None:
            rows[f"{camera.name}\n{config.corrupt.name}"] = _painted(spoiled[camera.name].numpy(), camera)
        if reference is not None:
            beside = _beside(env, config, reference, camera)
            rows |= {f"{camera.name}\n{what}": pictures for what, pictures in beside.items()}
    if reference is not None:
        reference.close()
    env.close()
    write_atomic(path, charts.sheet(rows))
    return path


def _names(config: LookConfig) -> tuple[str, ...]:
    """Return the cameras to look through."""
    if not config.cameras:
        raise UserError("cameras must name at least one camera, or all, got none")
    known = build_env(config, (), "test", num_envs=1)
    known.close()
    if not known.camera_specs:
        raise UserError(f"task={config.task.name} has no camera to look through")
    if config.cameras == ("all",):
        return tuple(known.camera_specs)
    check_groups(config.cameras, {}, known.camera_specs)
    return config.cameras


def _wander(config: LookConfig, names: tuple[str, ...]) -> TaskEnv:
    """Return an environment of `moments` episodes after some steps of random actions."""
    env = build_env(config, names, "test", num_envs=config.moments)
    draws = Draws(config.seed, "test")
    for _ in range(STEPS):
        actions = 2 * draws.uniform("look", env.state.episode_id, env.state.step // 4, env.num_actions) - 1
        env.step(actions.float())
    return env


def _reference(env: TaskEnv, config: LookConfig, cameras: Sequence[CameraSpec]) -> Gl | None:
    """Return MuJoCo's own renderer; None, and why, where it does not run."""
    try:
        return GlCfg(slices=SLICES).build(env.sim, cameras, config.threads)
    except UserError as error:
        print(f"without MuJoCo's own pictures: {error}", file=sys.stderr)
        return None


def _beside(
    env: TaskEnv, config: LookConfig, reference: Gl, camera: CameraSpec
) -> dict[str, list[np.ndarray]]:
    """Return MuJoCo's pictures of the same moments and how far ours are from them; prints by how much."""
    kind = np.float32 if camera.is_depth else camera.dtype
    drawn = [np.zeros((env.num_envs, *camera.shape), kind) for _ in range(2)]
    ours = config.renderer.build(env.sim, [camera], config.threads)
    for renderer, image in zip((ours, reference), drawn, strict=True):
        renderer.render(env.sim, [camera], {camera.name: image})
    distance = np.abs(drawn[0].astype(np.float32) - drawn[1]).max(1)
    worst, unit = (WORST_M, "m") if camera.is_depth else (WORST_LEVEL, "of 255")
    print(
        f"{camera.name}: median difference to mujoco {np.median(distance):.2g} {unit}, "
        f"{(distance > worst).mean():.2%} of pixels more than {worst:g} {unit}",
        file=sys.stderr,
    )
    shown = encode(drawn[1], camera) if camera.is_depth else drawn[1]
    return {
        "mujoco": _painted(shown, camera),
        "difference": [charts.error_map(one, worst) for one in distance],
    }


def _painted(images: np.ndarray, camera: CameraSpec) -> list[np.ndarray]:
    return [charts.painted(image, camera) for image in images]
