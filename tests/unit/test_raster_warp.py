"""The primitive renderer's Warp kernel, on warp's CPU device, against its numba kernel."""

import dataclasses
import math
import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest
import torch
from raster_scenes import (
    FRONT,
    GEOM,
    SOLIDS,
    add_shapes,
    build,
    own_views,
    pictures,
    random_scene,
    scene,
    shape,
    shuffle,
)

pytest.importorskip("warp")

from robokd import UserError
from robokd.vision.encode import encode
from robokd.vision.raster import Raster, RasterCfg
from robokd.vision.raster_warp import WarpRaster

FALLING = """
<mujoco>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 0.1"/>
    <camera name="front" pos="0 -1 0.5" xyaxes="1 0 0 0 0.4 1"/>
    <body pos="0 0 0.07"><freejoint/><geom name="box" type="box" size="0.1 0.08 0.06" mass="0.5"/></body>
  </worldbody>
</mujoco>
"""
WARP, NUMBA = RasterCfg(kernel="warp"), RasterCfg(kernel="numba", threads=1)
SEGMENT, HALF, COLOUR = (
    dataclasses.replace(FRONT, name=name, view="front", encoding=encoding)
    for name, encoding in (("segment", "segment_i16"), ("half", "depth_f16"), ("colour", "rgb_u8"))
)
# Warp's kernel counts in float32, numba's in float64 too. Depths are CLOSE_M from each other, and where a ray
# but touches a round shape TOUCH_M: of a root of nearly nothing, half of the digits are left. A code of
# depth_u8 is a centimetre wide here, so one in a thousand may be its neighbour; and one pixel in a thousand,
# at an edge, may show what is beside it.
CLOSE_M, TOUCH_M, SHARE = 1e-5, 2e-4, 1e-3


def seen(sim, cfg, cameras=(FRONT, SEGMENT), dtype=None):
    """What the cameras show, drawn in one call: arrays by name."""
    out = {
        camera.name: np.full((sim.num_envs, *camera.shape), 77, dtype or camera.dtype) for camera in cameras
    }
    cfg.build(sim, cameras).render(sim, cameras, out)
    return out


def assert_as_numba(sim):
    ours, theirs = seen(sim, WARP), seen(sim, NUMBA)
    is_same = ours["segment"] == theirs["segment"]
    assert (theirs["segment"] >= 0).mean() > 0.03
    assert (~is_same).mean() <= SHARE
    assert (ours["front"] != theirs["front"]).mean() <= SHARE
    off = np.abs(ours["front"].astype(int) - theirs["front"])[is_same]
    assert off.max() <= 1
    metres = [seen(sim, cfg, [FRONT], np.float32)["front"][is_same] for cfg in (WARP, NUMBA)]
    apart = np.abs(metres[0] - metres[1])
    assert (apart > CLOSE_M).mean() <= SHARE
    assert apart.max() <= TOUCH_M


def around(kind, seed, size=(0.05, 0.4)):
    """Ten worlds with twelve geoms of a kind, before, beside, behind and around the camera."""
    rng, spec = np.random.default_rng(seed), scene()
    add_shapes(spec, rng)
    for sizes in rng.uniform(*size, (12, 3)):
        body = spec.worldbody.add_body(mocap=True)
        sized = {} if isinstance(kind, str) else {"size": sizes}
        body.add_geom(**shape(kind), **sized, contype=0, conaffinity=0)
    sim = build(spec, num_envs=10)
    shuffle(sim, rng, -1.2, 1.2)
    return sim


@pytest.mark.parametrize("seed", range(3))
def test_random_scenes_are_those_of_numba_in_every_world(seed):
    rng = np.random.default_rng(seed)
    sim = build(random_scene(rng, 40), num_envs=4)
    shuffle(sim, rng, (0.5, -1.2, 0.0), (2.8, 1.2, 1.3))
    assert_as_numba(sim)


@pytest.mark.parametrize("kind", [*SOLIDS, "lump", "wedge", "hills"], ids=str)
def test_every_kind_around_and_behind_the_camera_is_that_of_numba(kind):
    assert_as_numba(around(kind, seed=2))


def test_planes_have_ends_and_no_back_as_with_numba():
    rng, spec = np.random.default_rng(3), scene(pos=(0, 0, 0.6))
    for size, place in (
        ([1.5, 0.4, 1], {}),
        ([0.3, 0, 1], {"pos": [2, 0, 0.5], "quat": rng.normal(size=4)}),
        ([0.4, 0.4, 1], {"pos": [1, 0, 0.5], "quat": [1, 0, -0.9, 0]}),
        ([0.4, 0.4, 1], {"pos": [1, 0.8, 0.5], "quat": [1, 0, 0.9, 0]}),
    ):
        spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=size, **place)
    assert_as_numba(build(spec))


def test_rays_along_faces_and_axes_divide_by_nothing():
    camera, spec = dataclasses.replace(FRONT, width=33, height=33), scene()
    for index, kind in enumerate(SOLIDS):
        for turn, quat in enumerate(([1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0])):
            position = [1.5, 0.35 * (index - 2), 0.4 * (turn - 1)]
            spec.worldbody.add_geom(type=kind, size=[0.15, 0.12, 0.1], pos=position, quat=quat)
    sim = build(spec)
    ours, theirs = (seen(sim, cfg, [camera], np.float32)["front"] for cfg in (WARP, NUMBA))
    np.testing.assert_allclose(ours, theirs, atol=TOUCH_M)


def test_a_sphere_straight_ahead_has_hand_values():
    # the middle ray meets a sphere at 2 m of radius 0.5 at 1.5 m; a corner's, at 40 degrees, misses it
    camera, spec = dataclasses.replace(FRONT, width=5, height=5), scene()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.5, 0, 0], pos=[2, 0, 0])
    depth = seen(build(spec), WARP, [camera], np.float32)["front"][0, 0]
    assert depth[2, 2] == pytest.approx(1.5, abs=1e-6)
    assert depth[0, 0] == 0
    assert depth[1, 2] == depth[3, 2] == depth[2, 1] == depth[2, 3] > 1.5


@pytest.mark.parametrize("kind", [*SOLIDS, "lump"], ids=str)
def test_who_is_inside_of_a_solid_looks_out(kind):
    spec = scene()
    add_shapes(spec, np.random.default_rng(0))
    sized = {} if isinstance(kind, str) else {"size": [0.1] * 3}
    spec.worldbody.add_geom(**shape(kind), **sized)
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 2, 2], pos=[1.1, 0, 0])
    assert pictures(build(spec), cfg=WARP) == pytest.approx(1.0, abs=1e-6)


def test_worlds_of_their_own_sizes_lenses_and_places_are_drawn_so():
    sim = own_views(scene())
    size = sim.get("geom_size").clone()
    size[0] *= 2
    sim.set("geom_size", size)
    sim.forward()
    assert_as_numba(sim)
    depth = seen(sim, WARP, [FRONT], np.float32)["front"]
    # a box whose middle is 1.1 m ahead; the camera of the last world stands 0.5 m further back
    assert depth[:, 0, 24, 32] == pytest.approx([0.9, 1.0, 1.5], abs=1e-6)


@pytest.mark.parametrize("camera", [FRONT, HALF], ids=lambda camera: camera.encoding)
def test_encoded_pictures_are_the_one_encoding_bit_for_bit(camera):
    camera = dataclasses.replace(camera, near_m=0.8, far_m=2.1)
    sim = build(random_scene(np.random.default_rng(7), 40), num_envs=3)
    depth, image = (seen(sim, WARP, [camera], dtype)[camera.name] for dtype in (np.float32, None))
    np.testing.assert_array_equal(image, encode(depth, camera))
    assert (depth == 0).any()
    assert ((depth > 0) & (depth < 0.8)).any()  # nearer than near is near


@pytest.mark.parametrize(
    ("width", "height", "fovy_deg"), [(17, 31, 60), (1, 1, 60), (40, 7, 150), (9, 64, 3)]
)
def test_any_picture_size_and_lens_is_that_of_numba(width, height, fovy_deg):
    camera = dataclasses.replace(FRONT, width=width, height=height, fovy_deg=fovy_deg)
    sim = build(random_scene(np.random.default_rng(0), 30, camera))
    ours, theirs = (seen(sim, cfg, [camera], np.float32)["front"] for cfg in (WARP, NUMBA))
    assert (np.abs(ours - theirs) > CLOSE_M).mean() <= 10 * SHARE  # of few pixels


def test_many_cameras_of_all_sizes_share_two_launches_and_look_as_each_alone(monkeypatch):
    sim = build(random_scene(np.random.default_rng(1), 20), num_envs=2)
    cameras = [
        dataclasses.replace(kind, name=f"{kind.name}{width}", view="front", width=width, height=40 - width)
        for kind in (FRONT, HALF, SEGMENT) for width in (7, 16, 33)
    ]  # fmt: skip
    renderer, dims = WARP.build(sim, cameras), []
    launch = renderer._warp.launch

    def noted(kernel, *, dim, **more):
        dims.append(dim)
        launch(kernel, dim=dim, **more)

    monkeypatch.setattr(renderer._warp, "launch", noted)
    out = {camera.name: np.full((2, *camera.shape), 77, camera.dtype) for camera in cameras}
    renderer.render(sim, cameras[:8], out)
    assert dims == [(2, 8, 2 * 3), (2, 8, 2 * 3, 64)]  # tiles of 16 x 24 pixels
    renderer.render(sim, cameras, out)
    assert dims[4:] == [(2, 1, 5 * 1), (2, 1, 5 * 1, 64)]  # nine do not fit into eight
    for camera in cameras:
        np.testing.assert_array_equal(out[camera.name], seen(sim, WARP, [camera])[camera.name])


def test_a_slice_of_a_buffer_is_written_in_place_and_its_neighbours_are_left_alone():
    sim = build(random_scene(np.random.default_rng(8), 20), num_envs=6)
    renderer, want = WARP.build(sim, [FRONT]), pictures(sim, dtype=np.uint8, cfg=WARP)
    ring = np.full((6, 3, 1, 50, 80), 99, np.uint8)
    for at in (np.s_[:, 1, :, 1:49, 8:72], np.s_[:, 2, :, :48, 16:]):
        renderer.render(sim, [FRONT], {"front": ring[at]})
        np.testing.assert_array_equal(ring[at], want)
        ring[at] = 99
        assert (ring == 99).all()
    scattered = torch.full((6, 1, 48, 128), 99, dtype=torch.uint8)
    renderer.render(sim, [FRONT], {"front": scattered[..., ::2]})  # by a copy
    np.testing.assert_array_equal(scattered[..., ::2].numpy(), want)
    assert (scattered[..., 1::2] == 99).all()


def test_a_world_that_is_not_finite_spoils_no_other():
    sim = build(random_scene(np.random.default_rng(4), 20), num_envs=3)
    renderer, out = WARP.build(sim, [FRONT]), np.zeros((3, *FRONT.shape), np.uint8)
    renderer.render(sim, [FRONT], {"front": out})
    before = out.copy()
    sim.get("geom_xpos")[1] = math.nan
    renderer.render(sim, [FRONT], {"front": out})
    assert not out[1].any()
    np.testing.assert_array_equal(out[[0, 2]], before[[0, 2]])


def test_of_nothing_nothing_is_seen():
    spec = mujoco.MjSpec()
    spec.worldbody.add_camera(name="front")
    found = seen(build(spec, num_envs=2), WARP)
    assert not found["front"].any()
    assert (found["segment"] == -1).all()
    WARP.build(build(scene()), []).render(build(scene()), [], {})


def test_the_device_chooses_the_kernel_and_a_config_can():
    sim = build(scene())
    assert isinstance(RasterCfg().build(sim, [FRONT]), Raster)
    assert isinstance(WARP.build(sim, [FRONT]), WarpRaster)
    sim.device = "cuda:7"
    with pytest.raises(UserError, match=r"renderer=raster: warp has no device 'cuda:7' here\. It has: cpu"):
        RasterCfg().build(sim, [FRONT])
    assert isinstance(NUMBA.build(sim, [FRONT]), Raster)
    with pytest.raises(ValueError, match=r"renderer\.kernel must be numba or warp, .*, got 'cuda'"):
        RasterCfg(kernel="cuda")


def test_what_it_cannot_draw_is_refused_by_name():
    sim = build(random_scene(np.random.default_rng(0), 3))
    with pytest.raises(UserError, match="no colours by warp, and 'colour' wants them: renderer=mjwarp does"):
        WARP.build(sim, [FRONT, COLOUR])
    wrong = dataclasses.replace(FRONT, name="frnt")
    with pytest.raises(UserError, match=r"no camera named 'frnt'\. It has: front"):
        WARP.build(sim, [wrong])
    renderer, good = WARP.build(sim, [FRONT]), np.zeros((1, *FRONT.shape), np.uint8)
    with pytest.raises(UserError, match="not built with this camera 'frnt', but with: front"):
        renderer.render(sim, [wrong], {"frnt": good})
    for bad, message in (
        (good.astype(np.float16), r"wanted \(1, 1, 48, 64\) of uint8 or float32, got .* of float16"),
        (good[:0], r"got \(0, 1, 48, 64\)"), (good[..., ::-1], "must be writable and run forward"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            renderer.render(sim, [FRONT], {"front": bad})
    with pytest.raises(UserError, match="built for 1 worlds, got 2"):
        renderer.render(build(scene(), num_envs=2), [], {})


def test_a_machine_without_warp_gets_the_cure(monkeypatch):
    sim = build(scene())
    monkeypatch.setitem(sys.modules, "warp", None)
    with pytest.raises(UserError, match=r"renderer=raster lacks a package .*pip install 'robokd\[gpu\]'"):
        WARP.build(sim, [FRONT])


def test_nothing_of_warp_is_imported_where_numba_draws():
    code = (
        "import sys, raster_scenes as r\n"
        "spec = r.scene(); spec.worldbody.add_geom(type=r.GEOM.mjGEOM_BOX, size=[1, 1, 1])\n"
        "r.pictures(r.build(spec))\n"
        "assert 'warp' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


def physics(spec, num_envs, device):
    """Worlds of sim=mjwarp."""
    pytest.importorskip("mujoco_warp")
    from robokd.sim.mjwarp import MjwarpCfg

    sim = MjwarpCfg().build(spec, num_envs, device)
    sim.forward()
    return sim


def strewn(device):
    """Worlds of sim=mjwarp with shapes of all kinds, every one with its own poses."""
    sim = physics(random_scene(np.random.default_rng(0), 30), 16, device)
    shuffle(sim, np.random.default_rng(1), (0.5, -1.2, 0.0), (2.8, 1.2, 1.3))
    return sim


def test_worlds_of_mujoco_warp_are_read_in_place_and_drawn_as_by_numba():
    sim = physics(mujoco.MjSpec.from_string(FALLING), 2, "cpu")
    assert isinstance(RasterCfg().build(sim, [FRONT]), Raster)  # the faster one there
    assert_as_numba(sim)
    renderer, out = WARP.build(sim, [FRONT]), np.zeros((2, *FRONT.shape), np.uint8)
    renderer.render(sim, [FRONT], {"front": out})
    described = renderer._worlds
    for field in ("geom_xpos", "geom_xmat", "geom_size", "cam_xpos", "cam_xmat", "cam_fovy"):
        assert getattr(described, field).ptr == sim.get(field).data_ptr()
    for field, change in (("qpos", 0.1), ("geom_size", -0.02)):
        before = out.copy()
        sim.set(field, sim.get(field) + change, torch.tensor([True, False]))
        sim.forward()
        renderer.render(sim, [FRONT], {"front": out})
        assert (out != before).any(axis=(1, 2, 3)).tolist() == [True, False]
        # made anew only for the field that all worlds have shared so far
        assert (renderer._worlds is described) == (field == "qpos")


def test_the_kernel_compiles_for_a_gpu_where_there_is_none(tmp_path):
    import warp

    from robokd.vision import raster_kernel

    warp.compile_aot_module(raster_kernel, arch=90, module_dir=str(tmp_path), use_ptx=True)
    (path,) = tmp_path.glob("*.ptx")
    assert ".visible .entry draw_" in path.read_text(errors="replace")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_a_cpu_draws():
    found = []
    for device in ("cpu", "cuda"):
        sim = strewn(device)
        renderer = WARP.build(sim, [FRONT, SEGMENT])
        assert renderer.device == sim.device
        found.append(seen(sim, WARP))
    for name in ("front", "segment"):
        # poses are those of two machines, too
        assert (found[0][name] != found[1][name]).mean() <= 2 * SHARE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_drawing_waits_for_nothing_and_can_be_recorded():
    sim = strewn("cuda")
    renderer, out = (
        RasterCfg().build(sim, [FRONT]),
        torch.zeros(16, *FRONT.shape, dtype=torch.uint8, device="cuda"),
    )
    assert isinstance(renderer, WarpRaster)

    def draw():
        renderer.render(sim, [FRONT], {"front": out})

    draw()
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        draw()
    sim.set("mocap_pos", sim.get("mocap_pos") + 0.1)
    sim.forward()
    graph.replay()
    recorded = out.clone()
    draw()
    assert torch.equal(recorded, out)
    assert recorded.any()
