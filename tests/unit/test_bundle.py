"""A bundle says exactly what was written, or nothing."""

import contextlib
import hashlib
import json
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robot_samples import action_spec, camera_spec, graph, make_bundle, manifest, proprio_spec

from robokd import UserError
from robokd.export import bundle as module
from robokd.export import signature
from robokd.export.bundle import FIELDS, read_bundle, write_bundle


def seal(text: bytes, body: bytes = b"", version: int = module.VERSION) -> bytes:
    """A file with a right closing hash around any manifest."""
    data = struct.pack("<8sIQ", module.MAGIC, version, len(text)) + text + body
    return signature.close(data)


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


@given(st.lists(st.floats(1e-37, 1e38), min_size=6, max_size=6), st.binary(max_size=200))
@settings(max_examples=30)
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


_FILES: list[bytes] = []


def whole_file(tmp_path_factory) -> bytes:
    """The good bundle's bytes, made once."""
    if not _FILES:
        _FILES.append(make_bundle(tmp_path_factory.mktemp("whole") / "a.robokd").path.read_bytes())
    return _FILES[0]


@given(st.data())
@settings(max_examples=200)
def test_any_altered_byte_and_any_cut_is_refused(tmp_path_factory, data):
    folder, content = tmp_path_factory.getbasetemp(), whole_file(tmp_path_factory)
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
    assert "bundle version 1; this robokd reads version 4" in refused(tmp_path, seal(b"{}", version=1))
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
        (lambda row: row["ages_s"].update(front=10.1), "'ages_s.front' must be > 0 s and <= 10 s, got 10.1"),
        (lambda row: row["graph"].update(member="other"), "graph.member"),
        (lambda row: row["graph"].update(member=["policy.onnx"]), "graph.member"),
        (lambda row: row["graph"].update(samples="other"), "graph.samples"),
        (lambda row: row["graph"].pop("samples"), "wants exactly member, samples, inputs, outputs"),
        (lambda row: row["corrupt_config"].pop("part"), "corrupt_config.part"),
        (lambda row: row["graph"]["inputs"]["anchor"].pop("dtype"), "graph.inputs.anchor"),
        (lambda row: row["task_config"].pop("part"), "task_config.part"),
        (lambda row: row.update(control_dt=10**400), "not a whole number up to 2^53"),
        (lambda row: row["action"].update(names=["elbow", "elbow"]), "action.names"),
        (lambda row: row["action"].update(names=["", "elbow"]), "action.names"),
        (lambda row: row["action"].update(names=[1, 2]), "'action.names[0]' wants a str"),
        (lambda row: row["action"].update(scale=[True, 1]), "'action.scale[0]' wants a float"),
        (lambda row: row["action"].update(scale=0.1), "'action.scale' wants a list"),
        (lambda row: row["action"].update(control_dt=-1), "control_dt"),
        (lambda row: row["action"].update(position_upper=[-1, 0.7]), "'action.position_lower' must be below"),
        (lambda row: row["action"].update(mode="joint_pos"), "no action mode"),
        (lambda row: row["observations"]["proprio"].update(terms=[]), "'observations.proprio.terms'"),
        (lambda row: row["observations"]["proprio"]["terms"].append({"name": "a"}), "wants exactly name"),
        (lambda row: row["observations"]["proprio"]["terms"][0].update(elements="ab"), "wants a list"),
        (lambda row: row["observations"]["proprio"]["terms"][0].update(elements=[3]), "wants a str"),
        (lambda row: row["observations"]["proprio"]["terms"][1].update(name="joint_pos"), "each once"),
        (lambda row: row["observations"].update(proprio=[]), "'observations.proprio' wants a dict"),
        (lambda row: row["cameras"]["front"].update(width=True), "'cameras.front.width' wants a int"),
        (lambda row: row["cameras"]["front"].update(width=10**9), "are not of a picture"),
        (lambda row: row["cameras"]["front"].update(height=1 << 13), "are not of a picture"),
        (lambda row: row["cameras"]["front"].update(position_m=[0, 0]), "cameras.front.position_m"),
        (lambda row: row["cameras"]["front"].update(quaternion_wxyz=[2, 0, 0, 0]), "of norm 1"),
        (lambda row: row["cameras"]["front"].update(encoding="rgb"), "no encoding named"),
        (lambda row: row["robot"].pop("kp"), "'robot' wants exactly kp, kd, torque"),
        (lambda row: row["robot"].update(mass=1), "'robot' wants exactly"),
        (lambda row: row["robot"].update(kp=[1]), "'robot.kp' wants 2 numbers"),
        (lambda row: row["robot"].update(kp=3), "'robot.kp' wants 2 numbers"),
        (lambda row: row["robot"].update(kp=[1, -1]), "'robot.kp' must be >= 0"),
        (lambda row: row["robot"].update(torque=[1, 0]), "'robot.torque' must be > 0"),
        (lambda row: row["robot"].update(torque_rate=[0, 1]), "'robot.torque_rate' must be > 0"),
        (lambda row: row["robot"].update(jerk=["1", 1]), "'robot.jerk' wants 2 numbers"),
        (lambda row: row["robot"].update(sag=[0.1, -0.1]), "'robot.sag' must be >= 0"),
        (lambda row: row["robot"].update(sag=[0.1, 0.61]), "'robot.sag' must be <= 0.6 rad, got 0.61"),
        (lambda row: row["robot"].pop("sag"), "'robot' wants exactly kp, kd"),
        (lambda row: row.update(clock_s=0.3), "'clock_s' is 0.3, and the policy reads no clock: wanted 0"),
        (
            lambda row: row["observations"]["proprio"]["terms"][0].update(name="clock"),
            "'clock_s' is 0: the policy reads a clock, whose period is 0.001 to 100 s",
        ),
        (lambda row: row["robot"].update(home=None), "'robot.home' wants 2 numbers"),
        (lambda row: row["robot"].update(home=[0, 0.4]), "'robot.home' is outside the start envelope"),
        (lambda row: row["robot"].update(quaternion_order="xyzw"), "robot.quaternion_order"),
        (lambda row: row["robot"].update(quaternion_order=["wxyz"]), "robot.quaternion_order"),
        (lambda row: row["robot"]["units"].update(position="deg"), "'robot.units.position' is another unit"),
        (lambda row: row["robot"]["units"].pop("time"), "'robot.units' wants exactly"),
        (lambda row: row["start"].update(joint_pos_lower=[0.4, 0]), "'start.joint_pos_lower' must not be"),
        (lambda row: row["optics"].clear(), "'optics' wants exactly front"),
        (lambda row: row["optics"]["front"].update(k1=0.1), "'optics.front' wants exactly fx, fy"),
        (lambda row: row["optics"]["front"].update(fx=0), "'optics.front.fx' is 0; cameras.front"),
        (lambda row: row["optics"]["front"].update(fx="9"), "'optics.front.fx' wants a float"),
        (
            lambda row: row["optics"]["front"].update(fy=9.0),
            "'optics.front.fy' is 9.0; cameras.front.fovy_deg",
        ),
        (
            lambda row: row["optics"]["front"].update(cx=4.5),
            "'optics.front.cx' is 4.5, outside the picture: -0.5 to 3.5",
        ),
        (lambda row: row["optics"]["front"].update(cx=-0.6), "'optics.front.cx' is -0.6, outside"),
        (lambda row: row["optics"]["front"].update(cy=2.6), "'optics.front.cy' is 2.6, outside"),
        (lambda row: row["optics"]["front"].update(fx=-3.0), "'optics.front.fx' is -3.0; cameras.front"),
        (
            lambda row: row["optics"]["front"].update(fx=9.0),
            "'optics.front.fx' is 9.0; cameras.front.fovy_deg",
        ),
        (lambda row: row["cameras"]["front"].update(fovy_deg=61.0), "'optics.front.fx' is"),
        (lambda row: row["cameras"]["front"].update(fovy_deg=1e-320), "'cameras.front.fovy_deg' is 1e-320"),
        (
            lambda row: row["optics"]["front"].update(crop=[4000, 0, 400, 300]),
            "no picture is longer than 4096",
        ),
        (
            lambda row: row["optics"]["front"].update(crop=[0, 0, 400, 400]),
            "'optics.front.crop' is 400x400, the",
        ),
        (lambda row: row["optics"]["front"].update(rate_hz=0), "'optics.front.rate_hz' is 0"),
        (lambda row: row["optics"]["front"].update(crop=[0, 0, 4]), "'optics.front.crop' wants null or"),
        (lambda row: row["optics"]["front"].update(crop=[0, 0, 4, 0.5]), "optics.front.crop"),
        (lambda row: row["optics"]["front"].update(crop=[-1, 0, 4, 4]), "optics.front.crop"),
        (lambda row: row["statistics"].update(wrist={}), "'statistics' wants exactly front"),
        (lambda row: row["statistics"]["front"].pop("residual"), "statistics.front has no field 'residual'"),
        (lambda row: row["statistics"].update(front=3), "statistics.front wants fields"),
        (lambda row: row["latency_s"].pop("front"), "'latency_s' wants exactly proprio, front"),
        (lambda row: row["latency_s"].update(front=[0.1]), "'latency_s.front' wants 2 numbers"),
        (lambda row: row["latency_s"].update(front=[0.2, 0.1]), "'latency_s.front' wants 0 <= least"),
        (
            lambda row: row["latency_s"].update(front=[0, 10.1]),
            "'latency_s.front' wants 0 <= least <= most <= 10 s, got [0, 10.1]",
        ),
        (
            lambda row: row["latency_s"].update(proprio=[0, 1.1]),
            "'latency_s.proprio' wants 0 <= least <= most <= 1 s, got [0, 1.1]",
        ),
        (
            lambda row: (row.update(control_dt=1.1), row["action"].update(control_dt=1.1)),
            "wants 0.001 to 1 s",
        ),
        (
            lambda row: (row.update(control_dt=9e-4), row["action"].update(control_dt=9e-4)),
            "'control_dt' wants 0.001 to 1 s, got 0.0009",
        ),
        (lambda row: row["latency_s"].update(front=[-0.1, 0.1]), "'latency_s.front' wants 0 <= least"),
        (lambda row: row["graph"]["inputs"]["rate"].update(shape=[1, 0]), "graph.inputs.rate.shape"),
        (lambda row: row["graph"]["inputs"]["rate"].update(shape=[1, 1.5]), "graph.inputs.rate.shape"),
        (lambda row: row["graph"]["inputs"]["rate"].update(shape=3), "graph.inputs.rate.shape"),
        (
            lambda row: row["graph"]["inputs"]["rate"].update(shape=[]),
            "'graph.inputs.rate.shape' is []; wanted one",
        ),
        (
            lambda row: row["graph"]["outputs"]["action"].update(shape=[2, 2]),
            "graph.outputs.action.shape' is [2, 2]",
        ),
        (
            lambda row: row["graph"]["outputs"]["action"].update(shape=[1, 1 << 24, 2]),
            "graph.outputs.action.shape",
        ),
        (lambda row: row.update(task="../../else"), "'task' is '../../else'; wanted letters, digits"),
        (lambda row: row.update(task="x" * 65), "'task' is 'xxx"),
        (lambda row: row.update(created="\x1b[2Jtoday"), "text that cannot be shown: '\\x1b[2Jtoday'"),
        (lambda row: row["task_config"].update({"a\n": 1}), "text that cannot be shown: 'a\\n'"),
        (lambda row: row["sim_config"].update(a=[["\u202e"]]), "text that cannot be shown"),
        (
            lambda row: row["action"].update(velocity=[1e39, 1]),
            "'action.velocity' wants numbers that float32",
        ),
        (
            lambda row: row["action"].update(scale=[1e-40, 1]),
            "'action.scale' wants numbers that float32 holds",
        ),
        (lambda row: row["graph"]["inputs"]["rate"].update(dtype="object"), "graph.inputs.rate.dtype"),
        (lambda row: row["graph"]["inputs"]["rate"].update(dtype=["float32"]), "graph.inputs.rate.dtype"),
        (lambda row: row["graph"].update(inputs=[]), "'graph.inputs' wants"),
        (lambda row: row["lineage"].append({"path": "a"}), "'lineage[0]' wants exactly path"),
        (lambda row: row["lineage"].append(3), "'lineage[0]' wants exactly path"),
        (lambda row: row["evaluation"].update(success="all"), "'evaluation.success' wants a float"),
        (lambda row: row.update(parity_max_abs=-1), "parity_max_abs"),
        (lambda row: row["task_config"].update(a="\ud800"), "not valid JSON"),
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


def leaves(value, path=()):
    """Every place of a manifest, containers too."""
    rows = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in rows:
        yield (*path, key)
        yield from leaves(one, (*path, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)


@given(data=st.data(), value=JSON)
@settings(max_examples=250)
def test_a_manifest_with_anything_anywhere_is_read_or_refused(tmp_path_factory, data, value):
    """The hash is right: only what the reader itself checks stands between a robot and this."""
    content = whole_file(tmp_path_factory)
    length = int.from_bytes(content[12:20], "little")
    row, body = json.loads(content[20 : 20 + length]), content[20 + length : -signature.BLOCK.size]
    places = [place for place in leaves(row) if len(place) < 4 or place[0] != "statistics"]
    *path, last = data.draw(st.sampled_from(places))
    owner = row
    for key in path:
        owner = owner[key]
    if isinstance(owner, dict) and data.draw(st.integers(0, 3)) == 0:
        del owner[last]
    else:
        owner[last] = value
    file = tmp_path_factory.getbasetemp() / "fuzzed.robokd"
    file.write_bytes(seal(json.dumps(row).encode(), body))
    with contextlib.suppress(UserError):
        read_bundle(file)


@given(st.binary(max_size=400), st.booleans(), st.booleans())
@settings(max_examples=250)
def test_no_bytes_but_a_bundle_are_read(tmp_path_factory, content, has_header, is_sealed):
    if has_header:
        content = struct.pack("<8sIQ", module.MAGIC, module.VERSION, len(content)) + content
    refused(tmp_path_factory.getbasetemp(), signature.close(content) if is_sealed else content)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": ' * 2000 + b"1" + b"}" * 2000, b"[" * 40 + b"]" * 40, b"null", b"3", b'"text"', b"", b"{}",
        b"\xff", b'{"members": {}}', b'{"members": [{}]}', b"1" * 5000, b'{"a": ' + b"1" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_manifest_is_refused_in_one_line(tmp_path, text):
    assert len(refused(tmp_path, seal(text))) < 600


def test_a_later_version_is_not_guessed_at(tmp_path):
    assert "bundle version 5; this robokd reads version 4" in refused(tmp_path, seal(b"{}", version=5))
    assert "export it again" in refused(tmp_path, seal(b"{}", version=2))


def test_what_is_not_known_of_the_robot_is_null(tmp_path):
    unknown = {**manifest()["robot"], "kp": None, "kd": None, "torque": None}
    assert make_bundle(tmp_path / "a.robokd", robot=unknown).manifest["robot"] == unknown


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
    with pytest.raises(UserError, match="cannot be JSON"):
        make_bundle(path, evaluation={"success": float("nan")})
    with pytest.raises(UserError, match="no folder"):
        make_bundle(tmp_path / "absent" / "a.robokd")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_whole(good):
    make_bundle(good.path, task="other")
    assert read_bundle(good.path).manifest["task"] == "other"
    assert [file.name for file in good.path.parent.iterdir()] == [good.path.name]
