"""The mixture loss against closed forms and numeric integrals, and a script that may go either way."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robokd import UserError, registry
from robokd.teachers.base import TeacherOutput
from robokd.teachers.scripted import ScriptedCfg
from tests.unit.teacher_samples import Room, Task, rows
from tests.unit.test_losses import (
    LOG_STDS,
    MEANS,
    PROPERTY,
    TINY,
    X,
    between,
    density,
    integral,
    loss_of,
    nothing,
    row,
    student,
)

DIRECTIONS = ("forward", "reverse")
MODES = st.lists(MEANS, min_size=1, max_size=4)


def mixture(mean: Tensor, log_std: Tensor, modes: Tensor, std: Tensor, **fields) -> Tensor:
    """The loss of a student (1, 1, A) and modes (1, 1, K, A) that share the sigma `std` (1, 1, A)."""
    teacher = TeacherOutput(action=modes[..., 0, :], log_std=std.log(), modes=modes)
    said = student(mean, log_std=log_std)
    return loss_of("mixture", **{"floor": TINY, **fields})(said, teacher, nothing(mean))


def of_modes(mean: float, log_std: float, modes: list[float], log_std_t: float, **fields) -> float:
    placed = torch.tensor(modes, dtype=torch.float64)[None, None, :, None]
    return mixture(row(mean), row(log_std), placed, row(log_std_t).exp(), **fields).item()


def mixed(modes: list[float], log_std: float) -> Tensor:
    """The mixture's density on X."""
    return torch.stack([density(X, mode, log_std) for mode in modes]).mean(0)


def reverse_integral(mean: float, log_std: float, modes: list[float], log_std_t: float) -> float:
    """KL(S || T) of the densities; by their logarithms, for they underflow where the other does not."""
    each = torch.stack([-0.5 * ((X - mode) / math.exp(log_std_t)) ** 2 for mode in modes])
    log_t = each.logsumexp(0) - math.log(len(modes)) - log_std_t
    log_s = -0.5 * ((X - mean) / math.exp(log_std)) ** 2 - log_std
    return integral(density(X, mean, log_std) * (log_s - log_t))


# B1 of GKD: modes -1 and 1, sigma 0.2, an obstacle |a| < 0.5


def fitted(direction: str, start: float) -> tuple[float, float]:
    """Mean and sigma of the Gaussian that fits the mixture best, sought from a mean of `start`."""
    modes, std = torch.tensor([-1.0, 1.0], dtype=torch.float64)[None, None, :, None], row(0.2)
    weights = torch.tensor([start, -1.0], requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure():
        optimizer.zero_grad()
        mean, log_std = (one.expand(1, 1, 1) for one in weights)
        total = mixture(mean, log_std, modes, std, direction=direction).sum()
        total.backward()
        return total

    optimizer.step(closure)
    return weights[0].item(), weights[1].exp().item()


def clearing(mean: float, std: float) -> tuple[float, float]:
    """How often the mean action, and one drawn from N(mean, std), clears the obstacle."""
    below, above = (0.5 * math.erfc(one / std / math.sqrt(2)) for one in (0.5 + mean, 0.5 - mean))
    return float(abs(mean) >= 0.5), below + above


def test_forward_spreads_over_both_ways_and_its_mean_always_crashes():
    mean, std = fitted("forward", 0.3)
    assert (mean, std) == (pytest.approx(0, abs=1e-6), pytest.approx(math.sqrt(1.04), abs=1e-6))  # 1.02
    by_mean, by_sample = clearing(mean, std)
    assert by_mean == 0
    assert by_sample == pytest.approx(0.62391, abs=1e-4)  # 2 Phi(-0.5 / 1.0198)


@pytest.mark.parametrize("start", [-0.3, 0.3])
def test_reverse_takes_the_way_that_it_is_nearer_to_and_clears(start):
    mean, std = fitted("reverse", start)
    assert mean == pytest.approx(math.copysign(1, start), abs=1e-6)
    assert std == pytest.approx(0.2, abs=1e-6)
    by_mean, by_sample = clearing(mean, std)
    assert by_mean == 1
    assert by_sample == pytest.approx(0.99379, abs=1e-4)  # Phi(2.5)


# the divergences that it stands for


@given(MEANS, LOG_STDS, MODES, LOG_STDS)
@PROPERTY
def test_reverse_is_never_below_the_divergence(mean, log_std, modes, log_std_t):
    bound = of_modes(mean, log_std, modes, log_std_t, direction="reverse")
    assert bound >= reverse_integral(mean, log_std, modes, log_std_t) - 1e-6 * max(bound, 1)
    assert bound >= -1e-9


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.2), st.integers(2, 3))
@PROPERTY
def test_reverse_is_the_divergence_where_the_student_is_at_one_of_separate_modes(offset, wider, count):
    # modes ten of their sigmas apart, a student within a sigma of the middle one or the last
    modes, log_std_t = [2.0 * k - 2 for k in range(count)], math.log(0.2)
    mean, log_std = 0.2 * offset, log_std_t + wider
    bound = of_modes(mean, log_std, modes, log_std_t, direction="reverse")
    assert bound == pytest.approx(reverse_integral(mean, log_std, modes, log_std_t), abs=1e-3)


def test_reverse_is_a_loose_bound_across_two_modes():
    # a student that covers both costs log 2 less than its divergence from either
    value, bound = (
        of(0.0, 0.0, [-1.0, 1.0], math.log(0.2))
        for of in (reverse_integral, lambda *given: of_modes(*given, direction="reverse"))
    )
    assert bound > value + 5


@given(MEANS, LOG_STDS, MEANS, LOG_STDS, MODES, LOG_STDS)
@PROPERTY
def test_forward_differs_from_the_divergence_by_what_no_student_changes(
    mean, log_std, other, other_log_std, modes, log_std_t
):
    p = mixed(modes, log_std_t)
    gaps = []
    for m, s in ((mean, log_std), (other, other_log_std)):
        log_s = -0.5 * ((X - m) / math.exp(s)) ** 2 - s - 0.5 * math.log(2 * math.pi)
        divergence = integral(p * (p.clamp(min=1e-300).log() - log_s))
        gaps.append(of_modes(m, s, modes, log_std_t, direction="forward") - divergence)
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-5)
    # how much the modes do not overlap: for one mode nothing, log K at most
    assert -1e-5 <= gaps[0] <= math.log(len(modes)) + 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(mean=MEANS, log_std=LOG_STDS, modes=MODES, log_std_t=LOG_STDS)
@PROPERTY
def test_its_gradient_is_that_of_the_finite_difference(direction, mean, log_std, modes, log_std_t):
    leaves = row(mean).requires_grad_(), row(log_std).requires_grad_()
    placed = torch.tensor(modes, dtype=torch.float64)[None, None, :, None]
    mixture(*leaves, placed, row(log_std_t).exp(), direction=direction).sum().backward()
    step = 1e-6
    for leaf, moved in zip(leaves, ((step, 0.0), (0.0, step)), strict=True):
        ends = [
            of_modes(mean + sign * moved[0], log_std + sign * moved[1], modes, log_std_t, direction=direction)
            for sign in (-1, 1)
        ]
        assert leaf.grad is not None
        assert leaf.grad.item() == pytest.approx((ends[1] - ends[0]) / 2 / step, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(s=st.tuples(MEANS, LOG_STDS), t=st.tuples(MEANS, LOG_STDS))
@PROPERTY
def test_a_single_mode_is_the_loss_kl(direction, s, t):
    alone = of_modes(*s, [t[0]], t[1], direction=direction)
    pairs = tuple((row(mean, 0.3), row(log_std, -1.0)) for mean, log_std in (s, t))
    wide = mixture(*pairs[0], pairs[1][0].unsqueeze(-2), pairs[1][1].exp(), direction=direction).item()
    assert wide == pytest.approx(between("kl", *pairs, direction=direction, floor=TINY).item(), abs=1e-9)
    assert wide == pytest.approx(alone, abs=1e-9)  # the dimension in which both agree costs nothing


@pytest.mark.parametrize("direction", DIRECTIONS)
@given(mean=MEANS, log_std=LOG_STDS, modes=MODES, log_std_t=LOG_STDS, random=st.randoms())
@PROPERTY
def test_the_order_of_modes_does_not_matter_nor_does_saying_each_twice(
    direction, mean, log_std, modes, log_std_t, random
):
    shuffled = random.sample(modes, len(modes))
    said = [
        of_modes(mean, log_std, one, log_std_t, direction=direction)
        for one in (modes, shuffled, shuffled + modes)
    ]
    assert said[1:] == pytest.approx([said[0]] * 2, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("sides", [(-60.0, -1.0), (-1.0, -60.0), (-60.0, -60.0)])
def test_a_collapsed_sigma_costs_a_bounded_amount_and_has_a_gradient(direction, sides):
    mean, log_std = row(0.5).requires_grad_(), row(sides[0]).requires_grad_()
    modes, std = row(0.0, 1.0)[..., None], row(sides[1]).exp()
    said = mixture(mean, log_std, modes, std, direction=direction, floor=0.01)
    said.sum().backward()
    assert abs(said.item()) < 1e4
    for leaf in (mean, log_std):
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"direction": "forwards"},
            "loss.mixture.direction: no direction named 'forwards'. Did you mean 'forward'? "
            "Known: forward, reverse",
        ),
        ({"floor": 0.0}, "loss.mixture.floor must be > 0 action units, got 0.0"),
    ],
)
def test_nonsense_is_refused_with_what_was_wanted(fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        registry.find("loss", "mixture")(**fields)
    assert str(error.value).startswith(message)


# the script that offers modes


class Fork(Task):
    """A task whose script may go either way."""

    std = 0.2

    def script_modes(self, observations):
        """Return the script's action and its opposite, unclipped."""
        action = self.script(observations)
        return torch.stack((action, -action), 1)

    def script_std(self):
        """Return the sigma of both."""
        return torch.full((2,), self.std)


def test_a_script_with_two_ways_offers_them_and_its_action_is_the_first():
    teacher, obs = ScriptedCfg().open(Room(task=Fork())), rows(16, 3.0)
    assert teacher.offers == {"log_std", "modes"}
    said = teacher.label(obs)
    assert said.modes is not None
    assert said.modes.shape == (16, 2, 2)
    assert torch.equal(said.modes[:, 0], said.action)
    assert torch.equal(said.modes[:, 1], -said.action)
    assert said.modes.abs().max() == 1  # clipped
    assert said.log_std is not None
    assert torch.equal(said.log_std, torch.full((16, 2), 0.2).log())
    assert torch.equal(teacher.act(obs), said.action)


def test_the_hash_of_a_script_covers_the_sigma_of_its_ways():
    other = Fork()
    other.std = 0.3
    opened = [ScriptedCfg().open(Room(task=task)).sha256() for task in (Fork(), Fork(), other)]
    assert opened[0] == opened[1] != opened[2]


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        (lambda rows: torch.zeros(2, 2), r"gives modes \(2, 2\) for 2 rows, wanted \(2, K, 2\)"),
        (lambda rows: torch.zeros(2, 3, 1), r"gives modes \(2, 3, 1\) for 2 rows, wanted \(2, K, 2\)"),
        (
            lambda rows: torch.ones(2, 3, 2),
            r"the script of Fork acts \[0.0, 0.0\] where its first mode is \[1.0, 1.0\]: they must be",
        ),
    ],
)
def test_modes_that_do_not_fit_the_script_are_refused(modes, message):
    task = Fork()
    task.script_modes = modes
    with pytest.raises(UserError, match=message):
        ScriptedCfg().open(Room(task=task))
