"""From a refined run to a bundle that drives the simulated robot, and the pages about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mujoco
import numpy as np
import onnxruntime
import pytest
import torch
from robokd.sim2real.policy import Policy

from robokd.cli import main
from robokd.config import compose
from robokd.evaluate import load_policy, policy_groups
from robokd.export.bundle import read_bundle
from robokd.export.contract import gains, latency_s, optics
from robokd.export.manifest import focal_px
from robokd.export.onnx import PolicyGraph, record_episodes, record_pictures, to_onnx
from robokd.export.parity import MAX_ABS, parity, read_samples
from robokd.learn.stage import build_env
from robokd.nets.residual import RefinedPolicy, refined_action, with_base
from robokd.nets.residual import compose as compose_actions
from robokd.run import Run
from robokd.students.base import StudentPolicy
from robokd.vision.sensor import Corruption


def _last_line(capsys) -> Path:
    return Path(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def no_keys(tmp_path_factory) -> Iterator[None]:
    """A store without keys, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBOKD_KEYS", str(tmp_path_factory.mktemp("keys")))
        yield


@pytest.fixture(scope="module")
def bundle(chain, tmp_path_factory, no_keys) -> Path:
    """Return the bundle of the tiny refined run."""
    folder = tmp_path_factory.mktemp("export")
    words = ["export", f"run={chain['refine']}", f"out={folder / 'reach.robokd'}", "parity_samples=24"]
    assert main([*words, f"runs={folder}"]) == 0
    return folder / "reach.robokd"


def opened(run, checkpoint="best", num_envs=1):
    """Return (policy, env) of a run, as export makes them; a residual that says something."""
    run = Run.open(run)
    env = build_env(export_config(run), policy_groups(run), "test", num_envs=num_envs)
    policy = load_policy(run, checkpoint, env)
    if isinstance(policy, RefinedPolicy):
        # so short a training leaves the residual at 0, on which all would agree
        torch.manual_seed(0)
        last = [layer for layer in policy.actor.mlp if isinstance(layer, torch.nn.Linear)][-1]
        torch.nn.init.normal_(last.weight, std=0.2)
    return policy, env


def export_config(run: Run):
    return compose("export", [f"run={run.path}"], run.config)


def test_an_export_proves_parity_and_describes_its_graph(bundle):
    summary = json.loads(next(bundle.parent.glob("*_export_*/summary.json")).read_text())
    assert 0 < summary["parity_max_abs"] <= 1e-5
    assert summary["parity_max_abs"] == max(summary["parity"].values())
    assert summary["parity_samples"] == 24
    assert summary["env_steps"] == (8 + 32) * 20  # whole episodes of 0.8 s: the tiny policy never succeeds
    assert summary["frames_rendered"] >= summary["env_steps"]
    assert summary["bytes"] == bundle.stat().st_size
    assert set(summary["inputs"]) == {"proprio", "front", "anchor", "rate"}
    assert set(summary["outputs"]) == {"command", "command_rate", "action", "goal_position"}
    assert summary["opset"] >= 17


def test_parity_is_with_the_policy_that_is_evaluated(chain):
    policy, env = opened(chain["refine"])
    assert isinstance(policy, RefinedPolicy)
    samples = record_episodes(env, policy, 1)[::7]
    first = {name: torch.from_numpy(value) for name, value in samples[0].inputs.items()}
    dt = env.action_spec.control_dt
    assert max(parity(to_onnx(PolicyGraph(policy, env).eval(), first), samples, dt).values()) <= MAX_ABS
    # a graph of the student alone, or of another scale, is found out
    for wrong in (
        StudentPolicy(policy.student, 1),
        RefinedPolicy(policy.student, policy.actor, policy.scale / 2, 1),
    ):
        worst = parity(to_onnx(PolicyGraph(wrong, env).eval(), first), samples, dt)
        assert worst["action"] > MAX_ABS
        assert worst["goal_position"] <= MAX_ABS


def test_the_shared_residual_is_what_the_algorithm_s_own_network_says(chain):
    policy, env = opened(chain["refine"])
    obs = env.get_observations()
    with torch.no_grad():
        output, _ = policy.student.forward(obs, policy.student.initial_state(1))
        base = output.action.clip(-1, 1)
        wanted = compose_actions(base, policy.actor(with_base(obs, base, output.features)), policy.scale)
        assert torch.equal(refined_action(output, obs, policy.actor, policy.scale), wanted)
    assert torch.equal(policy.act(obs), wanted)


def test_samples_are_whole_episodes_as_the_environment_ran_them(chain):
    policy, env = opened(chain["refine"])
    samples = record_episodes(env, policy, 1)
    length = env.max_episode_length
    assert len(samples) == 8 * length  # the tiny policy never succeeds
    for number in range(1, len(samples)):
        before, now = samples[number - 1].outputs, samples[number].inputs
        is_first = number % length == 0
        assert (now["rate"] == before["command_rate"]).all() != is_first
        assert (now["anchor"] == before["command"]).all() != is_first
    assert len({sample.inputs["rate"].tobytes() for sample in samples}) > length


def test_pictures_are_of_one_episode_of_each_world_in_order(chain):
    policy, env = opened(chain["refine"], num_envs=3)
    pictures = record_pictures(env, policy)
    length = env.max_episode_length
    assert pictures.episodes.tolist() == [world for world in range(3) for _ in range(length)]
    alone_policy, alone = opened(chain["refine"])
    wanted = [one.inputs["front"] for one in record_episodes(alone, alone_policy, 1)]
    # the actions of three worlds at once differ from those of one in the last bit, and so may a pixel's code
    differs = pictures.images["front"] != np.concatenate(wanted)[: 3 * length]
    assert differs.mean() < 1e-4
    shifted = pictures.images["front"][1:] != np.concatenate(wanted)[: 3 * length - 1]
    assert shifted.mean() > 1e-2


def test_a_bundle_s_golden_vectors_stride_over_whole_episodes_and_its_graph_repeats_them(bundle):
    whole = read_bundle(bundle)
    samples = read_samples(whole.member("samples.json"), whole.manifest["graph"])
    assert len(samples) == 8
    assert not samples[0].inputs["rate"].any()
    for name in ("anchor", "rate", "proprio", "front"):
        assert len({sample.inputs[name].tobytes() for sample in samples}) >= 5, name
    worst = parity(whole.member("policy.onnx"), samples, whole.action.control_dt)
    assert max(worst.values()) <= MAX_ABS
    Policy(whole)


@pytest.mark.slow
def test_lineage_names_the_checkpoint_that_was_exported(chain, tmp_path):
    path = tmp_path / "student"
    shutil.copytree(chain["distill"], path)
    run = Run.open(path)
    best = run.sha256("best")
    row = next(row for row in run.metrics() if row["step"] == run.checkpoint_step("best"))
    state = run.load_checkpoint("last")
    run.save_checkpoint(run.checkpoint_step("last") + 1, {**state, "note": "after the last validation"})
    assert run.sha256("last") != best == run.sha256("best")
    for checkpoint, success in (("best", row["validation/success"]), ("last", None)):
        out = tmp_path / f"{checkpoint}.robokd"
        words = [f"run={path}", f"checkpoint={checkpoint}", f"out={out}", f"runs={tmp_path / 'runs'}"]
        assert main(["export", *words, "parity_samples=2"]) == 0
        manifest = read_bundle(out).manifest
        (parent,) = manifest["lineage"]
        assert (parent["checkpoint"], parent["sha256"]) == (checkpoint, run.sha256(checkpoint))
        assert manifest["evaluation"] == {"validation_success": success}


def test_a_bundle_says_what_the_robot_was_in_training(bundle, chain):
    whole = read_bundle(bundle)
    env = opened(chain["refine"])[1]
    said = whole.manifest["robot"]
    # of panda.xml
    assert said["kp"] == [1450, 2150, 920, 1020, 150, 160, 110]
    assert said["kd"] == [72, 107, 46, 51, 7.5, 8, 5.5]
    assert said["torque"] == [87, 87, 87, 87, 12, 12, 12]
    assert said["jerk"] is said["torque_rate"] is None
    assert said["home"] == pytest.approx([0, -0.785, 0, -2.356, 0, 1.571, 0.785])
    camera = env.camera_specs["front"]
    row = whole.manifest["optics"]["front"]
    assert row["fx"] == row["fy"] == focal_px(camera)
    assert (row["cx"], row["cy"]) == ((camera.width - 1) / 2, (camera.height - 1) / 2)
    assert row["rate_hz"] == pytest.approx(1 / env.action_spec.control_dt)
    assert whole.manifest["latency_s"] == {"proprio": [0, 0], "front": [0, 0]}
    assert set(whole.manifest["statistics"]) == {"front"}
    assert (whole.signer, whole.trust) == (None, "unsigned")


def test_a_graph_carries_the_keys_of_mjlab_with_every_digit_and_runs_in_plain_onnxruntime(bundle):
    whole = read_bundle(bundle)
    session = onnxruntime.InferenceSession(whole.member("policy.onnx"))
    said = session.get_modelmeta().custom_metadata_map
    assert said["joint_names"] == ",".join(whole.action.names)
    for key, values in (
        ("joint_stiffness", whole.manifest["robot"]["kp"]), ("action_scale", whole.action.scale),
        ("joint_damping", whole.manifest["robot"]["kd"]),
        ("default_joint_pos", whole.manifest["robot"]["home"]),
    ):  # fmt: skip
        assert [float(word) for word in said[key].split(",")] == list(values)
    assert said["observation_names"] == "joint_pos,joint_vel,command_rate,front"
    assert said["command_names"] == ""
    assert said["run_path"] == whole.manifest["lineage"][0]["path"]
    written = ("format", "version", "members", "parity_max_abs")
    wanted = {name: value for name, value in whole.manifest.items() if name not in written}
    assert json.loads(said["robokd"]) == wanted
    samples = read_samples(whole.member("samples.json"), whole.manifest["graph"])
    assert session.run(["command"], samples[3].inputs)[0] == pytest.approx(
        samples[3].outputs["command"], abs=1e-5
    )


@pytest.mark.slow
def test_an_export_signs_with_the_key_it_is_told_and_by_itself_with_the_default_one(
    chain, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("ROBOKD_KEYS", str(tmp_path / "keys"))
    out, runs = tmp_path / "a.robokd", tmp_path / "runs"
    words = ["export", f"run={chain['refine']}", f"out={out}", f"runs={runs}", "parity_samples=2"]
    assert main([*words, "key=lab"]) == 2
    message = capsys.readouterr().err
    assert "`robokd keys new name=lab` makes one" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    for name, more in (("lab", ["key=lab"]), ("default", [])):
        assert main(["keys", "new", f"name={name}"]) == 0
        assert main([*words, *more]) == 0
        whole = read_bundle(out)
        assert whole.trust == "trusted"
        assert f"{whole.signer}\n" in (tmp_path / "keys" / f"{name}.pub").read_text()
        assert json.loads(_last_line(capsys).read_text())["signer"] == whole.signer


def test_settings_give_the_robot_limits_that_no_simulation_knows(chain, tmp_path, capsys, no_keys):
    out, runs = tmp_path / "a.robokd", tmp_path / "runs"
    words = ["export", f"run={chain['refine']}", f"out={out}", f"runs={runs}", "parity_samples=2"]
    assert main([*words, "jerk=[1e3]", "torque_rate=[1,2,3,4,5,6,7]", "age_periods=5"]) == 0
    manifest = read_bundle(out).manifest
    said = manifest["robot"]
    # of pictures: older by what training had seen
    assert manifest["ages_s"] == pytest.approx(
        {name: 5 * 0.04 + late for name, (_, late) in manifest["latency_s"].items()}
    )
    assert said["jerk"] == [1000.0] * 7
    assert said["torque_rate"] == [1.0, 2, 3, 4, 5, 6, 7]
    capsys.readouterr()
    made = len(list(runs.iterdir()))
    for wrong, why in (
        ("jerk=[0]", "jerk must be > 0"),
        ("age_periods=0.5", "age_periods must be >= 1"),
        ("age_periods=1000", "at most 10 s may be"),
        ("jerk=[1,2]", "jerk wants one number, or one for"),
    ):
        assert main([*words, wrong]) == 2
        assert why in capsys.readouterr().err
    assert len(list(runs.iterdir())) == made


SERVO = """<mujoco><worldbody><body><joint name="a" {joint}/><geom size="1"/></body></worldbody>
<actuator>{actuator}</actuator></mujoco>"""


@pytest.mark.parametrize(
    ("joint", "actuator", "wanted"),
    [
        ("", '<position joint="a" kp="7" kv="2" forcerange="-3 4"/>', (7, 2, 3)),
        ('actuatorfrcrange="-2 2"', '<position joint="a" kp="7" forcerange="-3 4"/>', (7, 0, 2)),
        ("", '<position joint="a" kp="7"/>', (7, 0, None)),
        ("", '<position joint="a" kp="7" gear="2"/>', None),
        ("", '<motor joint="a"/>', None),
        ("", '<velocity joint="a" kv="3"/>', None),
        ("", '<position joint="a" kp="7" timeconst="0.1"/>', None),
        ("", '<position joint="a" kp="7"/><motor joint="a"/>', None),
        ("", "", None),
    ],
)
def test_gains_are_told_of_plain_position_servos_only(joint, actuator, wanted):
    model = mujoco.MjModel.from_xml_string(SERVO.format(joint=joint, actuator=actuator))
    kp, kd, torque = wanted or (None, None, None)
    rows = {"kp": kp, "kd": kd, "torque": torque}
    assert gains(model, ["a"]) == {name: None if row is None else [row] for name, row in rows.items()}
    assert gains(model, ["b"]) == {"kp": None, "kd": None, "torque": None}


def test_latency_and_frame_rate_are_those_that_training_had(chain):
    camera = opened(chain["distill"])[1].camera_specs["front"]
    late = Corruption(rate_hz=12.5, latency_s=(0.03, 0.05), freezes_per_minute=1, freeze_s=(0.1, 0.3))
    assert optics(late, camera, 0.04)["rate_hz"] == 12.5
    assert optics(Corruption(rate_hz=100), camera, 0.04)["rate_hz"] == 25  # one every control step
    assert latency_s(late, camera, 0.04) == pytest.approx([0.04, 0.08 + 0.08 + 0.3])
    assert latency_s(late, None, 0.04) == latency_s(Corruption(), camera, 0.04) == [0, 0]


def test_what_is_refused_leaves_no_run(chain, tmp_path, capsys):
    runs = tmp_path / "runs"
    words = [f"run={chain['refine']}", f"runs={runs}"]
    assert main(["export", *words, f"out={tmp_path / 'absent' / 'a.robokd'}"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["export", *words, "task.joint_step_rad=0.05"]) == 2
    assert "action.scale" in capsys.readouterr().err
    assert not runs.exists()


def test_the_longest_age_of_a_picture_in_training_counts_all_that_delayed_it(chain):
    camera = opened(chain["distill"])[1].camera_specs["front"]
    assert latency_s(Corruption(), None, 0.04) == latency_s(Corruption(), camera, 0.04) == [0.0, 0.0]
    late = Corruption(rate_hz=12.5, latency_s=(0.0, 0.05), freezes_per_minute=1, freeze_s=(0.1, 0.3))
    assert latency_s(late, None, 0.04) == [0.0, 0.0]  # joints are not seen by a camera
    # a latency of 2 control steps, 2 from frame to frame, and a freeze
    assert latency_s(late, camera, 0.04)[1] == pytest.approx(0.08 + 0.08 + 0.3)


def test_a_bundle_drives_the_simulated_robot_and_breaks_no_limit(bundle, tmp_path, capsys):
    patient = ("robot.reply_timeout_s=20", "guard.stop_after_s=20", "mismatch=warn")
    words = (f"bundle={bundle}", "robot=mujoco", "episodes=2", f"runs={tmp_path}", *patient)
    assert main(["deploy", *words]) == 0
    summary = json.loads(_last_line(capsys).read_text())
    assert summary["success"]["episodes"] == 2
    assert summary["ticks"] > 10
    assert summary["stop_reason"] == "end"
    commands = {
        kind: count for kind, count in summary["robot_log"]["violations"].items() if "command" in kind
    }
    assert not any(commands.values())


def test_a_truncated_bundle_is_one_line(bundle, tmp_path, capsys):
    cut = tmp_path / "cut.robokd"
    cut.write_bytes(bundle.read_bytes()[:-1])
    assert main(["deploy", f"bundle={cut}", f"runs={tmp_path / 'runs'}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "cut.robokd" in message
    assert not (tmp_path / "runs").exists()


def test_a_teacher_is_not_exported(chain, tmp_path, capsys):
    assert main(["export", f"run={chain['teach']}", f"runs={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "only the simulator knows" in message


def test_a_video_is_written(chain, tmp_path, capsys):
    path = tmp_path / "out.mp4"
    assert main(["play", f"run={chain['refine']}", "episodes=1", f"video={path}"]) == 0
    assert _last_line(capsys) == path
    assert path.read_bytes()[4:8] == b"ftyp"


def test_a_report_shows_every_stage_in_one_file(chain, tmp_path, capsys):
    words = ["evaluate", f"run={chain['distill']}", f"baseline={chain['teach']}", "episodes=6", "num_envs=6"]
    assert main([*words, f"runs={tmp_path}"]) == 0
    evaluated = _last_line(capsys).parent
    runs = ",".join(str(path) for path in (*chain.values(), evaluated))
    assert main(["report", f"runs=[{runs}]", f"out={tmp_path / 'report.html'}"]) == 0
    page = (tmp_path / "report.html").read_text()
    titles = (
        "Success", "Does it use its camera?", "Learning: teach", "Learning: distill", "Learning: refine",
        "What the student sees", "The same episodes under each policy", "What it cost",
    )  # fmt: skip
    for title in titles:
        assert f"<h2>{title}</h2>" in page
    assert page.count("data:video/mp4") == 3
    assert "http" not in page.replace("http-equiv", "")
