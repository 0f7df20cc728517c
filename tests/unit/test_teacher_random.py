"""The untrained teacher: what its control rests on."""

import pytest
import torch

from robokd import UserError
from robokd.teachers.random import RandomCfg
from tests.unit.teacher_samples import Room, rows


def test_its_seed_alone_decides_what_it_says():
    torch.manual_seed(0)
    first = RandomCfg().open(Room())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again, other = RandomCfg().open(Room()), RandomCfg(seed=1).open(Room())
    assert torch.equal(torch.get_rng_state(), before)  # the student's first weights do not depend on it
    assert again.sha256() == first.sha256() != other.sha256()
    assert not torch.allclose(again.act(rows(8)), other.act(rows(8)), atol=0.05)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_its_actions_are_of_a_useful_scale_whatever_the_observations_are(scale):
    action = torch.cat([RandomCfg(seed=seed).open(Room()).act(rows(256, scale)) for seed in range(8)])
    assert 0.15 < action.abs().mean() < 0.7
    assert (action.abs() == 1).float().mean() < 0.3
    assert action.std(0).min() > 0.1  # and they depend on what it is shown


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"gain": 0.0}, "teacher.gain must be > 0, got 0.0"),
        ({"hidden": ()}, r"teacher.hidden must be one layer or more of >= 1 units, got \[\]"),
        ({"groups": ()}, "teacher=random reads no groups: set teacher.groups. Known: proprio, privileged"),
        ({"groups": ("proprioo",)}, "no observation group named 'proprioo'. Did you mean 'proprio'"),
    ],
)
def test_a_mistake_says_what_is_wanted(fields, told):
    with pytest.raises((ValueError, UserError), match=told):
        RandomCfg(**fields).open(Room())
