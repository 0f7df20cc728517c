"""When the frame that a policy sees was captured: frame rate, latency, lost frames, freezes.

An episode begins with a camera that runs: the picture of step 0 is seen at once. Then frame k > 0 is due at
(k - 1 + phase) / rate, is captured at the first control step from then on, and is seen from the first step
that is not before capture + latency, unless a newer one is. A lost frame is never seen; but no more than
seven in a row are dropped, and freezes have an end, so only so many frames have to be looked back at.
Shapes: N environments, K frames looked back at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robokd.draws import Draws
from robokd.specs import CameraSpec
from robokd.vision.sensor import Corruption

_ALWAYS = 8  # of so many frames in a row, one is not dropped
_NEVER = 1 << 60  # step at which a lost frame arrives
_TINY = 1e-9  # control periods: what rounding may cost


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A camera's clock. Specs of one camera of the scene (its depth, its colour) share it.

    All is a pure function of (seed, stream, episode, step).
    """

    corruption: Corruption
    camera: CameraSpec
    control_dt: float  # s

    def __post_init__(self) -> None:
        if self.control_dt <= 0:
            raise ValueError(f"control_dt must be > 0 s, got {self.control_dt}")

    @property
    def period(self) -> float:
        """Control steps from frame to frame, at least 1."""
        rate = self.corruption.rate_hz
        return max(1.0, 1 / (rate * self.control_dt)) if rate else 1.0

    @property
    def longest_latency(self) -> int:
        """Control steps from capture to being seen, at most."""
        return math.ceil((self.corruption.latency_s[1] + self.corruption.jitter_s) / self.control_dt)

    @property
    def longest_age_s(self) -> float:
        """How old the frame that is seen may be, at most: late, after dropped ones and a freeze."""
        corruption = self.corruption
        frames = _ALWAYS if corruption.drop_rate else 1
        if corruption.drop_rate and corruption.freezes_per_minute:
            frames *= 2  # a freeze may take the one that is not dropped
        freeze = corruption.freeze_s[1] if corruption.freezes_per_minute else 0.0
        return (self.longest_latency + math.ceil(frames * self.period)) * self.control_dt + freeze

    @property
    def places(self) -> int:
        """How many frames of an environment must be kept: the one seen and those on their way."""
        return 2 + math.ceil(self.longest_latency / self.period)

    def capture_step(self, draws: Draws, episode: Tensor, step: Tensor | int) -> Tensor:
        """Return (N,) int64: at which step of the episode the frame that is seen at `step` was captured.

        Never later than `step` (N,) int64 or one number, never earlier than at the step before. It looks at
        all frames that might be the one; `FrameStore` comes to the same step by step, for less.
        """
        now = _steps(step, episode)
        if not self.corruption.changes_timing:
            return now
        phase, latency = self._episode(draws, episode)
        back = torch.arange(self._look_back(), device=episode.device)
        frames = self._newest(now, phase)[:, None] - back
        captured = self._captured(frames, phase)
        arrives = self._arrives(draws, episode, frames, captured, latency)
        is_seen = (arrives <= now[:, None]) & (frames >= 1)
        return torch.where(is_seen, captured, 0).amax(1)

    def taken(self, draws: Draws, episode: Tensor, step: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return whether a picture that will arrive is captured at this very step, and when it arrives.

        (N,) bool and (N,) int64, the step from which on it is seen. Where none is, nothing needs to be
        rendered.
        """
        now = _steps(step, episode)
        if not self.corruption.changes_timing:
            return torch.ones_like(now, dtype=torch.bool), now
        phase, latency = self._episode(draws, episode)
        frames = self._newest(now, phase)[:, None]
        captured = self._captured(frames, phase)
        arrives = self._arrives(draws, episode, frames, captured, latency)[:, 0]
        is_taken = (captured[:, 0] == now) & (arrives != _NEVER)
        first = now == 0
        return is_taken | first, torch.where(first, now, arrives)

    @property
    def _name(self) -> str:
        return f"corrupt/{self.camera.scene_camera}"

    def _look_back(self) -> int:
        """How many frames back the one that is seen may be: `_lost` spares one in every window."""
        corruption = self.corruption
        lost = 2 * self._window_s / self.control_dt / self.period if corruption.freezes_per_minute else 0.0
        dropped = _ALWAYS if corruption.drop_rate else 0
        return 3 + dropped + math.ceil(lost) + math.ceil(self.longest_latency / self.period)

    @property
    def _window_s(self) -> float:
        """Length of the stretches of time that have one freeze or none, and no freeze at their end."""
        return 2 * self.corruption.freeze_s[1] + self._calm_s

    @property
    def _calm_s(self) -> float:
        return (_ALWAYS + 1) * self.period * self.control_dt

    def _episode(self, draws: Draws, episode: Tensor) -> tuple[Tensor, Tensor]:
        """Return phase (N,) in frames, and latency (N, 1) in s."""
        names = {f"{self._name}/phase": 1, f"{self._name}/latency": 1}
        drawn = draws.uniforms(names, episode, 0)
        low, high = self.corruption.latency_s
        # frames at the control rate are taken at control steps
        phase = drawn[:, 0] if self.period > 1 else torch.zeros_like(drawn[:, 0])
        return phase, low + (high - low) * drawn[:, 1:]

    def _newest(self, now: Tensor, phase: Tensor) -> Tensor:
        """Return (N,) the newest frame that is due."""
        return torch.floor(now / self.period - phase + _TINY).long() + 1

    def _captured(self, frames: Tensor, phase: Tensor) -> Tensor:
        """Return at which steps frames (N, K) are captured."""
        due = (frames - 1 + phase[:, None]) * self.period
        return torch.ceil(due - _TINY).clamp(min=0).long()

    def _arrives(
        self, draws: Draws, episode: Tensor, frames: Tensor, captured: Tensor, latency: Tensor
    ) -> Tensor:
        """Return from which steps on frames (N, K) are seen, _NEVER if they are lost."""
        if self.corruption.jitter_s:
            numbers, frame = _flat(episode, frames)
            jitter = draws.uniform(f"{self._name}/jitter", numbers, frame, 1).view(frames.shape)
            latency = latency + self.corruption.jitter_s * jitter
        late = torch.ceil(latency / self.control_dt - _TINY).long()
        return torch.where(self._lost(draws, episode, frames, captured), _NEVER, captured + late)

    def _lost(self, draws: Draws, episode: Tensor, frames: Tensor, captured: Tensor) -> Tensor:
        """Return (N, K) bool: frames that never arrive."""
        lost = torch.zeros_like(frames, dtype=torch.bool)
        if self.corruption.drop_rate:
            share = self.corruption.drop_rate * _ALWAYS / (_ALWAYS - 1)
            numbers, frame = _flat(episode, frames)
            dropped = draws.uniform(f"{self._name}/drop", numbers, frame, 1).view(frames.shape) < share
            lost |= dropped & (frames % _ALWAYS != 0)
        if self.corruption.freezes_per_minute:
            time_s = captured * self.control_dt
            window = torch.floor(time_s / self._window_s).long()
            numbers, index = _flat(episode, window)
            drawn = draws.uniform(f"{self._name}/freeze", numbers, index, 3).view(*frames.shape, 3)
            low, high = self.corruption.freeze_s
            length = low + (high - low) * drawn[..., 1]
            room = self._window_s - self._calm_s - length
            start = window * self._window_s + room * drawn[..., 2]
            is_frozen = drawn[..., 0] < self.corruption.freezes_per_minute * self._window_s / 60
            lost |= is_frozen & (time_s >= start) & (time_s < start + length)
        return lost


class FrameStore:
    """Frames on their way from the camera, of N environments; as many as can be under way and no more."""

    def __init__(self, timing: Timing, images: Tensor) -> None:
        """`images` (N, ...) is an example: its shape, type and device are those of the frames."""
        self._timing = timing
        # one place more than are under way: what is not kept goes there, so that nobody asks which those are
        shape = (images.shape[0], timing.places + 1)
        self._frames = images.new_zeros(*shape, *images.shape[1:])
        # when the frame of a place was captured, -1 where there is none, and when it arrives
        self._steps = torch.full(shape, -1, device=images.device)
        self._arrives = torch.full(shape, _NEVER, device=images.device)

    def show(
        self, images: Tensor, draws: Draws, episode: Tensor, step: Tensor | int
    ) -> tuple[Tensor, Tensor]:
        """Take what the cameras see at `step` and return (frames (N, ...), age_s (N,) float32), fresh memory.

        To be called at every step of an episode, `reset` before its first, whose picture is seen at once; a
        second call at one step gives the same. Images are looked at where `Timing.taken` is true.
        """
        now = _steps(step, episode)
        is_taken, arrives = self._timing.taken(draws, episode, now)
        known = self._state()
        is_empty = (known["steps"] < 0).all(1)
        arrives = torch.where(is_empty, now, arrives)
        is_new = (known["steps"] != now[:, None]).all(1)
        # the oldest is seen by nobody any more: only those on their way are younger than the one that is seen
        oldest = known["steps"].argmin(1)
        place = torch.where((is_taken | is_empty) & is_new, oldest, self._timing.places)
        rows = torch.arange(len(now), device=now.device)
        self._frames[rows, place] = images
        self._steps[rows, place] = now
        self._arrives[rows, place] = arrives
        captured, place = torch.where(known["arrives"] <= now[:, None], known["steps"], -1).max(1)
        frames = self._frames[rows, place]
        return frames, ((now - captured) * self._timing.control_dt).float()

    def reset(self, mask: Tensor | None = None) -> None:
        """Forget the frames of the environments in mask (N,) bool."""
        chosen = torch.ones_like(self._steps[:, 0], dtype=torch.bool) if mask is None else mask
        self._steps.masked_fill_(chosen[:, None], -1)
        self._arrives.masked_fill_(chosen[:, None], _NEVER)

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of all state."""
        return {name: mine.clone() for name, mine in self._state().items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Return to a snapshot."""
        for name, mine in self._state().items():
            if snapshot[name].shape != mine.shape:
                got, want = tuple(snapshot[name].shape), tuple(mine.shape)
                raise ValueError(f"snapshot has {name} of shape {got}, this store {want}")
            mine.copy_(snapshot[name])

    def _state(self) -> dict[str, Tensor]:
        """Return what is under way, without the place that nobody looks at."""
        whole = {"frames": self._frames, "steps": self._steps, "arrives": self._arrives}
        return {name: mine[:, :-1] for name, mine in whole.items()}


def _steps(step: Tensor | int, episode: Tensor) -> Tensor:
    return step if isinstance(step, Tensor) else torch.full_like(episode, step)


def _flat(episode: Tensor, counters: Tensor) -> tuple[Tensor, Tensor]:
    """Return episodes and counters (N, K) as two rows of N * K, as `Draws` wants them."""
    return episode[:, None].expand(counters.shape).reshape(-1), counters.reshape(-1)
