"""Play: what a run's policy does and sees, as a video of depth colour maps; no GL, no window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from robokd import UserError, charts
from robokd.evaluate import load_policy, policy_groups
from robokd.files import writable, write_atomic
from robokd.learn.stage import begin, build_env
from robokd.run import Run
from robokd.specs import CameraSpec

if TYPE_CHECKING:
    from robokd.config import PlayConfig

OUTSIDE = "outside"  # the camera for people
SCALE = 2  # screen pixels a camera pixel
GAP = 4  # screen pixels between pictures
FRAMES_AFTER = 8  # still frames at an episode's end


@dataclass
class Film:
    """Frames (T, H, W, 3) uint8 of a run's episodes and whether each succeeded."""

    frames: list[np.ndarray]
    success: list[bool]
    rate_hz: float


def play(config: PlayConfig, resume: Run | None = None) -> Path:
    """Write the video of a run's first test episodes and return its path."""
    begin(config.seed, config.threads)
    run = Run.open(config.run)
    path = writable(config.video or run.path / "play.mp4")
    film = record(config, run, config.episodes)
    write_atomic(path, encode(film))
    marks = "".join("+" if won else "-" for won in film.success)
    print(f"episodes {marks} ({sum(film.success)} of {len(film.success)} succeeded)")
    return path


def record(config: PlayConfig, run: Run, episodes: int) -> Film:
    """Return the film of episodes 0 .. episodes-1 of the test stream, one world, one after the other."""
    groups = policy_groups(run)
    known = build_env(config, (), "test", num_envs=1)
    known.close()
    outside = [OUTSIDE] if OUTSIDE in known.camera_specs else []
    shown = dict.fromkeys((*outside, *groups, *config.cameras))
    env = build_env(config, tuple(shown), "test", num_envs=1)
    policy = load_policy(run, config.checkpoint, env)
    cameras = [env.camera_specs[name] for name in shown if name in env.camera_specs]
    if not cameras:
        raise UserError(f"task={config.task.name} has no camera to film with")
    film = Film(frames=[], success=[], rate_hz=1 / env.action_spec.control_dt)
    for episode in range(episodes):
        obs, extras = env.reset(torch.tensor([episode])), {}
        policy.reset(torch.ones(1, dtype=torch.bool))
        for _ in range(env.max_episode_length):
            film.frames.append(_frame([obs[camera.name][0].numpy() for camera in cameras], cameras))
            obs, _, done, extras = env.step(policy.act(obs))
            if done[0]:
                break
        film.frames += film.frames[-1:] * FRAMES_AFTER
        film.success.append(bool(extras["success"][0]))
    env.close()
    return film


def encode(film: Film) -> bytes:
    """Return the film as an MP4 (H.264, any browser plays it)."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(f"videos need imageio-ffmpeg ({error}): pip install 'robokd[train]'") from None
    import tempfile

    height, width = film.frames[0].shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(path), (width, height), codec="libx264", quality=7, macro_block_size=2,
            fps=film.rate_hz,  # pyright: ignore[reportArgumentType]  (a fraction is taken as well)
        )  # fmt: skip
        writer.send(None)
        for frame in film.frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return path.read_bytes()


def _frame(pictures: Sequence[np.ndarray], cameras: Sequence[CameraSpec]) -> np.ndarray:
    height = max(camera.height for camera in cameras) * SCALE
    columns = list(_columns(pictures, cameras, height))
    width = sum(column.shape[1] for column in columns)
    frame = np.zeros((height + height % 2, width + width % 2, 3), np.uint8)
    frame[:height, :width] = np.concatenate(columns, 1)
    return frame


def _columns(
    pictures: Sequence[np.ndarray], cameras: Sequence[CameraSpec], height: int
) -> Iterator[np.ndarray]:
    for picture, camera in zip(pictures, cameras, strict=True):
        times = max(1, height // camera.height)
        enlarged = charts.painted(picture, camera).repeat(times, 0).repeat(times, 1)
        column = np.zeros((height, enlarged.shape[1] + GAP, 3), np.uint8)
        column[: enlarged.shape[0], : enlarged.shape[1]] = enlarged
        yield column
