"""A run folder: configuration, lineage, metrics, checkpoints, summary; written so that a kill loses nothing.

Folder `runs/<time>_<task>_<stage>_<id>/`: config.yaml, lineage.json, metrics.jsonl, TensorBoard events,
checkpoints/ and at the end summary.json. Reading a run runs no code: YAML's safe loader, JSON, and torch with
weights_only. Torch is imported by the checkpoint functions only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from robokd import UserError
from robokd.events import Events
from robokd.files import read_bytes, read_json, sha256_of, sync_folder, to_json, write_atomic
from robokd.memory import peak_rss_mb, peak_vram_mb

POINTERS = ("last", "best")
COUNTERS = ("env_steps", "frames_rendered", "teacher_labels", "grad_samples")
PACKAGES = (
    "robokd", "numpy", "torch", "rsl-rl-lib", "tensordict", "mujoco", "mujoco-warp", "warp-lang", "numba",
    "gymnasium", "stable-baselines3", "isaaclab", "mjlab", "onnx", "onnxruntime",
)  # fmt: skip
created: list[Path] = []  # the runs this process has worked on, oldest first: what Ctrl-C says can be resumed


class Run:
    """One stage's work on disk. `Run.create` starts one, `Run.open` reads one back."""

    def __init__(self, path: Path, lineage: dict[str, Any], config: dict[str, Any]) -> None:
        self.path, self.lineage, self.config = path, lineage, config
        self.stage: str = lineage["stage"]
        self.task: str = lineage["task"]
        self.seed: int = lineage["seed"]
        self._started = time.monotonic()
        self._wall_before = 0.0  # s, of this run's earlier processes
        self._purge_step: int | None = None
        self._events: Events | None = None

    @classmethod
    def create(
        cls,
        root: str | Path,
        *,
        task: str,
        stage: str,
        config: Mapping[str, Any],
        parents: Sequence[Mapping[str, str]] = (),
        seed: int,
    ) -> Run:
        """Make a new folder under `root` and write its configuration and lineage.

        Each parent is {path, sha256} of what the run is made from: a run's `reference`, or of a file.
        """
        moment = datetime.now(UTC)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode()
        lineage = {
            "stage": stage,
            "task": task,
            "seed": seed,
            "created": moment.isoformat(timespec="seconds"),
            "parents": [dict(parent) for parent in parents],
            "config_sha256": hashlib.sha256(text).hexdigest(),
            "git": _git(),
            "versions": _versions(),
        }
        path = _new_folder(Path(root), f"{moment:%Y%m%d-%H%M%S}_{task}_{stage}")
        (path / "checkpoints").mkdir()
        write_atomic(path / "config.yaml", text)
        write_atomic(path / "lineage.json", to_json(lineage))  # last: it makes the folder a run
        created.append(path)
        return cls(path, lineage, yaml.safe_load(text))

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Return the run at `path`; UserError where there is none, or where its files were cut or altered."""
        path = Path(path)
        if not (path / "lineage.json").is_file():
            what = "not a run (it has no lineage.json)" if path.exists() else "no such folder"
            raise UserError(f"{path}: {what}. {_runs_near(path)}")
        lineage = read_json(path / "lineage.json")
        wanted = {"stage", "task", "seed", "parents", "config_sha256", "git"}
        if missing := sorted(wanted - set(lineage)):
            raise UserError(f"{path / 'lineage.json'} has no {missing[0]!r}: it was altered")
        text = read_bytes(path / "config.yaml")
        if (digest := hashlib.sha256(text).hexdigest()) != lineage["config_sha256"]:
            raise UserError(
                f"{path / 'config.yaml'} was cut or altered: sha256 {digest[:12]}…, "
                f"lineage.json says {lineage['config_sha256'][:12]}…"
            )
        return cls(path, lineage, yaml.safe_load(text))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl and TensorBoard; what is not finite is null in the line.

        Columns that may differ between two equal runs are named "time/…" and "memory/…".
        """
        plain = {name: float(value) for name, value in values.items()}
        line = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        with (self.path / "metrics.jsonl").open("ab") as file:
            file.write(json.dumps({"step": step, **line}).encode() + b"\n")
        if self._events is None:
            self._events = Events(self.path.absolute(), self._purge_step)
        self._events.scalars(step, plain)

    def metrics(self) -> list[dict[str, float | None]]:
        """Return the lines of metrics.jsonl that are whole."""
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    def save_checkpoint(self, step: int, state: Mapping[str, Any], best: bool = False) -> None:
        """Write `state` as the last checkpoint (and the best one); a kill at any moment leaves a whole one.

        `state` holds tensors and plain python only, or the checkpoint could not be read without running code.
        """
        import torch

        _check_plain(state, "state")
        folder = self.path / "checkpoints"
        final = folder / f"step_{step:08d}.pt"
        temporary = folder / f".{final.name}.tmp"
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        pointer = {
            "file": final.name,
            "step": step,
            "sha256": sha256_of(temporary),
            "bytes": temporary.stat().st_size,
            "metrics_bytes": self._metrics_bytes(),
            "wall_s": self.wall_s,
        }
        os.replace(temporary, final)
        sync_folder(folder)
        # best before last: a resumed run starts from last and writes this best again, never an older one
        for which in ("best", "last") if best else ("last",):
            write_atomic(folder / f"{which}.json", to_json(pointer))
        named = {self._pointer(which)["file"] for which in POINTERS if self.has_checkpoint(which)}
        for old in [*folder.glob("step_*.pt"), *folder.glob(".*.tmp")]:
            if old.name not in named:
                old.unlink()

    def load_checkpoint(self, which: str = "last") -> dict[str, Any]:
        """Return the state of checkpoint "last" or "best", on the CPU, after checking its size and hash."""
        import torch

        pointer = self._pointer(which)
        file = self.path / "checkpoints" / pointer["file"]
        if not file.is_file():
            raise UserError(f"{file} is absent; {which}.json names it")
        if (size := file.stat().st_size) != pointer["bytes"]:
            raise UserError(f"{file} is truncated or altered: {size} bytes, wanted {pointer['bytes']}")
        if (digest := sha256_of(file)) != pointer["sha256"]:
            raise UserError(f"{file} was altered: sha256 {digest[:12]}…, wanted {pointer['sha256'][:12]}…")
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise UserError(f"{file} holds more than tensors and plain python; it was not loaded") from None

    def has_checkpoint(self, which: str = "last") -> bool:
        """Whether there is a checkpoint "last" or "best"."""
        return (self.path / "checkpoints" / f"{which}.json").is_file()

    def checkpoint_step(self, which: str = "last") -> int:
        """Return the step of a checkpoint."""
        return int(self._pointer(which)["step"])

    def sha256(self, which: str = "best") -> str:
        """Return the hash of the artefact: checkpoint `which`, or last where no best one was kept."""
        if which == "best" and not self.has_checkpoint("best"):
            which = "last"
        return str(self._pointer(which)["sha256"])

    def rewind(self) -> None:
        """Cut what was logged after the last checkpoint (all, if there is none) and take its wall time over.

        A stage that resumes calls this before it logs. UserError where a parent is not what it was.
        """
        self._check_parents()
        pointer = self._pointer("last") if self.has_checkpoint("last") else None
        keep = pointer["metrics_bytes"] if pointer else 0
        file = self.path / "metrics.jsonl"
        if self._metrics_bytes() < keep:
            raise UserError(
                f"{file} is truncated: {self._metrics_bytes()} bytes, the checkpoint needs {keep}"
            )
        if file.exists():
            os.truncate(file, keep)
        self._wall_before = float(pointer["wall_s"]) if pointer else 0.0
        self._purge_step = int(pointer["step"]) + 1 if pointer else 0

    def reference(self, which: str = "best") -> dict[str, str]:
        """Return {path, sha256} of the artefact as a child's lineage records it."""
        return {"path": str(self.path), "sha256": self.sha256(which)}

    @property
    def wall_s(self) -> float:
        """Seconds this run has worked, over all its processes."""
        return self._wall_before + time.monotonic() - self._started

    @property
    def is_finished(self) -> bool:
        """Whether the stage has written its summary."""
        return self.summary_path.is_file()

    @property
    def summary_path(self) -> Path:
        """Where the summary stands, or will."""
        return self.path / "summary.json"

    def write_summary(self, values: Mapping[str, Any]) -> Path:
        """Write summary.json: the fields every stage has, then `values`; return its path."""
        sim = self.config.get("sim")
        common = {
            "stage": self.stage,
            "task": self.task,
            "sim": sim.get("part") if isinstance(sim, dict) else sim,
            "seed": self.seed,
            "device": self.config.get("device", "cpu"),
            "wall_s": self.wall_s,
            **dict.fromkeys(COUNTERS, 0),
            "peak_rss_mb": peak_rss_mb(),
            "peak_vram_mb": peak_vram_mb(),
            "git": self.lineage["git"],
            "config_sha256": self.lineage["config_sha256"],
            "parents": self.lineage["parents"],
        }
        if self._events is not None:
            self._events.close()
            self._events = None
        write_atomic(self.summary_path, to_json({**common, **values}))
        return self.summary_path

    def read_summary(self) -> dict[str, Any]:
        """Return summary.json; UserError where the run has not finished."""
        if not self.is_finished:
            raise UserError(f"{self.path} has not finished; go on with: robokd resume run={self.path}")
        return read_json(self.summary_path)

    def _check_parents(self) -> None:
        """Refuse to go on from parents that have changed: the end would be another than uninterrupted."""
        which = str(self.config.get("checkpoint", "best"))
        for parent in self.lineage["parents"]:
            path = Path(parent["path"])
            if not path.exists():
                raise UserError(f"{self.path} was begun from {path}, which is gone: it cannot be resumed")
            now = Run.open(path).sha256(which) if path.is_dir() else sha256_of(path)
            if now != parent["sha256"]:
                raise UserError(
                    f"{self.path} was begun from {path} with sha256 {parent['sha256'][:12]}…, "
                    f"now it has {now[:12]}…: begin a new run instead"
                )

    def _metrics_bytes(self) -> int:
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return 0
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        return file.stat().st_size

    def _pointer(self, which: str) -> dict[str, Any]:
        if which not in POINTERS:
            raise UserError(f"no checkpoint named {which!r}. Known: {', '.join(POINTERS)}")
        if not self.has_checkpoint(which):
            there = ", ".join(name for name in POINTERS if self.has_checkpoint(name)) or "none"
            raise UserError(f"{self.path} has no {which} checkpoint; it has: {there}")
        file = self.path / "checkpoints" / f"{which}.json"
        pointer = read_json(file)
        wanted = {"file", "step", "sha256", "bytes", "metrics_bytes", "wall_s"}
        if set(pointer) != wanted or Path(str(pointer["file"])).name != pointer["file"]:
            raise UserError(f"{file} is not a checkpoint pointer: it was altered")
        return pointer


def _check_plain(value: object, where: str) -> None:
    """Raise TypeError, naming the place, for what torch.load(weights_only=True) would refuse."""
    import torch

    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise TypeError(f"{where} has a key of type {type(key).__name__}; wanted str or int")
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif not (value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor)):
        got = type(value).__name__
        raise TypeError(f"{where} is a {got}; a checkpoint holds tensors and plain python only")


def _new_folder(root: Path, stem: str) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_root(root, error) from None
    while True:
        path = root / f"{stem}_{os.urandom(3).hex()}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise _no_root(root, error) from None
        return path


def check_root(root: str | Path) -> None:
    """Refuse now what `Run.create` would refuse as its root; nothing is left there."""
    try:
        folder = Path(root).absolute()
        while not folder.exists():
            folder = folder.parent
        os.rmdir(tempfile.mkdtemp(prefix=".robokd_", dir=folder))
    except OSError as error:
        raise _no_root(Path(root), error) from None


def _no_root(root: Path, error: OSError) -> UserError:
    what = "it is a file" if root.is_file() else error.strerror
    return UserError(f"no run can be made in {root}: {what}; name another folder with runs=…")


def _runs_near(path: Path) -> str:
    """Say which runs exist where the user was looking."""
    told: dict[Path, str] = {}
    for folder in (path, path.parent, Path("runs")):
        found = sorted((file.parent for file in folder.glob("*/lineage.json")), key=lambda run: run.name)
        if found and path.resolve() not in told:
            more = f" and {len(found) - 5} older" if len(found) > 5 else ""
            names = ", ".join(run.name for run in reversed(found[-5:]))
            told.setdefault(folder.resolve(), f"Runs in {folder}: {names}{more}")
    if told:
        return ". ".join(told.values())
    return f"There are no runs in {path.parent}; `robokd teach task=…` makes one"


def _git() -> dict[str, Any] | None:
    """Return {hash, dirty} of the repository that tracks this package; None for an installed copy."""
    here = Path(__file__)

    def ask(*words: str) -> str:
        command = ["git", *words]
        return subprocess.run(
            command, cwd=here.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", here.name)
        return {"hash": ask("rev-parse", "HEAD"), "dirty": ask("status", "--porcelain") != ""}
    except (OSError, subprocess.CalledProcessError):  # no git, or not tracked
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
