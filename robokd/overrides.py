"""From `key=value` words and saved data to a stage's dataclass, through Hydra; one clear line per mistake.

Parts are chosen by Hydra (`configs/<stage>.yaml` and the groups that the registry fills); the values come
after, each checked against the field it is for, so that the message can name it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robokd import UserError, registry
from robokd.schedule import Schedule

CONFIGS = "robokd.configs"
WHOLE = 2**63  # what no counter of numpy and torch holds
_WORD = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(.*)", re.DOTALL)
StageConfig = Any  # OmegaConf nodes and values whose type only the schema tells
_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Override:
    """A value for a key: of a file, or as the text that a person typed."""

    key: str
    value: object
    is_text: bool = False
    label: str = ""  # the key as the person knows it, where that is another

    def read(self, hint: object) -> StageConfig:
        """Return the value for a field of type `hint`; text is read by Hydra's grammar, verbatim for str."""
        if "${" in str(self.value):
            raise UserError(f"{self}: interpolations such as ${{…}} are not supported, got {self.value!r}")
        if not self.is_text:
            return self.value
        text = str(self.value)
        if hint is str:
            return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
        try:
            found = OverridesParser.create().parse_override(f"x={text}")
        except HydraException:
            raise UserError(f"{self}: expected {expected(hint)}, got {text!r}") from None
        if found.is_sweep_override():
            raise UserError(f"{self}: expected {expected(hint)}, got {text!r}; a list is written [a,b]")
        value = found.value()
        # one name where names are wanted: cameras=front
        return [value] if hint == tuple[str, ...] and isinstance(value, str) else value

    def __str__(self) -> str:
        return self.label or self.key


def parse(text: str, stage: str, kind: type, extra: Sequence[str] = ()) -> Override:
    """Return a typed `key=value`, its first word checked against the fields of `kind` and `extra`."""
    match = _WORD.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is not key=value; `robokd {stage} --help` lists the keys of {stage}")
    key, value = match.groups()
    known = [*(f.name for f in ordered_fields(kind)), *extra]
    if key.split(".")[0] not in known:
        raise UserError(unknown_key(stage, key.split(".")[0], known))
    return Override(key, value, is_text=True)


def ordered_fields(kind: type) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass, its own before those it inherits."""
    own = inspect.get_annotations(kind)
    return sorted(dataclasses.fields(kind), key=lambda field: field.name not in own)


def unknown_key(owner: str, got: str, known: Sequence[str]) -> str:
    """Return the message for a key that `owner` does not have."""
    return (
        f"{owner} has no key {got!r}.{registry.did_you_mean(got, known)} Keys: {', '.join(known) or 'none'}"
    )


def flatten(kind: type, data: Mapping[str, Any]) -> list[Override]:
    """Return saved data of a stage, with parts as {"part": name, field: …} or as a name, as single values."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    found: list[Override] = []
    for key, value in data.items():
        of = fields[key].metadata.get("kind") if key in fields else None
        if of in registry.LISTS and isinstance(value, Mapping):
            if all(isinstance(one, Mapping) and "part" in one for one in value.values()):
                found.append(Override(key, [one["part"] for one in value.values()]))
            for name, one in value.items():
                found += _values(f"{key}.{name}", one)
        elif of and isinstance(value, Mapping):
            found += [Override(key, value["part"])] if "part" in value else []
            found += _values(key, value)
        elif dataclasses.is_dataclass(hints.get(key)) and isinstance(value, Mapping):
            found += _values(key, value)
        else:
            found.append(Override(key, value))
    return found


def _values(prefix: str, data: object) -> Iterator[Override]:
    if not isinstance(data, Mapping):
        raise UserError(f"{prefix} must hold keys and values, got {data!r}")
    return (Override(f"{prefix}.{key}", value) for key, value in data.items() if key != "part")


def experiment(name: str) -> Mapping[str, Any]:
    """Return the content of configs/experiment/<name>.yaml, composed by Hydra."""
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"experiment: expected the name of a file in configs/experiment, got {name!r}")
    with _hydra() as hydra:
        known = hydra.config_loader().get_group_options("experiment")
        if name not in known:
            raise UserError(registry.unknown("experiment", name, known))
        try:
            node = compose(f"experiment/{name}")
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(f"experiment {name}: {_first_line(error)}") from error
    data = OmegaConf.to_container(node)
    assert isinstance(data, dict), data
    return typing.cast("Mapping[str, Any]", data.get("experiment") or data)


def compose_stage(stage: str, kind: type, typed: Sequence[Override], base: Sequence[Override]) -> StageConfig:
    """Return an instance of `kind`: defaults of configs/<stage>.yaml, then `base`, then `typed`."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _refuse_changes(fields, base, typed)
    chosen = _choose(fields, base)
    changed = _choose(fields, typed)
    node = _defaults(stage, kind, fields, chosen | changed)
    for one in base:
        if not _is_dropped(one, chosen, changed):
            _assign(stage, fields, node, one)
    for one in typed:
        _assign(stage, fields, node, one)
    return _instance(node, "")


def _choose(
    fields: Mapping[str, dataclasses.Field[Any]], overrides: Sequence[Override]
) -> dict[str, list[str]]:
    """Return the names of the parts that overrides choose, all known to the registry."""
    chosen: dict[str, list[str]] = {}
    for one in overrides:
        kind = fields[one.key].metadata.get("kind") if one.key in fields else None
        if kind is None:
            continue
        value = one.read(list)
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) for name in names) or (
            kind not in registry.LISTS and value is names
        ):
            what = "names, as [a,b]" if kind in registry.LISTS else "one name"
            raise UserError(f"{one}: expected {what}, got {one.value!r}")
        for name in names:
            registry.find(kind, name)
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"{one} names {twice[0]!r} twice")
        chosen[one.key] = names
    return chosen


def _refuse_changes(
    fields: Mapping[str, dataclasses.Field[Any]], base: Sequence[Override], typed: Sequence[Override]
) -> None:
    """Refuse another value for a fixed key than the one that was inherited."""
    inherited = {one.key: one.value for one in base}
    for one in typed:
        if one.key in inherited and one.key in fields and fields[one.key].metadata.get("fixed"):
            got, wanted = one.read(str if fields[one.key].metadata.get("kind") else list), inherited[one.key]
            if got != wanted:
                there = f"{one.key}={as_typed(wanted)}"
                raise UserError(f"{one}={one.value} does not fit the run to work on, which has {there}")


def _is_dropped(one: Override, chosen: Mapping[str, list[str]], changed: Mapping[str, list[str]]) -> bool:
    """Whether a base value belongs to a part that was changed for another."""
    head, _, rest = one.key.partition(".")
    if head not in changed or not rest:
        return False
    if chosen.get(head) == changed[head]:
        return False
    name = rest.split(".")[0]
    return name not in changed[head] if head in registry.LISTS else True


@contextlib.contextmanager
def _hydra() -> Iterator[GlobalHydra]:
    """A context in which Hydra reads CONFIGS; leaves no global state behind."""
    state = GlobalHydra.instance()
    state.clear()
    try:
        with initialize_config_module(CONFIGS, version_base=None):
            yield state
    finally:
        state.clear()


def _defaults(
    stage: str, kind: type, fields: Mapping[str, dataclasses.Field[Any]], chosen: Mapping[str, list[str]]
) -> DictConfig:
    """Return the stage's defaults with the chosen parts."""
    for one in fields.values():
        if "kind" in one.metadata:
            registry.names(one.metadata["kind"])  # puts them where Hydra finds them
    ConfigStore.instance().store(group="schema", name=stage, node=kind, package="_global_")
    words = []
    for key, names in chosen.items():
        listed = fields[key].metadata["kind"] in registry.LISTS
        words.append(f"{key}=[{','.join(names)}]" if listed else f"{key}={names[0]}")
    try:
        with _hydra():
            return compose(stage, overrides=words)
    except HydraException as error:
        missing = re.match(r"You must specify '(\w+)'", str(error))
        if missing is None:
            raise UserError(f"configs/{stage}.yaml: {_first_line(error)}") from error
        key = missing[1]
        known = ", ".join(registry.names(fields[key].metadata["kind"])) or "none"
        raise UserError(f"{stage} needs {key}=<name>. Known: {known}") from None


def _assign(
    stage: str, fields: Mapping[str, dataclasses.Field[Any]], node: DictConfig, one: Override
) -> None:
    """Set one value in place, or raise UserError naming key, value and what exists."""
    if one.key in fields and "kind" in fields[one.key].metadata:
        return  # a choice of parts, made before
    *path, last = one.key.split(".")
    owner: StageConfig = node
    for depth, name in enumerate([*path, last]):
        where = _owner(stage, owner, path[:depth])
        if not isinstance(owner, DictConfig):
            raise UserError(f"{one}: {where} holds no keys")
        known = [str(key) for key in owner]
        if name not in known:
            raise UserError(unknown_key(where, name, known))
        if depth < len(path):
            owner = owner[name]
    holder = OmegaConf.get_type(owner)
    hint = typing.get_type_hints(holder).get(last, object) if dataclasses.is_dataclass(holder) else object
    value = one.read(hint)
    if hint is Schedule and isinstance(value, int | float):
        value = {"begin": float(value), "end": float(value)}  # one number: it stays what it is
    if isinstance(owner._get_node(last), DictConfig) and not isinstance(value, Mapping):
        raise UserError(f"{one} holds keys: set {one}.<key>=…, got {value!r}")
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        for name, inner in value.items():
            _assign(stage, fields, node, Override(f"{one.key}.{name}", inner, label=f"{one}.{name}"))
        return
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and number >= WHOLE:
            raise UserError(f"{one} must be < 2^63, got {number}")
    try:
        owner[last] = value
    except OmegaConfBaseException:
        got = as_typed(value) if isinstance(value, list) else repr(value)
        raise UserError(f"{one}: expected {expected(hint)}, got {got}") from None


def _owner(stage: str, node: object, path: Sequence[str]) -> str:
    """Return what to call the thing that has, or has not, a key."""
    identity = registry.identity(OmegaConf.get_type(node))
    return " ".join(identity) if identity else ".".join(path) or stage


def _instance(node: StageConfig, path: str, hint: object = object) -> StageConfig:
    """Return a node as dataclasses, dicts, lists and, where a field says so, tuples; errors name it."""
    if isinstance(node, ListConfig):
        values = [_instance(value, path) for value in node]
        return _frozen(values, path, hint) if typing.get_origin(hint) is tuple else values
    if not isinstance(node, DictConfig):
        return node
    kind = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(kind):
        return {key: _instance(node[key], f"{path}.{key}".strip(".")) for key in node}
    hints = typing.get_type_hints(kind)
    for name in hints:
        if OmegaConf.is_missing(node, name):
            raise UserError(f"{name} is missing")
    values = {
        f.name: _instance(node[f.name], f"{path}.{f.name}".strip("."), hints[f.name])
        for f in dataclasses.fields(kind)
    }
    try:
        return kind(**values)
    except ValueError as error:
        text = str(error)
        named = not path or text.startswith(path.split(".")[0])
        raise UserError(text if named else f"{path}: {text}") from error


def _frozen(values: list[Any], path: str, hint: object) -> tuple[Any, ...]:
    """Return a list as the tuple that `hint` asks for, of its length if that is fixed."""
    wanted = typing.get_args(hint)
    if Ellipsis not in wanted and len(values) != len(wanted):
        raise UserError(f"{path}: expected {len(wanted)} values, got {as_typed(values)}")
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def expected(hint: object) -> str:
    """Return in words what a field of a type takes."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if one is type(None) else expected(one) for one in typing.get_args(hint))
    if origin in (tuple, list) or hint in (tuple, list):
        return "a list such as [a,b]"
    return _EXPECTED.get(hint, "a value") if isinstance(hint, type) else "a value"


def as_typed(value: object) -> str:
    """Return a value as one would type it."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_typed, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _first_line(error: Exception) -> str:
    """Return the line of an error of Hydra's or OmegaConf's that says what is wrong."""
    first, *more = str(error).splitlines()
    return more[0] if more and first.endswith("raised while composing config:") else first
