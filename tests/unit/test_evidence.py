"""The table of evidence: intervals of one seed and of several, and what nobody has run."""

from __future__ import annotations

from pathlib import Path

import pytest

from robokd import evidence
from robokd.cli import main
from robokd.files import to_json, write_atomic
from robokd.intervals import student_t
from tests.evidence.table import fill, written

COMMAND = "python -m tests.evidence.suite swing"


def row(way, seed, rate, **more):
    space = {"rate": rate, "lo": rate - 0.03, "hi": rate + 0.02, "episodes": 256}
    costs = {"frames_rendered": 81_920, "teacher_labels": 40_960, "wall_s": 61.4}
    return {"way": way, "seed": seed, "seen": space, "unseen": space, "unseen_all": space, **costs, **more}


@pytest.fixture
def folder(tmp_path):
    rows = [
        row("teacher", 0, 0.97),
        *(
            row("dagger", seed, rate, camera_use={"blank": 0.25})
            for seed, rate in enumerate((0.9, 0.92, 0.94))
        ),
    ]
    write_atomic(tmp_path / "suite_swing.json", to_json({"command": COMMAND, "rows": rows}))
    return tmp_path


def test_one_seed_has_the_interval_of_its_episodes_and_several_that_of_seeds(folder):
    cells = {line[1]: line for line in evidence.lines(folder)}
    assert cells["teacher"][3] == "0.970 [0.940, 0.990]"
    mean, low, high = student_t([0.9, 0.92, 0.94])
    assert cells["dagger"][2:4] == ("0, 1, 2", f"{mean:.3f} [{low:.3f}, {high:.3f}]")
    assert cells["dagger"][6:10] == ("0.25", "82 k", "41 k", "61 s")


def test_what_nobody_ran_is_an_empty_line_with_its_command(folder):
    cells = {line[1]: line for line in evidence.lines(folder)}
    assert cells["refined"][3] == f"not run: `{COMMAND} ways=refined`"
    assert set(cells["refined"][4:]) == {""}


def test_students_interval_is_that_of_the_tables():
    # three values of spread 0.02: 4.303 * 0.02 / sqrt(3)
    assert student_t([0.9, 0.92, 0.94]) == pytest.approx((0.92, 0.92 - 0.04969, 0.92 + 0.04969), abs=1e-5)
    with pytest.raises(ValueError, match="2 to 10 values, got 1"):
        student_t([0.5])


@pytest.mark.parametrize("name", ["table.md", "table.html"])
def test_report_makes_the_table_of_a_folder(folder, tmp_path, name, capsys):
    assert main(["report", f"runs=[{folder}]", f"out={tmp_path / name}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / name)
    text = (tmp_path / name).read_text()
    assert "0.970 [0.940, 0.990]" in text
    assert ("| swing | teacher |" in text) == name.endswith(".md")


def test_a_file_that_is_no_table_is_refused_in_a_line(tmp_path, capsys):
    write_atomic(tmp_path / "suite_swing.json", to_json({"rows": [{"way": "dagger"}]}))
    assert main(["report", f"runs=[{tmp_path}]", f"out={tmp_path / 'a.md'}"]) == 2
    error = capsys.readouterr().err
    assert "suite_swing.json" in error
    assert "Traceback" not in error


def test_the_readme_has_the_table_of_what_was_measured():
    root = Path(__file__).parents[2]
    said = (root / "README.md").read_text().split("<!-- evidence -->\n")[1].split("<!-- /evidence -->")[0]
    assert said == evidence.markdown(root / "results")


def test_seeds_that_are_alike_by_chance_have_the_interval_of_their_episodes(folder, tmp_path):
    rows = [row("dagger", seed, 1.0) for seed in range(3)]
    write_atomic(tmp_path / "suite_swing.json", to_json({"command": COMMAND, "rows": rows}))
    cells = {line[1]: line for line in evidence.lines(tmp_path)}
    assert cells["dagger"][3] == "1.000 [0.995, 1.000]"  # Wilson: 1 / (1 + 1.96^2 / 768)


def test_two_that_fill_one_table_leave_each_others_rows_and_make_none_again(tmp_path):
    out, made = str(tmp_path / "rows.json"), []

    def found(way, seed, runs):
        made.append((way, seed))
        if way == "dagger":  # another fills the table while this one measures
            fill(out, COMMAND, [("bc", 0)], found, goes_on=True)
        return {"seen": seed}

    for _ in range(2):
        fill(out, COMMAND, [("teacher", 0), ("dagger", 0)], found, goes_on=True)
    assert made == [("teacher", 0), ("dagger", 0), ("bc", 0)]
    assert [row["way"] for row in written(out)] == ["teacher", "bc", "dagger"]


def test_a_table_that_does_not_go_on_is_made_anew(tmp_path):
    out = str(tmp_path / "rows.json")
    for rate in (0.1, 0.2):
        fill(out, COMMAND, [("dagger", 0)], lambda way, seed, runs, rate=rate: {"rate": rate})
    assert [row["rate"] for row in written(out)] == [0.2]
