import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
from hydra.core.config_store import ConfigStore

from robokd import UserError, registry
from robokd.registry import find, names, register

pytestmark = pytest.mark.usefixtures("empty_registry")


def test_a_registered_part_is_found_and_knows_its_name():
    @register("loss", "huber")
    @dataclass(kw_only=True)
    class HuberCfg:
        delta: float = 0.1

    assert find("loss", "huber") is HuberCfg
    assert (HuberCfg.kind, HuberCfg.name) == ("loss", "huber")
    assert names("loss") == ["huber"]
    assert registry.identity(HuberCfg) == ("loss", "huber")
    assert registry.identity(int) is None


def test_a_registered_part_stands_in_hydra_and_losses_under_their_own_name():
    @dataclass(kw_only=True)
    class FirstCfg:
        delta: float = 0.1

    register("loss", "huber")(FirstCfg)
    register("task", "hop")(dataclass(kw_only=True)(type("SecondCfg", (), {})))
    repo = ConfigStore.instance().repo
    assert repo["loss"]["huber.yaml"].package == "loss.huber"
    assert repo["task"]["hop.yaml"].package == "task"


def test_a_taken_name_is_refused_with_both_classes():
    def make():
        return dataclass(kw_only=True)(type("SomeCfg", (), {}))

    register("task", "hop")(make())
    with pytest.raises(ValueError, match=r"task 'hop' is taken by .*SomeCfg; .*SomeCfg wants it too"):
        register("task", "hop")(make())


def test_the_same_name_may_stand_for_two_kinds():
    for kind in ("task", "robot"):
        register(kind, "hop")(dataclass(kw_only=True)(type("SomeCfg", (), {})))
    assert names("task") == names("robot") == ["hop"]


def test_an_unknown_name_is_answered_with_the_nearest_and_all():
    for name in ("reach", "lift"):
        register("task", name)(dataclass(kw_only=True)(type("SomeCfg", (), {})))
    with pytest.raises(UserError) as error:
        find("task", "reech")
    assert str(error.value) == "no task named 'reech'. Did you mean 'reach'? Known: lift, reach"


def test_unknown_kinds_are_refused():
    with pytest.raises(UserError, match=r"no kind named .los.\. Did you mean .loss."):
        names("los")
    with pytest.raises(ValueError, match="no kind named 'los'"):
        register("los", "x")


def test_a_class_that_cannot_be_a_part_is_refused():
    class Bare:
        pass

    @dataclass
    class Positional:
        x: int = 1

    @dataclass(kw_only=True)
    class Needy:
        x: int

    @dataclass(kw_only=True)
    class Named:
        name: str = ""

    @dataclass(kw_only=True)
    class Odd:
        x: object = len

    for cls, message in (
        (Bare, "is not a dataclass"),
        (Positional, "kw_only"),
        (Needy, "field 'x' needs a default"),
        (Named, "cannot be named 'name'"),
        (Odd, "a type that a config cannot hold"),
    ):
        with pytest.raises(ValueError, match=message):
            register("task", "odd")(cls)
    assert names("task") == []


def test_a_kind_imports_only_its_own_modules_that_register():
    code = """if True:
        import sys
        from robokd import registry
        registry.names("robot")
        others = ("robokd.tasks", "robokd.losses", "robokd.env", "robokd.sim.", "torch", "mujoco")
        wrong = sorted(name for name in sys.modules if f"{name}.".startswith(others))
        assert not wrong, wrong
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_new_file_in_a_kinds_folder_is_a_part_without_any_list(tmp_path, monkeypatch):
    package = tmp_path / "fake_losses"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "base.py").write_text("raise RuntimeError('base holds the protocol and is not imported')")
    (package / "host.py").write_text("raise RuntimeError('registers nothing and is not imported')")
    (package / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom robokd.registry import register\n\n"
        "@register('loss', 'mine')\n@dataclass(kw_only=True)\nclass MineCfg:\n    weight: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.PACKAGES, "loss", "fake_losses")
    registry._loaded.discard("loss")
    assert names("loss") == ["mine"]


def test_a_missing_optional_package_is_named_with_its_cure(tmp_path, monkeypatch):
    package = tmp_path / "needy_losses"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text("import not_installed_anywhere  # register(\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.PACKAGES, "loss", "needy_losses")
    registry._loaded.discard("loss")
    with pytest.raises(UserError, match=r"'not_installed_anywhere', not installed: pip install"):
        names("loss")


def test_plugins_register_and_unknown_ones_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "my_plugin.py").write_text(
        "from dataclasses import dataclass\nfrom robokd.registry import register\n\n"
        "@register('task', 'mine')\n@dataclass(kw_only=True)\nclass MineCfg:\n    x: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry.load_plugins(["my_plugin"])
    assert names("task") == ["mine"]
    assert registry.plugins() == {"my_plugin"}
    with pytest.raises(UserError, match="no module named 'no_such_plugin'"):
        registry.load_plugins(["no_such_plugin"])


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("import sys\n1 / 0\n", "ZeroDivisionError: division by zero", 2),
        ("def broken(:\n", "SyntaxError: invalid syntax", 1),
        ("\nimport not_there_either\n", "ModuleNotFoundError: No module named 'not_there_either'", 2),
        (
            "from robokd.registry import register\nregister('los', 'x')\n",
            "ValueError: no kind named 'los'",
            2,
        ),
        ("raise SystemExit(1)\n", "SystemExit: 1", 1),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_error_and_where(
    tmp_path, monkeypatch, text, said, line
):
    file = tmp_path / "bad_plugin.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"plugin 'bad_plugin' cannot be imported: ") as caught:
        registry.load_plugins(["bad_plugin"])
    assert f": {said}" in str(caught.value)
    assert f"(at {file}:{line})" in str(caught.value)
    assert "bad_plugin" not in registry.plugins()


def test_an_installed_plugin_that_is_broken_is_named_too(tmp_path, monkeypatch):
    (tmp_path / "worse_plugin.py").write_text("1 / 0\n")
    (tmp_path / "few_losses").mkdir()
    (tmp_path / "few_losses" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint(name="worse", value="worse_plugin", group=registry.PLUGINS)
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [entry])
    monkeypatch.setitem(registry.PACKAGES, "loss", "few_losses")
    registry._loaded.discard("loss")
    said = r"the installed plugin 'worse' \(worse_plugin\) cannot be imported: ZeroDivisionError"
    with pytest.raises(UserError, match=said):
        names("loss")
