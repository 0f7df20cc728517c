"""Processes of torchrun that learn one policy together end as one process does, however many go on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robokd import UserError
from robokd.cli import main
from robokd.learn import ranks
from robokd.learn.dataset import DataSet
from robokd.run import Run

ROOT = Path(__file__).parents[2]
WORLD = ("task=hidden_goal", "plugins=[tests.worlds.hidden_goal]")
CUT = "plugins=[tests.worlds.hidden_goal,tests.worlds.cut_off]"
DISTILL = (
    "distill", *WORLD, "cameras=[]", "threads=2", "num_envs=16", "dagger.rounds=4",
    "dagger.steps_per_round=8", "dagger.evaluate_every=2", "dagger.evaluate_episodes=16",
    "dagger.gradient_steps=8", "dagger.batch_size=32", "dagger.validation_share=0.3",
    "dagger.stop_retention=9", "dagger.capacity=200", "dagger.checkpoint_every=1",
)  # fmt: skip
# of one mini-batch: of more, each process has rows of its own in each
PPO = (
    *WORLD, "threads=2", "num_envs=16", "teacher.iterations=4", "teacher.steps_per_iteration=8",
    "teacher.evaluate_every=2", "teacher.evaluate_episodes=8", "teacher.hidden=[16]",
    "teacher.critic_hidden=[16]", "teacher.mini_batches=1", "teacher.critic_warmup=1",
)  # fmt: skip
WAYS = {
    "dagger by priority": [
        *DISTILL, "student=mlp", "teacher=scripted", "loss=[action_mse]", "dagger.sampling=priority",
    ],
    "reward and twin": [
        *DISTILL, "student=mlp", "teacher=twin", "loss=[ppo,kl]", "student.gaussian=true",
        "dagger.acting.share=0.5",
    ],
    "teach": ["teach", *PPO, "teacher.imitate=2", "teacher.critic_groups=[proprio,privileged]"],
    "teach a code": ["teach", *PPO, "teacher.latent=2", "teacher.critic_groups=[proprio,privileged]"],
    "refine": [
        "refine", *PPO, "teacher.critic_groups=[base_action,proprio,privileged]", "parent=<student>",
    ],
}  # fmt: skip
COSTS = ("env_steps", "teacher_labels", "grad_samples", "frames_rendered")


def start(processes: int, words: list[str], more: tuple[str, ...] = ()) -> subprocess.Popen:
    """Begin robokd in one process, or in several by torchrun, which takes `more`."""
    several = ["-m", "torch.distributed.run", *(more or ("--standalone",)), f"--nproc-per-node={processes}"]
    command = [sys.executable, *(several if processes > 1 or more else []), "-m", "robokd", *words]
    settings = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> str:
    """Return what a process says on stdout until it ends, which it does well."""
    said, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints[-2000:]
    return said


def only_run(root: Path) -> Run:
    """Return the run in a folder, of which there is one however many processes made it."""
    (path,) = root.iterdir()
    return Run.open(path)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    """Return a small student that remembers, to be refined."""
    root = tmp_path_factory.mktemp("student")
    own = (
        "student=cnn_gru",
        "student.units=8",
        "student.hidden=[16]",
        "dagger.sequence=4",
        "dagger.rounds=2",
    )
    assert main([*DISTILL, *own, "teacher=scripted", "loss=[action_mse]", f"runs={root}"]) == 0
    return str(only_run(root).path)


@pytest.fixture(scope="module")
def by_one(tmp_path_factory, student) -> Callable[[str], Run]:
    """Return what gives the run that one process makes in a way."""
    made: dict[str, Run] = {}

    def find(way: str) -> Run:
        if way not in made:
            root = tmp_path_factory.mktemp("one")
            ended(start(1, words_of(way, student, root)))
            made[way] = only_run(root)
        return made[way]

    return find


def words_of(way: str, student: str, root: Path) -> list[str]:
    return [*(word.replace("<student>", student) for word in WAYS[way]), f"runs={root}"]


def tensors(value: object, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in tensors(item, f"{path}/{key}").items()}
    return {path: value} if isinstance(value, torch.Tensor) and value.dtype != torch.uint8 else {}


def check_same(one: Run, other: Run) -> None:
    """Both end with the same weights, worlds, random state, counts, metrics and costs, but for rounding."""
    single, shared = one.load_checkpoint("last"), other.load_checkpoint("last")
    torch.testing.assert_close(tensors(shared), tensors(single), atol=1e-4, rtol=1e-4)
    assert torch.equal(single["rng"], shared["rng"])
    assert shared["totals"].keys() == single["totals"].keys()
    for name, value in single["totals"].items():
        assert shared["totals"][name] == pytest.approx(value), name
    for left, right in zip(one.metrics(), other.metrics(), strict=True):
        assert left.keys() == right.keys()
        for name in left:
            if not name.startswith("time/"):
                assert right[name] == pytest.approx(left[name], abs=1e-5), name
    assert [one.read_summary()[name] for name in COSTS] == [other.read_summary()[name] for name in COSTS]


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            way, marks=[pytest.mark.slow] if way in ("reward and twin", "teach", "teach a code") else []
        )
        for way in WAYS
    ],
)
def test_two_processes_end_as_one_does(way, by_one, student, tmp_path):
    said = ended(start(2, words_of(way, student, tmp_path)))
    shared = only_run(tmp_path)
    assert said.splitlines()[-1] == str(shared.path / "summary.json")
    assert said.count("summary.json") == 1
    check_same(by_one(way), shared)


@pytest.mark.parametrize(
    ("way", "before", "after"),
    [
        ("dagger by priority", 2, 1),
        pytest.param("refine", 1, 2, marks=pytest.mark.slow),
        pytest.param("dagger by priority", 1, 2, marks=pytest.mark.slow),
        pytest.param("reward and twin", 2, 1, marks=pytest.mark.slow),
        pytest.param("teach", 2, 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_goes_on_in_another_number_of_processes(
    way, before, after, by_one, student, tmp_path
):
    # held on the device, rows reach their files where there is a checkpoint, or other processes read them
    held = ["dagger.store=device"] if way == "dagger by priority" else []
    cut = start(before, [*words_of(way, student, tmp_path), *held, CUT])
    cut.communicate(timeout=300)
    killed = only_run(tmp_path)
    assert cut.returncode != 0
    assert killed.checkpoint_step() < by_one(way).checkpoint_step()
    ended(start(after, ["resume", f"run={killed.path}", CUT]))
    check_same(by_one(way), killed)
    assert not list(killed.path.glob("buffer*"))


def test_two_machines_that_each_hold_their_own_rows_end_as_one_process_does(by_one, student, tmp_path):
    way = "dagger by priority"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [
        start(
            1,
            words_of(way, student, tmp_path),
            ("--nnodes=2", f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}"),
        )
        for number in (0, 1)
    ]
    for agent in agents:
        ended(agent)
    shared = only_run(tmp_path)
    check_same(by_one(way), shared)
    assert shared.load_checkpoint("last")["machines"] == 2
    assert not list(shared.path.glob("buffer*"))


def test_every_row_of_a_batch_is_learned_from_by_one_process_of_the_machine_that_holds_it(monkeypatch):
    world, here, total = 4, 2, 8
    rows = DataSet.__new__(DataSet)
    rows._num_envs = total
    rows._buffer = type("Rows", (), {"written": 40, "__len__": lambda self: 24})()
    chosen = torch.tensor([0, 3, 3, 5, 6, 7, 11, 12, 20, 23])  # of the rows 16 … 39
    monkeypatch.setattr(ranks, "world", lambda: world)
    monkeypatch.setattr(ranks, "here", lambda: here)
    parts = []
    for number in range(world):
        monkeypatch.setattr(ranks, "rank", lambda number=number: number)
        parts.append(rows.own_part(chosen))
        # environments 0 … 3 are those of machine 0
        assert ((chosen[parts[-1]] % total) // 4 == number // here).all()
    assert torch.cat(parts).sort().values.tolist() == list(range(len(chosen)))
    with pytest.raises(UserError, match="a batch of 3 rows cannot be shared by 4 processes"):
        rows.own_part(chosen[:3])


def test_worlds_are_divided_among_any_number_of_processes_and_counts_stay_what_they_are(monkeypatch):
    whole = {"sim": {"qpos": torch.arange(12).view(6, 2)}, "step": torch.arange(6), "counts": [7, 5, 0]}
    for world in (1, 2, 3):
        monkeypatch.setattr(ranks, "world", lambda world=world: world)
        parts = []
        for number in range(world):
            monkeypatch.setattr(ranks, "rank", lambda number=number: number)
            parts.append(ranks.divided(whole))
        assert {len(part["step"]) for part in parts} == {6 // world}
        monkeypatch.setattr(ranks, "collected", lambda _, parts=parts: parts)
        again = ranks.joined({})
        assert again["counts"] == whole["counts"]
        assert torch.equal(again["sim"]["qpos"], whole["sim"]["qpos"])
        assert torch.equal(again["step"], whole["step"])


def test_what_cannot_be_shared_is_refused(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(ranks, "world", lambda: 2)
        with pytest.raises(
            UserError, match="num_envs=15 cannot be shared by 2 processes: it must be a multi"
        ):
            ranks.share(15, "num_envs")
    for name, value in (("WORLD_SIZE", 3), ("RANK", 2), ("GROUP_RANK", 1), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(
        UserError, match="device=cuda:0 is one for 2 processes; device=cuda gives each its own"
    ):
        ranks.join("cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(UserError, match="1 processes on this machine and not as many on another"):
        ranks.join("cpu")
    assert main(["look", "task=reach", f"out={tmp_path / 'sheet.png'}"]) == 2
    assert (
        "torchrun has started 3 processes; only teach with teacher=ppo, distill and"
        in capsys.readouterr().err
    )
