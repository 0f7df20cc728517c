"""Deployment on the simulated robot: four processes, real time, and every way that it can end.

What became of the robot is read from its own log. Where time is judged, a busy machine is given all it needs.
"""

import contextlib
import functools
import hashlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the samples
from robokd.sim2real.deploy import at_home, check_task, make_plan, over_budget
from robokd.sim2real.ladder import Rung
from robokd.sim2real.log_reader import read_log
from robokd.sim2real.loop import Account, Pace
from robokd.sim2real.mujoco_host import Host, World
from robokd.sim2real.packets import Channel, Kind, pair
from robokd.sim2real.robot_account import RobotAccount
from robokd.sim2real.wire import Say, Wire, frame_layout
from robokd.tasks.reach import Reach
from robot_samples import described, golden, graph, manifest

from robokd import UserError, registry
from robokd.cli import main
from robokd.config import compose, dump
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.export.bundle import read_bundle, write_bundle
from robokd.export.manifest import focal_px
from robokd.export.sight import statistics
from robokd.run import Run
from robokd.specs import to_dict
from tests.worlds.reach_felt import ReachFelt

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs one monotonic clock")
PARTS = {"sim": "mujoco", "renderer": "raster", "corrupt": "clean"}
HORIZON_S, LONG_S = 0.6, 600.0
STEP = 0.003  # rad a tick: 0.075 rad/s
# what a machine that others use too needs
PATIENT = ("robot.reply_timeout_s=20", "guard.stop_after_s=20", "mismatch=warn")


def rows(names, joints, **shapes):
    return {name: {"shape": shapes.get(name, [1, joints]), "dtype": "float32"} for name in names}


@functools.cache
def real(camera):
    """Statistics of what the camera does show in the first five episodes."""
    cfg = registry.find("task", "reach")()
    setup = Setup(num_envs=5, groups=("proprio", "front"), draws=Draws(0, "test"), space="seen", threads=1)
    parts = {kind: registry.find(kind, name)() for kind, name in PARTS.items()}
    env = cfg.build(sim=parts["sim"], renderer=parts["renderer"], corrupt=parts["corrupt"], setup=setup)
    images = [env.reset(torch.arange(5))["front"].numpy()]
    images += [env.step(torch.full((5, 7), 0.1))[0]["front"].numpy() for _ in range(15)]
    episodes = np.tile(np.arange(5), len(images))
    order = np.argsort(episodes, kind="stable")
    return statistics(np.concatenate(images)[order], camera, episodes[order], flickers=False)


def write(path, step=0.0005, *, world=Reach, is_broken=False, horizon_s=HORIZON_S, **changes):
    """A bundle of a reach task whose policy creeps by `step` rad a tick, with manifest fields changed."""
    name = {Reach: "reach", ReachFelt: "reach_felt"}[world]
    cfg = registry.find("task", name)(horizon_s=horizon_s)
    task = world(cfg)
    action, proprio, camera = task.action_spec(), task.obs_specs()["proprio"], task.camera_specs()["front"]
    inputs = rows(("proprio", "front", "anchor", "rate"), action.size, proprio=[1, proprio.size])
    inputs["front"] = {"shape": [1, *camera.shape], "dtype": "uint8"}
    outputs = rows(("command", "command_rate", "action"), action.size)
    data = graph(step, inputs, outputs, size=action.size, is_broken=is_broken)
    start = task.start_envelope()
    content = manifest() | {
        "task": name, "task_config": dump(cfg), "sim_config": dump(registry.find("sim", "mujoco")()),
        "renderer_config": dump(registry.find("renderer", "raster")()),
        "corrupt_config": dump(registry.find("corrupt", "clean")()), "action": to_dict(action),
        "observations": {"proprio": to_dict(proprio)}, "cameras": {"front": to_dict(camera)},
        "control_dt": action.control_dt, "graph": described(inputs, outputs),
        "start": {"joint_pos_lower": start[0], "joint_pos_upper": start[1]},
        "ages_s": {"proprio": 5.0, "front": 5.0},  # a busy test machine is not what is tested here
        "robot": manifest()["robot"] | dict.fromkeys(("kp", "kd", "torque", "torque_rate", "jerk"))
        | {"home": [(low + high) / 2 for low, high in zip(*start, strict=True)]},
        "optics": {
            "front": {
                "fx": focal_px(camera), "fy": focal_px(camera), "cx": (camera.width - 1) / 2,
                "cy": (camera.height - 1) / 2, "crop": None, "rate_hz": 1.0,  # as a busy machine
            }
        },
        "statistics": {"front": real(camera)},
        "latency_s": {"proprio": [0.0, 0.0], "front": [0.0, 0.04]},
    }  # fmt: skip
    write_bundle(path, content | changes, {"policy.onnx": data, "samples.json": golden(data, inputs)})
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write(tmp_path_factory.mktemp("bundle") / "creep.robokd")


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """One whose episodes do not end while a test lasts, and which is moving."""
    return write(tmp_path_factory.mktemp("bundle") / "long.robokd", STEP, horizon_s=LONG_S)


def words(bundle, runs, *more):
    said = [f"bundle={bundle}", f"runs={runs}", *PATIENT, *more]
    return list({word.partition("=")[0]: word for word in said}.values())  # the last one counts


def config(bundle, tmp_path, *more):
    return compose("deploy", words(bundle, tmp_path / "runs", *more))


def the_run(runs) -> Run:
    (path,) = Path(runs).glob("*_deploy_*")
    return Run.open(path)


def refuse(constant):
    raise AssertionError(f"{constant} in a summary is no JSON")


def strict(path) -> dict:
    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def done(bundle, tmp_path_factory):
    """A deployment of two episodes, from home and back, with another policy beside and a budget too small."""
    runs = tmp_path_factory.mktemp("done")
    other = write(runs / "other.robokd", 0.0006)
    more = ("episodes=2", "home=true", f"shadow={other}", "runtime.inference_p99_s=1e-9", "task=reach")
    code = main(["deploy", *words(bundle, runs, *more)])
    run = the_run(runs)
    return code, run, strict(run.summary_path)


def test_a_deployment_counts_its_episodes_and_its_time(done, bundle):
    _, run, summary = done
    assert summary["success"]["episodes"] == 2
    assert summary["success"]["rate"] == 0.0
    # fewer where the policy was slow, more where the simulated robot was: on a busy machine
    assert 4 <= summary["ticks"] == summary["env_steps"] <= 4 * HORIZON_S / 0.04 + 4
    assert summary["period_s"]["p50"] == pytest.approx(0.04, rel=0.5)
    assert set(summary["age_s"]) == {"joint_pos", "joint_vel", "joint_target", "front"}
    assert all(row["p50"] >= 0 for row in summary["age_s"].values())
    assert summary["latency_s"]["front"]["trained"] == [0.0, 0.04]
    assert summary["latency_s"]["front"]["measured"] == summary["age_s"]["front"]
    sha256 = hashlib.sha256(bundle.read_bytes()).hexdigest()
    assert run.lineage["parents"] == summary["parents"] == [{"path": str(bundle), "sha256": sha256}]
    assert run.is_finished
    assert summary["robot"] == "mujoco"
    assert summary["sim"] == "mujoco"
    assert summary["frames_rendered"] > 0
    assert summary["robot_peak_rss_mb"] > 100  # the robot's process has torch


def test_a_budget_that_was_not_kept_is_a_safety_stop_after_the_run(done):
    code, _, summary = done
    assert code == 3
    assert summary["stop_reason"] == "budget"
    assert summary["safety"].pop("budget") == 1
    assert set(summary["safety"]) <= {"velocity", "acceleration"}  # of homing, at most


def test_the_robots_own_account_agrees_with_the_guards(done):
    _, run, summary = done
    account = summary["robot_log"]
    assert account["violations"] == {}
    assert account["commands_lost"] == 0
    assert account["outcomes"][-2:] == [False, False]  # cameras are looked at in one before
    assert account["commands"] == summary["guard"]["commands"] >= summary["ticks"]
    assert summary["guard"]["stop"] == {"kind": "end", "message": ""}
    assert summary["guard"]["shadow"] is False
    assert summary["guard"] == strict(run.path / "guard.json")
    own = strict(run.path / "robot_log.json")
    assert len(own["commands_received"]) == account["commands"]


def test_the_log_holds_what_the_policy_saw_and_what_the_robot_received(done):
    _, run, summary = done
    recording = read_log(run.path / "log.mcap")
    assert len(recording.ticks) == summary["ticks"]
    assert [tick.number for tick in recording.ticks] == list(range(1, summary["ticks"] + 1))
    received = strict(run.path / "robot_log.json")["commands_received"]
    sent = {one.sequence: one.sent for one in recording.sents}
    assert [row[1] for row in received] == list(range(1, len(received) + 1))
    assert all((np.float32(row[3]) == sent[row[1]]).all() for row in received if row[1] in sent)
    assert set(range(1, len(received) + 1)) - set(sent) == set()
    assert all(tick.channels["front"].any() for tick in recording.ticks)
    assert len(recording.episodes) == 2


def test_a_policy_that_reads_an_imu_is_given_it_and_the_log_has_it(tmp_path):
    path = write(tmp_path / "felt.robokd", STEP, world=ReachFelt)
    said = ("robot=mujoco", "episodes=1", "plugins=[tests.worlds.reach_felt]")
    assert main(["deploy", *words(path, tmp_path / "runs", *said)]) == 0
    ticks = read_log(the_run(tmp_path / "runs").path / "log.mcap").ticks
    gravity = np.array([tick.channels["gravity"] for tick in ticks])
    assert np.linalg.norm(gravity, axis=1) == pytest.approx(1, abs=1e-3)
    assert gravity[0, 2] > 0.8  # the hand looks down: its z is where gravity points
    gyro = np.array([tick.channels["gyro"] for tick in ticks])
    assert 0.01 < np.abs(gyro[len(gyro) // 2 :]).max() < 1.0
    assert all(
        tick.captured_s["gyro"] == pytest.approx(tick.captured_s["joint_pos"], abs=1e-6) for tick in ticks
    )
    assert main(["replay", f"log={the_run(tmp_path / 'runs').path}", f"runs={tmp_path / 'again'}"]) == 0


def test_the_robot_rests_after_every_episode(done):
    _, run, _ = done
    received = strict(run.path / "robot_log.json")["commands_received"]
    for episode in (0, 1):
        rows = [row for row in received if row[0] == episode and (row[5] or row[6] == Rung.SLOW)]
        assert rows[-1][3] == rows[-2][3]
        assert rows[-1][6] == Rung.SLOW


def test_the_robot_went_home_slowly_before_and_after(done, bundle):
    _, run, summary = done
    home = read_bundle(bundle).manifest["robot"]["home"]
    received = strict(run.path / "robot_log.json")["commands_received"]
    own = [row for row in received if row[5] == 0 and row[6] == Rung.FOLLOW]  # neither a policy's nor slowing
    assert own[0][1] == 1
    follows = [row[1] for row in received if row[5]]
    assert own[-1][1] > follows[-1]
    before = [row for row in own if row[1] < follows[0]]
    for row in (before[-1], own[-1]):
        assert row[3] == pytest.approx(home, abs=1e-4)
    assert [rung for _, _, rung, _ in summary["guard"]["rungs"]][:3] == ["FOLLOW", "SLOW", "IDLE"]


def test_the_policy_beside_says_how_far_it_is_from_the_first(done):
    beside = done[2]["shadow"]
    assert beside["ticks"] + beside["missed"] == done[2]["ticks"]
    joints = beside["divergence_rad"].values()
    assert len(joints) == 7
    if beside["ticks"]:
        assert all(row["max"] == pytest.approx(0.0001, rel=0.01) for row in joints)


def test_a_policy_that_says_nonsense_never_moves_the_robot_and_exits_with_3(tmp_path, capsys):
    bad = write(tmp_path / "nan.robokd", is_broken=True)
    assert main(["deploy", *words(bad, tmp_path / "runs", "episodes=1")]) == 3
    said = capsys.readouterr()
    assert "safety stop: non_finite: the policy commands [nan" in said.err
    content = strict(Path(said.out.strip()))
    assert (content["stop_reason"], content["safety"]) == ("non_finite", {"non_finite": 1})
    assert content["robot_log"]["commands"] == 0
    assert content["success"]["rate"] is None
    assert content["success"]["episodes"] == 0
    recording = read_log(the_run(tmp_path / "runs").path / "log.mcap")
    assert [event.kind for event in recording.events] == ["non_finite"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["task=lift"], "is for task=reach, not for task=lift"),
        (["episodes=0"], "episodes must be >= 1"),
        (["bundle=gone.robokd"], "gone.robokd"),
        (["guard.speed=0"], "guard.speed must be in (0, 1]"),
        (["runtime.cores=[1]"], "runtime.cores must be two cores"),
        (["shadow=gone.robokd"], "gone.robokd"),
        (["robot.command_timeout_s=0"], "robot.command_timeout_s must be > 0"),
        (
            ["robot.start_timeout_s=0.05", "robot.reply_timeout_s=0.1"],
            "was not ready within robot.start_timeout_s=0.05",
        ),
    ],
)
def test_what_is_refused_leaves_no_run_and_no_process(bundle, tmp_path, capsys, more, said):
    before = set(children(os.getpid()))  # of other tests: what looks after memory that was shared stays
    assert main(["deploy", *words(bundle, tmp_path / "runs", *more)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert set(children(os.getpid())) <= before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["robot.space=sen"], "no parameter space named 'sen'. Known: seen, unseen, unseen_all"),
        (["runtime.cores=[0,4096]"], "runtime.cores=[0, 4096]: this machine has cores"),
        (["runtime.cores=[4096,0]"], "runtime.cores=[4096, 0]: this machine has cores"),
    ],
)
def test_what_only_the_processes_can_tell_is_refused_as_well(bundle, tmp_path, capsys, more, said):
    test_what_is_refused_leaves_no_run_and_no_process(bundle, tmp_path, capsys, more, said)


def test_a_bundle_of_another_camera_is_refused_by_field(tmp_path, capsys):
    cameras = {"front": to_dict(Reach(registry.find("task", "reach")()).camera_specs()["front"])}
    x, y, z = cameras["front"]["position_m"]
    cameras["front"]["position_m"] = (x + 0.01, y, z)
    other = write(tmp_path / "other.robokd", cameras=cameras)
    assert main(["deploy", *words(other, tmp_path / "runs")]) == 2
    assert "cameras.front.position_m: wanted [1.31, 0.0, 0.6]" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_bundle_for_the_task_that_is_named_is_taken(bundle, tmp_path):
    check_task(config(bundle, tmp_path, "task=reach"), read_bundle(bundle))


def test_a_robot_without_episodes_needs_a_duration(bundle, tmp_path):
    class Steel:
        name = "steel"

    made = config(bundle, tmp_path)
    made.robot = Steel()
    with pytest.raises(UserError, match="robot=steel has no episodes; say how long with duration_s"):
        make_plan(made, read_bundle(bundle))
    plan = make_plan(config(bundle, tmp_path, "duration_s=0.4"), read_bundle(bundle))
    assert (plan.episodes, plan.ticks) == (0, 10)


def test_a_robot_that_is_not_to_move_is_not_sent_home(bundle, tmp_path):
    class Link:
        is_shadow, homes = True, 0

        def home(self, position, timeout_s):
            self.homes += 1

    link = Link()
    for wanted in (0, 2):
        with at_home(config(bundle, tmp_path, "home=true"), read_bundle(bundle), link):
            pass
        assert link.homes == wanted
        link.is_shadow = False


@pytest.mark.parametrize(
    ("more", "broken"),
    [
        ([], None),
        (["runtime.period_p99_s=0.002"], "runtime.period_p99_s=0.002 s was not kept: p99 was 0.00"),
        (["runtime.period_p99_s=0.006"], None),
        (["runtime.inference_p99_s=0.002"], "runtime.inference_p99_s=0.002 s was not kept"),
        (["runtime.inference_p99_s=0.01"], None),
    ],
)
def test_budgets_are_of_the_99th_percentile(bundle, tmp_path, more, broken):
    account = Account()
    account.periods_s += [0.04, 0.045, 0.035] * 40  # 5 ms from the period either way
    account.inferences_s += [0.001] * 60 + [0.003] * 60
    stop = over_budget(config(bundle, tmp_path, *more), account, Pace(0.04))
    assert (stop is None) == (broken is None)
    if broken:
        assert stop.kind == "budget"
        assert broken in stop.message


def test_a_run_without_a_tick_is_in_every_budget(bundle, tmp_path):
    made = config(bundle, tmp_path, "runtime.period_p99_s=0.001", "runtime.inference_p99_s=0.001")
    assert over_budget(made, Account(), Pace(0.04)) is None


def world_of(bundle):
    manifest = read_bundle(bundle).manifest
    return World({**manifest, "bundle": str(bundle), "seed": 0, "space": "seen"})


def test_the_robot_moves_and_senses_as_the_training_environment_does(bundle, make_env):
    world = world_of(bundle)
    # the same physics, in the finer steps that the robot takes
    sim = registry.find("sim", "mujoco")(physics_dt=world.dt)
    env = make_env(1, ("proprio", "front"), sim=sim, horizon_s=HORIZON_S)
    obs = env.reset(torch.tensor([7]))
    world.begin(7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        felt = np.concatenate([world.sense()[name] for name in ("joint_pos", "joint_vel")])
        assert np.array_equal(felt, obs["proprio"][0, :14].numpy())
        assert np.array_equal(world.pictures["front"], obs["front"][0].numpy())
        obs, *_ = env.step(torch.rand(1, 7, generator=generator) * 2 - 1)
        steps = [world.step(env.state.command[0].numpy()) for _ in range(world.substeps)]
        assert steps == [False] * (world.substeps - 1) + [True]


def test_the_robot_feels_a_target_as_late_as_its_episode_says(bundle, tmp_path):
    found = read_bundle(bundle).manifest["task_config"]
    late = world_of(write(tmp_path / "late.robokd", task_config=found | {"delay_s": [0.012, 0.012]}))
    late.begin(0)
    assert late.delay_s == pytest.approx(0.012)
    assert world_of(bundle).delay_s == 0
    ours, theirs = pair()
    account = MagicMock()
    host = Host(MagicMock(), Channel(theirs, 7), socket.socketpair()[0], late, account)
    host._is_running, host._begun_s = True, time.monotonic()
    start, begun_s = late.hold(), host._begun_s
    line = Channel(ours, 7)
    felt = []
    for number in (1, 2):  # the second is on its way before the first is felt
        target = start + np.float32(0.01 * number)
        line.send(
            Kind.TARGET, stamp_s=0.0, sequence=number, origin=number, rung=1, step_s=0.04, target=target
        )
        host._take_commands()
        arrived_s = account.command.call_args.args[1]
        felt.append((arrived_s + 0.012, target))
        time.sleep(0.005)
    while time.monotonic() < begun_s + 0.06:
        host._catch_up()
        due = [target for when, target in felt if when <= host._begun_s - late.dt / 2]
        assert np.array_equal(host._target, due[-1] if due else start)
    assert np.array_equal(host._target, felt[-1][1])


def test_the_robot_has_the_cameras_of_the_training_and_says_how_old_their_frames_are(tmp_path):
    late = registry.find("corrupt", "clean")(latency_s=(0.08, 0.08))
    world = world_of(write(tmp_path / "late.robokd", corrupt_config=dump(late)))
    world.begin(0)
    ages = [world.ages_s["front"]]
    ages += [world.ages_s["front"] for _ in range(5 * world.substeps) if world.step(world.hold())]
    # the first picture is seen at once, the next after a latency of two control steps of 0.04 s
    assert ages == pytest.approx([0.0, 0.04, 0.08, 0.08, 0.08, 0.08])
    control, joints, cameras = socket.socketpair(), pair(), socket.socketpair()
    with contextlib.ExitStack() as ends:
        for end in (*control, *joints, *cameras):
            ends.enter_context(end)
        account = RobotAccount(world.env.action_spec, {"jerk": None}, 1.0)
        host = Host(Wire(control[1]), Channel(joints[1], 7), cameras[1], world, account)
        host._show()
        spec = world.env.camera_specs["front"]
        kind, place, payload = Wire(cameras[0]).receive(1.0)
        (row,) = np.frombuffer(payload, frame_layout(spec))
        host._say_joints()
        (said,) = Channel(joints[0], 7).receive()
    assert (kind, place) == (Say.FRAME, 0)
    assert said.row["captured_s"] - row["captured_s"] == pytest.approx(0.08, abs=1e-6)


def test_an_episode_that_ends_when_nobody_is_left_to_be_told_does_not_end_the_robot(bundle):
    # the guard is still there, and may still be slowing
    world = world_of(bundle)
    control, joints, cameras = socket.socketpair(), pair(), socket.socketpair()
    account = RobotAccount(world.env.action_spec, {"jerk": None}, 1.0)
    host = Host(Wire(control[1]), Channel(joints[1], 7), cameras[1], world, account)
    with control[1], joints[0], joints[1], cameras[0], cameras[1]:
        host._is_running, host._begun_s = True, time.monotonic()
        world.is_over = lambda: True
        control[0].close()
        time.sleep(2 * world.dt)
        host._catch_up()
        assert not host._is_running
        assert len(account.summary()["outcomes"]) == 1


def test_the_robot_goes_where_it_is_sent_between_episodes_too(bundle):
    # home is far from where an episode may end, and the guard watches whether the joints follow
    world = world_of(bundle)
    control, joints, cameras = socket.socketpair(), pair(), socket.socketpair()
    account = RobotAccount(world.env.action_spec, {"jerk": None}, 1.0)
    host = Host(Wire(control[1]), Channel(joints[1], 7), cameras[1], world, account)
    guard = Channel(joints[0], 7)
    with control[0], control[1], joints[0], joints[1], cameras[0], cameras[1]:
        start, begun = world.truth()[0].copy(), time.monotonic()
        assert not host._is_live()
        # time that a busy machine loses is lost to the robot too
        while time.monotonic() < begun + 1.5 or (np.abs(world.truth()[0] - start - 0.3).max() > 0.05):
            assert time.monotonic() < begun + 20
            target = world.hold() * 0 + start.astype(np.float32) + min(time.monotonic() - begun, 1.0) * 0.3
            guard.send(Kind.TARGET, stamp_s=0.0, sequence=1, origin=0, rung=1, target=target)
            host._take_commands()
            host._catch_up()
            guard.receive()
            time.sleep(0.002)
        assert world.truth()[0] == pytest.approx(start + 0.3, abs=0.05)
        assert account.summary()["substeps"] == 0  # of episodes


def test_an_episode_ends_with_a_control_step_but_for_a_divergence(bundle):
    world = world_of(bundle)
    world.begin(0)
    world.env.task.terminated = lambda state: torch.ones(1, dtype=torch.bool)
    for _ in range(world.substeps - 1):
        world.step(world.hold())
        assert not world.is_over()
    world.step(world.hold())
    assert world.is_over()
    world.begin(1)
    world.env.task.success = world.env.task.terminated
    world.env.sim.diverged = lambda: torch.ones(1, dtype=torch.bool)
    world.step(world.hold())
    assert world.is_over()
    assert not world.is_success()


@pytest.mark.parametrize("inside_at", ["ends", "rest", "always", "never"])
def test_success_and_end_are_judged_as_in_training(bundle, make_env, inside_at):
    # where the tip is at the ends of control steps is what counts, in training and here
    world, env = world_of(bundle), make_env(1, ("proprio", "front"), horizon_s=HORIZON_S, hold_s=0.12)
    assert isinstance(world.env.task, Reach)
    world.env.task.cfg.hold_s = 0.12

    def distance(state):
        is_end = round(float(state.sim.get("time").flatten()[0]) / world.dt) % world.substeps == 0
        is_inside = {"ends": is_end, "rest": not is_end, "always": True, "never": False}[inside_at]
        return torch.zeros(1) if is_inside else torch.ones(1)

    world.env.task.distance = env.task.distance = distance
    env.reset(torch.tensor([0]))
    world.begin(0)
    steps, is_done = 0, False
    while not is_done:
        before = env.state.command.clone()
        _, _, done, extras = env.step(torch.zeros(1, 7))
        for _ in range(world.substeps):
            assert not world.is_over()
            world.step(before[0].numpy())
        steps, is_done = steps + 1, bool(done[0])
        assert world.is_over() == is_done
    assert world.is_success() == bool(extras["success"][0]) == (inside_at in ("ends", "always"))
    assert steps == (3 if inside_at in ("ends", "always") else round(HORIZON_S / 0.04))


DRIVER = """
import sys
from robokd.cli import main
from robokd.sim2real.log import Log
remember = Log.tick
def tick(self, tick):
    remember(self, tick)
    print(tick.number, flush=True)
Log.tick = tick
sys.exit(main(sys.argv[1:]))
"""


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Deployment:
    """A deployment in processes of its own, in the middle of an episode."""

    def __init__(self, bundle, runs, *more) -> None:
        self.runs = runs
        said = words(bundle, runs, "episodes=1", *more)
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, "deploy", *said], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        self.pid = self.process.pid
        self.pids: dict[str, int] = {}

    def wait_for_tick(self, number: int) -> None:
        assert self.process.stdout
        deadline = time.monotonic() + 180
        while True:
            assert select.select([self.process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            if line.strip().isdigit() and int(line) >= number:
                break
        for pid in children(self.pid):
            cmdline = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            self.pids[cmdline[2].decode().rpartition(".")[2]] = pid
        assert set(self.pids) == {"guard", "eyes", "mujoco_host"}

    def end(self) -> tuple[int, str]:
        """Wait for the end of all processes; return the exit code and what was said."""
        try:
            _, said = self.process.communicate(timeout=120)
        finally:
            self.close()
        deadline = time.monotonic() + 60
        while any(map(is_alive, self.pids.values())):
            assert time.monotonic() < deadline, f"still there: {self.pids}"
            time.sleep(0.05)
        return self.process.returncode, said

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def received(self) -> list:
        """What the robot says that it received; the limits are its to judge."""
        log = strict(the_run(self.runs).path / "robot_log.json")
        assert log["violations"] == {}
        assert log["commands_lost"] == 0
        return log["commands_received"]

    def assert_came_to_rest(self) -> None:
        rows = self.received()
        follows = [row for row in rows if row[5]]
        after = rows[rows.index(follows[-1]) + 1 :]
        assert after, "it was moving, and nobody slowed it"
        assert all(row[6] == Rung.SLOW for row in after)
        assert after[-1][3] == rows[-2][3]
        # by stamps: from the last command on, within what the limits need
        assert after[-1][4] - follows[-1][4] < 5.0


@pytest.fixture
def deployment(long, tmp_path):
    made = Deployment(long, tmp_path / "runs")
    try:
        made.wait_for_tick(8)
        yield made
    finally:
        made.close()


def test_ctrl_c_brings_the_robot_to_rest_and_ends_all_processes(deployment):
    os.killpg(deployment.pid, signal.SIGINT)  # as a terminal does
    code, said = deployment.end()
    assert code == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    deployment.assert_came_to_rest()
    assert strict(the_run(deployment.runs).path / "guard.json")["stop"]["kind"] in ("end", "interrupt")
    assert read_log(the_run(deployment.runs).path / "log.mcap").ticks


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_group", [False, True])
def test_who_asks_it_to_end_ends_it_so_too(deployment, number, is_group):
    (os.killpg if is_group else os.kill)(deployment.pid, number)
    code, _ = deployment.end()
    assert code == (3 if is_group and number == signal.SIGTERM and code == 3 else 130)
    if is_group and number == signal.SIGTERM:  # the simulated robot takes it, too
        return
    deployment.assert_came_to_rest()


def test_a_policy_process_that_is_killed_leaves_a_robot_at_rest_and_no_process(deployment):
    os.kill(deployment.pid, signal.SIGKILL)
    code, _ = deployment.end()
    assert code == -signal.SIGKILL
    deployment.assert_came_to_rest()
    stop = strict(the_run(deployment.runs).path / "guard.json")["stop"]
    assert stop == {"kind": "policy_lost", "message": "the policy process is gone"}


def test_a_guard_that_is_killed_ends_the_run_with_3(deployment):
    os.kill(deployment.pids["guard"], signal.SIGKILL)
    code, said = deployment.end()
    assert code == 3
    assert "safety stop: guard_lost: the guard was killed by SIGKILL" in said
    rows = deployment.received()
    assert rows[-1][5]  # nobody could slow it: it holds its last target, see robot.command_timeout_s
    summary = strict(the_run(deployment.runs).summary_path)
    assert summary["stop_reason"] == "guard_lost"
    assert summary["guard"] == {}


@pytest.mark.slow
def test_a_camera_process_that_is_killed_stops_the_run_when_its_picture_is_too_old(deployment):
    os.kill(deployment.pids["eyes"], signal.SIGKILL)
    code, said = deployment.end()
    assert code == 3
    assert "safety stop: stale_front: front is" in said
    assert "the camera process was killed by SIGKILL" in said
    deployment.assert_came_to_rest()


@pytest.mark.slow
def test_a_robot_that_is_gone_is_a_safety_stop_that_names_it(deployment):
    os.kill(deployment.pids["mujoco_host"], signal.SIGKILL)
    code, said = deployment.end()
    assert code == 3
    assert "safety stop: robot_lost" in said
    summary = strict(the_run(deployment.runs).summary_path)
    assert summary["stop_reason"] == "robot_lost"
    assert summary["robot_log"] == {}


@pytest.mark.slow
def test_a_disk_that_is_full_stops_the_robot_and_the_log_is_whole_up_to_there(deployment):
    _, most = resource.prlimit(deployment.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(deployment.pid, resource.RLIMIT_FSIZE, (20_000, most))
    code, said = deployment.end()
    assert code == 3
    assert "safety stop: log: cannot write" in said
    deployment.assert_came_to_rest()
    run = the_run(deployment.runs)
    assert strict(run.summary_path)["stop_reason"] == "log"
    assert (run.path / "log.mcap").stat().st_size <= 20_000
    read_log(run.path / "log.mcap")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["guard", "mujoco_host"])
def test_a_process_that_is_frozen_is_noticed_and_ended(long, tmp_path, name):
    made = Deployment(long, tmp_path / "runs", "robot.reply_timeout_s=2")
    try:
        made.wait_for_tick(8)
        os.kill(made.pids[name], signal.SIGSTOP)
        code, said = made.end()
    finally:
        made.close()
    assert code == 3
    assert "safety stop: " in said


@pytest.mark.slow
def test_cores_are_those_of_policy_and_guard_alone(long, tmp_path):
    core = max(os.sched_getaffinity(0))
    made = Deployment(long, tmp_path / "runs", f"runtime.cores=[{core},{core}]")
    try:
        made.wait_for_tick(2)
        affinity = {name: os.sched_getaffinity(pid) for name, pid in [*made.pids.items(), ("", made.pid)]}
        os.kill(made.pid, signal.SIGINT)
        made.end()
    finally:
        made.close()
    assert affinity[""] == affinity["guard"] == {core}
    assert affinity["eyes"] == affinity["mujoco_host"] == os.sched_getaffinity(0)
