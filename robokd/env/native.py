"""Our vectorised environment: a native task on a Sim, all environments in one batch.

Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.env.base import Setup, State, Task, check_groups, draw_parameters
from robokd.env.eyes import Eyes
from robokd.sim.base import Sim, SimCfg
from robokd.specs import Limits, decode
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption

MAX_DIVERGED_SHARE = 1e-3  # of episodes; above it the run stops
DIVERGED_GRACE = 5  # diverged episodes before the share is judged


class NativeEnv:
    """The VecEnv protocol (and rsl_rl's) for a native task.

    Environment i runs the episodes i, i + N, i + 2N ...; of several processes i and N count all of theirs.
    What happens in an episode follows from its number and the actions alone. Groups not asked for are not
    computed; without a camera group nothing is rendered.
    """

    def __init__(self, task: Task, sim: Sim, eyes: Eyes | None, setup: Setup) -> None:
        self.task, self.sim, self.eyes = task, sim, eyes
        self.draws, self.space, self.groups = setup.draws, setup.space, tuple(setup.groups)
        self._first, self._stride, self._has_ends = setup.first, setup.total or setup.num_envs, setup.ends
        self.action_spec, self.obs_specs = task.action_spec(), task.obs_specs()
        self.camera_specs = task.camera_specs()
        self.substeps = physics_steps(task.control_dt, sim.physics_dt)
        self.num_envs, self.num_actions, self.device = sim.num_envs, self.action_spec.size, sim.device
        self.max_episode_length = round(task.horizon_s / task.control_dt)
        self.cfg: dict[str, Any] = {"task": type(task).__name__, "num_envs": sim.num_envs}
        self.failures: Path | None = None  # where the state of a divergence or a NaN is saved
        self.frames_rendered = self.episodes_ended = self.episodes_diverged = 0
        self._limits = Limits.of(self.action_spec, lambda row: torch.tensor(row, device=self.device))
        self._ranges = task.parameters()
        self._before: dict[str, Tensor] = {}  # the bodies' state before the last step
        self.state = self._empty_state()
        self.reset()

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since each episode began, (N,) int64; may be set (rsl_rl staggers episodes by it)."""
        return self.state.step

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.state.step = value.to(torch.int64).clone()

    def reset(self, episodes: Tensor | None = None) -> TensorDict:
        """Begin the episodes with these numbers (N,) int64 (default: the first ones)."""
        numbers = self._first + torch.arange(self.num_envs, device=self.device)
        if episodes is not None:
            numbers = episodes
        self.state.episode_id = numbers.to(self.device, torch.int64).clone()
        self._begin(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        self._observations = self.observe()
        return self._observations

    def get_observations(self) -> TensorDict:
        """Return the current observations."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """See VecEnv.step."""
        state = self.state
        self._check_finite("action", actions)
        state.previous_action = state.action
        state.action = actions.to(torch.float32).clip(-1, 1)
        state.command, state.rate = decode(state.action, state.command, state.rate, self._limits, torch)
        state.step = state.step + 1
        # the engine resets a world that diverges: what led there is kept, or it could not be looked into
        self._before = {name: self.sim.get(name).clone() for name in ("qpos", "qvel")}
        self.sim.step(self.task.control(state.command, state), self.substeps)
        self.task.progress(state, self.substeps * self.sim.physics_dt)
        terms = self.task.reward(state)
        diverged = self.sim.diverged()
        is_sound = ~diverged
        success = self.task.success(state) & is_sound
        ended = self.task.terminated(state) & is_sound
        reward = self._sum_reward(terms, diverged)
        over = ended | diverged
        done = over | (state.step >= self.max_episode_length)
        time_outs = done & ~over
        extras = {"time_outs": time_outs, "success": success, "episode": state.episode_id, "log": {}}
        if done.any():
            if self._has_ends and time_outs.any():
                extras["terminal"] = self._numbers(time_outs)
            self._count(done, diverged)
            extras["log"] = {"success": success[done].float().mean()}
            state.episode_id = torch.where(done, state.episode_id + self._stride, state.episode_id)
            self._begin(done)
        self._observations = self.observe()
        return self._observations, reward, done.long(), extras

    def observe(self) -> TensorDict:
        """Compute the groups asked for, as fresh tensors."""
        groups = dict(self._numbers().items())
        if self.eyes is not None:
            groups |= self.eyes.look(self.state.episode_id, self.state.step)
            self.frames_rendered += self.num_envs * len(self.eyes.cameras)
        return TensorDict(groups, batch_size=[self.num_envs])

    def _numbers(self, wanted: Tensor | None = None) -> TensorDict:
        """Return the 1-D groups asked for, as fresh tensors; finite all, or where `wanted` (N,) is."""
        groups: dict[str, Tensor] = {}
        for name in self.groups:
            if name in self.obs_specs:
                groups[name] = self.task.observe(name, self.state)
                self._check_finite(f"observation {name!r}", groups[name], wanted)
        return TensorDict(groups, batch_size=[self.num_envs])

    def snapshot(self) -> dict[str, Any]:
        """See VecEnv.snapshot."""
        state = self.state
        names = ("episode_id", "step", "action", "previous_action", "command", "rate")
        return {
            "sim": self.sim.snapshot(),
            "episode": {name: value.clone() for name, value in state.episode.items()},
            **{name: getattr(state, name).clone() for name in names},
            "eyes": self.eyes.snapshot() if self.eyes else {},
            "counts": [self.frames_rendered, self.episodes_ended, self.episodes_diverged],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """See VecEnv.restore."""
        self.sim.restore(snapshot["sim"])
        for name, value in snapshot["episode"].items():
            self.state.episode[name] = value.to(self.device, copy=True)
        for name in ("episode_id", "step", "action", "previous_action", "command", "rate"):
            setattr(self.state, name, snapshot[name].to(self.device, copy=True))
        if self.eyes is not None:
            self.eyes.restore(snapshot["eyes"])
        self._observations = self.observe()
        self.frames_rendered, self.episodes_ended, self.episodes_diverged = snapshot["counts"]

    def close(self) -> None:
        """Free the worlds."""
        self.sim.close()

    def _empty_state(self) -> State:
        rows = {name: torch.zeros(self.num_envs, self.num_actions, device=self.device) for name in "abcd"}
        count = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return State(
            sim=self.sim, episode=TensorDict({}, batch_size=[self.num_envs]), draws=self.draws,
            episode_id=count, step=count.clone(), action=rows["a"], previous_action=rows["b"],
            command=rows["c"], rate=rows["d"], is_seen=self.eyes is not None,
        )  # fmt: skip

    def _begin(self, mask: Tensor) -> None:
        state = self.state
        values = draw_parameters(self._ranges, self.draws, state.episode_id, self.space)
        self.sim.reset(mask)
        if self.eyes is not None:
            self.eyes.begin(mask, state.episode_id)
        start = self.task.reset(values, state, mask)
        column = mask[:, None]
        state.command = torch.where(column, start.to(torch.float32), state.command)
        for name in ("rate", "action", "previous_action"):
            setattr(state, name, getattr(state, name).masked_fill(column, 0.0))
        state.step = state.step.masked_fill(mask, 0)
        self.sim.forward(mask)

    def _sum_reward(self, terms: dict[str, Tensor], diverged: Tensor) -> Tensor:
        total = torch.stack(tuple(terms.values())).sum(0).masked_fill(diverged, 0.0)
        if not math.isfinite(float(total.sum())):  # as in _check_finite
            bad = ~torch.isfinite(total)
            name = next(name for name, term in terms.items() if not torch.isfinite(term[~diverged]).all())
            self._refuse(f"reward {name!r}", bad)
        return total

    def _check_finite(self, what: str, values: Tensor, wanted: Tensor | None = None) -> None:
        # one reduction on the good path; the mask only for the message
        if not math.isfinite(float(values.sum())):
            bad = ~torch.isfinite(values).flatten(1).all(1)
            bad = bad if wanted is None else bad & wanted
            if bad.any():
                self._refuse(what, bad)

    def _refuse(self, what: str, bad: Tensor) -> None:
        step = int(self.state.step[bad][0])
        worlds = f"{int(bad.sum())} of {self.num_envs} worlds at step {step} of their episode"
        raise UserError(f"{what} is not finite in {worlds}{self._save_failure('nan', bad)}")

    def _count(self, done: Tensor, diverged: Tensor) -> None:
        self.episodes_ended += int(done.sum())
        self.sim.check()
        if not diverged.any():
            return
        self.episodes_diverged += int(diverged.sum())
        where = self._save_failure("diverged", diverged)
        allowed = max(DIVERGED_GRACE, MAX_DIVERGED_SHARE * self.episodes_ended)
        if self.episodes_diverged > allowed:
            counts = f"{self.episodes_diverged} of {self.episodes_ended} episodes"
            raise UserError(
                f"the simulation diverged in {counts} (at most {MAX_DIVERGED_SHARE:.1%} may){where}"
            )

    def _save_failure(self, kind: str, bad: Tensor) -> str:
        """Save what decides the step that failed: episode, bodies before it, action; and the state after."""
        if self.failures is None:
            return ""
        self.failures.mkdir(parents=True, exist_ok=True)
        path = self.failures / f"{kind}_{self.episodes_ended}.npz"
        state = self.state
        after = {f"sim_{name}": value[bad] for name, value in self.sim.snapshot().items()}
        before = {f"{name}_before": value[bad] for name, value in self._before.items()}
        rows = {name: getattr(state, name)[bad] for name in ("step", "action", "command")}
        rows = {"episode": state.episode_id[bad], **rows, **before, **after}
        arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in rows.items()}
        np.savez(path, seed=self.draws.seed, stream=self.draws.stream, **arrays)
        return f"; state saved to {path}"


def build(
    task: Task, *, sim: SimCfg, renderer: RendererCfg | None, corrupt: Corruption, setup: Setup
) -> NativeEnv:
    """Return the environments of a native task; raises UserError for groups and cameras that it lacks."""
    specs = task.camera_specs()
    check_groups(setup.groups, task.obs_specs(), specs)
    cameras = [specs[group] for group in setup.groups if group in specs]
    if cameras and renderer is None:
        raise UserError(f"camera {cameras[0].name!r} is asked for by a stage that renders nothing")
    worlds = sim.build(task.scene(), setup.num_envs, setup.device, setup.threads)
    eyes = None
    if cameras and renderer is not None:
        eyes = Eyes(
            worlds, renderer, cameras, corrupt, control_dt=task.control_dt, draws=setup.draws,
            threads=setup.threads,
        )  # fmt: skip
    return NativeEnv(task, worlds, eyes, setup)


def physics_steps(control_dt: float, physics_dt: float) -> int:
    """Return how many physics steps make a control step; UserError if that is no whole number."""
    count = round(control_dt / physics_dt)
    if count < 1 or abs(count * physics_dt - control_dt) > 1e-9:
        fitting = " and ".join(f"{control_dt / n:.6g}" for n in (max(count, 1), max(count, 1) + 1))
        raise UserError(
            f"control_dt {control_dt:g} s is not a multiple of sim.physics_dt {physics_dt:g} s; "
            f"{fitting} would fit"
        )
    return count
