"""The data set of a distillation: rows of steps in the order of time, priorities, held-out episodes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from robokd import UserError
from robokd.draws import Draws
from robokd.learn.buffer import columns_of, planned_bytes
from robokd.learn.dataset import EPISODE, FRESH, LABEL, MEMORY, DataSet, rows_of
from robokd.learn.priorities import Priorities, drawn, priority
from robokd.learning import DaggerConfig

ENVS = 3


def steps_of(first: int, count: int) -> list[TensorDict]:
    """Steps whose label says (time, environment); an episode of environment e lasts 4 + e steps."""
    found = []
    for time in range(first, first + count):
        env = torch.arange(ENVS)
        label = torch.stack([torch.full((ENVS,), float(time)), env.float()], -1)
        length = 4 + env
        fields = {LABEL: label, EPISODE: 10 * env + time // length, FRESH: time % length == 0}
        found.append(TensorDict(fields, batch_size=[ENVS]))
    return found


def memories_of(first: int, count: int, length: int) -> list[TensorDict]:
    times = range(first, first + count, length)
    return [TensorDict({"h": torch.full((ENVS, 2), float(time))}, batch_size=[ENVS]) for time in times]


@settings(max_examples=30)
@given(st.sampled_from([1, 2, 4]), st.integers(1, 5))
def test_every_step_of_every_environment_stands_in_one_row_in_the_order_of_time(length, count):
    rows = rows_of(steps_of(0, count * length), memories_of(0, count * length, length), length)
    assert rows[LABEL].shape == (count * ENVS, length, 2)
    time, env = rows[LABEL].unbind(-1)
    assert (time[:, 1:] == time[:, :-1] + 1).all()
    assert (env == env[:, :1]).all()
    assert len({(t, e) for t, e in rows[LABEL].flatten(0, 1).tolist()}) == count * length * ENVS
    assert torch.equal(rows[MEMORY + "h"][:, 0], time[:, 0])  # the memory is that before the first step


def open_set(tmp_path, length=1, rounds=20, **changes) -> DataSet:
    data = DataSet(
        DaggerConfig(steps_per_round=4, rounds=rounds, checkpoint_every=1, sequence=length, **changes),
        Draws(0, "train"), ENVS, length,
    )  # fmt: skip
    data.open(tmp_path, rows_of(steps_of(0, 4), memories_of(0, 4, length), length))
    return data


def fill(data: DataSet, rounds: int) -> None:
    for number in range(rounds):
        steps, memories = steps_of(4 * number, 4), memories_of(4 * number, 4, data.length)
        data.add(rows_of(steps, memories, data.length))


@pytest.mark.parametrize("length", [1, 2, 4])
def test_held_out_episodes_are_whole_and_never_learned_from(tmp_path, length, capsys):
    data = open_set(tmp_path, length, validation_share=0.3)
    fill(data, 20)
    rows = data.buffer.rows(torch.arange(len(data.buffer)))
    held = data.is_held_out(rows)
    assert 0 < held.float().mean() < 1
    inside, outside = set(rows[EPISODE][held].tolist()), set(rows[EPISODE][~held].tolist())
    assert not inside & outside
    for chosen in data.batches(0, 20):
        assert (~held[chosen]).any(1).all()
    data.check_learnable()
    assert set(rows[EPISODE][data.held_out()][held[data.held_out()]].tolist()) <= inside


def test_all_held_out_is_refused(tmp_path, capsys):
    data = open_set(tmp_path, validation_share=0.999)
    fill(data, 1)
    (chosen,) = data.batches(0, 1)
    assert data.is_held_out(data.buffer.rows(chosen)).all()  # drawn all the same: the device cannot refuse
    with pytest.raises(UserError, match=r"validation_share=0.999 leaves none of the 12 frames to learn from"):
        data.check_learnable()


def test_as_many_frames_as_a_round_has_are_on_policy(tmp_path, capsys):
    data = open_set(tmp_path, capacity=4 * ENVS)
    fill(data, 5)
    assert data.buffer.rows(torch.arange(len(data.buffer)))[LABEL][..., 0].min() == 16


def test_a_batch_counts_frames_and_not_rows(tmp_path, capsys):
    data = open_set(tmp_path, 4, batch_size=32)
    fill(data, 3)
    assert [len(chosen) for chosen in data.batches(0, 3)] == [8] * 3


def test_priorities_are_drawn_in_proportion(tmp_path, capsys):
    data = open_set(tmp_path, sampling="priority", priority_power=1.0, validation_share=0.0)
    fill(data, 2)
    everything = torch.arange(len(data.buffer))
    weights = everything.float() + 1
    data.priorities.update(everything, weights)
    chosen = torch.cat(list(data.batches(0, 400)))
    share = torch.bincount(chosen, minlength=len(everything)) / len(chosen)
    assert torch.allclose(share, weights / weights.sum(), atol=0.004)


def test_new_rows_come_with_the_greatest_priority_and_a_ring_forgets_the_oldest():
    known = Priorities(4)
    known.add(0, 3)
    known.update(torch.tensor([0, 1, 2]), torch.tensor([0.2, 5.0, 0.1]))
    known.add(3, 2)  # row 4 takes the place of row 0
    assert known.values.tolist() == pytest.approx([2.0, 5.0, 0.1, 2.0])


def test_a_row_counts_where_the_student_needs_it_and_the_teacher_is_sure():
    label = torch.zeros(3, 2, 4)
    said = label.clone()
    said[1:] += 0.5
    log_std = torch.full((3, 2, 4), -3.0)
    log_std[2] = 0.5
    everywhere = torch.ones(3, 2, dtype=torch.bool)
    needed, sure, unsure = priority(said, label, log_std, everywhere).tolist()
    assert needed == 0
    assert sure > 2 * unsure > 0
    assert priority(said, label, None, everywhere)[1] == pytest.approx(0.5)


def test_steps_that_are_held_out_make_no_row_more_important():
    label = torch.zeros(1, 2, 4)
    said = label.clone()
    said[:, 1] = 0.7
    assert priority(said, label, None, torch.tensor([[True, False]])).item() == 0


def test_no_row_is_forgotten_before_it_was_seen(tmp_path):
    known, rows = Priorities(4096), torch.arange(4096)
    known.add(0, 4096)
    seen = torch.zeros(4096, dtype=torch.bool)
    for lots in Draws(0, "train").uniform("batch", torch.zeros(80, dtype=torch.int64), torch.arange(80), 256):
        chosen = drawn(known.chances(rows, 0.6).cumsum(0), lots)
        seen[chosen] = True
        known.update(chosen, torch.full((256,), 0.3))
    assert (~seen).sum() < 40  # drawn uniformly, about 28 would be left


def test_what_does_not_fit_the_disk_is_refused_with_what_would(tmp_path, monkeypatch, capsys):
    import shutil
    from types import SimpleNamespace

    like = rows_of(steps_of(0, 4), memories_of(0, 4, 2), 2)
    row_bytes = sum(value[0].nbytes for value in like.values())
    settings = DaggerConfig(steps_per_round=4, rounds=1000, checkpoint_every=1, sequence=2, capacity=4000)
    free = 1000 * row_bytes  # 2000 rows and the slack of a round are wanted
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(
        UserError, match=r"the data set needs .* GB are free on disk; what fits: dagger.capacity="
    ) as error:
        DataSet(settings, Draws(0, "train"), ENVS, 2).open(tmp_path, like)
    assert list(tmp_path.iterdir()) == []  # nothing was begun, nor is a run's folder needed to ask
    with pytest.raises(UserError, match=r"what fits: dagger\.capacity="):
        DataSet(settings, Draws(0, "train"), ENVS, 2).check_room(tmp_path / "runs" / "buffer", like)
    fits = int(str(error.value).rpartition("=")[2])
    assert 1700 < fits < 1800  # frames: 900 rows of two steps, less the slack
    again = DaggerConfig(steps_per_round=4, rounds=1000, checkpoint_every=1, sequence=2, capacity=fits)
    DataSet(again, Draws(0, "train"), ENVS, 2).open(tmp_path, like)


def test_what_does_not_fit_the_memory_is_refused_where_rows_are_held_in_it(tmp_path, monkeypatch):
    like = rows_of(steps_of(0, 4), memories_of(0, 4, 2), 2)
    mb = sum(value[0].nbytes for value in like.values()) * 1000 / 2**20  # a thousand rows of two steps
    monkeypatch.setattr("robokd.learn.dataset.available_mb", lambda device: mb)
    for store in ("disk", "device"):
        settings = DaggerConfig(steps_per_round=4, rounds=1000, sequence=2, capacity=4000, store=store)
        data = DataSet(settings, Draws(0, "train"), ENVS, 2)
        if store == "disk":
            data.check_room(tmp_path, like, "cpu")
            continue
        with pytest.raises(UserError, match=r"free in the memory of cpu; what fits: dagger\.capacity="):
            data.check_room(tmp_path, like, "cpu")


@pytest.mark.parametrize(
    ("store", "device", "wanted_mb", "is_held"),
    [
        ("auto", "cpu", 1, False),  # the cache of the files is memory already
        ("auto", "cuda", 59, True), ("auto", "cuda", 61, False),  # of 100 MiB that are free
        ("device", "cpu", 1, True), ("device", "cuda", 99, True), ("disk", "cuda", 1, False),
    ],
)  # fmt: skip
def test_a_gpu_with_room_holds_the_rows_unasked(monkeypatch, store, device, wanted_mb, is_held):
    monkeypatch.setattr("robokd.learn.dataset.available_mb", lambda device: 100)
    data = DataSet(DaggerConfig(store=store), Draws(0, "train"), ENVS, 1)
    assert data.is_held(wanted_mb * 2**20, device) == is_held


def test_batches_follow_from_seed_and_round_and_are_drawn_evenly(tmp_path, capsys):
    data = open_set(tmp_path, validation_share=0.0, batch_size=64)
    fill(data, 6)
    rows = len(data.buffer)
    drawn_in = [torch.stack(list(data.batches(number, 50))) for number in (0, 0, 1)]
    assert torch.equal(drawn_in[0], drawn_in[1])
    assert not torch.equal(drawn_in[0], drawn_in[2])
    share = torch.bincount(drawn_in[0].flatten(), minlength=rows) / drawn_in[0].numel()
    assert (share * rows - 1).abs().max() < 0.6  # 44 draws of each row, four standard deviations
    assert len({tuple(batch.tolist()) for batch in drawn_in[0]}) == 50


def test_a_million_depth_pictures_take_no_more_than_their_bytes_and_a_twentieth():
    steps = 16 * 256
    settings = DaggerConfig(capacity=1_000_000, rounds=1000)
    one = {
        LABEL: torch.zeros(1, 7), EPISODE: torch.zeros(1, dtype=torch.int64), "proprio": torch.zeros(1, 21),
        FRESH: torch.zeros(1, dtype=torch.bool), "front": torch.zeros(1, 1, 64, 64, dtype=torch.uint8),
    }  # fmt: skip
    rows = rows_of([TensorDict(one, batch_size=[1])], [TensorDict({}, batch_size=[1])], 1)
    slack = settings.checkpoint_every * steps  # rows that a resume counts on
    assert planned_bytes(columns_of(rows), settings.capacity + slack) <= 4.3e9 * 1.05
