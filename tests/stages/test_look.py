"""The contact sheet: what students see, as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from robokd import charts
from robokd.cli import main
from robokd.specs import CameraSpec


def _read(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(path.read_bytes()), format="png")


def test_a_sheet_shows_every_camera_clean_and_spoiled(tmp_path, capsys):
    sizes = {}
    for name, corrupt in (("clean", "clean"), ("spoiled", "realsense_d435")):
        out = tmp_path / f"{name}.png"
        assert main(["look", "task=reach", f"corrupt={corrupt}", f"out={out}", "moments=2"]) == 0
        assert capsys.readouterr().out.strip() == str(out)
        sizes[name] = _read(out).shape
    assert sizes["spoiled"][0] > sizes["clean"][0]  # a row more for each camera
    assert _read(tmp_path / "spoiled.png").std() > 0.1


@pytest.mark.parametrize(
    ("word", "wanted"),
    [("cameras=nose", "no observation group or camera named 'nose'. Known: front, wrist, outside"),
     ("corrupt=kinekt", "no corrupt named 'kinekt'. Did you mean 'kinect'"),
     ("corrupt.dropout_rate=2", "dropout_rate is a share, at most 1, got 2"),
     ("corrupt.dropout=0.1", "has no key 'dropout'"),
     ("out=no/sheet.png", "cannot write no/sheet.png: there is no folder no"),
     ("moments=0", "moments must be >= 1, got 0")],
)  # fmt: skip
def test_what_cannot_be_looked_at_is_one_line(word, wanted, capsys):
    assert main(["look", "task=reach", word]) == 2
    message = capsys.readouterr().err
    assert wanted in message
    assert message.count("\n") == 1


def test_a_painted_picture_tells_near_from_far_and_nothing_from_something():
    depth = np.array([[[0, 1, 255]]], np.uint8)
    nothing, near, far = charts.painted(depth, CameraSpec(name="x", width=3, height=1))[0]
    assert not nothing.any()
    assert near.sum() > far.sum() > 0
    rgb = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    camera = CameraSpec(name="x", width=2, height=2, encoding="rgb_u8")
    assert charts.painted(rgb, camera)[1, 0].tolist() == [2, 6, 10]
    geoms = np.array([[[-1, 0, 1]]], np.int16)
    nobody, one, other = charts.painted(
        geoms, CameraSpec(name="x", width=3, height=1, encoding="segment_i16")
    )[0]
    assert not nobody.any()
    assert one.tolist() != other.tolist()
