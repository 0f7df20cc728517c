"""What an ONNX file says of itself: the keys that mjlab and legged_control2 read, and the whole contract.

Numbers stand with every digit, where those suites round to three. What is not known has no key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import onnx

CONTRACT = "robokd"  # the key of the whole contract, as JSON
PROOF = "parity_max_abs"  # measured of the very bytes that would hold it


def annotate(graph: bytes, manifest: Mapping[str, Any], run_path: str) -> bytes:
    """Return the graph with the contract in its `metadata_props`; it computes the same.

    What torch says of each node, its stack trace, is as large as a small policy and is left out.
    """
    model = onnx.load_model_from_string(graph)
    for said in (model, *model.graph.node, *model.graph.value_info):
        del said.metadata_props[:]
    onnx.helper.set_model_props(model, properties(manifest, run_path))
    return model.SerializeToString(deterministic=True)


def properties(manifest: Mapping[str, Any], run_path: str) -> dict[str, str]:
    """Return what is written, by key."""
    action, robot = manifest["action"], manifest["robot"]
    seen = [
        *(term["name"] for group in manifest["observations"].values() for term in group["terms"]),
        *manifest["cameras"],
    ]
    said = {
        "run_path": run_path, "joint_names": _csv(action["names"]), "joint_stiffness": _csv(robot["kp"]),
        "joint_damping": _csv(robot["kd"]), "default_joint_pos": _csv(robot["home"]), "command_names": "",
        "observation_names": _csv(seen), "action_scale": _csv(action["scale"]),
        CONTRACT: json.dumps({name: value for name, value in manifest.items() if name != PROOF}),
    }  # fmt: skip
    return {name: value for name, value in said.items() if value is not None}


def _csv(values: Iterable[str | float] | None) -> str | None:
    if values is None:
        return None
    return ",".join(value if isinstance(value, str) else repr(float(value)) for value in values)
