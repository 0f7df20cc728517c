"""The simulated robot's account finds what breaks a limit, by hand-made numbers, and nothing else."""

import numpy as np
import pytest
from robokd.sim2real.robot_account import RobotAccount
from robot_samples import DT, action_spec


@pytest.fixture
def account():
    made = RobotAccount(action_spec(), command_timeout_s=0.5)
    hold(made, 0)
    return made


def hold(account, episode, *joints):
    account.begin(episode, 0.0, np.array(joints or (0.0, 0.0), np.float32))


def tell(account, *shoulder, lost=0):
    first = len(account.received) + 1 + lost
    for number, angle in enumerate(shoulder):
        account.command(first + number, 0.0, np.array([angle, 0.0], np.float32))
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
    assert tell(account, 0.11) == {"command_acceleration": 2}
    hold(account, 3, 0.1, 0.0)
    assert tell(account, 0.0899) == {"command_acceleration": 3, "command_velocity": 1}


def test_the_second_command_is_judged_by_the_rate_of_the_first(account):
    assert tell(account, 0.002, 0.0061) == {"command_acceleration": 1}


def test_each_broken_limit_is_named(account):
    assert tell(account, 0.0, 0.0101)["command_velocity"] == 1
    assert account.summary()["worst"]["command_velocity"]["excess"] == pytest.approx(0.01, rel=1e-3)
    hold(account, 1)
    assert tell(account, 0.0, 0.0, 0.0021)["command_acceleration"] == 2
    hold(account, 2, 0.999, 0.0)
    assert tell(account, 1.0005)["command_position"] == 1


def test_a_lost_command_is_counted_and_nothing_is_judged_across_it(account):
    tell(account, 0.0, 0.0)
    assert tell(account, 0.02, lost=1) == {}
    assert account.summary()["commands_lost"] == 1
    hold(account, 1)
    account.command(5, 0.0, np.zeros(2, np.float32))
    hold(account, 2)
    account.command(7, 0.0, np.zeros(2, np.float32))  # the first of an episode can be lost too
    assert account.summary()["commands_lost"] == 2


def test_a_command_that_is_not_finite_leaves_the_held_target(account):
    assert tell(account, 0.002, np.nan, 0.004) == {"command_non_finite": 1}
    assert tell(account, 0.0081) == {"command_non_finite": 1, "command_acceleration": 1}


def test_the_last_command_of_an_episode_is_no_measure_for_the_next(account):
    tell(account, 0.002)
    hold(account, 1, 0.5, 0.0)
    assert tell(account, 0.5) == {}


def test_true_motion_is_judged_too(account):
    account.measure(np.array([1.01, 0.0]), np.array([0.0, -2.1]), DT, 0.0)
    violations = account.summary()["violations"]
    assert violations == {"measured_position": 1, "measured_velocity": 1}
    assert account.summary()["worst"]["measured_velocity"]["joint"] == "elbow"


def test_silence_is_noted_once_until_the_next_command(account):
    still = np.zeros(2)
    for now in (0.4, 0.51, 0.6, 1.2):
        account.measure(still, still, now, 0.0)
    assert account.summary()["command_timeouts"] == 1
    account.command(1, 1.2, np.zeros(2, np.float32))
    account.measure(still, still, 1.8, 0.0)
    assert account.summary()["command_timeouts"] == 2
