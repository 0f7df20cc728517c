"""Ticks and other things to be logged, made by hand."""

import math

import numpy as np
from robokd.sim2real.log import Log, Sent, Tick
from robokd.sim2real.policy import Decision

ABOUT = {"task": "tiny", "bundle_sha256": "0" * 64, "robot": "mujoco"}


def vector(*values) -> np.ndarray:
    return np.array(values, np.float32)


def tick(number=1, *, image=None, at=None, **changes) -> Tick:
    at = 100.0 + 0.04 * number if at is None else at
    channels = {"joint_pos": vector(0.1, number), "joint_vel": vector(0, -0.0), "joint_target": vector(1, 2)}
    if image is not None:
        channels["front"] = image
    decision = Decision(
        command=vector(0.1 * number, 1e-40), action=vector(1 / 3, -1), inference_s=1e-3,
        estimates={"target": vector(1, 2, 3)},
    )  # fmt: skip
    return Tick(**{
        "begun_s": at + 0.001, "episode": 0, "number": number, "channels": channels, "anchor": vector(0, 1),
        "captured_s": dict.fromkeys(channels, at), "rate": vector(0.5, 0.25), "decision": decision, **changes,
    })  # fmt: skip


def sent(sequence=1) -> Sent:
    return Sent(
        origin=sequence, sequence=sequence, stamp_s=100.5, commanded=vector(1, math.nan), sent=vector(1, 0),
        reasons=("velocity", "jerk"), rung=2,
    )  # fmt: skip


def black(value=0) -> np.ndarray:
    return np.full((1, 3, 4), value, np.uint8)


def write(path, ticks=()) -> str:
    log = Log(path, ABOUT)
    for one in ticks:
        log.tick(one)
    return log.close()


def same(one, other) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
