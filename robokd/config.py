"""How a stage's configuration is composed, saved and loaded.

Nothing outside this file and `overrides.py` sees a Hydra or OmegaConf object: a configuration is an instance
of a dataclass of `schemas.py`, with instances of the parts' dataclasses in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from robokd import UserError, registry
from robokd.deploying import (
    DeployConfig,
    FaultsConfig,
    GapConfig,
    ImportConfig,
    ReplayConfig,
    SimulateConfig,
    SysidConfig,
)
from robokd.files import read_yaml
from robokd.overrides import (
    Override,
    as_typed,
    compose_stage,
    experiment,
    flatten,
    ordered_fields,
    parse,
    unknown_key,
)
from robokd.schemas import (
    LINEAGE,
    SCHEMAS,
    SHARED,
    BenchConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    LookConfig,
    PipelineConfig,
    PlayConfig,
    RefineConfig,
    ReportConfig,
    TeachConfig,
)

__all__ = [
    "SCHEMAS",
    "BenchConfig",
    "DeployConfig",
    "DistillConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FaultsConfig",
    "GapConfig",
    "ImportConfig",
    "LookConfig",
    "PipelineConfig",
    "PlayConfig",
    "RefineConfig",
    "ReplayConfig",
    "ReportConfig",
    "SimulateConfig",
    "SysidConfig",
    "TeachConfig",
    "compose",
    "dump",
    "load",
    "schema",
    "words",
]

StageConfig = Any  # an instance of one of SCHEMAS, or of a part: which one, only the name tells


def schema(stage: str) -> type:
    """Return the dataclass of a stage's configuration."""
    if stage not in SCHEMAS:
        raise UserError(registry.unknown("stage", stage, SCHEMAS))
    return SCHEMAS[stage]


def compose(stage: str, overrides: Sequence[str], inherited: Mapping[str, Any] | None = None) -> StageConfig:
    """Return a stage's configuration: defaults, then what is inherited, then `key=value` overrides.

    Args:
        stage: one of SCHEMAS; the result is an instance of its dataclass, with instances of parts in it.
        overrides: what a person typed, `key=value` or `@file.yaml` with such keys; only here may plugins be
            named, and not in a file.
        inherited: the saved configuration (see `dump`) of the run that the stage works on.
    """
    kind = schema(stage)
    extra = ("experiment",) if stage in ("pipeline", *_steps()) else ()
    if stage == "pipeline":
        extra = (*SHARED, *extra)
    typed = [
        one
        for text in overrides
        for one in (
            _from_file(text[1:], stage, kind) if text[:1] == "@" else [parse(text, stage, kind, extra)]
        )
    ]
    registry.load_plugins(name for one in typed if one.key == "plugins" for name in one.read(tuple[str, ...]))
    if stage == "pipeline":
        return _pipeline(typed)
    recipe: dict[str, list[Override]] = {stage: []}
    said = _route_experiments(typed, recipe)
    typed = [*recipe[stage], *said]
    given = {one.key for one in typed if one.value != ""}
    for wanted in dataclasses.fields(kind):
        if "required" in wanted.metadata and wanted.name not in given:
            if any(one.key == wanted.metadata["unless"] and one.value != "parent" for one in typed):
                continue
            raise UserError(f"{stage} needs {wanted.name}=…: {wanted.metadata['required']}")
    return compose_stage(stage, kind, typed, _inherited(kind, inherited or {}))


def _from_file(path: str, stage: str, kind: type) -> list[Override]:
    """Return the values of a YAML file that was typed as `@file`: keys of the stage, parts as in a run.

    Plugins and `arm` are typed by a person, never by a file.
    """
    data = read_yaml(path)
    known = [field.name for field in ordered_fields(kind) if field.name not in ("plugins", "arm")]
    for key in data:
        if key not in known:
            raise UserError(f"@{path}: {unknown_key(stage, str(key), known)}")
    return flatten(kind, data)


def load(stage: str, data: Mapping[str, Any]) -> StageConfig:
    """Return the configuration that `dump` gave `data` for; unknown keys and untyped plugins are errors."""
    kind = schema(stage)
    if stage == "pipeline":
        if set(data) != set(_steps()):
            raise UserError(
                f"a saved pipeline has the keys {', '.join(_steps())}; got {', '.join(data) or 'none'}"
            )
        return PipelineConfig(**{name: load(name, data[name]) for name in _steps()})
    _refuse_plugins(data)
    return compose_stage(stage, kind, [], flatten(kind, data))


def dump(config: StageConfig) -> dict[str, Any]:
    """Return a configuration as data ready for JSON and YAML; parts are {"part": name, field: …}."""
    return _data(config)


def words(stage: str, config: StageConfig) -> list[str]:
    """Return the `key=value` words that compose a configuration, for a process of its own."""
    return [f"{one.key}={as_typed(one.value)}" for one in flatten(schema(stage), dump(config))]


def _data(value: StageConfig) -> StageConfig:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        identity = registry.identity(type(value))
        name = {"part": identity[1]} if identity else {}
        return name | {f.name: _data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _data(one) for key, one in value.items()}
    return [_data(one) for one in value] if isinstance(value, list | tuple) else value


def _steps() -> list[str]:
    """Return the stages of a pipeline, in order."""
    return [step.name for step in dataclasses.fields(PipelineConfig)]


def _pipeline(typed: list[Override]) -> PipelineConfig:
    """Compose every stage; what nobody can give beforehand (parent, run, bundle) stays empty."""
    layers: dict[str, list[Override]] = {name: [] for name in _steps()}
    for one in _route_experiments(typed, layers):
        _route(one, layers)
    done: dict[str, Any] = {}
    for name, overrides in layers.items():
        kind = SCHEMAS[name]
        empty = [Override(f.name, "") for f in dataclasses.fields(kind) if "required" in f.metadata]
        base = _inherited(kind, dump(done[LINEAGE[name]])) if name in LINEAGE else []
        done[name] = compose_stage(name, kind, overrides, [*empty, *base])
    return PipelineConfig(**done)


def _route_experiments(typed: Sequence[Override], layers: dict[str, list[Override]]) -> list[Override]:
    """Hand what the experiments named have for the stages of `layers` to them; return the other overrides."""
    for one in typed:
        if one.key == "experiment":
            for inner in _experiment(str(one.value)):
                _route(inner, layers)
    return [one for one in typed if one.key != "experiment"]


def _route(one: Override, layers: dict[str, list[Override]]) -> None:
    """Hand `<stage>.<key>` to its stage, and a shared key to every stage that has it."""
    head, _, rest = one.key.partition(".")
    for name, layer in layers.items():
        known = {f.name: f for f in dataclasses.fields(SCHEMAS[name])}
        if head in SHARED and head in known:
            # `task.tolerance_m` is of a part; deploying knows its task by name only
            if not rest or "kind" in known[head].metadata:
                layer.append(one)
        elif head == name:
            inner = known.get(rest)
            if not rest:
                raise UserError(f"{name} is a stage: write {name}.num_envs=… or another of its keys")
            if inner is not None and "required" in inner.metadata:
                raise UserError(f"{one.key} is filled in by the pipeline and cannot be set")
            layer.append(dataclasses.replace(one, key=rest, label=one.label or one.key))


def _experiment(name: str) -> list[Override]:
    """Return the overrides of configs/experiment/<name>.yaml."""
    data = experiment(name)
    found: list[Override] = []
    for head, value in data.items():
        if head not in (*_steps(), *SHARED):
            raise UserError(unknown_key(f"experiment {name}", head, (*_steps(), *SHARED)))
        if head in _steps():
            if not isinstance(value, Mapping):
                raise UserError(f"experiment {name}: {head} must hold keys of that stage, got {value!r}")
            inner = flatten(SCHEMAS[head], value)
            found += [dataclasses.replace(one, key=f"{head}.{one.key}") for one in inner]
        else:
            found += flatten(TeachConfig, {head: value})
    _refuse_plugins({"plugins": [one for one in found if one.key.split(".")[-1] == "plugins"]})
    return found


def _inherited(kind: type, data: Mapping[str, Any]) -> list[Override]:
    """Return what a stage takes over from the run it works on."""
    _refuse_plugins(data)
    wanted = {f.name for f in dataclasses.fields(kind) if f.metadata.get("inherit")}
    return flatten(kind, {key: value for key, value in data.items() if key in wanted})


def _refuse_plugins(data: Mapping[str, Any]) -> None:
    """Refuse plugins that a file names and nobody typed: what is loaded must not run code."""
    if untyped := sorted(set(map(str, data.get("plugins") or ())) - registry.plugins()):
        names = ",".join(untyped)
        raise UserError(
            f"a saved configuration names plugins [{names}]; if you trust them, type plugins=[{names}]"
        )
