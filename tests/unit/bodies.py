"""Bundles of bodies that no base holds: a quadruped that stands, a quadrotor that hovers and creeps off."""

import functools
from pathlib import Path

from reach_bundle import creeping
from robokd.sim2real.mujoco_host import World
from robokd.tasks.quadrotor_gate import QuadrotorGate, QuadrotorGateCfg
from robokd.tasks.quadruped_terrain import QuadrupedTerrain, QuadrupedTerrainCfg
from robot_samples import described, golden, manifest

from robokd import registry
from robokd.cli import main
from robokd.config import dump
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.export.bundle import read_bundle, write_bundle
from robokd.export.contract import gains, sag_rad
from robokd.run import Run
from robokd.specs import to_dict

PARTS = {"sim": "mujoco", "renderer": "raster", "corrupt": "clean"}
PATIENT = ("robot.reply_timeout_s=20", "guard.stop_after_s=20")  # what a machine that others use too needs
NOTHING = dict.fromkeys(("kp", "kd", "torque", "torque_rate", "jerk", "sag"))


def make_env(cfg, count, *, sim=None, groups=("proprio",)):
    parts = {kind: registry.find(kind, name)() for kind, name in PARTS.items()}
    setup = Setup(num_envs=count, groups=groups, draws=Draws(0, "test"), threads=1)
    return cfg.build(**parts | ({"sim": sim} if sim else {}), setup=setup)


@functools.cache
def standing() -> dict:
    """What an export says of the quadruped's joints."""
    env = make_env(QuadrupedTerrainCfg(), 16)
    return NOTHING | gains(env.sim.model, env.action_spec.names) | {"sag": sag_rad(env)}


def make_quadruped_bundle(path, *, horizon_s=9.0, **changes):
    """Write a bundle whose policy sends the target that is held, and return its path."""
    cfg = QuadrupedTerrainCfg(horizon_s=horizon_s, push_n=0.0)
    return _write(path, cfg, QuadrupedTerrain(cfg), standing(), 0.0, clock_s=cfg.clock_s, **changes)


def make_quadrotor_bundle(path, *, horizon_s=9.0, step=0.0, groups=("proprio", "odometry"), **changes):
    """Write a bundle whose policy turns faster and climbs harder by `step` a tick, and return its path."""
    cfg = QuadrotorGateCfg(horizon_s=horizon_s)
    return _write(path, cfg, QuadrotorGate(cfg), NOTHING, step, groups=groups, **changes)


def _write(path, cfg, task, robot, step, *, groups=("proprio",), **changes):
    action, start = task.action_spec(), task.start_envelope()
    seen = {name: task.obs_specs()[name] for name in groups}
    row = {"shape": [1, action.size], "dtype": "float32"}
    inputs = {name: {**row, "shape": [1, spec.size]} for name, spec in seen.items()}
    inputs |= {"anchor": row, "rate": row}
    outputs = dict.fromkeys(("command", "command_rate", "action"), row)
    data = creeping(inputs, outputs, step=step)
    content = manifest() | {
        "task": registry.identity(type(cfg))[1], "task_config": dump(cfg),
        **{f"{kind}_config": dump(registry.find(kind, name)()) for kind, name in PARTS.items()},
        "action": to_dict(action), "observations": {name: to_dict(spec) for name, spec in seen.items()},
        "cameras": {}, "optics": {}, "statistics": {}, "control_dt": action.control_dt,
        "graph": described(inputs, outputs), "latency_s": {name: [0.0, 0.0] for name in groups},
        "robot": manifest()["robot"] | robot
        | {"home": [(low + high) / 2 for low, high in zip(*start, strict=True)]},
        "ages_s": dict.fromkeys(groups, 0.5),  # of a busy machine
        "start": {"joint_pos_lower": list(start[0]), "joint_pos_upper": list(start[1])},
    }  # fmt: skip
    write_bundle(path, content | changes, {"policy.onnx": data, "samples.json": golden(data, inputs)})
    return path


def world_of(bundle) -> World:
    """Return the world of the bundle's simulated robot."""
    return World({**read_bundle(bundle).manifest, "bundle": str(bundle), "seed": 0, "space": "seen"})


def deployed(bundle, runs) -> tuple[int, Run]:
    """Deploy two episodes; return the exit code and the run."""
    code = main(["deploy", f"bundle={bundle}", "episodes=2", f"runs={runs}", *PATIENT])
    (path,) = Path(runs).glob("*_deploy_*")
    return code, Run.open(path)
