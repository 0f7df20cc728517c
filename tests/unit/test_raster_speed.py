"""CPU time of the primitive renderer against that of MuJoCo's rays, on the same views."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from raster_scenes import (
    FRONT,
    GEOM,
    SHOWN,
    assert_same,
    build,
    pictures,
    random_scene,
    ray_bundle,
    rays,
    shuffle,
)
from robokd.tasks.bodies import panda

from robokd.vision.raster import RasterCfg


def arm_scene(camera):
    spec = panda.spec()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_PLANE, size=[2, 2, 0.1])
    spec.worldbody.add_geom(type=GEOM.mjGEOM_SPHERE, size=[0.05, 0, 0], pos=[0.5, 0.1, 0.3])
    spec.worldbody.add_camera(name=camera.name, pos=[1.2, 0, 0.62], xyaxes=[0, 1, 0, -0.4, 0, 0.9], fovy=52)
    return spec


@pytest.mark.slow
@pytest.mark.parametrize(("what", "times_faster"), [("arm", 25), ("50 random", 40)])
def test_a_frame_is_many_times_cheaper_than_mujocos_rays(what, times_faster):
    # 58 and 90 times with 512-bit vectors, 35 and 45 with 256-bit; -m slow -s prints microseconds a frame
    camera = dataclasses.replace(FRONT, width=64, height=64, fovy_deg=52, far_m=2.0)
    rng, worlds = np.random.default_rng(0), 64
    sim = build(arm_scene(camera) if what == "arm" else random_scene(rng, 50, camera), worlds)
    if what == "arm":
        start = np.zeros((worlds, sim.model.nq)) + 0.02
        start[:, :7] = np.array(panda.HOME) + rng.uniform(-0.3, 0.3, (worlds, 7))
        sim.set("qpos", torch.from_numpy(start))
        sim.forward()
    else:
        shuffle(sim, rng, (0.5, -1.2, 0.0), (2.8, 1.2, 1.3))
    renderer = RasterCfg(threads=1).build(sim, [camera])
    image = np.empty((worlds, *camera.shape), np.uint8)

    starts, directions, _ = ray_bundle(sim, camera)
    draws = {
        "ours": (20, lambda: renderer.render(sim, [camera], {"front": image})),
        "rays": (1, lambda: sim.batch.ray(starts, directions, geomgroup=SHOWN)),
    }
    assert_same(pictures(sim, camera), rays(sim, camera))
    times = {name: [] for name in draws}
    for _ in range(6):
        for name, (count, draw) in draws.items():
            begin = time.process_time()
            for _ in range(count):
                draw()
            times[name].append((time.process_time() - begin) / count / worlds * 1e6)
    us, them = (np.median(times[name][1:]) for name in draws)
    print(f"\n{what}: {sim.model.ngeom} geoms, {us:.1f} us against {them:.0f} us, {them / us:.0f}x")
    assert them / us >= times_faster
