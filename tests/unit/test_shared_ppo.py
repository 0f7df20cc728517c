"""rsl_rl's PPO by several processes draws what one would, and learns from every row once."""

from __future__ import annotations

import pytest
import torch
from rsl_rl.modules.distribution import GaussianDistribution
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict

from robokd.learn import ranks
from robokd.learn.shared_ppo import SharedGaussian, SharedStorage

STEPS, ENVS, MINI_BATCHES, EPOCHS = 6, 4, 3, 2


@pytest.fixture
def second_of_two(monkeypatch):
    """Make this the second of two processes, whose rows are the same."""
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(ranks, "total", lambda value: 2 * value)


def filled(kind: type[RolloutStorage], num_envs: int) -> RolloutStorage:
    """Return a rollout whose actions are the numbers of its rows."""
    seen = TensorDict({"proprio": torch.zeros(num_envs, 1)}, batch_size=[num_envs])
    storage = kind("rl", num_envs, STEPS, seen, [1])
    storage.actions = torch.arange(STEPS * num_envs).view(STEPS, num_envs, 1)
    storage.returns = torch.arange(1.0, ENVS + 1).repeat(STEPS, num_envs // ENVS)[..., None]
    storage.distribution_params = (torch.zeros(STEPS, num_envs, 1),)
    return storage


def test_noise_is_the_rows_of_what_one_process_draws(second_of_two):
    mean = torch.randn(2 * ENVS, 3)
    one, own = (kind(3, init_std=0.5, std_type="log") for kind in (GaussianDistribution, SharedGaussian))
    one.update(mean)
    own.update(mean[ENVS:])
    torch.manual_seed(1)
    everyone = one.sample()
    torch.manual_seed(1)
    torch.testing.assert_close(own.sample(), everyone[ENVS:])


def test_mini_batches_hold_every_own_row_once_an_epoch(second_of_two):
    batches = list(filled(SharedStorage, ENVS).mini_batch_generator(MINI_BATCHES, EPOCHS))
    assert [len(batch.actions) for batch in batches] == [STEPS * ENVS // MINI_BATCHES] * len(batches)
    for first in (0, MINI_BATCHES):
        rows = torch.cat([batch.actions[:, 0] for batch in batches[first : first + MINI_BATCHES]])
        assert rows.sort().values.tolist() == list(range(STEPS * ENVS))


def test_random_numbers_go_on_as_in_one_process(second_of_two):
    torch.manual_seed(0)
    list(filled(RolloutStorage, 2 * ENVS).mini_batch_generator(MINI_BATCHES, EPOCHS))
    after = torch.rand(4)
    torch.manual_seed(0)
    list(filled(SharedStorage, ENVS).mini_batch_generator(MINI_BATCHES, EPOCHS))
    assert torch.equal(torch.rand(4), after)


def test_advantages_are_normalised_over_the_rows_of_all(second_of_two):
    # of both: 12 times each of 1, 2, 3, 4; mean 2.5, variance 60 / 47
    (batch,) = filled(SharedStorage, ENVS).mini_batch_generator(1, 1)
    largest = 1.5 / (60 / 47) ** 0.5
    assert batch.advantages.max().item() == pytest.approx(largest)
    assert batch.advantages.min().item() == pytest.approx(-largest)
