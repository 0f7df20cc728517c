"""What protocols send of an IMU becomes what a policy reads, and back."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from robokd.sim2real.imu import channels_read, felt, orientation
from robot_samples import felt_spec, make_bundle

from robokd.specs import to_dict

ROOT = np.sqrt(0.5)
NONE = np.zeros(3)


@pytest.mark.parametrize(
    ("quaternion", "gravity"),
    [
        ((1, 0, 0, 0), (0, 0, -1)),
        ((ROOT, ROOT, 0, 0), (0, -1, 0)),  # on its right side: y, the left, points up
        ((ROOT, 0, ROOT, 0), (1, 0, 0)),  # nose down
        ((ROOT, 0, 0, ROOT), (0, 0, -1)),  # a turn about the vertical is not felt
        ((0, 1, 0, 0), (0, 0, 1)),
    ],
)
def test_gravity_is_where_down_is_for_the_body(quaternion, gravity):
    found = felt(1.5, np.array(quaternion, float), np.array([1, 2, 3.0]))
    assert found.gravity == pytest.approx(gravity, abs=1e-6)
    assert found.gyro.tolist() == [1, 2, 3]
    assert (found.captured_s, found.gyro.dtype, found.gravity.dtype) == (1.5, np.float32, np.float32)


@example((1e-200, 0.0, 1.0))  # whose square is 0
@given(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda row: np.linalg.norm(row) > 0.01))
def test_an_orientation_made_from_gravity_gives_that_gravity(row):
    gravity = np.array(row) / np.linalg.norm(row)
    made = orientation(gravity)
    assert np.linalg.norm(made) == pytest.approx(1)
    assert felt(0.0, made, NONE).gravity == pytest.approx(gravity, abs=1e-6)


@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (0.9, 0, 0, 0), (np.nan, 0, 0, 1), (2, 0, 0, 0)])
def test_what_is_no_orientation_is_refused(quaternion):
    with pytest.raises(RuntimeError, match="an IMU tells no orientation: wanted a unit quaternion"):
        felt(0.0, np.array(quaternion, float), NONE)


def test_a_bundle_reads_the_channels_of_its_terms(tmp_path):
    assert channels_read(make_bundle(tmp_path / "a.robokd")) == ()
    bundle = make_bundle(tmp_path / "b.robokd", observations={"proprio": to_dict(felt_spec())})
    assert channels_read(bundle) == ("gyro", "gravity")
