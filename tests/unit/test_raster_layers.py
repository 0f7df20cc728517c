"""Colours, geoms and what cameras share, by hand values; no GL."""

import dataclasses

import mujoco
import numpy as np
import pytest
import torch
from raster_scenes import (
    FRONT,
    GEOM,
    LOOK_DOWN_X,
    add_materials,
    add_shapes,
    build,
    pictures,
    random_scene,
    scene,
    shape,
)

from robokd import UserError
from robokd.vision.raster import RasterCfg

RGB = dataclasses.replace(FRONT, name="colour", view="front", encoding="rgb_u8")
SEGMENT = dataclasses.replace(FRONT, name="geoms", view="front", encoding="segment_i16")
HALF = dataclasses.replace(FRONT, name="half", view="front", encoding="depth_f16")
WALL = {"type": GEOM.mjGEOM_BOX, "size": [0.1, 3, 3], "pos": [1.1, 0, 0]}


def draw(sim, cameras, cfg=None):
    renderer = (cfg or RasterCfg(threads=1)).build(sim, cameras)
    sim.forward()
    out = {camera.name: np.full((sim.num_envs, *camera.shape), 77, camera.dtype) for camera in cameras}
    renderer.render(sim, cameras, out)
    return out


def lit_scene(ambient=(0.1, 0.2, 0.3), diffuse=(0.5, 0.5, 0.5)):
    """A camera whose headlight has these colours, and no other light."""
    spec = scene()
    lamp = spec.visual.headlight
    lamp.active, lamp.ambient, lamp.diffuse = 1, ambient, diffuse
    return spec


def colour(spec, cfg=None):
    """The colour of the middle pixel of a 5 x 5 picture, 0 to 255."""
    camera = dataclasses.replace(RGB, width=5, height=5)
    return draw(build(spec), [camera], cfg)["colour"][0, :, 2, 2].tolist()


def test_a_wall_that_faces_the_headlight_has_hand_values():
    spec = lit_scene()
    spec.worldbody.add_geom(**WALL, rgba=[1, 0.5, 0.2, 1])
    # rgba * (ambient + 1 * diffuse) = (0.6, 0.35, 0.16)
    assert colour(spec) == [153, 89, 41]


def test_light_from_the_side_falls_off_with_the_cosine_and_not_below_zero():
    for angle, facing in ((0, 1.0), (60, 0.5), (90, 0.0), (150, 0.0)):
        spec = lit_scene((0, 0, 0), (0, 0, 0))
        spec.worldbody.add_geom(**WALL, rgba=[1, 1, 1, 1])
        turn = np.radians(angle)
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[np.cos(turn), np.sin(turn), 0],
            diffuse=[0.8, 0.4, 0.2], ambient=[0.1, 0, 0],
        )  # fmt: skip
        want = 255 * (np.array([0.1, 0, 0]) + facing * np.array([0.8, 0.4, 0.2]))
        np.testing.assert_allclose(colour(spec), want, atol=0.6)


@pytest.mark.parametrize("kind", [mujoco.mjtLightType.mjLIGHT_SPOT, mujoco.mjtLightType.mjLIGHT_POINT])
@pytest.mark.parametrize("exponent", [2.0, 2.5])
def test_near_lights_fade_with_distance_and_spots_towards_their_edge(kind, exponent):
    # the lamp hangs 1 m before the wall's hit point (1, 0, 0), 30 degrees off its axis; 1 / (0.5 + 1 + 0.5)
    spec = lit_scene((0, 0, 0), (0, 0, 0))
    spec.worldbody.add_geom(**WALL, rgba=[1, 1, 1, 1])
    axis = [np.cos(np.radians(30)), np.sin(np.radians(30)), 0]
    light = {"pos": [0, 0, 0], "dir": axis, "diffuse": [0.8, 0.8, 0.8], "attenuation": [0.5, 1, 0.5]}
    spec.worldbody.add_light(type=kind, exponent=exponent, cutoff=40, **light)
    is_spot = kind == mujoco.mjtLightType.mjLIGHT_SPOT
    want = 255 * 0.8 / 2 * (np.cos(np.radians(30)) ** exponent if is_spot else 1)
    np.testing.assert_allclose(colour(spec), [want] * 3, atol=0.6)
    spec.lights[0].cutoff = 25
    np.testing.assert_allclose(colour(spec), [0 if is_spot else want] * 3, atol=0.6)


def test_emission_is_added_and_everything_is_cut_at_white():
    spec = lit_scene((0.2, 0.2, 0.2), (0, 0, 0))
    spec.add_material(name="lamp", rgba=[0.5, 0.4, 1, 1], emission=0.9)
    spec.worldbody.add_geom(**WALL, material="lamp")
    assert colour(spec) == [140, 112, 255]


def test_the_background_is_black_and_has_no_geom():
    spec = scene()
    spec.worldbody.add_geom(size=[0.1, 0, 0], pos=[1, 0, 0])
    out = draw(build(spec), [RGB, SEGMENT])
    assert (out["colour"][0, :, 0, 0] == 0).all()
    assert out["geoms"][0, 0, 0, 0] == -1
    assert out["geoms"][0, 0, 24, 32] == 0
    assert (out["colour"][0, :, 24, 32] > 0).all()


def test_a_geoms_own_colour_counts_before_its_materials():
    spec = lit_scene((1, 1, 1), (0, 0, 0))
    spec.add_material(name="red", rgba=[1, 0, 0, 1])
    geom = spec.worldbody.add_geom(**WALL, material="red")
    assert colour(spec) == [255, 0, 0]
    geom.rgba = [0, 1, 0, 1]
    assert colour(spec) == [0, 255, 0]


def test_colours_lights_and_fields_of_view_of_single_worlds_are_used():
    spec = lit_scene((0.5, 0.5, 0.5), (0, 0, 0))
    spec.worldbody.add_geom(size=[0.3, 0, 0], pos=[1.5, 0, 0], rgba=[1, 1, 1, 1])
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[1, 0, 0], diffuse=[0.4, 0.4, 0.4]
    )
    sim = build(spec, num_envs=3)
    cameras = [FRONT, RGB, SEGMENT]
    before = draw(sim, cameras)
    rgba = sim.get("geom_rgba").clone()
    rgba[1, 0, 0] = 0
    sim.set("geom_rgba", rgba)
    after = draw(sim, cameras)
    assert (after["colour"][1, 0] == 0).all()
    np.testing.assert_array_equal(after["colour"][[0, 2]], before["colour"][[0, 2]])
    direction = sim.get("light_dir").clone()
    direction[0, 0] = torch.tensor([-1.0, 0, 0])
    sim.set("light_dir", direction)
    turned = draw(sim, cameras)
    assert turned["colour"][0].max() < before["colour"][0].max()
    np.testing.assert_array_equal(turned["colour"][2], before["colour"][2])
    fovy = sim.get("cam_fovy").clone()
    fovy[2] = 30.0
    sim.set("cam_fovy", fovy)
    near = draw(sim, cameras)
    np.testing.assert_array_equal(near["front"][:2], before["front"][:2])
    narrow = dataclasses.replace(FRONT, fovy_deg=30)
    np.testing.assert_array_equal(near["front"][2], draw(sim, [narrow])["front"][0])
    assert (near["geoms"][2] >= 0).sum() > 3 * (near["geoms"][0] >= 0).sum()


def test_what_is_drawn_together_equals_what_is_drawn_alone():
    sim = build(random_scene(np.random.default_rng(3), 30), num_envs=3)
    other = dataclasses.replace(SEGMENT, name="small", width=20, height=30)
    cameras = [FRONT, HALF, RGB, SEGMENT, other]
    together = draw(sim, cameras)
    for camera in cameras:
        np.testing.assert_array_equal(together[camera.name], draw(sim, [camera])[camera.name])
    np.testing.assert_array_equal(together["geoms"] >= 0, together["colour"].max(axis=1, keepdims=True) > 0)
    seen = together["front"] > 0
    assert (together["geoms"][seen] >= 0).all()


def test_geoms_are_the_models_and_only_visible_ones():
    spec = scene()
    spec.worldbody.add_geom(**WALL, group=4)
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 3, 3], pos=[2.1, 0, 0])
    assert (draw(build(spec), [SEGMENT])["geoms"] == 1).all()


def test_threads_change_no_bit_of_colours():
    sim = build(random_scene(np.random.default_rng(8), 20), num_envs=24)
    one = draw(sim, [RGB, SEGMENT])
    many = draw(sim, [RGB, SEGMENT], RasterCfg(threads=3))
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])


def test_a_slice_of_a_colour_buffer_is_written_and_its_neighbours_are_left_alone():
    sim = build(random_scene(np.random.default_rng(8), 20), num_envs=2)
    ring = np.full((2, 3, 3, 50, 70), 99, np.uint8)
    RasterCfg(threads=1).build(sim, [RGB]).render(sim, [RGB], {"colour": ring[:, 1, :, 1:49, 3:67]})
    np.testing.assert_array_equal(ring[:, 1, :, 1:49, 3:67], draw(sim, [RGB])["colour"])
    ring[:, 1, :, 1:49, 3:67] = 99
    assert (ring == 99).all()


def test_a_shadow_takes_a_lights_part_away():
    for shadows, want in ((False, [153, 153, 153]), (True, [26, 26, 26])):
        spec = lit_scene((0.1, 0.1, 0.1), (0, 0, 0))
        spec.worldbody.add_geom(**WALL, rgba=[1, 1, 1, 1])
        spec.worldbody.add_geom(size=[0.1, 0, 0], pos=[0.5, 0.5, 0])
        direction = np.array([0.5, -0.5, 0]) / np.sqrt(0.5)  # through the ball, to where the camera looks
        spec.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=direction, diffuse=[0.5 * np.sqrt(2)] * 3,
            castshadow=True,
        )  # fmt: skip
        assert colour(spec, RasterCfg(threads=1, shadows=shadows)) == want


@pytest.mark.parametrize("kind", [*(GEOM(k) for k in (0, 2, 3, 4, 5, 6)), "lump", "wedge", "hills"])
def test_every_kind_casts_a_shadow_and_none_on_its_lit_side(kind):
    spec = lit_scene((0, 0, 0), (0, 0, 0))
    add_shapes(spec, np.random.default_rng(0))
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[3, 3, 0.1], pos=[0, 0, -0.6], rgba=[1, 1, 1, 1])
    spec.worldbody.add_geom(**shape(kind), size=[0.2, 0.2, 0.2], pos=[1.2, 0, 0], rgba=[1, 1, 1, 1])
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[0, 0, -1], diffuse=[0.9, 0.9, 0.9], castshadow=True
    )
    sim = build(spec)
    spec_camera = dataclasses.replace(RGB, fovy_deg=90.0)
    geoms = dataclasses.replace(SEGMENT, fovy_deg=90.0)
    bright = draw(sim, [spec_camera, geoms])
    dark = draw(sim, [spec_camera, geoms], RasterCfg(threads=1, shadows=True))
    lost = (bright["colour"][0, 0] > 0) & (dark["colour"][0, 0] == 0)
    on_floor = lost & (bright["geoms"][0, 0] == 0)
    assert on_floor.sum() > 5
    assert (dark["colour"][0, 0][~lost] == bright["colour"][0, 0][~lost]).all()
    if kind in (GEOM.mjGEOM_SPHERE, GEOM.mjGEOM_CAPSULE, GEOM.mjGEOM_ELLIPSOID):
        assert not (lost & (bright["geoms"][0, 0] == 1)).any()


@pytest.mark.parametrize("material", ["chk0", "chk1", "cub0", "cub1"])
@pytest.mark.parametrize("kind", [GEOM.mjGEOM_BOX, GEOM.mjGEOM_SPHERE, GEOM.mjGEOM_CAPSULE, "wedge"])
def test_a_texture_shows_its_colours_and_none_other(kind, material):
    spec = lit_scene((1, 1, 1), (0, 0, 0))
    add_shapes(spec, np.random.default_rng(0))
    add_materials(spec)
    spec.materials[["chk0", "chk1", "cub0", "cub1"].index(material)].rgba = [1, 1, 1, 1]
    spec.worldbody.add_geom(**shape(kind), size=[0.6, 0.5, 0.4], pos=[1.5, 0, 0], material=material)
    out = draw(build(spec), [RGB, SEGMENT])
    seen = out["colour"][0][:, out["geoms"][0, 0] == 0].astype(int)
    low, high = np.array([26, 26, 51]), np.array([230, 204, 77])
    assert (seen >= low[:, None] - 2).all()
    assert (seen <= high[:, None] + 2).all()
    assert np.ptp(seen[0]) > 20


def refusal(spec, camera=RGB, change=None):
    sim = build(spec)
    if change:
        change(sim.model)
    with pytest.raises(UserError) as caught:
        RasterCfg().build(sim, [camera])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_skybox_is_refused_for_colours_and_not_for_depth():
    spec = scene()
    spec.add_texture(
        name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        width=8, height=48,
    )  # fmt: skip
    assert "cannot draw the skybox sky: leave it out, the background is black" in refusal(spec)
    assert not pictures(build(spec)).any()


def test_a_see_through_geom_is_refused_for_colours_and_solid_for_depth():
    spec = scene()
    spec.worldbody.add_geom(name="glass", **WALL, rgba=[1, 1, 1, 0.4])
    assert "see-through geoms glass: alpha must be >= 0.995, or 0" in refusal(spec)
    assert pictures(build(spec)) == pytest.approx(1.0, abs=1e-6)


def test_an_image_light_is_refused():
    spec = scene()
    spec.worldbody.add_light(name="studio", type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)

    def change(model):
        model.light_type[0] = mujoco.mjtLightType.mjLIGHT_IMAGE

    assert "cannot draw the image light studio: it draws directional, spot, point" in refusal(
        spec, change=change
    )


def test_textures_of_other_kinds_are_refused_with_what_is_drawn():
    spec = scene()
    add_materials(spec)
    spec.worldbody.add_geom(name="tile", **WALL, material="chk0")

    def change(model):
        model.tex_nchannel[0] = 1

    told = refusal(spec, change=change)
    assert "a 2d texture of 1 channels on geom tile: it draws 2d ones of 3 or 4 channels, and cubes" in told


def test_a_texture_on_a_plane_that_ends_in_one_direction_only_is_refused():
    spec = scene()
    add_materials(spec)
    spec.worldbody.add_geom(name="strip", type=GEOM.mjGEOM_PLANE, size=[0.7, 0, 1], material="chk0")
    assert "texture on the plane strip, which ends in one direction only" in refusal(spec)


@pytest.mark.parametrize("encoding", ["depth_u8", "rgb_u8", "segment_i16"])
def test_geoms_without_size_or_place_are_refused(encoding):
    spec = scene()
    spec.worldbody.add_geom(name="ball", size=[0.1, 0, 0])
    camera = dataclasses.replace(FRONT, encoding=encoding)

    def shrink(model):
        model.geom_size[0] = 0

    def lose(model):
        model.geom_pos[0, 1] = np.nan

    assert "geoms without a size ball (sphere): sizes must be > 0 and finite" in refusal(spec, camera, shrink)
    assert "geoms without a place ball (sphere): their position and" in refusal(spec, camera, lose)


def test_cameras_without_place_and_orthographic_ones_are_refused():
    def lose(model):
        model.cam_pos[0, 0] = np.nan

    assert "camera 'front': its pose must be finite" in refusal(scene(), FRONT, lose)
    with pytest.raises(ValueError, match=r"fovy_deg must be in \(0, 180\), got 180"):
        dataclasses.replace(FRONT, fovy_deg=180.0)
    spec = scene()
    spec.camera("front").proj = mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC
    assert "camera 'front' is orthographic" in refusal(spec, FRONT)


def test_buffers_of_other_types_are_refused():
    sim = build(scene())
    renderer = RasterCfg().build(sim, [RGB, SEGMENT])
    for camera, dtype, wanted in ((RGB, np.float32, "uint8"), (SEGMENT, np.uint8, "int16")):
        with pytest.raises(ValueError, match=rf"{camera.name}'?: wanted .* of {wanted}, got .* of"):
            renderer.render(sim, [camera], {camera.name: np.zeros((1, *camera.shape), dtype)})


def test_a_camera_on_a_body_sees_what_a_fixed_one_sees_from_there():
    spec = random_scene(np.random.default_rng(2), 20)
    arm = spec.worldbody.add_body(pos=[0, 0, 0.6])
    arm.add_joint(type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1])
    arm.add_geom(size=[0.01, 0, 0], pos=[-1, 0, 0], group=3)
    arm.add_camera(name="wrist", xyaxes=LOOK_DOWN_X)
    sim = build(spec)
    wrist = [dataclasses.replace(camera, view="wrist") for camera in (FRONT, RGB, SEGMENT)]
    fixed = draw(sim, [FRONT, RGB, SEGMENT])
    for name, image in draw(sim, wrist).items():
        np.testing.assert_array_equal(image, fixed[name])


@pytest.mark.parametrize("size", [0.0, 1e-30, np.inf, np.nan])
def test_a_world_that_loses_its_size_later_spoils_no_memory(size):
    spec = scene()
    spec.add_texture(
        name="t", type=mujoco.mjtTexture.mjTEXTURE_2D, builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER, width=16,
        height=16, rgb1=[1, 0, 0], rgb2=[0, 1, 0],
    )  # fmt: skip
    roles = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
    roles[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = "t"
    spec.add_material(name="t").textures = roles
    for kind in (GEOM.mjGEOM_BOX, GEOM.mjGEOM_CAPSULE, GEOM.mjGEOM_ELLIPSOID, GEOM.mjGEOM_PLANE):
        spec.worldbody.add_geom(type=kind, size=[0.3, 0.3, 0.3], pos=[1, 0, 0], material="t")
    sim = build(spec, num_envs=2)
    renderer = RasterCfg().build(sim, [RGB])
    out = np.zeros((2, *RGB.shape), np.uint8)
    renderer.render(sim, [RGB], {RGB.name: out})
    before = out[0].copy()
    sizes = sim.get("geom_size").clone()
    for axis in range(3):
        wrong = sizes.clone()
        wrong[1, :, axis] = size
        sim.set("geom_size", wrong)
        renderer.render(sim, [RGB], {RGB.name: out})
        assert np.array_equal(out[0], before)
