"""A place with two actions, and files of teachers that fit it: made by the libraries they are from."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from robokd.specs import ActionSpec, ObsSpec, Term, to_dict

JOINTS = ("shoulder", "elbow")
GROUPS = ("proprio", "privileged")
WIDTH = 7


def action_spec(names: tuple[str, ...] = JOINTS) -> ActionSpec:
    row = (1.0,) * len(names)
    return ActionSpec(
        names=names, scale=row, control_dt=0.1, position_lower=tuple(-x for x in row), position_upper=row,
        velocity=row, acceleration=row,
    )  # fmt: skip


def obs_specs() -> dict[str, ObsSpec]:
    turn, speed = (Term(name=name, elements=JOINTS, unit="rad") for name in ("joint_pos", "joint_vel"))
    goal, mass = (
        Term(name="goal", elements=("x", "y"), unit="m"),
        Term(name="mass", elements=("m",), unit="kg"),
    )
    return {
        "proprio": ObsSpec(group="proprio", role="proprio", terms=(turn, speed)),
        "privileged": ObsSpec(group="privileged", role="privileged", terms=(goal, mass)),
    }


class Task:
    """A task with a script: go where the goal is."""

    script_groups = GROUPS

    def __init__(self, gain: float = 0.5) -> None:
        self.gain = gain

    def parameters(self) -> dict[str, Any]:
        return {"friction": None}

    def script(self, observations: TensorDict) -> torch.Tensor:
        return self.gain * (observations["privileged"][:, :2] - observations["proprio"][:, :2])

    def script_constants(self) -> dict[str, torch.Tensor]:
        return {"gain": torch.tensor(self.gain)}


@dataclass
class Room:
    """A Place."""

    num_actions: int = 2
    device: str = "cpu"
    action_spec: ActionSpec = field(default_factory=action_spec)
    obs_specs: dict[str, ObsSpec] = field(default_factory=obs_specs)
    task: Any = field(default_factory=Task)
    state: Any = None

    def get_observations(self) -> TensorDict:
        return rows(4)


def rows(count: int, scale: float = 1.0, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    groups = {
        name: scale * torch.randn(count, spec.size, generator=generator) for name, spec in obs_specs().items()
    }
    return TensorDict(groups, batch_size=[count])


def flat_rows(obs: TensorDict) -> torch.Tensor:
    return torch.cat([obs[group] for group in GROUPS], 1)


def rsl_rl_file(path: Path, *, own: ActionSpec | None = None, **fields: Any) -> Any:
    """Write what rsl_rl's runner saves, with the contract that ours adds if it is of `own` actions.

    Returns the actor.
    """
    from robokd.teachers.ppo import PpoCfg

    torch.manual_seed(0)
    algorithm = PpoCfg(hidden=(16, 8), critic_hidden=(8,), critic_groups=GROUPS, **fields).algorithm(
        rows(4), 2, "cpu"
    )
    algorithm.actor.update_normalization(rows(64, 3.0))
    saved = {**algorithm.save(), "iter": 3, "infos": None}
    if own:
        seen = {name: to_dict(spec) for name, spec in obs_specs().items()}
        saved["contract"] = {"action": to_dict(own), "observations": seen, "cameras": {}}
    torch.save(saved, path)
    return algorithm.actor.eval()


def sb3_model(kind: str, **policy: Any) -> Any:
    """Return a tiny model of stable-baselines3 after a few steps of learning."""
    import gymnasium
    import numpy as np
    import stable_baselines3

    class Space(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.np_random.normal(size=WIDTH).astype(np.float32), {}

        def step(self, action):
            return self.reset()[0], -float((action**2).sum()), False, False, {}

    algorithm, _, sde = kind.partition("-")
    settings: dict[str, Any] = {
        "PPO": {"n_steps": 8, "batch_size": 8, "n_epochs": 1}, "A2C": {"n_steps": 4},
        "SAC": {"learning_starts": 4, "batch_size": 4, "buffer_size": 64},
        "TD3": {"learning_starts": 4, "batch_size": 4, "buffer_size": 64},
        "DDPG": {"learning_starts": 4, "batch_size": 4, "buffer_size": 64},
    }[algorithm]  # fmt: skip
    settings |= {"use_sde": True} if sde else {}
    model = getattr(stable_baselines3, algorithm)(
        "MlpPolicy", Space(), policy_kwargs={"net_arch": [8, 6], **policy}, seed=0, device="cpu", **settings
    )
    return model.learn(8)


def onnx_graph(
    *, batch: int | str = "batch", width: int | str = WIDTH, out: int = 2, kind: str = "float",
    extra: Callable[[Any, list[Any], list[Any]], None] | None = None,
) -> Any:  # fmt: skip
    """Return a model action = tanh(obs W), with outputs log_std and value; `extra` may alter the parts."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    types = {"float": (TensorProto.FLOAT, np.float32), "double": (TensorProto.DOUBLE, np.float64)}
    proto, dtype = types[kind]
    generator = np.random.default_rng(0)
    inside = width if isinstance(width, int) else WIDTH
    weights = [("w", (inside, out)), ("s", (inside, out)), ("v", (inside, 1))]
    initializers = [
        numpy_helper.from_array(generator.normal(size=shape).astype(dtype), name) for name, shape in weights
    ]
    nodes = [
        helper.make_node("MatMul", ["obs", "w"], ["mean"]), helper.make_node("Tanh", ["mean"], ["action"]),
        helper.make_node("MatMul", ["obs", "s"], ["log_std"]),
        helper.make_node("MatMul", ["obs", "v"], ["value"]),
    ]  # fmt: skip
    if extra:
        extra(helper, nodes, initializers)
    outputs = [("action", out), ("log_std", out), ("value", 1)]
    graph = helper.make_graph(
        nodes, "policy", [helper.make_tensor_value_info("obs", proto, [batch, width])],
        [helper.make_tensor_value_info(name, proto, [batch, size]) for name, size in outputs], initializers,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model


def onnx_file(path: Path, **fields: Any) -> Any:
    model = onnx_graph(**fields)
    path.write_bytes(model.SerializeToString())
    return model


def replaced(path: Path, **members: bytes) -> Path:
    """Return a copy of a zip with other contents of members, of which `_` stands for a dot in the name."""
    made = path.with_name(f"other_{path.name}")
    new = {name.replace("_pth", ".pth"): data for name, data in members.items()}
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as out:
        for name in old.namelist():
            out.writestr(name, new.get(name, old.read(name)))
    return made


def saved(value: object) -> bytes:
    """Return what torch.save writes."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def samples(folder: Path) -> dict[str, dict[str, Any]]:
    """Return {teacher: fields of a config that opens in a Room}, for every teacher that labels."""
    rsl_rl_file(folder / "model_3.pt")
    sb3_model("PPO").save(folder / "ppo.zip")
    onnx_file(folder / "policy.onnx")
    files = {
        "rsl_rl": {"path": str(folder / "model_3.pt")}, "sb3": {"path": str(folder / "ppo.zip")},
        "onnx": {"path": str(folder / "policy.onnx"), "log_std": "log_std", "value": "value"},
    }  # fmt: skip
    members = {name: {"part": name, **files[name]} for name in ("sb3", "onnx")}
    pool = {"members": members, "route": "privileged.goal.x", "edges": (0.0,)}
    return {**files, "scripted": {}, "random": {}, "pool": pool}
