"""Fit the student's own architecture to the probe for a short while, and score it on held-out episodes.

    loss = huber(action - label) + mean_k huber(estimate_k - (y_k - mean) / std)

Estimates are standardised here: a metre and a radian count alike, and R^2 does not hang on units.
Shapes: R rows, T steps, B rows of a batch, A action dimensions, D numbers of a term.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional

from robokd.doctor.probe import Probe
from robokd.learn.dagger import MAX_GRAD_NORM
from robokd.learn.dataset import LABEL, batch_rows, said, seen
from robokd.learning import falling
from robokd.students.base import StudentModule, StudentOutput

GRADIENT_STEPS = 300  # of every fit, whatever the data: what differs is the data alone
BATCH = 128  # frames
RATE = dataclasses.replace(falling(), over=GRADIENT_STEPS)  # that of the stage, in steps for rounds
DELTA = 0.2  # of the action loss, as in losses.action_huber
RIDGE = 1e-3  # share of the variance, for columns that are nearly sums of others


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a fitted student does on held-out steps."""

    frames: int  # that it learned from
    error: float  # mean |action - label|
    r2: dict[str, float]  # by term, where the arm is misled; 1 = all is known, 0 = as the mean


def trained_rows(probe: Probe, share: float) -> Tensor:
    """Return the rows (R',) with a step to learn from, of the first `share` of the environments."""
    return ((~probe.held_out).any(1) & (probe.place < share)).nonzero()[:, 0]


def moments(probe: Probe, name: str) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (D,) of a column on the steps that are learned from."""
    values = probe.rows[name][~probe.held_out]
    return values.mean(0), values.std(0, unbiased=False).clamp(min=1e-6)


def fit(student: StudentModule, probe: Probe, share: float, seed: int) -> Score:
    """Fit a fresh student to the first `share` of the environments and score it."""
    training = trained_rows(probe, share)
    student.update_normalizers(seen(probe.rows[training], student.inputs).flatten(0, 1))
    scales = {name: moments(probe, name) for name in probe.targets}
    optimizer = torch.optim.AdamW(list(student.parameters()), lr=RATE.begin)
    generator = torch.Generator().manual_seed(seed % 2**63)
    count = batch_rows(BATCH, probe.held_out.shape[1])
    student.train()
    for step in range(GRADIENT_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE.value(step, [], GRADIENT_STEPS)
        chosen = training[torch.randint(len(training), (count,), generator=generator)]
        rows = probe.rows[chosen]
        loss = _loss(said(student, rows), rows, ~probe.held_out[chosen], scales)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), MAX_GRAD_NORM)
        optimizer.step()
    student.eval()
    return _score(student, probe, int((~probe.held_out[training]).sum()), scales)


def _loss(
    output: StudentOutput, rows: TensorDict, valid: Tensor, scales: dict[str, tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the loss of rows (B, T) over their valid steps."""
    each = functional.huber_loss(output.action, rows[LABEL], reduction="none", delta=DELTA).mean(-1) / DELTA
    for name, (mean, deviation) in scales.items():
        wanted = (rows[name] - mean) / deviation
        off = functional.huber_loss(output.estimates[name], wanted, reduction="none").mean(-1)
        each = each + off / len(scales)
    return (each * valid).sum() / valid.sum().clamp(min=1)


def _score(
    student: StudentModule, probe: Probe, frames: int, scales: dict[str, tuple[Tensor, Tensor]]
) -> Score:
    found = probe.held_out.any(1).nonzero()[:, 0]
    errors, guesses = [], {name: [] for name in scales}
    with torch.no_grad():
        for part in found.split(batch_rows(1024, probe.held_out.shape[1])):
            rows, held = probe.rows[part], probe.held_out[part]
            output = said(student, rows)
            errors.append((output.action.clip(-1, 1) - rows[LABEL]).abs().mean(-1)[held])
            for name, (mean, deviation) in scales.items():
                guesses[name].append(output.estimates[name] * deviation + mean)
    judged = probe.held_out[found] & probe.misled[found][:, None]
    r2 = {
        name: r_squared(torch.cat(guess)[judged], probe.rows[name][found][judged], scales[name][0])
        for name, guess in guesses.items()
    }
    return Score(frames=frames, error=torch.cat(errors).mean().item(), r2=r2)


def r_squared(guess: Tensor, truth: Tensor, mean: Tensor) -> float:
    """Return 1 - sum (y - guess)^2 / sum (y - mean)^2 of (M, D), `mean` that of what was learned from.

    NaN where there is nothing to explain: no rows, or all at the mean.
    """
    rest = (truth - mean).square().sum().item()
    return 1 - (truth - guess).square().sum().item() / rest if rest > 0 else math.nan


def linear_r2(probe: Probe, groups: Sequence[str]) -> dict[str, float]:
    """Return the R^2 of ridge regression from the 1-D groups alone, by term: what needs no pictures."""
    if not groups:
        return dict.fromkeys(probe.targets, 0.0)
    known = torch.cat([probe.rows[name] for name in groups], -1).double()
    free, judged = ~probe.held_out, probe.held_out & probe.misled[:, None]
    mean, deviation = known[free].mean(0), known[free].std(0, unbiased=False).clamp(min=1e-6)
    x = (known - mean) / deviation
    gram = x[free].T @ x[free]
    gram += RIDGE * len(x[free]) * torch.eye(x.shape[-1], dtype=torch.float64)
    found = {}
    for name in probe.targets:
        y = probe.rows[name].double()
        center = y[free].mean(0)
        weights = torch.linalg.solve(gram, x[free].T @ (y[free] - center))
        found[name] = r_squared(x[judged] @ weights + center, y[judged], center)
    return found
