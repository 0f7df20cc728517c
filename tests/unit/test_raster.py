"""The primitive renderer against MuJoCo's rays and values by hand."""

import dataclasses
import sys
import types

import mujoco
import numpy as np
import pytest
import torch
from mujoco.batch import Batch
from raster_scenes import (
    FRONT,
    GEOM,
    LOOK_DOWN_X,
    SOLIDS,
    assert_same,
    build,
    pictures,
    random_scene,
    rays,
    scene,
    shuffle,
)

from robokd import UserError
from robokd.vision.encode import encode
from robokd.vision.raster import RasterCfg


def test_sphere_straight_ahead_has_hand_values():
    # a 5 x 5 picture's middle ray runs along the axis: the sphere at 2 m of radius 0.5 is hit at 1.5 m
    camera = dataclasses.replace(FRONT, width=5, height=5)
    spec = scene(camera)
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.5, 0, 0], pos=[2, 0, 0])
    depth = pictures(build(spec), camera)[0, 0]
    assert depth[2, 2] == pytest.approx(1.5, abs=1e-6)
    # one pixel up, y = tan(30) * 2 / 5 = 0.23094: (1 + y^2) t^2 - 4 t + 3.75 = 0, smaller root 1.61953
    root = (4 - np.sqrt(16 - 15 * (1 + 0.2309401**2))) / (2 * (1 + 0.2309401**2))
    assert depth[1, 2] == pytest.approx(root, abs=1e-6)
    assert depth[1, 2] == depth[3, 2] == depth[2, 1] == depth[2, 3]
    assert depth[0, 0] == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_equal_mujocos_rays_in_every_world(seed):
    rng = np.random.default_rng(seed)
    sim = build(random_scene(rng, 40), num_envs=4)
    shuffle(sim, rng, (0.5, -1.2, 0.0), (2.8, 1.2, 1.3))
    want = rays(sim)
    assert not np.array_equal(want[0], want[1])
    assert_same(pictures(sim), want)


@pytest.mark.parametrize("kind", SOLIDS)
def test_one_kind_around_and_behind_the_camera_equals_mujocos_rays(kind):
    # half of the shapes are behind the lens plane or cross it; none holds the camera: a ray would meet its
    # inside and a picture does not show it
    rng = np.random.default_rng(int(kind))
    spec = scene()
    for size in rng.uniform(0.05, 0.4, (12, 3)):
        body = spec.worldbody.add_body(mocap=True)
        body.add_geom(type=kind, size=size, contype=0, conaffinity=0)
    sim = build(spec, num_envs=30)
    shuffle(sim, rng, -1.2, 1.2)
    position = sim.get("mocap_pos").clone()
    position *= (0.85 / position.norm(dim=-1, keepdim=True)).clamp(min=1)
    sim.set("mocap_pos", position)
    sim.forward()
    want = rays(sim)
    assert (want > 0).mean() > 0.05
    assert_same(pictures(sim), want)


def test_what_is_wholly_behind_the_camera_is_not_drawn():
    spec = scene()
    for index, kind in enumerate(SOLIDS):
        spec.worldbody.add_geom(type=kind, size=[0.2, 0.2, 0.2], pos=[-1.0, 0.4 * index - 0.8, 0])
    assert not pictures(build(spec)).any()


def test_a_shape_that_holds_the_camera_is_not_drawn():
    for kind in SOLIDS:
        spec = scene()
        spec.worldbody.add_geom(type=kind, size=[0.3, 0.3, 0.3])
        spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 2, 2], pos=[1.1, 0, 0])
        assert pictures(build(spec)) == pytest.approx(1.0, abs=1e-6)


def test_finite_and_tilted_planes_equal_mujocos_rays_and_have_no_back():
    rng = np.random.default_rng(3)
    spec = scene(pos=(0, 0, 0.6))
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[1.5, 0.4, 1])
    spec.worldbody.add_geom(
        type=GEOM.mjGEOM_PLANE, size=[0.3, 0, 1], pos=[2, 0, 0.5], quat=rng.normal(size=4)
    )
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[0.4, 0.4, 1], pos=[1, 0, 0.5], quat=[1, 0, -0.9, 0])
    spec.worldbody.add_geom(
        type=GEOM.mjGEOM_PLANE, size=[0.4, 0.4, 1], pos=[1, 0.8, 0.5], quat=[1, 0, 0.9, 0]
    )
    sim = build(spec)
    want = rays(sim)
    assert (want > 0).mean() > 0.2
    assert_same(pictures(sim), want)


def test_long_thin_diagonal_rods_equal_mujocos_rays():
    rng = np.random.default_rng(5)
    spec = scene()
    for index in range(12):
        kind = (GEOM.mjGEOM_CAPSULE, GEOM.mjGEOM_CYLINDER, GEOM.mjGEOM_BOX)[index % 3]
        position, size = [rng.uniform(1, 2.5), *rng.uniform(-0.8, 0.8, 2)], [0.012, 0.6, 0.6]
        size = [0.012, 0.012, 0.6] if kind == GEOM.mjGEOM_BOX else size
        spec.worldbody.add_geom(type=kind, size=size, pos=position, quat=rng.normal(size=4))
    sim = build(spec)
    assert_same(pictures(sim), rays(sim))


def test_shapes_aligned_with_the_camera_equal_mujocos_rays():
    # rays that run along faces and axes divide by zero
    camera = dataclasses.replace(FRONT, width=33, height=33)
    spec = scene(camera)
    for index, kind in enumerate(SOLIDS):
        for turn, quat in enumerate(([1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0])):
            position = [1.5, 0.35 * (index - 2), 0.4 * (turn - 1)]
            spec.worldbody.add_geom(type=kind, size=[0.15, 0.12, 0.1], pos=position, quat=quat)
    sim = build(spec)
    assert_same(pictures(sim, camera), rays(sim, camera))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (80, 60), (17, 31), (1, 1), (7, 40)])
def test_any_picture_size_equals_mujocos_rays(width, height):
    camera = dataclasses.replace(FRONT, width=width, height=height)
    sim = build(random_scene(np.random.default_rng(0), 30, camera))
    np.testing.assert_allclose(pictures(sim, camera), rays(sim, camera), atol=2e-5)


def test_camera_on_a_moving_body_equals_mujocos_rays():
    rng = np.random.default_rng(2)
    spec = random_scene(rng, 20)
    arm = spec.worldbody.add_body(pos=[0.2, 0, 0.5])
    arm.add_joint(type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0.6, 0.8])
    arm.add_geom(type=GEOM.mjGEOM_CAPSULE, size=[0.03, 0.1, 0], pos=[0.2, 0.1, 0])
    wrist = dataclasses.replace(FRONT, name="wrist")
    arm.add_camera(name="wrist", pos=[0.05, 0, 0], xyaxes=LOOK_DOWN_X)
    sim = build(spec, num_envs=5)
    sim.set("qpos", torch.linspace(-0.6, 0.6, 5, dtype=torch.float64)[:, None])
    sim.forward()
    got = pictures(sim, wrist)
    assert not np.array_equal(got[0], got[4])
    assert_same(got, rays(sim, wrist))


def test_sizes_and_camera_poses_of_single_worlds_are_used():
    sim = build(random_scene(np.random.default_rng(4), 10), num_envs=3)
    before = pictures(sim)
    sizes = sim.get("geom_size").clone()
    sizes[1, 1:] *= 1.7
    sim.set("geom_size", sizes)
    cameras = sim.get("cam_pos").clone()
    cameras[2] += 0.1
    sim.set("cam_pos", cameras)
    after = pictures(sim)
    np.testing.assert_array_equal(before[0], after[0])
    assert (before[1] != after[1]).any()
    assert (before[2] != after[2]).any()
    np.testing.assert_allclose(after, rays(sim), atol=1e-4)


def test_visual_shapes_are_drawn_and_hidden_ones_are_not():
    spec = scene()
    box = {"type": GEOM.mjGEOM_BOX, "size": [0.1, 3, 3]}
    spec.worldbody.add_geom(**box, pos=[2.1, 0, 0], contype=0, conaffinity=0, group=2)
    assert pictures(build(spec)) == pytest.approx(2.0, abs=1e-6)
    spec.worldbody.add_geom(**box, pos=[1.1, 0, 0], group=3)
    spec.worldbody.add_geom(**box, pos=[1.4, 0, 0], rgba=[1, 0, 0, 0])
    spec.add_material(name="glass", rgba=[1, 1, 1, 0])
    spec.worldbody.add_geom(**box, pos=[0.8, 0, 0], material="glass")
    assert pictures(build(spec)) == pytest.approx(2.0, abs=1e-6)
    everything = RasterCfg(threads=1, hidden_groups=())
    assert pictures(build(spec), cfg=everything) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("encoding", ["depth_u8", "depth_f16"])
def test_encoded_pictures_are_the_one_encoding_bit_for_bit(encoding):
    camera = dataclasses.replace(FRONT, near_m=0.8, far_m=2.1, encoding=encoding)
    sim = build(random_scene(np.random.default_rng(7), 40, camera), num_envs=3)
    depth = pictures(sim, camera)
    image = pictures(sim, camera, camera.dtype)
    np.testing.assert_array_equal(image, encode(depth, camera))
    assert (depth == 0).any()
    assert ((depth > 0) & (depth < 0.8)).any()  # nearer than near is near


def test_threads_change_no_bit():
    sim = build(random_scene(np.random.default_rng(8), 30), num_envs=41)
    shuffle(sim, np.random.default_rng(9), (0.5, -1.2, 0.0), (2.8, 1.2, 1.3))
    one = pictures(sim, cfg=RasterCfg(threads=1))
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(one, pictures(sim, cfg=RasterCfg(threads=threads)))


def test_a_slice_of_a_buffer_is_written_and_its_neighbours_are_left_alone():
    sim = build(random_scene(np.random.default_rng(8), 20), num_envs=6)
    renderer = RasterCfg(threads=2).build(sim, [FRONT])
    want = pictures(sim, dtype=np.uint8)
    ring = np.full((6, 3, 1, 50, 80), 99, np.uint8)
    renderer.render(sim, [FRONT], {"front": ring[:, 1, :, 1:49, 8:72]})
    np.testing.assert_array_equal(ring[:, 1, :, 1:49, 8:72], want)
    ring[:, 1, :, 1:49, 8:72] = 99
    assert (ring == 99).all()


def test_a_torch_buffer_is_written_in_place():
    sim = build(random_scene(np.random.default_rng(8), 20), num_envs=6)
    half = dataclasses.replace(FRONT, encoding="depth_f16")
    for camera in (FRONT, half):
        out = torch.zeros(2, 6, *camera.shape, dtype=torch.from_numpy(np.empty(0, camera.dtype)).dtype)
        RasterCfg().build(sim, [camera]).render(sim, [camera], {"front": out[1]})
        np.testing.assert_array_equal(out[1].numpy(), pictures(sim, camera, camera.dtype))
        assert not out[0].any()


def test_a_simulation_of_numpy_arrays_is_read_too():
    class Worlds:
        num_envs = 2
        device = "cpu"

        def __init__(self, model):
            self.model, self.batch = model, Batch(model, 2, nthread=1)

        def get(self, field):
            shared = ("geom_size", "cam_fovy")
            return getattr(self.model, field) if field in shared else self.batch.bind(field)

        def forward(self):
            self.batch.forward()

    spec = random_scene(np.random.default_rng(8), 20)
    np.testing.assert_array_equal(pictures(Worlds(spec.compile())), pictures(build(spec, num_envs=2)))


def test_a_camera_that_does_not_exist_is_refused_with_those_that_do():
    sim = build(scene())
    wrong = dataclasses.replace(FRONT, name="frnt")
    with pytest.raises(UserError, match=r"no camera named 'frnt'\. It has: front"):
        RasterCfg().build(sim, [wrong])
    with pytest.raises(UserError, match="not built with this camera 'frnt', but with: front"):
        RasterCfg().build(sim, [FRONT]).render(sim, [wrong], {})


def test_two_cameras_of_one_name_are_refused_with_the_way_to_have_two_views():
    sim, colour = build(scene()), dataclasses.replace(FRONT, encoding="rgb_u8")
    with pytest.raises(UserError, match="two cameras are named 'front': name one of them otherwise; `view`"):
        RasterCfg().build(sim, [FRONT, colour])
    RasterCfg().build(sim, [FRONT, dataclasses.replace(colour, name="colour", view="front")])


def test_what_cannot_be_drawn_is_named_unless_it_is_hidden():
    spec = scene()
    spec.worldbody.add_geom(name="lump", size=[0.1, 0, 0])
    sim = build(spec)
    sim.model.geom_type[0] = GEOM.mjGEOM_SDF
    with pytest.raises(UserError, match=r"cannot draw geoms lump \(sdf\): it draws plane, hfield, sphere"):
        RasterCfg().build(sim, [FRONT])
    sim.model.geom_group[0] = 3
    assert not pictures(sim).any()


def test_a_wrong_buffer_is_refused():
    sim = build(scene())
    renderer = RasterCfg().build(sim, [FRONT])
    for buffer, message in (
        (
            np.zeros((1, 1, 64, 48), np.uint8),
            r"wanted \(1, 1, 48, 64\) of uint8 or float32, got \(1, 1, 64, 48\)",
        ),
        (np.zeros((1, 1, 48, 64), np.float16), r"got .* of float16"),
        (np.zeros((1, 1, 48, 128), np.uint8)[..., ::2], "rows must be contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            renderer.render(sim, [FRONT], {"front": buffer})


def test_negative_threads_are_refused():
    with pytest.raises(ValueError, match="threads must be >= 0"):
        RasterCfg(threads=-1)


def test_flexes_are_refused():
    spec = scene()
    spec.add_flex(
        name="cloth", dim=2, vert=[0, 0, 0, 1, 0, 0, 0, 1, 0], elem=[0, 1, 2], vertbody=["world"], radius=0.01
    )
    with pytest.raises(UserError, match="cannot draw the scene's 1 flexes and 0 skins"):
        RasterCfg().build(build(spec), [FRONT])


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        (ImportError("No module named 'numba'"), r"needs numba .*pip install 'robokd\[mujoco\]'"),
        (
            RuntimeError("cannot cache function"),
            r"cannot cache function\. Set NUMBA_CACHE_DIR to a writable folder",
        ),
    ],
)
def test_a_machine_without_numba_or_place_for_it_gets_the_cure(monkeypatch, flaw, message):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise flaw

    monkeypatch.setitem(sys.modules, "robokd.vision", Broken("robokd.vision"))
    sim = build(scene())
    with pytest.raises(UserError, match=message):
        RasterCfg().build(sim, [FRONT])
