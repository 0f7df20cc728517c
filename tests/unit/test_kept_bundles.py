"""The bundles that come with the repository: small, and what this runtime deploys."""

from __future__ import annotations

from pathlib import Path

import pytest
from robokd.sim2real.policy import Policy

from robokd.export.bundle import read_bundle

KEPT = sorted((Path(__file__).parents[2] / "results" / "bundles").glob("*.robokd"))
LARGEST_BYTES = 1_000_000  # of a tiny student's


def test_there_are_bundles():
    assert KEPT


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_bundle_is_small_and_runs_here(path):
    assert path.stat().st_size <= LARGEST_BYTES
    bundle = read_bundle(path)
    assert bundle.manifest["task"] == path.stem
    Policy(bundle)  # repeats the proof of the export


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_bundle_knows_its_success_and_no_folder_of_whoever_made_it(path):
    manifest = read_bundle(path).manifest
    assert "/tmp" not in str(manifest)
    assert "/home" not in str(manifest)
    assert manifest["lineage"]
