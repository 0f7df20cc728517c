"""mujoco_warp's ray tracer against the primitive renderer, MuJoCo's OpenGL renderer and values by hand."""

import dataclasses
import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest
import torch
from raster_scenes import FRONT, GEOM, SOLIDS, add_shapes, build, own_views, scene, shape, shuffle

pytest.importorskip("mujoco_warp")
pytest.importorskip("warp")

from robokd import UserError
from robokd.specs import CameraSpec
from robokd.vision.encode import encode
from robokd.vision.gl import GlCfg
from robokd.vision.mjwarp import MjwarpCfg
from robokd.vision.raster import RasterCfg

VIEW = {"width": 96, "height": 64, "fovy_deg": 60.0, "near_m": 1e-3, "far_m": 20.0}
FIXED = [
    CameraSpec(name="depth", view="front", encoding="depth_f16", **VIEW),
    CameraSpec(name="segment", view="front", encoding="segment_i16", **VIEW),
    CameraSpec(name="rgb", view="front", encoding="rgb_u8", **VIEW),
]
CARRIED = [dataclasses.replace(camera, view="carried") for camera in FIXED]
KINDS = [GEOM.mjGEOM_PLANE, *SOLIDS, "lump", "wedge", "hills"]
FLAT = (GEOM.mjGEOM_PLANE, GEOM.mjGEOM_BOX, "lump", "wedge", "hills")
COLOUR, SEGMENT = (
    dataclasses.replace(FRONT, name=name, view="front", encoding=encoding)
    for name, encoding in (("colour", "rgb_u8"), ("segment", "segment_i16"))
)
WALL = {"type": GEOM.mjGEOM_BOX, "size": [0.1, 9, 9]}


def stage(gloss=0.0):
    """A camera that looks along +x, lights, and behind it a geom of every kind: one kernel for all tests."""
    spec = scene(FRONT)
    spec.visual.headlight.specular = [gloss] * 3
    spec.visual.quality.numquads = 64  # OpenGL lights corners
    add_shapes(spec, np.random.default_rng(0))
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[0.3, 0.5, -1], diffuse=[0.3, 0.4, 0.2],
        ambient=[0.05, 0, 0.1], specular=[gloss] * 3,
    )  # fmt: skip
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_SPOT, pos=[1, 0, 3], dir=[0.1, 0.1, -1], diffuse=[0.5, 0.2, 0.4],
        cutoff=40, exponent=5, attenuation=[0.5, 0.1, 0.1], specular=[gloss] * 3,
    )  # fmt: skip
    for kind in KINDS:
        spec.worldbody.add_geom(**shape(kind), size=[0.1] * 3, pos=[-9, 0, 0])
    return spec


def gallery(gloss=0.0):
    """Two geoms of every kind on mocap bodies before two planes, a fixed camera and a carried one."""
    rng, spec = np.random.default_rng(0), stage(gloss)
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[3, 3, 0.05], pos=[0, 0, -1.2])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[2, 2, 0.05], pos=[5, 0, 0], quat=[1, 0, -1, 0])
    for kind in (*KINDS[1:], *KINDS[1:]):
        body = spec.worldbody.add_body(mocap=True)
        body.add_geom(
            **shape(kind), size=rng.uniform(0.08, 0.25, 3), rgba=[*rng.uniform(0.2, 1, 3), 1], contype=0,
            conaffinity=0,
        )  # fmt: skip
    spec.worldbody.add_body(name="carrier", mocap=True).add_camera(name="carried", quat=[1, 1, -1, -1])
    return spec


def strewn(gloss=0.0, num_envs=3, seed=1):
    """Worlds of the gallery with poses of their own; the carried camera is moved and turned a little."""
    sim, rng = build(gallery(gloss), num_envs), np.random.default_rng(seed)
    shuffle(sim, rng, (0.6, -1.2, -0.9), (3.0, 1.2, 0.9))
    for field, low, high in (("mocap_pos", -0.3, 0.3), ("mocap_quat", -0.1, 0.1)):
        value = sim.get(field).clone()
        value[:, -1] = torch.from_numpy(rng.uniform(low, high, value[:, -1].shape))
        value[:, -1, 0] += field == "mocap_quat"
        sim.set(field, value)
    sim.forward()
    return sim


def draw(cfg, sim, cameras):
    renderer = cfg.build(sim, cameras, 1)
    sim.forward()
    out = {
        camera.name: np.full(
            (sim.num_envs, *camera.shape), 77, np.float32 if camera.is_depth else camera.dtype
        )
        for camera in cameras
    }
    renderer.render(sim, cameras, out)
    if isinstance(cfg, GlCfg):
        renderer.close()
    return out


def depth_of(sim, **fields):
    """Depth (N, H, W) of the front camera."""
    return draw(MjwarpCfg(**fields), sim, [FRONT])["front"][:, 0]


def kinds_of(sim, segment):
    """Index in KINDS of what is seen, -1 for nothing."""
    model = sim.model
    names = [
        model.mesh(model.geom_dataid[geom]).name if kind == GEOM.mjGEOM_MESH
        else "hills" if kind == GEOM.mjGEOM_HFIELD else GEOM(int(kind))
        for geom, kind in enumerate(model.geom_type)
    ]  # fmt: skip
    return np.array([*(KINDS.index(name) for name in names), -1])[segment]


def is_inside(segment):
    """Whether all nine pixels around one show the same geom: (N, 1, H, W)."""
    moved = [np.roll(segment, (down, right), (2, 3)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return np.logical_and.reduce([one == segment for one in moved])


def assert_same(sim, got, want, *, round_m, levels):
    """Compare depth kind by kind, segments off outlines and colours; depth of round shapes to `round_m`."""
    kinds, inside = kinds_of(sim, want["segment"]), is_inside(want["segment"])
    assert (got["segment"] == want["segment"])[inside].mean() >= 0.995
    error = np.abs(got["depth"] - want["depth"])
    for index, kind in enumerate(KINDS):
        here = (kinds == index) & (got["segment"] == want["segment"])
        assert here.sum() > 20
        assert np.median(error[here]) <= (1e-5 if kind in FLAT else round_m), kind
        assert (error[kinds == index] > 0.02).mean() <= 0.005, kind
    same = (got["segment"] == want["segment"])[:, 0] & (want["segment"][:, 0] >= 0)
    apart = np.abs(got["rgb"].astype(int) - want["rgb"]).mean(axis=1)
    assert apart[same].mean() <= levels


@pytest.fixture(scope="module")
def worlds():
    return strewn()


@pytest.fixture(scope="module")
def gl():
    sim = build(scene())
    try:
        GlCfg().build(sim, [FRONT]).close()
    except UserError as error:
        pytest.skip(f"no OpenGL on this machine: {error}")


@pytest.mark.parametrize("cameras", [FIXED, CARRIED], ids=["fixed", "carried"])
def test_pictures_of_every_kind_equal_the_primitive_renderer_s(worlds, cameras):
    got = draw(MjwarpCfg(), worlds, cameras)
    # 1 level: colours are rounded down
    assert_same(worlds, got, draw(RasterCfg(), worlds, cameras), round_m=1e-5, levels=1)
    assert not np.array_equal(got["depth"][0], got["depth"][1])


@pytest.mark.usefixtures("gl")
@pytest.mark.parametrize("cameras", [FIXED, CARRIED], ids=["fixed", "carried"])
def test_pictures_of_every_kind_equal_mujoco_s_renderer(worlds, cameras):
    want = draw(GlCfg(slices=256), worlds, cameras)
    assert_same(worlds, draw(MjwarpCfg(), worlds, cameras), want, round_m=1e-4, levels=1.5)


@pytest.mark.usefixtures("gl")
def test_gloss_is_mujoco_s_and_can_be_left_out():
    sim = strewn(gloss=0.5)
    want = draw(GlCfg(slices=256), sim, FIXED)
    assert_same(sim, draw(MjwarpCfg(), sim, FIXED), want, round_m=1e-4, levels=1.5)
    dull = draw(MjwarpCfg(specular=False), sim, FIXED)
    assert_same(sim, dull, draw(RasterCfg(), sim, FIXED), round_m=1e-5, levels=1)


def test_shadows_are_the_primitive_renderer_s():
    sim = strewn()
    sim.set("light_ambient", torch.zeros_like(sim.get("light_ambient")))  # here, shadows do not take it away
    want = draw(RasterCfg(shadows=True), sim, FIXED)
    got = draw(MjwarpCfg(shadows=True), sim, FIXED)
    assert_same(sim, got, want, round_m=1e-5, levels=1.5)
    assert np.abs(got["rgb"].astype(int) - draw(MjwarpCfg(), sim, FIXED)["rgb"]).mean() > 2


def test_worlds_of_their_own_sizes_colours_lights_and_lenses_are_drawn_so():
    sim, rng = strewn(), np.random.default_rng(3)
    for field, low, high in (
        ("geom_size", 0.7, 1.3), ("geom_rgba", 0.3, 1.0), ("light_diffuse", 0.3, 1.5),
        ("light_ambient", 0, 3), ("cam_fovy", 0.7, 1.3),
    ):  # fmt: skip
        value = sim.get(field).clone()
        factor = torch.from_numpy(rng.uniform(low, high, value.shape)).to(value.dtype)
        if field == "geom_rgba":
            factor[..., 3] = 1
        value[1:] *= factor[1:]
        sim.set(field, value)
    sim.set("light_dir", sim.get("light_dir") + torch.tensor([[[0.0]], [[0.2]], [[-0.2]]]))
    before = draw(MjwarpCfg(), strewn(), FIXED)
    got = draw(MjwarpCfg(), sim, FIXED)
    assert_same(sim, got, draw(RasterCfg(), sim, FIXED), round_m=1e-5, levels=1)
    assert np.array_equal(got["depth"][0], before["depth"][0])
    assert not np.array_equal(got["depth"][1], before["depth"][1])


@pytest.mark.parametrize(
    ("field", "change"),
    [("geom_matid", 1), ("mat_rgba", 0.3), ("mat_emission", 1.0), ("light_active", 0), ("light_cutoff", 5)],
)
def test_a_field_that_one_world_sets_changes_that_world_only(field, change):
    spec = gallery()
    for index in range(2):
        spec.add_material(name=f"paint{index}", rgba=[0.9, 0.2 + 0.6 * index, 0.1, 1])
    spec.worldbody.add_geom(**WALL, pos=[2, 0, 0], material="paint0")
    sim = build(spec, num_envs=3)
    renderer = MjwarpCfg().build(sim, FIXED)
    seen = []
    for is_changed in (False, True):
        if is_changed:
            value = sim.get(field).clone()
            value[1] = change
            sim.set(field, value)
        sim.forward()
        out = np.zeros((3, *FIXED[2].shape), np.uint8)
        renderer.render(sim, FIXED[2:], {"rgb": out})
        seen.append(out)
    np.testing.assert_array_equal(seen[1][[0, 2]], seen[0][[0, 2]])
    assert (seen[1][1] != seen[0][1]).any()


def test_a_world_s_own_lens_and_pose_are_used_and_else_the_spec_s():
    sim = own_views(stage())
    wide, narrow = (
        dataclasses.replace(FRONT, name=name, view="front", fovy_deg=fovy)
        for name, fovy in (("wide", 60), ("narrow", 30))
    )
    depth = draw(MjwarpCfg(), sim, [wide, narrow])
    np.testing.assert_array_equal(depth["wide"][1], depth["narrow"][0])
    # 48 rows over 2 tan(30 deg) = 1.1547: 0.4 m at 1 m are 16.6 of them, at 1.5 m 11.1; 35.8 of 2 tan(15 deg)
    assert [int((one[0, :, 32] > 0).sum()) for one in depth["wide"]] == [16, 36, 12]
    assert depth["wide"][2, 0, 24, 32] == pytest.approx(1.5, abs=1e-5)


def test_a_wall_has_its_distance_and_nothing_is_a_miss():
    spec = stage()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 0.2, 2], pos=[1.1, 0, 0])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 0.2, 2], pos=[4.0, 1, 0])  # beyond far
    sim = build(spec)
    depth = depth_of(sim)[0]
    assert depth[:, 32] == pytest.approx(1.0, abs=1e-6)
    assert (depth[:, :10] == 0).all()
    assert (depth[:, -10:] == 0).all()
    segment = draw(MjwarpCfg(), sim, [SEGMENT])["segment"][0, 0]
    first = sim.model.ngeom - 2
    assert set(np.unique(segment)) == {-1, first, first + 1}
    assert (segment[:, 32:] != first + 1).all()  # the second is to the left: +y


def test_nothing_is_too_near_to_be_drawn():
    spec = stage()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.001, 1, 1], pos=[0.0014, 0, 0])
    sim = build(spec)
    assert depth_of(sim) == pytest.approx(0.0004, abs=1e-7)
    assert draw(RasterCfg(), sim, [FRONT])["front"] == pytest.approx(0.0004, abs=1e-7)


def test_encoded_pictures_are_the_one_encoding(worlds):
    for encoding in ("depth_u8", "depth_f16"):
        camera = dataclasses.replace(FIXED[0], near_m=0.8, far_m=2.1, encoding=encoding)
        out = np.full((3, *camera.shape), 77, camera.dtype)
        MjwarpCfg().build(worlds, [camera]).render(worlds, [camera], {"depth": out})
        depth = draw(MjwarpCfg(), worlds, [camera])["depth"]
        np.testing.assert_array_equal(out, encode(depth, camera))
        assert 0.1 < (out > 0).mean() < 0.9
        assert depth.max() <= 2.1


def test_cameras_of_several_sizes_lenses_and_kinds_share_a_call(worlds):
    small = dataclasses.replace(FIXED[0], name="small", width=20, height=10, fovy_deg=40.0)
    tele = dataclasses.replace(FIXED[2], name="tele", view="carried", width=31, fovy_deg=20.0)
    cameras = [small, tele, *FIXED]
    renderer, want = MjwarpCfg().build(worlds, cameras), draw(RasterCfg(), worlds, cameras)
    wide = torch.zeros(3, 1, 64, 100)
    out = {
        "small": torch.zeros(3, *small.shape), "tele": np.zeros((3, *tele.shape), np.uint8),
        "depth": wide[..., 2:-2], "segment": torch.zeros(3, *FIXED[1].shape, dtype=torch.int16),
        "rgb": torch.zeros(64, 96, 3, 3, dtype=torch.uint8).permute(2, 3, 0, 1),
    }  # fmt: skip
    renderer.render(worlds, cameras, out)
    for name, image in out.items():
        error = np.abs(np.asarray(image).astype(float) - want[name])
        assert (error > (1 if name in ("tele", "rgb") else 0.02)).mean() < 0.005, name
    assert not wide[..., :2].any()
    before = out["rgb"].clone()
    out["small"].fill_(0)
    renderer.render(worlds, [small], {"small": out["small"]})
    assert out["small"].any()
    assert torch.equal(out["rgb"], before)


def test_a_world_looks_the_same_alone_and_among_others():
    many = strewn(num_envs=7)
    alone = strewn(num_envs=1)
    for field in ("mocap_pos", "mocap_quat"):
        alone.set(field, many.get(field)[4:5])
    alone.forward()
    for name, images in draw(MjwarpCfg(), many, FIXED).items():
        np.testing.assert_array_equal(images[4:5], draw(MjwarpCfg(), alone, FIXED)[name])


def test_a_tree_that_is_rebuilt_seldom_draws_the_same():
    sim = strewn()
    renderers = [MjwarpCfg(rebuild_every=every).build(sim, FIXED[:1]) for every in (1, 3, 1000)]
    for seed in range(4):
        shuffle(sim, np.random.default_rng(seed), (0.6, -1.2, -0.9), (3.0, 1.2, 0.9))
        seen = []
        for renderer in renderers:
            out = np.zeros((3, *FIXED[0].shape), np.float32)
            renderer.render(sim, FIXED[:1], {"depth": out})
            seen.append(out)
        np.testing.assert_array_equal(seen[0], seen[1])
        np.testing.assert_array_equal(seen[0], seen[2])


@pytest.mark.parametrize("groups", [(), (0,)], ids=["no geoms", "hidden geoms"])
def test_of_nothing_nothing_is_seen(groups):
    spec = scene()
    if groups:
        spec.worldbody.add_geom(**WALL, pos=[2, 0, 0])
    out = draw(MjwarpCfg(hidden_groups=groups), build(spec, num_envs=2), [FRONT, SEGMENT, COLOUR])
    assert [int(out[name].min()) for name in ("front", "segment", "colour")] == [0, -1, 0]
    assert [int(out[name].max()) for name in ("front", "segment", "colour")] == [0, -1, 0]


def test_a_renderer_without_cameras_draws_none(worlds):
    MjwarpCfg().build(worlds, []).render(worlds, [], {})


def test_hidden_groups_and_clear_geoms_are_not_drawn():
    spec = stage()
    spec.worldbody.add_geom(**WALL, pos=[2.1, 0, 0])
    spec.worldbody.add_geom(**WALL, pos=[1.1, 0, 0], group=3)
    spec.worldbody.add_geom(**WALL, pos=[1.4, 0, 0], rgba=[1, 0, 0, 0])
    sim = build(spec)
    assert depth_of(sim) == pytest.approx(2.0, abs=1e-5)
    assert depth_of(sim, hidden_groups=()) == pytest.approx(1.0, abs=1e-5)


def test_a_height_field_has_sides_and_a_base():
    for pos in ((1.5, 0, 0), (1.5, 0, 0.35)):  # from aside and from below
        spec = stage()
        spec.worldbody.add_geom(**shape("hills"), pos=pos)
        spec.add_hfield(name="thick", size=[0.1, 0.1, 0.1, 0.3], nrow=2, ncol=2, userdata=[0, 1, 1, 0])
        sim = build(spec)
        want = draw(RasterCfg(), sim, [FRONT])["front"][:, 0]
        assert (want > 0).sum() > 100
        assert np.abs(depth_of(sim) - want) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", [*SOLIDS, "lump"])
def test_a_camera_inside_a_geom_looks_out_of_it(kind):
    spec = stage()
    spec.worldbody.add_geom(**shape(kind), size=[0.3, 0.3, 0.3], pos=[0.01, 0.02, -0.05])
    spec.worldbody.add_geom(**WALL, pos=[2, 0, 0])
    assert depth_of(build(spec)) == pytest.approx(1.9, abs=1e-5)


def test_a_diverged_world_spoils_no_other():
    sim = strewn(num_envs=4)
    renderer, out = MjwarpCfg(rebuild_every=1).build(sim, [FRONT]), np.zeros((4, *FRONT.shape), np.float32)
    renderer.render(sim, [FRONT], {"front": out})
    want, poses = out.copy(), sim.get("geom_xpos")
    kept = poses.clone()
    poses[2] = torch.nan
    renderer.render(sim, [FRONT], {"front": out})
    np.testing.assert_array_equal(out[[0, 1, 3]], want[[0, 1, 3]])
    poses.copy_(kept)
    renderer.render(sim, [FRONT], {"front": out})
    np.testing.assert_array_equal(out, want)


def test_physics_that_mujoco_warp_lacks_does_not_keep_it_from_drawing():
    spec = stage()
    spec.option.solver, spec.option.noslip_iterations = mujoco.mjtSolver.mjSOL_PGS, 3
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    spec.worldbody.add_geom(**WALL, pos=[2.1, 0, 0])
    sim = build(spec)
    assert depth_of(sim) == pytest.approx(2.0, abs=1e-5)
    assert sim.model.opt.solver == mujoco.mjtSolver.mjSOL_PGS


@pytest.mark.parametrize(("field", "value"), [("geom_type", GEOM.mjGEOM_SPHERE), ("geom_group", 3)])
def test_what_cannot_differ_between_worlds_is_refused_by_name(field, value):
    spec = stage()
    spec.worldbody.add_geom(**WALL, pos=[2, 0, 0])
    sim = build(spec, num_envs=2)
    renderer, out = MjwarpCfg().build(sim, [FRONT]), np.zeros((2, *FRONT.shape), np.float32)
    changed = sim.get(field).clone()
    sim.set(field, changed)
    renderer.render(sim, [FRONT], {"front": out})  # of its own, but the same
    changed[1, -1] = int(value)
    sim.set(field, changed)
    with pytest.raises(UserError, match=f"all worlds with the {field} of the start"):
        renderer.render(sim, [FRONT], {"front": out})


def texture(spec, **fields):
    """Add a material of a texture: paint."""
    spec.add_texture(name="chk", builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER, width=8, height=8, **fields)
    roles = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
    roles[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = "chk"
    spec.add_material(name="paint").textures = roles
    return {"material": "paint"}


def textured_box(spec):
    spec.worldbody.add_geom(**WALL, name="wall", **texture(spec, type=mujoco.mjtTexture.mjTEXTURE_2D))


def cubed_sphere(spec):
    paint = texture(spec, type=mujoco.mjtTexture.mjTEXTURE_CUBE)
    spec.worldbody.add_geom(name="ball", type=GEOM.mjGEOM_SPHERE, size=[1, 0, 0], **paint)


def glass(spec):
    spec.worldbody.add_geom(**WALL, name="pane", rgba=[1, 1, 1, 0.5])


def image_light(spec):
    spec.worldbody.add_geom(**WALL)
    spec.worldbody.add_light(name="sky", type=mujoco.mjtLightType.mjLIGHT_IMAGE)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (textured_box, "textures .* on boxes and height fields: wall"), (cubed_sphere, "textures .*: ball"),
        (glass, "see-through geoms pane"), (image_light, "image light sky"),
    ],
)  # fmt: skip
def test_colours_that_cannot_be_drawn_are_refused_by_name(add, message):
    spec = scene()
    add(spec)
    sim = build(spec)
    with pytest.raises(UserError, match=message):
        MjwarpCfg().build(sim, [COLOUR])
    MjwarpCfg().build(sim, [FRONT])


@pytest.mark.usefixtures("gl")
def test_a_flat_texture_near_by_is_mujoco_s():
    spec = scene(pos=(0, 0, 0.6))
    spec.visual.headlight.specular, spec.visual.headlight.ambient = [0, 0, 0], [0.8, 0.8, 0.8]
    paint = texture(spec, type=mujoco.mjtTexture.mjTEXTURE_2D, rgb1=[0.9, 0.1, 0.2], rgb2=[0.1, 0.8, 0.3])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[3, 2, 0.05], **paint)
    sim = build(spec)
    got, want = (draw(cfg, sim, [COLOUR])["colour"].astype(int) for cfg in (MjwarpCfg(), GlCfg()))
    assert np.abs(got - want).mean() < 2
    assert want.std() > 20


def test_other_scenes_are_refused_by_name():
    spec = scene()
    spec.cameras[0].proj = mujoco.mjtProjection.mjPROJ_ORTHOGRAPHIC
    spec.worldbody.add_geom(**WALL)
    with pytest.raises(UserError, match="'front' is orthographic"):
        MjwarpCfg().build(build(spec), [FRONT])
    ball = '<asset><mesh name="m" builtin="sphere" params="2"/></asset>'
    body = '<worldbody><camera name="front"/><geom name="blob" type="sdf" mesh="m"/></worldbody>'
    with pytest.raises(UserError, match="cannot draw geoms blob: it draws plane, hfield"):
        MjwarpCfg().build(build(mujoco.MjSpec.from_string(f"<mujoco>{ball}{body}</mujoco>")), [FRONT])
    cloth = '<flexcomp name="cloth" type="grid" count="3 3 1" spacing="1 1 1" rigid="true" dim="2"/>'
    body = f'<worldbody><camera name="front"/>{cloth}</worldbody>'
    with pytest.raises(UserError, match="1 flexes and 0 skins"):
        MjwarpCfg().build(build(mujoco.MjSpec.from_string(f"<mujoco>{body}</mujoco>")), [FRONT])


def test_wrong_cameras_buffers_and_devices_are_refused(worlds):
    wrong = dataclasses.replace(FRONT, name="frnt")
    with pytest.raises(UserError, match=r"no camera named 'frnt'\. It has: front, carried"):
        MjwarpCfg().build(worlds, [wrong])
    with pytest.raises(UserError, match=r"no device 'cuda:7' here\. It has: cpu"):
        MjwarpCfg(device="cuda:7").build(worlds, [FRONT])
    renderer = MjwarpCfg().build(worlds, [FRONT, COLOUR])
    good = np.zeros((3, *FRONT.shape), np.uint8)
    with pytest.raises(UserError, match="not built with this camera 'frnt', but with: colour, front"):
        renderer.render(worlds, [wrong], {"frnt": good})
    for bad, message in (
        (good.astype(np.float16), r"wanted \(3, 1, 48, 64\) of uint8 or float32, got .* of float16"),
        (torch.zeros(3, 1, 48, 64).double(), "got .* of float64"), (good[:2], r"got \(2, 1, 48, 64\)"),
        (good[..., ::-1], "must be writable and run forward"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            renderer.render(worlds, [FRONT], {"front": bad})
    good.flags.writeable = False
    with pytest.raises(UserError, match="must be writable"):
        renderer.render(worlds, [FRONT], {"front": good})
    with pytest.raises(UserError, match="built for 3 worlds, got 2"):
        renderer.render(strewn(num_envs=2), [], {})


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match="rebuild_every must be >= 1, got 0"):
        MjwarpCfg(rebuild_every=0)


def test_a_machine_without_warp_gets_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    with pytest.raises(UserError, match=r"pip install 'robokd\[gpu\]'"):
        MjwarpCfg().build(build(scene()), [FRONT])


def test_nothing_of_warp_is_imported_before_it_is_built_and_then_it_is_silent():
    code = (
        "import sys, robokd.vision.mjwarp\n"
        "assert not {'warp', 'mujoco_warp'} & set(sys.modules)\n"
        "import raster_scenes as r\n"
        "spec = r.scene(); spec.worldbody.add_geom(type=r.GEOM.mjGEOM_BOX, size=[1, 1, 1])\n"
        "robokd.vision.mjwarp.MjwarpCfg().build(r.build(spec), [r.FRONT])\n"
    )
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert told.stdout == ""
