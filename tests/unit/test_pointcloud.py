"""Point clouds against geometry by hand."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import FRONT, GEOM, build, rays, scene

from robokd import UserError
from robokd.draws import Draws
from robokd.specs import CameraSpec
from robokd.vision.pixel_draws import frame_keys
from robokd.vision.pointcloud import (
    CloudSpec,
    crop,
    from_world,
    point_cloud,
    sample_farthest,
    sample_random,
    to_world,
    unproject,
)

CAMERA = CameraSpec(name="front", width=32, height=24, fovy_deg=60)
DRAWS = Draws(0, "test")


def noise(count=5, camera=CAMERA, seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(count, *camera.shape, generator=generator) + 0.5
    return depth * (torch.rand(depth.shape, generator=generator) < 0.7)


def keys(count):
    return frame_keys(DRAWS, "x", torch.arange(count), 0)


def random_pose(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    quaternion = torch.randn(count, 4, generator=generator)
    return torch.randn(count, 3, generator=generator), quaternion / quaternion.norm(dim=1, keepdim=True)


def cover(points, chosen):
    """The farthest that a point is from the nearest chosen one."""
    return torch.cdist(points, chosen).amin(-1).amax(-1)


def test_pixels_by_hand():
    # tan(30 deg) = 0.57735; pixel centres of a 2 x 4 picture: x = -3, -1, 1, 3 and y = 1, -1 halves of it
    camera = dataclasses.replace(CAMERA, width=4, height=2)
    depth = torch.tensor([[2.0, 0, 2, 2], [2, 2, 2, 1]])[None, None]
    points, is_valid = unproject(depth, camera)
    unit = 0.57735 / 2
    torch.testing.assert_close(points[0, 0], torch.tensor([-6 * unit, 2 * unit, -2.0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(points[0, 7], torch.tensor([3 * unit, -unit, -1.0]), rtol=0, atol=1e-5)
    assert is_valid[0].tolist() == [True, False, True, True, True, True, True, True]


def test_a_lens_of_its_own_is_used():
    depth = noise(2)
    points, _ = unproject(depth, CAMERA, torch.tensor([60.0, 30.0]))
    wide, narrow = (unproject(depth, dataclasses.replace(CAMERA, fovy_deg=fovy))[0] for fovy in (60, 30))
    torch.testing.assert_close(points, torch.stack((wide[0], narrow[1])))


def test_points_of_a_rendered_sphere_lie_on_it_in_the_world():
    spec = scene(pos=(0.1, 0.2, 0.3))
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.4, 0, 0], pos=[2, 0.4, 0.1])
    depth = torch.from_numpy(rays(build(spec))).float()
    # looks along +x with z up: the camera's x is -y, its y is z
    pose = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.5, 0.5, -0.5, -0.5]])
    cloud = CloudSpec(count=200, frame="world")
    points, real = point_cloud(depth, FRONT, cloud, DRAWS, torch.tensor([0]), 0, camera_pose=pose)
    assert real.tolist() == [200]
    distance = (points[0] - torch.tensor([2, 0.4, 0.1])).norm(dim=1)
    assert (distance - 0.4).abs().max() < 1e-4


@given(st.integers(0, 1000))
def test_frames_undo_each_other_and_keep_distances(seed):
    points, _ = unproject(noise(3, seed=seed), CAMERA)
    pose = random_pose(3, seed)
    there = to_world(points, pose)
    torch.testing.assert_close(from_world(there, pose), points, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        (there - pose[0][:, None]).norm(dim=2), points.norm(dim=2), rtol=1e-5, atol=1e-5
    )


def test_the_robot_s_frame_is_the_world_s_seen_from_its_base():
    camera, robot, depth = random_pose(5), random_pose(5, 2), noise()
    rest = (CAMERA, CloudSpec(count=40), DRAWS, torch.arange(5), 0)
    points, _ = point_cloud(depth, *rest, camera_pose=camera, robot_pose=robot)
    world = dataclasses.replace(rest[1], frame="world")
    same, _ = point_cloud(depth, CAMERA, world, *rest[2:], camera_pose=camera)
    torch.testing.assert_close(to_world(points, robot), same, rtol=0, atol=1e-5)


def test_a_box_keeps_what_is_in_it():
    points, is_valid = unproject(noise(), CAMERA)
    kept = crop(points, is_valid, (-0.2, -math.inf, -1.0), (0.2, 0.1, math.inf))
    x, y, z = points.unbind(-1)
    assert torch.equal(kept, is_valid & (x.abs() <= 0.2) & (y <= 0.1) & (z >= -1))
    cloud = CloudSpec(count=64, frame="camera", low_m=(-0.2, -1.0, -1.0), high_m=(0.2, 0.1, 0.0))
    points, _ = point_cloud(noise(), CAMERA, cloud, DRAWS, torch.arange(5), 0)
    assert (points[..., 0].abs() <= 0.2).all()
    assert (points[..., 1] <= 0.1).all()


def test_farthest_points_by_hand():
    # from 0 the farthest is 10; then 5 (5 away from both); 2 is 2 away from 0, 7 is 2 away from 5: the first
    line = torch.tensor([0.0, 10, 5, 2, 7])
    points = torch.stack((line, 0 * line, 0 * line), 1)[None]
    chosen, real = sample_farthest(points, torch.ones(1, 5, dtype=torch.bool), 4)
    assert chosen[0, :, 0].tolist() == [0, 10, 5, 2]
    assert real.tolist() == [4]


def test_farthest_points_cover_better_than_random_ones():
    points, is_valid = unproject(noise(), CAMERA)
    farthest, _ = sample_farthest(points, is_valid, 50)
    random, _ = sample_random(points, is_valid, 50, keys(5))
    for row in range(5):
        valid = points[row, is_valid[row]]
        assert cover(valid, farthest[row]) < 0.75 * cover(valid, random[row])


def test_each_farthest_point_is_the_farthest_from_those_before_it():
    points, is_valid = unproject(noise(2), CAMERA)
    chosen, _ = sample_farthest(points, is_valid, 30)
    for row in range(2):
        valid = points[row, is_valid[row]]
        assert torch.equal(chosen[row, 0], valid[0])
        for index in range(1, 30):
            nearest = torch.cdist(valid, chosen[row, :index]).amin(1)
            gap = torch.cdist(chosen[row, index : index + 1], chosen[row, :index]).amin()
            assert float(gap) == pytest.approx(float(nearest.max()), abs=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(1, 60), st.sampled_from(["farthest", "random"]))
def test_points_are_distinct_and_repeat_only_where_there_are_too_few(valid, count, method):
    points = torch.arange(40.0)[None, :, None].expand(1, 40, 3).contiguous() + 1
    is_valid = (torch.arange(40) % 40 < valid)[None]
    if method == "farthest":
        chosen, real = sample_farthest(points, is_valid, count)
    else:
        chosen, real = sample_random(points, is_valid, count, keys(1))
    assert chosen.shape == (1, count, 3)
    assert int(real) == min(valid, count)
    first = chosen[0, : int(real), 0].tolist()
    assert len(set(first)) == len(first)
    assert set(first) <= set(range(1, valid + 1))
    again = [first[index % len(first)] if first else 0.0 for index in range(count)]
    assert chosen[0, :, 0].tolist() == again


def test_points_that_coincide_are_all_taken():
    chosen, real = sample_farthest(torch.ones(1, 6, 3), torch.ones(1, 6, dtype=torch.bool), 5)
    assert real.tolist() == [5]
    assert torch.equal(chosen, torch.ones(1, 5, 3))


@pytest.mark.parametrize(
    "cloud",
    [
        CloudSpec(count=60, frame="camera", method=m, candidates=c)
        for m, c in (("farthest", 0), ("farthest", 100), ("random", 0))
    ],
)
def test_a_cloud_does_not_depend_on_its_batch(cloud):
    depth = noise(9)
    many = point_cloud(depth, CAMERA, cloud, DRAWS, torch.arange(9), 4)
    for row in (0, 5):
        one = slice(row, row + 1)
        alone = point_cloud(depth[one], CAMERA, cloud, DRAWS, torch.arange(9)[one], 4)
        assert torch.equal(many[0][one], alone[0])
        assert torch.equal(many[1][one], alone[1])


def test_random_points_are_each_equally_likely_and_others_at_every_step():
    points = torch.arange(40.0)[None, :, None].expand(2000, 40, 3)
    chosen, _ = sample_random(points, torch.ones(2000, 40, dtype=torch.bool), 10, keys(2000))
    share = torch.bincount(chosen[..., 0].flatten().long(), minlength=40) / 2000
    assert (share - 0.25).abs().max() < 0.045
    first, second = (
        point_cloud(
            noise(), CAMERA, CloudSpec(frame="camera", method="random"), DRAWS, torch.arange(5), step
        )[0]
        for step in (0, 1)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "fartest"}, "no method of a point cloud named 'fartest'. Did you mean 'farthest'"),
        ({"frame": "base"}, "no frame of a point cloud named 'base'"),
        ({"count": 0}, "needs count >= 1, got 0"),
        ({"candidates": 100}, "candidates must be 0 or >= count 512, got 100"),
        ({"low_m": (0.0, 0.0, 1.0), "high_m": (1.0, 1.0, 1.0)}, "need low_m < high_m"),
    ],
)
def test_wrong_specs_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        CloudSpec(**fields)


def test_missing_poses_and_wrong_images_are_named():
    with pytest.raises(UserError, match="in the frame 'robot' needs the camera_pose"):
        point_cloud(noise(), CAMERA, CloudSpec(), DRAWS, torch.arange(5), 0)
    with pytest.raises(UserError, match="in the frame 'robot' needs the robot_pose"):
        point_cloud(noise(), CAMERA, CloudSpec(), DRAWS, torch.arange(5), 0, camera_pose=random_pose(5))
    with pytest.raises(ValueError, match=r"wanted depth of \(24, 32\) pixels, got \(32, 24\)"):
        unproject(torch.zeros(1, 1, 32, 24), CAMERA)
