"""DAgger's acceptance test, one seed: `python -m tests.evidence.pendulum` runs five."""

from __future__ import annotations

import pytest

pytest.importorskip("mujoco")


@pytest.mark.slow
def test_dagger_balances_what_behaviour_cloning_of_as_many_labels_drops(tmp_path):
    from tests.evidence.pendulum import LABELS, balanced

    cloned, led = (balanced(way, 0, tmp_path / way) for way in ("bc", "dagger"))
    assert cloned["labels"] == led["labels"] == LABELS
    assert cloned["steps"] <= 50
    assert led["steps"] >= 400
