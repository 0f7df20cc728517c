"""What other suites write beside their ONNX graphs, read without running anything.

Sources: mjlab `rl/exporter_utils.py` (CSV in the graph's metadata, three decimals; BeyondMimic has the same
keys), holosoma (JSON in the graph's metadata), unitree_rl_lab `utils/export_deploy_cfg.py` (three significant
digits in params/deploy.yaml, beside exported/policy.onnx; gains in the order of the motors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robokd import UserError
from robokd.files import parse_json, read_bytes, read_yaml


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """An export: its graph and what it says."""

    dialect: str
    path: Path
    graph_path: Path
    fields: dict[str, Any]  # by the dotted names of a contract file
    terms: tuple[str, ...]  # of its observation, in order; empty where it does not say
    rounds: Callable[[float], float]  # how the suite writes a number

    @property
    def graph(self) -> bytes:
        """The ONNX graph."""
        return read_bytes(self.graph_path)


def read(path: Path) -> Foreign:
    """Return the export at `path`: an .onnx with metadata, or a deploy.yaml."""
    if path.suffix in (".yaml", ".yml"):
        return _unitree(path)
    if path.suffix != ".onnx":
        raise UserError(f"foreign={path} is neither an .onnx file nor a deploy.yaml")
    said = _metadata(path)
    if "robokd" in said:
        raise UserError(f"{path} is a graph of robokd's: it needs no import, its .robokd file is the bundle")
    for key, reader in (("joint_names", _mjlab), ("dof_names", _holosoma)):
        if key in said:
            return reader(path, said)
    keys = ", ".join(sorted(said)) or "none"
    raise UserError(
        f"{path} is of no suite known here: its metadata has neither joint_names nor dof_names: {keys}"
    )


def open_graph(path: Path) -> Any:  # noqa: ANN401  (of onnx, which the base install lacks)
    """Return the ModelProto of a file; all of it must be in the file."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise UserError(
            "import needs the package 'onnx', which is not installed: pip install 'robokd[train]'"
        ) from None
    try:
        model = onnx.load_model_from_string(read_bytes(path))
    except (DecodeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not an ONNX file: {error}") from None
    if not model.graph.node:
        raise UserError(f"{path} is not an ONNX file: it has no node")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{path} keeps {tensor.name!r} in another file; export it with all data inside")
    return model


def _tensors(message: Any) -> Iterator[Any]:  # noqa: ANN401 - any message of ONNX
    """Yield every tensor in a message, those of branches, loops, constants and functions too."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                yield from _tensors(one)


def _metadata(path: Path) -> dict[str, str]:
    rows = [(prop.key, prop.value) for prop in open_graph(path).metadata_props]
    said = dict(rows)
    if len(said) != len(rows):
        raise UserError(f"{path}: a key of its metadata stands twice")
    return said


def _mjlab(path: Path, said: dict[str, str]) -> Foreign:
    def names(key: str) -> list[str]:
        return [name.strip() for name in said.get(key, "").split(",") if name.strip()]

    def numbers(key: str) -> list[float]:
        try:
            return [float(word) for word in names(key)]
        except ValueError:
            raise UserError(f"{path}: metadata {key} is not numbers: {said[key]!r:.60}") from None

    joints = names("joint_names")
    fields: dict[str, Any] = {"action.names": joints}
    for key, field in (
        ("joint_stiffness", "robot.kp"), ("joint_damping", "robot.kd"), ("action_scale", "action.scale"),
        ("default_joint_pos", "default_joint_pos"),
    ):  # fmt: skip
        if not (values := numbers(key)):
            continue
        values = values * len(joints) if len(values) == 1 and key == "action_scale" else values
        if len(values) != len(joints):
            raise UserError(f"{path}: metadata {key} has {len(values)} numbers for {len(joints)} joints")
        fields[field] = values
    if "observation_history_lengths" in said:
        for name, length in zip(
            names("observation_names"), names("observation_history_lengths"), strict=False
        ):
            _refuse_history(path, name, length)
    return Foreign(
        dialect="mjlab", path=path, graph_path=path, fields=fields, terms=tuple(names("observation_names")),
        rounds=lambda value: round(value, 3),
    )  # fmt: skip


def _holosoma(path: Path, said: dict[str, str]) -> Foreign:
    fields: dict[str, Any] = {}
    for key, field in (("dof_names", "action.names"), ("kp", "robot.kp"), ("kd", "robot.kd")):
        if key not in said:
            continue
        try:
            fields[field] = parse_json(said[key].encode())
        except ValueError:
            raise UserError(f"{path}: metadata {key} is not JSON: {said[key]!r:.60}") from None
    return Foreign(
        dialect="holosoma", path=path, graph_path=path, fields=fields, terms=(), rounds=lambda value: value
    )


def _unitree(path: Path) -> Foreign:
    content = read_yaml(path)
    for key in ("joint_ids_map", "step_dt", "default_joint_pos", "actions", "observations"):
        if key not in content:
            raise UserError(f"{path} is no deploy.yaml of unitree: it has no {key!r}")
    actions = content["actions"]
    if not isinstance(actions, dict) or list(actions) != ["JointPositionAction"]:
        got = ", ".join(actions) if isinstance(actions, dict) else repr(actions)
        raise UserError(f"{path}: only one JointPositionAction can be run; actions has {got}")
    action = actions["JointPositionAction"]
    if not isinstance(action, dict) or action.get("joint_ids") is not None:
        raise UserError(f"{path}: actions.JointPositionAction.joint_ids picks joints; only all can be run")
    fields: dict[str, Any] = {
        "control_dt": content["step_dt"], "default_joint_pos": content["default_joint_pos"],
    }  # fmt: skip
    fields |= {
        f"action.{key}": action[key] for key in ("scale", "offset", "clip") if action.get(key) is not None
    }
    fields |= _motor_gains(path, content)
    terms = content["observations"]
    if not isinstance(terms, dict):
        raise UserError(f"{path}: observations wants terms, got {terms!r:.60}")
    for name, term in terms.items():
        if not isinstance(term, dict):
            raise UserError(f"{path}: observations.{name} wants keys and values, got {term!r:.60}")
        _refuse_history(path, name, term.get("history_length", 1))
        if term.get("clip") is not None:
            raise UserError(
                f"{path}: observations.{name}.clip cannot be run: whether it is before scale is not said"
            )
        if (term.get("params") or {}).get("asset_cfg"):
            raise UserError(f"{path}: observations.{name}.params.asset_cfg picks joints; only all can be run")
        if "scale" in term:
            fields[f"observations.{name}.scale"] = term["scale"]
        if name == "joint_pos":  # here a term has the name of the function that its own runtime calls
            fields[f"observations.{name}.channel"] = name
    return Foreign(
        dialect="unitree", path=path, graph_path=path.parent.parent / "exported" / "policy.onnx",
        fields=fields, terms=tuple(map(str, terms)), rounds=lambda value: float(f"{value:.3g}"),
    )  # fmt: skip


def _motor_gains(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return kp and kd in the policy's order; the file has them in that of the motors."""
    places = content["joint_ids_map"]
    found = {}
    for key, field in (("stiffness", "robot.kp"), ("damping", "robot.kd")):
        row = content.get(key)
        if row is None:
            continue
        if not isinstance(places, list) or not isinstance(row, list):
            raise UserError(f"{path}: joint_ids_map and {key} want lists")
        if not all(type(place) is int and 0 <= place < len(row) for place in places):
            raise UserError(f"{path}: joint_ids_map names motors that {key}, of {len(row)}, has not")
        found[field] = [row[place] for place in places]
    return found


def _refuse_history(path: Path, name: str, length: object) -> None:
    if str(length) not in ("0", "1"):
        raise UserError(f"{path}: observation {name!r} has a history of {length} steps; only 1 can be run")
