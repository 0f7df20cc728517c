"""A bundle of the task reach whose policy creeps, made without training."""

import numpy as np
from robot_samples import described, golden, graph, manifest

from robokd import registry
from robokd.config import dump
from robokd.export.bundle import write_bundle
from robokd.export.manifest import focal_px
from robokd.export.sight import statistics
from robokd.specs import to_dict

GAINS = {"kp": 50.0, "kd": 5.0}


def write_reach(path, *, horizon_s=1.0, step=0.0005):
    """Write the bundle; its gains are made up, the simulated robot has its own."""
    from robokd.tasks.reach import Reach

    cfg = registry.find("task", "reach")(horizon_s=horizon_s)
    task = Reach(cfg)
    action, proprio, camera = task.action_spec(), task.obs_specs()["proprio"], task.camera_specs()["front"]
    inputs = {
        "proprio": {"shape": [1, proprio.size], "dtype": "float32"},
        "front": {"shape": [1, *camera.shape], "dtype": "uint8"},
        **{name: {"shape": [1, action.size], "dtype": "float32"} for name in ("anchor", "rate")},
    }
    outputs = {
        name: {"shape": [1, action.size], "dtype": "float32"}
        for name in ("command", "command_rate", "action")
    }
    data = graph(step, inputs, outputs, size=action.size)
    noise = np.random.default_rng(0).integers(0, 256, (40, *camera.shape), np.uint8)
    lower, upper = task.start_envelope()
    focal = focal_px(camera)
    changes = {
        "task": "reach", "task_config": dump(cfg), "sim_config": dump(registry.find("sim", "mujoco")()),
        "renderer_config": dump(registry.find("renderer", "raster")()),
        "corrupt_config": dump(registry.find("corrupt", "clean")()), "action": to_dict(action),
        "observations": {"proprio": to_dict(proprio)}, "cameras": {"front": to_dict(camera)},
        "control_dt": action.control_dt, "graph": described(inputs, outputs),
        "start": {"joint_pos_lower": lower, "joint_pos_upper": upper},
        "ages_s": {"proprio": 0.5, "front": 0.5},  # a busy test machine is not what is tested here
        "latency_s": {"proprio": [0.0, 0.0], "front": [0.0, 0.1]},
        "robot": manifest()["robot"] | {
            **{name: [value] * action.size for name, value in GAINS.items()}, "torque": None,
            "home": [(low + high) / 2 for low, high in zip(lower, upper, strict=True)],
        },
        "optics": {
            "front": {
                "fx": focal, "fy": focal, "cx": (camera.width - 1) / 2, "cy": (camera.height - 1) / 2,
                "crop": None, "rate_hz": 1 / action.control_dt,
            }
        },
        "statistics": {"front": statistics(noise, camera, np.arange(40) // 8, flickers=True)},
    }  # fmt: skip
    write_bundle(path, manifest() | changes, {"policy.onnx": data, "samples.json": golden(data, inputs)})
    return path
