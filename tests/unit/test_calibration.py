"""What a CameraInfo says of a lens, and which lens is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.calibration import check_lens, corner, is_calibrated, lens_of, size_of

from robokd.specs import CameraSpec

SPEC = CameraSpec(name="front", width=640, height=480)
OPTICS = {"fx": 600.0, "fy": 600.0, "cx": 319.5, "cy": 239.5, "crop": None, "rate_hz": 25.0}


def info(fx=600.0, fy=600.0, cx=319.5, cy=239.5, *, size=(640, 480), binning=(0, 0), roi=(0, 0, 0, 0)):
    x, y, width, height = roi
    return {
        "width": size[0], "height": size[1], "k": np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1]),
        "binning_x": binning[0], "binning_y": binning[1],
        "roi": {"x_offset": x, "y_offset": y, "width": width, "height": height, "do_rectify": False},
    }  # fmt: skip


def test_the_lens_is_that_of_the_picture_that_is_sent():
    assert lens_of(info()) == {"fx": 600.0, "fy": 600.0, "cx": 319.5, "cy": 239.5}
    # cut at 80, 40, then two by two and four by four pixels are one:
    # (319.5 - 80 + 0.5) / 2 - 0.5 = 119.5, (239.5 - 40 + 0.5) / 4 - 0.5 = 49.5
    said = info(binning=(2, 4), roi=(80, 40, 480, 400))
    assert lens_of(said) == {"fx": 300.0, "fy": 150.0, "cx": 119.5, "cy": 49.5}
    assert size_of(said) == (240, 100)
    assert size_of(info()) == (640, 480)


def test_the_bundles_lens_passes_up_to_the_tolerance():
    check_lens(info(), SPEC, OPTICS)
    check_lens(info(fx=611.9, fy=588.1, cx=332.2, cy=226.8), SPEC, OPTICS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fx": 612.1}, "got fx 612.10 px, wanted 600.00 +- 12.00 px"),
        ({"fy": 580.0}, "got fy 580.00 px, wanted 600.00 +- 12.00 px"),
        ({"cx": 300.0}, "got cx 300.00 px, wanted 319.50 +- 12.80 px"),
        ({"cy": 253.0}, "got cy 253.00 px, wanted 239.50 +- 12.80 px"),
        ({"fx": 700.0, "cy": np.nan}, "got fx 700.00 px, wanted 600.00 +- 12.00 px; cy nan px, wanted"),
        ({"size": (1280, 960)}, "wanted 640x480 pixels, got 1280x960; nothing is scaled"),
        ({"binning": (2, 2)}, "wanted 640x480 pixels, got 320x240"),
    ],
)
def test_another_lens_is_refused_with_what_it_is_and_what_was_wanted(changes, said):
    with pytest.raises(ValueError, match="camera front: ") as caught:
        check_lens(info(**changes), SPEC, OPTICS)
    assert said in str(caught.value)


def test_the_bundles_crop_moves_the_centre():
    spec = CameraSpec(name="front", width=480, height=400)
    optics = {**OPTICS, "cx": 239.5, "cy": 199.5, "crop": [80, 40, 480, 400]}
    check_lens(info(), spec, optics)
    with pytest.raises(ValueError, match=r"got cx 319.50 px, wanted 239.50 \+- 9.60 px; cy 239.50 px"):
        check_lens(info(), spec, {**optics, "crop": [0, 0, 480, 400]})
    with pytest.raises(ValueError, match="wanted 480x400 pixels, cut out at 200,40, got 640x480"):
        check_lens(info(), spec, {**optics, "crop": [200, 40, 480, 400]})


@settings(max_examples=100)
@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 4))
def test_a_roi_and_the_same_crop_are_the_same_lens(x, y, binning):
    size = (640 - x) // binning * binning, (480 - y) // binning * binning
    cut = lens_of(info(roi=(x, y, *size), binning=(binning, binning)))
    whole = lens_of(info(cx=319.5 - x, cy=239.5 - y, size=size, binning=(binning, binning)))
    assert cut == pytest.approx(whole)
    spec = CameraSpec(name="front", width=size[0], height=size[1])
    assert corner([x, y, *size], spec, 640, 480) == (x, y)


def test_ros_writes_a_focal_length_of_0_for_a_camera_that_is_not_calibrated():
    assert is_calibrated(info())
    assert not is_calibrated(info(fx=0.0))
