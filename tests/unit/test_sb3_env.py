"""Our worlds in stable-baselines3: what it reads of a VecEnv is what ours do."""

import numpy as np
import pytest
import torch

from robokd import UserError

pytest.importorskip("stable_baselines3")

from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.vec_env import VecMonitor

from robokd.env.gymnasium import Single
from robokd.env.sb3 import Sb3VecEnv

SHORT = {"horizon_s": 0.12, "hold_s": 0.1}


def test_stable_baselines3_finds_no_fault_in_a_single_world():
    env = Single("reach", ("proprio", "privileged"), fields=SHORT)
    check_env(env, skip_render_check=True)
    env.close()


def test_the_last_observation_of_an_episode_is_the_one_before_the_next_begins(make_env):
    env = Sb3VecEnv(make_env(2, ("proprio", "privileged"), **SHORT))
    plain = make_env(2, ("proprio", "privileged"), **SHORT)
    obs = env.reset()
    plain.reset()
    for step in range(3):
        action = np.full((2, 7), 0.3, np.float32)
        obs, reward, done, infos = env.step(action)
        wanted = plain.step(torch.from_numpy(action))
        assert np.array_equal(obs["proprio"], wanted[0]["proprio"].numpy())
        assert np.array_equal(reward, wanted[1].numpy())
        assert done.tolist() == [step == 2] * 2
    for world in range(2):
        assert infos[world]["TimeLimit.truncated"] is True
        last = infos[world]["terminal_observation"]
        assert np.array_equal(last["proprio"], wanted[3]["terminal"]["proprio"][world].numpy())
        assert not np.array_equal(last["proprio"], obs["proprio"][world])


def test_an_episode_that_succeeds_is_no_time_out_and_still_has_a_last_observation(make_env):
    env = Sb3VecEnv(make_env(2, ("proprio",), horizon_s=0.4, hold_s=0.0))
    env.env.task._task.distance = lambda state: torch.zeros(2)
    before = env.reset()
    obs, _, done, infos = env.step(np.zeros((2, 7), np.float32))
    assert done.all()
    assert infos[0]["TimeLimit.truncated"] is False
    assert infos[0]["is_success"] is True
    last = infos[0]["terminal_observation"]["proprio"]
    assert np.abs(last - before["proprio"][0]).max() < np.abs(last - obs["proprio"][0]).max()


def test_a_seed_decides_the_episodes_and_without_one_they_are_the_first(make_env):
    env = Sb3VecEnv(make_env(2, ("proprio",), **SHORT))
    first = env.reset()["proprio"]
    env.seed(5)
    seeded = env.reset()["proprio"]
    assert not np.array_equal(first, seeded)
    assert np.array_equal(env.reset()["proprio"], first)
    env.seed(5)
    assert np.array_equal(env.reset()["proprio"], seeded)


def test_a_picture_fits_no_row_of_numbers(make_env):
    with pytest.raises(UserError, match="camera 'front' fits no row of numbers"):
        Sb3VecEnv(make_env(1, ("proprio", "front")), is_flat=True)


@pytest.mark.parametrize("is_flat", [False, True], ids=["dict", "flat"])
def test_ppo_learns_some_hundred_steps(make_env, is_flat):
    env = Sb3VecEnv(make_env(4, ("proprio", "privileged"), **SHORT), is_flat=is_flat)
    policy = "MlpPolicy" if is_flat else "MultiInputPolicy"
    model = PPO(policy, VecMonitor(env), n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [value.clone() for value in model.policy.parameters()]
    model.learn(256)
    assert model.num_timesteps == 256
    assert len(model.ep_info_buffer) == 84  # 64 steps of each of 4 worlds, episodes of 3
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_an_off_policy_algorithm_stores_the_last_observation_as_what_came_next(make_env):
    env = Sb3VecEnv(make_env(2, ("proprio",), **SHORT))
    model = SAC("MultiInputPolicy", env, learning_starts=1000, buffer_size=64, seed=0, device="cpu")
    model.learn(12)
    buffer = model.replay_buffer
    ended = buffer.dones[:6, 0] > 0
    assert ended.tolist() == [False, False, True] * 2
    after, then = buffer.next_observations["proprio"][:5, 0], buffer.observations["proprio"][1:6, 0]
    assert [np.array_equal(a, b) for a, b in zip(after, then, strict=True)] == [True, True, False, True, True]
