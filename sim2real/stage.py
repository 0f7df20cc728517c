"""What every stage on the robot's side begins with: a bundle that may run here, and its run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from robokd.config import dump
from robokd.export.bundle import Bundle, check_trust, read_bundle
from robokd.files import sha256_of
from robokd.run import Run


class StageConfig(Protocol):
    """What the config of every stage on the robot's side has; `seed` only where something is drawn."""

    runs: str


def open_to_run(path: str | Path, sha256: str = "", *, is_hardware: bool) -> Bundle:
    """Return the bundle at `path`, which is to run; see `read_bundle`.

    One that nobody vouches for: a warning on stderr where the robot is simulated, on hardware a UserError.
    """
    bundle = read_bundle(path, sha256)
    if warning := check_trust(bundle, is_hardware=is_hardware):
        print(f"warning: {warning}", file=sys.stderr)
    return bundle


def create_run(config: StageConfig, stage: str, bundle: Bundle, *, log: Path | None = None) -> Run:
    """Return a fresh run folder of this stage; made from the bundle, and from a log if there is one."""
    parents = [{"path": str(bundle.path), "sha256": bundle.sha256}]
    if log is not None:
        parents.insert(0, {"path": str(log), "sha256": sha256_of(log)})
    return Run.create(
        config.runs, task=bundle.manifest["task"], stage=stage, config=dump(config),
        seed=getattr(config, "seed", 0), parents=parents,
    )  # fmt: skip
