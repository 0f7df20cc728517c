"""A finding: what a check measured, how bad that is, and what to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

OK, WARN, FAIL = "ok", "warn", "FAIL"  # FAIL: the stage would end in an error, or cannot succeed


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    level: str  # OK, WARN or FAIL
    measured: str
    value: float | None = None  # the number that decided, where there is one
    limit: float | None = None  # that it was held to
    cure: str = ""

    def line(self) -> str:
        """Return the finding as a line."""
        cure = f"; cure: {self.cure}" if self.cure and self.level != OK else ""
        return f"{self.level:<4}  {self.check}: {' '.join(self.measured.split())}{cure}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding for JSON, which has no infinity and no NaN."""
        found = asdict(self)
        for name in ("value", "limit"):
            if found[name] is not None and not math.isfinite(found[name]):
                found[name] = None
        return found


def above(value: float, warn: float, fail: float = math.inf) -> tuple[str, float]:
    """Return the level of a value that should be low, and the limit that it is held to."""
    return (FAIL, fail) if value > fail else (WARN if value > warn else OK, warn)


def summary(findings: list[Finding]) -> str:
    """Return how many findings there are of each level."""
    count = {level: sum(one.level == level for one in findings) for level in (OK, WARN, FAIL)}
    verdict = "nothing stands in the way"
    if count[FAIL] or count[WARN]:
        verdict = "it would fail" if count[FAIL] else "it would run; heed the warnings first"
    warned = f"{count[WARN]} warning{'s' * (count[WARN] != 1)}"
    return f"doctor: {count[FAIL]} FAIL, {warned}, {count[OK]} ok: {verdict}"


def failures(findings: list[Finding], most: int = 2) -> str:
    """Return the first failures in one line; empty if there is none."""
    failed = [one for one in findings if one.level == FAIL]
    shown = "; ".join(f"{one.check}: {one.measured}" for one in failed[:most])
    more = f"; and {len(failed) - most} more" if len(failed) > most else ""
    return f"{shown}{more}"


def listed(names: list[str], most: int = 4) -> str:
    """Return names in a row, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
