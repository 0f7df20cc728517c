"""`what=sim` on a GPU: whole environment steps beside what mujoco_warp does alone, captured and replayed.

Bare physics is `mujoco_warp.step` of the same model; with a camera, our replayed physics and renderer=mjwarp
(which refits its tree and traces), without control, rewards, observations and resets. By wall time, until
the device has done it all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch

from robokd.bench.row import Effort, Gate, LeftOut, Measure, Row, in_turn, per, until_done
from robokd.bench.stepping import stepping
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.env.native import NativeEnv
from robokd.registry import find
from robokd.sim.base import TOLERANCES
from robokd.sim.mjwarp import MjwarpCfg
from robokd.vision.mjwarp import MjwarpCfg as TracerCfg
from robokd.vision.sensor import Corruption

if TYPE_CHECKING:
    from robokd.tasks.reach import ReachCfg

BARE, SEEING = "arm on a GPU, beside captured mujoco_warp.step", "arm on a GPU, with a 64x64 depth camera"
BARE_BAR, SEEING_BAR = 0.8, 0.7
CAMERA = "front"


def rows(effort: Effort) -> Iterator[Row | LeftOut]:
    """Measure where there is a GPU."""
    for name, measure in ((BARE, bare), (SEEING, seeing)):
        if torch.cuda.is_available():
            yield measure("cuda", effort)
        else:
            yield LeftOut(name=name, why="needs a GPU, not yet measured")


def bare(device: str, effort: Effort) -> Row:
    """Compare steps without pictures with bare physics."""
    with closing(_arm(device, effort, effort.gpu_worlds)) as env:
        ours, theirs = in_turn(stepping(env), _Bare(env), effort, until_done)
    return Row(
        name=BARE, peer_name="mujoco_warp.step, captured", unit="us/step", bar=BARE_BAR,
        gate=_same_physics(device, effort), ours_all=per(ours, effort.gpu_worlds),
        peer_all=per(theirs, effort.gpu_worlds),
    )  # fmt: skip


def seeing(device: str, effort: Effort) -> Row:
    """Compare steps that see with physics and pictures alone."""
    with closing(_arm(device, effort, effort.gpu_worlds, CAMERA)) as env:
        assert env.eyes is not None
        camera = env.camera_specs[CAMERA]
        tracer = TracerCfg().build(env.sim, [camera], threads=1)
        out = {CAMERA: torch.empty(env.num_envs, *camera.shape, dtype=torch.uint8, device=tracer.device)}
        ctrl = env.sim.get("ctrl").clone()

        def alone() -> None:
            env.sim.step(ctrl, env.substeps)
            tracer.render(env.sim, [camera], out)

        ours, theirs = in_turn(stepping(env), alone, effort, until_done)
    return Row(
        name=SEEING, peer_name="replayed physics, refit and mujoco_warp.render", unit="us/step",
        bar=SEEING_BAR, gate=_same_physics(device, effort), ours_all=per(ours, effort.gpu_worlds),
        peer_all=per(theirs, effort.gpu_worlds),
    )  # fmt: skip


def _arm(device: str, effort: Effort, worlds: int, *cameras: str) -> NativeEnv:
    kind: type[ReachCfg] = find("task", "reach")
    setup = Setup(
        num_envs=worlds, groups=("proprio", "privileged", *cameras), draws=Draws(effort.seed, "test"),
        device=device, ends=False,
    )  # fmt: skip
    # every world as the model is: bare physics knows of no gains of its own
    made = kind(stiffness=(1.0, 1.0)).build(
        sim=MjwarpCfg(), renderer=TracerCfg() if cameras else None, corrupt=Corruption(), setup=setup
    )
    assert isinstance(made, NativeEnv), type(made)
    return made


class _Bare:
    """mujoco_warp's own steps of one control step, captured once, from where the worlds of env are."""

    def __init__(self, env: NativeEnv) -> None:
        import mujoco_warp
        import warp

        self._warp = warp
        with warp.ScopedDevice(env.device):
            model = mujoco_warp.put_model(env.sim.model)
            self._data = mujoco_warp.make_data(env.sim.model, nworld=env.num_envs)
            for field in ("qpos", "qvel", "ctrl"):
                warp.to_torch(getattr(self._data, field)).copy_(env.sim.get(field))
            with warp.ScopedCapture() as capture:
                for _ in range(env.substeps):
                    mujoco_warp.step(model, self._data)
        self._graph: Any = capture.graph

    def __call__(self) -> None:
        """Do a control step's worth of physics."""
        self._warp.capture_launch(self._graph)

    @property
    def qpos(self) -> torch.Tensor:
        """Where the worlds are, (N, nq)."""
        return self._warp.to_torch(self._data.qpos)


def _same_physics(device: str, effort: Effort) -> Gate:
    """Compare where the joints are after a control step under the same targets."""
    with closing(_arm(device, effort, effort.compared)) as env:
        env.sim.set("ctrl", env.task.control(env.state.command, env.state))
        bare_physics = _Bare(env)
        env.sim.step(env.sim.get("ctrl").clone(), env.substeps)
        bare_physics()
        apart = float((bare_physics.qpos - env.sim.get("qpos")).abs().max())
    measure = Measure(name="largest difference of qpos", value=apart, limit=TOLERANCES["qpos"])
    return Gate(name="the same motion", measures=(measure,))
