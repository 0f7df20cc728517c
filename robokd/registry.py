"""Parts by name: a config dataclass for each (kind, name), found by importing the modules of one kind only.

A part is `@register(kind, name)` on a kw_only dataclass whose fields all have defaults, with a `build(...)`,
in the same file as what it builds. Nothing else has to be edited: the folder of a kind is its list.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf.errors import OmegaConfBaseException

from robokd import UserError

PACKAGES = {
    "task": "robokd.tasks",
    "sim": "robokd.sim",
    "renderer": "robokd.vision",
    "corrupt": "robokd.vision",
    "teacher": "robokd.teachers",
    "student": "robokd.students",
    "loss": "robokd.losses",
    "curriculum": "robokd.curricula",
    "robot": "robokd.sim2real",
}
LISTS = ("loss",)  # kinds of which a stage takes several at once, as <kind>.<name>
PLUGINS = "robokd.plugins"  # the entry-point group of parts that live outside this repository

Part = TypeVar("Part", bound=type)
_parts: dict[tuple[str, str], type] = {}
_loaded: set[str] = set()
_plugins: set[str] = set()


def register(kind: str, name: str) -> Callable[[Part], Part]:
    """Return a class decorator that makes a config dataclass the part `kind=name`, for Hydra too.

    Sets `cls.kind` and `cls.name`. Raises ValueError for an unknown kind, for a name that is taken and for a
    class that cannot be a part.
    """
    if kind not in PACKAGES:
        raise ValueError(unknown("kind", kind, PACKAGES))

    def decorate(cls: Part) -> Part:
        taken = _parts.get((kind, name))
        if taken is not None:
            where = f"{taken.__module__}.{taken.__qualname__}"
            raise ValueError(
                f"{kind} {name!r} is taken by {where}; {cls.__module__}.{cls.__qualname__} wants it too"
            )
        _check(cls, kind, name)
        package = f"{kind}.{name}" if kind in LISTS else kind
        try:
            ConfigStore.instance().store(
                group=kind, name=name, node=cls, package=package, provider=cls.__module__
            )
        except OmegaConfBaseException as error:
            first = str(error).splitlines()[0]
            raise ValueError(
                f"{kind} {name!r} has a field of a type that a config cannot hold: {first}"
            ) from error
        cls.kind, cls.name = kind, name
        _parts[kind, name] = cls
        return cls

    return decorate


def find(kind: str, name: str) -> type:
    """Return the config dataclass of a part; raises UserError with the nearest and all known names."""
    if name in names(kind):
        return _parts[kind, name]
    raise UserError(unknown(kind, name, names(kind)))


def names(kind: str) -> list[str]:
    """Return the sorted names of a kind's parts."""
    _load(kind)
    return sorted(name for of, name in _parts if of == kind)


def kinds() -> list[str]:
    """Return the kinds of parts there are."""
    return sorted(PACKAGES)


def load_plugins(modules: Iterable[str]) -> None:
    """Import modules that register parts. Only names that a person typed may come here, never a file's."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise _broken(f"plugin {module!r}", error) from error
            raise UserError(f"plugins: no module named {module!r} can be imported from here") from error
        except (Exception, SystemExit) as error:
            raise _broken(f"plugin {module!r}", error) from error
        _plugins.add(module)


def identity(part: type | None) -> tuple[str, str] | None:
    """Return (kind, name) of a part's dataclass; None for any other class."""
    return next((key for key, known in _parts.items() if known is part), None)


def plugins() -> frozenset[str]:
    """Return the plugins that were typed in this process."""
    return frozenset(_plugins)


def unknown(what: str, got: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist, with the nearest one and all that do."""
    known = sorted(known)
    return f"no {what} named {got!r}.{did_you_mean(got, known)} Known: {', '.join(known) or 'none'}"


def did_you_mean(got: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to `got`, or nothing."""
    near = difflib.get_close_matches(got, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _broken(what: str, error: BaseException) -> UserError:
    """Return what to say of a plugin that cannot be imported: its error's last line, and where it is."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        ours = (str(Path(__file__).parent), str(Path(importlib.__file__).parent), "<frozen")
        rows = [row for row in traceback.extract_tb(error.__traceback__) if not row.filename.startswith(ours)]
        where = f"{rows[-1].filename}:{rows[-1].lineno}" if rows else "where it begins"
    said = traceback.format_exception_only(error)[-1].strip()
    return UserError(f"{what} cannot be imported: {said} (at {where}): mend it, or leave it out")


def _check(cls: type, kind: str, name: str) -> None:
    """Refuse a class that is not a kw_only dataclass with a default for every field."""
    where = f"{kind} {name!r} ({cls.__module__}.{cls.__qualname__})"
    if not dataclasses.is_dataclass(cls):
        raise ValueError(f"{where} is not a dataclass: put @register above @dataclass(kw_only=True)")
    for field in dataclasses.fields(cls):
        if field.name in ("kind", "name", "part"):
            raise ValueError(f"{where}: a field cannot be named {field.name!r}, the registry uses it")
        if not field.kw_only:
            raise ValueError(f"{where}: use @dataclass(kw_only=True)")
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}: field {field.name!r} needs a default")


def _load(kind: str) -> None:
    """Import the modules of one kind that register something, and the plugins that are installed."""
    if kind not in PACKAGES:
        raise UserError(unknown("kind", kind, PACKAGES))
    if kind in _loaded:
        return
    _loaded.add(kind)
    try:
        package = importlib.import_module(PACKAGES[kind])
        for found in pkgutil.iter_modules(package.__path__):
            if found.name != "base" and _registers(f"{package.__name__}.{found.name}"):
                importlib.import_module(f"{package.__name__}.{found.name}")
        for entry in importlib.metadata.entry_points(group=PLUGINS):
            try:
                entry.load()
            except (Exception, SystemExit) as error:
                raise _broken(f"the installed plugin {entry.name!r} ({entry.value})", error) from error
    except BaseException as error:
        _loaded.discard(kind)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or missing.split(".")[0] == "robokd":
            raise
        cure = "pip install 'robokd[train,mujoco]'"
        raise UserError(
            f"the parts of kind {kind!r} need the package {missing!r}, not installed: {cure}"
        ) from error


def _registers(module: str) -> bool:
    """Whether a module's source calls `register(`.

    The others are not imported: `deploy` looks for robots next to the simulated robot's process, which needs
    a simulator and torch.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return True
    return "register(" in Path(spec.origin).read_text(encoding="utf-8")
