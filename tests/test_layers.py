"""Architecture: who may import whom (DESIGN.md, section 2), and the budgets of the style guide."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "robokd": "robokd",
    "tasks": "robokd.tasks",
    "sim2real": "robokd.sim2real",
    "configs": "robokd.configs",
}
FILE_LINES, FUNCTION_LINES, LOOP_LINES, PARAMETERS = 400, 50, 60, 8
LOOPS = {"train"}  # functions that read as an algorithm box
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}

GROUND = {
    "specs", "draws", "geometry", "intervals", "registry", "run", "progress", "events", "schemas", "files",
    "memory", "cores", "schedule", "fields", "learning", "deploying",
}  # fmt: skip
ROBOT = {"specs", "geometry", "intervals", "registry", "run", "files", "memory"}
NEUTRAL = {"specs", "draws", "geometry", "registry", "schedule"}
CONFIG = {"config", "schemas", "fields", "learning", "deploying", "overrides"}
PARTS = {"teachers", "students", "losses"}
LEARNING = {*GROUND, *CONFIG, "sim", "vision", "env", "nets", *PARTS, "curricula", "learn", "evaluate"}
# part -> what it may import besides itself and the package's root; the longest name that fits a module counts
MAY_IMPORT = {
    **{part: set() for part in GROUND},
    "draws": {"draws_kernel"},
    "draws_kernel": set(),
    "run": {"events", "files", "memory"},
    "deploying": {"fields"},
    "schemas": {"cores", "deploying", "fields", "learning"},
    "learning": {"fields", "schedule"},
    "overrides": {"registry", "schedule"},
    "config": {"files", "registry", "specs", "schemas", "deploying", "overrides"},
    "sim": {*NEUTRAL, "memory"},
    "vision": {*NEUTRAL, "cores"},
    "env": {"sim", "vision", "curricula", *NEUTRAL},
    "nets": {"specs"},
    # parts know each other's protocols only
    **{part: {"nets", "vision", "students.base", "teachers.base", *NEUTRAL} for part in PARTS},
    "curricula": NEUTRAL,
    **{part: LEARNING | {"charts"} for part in ("learn", "evaluate", "doctor", "play", "look")},
    "bench": LEARNING | {"charts", "export", "sim2real.policy"},
    "charts": {"specs", "vision"},
    "evidence": {"files", "intervals"},
    "report": LEARNING | {"charts", "evidence", "play", "sim2real.log", "sim2real.log_reader"},
    # of export, what the robot reads too
    **{f"export.{name}": set() for name in ("metadata", "signature", "tracing")},
    "export.parity": {"files"},
    "export.sight": {"files", "specs", "vision.encode"},
    "export.manifest": {"files", "specs", "export.sight"},
    "export.bundle": {"specs", "files", "keys", "export.manifest", "export.signature"},
    "keys": {"files", "registry", "export.signature"},
    # what another suite has made
    "export.dialects": {"files"},
    "export.wrap": {"specs", "export.parity", "export.tracing"},
    "export.supplied": {"specs", "registry", "files", "export"},
    "export.foreign": {"config", "files", "keys", "run", "specs", "export"},
    # its stage function opens a run and steps its environment, as learn does
    **{part: LEARNING | {"export", "keys"} for part in ("export.contract", "export.onnx")},
    "export": set(),
    "tasks": {"env", "sim", "vision", *NEUTRAL},
    "sim2real": {
        *ROBOT,
        *CONFIG,
        "vision.encode",
        *(f"export.{name}" for name in ("bundle", "manifest", "parity", "sight")),
    },
    "sim2real.mujoco_host": {"env", "sim", "vision", "sim2real", *NEUTRAL, "files", "memory", *CONFIG},
    "sim2real.body": {"env", *NEUTRAL},
    "sim2real.foreign_world": {"env", "sim2real.body"},
    "configs": set(),
    "pipeline": LEARNING | {"export", "sim2real.interrupts", "sim2real.safety", "report"},
    "manual": {"registry", "schedule", *CONFIG},
    "sweep": {"registry", "run", *CONFIG},
    "cli": {"registry", "run", "manual", "keys", "sweep", *CONFIG},  # the rest by name
    "__main__": {"cli"},
}
ROBOT_EXPORT = (
    "bundle", "dialects", "foreign", "manifest", "metadata", "parity", "sight", "signature", "supplied",
    "tracing", "wrap",
)  # fmt: skip
WITHOUT_TORCH = (
    "sim2real",
    *(f"export.{name}" for name in ROBOT_EXPORT),
    "keys",
    "vision.encode",
    *GROUND - {"run", "draws"},
    *CONFIG,
    "cli",
    "manual",
    "sweep",
    "geometry",
)
# runs in a process of its own; and what fits a simulation to a log, nowhere near a robot
SIMULATING = {
    "sim2real.mujoco_host", "sim2real.body", "sim2real.foreign_world", "sim2real.identify", "sim2real.replica"
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Our modules by name without `robokd.`; the root is ''."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            words = [*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
            name = ".".join(words[1:]).removesuffix("__init__").rstrip(".")
            found[name] = path
    return found


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of what runs as an import; what only a type checker reads is no dependency."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imports(node)


def ours(full: str) -> str:
    """The module of ours that a full name is, or is defined in; '' for the root."""
    name = full.removeprefix("robokd").lstrip(".")
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def covers(part: str, module: str) -> bool:
    return f"{module}.".startswith(f"{part}.")


def part_of(module: str) -> str:
    fitting = [part for part in MAY_IMPORT if covers(part, module)]
    assert fitting, f"robokd.{module} is in no row of MAY_IMPORT: say here what it may import"
    return max(fitting, key=len)


def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_a_module_imports_only_the_layers_below_it(module):
    part = part_of(module)
    allowed = {part, *MAY_IMPORT[part]}
    wrong = set()
    for full in imports(tree_of(module)):
        if full.split(".")[0] != "robokd":
            continue
        target = ours(full)
        package = next(
            (kind for kind in ("tasks", "sim2real") if target == kind and covers(kind, module)), None
        )
        if target and package is None and not any(covers(one, target) for one in allowed):
            wrong.add(target)
    assert not wrong, f"robokd.{module} ({part}) must not import {sorted(wrong)}; it may: {sorted(allowed)}"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if any(covers(one, name) for one in WITHOUT_TORCH)]
)
def test_the_robot_side_and_the_command_line_have_no_torch(module):
    if module in SIMULATING:
        return
    heads = {full.split(".")[0] for full in imports(tree_of(module))}
    assert not heads & {"torch", "tensordict", "rsl_rl", "mujoco"}, module


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_keep_their_budgets(module):
    path = MODULES[module]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{path.relative_to(ROOT)} has {lines} lines"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = LOOP_LINES if node.name in LOOPS else FUNCTION_LINES
            assert length <= limit, f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
            names = [one.arg for one in (*node.args.args, *node.args.kwonlyargs)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            assert count <= PARAMETERS, f"{path.relative_to(ROOT)}: {node.name} has {count} parameters"


def test_no_file_is_named_after_nothing():
    names = {path.stem for path in [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]}
    assert not names & FORBIDDEN_NAMES


def test_the_import_rules_would_catch_a_mistake():
    tree = ast.parse(
        "def f():\n    from robokd.env.native import NativeEnv\nif TYPE_CHECKING:\n    import torch\n"
    )
    assert list(imports(tree)) == ["robokd.env.native.NativeEnv"]
    assert ours("robokd.run.Run") == "run"
    assert ours("robokd.UserError") == ""
    assert part_of("export.bundle") == "export.bundle"
