"""Every check of the doctor on hand-made inputs, at each of its levels."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from robokd.doctor import fit, plan, sight, teacher
from robokd.doctor.finding import FAIL, OK, WARN, Finding, failures, listed, summary
from robokd.doctor.plan import Costs
from robokd.doctor.probe import Alignment, Driver, Probe, Repeats, by_step
from robokd.files import free_bytes
from robokd.learn.buffer import Column
from robokd.learn.dataset import rows_of
from robokd.learning import DaggerConfig
from robokd.memory import available_mb
from robokd.specs import CameraSpec, ObsSpec, Term
from robokd.students.base import StudentOutput


def spec(group, role, *elements):
    return ObsSpec(group=group, role=role, terms=(Term(name="t", elements=elements, unit="1"),))


SPECS = {"proprio": spec("proprio", "proprio", "a"), "privileged": spec("privileged", "privileged", "b")}
CAMERAS = {"front": CameraSpec(name="front")}


def test_a_line_has_the_level_the_check_and_the_cure_if_one_is_needed():
    bad = Finding(check="x", level=FAIL, measured="0 of\n  2", cure="do it")
    assert bad.line() == "FAIL  x: 0 of 2; cure: do it"
    assert Finding(check="x", level=OK, measured="2 of 2", cure="do it").line() == "ok    x: 2 of 2"
    findings = [bad, Finding(check="y", level=WARN, measured="so so"), bad, bad]
    assert summary(findings) == "doctor: 3 FAIL, 1 warning, 0 ok: it would fail"
    assert "heed the warnings" in summary(findings[1:2])
    assert summary([]).endswith("nothing stands in the way")
    assert failures(findings) == "x: 0 of\n  2; x: 0 of\n  2; and 1 more"
    assert failures(findings[1:2]) == ""
    assert listed(list("abcdef")) == "a, b, c, d and 2 more"


def test_json_has_no_infinity():
    found = Finding(check="x", level=OK, measured="", value=math.nan, limit=math.inf).to_dict()
    assert (found["value"], found["limit"]) == (None, None)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("wins", "level"), [(0, FAIL), (1, WARN), (7, WARN), (8, OK), (10, OK)])
def test_a_teacher_that_never_succeeds_fails_and_a_poor_one_warns(wins, level):
    found = teacher.success(torch.tensor([1.0] * wins + [0.0] * (10 - wins)))
    assert (found.level, found.value) == (level, pytest.approx(wins / 10))


@pytest.mark.parametrize(
    ("groups", "cameras", "wanted"),
    [(("proprio",), ("front",), None),
     ((), ("front",), None),
     (("privileged",), (), "privileged only a simulator knows"),
     (("nose",), ("ear",), "there is no nose, ear"),
     (("proprio",), ("front", "front"), "front is named twice"),
     ((), (), "see nothing at all")],
)  # fmt: skip
def test_what_a_student_cannot_see_is_named(groups, cameras, wanted):
    found = teacher.sight(groups, cameras, SPECS, CAMERAS)
    assert (found is None) == (wanted is None)
    if found is not None:
        assert found.level == FAIL
        assert wanted in found.measured


def test_columns_that_never_change_are_named_and_those_that_are_not_finite_fail():
    rows = {"proprio": torch.tensor([[1.0, 2.0], [1.0, 3.0]]), "privileged": torch.zeros(2, 1)}
    names = {"proprio": ["q.1", "q.2"]}
    found = teacher.columns(rows, names)
    assert (found.level, found.value) == (WARN, 1)
    assert "proprio.q.1 never change" in found.measured
    rows["proprio"][0, 0] = 0.0
    assert teacher.columns(rows, names).level == OK  # that a privileged one is constant is not the student's
    rows["privileged"][0] = math.inf
    assert teacher.columns(rows, names).level == FAIL


@pytest.mark.parametrize(("far", "level"), [(0, OK), (1, OK), (2, WARN), (20, WARN), (21, FAIL)])
def test_inputs_far_from_training_warn_and_then_fail(far, level):
    normalised = torch.zeros(50, 2)  # 100 numbers
    normalised[:far, 1] = -6.0
    found = teacher.normalisers(normalised, ["a", "b"])
    assert (found.level, found.value) == (level, pytest.approx(far / 100))
    assert ("most in b" in found.measured) == (far > 0)


def test_a_teacher_without_normaliser_cannot_be_looked_into():
    found = teacher.normalisers(None, [])
    assert found.level == OK
    assert "shows no normaliser" in found.measured


@pytest.mark.parametrize(("clipped", "level"), [(5, OK), (6, WARN), (50, WARN), (51, FAIL)])
def test_labels_at_the_edge_warn_and_then_fail(clipped, level):
    labels = torch.zeros(100, 1)
    labels[:clipped] = -1.0
    assert teacher.clipping(labels).level == level
    labels[0] = math.nan
    assert teacher.clipping(labels).level == FAIL


def test_joints_whose_labels_never_move_are_named():
    labels = torch.tensor([[0.5, -0.1, 0.2], [0.5, 0.1, 0.2005]])
    found = teacher.moving(labels, ["hip", "knee", "toe"])
    assert found.level == WARN
    assert "labels of hip, toe never move" in found.measured
    assert teacher.moving(labels[:, 1:2], ["knee"]).level == OK


@pytest.mark.parametrize(
    ("again", "split", "replayed", "level"),
    [(0, 0, 0, OK), (0, 1e-7, 0, OK), (1e-7, 0, 0, WARN), (0, 0, 1e-7, WARN), (0, 1e-3, 0, FAIL),
     (0.1, 0, 0, FAIL), (0, 0, 0.1, FAIL)],
)  # fmt: skip
def test_a_teacher_must_say_the_same_of_the_same(again, split, replayed, level):
    assert teacher.determinism(Repeats(again=again, split=split, replayed=replayed)).level == level


@pytest.mark.parametrize(
    ("wrong", "unlike", "resets", "level"), [(0, 0, 3, OK), (0, 0, 0, WARN), (1, 0, 3, FAIL), (0, 1, 3, FAIL)]
)
def test_a_label_of_another_step_fails(wrong, unlike, resets, level):
    found = teacher.alignment(Alignment(labels=10, wrong=wrong, unlike=unlike, resets=resets))
    assert found.level == level
    assert f"{10 - wrong} of 10" in found.measured


def settings(**dagger):
    return SimpleNamespace(dagger=DaggerConfig(**dagger), num_envs=10, seed=0, runs="runs", threads=2)


COSTS = Costs(
    columns={"front": Column(shape=(1, 90), dtype=np.dtype(np.uint8)),
             "label": Column(shape=(1, 5), dtype=np.dtype(np.int16))},
    collect_s=0.01, fit_s=0.5, peak_mb=100.0,
)  # fmt: skip


def test_a_data_set_that_does_not_fit_says_the_largest_that_does():
    # 4 rounds of 20 frames of 100 B, and as many again for a round of slack: 100 rows, 10 000 B
    config = settings(rounds=4, steps_per_round=2, checkpoint_every=1)
    assert plan.disk(config, COSTS, 1, free=12_000).level == OK
    found = plan.disk(config, COSTS, 1, free=10_000)
    assert (found.level, found.value, found.limit) == (FAIL, 10_000, 9_000)
    assert "dagger.capacity=70 would fit" in found.cure  # (9 000 - 2 000) / 100
    assert "no capacity fits" in plan.disk(config, COSTS, 1, free=1000).cure
    fitting = plan.disk(
        settings(rounds=4, steps_per_round=2, checkpoint_every=1, capacity=70), COSTS, 1, 10_000
    )
    assert fitting.level == OK


def test_rows_of_many_steps_count_in_frames():
    found = plan.disk(settings(rounds=4, steps_per_round=4, checkpoint_every=1), COSTS, 2, free=10**6)
    assert found.value == 100 * 100  # 80 rows and 20 of slack, of 100 B
    assert "200 frames of 50 B" in found.measured


def test_little_memory_warns():
    assert plan.memory(settings(batch_size=10), COSTS, 1, available_mb=126).level == OK
    assert plan.memory(settings(batch_size=10), COSTS, 1, available_mb=124).level == WARN


def test_the_time_is_that_of_all_rounds():
    config = settings(rounds=4, steps_per_round=2, gradient_steps=3, evaluate_every=3, evaluate_episodes=5)
    # 80 frames and 12 gradient steps; two validations of 5 episodes of 10 steps
    assert plan.wall_time(config, COSTS, 1, horizon=10).value == pytest.approx(0.8 + 6 + 1)
    assert [plan.spoken(s) for s in (89, 120, 7200)] == ["89 s", "2 min", "2.0 h"]


def test_memory_and_disk_of_this_machine_are_found(tmp_path):
    assert free_bytes(tmp_path / "not" / "there") > 0
    assert available_mb() > 0


@pytest.mark.parametrize(
    ("r2", "level"), [(None, OK), (0.9, OK), (0.5, OK), (0.49, WARN), (-3.0, WARN), (math.nan, WARN)]
)
def test_a_term_that_is_hardly_seen_warns(r2, level):
    assert sight.recoverable("goal", r2, 0.1, 7).level == level


def test_a_blank_camera_fails_and_one_that_hardly_changes_warns():
    images = np.zeros((3, 1, 10, 10), np.uint8)
    assert sight.pictures(images, "front", is_depth=True).level == FAIL
    images[:] = 7  # a wall
    assert sight.pictures(images, "front", is_depth=True).level == FAIL
    images[0, 0, 0, :4] = 0
    found = sight.pictures(images, "front", is_depth=True, clean=0.5)
    assert (found.level, found.value) == (WARN, pytest.approx(0.96))
    assert "98.7% of the pixels hit (50.0% without corruption), 1.3% missing" in found.measured
    images[1, 0, 1] = 9
    assert sight.pictures(images, "front", is_depth=True).level == OK


def test_the_pixels_of_a_colour_camera_change_in_any_channel():
    images = np.zeros((2, 3, 1, 2), np.uint8)
    images[1, 2] = 5
    found = sight.pictures(images, "eye", is_depth=False)
    assert (found.level, found.value) == (OK, 0)
    assert "hit" not in found.measured


def needed(errors, planned=10**9, label_std=1.0, frames=(100, 200, 400)):
    return sight.frames_needed(frames, errors, label_std, trivial=2.0, planned=planned)


def test_frames_follow_a_power_law():
    # error 4 n^-1/2 falls from 0.2 at 400 to 0.1 at 1600
    errors = [4 / math.sqrt(n) for n in (100, 200, 400)]
    assert sight.slopes([100, 200, 400], errors) == pytest.approx([0.5] * 3)
    found = needed(errors)
    assert (found.level, found.value) == (OK, pytest.approx(1600))
    assert "roughly 1,600 frames, 800 to 3,200" in found.measured
    assert needed(errors, planned=700).level == WARN


def test_frames_are_never_a_failure_and_a_flat_curve_tells_nothing():
    for errors in ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6], [3.0, 2.5, 2.1], [0.9, 0.899, 0.898]):
        found = needed(errors, planned=1)
        assert found.level == OK
        assert "cannot tell" in found.measured
    assert "the probe does" in needed([0.3, 0.2, 0.05]).measured
    assert "cannot tell" in needed([0.5, 0.4, 0.3], label_std=0.0).measured
    assert "cannot tell" in needed([0.5, 0.4, 0.3], frames=(8, 8, 16)).measured


def test_a_bent_curve_has_a_wide_range():
    found = needed([1.0, 0.5, 0.49])
    assert "more than" in found.measured


def test_r_squared_is_0_for_the_mean_and_1_for_the_truth():
    truth = torch.tensor([[1.0], [3.0]])
    mean = torch.tensor([2.0])
    assert fit.r_squared(truth, truth, mean) == 1
    assert fit.r_squared(mean.expand(2, 1), truth, mean) == 0
    assert fit.r_squared(truth.flip(0), truth, mean) == pytest.approx(-3)  # 1 - 8 / 2
    assert math.isnan(fit.r_squared(truth[:0], truth[:0], mean))


def test_rows_come_back_in_the_order_of_time():
    steps = [
        TensorDict({"label": torch.tensor([[10.0 * k], [10.0 * k + 1]])}, batch_size=[2]) for k in range(4)
    ]
    rows = rows_of(steps, [TensorDict({}, batch_size=[2])] * 2, 2)
    assert by_step(rows["label"], 2)[:, :, 0].tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]


class Still:
    """A student of one number, that says 0."""

    inputs, targets = ("x",), {"y": 1}

    def initial_state(self, count):
        return TensorDict({}, batch_size=[count])

    def forward(self, obs, state):
        zero = torch.zeros(len(obs), 1)
        return StudentOutput(action=zero, features=zero, estimates={}), state


def test_every_second_environment_is_misled_by_its_neighbour():
    live = SimpleNamespace(
        step=torch.zeros(4, dtype=torch.int64), episode_id=torch.arange(4),
        draws=SimpleNamespace(normal=lambda name, episode, step, size: torch.zeros(len(episode), size)),
    )  # fmt: skip
    guide = SimpleNamespace(act=lambda obs: obs["x"])
    driver = Driver(Still(), guide, live)
    obs = TensorDict({"x": torch.tensor([[0.1], [0.2], [0.3], [2.0]])}, batch_size=[4])
    assert driver.act(obs)[:, 0].tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3])
    assert len(driver.sent) == 1


def line_probe():
    """Rows whose term y is 2 x + 1 and whose z is noise; a quarter is held out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, 1, generator=generator)
    z = torch.randn(400, 1, 1, generator=generator)
    rows = TensorDict({"x": x, "y": 2 * x + 1, "z": z}, batch_size=[400])
    number = torch.arange(400)
    return Probe(
        rows=rows, held_out=(number % 4 == 1)[:, None], misled=number % 2 == 1, place=number / 400,
        targets=("y", "z"), alignment=Alignment(labels=0, wrong=0, unlike=0, resets=0),
    )  # fmt: skip


def test_a_linear_guess_finds_what_is_linear_and_nothing_else():
    probe = line_probe()
    found = fit.linear_r2(probe, ("x",))
    assert found["y"] > 0.999
    assert abs(found["z"]) < 0.1
    assert fit.linear_r2(probe, ()) == {"y": 0, "z": 0}


def test_smaller_shares_are_nested_and_nothing_held_out_is_learned_from():
    probe = line_probe()
    few, all_rows = (set(fit.trained_rows(probe, share).tolist()) for share in (0.25, 1.0))
    assert few < all_rows
    assert len(all_rows) == 300
    assert not any(number % 4 == 1 for number in all_rows)
    assert max(few) < 100
