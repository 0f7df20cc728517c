"""Scenes of all shapes, what the renderer makes of them, and what MuJoCo's rays and its own renderer find.

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


def own_views(spec):
    """Three worlds with a box 1 m ahead; the second has a lens of 30 degrees, the third stands 0.5 m back."""
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 0.2, 0.2], pos=[1.1, 0, 0])
    sim = build(spec, num_envs=3)
    fovy, position = sim.get("cam_fovy").clone(), sim.get("cam_pos").clone()
    fovy[1], position[2, 0, 0] = 30.0, -0.5
    sim.set("cam_fovy", fovy)
    sim.set("cam_pos", position)
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


def lump(rings=8, spokes=12):
    """Vertices and outward triangles of a closed round mesh, (V, 3) and (F, 3)."""
    up, around = np.meshgrid(
        np.pi * np.arange(1, rings) / rings, 2 * np.pi * np.arange(spokes) / spokes, indexing="ij"
    )
    body = np.stack([np.sin(up) * np.cos(around), np.sin(up) * np.sin(around), np.cos(up)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(rings - 2), np.arange(spokes), indexing="ij")
    a, b = i * spokes + j, i * spokes + (j + 1) % spokes
    c, d = b + spokes, a + spokes
    top, bottom, last = len(body), len(body) + 1, (rings - 2) * spokes
    k = np.arange(spokes)
    faces = [
        np.stack([a, d, c], -1).reshape(-1, 3),
        np.stack([a, c, b], -1).reshape(-1, 3),
        np.stack([np.full(spokes, top), k, (k + 1) % spokes], -1),
        np.stack([np.full(spokes, bottom), last + (k + 1) % spokes, last + k], -1),
    ]
    return np.concatenate([body, [[0, 0, 1], [0, 0, -1]]]), np.concatenate(faces)


def add_shapes(spec, rng):
    """Give a scene a smooth and a sharp mesh and a height field to make geoms of: lump, wedge, hills."""
    vertices, faces = lump()
    spec.add_mesh(name="lump", uservert=(vertices * (0.25, 0.2, 0.15)).ravel(), userface=faces.ravel())
    spec.add_mesh(name="wedge", uservert=[0, 0, 0, 0.5, 0, 0, 0, 0.4, 0, 0, 0, 0.3])
    heights = rng.uniform(0, 1, 9 * 13)
    spec.add_hfield(name="hills", size=[0.6, 0.4, 0.3, 0.1], nrow=9, ncol=13, userdata=heights)


def shape(kind):
    """What add_geom needs to know of a kind: an mjtGeom, or a name of add_shapes."""
    if kind == "hills":
        return {"type": GEOM.mjGEOM_HFIELD, "hfieldname": kind}
    return {"type": GEOM.mjGEOM_MESH, "meshname": kind} if isinstance(kind, str) else {"type": kind}


def add_materials(spec):
    """Checkers and gradients, flat and as cubes, stretched with the geom or not: chk0, chk1, cub0, cub1."""
    colours = {"rgb1": [0.9, 0.1, 0.2], "rgb2": [0.1, 0.8, 0.3], "width": 64}
    builtin, kinds = mujoco.mjtBuiltin, mujoco.mjtTexture
    spec.add_texture(
        name="chk", type=kinds.mjTEXTURE_2D, builtin=builtin.mjBUILTIN_CHECKER, height=64, **colours
    )
    spec.add_texture(
        name="cub", type=kinds.mjTEXTURE_CUBE, builtin=builtin.mjBUILTIN_GRADIENT, height=384, **colours
    )
    for texture in ("chk", "cub"):
        for is_uniform in (0, 1):
            roles = [""] * int(mujoco.mjtTextureRole.mjNTEXROLE)
            roles[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = texture
            material = spec.add_material(
                name=f"{texture}{is_uniform}", texrepeat=[2, 3], texuniform=bool(is_uniform),
                rgba=[1, 0.9, 0.8, 1], emission=0.1 * is_uniform,
            )  # fmt: skip
            material.textures = roles


class Still:
    """One world as it stands in an MjModel and MjData: enough of a Sim to be drawn."""

    num_envs = 1
    device = "cpu"

    def __init__(self, model, data):
        self.model, self._data = model, data

    def get(self, field):
        owner = self._data if hasattr(self._data, field) else self.model
        return getattr(owner, field)[None]

    def forward(self):
        mujoco.mj_forward(self.model, self._data)
