"""Who acts while a student is taught."""

from __future__ import annotations

import pytest
import torch

from robokd.draws import Draws
from robokd.learn.acting import executed
from robokd.learning import ActingConfig

COUNT, ACTIONS = 4000, 3
EPISODE, STEP = torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.int64)
LABEL, SAID = torch.full((COUNT, ACTIONS), 0.5), torch.full((COUNT, ACTIONS), -0.5)


def act(settings: ActingConfig, share: float, said=SAID, step=STEP):
    return executed(settings, share, LABEL, said, Draws(0, "train"), EPISODE, step)


@pytest.mark.parametrize("per", ["episode", "step"])
def test_nobody_acts_but_the_teacher_at_1_and_nobody_but_the_student_at_0(per):
    settings = ActingConfig(per=per)
    assert torch.equal(act(settings, 1.0)[0], LABEL)
    assert torch.equal(act(settings, 0.0)[0], SAID)


@pytest.mark.parametrize("per", ["episode", "step"])
def test_the_teacher_drives_its_share(per):
    actions, driven = act(ActingConfig(per=per), 0.3)
    assert driven.float().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(actions, torch.where(driven[:, None], LABEL, SAID))


def test_by_episode_one_hand_drives_it_whole_and_by_step_not():
    for per, changes in (("episode", False), ("step", True)):
        settings = ActingConfig(per=per)
        first, later = (act(settings, 0.5, step=STEP + k)[1] for k in (0, 7))
        assert torch.equal(first, later) is not changes


def test_an_episode_changes_hands_once_while_the_share_falls():
    settings = ActingConfig()
    driven = torch.stack([act(settings, share)[1] for share in (1.0, 0.7, 0.4, 0.1, 0.0)])
    assert (driven[1:] <= driven[:-1]).all()


def test_the_student_acts_only_while_it_is_near_the_teacher():
    said = LABEL.clone()
    said[: COUNT // 2, 1] += 0.3
    actions, driven = act(ActingConfig(gap=0.2), 0.0, said)
    assert driven[: COUNT // 2].all()
    assert not driven[COUNT // 2 :].any()
    assert torch.equal(actions[: COUNT // 2], LABEL[: COUNT // 2])


def test_noise_goes_on_what_the_teacher_sends_within_the_limits_and_not_on_the_student():
    settings = ActingConfig(noise=0.3)
    before = LABEL.clone()
    actions, driven = act(settings, 0.5)
    assert (actions[driven] - LABEL[driven]).std() == pytest.approx(0.26, abs=0.04)  # clipped at 1
    assert actions.abs().max() <= 1
    assert torch.equal(actions[~driven], SAID[~driven])
    assert torch.equal(LABEL, before)


def test_who_acts_does_not_depend_on_how_many_there_are():
    few = executed(
        ActingConfig(noise=0.1), 0.5, LABEL[:5], SAID[:5], Draws(0, "train"), EPISODE[:5], STEP[:5]
    )
    many = act(ActingConfig(noise=0.1), 0.5)
    assert torch.equal(few[0], many[0][:5])
    assert torch.equal(few[1], many[1][:5])
