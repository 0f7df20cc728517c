"""What the first picture costs on a machine that has never compiled the kernels, in a process of its own.

`python -m robokd.bench.first_frame <effort as JSON> <file>` draws in that process and writes what it saw.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robokd.bench.agreement import identical
from robokd.bench.room import build_room
from robokd.bench.row import Effort, Gate, Row
from robokd.bench.scene import cameras
from robokd.vision.raster import RasterCfg

LIMIT_S = 20.0  # CPU time that nobody minds once
STEPS = {"first depth picture": ("depth",), "first colours and segments": ("rgb", "segment")}  # in this order


def rows(effort: Effort) -> Iterator[Row]:
    """Measure once; kernels that are compiled now draw what those in this process draw."""
    here = _look(effort)
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "pictures.npz"
        environment = dict(os.environ)
        if effort.is_cold:
            environment["NUMBA_CACHE_DIR"] = str(Path(folder) / "kernels")
        words = [sys.executable, "-m", __name__, json.dumps(dataclasses.asdict(effort)), str(there)]
        subprocess.run(words, env=environment, check=True)
        with np.load(there) as found:
            pictures = dict(found)
    for name, views in STEPS.items():
        measures = tuple(identical(view, pictures[view], here[view]) for view in views)
        yield Row(
            name=name, peer_name="a limit", unit="s", ours_all=(float(pictures[name]),), peer_all=(LIMIT_S,),
            gate=Gate(name="the same as kernels of an earlier process", measures=measures), bar=1.0,
        )  # fmt: skip


def _look(effort: Effort) -> dict[str, np.ndarray]:
    """Return the pictures {camera: (N, C, H, W)} and, by the names of STEPS, the CPU seconds they took."""
    views, found = cameras(effort.pixels), {}
    sim = build_room(effort, effort.compared)
    for name, kinds in STEPS.items():
        wanted = [views[kind] for kind in kinds]
        out = {camera.name: np.empty((sim.num_envs, *camera.shape), camera.dtype) for camera in wanted}
        begin = time.process_time()
        RasterCfg().build(sim, wanted, threads=1).render(sim, wanted, out)
        found[name] = np.array(time.process_time() - begin)
        found |= out
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], allow_pickle=False, **_look(Effort(**json.loads(sys.argv[1]))))
