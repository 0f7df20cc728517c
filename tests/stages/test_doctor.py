"""The doctor says before the hours what would go wrong, and leaves nothing but its report."""

from __future__ import annotations

import json

import pytest

from robokd.cli import main
from robokd.doctor import fit

SMALL = ["frames=256", "episodes=8", "threads=1", "num_envs=16", "dagger.batch_size=32"]
SCRIPTED = ["doctor", "task=reach", "teacher=scripted", *SMALL]
BLIND = [*SCRIPTED, "student=mlp", "cameras=[]"]
ORDER = [
    "teacher success", "observation groups", "normalisers", "action clipping", "action scale", "determinism",
    "label alignment", "disk", "memory", "time", "recoverable goal_position", "recoverable tip_position",
    "recoverable goal_from_tip", "frames needed", "pictures front", "losses",
]  # fmt: skip
OF_THE_MACHINE = ("disk", "memory", "time")


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make fits short, where it does not matter what they find."""
    monkeypatch.setattr(fit, "GRADIENT_STEPS", 8)


def report(tmp_path, capsys, *words):
    """Run a doctor and return its exit code, its findings by check, and what it printed on stderr."""
    out = tmp_path / "doctor.json"
    code = main([*words, f"out={out}", f"runs={tmp_path / 'runs'}"])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(out)
    assert [path.name for path in tmp_path.iterdir()] == ["doctor.json"]  # no run folder
    found = json.loads(out.read_text())
    assert found["stage"] == "doctor"
    for one, line in zip(found["findings"], printed.out.splitlines(), strict=False):
        assert set(one) == {"check", "level", "measured", "value", "limit", "cure"}
        assert line.startswith(f"{one['level']:<4}  {one['check']}: ")
    return code, {one["check"]: one for one in found["findings"]}, printed.err


def test_a_good_teacher_passes_every_check_in_order_and_twice_the_same(tmp_path, capsys):
    words = [*SCRIPTED, "student.channels=[4,4]", "student.keypoints=4"]
    code, first, err = report(tmp_path, capsys, *words)
    assert (code, err) == (0, "")
    assert list(first) == ORDER
    assert first["teacher success"]["level"] == "ok"
    assert first["label alignment"]["value"] == 0
    assert not any(one["level"] == "FAIL" for one in first.values())
    _, second, _ = report(tmp_path, capsys, *words)
    for check in set(ORDER) - set(OF_THE_MACHINE):
        assert first[check] == second[check]


def test_without_a_report_the_last_line_is_the_summary(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(BLIND) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].startswith("doctor: 0 FAIL, ")
    assert "buffer:" not in printed.out
    assert not list(tmp_path.iterdir())


def test_a_blind_student_is_told_that_the_goal_is_not_to_be_seen(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit, "GRADIENT_STEPS", 200)
    code, found, _ = report(tmp_path, capsys, *BLIND, "frames=2048")
    assert code == 0
    assert found["recoverable goal_position"]["level"] == "warn"
    assert found["recoverable tip_position"]["level"] == "ok"  # its joints tell
    assert found["pictures"]["measured"] == "the student has no camera"


def test_a_teacher_that_never_succeeds_is_a_failure_and_the_rest_is_still_looked_at(chain, tmp_path, capsys):
    words = ["doctor", f"parent={chain['teach']}", *SMALL, "student=mlp", "cameras=[]"]
    code, found, err = report(tmp_path, capsys, *words)
    assert code == 2
    assert found["teacher success"]["level"] == "FAIL"
    assert found["losses"]["level"] == "ok"
    assert "sigma" in found["normalisers"]["measured"]
    assert err.startswith("error: distill would fail: teacher success: 0.00 of 8 validation episodes")
    assert err.count("\n") == 1


def test_a_task_without_variety_skips_what_never_changes(tmp_path, capsys):
    still = ["task.azimuth_rad=0", "task.radius_m=[0.5,0.5]", "task.height_m=[0.3,0.3]", "task.start_rad=0",
             "task.stiffness=[1,1]", "task.camera_shift_m=0", "task.camera_tilt_rad=0",
             "task.joint_noise_rad=0"]  # fmt: skip
    code, found, _ = report(tmp_path, capsys, *BLIND, *still)
    assert code == 0
    assert "never changes" in found["recoverable goal_position"]["measured"]


def test_losses_that_do_not_fit_and_a_data_set_that_is_too_large_are_findings(tmp_path, capsys):
    huge = ["dagger.rounds=100000000", "dagger.capacity=1000000000000"]
    code, found, err = report(tmp_path, capsys, *BLIND, *huge, "loss=[action_huber,latent]")
    assert code == 2
    assert found["losses"]["level"] == found["disk"]["level"] == "FAIL"
    assert "loss=latent needs latent" in found["losses"]["measured"]
    assert "dagger.capacity=" in found["disk"]["cure"]
    assert "disk: " in err
    assert "losses: " in err


def test_a_term_that_neither_teacher_nor_student_reads_can_be_estimated_as_in_the_stage(tmp_path, capsys):
    code, found, _ = report(tmp_path, capsys, *BLIND, "loss.estimate.terms=[stiffness,held,goal_position]")
    assert code == 0
    assert found["losses"]["level"] == "ok"
    # and its seven numbers and the other's one are in the rows that the disk is held to
    _, without, _ = report(tmp_path, capsys, *BLIND, "loss.estimate.terms=[goal_position]")
    each = [int(one["disk"]["measured"].split(" B:")[0].split()[-1]) for one in (found, without)]
    assert each[0] - each[1] == 4 * (7 + 1)


@pytest.mark.parametrize(
    ("words", "check", "wanted"),
    [(["student=mlp"], "student", "reads no pictures, and 'front' is a camera"),
     (["groups=[privileged]"], "observation groups", "privileged only a simulator knows"),
     (["cameras=[nose]"], "observation groups", "there is no nose"),
     (["student=mlp", "cameras=[]", "loss.estimate.terms=[x]"], "losses", "no privileged term named 'x'"),
     (["student=mlp", "cameras=[]", "dagger.validation_share=0.999"], "a round", "leaves none of the")],
)  # fmt: skip
def test_what_the_stage_would_refuse_is_a_finding(words, check, wanted, tmp_path, capsys):
    code, found, _ = report(tmp_path, capsys, *SCRIPTED, "frames=64", *words)
    assert code == 2
    assert found[check]["level"] == "FAIL"
    assert wanted in found[check]["measured"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(["parent={distill}"], "is a distill run; doctor works on the run of a teach stage"),
     (["parent={teach}", "task.joint_step_rad=0.03"], "does not fit this task: action.scale"),
     (["parent={teach}", "episode=3"], "doctor has no key 'episode'. Did you mean 'episodes'"),
     (["parent={teach}", "frames=0"], "frames must be >= 1, got 0"),
     (["parent={teach}", "out=no/x.json"], "cannot write no/x.json: there is no folder no"),
     (["student=mlp"], "doctor needs parent=…")],
)  # fmt: skip
def test_a_mistake_is_one_line(words, wanted, chain, tmp_path, capsys):
    words = [word.format(**chain) for word in words]
    assert main(["doctor", *words, "episodes=4", f"runs={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert wanted in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_without_checkpoint_is_refused(chain, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("lineage.json", "config.yaml"):
        (run / name).write_bytes((chain["teach"] / name).read_bytes())
    assert main(["doctor", f"parent={run}"]) == 2
    assert "has no best checkpoint" in capsys.readouterr().err
