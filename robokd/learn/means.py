"""Running means of named numbers, on the device until they are asked for."""

from __future__ import annotations

from torch import Tensor

from robokd.learn import ranks


class Means:
    """Sums by name, and how many went into each."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, **values: Tensor) -> None:
        """Take in one scalar tensor of each name."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value.detach(), count + 1)

    def values(self) -> dict[str, float]:
        """Return the means, of several processes their sum; the only wait for the device."""
        found = ranks.summed({name: total for name, (total, _) in self._sums.items()})
        return {name: found[name] / count for name, (_, count) in self._sums.items()}
