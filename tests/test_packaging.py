"""The package as it is installed: its list of folders, its data files, its names."""

import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from robokd.cli import STAGES
from robokd.registry import PACKAGES
from robokd.schemas import SCHEMAS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAPPED = {"robokd": "robokd", **SETUPTOOLS["package-dir"]}


def folder_of(package: str) -> Path:
    mapped = MAPPED.get(package)
    return ROOT / (mapped or package.replace(".", "/"))


def test_the_package_list_is_the_folders():
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "robokd").rglob("__init__.py")}
    for package, folder in SETUPTOOLS["package-dir"].items():
        inner = (ROOT / folder).rglob("__init__.py")
        found |= {".".join([package, *path.parent.relative_to(ROOT / folder).parts]) for path in inner}
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


def test_every_folder_with_modules_is_a_package():
    for package in SETUPTOOLS["packages"]:
        for path in folder_of(package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_every_data_file_is_installed_and_every_glob_finds_some():
    for package, globs in SETUPTOOLS["package-data"].items():
        folder = folder_of(package)
        for glob in globs:
            assert list(folder.glob(glob)), f"{package}: {glob} finds nothing"
        data = [
            path for path in folder.rglob("*") if path.suffix in (".xml", ".yaml", ".stl", ".obj", ".png")
        ]
        for path in data:
            name = str(path.relative_to(folder))
            assert any(fnmatch(name, glob) for glob in globs), f"{package}: {name} would not be installed"


@pytest.mark.parametrize("folder", ["tasks", "sim2real", "configs"])
def test_importing_a_folder_under_a_second_name_is_refused(folder):
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"ImportError: import this package as robokd.{folder}" in done.stderr


def test_every_stage_has_a_schema_a_function_and_a_file_of_defaults():
    assert set(STAGES) == set(SCHEMAS)
    assert {path.stem for path in (ROOT / "configs").glob("*.yaml")} == set(SCHEMAS)
    for stage in SCHEMAS:
        defaults = yaml.safe_load((ROOT / "configs" / f"{stage}.yaml").read_text())["defaults"]
        assert (defaults[0], defaults[-1]) == (f"schema/{stage}", "_self_")


def test_every_kind_of_part_has_an_installed_folder():
    assert set(PACKAGES.values()) <= set(SETUPTOOLS["packages"])


def test_the_constraints_pin_every_dependency_that_ci_installs():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["train"], *extras["mujoco"], *extras["dev"]]
    names = {line.split(">=")[0].lower().replace("_", "-") for line in wanted}
    assert names <= pinned, sorted(names - pinned)
    assert all("+" not in line for line in lines if "==" in line and line[0] != "#"), (
        "a local version cannot be found on the index"
    )


def test_a_robot_installs_no_learning_library():
    base = " ".join(PROJECT["project"]["dependencies"])
    assert not any(heavy in base for heavy in ("torch", "mujoco", "rsl", "gymnasium", "matplotlib"))
