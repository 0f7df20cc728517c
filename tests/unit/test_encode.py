import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robokd.specs import CameraSpec
from robokd.vision.encode import decode, encode

U8 = CameraSpec(name="front", near_m=0.35, far_m=1.35)
F16 = CameraSpec(name="front", near_m=0.35, far_m=1.35, encoding="depth_f16")
cameras = st.builds(
    lambda near, reach, kind: CameraSpec(name="c", near_m=near, far_m=near + reach, encoding=kind),
    st.floats(0.0, 5.0), st.floats(0.1, 20.0), st.sampled_from(["depth_u8", "depth_f16"]),
)  # fmt: skip


def test_codes_by_hand():
    # 254 steps over one metre: near is 1, far 255, the middle 1 + 127; beyond far and invalid pixels are 0
    depth = np.array([0.35, 0.85, 1.35, 0.1, 1.36, 0.0, -1.0, np.nan, np.inf], np.float32)
    assert encode(depth, U8).tolist() == [1, 128, 255, 1, 0, 0, 0, 0, 0]
    assert encode(depth, F16).astype(np.float32)[[0, 3, 4, 5, 7, 8]] == pytest.approx(
        [0.35, 0.35, 0, 0, 0, 0], abs=2e-4
    )


@given(cameras, st.lists(st.floats(width=32), min_size=1, max_size=200), st.floats(0, 30, width=32))
def test_a_tensor_is_encoded_as_an_array_is_bit_for_bit(camera, odd, reach):
    depth = np.concatenate((
        np.array(odd, np.float32), np.linspace(-0.1, reach, 997, dtype=np.float32),
        np.float32([camera.near_m, camera.far_m]),
        np.nextafter(np.float32(camera.far_m), np.float32([0, 99])),
    ))  # fmt: skip
    found = encode(torch.from_numpy(depth), camera, torch)
    wanted = encode(depth, camera)
    assert wanted.dtype == camera.dtype
    assert found.numpy().dtype == wanted.dtype
    assert found.numpy().tobytes() == wanted.tobytes()


@given(cameras, st.lists(st.floats(0, 1, width=32), min_size=1, max_size=50))
def test_round_trip_is_off_by_half_a_step_at_most(camera, shares):
    near, far = np.float32(camera.near_m), np.float32(camera.far_m)
    depth = np.maximum(near + np.array(shares, np.float32) * (far - near), np.float32(1e-4))
    depth = np.minimum(depth, far)
    error = np.abs(decode(encode(depth, camera), camera) - np.maximum(depth, near))
    assert error.max() <= camera.step_m / 2 + 4e-6 * camera.far_m


@given(cameras)
def test_encoding_is_monotone_up_to_far_and_uses_every_code(camera):
    far = np.float32(camera.far_m)
    depth = np.linspace(1e-4, far, 5000, dtype=np.float32)
    image = encode(depth[depth <= far], camera)
    assert (np.diff(image.astype(np.float32)) >= 0).all()
    assert image.min() > 0
    if camera.encoding == "depth_u8":
        assert image.max() == 255


def test_a_miss_decodes_to_zero_and_shapes_are_kept():
    image = np.zeros((3, 1, 2, 4), np.uint8)
    assert decode(image, U8).shape == (3, 1, 2, 4)
    assert not decode(image, U8).any()


def test_pixels_of_the_wrong_type_are_refused():
    with pytest.raises(ValueError, match="camera front: wanted uint8 pixels, got float16"):
        decode(np.zeros(3, np.float16), U8)
