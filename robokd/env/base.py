"""The protocols of environments and tasks, and the space that an episode's parameters are drawn from.

Shapes: N environments, A action dimensions, D numbers of one parameter.
A task config's `build(sim, renderer, corrupt, setup)` returns a TaskEnv: configs of a simulator, of a
renderer (None for who needs no pictures) and of what spoils them, and a Setup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.draws import Draws
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, differences, to_dict

if TYPE_CHECKING:
    from pathlib import Path

    import mujoco

    from robokd.curricula.base import CurriculumCfg, TaskSampler
    from robokd.sim.base import Sim

SPACES = ("seen", "unseen", "unseen_all")
HELD_OUT = 0.1  # share of each parameter's range, at either end, that training never sees


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How many environments of a task, what they emit, and whose episodes they run."""

    num_envs: int
    groups: Sequence[str]  # 1-D groups and cameras that are emitted, and no others
    draws: Draws
    space: str = "seen"  # one of SPACES
    device: str = "cpu"
    threads: int = 1
    first: int = 0  # number of the first environment's first episode, where other processes run some too
    total: int = 0  # environments of all processes; 0 = these are all
    ends: bool = True  # whether `terminal` is wanted of episodes that run out of time, see VecEnv.step
    curriculum: CurriculumCfg | None = None  # who picks the episodes of training; None = all are alike

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"no parameter space named {self.space!r}. Known: {', '.join(SPACES)}")


class VecEnv(Protocol):
    """A vectorised environment; conforms to `rsl_rl.env.VecEnv` (5.x)."""

    num_envs: int
    num_actions: int
    max_episode_length: int
    device: str
    cfg: Any
    action_spec: ActionSpec
    obs_specs: dict[str, ObsSpec]
    camera_specs: dict[str, CameraSpec]
    draws: Draws
    state: State

    @property
    def sampler(self) -> TaskSampler | None:
        """Who picks the episodes; None: the environment does so itself."""
        ...

    @property
    def episode_length_buf(self) -> Tensor:
        """Control steps since each episode began, (N,) int64; may be set (rsl_rl staggers by it)."""
        ...

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None: ...

    @property
    def frames_rendered(self) -> int:
        """Pictures taken so far."""
        ...

    @property
    def episodes_ended(self) -> int:
        """Episodes that ended so far, diverged ones included."""
        ...

    @property
    def episodes_diverged(self) -> int:
        """Episodes so far whose physics blew up."""
        ...

    def reset(self, episodes: Tensor | None = None) -> TensorDict:
        """Begin the episodes numbered (N,) int64 (default: 0..N-1), return observations."""
        ...

    def get_observations(self) -> TensorDict:
        """Return the current observations: the groups asked for, fresh tensors."""
        ...

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Apply actions (N, A); finished environments begin their next episode.

        Returns (observations, reward (N,), done (N,) int64, extras). extras: `time_outs` (N,) bool, truncated
        by the horizon; `success` (N,) bool of the step that ended or not; `episode_id` (N,) number of the
        episode that the step belongs to; `log` scalars; `terminal`, where an episode ran out of time and
        Setup.ends, the 1-D groups of all environments before the next episodes begin. On a GPU `terminal` is
        there in every step: nobody waits to learn whether an episode ran out of time.
        """
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return everything that decides what follows, as tensors."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Return to a snapshot."""
        ...


class TaskEnv(VecEnv, Protocol):
    """A VecEnv as a task's config builds it."""

    task: Task
    sim: Sim
    groups: tuple[str, ...]  # that are emitted
    substeps: int  # physics steps in a control step

    @property
    def failures(self) -> Path | None:
        """Folder where the state of a divergence or a NaN is saved; None: nowhere."""
        ...

    @failures.setter
    def failures(self, value: Path | None) -> None: ...

    def close(self) -> None:
        """Free the worlds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where one episode parameter is drawn from: uniform between low and high, each of D numbers."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: str
    easy: float = 0.5  # where in the range episodes are easiest, 0 to 1: a curriculum begins there

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or any(a > b for a, b in zip(self.low, self.high, strict=False)):
            raise ValueError(f"range needs low <= high of one length, got {self.low} and {self.high}")
        if not 0 <= self.easy <= 1:
            raise ValueError(f"easy must be in [0, 1], got {self.easy}")


@dataclass
class State:
    """What a task's pure functions read: the simulation and the episodes, live."""

    sim: Sim
    # (N, ...) each, the task's own: goal, timers ...; "rejected" (N,) counts spawns that were put elsewhere
    episode: dict[str, Tensor]
    draws: Draws
    episode_id: Tensor  # (N,) int64
    step: Tensor  # (N,) int64 control steps since the episode began
    action: Tensor  # (N, A) clipped policy action of the last step
    previous_action: Tensor  # (N, A) the one before
    command: Tensor  # (N, A) last commands sent, in the ActionSpec's units: joint targets in rad, or others
    rate: Tensor  # (N, A) their rate, 1/s
    is_seen: bool = False  # whether there are cameras whose pictures somebody looks at
    reference_share: float = 0.0  # of episodes that begin in the task's reference states; training's only


class Task(Protocol):
    """A native task: declarations and pure batched functions; `NativeEnv` does the rest.

    Two words that a task may say besides: `closes_loop = True`, that `control` is to be asked before every
    physics step, and `has_reference_states = True`, that `reset` heeds State.reference_share. The config of a
    task that observes a `clock` says `clock_s`: what is shown is sine and cosine of 2 pi t / clock_s, t since
    the episode's begin, s.
    """

    control_dt: float  # s, a multiple of the sim's physics_dt
    horizon_s: float

    def scene(self) -> mujoco.MjSpec:
        """Return the MjSpec of one world, cameras included."""
        ...

    def action_spec(self) -> ActionSpec:
        """Return how actions become commands."""
        ...

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return every 1-D group the task can emit."""
        ...

    def camera_specs(self) -> dict[str, CameraSpec]:
        """Return every camera of the scene."""
        ...

    def parameters(self) -> dict[str, Range]:
        """Return the space that randomisation draws from."""
        ...

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the lowest and highest commands (A,) that an episode may start from."""
        ...

    def reset(self, values: dict[str, Tensor], state: State, mask: Tensor) -> Tensor:
        """Write the worlds and episode entries of mask from parameter values {name: (N, D)}.

        Outside of mask the values are those of the episodes that go on there. Returns the commands
        (N, A) that hold the start.
        """
        ...

    def control(self, command: Tensor, state: State) -> Tensor:
        """Return actuator controls (N, nu) for commands (N, A)."""
        ...

    def progress(self, state: State, dt: float) -> None:
        """Advance the episode's timers by dt seconds."""
        ...

    def observe(self, group: str, state: State) -> Tensor:
        """Return a 1-D group (N, D), float32, a fresh tensor."""
        ...

    def reward(self, state: State) -> dict[str, Tensor]:
        """Return the named reward terms (N,), weighted; their sum is the reward."""
        ...

    def success(self, state: State) -> Tensor:
        """Return (N,) bool: the goal is reached."""
        ...

    def terminated(self, state: State) -> Tensor:
        """Return (N,) bool: the episode is over, and not for want of time."""
        ...


def check_groups(
    groups: Sequence[str], obs_specs: dict[str, ObsSpec], cameras: dict[str, CameraSpec]
) -> None:
    """Raise UserError naming the first group that the task does not have, or whose name it has twice."""
    known = [*obs_specs, *cameras]
    for name, camera in cameras.items():
        if camera.name != name:
            raise UserError(f"the task has a camera {name!r} whose CameraSpec is named {camera.name!r}")
        if name in obs_specs:
            raise UserError(f"the task has both a camera and an observation group named {name!r}")
    for group in groups:
        if group not in known:
            raise UserError(f"no observation group or camera named {group!r}. Known: {', '.join(known)}")


def contract(env: VecEnv, groups: Sequence[str]) -> dict[str, Any]:
    """Return what a policy that reads `groups` of env relies on, as JSON-ready data."""
    return {
        "action": to_dict(env.action_spec),
        "observations": {name: to_dict(env.obs_specs[name]) for name in groups if name in env.obs_specs},
        "cameras": {name: to_dict(env.camera_specs[name]) for name in groups if name in env.camera_specs},
    }


def check_contract(saved: dict[str, Any], env: VecEnv, owner: str) -> None:
    """Raise UserError naming the fields in which env differs from what `owner` was made for."""
    groups = [*saved["observations"], *saved["cameras"]]
    known = {**env.obs_specs, **env.camera_specs}
    present = contract(env, [group for group in groups if group in known])
    if rows := differences(saved, present):
        shown = "; ".join(rows[:3]) + (f"; and {len(rows) - 3} more" if len(rows) > 3 else "")
        raise UserError(f"{owner} does not fit this task: {shown}")
