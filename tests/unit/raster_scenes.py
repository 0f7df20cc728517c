"""Scenes of primitive shapes, what the renderer makes of them and what MuJoCo's rays find.

`Batch.ray` is right on visual geoms; mj_multiRay misses them.
"""

import mujoco
import numpy as np
import torch

from robokd.sim.mujoco import MujocoCfg
from robokd.specs import CameraSpec
from robokd.vision.raster import RasterCfg

GEOM = mujoco.mjtGeom
SOLIDS = (
    GEOM.mjGEOM_SPHERE,
    GEOM.mjGEOM_CAPSULE,
    GEOM.mjGEOM_CYLINDER,
    GEOM.mjGEOM_BOX,
    GEOM.mjGEOM_ELLIPSOID,
)
FRONT = CameraSpec(name="front", width=64, height=48, fovy_deg=60, near_m=0.05, far_m=3.0)
SHOWN = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # geom groups
LOOK_DOWN_X = [0, -1, 0, 0, 0, 1]  # camera at the origin that looks along +x


def scene(camera=FRONT, pos=(0, 0, 0), xyaxes=LOOK_DOWN_X):
    spec = mujoco.MjSpec()
    spec.worldbody.add_camera(name=camera.name, pos=pos, xyaxes=xyaxes)
    return spec


def build(spec, num_envs=1):
    sim = MujocoCfg().build(spec, num_envs, threads=1)
    sim.forward()
    return sim


def pictures(sim, camera=FRONT, dtype=np.float32, cfg=None):
    renderer = (cfg or RasterCfg(threads=1)).build(sim, [camera])
    sim.forward()
    out = np.full((sim.num_envs, *camera.shape), 77, dtype)
    renderer.render(sim, [camera], {camera.name: out})
    return out


def ray_bundle(sim, camera=FRONT):
    """Starts and unit directions (N, H * W, 3) of all pixels, and the lengths (H * W,) of rays to depth 1."""
    y = np.tan(np.radians(camera.fovy_deg) / 2) * (1 - (np.arange(camera.height) + 0.5) * 2 / camera.height)
    x = (
        np.tan(np.radians(camera.fovy_deg) / 2)
        / camera.height
        * (2 * np.arange(camera.width) + 1 - camera.width)
    )
    directions = np.stack([*np.meshgrid(x, y), -np.ones((camera.height, camera.width))], -1).reshape(-1, 3)
    lengths = np.linalg.norm(directions, axis=1)
    index = sim.model.camera(camera.name).id
    at, turn = (np.asarray(sim.get(field))[:, index] for field in ("cam_xpos", "cam_xmat"))
    turned = np.einsum("nij,rj->nri", turn.reshape(-1, 3, 3), directions / lengths[:, None])
    return np.repeat(at[:, None], len(lengths), 1), turned, lengths


def rays(sim, camera=FRONT):
    """Planar depth by MuJoCo's rays, 0 where nothing is within far: (N, 1, H, W)."""
    starts, directions, lengths = ray_bundle(sim, camera)
    distance, _ = sim.batch.ray(starts, directions, geomgroup=SHOWN)
    depth = np.where((distance >= 0) & (distance / lengths <= camera.far_m), distance / lengths, 0)
    return depth.reshape(sim.num_envs, *camera.shape)


def assert_same(got, want):
    error = np.abs(got - want)
    assert np.median(error[want > 0]) <= 1e-5
    assert (error > 0.02).mean() <= 0.005
    assert (error > 1e-4).mean() <= 0.005


def random_scene(rng, count, camera=FRONT, floor=(0, 0, 1)):
    """Solids of all kinds on mocap bodies before and beside the camera, over a floor."""
    spec = scene(camera, pos=(0, 0, 0.6))
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=floor)
    for index in range(count):
        quat = rng.normal(size=4)
        body = spec.worldbody.add_body(mocap=True, pos=rng.uniform((0.5, -1, 0.1), (2.8, 1, 1.2)), quat=quat)
        body.add_geom(
            type=SOLIDS[index % len(SOLIDS)], size=rng.uniform(0.02, 0.25, 3), contype=0, conaffinity=0
        )
    return spec


def shuffle(sim, rng, low, high):
    """Give every world its own poses."""
    shape = (sim.num_envs, sim.model.nmocap)
    quat = rng.normal(size=(*shape, 4))
    sim.set("mocap_pos", torch.from_numpy(rng.uniform(low, high, (*shape, 3))))
    sim.set("mocap_quat", torch.from_numpy(quat / np.linalg.norm(quat, axis=-1, keepdims=True)))
    sim.forward()
