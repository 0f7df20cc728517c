"""rsl_rl's PPO by several processes, each of which has its share of the environments.

rsl_rl averages gradients and the divergence that the learning rate follows, and its normalisers count the
rows of all. What it leaves to each process is here taken from all of them: the noise of the actions is this
one's rows of what one process would draw, and advantages are normalised over the rows of all. Departure from
one process: every mini-batch has as many rows of each; with one mini-batch only sums are rounded otherwise.
Shapes: N environments of this process, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.modules.distribution import GaussianDistribution
from rsl_rl.storage import RolloutStorage
from torch import Tensor

from robokd.learn import ranks


def share(algorithm: PPO) -> PPO:
    """Return a fresh algorithm as one of several processes'; for one alone, as it is."""
    if ranks.world() == 1:
        return algorithm
    algorithm.is_multi_gpu = True
    algorithm.gpu_global_rank, algorithm.gpu_world_size = ranks.rank(), ranks.world()
    noise, storage = algorithm.actor.distribution, algorithm.storage
    assert isinstance(noise, GaussianDistribution), "the actor's noise is a Gaussian of one spread"
    shared = SharedGaussian(noise.output_dim, std_type=noise.std_type)
    for name, value in noise.named_parameters():
        setattr(shared, name, value)  # itself: the optimiser has it
    algorithm.actor.distribution = shared
    algorithm.storage = SharedStorage(
        "rl", storage.num_envs, storage.num_transitions_per_env, storage.observations[0],
        storage.actions_shape, storage.device,
    )  # fmt: skip
    return algorithm


class SharedGaussian(GaussianDistribution):
    """rsl_rl's, which draws what one process would, for all environments, and keeps this one's rows."""

    def sample(self) -> Tensor:
        """Return actions (N, A)."""
        mean, std = self.params
        drawn = torch.randn(len(mean) * ranks.world(), *mean.shape[1:], device=mean.device)
        return mean + std * drawn[ranks.rank() * len(mean) :][: len(mean)]


class SharedStorage(RolloutStorage):
    """rsl_rl's, with advantages that are normalised over the rows of all processes."""

    def mini_batch_generator(
        self, num_mini_batches: int, num_epochs: int = 8
    ) -> Generator[RolloutStorage.Batch, None, None]:
        """Yield this process's part of each mini-batch, drawn from its own rows."""
        self._normalise()
        batches = super().mini_batch_generator(num_mini_batches, num_epochs)
        rows = self.num_envs * self.num_transitions_per_env * ranks.world()
        # the draw of one process, from which the random numbers go on; each takes another for its own rows
        torch.randperm(rows // num_mini_batches * num_mini_batches, device=self.device)
        device = torch.device(self.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            first = next(batches)
        yield first
        yield from batches

    def _normalise(self) -> None:
        raw = self.returns - self.values
        count = raw.numel() * ranks.world()
        distance = raw - ranks.total(raw.sum()) / count
        spread = (ranks.total(distance.square().sum()) / (count - 1)).sqrt()
        self.advantages = distance / (spread + 1e-8)
