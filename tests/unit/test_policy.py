"""The policy runs what the manifest says, or refuses to start."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from robokd.sim2real import policy as policy_module
from robokd.sim2real.policy import Policy
from robot_samples import (
    GRAPH_INPUTS,
    GRAPH_OUTPUTS,
    described,
    golden,
    graph,
    led_spec,
    make_bundle,
    proprio_spec,
)

from robokd import UserError
from robokd.export.parity import read_samples, write_samples
from robokd.specs import to_dict

CHANNELS = {
    "joint_pos": np.array([1.0, 2.0]), "joint_vel": np.array([3.0, 4.0], np.float32),
    "front": np.full((1, 3, 4), 6, np.uint8),
}  # fmt: skip
ANCHOR, RATE = np.array([0.5, 0.25], np.float32), np.array([7.0, 8.0], np.float32)


def act(policy, channels=CHANNELS):
    ticks = iter([1.0, 1.5])
    return policy.act(channels, ANCHOR, RATE, lambda: next(ticks))


def test_channels_reach_the_graph_and_its_outputs_come_back(tmp_path):
    decision = act(Policy(make_bundle(tmp_path / "a.robokd")))
    assert decision.command.tolist() == (ANCHOR + np.float32(0.001)).tolist()
    assert decision.action.tolist() == [7.0, 8.0]  # joint_pos + the mean pixel
    assert decision.inference_s == 0.5
    assert decision.estimates == {}


def test_terms_are_placed_by_name(tmp_path):
    spec = to_dict(proprio_spec())
    spec["terms"] = spec["terms"][::-1]  # command_rate first
    decision = act(Policy(make_bundle(tmp_path / "a.robokd", observations={"proprio": spec})))
    assert decision.action.tolist() == [7.0 + 6, 8.0 + 6]


def test_a_policy_reads_any_groups_that_are_made_of_the_robot_s_terms_and_none_at_all(tmp_path):
    proprio = to_dict(proprio_spec())
    joints = {**proprio, "group": "joints", "terms": proprio["terms"][1:2]}
    row = {"joints": {"shape": [1, 2], "dtype": "float32"}}
    pictures = {name: one for name, one in GRAPH_INPUTS.items() if name != "proprio"}
    for observations, inputs, head, action in (
        ({"proprio": proprio, "joints": joints}, GRAPH_INPUTS | row, "joints", [9.0, 10.0]),  # joint_vel + 6
        ({"joints": joints}, pictures | row, "joints", [9.0, 10.0]),
        ({}, pictures, "rate", [13.0, 14.0]),
    ):
        data = graph(inputs=inputs, head=head)
        bundle = make_bundle(
            tmp_path / "a.robokd", data=data, samples=golden(data, inputs), graph=described(inputs),
            observations=observations, ages_s=dict.fromkeys((*observations, "front"), 0.1),
            latency_s={name: [0.0, 0.0] for name in (*observations, "front")},
        )  # fmt: skip
        assert act(Policy(bundle)).action.tolist() == action


def test_decisions_are_not_overwritten_by_later_ones(tmp_path):
    policy = Policy(make_bundle(tmp_path / "a.robokd"))
    first = act(policy)
    act(policy, CHANNELS | {"joint_pos": np.zeros(2)})
    assert first.action.tolist() == [7.0, 8.0]


def test_a_channel_of_another_shape_is_refused(tmp_path):
    policy = Policy(make_bundle(tmp_path / "a.robokd"))
    with pytest.raises(RuntimeError, match=r"'joint_pos' has shape \(1,\), the policy wants \(2,\)"):
        act(policy, CHANNELS | {"joint_pos": np.zeros(1)})
    with pytest.raises(TypeError):
        act(policy, CHANNELS | {"front": np.zeros((1, 3, 4))})  # not encoded


def changed(rows, name, **fields):
    return {**rows, name: {**rows[name], **fields}}


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (changed(GRAPH_INPUTS, "proprio", shape=[1, 7]), GRAPH_OUTPUTS, "graph.inputs.proprio.shape: wanted"),
        (
            changed(GRAPH_INPUTS, "front", dtype="float32"),
            GRAPH_OUTPUTS,
            "inputs.front.dtype: wanted uint8",
        ),
        ({k: v for k, v in GRAPH_INPUTS.items() if k != "rate"}, GRAPH_OUTPUTS, "graph.inputs.rate"),
        (GRAPH_INPUTS | {"goal": GRAPH_INPUTS["rate"]}, GRAPH_OUTPUTS, "graph.inputs.goal"),
        (GRAPH_INPUTS, {k: v for k, v in GRAPH_OUTPUTS.items() if k != "action"}, "graph.outputs.action"),
        (GRAPH_INPUTS, changed(GRAPH_OUTPUTS, "command", shape=[1, 3]), "graph.outputs.command.shape"),
        (GRAPH_INPUTS, GRAPH_OUTPUTS | {"goal": GRAPH_OUTPUTS["action"]}, "policy.onnx outputs.goal"),
    ],
)
def test_a_manifest_that_differs_is_refused_by_field(tmp_path, inputs, outputs, said):
    with pytest.raises(UserError, match=said):
        Policy(make_bundle(tmp_path / "a.robokd", graph=described(inputs, outputs)))


def test_a_graph_that_differs_from_the_manifest_is_refused(tmp_path):
    other = graph(inputs=changed(GRAPH_INPUTS, "front", shape=[1, 1, 4, 4]))
    samples = golden(graph())
    with pytest.raises(UserError, match=r"policy\.onnx inputs\.front\.shape"):
        Policy(make_bundle(tmp_path / "a.robokd", data=other, samples=samples))
    with pytest.raises(UserError, match="onnxruntime cannot run"):
        Policy(make_bundle(tmp_path / "a.robokd", data=b"not a graph", samples=samples))


def test_terms_that_the_robot_lacks_are_refused(tmp_path):
    spec = to_dict(proprio_spec())
    unknown = {**spec, "terms": [*spec["terms"][:2], {**spec["terms"][2], "name": "torque"}]}
    with pytest.raises(UserError, match=r"'torque' of proprio\. This runtime has: joint_pos, joint_vel"):
        Policy(make_bundle(tmp_path / "a.robokd", observations={"proprio": unknown}))
    swapped = {**spec, "terms": [{**spec["terms"][0], "elements": ["elbow", "shoulder"]}, *spec["terms"][1:]]}
    with pytest.raises(UserError, match="of elbow, shoulder"):
        Policy(make_bundle(tmp_path / "a.robokd", observations={"proprio": swapped}))


def altered(change) -> bytes:
    """The tiny graph's golden vectors, the last of them changed."""
    rows = json.loads(golden(graph()))
    change(rows[-1])
    return json.dumps(rows).encode()


def test_golden_vectors_are_what_the_export_wrote(tmp_path):
    data = golden(graph())
    assert write_samples(read_samples(data, described())) == data
    Policy(make_bundle(tmp_path / "a.robokd", samples=data))


@pytest.mark.parametrize(
    ("output", "off", "is_refused"),
    [
        ("command", 2e-5, True), ("command", 5e-6, False), ("action", -2e-5, True), ("action", np.nan, True),
        # a rate counts as rad in a control period of 0.01 s
        ("command_rate", 5e-4, False), ("command_rate", 2e-3, True),
    ],
)  # fmt: skip
def test_a_machine_that_says_something_else_is_refused_in_one_line(tmp_path, output, off, is_refused):
    def change(row):
        row["outputs"][output][1] += off

    bundle = make_bundle(tmp_path / "a.robokd", samples=altered(change))
    if not is_refused:
        Policy(bundle)
        return
    with pytest.raises(UserError, match=rf"on this machine is off by .* what '{output}' of golden vector 2"):
        Policy(bundle)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (b"[]", "there is none"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "nested more than 32 deep"),
        (b"[" * 500 + b"]" * 500, "nested more than 32 deep"),
        (b"\xff", "invalid start byte"),
        (b"[3]", "TypeError"),
        (altered(lambda row: row["inputs"].pop("rate")), "it has the inputs proprio, front, anchor; wanted"),
        (altered(lambda row: row["inputs"]["rate"].pop()), "reshape"),
        (altered(lambda row: row["inputs"]["front"].__setitem__(0, 256)), "OverflowError"),
        (altered(lambda row: row["outputs"].update(action=None)), "reshape|TypeError"),
    ],
)
def test_golden_vectors_that_do_not_fit_the_graph_are_refused(tmp_path, samples, said):
    with pytest.raises(UserError, match=f"does not hold golden vectors of the graph: .*({said})"):
        Policy(make_bundle(tmp_path / "a.robokd", samples=samples))


def rated(nodes, *constants) -> bytes:
    """The tiny graph with other nodes in the place of the one that says `command_rate`."""
    model = onnx.load_model_from_string(graph())
    kept = [node for node in model.graph.node if "command_rate" not in node.output]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name) for name, value in constants
    )
    return model.SerializeToString()


def test_a_graph_that_never_ends_is_refused_before_anything_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(policy_module, "LONGEST_RUN_S", 0.3)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"])], "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("x", TensorProto.FLOAT, [1, 2])],
        [value("on", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, [1, 2])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["trips", "yes", "rate"], ["command_rate"], body=body)
    data = rated([loop], ("trips", 1 << 62), ("yes", True))
    with pytest.raises(UserError, match=r"cannot run the policy: it ran for more than 0\.3 s"):
        Policy(make_bundle(tmp_path / "a.robokd", data=data, samples=golden(graph())))


def test_a_graph_that_wants_more_memory_than_there_is_is_refused_in_one_line(tmp_path):
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["rate", "sum"], ["command_rate"]),
    ]
    data = rated(nodes, ("shape", [1 << 30, 1 << 22]))  # 2^54 bytes
    with pytest.raises(UserError, match=r"onnxruntime cannot run the policy: .*ConstantOfShape") as caught:
        Policy(make_bundle(tmp_path / "a.robokd", data=data, samples=golden(graph())))
    assert "\n" not in str(caught.value)


def led_bundle(path, **changes):
    """One whose action is the first two numbers of the velocity command, or of what stands before."""
    spec = to_dict(changes.pop("spec", led_spec()))
    inputs = GRAPH_INPUTS | {"proprio": {"shape": [1, 11], "dtype": "float32"}}
    data = graph(inputs=inputs)
    return make_bundle(
        path, data=data, samples=golden(data, inputs), graph=described(inputs), clock_s=0.4,
        observations={"proprio": spec}, **changes,
    )  # fmt: skip


def test_a_policy_reads_where_it_is_to_go_and_a_clock_of_the_bundle_s_period(tmp_path):
    dark = {"front": np.zeros((1, 3, 4), np.uint8), "velocity_command": np.float32([0.5, -0.25, 1])}
    channels = CHANNELS | dark
    led = Policy(led_bundle(tmp_path / "a.robokd"))
    assert act(led, channels | {"elapsed": np.zeros(1)}).action.tolist() == [0.5, -0.25]
    spec = led_spec()
    first = dataclasses.replace(spec, terms=(spec.terms[1], spec.terms[0], *spec.terms[2:]))
    clock = Policy(led_bundle(tmp_path / "b.robokd", spec=first))
    # of 0.4 s: an eighth of the way round is 0.05 s; in 1000 s it has gone round 2500 times
    for elapsed, shown in ((0.0, [0, 1]), (0.05, [0.5**0.5] * 2), (0.1, [1, 0]), (1000.1, [1, 0])):
        said = act(clock, channels | {"elapsed": np.array([elapsed])}).action
        assert said == pytest.approx(shown, abs=1e-6)


def test_a_velocity_command_of_another_size_is_refused(tmp_path):
    led = Policy(led_bundle(tmp_path / "a.robokd"))
    with pytest.raises(RuntimeError, match="'velocity_command' has shape"):
        act(led, CHANNELS | {"velocity_command": np.zeros(1, np.float32), "elapsed": np.zeros(1)})
