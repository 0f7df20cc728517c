"""What every teacher that labels must do, whatever it is. A new one needs a sample in teacher_samples.py."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robokd import UserError, registry
from robokd.teachers.base import OFFERS
from tests.unit.teacher_samples import Room, rows, samples

LABELLING = [name for name in registry.names("teacher") if hasattr(registry.find("teacher", name), "open")]
PROGRAM = """if True:
    import json, sys
    from robokd import registry
    from tests.unit.teacher_samples import Room
    made = json.loads(sys.stdin.read())
    cfgs = {name: registry.find("teacher", name)(**fields) for name, fields in made.items()}
    print(json.dumps({name: cfg.open(Room()).sha256() for name, cfg in cfgs.items()}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return samples(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(params=LABELLING)
def cfg(request, made):
    assert request.param in made, f"tests/unit/teacher_samples.py has no sample of teacher={request.param}"
    return registry.find("teacher", request.param)(**made[request.param])


@pytest.fixture
def teacher(cfg):
    return cfg.open(Room())


def test_labelling_changes_neither_the_teacher_nor_what_it_is_shown(teacher):
    obs, before = rows(8), teacher.sha256()
    shown = obs.clone()
    said = teacher.label(obs)
    teacher.act(rows(8, 100.0))
    teacher.reset(torch.ones(8, dtype=torch.bool))
    assert teacher.sha256() == before
    assert (obs == shown).all()
    for name in ("action", *teacher.offers):
        assert not getattr(said, name).requires_grad


def words_in(value):
    """Yield all text in a configuration."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from words_in(one)


def test_a_teacher_names_every_file_that_it_is_read_from(cfg):
    files = [word for word in words_in(dataclasses.asdict(cfg)) if word and Path(word).is_file()]
    assert sorted(getattr(cfg, "files", tuple)()) == sorted(files)


def test_the_same_rows_get_the_same_labels_however_they_are_batched(teacher):
    obs = rows(13)
    whole = teacher.label(obs)
    for sizes in ([1] * 13, [5, 8]):
        parts = [teacher.label(part) for part in obs.split(sizes)]
        for name in ("action", *teacher.offers):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.allclose(joined, getattr(whole, name), atol=1e-6), name
    assert torch.equal(teacher.label(obs).action, whole.action)
    assert torch.equal(teacher.act(obs), whole.action)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_labels_are_within_the_range_of_actions(teacher, scale):
    action = teacher.label(rows(32, scale)).action
    assert action.shape == (32, 2)
    assert action.dtype == torch.float32
    assert action.abs().max() <= 1


def test_a_teacher_says_all_that_it_offers_and_nothing_else(teacher):
    said = teacher.label(rows(5))
    assert set(teacher.offers) <= set(OFFERS)
    for name in OFFERS:
        value = getattr(said, name)
        assert (value is not None) == (name in teacher.offers), name
        if value is not None:
            assert torch.isfinite(value).all()
            assert len(value) == 5
    if said.log_std is not None:
        assert said.log_std.shape == (5, 2)
    if said.value is not None:
        assert said.value.shape == (5,)


def test_a_teacher_reads_only_the_groups_that_it_asks_for(cfg, teacher):
    asked = cfg.reads(Room().task)
    assert set(teacher.inputs) <= set(asked)
    obs = rows(3)
    assert torch.equal(teacher.act(obs.select(*teacher.inputs)), teacher.act(obs))


def test_a_teacher_keeps_its_hash_in_another_process(made):
    here = {name: registry.find("teacher", name)(**made[name]).open(Room()).sha256() for name in LABELLING}
    asked = json.dumps({name: made[name] for name in LABELLING})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=asked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == here
    assert len(set(here.values())) == len(here)


@pytest.mark.parametrize("name", LABELLING)
def test_a_teacher_that_was_told_nothing_says_in_one_line_what_it_needs(name):
    cfg = registry.find("teacher", name)()
    if not any(word in vars(cfg) for word in ("path", "members")):
        pytest.skip("it needs no telling")
    with pytest.raises(UserError, match=f"teacher={name} needs teacher.") as caught:
        cfg.open(Room())
    assert "\n" not in str(caught.value)
