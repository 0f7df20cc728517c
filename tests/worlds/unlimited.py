"""Actions of worlds without motors."""

from __future__ import annotations

from robokd.specs import ActionSpec


def unlimited(names: tuple[str, ...], control_dt: float) -> ActionSpec:
    """Return actions whose limits are never met, for a task whose `control` reads the action itself."""
    ones, wide = (1.0,) * len(names), (1e6,) * len(names)
    return ActionSpec(
        names=names, scale=ones, control_dt=control_dt, position_lower=(-1e6,) * len(names),
        position_upper=wide, velocity=wide, acceleration=wide,
    )  # fmt: skip
