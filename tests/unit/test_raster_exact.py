"""Depth, geoms and normals against float64 ray intersections written out here; no GL."""

import dataclasses

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raster_scenes import (
    FRONT,
    GEOM,
    LOOK_DOWN_X,
    SOLIDS,
    Still,
    add_shapes,
    build,
    pictures,
    ray_bundle,
    scene,
    shape,
)

from robokd.vision.raster import RasterCfg
from robokd.vision.scene_tables import hfield_triangles, mesh_triangles

WIDE = dataclasses.replace(FRONT, far_m=50.0)


def one_geom(kind, seed, size=None):
    """A scene of one geom before the camera, starts and rays in the geom's frame, and ray lengths."""
    rng = np.random.default_rng(seed)
    spec = scene(WIDE)
    add_shapes(spec, rng)
    spec.worldbody.add_geom(
        **shape(kind), size=size if size is not None else rng.uniform(0.05, 0.5, 3), quat=rng.normal(size=4),
        pos=rng.uniform((0.2, -0.8, -0.8), (2.5, 0.8, 0.8)),
    )  # fmt: skip
    sim = build(spec)
    starts, directions, lengths = (np.asarray(part) for part in ray_bundle(sim, WIDE))
    at, turn = np.asarray(sim.get("geom_xpos"))[0, 0], np.asarray(sim.get("geom_xmat"))[0, 0].reshape(3, 3)
    return sim, (starts[0] - at) @ turn, directions[0] @ turn, lengths


def ball_entry(start, direction, axes):
    """Distance to the ellipsoid with these half axes at the origin, NaN where missed or within."""
    o, d = start / axes, direction / axes
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - 1
    with np.errstate(invalid="ignore"):
        t = (-b - np.sqrt(b * b - a * c)) / a
    return np.where((t > 0) & (c > 0), t, np.nan)


def tube_entry(start, direction, radius, half):
    """Distance to the side of a cylinder, NaN where missed."""
    o, d = start[:, :2], direction[:, :2]
    a, b, c = (d * d).sum(-1), (o * d).sum(-1), (o * o).sum(-1) - radius**2
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (-b - np.sqrt(b * b - a * c)) / a
    return np.where((t > 0) & (c > 0) & (np.abs(start[:, 2] + t * direction[:, 2]) <= half), t, np.nan)


def lid_entry(start, direction, radius, half):
    t = (np.sign(start[:, 2]) * half - start[:, 2]) / direction[:, 2]
    at = start[:, :2] + t[:, None] * direction[:, :2]
    is_hit = (t > 0) & (np.abs(start[:, 2]) > half) & ((at * at).sum(-1) <= radius**2)
    return np.where(is_hit, t, np.nan)


def entry(kind, size, start, direction):
    """Distance to a round shape in its own frame, NaN where missed."""
    if kind in (GEOM.mjGEOM_SPHERE, GEOM.mjGEOM_ELLIPSOID):
        return ball_entry(start, direction, size if kind == GEOM.mjGEOM_ELLIPSOID else size[0])
    parts = [tube_entry(start, direction, size[0], size[1])]
    if kind == GEOM.mjGEOM_CYLINDER:
        parts.append(lid_entry(start, direction, size[0], size[1]))
    else:
        ends = np.array([[0, 0, size[1]], [0, 0, -size[1]]])
        parts += [ball_entry(start - end, direction, size[0]) for end in ends]
        inside = np.abs(start[0, 2]) <= size[1] and np.hypot(*start[0, :2]) <= size[0]
        if inside or any(np.linalg.norm(start[0] - end) <= size[0] for end in ends):
            return np.full(len(start), np.nan)
    return np.fmin.reduce(parts)


def triangle_entry(corners, start, direction):
    """Distance to the nearest of front triangles (F, 3, 3), NaN where missed."""
    best = np.full(len(start), np.nan)
    for v0, v1, v2 in corners:
        normal = np.cross(v1 - v0, v2 - v0)
        if normal @ (start[0] - v0) <= 0:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            t = ((v0 - start) @ normal) / (direction @ normal)
            p = start + t[:, None] * direction
            sides = [np.cross(b - a, p - a) @ normal >= 0 for a, b in ((v0, v1), (v1, v2), (v2, v0))]
        best = np.fmin(best, np.where(np.all(sides, axis=0) & (t > 0), t, np.nan))
    return best


def assert_depth(sim, distance, lengths, tolerance):
    got, want = pictures(sim, WIDE).ravel(), np.nan_to_num(distance / lengths)
    want[want > WIDE.far_m] = 0
    same = (got > 0) == (want > 0)
    assert same.mean() >= 0.998  # the outline, to rounding
    error = np.abs(got - want)[same & (want > 0)]
    if error.size:
        assert np.quantile(error, 0.99) <= tolerance


@settings(max_examples=60)
@given(
    kind=st.sampled_from([kind for kind in SOLIDS if kind != GEOM.mjGEOM_BOX]),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1.0, 1.0, 4.0, 10.0]),
)
def test_round_shapes_are_where_rays_meet_them(kind, seed, scale):
    size = np.random.default_rng(seed).uniform(0.05, 0.5, 3) * scale
    sim, start, direction, lengths = one_geom(kind, seed, size)
    # at the outline a ray grazes and float32 keeps half of its digits
    assert_depth(sim, entry(kind, size, start, direction), lengths, 1e-3 * max(1, size.max()))


@settings(max_examples=25)
@given(kind=st.sampled_from(["lump", "wedge", "hills"]), seed=st.integers(0, 2**32 - 1))
def test_meshes_and_height_fields_are_where_rays_meet_their_triangles(kind, seed):
    sim, start, direction, lengths = one_geom(kind, seed)
    index = int(sim.model.geom_dataid[0])
    make = hfield_triangles if kind == "hills" else mesh_triangles
    vertices, faces = make(sim.model, index)
    assert_depth(sim, triangle_entry(vertices[faces], start, direction), lengths, 1e-4)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_height_field_is_where_mujocos_rays_meet_it(seed):
    rng = np.random.default_rng(seed)
    spec = scene(WIDE)
    add_shapes(spec, rng)
    tilt = [1, *rng.uniform(-0.2, 0.2, 3)]
    spec.worldbody.add_geom(
        type=GEOM.mjGEOM_HFIELD, hfieldname="hills", pos=[1.5, 0, rng.uniform(-0.8, -0.5)], quat=tilt
    )
    sim = build(spec)
    starts, directions, lengths = ray_bundle(sim, WIDE)
    data = mujoco.MjData(sim.model)
    mujoco.mj_forward(sim.model, data)
    found = np.zeros(1, np.int32)
    distance = np.array(
        [mujoco.mj_ray(sim.model, data, starts[0, 0], ray, None, 1, -1, found, None) for ray in directions[0]]
    )
    assert_depth(sim, np.where(distance >= 0, distance, np.nan), lengths, 1e-4)


@pytest.mark.parametrize("kind", ["lump", "wedge"])
def test_a_mesh_that_holds_the_camera_is_not_drawn(kind):
    spec = scene()
    add_shapes(spec, np.random.default_rng(0))
    spec.worldbody.add_geom(**shape(kind))
    if kind == "lump":
        assert not pictures(build(spec)).any()
    spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=[0.1, 2, 2], pos=[1.1, 0, 0])
    assert pictures(build(spec)).max() <= 1.0 + 1e-6


def test_the_view_of_a_still_world_is_that_of_a_simulation():
    spec = scene(xyaxes=LOOK_DOWN_X)
    add_shapes(spec, np.random.default_rng(1))
    for index, kind in enumerate(("lump", "hills", GEOM.mjGEOM_BOX)):
        spec.worldbody.add_geom(**shape(kind), size=[0.2, 0.2, 0.2], pos=[1.5, index - 1, 0])
    sim = build(spec)
    data = mujoco.MjData(sim.model)
    mujoco.mj_forward(sim.model, data)
    still = Still(sim.model, data)
    np.testing.assert_array_equal(pictures(still, cfg=RasterCfg(threads=1)), pictures(sim))
