"""An iteration of learning stays on the device: nobody waits for it, and a GPU finds what a CPU finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from drift import Drift, drifting
from torch import Tensor

from robokd.draws import Draws
from robokd.learn import rollout
from robokd.learn.means import Means
from robokd.learn.pupil import build_student
from robokd.students.base import StudentPolicy
from tests.host_sync import HostSyncError, no_host_sync

IMITATES = ("loss=[action_huber,estimate]", "loss.estimate.terms=[goal]")
BY_PRIORITY = ("loss=[action_mse,nll]", "student.gaussian=true", "dagger.sampling=priority")
REMEMBERS = ("loss=[action_huber]", "student=cnn_gru", "student.units=8", "dagger.sequence=4")
SPOILT = ("loss=[action_huber]", "dagger.acting.per=step", "dagger.acting.gap=0.3", "dagger.acting.noise=0.1")
REINFORCED = ("loss=[ppo,action_huber]", "student.gaussian=true", "loss.action_huber.gated=true")
TWIN = ("teacher=twin", "loss=[ppo,kl]", "student.gaussian=true", "student=history", "dagger.sequence=4")
OTHER = Path(__file__).parent / "other_device.py"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def engine_in(folder: Path, device: str, *words: str):
    """Return an engine whose data set goes into a folder."""
    engine = drifting(device, *words)
    engine.run = SimpleNamespace(path=folder)
    return engine


@contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse what would wait for a device, but for draws: a CPU has a way of its own, without tensors."""

    def free(way: Callable) -> Callable:
        def drawn(*args: object) -> Tensor:
            with guard.paused():
                return way(*args)

        return drawn

    with monkeypatch.context() as patch, no_host_sync() as guard:
        for name in ("bits", "uniforms"):
            patch.setattr(Draws, name, free(getattr(Draws, name)))
        yield


def learned(engine, number: int) -> Means:
    """Return the means of a round's gradient steps, which nobody has read yet."""
    rewards = engine.rewards
    return engine._fit(number, 1e-3) if rewards is None else engine._reinforce(rewards, number)


@pytest.mark.parametrize("words", [IMITATES, BY_PRIORITY, REMEMBERS, SPOILT, REINFORCED, TWIN])
def test_an_iteration_asks_the_device_for_nothing(tmp_path, words, monkeypatch, capsys):
    engine = engine_in(tmp_path, "cpu", *words)
    for number in range(2):  # constants are made, and the ring has come round
        engine._collect(0.5)
        learned(engine, number)
    with guarded(monkeypatch):
        driven = engine._collect(0.5)
        means = learned(engine, 2)
    assert 0 <= driven.item() <= 1
    assert all(map(torch.isfinite, map(torch.tensor, means.values().values())))


def test_the_guard_sees_that_rows_in_files_are_of_the_host(tmp_path, monkeypatch, capsys):
    engine = engine_in(tmp_path, "cpu", "loss=[action_huber]", "dagger.store=disk")
    engine._collect(0.5)
    with pytest.raises(HostSyncError, match="numpy would wait for the device"), guarded(monkeypatch):
        engine._collect(0.5)


def test_where_rows_are_held_changes_nothing_that_is_learned(tmp_path, capsys):
    ways = []
    for store in ("disk", "device"):
        engine = engine_in(tmp_path / store, "cpu", *BY_PRIORITY, f"dagger.store={store}")
        for number in range(3):
            engine._collect(0.5)
            learned(engine, number)
        ways.append(engine.student.state_dict())
    assert all(torch.equal(ways[0][name], ways[1][name]) for name in ways[0])


@pytest.mark.parametrize(
    "words", [IMITATES, pytest.param(BY_PRIORITY, marks=pytest.mark.slow), REINFORCED,
              pytest.param(TWIN, marks=pytest.mark.slow)],
)  # fmt: skip
def test_all_of_an_iteration_is_on_the_learner_s_device(words):
    done = subprocess.run(
        [sys.executable, OTHER, *words], capture_output=True, text=True, timeout=300, cwd=OTHER.parents[2]
    )
    assert done.stdout.splitlines()[-1:] == ["nobody waited"], done.stderr[-2000:]


@pytest.mark.parametrize("every", [1, 16])
def test_a_device_that_is_looked_at_now_and_then_finds_the_same_outcomes(monkeypatch, every):
    engine = drifting("cpu", "loss=[action_huber]")
    found = []
    for often in (1, every):
        monkeypatch.setattr(rollout, "look_every", lambda device, often=often: often)
        env = Drift(4, "cpu")
        found.append(rollout.rollout(env, StudentPolicy(engine.student, 4), 6))
    one, other = found
    assert torch.equal(one.success, other.success)
    assert torch.equal(one.returns, other.returns)
    assert torch.equal(one.steps, other.steps)
    assert other.env_steps % (4 * every) == 0
    assert 0 <= other.env_steps - one.env_steps < 4 * every


# on a GPU


def _on_host(rows):
    return {name: value.cpu() for name, value in rows.items()}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("words", [IMITATES, BY_PRIORITY, REMEMBERS, SPOILT, REINFORCED, TWIN])
def test_a_gpu_learns_what_a_cpu_learns_and_nobody_waits_for_it(tmp_path, words, capsys):
    """The same pictures but for single codes, the same labels, losses and weights, within rounding."""
    weights, losses = [], []
    for device in ("cpu", "cuda"):
        engine = engine_in(tmp_path / device, device, *words, "student.bfloat16=false")
        engine._collect(1.0)
        losses.append(engine._learn(0, 1e-3))
        with no_host_sync():
            engine._collect(0.0)
            learned(engine, 1)
        weights.append(_on_host(engine.student.state_dict()))
        assert {value.device.type for value in engine.student.parameters()} == {device}
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_in_bfloat16_learns_nearly_what_one_in_float32_learns(tmp_path, capsys):
    losses = []
    for number in (False, True):
        words = (*IMITATES, f"student.bfloat16={str(number).lower()}")
        engine = engine_in(tmp_path / str(number), "cuda", *words)
        engine._collect(1.0)
        losses.append(engine._learn(0, 1e-3)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.gpu
@needs_gpu
def test_rows_on_disk_reach_a_gpu_as_they_are(tmp_path, capsys):
    stores = ("device", "disk")
    held, read = (engine_in(tmp_path / one, "cuda", *IMITATES, f"dagger.store={one}") for one in stores)
    for engine in (held, read):
        engine._collect(1.0)
    numbers = torch.arange(len(held.data.buffer))
    left, right = held.data.buffer.rows(numbers.cuda()), read.data.buffer.rows(numbers)
    assert all(torch.equal(left[name], right[name]) for name in left.keys())  # noqa: SIM118


@pytest.mark.gpu
@needs_gpu
def test_a_student_is_built_with_the_same_weights_on_a_gpu():
    made = []
    for device in ("cpu", "cuda"):
        engine = drifting(device, *IMITATES)
        torch.manual_seed(3)
        made.append(_on_host(build_student(engine.config, engine.env).state_dict()))
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
