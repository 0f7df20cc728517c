"""A world of torch alone, on any device: points that drift, seen by a spoiled depth camera.

It needs no simulator and no renderer, so that what learns from it can be tried on a device that is none.
Shapes: N environments.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.config import compose
from robokd.draws import Draws
from robokd.env.base import State
from robokd.env.eyes import Eyes
from robokd.learn.dagger import Dagger
from robokd.learn.instructor import cast
from robokd.specs import ActionSpec, CameraSpec, ObsSpec, Term
from robokd.vision.sensor import preset

SIDE, HORIZON, STEP_M = 24, 7, 0.1
CAMERA = CameraSpec(name="front", height=SIDE, width=SIDE, near_m=0.2, far_m=2.0)
GROUPS = {
    name: ObsSpec(group=name, role=name, terms=(Term(name=term, elements=("x", "y"), unit="m"),))
    for name, term in (("proprio", "place"), ("privileged", "goal"))
}


class DriftSim:
    """As much of a Sim as eyes need: where a camera stands, and where the point is."""

    def __init__(self, count: int, device: str) -> None:
        self.num_envs, self.device = count, device
        self.model = SimpleNamespace(geom_bodyid=np.array([0, 1]), camera=lambda name: SimpleNamespace(id=0))
        self.fields = {
            "place": torch.zeros(count, 2, device=device), "cam_pos": torch.zeros(count, 1, 3, device=device),
            "cam_quat": torch.tensor([1.0, 0, 0, 0], device=device).repeat(count, 1, 1),
            "cam_fovy": torch.full((count, 1), 45.0, device=device),
        }  # fmt: skip

    def get(self, field: str) -> Tensor:
        """See Sim."""
        return self.fields[field]

    def set(self, field: str, value: Tensor, mask: Tensor) -> None:
        """See Sim."""
        before = self.fields[field]
        chosen = mask.view(-1, *[1] * (before.ndim - 1))
        self.fields[field] = torch.where(chosen, value.to(before.dtype), before)


class Bump:
    """The Renderer protocol and its config's: the point stands out of a wall."""

    def build(self, sim: DriftSim, cameras: object, threads: int) -> Bump:
        """See RendererCfg."""
        self.device = sim.device
        return self

    def render(self, sim: DriftSim, cameras: object, out: dict[str, Tensor]) -> None:
        """See Renderer."""
        along = torch.linspace(-1, 1, SIDE, device=sim.device)
        x, y = (sim.get("place") + sim.get("cam_pos")[:, 0, :2])[:, :, None, None].unbind(1)
        square = (along - x).square() + (along[:, None] - y).square()
        for image in out.values():
            image.copy_((1.5 - torch.exp(-8 * square))[:, None])


class Drift:
    """The VecEnv protocol: a point is to go to a place that only the simulator knows."""

    def __init__(self, count: int, device: str, seed: int = 0) -> None:
        self.num_envs, self.num_actions, self.device = count, 2, device
        self.max_episode_length, self.cfg, self.failures = HORIZON, {}, None
        self.action_spec = ActionSpec(names=("x", "y"), control_dt=0.04, mode="native", anchor="none")
        self.obs_specs, self.camera_specs = GROUPS, {"front": CAMERA}
        self.draws, self.sim = Draws(seed, "train"), DriftSim(count, device)
        self.frames_rendered = self.episodes_ended = self.episodes_diverged = 0
        self.eyes = Eyes(
            self.sim, Bump(), [CAMERA], preset("realsense_d435"), control_dt=0.04, draws=self.draws, threads=1
        )
        number, rows = torch.arange(count, device=device), torch.zeros(count, 2, device=device)
        self.state = State(
            sim=self.sim, episode=TensorDict({"goal": rows}, batch_size=[count]), draws=self.draws,
            episode_id=number, step=torch.zeros_like(number), action=rows, previous_action=rows, command=rows,
            rate=rows,
        )  # fmt: skip
        self.reset()

    def reset(self, episodes: Tensor | None = None) -> TensorDict:
        """See VecEnv."""
        number = torch.arange(self.num_envs, device=self.device) if episodes is None else episodes
        self.state.episode_id, self.state.step = number, torch.zeros_like(number)
        self._begin(torch.ones_like(number, dtype=torch.bool))
        self._observations = self._observe()
        return self._observations

    def get_observations(self) -> TensorDict:
        """See VecEnv."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict]:
        """See VecEnv; nothing here asks what happened."""
        state = self.state
        state.step = state.step + 1
        place = self.sim.get("place") + STEP_M * actions.clip(-1, 1)
        self.sim.set("place", place, torch.ones_like(state.step, dtype=torch.bool))
        distance = (place - state.episode["goal"]).norm(dim=1)
        success = distance < STEP_M
        time_outs = (state.step >= HORIZON) & ~success
        done = success | time_outs
        extras = {"time_outs": time_outs, "success": success, "episode_id": state.episode_id, "log": {}}
        extras["terminal"] = self._numbers()
        state.episode_id = torch.where(done, state.episode_id + self.num_envs, state.episode_id)
        state.step = state.step.masked_fill(done, 0)
        self._begin(done)
        self._observations = self._observe()
        return self._observations, -distance, done.long(), extras

    def _begin(self, mask: Tensor) -> None:
        self.eyes.begin(mask, self.state.episode_id)
        drawn = 2 * self.draws.uniform("places", self.state.episode_id, 0, 4).float() - 1
        self.sim.set("place", drawn[:, :2], mask)
        goal = torch.where(mask[:, None], drawn[:, 2:], self.state.episode["goal"])
        self.state.episode["goal"] = goal

    def _observe(self) -> TensorDict:
        seen = self.eyes.look(self.state.episode_id, self.state.step)
        return TensorDict({**dict(self._numbers().items()), **seen}, batch_size=[self.num_envs])

    def _numbers(self) -> TensorDict:
        groups = {"proprio": self.sim.get("place").clone(), "privileged": self.state.episode["goal"].clone()}
        return TensorDict(groups, batch_size=[self.num_envs])


def drifting(device: str, *words: str, count: int = 8) -> Dagger:
    """Return the stage's engine on this world, as `distill` makes it; its data set is not open yet."""
    config = compose("distill", [
        "task=reach", "teacher=random", f"num_envs={count}", "cameras=[front]", "dagger.store=device",
        "dagger.steps_per_round=8", "dagger.gradient_steps=3", "dagger.batch_size=16", "dagger.rounds=4",
        "student.channels=[4,4]", "student.keypoints=4", "student.hidden=[16,16]", "rl.critic_hidden=[8]",
        "rl.epochs=2", "rl.mini_batches=2", "threads=1", *words,
    ])  # fmt: skip
    env = Drift(count, device)
    torch.manual_seed(0)
    student, teacher = cast(config, env)
    config.device = device
    return Dagger(config, env, student, teacher)
