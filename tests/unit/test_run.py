import hashlib
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from robokd import UserError, run
from robokd.files import read_json, write_atomic
from robokd.run import Run, check_root

CONFIG = {"task": {"part": "hop", "tolerance_m": 0.02}, "sim": {"part": "mujoco"}, "device": "cpu"}


@pytest.fixture
def fresh(tmp_path):
    return Run.create(tmp_path / "runs", task="hop", stage="teach", config=CONFIG, seed=3)


def state(value):
    return {"weight": torch.full((2,), float(value)), "totals": {"steps": value, "best": [-math.inf, None]}}


def test_a_run_reads_back_as_it_was_created(fresh):
    again = Run.open(fresh.path)
    assert (again.stage, again.task, again.seed, again.config) == ("teach", "hop", 3, CONFIG)
    assert fresh.path.name.split("_")[1:3] == ["hop", "teach"]
    digest = hashlib.sha256((fresh.path / "config.yaml").read_bytes()).hexdigest()
    assert again.lineage["config_sha256"] == digest
    assert set(again.lineage["versions"]) >= {"robokd", "python", "numpy"}
    assert "argv" not in json.dumps(again.lineage)


def test_creating_never_takes_an_existing_folder(tmp_path, monkeypatch):
    ids = iter([b"\0\0\0", b"\0\0\0", b"\0\0\1"])
    monkeypatch.setattr(run.os, "urandom", lambda count: next(ids))
    stamp = "20260101-000000_hop_teach"
    paths = [run._new_folder(tmp_path, stamp) for _ in range(2)]
    assert [path.name[-6:] for path in paths] == ["000000", "000001"]


def test_parents_are_recorded_by_the_hash_of_the_checkpoint_that_is_read(fresh):
    fresh.save_checkpoint(1, state(1), best=True)
    fresh.save_checkpoint(2, state(2))
    root = fresh.path.parent
    for which, config in (("best", {}), ("last", {"checkpoint": "last"})):
        parents = [fresh.reference(which)]
        child = Run.create(root, task="hop", stage="distill", config=config, parents=parents, seed=0)
        file = fresh.path / "checkpoints" / read_json(fresh.path / "checkpoints" / f"{which}.json")["file"]
        wanted = hashlib.sha256(file.read_bytes()).hexdigest()
        assert child.lineage["parents"] == [{"path": str(fresh.path), "sha256": wanted}]


def test_a_run_is_not_resumed_from_a_parent_that_has_changed(fresh):
    fresh.save_checkpoint(1, state(1), best=True)
    parents = [fresh.reference()]
    root = fresh.path.parent
    child = Run.create(root, task="hop", stage="distill", config={}, parents=parents, seed=0)
    child.rewind()
    fresh.save_checkpoint(2, state(2))  # the best one is as it was
    child.rewind()
    fresh.save_checkpoint(3, state(3), best=True)
    with pytest.raises(UserError, match=r"was begun from .* with sha256 .*, now it has .*: begin a new run"):
        child.rewind()


def test_a_path_without_a_run_names_the_runs_nearby(fresh, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"no such folder. Runs in .*: {fresh.path.name}"):
        Run.open(fresh.path.parent / "nothing")
    with pytest.raises(UserError, match=f"not a run .* Runs in .*: {fresh.path.name}"):
        Run.open(fresh.path.parent)
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")  # runs of the folder that one works in are told too
    with pytest.raises(UserError, match="There are no runs"):
        Run.open(tmp_path / "empty" / "x")


def test_a_path_without_a_run_names_those_in_runs_beside_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Run.create("runs", task="hop", stage="teach", config={}, seed=0).path
    with pytest.raises(UserError, match=f"nope: no such folder. Runs in runs: {made.name}$"):
        Run.open("nope")
    made.rename("moved")
    other = Run.create("runs", task="hop", stage="teach", config={}, seed=0).path
    with pytest.raises(UserError, match=f"Runs in .: moved. Runs in runs: {other.name}$"):
        Run.open("nope")
    with pytest.raises(UserError, match=f"nope: no such folder. Runs in .*: {other.name}$"):
        Run.open(tmp_path / "runs" / "nope")  # one folder, told once


@pytest.mark.parametrize("root", ["/proc/x", "file", "file/below"])
def test_a_folder_in_which_no_run_can_be_made_is_a_mistake_before_and_when_it_is_made(
    root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for make in (check_root, lambda root: Run.create(root, task="a", stage="b", config={}, seed=0)):
        with pytest.raises(UserError, match=f"no run can be made in {root}: .*runs=…"):
            make(root)


def test_looking_whether_runs_can_be_made_leaves_nothing(tmp_path):
    check_root(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.yaml", "lineage.json"])
def test_a_cut_file_is_one_clear_line(fresh, name):
    text = (fresh.path / name).read_bytes()
    for cut in (b"", text[: len(text) // 2], b"\xff\xfe"):
        (fresh.path / name).write_bytes(cut)
        with pytest.raises(UserError, match=f"{name}.*cut or altered"):
            Run.open(fresh.path)
    os.remove(fresh.path / "config.yaml")
    with pytest.raises(UserError, match=r"config\.yaml does not exist|cut or altered"):
        Run.open(fresh.path)


def test_metrics_are_lines_of_json_and_what_is_not_finite_is_null(fresh):
    fresh.log(1, {"reward": 0.5, "time/step_s": math.nan})
    fresh.log(2, {"reward": np.float32(1)})
    lines = (fresh.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == fresh.metrics()
    assert fresh.metrics() == [{"step": 1, "reward": 0.5, "time/step_s": None}, {"step": 2, "reward": 1.0}]


def test_tensorboard_reads_the_metrics_and_forgets_what_was_rewound(fresh):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fresh.log(1, {"reward": 1.0})
    fresh.save_checkpoint(1, state(1))
    fresh.log(2, {"reward": 2.0})
    fresh._events.close()
    again = Run.open(fresh.path)
    again.rewind()
    again.log(2, {"reward": 5.0})
    again.write_summary({})
    events = accumulator.EventAccumulator(str(fresh.path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(1, 1.0), (2, 5.0)]


def test_a_checkpoint_restores_bit_for_bit_and_old_ones_go(fresh):
    weight = torch.randn(5, dtype=torch.float64)
    fresh.save_checkpoint(1, {"weight": weight, "rng": torch.get_rng_state()}, best=True)
    fresh.save_checkpoint(2, state(2))
    fresh.save_checkpoint(3, state(3))
    assert torch.equal(Run.open(fresh.path).load_checkpoint("best")["weight"], weight)
    assert fresh.load_checkpoint()["totals"] == {"steps": 3, "best": [-math.inf, None]}
    assert fresh.checkpoint_step("best") == 1
    files = sorted(file.name for file in (fresh.path / "checkpoints").iterdir())
    assert files == ["best.json", "last.json", "step_00000001.pt", "step_00000003.pt"]


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(fresh, monkeypatch):
    fresh.save_checkpoint(1, state(1), best=True)
    replace, calls = os.replace, []

    class KilledError(Exception):
        pass

    for survive in range(3):
        calls.clear()

        def dying(source, target, survive=survive):
            calls.append(target)
            if len(calls) > survive:
                raise KilledError
            replace(source, target)

        monkeypatch.setattr(run.os, "replace", dying)
        with pytest.raises(KilledError):
            fresh.save_checkpoint(2, state(2), best=True)
        monkeypatch.undo()
        reopened = Run.open(fresh.path)
        assert reopened.load_checkpoint("last")["totals"]["steps"] == 1
        assert reopened.load_checkpoint("best")["totals"]["steps"] in (1, 2)
    fresh.save_checkpoint(2, state(2), best=True)
    assert fresh.load_checkpoint("last")["totals"]["steps"] == 2
    assert not list((fresh.path / "checkpoints").glob(".*"))


def test_truncated_altered_and_absent_checkpoints_are_refused_by_name(fresh):
    fresh.save_checkpoint(1, state(1))
    file = fresh.path / "checkpoints" / "step_00000001.pt"
    data = file.read_bytes()
    file.write_bytes(data[:-10])
    with pytest.raises(UserError, match=r"step_00000001.pt is truncated or altered: \d+ bytes, wanted \d+"):
        fresh.load_checkpoint()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"step_00000001.pt was altered: sha256"):
        fresh.load_checkpoint()
    file.unlink()
    with pytest.raises(UserError, match=r"step_00000001.pt is absent; last.json names it"):
        fresh.load_checkpoint()
    with pytest.raises(UserError, match="has no best checkpoint; it has: last"):
        fresh.load_checkpoint("best")
    with pytest.raises(UserError, match=r"no checkpoint named 'bset'\. Known: last, best"):
        fresh.load_checkpoint("bset")
    (fresh.path / "checkpoints" / "last.json").write_text('{"file": "../../x.pt"}')
    with pytest.raises(UserError, match="not a checkpoint pointer"):
        fresh.load_checkpoint()


def test_a_checkpoint_that_could_run_code_is_not_loaded(fresh, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    fresh.save_checkpoint(1, state(1))
    pointer = read_json(fresh.path / "checkpoints" / "last.json")
    file = fresh.path / "checkpoints" / pointer["file"]
    torch.save({"weight": Bomb()}, file, pickle_module=pickle)
    pointer |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    write_atomic(fresh.path / "checkpoints" / "last.json", json.dumps(pointer).encode())
    with pytest.raises(UserError, match="more than tensors and plain python"):
        fresh.load_checkpoint()
    assert not (tmp_path / "ran").exists()


def test_only_tensors_and_plain_python_are_saved(fresh):
    with pytest.raises(TypeError, match=r"state\['env'\]\[1\] is a ndarray"):
        fresh.save_checkpoint(1, {"env": [1, np.zeros(2)]})
    with pytest.raises(TypeError, match="key of type tuple"):
        fresh.save_checkpoint(1, {(1, 2): 3})
    assert not fresh.has_checkpoint()


def test_rewinding_cuts_the_metrics_back_to_the_checkpoint(fresh):
    fresh.log(1, {"reward": 1.0})
    fresh.save_checkpoint(1, state(1))
    fresh.log(2, {"reward": 2.0})
    with (fresh.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 3, "rew')  # the kill came here
    assert len(fresh.metrics()) == 2
    again = Run.open(fresh.path)
    again.rewind()
    assert again.metrics() == [{"step": 1, "reward": 1.0}]
    (fresh.path / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"metrics\.jsonl is truncated"):
        again.rewind()


def test_rewinding_without_a_checkpoint_begins_again(fresh):
    fresh.log(1, {"reward": 1.0})
    again = Run.open(fresh.path)
    again.rewind()
    assert again.metrics() == []


def test_wall_time_adds_up_over_resumes(fresh, monkeypatch):
    now = [fresh._started + 10.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    fresh.save_checkpoint(1, state(1))
    again = Run.open(fresh.path)
    again.rewind()
    now[0] += 5.0
    again.write_summary({})
    assert again.read_summary()["wall_s"] == pytest.approx(15.0)


def test_a_summary_has_the_common_fields_and_its_own(fresh):
    assert not fresh.is_finished
    with pytest.raises(UserError, match=f"has not finished; go on with: robokd resume run={fresh.path}"):
        fresh.read_summary()
    path = fresh.write_summary({"env_steps": 7, "success": {"rate": np.float32(0.5)}})
    summary = Run.open(fresh.path).read_summary()
    assert path == fresh.path / "summary.json"
    assert fresh.is_finished
    assert summary["success"] == {"rate": 0.5}
    assert (summary["env_steps"], summary["frames_rendered"], summary["sim"]) == (7, 0, "mujoco")
    common = "stage task sim seed device wall_s env_steps frames_rendered teacher_labels grad_samples"
    assert set(summary) >= {*common.split(), "peak_rss_mb", "peak_vram_mb", "git", "config_sha256", "parents"}
    assert summary["peak_rss_mb"] > 10


def test_atomic_writes_leave_the_old_content_when_they_fail(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(run.os, "replace", lambda source, target: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(UserError, match="holds a list, wanted a JSON object"):
        read_json(tmp_path / "x.json")
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "y.json")
