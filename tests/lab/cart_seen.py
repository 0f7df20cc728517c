"""mjlab's cart and pole, seen by a depth camera half a metre before the cart; the plugin of these tests.

Frames: the camera looks along +y, as MuJoCo has it: (w, x, y, z) of a quarter turn about x.
"""

from __future__ import annotations

from mjlab.sensor.camera_sensor import CameraSensorCfg
from mjlab.tasks.cartpole.cartpole_env_cfg import cartpole_balance_env_cfg, cartpole_ppo_runner_cfg
from mjlab.tasks.registry import register_mjlab_task

TASK = "Robokd-Cart-Seen"
FRONT_M = 0.5  # camera to the cart's front face


def seen_cart():
    """Return the balancing task, in episodes of 20 control steps, with the camera."""
    cfg = cartpole_balance_env_cfg()
    eye = CameraSensorCfg(
        name="eye", pos=(0.0, -0.15 - FRONT_M, 1.0), quat=(0.70710678, 0.70710678, 0.0, 0.0), fovy=60.0,
        width=32, height=32, data_types=("rgb", "depth"), use_textures=False,
    )  # fmt: skip
    cfg.scene.sensors, cfg.episode_length_s = (eye,), 1.0
    return cfg


register_mjlab_task(
    task_id=TASK, env_cfg=seen_cart(), play_env_cfg=seen_cart(), rl_cfg=cartpole_ppo_runner_cfg()
)
