"""What a robot did while it was commanded: samples of its joints, and the targets as they were sent.

Shapes: S samples, K commands, A joints; rad, rad/s, s on one clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

GRID_S = 1e-3  # of the signals that are correlated
LONGEST_S = 0.3  # the largest delay that is looked for


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One motion. It begins at rest; `held` is the target before the first command."""

    name: str
    is_held_out: bool
    times_s: np.ndarray  # (S,) when the joints were measured, rising
    position: np.ndarray  # (S, A)
    velocity: np.ndarray  # (S, A)
    sent_s: np.ndarray  # (K,) rising
    sent: np.ndarray  # (K, A)
    held: np.ndarray  # (A,)

    def __post_init__(self) -> None:
        for name in ("times_s", "position", "velocity", "sent_s", "sent", "held"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"motion {self.name}: {name} is not finite")
        for name in ("times_s", "sent_s"):
            times = getattr(self, name)
            if len(times) < 2 or (np.diff(times) <= 0).any():
                raise ValueError(f"motion {self.name}: {name} must be two or more rising times")

    def resting(self) -> np.ndarray:
        """Return (S,) bool: samples before the first command."""
        return self.times_s < self.sent_s[0]

    def start(self) -> np.ndarray:
        """Return where it begins (A,): the mean of what was measured at rest, or what was measured first."""
        at_rest = self.resting()
        return self.position[at_rest].mean(0) if at_rest.any() else self.position[0]

    def command(self, begins_s: float, dt: float, count: int) -> np.ndarray:
        """Return the targets (count, A) averaged over steps of dt, the first beginning at that time.

        A drive that takes a command between two steps feels it for a part of the first one.
        """
        edges = begins_s + dt * np.arange(count + 1)
        marks = np.concatenate([[min(edges[0], self.sent_s[0]) - dt], self.sent_s, [self.sent_s[-1] + dt]])
        held = np.concatenate([self.held[None], self.sent, self.sent[-1:]]).astype(np.float64)
        area = np.cumsum(held[:-1] * np.diff(marks)[:, None], 0)
        area = np.concatenate([np.zeros((1, held.shape[1])), area])
        slot = np.clip(np.searchsorted(marks, edges, side="right") - 1, 0, len(marks) - 1)
        integral = area[slot] + held[slot] * (edges - marks[slot])[:, None]
        return np.diff(integral, axis=0) / dt


def delay_s(
    cause: Sequence[tuple[np.ndarray, np.ndarray]], effect: Sequence[tuple[np.ndarray, np.ndarray]]
) -> float:
    """Return by how much the effects follow the causes, by cross-correlation, finer than a sample.

    Each signal is (times (S,), values (S, A)); pairs are of one motion. The correlation is normalised on the
    part that stays inside at every delay, pooled over motions and joints; its peak is found by a parabola.
    Raises ValueError where nothing moves or nothing follows.
    """
    shifts = np.arange(round(LONGEST_S / GRID_S) + 1)
    product, power = np.zeros(len(shifts)), np.zeros((2, len(shifts)))
    for (cause_s, causes), (effect_s, effects) in zip(cause, effect, strict=True):
        begin, end = max(cause_s[0], effect_s[0]), min(cause_s[-1], effect_s[-1])
        grid = np.arange(begin, end, GRID_S)
        if len(grid) <= 2 * len(shifts):
            raise ValueError(f"a motion of {end - begin:.2f} s is too short to find a delay in")
        left, right = (_resampled(grid, *signal) for signal in ((cause_s, causes), (effect_s, effects)))
        left = left[: -len(shifts)] - left[: -len(shifts)].mean(0)
        for place, shift in enumerate(shifts):
            moved = right[shift : shift + len(left)]
            moved = moved - moved.mean(0)
            product[place] += (left * moved).sum()
            power[:, place] += (left**2).sum(), (moved**2).sum()
    if not (power > 0).all():
        raise ValueError("nothing moves: there is no delay to find")
    alike = product / np.sqrt(power[0] * power[1])
    best = int(np.argmax(alike))
    if alike[best] < 0.5:
        raise ValueError(f"the motion does not follow the commands: correlation {alike[best]:.2f} at best")
    if best == len(shifts) - 1:
        raise ValueError(f"the motion follows by more than {LONGEST_S} s, which is more than can be fitted")
    return GRID_S * (best + (_vertex(alike[best - 1 : best + 2]) if best else 0.0))


def _resampled(grid: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(grid, times, column) for column in values.T], 1)


def _vertex(three: np.ndarray) -> float:
    """Return where, from the middle one, a parabola through three values has its vertex."""
    curvature = three[0] - 2 * three[1] + three[2]
    return float((three[0] - three[2]) / (2 * curvature)) if curvature else 0.0


def root_mean_square(values: np.ndarray) -> np.ndarray:
    """Return the root mean square over samples (S, A), (A,)."""
    return np.sqrt((values**2).mean(0))
