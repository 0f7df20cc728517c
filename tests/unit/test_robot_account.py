"""The simulated robot's account finds what breaks a limit, by hand-made numbers, and nothing else."""

import json

import numpy as np
import pytest
from robokd.sim2real.ladder import Rung
from robokd.sim2real.robot import Command
from robokd.sim2real.robot_account import RobotAccount
from robot_samples import DT, action_spec

STILL = np.zeros(2)


def made(jerk=None) -> RobotAccount:
    account = RobotAccount(action_spec(), {"jerk": jerk}, command_timeout_s=0.5)
    hold(account, 0)
    return account


@pytest.fixture
def account():
    return made()


def hold(account, episode, *joints):
    account.begin(episode, 0.0, np.array(joints or (0.0, 0.0), np.float32))


def tell(account, *shoulder, lost=0, dt=DT, begin=0.0):
    """Tell the shoulder's targets, `dt` apart by their stamps."""
    first = (account.received[-1][1] if account.received else 0) + 1 + lost
    stamp = account.received[-1][4] if account.received else begin
    for number, angle in enumerate(shoulder):
        command = Command(
            target=np.array([angle, 0.0], np.float32), stamp_s=stamp + (number + 1) * dt,
            sequence=first + number, origin=7, rung=1,
        )  # fmt: skip
        account.command(command, 123.0)
    return account.summary()["violations"]


def test_commands_at_the_limits_are_no_violation(account):
    # velocity 1 rad/s: 0.01 rad a command; acceleration 20 rad/s^2: 0.002 rad more a command
    steps = np.cumsum([0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert tell(account, *steps) == {}


def test_the_first_command_is_judged_from_the_held_target_at_rest(account):
    assert tell(account, 0.0021) == {"command_acceleration": 1}
    hold(account, 1, 0.1, 0.0)
    assert tell(account, 0.1019) == {"command_acceleration": 1}  # 0.0019 rad from what is held
    hold(account, 2, 0.1, 0.0)
    assert tell(account, 0.11) == {"command_acceleration": 2, "command_jerk": 1}
    hold(account, 3, 0.1, 0.0)
    assert tell(account, 0.0899) == {
        "command_acceleration": 3,
        "command_jerk": 2,
        "command_velocity": 1,
    }


def test_the_second_command_is_judged_by_the_rate_of_the_first(account):
    assert tell(account, 0.002, 0.0061) == {"command_acceleration": 1}


def test_each_broken_limit_is_named(account):
    assert tell(account, 0.0, 0.0101)["command_velocity"] == 1
    worst = account.summary()["worst"]["command_velocity"]
    assert worst == {"excess": pytest.approx(0.01, rel=1e-3), "joint": "shoulder", "episode": 0}
    hold(account, 1)
    assert tell(account, 0.0, 0.0, 0.0021)["command_acceleration"] == 2
    hold(account, 2, 0.999, 0.0)
    assert tell(account, 1.0005)["command_position"] == 1


def test_rates_are_over_the_guards_own_times_and_not_over_arrivals(account):
    # 0.02 rad in 0.02 s is 1 rad/s; in the 0.01 s that a period has, it would be 2
    slow = np.cumsum([0.004, 0.012, 0.02, 0.02])
    assert tell(account, 0.0, *slow, dt=2 * DT) == {}
    other = made()
    assert "command_velocity" in tell(other, 0.0, *slow)


def test_a_stamp_that_does_not_advance_is_a_violation(account):
    tell(account, 0.0, 0.001)
    assert "command_velocity" in tell(account, 0.0011, dt=0.0)


def test_the_jerk_that_a_bundle_allows_is_judged():
    # 0.0005, then 0.001 rad more a command: 5 and 10 rad/s^2, 0 to 5 and 5 to 10 in 0.01 s are 500 rad/s^3
    assert tell(made([500.0, 500.0]), 0.0005, 0.0015, 0.0025) == {}
    # 0 to 10 rad/s^2 are 1000
    assert tell(made([500.0, 500.0]), 0.001, 0.002) == {"command_jerk": 2}
    # without one, from -20 to 20 rad/s^2 in 0.01 s: 4000
    assert tell(made(), 0.002, 0.002, 0.002) == {}


def test_a_lost_command_is_counted_and_nothing_is_judged_across_it(account):
    tell(account, 0.0, 0.0)
    assert tell(account, 0.02, lost=1) == {}
    assert account.summary()["commands_lost"] == 1
    assert tell(account, 0.031) == {"command_velocity": 1}  # but from there on
    hold(account, 1)
    tell(account, 0.0, lost=2)  # the first of an episode can be lost too
    assert account.summary()["commands_lost"] == 2


def test_sequences_go_on_through_episodes(account):
    tell(account, 0.0, 0.0)
    hold(account, 1)
    tell(account, 0.0)
    assert account.summary()["commands_lost"] == 0


def test_a_command_that_is_not_finite_leaves_the_held_target(account):
    assert tell(account, 0.002, np.nan, 0.004) == {"command_non_finite": 1}
    assert tell(account, 0.0181)["command_velocity"] == 1


def test_the_last_command_of_an_episode_is_no_measure_for_the_next(account):
    tell(account, 0.002)
    hold(account, 1, 0.5, 0.0)
    assert tell(account, 0.5) == {}


def test_everything_that_was_received_is_kept(account):
    tell(account, 0.001, np.nan)
    assert account.received[0] == [0, 1, 123.0, [pytest.approx(0.001), 0.0], pytest.approx(DT), 7, 1]
    assert len(account.received) == account.summary()["commands"] == 2
    json.dumps(account.summary())


def test_true_motion_is_judged_too(account):
    account.measure(np.array([1.01, 0.0]), np.array([0.0, -2.1]), DT, 0.0)
    violations = account.summary()["violations"]
    assert violations == {"measured_position": 1, "measured_velocity": 1}
    assert account.summary()["worst"]["measured_velocity"]["joint"] == "elbow"


def test_silence_is_noted_once_until_the_next_command(account):
    account.watch(9.0)  # nobody has commanded it yet: it is not alone
    for number, arrived in ((1, 10.0), (2, 11.2)):
        command = Command(target=STILL, stamp_s=arrived, sequence=number, origin=0, rung=1)
        account.command(command, arrived)
        for late in (0.4, 0.51, 0.6, 1.1):
            account.watch(arrived + late)
    assert account.summary()["command_timeouts"] == 2
    assert account.summary()["command_timeouts_s"] == pytest.approx([10.51, 11.71])


def test_lateness_and_lost_time_are_kept(account):
    assert account.summary()["substep_late_s"] == dict.fromkeys(("p50", "p99", "max"))
    for late in (0.0, 0.001, 0.005):
        account.measure(STILL, STILL, 0.1, late)
    account.lose(0.25)
    account.lose(0.5)
    account.end(True)
    summary = account.summary()
    assert (summary["times_behind"], summary["lost_s"], summary["substeps"]) == (2, 0.75, 3)
    assert summary["substep_late_s"]["max"] == 0.005
    assert summary["outcomes"] == [True]


def told(account, stamp_s, angle, rung=Rung.FOLLOW, step_s=0.0):
    sequence = (account.received[-1][1] if account.received else 0) + 1
    account.command(
        Command(
            target=np.array([angle, 0.0], np.float32),
            stamp_s=stamp_s,
            sequence=sequence,
            origin=0,
            rung=rung,
            step_s=step_s,
        ),
        stamp_s,
    )
    return account.summary()["violations"]


def test_however_long_the_robot_has_rested_its_first_step_is_one_of_a_period(account):
    for number in range(3):
        told(account, number * DT, 0.0, Rung.SLOW)
    # an eighth of a limit's step each, and by their stamps the first would have taken 50 periods
    told(account, 0.5, 0.002)
    assert told(account, 0.5 + DT, 0.006) == {}
    told(account, 0.5 + 2 * DT, 0.0121)
    assert account.summary()["violations"] == {"command_acceleration": 1}


def test_from_rest_the_guard_says_what_a_step_took_and_it_is_held_to_it(account):
    told(account, 0.0, 0.0)
    told(account, DT, 0.0)
    # 1.5 periods by the stamps, one by the guard: the next one goes on from 0.2 rad/s, and not from 0.13
    told(account, 2.5 * DT, 0.002, step_s=DT)
    assert told(account, 3.5 * DT, 0.006, step_s=DT) == {}
    told(account, 5 * DT, 0.0064, step_s=DT)  # not from rest
    assert account.summary()["violations"]["command_step"] == 1


def test_a_guard_that_claims_more_time_than_passed_is_not_believed(account):
    told(account, 0.0, 0.0)
    told(account, DT, 0.0)
    assert told(account, 2 * DT, 0.0025, step_s=1.5 * DT) == {"command_step": 1, "command_acceleration": 1}


def test_a_jump_after_a_pause_is_not_as_slow_as_the_pause_was_long(account):
    told(account, 0.0, 0.0)
    told(account, DT, 0.0)
    assert told(account, 3.0, 0.5) == {"command_velocity": 1, "command_acceleration": 1, "command_jerk": 1}


def test_a_late_step_of_a_robot_that_follows_is_one_of_the_time_that_it_took(account):
    told(account, 0.0, 0.0)
    told(account, DT, 0.0)
    told(account, 3 * DT, 0.004)  # 0.2 rad/s in 0.02 s
    assert told(account, 4 * DT, 0.0081) == {"command_acceleration": 1}  # to 0.41 rad/s in 0.01 s


def test_a_torque_rate_bounds_the_speed_of_targets(account):
    # a target that moves by 1 rad/s changes the torque of a servo of 100 N m/rad by 100 N m/s
    robot = {"jerk": None, "kp": [100.0, 100.0], "torque_rate": [50.0, 1e6]}
    account = RobotAccount(action_spec(), robot, command_timeout_s=0.5)
    hold(account, 0)
    assert tell(account, *np.cumsum([0.002, 0.004, 0.005])) == {}
    assert tell(account, 0.0161) == {"command_velocity": 1}
