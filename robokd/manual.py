"""What `robokd --help`, `robokd <stage> --help` and `robokd list` print, read from schemas and parts."""

from __future__ import annotations

import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import yaml

from robokd import UserError, overrides, registry
from robokd.config import SCHEMAS, PipelineConfig
from robokd.schedule import Schedule
from robokd.schemas import SHARED

EXAMPLES = {
    "teach": "robokd teach task=reach num_envs=256 seed=0",
    "distill": "robokd distill parent=runs/<teach run> student=cnn cameras=[front]",
    "doctor": "robokd doctor parent=runs/<teach run> student=cnn cameras=[front] out=doctor.json",
    "refine": "robokd refine parent=runs/<distill run> task.tolerance_m=0.01",
    "evaluate": "robokd evaluate run=runs/<run> episodes=512 baseline=runs/<other run>",
    "export": "robokd export run=runs/<run> out=reach.robokd",
    "deploy": "robokd deploy bundle=reach.robokd robot=mujoco episodes=20",
    "simulate": "robokd simulate bundle=reach.robokd protocol=ros2",
    "replay": "robokd replay log=runs/<deploy run>",
    "faults": "robokd faults bundle=reach.robokd robot=mujoco out=faults.json",
    "sysid": "robokd sysid bundle=reach.robokd robot=mujoco out=randomise.yaml",
    "gap": "robokd gap log=runs/<deploy run>",
    "import": "robokd import foreign=policy.onnx contract=missing.json out=walk.robokd",
    "pipeline": "robokd pipeline task=reach experiment=demo",
    "play": "robokd play run=runs/<run> video=out.mp4",
    "look": "robokd look task=reach cameras=all corrupt=realsense_d435 out=sheet.png",
    "bench": "robokd bench what=render out=rows.json",
    "report": "robokd report runs=[runs/<run>,runs/<other run>] out=report.html",
}
A_SCHEDULE = "; a schedule"
OVERVIEW = """\
robokd: from a policy that knows everything in simulation to one that sees, and onto a robot.

    teach ──► distill ──► refine ──► export ──► deploy      robokd pipeline task=reach does it all

usage: robokd <stage> key=value …

{stages}
  {resume}  Go on with a run that was cut off: robokd resume run=runs/<run>
  {list}  List the parts that can be named: robokd list task
  {keys}  Make and trust the keys that bundles are signed with: robokd keys new | trust | list

many runs at once: robokd teach|distill|refine --multirun seed=0,1,2 … [hydra/launcher=joblib|submitit_slurm]

`robokd <stage> --help` lists the keys of a stage. Each run leaves a folder in runs/ with its configuration,
metrics, checkpoints and summary.json, whose path is the last line printed.
Exit codes: 0 done, 1 a fault of robokd, 2 a mistake in what was asked, 3 a safety stop, 130 Ctrl-C."""


def overview() -> str:
    """Return the text of `robokd --help`."""
    rows = [f"  {stage:<10}{_first_line(kind)}" for stage, kind in SCHEMAS.items()]
    extra = {name: f"{name:<8}" for name in ("resume", "list", "keys")}
    return OVERVIEW.format(stages="\n".join(rows), **extra)


def stage_help(stage: str, words: Sequence[str]) -> str:
    """Return the text of `robokd <stage> --help`; parts named in `words` (key=value) show their keys."""
    kind = SCHEMAS[stage]
    lines = [f"robokd {stage}: {_first_line(kind)}", "", f"example: {EXAMPLES[stage]}", ""]
    steps = [f.name for f in dataclasses.fields(PipelineConfig)]
    recipe = "experiment=<name>: values from configs/experiment/<name>.yaml; what is typed comes on top"
    if stage == "pipeline":
        lines += [
            f"keys for every stage that has them: {', '.join(SHARED)}",
            f"keys of one stage: <stage>.<key>=…, stages {', '.join(steps)} "
            "(robokd <stage> --help lists their keys)",
            recipe,
        ]
        return "\n".join(lines)
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    lines += [recipe] if stage in steps else []
    lines.append("keys, their defaults and what they are:")
    rows = list(_rows(kind, "", stage_defaults(stage) | typed))
    lines += rows
    if any(row.endswith(A_SCHEDULE) for row in rows):
        lines += ["", "a schedule is one number, or some of the keys <key>.begin=… and so on:"]
        lines += _rows(Schedule, "", {})
    return "\n".join(lines)


def list_parts(kinds: Sequence[str]) -> str:
    """Return a line for each part of the given kinds (none: all)."""
    lines = []
    for kind in kinds or registry.kinds():
        if kind not in registry.kinds():
            raise UserError(registry.unknown("kind", kind, registry.kinds()))
        lines.append(f"{kind}:")
        lines += [f"  {name:<16} {_first_line(registry.find(kind, name))}" for name in registry.names(kind)]
    return "\n".join(lines)


def stage_defaults(stage: str) -> dict[str, str]:
    """Return the parts and values that configs/<stage>.yaml gives, by key, as one would type them."""
    text = (resources.files(overrides.CONFIGS) / f"{stage}.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    found: dict[str, str] = {}
    for entry in data.pop("defaults"):
        if isinstance(entry, dict):
            found |= {key: overrides.as_typed(value) for key, value in entry.items() if value != "???"}
    values = overrides.flatten(SCHEMAS[stage], data)
    return found | {one.key: overrides.as_typed(one.value) for one in values}


def _rows(kind: type, prefix: str, given: dict[str, str]) -> Iterator[str]:
    """Yield a line for each key; `given` has what differs from the dataclasses' own defaults."""
    comments = field_comments(kind)
    for field in overrides.ordered_fields(kind):
        key = f"{prefix}{field.name}"
        of = field.metadata.get("kind")
        if of:
            yield from _part_rows(key, of, given, bool(field.metadata["inherit"]))
        elif "required" in field.metadata:
            yield f"  {key + '=…':<34} required: {field.metadata['required']}"
        elif isinstance(default := _default(field), Schedule):
            yield f"  {f'{key}={given.get(key, default)}':<34} {comments.get(field.name, '')}{A_SCHEDULE}"
        elif isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            yield from _rows(field.default_factory, f"{key}.", given)
        else:
            value = given.get(key, overrides.as_typed(default))
            yield f"  {f'{key}={value}':<34} {comments.get(field.name, '')}".rstrip()


def _default(field: dataclasses.Field[Any]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _part_rows(key: str, kind: str, given: dict[str, str], inherited: bool) -> Iterator[str]:
    """Yield the line of a part and the lines of the keys of those that are chosen."""
    names = registry.names(kind)
    origin = "; inherited from the run" if inherited else ""
    value = "…" if inherited else given.get(key, "…")
    yield f"  {f'{key}={value}':<34} a {kind}; known: {', '.join(names) or 'none'}{origin}"
    for name in given.get(key, "").strip("[]").split(","):
        if name in names:
            prefix = f"{key}.{name}." if kind in registry.LISTS else f"{key}."
            yield from _rows(registry.find(kind, name), prefix, given)


def _first_line(kind: type) -> str:
    """Return the first line of a dataclass's own docstring."""
    text = (kind.__doc__ or "").strip()
    return "" if text.startswith(f"{kind.__name__}(") else text.split("\n")[0]


def field_comments(kind: type) -> dict[str, str]:
    """Return the comment that stands on each field's line, by field, those it inherits included."""
    found: dict[str, str] = {}
    for owner in kind.__mro__[:-1]:
        found = _own_comments(owner) | found
    return found


def _own_comments(kind: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):  # no source: typed at a prompt, or compiled
        return {}
    known = {field.name for field in dataclasses.fields(kind)}
    found: dict[str, str] = {}
    name = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        first = token.line.strip().partition(":")[0]
        if token.type == tokenize.NAME and token.string == first and first in known:
            name = first
        elif token.type == tokenize.COMMENT and name:
            found.setdefault(name, token.string.lstrip("# "))
        elif token.type == tokenize.NEWLINE:
            name = ""
    return found
