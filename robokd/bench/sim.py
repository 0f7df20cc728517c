"""`what=sim`: whole environment steps, without pictures, beside bare physics and beside pools of processes.

Ours is what teaching uses: control, physics, reward, observations and resets of N worlds. Bare physics is
`mujoco.batch.Batch.step` of the same model, nothing else, on one thread, by CPU time. The pools step plain
Gymnasium environments (plain.py) of the same bodies, each with as many processes as it does best with, by
wall time; ours has as many threads as there are cores.
Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from robokd.bench import hover, plain, sim_gpu
from robokd.bench.row import Effort, Gate, LeftOut, Measure, Row, in_turn, per, wall_seconds
from robokd.bench.stepping import random_actions, stepping
from robokd.cores import cores
from robokd.draws import Draws
from robokd.env.base import Setup, TaskEnv
from robokd.env.native import build
from robokd.learn.stage import begin
from robokd.registry import find
from robokd.sim.mujoco import MujocoCfg, MujocoSim
from robokd.vision.sensor import Corruption

if TYPE_CHECKING:
    import mujoco
    from gymnasium.vector import AsyncVectorEnv
    from stable_baselines3.common.vec_env import SubprocVecEnv

    from robokd.tasks.reach import Reach, ReachCfg

POOLS = (2, 4, 16)  # processes that a pool is tried with
QPOS_LIMIT = 1e-5  # rad and m: commands are float32, and both sides add them in another order
RAW_LIMIT = 1e-9
REWARD_LIMIT = 0.05  # a plain environment's tip is a substep old
QUAD_DT = 0.0025  # s


@dataclass(frozen=True, kw_only=True)
class Body:
    """What is simulated, as ours and as a plain environment; `still` differs in no episode."""

    name: str
    env: Callable[[int, int, int], TaskEnv]  # of (worlds, seed, threads)
    still: Callable[[int], TaskEnv]  # of a seed: one world
    plain: Callable[[], plain.PlainEnv]  # can be sent to a process
    bar: float  # of the pools


def rows(effort: Effort) -> Iterator[Row | LeftOut]:
    """Measure bare physics, then the pools."""
    begin(effort.seed, threads=1)
    panda, quadrotor = arm(), _quadrotor()
    for body, bar in ((panda, 0.75), (quadrotor, None)):
        for name, persistent in (("as it comes", False), ("persistent", True)):
            yield _raw(body, name, persistent, None if persistent else bar, effort)
    begin(effort.seed, threads=cores())
    for body in (panda, quadrotor):
        gate = _gate(body, effort)
        for name in BEGUN:
            try:
                yield _pooled(body, name, gate, effort)
            except ImportError as error:
                yield LeftOut(name=f"{body.name}, beside {name}", why=str(error))
    yield LeftOut(name="beside EnvPool", why="it runs the models that it brings, none of ours")
    yield from sim_gpu.rows(effort)


def _raw(body: Body, name: str, persistent: bool, bar: float | None, effort: Effort) -> Row:
    from mujoco.batch import Batch

    with closing(body.env(effort.num_envs, effort.seed, 1)) as env:
        assert isinstance(env.sim, MujocoSim), type(env.sim)
        batch = Batch(env.sim.model, effort.num_envs, nthread=1, persistent=persistent)
        batch.state[...] = env.sim.batch.state
        batch.bind("ctrl")[...] = env.sim.get("ctrl").numpy()
        ours, theirs = in_turn(stepping(env), functools.partial(batch.step, nstep=env.substeps), effort)
    return Row(
        name=f"{body.name}, one thread, beside bare physics, {name}", unit="us/step", bar=bar,
        peer_name="mujoco.batch.Batch.step", gate=_same_physics(body, persistent, effort),
        ours_all=per(ours, effort.num_envs), peer_all=per(theirs, effort.num_envs),
    )  # fmt: skip


def _same_physics(body: Body, persistent: bool, effort: Effort) -> Gate:
    """Compare motion under the same commands."""
    from mujoco.batch import Batch

    with closing(body.still(effort.seed)) as env:
        assert isinstance(env.sim, MujocoSim), type(env.sim)
        batch = Batch(env.sim.model, 1, nthread=1, persistent=persistent)
        ctrl, qpos = batch.bind("ctrl"), batch.bind("qpos")
        batch.state[...] = env.sim.batch.state
        for action in random_actions(env, effort.control_steps):
            env.step(action)
            ctrl[...] = env.sim.get("ctrl").numpy()
            batch.step(nstep=env.substeps)
        apart = np.abs(qpos - env.sim.get("qpos").numpy()).max()
    measure = Measure(name="largest difference of qpos", value=float(apart), limit=RAW_LIMIT)
    return Gate(name="the same motion", measures=(measure,))


def _gate(body: Body, effort: Effort) -> Gate:
    """Compare a plain environment's motion and reward with ours, from the same start."""
    other = body.plain()
    other.reset(seed=effort.seed)
    with closing(body.still(effort.seed)) as env:
        assert isinstance(env.sim, MujocoSim), type(env.sim)
        goal = env.state.episode["goal"][0].numpy()
        other.aim(goal)
        rewards = []
        for action in random_actions(env, effort.control_steps):
            _, ours, _, _ = env.step(action)
            _, theirs, *_ = other.step(action[0].numpy())
            rewards.append(abs(float(ours[0]) - theirs))
        count = len(other.data.qpos)
        apart = np.abs(other.data.qpos - env.sim.get("qpos")[0, :count].numpy()).max()
    return Gate(
        name="the same motion and reward",
        measures=(
            Measure(name="largest difference of qpos", value=float(apart), limit=QPOS_LIMIT),
            Measure(name="largest difference of the reward", value=max(rewards), limit=REWARD_LIMIT),
        ),
    )


class _Pool:
    """Processes that step plain environments, as gymnasium or stable-baselines3 pools them."""

    def __init__(self, begun: Begun, make: Callable[[], plain.PlainEnv], count: int, seed: int) -> None:
        self._envs = begun([make] * count, seed)
        self._draw, self._shape = np.random.default_rng(seed), (count, make().world.action.size)

    def step(self) -> None:
        """Step all."""
        self._envs.step(self._draw.uniform(-1, 1, self._shape).astype(np.float32))

    def close(self) -> None:
        """End the processes."""
        self._envs.close()


def _async(makers: list[Callable[[], plain.PlainEnv]], seed: int) -> AsyncVectorEnv:
    from gymnasium.vector import AsyncVectorEnv

    envs = AsyncVectorEnv(makers, context="spawn")
    envs.reset(seed=seed)
    return envs


def _subproc(makers: list[Callable[[], plain.PlainEnv]], seed: int) -> SubprocVecEnv:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    envs = SubprocVecEnv([*makers], start_method="spawn")
    envs.seed(seed)
    envs.reset()
    return envs


Begun = Callable[[list[Callable[[], plain.PlainEnv]], int], "AsyncVectorEnv | SubprocVecEnv"]
BEGUN: dict[str, Begun] = {
    "gymnasium's AsyncVectorEnv": _async, "stable-baselines3's SubprocVecEnv": _subproc
}  # fmt: skip


def _pooled(body: Body, name: str, gate: Gate, effort: Effort) -> Row:
    """Measure beside a pool of the size that does best."""
    costs = {}
    for count in POOLS:
        with closing(_Pool(BEGUN[name], body.plain, count, effort.seed)) as tried:
            tried.step()
            costs[count] = min(wall_seconds(tried.step, 20) for _ in range(2)) / count
    best = min(costs, key=lambda count: costs[count])
    with (
        closing(body.env(effort.num_envs, effort.seed, cores())) as env,
        closing(_Pool(BEGUN[name], body.plain, best, effort.seed)) as envs,
    ):
        ours, theirs = in_turn(stepping(env), envs.step, effort, wall_seconds)
    return Row(
        name=f"{body.name}, all cores, beside {name}", unit="us/step", bar=body.bar, gate=gate,
        peer_name=f"{best} processes, the best of {', '.join(map(str, POOLS))}; wall time",
        ours_all=per(ours, effort.num_envs), peer_all=per(theirs, best),
    )  # fmt: skip


def _setup(worlds: int, seed: int, threads: int, groups: tuple[str, ...]) -> Setup:
    return Setup(num_envs=worlds, groups=groups, draws=Draws(seed, "test"), threads=threads, ends=False)


def arm() -> Body:
    """Return the task reach: an arm of seven joints."""
    kind: type[ReachCfg] = find("task", "reach")
    cfg = kind()
    calm = kind(
        start_rad=0.0, stiffness=(1.0, 1.0), joint_noise_rad=0.0, camera_shift_m=0.0, camera_tilt_rad=0.0
    )

    def env(worlds: int, seed: int, threads: int, task: ReachCfg = cfg) -> TaskEnv:
        groups = ("proprio", "privileged")
        return task.build(
            sim=MujocoCfg(), renderer=None, corrupt=Corruption(), setup=_setup(worlds, seed, threads, groups)
        )

    with closing(env(1, 0, 1, calm)) as known:
        task: Reach = known.task  # pyright: ignore[reportAssignmentType]
        ctrl = task.control(known.state.command, known.state)[0].tolist()
        world = plain.World(
            xml=_xml(task.scene()), action=known.action_spec, physics_dt=known.sim.physics_dt,
            substeps=known.substeps, horizon=known.max_episode_length,
            start=tuple(known.sim.get("qpos")[0].tolist()), command=tuple(known.state.command[0].tolist()),
            spare=tuple(ctrl[known.num_actions :]),
        )  # fmt: skip
    weights = {name: getattr(cfg, f"{name}_weight") for name in ("distance", "near", "action", "action_rate")}
    goals = np.array([
        (-cfg.azimuth_rad, cfg.radius_m[0], cfg.height_m[0]),
        (cfg.azimuth_rad, cfg.radius_m[1], cfg.height_m[1]),
    ])  # fmt: skip
    make = functools.partial(
        plain.PlainReach,
        world,
        {**weights, "success": cfg.success_reward},
        cfg.tolerance_m,
        cfg.hold_s,
        goals,
    )
    return Body(name="arm", env=env, still=lambda seed: env(1, seed, 1, calm), plain=make, bar=3.0)


def _quadrotor() -> Body:
    task = hover.Hover()

    def env(worlds: int, seed: int, threads: int) -> TaskEnv:
        return build(
            task, sim=MujocoCfg(physics_dt=QUAD_DT), renderer=None, corrupt=Corruption(),
            setup=_setup(worlds, seed, threads, ("proprio",)),
        )  # fmt: skip

    with closing(env(1, 0, 1)) as known:
        world = plain.World(
            xml=hover.xml(), action=known.action_spec, physics_dt=QUAD_DT, substeps=known.substeps,
            horizon=known.max_episode_length, start=hover.START, command=(hover.HOVER,) * 4,
        )  # fmt: skip
    make = functools.partial(plain.PlainHover, world, hover.NEAR_M, hover.ROOM_M)
    return Body(name="quadrotor", env=env, still=lambda seed: env(1, seed, 1), plain=make, bar=8.0)


def _xml(spec: mujoco.MjSpec) -> str:
    spec.compile()
    return spec.to_xml()
