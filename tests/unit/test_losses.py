"""Each distillation loss against closed forms, numeric integrals and the traps of published code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from robokd import registry
from robokd.students.base import StudentOutput
from robokd.teachers.base import TeacherOutput

MEANS = st.floats(-2, 2, allow_nan=False)
LOG_STDS = st.floats(math.log(0.05), math.log(1.5), allow_nan=False)
BETAS = st.floats(0.02, 0.98, allow_nan=False)
PROPERTY = settings(max_examples=40)
TINY = 1e-6  # a floor that changes nothing


def loss_of(name: str, **fields):
    return registry.find("loss", name)(**fields).build()


def row(*values: float) -> Tensor:
    """(B=1, T=1, A) in float64: what differs from a closed form is then not the number format."""
    return torch.tensor(values, dtype=torch.float64)[None, None]


def student(action: Tensor, **fields) -> StudentOutput:
    return StudentOutput(action=action, features=action, estimates={}, **fields)


def nothing(of: Tensor) -> TensorDict:
    return TensorDict({}, batch_size=of.shape[:2])


def between(name: str, s: tuple[Tensor, Tensor], t: tuple[Tensor, Tensor], **fields) -> Tensor:
    """The loss between Gaussians (mean, log_std) of student and teacher."""
    said = student(s[0], log_std=s[1])
    return loss_of(name, **fields)(said, TeacherOutput(action=t[0], log_std=t[1]), nothing(s[0]))


def density(x: Tensor, mean: float, log_std: float) -> Tensor:
    return torch.exp(-0.5 * ((x - mean) / math.exp(log_std)) ** 2 - log_std) / math.sqrt(2 * math.pi)


X = torch.linspace(-16, 16, 8_001, dtype=torch.float64)  # few enough for one thread, steps of sigma / 12


def integral(values: Tensor) -> float:
    return torch.trapezoid(values, X).item()


def log_ratio(p: Tensor, q: Tensor) -> Tensor:
    return p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()


def divergence(p: Tensor, q: Tensor) -> float:
    return integral(torch.where(p > 1e-200, p * log_ratio(p, q), 0))


# distances of actions, latents, values


def test_action_mse_is_the_mean_of_squares():
    said = loss_of("action_mse")(student(row(0.1, 0.5)), TeacherOutput(action=row(0.0, 0.2)), nothing(row(0)))
    assert said.item() == pytest.approx((0.01 + 0.09) / 2)


def test_action_sigma_counts_in_the_teacher_s_sigmas():
    teacher = TeacherOutput(action=row(0.0, 0.2), log_std=row(0.1, 0.3).log())
    said = [
        loss_of("action_sigma", root=root)(student(row(0.3, 0.5)), teacher, nothing(row(0)))
        for root in (False, True)
    ]
    assert said[0].item() == pytest.approx(3**2 + 1**2)
    assert said[1].item() == pytest.approx(math.sqrt(10))


@given(MEANS, MEANS, LOG_STDS)
@PROPERTY
def test_squared_action_sigma_is_twice_the_kl_of_gaussians_that_share_sigma(mean, other, log_std):
    s, t = (row(mean), row(log_std)), (row(other), row(log_std))
    assert between("action_sigma", s, t, floor=TINY).item() == pytest.approx(
        2 * between("kl", s, t, floor=TINY).item(), rel=1e-6, abs=1e-9
    )


def test_the_root_of_action_sigma_has_no_gradient_at_zero_and_a_constant_one_beside_it():
    grads = []
    for offset in (0.0, 1e-6, 0.5):
        action = row(offset, 0.0).requires_grad_()
        teacher = TeacherOutput(action=row(0.0, 0.0), log_std=row(0.2, 0.2).log())
        loss_of("action_sigma", root=True)(student(action), teacher, nothing(action)).sum().backward()
        grads.append(action.grad.norm().item())
    assert grads == pytest.approx([0, 5, 5])  # 1 / sigma


def test_every_sample_is_weighed_by_its_own_sigma():
    # DEXTRAH's code takes the first environment's sigma for all
    action, sigma = torch.ones(2, 1, 1), torch.tensor([0.5, 0.1])[:, None, None]
    said = loss_of("action_sigma")(
        student(action), TeacherOutput(action=0 * action, log_std=sigma.log()), nothing(action)
    )
    assert said[:, 0].tolist() == pytest.approx([4, 100])


def test_latent_and_feature_are_means_over_their_numbers():
    said = student(row(0), latent=row(1.0, 3.0), branches={"early": row(0.2), "late": row(0.4)})
    teacher = TeacherOutput(action=row(0.1), latent=row(0.0, 1.0))
    assert loss_of("latent")(said, teacher, nothing(row(0))).item() == pytest.approx((1 + 4) / 2)
    # summed over heads
    assert loss_of("feature")(said, teacher, nothing(row(0))).item() == pytest.approx(0.01 + 0.09)


@pytest.mark.parametrize(
    ("fields", "distances"),
    [
        ({"form": "mse"}, [0.25, 16.0]),
        ({}, [0.125, 3.5]),  # d^2 / 2 within delta = 1, then |d| - 1/2
        ({"delta": 2.0}, [0.0625, 3.0]),
    ],
)
def test_value_is_squared_near_and_linear_far(fields, distances):
    values = torch.tensor([[0.5, -4.0]])
    said = student(values[..., None], value=values)
    teacher = TeacherOutput(action=values[..., None], value=torch.zeros(1, 2))
    assert loss_of("value", **fields)(said, teacher, nothing(values))[0].tolist() == distances


# Gaussians: nll, kl, entropy


@given(MEANS, LOG_STDS, MEANS)
@PROPERTY
def test_nll_is_the_logarithm_of_the_density(mean, log_std, label):
    said = between("nll", (row(mean), row(log_std)), (row(label), row(0)), floor=TINY).item()
    z = (label - mean) / math.exp(log_std)
    assert said == pytest.approx(0.5 * z * z + log_std + 0.5 * math.log(2 * math.pi), rel=1e-6, abs=1e-8)


@given(MEANS, LOG_STDS, MEANS, LOG_STDS)
@PROPERTY
def test_nll_of_the_teacher_s_samples_is_its_forward_kl_plus_its_entropy(m_s, l_s, m_t, l_t):
    p = density(X, m_t, l_t)
    labels = X[:, None, None]
    many = labels.expand(-1, 1, 1)
    said = student(torch.full_like(many, m_s), log_std=torch.full_like(many, l_s))
    expected = integral(p * loss_of("nll", floor=TINY)(said, TeacherOutput(action=many), nothing(many))[:, 0])
    own = -integral(p * p.clamp(min=1e-300).log())
    kl = between("kl", (row(m_s), row(l_s)), (row(m_t), row(l_t)), floor=TINY).item()
    assert expected == pytest.approx(kl + own, rel=1e-5, abs=1e-7)


@given(MEANS, LOG_STDS, MEANS, LOG_STDS)
@PROPERTY
def test_kl_is_the_integral_in_each_direction(m_s, l_s, m_t, l_t):
    s, t = (row(m_s), row(l_s)), (row(m_t), row(l_t))
    p_s, p_t = density(X, m_s, l_s), density(X, m_t, l_t)
    # log-densities, because a narrow density underflows where the wide one is not yet zero
    log_s = -0.5 * ((X - m_s) / math.exp(l_s)) ** 2 - l_s
    log_t = -0.5 * ((X - m_t) / math.exp(l_t)) ** 2 - l_t
    forward, reverse = integral(p_t * (log_t - log_s)), integral(p_s * (log_s - log_t))
    for direction, value in (
        ("forward", forward), ("reverse", reverse), ("symmetric", (forward + reverse) / 2),
    ):  # fmt: skip
        said = between("kl", s, t, direction=direction, floor=TINY).item()
        assert said == pytest.approx(value, rel=1e-5, abs=1e-8), direction


@given(LOG_STDS, LOG_STDS)
@PROPERTY
def test_entropy_costs_what_the_student_lacks_to_the_floor(log_std, log_floor):
    p, q = density(X, 0, log_std), density(X, 0, log_floor)
    lack = integral(-q * q.clamp(min=1e-300).log()) - integral(-p * p.clamp(min=1e-300).log())
    said = between("entropy", (row(0), row(log_std)), (row(0), row(0)), floor=math.exp(log_floor)).item()
    assert said == pytest.approx(max(lack, 0), abs=1e-7)


def test_a_wide_dimension_does_not_pay_for_a_collapsed_one():
    # the joint entropy of sigmas 1 and 0.01 is above that of 0.05 and 0.05
    said = between("entropy", (row(0, 0), row(1.0, 0.01).log()), (row(0, 0), row(0, 0)), floor=0.05)
    assert said.item() == pytest.approx(math.log(5) / 2)


# B1 of GKD: a teacher that goes left or right by chance


def fitted(name: str, mean_t: Tensor, log_std_t: Tensor, **fields) -> tuple[float, float]:
    """Mean and sigma of the one Gaussian that fits all labels best."""
    weights = torch.tensor([0.3, -1.0], requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        mean, log_std = (one.expand_as(mean_t) for one in weights)
        total = between(name, (mean, log_std), (mean_t, log_std_t), **fields).mean()
        total.backward()
        return total

    optimizer.step(closure)
    return weights[0].item(), weights[1].exp().item()


QUANTILES = torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)


def test_likelihood_of_a_bimodal_teacher_s_actions_covers_both_modes():
    labels = torch.cat((-1 + 0.2 * QUANTILES, 1 + 0.2 * QUANTILES))[:, None, None]
    mean, std = fitted("nll", labels, torch.zeros_like(labels))
    assert mean == pytest.approx(0, abs=1e-3)
    assert std == pytest.approx(math.sqrt(1 + 0.2**2), abs=1e-3)  # 1.02
    # of its samples 62 % clear an obstacle |a| < 0.5, its mean never does
    assert math.erfc(0.5 / std / math.sqrt(2)) == pytest.approx(0.62, abs=0.005)


def test_kl_of_unimodal_labels_seeks_no_mode_in_any_direction():
    labels = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None, None]
    log_std = torch.full_like(labels, math.log(0.2))
    mean, std = fitted("kl", labels, log_std, direction="forward")
    assert (mean, std) == (pytest.approx(0, abs=1e-3), pytest.approx(math.sqrt(1.04), abs=1e-3))
    mean, std = fitted("kl", labels, log_std, direction="reverse")
    assert (mean, std) == (pytest.approx(0, abs=1e-3), pytest.approx(0.2, abs=1e-3))


# jsd


def jsd(m_s, l_s, m_t, l_t, **fields) -> float:
    return between("jsd", (row(m_s), row(l_s)), (row(m_t), row(l_t)), floor=TINY, **fields).item()


@given(MEANS, LOG_STDS, MEANS, LOG_STDS, BETAS)
@PROPERTY
def test_jsd_is_the_integral_against_the_mixture(m_s, l_s, m_t, l_t, beta):
    p_s, p_t = density(X, m_s, l_s), density(X, m_t, l_t)
    mixture = beta * p_t + (1 - beta) * p_s
    value = beta * divergence(p_t, mixture) + (1 - beta) * divergence(p_s, mixture)
    assert jsd(m_s, l_s, m_t, l_t, beta=beta, normalised=False) == pytest.approx(value, abs=1e-5)
    assert jsd(m_s, l_s, m_t, l_t, beta=beta) == pytest.approx(value / (beta * (1 - beta)), abs=1e-4)


@given(MEANS, LOG_STDS, MEANS, LOG_STDS, BETAS)
@PROPERTY
def test_jsd_lies_between_zero_and_the_entropy_of_a_coin_and_swaps_with_beta(m_s, l_s, m_t, l_t, beta):
    said = jsd(m_s, l_s, m_t, l_t, beta=beta, normalised=False)
    coin = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    assert -1e-12 <= said <= coin + 1e-5
    assert jsd(m_t, l_t, m_s, l_s, beta=1 - beta, normalised=False) == pytest.approx(said, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("end", "direction"), [(1e-4, "forward"), (1 - 1e-4, "reverse")])
def test_only_the_normalised_jsd_ends_in_the_kls(end, direction, dtype):
    s, t = (tuple(one.to(dtype) for one in pair) for pair in ((row(0.1), row(-1.2)), (row(0.4), row(-0.9))))
    kl = between("kl", s, t, direction=direction).item()
    assert between("jsd", s, t, beta=end).item() == pytest.approx(kl, rel=3e-3)
    # the scale trap: as published, the loss itself falls to zero at both ends
    assert between("jsd", s, t, beta=end, normalised=False).item() < 2e-4 * kl


@given(MEANS, LOG_STDS, MEANS, LOG_STDS, BETAS)
@PROPERTY
def test_the_gradient_of_jsd_moves_the_student_towards_the_teacher(m_s, l_s, m_t, l_t, beta):
    mean, log_std = row(m_s).requires_grad_(), row(l_s).requires_grad_()
    between("jsd", (mean, log_std), (row(m_t), row(l_t)), beta=beta).sum().backward()
    apart = abs(m_s - m_t) / math.exp(min(l_s, l_t))
    if 0.01 < apart < 5:  # further off it vanishes, nearer it is the quadrature's error
        assert mean.grad.item() * (m_s - m_t) > 0
    same_mean = row(l_s).requires_grad_()
    between("jsd", (row(m_t), same_mean), (row(m_t), row(l_t)), beta=beta).sum().backward()
    if abs(l_s - l_t) > 0.02:
        assert same_mean.grad.item() * (l_s - l_t) > 0


@given(MEANS, LOG_STDS, MEANS, LOG_STDS, BETAS)
@PROPERTY
def test_the_gradient_of_jsd_is_that_of_the_finite_difference(m_s, l_s, m_t, l_t, beta):
    mean, log_std = row(m_s).requires_grad_(), row(l_s).requires_grad_()
    between("jsd", (mean, log_std), (row(m_t), row(l_t)), beta=beta, floor=TINY).sum().backward()
    step = 1e-3
    ends = [jsd(m_s + d, l_s, m_t, l_t, beta=beta) for d in (-step, step)]
    wide = [jsd(m_s, l_s + d, m_t, l_t, beta=beta) for d in (-step, step)]
    scale = math.exp(l_s)  # the mean in sigmas
    assert mean.grad.item() * scale == pytest.approx(
        (ends[1] - ends[0]) / 2 / step * scale, abs=2e-3, rel=2e-3
    )
    assert log_std.grad.item() == pytest.approx((wide[1] - wide[0]) / 2 / step, abs=2e-3, rel=2e-3)


def test_jsd_resolves_a_gaussian_a_hundred_times_narrower_than_the_other():
    # a rule of the wide Gaussian's nodes alone would miss the narrow one; single precision, far from zero
    x = 0.9 + torch.linspace(-0.1, 0.1, 20_001, dtype=torch.float64)  # the narrow one; beside it T is alone
    s, t = (torch.full((1, 1, 1), 0.9), torch.full((1, 1, 1), math.log(0.01))), (
        torch.zeros(1, 1, 1), torch.zeros(1, 1, 1),
    )  # fmt: skip
    p_s, p_t = density(x, 0.9, math.log(0.01)), density(x, 0, 0)
    mixture = (p_s + p_t) / 2
    inside = torch.trapezoid(p_t * log_ratio(p_t, mixture) + p_s * log_ratio(p_s, mixture), x).item() / 2
    outside = (1 - torch.trapezoid(p_t, x).item()) * math.log(2) / 2
    said = between("jsd", s, t, normalised=False, floor=TINY).item()
    assert said == pytest.approx(inside + outside, abs=1e-5)


def test_the_sum_of_jsd_over_dimensions_bounds_the_joint_one():
    x = torch.linspace(-5, 5, 161, dtype=torch.float64)
    s = density(x, 0.5, 0)[:, None] * density(x, -0.3, -0.5)
    t = density(x, 0.0, -0.4)[:, None] * density(x, 0.4, 0)
    mixture = (s + t) / 2
    joint = ((s * log_ratio(s, mixture) + t * log_ratio(t, mixture)) / 2).sum().item() * (
        x[1] - x[0]
    ).item() ** 2
    parts = between("jsd", (row(0.5, -0.3), row(0, -0.5)), (row(0.0, 0.4), row(-0.4, 0)), normalised=False)
    assert 0.8 * parts.item() < joint < parts.item()


# zero, collapse


DISTANCES = [
    ("action_mse", {}), ("action_huber", {}), ("action_sigma", {}), ("action_sigma", {"root": True}),
    ("kl", {}), ("kl", {"direction": "reverse"}), ("kl", {"direction": "symmetric"}),
    ("jsd", {}), ("jsd", {"beta": 0.05}), ("jsd", {"normalised": False}),
    ("latent", {}), ("feature", {}), ("value", {}), ("value", {"form": "mse"}), ("chunk", {}),
    ("estimate", {}),
]  # fmt: skip


@given(
    case=st.sampled_from(DISTANCES), shift=st.floats(0.01, 3), seed=st.integers(0, 1000),
    sign=st.sampled_from([-1, 1]),
)  # fmt: skip
@settings(max_examples=120)
def test_a_distance_is_zero_on_the_truth_and_positive_elsewhere(case, shift, seed, sign):
    name, fields = case
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(3, 2, 4, generator=generator) * 2 - 1
    log_std = torch.rand(3, 2, 4, generator=generator) - 2
    teacher = TeacherOutput(action=truth, log_std=log_std, latent=truth, value=truth[..., 0])
    fresh = torch.ones(3, 2, dtype=torch.bool)
    batch = TensorDict({"fresh": fresh, "goal_position": truth[..., :3]}, batch_size=[3, 2])

    def at(offset):
        moved = truth + offset
        said = StudentOutput(
            action=moved, features=moved, estimates={"goal_position": moved[..., :3]}, log_std=log_std,
            latent=moved, value=moved[..., 0], chunk=moved[:, :, None], branches={"early": moved},
        )  # fmt: skip
        return loss_of(name, **fields)(said, teacher, batch)

    assert at(0.0).abs().max() < 1e-6
    assert (at(sign * shift) > 0).all()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("action_sigma", {}),
        ("kl", {}),
        ("kl", {"direction": "reverse"}),
        ("jsd", {}),
        ("nll", {}),
        ("entropy", {}),
    ],
)
@pytest.mark.parametrize("sides", [(-60.0, -1.0), (-1.0, -60.0), (-60.0, -60.0)])
def test_a_collapsed_sigma_costs_a_bounded_amount(name, fields, sides):
    mean, log_std = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), sides[0])
    mean.requires_grad_()
    log_std.requires_grad_()
    said = between(name, (mean, log_std), (torch.zeros(1, 1, 1), torch.full((1, 1, 1), sides[1])), **fields)
    said.sum().backward()
    assert abs(said.item()) < 1e4  # (0.5 / 0.01)^2 / 2 and what a sigma adds
    for leaf in (mean, log_std):
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", ["nll", "kl", "entropy"])
def test_a_sigma_below_the_floor_is_pulled_up_again(name):
    # a clamp would leave it where it is
    log_std = row(math.log(0.001)).requires_grad_()
    between(name, (row(0.5), log_std), (row(0), row(math.log(0.2)))).sum().backward()
    assert log_std.grad.item() < 0


# chunk


def chunk_loss(chunk: Tensor, action: Tensor, fresh: list[bool]) -> list[float]:
    batch = TensorDict({"fresh": torch.tensor([fresh])}, batch_size=[1, len(fresh)])
    return loss_of("chunk")(student(action, chunk=chunk), TeacherOutput(action=action), batch)[0].tolist()


LABELS = torch.tensor([0.1, 0.2, 0.3, 0.4])[None, :, None]


def test_a_chunk_is_compared_within_its_sequence_and_its_episode_only():
    said = chunk_loss(torch.zeros(1, 4, 3, 1), LABELS, [True, False, True, False])
    # (.1 + .2) / 2 | .2, then the next episode: (.3 + .4) / 2 | .4, then the sequence ends
    assert said == pytest.approx([0.15, 0.2, 0.35, 0.4])
    said = chunk_loss(torch.zeros(1, 4, 3, 1), LABELS, [False] * 4)
    assert said == pytest.approx([0.2, 0.3, 0.35, 0.4])


def test_padding_does_not_dilute_a_chunk_s_mean():
    # ACT's code divides by K everywhere: the last step would then count 1 / K
    for ahead in (1, 3, 50):
        chunk = torch.zeros(1, 4, ahead, 2)
        said = chunk_loss(chunk, torch.ones(1, 4, 2), [True, False, False, True])
        assert said == pytest.approx([1.0] * 4)


def test_what_a_chunk_says_beyond_its_episode_is_free():
    chunk = torch.zeros(1, 4, 3, 1)
    chunk[0, 1, 1:] = math.nan
    chunk[0, 3, 1:] = math.inf
    chunk.requires_grad_()
    said = loss_of("chunk")(
        student(LABELS, chunk=chunk),
        TeacherOutput(action=LABELS),
        TensorDict({"fresh": torch.tensor([[True, False, True, False]])}, batch_size=[1, 4]),
    )
    assert said[0].tolist() == pytest.approx([0.15, 0.2, 0.35, 0.4])
    said.sum().backward()
    # row t: entries k; two valid ones share the mean
    assert chunk.grad[0, :, :, 0].tolist() == [[-0.5, -0.5, 0], [-1, 0, 0], [-0.5, -0.5, 0], [-1, 0, 0]]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 10), st.integers(0, 1000))
@PROPERTY
def test_a_chunk_that_says_what_the_teacher_will_do_costs_nothing_and_other_episodes_do_not_matter(
    fresh, ahead, seed
):
    steps = len(fresh)
    action = torch.rand(1, steps, 2, generator=torch.Generator().manual_seed(seed))
    later = (torch.arange(steps)[:, None] + torch.arange(ahead)).clamp(max=steps - 1)
    chunk = action[:, later]
    assert chunk_loss(chunk, action, fresh) == [0.0] * steps
    # other labels in the last episode change nothing before it
    start = max((t for t in range(steps) if fresh[t]), default=0)
    other = action.clone()
    other[:, start:] += 1
    assert chunk_loss(chunk, other, fresh) == pytest.approx([0.0] * start + [1.0] * (steps - start))


# what is refused


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("action_mse", {"weight": -1.0}, "weight must be finite and >= 0, got -1.0"),
        ("jsd", {"weight": math.nan}, "weight must be finite and >= 0, got nan"),
        ("action_sigma", {"floor": 0.0}, "loss.action_sigma.floor must be > 0 action units, got 0.0"),
        ("nll", {"floor": math.nan}, "loss.nll.floor must be > 0 action units, got nan"),
        ("kl", {"floor": -0.1}, "loss.kl.floor must be > 0 action units, got -0.1"),
        (
            "kl", {"direction": "forwards"},
            "loss.kl.direction: no direction named 'forwards'. Did you mean 'forward'? "
            "Known: forward, reverse, symmetric",
        ),
        ("jsd", {"beta": 1.0}, "loss.jsd.beta must be > 0 and < 1, got 1.0; at 0 and 1 it is the loss kl"),
        ("jsd", {"floor": 0.0}, "loss.jsd.floor must be > 0 action units, got 0.0"),
        ("value", {"delta": 0.0}, "loss.value.delta must be > 0, got 0.0"),
        (
            "value", {"form": "hubert"},
            "loss.value.form: no form named 'hubert'. Did you mean 'huber'? Known: huber, mse",
        ),
        ("entropy", {"floor": 0.0}, "loss.entropy.floor must be > 0 action units, got 0.0"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_what_was_wanted(name, fields, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        registry.find("loss", name)(**fields)
    assert str(error.value).startswith(message)
