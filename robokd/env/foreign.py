"""Worlds that are not ours as a VecEnv: who else simulates says what a step did, the rest is done here.

A file of `tasks` that knows another suite gives it the shape of Worlds, and ForeignEnv is to the stages what
NativeEnv is: numbered episodes, extras, counts, checks. What such worlds cannot do is refused by name:
nothing is held out of them, no simulator of ours steps them, and a policy of theirs cannot be exported.
Shapes: N environments, A action dimensions, D numbers of a group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.curricula.uniform import UniformCfg
from robokd.env.base import Range, Setup, State, check_groups
from robokd.sim.base import Sim
from robokd.specs import ActionSpec, CameraSpec, ObsSpec
from robokd.vision.sensor import Corruption

SEEDS = 2**31  # seeds are below it
DEFAULTS = {"sim": "mujoco", "renderer": "raster"}  # that configs/*.yaml name where nobody chooses


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one control step of N worlds did, before any of them begins afresh."""

    reward: Tensor  # (N,) float32
    terminated: Tensor  # (N,) bool
    truncated: Tensor  # (N,) bool: out of time
    success: Tensor  # (N,) bool
    # 1-D groups (N, D) at the end of the step, of worlds that begin afresh by themselves within it
    final: dict[str, Tensor] | None = None


class Worlds(Protocol):
    """A batch of another suite's worlds."""

    num_envs: int
    device: str
    control_dt: float  # s
    max_episode_length: int  # control steps
    begins_itself: bool  # a world whose episode ended has begun the next one when `step` returns
    action_spec: ActionSpec  # of mode "native", or of another one by JointWorlds
    obs_specs: dict[str, ObsSpec]
    camera_specs: dict[str, CameraSpec]

    def begin(self, mask: Tensor, seeds: Tensor) -> None:
        """Begin an episode in the worlds of mask (N,) bool, each from its seed, (N,) int64 below SEEDS.

        A seed is a pure function of (seed, stream, episode). Worlds that begin by themselves are told to at
        a reset only, and then all of them.
        """
        ...

    def step(self, actions: Tensor) -> Outcome:
        """Apply actions (N, A) in [-1, 1]."""
        ...

    def observe(self, groups: Sequence[str]) -> dict[str, Tensor]:
        """Return fresh tensors: (N, D) float32, or (N, C, H, W) in the CameraSpec's encoding."""
        ...

    def close(self) -> None:
        """Free the worlds."""
        ...


class JointWorlds(Worlds, Protocol):
    """Worlds whose actions are joint targets, by an ActionSpec of ours, which a robot could be sent."""

    def targets(self) -> tuple[Tensor, Tensor]:
        """Return the joint targets last sent, rad, and their rates, rad/s, (N, A)."""
        ...

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the lowest and highest joint positions (A,) in rad that an episode may start from."""
        ...

    def gains(self) -> dict[str, list[float] | None]:
        """Return kp, kd and torque of each joint (A,), or None where they are not known."""
        ...


class RobotWorlds(JointWorlds, Protocol):
    """Worlds that can stand for robots: driven by joint targets at their own rate of physics."""

    physics_dt: float  # s, of which a control step has a whole number

    def drive(self, targets: Tensor) -> None:
        """Take one step of physics towards joint targets (N, A), rad."""
        ...

    def judge(self) -> tuple[Tensor, Tensor]:
        """End a control step; return whether each episode succeeded and whether it is over, (N,) bool.

        None begins afresh by itself.
        """
        ...

    def joints(self) -> tuple[Tensor, Tensor]:
        """Return the true positions, rad, and speeds, rad/s, of the joints (N, A)."""
        ...


class ForeignTask:
    """What the stages ask of a task, as far as worlds that are not ours can tell."""

    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds
        self.control_dt = worlds.control_dt
        self.horizon_s = worlds.max_episode_length * worlds.control_dt

    def action_spec(self) -> ActionSpec:
        """Return what actions there are; their worlds decode them."""
        return self._worlds.action_spec

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return every 1-D group the worlds can emit."""
        return self._worlds.obs_specs

    def camera_specs(self) -> dict[str, CameraSpec]:
        """Return every camera of the worlds."""
        return self._worlds.camera_specs

    def parameters(self) -> dict[str, Range]:
        """Return nothing: the worlds draw what they vary by themselves."""
        return {}

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See Task; UserError of worlds whose actions are no joint targets: who asks wants to export."""
        if self._worlds.action_spec.is_decoded:
            return cast("JointWorlds", self._worlds).start_envelope()
        raise UserError(
            "a policy of an environment that is not ours cannot be exported: no joint targets are known that "
            "a robot could be sent. Wanted a native task, e.g. task=reach, or task=isaaclab with "
            "task.action=joint_delta"
        )


class ForeignEnv:
    """The VecEnv protocol (and rsl_rl's) over worlds that are not ours.

    Environment i runs the episodes i, i + N, i + 2N ...; of several processes i and N count all of theirs.
    What happens in an episode follows from its number and the actions alone, where the worlds begin from the
    seeds that they are given; those that begin by themselves are given one at a reset only.
    """

    substeps = 1

    def __init__(self, worlds: Worlds, setup: Setup) -> None:
        check_groups(setup.groups, worlds.obs_specs, worlds.camera_specs)
        if setup.space != "seen":
            raise UserError(f"nothing is held out of an environment that is not ours: got {setup.space!r}")
        if setup.curriculum not in (None, UniformCfg()):
            raise UserError(
                "an environment that is not ours picks its own episodes: curriculum must be plain uniform"
            )
        self.sampler = None
        self.worlds, self.task = worlds, ForeignTask(worlds)
        self.draws, self.space, self.groups = setup.draws, setup.space, tuple(setup.groups)
        self._first, self._stride, self._has_ends = setup.first, setup.total or setup.num_envs, setup.ends
        self.action_spec, self.obs_specs = worlds.action_spec, worlds.obs_specs
        self.camera_specs = worlds.camera_specs
        self.num_envs, self.num_actions, self.device = (
            worlds.num_envs, self.action_spec.size, worlds.device
        )  # fmt: skip
        self.max_episode_length = worlds.max_episode_length
        self.cfg: dict[str, Any] = {"task": type(worlds).__name__, "num_envs": worlds.num_envs}
        self.failures: Path | None = None  # nothing is saved there: these worlds cannot be
        self.frames_rendered = self.episodes_ended = self.episodes_diverged = 0
        self._numbers = [name for name in self.groups if name in self.obs_specs]
        self._cameras = [name for name in self.groups if name in self.camera_specs]
        self.state = self._empty_state()
        self.reset()

    @property
    def sim(self) -> NoReturn:
        """Refuse: whoever reads it wants to look into a simulator of ours."""
        raise UserError("no simulator of ours runs this environment. Wanted a native task, e.g. task=reach")

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since each episode began, (N,) int64; may be set (rsl_rl staggers episodes by it).

        Worlds that begin by themselves also end by their own count, so that of them nothing is taken.
        """
        return self.state.step

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        if not self.worlds.begins_itself:
            self.state.step = value.to(self.device, torch.int64).clone()

    def reset(self, episodes: Tensor | None = None) -> TensorDict:
        """Begin the episodes with these numbers (N,) int64 (default: the first ones)."""
        numbers = self._first + torch.arange(self.num_envs, device=self.device)
        if episodes is not None:
            numbers = episodes
        self.state.episode_id = numbers.to(self.device, torch.int64).clone()
        everywhere = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self.worlds.begin(everywhere, self._seeds())
        self._forget(everywhere)
        self._note_targets()
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
        state.action = actions.to(self.device, torch.float32).clip(-1, 1)
        state.step = state.step + 1
        outcome = self.worlds.step(state.action)
        self._check_finite("reward", outcome.reward)
        is_late = outcome.truncated
        if not self.worlds.begins_itself:
            is_late = is_late | (state.step >= self.max_episode_length)
        time_outs = is_late & ~outcome.terminated
        done = outcome.terminated | time_outs
        extras = {
            "time_outs": time_outs, "success": outcome.success, "episode_id": state.episode_id, "log": {}
        }  # fmt: skip
        if done.any():
            if self._has_ends and (final := self._final(outcome)) is not None:
                extras["terminal"] = final
            self.episodes_ended += int(done.sum())
            extras["log"] = {"success": outcome.success[done].float().mean()}
            state.episode_id = torch.where(done, state.episode_id + self._stride, state.episode_id)
            if not self.worlds.begins_itself:
                self.worlds.begin(done, self._seeds())
            self._forget(done)
        self._note_targets()
        self._observations = self.observe()
        return self._observations, outcome.reward, done.long(), extras

    def observe(self) -> TensorDict:
        """Return the groups asked for, as fresh tensors."""
        groups = self.worlds.observe(self.groups)
        self.frames_rendered += self.num_envs * len(self._cameras)
        for name in self._numbers:
            self._check_finite(f"observation {name!r}", groups[name])
        return TensorDict(groups, batch_size=[self.num_envs])

    def snapshot(self) -> dict[str, Any]:
        """See VecEnv.snapshot: which episodes are under way and how many there were, not how far they are."""
        counts = [self.frames_rendered, self.episodes_ended, self.episodes_diverged]
        return {"episode_id": self.state.episode_id.clone(), "counts": counts}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Return to a snapshot, whose episodes begin afresh: worlds that are not ours cannot be saved.

        What follows is a function of the snapshot, but not what would have followed it.
        """
        self.reset(snapshot["episode_id"])
        self.frames_rendered, self.episodes_ended, self.episodes_diverged = snapshot["counts"]

    def close(self) -> None:
        """Free the worlds."""
        self.worlds.close()

    def _empty_state(self) -> State:
        rows = {name: torch.zeros(self.num_envs, self.num_actions, device=self.device) for name in "abcd"}
        count = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return State(
            sim=cast("Sim", None),  # there is none to read
            episode={}, draws=self.draws, episode_id=count,
            step=count.clone(), action=rows["a"], previous_action=rows["b"], command=rows["c"],
            rate=rows["d"],
        )  # fmt: skip

    def _forget(self, mask: Tensor) -> None:
        """Count the steps of mask's worlds from zero, where no action was before."""
        state = self.state
        for name in ("action", "previous_action"):
            setattr(state, name, getattr(state, name).masked_fill(mask[:, None], 0.0))
        state.step = state.step.masked_fill(mask, 0)

    def _note_targets(self) -> None:
        if self.action_spec.is_decoded:
            self.state.command, self.state.rate = cast("JointWorlds", self.worlds).targets()

    def _seeds(self) -> Tensor:
        return self.draws.integer("foreign_seed", self.state.episode_id, 0, 1, SEEDS)[:, 0]

    def _final(self, outcome: Outcome) -> TensorDict | None:
        """Return the 1-D groups asked for as the step left them; None where the worlds no longer know."""
        if not self.worlds.begins_itself:
            final = self.worlds.observe(self._numbers)
        elif outcome.final is not None:
            final = {name: outcome.final[name] for name in self._numbers}
        else:
            return None
        return TensorDict(final, batch_size=[self.num_envs])

    def _check_finite(self, what: str, values: Tensor) -> None:
        # one reduction on the good path; the mask only for the message
        if math.isfinite(float(values.sum())):
            return
        bad = ~torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else ~torch.isfinite(values)
        if bad.any():
            first = bad.nonzero()[0, 0]
            step, episode = int(self.state.step[first]), int(self.state.episode_id[first])
            moment = f"step {step} of episode {episode} (seed {int(self._seeds()[first])})"
            worlds = f"{int(bad.sum())} of {self.num_envs} worlds"
            raise UserError(f"{what} is not finite in {worlds}, first at {moment}")


def check_parts(sim: Any, renderer: Any, corrupt: Corruption) -> None:  # noqa: ANN401  (any registered parts)
    """Raise UserError for a part that somebody chose and that worlds which are not ours have no use for."""
    for kind, part in (("sim", sim), ("renderer", renderer)):
        if part is not None and (part.name != DEFAULTS[kind] or part != type(part)()):
            raise UserError(
                f"this task brings a {kind} of its own: leave {kind}={part.name} and its keys out"
            )
    if not corrupt.is_clean:
        raise UserError(
            "corrupt= spoils pictures that we render, and this task brings its own: leave it clean"
        )
