"""What pictures that are unlike training's lead to, before the robot moves and while it does."""

import threading
import time

import numpy as np
import pytest
from robokd.sim2real.board import Board
from robokd.sim2real.lookout import Lookout
from robokd.sim2real.robot import Frame
from robokd.sim2real.safety import SafetyStop
from robokd.sim2real.senses import Reading
from robot_samples import make_bundle

from robokd import UserError

IMAGE = np.full((1, 3, 4), 128, np.uint8)


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "a.robokd")


@pytest.fixture
def frozen(bundle):
    """A board on which one picture is shown again and again, as a simulated camera without noise does."""
    board, done = Board(bundle.cameras), threading.Event()

    def show():
        while not done.wait(0.01):
            board.write(Frame(camera="front", captured_s=time.monotonic(), image=IMAGE))

    thread = threading.Thread(target=show)
    thread.start()
    yield board
    done.set()
    thread.join()
    board.close()


def of_wire(bundle, mismatch, monkeypatch):
    """Of a robot at the other end of a wire, of whose pictures only the noise is judged."""
    from robokd.sim2real import lookout, sight

    monkeypatch.setattr(lookout, "BURST_S", 0.3)
    for check in ("_blind", "_rate", "_unit", "_missing", "_unlike"):
        monkeypatch.setattr(sight, check, lambda *_: [])
    return Lookout(bundle, mismatch, is_simulated=False)


def test_a_picture_that_is_repeated_stops_what_is_strict(bundle, frozen, monkeypatch):
    with pytest.raises(UserError, match=r"front: frozen: .* To go on all the same: mismatch=warn"):
        of_wire(bundle, "stop", monkeypatch).inspect(frozen, None)


def test_a_picture_that_is_repeated_is_only_warned_of_where_a_person_says_so(
    bundle, frozen, monkeypatch, capsys
):
    lookout = of_wire(bundle, "warn", monkeypatch)
    lookout.inspect(frozen, None)
    assert "warning: camera front: frozen: got" in capsys.readouterr().err
    assert [one.kind for one in lookout.findings] == ["frozen"]


def see_the_same(lookout, times=400):
    lookout.begin()
    for number in range(times):
        lookout.see(Reading(
            channels={"front": IMAGE}, captured_s={"front": 0.0}, read_s=0.0, numbers={"front": number},
            anchor=np.zeros(2), rate=np.zeros(2),
        ))  # fmt: skip


def test_a_camera_that_freezes_on_the_way_stops_what_is_strict_and_else_is_counted(
    bundle, monkeypatch, capsys
):
    from robokd.sim2real.monitor import Monitor

    monkeypatch.setattr(Monitor, "is_frozen", property(lambda self: self._repeats > 100))
    monkeypatch.setattr("robokd.export.sight.Sight.distances", lambda self, images: np.zeros(len(images)))
    lookout = of_wire(bundle, "warn", monkeypatch)
    see_the_same(lookout)
    assert capsys.readouterr().err == "warning: camera front is frozen\n"
    assert lookout.report()["mismatches"] == {"front": 1}
    with pytest.raises(SafetyStop, match="mismatch: camera front is frozen; mismatch=warn would only count"):
        see_the_same(of_wire(bundle, "stop", monkeypatch))
