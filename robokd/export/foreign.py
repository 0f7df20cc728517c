"""Import: another suite's export becomes a bundle, once a person has said what the export does not.

Shapes: A joints, 3 axes of an IMU, batch 1.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

import robokd
from robokd import UserError, keys
from robokd.config import dump
from robokd.export import dialects
from robokd.export.bundle import write_bundle
from robokd.export.dialects import Foreign
from robokd.export.manifest import GAINS, IMPORTED, QUATERNION_ORDER, UNITS
from robokd.export.parity import (
    MAX_ABS,
    MEMORY,
    NEXT_MEMORY,
    Sample,
    describe,
    open_graph,
    parity,
    write_samples,
)
from robokd.export.supplied import LIMITS, START, Fields, complete
from robokd.export.wrap import LAST_ACTION, Decoding, Reads, observe, used, wrap
from robokd.files import sha256_of, writable
from robokd.run import Run
from robokd.specs import (
    AXES,
    CHANNELS,
    ELEMENTS,
    ActionSpec,
    Limits,
    ObsSpec,
    Term,
    decode,
    elements,
    to_dict,
)

if TYPE_CHECKING:
    from robokd.config import ImportConfig

STAGE = "import"
PROOFS, GOLDEN = 256, 16  # random states; those of them that travel with the bundle
_TURN = 5.0  # rad/s that a body of the proof turns at most, about each axis


def import_foreign(config: ImportConfig, resume: Run | None = None) -> Path:
    """Write the bundle of a foreign export and return the path of the stage's summary."""
    out, key = writable(config.out), keys.signing_key()
    foreign = dialects.read(Path(config.foreign))
    model = dialects.open_graph(foreign.graph_path)
    fields, terms = complete(foreign, Path(config.contract) if config.contract else None)
    spec, decoding = _action(fields)
    data = wrap(foreign.graph_path, model, terms, decoding, spec)
    proofs = prove(foreign, terms, decoding, spec)
    manifest = make_manifest(foreign, fields, terms, spec, config.age_periods)
    manifest["graph"] = describe(proofs[0])
    from robokd.export.metadata import annotate

    data = annotate(data, manifest, str(foreign.path))
    worst = parity(data, proofs, spec.control_dt)
    if not (largest := float(np.max(list(worst.values())))) <= MAX_ABS:
        raise UserError(f"{foreign.path} wrapped is off by {largest:.1e} from what it is alone: {worst}")
    members = {"policy.onnx": data, "samples.json": write_samples(golden(data, proofs[:GOLDEN]))}
    digest = write_bundle(out, {**manifest, "parity_max_abs": largest}, members, key)
    files = [foreign.path, foreign.graph_path, *([Path(config.contract)] if config.contract else [])]
    parents = [{"path": str(file), "sha256": sha256_of(file)} for file in dict.fromkeys(files)]
    run = resume or Run.create(
        config.runs, task=manifest["task"], stage=STAGE, config=dump(config), parents=parents, seed=0
    )
    return run.write_summary({
        "task": manifest["task"], "dialect": foreign.dialect, "parity_max_abs": largest, "parity": worst,
        "parity_samples": len(proofs), "inputs": manifest["graph"]["inputs"],
        "outputs": manifest["graph"]["outputs"], "bundle": str(out), "bytes": out.stat().st_size,
        "sha256": digest, "signer": key.public_key().public_bytes_raw().hex() if key else None,
    })  # fmt: skip


def _action(fields: Fields) -> tuple[ActionSpec, Decoding]:
    """Return our action, a step of which is as far as the velocity allows (see wrap.py), and theirs."""
    dt = fields["control_dt"]
    limits: dict[str, Any] = {name: tuple(fields[f"action.{name}"]) for name in LIMITS}
    try:
        spec = ActionSpec(
            names=tuple(fields["action.names"]), control_dt=dt,
            scale=tuple(speed * dt for speed in fields["action.velocity"]),
            **limits,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"action: {error}") from None
    offset = fields.get("action.offset") or fields["default_joint_pos"]
    lower, upper = np.transpose(fields.get("action.clip") or [[-np.inf, np.inf]] * spec.size)
    rows = {"scale": fields["action.scale"], "offset": offset, "lower": lower, "upper": upper}
    return spec, Decoding(**{name: np.asarray([row], np.float32) for name, row in rows.items()})


def make_manifest(
    foreign: Foreign, fields: Fields, terms: Sequence[Reads], spec: ActionSpec, age_periods: float
) -> dict[str, Any]:
    """Return the bundle's manifest but for `graph` and `parity_max_abs`."""
    rows = tuple(
        Term(name=name, elements=elements(name, spec.names), unit=CHANNELS[name]) for name in used(terms)
    )
    groups = {"proprio": to_dict(ObsSpec(group="proprio", role="proprio", terms=rows))} if rows else {}
    files = dict.fromkeys((foreign.path, foreign.graph_path))
    return {
        "task": fields.get("task") or IMPORTED,
        **{f"{kind}_config": {"part": IMPORTED} for kind in ("task", "sim", "renderer", "corrupt")},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "robokd": robokd.__version__,
        "action": to_dict(spec), "observations": groups, "cameras": {}, "control_dt": spec.control_dt,
        "robot": {
            **{name: fields.get(f"robot.{name}") for name in GAINS},
            "home": fields.get("robot.home") or fields["default_joint_pos"],
            "quaternion_order": QUATERNION_ORDER, "units": UNITS,
        },
        "optics": {}, "statistics": {}, "latency_s": dict.fromkeys(groups, fields["latency_s"]),
        "start": {name.removeprefix("start."): fields[name] for name in START},
        "ages_s": dict.fromkeys(groups, age_periods * spec.control_dt + fields["latency_s"][1]),
        "lineage": [
            {"path": file.name, "stage": STAGE, "checkpoint": foreign.dialect, "sha256": sha256_of(file)}
            for file in files
        ],
        "evaluation": {}, "clock_s": 0.0,
    }  # fmt: skip


def prove(foreign: Foreign, terms: Sequence[Reads], decoding: Decoding, spec: ActionSpec) -> list[Sample]:
    """Return what the foreign graph says alone to random states, with our decoding in numpy behind it."""
    session = _session(foreign.graph_path, foreign.graph)
    names = [node.name for node in session.get_outputs()]
    name = "actions" if "actions" in names else names[0]
    generator, limits = np.random.default_rng(0), Limits.of(spec)
    samples = []
    for _ in range(PROOFS):
        state = _draw(generator, spec)
        seen = observe(terms, state).astype(np.float32)
        try:
            said = np.asarray(session.run([name], {session.get_inputs()[0].name: seen})[0])
        except Exception as error:  # onnxruntime's errors share no narrower class
            raise UserError(f"{foreign.graph_path} cannot be run: {str(error).splitlines()[0]}") from None
        if said.shape != (1, spec.size) or not np.isfinite(said).all():
            wanted = f"wanted {spec.size} finite numbers, batch 1"
            raise UserError(f"{foreign.graph_path} says {said!r:.60}, of shape {said.shape}; {wanted}")
        target = decoding.targets(said)
        state["anchor"] = np.clip(target + state["anchor"] * limits.scale, limits.lower, limits.upper)
        wanted_rate = (target - state["anchor"]) / limits.dt + state["rate"] * limits.acceleration * limits.dt
        state["rate"] = np.clip(wanted_rate, -limits.velocity, limits.velocity)
        action = np.clip((target - state["anchor"]) / limits.scale, -1, 1)
        command, rate = decode(action, state["anchor"], state["rate"], limits)
        outputs = {"command": command, "command_rate": rate, "action": action}
        inputs = {"anchor": state["anchor"], "rate": state["rate"]}
        if read := used(terms):
            inputs["proprio"] = np.concatenate([state[key] for key in read], 1)
        if any(one.channel == LAST_ACTION for one in terms):
            inputs[MEMORY + LAST_ACTION], outputs[NEXT_MEMORY + LAST_ACTION] = state[LAST_ACTION], said
        samples.append(Sample(inputs=inputs, outputs=outputs))
    return samples


def _draw(generator: np.random.Generator, spec: ActionSpec) -> dict[str, np.ndarray]:
    """Return a random state, float32: of joints (1, A) within the limits, of all else (1, 3).

    `anchor` and `rate` are how far the last target and its rate are from what will be asked for, in what the
    limits allow in one step: as often within reach as not.
    """
    speed = np.asarray(spec.velocity)
    ranges = {
        "joint_pos": (spec.position_lower, spec.position_upper), "joint_vel": (-speed, speed),
        LAST_ACTION: (-1, 1), "anchor": (-2, 2), "rate": (-2, 2),
    }  # fmt: skip
    state = {key: generator.uniform(low, high, (1, spec.size)) for key, (low, high) in ranges.items()}
    down = generator.normal(size=(1, len(AXES)))
    state |= {"gyro": generator.uniform(-_TURN, _TURN, down.shape), "gravity": down / np.linalg.norm(down)}
    for name in ("velocity_command", "velocity"):
        state[name] = generator.uniform(-1, 1, (1, len(ELEMENTS[name])))
    return {key: value.astype(np.float32) for key, value in state.items()}


def golden(data: bytes, samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with what the made graph itself says to their inputs."""
    session = _session(Path("policy.onnx"), data)
    names = [node.name for node in session.get_outputs()]
    return [
        Sample(
            inputs=one.inputs,
            outputs=dict(zip(names, map(np.asarray, session.run(names, one.inputs)), strict=True)),
        )
        for one in samples
    ]


def _session(path: Path, data: bytes) -> onnxruntime.InferenceSession:
    try:
        return open_graph(data)
    except Exception as error:  # onnxruntime's errors share no narrower class
        raise UserError(f"onnxruntime cannot run {path}: {str(error).splitlines()[0]}") from None
