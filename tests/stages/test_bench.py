"""`robokd bench`: rows, gates and what is left out. What the rows say of speed is nobody's test."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco")

from robokd import UserError, registry
from robokd.bench import distill, render, scene, sim_gpu
from robokd.bench.bench import bench
from robokd.bench.opengl import check_opengl
from robokd.bench.peer import PeerStudent
from robokd.bench.room import build_room
from robokd.bench.row import Effort
from robokd.bench.scatter import build_scatter
from robokd.cli import main
from robokd.config import BenchConfig
from robokd.students.base import Interface
from tests.unit.teacher_samples import obs_specs

TINY = Effort(
    repeats=2, worlds=2, gpu_worlds=2, num_envs=2, compared=2, pixels=32, slices=128, burst_s=0.0,
    control_steps=3, gradient_steps=5, race_rounds=1, is_cold=False,
)  # fmt: skip
OPENGL_BARS = {
    "depth, scatter, beside OpenGL": 80, "depth, room, beside OpenGL": 80,
    "colour, scatter, beside OpenGL": 30, "colour, room (textures, spot light), beside OpenGL": None,
    "segments, scatter, beside OpenGL": None,
}  # fmt: skip
OTHER_BARS = {
    "depth, scatter, beside rays": 25, "depth, room, beside rays": 25,
    "depth, scatter, camera on a body": 0.9, "first depth picture": 1, "first colours and segments": 1,
}  # fmt: skip
ON_GPU = "depth, scatter, on a GPU, beside mujoco_warp"
if torch.cuda.is_available():
    OTHER_BARS[ON_GPU] = 2
WARP = "depth, scatter, beside mujoco_warp"
if importlib.util.find_spec("mujoco_warp"):
    OTHER_BARS[WARP] = None
COLLECT_BARS = {
    "physics and pictures": None, "physics, pictures, cnn 12-16-16, 16 points, 75k weights": 30,
    "physics, pictures, cnn 8-8, 8 points, 62k weights": None,
}  # fmt: skip
DISTILL_UNITS = {
    "learn, one student, each as it comes": "us/frame", "learn, one student, both in float32": "us/frame",
    "learn, one student, both in bfloat16": "us/frame", "learn, rsl_rl with its own CNNModel": "us/frame",
    "round, one student, each as it comes": "us/sample", "round, one student, both in float32": "us/sample",
    "failures of a student after equal frames": "failures",
    "failures of a student after equal seconds": "failures",
}  # fmt: skip
FIELDS = {"name", "ours", "peer", "peer_name", "ratio", "unit", "gate"}
WITHOUT_GL = {**os.environ, "MUJOCO_GL": "disable"}


@pytest.fixture(scope="module")
def opengl():
    try:
        check_opengl(build_room(TINY, 1), scene.cameras(8)["depth"])
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
    assert (found["stage"], found["what"]) == ("bench", "render")
    assert {one["name"] for one in found["left_out"]} == {WARP, ON_GPU} - set(OTHER_BARS)
    assert {row["name"]: row["bar"] for row in found["rows"]} == OPENGL_BARS | OTHER_BARS
    for row in found["rows"]:
        check_row(row)
        assert row["gate"]["ok"], row
    assert {"cpu", "cores", "python", "numpy", "mujoco", "numba", "torch"} <= set(found["machine"])
    assert found["wall_s"] > 0
    shown = capsys.readouterr().err
    assert all(row["name"] in shown for row in found["rows"])


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow),
     pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
         not torch.cuda.is_available(), reason="needs a CUDA device")])],
)  # fmt: skip
def test_the_row_of_a_gpu_is_of_the_same_pictures_as_mujoco_warp_s_and_a_cpu_s(device):
    pytest.importorskip("mujoco_warp")
    views = scene.cameras(TINY.pixels)
    worlds = build_scatter(TINY, TINY.compared)
    row = render._on_gpu(device, render._Scene(views=views, small=worlds, large=worlds), TINY)
    check_row(row.to_dict())
    assert row.gate.ok, row.gate
    assert (row.name, row.bar, len(row.gate.measures)) == (ON_GPU, 2, 6)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.parametrize("measure", [sim_gpu.bare, sim_gpu.seeing])
def test_the_rows_of_a_gpu_are_of_the_physics_that_mujoco_warp_has_alone(measure, device):
    pytest.importorskip("mujoco_warp")
    row = measure(device, dataclasses.replace(TINY, gpu_worlds=4))
    check_row(row.to_dict())
    assert row.gate.ok, row.gate


def test_collect_moves_and_sees_as_a_plain_loop_does(opengl, tmp_path):
    rows = measured("collect", tmp_path / "rows.json")["rows"]
    assert {row["name"]: row["bar"] for row in rows} == COLLECT_BARS
    for row in rows:
        check_row(row)
        assert row["gate"]["ok"], row
        assert row["unit"] == "us/step"
        assert row["ours_steps_per_s"] == pytest.approx(1e6 / row["ours"])


@pytest.mark.slow
def test_distill_learns_the_same_from_the_same_frames_as_rsl_rl_does(tmp_path):
    rows = measured("distill", tmp_path / "rows.json")["rows"]
    assert {row["name"]: row["unit"] for row in rows} == DISTILL_UNITS
    for row in rows:
        check_row(row)
        assert row["gate"]["ok"], row
        assert row["bar"] == (1.2 if row["name"].endswith("each as it comes") else None)
    gates = {row["name"]: {one["name"]: one for one in row["gate"]["measures"]} for row in rows}
    exact = gates["learn, one student, both in float32"]
    assert exact["relative difference of the loss"]["limit"] == 1e-5
    assert exact["relative difference of the gradient"]["limit"] == 1e-4
    begun = gates["round, one student, both in float32"]
    assert {"share of pixels of front that differs", "largest difference of a label"} < set(begun)


def test_a_student_that_learns_from_other_weights_fails_the_gate_of_distill(tmp_path, monkeypatch):
    copied = distill._Ours.copied

    def altered(ours):
        student = copied(ours)
        student.head.bias.data.add_(0.1)
        return student

    monkeypatch.setattr(distill._Ours, "copied", altered)
    monkeypatch.setattr(distill.race, "rows", lambda effort: ())
    with pytest.raises(RuntimeError, match="so no comparison: learn, one student, each as it comes, learn, "):
        measured("distill", tmp_path / "rows.json")


def test_rsl_rl_is_given_no_student_that_remembers():
    interface = Interface(obs_specs=obs_specs(), cameras=(), action_size=2, targets={})
    with pytest.raises(UserError, match="keeps no memory of a student of ours: take one without memory"):
        PeerStudent(registry.find("student", "cnn_gru")().build(interface), 2)


def test_a_gate_that_fails_is_written_down_and_is_a_fault_of_ours(opengl, tmp_path):
    coarse = dataclasses.replace(TINY, slices=5)  # round shapes of five sides are another scene
    path = tmp_path / "rows.json"
    with pytest.raises(RuntimeError, match="not the same work, so no comparison: physics and pictures, "):
        measured("collect", path, coarse)
    for row in json.loads(path.read_text())["rows"]:
        check_row(row)
        assert not row["gate"]["ok"]
        assert row["gate"]["value"] > 1


def test_without_opengl_its_rows_are_left_out_with_the_reason(tmp_path, capsys, monkeypatch):
    def refuse(sim, camera):
        raise UserError("renderer=mujoco cannot use OpenGL here")

    monkeypatch.setattr(render, "check_opengl", refuse)
    found = measured("render", tmp_path / "rows.json")
    assert {row["name"] for row in found["rows"]} == set(OTHER_BARS)
    assert {one["name"] for one in found["left_out"]} - {ON_GPU} == set(OPENGL_BARS)
    assert "left out: renderer=mujoco cannot use OpenGL here" in capsys.readouterr().err


def test_the_command_prints_the_path_last_and_leaves_out_what_needs_opengl(tmp_path):
    path = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "robokd", "bench", "what=collect", f"out={path}"],
        env=WITHOUT_GL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(path)
    found = json.loads(path.read_text())
    assert (found["rows"], [one["name"] for one in found["left_out"]]) == ([], [*COLLECT_BARS])
    assert all("cannot use OpenGL here" in one["why"] for one in found["left_out"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["what=rendr"],
            "no benchmark named 'rendr'. Did you mean 'render'? Known: collect, distill, policy, render",
        ),
        (["what=render", "repeats=0"], "repeats must be >= 1, got 0"),
        (["what=render", "out=no/rows.json"], "cannot write no/rows.json: there is no folder no"),
    ],
)
def test_a_mistake_is_one_line(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("build", [build_room, build_scatter])
def test_a_scene_has_all_shapes_and_the_same_views_however_many_there_are(build):
    few, many = (build(Effort(seed=3), count) for count in (2, 5))
    assert few.model.ngeom >= 50
    assert {scene.PLANE, *scene.SOLIDS} == set(few.model.geom_type)
    for field in ("cam_xpos", "cam_xmat"):
        seen = few.get(field).numpy()
        np.testing.assert_array_equal(seen, many.get(field).numpy()[:2])
        np.testing.assert_allclose(seen[:, 0], seen[:, 1], atol=1e-12)  # fixed and carried see the same
    assert not np.array_equal(seen[0], seen[1])


def test_scattered_shapes_are_all_in_view_and_other_seeds_give_others():
    sim, other = (build_scatter(Effort(seed=seed), 16) for seed in (0, 1))
    assert not np.array_equal(sim.model.geom_pos, other.model.geom_pos)
    eye = sim.get("cam_xpos").numpy()[:, 0]
    turn = sim.get("cam_xmat").numpy()[:, 0].reshape(-1, 3, 3)
    assert not np.allclose(turn[0], turn[1])
    # middles in each camera's frame: it looks along -z
    right, up, back = np.einsum("nji,nsj->ins", turn, sim.model.geom_pos - eye[:, None])
    slope = np.tan(np.radians(scene.FOVY_DEG) / 2)
    assert (np.maximum(np.abs(right), np.abs(up)) <= -slope * back).all()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["render", "collect"])
def test_a_full_measurement_passes_its_gates_and_is_faster_everywhere(what, tmp_path):
    path = tmp_path / "rows.json"
    assert main(["bench", f"what={what}", f"out={path}"]) == 0
    for row in json.loads(path.read_text())["rows"]:
        assert row["ratio"] >= min(row["bar"] or 1, 1) / 2, row


@pytest.mark.slow
def test_a_full_measurement_of_distill_passes_its_gates(tmp_path):
    path = tmp_path / "rows.json"
    assert main(["bench", "what=distill", f"out={path}"]) == 0
    for row in json.loads(path.read_text())["rows"]:
        assert row["ratio"] >= (row["bar"] or 0) / 2, row
