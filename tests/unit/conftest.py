"""Fake parts under the names that configs/*.yaml choose, so that configuration is tested without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore

from robokd import overrides, registry


@dataclass(kw_only=True)
class Gains:
    stiffness: float = 1.0  # factor
    damping: float = 0.1  # factor


@dataclass(kw_only=True)
class HopCfg:
    """Hop on one leg."""

    tolerance_m: float = 0.02  # m
    height_m: tuple[float, float] = (0.1, 0.5)  # lowest and highest
    gains: Gains = field(default_factory=Gains)

    def __post_init__(self) -> None:
        if not self.tolerance_m > 0:
            raise ValueError(f"task.tolerance_m must be > 0, got {self.tolerance_m}")


@dataclass(kw_only=True)
class SkipCfg:
    """Skip on two."""

    rope_m: float = 2.5


@dataclass(kw_only=True)
class SimCfg:
    """A simulator."""

    physics_dt: float = 0.008  # s


@dataclass(kw_only=True)
class OtherSimCfg:
    """Another simulator."""

    graph: bool = True


@dataclass(kw_only=True)
class TeacherCfg:
    """A teacher."""

    iterations: int = 150
    hidden: tuple[int, ...] = (256, 128)
    path: str = ""  # of a file

    def algorithm(self) -> None:
        """It can be trained."""


@dataclass(kw_only=True)
class ParentCfg:
    """The policy of the parent."""


@dataclass(kw_only=True)
class FileCfg:
    """A teacher that is opened."""

    path: str = ""  # of a file

    def open(self) -> None:
        """It labels."""


@dataclass(kw_only=True)
class LossCfg:
    """A loss."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"weight must be >= 0, got {self.weight}")


@pytest.fixture
def empty_registry() -> Iterator[None]:
    """A registry without parts that imports no package; what it was comes back afterwards."""
    repo = ConfigStore.instance().repo  # Hydra's own groups stay in it
    groups = {kind: repo.pop(kind) for kind in registry.kinds() if kind in repo}
    known, loaded, plugins = dict(registry._parts), set(registry._loaded), set(registry._plugins)
    registry._parts.clear()
    registry._plugins.clear()
    registry._loaded.update(registry.kinds())
    yield
    for kind in registry.kinds():
        repo.pop(kind, None)
    repo.update(groups)
    for now, before in ((registry._loaded, loaded), (registry._plugins, plugins)):
        now.clear()
        now.update(before)
    registry._parts.clear()
    registry._parts.update(known)


@pytest.fixture(scope="session")
def fake_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with the default parts of configs/*.yaml, but none of the values that real parts have."""
    root = tmp_path_factory.mktemp("configs")
    folder = root / "fake_configs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in (Path(__file__).parents[2] / "configs").glob("*.yaml"):
        defaults = yaml.safe_load(path.read_text())["defaults"]
        (folder / path.name).write_text(yaml.safe_dump({"defaults": defaults}))
    return root


@pytest.fixture
def parts(
    empty_registry: None, fake_configs: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[tuple[str, str], type]:
    """Fake parts of every kind."""
    monkeypatch.syspath_prepend(fake_configs)
    monkeypatch.setattr(overrides, "CONFIGS", "fake_configs")
    made = {}
    for kind, name, base in (
        ("task", "hop", HopCfg),
        ("task", "skip", SkipCfg),
        ("sim", "mujoco", SimCfg),
        ("sim", "mjwarp", OtherSimCfg),
        ("renderer", "raster", SimCfg),
        ("corrupt", "clean", SimCfg),
        ("curriculum", "uniform", SimCfg),
        ("teacher", "ppo", TeacherCfg),
        ("teacher", "parent", ParentCfg),
        ("teacher", "onnx", FileCfg),
        ("student", "cnn", TeacherCfg),
        ("loss", "action_huber", LossCfg),
        ("loss", "estimate", LossCfg),
        ("loss", "latent", LossCfg),
        ("robot", "mujoco", SimCfg),
    ):
        fresh = dataclass(kw_only=True)(type(base.__name__, (base,), {"__doc__": base.__doc__}))
        made[kind, name] = registry.register(kind, name)(fresh)
    return made
