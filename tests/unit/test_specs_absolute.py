"""Absolute commands: numpy, torch and graphs decode alike, limits hold, older contracts still load."""

import copy
import dataclasses
import functools
import json

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from robot_samples import make_bundle, manifest

from robokd import UserError
from robokd.export.bundle import read_bundle
from robokd.export.onnx import OPSET
from robokd.export.parity import errors
from robokd.export.tracing import Node, Trace
from robokd.nets.action import ActionDecoder
from robokd.specs import ActionSpec, Limits, decode, differences, from_dict, limit, to_dict

# a body rate that may jump, a thrust that may not, a joint about its default pose
SPEC = ActionSpec(
    names=("roll_rate", "thrust", "hip"), units=("rad/s", "N", "rad"), mode="absolute", control_dt=0.02,
    offset=(0.0, 7.4, 0.8), scale=(6.0, 7.0, 0.25), position_lower=(-5.0, 0.5, -0.1),
    position_upper=(5.0, 14.0, 1.0), velocity=(1e4, 100.0, 20.0), acceleration=(1e6, 2000.0, 300.0),
)  # fmt: skip
LIMITS = Limits.of(SPEC)
DELTA = dataclasses.replace(SPEC, mode="joint_delta", offset=(), units=())
START = np.float32([0.0, 7.4, 0.8])
row = st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3)
NAMES = ("action", "anchor", "rate")


def walk(sequence):
    """Yield (action, anchor, rate, command, new rate) along actions, float32 (1, 3) each."""
    anchor, rate = START[None], np.zeros((1, 3), np.float32)
    for action in sequence:
        action_row = np.float32([action])
        command, new_rate = decode(action_row, anchor, rate, LIMITS)
        yield action_row, anchor, rate, command, new_rate
        anchor, rate = command, new_rate


def test_hand_values_of_one_step():
    command, rate = decode(np.float32([0.5, 1.0, 1.0]), START, np.zeros(3, np.float32), LIMITS)
    assert command[0] == pytest.approx(3.0)  # 0 + 6 * 0.5, which may jump
    assert rate[0] == pytest.approx(150.0)
    assert command[1] == pytest.approx(8.2)  # from rest, 2000 N/s^2 for 0.02 s: 40 N/s, 0.8 N
    assert rate[1] == pytest.approx(40.0)
    assert command[2] == pytest.approx(0.92)  # from rest, 300 rad/s^2 for 0.02 s: 6 rad/s, 0.12 rad


def test_the_same_action_is_the_same_command_wherever_the_last_one_was():
    ends = []
    for action in ([1.0] * 3, [-1.0] * 3):
        *_, last = walk([action] * 30 + [[0.4, 0.2, -0.6]] * 30)
        ends.append(last[3][0])
    assert ends[0] == pytest.approx(ends[1], abs=1e-3)
    assert ends[0] == pytest.approx([2.4, 8.8, 0.65], abs=1e-3)


def test_a_command_beyond_its_limits_stays_at_them():
    *_, last = walk([[1.0, -1.0, 1.0]] * 40)
    assert last[3][0] == pytest.approx([5.0, 0.5, 1.0], abs=1e-3)


@given(st.lists(row, min_size=1, max_size=60))
def test_no_sequence_of_actions_breaks_a_limit(sequence):
    dt = SPEC.control_dt
    for _, anchor, rate, command, _ in walk(sequence):
        assert (command >= LIMITS.lower).all()
        assert (command <= LIMITS.upper).all()
        speed = (command.astype(float) - anchor) / dt
        # a float32 of 14 N is known to 1e-6, and that by dt twice
        assert (np.abs(speed) <= LIMITS.velocity * 1.0005 + 1e-4).all()
        assert (np.abs(speed - rate) / dt <= LIMITS.acceleration * 1.001 + 1e-2).all()


@given(st.lists(row, min_size=1, max_size=30))
def test_limiting_what_is_limited_changes_nothing(sequence):
    for _, anchor, rate, command, _ in walk(sequence):
        again, _ = limit(command, anchor, rate, LIMITS)
        assert np.abs(again - command).max() <= 1e-5


@functools.cache
def graphs() -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """What torch exports of the decoder, and what is traced from `specs.decode`."""
    rows = tuple(torch.zeros(1, 3) for _ in NAMES)
    program = torch.onnx.export(
        ActionDecoder(SPEC).eval(), rows, input_names=list(NAMES), output_names=["command", "command_rate"],
        opset_version=OPSET, dynamo=True, verbose=False,
    )  # fmt: skip
    trace = Trace("t")
    outputs = decode(*(Node(trace, name) for name in NAMES), Limits.of(SPEC, trace.constant), trace)

    def floats(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in names]

    made = helper.make_graph(
        trace.nodes, "decode", floats(NAMES), floats(one.name for one in outputs), trace.constants
    )
    traced = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    models = (program.model_proto, traced)
    return tuple(onnxruntime.InferenceSession(one.SerializeToString()) for one in models)


@given(st.lists(row, min_size=1, max_size=10))
@settings(max_examples=40)
def test_numpy_torch_and_both_graphs_decode_alike(sequence):
    decoder = ActionDecoder(SPEC)
    for action, anchor, rate, *wanted in walk(sequence):
        rows = dict(zip(NAMES, (action, anchor, rate), strict=True))
        others = [[one.numpy() for one in decoder(*map(torch.from_numpy, rows.values()))]]
        others += [session.run(None, rows) for session in graphs()]
        for command, new_rate in others:
            assert np.abs(command - wanted[0]).max() <= 2e-6
            assert np.abs(new_rate - wanted[1]).max() <= 2e-4  # of up to 150 rad/s^2 and a dt of 0.02 s


def test_an_absolute_spec_survives_json_and_a_delta_one_is_written_as_before():
    assert from_dict(ActionSpec, json.loads(json.dumps(to_dict(SPEC)))) == SPEC
    assert not {"offset", "units"} & set(to_dict(DELTA))
    assert from_dict(ActionSpec, to_dict(DELTA)) == DELTA
    assert (
        differences(to_dict(DELTA), to_dict(SPEC))[-1] == "units: wanted nothing, got ('rad/s', 'N', 'rad')"
    )


def test_a_bundle_of_absolute_commands_comes_back_and_a_strange_offset_is_refused(tmp_path):
    row = manifest()
    said = {"mode": "absolute", "offset": [0.25, 0.1], "units": ["rad", "N"]}
    good = make_bundle(tmp_path / "a.robokd", action=row["action"] | said)
    assert read_bundle(good.path).action.offset == (0.25, 0.1)
    assert good.action.units == ("rad", "N")
    wrong = copy.deepcopy(said) | {"offset": [1e-39, 0.0]}
    with pytest.raises(UserError, match=r"'action\.offset' wants numbers that float32 holds"):
        make_bundle(tmp_path / "b.robokd", action=row["action"] | wrong)


def test_a_command_beyond_what_a_joint_can_turn_differs_by_its_share():
    # 2e-5 N of 12 N are 3 of 4 times less; of 2 N, and of 2 rad, they are 2e-5; a rate counts by 0.02 s
    wanted = {"command": np.array([[12.0]]), "action": np.array([[2.0]]), "command_rate": np.array([[100.0]])}
    got = {name: value + 2e-5 for name, value in wanted.items()}
    found = errors(wanted, got, 0.02)
    assert list(found.values()) == pytest.approx([2e-5 / 3, 2e-5, 4e-7], rel=1e-6)
    assert np.isnan(errors(wanted, got | {"command": np.array([[np.nan]])}, 0.02)["command"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"offset": (0.0,)}, "offset has 1 values, mode 'absolute' wants 3"),
        ({"mode": "joint_delta"}, "offset has 3 values, mode 'joint_delta' wants 0"),
        ({"units": ("N",)}, "units has 1 values for 3 commands"),
        ({"acceleration": (1.0, 1.0, float("inf"))}, "must be > 0 and finite"),
        ({"velocity": (1.0, 1.0, float("nan"))}, "must be > 0 and finite"),
        ({"scale": (1.0, 0.0, 1.0)}, "must be > 0 and finite"),
    ],
)
def test_a_spec_that_cannot_be_decoded_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SPEC, **changed)
