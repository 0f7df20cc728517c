"""The trot by hand: its kinematics, where it steps, and how well it walks."""

import torch
from robokd.tasks.bodies import go2
from robokd.tasks.parts import trot
from robokd.tasks.quadruped_terrain import SCAN_X, SCAN_Y, QuadrupedTerrainCfg

from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.sim.mujoco import MujocoCfg
from robokd.vision.sensor import Corruption

WORLDS = 24
FREE = torch.zeros(1, 4)  # feet that have yet to choose


def walk(**fields):
    """Run the first WORLDS episodes under the script, return which succeeded and the terrain of each."""
    setup = Setup(
        num_envs=WORLDS, groups=("proprio", "privileged", "physics"), draws=Draws(0, "test"), threads=1
    )
    cfg = QuadrupedTerrainCfg(**fields)
    env = cfg.build(sim=MujocoCfg(), renderer=None, corrupt=Corruption(), setup=setup)
    is_first, succeeded = torch.ones(WORLDS, dtype=torch.bool), torch.zeros(WORLDS, dtype=torch.bool)
    for _ in range(env.max_episode_length):
        action = env.task.script(env.get_observations())
        assert torch.isfinite(action).all()
        assert (action.abs() <= 1).all()
        _, _, done, extras = env.step(action)
        succeeded |= extras["success"] & done.bool() & is_first
        is_first &= ~done.bool()
    assert not is_first.any()
    return succeeded


def ground(rule):
    """Heights of a scan (1, X, Y) that follow a rule of the way ahead."""
    scan = torch.tensor([[rule(x) for _ in SCAN_Y] for x in SCAN_X])
    return trot.Heights(scan[None], SCAN_X, SCAN_Y)


def test_joint_angles_put_the_feet_where_they_are_wanted():
    draws = torch.Generator().manual_seed(0)
    angles = torch.tensor([go2.STAND]) + 0.6 * torch.rand(500, 12, generator=draws) - 0.3
    torch.testing.assert_close(trot.joints(trot.feet(angles)), angles, atol=1e-5, rtol=0)


def test_a_leg_that_cannot_reach_stretches_towards_the_place():
    far = torch.tensor([[[0.0, side * go2.SIDE_M, -1.0] for side in (-1, 1, -1, 1)]])
    foot = trot.feet(trot.joints(far))
    assert torch.isfinite(foot).all()
    assert (foot[..., 2] < -0.40).all()


def test_footholds_stay_where_they_are_wanted_on_flat_ground():
    wanted = torch.tensor([[[0.05, -0.0955], [0.05, 0.0955], [-0.05, -0.0955], [-0.05, 0.0955]]])
    torch.testing.assert_close(ground(lambda x: 0.0).foothold(wanted, wanted - 0.1, FREE), wanted)


def test_footholds_keep_out_of_a_pit():
    heights = ground(lambda x: -0.5 if 0.15 < x < 0.35 else 0.0)  # under the front hips
    wanted = torch.tensor([[[0.0, -0.0955], [0.0, 0.0955], [0.0, -0.0955], [0.0, 0.0955]]])
    found = heights.foothold(wanted, wanted, FREE)
    places = torch.tensor(go2.HIPS_M) + found[0]
    assert (heights.at(places[None]) > -0.1).all()
    assert (found[0, 2:] == wanted[0, 2:]).all()


def test_a_foot_on_its_way_over_a_pit_keeps_to_its_choice():
    heights = ground(lambda x: -0.5 if 0.15 < x < 0.35 else 0.0)  # under the front hips
    wanted = torch.tensor([[[0.06, -0.0955], [0.06, 0.0955], [0.0, -0.0955], [0.0, 0.0955]]])
    for side in (-0.15, 0.15):
        found = heights.foothold(wanted, wanted + torch.tensor([side, 0.0]), 0.7 * torch.ones(1, 4))
        assert ((found - wanted)[0, :2, 0].sign() == side / 0.15).all()
        assert (found[0, 2:] == wanted[0, 2:]).all()


def test_the_level_is_the_mean_of_the_ground_under_the_feet_and_a_pit_counts_little():
    assert abs(float(ground(lambda x: 0.1 if x > 0 else 0.0).level()) - 0.05) < 1e-6
    assert float(ground(lambda x: -0.5 if 0.05 < x < 0.35 else 0.0).level()) >= -trot.UNEVEN_M / 2 - 1e-6


def test_it_follows_commands_on_flat_ground():
    succeeded = walk(terrains=("flat",), push_n=0.0)
    assert succeeded.float().mean() >= 0.8


def test_it_walks_up_and_down_a_gentle_slope():
    succeeded = walk(terrains=("slope",), difficulty=(0.2, 0.2), push_n=0.0)
    assert succeeded.float().mean() >= 0.8
