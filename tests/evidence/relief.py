"""Where an object on a table is, from one 64x64 picture: depth with and without its relief, and colour.

    python -m tests.evidence.relief results/relief.json      four minutes on a core

Task lift, the front camera at the begin of 4096 episodes, an eighth of them held out; the tiny profile's
encoder and a small head, 600 gradient steps of 256 pictures, three seeds. Numbers: m, from where the object
is said to be to where it is, on held-out pictures; `known` is what the mean place of all is off.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from robokd.tasks.parts.grasp import grasp
from torch import Tensor, nn

from robokd.config import compose
from robokd.learn.stage import begin, build_env
from robokd.nets import cnn
from robokd.specs import CameraSpec
from robokd.students.options import TINY
from tests.evidence.table import Row, fill

WAYS = {"depth and relief": "front", "depth alone": "front", "colour": "front_rgb"}
PICTURES, TESTED, STEPS, BATCH, RATE, SCALE_M = 4096, 512, 600, 256, 2e-3, 0.05


def pictures(count: int) -> tuple[dict[str, Tensor], Tensor, dict[str, CameraSpec]]:
    """Return pictures (count, C, H, W) by camera, where the objects are (count, 2) m, and the cameras."""
    begin(0, threads=1)
    config = compose("distill", ["task=lift", "teacher=scripted", "threads=1", f"num_envs={BATCH}"])
    names = tuple(dict.fromkeys(WAYS.values()))
    shown: dict[str, list[Tensor]] = {name: [] for name in names}
    places = []
    with contextlib.closing(build_env(config, names, "train")) as env:
        for first in range(0, count, BATCH):
            obs = env.reset(torch.arange(first, first + BATCH))
            for name in names:
                shown[name].append(obs[name].clone())
            places.append(grasp(env.state).object[:, :2].clone())
        specs = {name: env.camera_specs[name] for name in names}
    return {name: torch.cat(rows) for name, rows in shown.items()}, torch.cat(places), specs


def measured(
    shown: dict[str, Tensor], places: Tensor, specs: dict[str, CameraSpec], way: str, seed: int, runs: Path
) -> Row:
    """Return how far the object is from where it is said to be after learning."""
    torch.manual_seed(seed)
    images, kept, mean = shown[WAYS[way]], len(places) - TESTED, places.mean(0)
    eye = cnn.KeypointEncoder(specs[WAYS[way]], TINY["channels"], TINY["keypoints"])
    model = nn.Sequential(eye, nn.Linear(eye.size, 128), nn.ELU(), nn.Linear(128, 2))
    flat = mock.patch.object(cnn, "relief", torch.zeros_like)
    with flat if way == "depth alone" else contextlib.nullcontext():
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            chosen = torch.randint(0, kept, (BATCH,))
            off = (mean + model.train()(images[chosen]) - places[chosen]) / SCALE_M
            loss = ((1 + off.square().sum(1)).sqrt() - 1).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            off = (mean + model.eval()(images[kept:]) - places[kept:]).norm(dim=1)
    known = (places[kept:] - mean).norm(dim=1).median()
    return {"median_m": off.median().item(), "p90_m": off.quantile(0.9).item(), "known_m": known.item()}


def main(out: str) -> None:
    """Write three seeds of every way."""
    cells = [(way, seed) for seed in range(3) for way in WAYS]
    fill(out, f"python -m tests.evidence.relief {out}", cells, partial(measured, *pictures(PICTURES)))


if __name__ == "__main__":
    main(*sys.argv[1:])
