"""Replay: feed a log to its bundle again and prove that the policy says the same, bit for bit."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from robokd.sim2real.log_format import ActionHash
from robokd.sim2real.log_reader import Recording, find_log, read_log
from robokd.sim2real.playback import check_fits
from robokd.sim2real.policy import Decision, Policy
from robokd.sim2real.stage import create_run

from robokd import UserError
from robokd.export.bundle import Bundle, read_bundle
from robokd.files import sha256_of
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import GapConfig, ReplayConfig


def replay(config: ReplayConfig, resume: Run | None = None) -> Path:
    """Return the path of the summary; a difference is a UserError, raised after the summary is written."""
    recording = read_log(find_log(config.log))
    bundle = open_bundle(config, recording)
    if not recording.ticks:
        raise UserError(f"{recording.path} holds no ticks: there is nothing to replay")
    if not recording.is_whole:
        print(f"warning: {recording.path} was cut; it is replayed up to there", file=sys.stderr)
    for tick in recording.ticks:
        check_fits(tick, bundle, recording.path)
    first, digest = compare(recording, Policy(bundle))
    run = resume or create_run(config, "replay", bundle, log=recording.path)
    summary = run.write_summary({
        "ticks": len(recording.ticks), "equal": first is None, "hash_logged": recording.actions_sha256,
        "hash_replayed": digest, "first_difference": first, "log_is_whole": recording.is_whole,
        "onnxruntime": {"logged": recording.about.get("onnxruntime"), "here": onnxruntime.__version__},
        "bundle": str(bundle.path), "bundle_sha256": bundle.sha256,
    })  # fmt: skip
    if first is not None:
        size = "a value that is no number" if first["by"] is None else f"{first['by']:.3g}"
        raise UserError(
            f"{recording.path} does not replay: {first['output']} of tick {first['tick']} differs by {size}; "
            f"logged with onnxruntime {recording.about.get('onnxruntime')}, here {onnxruntime.__version__}. "
            f"See {summary}"
        )
    return summary


def open_bundle(config: ReplayConfig | GapConfig, recording: Recording) -> Bundle:
    """Return the bundle that the log was made with, or refuse the one that is named instead."""
    wanted = recording.about.get("bundle_sha256")
    bundle = read_bundle(config.bundle or _named_bundle(recording))
    if bundle.sha256 != wanted:
        raise UserError(
            f"{recording.path} was made with a bundle of sha256 {wanted or 'nothing'}; "
            f"{bundle.path} has {bundle.sha256}"
        )
    return bundle


def _named_bundle(recording: Recording) -> Path:
    """Return where the bundle is, by the run that the log lies in.

    What a run says is seen from the folder that it was begun in: an outer one of the run's, as a rule.
    """
    folder = recording.path.parent
    if not (folder / "lineage.json").is_file():
        raise UserError(f"{recording.path} lies in no run that would name its bundle; say it with bundle=…")
    parents = Run.open(folder).lineage["parents"]
    sha256 = recording.about.get("bundle_sha256")
    paths = [Path(parent["path"]) for parent in parents if parent["sha256"] == sha256]
    if not paths:
        raise UserError(f"{folder / 'lineage.json'} does not name the log's bundle; say it with bundle=…")
    near = [paths[0], *(outer / paths[0] for outer in folder.resolve().parents)]
    if not (there := [path for path in near if path.is_file()]):
        what = f"{recording.path} was made with a bundle that is not at {paths[0]}"
        raise UserError(f"{what} (seen from here, and from where the run lies); say where it is: bundle=…")
    return next((path for path in there if sha256_of(path) == sha256), there[0])


def compare(recording: Recording, policy: Policy) -> tuple[dict[str, Any] | None, str]:
    """Return the first difference, None where there is none, and the hash of the policy's actions now."""
    begins = {episode.tick for episode in recording.episodes}
    first, digest = None, ActionHash()
    for index, tick in enumerate(recording.ticks):
        if index in begins:
            policy.begin()
        decision = policy.act(tick.channels, tick.anchor, tick.rate, time.monotonic)
        digest.add(decision.command, decision.action)
        if first is None and (found := difference(tick.decision, decision)) is not None:
            first = {"tick": tick.number, "episode": tick.episode, **found}
    return first, digest.hex()


def difference(logged: Decision, now: Decision) -> dict[str, Any] | None:
    """Return {output, by} of the first output that is not the same bit for bit; `by` None where it is NaN."""
    ours, theirs = ({"command": one.command, "action": one.action, **one.estimates} for one in (now, logged))
    for name in sorted(set(ours) | set(theirs), key=[*ours, *theirs].index):
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            return {"output": name, "by": None}
        if one.tobytes() != other.tobytes():
            by = float(np.max(np.abs(one.astype(np.float64) - other.astype(np.float64))))
            return {"output": name, "by": by if np.isfinite(by) else None}
    return None
