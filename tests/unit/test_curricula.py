"""Curricula: uniform draws what training always drew; ADR's edges follow the success on them."""

from __future__ import annotations

import pytest
import torch

from robokd import UserError
from robokd.curricula.adr import AdrCfg
from robokd.curricula.uniform import UniformCfg
from robokd.draws import Draws

SIZES, EASY = {"goal": 2, "mass": 1}, (0.5, 0.5, 0.0)
ALL = torch.arange(4096)


def adr(**words):
    return AdrCfg(**words).build(sizes=SIZES, easy=EASY, draws=Draws(0, "train"), device="cpu")


def play(sampler, succeeds, rounds=200, batch=256):
    """Run episodes that succeed where `succeeds(place)` says so; return how wide the ranges end."""
    for number in range(rounds):
        episode = torch.arange(number * batch, (number + 1) * batch)
        place = sampler.sample(episode)
        outcome = succeeds(place).float()
        sampler.update(episode, place, outcome, torch.ones(batch, dtype=torch.bool))
    return {name: float(width) for name, width in sampler.summary().items()}


def test_uniform_draws_each_parameter_as_its_name_says():
    draws = Draws(3, "train")
    place = UniformCfg().build(sizes=SIZES, easy=EASY, draws=draws, device="cpu").sample(ALL)
    assert torch.equal(place[:, :2], draws.uniform("parameter/goal", ALL, 0, 2))
    assert torch.equal(place[:, 2:], draws.uniform("parameter/mass", ALL, 0, 1))


def test_adr_begins_narrow_where_episodes_are_easy():
    place = adr(start=0.2).sample(ALL)
    low, high = place.min(0).values, place.max(0).values
    torch.testing.assert_close(low, torch.tensor([0.4, 0.4, 0.0], dtype=torch.float64))
    torch.testing.assert_close(high, torch.tensor([0.6, 0.6, 0.1], dtype=torch.float64))


def test_adr_puts_its_share_of_episodes_on_every_edge_alike():
    place = adr(start=0.2, edge_share=0.5).sample(torch.arange(60_000))
    edges = torch.tensor([[0.4, 0.4, 0.0], [0.6, 0.6, 0.1]], dtype=torch.float64)
    for edge in edges:
        shares = (place == edge).double().mean(0)
        torch.testing.assert_close(shares, torch.full((3,), 0.5 / 6, dtype=torch.float64), atol=0.005, rtol=0)


def test_adr_widens_to_the_whole_where_all_succeeds_and_stays_where_nothing_does():
    assert play(adr(episodes=16), lambda place: torch.ones(len(place))) == {"goal": 1.0, "mass": 1.0}
    narrow = play(adr(episodes=16, start=0.2), lambda place: torch.zeros(len(place)))
    assert narrow == {"goal": 0.0, "mass": 0.0}  # down to the easiest place, and no further


def test_adr_stops_at_what_the_policy_cannot_do():
    """Mass below 0.5 succeeds: the upper edge comes to stand within a step of it."""
    widths = play(adr(episodes=16, step=0.05), lambda place: place[:, 2] < 0.5)
    assert abs(widths["mass"] - 0.5) <= 0.1


def test_adr_grows_only_the_parameters_that_it_is_told():
    sampler = adr(parameters=("mass",), start=0.1)
    place = sampler.sample(ALL)
    assert place[:, 0].min() < 0.01
    assert place[:, 0].max() > 0.99
    assert place[:, 2].max() <= 0.05
    assert list(sampler.summary()) == ["mass"]


def test_adr_forgets_nothing_over_a_state_dict():
    one, other = adr(episodes=16), adr(episodes=16)
    play(one, lambda place: place[:, 0] < 0.7, rounds=60)
    other.load_state_dict(one.state_dict())
    both = [play(sampler, lambda place: place[:, 0] < 0.7, rounds=30) for sampler in (one, other)]
    assert both[0] == both[1]


def test_an_edge_that_has_moved_learns_nothing_from_older_episodes():
    sampler = adr(episodes=8)
    place = sampler.sample(ALL)
    ones, whole = torch.ones(len(ALL)), torch.ones(len(ALL), dtype=torch.bool)
    sampler.update(ALL, place, ones, whole)
    before = sampler.state_dict()["edges"]
    sampler.update(ALL, place, ones, whole)
    unmoved = sampler.state_dict()["edges"]
    # lower edge of mass is at the end of its range: it has not moved, and may be judged again
    assert torch.equal(before, unmoved)


def test_masked_episodes_are_not_counted():
    sampler = adr()
    place = sampler.sample(ALL)
    sampler.update(ALL, place, torch.ones(len(ALL)), torch.zeros(len(ALL), dtype=torch.bool))
    assert sampler.state_dict()["tries"].sum() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"start": 0.0}, "curriculum.start must be in (0, 1], got 0.0"),
        ({"step": 2.0}, "curriculum.step must be in (0, 1], got 2.0"),
        ({"narrow_below": 0.9}, "0 <= narrow_below < widen_above <= 1, got 0.9 and 0.8"),
        ({"episodes": 0}, "curriculum.episodes must be >= 1, got 0"),
        ({"reference_share": -0.1}, "curriculum.reference_share must be in [0, 1], got -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(words, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("[", r"\[")):
        AdrCfg(**words)


def test_a_parameter_that_the_task_lacks_is_refused_by_name():
    with pytest.raises(UserError, match=r"no parameter named 'wind'\. Known: goal, mass"):
        adr(parameters=("wind",))


def reach(stream="train", **words):
    pytest.importorskip("mujoco")
    from robokd.tasks.reach import ReachCfg

    from robokd.env.base import Setup
    from robokd.sim.mujoco import MujocoCfg
    from robokd.vision.sensor import Corruption

    setup = Setup(
        num_envs=16, groups=("proprio", "privileged"), draws=Draws(0, stream), curriculum=AdrCfg(**words)
    )
    return ReachCfg(horizon_s=0.48).build(sim=MujocoCfg(), renderer=None, corrupt=Corruption(), setup=setup)


def test_an_environment_draws_its_episodes_where_the_curriculum_says():
    env = reach(start=0.02)
    goals = env.state.episode["goal"]
    assert goals.std(0).max() < 0.02
    assert goals[:, 1].abs().max() < 0.02  # straight ahead: the middle of the azimuths


def test_an_environment_goes_back_to_a_snapshot_with_its_curriculum():
    env = reach(episodes=1, start=0.5)
    for _ in range(12):
        env.step(torch.zeros(16, 7))
    saved = env.snapshot()
    first = [env.step(torch.zeros(16, 7))[0]["privileged"] for _ in range(30)]
    edges = env.sampler.state_dict()
    assert not torch.equal(edges["edges"], saved["curriculum"]["edges"])
    env.restore(saved)
    again = [env.step(torch.zeros(16, 7))[0]["privileged"] for _ in range(30)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(edges[name], value) for name, value in env.sampler.state_dict().items())


def test_reference_states_are_refused_where_a_task_has_none():
    with pytest.raises(UserError, match=r"reference_share=0\.5: this task has no reference states"):
        reach(reference_share=0.5)
