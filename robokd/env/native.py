"""Our vectorised environment: a native task on a Sim, all environments in one batch.

Shapes: N environments, A action dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.env.base import Setup, State, Task, check_groups
from robokd.env.eyes import Eyes
from robokd.env.ledger import JUDGED_EVERY, Ledger
from robokd.env.parameters import Parameters
from robokd.sim.base import Sim, SimCfg
from robokd.specs import Limits, decode
from robokd.vision.base import RendererCfg
from robokd.vision.sensor import Corruption


class NativeEnv:
    """The VecEnv protocol (and rsl_rl's) for a native task.

    Environment i runs the episodes i, i + N, i + 2N ...; of several processes i and N count all of theirs.
    What happens in an episode follows from its number and the actions alone. Groups not asked for are not
    computed; without a camera group nothing is rendered. On a GPU a step waits for nothing: the ledger judges
    it later.
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
        self.frames_rendered = 0
        self.ledger = Ledger(sim, self.draws, 1 if torch.device(self.device).type == "cpu" else JUDGED_EVERY)
        self._limits = Limits.of(self.action_spec, lambda row: torch.tensor(row, device=self.device))
        self._parameters = Parameters(
            task.parameters(), self.draws, self.space, self.device, setup.curriculum
        )
        self.sampler = self._parameters.sampler
        self._observed = [name for name in self.groups if name in self.obs_specs]
        self.state = self._empty_state()
        self.state.reference_share = _reference_share(task, setup)
        # a step keeps to few kinds of operators: after the physics the first of a kind is ten times as slow
        self._zero = torch.zeros((), device=self.device)
        self._none = torch.zeros((), dtype=torch.int64, device=self.device)
        self.reset()

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since each episode began, (N,) int64; may be set (rsl_rl staggers episodes by it)."""
        return self.state.step

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self.state.step = value.to(torch.int64).clone()

    @property
    def failures(self) -> Path | None:
        """Folder where the state of a divergence or a NaN is saved; None: nowhere."""
        return self.ledger.failures

    @failures.setter
    def failures(self, value: Path | None) -> None:
        self.ledger.failures = value

    @property
    def episodes_ended(self) -> int:
        """Episodes that ended so far, diverged ones included; on a GPU this waits."""
        self.ledger.judge()
        return self.ledger.ended

    @property
    def episodes_diverged(self) -> int:
        """Episodes so far whose physics blew up; on a GPU this waits."""
        self.ledger.judge()
        return self.ledger.diverged

    def reset(self, episodes: Tensor | None = None) -> TensorDict:
        """Begin the episodes with these numbers (N,) int64 (default: the first ones)."""
        numbers = self._first + torch.arange(self.num_envs, device=self.device)
        if episodes is not None:
            numbers = episodes
        state, everywhere = self.state, torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        state.episode_id = numbers.to(self.device, torch.int64).clone()
        self._place = self.sampler.sample(state.episode_id)
        self._begin(everywhere, self._moment(state.action))
        self._observations = self.observe()
        return self._observations

    def get_observations(self) -> TensorDict:
        """Return the current observations."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """See VecEnv.step."""
        state, ledger = self.state, self.ledger
        action = actions.to(torch.float32).clip(-1, 1)
        moment = self._moment(action)
        ledger.begin(moment)
        ledger.check("action", actions)
        state.previous_action, state.action, state.step = state.action, action, moment["step"]
        state.command, state.rate = decode(action, state.command, state.rate, self._limits, torch)
        diverged = self._move()
        self.task.progress(state, self.substeps * self.sim.physics_dt)
        is_sound = ~diverged
        reward = torch.where(diverged, self._zero, self._sum_reward(is_sound))
        success = self.task.success(state) & is_sound
        over = (self.task.terminated(state) & is_sound) | diverged
        done = over | (state.step >= self.max_episode_length)
        time_outs = done & ~over
        extras = {"time_outs": time_outs, "success": success, "episode_id": state.episode_id, "log": {}}
        found = ledger.end(done, success, diverged)
        if found and found.ended:
            extras["log"] = {"success": found.succeeded / found.ended}
        if not found or found.ended:  # what is not known yet may have happened
            if self._has_ends and (ledger.every > 1 or time_outs.any()):
                extras["terminal"] = TensorDict(self._numbers(time_outs), batch_size=[self.num_envs])
            self.sampler.update(state.episode_id, self._place, success, done)
            state.episode_id = torch.add(state.episode_id, done, alpha=self._stride)
            self._place = torch.where(done[:, None], self.sampler.sample(state.episode_id), self._place)
            self._begin(done, moment)
        self._observations = self.observe()
        return self._observations, reward, done.long(), extras

    def _moment(self, action: Tensor) -> dict[str, Tensor]:
        """Return what decides the next step, (N, ...): kept for who must look into it.

        The engine resets a world that diverges, so the bodies' state is copied before.
        """
        state = self.state
        bodies = {f"{name}_before": self.sim.get(name).clone() for name in ("qpos", "qvel")}
        return {
            "episode": state.episode_id, "step": state.step + 1, "action": action, "command": state.command,
            "rate": state.rate, **bodies,
        }  # fmt: skip

    def _move(self) -> Tensor:
        """Step the worlds under the command, return (N,) bool: which diverged."""
        state, calls = self.state, self.substeps if getattr(self.task, "closes_loop", False) else 1
        told = []
        for _ in range(calls):
            self.sim.step(self.task.control(state.command, state), self.substeps // calls)
            told.append(self.sim.diverged())
        return told[0] if calls == 1 else torch.stack(told).any(0)

    def observe(self) -> TensorDict:
        """Compute the groups asked for, as fresh tensors."""
        groups = self._numbers()
        if self.eyes is not None:
            groups |= self.eyes.look(self.state.episode_id, self.state.step)
            self.frames_rendered += self.num_envs * len(self.eyes.cameras)
        return TensorDict(groups, batch_size=[self.num_envs])

    def _numbers(self, wanted: Tensor | None = None) -> dict[str, Tensor]:
        """Return the 1-D groups asked for, as fresh tensors; finite all, or where `wanted` (N,) is."""
        groups = {name: self.task.observe(name, self.state) for name in self._observed}
        for name, values in groups.items():
            self.ledger.check(f"observation {name!r}", values, wanted)
        return groups

    def snapshot(self) -> dict[str, Any]:
        """See VecEnv.snapshot."""
        state = self.state
        names = ("episode_id", "step", "action", "previous_action", "command", "rate")
        return {
            "sim": self.sim.snapshot(),
            "episode": {name: value.clone() for name, value in state.episode.items()},
            **{name: getattr(state, name).clone() for name in names},
            "place": self._place.clone(),
            "curriculum": self.sampler.state_dict(),
            "eyes": self.eyes.snapshot() if self.eyes else {},
            "counts": [self.frames_rendered, self.episodes_ended, self.episodes_diverged],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """See VecEnv.restore."""
        self.ledger.judge()  # what was before
        self._place = snapshot["place"].to(self.device, copy=True)
        self.sampler.load_state_dict(snapshot["curriculum"])
        self.sim.restore(snapshot["sim"])
        for name, value in snapshot["episode"].items():
            self.state.episode[name] = value.to(self.device, copy=True)
        for name in ("episode_id", "step", "action", "previous_action", "command", "rate"):
            setattr(self.state, name, snapshot[name].to(self.device, copy=True))
        if self.eyes is not None:
            self.eyes.restore(snapshot["eyes"])
        self.ledger.begin(self._moment(self.state.action))
        self._observations = self.observe()
        self.frames_rendered, self.ledger.ended, self.ledger.diverged = snapshot["counts"]

    def close(self) -> None:
        """Judge the last steps and free the worlds."""
        try:
            self.ledger.judge()
        finally:
            self.sim.close()

    def _empty_state(self) -> State:
        rows = {name: torch.zeros(self.num_envs, self.num_actions, device=self.device) for name in "abcd"}
        count = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return State(
            sim=self.sim, episode={}, draws=self.draws,
            episode_id=count, step=count.clone(), action=rows["a"], previous_action=rows["b"],
            command=rows["c"], rate=rows["d"], is_seen=self.eyes is not None,
        )  # fmt: skip

    def _begin(self, mask: Tensor, moment: dict[str, Tensor]) -> None:
        state = self.state
        self.sim.reset(mask)
        if self.eyes is not None:
            self.eyes.begin(mask, state.episode_id)
        values = self._parameters.named(self._parameters.at(self._place, state.episode_id))
        start = self.task.reset(values, state, mask)
        column = mask[:, None]
        state.command = torch.where(column, start.to(torch.float32), state.command)
        for name in ("rate", "action", "previous_action"):
            setattr(state, name, torch.where(column, self._zero, getattr(state, name)))
        state.step = torch.where(mask, self._none, state.step)
        self.sim.forward(mask)
        self.ledger.begin({**moment, "episode": state.episode_id, "step": state.step})

    def _sum_reward(self, is_sound: Tensor) -> Tensor:
        """Return the reward (N,), which must be finite where is_sound."""
        terms = self.task.reward(self.state)
        rows = torch.stack(tuple(terms.values()))
        self.ledger.check("reward", rows.T, is_sound, tuple(terms))
        return rows.sum(0)


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


def _reference_share(task: Task, setup: Setup) -> float:
    """Return how many of the episodes begin in reference states; UserError for a task that has none."""
    share = setup.curriculum.reference_share if setup.curriculum else 0.0
    if share > 0 and not getattr(task, "has_reference_states", False):
        raise UserError(
            f"curriculum.reference_share={share:g}: this task has no reference states to begin in"
        )
    return share


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
