"""A log that is replayed says what it said, bit for bit, and every difference is found and named."""

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from robokd.sim2real.deploy import deploy
from robokd.sim2real.log import Log, Tick
from robokd.sim2real.log_reader import Episode, Recording, read_log
from robokd.sim2real.policy import Decision, Policy
from robokd.sim2real.replay import compare, difference, replay
from robot_samples import camera_spec, graph, make_bundle

from robokd import UserError
from robokd.cli import main
from robokd.config import compose
from robokd.export.sight import statistics
from robokd.run import Run

COUNT = 6


def vector(generator) -> np.ndarray:
    return generator.standard_normal(2).astype(np.float32)


def deployed(tmp_path, bundle, *, change=lambda tick: tick, close=True) -> Path:
    """A deploy run of two episodes whose policy is the bundle's, with a log in which ticks may be changed."""
    run = Run.create(
        tmp_path / "runs", task="tiny", stage="deploy", config={}, seed=0,
        parents=[{"path": str(bundle.path), "sha256": bundle.sha256}],
    )  # fmt: skip
    log = Log(run.path / "log.mcap", {"task": "tiny", "bundle_sha256": bundle.sha256, "robot": "mujoco"})
    policy, generator = Policy(bundle), np.random.default_rng(0)
    for number in range(1, COUNT + 1):
        if number in (1, 4):
            policy.begin()
            log.episode(0.01 * number, number // 4)
        channels = {name: vector(generator) for name in ("joint_pos", "joint_vel", "joint_target")}
        channels["front"] = generator.integers(0, 255, (1, 3, 4), np.uint8)
        anchor, rate = vector(generator), vector(generator)
        log.tick(change(Tick(
            begun_s=0.01 * number, episode=number // 4, number=number, channels=channels, anchor=anchor,
            captured_s=dict.fromkeys(channels, 0.01 * number), rate=rate,
            decision=policy.act(channels, anchor, rate, time.monotonic),
        )))  # fmt: skip
    log.close() if close else log.flush()
    return run.path


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "a.robokd")


def words(tmp_path, log, *more):
    return [f"log={log}", f"runs={tmp_path / 'runs'}", *more]


def nudged(tick, by=1e-7):
    """The same tick whose third command is another in its last bit or so."""
    if tick.number != 3:
        return tick
    command = tick.decision.command.copy()
    command[1] += np.float32(by)
    return dataclasses.replace(tick, decision=dataclasses.replace(tick.decision, command=command))


def test_a_replay_proves_equal_actions_by_the_bundle_that_the_run_names(tmp_path, bundle, capsys):
    run = deployed(tmp_path, bundle)
    assert main(["replay", *words(tmp_path, run)]) == 0
    path = Path(capsys.readouterr().out.strip())
    summary = json.loads(path.read_text())
    assert summary["equal"] is True
    assert summary["ticks"] == COUNT
    assert summary["hash_logged"] == summary["hash_replayed"] == read_log(run / "log.mcap").actions_sha256
    assert summary["first_difference"] is None
    assert summary["log_is_whole"] is True
    parents = Run.open(path.parent).lineage["parents"]
    assert [Path(parent["path"]).name for parent in parents] == ["log.mcap", "a.robokd"]


def test_a_log_of_its_own_is_replayed_by_the_bundle_that_is_named(tmp_path, bundle):
    alone = tmp_path / "alone.mcap"
    shutil.copy(deployed(tmp_path, bundle) / "log.mcap", alone)
    with pytest.raises(UserError, match="lies in no run that would name its bundle; say it with bundle="):
        replay(compose("replay", words(tmp_path, alone)))
    path = replay(compose("replay", words(tmp_path, alone, f"bundle={bundle.path}")))
    assert json.loads(path.read_text())["equal"] is True


def test_a_difference_in_the_last_bits_is_told_in_one_line_after_the_summary(tmp_path, bundle, capsys):
    run = deployed(tmp_path, bundle, change=nudged)
    assert main(["replay", *words(tmp_path, run)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "does not replay: command of tick 3 differs by" in said[0]
    (path,) = (tmp_path / "runs").glob("*_replay_*/summary.json")
    summary = json.loads(path.read_text())
    assert summary["equal"] is False
    assert summary["hash_logged"] != summary["hash_replayed"]
    first = summary["first_difference"]
    assert (first["tick"], first["episode"], first["output"]) == (3, 0, "command")
    assert 0 < first["by"] < 1e-6
    assert str(path) in said[0]


def test_another_bundle_is_refused_by_its_hash_and_leaves_no_run(tmp_path, bundle):
    run = deployed(tmp_path, bundle)
    other = make_bundle(tmp_path / "other.robokd", data=graph(step=0.002))
    with pytest.raises(UserError) as caught:
        replay(compose("replay", words(tmp_path, run, f"bundle={other.path}")))
    assert bundle.sha256 in str(caught.value)
    assert f"{other.path} has {other.sha256}" in str(caught.value)
    assert not list((tmp_path / "runs").glob("*_replay_*"))


def test_a_bundle_that_is_gone_or_was_exchanged_is_refused(tmp_path, bundle):
    run = deployed(tmp_path, bundle)
    make_bundle(bundle.path, data=graph(step=0.002))
    with pytest.raises(UserError, match="was made with a bundle of sha256"):
        replay(compose("replay", words(tmp_path, run)))
    bundle.path.unlink()
    with pytest.raises(
        UserError,
        match=rf"was made with a bundle that is not at {bundle.path} \(seen from here, .*: bundle=…$",
    ):
        replay(compose("replay", words(tmp_path, run)))


def test_a_bundle_is_found_from_where_the_run_lies_whatever_folder_replay_is_begun_in(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    monkeypatch.chdir(old)
    run = deployed(old, make_bundle(Path("a.robokd")))
    monkeypatch.chdir(new)
    make_bundle(Path("a.robokd"), data=graph(step=0.002))  # of the same name, and another
    summary = json.loads(replay(compose("replay", words(tmp_path, run))).read_text())
    assert summary["equal"] is True
    assert Path(summary["bundle"]) == old / "a.robokd"


def test_a_log_that_was_cut_is_replayed_up_to_there_and_says_so(tmp_path, bundle, capsys):
    run = deployed(tmp_path, bundle, close=False)
    path = replay(compose("replay", words(tmp_path, run)))
    assert "was cut" in capsys.readouterr().err
    summary = json.loads(path.read_text())
    assert (summary["log_is_whole"], summary["equal"], summary["ticks"]) == (False, True, COUNT)


def test_a_log_without_ticks_proves_nothing(tmp_path, bundle):
    run = deployed(tmp_path, bundle)
    Log(run / "log.mcap", {"bundle_sha256": bundle.sha256}).close()
    with pytest.raises(UserError, match="holds no ticks"):
        replay(compose("replay", words(tmp_path, run)))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("front", None, "tick 1 has no 'front', which the policy reads"),
        ("front", np.zeros((1, 4, 3), np.uint8), r"'front' of tick 1 is uint8 of shape \(1, 4, 3\)"),
        ("joint_pos", np.zeros(3, np.float32), r"'joint_pos' of tick 1 is float32 of shape \(3,\)"),
    ],
)
def test_a_log_of_other_channels_is_refused_by_name(tmp_path, bundle, name, value, said):
    def change(tick):
        channels = {**tick.channels, name: value} if value is not None else dict(tick.channels)
        captured = dict(tick.captured_s)
        if value is None:
            del channels[name], captured[name]
        return dataclasses.replace(tick, channels=channels, captured_s=captured)

    run = deployed(tmp_path, bundle, change=change)
    with pytest.raises(UserError, match=said):
        replay(compose("replay", words(tmp_path, run)))


def test_the_policy_s_memory_is_emptied_where_it_was_when_the_log_was_made(tmp_path, bundle):
    found = read_log(deployed(tmp_path, bundle) / "log.mcap")
    assert found.episodes == [
        Episode(begun_s=pytest.approx(0.01), number=0, tick=0),
        Episode(begun_s=pytest.approx(0.04), number=1, tick=3),
    ]

    class Counting:
        """Says what the log says, and counts."""

        def __init__(self) -> None:
            self.calls, self.place = [], 0

        def begin(self):
            self.calls.append("begin")

        def act(self, channels, anchor, rate, clock):
            self.calls.append("act")
            self.place += 1
            return found.ticks[self.place - 1].decision

    policy = Counting()
    assert compare(found, policy) == (None, found.actions_sha256)
    assert policy.calls == ["begin", *["act"] * 3, "begin", *["act"] * 3]


def test_a_difference_names_the_first_output_and_its_size(tmp_path, bundle):
    (tick, *_) = read_log(deployed(tmp_path, bundle) / "log.mcap").ticks
    was = tick.decision
    other = dataclasses.replace(was, action=was.action + np.float32(0.5))
    assert difference(was, was) is None
    assert difference(was, other) == {"output": "action", "by": pytest.approx(0.5, abs=1e-6)}
    # equal as numbers, but not bit for bit
    zero = dataclasses.replace(was, action=np.float32([0, 0]))
    assert difference(zero, dataclasses.replace(was, action=np.float32([0, -0.0]))) == {
        "output": "action",
        "by": 0.0,
    }
    broken = dataclasses.replace(was, command=np.float32([np.nan, 0]))
    assert difference(was, broken) == {"output": "command", "by": None}
    assert difference(broken, broken) is None
    guess = dataclasses.replace(was, estimates={"target": np.zeros(3, np.float32)})
    assert difference(guess, was) == {"output": "target", "by": None}


def test_a_recording_without_marks_is_replayed_as_one_episode(tmp_path, bundle):
    found = read_log(deployed(tmp_path, bundle) / "log.mcap")
    bare = Recording(path=found.path, ticks=found.ticks)
    assert compare(bare, Policy(bundle)) == (None, found.actions_sha256)


def still(number) -> Tick:
    """A tick of a robot that stands still."""
    channels = {"joint_pos": np.float32([0.1, -0.1]), "joint_vel": np.float32([0, 0])}
    channels |= {"joint_target": channels["joint_pos"], "front": np.full((1, 3, 4), number % 7, np.uint8)}
    at = 10 + 0.01 * number
    return Tick(
        begun_s=at, episode=0, number=number, channels=channels, captured_s=dict.fromkeys(channels, at),
        anchor=channels["joint_pos"], rate=channels["joint_vel"],
        decision=Decision(
            command=channels["joint_pos"], action=channels["joint_vel"], estimates={}, inference_s=0.0
        ),
    )  # fmt: skip


def test_the_whole_runtime_runs_on_a_log_and_what_it_logs_replays(tmp_path):
    # the budgets of the tiny bundle are those of a machine that does nothing else
    seen = np.stack([still(number).channels["front"] for number in range(1, 201)])
    bundle = make_bundle(
        tmp_path / "a.robokd", ages_s={"proprio": 1.0, "front": 1.0},
        statistics={"front": statistics(seen, camera_spec(), np.arange(200) // 40, flickers=False)},
    )  # fmt: skip
    log = Log(tmp_path / "still.mcap", {"task": "tiny", "bundle_sha256": bundle.sha256, "robot": "mujoco"})
    log.episode(10.0, 0)
    for number in range(1, 201):
        log.tick(still(number))
    log.close()
    said = [f"bundle={bundle.path}", "robot=replay", f"robot.log={tmp_path / 'still.mcap'}", "duration_s=0.5"]
    config = compose("deploy", [*said, "mismatch=warn", "guard.late=5", f"runs={tmp_path / 'runs'}"])
    path = deploy(config)
    summary = json.loads(path.read_text())
    assert (summary["robot"], summary["ticks"], summary["stop_reason"]) == ("replay", 50, "end")
    found = read_log(path.parent / "log.mcap")
    assert found.is_whole
    assert all(
        tick.channels["joint_pos"].tolist() == np.float32([0.1, -0.1]).tolist() for tick in found.ticks
    )
    assert len({int(tick.channels["front"][0, 0, 0]) for tick in found.ticks}) > 3
    assert found.sents
    again = replay(compose("replay", words(tmp_path, path.parent)))
    assert json.loads(again.read_text())["hash_replayed"] == summary["actions_sha256"]
