import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.calibration import Calibration, check_calibration, read_calibration

from robokd import UserError

ROS = """image_width: 640
image_height: 480
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: [600.0, 0.0, 319.5, 0.0, 601.0, 239.5, 0.0, 0.0, 1.0]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [0.1, -0.2, 0.001, 0.002, 0.05]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
"""
OPENCV = """%YAML:1.0
---
calibration_time: "Mon 01 Jan 2024 10:00:00"
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 6.0000000000000000e+02, 0., 3.1950000000000000e+02, 0.,
       6.0100000000000000e+02, 2.3950000000000000e+02, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ 1.0e-01, -2.0e-01, 1e-3, 2.0e-03, 5.0e-02 ]
avg_reprojection_error: 2.5e-01
"""
MESSAGE = {
    "header": {"frame_id": "front"}, "height": 480, "width": 640, "distortion_model": "plumb_bob",
    "D": [0.1, -0.2, 0.001, 0.002, 0.05], "K": [600.0, 0, 319.5, 0, 601.0, 239.5, 0, 0, 1],
    "binning_x": 0, "binning_y": 0, "roi": {"x_offset": 0, "y_offset": 0, "height": 0, "width": 0},
}  # fmt: skip
OPTICS = {"fx": 60.0, "fy": 60.1, "cx": 31.5, "cy": 23.5, "crop": None, "rate_hz": 25.0}


def written(folder, text):
    path = folder / "camera.yaml"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def pinhole(**changes):
    values = {
        "width": 640,
        "height": 480,
        "fx": 600.0,
        "fy": 601.0,
        "cx": 319.5,
        "cy": 239.5,
        "distortion": (),
    }
    return Calibration(path="camera.yaml", **{**values, **changes})


@pytest.mark.parametrize("text", [ROS, OPENCV, MESSAGE, {**MESSAGE, "k": MESSAGE["K"], "d": MESSAGE["D"]}])
def test_ros_and_opencv_files_say_the_same(tmp_path, text):
    if isinstance(text, dict) and "k" in text:  # ROS 2 has small letters
        text = {key: value for key, value in text.items() if key not in "DK"}
    found = read_calibration(written(tmp_path, text))
    assert (found.width, found.height) == (640, 480)
    assert (found.fx, found.fy, found.cx, found.cy) == (600.0, 601.0, 319.5, 239.5)
    assert found.distortion == (0.1, -0.2, 0.001, 0.002, 0.05)


def test_distortion_is_opencvs():
    # cv2.projectPoints of (0.2, -0.1, 1) with these numbers, by hand: r2 = 0.05,
    # radial = 1 + 0.1 * 0.05 - 0.2 * 0.0025 + 0.05 * 0.000125 = 1.00450625
    # x = 0.2 * radial + 2 * 0.001 * -0.02 + 0.002 * (0.05 + 0.08) = 0.20112125
    # y = -0.1 * radial + 0.001 * (0.05 + 0.02) + 2 * 0.002 * -0.02 = -0.100460625
    lens = pinhole(distortion=(0.1, -0.2, 0.001, 0.002, 0.05))
    pixel = np.array([[0.2 * 600 + 319.5, -0.1 * 601 + 239.5]])
    wanted = [0.20112125 * 600 + 319.5, -0.100460625 * 601 + 239.5]
    np.testing.assert_allclose(lens.distorted(pixel)[0], wanted, atol=1e-9)


def test_a_camera_that_is_the_bundles_passes():
    # ten times smaller: fx 60; the centre (319.5 + 0.5) / 10 - 0.5 = 31.5
    check_calibration(pinhole(), "front", OPTICS, (64, 48))
    assert pinhole().largest_shift_px == 0


def test_a_crop_is_applied_before_comparing():
    optics = {**OPTICS, "crop": [80, 0, 480, 480], "fx": 80.0, "fy": 80.13, "cx": 31.5, "cy": 31.5}
    check_calibration(pinhole(), "front", optics, (64, 64))
    far = {**optics, "crop": [400, 0, 480, 480]}
    with pytest.raises(UserError, match=r"crop \[400, 0, 480, 480\] does not fit into pictures of 640x480"):
        check_calibration(pinhole(), "front", far, (64, 64))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fx": 640.0}, r"front.fx: 64.000 px, the bundle has 60.000"),
        ({"cy": 260.0}, r"front.cy: 25.550 px, the bundle has 23.500"),
        (
            {"distortion": (0.3, 0.1, 0.0, 0.0)},
            r"its lens moves pixels by up to .* rectify its pictures first",
        ),
        ({"height": 640, "cy": 319.5}, r"pictures are 640x640, the bundle's 64x48: another shape"),
    ],
)
def test_what_is_not_the_bundles_is_named_with_numbers(changes, said):
    with pytest.raises(UserError, match=said):
        check_calibration(pinhole(**changes), "front", OPTICS, (64, 48))


def test_the_rectification_map_leads_back_to_the_distorted_picture():
    lens = pinhole(distortion=(-0.1, 0.02, 0.0, 0.0))
    where = lens.rectification({"fx": 60.0, "fy": 60.1, "cx": 31.5, "cy": 23.5}, 64, 48)
    assert where.shape == (48, 64, 2)
    ray = np.array([(5 - 31.5) / 60.0, (7 - 23.5) / 60.1])
    radial = 1 - 0.1 * (ray @ ray) + 0.02 * (ray @ ray) ** 2
    np.testing.assert_allclose(where[7, 5], ray * radial * [600.0, 601.0] + [319.5, 239.5], atol=1e-9)
    with pytest.raises(UserError, match="of the bundle's picture lie outside of this camera's view"):
        lens.rectification({"fx": 20.0, "fy": 20.0, "cx": 31.5, "cy": 23.5}, 64, 48)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1\n", "it holds list, wanted keys and values"),
        (ROS.replace("image_width: 640", "image_width: 0"), "image_width: got 0, wanted a whole number"),
        (ROS.replace("image_height: 480\n", ""), "image_height: got None, wanted a whole number of pixels"),
        (ROS.replace("data: [600.0,", "data: ["), "camera_matrix: got '3 x 3 with 8 numbers'"),
        (ROS.replace("[600.0,", "[.nan,"), "camera_matrix: got nan, wanted finite numbers"),
        (ROS.replace("[600.0, 0.0", "[600.0, 0.5"), "camera_matrix is no"),
        (ROS.replace("[600.0,", "[0,"), "focal lengths 0.0 and 601.0; wanted > 0"),
        (ROS.replace("319.5", "1319.5"), "centre at 1319.5, 239.5, outside of a picture of 640x480"),
        (ROS.replace("plumb_bob", "equidistant"), "distortion_model is 'equidistant'; known: plumb_bob"),
        (ROS.replace("cols: 5\n  data: [0.1,", "cols: 4\n  data: [").replace("cols: 4", "cols: 3")
            .replace("[ -0.2, ", "["), "distortion_coefficients: got '3 numbers', wanted"),
        (OPENCV.replace("dt: d", "dt: u", 1), "camera_matrix.dt: got 'u', wanted d or f"),
        (ROS.replace("front", "!!python/object/apply:os.system [a]"), "could not determine a constructor"),
        (ROS.replace("camera_name: front", "a: &x [1]\nb: *x"), "it uses aliases"),
        ({**MESSAGE, "binning_x": 2}, "binning_x is 2: calibrate the pictures as they are sent"),
        ({**MESSAGE, "roi": {"x_offset": 3}}, "roi cuts the picture"),
        ("a: [", "while parsing"),
        ("{", "Expecting property name"),
    ],
)  # fmt: skip
def test_what_is_no_calibration_is_refused_by_name(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        read_calibration(written(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_and_a_huge_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_calibration(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="at most 1048576 are read"):
        read_calibration(written(tmp_path, "#" * (1 << 20) + "##"))


@settings(deadline=None, max_examples=200)
@given(place=st.integers(0, len(OPENCV) - 1), text=st.text(max_size=8), which=st.sampled_from([ROS, OPENCV]))
def test_any_other_text_gives_a_calibration_or_one_line(tmp_path_factory, place, text, which):
    path = written(
        tmp_path_factory.mktemp("fuzz"), which[: place % len(which)] + text + which[place % len(which) :]
    )
    try:
        found = read_calibration(path)
    except UserError as error:
        said = str(error)
    else:
        said = ""
        assert np.isfinite([found.fx, found.fy, found.cx, found.cy, *found.distortion]).all()
    assert "\n" not in said
