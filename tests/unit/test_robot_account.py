"""The simulated robot's account finds what breaks a limit, by hand-made numbers, and nothing else."""

import numpy as np
import pytest
from robokd.sim2real.robot_account import RobotAccount
from robot_samples import DT, action_spec


@pytest.fixture
def account():
    made = RobotAccount(action_spec(), command_timeout_s=0.5)
    made.begin(0, 0.0)
    return made


def tell(account, *shoulder, first=1):
    for number, angle in enumerate(shoulder):
        account.command(first + number, 0.0, np.array([angle, 0.0], np.float32))
    return account.summary()["violations"]


def test_commands_at_the_limits_are_no_violation(account):
    # velocity 1 rad/s: 0.01 rad a command; acceleration 20 rad/s^2: 0.002 rad more a command
    steps = np.cumsum([0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert tell(account, *steps) == {}


def test_each_broken_limit_is_named(account):
    assert tell(account, 0.0, 0.0101)["command_velocity"] == 1
    assert account.summary()["worst"]["command_velocity"]["excess"] == pytest.approx(0.01, rel=1e-3)
    account.begin(1, 0.0)
    assert tell(account, 0.0, 0.0, 0.0021) == {"command_velocity": 1, "command_acceleration": 1}
    account.begin(2, 0.0)
    assert tell(account, 1.001)["command_position"] == 1
    assert tell(account, np.nan)["command_non_finite"] == 1


def test_a_lost_command_is_counted_and_nothing_is_judged_across_it(account):
    tell(account, 0.0, 0.0)
    assert tell(account, 0.02, first=4) == {}
    assert account.summary()["commands_lost"] == 1


def test_the_last_command_of_an_episode_is_no_measure_for_the_next(account):
    tell(account, 0.5)
    account.begin(1, 0.0)
    assert tell(account, 0.0, first=2) == {}


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
