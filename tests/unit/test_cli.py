import json
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from robokd import UserError, cli, progress, registry
from robokd import run as runs
from robokd.cli import main
from robokd.config import SCHEMAS, compose, dump
from robokd.run import Run

pytestmark = pytest.mark.usefixtures("parts")


class Stages:
    """Stand-ins for the stage functions; `script` says what the next one does after its first checkpoint."""

    def __init__(self):
        self.calls = []
        self.script = lambda run: None

    def __getattr__(self, name):
        def stage(config, resume):
            self.calls.append((name, config, resume))
            run = resume or Run.create(
                config.runs,
                task=config.task.name,
                stage=name,
                config=dump(config),
                parents=[],
                seed=config.seed,
            )
            run.log(1, {"loss": 1.0})
            run.save_checkpoint(1, {"weight": torch.zeros(1)}, best=True)
            run.log(2, {"loss": 0.5})
            self.script(run)
            return run.write_summary({})

        return stage


@pytest.fixture
def stages(monkeypatch, tmp_path):
    module = types.ModuleType("fake_stages")
    fake = Stages()
    for name in SCHEMAS:
        monkeypatch.setitem(cli.STAGES, name, f"fake_stages:{name}")
        setattr(module, name, getattr(fake, name))
    monkeypatch.setitem(sys.modules, "fake_stages", module)
    monkeypatch.chdir(tmp_path)
    return fake


def run_cli(capsys, *words):
    code = main(words)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def raising(error):
    def script(run):
        raise error

    return script


def test_a_stage_gets_its_configuration_and_its_summary_is_the_last_line(stages, capsys):
    code, out, err = run_cli(capsys, "teach", "task=hop", "num_envs=3")
    assert (code, err) == (0, "")
    ((name, config, resume),) = stages.calls
    assert (name, config.num_envs, config.task.name, resume) == ("teach", 3, "hop", None)
    assert json.loads(Path(out.splitlines()[-1]).read_text())["stage"] == "teach"


def test_a_mistake_is_one_line_and_exit_code_2(stages, capsys):
    for words, message in (
        (["teach", "task=hob"], "error: no task named 'hob'. Did you mean 'hop'? Known: hop, skip\n"),
        (["taech"], "error: no stage named 'taech'. Did you mean 'teach'? Known: "),
        (["distill"], "error: distill needs parent=…: "),
        (
            ["distill", "parent=runs/nothing"],
            "error: runs/nothing: no such folder. There are no runs in runs; ",
        ),
        (["teach", "task=hop", "num_envs=0"], "error: num_envs must be >= 1, got 0\n"),
        (["list", "tassk"], "error: no kind named 'tassk'. Did you mean 'task'? Known: "),
        (["resume"], "error: resume takes run=<run folder>"),
        (["resume", "run=x", "num_envs=3"], "error: resume takes run=<run folder>"),
        (["resume", "run=x"], "error: x: no such folder."),
        (["teach", "task=hop", "plugins=[no_such]"], "error: plugins: no module named 'no_such'"),
    ):
        code, out, err = run_cli(capsys, *words)
        assert (code, out) == (2, ""), words
        assert err.startswith(message)
        assert err.count("\n") == 1
    assert stages.calls == []


def test_a_users_mistake_found_by_a_stage_is_one_line_too(stages, capsys):
    stages.script = raising(UserError("camera 'back' does not exist.\nKnown: front"))
    code, _, err = run_cli(capsys, "teach", "task=hop")
    assert (code, err) == (2, "error: camera 'back' does not exist. Known: front\n")


def test_a_fault_of_ours_shows_its_traceback_and_exits_with_1(stages, capsys):
    stages.script = raising(ZeroDivisionError("by us"))
    code, out, err = run_cli(capsys, "teach", "task=hop")
    assert (code, out) == (1, "")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: this is a fault of robokd")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000000000,)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nframe #0: ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        RuntimeError("Storage size calculation overflowed with sizes=[1000000000000000000, 36]"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        ValueError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_sizes_that_no_memory_holds_are_one_line_that_names_what_sets_them(stages, capsys, error):
    stages.script = raising(error)
    code, out, err = run_cli(capsys, "teach", "task=hop")
    assert (code, out) == (2, "")
    assert err.startswith("error: memory does not suffice for these sizes (")
    assert "lower num_envs, counts of episodes and steps, batches, widths of networks and pictures" in err
    assert err.count("\n") == 1
    assert (str(error).splitlines() or ["MemoryError"])[0] in err


def test_ctrl_c_says_how_to_go_on_and_that_command_does(stages, capsys):
    stages.script = raising(KeyboardInterrupt())
    code, out, err = run_cli(capsys, "teach", "task=hop")
    assert (code, out) == (130, "")
    assert err == f"\ninterrupted; go on with: robokd resume run={runs.created[-1]}\n"
    again = err.split("robokd ")[1].split()
    code, _, err = run_cli(capsys, *again)
    assert code == 130
    assert err.endswith(f"go on with: robokd {' '.join(again)}\n")
    stages.script = lambda run: None
    assert run_cli(capsys, *again)[0] == 0


def test_ctrl_c_in_a_pipeline_names_the_pipelines_run(stages, capsys, monkeypatch):
    def pipeline(config, resume):
        settings = {"task": "hop", "seed": 0, "parents": []}
        Run.create("runs", stage="pipeline", config=dump(config), **settings)
        Run.create("runs", stage="teach", config=dump(config.teach), **settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fake_stages"], "pipeline", pipeline)
    code, _, err = run_cli(capsys, "pipeline", "task=hop")
    assert code == 130
    assert err.strip().endswith(str(runs.created[-2]))
    assert "_pipeline_" in err


def test_resume_continues_the_same_run_from_its_checkpoint(stages, capsys):
    stages.script = raising(RuntimeError("killed"))
    run_cli(capsys, "teach", "task=hop", "num_envs=3")
    path = runs.created[-1]
    stages.script = lambda run: None
    code, out, _ = run_cli(capsys, "resume", f"run={path}")
    _, config, resumed = stages.calls[-1]
    assert (code, config.num_envs, resumed.path) == (0, 3, path)
    assert out.splitlines()[-1] == str(path / "summary.json")
    assert [row["step"] for row in resumed.metrics()] == [1, 1, 2]  # cut back to step 1, then logged again


def test_a_run_without_a_checkpoint_resumes_from_the_beginning(stages, capsys):
    config = compose("teach", ["task=hop"])
    run = Run.create("runs", task="hop", stage="teach", config=dump(config), seed=0)
    run.log(1, {"loss": 9.0})
    assert run_cli(capsys, "resume", f"run={run.path}")[0] == 0
    assert [row["loss"] for row in run.metrics()] == [1.0, 0.5]


def test_a_finished_run_is_not_resumed(stages, capsys):
    run_cli(capsys, "teach", "task=hop")
    path = runs.created[-1]
    before = len(stages.calls)
    code, out, _ = run_cli(capsys, "resume", f"run={path}")
    assert (code, len(stages.calls)) == (0, before)
    assert out.splitlines() == [f"{path} is finished; nothing to resume", str(path / "summary.json")]


def test_a_stage_inherits_from_its_parents_run(stages, capsys):
    run_cli(capsys, "teach", "task=hop", "task.tolerance_m=0.05")
    teach = runs.created[-1]
    assert run_cli(capsys, "distill", f"parent={teach}", "task.height_m=[0,1]")[0] == 0
    config = stages.calls[-1][1]
    assert (config.task.tolerance_m, config.task.height_m) == (0.05, (0.0, 1.0))
    code, _, err = run_cli(capsys, "distill", f"parent={teach}", "task=skip")
    assert (code, err.split(" ", 1)[0]) == (2, "error:")
    assert "skip" in err
    assert "hop" in err


def test_a_parent_of_the_wrong_stage_is_refused_with_the_reason(stages, capsys):
    run_cli(capsys, "teach", "task=hop")
    teach = runs.created[-1]
    for words, message in (
        (["refine", f"parent={teach}"], "is a teach run; refine works on the run of a distill stage"),
        (
            ["export", f"run={teach}"],
            "a distill or refine stage: a teacher acts on what only the simulator knows",
        ),
    ):
        code, _, err = run_cli(capsys, *words)
        assert code == 2
        assert message in err


def test_a_parent_without_the_checkpoint_that_is_asked_for_is_refused(stages, capsys):
    config = dump(compose("teach", ["task=hop"]))
    run = Run.create("runs", task="hop", stage="teach", config=config, seed=0)
    code, _, err = run_cli(capsys, "distill", f"parent={run.path}")
    assert (code, "has no best checkpoint; it has: none" in err) == (2, True)
    run.save_checkpoint(1, {"weight": torch.zeros(1)})
    assert run_cli(capsys, "distill", f"parent={run.path}")[0] == 2
    assert run_cli(capsys, "distill", f"parent={run.path}", "checkpoint=last")[0] == 0


def test_a_baseline_of_another_task_is_refused(stages, capsys):
    run_cli(capsys, "teach", "task=hop")
    run_cli(capsys, "teach", "task=skip")
    hop, skip = runs.created[-2:]
    code, _, err = run_cli(capsys, "evaluate", f"run={hop}", f"baseline={skip}")
    assert code == 2
    assert "cannot compare" in err
    assert "of task hop" in err
    assert "of task skip" in err
    assert run_cli(capsys, "evaluate", f"run={hop}", f"baseline={hop}")[0] == 0


def test_a_safety_stop_exits_with_3_and_still_prints_the_summary(stages, capsys, monkeypatch):
    safety = types.ModuleType("robokd.sim2real.safety")
    safety.SafetyStop = type("SafetyStop", (Exception,), {})
    monkeypatch.setitem(sys.modules, "robokd.sim2real.safety", safety)

    def stop(run):
        run.write_summary({"stop_reason": "stale"})
        raise safety.SafetyStop("no reading for 0.2 s")

    stages.script = stop
    code, out, err = run_cli(capsys, "teach", "task=hop")
    assert (code, err) == (3, "safety stop: no reading for 0.2 s\n")
    assert out.splitlines()[-1] == str(runs.created[-1] / "summary.json")


def test_a_safety_stop_of_a_resumed_run_prints_its_summary_too(stages, capsys, monkeypatch):
    safety = types.ModuleType("robokd.sim2real.safety")
    safety.SafetyStop = type("SafetyStop", (Exception,), {})
    monkeypatch.setitem(sys.modules, "robokd.sim2real.safety", safety)
    run = Run.create("runs", task="hop", stage="teach", config=dump(compose("teach", ["task=hop"])), seed=0)
    runs.created.clear()  # another process has made it

    def stop(run):
        run.write_summary({"stop_reason": "stale"})
        raise safety.SafetyStop("no reading for 0.2 s")

    stages.script = stop
    code, out, _ = run_cli(capsys, "resume", f"run={run.path}")
    assert (code, out.strip()) == (3, str(run.path / "summary.json"))


HARDWARE = ["bundle=a.robokd", "robot=steel", "arm=true"]


@pytest.fixture
def robots(parts):
    """A robot that is simulated, and one that is not."""

    @registry.register("robot", "steel")
    @dataclass(kw_only=True)
    class SteelCfg:
        """Steel."""

    @registry.register("robot", "paper")
    @dataclass(kw_only=True)
    class PaperCfg:
        """Paper."""

        def plant(self, *, bundle, seed):
            """See SimulatedCfg.plant."""


def test_a_deployment_on_hardware_is_not_resumed(stages, robots, capsys):
    for words in (HARDWARE, HARDWARE[:-1]):
        config = dump(compose("deploy", words))
        run = Run.create("runs", task="hop", stage="deploy", config=config, seed=0)
        code, _, err = run_cli(capsys, "resume", f"run={run.path}")
        assert code == 2
        assert f"{run.path}: a deploy on hardware is not resumed" in err
        assert "type the deploy command again" in err
    config = dump(compose("sysid", HARDWARE))
    run = Run.create("runs", task="hop", stage="sysid", config=config, seed=0)
    assert run_cli(capsys, "resume", f"run={run.path}")[0] == 2
    assert stages.calls == []


def test_ctrl_c_of_a_deployment_says_where_the_log_is_on_hardware_and_how_to_go_on_in_simulation(
    stages, robots, capsys, monkeypatch
):
    def deploy(config, resume):
        made = Run.create("runs", task="hop", stage="deploy", config=dump(config), seed=0)
        (made.path / "log.mcap").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fake_stages"], "deploy", deploy)
    code, _, err = run_cli(capsys, "deploy", *HARDWARE)
    assert (code, err) == (130, f"\ninterrupted; the log is {runs.created[-1] / 'log.mcap'}\n")
    code, _, err = run_cli(capsys, "deploy", "bundle=a.robokd", "robot=paper")
    assert (code, err) == (130, f"\ninterrupted; go on with: robokd resume run={runs.created[-1]}\n")


def test_ctrl_c_while_it_begins_is_no_traceback():
    code = """if True:
        import sys
        class Interrupt:
            def find_spec(self, name, *_):
                if name == "robokd.config":
                    raise KeyboardInterrupt
        sys.meta_path.insert(0, Interrupt())
        from robokd.cli import main
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted; nothing was begun\n")


def test_help_names_stages_keys_parts_and_defaults(stages, capsys):
    for words in ([], ["--help"]):
        code, out, _ = run_cli(capsys, *words)
        assert code == 0
        assert all(f"\n  {stage} " in out for stage in SCHEMAS)
    code, out, _ = run_cli(capsys, "distill", "--help")
    assert code == 0
    for text in (
        "example: robokd distill",
        "parent=…                           required: the run of a teacher",
        "num_envs=256                       environments simulated at once",
        "known: action_huber, estimate, latent",
        "loss.estimate.weight=1.0",
        "dagger.rounds=60 ",
        "cameras=[front]",
    ):
        assert text in out
    assert "loss.latent.weight" not in out
    assert "task.tolerance_m" not in out
    assert "task.tolerance_m=0.02              m" in run_cli(capsys, "teach", "task=hop", "--help")[1]
    for stage in SCHEMAS:
        assert run_cli(capsys, stage, "--help")[0] == 0
    assert stages.calls == []


def test_list_prints_parts_with_what_they_are(capsys):
    assert run_cli(capsys, "list", "task")[1].splitlines() == [
        "task:",
        "  hop              Hop on one leg.",
        "  skip             Skip on two.",
    ]
    assert {"loss:", "robot:", "teacher:"} < set(run_cli(capsys, "list")[1].splitlines())


def test_version_is_the_packages(capsys):
    from robokd import __version__

    assert run_cli(capsys, "--version") == (0, f"robokd {__version__}\n", "")


def test_deploying_imports_neither_torch_nor_mujoco():
    code = """if True:
        import sys
        from robokd import cli
        code = cli.main(["deploy", "bundle=nothing.robokd"])
        assert code == 2 and "robokd.sim2real.deploy" in sys.modules
        heavy = ("torch", "mujoco", "tensordict", "rsl_rl", "numba")
        found = sorted(name for name in sys.modules if name.split(".")[0] in heavy)
        assert not found, found
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1


def test_python_m_robokd_is_robokd():
    words = [sys.executable, "-m", "robokd", "taech"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no stage named 'taech'. Did you mean 'teach'?")


def test_progress_prints_lines_with_rate_and_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(10, "rounds", start=2) as bar:
        for done in range(8):
            now[0] += 4.0
            bar.advance(1, loss=0.5 if done == 0 else None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rounds 5/10 (50 %), 4 s each, 0:00:20 left, loss 0.5"
    assert lines[-1] == "rounds 10/10 (100 %), 4 s each, 0:00:00 left, loss 0.5"


def test_progress_works_without_rich_and_with_it(monkeypatch):
    class Terminal:
        written = ""

        def isatty(self):
            return True

        def write(self, text):
            Terminal.written += text

        def flush(self):
            pass

    with progress.Progress(2, "rounds", stream=Terminal()) as bar:
        bar.advance(2, loss=0.25)
    assert "rounds" in Terminal.written
    Terminal.written = ""
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    with progress.Progress(2, "rounds", stream=Terminal()) as bar:
        bar.advance(2)
    assert "rounds 2/2 (100 %)" in Terminal.written
