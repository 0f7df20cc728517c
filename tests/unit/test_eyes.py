"""What cameras show: spoiled by episode and step alone, with a memory that can be restored."""

from __future__ import annotations

import pytest
import torch

from robokd.vision.sensor import Corruption, preset

SENSOR = preset("realsense_d435")
GROUPS = ("proprio", "front", "wrist")
SHORT = {"horizon_s": 0.28, "hold_s": 0.2}


def _act(env, steps):
    """Step with actions that follow from (episode, step); return what was seen by (camera, episode, step)."""
    seen = {}
    for _ in range(steps):
        episodes, numbers = env.state.episode_id.tolist(), env.state.step.tolist()
        obs = env.get_observations()
        for camera in env.eyes.cameras:
            for at, image in zip(zip(episodes, numbers, strict=True), obs[camera.name], strict=True):
                seen[camera.name, *at] = image.clone()
        phase = env.state.episode_id[:, None] * 1.7 + env.state.step[:, None] * 0.3 + torch.arange(7)
        env.step(torch.sin(phase))
    return seen


def test_clean_eyes_show_what_the_renderer_draws(make_env):
    env = make_env(3, GROUPS)
    drawn = {camera.name: torch.zeros(3, *camera.shape, dtype=torch.uint8) for camera in env.eyes.cameras}
    env.eyes._renderer.render(env.sim, env.eyes.cameras, drawn)
    for name, image in drawn.items():
        assert torch.equal(env.get_observations()[name], image)
        assert not env.eyes.ages_s[name].any()


def test_a_sensor_spoils_pictures_and_moves_cameras(make_env):
    clean, spoiled = make_env(4, GROUPS), make_env(4, GROUPS, corrupt=SENSOR)
    for name in ("front", "wrist"):
        assert not torch.equal(clean.get_observations()[name], spoiled.get_observations()[name])
        index = clean.sim.model.camera(name).id
        assert not torch.equal(clean.sim.get("cam_pos")[:, index], spoiled.sim.get("cam_pos")[:, index])


def test_spoiled_pictures_do_not_depend_on_the_number_of_environments(make_env):
    few = _act(make_env(2, GROUPS, corrupt=SENSOR, **SHORT), 16)
    many = _act(make_env(5, GROUPS, corrupt=SENSOR, **SHORT), 7)
    shared = set(few) & set(many)
    assert {episode for _, episode, _ in shared} == {0, 1, 2, 3, 4}
    assert all(torch.equal(few[key], many[key]) for key in shared)


def test_frames_are_as_old_as_the_eyes_say(make_env):
    late = Corruption(latency_s=(0.08, 0.08))  # two control steps
    clean = _act(make_env(1, GROUPS), 7)
    env = make_env(1, GROUPS, corrupt=late)
    for step in range(7):
        age = round(env.eyes.ages_s["front"].item() / 0.04)
        assert age == min(step, 2)
        assert torch.equal(env.get_observations()["front"][0], clean["front", 0, step - age])
        env.step(torch.sin(step * 0.3 + torch.arange(7))[None])


@pytest.mark.parametrize("name", ["realsense_d435", "kinect"])
def test_a_snapshot_holds_the_frames_under_way(make_env, name):
    whole = make_env(4, GROUPS, corrupt=preset(name), **SHORT)
    _act(whole, 5)
    saved = whole.snapshot()
    other = make_env(4, GROUPS, corrupt=preset(name), **SHORT)
    other.restore(saved)
    left, right = _act(whole, 9), _act(other, 9)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_camera_s_errors_are_of_one_episode_and_do_not_add_up(make_env):
    env = make_env(3, ("outside",), corrupt=Corruption(position_error_m=0.01), **SHORT)
    index = env.sim.model.camera("outside").id
    nominal = torch.from_numpy(env.sim.model.cam_pos[index])
    places = []
    for _ in range(40):
        env.step(torch.zeros(3, 7))
        places.append(env.sim.get("cam_pos")[:, index].clone())
        assert (places[-1] - nominal).abs().max() <= 0.01
    assert len({tuple(row.tolist()) for rows in places for row in rows}) > 9


def test_a_lens_that_is_a_little_off_is_off_the_camera_s_own_and_not_the_scene_s():
    pytest.importorskip("mujoco")
    import dataclasses

    from raster_scenes import FRONT, GEOM, build, scene

    from robokd import UserError
    from robokd.draws import Draws
    from robokd.env.eyes import Eyes
    from robokd.vision.raster import RasterCfg

    def rows_of_the_box(corruption, cameras=(FRONT,)):
        spec = scene()
        spec.camera("front").fovy = 30  # the CameraSpec says another
        for size, at in (([0.1, 0.3, 0.3], 1.1), ([0.1, 5, 5], 2.5)):
            spec.worldbody.add_geom(type=GEOM.mjGEOM_BOX, size=size, pos=[at, 0, 0])
        sim = build(spec, num_envs=2)
        draws = Draws(0, "train")
        eyes = Eyes(sim, RasterCfg(), cameras, corruption, control_dt=0.04, draws=draws, threads=1)
        eyes.begin(torch.ones(2, dtype=torch.bool), torch.arange(2))
        sim.forward(torch.ones(2, dtype=torch.bool))
        seen = eyes.look(torch.arange(2), torch.zeros(2, dtype=torch.int64))["front"][
            :, 0, :, FRONT.width // 2
        ]
        return (seen < 0.7 * seen.max()).sum(1)

    off = Corruption(fovy_error_deg=0.5)
    assert (rows_of_the_box(off) - rows_of_the_box(Corruption())).abs().max() <= 2  # one at each edge
    wide = dataclasses.replace(FRONT, name="wide", view="front", fovy_deg=FRONT.fovy_deg + 20)
    with pytest.raises(UserError, match=r"moves one field of view a camera, not .* degrees of 'front'"):
        rows_of_the_box(off, (FRONT, wide))
