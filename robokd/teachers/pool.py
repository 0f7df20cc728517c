"""Several teachers, one of whom answers each row: which one, an observed number says. Never an average.

    k(o) = how many of the edges are <= o[group, column]        a = members[k].label(o).action

Every member is asked all rows and one answer is gathered, (M, N, …) -> (N, …), so that no batch is ragged.
The route reads an observation, not the episode's hidden parameters: a teacher may be asked in another
environment than it was opened for, and its labels must follow from the rows that are stored beside them.
Source: UniDexGrasp++ (Wan et al. 2023), multi-expert DAgger: the label is that of the row's own expert.
Shapes: N environments, M members, A action dimensions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError, registry
from robokd.registry import register, unknown
from robokd.specs import ObsSpec
from robokd.teachers.base import OFFERS, OpenCfg, Place, Teacher, TeacherOutput


@register("teacher", "pool")
@dataclass(kw_only=True)
class PoolCfg:
    """Several teachers, each asked where an observed number lies in its range."""

    # {name: {part: rsl_rl, path: a.pt, …}}, in the order of the ranges
    members: dict[str, Any] = field(default_factory=dict)
    route: str = ""  # the observed number: <group>.<term>.<element>
    edges: tuple[float, ...] = ()  # between the members' ranges, ascending; at an edge the upper one answers

    def __post_init__(self) -> None:
        ascends = all(low < high for low, high in pairwise(self.edges))
        if not ascends or not all(math.isfinite(edge) for edge in self.edges):
            raise ValueError(f"teacher.edges must be finite and ascend, got {list(self.edges)}")

    def reads(self, task: Any) -> tuple[str, ...]:  # noqa: ANN401  (see OpenCfg)
        """See OpenCfg."""
        own = [group for cfg in self._members().values() for group in cfg.reads(task)]
        group, dot, _ = self.route.partition(".")  # a route without one is refused by `open`
        return tuple(dict.fromkeys((*own, group) if dot else own))

    def files(self) -> tuple[str, ...]:
        """Return what its members are read from, each file once."""
        own = [path for cfg in self._members().values() for path in getattr(cfg, "files", tuple)()]
        return tuple(dict.fromkeys(own))

    def open(self, place: Place) -> PoolTeacher:
        """See OpenCfg."""
        cfgs = self._members()
        route = Route.find(self.route, self.edges, place)
        members = {name: open_member(name, cfg, place) for name, cfg in cfgs.items()}
        groups = {group for one in members.values() for group in one.inputs} | {route.group}
        rows = {
            group: torch.zeros(2, place.obs_specs[group].size, device=place.device)
            for group in sorted(groups)
        }
        return PoolTeacher(members, route, TensorDict(rows, batch_size=[2]))

    def _members(self) -> dict[str, OpenCfg]:
        if not self.members:
            raise UserError("teacher=pool needs teacher.members={a:{part:<teacher>,path:…},b:{…}}, got none")
        return {name: member_cfg(name, fields) for name, fields in self.members.items()}


@dataclass(frozen=True)
class Route:
    """Which member answers a row: the number of edges that a column does not lie below."""

    group: str
    column: int
    edges: tuple[float, ...]

    @classmethod
    def find(cls, text: str, edges: tuple[float, ...], place: Place) -> Route:
        """Return the route of "<group>.<term>.<element>"; the element may be left out where there is one."""
        columns = _columns(place.obs_specs)
        if text in columns:
            return cls(*columns[text], tuple(edges))
        ranges = place.task.parameters()
        if text in ranges:
            raise UserError(
                f"teacher.route={text} is a parameter of the task, which no teacher is shown; name a number "
                f"of a group. Known: {', '.join(columns)}"
            )
        raise UserError(f"teacher.route: {unknown('observed number', text, columns)}")

    def member(self, obs: TensorDict) -> Tensor:
        """Return the index of the member that answers each row, (N,) int64."""
        values = obs[self.group][:, self.column]
        passed = [values >= edge for edge in self.edges]  # numbers of the host stay there: nobody waits
        return sum(passed, torch.zeros_like(values, dtype=torch.int64))


class PoolTeacher:
    """The Teacher protocol over several; it offers what all of them do.

    `example` is any rows (N >= 1, …) of the groups that are read: the members' answers to them must be of one
    shape. UserError where shapes or the number of edges do not fit.
    """

    def __init__(self, members: Mapping[str, Teacher], route: Route, example: TensorDict) -> None:
        if not members:
            raise UserError("a pool needs at least one member, got none")
        if len(route.edges) != len(members) - 1:
            wanted = f"{len(members) - 1} for {len(members)} members ({', '.join(members)})"
            raise UserError(f"teacher.edges has {len(route.edges)} numbers, wanted {wanted}")
        self.members, self.route = dict(members), route
        groups = [group for one in self.members.values() for group in one.inputs]
        self.inputs = tuple(dict.fromkeys((*groups, route.group)))
        self.offers = frozenset.intersection(*(one.offers for one in self.members.values()))
        _check_shapes({name: one.label(example) for name, one in self.members.items()}, self.offers)

    def label(self, obs: TensorDict) -> TeacherOutput:
        """See Teacher."""
        said = [one.label(obs) for one in self.members.values()]
        chosen = self.route.member(obs)
        offered = {name: _gather([getattr(one, name) for one in said], chosen) for name in self.offers}
        return TeacherOutput(action=_gather([one.action for one in said], chosen), **offered)

    def act(self, obs: TensorDict) -> Tensor:
        """See Teacher."""
        return _gather([one.act(obs) for one in self.members.values()], self.route.member(obs))

    def reset(self, mask: Tensor) -> None:
        """See Teacher."""
        for one in self.members.values():
            one.reset(mask)

    def sha256(self) -> str:
        """See Teacher: of the members in their order, and of the route."""
        own = [f"{name} {one.sha256()}" for name, one in self.members.items()]
        return hashlib.sha256(repr((own, dataclasses.astuple(self.route))).encode()).hexdigest()


def member_cfg(name: str, fields: object) -> OpenCfg:
    """Return the config of one member, {"part": a teacher, field: …}; UserError for what is wrong in it."""
    where = f"teacher.members.{name}"
    if not isinstance(fields, Mapping) or not isinstance(fields.get("part"), str):
        raise UserError(f"{where} must be {{part:<teacher>,…}}, got {fields!r}")
    part = registry.find("teacher", fields["part"])
    if not hasattr(part, "open"):
        cure = "what `robokd teach` leaves, runs/…/checkpoints/step_….pt, opens as part:rsl_rl"
        raise UserError(f"{where}: teacher={fields['part']} opens no file; {cure}")
    known = typing.get_type_hints(part)
    values = {
        key: tuple(one) if isinstance(one, list) else one for key, one in fields.items() if key != "part"
    }
    for key, value in values.items():
        if key not in {one.name for one in dataclasses.fields(part)}:
            raise UserError(f"{where}: {unknown('key', key, known)}")
        if not _fits(value, known[key]):
            raise UserError(f"{where}.{key}: expected {known[key]}, got {value!r}")
    try:
        return part(**values)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def open_member(name: str, cfg: OpenCfg, place: Place) -> Teacher:
    """Return one member, held to the place as it would be alone; so none has other actions than another."""
    try:
        return cfg.open(place)
    except UserError as error:
        raise UserError(f"teacher.members.{name}: {error}") from None


def _fits(value: object, hint: object) -> bool:
    """Whether a value read from text is of a field's type."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(value, tuple):
        return origin is tuple and all(_fits(one, inner[0]) for one in value)
    if isinstance(value, Mapping):
        return origin is dict and all(_fits(one, inner[1]) for one in value.values())
    return hint is Any or type(value) is hint or (hint is float and type(value) is int)


def _columns(specs: Mapping[str, ObsSpec]) -> dict[str, tuple[str, int]]:
    """Return {"<group>.<term>.<element>": (group, column)}, and without the element for terms of one."""
    found: dict[str, tuple[str, int]] = {}
    for group, spec in specs.items():
        for term in spec.terms:
            first = spec.slices()[term.name].start
            if term.size == 1:
                found[f"{group}.{term.name}"] = (group, first)
                continue
            for i, element in enumerate(term.elements):
                found[f"{group}.{term.name}.{element}"] = (group, first + i)
    return found


def _check_shapes(said: Mapping[str, TeacherOutput], offers: frozenset[str]) -> None:
    first = next(iter(said))
    for name, output in said.items():
        for key in ("action", *(one for one in OFFERS if one in offers)):
            wanted, got = (tuple(getattr(one, key).shape[1:]) for one in (said[first], output))
            if got != wanted:
                both = f"{first} has {wanted}, {name} has {got}"
                raise UserError(f"members of a pool must agree in the width of {key}: {both}")


def _gather(answers: list[Tensor], chosen: Tensor) -> Tensor:
    """Return (N, …) of M answers (N, …): row n of answer chosen[n]."""
    stacked = torch.stack(answers)
    return stacked[chosen, torch.arange(len(chosen), device=chosen.device)]
