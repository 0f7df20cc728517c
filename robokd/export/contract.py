"""The contract of an exported policy: what it was trained with, as the bundle's manifest says it."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import mujoco
import numpy as np
import torch

import robokd
from robokd import UserError
from robokd.config import dump
from robokd.env.base import TaskEnv, contract
from robokd.env.foreign import ForeignEnv, JointWorlds
from robokd.export.manifest import LONGEST_AGE_S, MOST_SAG_RAD, QUATERNION_ORDER, UNITS, focal_px
from robokd.export.parity import MEMORY, Sample, describe
from robokd.export.sight import statistics
from robokd.run import Run
from robokd.specs import CameraSpec
from robokd.vision.sensor import Corruption
from robokd.vision.sensor_timing import Timing

if TYPE_CHECKING:
    from robokd.config import ExportConfig


STAND_S = 2.0  # that a robot stands before a policy takes it, at most


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What cameras showed: (N, C, H, W) of each, in order of time within (N,) episodes."""

    images: dict[str, np.ndarray]
    episodes: np.ndarray


def make_manifest(
    config: ExportConfig, env: TaskEnv, parent: Run, first: Sample, pictures: Pictures,
    sag: list[float] | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the bundle's manifest, the full contract between policy and robot, but for `parity_max_abs`.

    `sag` is `sag_rad`'s.
    """
    dt = env.action_spec.control_dt
    inputs = [name for name in first.inputs if name not in ("anchor", "rate") and not name.startswith(MEMORY)]
    agreed, parts = contract(env, inputs), dump(config)
    cameras = {name: env.camera_specs[name] for name in inputs if name in env.camera_specs}
    start = env.task.start_envelope()
    looks = {
        name: statistics(
            pictures.images[name], camera, pictures.episodes, flickers=flickers(config.corrupt, camera)
        )
        for name, camera in cameras.items()
    }  # fmt: skip
    return {
        "task": config.task.name,
        **{f"{kind}_config": parts[kind] for kind in ("task", "sim", "renderer", "corrupt")},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "robokd": robokd.__version__,
        **agreed,
        "control_dt": dt,
        "robot": robot(config, env) | {"sag": sag},
        "optics": {name: optics(config.corrupt, camera, dt) for name, camera in cameras.items()},
        "statistics": looks,
        "latency_s": {name: latency_s(config.corrupt, cameras.get(name), dt) for name in inputs},
        "graph": describe(first),
        "start": {"joint_pos_lower": start[0], "joint_pos_upper": start[1]},
        "ages_s": ages_s(config, env, inputs),
        "lineage": [
            {
                "path": parent.path.name, "stage": parent.stage, "checkpoint": config.checkpoint,
                "sha256": parent.sha256(config.checkpoint),
            }
        ],
        "evaluation": {"validation_success": validation_success(parent, config.checkpoint)},
        "clock_s": clock_s(config, env, inputs),
    }  # fmt: skip


def robot(config: ExportConfig, env: TaskEnv) -> dict[str, Any]:
    """Return the robot's gains and limits but for `sag`; home is the middle of the start envelope."""
    names, start = env.action_spec.names, env.task.start_envelope()
    return {
        **(
            cast("JointWorlds", env.worlds).gains()
            if isinstance(env, ForeignEnv)
            else gains(env.sim.model, names)
        ),
        **{name: _each_joint(name, getattr(config, name), names) for name in ("torque_rate", "jerk")},
        "home": [(low + high) / 2 for low, high in zip(*start, strict=True)],
        "quaternion_order": QUATERNION_ORDER,
        "units": UNITS,
    }


def gains(model: mujoco.MjModel, names: Sequence[str]) -> dict[str, list[float] | None]:
    """Return kp, kd and the largest torque of the servos of joints.

    None where a joint has not exactly one plain position servo (force = kp (target - q) - kd dq, gear 1), and
    for the torque where it has no limit.
    """
    servos = [_servo(model, name) for name in names]
    if not all(servos):
        return {"kp": None, "kd": None, "torque": None}
    kp, kd, torque = (list(row) for row in zip(*(servo for servo in servos if servo), strict=True))
    return {"kp": kp, "kd": kd, "torque": torque if all(map(math.isfinite, torque)) else None}


def sag_rad(env: TaskEnv) -> list[float] | None:
    """Return how far joints rest at most from the targets that hold a start, (A,) rad, of a standing robot.

    Measured in the env's worlds until their robot falls. None of a body that does not float: its joints bear
    nothing but itself. UserError where it cannot stand.
    """
    joints = env.action_spec.joints
    if isinstance(env, ForeignEnv) or not (joints and floats(env.sim.model, joints)):
        return None
    env.reset()
    state, dt = env.state, env.action_spec.control_dt
    places = [int(env.sim.model.joint(name).qposadr[0]) for name in joints]
    is_up, most = torch.ones(env.num_envs, dtype=torch.bool), torch.zeros(len(joints))
    for _ in range(round(STAND_S / dt)):
        env.sim.step(env.task.control(state.command, state), env.substeps)
        state.step = state.step + 1
        env.task.progress(state, dt)
        is_up &= ~(env.sim.diverged() | env.task.terminated(state))
        apart = (env.sim.get("qpos")[:, places].float() - state.command).abs()
        most = torch.maximum(most, torch.where(is_up[:, None], apart, 0.0).amax(0))
    if not is_up.any():
        raise UserError("the robot falls where its start is held: no policy could take it standing")
    if (worst := float(most.max())) > MOST_SAG_RAD:
        got = f"{joints[int(most.argmax())]} rests {worst:.3g} rad from the target that holds the start"
        raise UserError(f"{got}, at most {MOST_SAG_RAD:g} rad may be: the robot's servos do not bear it")
    return most.tolist()


def floats(model: mujoco.MjModel, names: Sequence[str]) -> bool:
    """Whether the body that has these joints hangs on nothing: a legged robot's trunk."""
    roots = {int(model.body_rootid[model.jnt_bodyid[model.joint(name).id]]) for name in names}
    free = model.jnt_bodyid[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
    return bool(roots & set(free.tolist()))


def clock_s(config: ExportConfig, env: TaskEnv, inputs: Sequence[str]) -> float:
    """Return the period of the clock that the policy reads, s, or 0; UserError where nobody tells it."""
    read = [term.name for name in inputs if name in env.obs_specs for term in env.obs_specs[name].terms]
    if "clock" not in read:
        return 0.0
    period = getattr(config.task, "clock_s", 0.0)
    if not period > 0:
        why = "the policy reads a clock whose period its task does not say"
        raise UserError(f"task={config.task.name}: {why} (clock_s of its config)")
    return float(period)


def _servo(model: mujoco.MjModel, joint: str) -> tuple[float, float, float] | None:
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, joint)
    in_joint = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    rows = np.flatnonzero(in_joint & (model.actuator_trnid[:, 0] == index))
    if index < 0 or len(rows) != 1:
        return None
    row = int(rows[0])
    gain, bias = model.actuator_gainprm[row], model.actuator_biasprm[row]
    kp, kd = float(gain[0]), -float(bias[2])
    is_plain = (
        model.actuator_gaintype[row] == mujoco.mjtGain.mjGAIN_FIXED
        and model.actuator_biastype[row] == mujoco.mjtBias.mjBIAS_AFFINE
        and model.actuator_dyntype[row] == mujoco.mjtDyn.mjDYN_NONE
        and model.actuator_gear[row, 0] == 1 and bias[0] == 0 and bias[1] == -kp and kp > 0 and kd >= 0
    )  # fmt: skip
    if not is_plain:
        return None
    limits = [math.inf]
    if model.actuator_forcelimited[row]:
        limits += np.abs(model.actuator_forcerange[row]).tolist()
    if model.jnt_actfrclimited[index]:
        limits += np.abs(model.jnt_actfrcrange[index]).tolist()
    return kp, kd, float(min(limits))


def _each_joint(name: str, values: Sequence[float], names: Sequence[str]) -> list[float] | None:
    if len(values) not in (0, 1, len(names)):
        wanted = f"one number, or one for each of {', '.join(names)}"
        raise UserError(f"{name} wants {wanted}; got {len(values)}")
    return [*values] * (len(names) if len(values) == 1 else 1) or None


def optics(corrupt: Corruption, camera: CameraSpec, control_dt: float) -> dict[str, Any]:
    """Return the lens of a camera, a pinhole with square pixels and no crop, and its frames a second."""
    focal = focal_px(camera)
    timing = Timing(corruption=corrupt, camera=camera, control_dt=control_dt)
    return {
        "fx": focal, "fy": focal, "cx": (camera.width - 1) / 2, "cy": (camera.height - 1) / 2, "crop": None,
        "rate_hz": 1 / (timing.period * control_dt),
    }  # fmt: skip


def flickers(corrupt: Corruption, camera: CameraSpec) -> bool:
    """Whether the camera of training was noisy, so that no two pictures of a scene at rest are the same."""
    if camera.is_depth:
        noise = (corrupt.subpixel_px, *corrupt.axial_noise, corrupt.lateral_px)
        return any((*noise, corrupt.dropout_rate, corrupt.edge_hole_rate))
    is_colour = camera.encoding.startswith("rgb")
    return is_colour and any((corrupt.flicker_stops, corrupt.shot_noise, corrupt.read_noise))


def latency_s(corrupt: Corruption, camera: CameraSpec | None, control_dt: float) -> list[float]:
    """Return how old data was in training, at least and at most, in s: 0 but of a camera that it spoiled.

    The first picture of an episode, which is seen at once, does not count.
    """
    if camera is None or not corrupt.changes_timing:
        return [0.0, 0.0]
    timing = Timing(corruption=corrupt, camera=camera, control_dt=control_dt)
    # of control steps: what has arrived is seen at the next one
    least = math.ceil(corrupt.latency_s[0] / control_dt - 1e-9) * control_dt
    return [least, timing.longest_age_s]


def ages_s(config: ExportConfig, env: TaskEnv, inputs: Sequence[str]) -> dict[str, float]:
    """Return the oldest data that a command may rest on, in s, by name: `age_periods` and what training saw.

    UserError where that is so old that it would not be looked at.
    """
    dt, found = env.action_spec.control_dt, {}
    for name in inputs:
        seen = latency_s(config.corrupt, env.camera_specs.get(name), dt)[1]
        found[name] = config.age_periods * dt + seen
        if found[name] > LONGEST_AGE_S:
            raise UserError(
                f"age_periods={config.age_periods:g}: {name} could be {found[name]:.3g} s old, "
                f"at most {LONGEST_AGE_S:g} s may be"
            )
    return found


def validation_success(run: Run, checkpoint: str) -> float | None:
    """Return the success that training measured of this very checkpoint; None where it measured none."""
    step = run.checkpoint_step(checkpoint)
    return next((row.get("validation/success") for row in run.metrics() if row["step"] == step), None)
