"""Imitation: the first iterations of a PPO teacher copy the task's script, where the teacher goes itself.

    min mean_k (mu(o_k) - a*(o_k))^2,  a*: the script's actions on states of the mixture

As in DAgger the labels are of states that script and actor reach: in iteration i of I the script drives
the first 1 - i/I of the worlds, the noisy actor the others. The critic learns as it always does, so that PPO
goes on with both. Source: Ross et al. (2011); as a begin of reinforcement learning Rajeswaran et al. (2018).
Shapes: T steps, N environments, A action dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd.learn import ranks

if TYPE_CHECKING:
    from rsl_rl.algorithms import PPO

    from robokd.teachers.scripted import ScriptedTeacher

LEARNING_RATE = 1e-3


class Imitation:
    """What an actor copies, and the state of its optimiser, which is not PPO's."""

    def __init__(self, script: ScriptedTeacher, actor: torch.nn.Module, iterations: int) -> None:
        self._script, self._actor, self._iterations = script, actor, iterations
        self._optimizer = torch.optim.Adam(actor.parameters(), lr=LEARNING_RATE)
        self._labels: list[Tensor] = []

    def drive(self, obs: TensorDict, actions: Tensor, iteration: int) -> Tensor:
        """Return the actions (N, A) that are sent, and keep the script's."""
        label = self._script.act(obs)
        self._labels.append(label)
        world = torch.arange(len(label), device=label.device) + len(label) * ranks.rank()
        is_taken = world < len(label) * ranks.world() * (1 - iteration / self._iterations)
        return torch.where(is_taken[:, None], label, actions)

    def learn(self, algorithm: PPO) -> dict[str, float]:
        """Fit the actor's mean to the labels of the last rollout, the one in the algorithm's storage."""
        rows = algorithm.storage.observations.flatten(0, 1)
        labels, worlds = torch.cat(self._labels), len(self._labels[0])
        self._labels, loss = [], labels.new_zeros(())
        for _ in range(algorithm.num_learning_epochs):
            # drawn as one process would, of all rows; each takes those of its own worlds
            order = torch.randperm(len(labels) * ranks.world(), device=labels.device)
            for batch in order.chunk(algorithm.num_mini_batches):
                own = _own(batch, worlds)
                error = (self._actor(rows[own]) - labels[own]).square().mean(1)
                loss = error.sum() / len(batch)
                self._optimizer.zero_grad()
                loss.backward()
                ranks.sum_gradients(self._actor.parameters())
                self._optimizer.step()
        return {"imitation": loss.item() * ranks.world()}

    def state(self) -> dict[str, Any]:
        """Return what decides how it goes on."""
        return {"imitation": self._optimizer.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Return to a state."""
        self._optimizer.load_state_dict(saved["imitation"])


def _own(batch: Tensor, worlds: int) -> Tensor:
    """Return which of this process's rows, of `worlds` worlds a step, are among rows of all processes."""
    step, world = batch // (worlds * ranks.world()), batch % (worlds * ranks.world())
    is_own = world // worlds == ranks.rank()
    return (step * worlds + world % worlds)[is_own]
