"""A bundle says exactly what was written, or nothing."""

import hashlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_samples import action_spec, camera_spec, graph, make_bundle, manifest, proprio_spec

from robokd import UserError
from robokd.export import bundle as module
from robokd.export.bundle import FIELDS, read_bundle, write_bundle


def seal(text: bytes, body: bytes = b"", version: int = module.VERSION) -> bytes:
    """A file with a right closing hash around any manifest."""
    data = struct.pack("<8sIQ", module.MAGIC, version, len(text)) + text + body
    return data + hashlib.sha256(data).digest()


def refused(tmp_path, data: bytes) -> str:
    file = tmp_path / "case.robokd"
    file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_bundle(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def good(tmp_path):
    return make_bundle(tmp_path / "good.robokd")


def whole(good) -> tuple[dict, bytes]:
    return (
        json.loads(json.dumps(good.manifest)),
        good.member("policy.onnx") + good.member("samples.json"),
    )


def altered(good, change) -> bytes:
    row, body = whole(good)
    change(row)
    return seal(json.dumps(row).encode(), body)


def test_a_bundle_comes_back_as_it_was_written(good):
    assert good.action == action_spec()
    assert good.observations == {"proprio": proprio_spec()}
    assert good.cameras == {"front": camera_spec()}
    assert good.member("policy.onnx") == graph()
    assert good.sha256 == hashlib.sha256(good.path.read_bytes()).hexdigest()
    assert {key: good.manifest[key] for key in manifest()} == json.loads(json.dumps(manifest()))


@given(st.lists(st.floats(1e-300, 1e300), min_size=6, max_size=6), st.binary(max_size=200))
@settings(max_examples=50)
def test_numbers_and_members_keep_every_bit(tmp_path_factory, numbers, content):
    path = tmp_path_factory.mktemp("bundle") / "a.robokd"
    spec = manifest()["action"] | {
        "velocity": numbers[:2],
        "acceleration": numbers[2:4],
        "scale": numbers[4:],
    }
    members = {"policy.onnx": b"", "samples.json": b"", "extra": content}
    digest = write_bundle(path, {**manifest(), "action": spec}, members)
    back = read_bundle(path)
    assert (*back.action.velocity, *back.action.acceleration, *back.action.scale) == tuple(numbers)
    assert back.member("extra") == content
    assert back.member("policy.onnx") == b""
    assert back.sha256 == digest


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_altered_byte_and_any_cut_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bundle")
    content = make_bundle(folder / "a.robokd").path.read_bytes()
    where = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    refused(folder, content[:where] + bytes([content[where] ^ flip]) + content[where + 1 :])
    refused(folder, content[:where])
    refused(folder, content + content[: where + 1])


def test_every_byte_of_the_header_counts(good, tmp_path):
    content = good.path.read_bytes()
    for where in range(64):
        refused(tmp_path, content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])


def test_refusals_say_what_is_wrong(good, tmp_path):
    content = good.path.read_bytes()
    assert "is not a bundle" in refused(tmp_path, b"PK\x03\x04 a zip")
    assert "is truncated" in refused(tmp_path, content[:100])
    assert "truncated or altered" in refused(tmp_path, content[:-1])
    assert "bundle version 1; this robokd reads version 2" in refused(tmp_path, seal(b"{}", version=1))
    assert "not valid JSON" in refused(tmp_path, seal(b"{"))
    assert "not valid JSON" in refused(tmp_path, seal(b'{"task": 1, "task": 2}'))
    assert "not a finite number" in refused(tmp_path, seal(b'{"control_dt": NaN}'))
    assert "not a finite number" in refused(tmp_path, seal(b'{"control_dt": 1e999}'))
    assert "not valid JSON" in refused(tmp_path, seal(b"[" * 100_000))
    with pytest.raises(UserError, match=r"Bundles in .*good\.robokd"):
        read_bundle(tmp_path / "absent.robokd")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_every_manifest_field_is_required_and_typed(good, tmp_path, name):
    assert name in refused(tmp_path, altered(good, lambda row: row.pop(name)))
    assert name in refused(tmp_path, altered(good, lambda row: row.update({name: None})))
    assert name in refused(tmp_path, altered(good, lambda row: row.update({name: True})))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.update(extra=1), "unknown manifest field 'extra'"),
        (lambda row: row["action"].pop("mode"), "action.mode"),
        (lambda row: row["action"].update(scale=[0.1]), "'action': scale has 1 values for 2 joints"),
        (lambda row: row["action"].update(sclae=[0.1]), "no field 'sclae'"),
        (lambda row: row["cameras"]["front"].update(width="4"), "cameras.front"),
        (lambda row: row["cameras"]["front"].pop("near_m"), "cameras.front.near_m"),
        (lambda row: row["cameras"].update(wrist=row["cameras"]["front"]), "cameras.wrist"),
        (lambda row: row["observations"]["proprio"].update(role="privileged"), "no robot has it"),
        (lambda row: row["observations"]["proprio"].update(terms=[{"name": "a"}]), "observations.proprio"),
        (lambda row: row.update(observations={}, cameras={}), "'observations' is empty, as is 'cameras'"),
        (lambda row: row.update(control_dt=0.02), "control_dt"),
        (lambda row: row["start"].update(joint_pos_lower=[0.0]), "start.joint_pos_lower"),
        (lambda row: row["ages_s"].pop("front"), "'ages_s' wants exactly proprio, front"),
        (lambda row: row["ages_s"].update(front=0), "ages_s.front"),
        (lambda row: row["graph"].update(member="other"), "graph.member"),
        (lambda row: row["graph"].update(member=["policy.onnx"]), "graph.member"),
        (lambda row: row["graph"].update(samples="other"), "graph.samples"),
        (lambda row: row["graph"].pop("samples"), "wants exactly member, samples, inputs, outputs"),
        (lambda row: row["corrupt_config"].pop("part"), "corrupt_config.part"),
        (lambda row: row["graph"]["inputs"]["anchor"].pop("dtype"), "graph.inputs.anchor"),
        (lambda row: row["task_config"].pop("part"), "task_config.part"),
        (lambda row: row["members"][0].update(offset=1), "overlaps"),
        (lambda row: row["members"][0].update(bytes=-1), "overlaps"),
        (lambda row: row["members"][0].update(bytes=3), "sha256"),
        (lambda row: row["members"].clear(), "graph.member|belong to none"),
        (lambda row: row["members"].append(row["members"][0]), "two members"),
    ],
)
def test_a_wrong_field_is_named(good, tmp_path, change, said):
    message = refused(tmp_path, altered(good, change))
    assert any(part in message for part in said.split("|")), message


def test_overlapping_members_are_refused(good, tmp_path):
    row, body = whole(good)
    first = row["members"][0]
    row["members"].append({**first, "name": "other"})  # the same bytes under two names
    assert "'other' begins at 0" in refused(tmp_path, seal(json.dumps(row).encode(), body))


def test_what_could_not_be_read_is_not_written(tmp_path):
    path = tmp_path / "a.robokd"
    with pytest.raises(UserError, match=r"control_dt"):
        make_bundle(path, control_dt=0.5)
    with pytest.raises(UserError, match="leave it out"):
        make_bundle(path, members=[])
    with pytest.raises(UserError, match="no folder"):
        make_bundle(tmp_path / "absent" / "a.robokd")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_whole(good):
    make_bundle(good.path, task="other")
    assert read_bundle(good.path).manifest["task"] == "other"
    assert [file.name for file in good.path.parent.iterdir()] == [good.path.name]
