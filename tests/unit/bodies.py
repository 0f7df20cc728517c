"""A bundle of task quadruped_terrain whose policy stands still: it sends the target that is held."""

import functools

from reach_bundle import creeping
from robokd.tasks.quadruped_terrain import QuadrupedTerrain, QuadrupedTerrainCfg
from robot_samples import described, golden, manifest

from robokd import registry
from robokd.config import dump
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.export.bundle import write_bundle
from robokd.export.contract import gains, sag_rad
from robokd.specs import to_dict

PARTS = {"sim": "mujoco", "renderer": "raster", "corrupt": "clean"}


def make_env(cfg, count, *, sim=None, space="seen"):
    parts = {kind: registry.find(kind, name)() for kind, name in PARTS.items()}
    draws = Draws(0, "test")
    setup = Setup(num_envs=count, groups=("proprio",), draws=draws, threads=1, space=space)
    return cfg.build(**parts | ({"sim": sim} if sim else {}), setup=setup)


@functools.cache
def standing() -> dict:
    """What an export says of the robot."""
    env = make_env(QuadrupedTerrainCfg(), 16)
    return gains(env.sim.model, env.action_spec.names) | {"sag": sag_rad(env)}


def make_quadruped_bundle(path, *, horizon_s=9.0, **changes):
    """Write the bundle and return its path."""
    cfg = QuadrupedTerrainCfg(horizon_s=horizon_s, push_n=0.0)
    task = QuadrupedTerrain(cfg)
    action, proprio, start = task.action_spec(), task.obs_specs()["proprio"], task.start_envelope()
    row = {"shape": [1, action.size], "dtype": "float32"}
    inputs = {"proprio": {**row, "shape": [1, proprio.size]}, "anchor": row, "rate": row}
    outputs = dict.fromkeys(("command", "command_rate", "action"), row)
    data = creeping(inputs, outputs, step=0.0)
    home = [(low + high) / 2 for low, high in zip(*start, strict=True)]
    content = manifest() | {
        "task": "quadruped_terrain", "task_config": dump(cfg),
        **{f"{kind}_config": dump(registry.find(kind, name)()) for kind, name in PARTS.items()},
        "action": to_dict(action), "observations": {"proprio": to_dict(proprio)}, "cameras": {},
        "control_dt": action.control_dt, "graph": described(inputs, outputs), "optics": {}, "statistics": {},
        "robot": {**manifest()["robot"], **standing(), "home": home}, "clock_s": cfg.clock_s,
        "latency_s": {"proprio": [0.0, 0.0]}, "ages_s": {"proprio": 0.5},  # of a busy machine
        "start": {"joint_pos_lower": list(start[0]), "joint_pos_upper": list(start[1])},
    }  # fmt: skip
    write_bundle(path, content | changes, {"policy.onnx": data, "samples.json": golden(data, inputs)})
    return path
