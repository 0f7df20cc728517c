"""What robokd.draws computes, compiled by numba for the CPU: one call in the place of fifty of torch's.

Shapes: N episodes, K names, D numbers.
"""

from __future__ import annotations

import numba
import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _11 = (np.uint64(places) for places in (30, 27, 31, 11))


@numba.njit(cache=True)
def _mix(bits: np.uint64) -> np.uint64:
    bits = (bits ^ (bits >> _30)) * _A
    bits = (bits ^ (bits >> _27)) * _B
    return bits ^ (bits >> _31)


@numba.njit(cache=True, nogil=True)
def fill(
    out: np.ndarray, episode: np.ndarray, step: np.ndarray, keys: np.ndarray, owner: np.ndarray,
    index: np.ndarray,
) -> None:  # fmt: skip
    """Write uniform numbers (N, D) on [0, 1) for episodes and steps (N,); see Draws._columns_of for the rest.

    All but `out` are int64; what they hold is taken as it stands, without a sign.
    """
    for row in range(len(episode)):
        begun = np.uint64(episode[row]) * _GOLDEN
        at = np.uint64(step[row if len(step) > 1 else 0]) * _GOLDEN
        state, known = np.uint64(0), -1
        for column in range(len(owner)):
            if owner[column] != known:
                known = owner[column]
                state = _mix(_mix(begun + np.uint64(keys[known])) + at)
            out[row, column] = np.float64(_mix(state + np.uint64(index[column])) >> _11) * 2.0**-53
