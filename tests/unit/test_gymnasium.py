"""Gymnasium's environments as our tasks, by their ids, and our tasks as gymnasium's environments."""

import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from robokd.tasks.gymnasium import GymnasiumCfg

from robokd import UserError
from robokd.config import compose, dump, load
from robokd.draws import Draws
from robokd.env.base import Setup
from robokd.env.gymnasium import env_id, is_native, register_tasks
from robokd.sim.mujoco import MujocoCfg
from robokd.vision.raster import RasterCfg
from robokd.vision.sensor import Corruption

SHORT = {"horizon_s": 0.12, "hold_s": 0.1}
PUSHED = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32))


class Room(gymnasium.Env):
    """Says what it was sent; its observation, actions and infos are as the test wants them."""

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012

    def __init__(self, seen=None, actions=PUSHED, infos=None, ends_at=0):
        self.observation_space, self.action_space = seen or spaces.Box(-9, 99, (2,), np.float64), actions
        self.infos, self.ends_at = infos or [], ends_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age, self.sent = 0, np.zeros(2)
        return self._look(), {}

    def step(self, action):
        self.age, self.sent = self.age + 1, action
        info = self.infos[self.age - 1] if self.age <= len(self.infos) else {}
        return self._look(), 1.0, self.age == self.ends_at, False, info

    def _look(self):
        if not isinstance(self.observation_space, spaces.Dict):
            return np.asarray(self.sent, float)
        return {
            "arm": {"joints": np.array([self.age, 2.0]), "eye": np.full((4, 6, 3), self.age, np.uint8)},
            "goal": np.array([7.0], np.float32), "grey": np.full((1, 5, 5), 9, np.uint8),
        }  # fmt: skip


NEST = spaces.Dict({
    "arm": spaces.Dict(
        {"joints": spaces.Box(-9, 9, (2,), np.float64), "eye": spaces.Box(0, 255, (4, 6, 3), np.uint8)}
    ),
    "goal": spaces.Box(-9, 9, (1,), np.float32),
    "grey": spaces.Box(0, 255, (1, 5, 5), np.uint8),
})  # fmt: skip


@pytest.fixture
def room():
    """Return what registers a Room under an id that is gone afterwards."""
    made = []

    def register(**kwargs):
        made.append(f"test/Room{len(made)}-v0")
        gymnasium.register(made[-1], Room, max_episode_steps=4, kwargs=kwargs, disable_env_checker=True)
        return made[-1]

    yield register
    for one in made:
        del gymnasium.registry[one]


def _env(env_id, num_envs=2, groups=("proprio",), **fields):
    setup = Setup(num_envs=num_envs, groups=groups, draws=Draws(0, "test"))
    cfg = GymnasiumCfg(env_id=env_id, **fields)
    return cfg.build(sim=MujocoCfg(), renderer=RasterCfg(), corrupt=Corruption(), setup=setup)


def _story(env, steps):
    """Return {(episode, step): (seen, paid)} under actions that follow from (episode, step)."""
    obs, found = env.reset(), {}
    for _ in range(steps):
        moments = list(zip(env.state.episode_id.tolist(), env.state.step.tolist(), strict=True))
        actions = torch.tensor([[np.sin(episode * 1.7 + step * 0.3)] for episode, step in moments])
        seen = obs["proprio"]
        obs, reward, _, _ = env.step(actions)
        rows = zip(moments, seen.tolist(), reward.tolist(), strict=True)
        found |= {moment: (tuple(row), paid) for moment, row, paid in rows}
    return found


def test_an_episode_of_pendulum_does_not_depend_on_how_many_there_are():
    few = _story(_env("Pendulum-v1", 2, max_episode_steps=6), 12)
    many = _story(_env("Pendulum-v1", 4, max_episode_steps=6), 6)
    assert few == many
    assert {episode for episode, _ in few} == {0, 1, 2, 3}
    assert len({seen for (_, step), (seen, _) in few.items() if step == 0}) == 4


def test_a_task_of_gymnasium_says_how_long_its_steps_and_episodes_are(room):
    env = _env("Pendulum-v1")
    assert (env.action_spec.control_dt, env.max_episode_length) == (0.05, 200)  # its own dt, as registered
    assert env.task.horizon_s == pytest.approx(10.0)
    env = _env(room())
    assert (env.action_spec.control_dt, env.max_episode_length) == (0.05, 4)  # 20 frames a second
    assert _env(room(), control_dt=0.3, max_episode_steps=2).task.horizon_s == pytest.approx(0.6)


def test_actions_are_scaled_to_the_bounds_of_the_environment(room):
    env = _env(room(), 3)
    obs, *_ = env.step(torch.tensor([[-1.0, -1.0], [0.0, 0.5], [1.0, 9.0]]))
    assert obs["proprio"].tolist() == [[-1.0, 0.0], [1.0, 7.5], [3.0, 10.0]]


def test_a_dict_of_observations_is_as_many_groups_and_cameras(room):
    env = _env(room(seen=NEST), 2, ("arm_joints", "arm_eye", "grey"), privileged=("goal",))
    assert {name: spec.role for name, spec in env.obs_specs.items()} == {
        "arm_joints": "proprio", "goal": "privileged",
    }  # fmt: skip
    assert {name: camera.shape for name, camera in env.camera_specs.items()} == {
        "arm_eye": (3, 4, 6), "grey": (3, 5, 5),
    }  # fmt: skip
    obs, *_ = env.step(torch.zeros(2, 2))
    assert set(obs.keys()) == {"arm_joints", "arm_eye", "grey"}
    assert obs["arm_joints"].tolist() == [[1.0, 2.0]] * 2
    assert obs["arm_joints"].dtype == torch.float32
    assert obs["arm_eye"].shape == (2, 3, 4, 6)
    assert obs["arm_eye"].dtype == torch.uint8
    assert (obs["arm_eye"] == 1).all()
    assert (obs["grey"] == 9).all()
    assert env.frames_rendered == 2 * 2 * 2


def test_nothing_that_an_environment_of_gymnasium_has_shown_is_written_again(room):
    env = _env(room(seen=NEST), 2, ("arm_joints", "arm_eye"))
    obs = env.get_observations()
    kept = obs.clone()
    for _ in range(5):
        env.step(torch.ones(2, 2))
    assert (obs == kept).all()


@pytest.mark.parametrize(
    ("kwargs", "fields", "wanted"),
    [({}, {"success_return": 4.0}, [False, False, False, True]),  # 1 for each of 4 steps
     ({}, {"success_return": 4.5}, [False] * 4),
     ({"infos": [{}, {"is_success": True}, {"is_success": False}]}, {}, [False, True, False, True]),
     ({"infos": [{"won": True}] * 4}, {"success_key": "won"}, [True] * 4),
     ({}, {}, [False, False, False, True]),  # it lasted to the end
     ({"ends_at": 4}, {}, [False] * 4)],
    ids=["return", "too-little", "infos", "key", "lasts", "falls"],
)  # fmt: skip
def test_success_is_a_return_that_is_reached_or_what_the_infos_say_or_to_last(room, kwargs, fields, wanted):
    env = _env(room(**kwargs), 2, **fields)
    assert [env.step(torch.zeros(2, 2))[3]["success"].tolist() for _ in range(4)] == [[w, w] for w in wanted]


@pytest.mark.parametrize(
    ("name", "said"),
    [("", r"task.env_id is empty: name an environment of gymnasium's, e.g. Pendulum-v1"),
     ("Pendulam-v1", "Did you mean: `Pendulum`"),
     ("CartPole-v1", r"CartPole-v1 takes actions of Discrete\(2\); wanted a bounded Box"),
     ("GymV26Environment-v0", "imports what its kwargs name")],
)  # fmt: skip
def test_an_id_that_cannot_be_a_task_is_refused_in_one_line(name, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=said) as caught:
            _env(name)
    assert "\n" not in str(caught.value)


def test_an_id_that_names_a_module_imports_nothing():
    with pytest.raises(UserError, match=r"would import a module: type plugins=\[antigravity\]"):
        _env("antigravity:Pendulum-v1")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [({"actions": spaces.Box(-np.inf, np.inf, (2,))}, "takes actions without bounds"),
     ({"seen": spaces.Text(9)}, "observation 'image' is Text"),
     ({"seen": spaces.Dict({"a.b": PUSHED, "a_b": PUSHED})}, "two observations that would both be .*'a_b'"),
     ({"seen": spaces.Box(0, 255, (4, 84, 84), np.uint8)}, "wanted a Box of one axis, or a picture")],
    ids=["unbounded", "text", "twice", "stack"],
)  # fmt: skip
def test_a_space_that_does_not_fit_is_named(room, kwargs, said):
    with pytest.raises(UserError, match=said):
        _env(room(**kwargs))


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"privileged": ("goal",)}, "task.privileged: no group named 'goal'. Known: proprio"),
     ({"kwargs": {"length": 3}}, "unexpected keyword argument 'length'"),
     ({"vectorized": True}, "has no vector form of its own")],
    ids=["privileged", "kwargs", "vectorized"],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named(room, fields, said):
    with pytest.raises(UserError, match=said):
        _env(room(), **fields)


def test_arguments_that_are_typed_are_read_back():
    made = compose("teach", ["task=gymnasium", "task.env_id=Pendulum-v1", "task.kwargs={g:9.5,tag:x}"])
    assert made.task == GymnasiumCfg(env_id="Pendulum-v1", kwargs={"g": 9.5, "tag": "x"})
    assert load("teach", dump(made)) == made
    with pytest.raises(UserError, match="'wrappers' is gymnasium's"):
        compose("teach", ["task=gymnasium", "task.kwargs={wrappers:x}"])


def test_a_native_task_passes_the_check_of_gymnasium():
    name = f"robokd.env.gymnasium:{env_id('reach')}"
    env = gymnasium.make(name, groups=["proprio", "front"], fields=SHORT)
    assert list(env.observation_space) == ["front", "proprio"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*infinity.*")  # no bounds of a group are known
        warnings.filterwarnings("error", ".*render_modes.*")
        check_env(env.unwrapped)
    env.close()


def test_every_native_task_is_registered_and_no_other_is():
    from robokd import registry

    assert is_native("reach")
    assert not is_native("gymnasium")
    register_tasks()  # some may have come as plugins
    for task in registry.names("task"):
        assert (env_id(task) in gymnasium.registry) == is_native(task)


def test_an_episode_of_one_world_ends_with_what_it_saw_and_wants_a_reset(make_env):
    env = gymnasium.make("robokd/Reach-v0", groups=["proprio"], fields=SHORT).unwrapped
    first, info = env.reset(seed=3)
    plain = make_env(1, ("proprio",), stream="train", **SHORT)
    plain.reset(torch.tensor([info["episode_id"]]))
    for step in range(3):
        action = np.full(7, 0.2, np.float32)
        obs, reward, terminated, truncated, info = env.step(action)
        wanted = plain.step(torch.from_numpy(action)[None])
        assert reward == wanted[1].item()
        assert (terminated, truncated) == (False, step == 2)
    assert np.array_equal(obs["proprio"], wanted[3]["terminal"]["proprio"][0].numpy())
    with pytest.raises(gymnasium.error.ResetNeeded, match="has ended"):
        env.step(action)
    again, _ = env.reset(seed=3)
    assert np.array_equal(first["proprio"], again["proprio"])
    assert not np.array_equal(first["proprio"], env.reset()[0]["proprio"])


def test_gymnasium_counts_the_episodes_of_our_worlds():
    """Its wrapper wants a key of `info` for itself: `episode`."""
    env = gymnasium.wrappers.RecordEpisodeStatistics(
        gymnasium.make("robokd/Reach-v0", groups=["proprio"], fields=SHORT)
    )
    env.reset(seed=3)
    infos = [env.step(np.zeros(7, np.float32))[-1] for _ in range(3)]
    assert infos[-1]["episode"]["l"] == 3
    env.close()


def test_a_batch_of_worlds_hands_over_the_last_observations_as_gymnasium_wants():
    env = gymnasium.make_vec("robokd/Reach-v0", 3, groups=["proprio", "front"], fields=SHORT)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    obs, _ = env.reset(seed=1)
    assert obs in env.observation_space
    for step in range(3):
        obs, reward, terminated, truncated, infos = env.step(np.zeros((3, 7), np.float32))
        assert obs in env.observation_space
        assert reward.shape == (3,)
        assert ("final_obs" in infos) == (step == 2)
    assert truncated.all()
    assert not terminated.any()
    assert infos["_final_obs"].all()
    assert set(infos["final_info"]) == {"is_success", "episode_id", "_is_success", "_episode_id"}
    for world in range(3):
        last = infos["final_obs"][world]
        assert last in env.single_observation_space
        assert not np.array_equal(last["proprio"], obs["proprio"][world])
        assert not np.array_equal(last["front"], obs["front"][world])
    env.close()


def test_a_late_camera_is_not_shown_one_more_frame_by_the_look_at_an_end(make_env):
    from robokd.env.gymnasium import Endings

    late = Corruption(latency_s=(0.08, 0.08))
    plain, watched = (make_env(2, ("front",), corrupt=late, **SHORT) for _ in range(2))
    endings = Endings(watched)
    for env in (plain, watched):
        env.episode_length_buf = torch.tensor([1, 0])  # the first world ends while the other goes on
    for _ in range(4):
        actions = torch.full((2, 7), 0.9)
        left, right = plain.step(actions), watched.step(actions)
        assert torch.equal(left[0]["front"], right[0]["front"])
    assert endings._seen is not None


def test_our_worlds_taken_back_through_gymnasium_are_what_they_were(make_env):
    env = _env(
        "robokd/Reach-v0", 2, ("proprio", "privileged"), vectorized=True, max_episode_steps=3,
        privileged=("privileged",),
    )  # fmt: skip
    env.worlds._envs.env.max_episode_length = 3
    numbers = env.worlds._envs.env.state.episode_id.clone()
    plain = make_env(2, ("proprio", "privileged"), stream="train")
    plain.max_episode_length = 3
    plain.reset(numbers)
    for _ in range(4):
        actions = torch.full((2, 7), 0.4)
        left, right = plain.step(actions), env.step(actions)
        for name in ("proprio", "privileged"):
            assert torch.equal(left[0][name], right[0][name])
            if left[2].any():
                assert torch.equal(left[3]["terminal"][name], right[3]["terminal"][name])
        assert torch.equal(left[1], right[1])
        assert torch.equal(left[2], right[2])
        assert torch.equal(left[3]["time_outs"], right[3]["time_outs"])


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [({"fields": {"horizon": 2.0}}, "no field of task=reach named 'horizon'. Did you mean 'horizon_s'?"),
     ({"parts": {"physics": "mujoco"}}, "no kind of part named 'physics'"),
     ({"parts": {"renderer": "rastr"}}, "no renderer named 'rastr'. Did you mean 'raster'?"),
     ({"groups": ["propri"]}, "no observation group or camera named 'propri'"),
     ({"space": "sen"}, "no parameter space named 'sen'")],
    ids=["field", "kind", "part", "group", "space"],
)  # fmt: skip
def test_making_one_of_our_environments_names_what_it_cannot_take(kwargs, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        gymnasium.make("robokd/Reach-v0", **kwargs)
