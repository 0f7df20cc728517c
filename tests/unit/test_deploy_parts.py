"""What a deployment does before and beside its loop, without a robot."""

import socket
import subprocess
import sys
import threading

import pytest
from robokd.sim2real import deploy as module
from robokd.sim2real.board import Board
from robokd.sim2real.deploy import EYES, deploy, open_log, wait_for
from robokd.sim2real.eyes import READY
from robokd.sim2real.process import Process
from robot_samples import make_bundle

from robokd import UserError
from robokd.config import compose
from robokd.run import Run


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "a.robokd")


class Link:
    """A guard that is listened to and says nothing."""

    heard = 0

    def listen(self):
        self.heard += 1


class Eyes:
    """A camera process that gives up when a test lets it."""

    def __init__(self):
        self.is_over = False

    def is_alive(self):
        return not self.is_over

    def fate(self, patience_s=1.0):
        return "the camera process exited with 2; the last it said: no picture of camera front on rt/nope"


def test_cameras_are_waited_for_until_they_are_open_or_have_given_up():
    ours, theirs = socket.socketpair()
    eyes, link = Eyes(), Link()
    threading.Timer(0.3, theirs.send, (READY,)).start()
    wait_for(eyes, ours, link)
    assert link.heard > 2
    threading.Timer(0.2, setattr, (eyes, "is_over", True)).start()
    why = "the cameras cannot be opened: .*; the last it said: no picture of camera front on rt/nope$"
    with pytest.raises(UserError, match=why):
        wait_for(eyes, ours, link)


def test_a_camera_process_says_a_mistake_in_its_last_line_and_no_more(bundle):
    ours, theirs = socket.socketpair()
    board = Board(bundle.cameras)
    words = [f"bundle={bundle.path}", "robot=mujoco", "sha256=" + "0" * 64]
    eyes = Process("camera process", EYES, [str(board.descriptor), str(theirs.fileno()), "-1", *words],
                   [board.descriptor, theirs.fileno()])  # fmt: skip
    theirs.close()
    try:
        with pytest.raises(UserError) as caught:
            wait_for(eyes, ours, Link())
    finally:
        eyes.end(5.0)
        board.close()
    assert "exited with 2; the last it said: " in str(caught.value)
    assert "sha256" in str(caught.value)
    assert "UserError" not in eyes.printed()
    assert eyes.printed().count("\n") == 1


def test_a_log_of_before_is_kept_beside_the_new_one(bundle, tmp_path, capsys):
    run = Run.create(tmp_path / "runs", task="tiny", stage="deploy", config={}, seed=0)
    config = compose("deploy", [f"bundle={bundle.path}"])
    open_log(config, bundle, run).close()
    assert capsys.readouterr().err == ""
    for number in (1, 2):
        (run.path / "log.mcap").write_bytes(b"before %d" % number)
        open_log(config, bundle, run).close()
        kept = run.path / f"log.{number}.mcap"
        assert kept.read_bytes() == b"before %d" % number
        assert capsys.readouterr().err == f"the log of before is kept as {kept}\n"
    assert (run.path / "log.1.mcap").read_bytes() == b"before 1"


def test_where_no_run_can_be_made_no_robot_is_connected(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "started", lambda *_: pytest.fail("a robot was connected"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no run can be made in .*file: it is a file"):
        deploy(compose("deploy", [f"bundle={bundle.path}", f"runs={tmp_path / 'file'}"]))


def test_a_pipeline_that_is_resumed_moves_no_hardware():
    from robokd.pipeline import check_armed_now

    hardware = ["bundle=x", "robot=ros2", "robot.command_timeout_s=0.5", "duration_s=1"]
    check_armed_now(compose("deploy", ["bundle=x", "arm=true"]), "a.robokd")
    check_armed_now(compose("deploy", hardware), "a.robokd")  # in shadow
    with pytest.raises(UserError, match=r"moves no hardware; type: robokd deploy .*bundle=a\.robokd"):
        check_armed_now(compose("deploy", [*hardware, "arm=true"]), "a.robokd")


def test_the_run_of_a_deployment_that_was_stopped_is_told_by_the_pipeline(monkeypatch, tmp_path):
    from robokd.sim2real.safety import SafetyStop

    from robokd import pipeline, run

    command = [sys.executable, "-c", f"import sys; print({str(tmp_path / 'summary.json')!r}); sys.exit(3)"]
    start = subprocess.Popen
    monkeypatch.setattr(pipeline.subprocess, "Popen", lambda _, **settings: start(command, **settings))
    monkeypatch.setattr(run, "created", created := [])
    monkeypatch.setattr(pipeline, "created", created)
    with pytest.raises(SafetyStop):
        pipeline.deploy_apart(compose("deploy", ["bundle=x"]))
    assert created == [tmp_path]
