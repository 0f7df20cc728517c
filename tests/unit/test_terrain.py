"""Terrain: what is scanned is what MuJoCo's rays hit, and difficulty says how hard it is."""

import math

import mujoco
import numpy as np
import pytest
import torch
from robokd.tasks.parts import terrain
from robokd.tasks.parts.terrain import KINDS

WORLDS = 8


def made(kind, difficulty, seed=0):
    draws = torch.Generator().manual_seed(seed)
    chance = torch.rand(WORLDS, terrain.CHANCES, generator=draws, dtype=torch.float64)
    number = torch.full((WORLDS,), KINDS.index(kind))
    return terrain.make(number, torch.full((WORLDS,), difficulty), chance)


def profile(ground, y=0.3, step=0.002):
    """Heights along the way, (N, P), and where."""
    x = torch.arange(-0.6, 8.0, step, dtype=torch.float64).expand(WORLDS, -1)
    return terrain.heights(ground, x, torch.full_like(x, y)), x[0]


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0, 1.5])
@pytest.mark.parametrize("kind", KINDS)
def test_scanned_heights_are_those_that_rays_hit(kind, difficulty):
    ground = made(kind, difficulty)
    centre, size, turn = terrain.boxes(ground.faces)
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], pos=[0, 0, float(ground.plane[0])]
    )
    for row in zip(centre[0].numpy(), size[0].numpy(), turn[0].numpy(), strict=True):
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=row[0], size=row[1], quat=row[2])
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    draws = torch.Generator().manual_seed(1)
    x = 7 * torch.rand(1, 300, generator=draws, dtype=torch.float64) - 0.5
    y = 2 * torch.rand(1, 300, generator=draws, dtype=torch.float64) - 1
    first = terrain.Terrain(ground.faces[:1], ground.plane[:1])
    scanned = terrain.heights(first, x, y)[0]
    hit = [
        3 - mujoco.mj_ray(model, data, np.array([a, b, 3.0]), np.array([0, 0, -1.0]), None, 1, -1, None)
        for a, b in zip(x[0].tolist(), y[0].tolist(), strict=True)
    ]
    np.testing.assert_allclose(scanned, hit, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_begins_flat_where_the_robot_stands(kind):
    heights, x = profile(made(kind, 1.0))
    assert (heights[:, x < terrain.START_M - 0.01] == 0).all()


def test_stairs_rise_by_ten_centimetres_at_difficulty_one_and_go_down_again():
    heights, _ = profile(made("stairs", 1.0))
    rises = heights.diff(dim=1)
    assert rises.abs().max() == pytest.approx(0.10)
    assert (rises > 0.01).sum(1).tolist() == [terrain.STEPS] * WORLDS
    assert (rises < -0.01).sum(1).tolist() == [terrain.STEPS] * WORLDS
    assert heights.max() == pytest.approx(6 * 0.10)


def test_a_slope_has_17_degrees_at_difficulty_one():
    heights, x = profile(made("slope", 1.0))
    steepest = heights.diff(dim=1).abs().max() / (x[1] - x[0])
    assert math.degrees(math.atan(steepest)) == pytest.approx(17, abs=0.1)


@pytest.mark.parametrize(("kind", "widest"), [("gaps", 0.15), ("stones", 0.15)])
def test_gaps_are_as_wide_as_the_difficulty_says(kind, widest):
    for difficulty in (0.3, 1.0):
        heights, x = profile(made(kind, difficulty))
        is_pit = heights < -0.3
        assert is_pit.any(1).all()
        edges = is_pit.int().diff(dim=1)
        for begin, end in zip(edges, edges, strict=True):
            widths = x[1:][end == -1] - x[1:][begin == 1]
            assert widths.max() <= widest * difficulty + 0.005
            assert widths.max() >= 0.6 * widest * difficulty - 0.005


def test_worlds_of_one_difficulty_differ_by_chance_alone():
    ground = made("gaps", 1.0)
    assert not torch.equal(ground.faces[0], ground.faces[1])
    again = made("gaps", 1.0)
    assert torch.equal(ground.faces, again.faces)


def test_flat_ground_has_no_boxes_near():
    ground = made("flat", 1.0)
    assert (ground.faces[..., 4:] == terrain.AWAY_M).all()
    assert (ground.plane == 0).all()
