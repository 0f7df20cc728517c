"""The renderer against MuJoCo's own, with its round shapes tessellated finely: depth, geoms and colours.

Planes are looked at from their front: MuJoCo's renderer draws their back too, see-through.
"""

import importlib
import os

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mujoco.rendering.classic import gl_context
from raster_scenes import FRONT, GEOM, SOLIDS, Still, add_materials, add_shapes, scene, shape

from robokd.specs import CameraSpec
from robokd.vision.raster import RasterCfg

FAR_M = 20.0
VIEW = {"view": "front", "width": 96, "height": 64, "fovy_deg": 60.0, "near_m": 1e-3, "far_m": FAR_M}
CAMERAS = [
    CameraSpec(name="depth", encoding="depth_f16", **VIEW),
    CameraSpec(name="segment", encoding="segment_i16", **VIEW),
    CameraSpec(name="rgb", encoding="rgb_u8", **VIEW),
]
LOOK_ALONG_X = np.array([0.5, 0.5, -0.5, -0.5])


def gallery():
    """One geom of every kind and more on mocap bodies, two planes, lights of every kind; poses come later."""
    rng = np.random.default_rng(0)
    spec = scene(FRONT)
    quality, scale = spec.visual.quality, spec.visual.map
    quality.numslices = quality.numstacks = 512
    quality.offsamples = quality.shadowsize = 0
    quality.numquads = 64  # MuJoCo lights corners, we pixels: a spot light needs fine faces
    # the depth buffer is float32 from far to near: relative errors of 1e-7
    spec.stat.extent, scale.znear, scale.zfar = 1.0, 1e-3, FAR_M
    spec.visual.headlight.specular = [0, 0, 0]
    add_shapes(spec, rng)
    add_materials(spec)
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=[0.3, 0.5, -1], diffuse=[0.3, 0.4, 0.2],
        ambient=[0.05, 0, 0.1], specular=[0, 0, 0],
    )  # fmt: skip
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_SPOT, pos=[1, 0, 3], dir=[0.1, 0.1, -1], diffuse=[0.5, 0.2, 0.4],
        cutoff=40, exponent=5, attenuation=[0.5, 0.1, 0.1], specular=[0, 0, 0],
    )  # fmt: skip
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[3, 3, 0.05], material="chk1", pos=[0, 0, -1.5])
    spec.worldbody.add_geom(
        type=GEOM.mjGEOM_PLANE, size=[2, 2, 0.05], material="chk0", pos=[4, 0, 0], quat=[1, 0, -1, 0]
    )
    for index, kind in enumerate((*SOLIDS, GEOM.mjGEOM_BOX, "lump", "wedge", "hills", "lump")):
        material = (None, "chk0", "chk1", "cub0", "cub1")[index % 5]
        look = {"material": material} if material else {"rgba": [*rng.uniform(0.2, 1, 3), 1]}
        body = spec.worldbody.add_body(mocap=True)
        body.add_geom(**shape(kind), size=[0.2, 0.2, 0.2], contype=0, conaffinity=0, **look)
    spec.camera("front").fovy = VIEW["fovy_deg"]
    return spec.compile()


@pytest.fixture(scope="module")
def both():
    """The model, its data, our renderer and MuJoCo's."""
    model = gallery()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    if not any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
        os.environ["MUJOCO_GL"] = "egl"
    try:
        importlib.reload(gl_context)  # it read the variable when mujoco was imported
        theirs = mujoco.Renderer(model, VIEW["height"], VIEW["width"])
    except Exception as error:
        pytest.skip(f"mujoco.Renderer does not run here ({error}): apt-get install libegl1 libgl1-mesa-dri")
    ours = RasterCfg(threads=1).build(Still(model, data), CAMERAS)
    yield model, data, ours, theirs
    theirs.close()


def arrange(model, data, seed):
    """Put the geoms before, beside and behind the camera, at times around it or near it."""
    rng = np.random.default_rng(seed)
    bodies = np.flatnonzero(model.body_mocapid >= 0)
    data.mocap_pos[:] = rng.uniform((-0.5, -1.4, -1.0), (3.0, 1.4, 1.2), (len(bodies), 3))
    quat = rng.normal(size=(len(bodies), 4))
    data.mocap_quat[:] = quat / np.linalg.norm(quat, axis=1, keepdims=True)
    solid = np.isin(model.geom_type, SOLIDS)
    model.geom_size[solid] = rng.uniform(0.05, 0.45, (solid.sum(), 3))
    if rng.random() < 0.3:
        model.geom_size[rng.choice(np.flatnonzero(solid))] *= rng.uniform(2, 10)
    if rng.random() < 0.6:
        data.mocap_pos[rng.integers(len(bodies))] = rng.uniform(-0.4, 0.4, 3)
    own = model.geom_matid < 0
    model.geom_rgba[own, :3] = rng.uniform(0, 1, (own.sum(), 3))
    model.light_dir[0] = rng.normal(size=3) - (0, 0, 1)
    model.light_dir[0] /= np.linalg.norm(model.light_dir[0])
    look = LOOK_ALONG_X + rng.normal(size=4) * 0.1
    model.cam_quat[0] = look / np.linalg.norm(look)
    mujoco.mj_forward(model, data)


def draw_theirs(renderer, data):
    renderer.update_scene(data, "front")
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    rgb = renderer.render().copy()
    renderer.enable_depth_rendering()
    depth = renderer.render().copy()
    renderer.enable_segmentation_rendering()
    geom = renderer.render()[..., 0].copy()
    renderer.disable_segmentation_rendering()
    return np.where(depth < FAR_M * 0.999, depth, 0), geom, rgb.astype(float)


def draw_ours(renderer, model, data):
    out = {camera.name: np.zeros((1, *camera.shape), camera.dtype) for camera in CAMERAS}
    out["depth"] = np.zeros((1, *CAMERAS[0].shape), np.float32)
    renderer.render(Still(model, data), CAMERAS, out)
    return out["depth"][0, 0], out["segment"][0, 0], out["rgb"][0].transpose(1, 2, 0).astype(float)


def _radius(model, geom):
    """Return the largest radius of a round geom: of an ellipsoid its longest half axis."""
    used = 3 if model.geom_type[geom] == GEOM.mjGEOM_ELLIPSOID else 1
    return float(model.geom_size[geom, :used].max())


def assert_equals_mujocos_renderer(both, seed):
    model, data, ours, theirs = both
    arrange(model, data, seed)
    depth, geom, rgb = draw_ours(ours, model, data)
    want_depth, want_geom, want_rgb = draw_theirs(theirs, data)
    error, same = np.abs(depth - want_depth), geom == want_geom
    assert same.mean() >= 0.995
    assert (error > 0.02).mean() <= 0.005
    curved = np.isin(model.geom_type, [kind for kind in SOLIDS if kind != GEOM.mjGEOM_BOX])
    is_curved = curved[np.maximum(want_geom, 0)] & (want_geom >= 0)
    radius = max((_radius(model, geom) for geom in np.unique(want_geom[is_curved])), default=0.0)
    for which, most in ((is_curved, 1e-4 * max(1.0, radius)), (~is_curved, 1e-5)):
        seen = which & same & (want_depth > 0)
        if seen.sum() > 20:
            assert np.median(error[seen]) <= most
    seen = same & (want_geom >= 0)
    if seen.any():
        assert np.abs(rgb - want_rgb)[seen].mean() <= 3


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_pictures_equal_mujocos_renderer(both, seed):
    assert_equals_mujocos_renderer(both, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_pictures_of_200_scenes_equal_mujocos_renderer(both, part):
    for seed in range(25 * part, 25 * (part + 1)):
        assert_equals_mujocos_renderer(both, seed)
