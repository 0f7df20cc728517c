"""What a field of a stage's settings can say of itself, and what no setting may be."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any


def part(kind: str, *, inherit: bool = False, fixed: bool = False) -> dict[str, object]:
    """Return the metadata of a field that holds a part (of registry.LISTS kinds: parts by name).

    Args:
        kind: of the registry.
        inherit: taken from the run that the stage works on.
        fixed: the inherited part's name cannot be changed, its values can.
    """
    return {"kind": kind, "inherit": inherit, "fixed": fixed}


def required(
    meaning: str, *, run_of: Sequence[str] = (), why: str = "", unless: str = ""
) -> dict[str, object]:
    """Return the metadata of a field without default; `meaning` says what it is and how to get one.

    Args:
        meaning: completes "<stage> needs <key>=…: ".
        run_of: the value is a run of one of these stages, and what is inherited comes from it.
        why: the reason, where a run of another stage will not do.
        unless: the key of a part that makes it superfluous, if another one than the default is chosen.
    """
    return {"required": meaning, "run_of": tuple(run_of), "why": why, "unless": unless}


def check(config: Any, prefix: str = "") -> None:  # noqa: ANN401  (any of the schemas)
    """Raise ValueError for a value that no stage can work with, naming the key."""
    lowest = {
        "seed": 0,
        "threads": 0,
        "duration_s": 0,
        "weight_decay": 0,
        "sequence": 0,
        "critic_warmup": 0,
        "domain": 0,
        "period_p99_s": 0,
        "inference_p99_s": 0,
    }
    for key, value in vars(config).items():
        if type(value) in (int, float) and not value >= (
            low := lowest.get(key, 1 if type(value) is int else 0)
        ):
            raise ValueError(f"{prefix}{key} must be >= {low}, got {value}")
        if type(value) is float and value == math.inf:
            raise ValueError(f"{prefix}{key} must be finite, got {value}")
        if key == "device" and not re.fullmatch(r"cpu|cuda(:\d+)?", str(value)):
            raise ValueError(f"device must be cpu, cuda or cuda:<number>, got {value!r}")
        if key == "checkpoint" and value not in ("best", "last"):
            raise ValueError(f"checkpoint must be best or last, got {value!r}")
