"""`robokd bench`: rows, gates and what is left out. What the rows say of speed is nobody's test."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mujoco")

from robokd import UserError
from robokd.bench import room
from robokd.bench.bench import bench
from robokd.bench.opengl import check_opengl
from robokd.bench.row import Effort
from robokd.cli import main
from robokd.config import BenchConfig

TINY = Effort(
    repeats=2, worlds=2, compared=2, pixels=32, slices=160, burst_s=0.0, control_steps=3, is_cold=False
)
OPENGL_ROWS = {"depth beside OpenGL", "colour beside OpenGL", "segments beside OpenGL"}
OTHER_ROWS = {
    "depth beside rays", "depth, camera on a body", "first depth picture", "first colours and segments"
}  # fmt: skip
COLLECT_ROWS = ["physics and pictures", "physics, pictures, student"]
FIELDS = {"name", "ours", "peer", "peer_name", "ratio", "unit", "gate"}
WITHOUT_GL = {**os.environ, "MUJOCO_GL": "disable"}


@pytest.fixture(scope="module")
def opengl():
    try:
        check_opengl(room.build_room(TINY, 1), room.cameras(8)["depth"])
    except UserError as error:
        pytest.skip(f"no OpenGL on this machine: {error}")


def measured(what, path, effort=TINY):
    assert bench(BenchConfig(what=what, out=str(path)), effort=effort) == path
    return json.loads(path.read_text())


def check_row(row):
    assert set(row) >= FIELDS
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"])
    assert row["ours"] > 0
    assert set(row["gate"]) >= {"name", "value", "ok"}
    assert row["gate"]["ok"] is all(one["value"] <= one["limit"] for one in row["gate"]["measures"])


def test_render_writes_a_row_for_each_peer_and_all_gates_hold(opengl, tmp_path, capsys):
    found = measured("render", tmp_path / "rows.json")
    assert (found["stage"], found["what"], found["left_out"]) == ("bench", "render", [])
    assert {row["name"] for row in found["rows"]} == OPENGL_ROWS | OTHER_ROWS
    for row in found["rows"]:
        check_row(row)
        assert row["gate"]["ok"], row
    assert {"cpu", "cores", "python", "numpy", "mujoco", "numba", "torch"} <= set(found["machine"])
    assert found["wall_s"] > 0
    shown = capsys.readouterr().err
    assert all(row["name"] in shown for row in found["rows"])


def test_collect_moves_and_sees_as_a_plain_loop_does(opengl, tmp_path):
    rows = measured("collect", tmp_path / "rows.json")["rows"]
    assert [row["name"] for row in rows] == COLLECT_ROWS
    for row in rows:
        check_row(row)
        assert row["gate"]["ok"], row
        assert row["unit"] == "us/step"
        assert row["ours_steps_per_s"] == pytest.approx(1e6 / row["ours"])


def test_a_gate_that_fails_is_written_down_and_is_a_fault_of_ours(opengl, tmp_path):
    coarse = dataclasses.replace(TINY, slices=5)  # round shapes of five sides are another scene
    path = tmp_path / "rows.json"
    with pytest.raises(RuntimeError, match="not the same work, so no comparison: physics and pictures, "):
        measured("collect", path, coarse)
    for row in json.loads(path.read_text())["rows"]:
        check_row(row)
        assert not row["gate"]["ok"]
        assert row["gate"]["value"] > 1


def test_without_opengl_its_rows_are_left_out_with_the_reason(tmp_path):
    code = (
        "import sys; from robokd.bench.bench import bench; from robokd.bench.row import Effort\n"
        "from robokd.config import BenchConfig\n"
        f"bench(BenchConfig(what='render', out=sys.argv[1]), effort={TINY!r})"
    )
    path = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=WITHOUT_GL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert {row["name"] for row in found["rows"]} == OTHER_ROWS
    assert {one["name"] for one in found["left_out"]} == OPENGL_ROWS
    assert all("cannot use OpenGL here" in one["why"] for one in found["left_out"])
    assert "left out: renderer=mujoco cannot use OpenGL here" in done.stderr


def test_the_command_prints_the_path_last_and_leaves_out_what_needs_opengl(tmp_path):
    path = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "robokd", "bench", "what=collect", f"out={path}"],
        env=WITHOUT_GL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(path)
    found = json.loads(path.read_text())
    assert (found["rows"], [one["name"] for one in found["left_out"]]) == ([], COLLECT_ROWS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["what=rendr"], "no benchmark named 'rendr'. Did you mean 'render'? Known: collect, render"),
        (["what=render", "repeats=0"], "repeats must be >= 1, got 0"),
        (["what=render", "out=no/rows.json"], "cannot write no/rows.json: there is no folder no"),
    ],
)
def test_a_mistake_is_one_line(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_room_has_all_shapes_and_the_same_views_however_many_there_are():
    few, many = (room.build_room(Effort(seed=3), count) for count in (2, 5))
    assert few.model.ngeom >= 50
    assert {room.PLANE, *room.SOLIDS} == set(few.model.geom_type)
    for field in ("cam_xpos", "cam_xmat"):
        seen = few.get(field).numpy()
        np.testing.assert_array_equal(seen, many.get(field).numpy()[:2])
        np.testing.assert_allclose(seen[:, 0], seen[:, 1], atol=1e-12)  # fixed and carried see the same
    assert not np.array_equal(seen[0], seen[1])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["render", "collect"])
def test_a_full_measurement_passes_its_gates_and_is_faster_everywhere(what, tmp_path):
    path = tmp_path / "rows.json"
    assert main(["bench", f"what={what}", f"out={path}"]) == 0
    for row in json.loads(path.read_text())["rows"]:
        assert row["ratio"] >= min(row["bar"] or 1, 1) / 2, row
