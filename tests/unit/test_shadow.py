"""A policy that runs beside the first never takes its time, and says how far it is from it."""

import dataclasses
import time
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from robokd.sim2real.log import Tick
from robokd.sim2real.policy import Decision
from robokd.sim2real.shadow import MOST_WAITING, Shadow
from robot_samples import (
    DT,
    GRAPH_INPUTS,
    GRAPH_OUTPUTS,
    action_spec,
    camera_spec,
    described,
    felt_spec,
    golden,
    graph,
    make_bundle,
)

from robokd import UserError
from robokd.export.parity import MEMORY, NEXT_MEMORY
from robokd.specs import to_dict


@pytest.fixture
def beside(tmp_path):
    return make_bundle(tmp_path / "beside.robokd")


def tick(command):
    channels = {
        "joint_pos": np.zeros(2, np.float32), "joint_vel": np.zeros(2, np.float32),
        "joint_target": np.zeros(2, np.float32), "front": np.zeros((1, 3, 4), np.uint8),
    }  # fmt: skip
    command = np.float32(command)
    return Tick(
        begun_s=0.0, episode=0, number=1, channels=channels, captured_s=dict.fromkeys(channels, 0.0),
        anchor=np.zeros(2, np.float32), rate=np.zeros(2, np.float32),
        decision=Decision(command=command, action=command, estimates={}, inference_s=0.0),
    )  # fmt: skip


def test_it_says_how_far_its_commands_are_from_those_that_were_sent(tmp_path, beside):
    shadow = Shadow(make_bundle(tmp_path / "a.robokd", data=graph(0.002)), beside)
    shadow.begin()
    for command in ([0.001, 0.002], [0.004, 0.002]):  # of it: 0.002 each
        shadow.idle(tick(command), time.monotonic() + 60)
    report = shadow.report()
    assert (report["ticks"], report["missed"]) == (2, 0)
    assert report["divergence_rad"]["shoulder"]["mean"] == pytest.approx(0.0015)
    assert report["divergence_rad"]["shoulder"]["max"] == pytest.approx(0.002)
    assert report["divergence_rad"]["elbow"]["max"] == pytest.approx(0.0, abs=1e-8)


def test_a_run_in_which_it_had_no_time_says_so(beside):
    shadow = Shadow(beside, beside)
    shadow.idle(tick([0.0, 0.0]), time.monotonic() - 1e-3)
    assert shadow.report() == {"ticks": 0, "missed": 1, "divergence_rad": {"shoulder": {}, "elbow": {}}}


def test_it_is_not_begun_where_it_would_not_be_done_in_time(beside, monkeypatch):
    from robokd.sim2real import shadow as module

    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    shadow = Shadow(beside, beside)

    def slow(*_):
        now[0] += 0.8 * DT
        return tick([0.0, 0.0]).decision

    shadow._policy = SimpleNamespace(act=slow)
    late = []
    for _ in range(40):  # half a period is idle
        until = now[0] + 0.5 * DT
        shadow.idle(tick([0.0, 0.0]), until)
        late.append(now[0] > until)
        now[0] += DT
    # it tries again, but seldom
    assert late[0]
    assert sum(late) <= 9
    assert shadow.report()["missed"] == 40 - sum(late)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": to_dict(dataclasses.replace(action_spec(), velocity=(1.0, 3.0)))}, r"action\.velocity"),
        (
            {"action": to_dict(dataclasses.replace(action_spec(), names=("shoulder", "wrist")))},
            "another robot",
        ),
    ],
)
def test_one_for_another_robot_is_refused(beside, changes, said):
    manifest = {**beside.manifest, **changes}
    from robokd.specs import ActionSpec, from_dict

    other = dataclasses.replace(beside, action=from_dict(ActionSpec, changes["action"]), manifest=manifest)
    with pytest.raises(UserError, match=said):
        Shadow(other, beside)


def test_one_that_sees_otherwise_is_refused(beside):
    cameras = {"wrist": dataclasses.replace(camera_spec(), name="wrist")}
    with pytest.raises(UserError, match=r"sees with camera 'wrist'.* has: front"):
        Shadow(dataclasses.replace(beside, cameras=cameras), beside)
    cameras = {"front": dataclasses.replace(camera_spec(), fovy_deg=50.0)}
    with pytest.raises(UserError, match=r"cameras\.front\.fovy_deg"):
        Shadow(dataclasses.replace(beside, cameras=cameras), beside)


def counting(tmp_path):
    """A bundle whose policy commands, of every joint, how many ticks it remembers, in hundredths of a rad."""
    row = {"shape": [1, 2], "dtype": "float32"}
    inputs, outputs = {**GRAPH_INPUTS, f"{MEMORY}ticks": row}, {**GRAPH_OUTPUTS, f"{NEXT_MEMORY}ticks": row}
    model = onnx.load_model_from_string(graph())
    model.graph.input.append(helper.make_tensor_value_info(f"{MEMORY}ticks", TensorProto.FLOAT, [1, 2]))
    model.graph.output.append(helper.make_tensor_value_info(f"{NEXT_MEMORY}ticks", TensorProto.FLOAT, [1, 2]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "hundredth"))
    remembered = helper.make_node("Add", [f"{MEMORY}ticks", "hundredth"], [f"{NEXT_MEMORY}ticks"])
    said = helper.make_node("Identity", [f"{NEXT_MEMORY}ticks"], ["command"])
    del model.graph.node[0]
    model.graph.node.extend([remembered, said])
    data = model.SerializeToString()
    return make_bundle(
        tmp_path / "counting.robokd",
        data=data,
        samples=golden(data, inputs),
        graph=described(inputs, outputs),
    )


def silent(number):
    """Tick `number` of an episode, in which the first policy commands what one that counts would."""
    return tick([0.01 * number, 0.01 * number])


def test_a_memory_is_given_every_tick_once_and_in_order_however_late(tmp_path, beside):
    shadow, never, always = Shadow(counting(tmp_path), beside), 0.0, time.monotonic() + 60
    for _ in range(2):
        shadow.begin()
        for number, until in enumerate((always, never, never, always, always, always), 1):
            shadow.idle(silent(number), until)
    report = shadow.report()
    assert (report["ticks"], report["missed"]) == (12, 0)
    assert report["divergence_rad"]["elbow"]["max"] == pytest.approx(0.0, abs=1e-6)


def test_a_memory_that_has_missed_too_much_says_nothing_until_the_next_episode(tmp_path, beside):
    shadow, always = Shadow(counting(tmp_path), beside), time.monotonic() + 60
    shadow.begin()
    for number in range(1, MOST_WAITING + 2):
        shadow.idle(silent(number), 0.0)
    shadow.idle(silent(MOST_WAITING + 2), always)
    assert (shadow.report()["ticks"], shadow.report()["missed"]) == (0, MOST_WAITING + 2)
    shadow.begin()
    shadow.idle(silent(1), always)
    assert shadow.report()["divergence_rad"]["elbow"]["max"] == pytest.approx(0.0, abs=1e-6)


def test_what_no_time_was_left_for_in_an_episode_is_not_asked_in_the_next(tmp_path, beside):
    shadow = Shadow(counting(tmp_path), beside)
    shadow.begin()
    shadow.idle(silent(1), 0.0)
    shadow.begin()
    shadow.idle(silent(1), time.monotonic() + 60)
    report = shadow.report()
    assert (report["ticks"], report["missed"]) == (1, 1)
    assert report["divergence_rad"]["elbow"]["max"] == pytest.approx(0.0, abs=1e-6)


def test_a_policy_that_reads_what_the_first_is_not_given_is_refused(tmp_path, beside):
    inputs = GRAPH_INPUTS | {"proprio": {"shape": [1, 12], "dtype": "float32"}}
    data = graph(inputs=inputs)
    felt = make_bundle(
        tmp_path / "felt.robokd", data=data, samples=golden(data, inputs), graph=described(inputs),
        observations={"proprio": to_dict(felt_spec())},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"felt\.robokd reads 'gravity', which .*beside\.robokd is not given"):
        Shadow(felt, beside)
    Shadow(felt, felt)
