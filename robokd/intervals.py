"""Success rates with their uncertainty. Shapes: E episodes, the same ones where two policies are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_Z95 = 1.959963984540054  # of the normal distribution
_RESAMPLES = 4000
# two-sided 95 % of Student's t by the number of values
_T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def wilson(success: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Return the rate of (E,) outcomes with its 95 % interval; no outcome, no rate. Source: Wilson (1927)."""
    count = len(success)
    if count == 0:
        return {"rate": None, "lo": 0.0, "hi": 1.0, "method": "wilson95", "episodes": 0}
    rate = float(np.mean(np.asarray(success, np.float64)))
    centre = (rate + _Z95**2 / (2 * count)) / (1 + _Z95**2 / count)
    half = _Z95 / (1 + _Z95**2 / count) * math.sqrt(rate * (1 - rate) / count + _Z95**2 / (4 * count**2))
    # at 0 and 1 rounding must not put the rate outside its interval
    low, high = min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))
    return {"rate": rate, "lo": low, "hi": high, "method": "wilson95", "episodes": count}


def paired(success: Sequence[float] | np.ndarray, baseline: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the mean difference on the same (E,) episodes with its 95 % interval.

    Source: Efron (1979), the percentile bootstrap over episodes; its resamples are fixed.
    """
    difference = np.asarray(success, np.float64) - np.asarray(baseline, np.float64)
    rows = np.random.default_rng(0).integers(0, len(difference), (_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[rows].mean(1), (0.025, 0.975))
    return {"delta": float(difference.mean()), "lo": float(low), "hi": float(high)}


def student_t(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of 2 to 10 values, say of seeds, and its 95 % interval. Source: Student (1908)."""
    count = len(values)
    if count not in _T95:
        raise ValueError(f"an interval of a mean wants 2 to {max(_T95)} values, got {count}")
    mean = float(np.mean(values))
    half = _T95[count] * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - half, mean + half
