"""From a refined run to a bundle that drives the simulated robot, and the pages about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robokd.cli import main
from robokd.export.bundle import read_bundle


def _last_line(capsys) -> Path:
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def bundle(chain, tmp_path_factory) -> Path:
    """Return the bundle of the tiny refined run."""
    folder = tmp_path_factory.mktemp("export")
    words = ["export", f"run={chain['refine']}", f"out={folder / 'reach.robokd'}", "parity_samples=24"]
    assert main([*words, f"runs={folder}"]) == 0
    return folder / "reach.robokd"


def test_an_export_proves_parity_and_describes_its_graph(bundle):
    summary = json.loads(next(bundle.parent.glob("*_export_*/summary.json")).read_text())
    assert 0 < summary["parity_max_abs"] <= 1e-5
    assert summary["bytes"] == bundle.stat().st_size
    assert set(summary["inputs"]) == {"proprio", "front", "anchor", "rate"}
    assert set(summary["outputs"]) == {"command", "command_rate", "action", "goal_position"}
    assert summary["opset"] >= 17


def test_a_bundle_holds_golden_vectors_that_its_graph_repeats(bundle):
    import numpy as np
    import onnxruntime

    opened = read_bundle(bundle)
    session = onnxruntime.InferenceSession(opened.member("policy.onnx"))
    for sample in json.loads(opened.member("samples.json")):
        feeds = {
            node.name: np.array(
                sample["inputs"][node.name], np.uint8 if "uint8" in node.type else np.float32
            ).reshape(node.shape)
            for node in session.get_inputs()
        }
        for node, value in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            assert np.abs(value.flatten() - np.array(sample["outputs"][node.name])).max() <= 1e-5


def test_a_bundle_drives_the_simulated_robot_and_breaks_no_limit(bundle, tmp_path, capsys):
    assert main(["deploy", f"bundle={bundle}", "robot=mujoco", "episodes=2", f"runs={tmp_path}"]) == 0
    summary = json.loads(_last_line(capsys).read_text())
    assert summary["success"]["episodes"] == 2
    assert summary["ticks"] > 10
    assert summary["stop_reason"] == "end"
    commands = {
        kind: count for kind, count in summary["robot_log"]["violations"].items() if "command" in kind
    }
    assert not any(commands.values())


def test_a_truncated_bundle_is_one_line(bundle, tmp_path, capsys):
    cut = tmp_path / "cut.robokd"
    cut.write_bytes(bundle.read_bytes()[:-1])
    assert main(["deploy", f"bundle={cut}", f"runs={tmp_path / 'runs'}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "cut.robokd" in message
    assert not (tmp_path / "runs").exists()


def test_a_teacher_is_not_exported(chain, tmp_path, capsys):
    assert main(["export", f"run={chain['teach']}", f"runs={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "only the simulator knows" in message


def test_a_video_is_written(chain, tmp_path, capsys):
    path = tmp_path / "out.mp4"
    assert main(["play", f"run={chain['refine']}", "episodes=1", f"video={path}"]) == 0
    assert _last_line(capsys) == path
    assert path.read_bytes()[4:8] == b"ftyp"


def test_a_report_shows_every_stage_in_one_file(chain, tmp_path, capsys):
    words = ["evaluate", f"run={chain['distill']}", f"baseline={chain['teach']}", "episodes=6", "num_envs=6"]
    assert main([*words, f"runs={tmp_path}"]) == 0
    evaluated = _last_line(capsys).parent
    runs = ",".join(str(path) for path in (*chain.values(), evaluated))
    assert main(["report", f"runs=[{runs}]", f"out={tmp_path / 'report.html'}"]) == 0
    page = (tmp_path / "report.html").read_text()
    titles = (
        "Success", "Does it use its camera?", "Learning: teach", "Learning: distill", "Learning: refine",
        "What the student sees", "The same episodes under each policy", "What it cost",
    )  # fmt: skip
    for title in titles:
        assert f"<h2>{title}</h2>" in page
    assert page.count("data:video/mp4") == 3
    assert "http" not in page.replace("http-equiv", "")
