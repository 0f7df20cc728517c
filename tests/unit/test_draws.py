"""Draws are pure functions of their counters."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robokd import draws
from robokd.draws import Draws

EPISODES = torch.arange(20_000)


def test_uniforms_are_uniform_and_uncorrelated():
    drawn = Draws(0, "train").uniform("goal", EPISODES, 0, 3).numpy()
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.01
    assert np.abs(drawn.var(0) - 1 / 12).max() < 0.002
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03
    # neighbouring episodes share nothing either
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03


def test_normals_have_unit_variance_and_no_skew():
    drawn = Draws(0, "train").normal("noise", EPISODES, 5, 4).numpy()
    assert np.abs(drawn.mean(0)).max() < 0.03
    assert np.abs(drawn.std(0) - 1).max() < 0.03
    assert np.abs((drawn**3).mean(0)).max() < 0.1


@given(st.integers(0, 2**31), st.integers(0, 2**40), st.integers(0, 10_000))
def test_a_draw_does_not_depend_on_the_batch_it_is_drawn_in(seed, episode, step):
    draws = Draws(seed, "test")
    alone = draws.uniform("x", torch.tensor([episode]), step, 2)
    among = draws.uniform("x", torch.tensor([7, episode, 3]), torch.tensor([1, step, 2]), 2)
    assert torch.equal(alone[0], among[1])


def test_a_name_does_not_depend_on_the_names_beside_it():
    draws, episodes = Draws(3, "train"), torch.arange(5)
    together = draws.uniforms({"a": 2, "b": 3}, episodes, 0)
    assert torch.equal(together[:, 2:], draws.uniform("b", episodes, 0, 3))


@pytest.mark.parametrize(
    ("seed", "stream", "name", "step"),
    [(1, "train", "x", 0), (0, "test", "x", 0), (0, "train", "y", 0), (0, "train", "x", 1)],
)
def test_every_part_of_the_key_matters(seed, stream, name, step):
    base = Draws(0, "train").uniform("x", EPISODES[:100], 0, 1)
    other = Draws(seed, stream).uniform(name, EPISODES[:100], step, 1)
    assert (base != other).all()


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=9), st.integers(0, 2**40), st.booleans())
def test_numba_and_torch_draw_the_same_bits(episodes, step, is_tensor):
    pytest.importorskip("numba")
    episode, names = torch.tensor(episodes), {"a": 2, "b": 1, "c": 3}
    at = torch.arange(len(episodes)) + step if is_tensor else step
    drawn = Draws(5, "train").uniforms(names, episode, at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "_kernel", lambda: None)
        assert torch.equal(drawn, Draws(5, "train").uniforms(names, episode, at))


def test_golden_values_do_not_change_between_versions():
    drawn = Draws(0, "train").uniform("golden", torch.tensor([0, 1]), 2, 2)
    assert [f"{value:.12f}" for value in drawn.flatten().tolist()] == GOLDEN


def test_unknown_stream_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no stream named 'tset'\. Known: train, validation, test"):
        Draws(0, "tset")


GOLDEN = ["0.638468207679", "0.143962385424", "0.583852303203", "0.708907415095"]
