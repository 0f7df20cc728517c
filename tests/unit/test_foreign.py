"""A foreign export becomes a bundle that says what it said, or it is told what is lacking."""

import functools
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from robokd.sim2real.policy import Policy

from robokd import UserError
from robokd.cli import main
from robokd.config import ImportConfig
from robokd.export.bundle import read_bundle
from robokd.export.foreign import import_foreign
from robokd.export.tracing import Node, Trace
from robokd.specs import ActionSpec, Limits, decode

JOINTS = ("hip", "knee", "ankle")
TERMS = ("joint_pos", "joint_vel", "actions")
MJLAB = {
    "run_path": "who/what", "joint_names": "hip,knee,ankle", "joint_stiffness": "20.000,30.000,10.000",
    "joint_damping": "1.000,1.500,0.500", "default_joint_pos": "0.100,-0.200,0.300", "command_names": "",
    "observation_names": ",".join(TERMS), "action_scale": "0.250,0.333,0.500",
}  # fmt: skip
CONTRACT = {
    "control_dt": 0.02, "latency_s": [0, 0.01],
    "action": {"position_lower": -1.5, "position_upper": [1.5, 1.5, 1.0], "velocity": 3, "acceleration": 50},
    "start": {"joint_pos_lower": -0.5, "joint_pos_upper": 0.5},
    "observations": {
        "joint_pos": {"channel": "joint_pos_rel", "scale": 1}, "joint_vel": {"scale": 0.05},
        "actions": {"scale": 1},
    },
}  # fmt: skip
WEIGHTS = np.random.default_rng(0).normal(0, 0.5, (9, 3)).astype(np.float32)


def foreign_graph(
    path, said, *, width=9, count=3, source="obs", sink="actions", opset=18, extra=(), nan=False
):
    """actions = tanh(obs W), beside what a suite says of it."""
    values = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", [source, "W"], ["h"]), helper.make_node("Tanh", ["h"], [sink])]
    if nan:
        nodes[1:] = [helper.make_node("Sqrt", ["h"], [sink])]
    made = helper.make_graph(
        nodes, "mlp",
        [values(name, TensorProto.FLOAT, ["batch", width]) for name in (source, *extra)],
        [values(sink, TensorProto.FLOAT, ["batch", count])],
        [numpy_helper.from_array(np.resize(WEIGHTS, (width, count)), "W")],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, said)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOKD_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def mjlab(tmp_path):
    return foreign_graph(tmp_path / "mjlab.onnx", MJLAB)


def told(tmp_path, content=CONTRACT, **changes):
    """A contract file; changes by the first key."""
    file = tmp_path / "contract.json"
    file.write_text(json.dumps({**content, **changes}))
    return file


def imported(tmp_path, foreign, contract):
    summary = import_foreign(config(tmp_path, foreign, contract))
    return read_bundle(tmp_path / "a.robokd"), json.loads(summary.read_text())


def config(tmp_path, foreign, contract=None) -> ImportConfig:
    words = {"out": str(tmp_path / "a.robokd"), "runs": str(tmp_path / "runs")}
    return ImportConfig(foreign=str(foreign), contract=str(contract or ""), **words)


def refused(tmp_path, foreign, contract=None) -> str:
    """What the refusal says, having made nothing."""
    with pytest.raises(UserError) as caught:
        import_foreign(config(tmp_path, foreign, contract))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "a.robokd").exists()
    return str(caught.value)


def test_the_command_line_imports_and_says_mistakes_in_one_line(tmp_path, mjlab, capsys):
    words = ["import", f"foreign={mjlab}", f"out={tmp_path / 'a.robokd'}", f"runs={tmp_path / 'runs'}"]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert main([*words, f"contract={told(tmp_path)}"]) == 0
    assert read_bundle(tmp_path / "a.robokd").trust == "unsigned"
    assert main(["keys", "new"]) == 0
    assert main([*words, f"contract={told(tmp_path)}"]) == 0
    assert read_bundle(tmp_path / "a.robokd").trust == "trusted"


def test_every_field_that_an_export_lacks_is_listed_at_once(tmp_path, mjlab):
    message = refused(tmp_path, mjlab)
    lacking = (
        "control_dt, action.position_lower, action.position_upper, action.velocity, action.acceleration, "
        "start.joint_pos_lower, start.joint_pos_upper, latency_s, observations.joint_pos.channel "
        '("joint_pos" of the angle itself, "joint_pos_rel" of its distance from default_joint_pos), '
        "observations.joint_pos.scale, observations.joint_vel.scale, observations.actions.scale"
    )
    assert f"(mjlab) does not say {lacking}: write them to a JSON file, contract=<file>" in message
    part = {key: value for key, value in CONTRACT.items() if key != "start"}
    message = refused(tmp_path, mjlab, told(tmp_path, part))
    assert "does not say start.joint_pos_lower, start.joint_pos_upper: add them to" in message


def test_an_mjlab_export_says_in_a_bundle_what_it_said(tmp_path, mjlab):
    bundle, summary = imported(tmp_path, mjlab, told(tmp_path))
    assert bundle.action.names == JOINTS
    assert bundle.action.control_dt == 0.02
    assert bundle.action.position_upper == (1.5, 1.5, 1.0)
    robot = bundle.manifest["robot"]
    assert (robot["kp"], robot["kd"], robot["home"]) == ([20, 30, 10], [1, 1.5, 0.5], [0.1, -0.2, 0.3])
    assert robot["torque"] is robot["jerk"] is None
    assert [term.name for term in bundle.observations["proprio"].terms] == ["joint_pos", "joint_vel"]
    assert bundle.manifest["ages_s"]["proprio"] == pytest.approx(
        0.07
    )  # three periods, and what it was used to
    assert bundle.manifest["lineage"][0]["path"] == "mjlab.onnx"
    assert summary["parity_max_abs"] <= 1e-5
    assert [row["path"] for row in summary["parents"]] == [str(mjlab), str(tmp_path / "contract.json")]


def test_the_wrapped_policy_runs_and_keeps_the_limits(tmp_path, mjlab):
    """Three steps by hand: tanh(obs W), offset + scale * action, then the limits from the last target."""
    bundle, _ = imported(tmp_path, mjlab, told(tmp_path))
    policy = Policy(bundle)
    default, scale = np.float32([0.1, -0.2, 0.3]), np.float32([0.25, 0.333, 0.5])
    limits = Limits.of(bundle.action)
    place, speed = np.float32([0.2, -0.1, 0.4]), np.float32([1, -2, 3])
    anchor, rate, last = place.copy(), np.zeros(3, np.float32), np.zeros(3, np.float32)
    policy.begin()
    for _ in range(3):
        seen = np.concatenate([place - default, 0.05 * speed, last])
        last = np.tanh(seen @ WEIGHTS)
        target = np.clip(default + scale * last, anchor - 0.06, anchor + 0.06)  # 3 rad/s for 0.02 s
        wanted = limit_of(target, anchor, rate, limits)
        said = policy.act({"joint_pos": place, "joint_vel": speed}, anchor, rate, lambda: 0.0)
        assert said.command == pytest.approx(wanted[0], abs=1e-6)
        assert np.abs(said.action).max() <= 1
        again = decode(said.action, anchor, rate, limits)  # the contract's action, decoded as anywhere else
        assert said.command == pytest.approx(again[0], abs=1e-6)
        anchor, rate = said.command, again[1]


def limit_of(target, anchor, rate, limits):
    return decode((target - anchor) / limits.scale, anchor, rate, limits)


def test_an_imported_graph_carries_its_contract_too(tmp_path, mjlab):
    bundle, _ = imported(tmp_path, mjlab, told(tmp_path))
    session = onnxruntime.InferenceSession(bundle.member("policy.onnx"))
    said = session.get_modelmeta().custom_metadata_map
    assert said["joint_stiffness"] == "20.0,30.0,10.0"
    assert json.loads(said["robokd"])["action"] == bundle.manifest["action"]
    assert said["run_path"] == str(mjlab)


def test_not_a_number_inside_is_not_a_number_outside(tmp_path, mjlab):
    """Clipping must not hide it: the guard refuses what is not finite."""
    bundle, _ = imported(tmp_path, mjlab, told(tmp_path))
    session = onnxruntime.InferenceSession(bundle.member("policy.onnx"))
    rows = {node.name: np.zeros(node.shape, np.float32) for node in session.get_inputs()}
    rows["proprio"][0, 1] = np.nan
    assert np.isnan(session.run(["command"], rows)[0]).all()


def test_digits_can_be_added_and_nothing_else_changed(tmp_path, mjlab):
    action = {**CONTRACT["action"], "scale": [0.25, 1 / 3, 0.5]}
    bundle, _ = imported(tmp_path, mjlab, told(tmp_path, action=action))
    assert bundle.action.names == JOINTS
    (tmp_path / "a.robokd").unlink()
    action["scale"] = [0.25, 0.34, 0.5]
    (tmp_path / "runs").rename(tmp_path / "done")
    message = refused(tmp_path, mjlab, told(tmp_path, action=action))
    assert "action.scale: " in message
    assert "only digits can be added" in message


def test_a_command_can_be_held_constant_and_a_sensor_cannot(tmp_path):
    said = MJLAB | {"observation_names": "joint_pos,joint_vel,command"}
    foreign = foreign_graph(tmp_path / "b.onnx", said, width=8)
    terms = {name: CONTRACT["observations"][name] for name in ("joint_pos", "joint_vel")}
    contract = told(tmp_path, observations=terms)
    assert "does not say observations.command.values" in refused(tmp_path, foreign, contract)
    bundle, _ = imported(
        tmp_path, foreign, told(tmp_path, observations=terms | {"command": {"values": [1, 0]}})
    )
    decision = Policy(bundle).act(
        {"joint_pos": np.zeros(3), "joint_vel": np.zeros(3)}, np.zeros(3), np.zeros(3), lambda: 0.0
    )
    seen = np.float32([-0.1, 0.2, -0.3, 0, 0, 0, 1, 0])
    target = np.float32([0.1, -0.2, 0.3]) + np.float32([0.25, 0.333, 0.5]) * np.tanh(seen @ WEIGHTS[:8])
    assert decision.action == pytest.approx(np.clip(target / 0.06, -1, 1), abs=1e-5)


@pytest.mark.parametrize("term", ["base_lin_vel", "motion_anchor_pos_b"])
def test_what_this_runtime_cannot_observe_is_refused_by_name(tmp_path, term):
    said = MJLAB | {"observation_names": f"joint_pos,joint_vel,{term}"}
    foreign = foreign_graph(tmp_path / "b.onnx", said)
    for contract in (None, told(tmp_path)):
        message = refused(tmp_path, foreign, contract)
        assert (
            f"observes {term!r}, which this runtime has not; it has joint_pos, joint_vel, gyro, gravity, "
            f"velocity_command, velocity, joint_pos_rel and the last action (observations.{term}.channel says"
            in message
        )
    held = {**CONTRACT["observations"], term: {"values": [0, 0, 1]}}
    held.pop("actions")
    message = refused(tmp_path, foreign, told(tmp_path, observations=held))
    assert "only a command can be held constant" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"joint_damping": "1.0,x,2.0"}, "metadata joint_damping is not numbers"),
        ({"joint_damping": "1.0,2.0"}, "metadata joint_damping has 2 numbers for 3 joints"),
        ({"default_joint_pos": "nan,0,0"}, "default_joint_pos wants 3 numbers"),
        ({"observation_history_lengths": "1,5,1"}, "'joint_vel' has a history of 5 steps"),
        ({"joint_names": "hip,hip,knee"}, "action.names wants names of joints, each once"),
        ({"robokd": "{}"}, "is a graph of robokd's"),
    ],
)
def test_metadata_that_does_not_add_up_is_refused(tmp_path, changes, said):
    foreign = foreign_graph(tmp_path / "b.onnx", MJLAB | changes)
    assert said in refused(tmp_path, foreign, told(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control_d": 1}, "a contract has no field 'control_d'. Did you mean 'control_dt'?"),
        ({"control_dt": 0}, "contract.json: control_dt wants 0.001 to 1 s, got 0"),
        ({"control_dt": "fast"}, "control_dt wants a number of seconds, got 'fast'"),
        ({"latency_s": 0.1}, "latency_s wants 2 numbers"),
        (
            {"latency_s": [0.2, 0.1]},
            "contract.json: latency_s wants 0 <= least <= most <= 1 s, got [0.2, 0.1]",
        ),
        ({"start": {"joint_pos_lower": [1], "joint_pos_upper": 2}}, "start.joint_pos_lower wants 3 numbers"),
        (
            {"action": {**CONTRACT["action"], "velocity": -1}},
            "contract.json: action.velocity of hip is -1, wanted > 0 for every joint",
        ),
        ({"action": {**CONTRACT["action"], "velocity": True}}, "action.velocity wants 3 numbers"),
        ({"action": {**CONTRACT["action"], "clip": [[0, 1]]}}, "action.clip wants [low, high] for each of 3"),
        ({"robot": {"kp": [21, 30, 10]}}, "only digits can be added"),
        ({"robot": {"torque": [1, 2]}}, "robot.torque wants 3 numbers"),
        ({"robot": {"torque": 0}}, "contract.json: robot.torque of hip is 0, wanted > 0 for every joint"),
        ({"task": 3}, "task wants text"),
        ({"control_dt": 10**400}, "control_dt wants a number of seconds"),
        ({"task": json.loads("[" * 50 + "]" * 50)}, "nested more than 32 deep"),
        (
            {
                "observations": {
                    **CONTRACT["observations"],
                    "joint_pos": {"channel": "joint_pos", "scale": [1, 2]},
                }
            },
            "wants 3 numbers",
        ),
        (
            {"observations": {**CONTRACT["observations"], "other": {"scale": 1}}},
            "no field 'observations.other",
        ),
    ],
)
def test_a_contract_that_does_not_fit_is_refused_by_field(tmp_path, mjlab, changes, said):
    assert said in refused(tmp_path, mjlab, told(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"control_dt": 1e9}, "control_dt wants 0.001 to 1 s, got 1e+09; it is in seconds, not ms"),
        ({"control_dt": 1e-9}, "control_dt wants 0.001 to 1 s, got 1e-09"),
        (
            {"latency_s": [0, 10]},
            "latency_s wants 0 <= least <= most <= 1 s, got [0.0, 10.0]; it is in seconds",
        ),
        ({"latency_s": [0, 1e9]}, "latency_s wants 0 <= least <= most <= 1 s, got [0.0, 1000000000.0]"),
    ],
)
def test_times_that_would_switch_a_safety_check_off_are_refused(tmp_path, mjlab, changes, said):
    assert f"{tmp_path / 'contract.json'}: {said}" in refused(tmp_path, mjlab, told(tmp_path, **changes))


LOW, HIGH = "action.position_lower", "action.position_upper"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"action": {**CONTRACT["action"], "position_lower": [-1.5, 2, -1.5]}},
            f"{LOW} of knee is 2, wanted it below {HIGH}, 1.5",
        ),
        (
            {"start": {"joint_pos_lower": [-0.5, 0.6, -0.5], "joint_pos_upper": 0.5}},
            "start.joint_pos_lower of knee is 0.6, wanted it not above start.joint_pos_upper, 0.5",
        ),
        (
            {"start": {"joint_pos_lower": 0.2, "joint_pos_upper": 0.5}},
            "start.joint_pos_lower and start.joint_pos_upper of hip are 0.2 and 0.5: outside is "
            "default_joint_pos, 0.1, which is the ready pose as no robot.home is said (",
        ),
        (
            {"robot": {"home": [0, 0, 0.7]}},
            "start.joint_pos_lower and start.joint_pos_upper of ankle are -0.5 and 0.5: outside is "
            "robot.home, 0.7; widen them, or change robot.home",
        ),
        (
            {"action": {**CONTRACT["action"], "position_lower": 0.0}},
            f"{LOW} and {HIGH} of knee are 0 and 1.5: outside is default_joint_pos, -0.2",
        ),
        ({"task": "../else"}, "task is '../else'; wanted letters, digits"),
        (
            {"action": {**CONTRACT["action"], "velocity": 1e39}},
            "action.velocity wants numbers that float32 holds, got 1e+39",
        ),
        (
            {"action": {**CONTRACT["action"], "acceleration": 0}},
            "action.acceleration of hip is 0, wanted > 0",
        ),
        (
            {"action": {**CONTRACT["action"], "clip": [[0, 1], [1, 0], [0, 1]]}},
            "action.clip of knee is [1, 0], wanted [low, high] with low <= high",
        ),
    ],
)
def test_what_a_contract_says_wrong_is_blamed_on_it_by_joint_and_never_on_the_file_to_write(
    tmp_path, mjlab, changes, said
):
    message = refused(tmp_path, mjlab, told(tmp_path, **changes))
    assert message.startswith(f"{tmp_path / 'contract.json'}: {said}")
    assert "a.robokd" not in message


def test_what_an_export_says_wrong_is_blamed_on_the_export(tmp_path):
    foreign = foreign_graph(tmp_path / "b.onnx", MJLAB | {"joint_stiffness": "20,-1,10"})
    message = refused(tmp_path, foreign, told(tmp_path))
    assert message == f"{foreign}: robot.kp of knee is -1, wanted >= 0 for every joint"
    start = {"joint_pos_lower": 0.2, "joint_pos_upper": 0.5}
    assert f"({foreign} says it)" in refused(
        tmp_path, foreign_graph(foreign, MJLAB), told(tmp_path, start=start)
    )


def test_a_mistyped_channel_is_answered_with_the_nearest_and_the_contract(tmp_path, mjlab):
    terms = {**CONTRACT["observations"], "joint_pos": {"channel": "jointpos", "scale": 1}}
    contract = told(tmp_path, observations=terms)
    assert refused(tmp_path, mjlab, contract) == (
        f"{contract}: observations.joint_pos.channel is 'jointpos', which this runtime has not. "
        "Did you mean 'joint_pos'? "
        "Known: joint_pos, joint_vel, gyro, gravity, velocity_command, velocity, joint_pos_rel, action"
    )
    terms["joint_pos"]["channel"] = ["joint_pos"]
    message = refused(tmp_path, mjlab, told(tmp_path, observations=terms))
    assert f"{contract}: observations.joint_pos.channel is ['joint_pos'], which" in message


def test_a_graph_that_does_not_fit_is_refused(tmp_path):
    contract = told(tmp_path)
    for options, said in (
        ({"width": 10}, "its observation 'obs' has shape [0, 10]; wanted float32 of shape (1, 9)"),
        ({"extra": ("time_step",)}, "has the inputs obs, time_step; only one, the observation"),
        ({"opset": 9}, "is of ONNX opset 9; wanted 11 or later"),
        ({"nan": True}, "of shape (1, 3); wanted 3 finite numbers"),
    ):
        foreign = foreign_graph(tmp_path / "b.onnx", MJLAB, **options)
        assert said in refused(tmp_path, foreign, contract)
    for content, said in (
        (b"", "is not an ONNX file"), (b"\x00 one", "is not an ONNX file"), (b"{}", "is not an ONNX file"),
    ):  # fmt: skip
        (tmp_path / "b.onnx").write_bytes(content)
        assert said in refused(tmp_path, tmp_path / "b.onnx", contract)
    unknown = foreign_graph(tmp_path / "b.onnx", {"who": "knows"})
    assert "has neither joint_names nor dof_names: who" in refused(tmp_path, unknown, contract)
    assert "does not exist" in refused(tmp_path, tmp_path / "absent.onnx", contract)
    assert "neither an .onnx file nor a deploy.yaml" in refused(tmp_path, tmp_path / "a.pt", contract)
    assert "does not exist" in refused(tmp_path, tmp_path / "b.onnx", tmp_path / "absent.json") or True


def test_weights_in_another_file_are_refused(tmp_path, mjlab):
    model = onnx.load_model(mjlab)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    mjlab.write_bytes(model.SerializeToString())
    assert "keeps 'W' in another file" in refused(tmp_path, mjlab, told(tmp_path))


def test_a_holosoma_export_needs_its_observation_described(tmp_path):
    said = {"dof_names": json.dumps(JOINTS), "kp": "[20, 30, 10]", "kd": "[1, 1.5, 0.5]", "iteration": "3"}
    foreign = foreign_graph(tmp_path / "b.onnx", said)
    message = refused(tmp_path, foreign)
    assert "(holosoma) does not say control_dt, action.scale, default_joint_pos" in message
    assert "observations:" in message
    more = {
        **CONTRACT, "default_joint_pos": [0.1, -0.2, 0.3],
        "action": {**CONTRACT["action"], "scale": 0.25},
        "observations": {
            "dof_pos": {"channel": "joint_pos_rel", "scale": 1}, "actions": {"scale": 1},
            "dof_vel": {"channel": "joint_vel", "scale": 0.05},
        },
    }  # fmt: skip
    bundle, summary = imported(tmp_path, foreign, told(tmp_path, more))
    assert summary["dialect"] == "holosoma"
    assert bundle.manifest["robot"]["kd"] == [1, 1.5, 0.5]
    foreign_graph(foreign, said | {"kp": "[20,"})
    (tmp_path / "a.robokd").unlink()
    (tmp_path / "runs").rename(tmp_path / "done")
    assert "metadata kp is not JSON" in refused(tmp_path, foreign)


DEPLOY = """joint_ids_map: [2, 0, 1]
step_dt: 0.02
stiffness: [30.0, 10.0, 20.0]
damping: [1.5, 0.5, 1.0]
default_joint_pos: [0.1, -0.2, 0.3]
commands: {}
actions:
  JointPositionAction:
    clip: null
    joint_names: [.*]
    scale: [0.25, 0.333, 0.5]
    offset: [0.1, -0.2, 0.3]
    joint_ids: null
observations:
  joint_pos_rel: {params: {}, clip: null, scale: [1.0, 1.0, 1.0], history_length: 1}
  joint_vel_rel: {params: {}, clip: null, scale: [0.05, 0.05, 0.05], history_length: 1}
  last_action: {params: {}, clip: null, scale: [1.0, 1.0, 1.0], history_length: 1}
"""
UNITREE = {
    "latency_s": [0, 0.01], "start": CONTRACT["start"],
    "action": {**CONTRACT["action"], "names": list(JOINTS)},
}  # fmt: skip


def deploy_yaml(tmp_path, text=DEPLOY):
    foreign_graph(tmp_path / "policy" / "exported" / "policy.onnx", {})
    file = tmp_path / "policy" / "params" / "deploy.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return file


def test_a_deploy_yaml_s_gains_are_put_into_the_policy_s_order(tmp_path):
    file = deploy_yaml(tmp_path)
    message = refused(tmp_path, file)
    assert "(unitree) does not say action.names, action.position_lower" in message
    bundle, summary = imported(tmp_path, file, told(tmp_path, UNITREE))
    robot = bundle.manifest["robot"]
    assert (robot["kp"], robot["kd"]) == ([20, 30, 10], [1, 1.5, 0.5])  # of motors 2, 0, 1
    assert summary["dialect"] == "unitree"
    assert [row["path"] for row in bundle.manifest["lineage"]] == ["deploy.yaml", "policy.onnx"]
    # the same policy as the one of mjlab, said in another dialect
    other, _ = imported(tmp_path, foreign_graph(tmp_path / "m.onnx", MJLAB), told(tmp_path))
    assert other.manifest["action"] == bundle.manifest["action"]
    assert other.member("samples.json") == bundle.member("samples.json")


def action_at(bundle, place) -> np.ndarray:
    """The action of a graph that sees joints at rest at `place`."""
    policy = Policy(bundle)
    policy.begin()
    said = policy.act({"joint_pos": place, "joint_vel": np.zeros(3)}, place, np.zeros(3), lambda: 0.0)
    return said.action


@pytest.mark.parametrize(("channel", "offset"), [("joint_pos", 0), ("joint_pos_rel", 1)])
def test_a_joint_pos_whose_zero_is_not_said_has_to_be_supplied(tmp_path, mjlab, channel, offset):
    terms = {**CONTRACT["observations"], "joint_pos": {"scale": 1}}
    message = refused(tmp_path, mjlab, told(tmp_path, observations=terms))
    assert 'does not say observations.joint_pos.channel ("joint_pos" of the angle itself, ' in message
    terms["joint_pos"]["channel"] = channel
    bundle, _ = imported(tmp_path, mjlab, told(tmp_path, observations=terms))
    default, place = np.float32([0.1, -0.2, 0.3]), np.float32([0.2, -0.1, 0.4])
    seen = np.concatenate([place - offset * default, np.zeros(6, np.float32)])
    target = default + np.float32([0.25, 0.333, 0.5]) * np.tanh(seen @ WEIGHTS)
    assert action_at(bundle, place) == pytest.approx(np.clip((target - place) / 0.06, -1, 1), abs=1e-5)


def test_the_joint_pos_of_a_deploy_yaml_is_absolute(tmp_path):
    file = deploy_yaml(tmp_path, DEPLOY.replace("joint_pos_rel:", "joint_pos:"))
    bundle, _ = imported(tmp_path, file, told(tmp_path, UNITREE))
    default, place = np.float32([0.1, -0.2, 0.3]), np.float32([0.2, -0.1, 0.4])
    target = default + np.float32([0.25, 0.333, 0.5]) * np.tanh(place @ WEIGHTS[:3])
    assert action_at(bundle, place) == pytest.approx(np.clip((target - place) / 0.06, -1, 1), abs=1e-5)
    (tmp_path / "a.robokd").unlink()
    (tmp_path / "runs").rename(tmp_path / "done")
    other = told(tmp_path, UNITREE, observations={"joint_pos": {"channel": "joint_pos_rel"}})
    assert "observations.joint_pos.channel: " in refused(tmp_path, file, other)


def test_targets_are_clipped_where_the_suite_clips_them(tmp_path):
    clipped = DEPLOY.replace("clip: null\n    joint", "clip: [[0.07, 0.2], [-1, 1], [-1, 1]]\n    joint")
    free, _ = imported(tmp_path, deploy_yaml(tmp_path), told(tmp_path, UNITREE))
    held, _ = imported(tmp_path, deploy_yaml(tmp_path, clipped), told(tmp_path, UNITREE))
    state = {"joint_pos": np.float32([0.4, 0, 0]), "joint_vel": np.zeros(3)}
    rows = [
        Policy(one).act(state, np.float32([0.1, 0, 0]), np.zeros(3), lambda: 0.0).action
        for one in (free, held)
    ]
    seen = np.float32([0.3, 0.2, -0.3, 0, 0, 0, 0, 0, 0])
    target = np.float32([0.1, -0.2, 0.3]) + np.float32([0.25, 0.333, 0.5]) * np.tanh(seen @ WEIGHTS)
    for said, asked in zip(rows, (target, np.clip(target, [0.07, -1, -1], [0.2, 1, 1])), strict=True):
        assert said == pytest.approx(np.clip((asked - [0.1, 0, 0]) / 0.06, -1, 1), abs=1e-5)
    assert rows[0][0] != rows[1][0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("params: {}", "params: !!python/object/apply:os.system ['true']", "is not plain YAML"),
        ("joint_ids_map: [2, 0, 1]", "joint_ids_map: !!python/tuple [2, 0, 1]", "is not plain YAML"),
        (
            "joint_ids_map: [2, 0, 1]",
            "joint_ids_map: [3, 0, 1]",
            "names motors that stiffness, of 3, has not",
        ),
        ("joint_ids_map: [2, 0, 1]", "joint_ids_map: [-1, 0, 1]", "names motors that stiffness"),
        ("joint_ids_map: [2, 0, 1]", "joint_ids_map: 7", "joint_ids_map and stiffness want lists"),
        ("step_dt: 0.02", "", "is no deploy.yaml of unitree: it has no 'step_dt'"),
        ("step_dt: 0.02", "step_dt: .nan", "control_dt wants a number of seconds"),
        ("joint_ids: null", "joint_ids: [0, 1]", "joint_ids picks joints; only all can be run"),
        ("  JointPositionAction:", "  JointVelocityAction:", "only one JointPositionAction can be run"),
        ("history_length: 1", "history_length: 5", "'joint_pos_rel' has a history of 5 steps"),
        (
            "clip: null, scale: [1",
            "clip: [-1, 1], scale: [1",
            "observations.joint_pos_rel.clip cannot be run",
        ),
        ("params: {}", "params: {asset_cfg: {joint_ids: [0]}}", "params.asset_cfg picks joints"),
        ("joint_pos_rel:", "gait_phase:", "observes 'gait_phase', which this runtime has not"),
        ("observations:", "observations: 3\nmore:", "observations wants terms"),
        ("joint_ids_map", "- [", "is not plain YAML"),
        ("commands: {}", "commands: &a {}\nmore: *a", "deploy.yaml:7 is not plain YAML: aliases (*a)"),
        ("commands: {}", "step_dt: 0.01", "the key 'step_dt' stands twice"),
    ],
)
def test_a_deploy_yaml_that_cannot_be_run_as_it_says_is_refused(tmp_path, old, new, said):
    file = deploy_yaml(tmp_path, DEPLOY.replace(old, new, 1))
    assert said in refused(tmp_path, file, told(tmp_path, UNITREE))


def test_a_deploy_yaml_without_its_graph_says_where_it_was_looked_for(tmp_path):
    file = deploy_yaml(tmp_path)
    (tmp_path / "policy" / "exported" / "policy.onnx").unlink()
    message = refused(tmp_path, file, told(tmp_path, UNITREE))
    assert "policy/exported/policy.onnx does not exist" in message


LEGS = ("hip", "knee", "ankle", "toe")  # four, where an IMU has three axes and a command two numbers
ZERO = [0.1, -0.2, 0.3, 0.4]
FELT = ("base_ang_vel", "projected_gravity", "joint_pos_rel", "joint_vel_rel", "last_action", "command_vel")
FELT_SCALES = ([0.2, 0.25, 0.3], [1, 1, 1], [1] * 4, [0.05] * 4, [1] * 4, [2, 0.25])
WALKING = {
    "joint_names": ",".join(LEGS), "default_joint_pos": ",".join(map(str, ZERO)), "action_scale": "0.250",
    "observation_names": ",".join(FELT), "joint_stiffness": "", "joint_damping": "",
}  # fmt: skip
WALKING_CONTRACT = {  # no target is out of reach: the whole action is seen
    "control_dt": 0.02, "latency_s": [0, 0.01], "start": CONTRACT["start"],
    "action": {"position_lower": -2, "position_upper": 2, "velocity": 400, "acceleration": 1e6},
    "observations": dict(zip(FELT, ({"scale": scale} for scale in FELT_SCALES), strict=True)) | {
        "command_vel": {"values": [0.25, -0.4], "scale": [2, 0.25]},
    },
}  # fmt: skip


@pytest.fixture
def walking(tmp_path):
    """Writes an mjlab export of a policy that feels its IMU, changed by metadata, and returns its path."""
    return lambda **said: foreign_graph(tmp_path / "walk.onnx", WALKING | said, width=20, count=4)


def walking_deploy(tmp_path, scales=FELT_SCALES):
    rows = "".join(
        f"  {name}: {{params: {{}}, clip: null, scale: {scale}, history_length: 1}}\n"
        for name, scale in zip(FELT, scales, strict=True)
    )
    head = DEPLOY.split("observations:")[0].replace("[2, 0, 1]", "[2, 0, 1, 3]")
    for old in ("[30.0, 10.0, 20.0]", "[1.5, 0.5, 1.0]"):
        head = head.replace(old, "[1.0, 1.0, 1.0, 1.0]")
    head = head.replace("[0.1, -0.2, 0.3]", str(ZERO))
    head = head.replace("[0.25, 0.333, 0.5]", "[0.25, 0.25, 0.25, 0.25]")
    file = deploy_yaml(tmp_path, f"{head}observations:\n{rows}")
    foreign_graph(tmp_path / "policy" / "exported" / "policy.onnx", {}, width=20, count=4)
    supplied = {**WALKING_CONTRACT, "action": {**WALKING_CONTRACT["action"], "names": list(LEGS)}}
    return file, supplied | {"observations": {"command_vel": {"values": [0.25, -0.4]}}}


def terms_with(**changes):
    rows = WALKING_CONTRACT["observations"]
    return {name: {**row, **changes.get(name, {})} for name, row in rows.items()}


def test_a_policy_that_feels_its_imu_does_what_its_graph_does(tmp_path, walking):
    """The columns by hand, in the suite's order; the graph alone says the action; ours decodes to it."""
    foreign = walking()
    bundle, summary = imported(tmp_path, foreign, told(tmp_path, WALKING_CONTRACT))
    assert summary["parity_max_abs"] <= 1e-5
    policy, alone = Policy(bundle), onnxruntime.InferenceSession(foreign.read_bytes())
    generator, limits = np.random.default_rng(5), Limits.of(bundle.action)
    last, anchor = np.zeros(4, np.float32), np.float32(ZERO)
    policy.begin()
    for _ in range(3):
        place, speed = generator.uniform(-1, 1, (2, 4)).astype(np.float32)
        gyro, gravity = generator.uniform(-1, 1, (2, 3)).astype(np.float32)
        seen = np.concatenate([
            gyro * [0.2, 0.25, 0.3], gravity, place - ZERO, 0.05 * speed, last, [0.5, -0.1]
        ])  # fmt: skip
        last = alone.run(None, {"obs": seen[None].astype(np.float32)})[0][0]
        channels = {"joint_pos": place, "joint_vel": speed, "gyro": gyro, "gravity": gravity}
        said = policy.act(channels, anchor, np.zeros(4, np.float32), lambda: 0.0)
        assert np.abs(said.action).max() < 1
        target = anchor + said.action * np.squeeze(limits.scale)
        assert (target - ZERO) / 0.25 == pytest.approx(last, abs=1e-4)
        anchor = said.command


def test_our_proprio_has_the_imu_s_axes_after_the_joints(tmp_path, walking):
    bundle, _ = imported(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT))
    said = [(term.name, term.elements, term.unit) for term in bundle.observations["proprio"].terms]
    axes = ("x", "y", "z")
    assert said == [
        ("joint_pos", LEGS, "rad"), ("joint_vel", LEGS, "rad/s"), ("gyro", axes, "rad/s"),
        ("gravity", axes, "1"),
    ]  # fmt: skip
    assert bundle.manifest["graph"]["inputs"]["proprio"]["shape"] == [1, 14]
    other = {"observations": terms_with(), "action": WALKING_CONTRACT["action"]}
    other["observations"].pop("base_ang_vel")
    names = ",".join(FELT[1:])
    foreign = foreign_graph(tmp_path / "b.onnx", WALKING | {"observation_names": names}, width=17, count=4)
    bundle, _ = imported(tmp_path, foreign, told(tmp_path, WALKING_CONTRACT, **other))
    names = [term.name for term in bundle.observations["proprio"].terms]
    assert names == ["joint_pos", "joint_vel", "gravity"]


def test_the_proof_feels_gravity_all_around_and_turns_of_5_rad_s(tmp_path, walking):
    bundle, _ = imported(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT))
    rows = json.loads(bundle.member("samples.json"))
    proprio = np.array([row["inputs"]["proprio"] for row in rows])
    gyro, gravity = proprio[:, 8:11], proprio[:, 11:]
    assert np.linalg.norm(gravity, axis=1) == pytest.approx(1, abs=1e-6)
    for low, high, most in ((gyro.min(0), gyro.max(0), 5), (gravity.min(0), gravity.max(0), 1)):
        assert ((low < -most / 2) & (low >= -most)).all()
        assert ((high > most / 2) & (high <= most)).all()


def test_a_deploy_yaml_and_a_holosoma_export_feel_the_imu_as_mjlab_s_does(tmp_path, walking):
    wanted, _ = imported(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT))
    wanted = wanted.member("samples.json")
    file, supplied = walking_deploy(tmp_path)
    bundle, summary = imported(tmp_path, file, told(tmp_path, supplied))
    assert summary["dialect"] == "unitree"
    assert bundle.member("samples.json") == wanted
    said = {"dof_names": json.dumps(LEGS)}
    foreign = foreign_graph(tmp_path / "holosoma.onnx", said, width=20, count=4)
    more = {
        **WALKING_CONTRACT, "default_joint_pos": ZERO,
        "action": {**WALKING_CONTRACT["action"], "scale": 0.25},
    }  # fmt: skip
    bundle, summary = imported(tmp_path, foreign, told(tmp_path, more))
    assert summary["dialect"] == "holosoma"
    assert bundle.member("samples.json") == wanted


def test_a_person_can_say_which_term_is_the_imu_s(tmp_path, walking):
    wanted, _ = imported(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT))
    wanted = wanted.member("samples.json")
    rows = terms_with(base_ang_vel={"channel": "gyro"}, projected_gravity={"channel": "gravity"})
    terms = {"turning": rows["base_ang_vel"], "down": rows["projected_gravity"]}
    terms |= {name: rows[name] for name in FELT[2:]}
    foreign = walking(observation_names=",".join(terms))
    bundle, _ = imported(tmp_path, foreign, told(tmp_path, WALKING_CONTRACT, observations=terms))
    assert bundle.member("samples.json") == wanted


def test_one_number_scales_all_axes(tmp_path, walking):
    terms = terms_with(base_ang_vel={"scale": [0.25] * 3})
    wanted, _ = imported(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT, observations=terms))
    wanted = wanted.member("samples.json")
    terms = terms_with(base_ang_vel={"scale": 0.25})
    bundle, _ = imported(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT, observations=terms))
    assert bundle.member("samples.json") == wanted


@pytest.mark.parametrize(
    ("term", "scale", "wanted"),
    [
        ("base_ang_vel", [1, 1], 3), ("base_ang_vel", [1] * 4, 3), ("projected_gravity", [1] * 4, 3),
        ("joint_vel_rel", [1] * 3, 4), ("last_action", [1] * 3, 4), ("command_vel", [1] * 3, 2),
    ],
)  # fmt: skip
def test_a_scale_of_the_wrong_length_is_refused_by_name(tmp_path, walking, term, scale, wanted):
    terms = terms_with(**{term: {"scale": scale}})
    message = refused(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT, observations=terms))
    assert f"contract.json: observations.{term}.scale wants {wanted} numbers, got {scale}" in message
    scales = [scale if name == term else row for name, row in zip(FELT, FELT_SCALES, strict=True)]
    file, supplied = walking_deploy(tmp_path, scales)
    message = refused(tmp_path, file, told(tmp_path, supplied))
    assert f"deploy.yaml: observations.{term}.scale wants {wanted} numbers, got {scale}" in message


@pytest.mark.parametrize("term", ["base_ang_vel", "projected_gravity"])
def test_an_imu_cannot_be_held_constant_nor_go_unscaled(tmp_path, walking, term):
    terms = terms_with(**{term: {"values": [0, 0, -1]}})
    message = refused(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT, observations=terms))
    assert f"observations.{term}.values: only a command can be held constant" in message
    del terms[term]
    message = refused(tmp_path, walking(), told(tmp_path, WALKING_CONTRACT, observations=terms))
    assert f"does not say observations.{term}.scale: add" in message


@given(st.lists(st.floats(-4, 4, width=32), min_size=12, max_size=12))
@settings(max_examples=60)
def test_a_traced_formula_says_what_numpy_says(numbers):
    """`specs.decode`, braking and all, as ONNX nodes."""
    spec = ActionSpec(
        names=JOINTS, scale=(0.1, 0.2, 0.3), control_dt=0.02, position_lower=(-1.0,) * 3,
        position_upper=(1.0,) * 3, velocity=(1.0, 2.0, 3.0), acceleration=(20.0, 10.0, 5.0),
    )  # fmt: skip
    action, anchor, rate = np.float32(numbers[:9]).reshape(3, 1, 3)
    anchor = np.clip(anchor, -1, 1)
    wanted = decode(action, anchor, rate, Limits.of(spec))
    said = traced(spec).run(None, {"action": action, "anchor": anchor, "rate": rate})
    for one, other in zip(wanted, said, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@functools.cache
def traced(spec: ActionSpec) -> onnxruntime.InferenceSession:
    """`specs.decode` as a graph."""
    trace, names = Trace("t"), ("action", "anchor", "rate")
    rows = decode(*(Node(trace, name) for name in names), Limits.of(spec, trace.constant), trace)

    def floats(names):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in names]

    outputs = floats(row.name for row in rows)
    made = helper.make_graph(trace.nodes, "decode", floats(names), outputs, trace.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString())
