"""Teachers from other people's files: as their makers' libraries answer, refused by name, and never run."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from robokd import UserError
from robokd.teachers.onnx import OnnxCfg
from robokd.teachers.rsl_rl import RslRlCfg
from robokd.teachers.sb3 import Sb3Cfg
from tests.unit.teacher_samples import (
    Room,
    action_spec,
    flat_rows,
    obs_specs,
    onnx_file,
    replaced,
    rows,
    rsl_rl_file,
    saved,
    sb3_model,
)


class Evil:
    """Pickled, it would make the file `marker` when it is loaded."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def refused(cfg, message, room=None):
    """The config is refused with a message of one line that matches."""
    with pytest.raises(UserError, match=message) as caught:
        cfg.open(room or Room())
    assert "\n" not in str(caught.value), str(caught.value)


def edited(path, change):
    """Change the tensors of a checkpoint in place."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    return path


# rsl_rl


@pytest.fixture
def checkpoint(tmp_path):
    rsl_rl_file(tmp_path / "model_3.pt")
    return tmp_path / "model_3.pt"


def test_an_rsl_rl_file_answers_as_the_actor_that_was_saved(tmp_path):
    actor = rsl_rl_file(tmp_path / "model_3.pt")
    teacher, obs = RslRlCfg(path=str(tmp_path / "model_3.pt")).open(Room()), rows(9)
    said = teacher.label(obs)
    with torch.no_grad():
        assert torch.equal(said.action, actor(obs).clip(-1, 1))
    assert torch.allclose(said.log_std, actor.distribution.log_std_param.expand(9, 2))
    assert said.features.shape == (9, 8)
    assert not any(value.requires_grad for value in teacher.actor.parameters())
    assert not teacher.actor.training


def test_noise_normaliser_and_activation_of_an_rsl_rl_file_are_what_its_tensors_tell(tmp_path):
    from rsl_rl.models import MLPModel

    obs, path = rows(5), tmp_path / "model_9.pt"
    for noise, normalises in (("scalar", True), ("log", False), (None, True)):
        cfg = noise and {"class_name": "GaussianDistribution", "init_std": 0.3, "std_type": noise}
        actor = MLPModel(
            obs, {"actor": ["privileged", "proprio"]}, "actor", 2, hidden_dims=[5], activation="tanh",
            obs_normalization=normalises, distribution_cfg=cfg,
        ).eval()  # fmt: skip
        torch.save({"actor_state_dict": actor.state_dict()}, path)
        teacher = RslRlCfg(path=str(path), groups=("privileged", "proprio"), activation="tanh").open(Room())
        said = teacher.label(obs)
        with torch.no_grad():
            assert torch.equal(said.action, actor(obs).clip(-1, 1))
        assert teacher.offers == {"features", *(["log_std"] if noise else [])}
        assert noise is None or torch.allclose(said.log_std, torch.tensor(0.3).log().expand(5, 2))


def test_the_hash_of_an_rsl_rl_teacher_covers_weights_normaliser_groups_and_activation(checkpoint):
    def opened(**fields):
        return RslRlCfg(path=str(checkpoint), **fields).open(Room()).sha256()

    seen = {opened(), opened(activation="tanh"), opened(groups=("privileged", "proprio"))}
    for key in ("mlp.0.weight", "obs_normalizer._std", "distribution.log_std_param"):
        edited(checkpoint, lambda state, key=key: state["actor_state_dict"][key].flatten()[:1].add_(1e-3))
        seen.add(opened())
    assert len(seen) == 6


def put(name, *shape):
    """Return a change that puts zeros of a shape into the actor."""
    return lambda state: state["actor_state_dict"].update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("actor_state_dict"), "wanted actor_state_dict, it has critic_state_dict"),
        (lambda s: s.update(actor_state_dict=3), "is a int, wanted tensors by name"),
        (
            lambda s: s["actor_state_dict"]["mlp.2.bias"].fill_(float("nan")),
            "8 of 8 numbers of mlp.2.bias are",
        ),
        (lambda s: s["actor_state_dict"].pop("mlp.4.weight"), "mlp.4.bias is of no plain multi-layer"),
        (put("rnn.w", 1), r"it remembers.*rnn.w: wanted nothing"),
        (put("mlp.0.weight", 16, 9), r"reads 9 numbers, its groups have 7 \(proprio 4 \+ privileged 3\)"),
        (put("mlp.2.weight", 8, 9), r"\(8, 9\), wanted \(\*, 16\)"),
        (put("obs_normalizer._std", 1, 9), r"_std: wanted \(1, 7\), got \(1, 9\)"),
    ],
)
def test_an_rsl_rl_file_that_does_not_fit_is_refused_by_name(checkpoint, change, message):
    refused(RslRlCfg(path=str(edited(checkpoint, change))), message)


def test_an_rsl_rl_file_of_another_body_is_refused_with_both_numbers(checkpoint):
    refused(RslRlCfg(path=str(checkpoint)), "gives 2 actions, the task takes 3", Room(num_actions=3))
    refused(RslRlCfg(path=str(checkpoint), groups=("proprio",)), "reads 7 numbers, its groups have 4")
    refused(
        RslRlCfg(path=str(checkpoint), groups=("propio",)),
        "no observation group named 'propio'. Did you mean",
    )
    refused(RslRlCfg(path=str(checkpoint), groups=()), "reads no groups: set teacher.groups. Known: proprio")
    with pytest.raises(ValueError, match=r"no activation named 'eluu'\. Did you mean 'elu'"):
        RslRlCfg(activation="eluu")


def test_a_spread_that_depends_on_the_state_is_refused(tmp_path):
    from rsl_rl.models import MLPModel

    noise = {"class_name": "HeteroscedasticGaussianDistribution"}
    actor = MLPModel(rows(2), {"actor": ["proprio"]}, "actor", 2, hidden_dims=[5], distribution_cfg=noise)
    torch.save({"actor_state_dict": actor.state_dict()}, tmp_path / "model_1.pt")
    told = "gives 4 numbers for 2 actions: a spread that depends on the state, or a Beta"
    refused(RslRlCfg(path=str(tmp_path / "model_1.pt"), groups=("proprio",)), told)


def test_a_checkpoint_of_our_own_is_held_to_its_contract(tmp_path):
    path = tmp_path / "step_00000003.pt"
    rsl_rl_file(path, own=action_spec())
    assert RslRlCfg(path=str(path)).open(Room()).act(rows(3)).shape == (3, 2)
    refused(
        RslRlCfg(path=str(path), groups=("privileged", "proprio")),
        r"trained with .*\[proprio,privileged\], got",
    )
    other = Room(action_spec=action_spec(("hip", "knee")))
    refused(
        RslRlCfg(path=str(path)),
        r"does not fit this task: action.names: wanted \('shoulder', 'elbow'\)",
        other,
    )


@pytest.mark.parametrize("cfg", [RslRlCfg, Sb3Cfg, OnnxCfg])
def test_a_file_that_is_absent_or_another_is_refused_with_what_is_there(cfg, tmp_path, checkpoint):
    refused(cfg(path=str(tmp_path / "no.pt")), "no.pt does not exist, wanted .* In .*: model_3.pt")
    refused(cfg(path=str(tmp_path)), "is a folder, wanted .* In it: .*model_3.pt")
    for content in (b"", b"\0\1not a file of anything", json.dumps({"a": 1}).encode(), os.urandom(300)):
        other = tmp_path / "other.bin"
        other.write_bytes(content)
        refused(cfg(path=str(other)), "other.bin is not a")


def test_no_file_of_a_teacher_runs_code(tmp_path, checkpoint):
    marker = tmp_path / "it_ran"
    bad = tmp_path / "bad.pt"
    for content in (
        pickle.dumps(Evil(marker)),
        saved(Evil(marker)),
        saved({"actor_state_dict": Evil(marker)}),
    ):
        bad.write_bytes(content)
        refused(RslRlCfg(path=str(bad)), "holds more than tensors and plain python, and was not loaded")
        sb3_model("PPO").save(tmp_path / "ppo.zip")
        refused(Sb3Cfg(path=str(replaced(tmp_path / "ppo.zip", policy_pth=content))), "was not loaded")
        refused(OnnxCfg(path=str(bad)), "is not an ONNX file")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # the trap is a real one
    assert marker.exists()


# stable-baselines3


def log_std_of(model, obs):
    """log_std of the Gaussian before it is squashed, as the library has it."""
    with torch.no_grad():
        if hasattr(model.policy, "value_net"):
            return model.policy.get_distribution(obs).distribution.stddev.log()
        mean, log_std, more = model.actor.get_action_dist_params(obs)
        return model.actor.action_dist.proba_distribution(mean, log_std, **more).distribution.stddev.log()


@pytest.mark.parametrize("kind", ["PPO", "PPO-sde", "A2C", "SAC", "SAC-sde", "TD3", "DDPG"])
def test_a_zip_answers_as_stable_baselines3_does(kind, tmp_path):
    policy = {"activation_fn": torch.nn.ELU} if kind in ("PPO", "TD3") else {}
    model, obs = sb3_model(kind, **policy), rows(32)
    model.save(tmp_path / "model.zip")
    teacher = Sb3Cfg(path=str(tmp_path / "model.zip")).open(Room())
    said, flat = teacher.label(obs), flat_rows(obs)
    for far in (1.0, 100.0):
        wanted, _ = model.predict(far * flat.numpy(), deterministic=True)
        assert np.abs(teacher.act(far * obs).numpy() - wanted).max() <= 1e-6
    assert ("value" in teacher.offers) == kind.startswith(("PPO", "A2C"))
    assert ("log_std" in teacher.offers) == (not kind.startswith(("TD3", "DDPG")))
    if said.value is not None:
        with torch.no_grad():
            assert torch.allclose(said.value, model.policy.predict_values(flat)[:, 0], atol=1e-6)
    if said.log_std is not None:
        squash = torch.log(1 - said.action**2 + 1e-6) if kind.startswith("SAC") else 0.0
        assert torch.allclose(said.log_std - squash, log_std_of(model, flat), atol=1e-5)


def test_a_squashed_gaussian_s_log_std_is_in_action_units(tmp_path):
    sb3_model("SAC").save(tmp_path / "sac.zip")
    teacher = Sb3Cfg(path=str(tmp_path / "sac.zip")).open(Room())
    with torch.no_grad():
        teacher.actor.spread.weight.zero_()
        teacher.actor.spread.bias.fill_(-4.0)
    obs, torch_seed = rows(4), torch.Generator().manual_seed(0)
    said = teacher.label(obs)
    noise = torch.exp(torch.tensor(-4.0)) * torch.randn(20_000, 4, 2, generator=torch_seed)
    spread = torch.tanh(torch.atanh(said.action) + noise).std(0)
    assert torch.allclose(said.log_std.exp(), spread, rtol=0.03)


def test_a_policy_without_hidden_layers_is_read_too(tmp_path):
    model = sb3_model("PPO", net_arch=[])
    model.save(tmp_path / "flat.zip")
    teacher, obs = Sb3Cfg(path=str(tmp_path / "flat.zip")).open(Room()), rows(4)
    wanted, _ = model.predict(flat_rows(obs).numpy(), deterministic=True)
    assert np.abs(teacher.act(obs).numpy() - wanted).max() <= 1e-6
    assert teacher.offers == {"log_std", "value"}


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    """Return the path of a PPO zip and its model."""
    path = tmp_path_factory.mktemp("sb3") / "ppo.zip"
    model = sb3_model("PPO")
    model.save(path)
    return path, model


def test_a_normaliser_s_numbers_answer_as_vec_normalize_does(ppo, tmp_path):
    from stable_baselines3.common.vec_env import VecNormalize

    path, model = ppo
    norm = VecNormalize(model.get_env(), clip_obs=2.0)
    norm.obs_rms.update(np.random.default_rng(0).normal(3, 2, size=(100, 7)))
    obs, numbers = rows(16, 4.0), {"mean": norm.obs_rms.mean, "variance": norm.obs_rms.var}
    wanted, _ = model.predict(norm.normalize_obs(flat_rows(obs).numpy()), deterministic=True)
    np.savez(tmp_path / "n.npz", **numbers, epsilon=norm.epsilon, clip=norm.clip_obs)
    lists = {name: value.tolist() for name, value in numbers.items()}
    (tmp_path / "n.json").write_text(json.dumps({**lists, "epsilon": norm.epsilon, "clip": 2.0}))
    hashes = {Sb3Cfg(path=str(path)).open(Room()).sha256()}
    for name in ("n.npz", "n.json"):
        teacher = Sb3Cfg(path=str(path), normalizer=str(tmp_path / name)).open(Room())
        assert np.abs(teacher.act(obs).numpy() - wanted).max() <= 1e-6
        hashes.add(teacher.sha256())
    assert len(hashes) == 2  # the same numbers, whatever file they stand in; and not without them
    np.savez(tmp_path / "n.npz", **numbers, epsilon=norm.epsilon, clip=3.0)
    assert Sb3Cfg(path=str(path), normalizer=str(tmp_path / "n.npz")).open(Room()).sha256() not in hashes


def test_a_pickled_vec_normalize_is_refused_with_the_way_out(ppo, tmp_path):
    marker = tmp_path / "it_ran"
    for name, content in (
        ("v.pkl", pickle.dumps(Evil(marker))),
        ("v.npz", pickle.dumps({"mean": Evil(marker)})),
    ):
        (tmp_path / name).write_bytes(content)
        refused(
            Sb3Cfg(path=str(ppo[0]), normalizer=str(tmp_path / name)),
            r"can run code and is not read.*np\.savez",
        )
    np.savez(tmp_path / "o.npz", mean=np.array([Evil(marker)] * 7), variance=np.ones(7))
    refused(Sb3Cfg(path=str(ppo[0]), normalizer=str(tmp_path / "o.npz")), "can run code and is not read")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"mean": [0.0] * 7}, "has mean, wanted mean, variance"),
        ({"mean": [0.0] * 7, "variance": [1.0] * 7, "std": 1}, "wanted mean, variance"),
        ({"mean": [0.0] * 6, "variance": [1.0] * 7}, "mean has 6 numbers, the policy reads 7"),
        ({"mean": [0.0] * 7, "variance": [-1.0] * 7}, "variance must be finite and >= 0"),
        ({"mean": [float("nan")] * 7, "variance": [1.0] * 7}, "mean must be finite"),
        ({"mean": "x", "variance": [1.0]}, "is no JSON object of numbers"),
        ([1, 2], "is no JSON object of numbers"),
    ],
)
def test_a_normaliser_that_does_not_fit_is_refused_by_name(ppo, tmp_path, numbers, message):
    (tmp_path / "n.json").write_text(json.dumps(numbers))
    refused(Sb3Cfg(path=str(ppo[0]), normalizer=str(tmp_path / "n.json")), message)


def test_what_is_pickled_in_a_zip_s_json_stays_pickled(ppo, tmp_path):
    marker = tmp_path / "it_ran"
    evil = {":type:": "x", ":serialized:": base64.b64encode(pickle.dumps(Evil(marker))).decode()}
    data = json.loads(zipfile.ZipFile(ppo[0]).read("data"))
    data |= {"policy_class": evil, "learning_rate": evil}
    data["action_space"][":serialized:"] = evil[":serialized:"]
    bad = replaced(ppo[0], data=json.dumps(data).encode(), pytorch_variables_pth=pickle.dumps(Evil(marker)))
    assert Sb3Cfg(path=str(bad)).open(Room()).act(rows(2)).shape == (2, 2)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["policy_kwargs"].update(activation_fn="<class 'mine.Swirl'>"), "no activation named"),
        (lambda d: d["policy_kwargs"].update(features_extractor_class="<class 'x.Cnn'>"), "plain MlpPolicy"),
        (lambda d: d["policy_kwargs"].update(clip_mean="x"), "it was altered"),
        (lambda d: d.update(policy_kwargs=[1]), "it was altered"),
        (lambda d: d["action_space"].update({":type:": "<class 'gymnasium.spaces.discrete.Discrete'>"}),
         "actions of <class 'gymnasium.spaces.discrete.Discrete'>, wanted a flat Box"),
        (lambda d: d["observation_space"].update({":type:": "<class 'gymnasium.spaces.dict.Dict'>"}),
         "observations of .*dict.Dict"),
        (lambda d: d["action_space"].update(high="[2. 2.]"), "trained for actions to 2, this task's are"),
    ],
)  # fmt: skip
def test_a_zip_of_another_policy_is_refused_by_name(ppo, change, message):
    data = json.loads(zipfile.ZipFile(ppo[0]).read("data"))
    if isinstance(data["policy_kwargs"], str):
        data["policy_kwargs"] = {}
    change(data)
    refused(Sb3Cfg(path=str(replaced(ppo[0], data=json.dumps(data).encode()))), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"features_extractor.cnn.0.weight": torch.zeros(1)}), "is of no plain MlpPolicy"),
        (lambda s: s.pop("action_net.weight"), "mlp_extractor.* is of no plain|log_std is of no plain"),
        (lambda s: s["action_net.bias"].fill_(float("inf")), "2 of 2 numbers of action_net.bias"),
        (lambda s: s.update({"action_net.weight": torch.zeros(2, 9)}), "its layers do not fit one another"),
        (lambda s: s.update({"action_net.weight": torch.zeros(3, 6), "action_net.bias": torch.zeros(3)}),
         "gives 3 actions, the task takes 2"),
        (lambda s: s.update({"mlp_extractor.policy_net.0.weight": torch.zeros(8, 5)}),
         r"reads 5 numbers, its groups have 7 \(proprio 4 \+ privileged 3\)"),
        (lambda s: s.clear(), "has no actor: wanted action_net or actor.mu, got nothing"),
    ],
)  # fmt: skip
def test_a_zip_whose_tensors_do_not_fit_is_refused_by_name(ppo, change, message):
    state = {name: value.clone() for name, value in ppo[1].policy.state_dict().items()}
    change(state)
    refused(Sb3Cfg(path=str(replaced(ppo[0], policy_pth=saved(state)))), message)


def test_a_torch_checkpoint_is_no_zip_of_stable_baselines3(checkpoint):
    refused(
        Sb3Cfg(path=str(checkpoint)),
        r"is not a zip that stable-baselines3 saved: no policy.pth in it, it has",
    )


# onnx


def test_a_graph_answers_as_its_numbers_say(tmp_path):
    from onnx import numpy_helper

    model = onnx_file(tmp_path / "p.onnx")
    teacher = OnnxCfg(path=str(tmp_path / "p.onnx"), log_std="log_std", value="value").open(Room())
    weights = {one.name: numpy_helper.to_array(one).copy() for one in model.graph.initializer}
    obs = rows(6)
    said, flat = teacher.label(obs), flat_rows(obs).numpy()
    assert np.allclose(said.action, np.tanh(flat @ weights["w"]), atol=1e-6)
    assert np.allclose(said.log_std, flat @ weights["s"], atol=1e-5)
    assert np.allclose(said.value, (flat @ weights["v"])[:, 0], atol=1e-5)
    assert teacher.offers == {"log_std", "value"}


def test_a_graph_s_actions_are_clipped(tmp_path):
    onnx_file(tmp_path / "p.onnx")
    wide = OnnxCfg(path=str(tmp_path / "p.onnx"), action="log_std").open(Room())
    assert wide.act(rows(8, 100.0)).abs().max() == 1


def test_a_graph_of_several_inputs_reads_the_groups_that_it_is_told(tmp_path):
    from onnx import TensorProto, helper

    path = tmp_path / "two.onnx"
    value = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in
             (("body", 4), ("world", 3), ("action", 2))}  # fmt: skip
    ends = [helper.make_tensor(name, TensorProto.INT64, [1], [number]) for name, number in
            (("zero", 0), ("two", 2), ("axis", 1))]  # fmt: skip
    nodes = [
        helper.make_node("Slice", [name, "zero", "two", "axis"], [f"{name}2"]) for name in ("body", "world")
    ]
    nodes.append(helper.make_node("Sub", ["world2", "body2"], ["action"]))
    graph = helper.make_graph(nodes, "two", [value["body"], value["world"]], [value["action"]], ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    cfg = OnnxCfg(path=str(path), inputs={"body": "proprio", "world": "privileged"})
    obs = rows(5, 0.1)
    assert torch.allclose(cfg.open(Room()).act(obs), Room().task.script(obs) / 0.5, atol=1e-6)
    assert cfg.reads(None) == ("proprio", "privileged")
    told = re.escape("has 2 inputs, say which reads what: teacher.inputs={body:<group>,world:<group>}")
    refused(OnnxCfg(path=str(path)), told)
    refused(OnnxCfg(path=str(path), inputs={"body": "proprio"}), "its input 'world' reads nothing; add it")
    refused(OnnxCfg(path=str(path), inputs={"bod": "proprio"}), "no input named 'bod'. Did you mean 'body'")
    swapped = {"body": "privileged", "world": "proprio"}
    refused(OnnxCfg(path=str(path), inputs=swapped), "input 'body', reads 4 numbers, its groups have 3")


def _random(helper, nodes, initializers):
    nodes.append(helper.make_node("RandomNormal", [], ["noise"], shape=[1]))


def _not_finite(helper, nodes, initializers):
    initializers[0].raw_data = np.full((7, 2), np.nan, np.float32).tobytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"batch": 1},
            r"input 'obs', takes exactly 1 row\(s\) at a time, wanted any number .* free first axis",
        ),
        ({"width": 9}, r"input 'obs', reads 9 numbers, its groups have 7 \(proprio 4 \+ privileged 3\)"),
        ({"out": 3}, "output 'action', gives 3 actions, the task takes 2"),
        ({"kind": "double"}, r"input 'obs', is a tensor\(double\), wanted a tensor\(float\)"),
        ({"extra": _random}, "draws random numbers \\(node RandomNormal\\), a teacher may not"),
        ({"extra": _not_finite}, "14 of 14 numbers of w are not finite"),
    ],
)
def test_a_graph_that_does_not_fit_is_refused_by_name(tmp_path, fields, message):
    onnx_file(tmp_path / "p.onnx", **fields)
    refused(OnnxCfg(path=str(tmp_path / "p.onnx")), message)


def test_a_width_that_a_graph_leaves_open_shows_when_it_is_tried(tmp_path):
    onnx_file(tmp_path / "p.onnx", width="D")
    assert OnnxCfg(path=str(tmp_path / "p.onnx")).open(Room()).act(rows(2)).shape == (2, 2)
    refused(OnnxCfg(path=str(tmp_path / "p.onnx"), groups=("proprio",)), "onnxruntime cannot run")


def test_an_output_that_a_graph_lacks_is_named_with_those_it_has(tmp_path):
    onnx_file(tmp_path / "p.onnx")
    path = str(tmp_path / "p.onnx")
    refused(
        OnnxCfg(path=path, action="actions"),
        "no output named 'actions'. Did you mean 'action'.*teacher.action=",
    )
    refused(
        OnnxCfg(path=path, latent="z"),
        "no output named 'z'. Known: action, log_std, value; say teacher.latent=",
    )
    refused(
        OnnxCfg(path=path, value="action"), r"output 'action' has shape \(3, 2\) for 3 rows, wanted \(3,\) or"
    )
    refused(OnnxCfg(path=path, log_std="value"), "output 'value', gives 1 actions, the task takes 2")
    with pytest.raises(ValueError, match=r"teacher\.threads must be >= 1, got 0"):
        OnnxCfg(threads=0)


def test_a_graph_with_weights_in_another_file_is_refused(tmp_path):
    import onnx

    model = onnx_file(tmp_path / "p.onnx")
    where = tmp_path / "q.onnx"
    onnx.save(model, where, save_as_external_data=True, location="weights.bin", size_threshold=0)
    refused(OnnxCfg(path=str(where)), "keeps 'w' in another file: save it as one file")


def test_a_graph_that_stops_being_finite_says_so(tmp_path):
    onnx_file(tmp_path / "p.onnx")
    teacher = OnnxCfg(path=str(tmp_path / "p.onnx"), value="value").open(Room())
    obs = rows(3)
    obs["proprio"][1, 0] = float("inf")
    with pytest.raises(UserError, match="output 'value' of the teacher's graph: 1 numbers not finite"):
        teacher.label(obs)


def test_the_rows_of_the_samples_are_as_wide_as_their_specs():
    assert {name: spec.size for name, spec in obs_specs().items()} == {"proprio": 4, "privileged": 3}
