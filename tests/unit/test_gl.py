"""MuJoCo's OpenGL renderer against rays, the primitive renderer and values by hand."""

import dataclasses
import os
import re
import subprocess
import sys

import mujoco
import numpy as np
import pytest
import torch
from raster_scenes import FRONT, GEOM, build, own_views, pictures, random_scene, rays, scene, shuffle

from robokd import UserError, registry
from robokd.vision.encode import encode
from robokd.vision.gl import GlCfg

COLOUR = dataclasses.replace(FRONT, name="colour", view="front", encoding="rgb_u8")
SEGMENT = dataclasses.replace(FRONT, name="segment", view="front", encoding="segment_i16")
WALL = {"type": GEOM.mjGEOM_BOX, "size": [0.1, 2, 2]}


@pytest.fixture(scope="module")
def gl():
    try:
        GlCfg().build(build(scene()), [FRONT]).close()
    except UserError as error:
        pytest.skip(f"no OpenGL on this machine: {error}")


@pytest.fixture
def draw(gl):
    """Return draw(sim, camera, dtype, **fields of GlCfg) -> images; contexts are freed at the end."""
    made = []

    def images(sim, camera=FRONT, dtype=None, **fields):
        made.append(GlCfg(**fields).build(sim, [camera]))
        out = np.full(
            (sim.num_envs, *camera.shape), 77, dtype or (np.float32 if camera.is_depth else camera.dtype)
        )
        made[-1].render(sim, [camera], {camera.name: out})
        return out

    yield images
    for renderer in made:
        renderer.close()


@pytest.fixture(scope="module")
def crowd():
    rng = np.random.default_rng(0)
    sim = build(random_scene(rng, 40), num_envs=3)
    shuffle(sim, rng, (0.5, -1.2, 0.0), (2.8, 1.2, 1.3))
    return sim


def test_depth_equals_rays_and_the_primitive_renderer_in_every_world(draw, crowd):
    depth = draw(crowd, slices=150)
    for want in (rays(crowd), pictures(crowd)):
        error = np.abs(depth - want)
        assert np.median(error[want > 0]) < 5e-5  # round shapes are polyhedra
        assert (error > 1e-3).mean() < 0.005
    assert not np.array_equal(depth[0], depth[1])


def test_a_wall_has_its_distance_and_nothing_is_a_miss(draw):
    spec = scene()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 0.2, 2], pos=[1.1, 0, 0])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 0.2, 2], pos=[4.0, 1, 0])  # beyond far
    depth = draw(build(spec))[0, 0]
    assert depth[:, 32] == pytest.approx(1.0, abs=1e-5)
    assert (depth[:, :10] == 0).all()
    assert (depth[:, -10:] == 0).all()


def test_what_is_nearer_than_a_centimetre_is_drawn(draw):
    spec = scene()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.001, 1, 1], pos=[0.006, 0, 0])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[0, 0, 1], pos=[0, 0, -100])  # a large scene
    assert draw(build(spec)) == pytest.approx(0.005, abs=1e-6)


def test_encoded_pictures_are_the_one_encoding(draw, crowd):
    for encoding in ("depth_u8", "depth_f16"):
        camera = dataclasses.replace(FRONT, near_m=0.8, far_m=2.1, encoding=encoding)
        image = draw(crowd, camera, camera.dtype)
        np.testing.assert_array_equal(image, encode(draw(crowd, camera), camera))


def test_segments_name_the_geom_that_depth_is_of(draw):
    spec = scene()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.3, 0, 0], pos=[2, 0.5, 0])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.3, 0, 0], pos=[2, -0.5, 0])
    sim = build(spec)
    segment = draw(sim, SEGMENT)[0, 0]
    assert set(np.unique(segment)) == {-1, 0, 1}
    assert (segment[:, :32] != 1).all()  # the first is to the left: +y
    np.testing.assert_array_equal(segment >= 0, draw(sim)[0, 0] > 0)


def test_colours_are_planes_of_red_green_and_blue_on_black(draw):
    spec = scene()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.3, 0, 0], pos=[1, 0, 0], rgba=[1, 0.5, 0, 1])
    red, green, blue = draw(build(spec), COLOUR)[0]
    assert red[24, 32] > green[24, 32] > blue[24, 32]
    assert max(red[0, 0], green[0, 0], blue[0, 0]) == 0


def test_a_sky_is_drawn_only_on_demand(draw):
    spec = scene()
    spec.add_texture(
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT, rgb1=[0, 0, 1],
        rgb2=[0, 0, 1], width=16, height=96,
    )  # fmt: skip
    sim = build(spec)
    assert not draw(sim, COLOUR).any()
    assert (draw(sim, COLOUR, skybox=True)[0, 2] > 200).all()
    assert not draw(sim).any()


def test_shadows_darken_and_samples_smooth(draw):
    spec = scene(pos=(0, 0, 0.6))
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[5, 5, 1])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.2, 0, 0], pos=[1.5, 0, 0.6])
    spec.worldbody.add_light(pos=[1.5, 0, 3], dir=[0, 0, -1], castshadow=True)
    sim = build(spec)
    plain, shadows, smooth = (
        draw(sim, COLOUR, **fields).astype(int) for fields in ({}, {"shadows": True}, {"samples": 4})
    )
    assert (shadows <= plain + 2).mean() > 0.99
    assert (shadows < plain - 20).mean() > 0.01
    assert 0.005 < (smooth != plain).mean() < 0.2


def test_hidden_groups_sites_and_clear_geoms_are_not_drawn(draw):
    spec = scene()
    spec.worldbody.add_geom(**WALL, pos=[2.1, 0, 0])
    spec.worldbody.add_geom(**WALL, pos=[1.1, 0, 0], group=3)
    spec.worldbody.add_geom(**WALL, pos=[1.4, 0, 0], rgba=[1, 0, 0, 0])
    spec.worldbody.add_site(type=GEOM.mjGEOM_BOX, size=[0.1, 2, 2], pos=[0.8, 0, 0])
    sim = build(spec)
    assert draw(sim) == pytest.approx(2.0, abs=1e-5)
    assert draw(sim, hidden_groups=()) == pytest.approx(1.0, abs=1e-5)


def test_meshes_are_drawn(draw):
    spec = scene()
    corners = [[x, y, z] for x in (-0.1, 0.1) for y in (-2, 2) for z in (-2, 2)]
    spec.add_mesh(name="slab", uservert=np.ravel(corners).tolist())
    spec.worldbody.add_geom(type=GEOM.mjGEOM_MESH, meshname="slab", pos=[1.6, 0, 0])
    assert draw(build(spec)) == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "change"),
    [("geom_size", (1.5, 1, 1)), ("geom_rgba", (0.3, 1, 1, 1)), ("light_diffuse", (0.2, 0.2, 0.2))],
)
def test_a_world_of_its_own_looks_its_own(draw, field, change):
    spec = scene()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.2, 0, 0], pos=[1, 0, 0], rgba=[1, 1, 1, 1])
    spec.worldbody.add_light(pos=[0, 0, 1], dir=[1, 0, -1])
    sim = build(spec, num_envs=3)
    before = draw(sim, COLOUR)
    value = sim.get(field).clone()
    value[1] *= torch.tensor(change, dtype=value.dtype)
    sim.set(field, value)
    sim.forward()
    after = draw(sim, COLOUR)
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] != before[1]).any()


def test_a_world_s_own_lens_and_pose_are_used_and_else_the_spec_s(draw):
    sim = own_views(scene())
    narrow, wide = (dataclasses.replace(FRONT, fovy_deg=fovy) for fovy in (30, 60))
    depth, nominal = draw(sim, wide), draw(sim, narrow)
    np.testing.assert_array_equal(depth[1], nominal[0])
    # 48 rows over 2 tan(30 deg) = 1.1547: 0.4 m at 1 m are 16.6 of them, at 1.5 m 11.1; 35.8 of 2 tan(15 deg)
    assert [int((one[0, :, 32] > 0).sum()) for one in depth] == [16, 36, 12]
    assert depth[2, 0, 24, 32] == pytest.approx(1.5, abs=1e-5)


def test_drawing_leaves_the_simulation_alone_and_repeats(draw, crowd):
    fovy, near = crowd.model.cam_fovy.copy(), crowd.model.vis.map.znear
    first, second = draw(crowd), draw(crowd)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(crowd.model.cam_fovy, fovy)
    assert crowd.model.vis.map.znear == near


@pytest.mark.usefixtures("gl")
def test_cameras_of_several_sizes_and_kinds_share_a_call(crowd):
    small = dataclasses.replace(FRONT, name="small", view="front", width=20, height=10)
    cameras = [FRONT, small, COLOUR, SEGMENT]
    renderer = GlCfg().build(crowd, cameras)
    out = {camera.name: torch.zeros(3, *camera.shape, dtype=torch.uint8) for camera in cameras[:3]}
    out["segment"] = torch.zeros(3, *SEGMENT.shape, dtype=torch.int16)
    renderer.render(crowd, cameras, out)
    renderer.render(crowd, [small], {"small": out["small"]})
    assert all(image.any() for image in out.values())
    renderer.close()


@pytest.mark.usefixtures("gl")
def test_wrong_cameras_and_buffers_are_refused():
    sim = build(scene())
    wrong = dataclasses.replace(FRONT, name="frnt")
    with pytest.raises(UserError, match=r"no camera named 'frnt'\. It has: front"):
        GlCfg().build(sim, [wrong])
    renderer = GlCfg().build(sim, [FRONT, COLOUR])
    with pytest.raises(UserError, match="not built with this camera 'frnt', but with: colour, front"):
        renderer.render(sim, [wrong], {"frnt": np.zeros((1, 1, 48, 64), np.uint8)})
    with pytest.raises(UserError, match=r"wanted \(1, 1, 48, 64\) of uint8 or float32, got .* of float16"):
        renderer.render(sim, [FRONT], {"front": np.zeros((1, 1, 48, 64), np.float16)})
    with pytest.raises(UserError, match=r"wanted \(1, 3, 48, 64\) of uint8, got .* of float32"):
        renderer.render(sim, [COLOUR], {"colour": np.zeros((1, 3, 48, 64), np.float32)})
    frozen = np.zeros((1, 1, 48, 64), np.uint8)
    frozen.flags.writeable = False
    with pytest.raises(UserError, match="must be writable"):
        renderer.render(sim, [FRONT], {"front": frozen})
    renderer.close()


def test_an_orthographic_camera_is_refused():
    spec = scene()
    spec.cameras[0].proj = mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC
    with pytest.raises(UserError, match="'front' is orthographic"):
        GlCfg().build(build(spec), [FRONT])


@pytest.mark.parametrize(
    ("fields", "message"), [({"samples": -1}, "samples"), ({"slices": 2}, "slices must be >= 3")]
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        GlCfg(**fields)


def run_python(code, env):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_a_machine_without_opengl_gets_the_cure_in_one_line():
    code = (
        "import raster_scenes as r; from robokd.vision.gl import GlCfg\n"
        "try: GlCfg().build(r.build(r.scene()), [r.FRONT])\n"
        "except ValueError as error: print(error)"
    )
    env = {**os.environ, "MUJOCO_GL": "disable", "PYTHONPATH": os.path.dirname(__file__)}
    told = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
    assert told.count("\n") == 1
    assert "apt-get install libegl1 libgl1-mesa-dri, then set MUJOCO_GL=egl" in told


def test_nothing_of_opengl_is_imported_before_it_is_built():
    code = (
        "import sys, robokd.vision.gl; print([name for name in sys.modules if name in ('mujoco', 'OpenGL')])"
    )
    told = run_python(code, None)
    assert told.strip() == "[]"


def textured(width, height, *, repeat=(1, 1), is_uniform=False, has_mesh=False):
    """A wall, or a slab with texture coordinates of its own, under a texture of waves, evenly lit."""
    spec = scene()
    spec.visual.headlight.specular, spec.visual.headlight.diffuse = [0, 0, 0], [0, 0, 0]
    spec.visual.headlight.ambient = [1, 1, 1]
    texture = spec.add_texture(
        name="t", type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=3
    )
    row, column = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(2 * np.pi * k * x / n) for k, x, n in ((2, column, width), (3, row, height))]
    texture.data = np.stack([*waves, 0 * row], -1).astype(np.uint8).tobytes()
    material = spec.add_material(name="t", texrepeat=repeat, texuniform=is_uniform)
    roles = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
    roles[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = "t"
    material.textures = roles
    if has_mesh:
        corners = np.array([[x, y, z] for x in (0, 0.05) for y in (-0.4, 0.4) for z in (-0.3, 0.3)])
        places = np.stack([(corners[:, 1] + 0.4) / 0.8, (corners[:, 2] + 0.3) / 0.6], 1) * 0.8 + 0.1
        faces = np.array([
            [0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6],
            [0, 6, 4], [1, 5, 7], [1, 7, 3],
        ])  # fmt: skip
        spec.add_mesh(
            name="slab", uservert=corners.ravel(), userface=faces.ravel(), usertexcoord=places.ravel(),
            userfacetexcoord=faces.ravel(),
        )  # fmt: skip
        spec.worldbody.add_geom(type=GEOM.mjGEOM_MESH, meshname="slab", pos=[1, 0, 0], material="t")
    else:
        spec.worldbody.add_geom(
            type=GEOM.mjGEOM_PLANE, size=[0, 0, 1], pos=[4, 0, 0], quat=[1, 0, -1, 0], material="t"
        )
    return build(spec)


@pytest.mark.parametrize(
    "how",
    [
        {"width": 64, "height": 64, "has_mesh": True},
        {"width": 64, "height": 64, "has_mesh": True, "repeat": (2, 3)},
        {"width": 64, "height": 32, "has_mesh": True, "repeat": (2, 3), "is_uniform": True},
        {"width": 63, "height": 63},
        {"width": 50, "height": 30},
        {"width": 100, "height": 60, "repeat": (2, 2)},
    ],
)
def test_textures_of_any_size_and_on_meshes_are_those_of_mujoco(draw, how):
    sim = textured(**how)
    ours = pictures(sim, COLOUR, np.uint8).astype(float)
    theirs = draw(sim, COLOUR).astype(float)
    seen = theirs.sum(1, keepdims=True) > 0
    assert seen.mean() > 0.1
    assert np.abs(ours - theirs).mean(1, keepdims=True)[seen].mean() <= 3


@pytest.mark.parametrize("name", registry.names("renderer"))
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("geom_size", 0.0, "geom wall: its size must be > 0 and finite; in world 1 it is not so"),
        ("geom_size", np.nan, "geom wall: its size must be > 0 and finite"),
        ("mocap_pos", np.nan, "geom wall: its position and quaternion must be finite; in world 1"),
        ("cam_pos", np.inf, "camera 'front': its pose must be finite"),
        ("cam_fovy", 180.0, "camera 'front': its fovy must be in \\(0, 180\\) degrees"),
        ("cam_fovy", np.nan, "camera 'front': its fovy must be in"),
    ],
)
def test_every_renderer_refuses_a_world_that_cannot_be_drawn(name, field, value, message):
    spec = scene()
    body = spec.worldbody.add_body(name="wall", mocap=True, pos=[1, 0, 0])
    body.add_geom(name="wall", **WALL)
    sim = build(spec, num_envs=2)
    wrong = sim.get(field).clone()
    wrong[1] = value
    sim.set(field, wrong)
    sim.forward(torch.ones(2, dtype=torch.bool))
    with pytest.raises(UserError) as error:
        registry.find("renderer", name)().build(sim, [FRONT], 1)
    if "pip install" in str(error.value) or "OpenGL" in str(error.value):
        pytest.skip(str(error.value))
    assert re.match(message, str(error.value))


def test_colours_and_segments_reach_beyond_the_far_of_depth_in_every_renderer(draw):
    spec = scene()
    spec.worldbody.add_geom(pos=[4, 0, 0], **WALL)
    sim = build(spec)
    assert (draw(sim, SEGMENT) == pictures(sim, SEGMENT, np.int16)).mean() > 0.99
    assert (draw(sim, SEGMENT) == 0).mean() > 0.2
