"""Is the teacher one to learn from, here: its success, what it sees, what it says.

Shapes: M rows (steps of environments), D columns of a group or of all that the teacher reads, A action
dimensions, E episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robokd.doctor.finding import FAIL, OK, WARN, Finding, above, listed
from robokd.learn.rollout import SATURATED
from robokd.specs import CameraSpec, ObsSpec

GOOD_SUCCESS = 0.8  # a student keeps at most what the teacher has; below this it is the teacher to work on
FAR_SIGMA = 5.0  # where the students' own normaliser clips (nets.normalizer)
FAR_WARN = 0.01  # of a Gaussian's numbers 6e-7 are beyond: these are inputs that it was not trained on
FAR_FAIL = 0.2  # a fifth of its inputs unlike training: what it says is extrapolation
CLIPPED_WARN = 0.05  # 2 % were copied well, see METHODS; a clipped label does not say by how much
CLIPPED_FAIL = 0.5  # bang-bang: the loss of such labels was stuck at half an action
STILL_STD = 1e-3  # action units: below what a float16 of a picture could tell
ROUNDING = 1e-5  # action units: sums of float32 in another order


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """How far answers are apart that should be the same, largest |difference| in action units."""

    again: float  # the same rows
    split: float  # the same rows in other batches
    replayed: float  # the same episodes from a snapshot


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Stored labels beside the teacher's answers on the observations before the steps."""

    labels: int
    wrong: int  # labels that differ
    unlike: int  # steps whose stored observations differ from the replayed ones
    resets: int  # stored steps that begin an episode


def success(outcomes: Tensor) -> Finding:
    """Judge the teacher's success (E,) in the student's environment."""
    rate = outcomes.double().mean().item()
    level = FAIL if rate == 0 else WARN if rate < GOOD_SUCCESS else OK
    return Finding(
        check="teacher success", level=level, value=rate, limit=0.0 if level == FAIL else GOOD_SUCCESS,
        measured=f"{rate:.2f} of {len(outcomes)} validation episodes in the student's environment",
        cure="teach on in this environment (same task, sim), or choose another teacher: a student keeps at "
        "most this",
    )  # fmt: skip


def sight(
    groups: Sequence[str], cameras: Sequence[str], obs_specs: Mapping[str, ObsSpec],
    camera_specs: Mapping[str, CameraSpec],
) -> Finding | None:  # fmt: skip
    """Return what is wrong with the names of the student's groups and cameras, None if nothing."""
    robot = [name for name, spec in obs_specs.items() if spec.role != "privileged"]
    told = [name for name in groups if name in obs_specs and name not in robot]
    absent = [name for name in groups if name not in obs_specs]
    absent += [name for name in cameras if name not in camera_specs]
    twice = [name for name in dict.fromkeys((*groups, *cameras)) if (*groups, *cameras).count(name) > 1]
    wrong = [f"{', '.join(told)} only a simulator knows"] if told else []
    wrong += [f"there is no {', '.join(absent)}"] if absent else []
    wrong += [f"{', '.join(twice)} is named twice"] if twice else []
    wrong += ["the student would see nothing at all"] if not (groups or cameras) else []
    if not wrong:
        return None
    known = f"groups of [{','.join(robot)}], cameras of [{','.join(camera_specs)}]"
    return Finding(check="observation groups", level=FAIL, measured="; ".join(wrong), cure=f"choose {known}")


def columns(rows: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> Finding:
    """Judge the groups (M, D) that were seen, with the columns named: finite, and all of use."""
    broken = [name for name, values in rows.items() if not torch.isfinite(values).all()]
    if broken:
        return Finding(
            check="observation groups", level=FAIL, value=float(len(broken)), limit=0.0,
            measured=f"{', '.join(broken)} has numbers that are not finite",
            cure="look into the task's observe: nothing can be learned from them",
        )  # fmt: skip
    constant: list[str] = []
    for group, columns_of in names.items():
        values = rows[group]
        still = (values == values[:1]).all(0).tolist()
        constant += [f"{group}.{name}" for name, is_still in zip(columns_of, still, strict=True) if is_still]
    seen = ", ".join(f"{group} {values.shape[1]}" for group, values in rows.items())
    said = (
        f", of which {listed(constant)} never change" if constant else ", every column of the student's moves"
    )
    return Finding(
        check="observation groups", level=WARN if constant else OK, value=float(len(constant)), limit=0.0,
        measured=f"{seen} columns{said}",
        cure="take constant columns out of the group: on the robot they may not be constant",
    )  # fmt: skip


def normalisers(normalised: Tensor | None, names: Sequence[str]) -> Finding:
    """Judge the teacher's inputs after its normaliser (M, D); None for a teacher that shows none."""
    if normalised is None:
        said = "the teacher shows no normaliser that could be looked into"
        return Finding(check="normalisers", level=OK, measured=said)
    far = normalised.abs() > FAR_SIGMA
    share, by_column = far.double().mean().item(), far.float().mean(0)
    level, limit = above(share, FAR_WARN, FAR_FAIL)
    order: list[int] = by_column.argsort(descending=True).tolist()
    worst = [names[i] for i in order if by_column[i] > FAR_WARN]
    where = f", most in {listed(worst)}" if worst else ""
    return Finding(
        check="normalisers", level=level, value=share, limit=limit,
        measured=f"{share:.2%} of the teacher's inputs are beyond {FAR_SIGMA:g} sigma of its training{where}",
        cure="distil in the environment that it was taught in (task, sim), or teach it on in this one",
    )  # fmt: skip


def clipping(labels: Tensor) -> Finding:
    """Judge how many of the labels (M, A) stand at the edge."""
    if not torch.isfinite(labels).all():
        return Finding(check="action clipping", level=FAIL, measured="labels are not finite")
    share = (labels.abs() > SATURATED).double().mean().item()
    level, limit = above(share, CLIPPED_WARN, CLIPPED_FAIL)
    return Finding(
        check="action clipping", level=level, value=share, limit=limit,
        measured=f"{share:.2%} of the labels are beyond {SATURATED:g}",
        cure="teach with a cost on actions (task.action_weight, task.action_rate_weight) or a larger action "
        "scale: clipped labels cannot be copied",
    )  # fmt: skip


def moving(labels: Tensor, joints: Sequence[str]) -> Finding:
    """Judge whether every action of the labels (M, A) is used."""
    spread = labels.double().std(0, unbiased=False)
    still = [joint for joint, value in zip(joints, spread, strict=True) if value < STILL_STD]
    said = f"the labels of {', '.join(still)} never move" if still else "every joint's labels move"
    least = spread.min().item()
    return Finding(
        check="action scale", level=WARN if still else OK, value=least, limit=STILL_STD,
        measured=f"{said}; standard deviations {least:.2g} to {spread.max().item():.2g}",
        cure="take the joints out of the action, or teach a teacher that uses them",
    )  # fmt: skip


def determinism(repeats: Repeats) -> Finding:
    """Judge whether the teacher says the same of the same."""
    exact = max(repeats.again, repeats.replayed)
    worst = max(exact, repeats.split)
    level = FAIL if worst > ROUNDING else WARN if exact > 0 else OK
    split = "bit for bit" if repeats.split == 0 else f"within {repeats.split:.1g}, rounding,"
    said = f"the same labels {split} in other batches; the same actions when episodes are replayed"
    apart = (
        f"labels apart by {repeats.again:.2g} when asked again, {repeats.split:.2g} in other batches, "
        f"{repeats.replayed:.2g} when episodes are replayed"
    )
    return Finding(
        check="determinism", level=level, value=worst, limit=ROUNDING,
        measured=said if level == OK else apart,
        cure="the teacher must answer by its mean, remember nothing, and not mix rows; the task must draw "
        "by state.draws",
    )  # fmt: skip


def alignment(found: Alignment) -> Finding:
    """Judge whether every stored label is the answer to the observation stored with it."""
    level = FAIL if found.wrong or found.unlike else OK if found.resets else WARN
    said = (
        f"{found.labels - found.wrong} of {found.labels} stored labels are the teacher's on the observation "
        f"before the step, {found.resets} of them right after a reset"
    )
    unlike = f"; {found.unlike} steps differ when replayed from a snapshot" if found.unlike else ""
    cure = "no episode ended in the probe: type more frames=…"
    return Finding(
        check="label alignment", level=level, value=float(found.wrong), limit=0.0, measured=said + unlike,
        cure=cure if level == WARN else "the environment's snapshot or the teacher's memory is at fault",
    )  # fmt: skip
