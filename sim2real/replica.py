"""The simulated robot that is held against a real one, and its motions under many parameters at once.

An offline tool: it needs MuJoCo. Shapes: V variants, N physics steps, S samples, A joints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from mujoco.batch import Batch
from robokd.sim2real.trace import Trace

from robokd import UserError
from robokd.export.bundle import Bundle

# parameters of a joint: lowest, highest and usual size
BOUNDS = {
    "friction_nm": (0.0, 10.0, 0.5), "damping": (0.0, 50.0, 2.0), "armature": (1e-4, 2.0, 0.1),
    "stiffness": (0.3, 3.0, 1.0),
}  # fmt: skip
FIELDS = ("dof_frictionloss", "dof_damping", "dof_armature")  # of the model, in that order
DELAY = (0.0, 0.3, 0.02)  # s, likewise


@dataclass(frozen=True, kw_only=True)
class Replica:
    """The simulated robot that is fitted, and where its joints are in the model."""

    model: mujoco.MjModel
    names: tuple[str, ...]
    qpos: np.ndarray  # (nq,) with what is not a joint of the robot where it rests
    ctrl: np.ndarray  # (nu,) likewise
    dt: float  # physics step, s
    positions: np.ndarray  # (A,) places in qpos
    speeds: np.ndarray  # (A,) places in qvel
    actuators: np.ndarray  # (A,) places in ctrl

    @classmethod
    def of(
        cls, model: mujoco.MjModel, names: Sequence[str], qpos: np.ndarray, ctrl: np.ndarray, dt: float
    ) -> Replica:
        """Find the joints with these names and their servos; UserError where one has none."""
        ids = [model.joint(name).id for name in names]
        actuators = []
        for name, joint in zip(names, ids, strict=True):
            of_joint = (model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT) & (
                model.actuator_trnid[:, 0] == joint
            )
            if of_joint.sum() != 1:
                raise UserError(f"joint {name} has {of_joint.sum()} servos in the model; one can be fitted")
            actuators.append(int(np.argmax(of_joint)))
        return cls(
            model=model, names=tuple(names), qpos=qpos, ctrl=ctrl, dt=dt, positions=model.jnt_qposadr[ids],
            speeds=model.jnt_dofadr[ids], actuators=np.array(actuators),
        )  # fmt: skip

    def nominal(self) -> dict[str, np.ndarray]:
        """Return the model's own parameters."""
        model, count = self.model, len(self.names)
        values = [np.array(getattr(model, field)[self.speeds], float).reshape(count) for field in FIELDS]
        return dict(zip(BOUNDS, [*values, np.ones(count)], strict=True)) | {"delay_s": np.zeros(1)}


def replica_of(bundle: Bundle) -> Replica:
    """Return the bundle's own task, at rest.

    Its steps of physics are those of training: a step of dt acts as inertia, damping * dt / 2, so numbers
    that fit finer steps would not fit the simulation that they are for.
    """
    from robokd.sim2real.mujoco_host import build_env

    parts = ("task_config", "sim_config", "renderer_config", "corrupt_config", "action", "observations")
    env = build_env({
        **{name: bundle.manifest[name] for name in parts}, "bundle": str(bundle.path), "cameras": {},
        "seed": 0, "space": "seen",
    })  # fmt: skip
    ctrl = env.task.control(env.state.command, env.state)[0].numpy().astype(np.float64)
    qpos = env.sim.get("qpos")[0].numpy().copy()
    return Replica.of(env.sim.model, bundle.action.names, qpos, ctrl, env.sim.physics_dt)


class Rollouts:
    """Simulates a motion under many sets of parameters at once."""

    def __init__(self, replica: Replica, most: int) -> None:
        self.replica = replica
        self._batch = Batch(replica.model, most, nthread=len(os.sched_getaffinity(0)))
        self._of_joints = dict(zip(BOUNDS, (self._batch.expand(field) for field in FIELDS), strict=False))
        self._batch.expand("opt.timestep")[...] = replica.dt
        gain, bias = (self._batch.expand(f"actuator_{one}prm") for one in ("gain", "bias"))
        # what stiffness and damping of a position servo stand in
        self._servos = [
            (field, field[0, :, at].copy(), at) for field, at in ((gain, 0), (bias, 1), (bias, 2))
        ]
        self._qpos, self._qvel = self._batch.bind("qpos"), self._batch.bind("qvel")

    def predict(self, trace: Trace, variants: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and speeds (V, S, A) at the trace's times; variants are (V, A), delay (V, 1)."""
        replica, ids = self.replica, np.arange(len(variants["delay_s"]))
        rows = np.ix_(ids, replica.speeds)
        for name, field in self._of_joints.items():
            field[rows] = variants[name]
        for field, usual, column in self._servos:
            changed = usual[replica.actuators] * variants["stiffness"]
            field[ids[:, None], replica.actuators, column] = changed
        begins = trace.times_s[0] - DELAY[1]
        count = int(np.ceil((trace.times_s[-1] - begins) / replica.dt)) + 1
        control = np.tile(replica.ctrl, (count, 1))
        control[:, replica.actuators] = trace.command(begins, replica.dt, count)
        start = replica.qpos.copy()
        start[replica.positions] = trace.start()
        self._batch.reset(ids)
        self._qpos[ids], self._qvel[ids] = start, 0.0
        record = self._batch.rollout(
            nstep=count, control=np.broadcast_to(control, (len(ids), *control.shape)), ids=ids,
            control_spec=mujoco.mjtState.mjSTATE_CTRL, record=["qpos", "qvel"],
        )  # fmt: skip
        # what is recorded first is after a step; to delay what is measured is to delay what is commanded
        place = (trace.times_s - variants["delay_s"] - begins) / replica.dt - 1
        place = np.clip(place, 0, count - 1.001)
        return _between(record["qpos"][:, :, replica.positions], place), _between(
            record["qvel"][:, :, replica.speeds], place
        )


def _between(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return rows (V, N, A) at fractional places (V, S), (V, S, A)."""
    whole = place.astype(int)
    share = (place - whole)[..., None]
    index = whole[..., None]
    before, after = (np.take_along_axis(rows, one, axis=1) for one in (index, index + 1))
    return before + share * (after - before)
