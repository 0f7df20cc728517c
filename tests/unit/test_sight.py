"""A live camera that is not the one of training is found before the robot moves; the right one passes."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robokd.sim2real.sight import Burst, check, check_all

from robokd import UserError
from robokd.export.sight import Features, Sight, read_statistics, statistics, student_quantile
from robokd.specs import CameraSpec

EPISODES, HELD_OUT, FRAMES = 32, 12, 8
OPTICS = {"fx": 55.4, "fy": 55.4, "cx": 32.0, "cy": 32.0, "rate_hz": 25.0}
METRES = CameraSpec(name="far", near_m=0.1, far_m=4.0, encoding="depth_f16", width=40, height=24)
COLOUR = CameraSpec(name="colour", encoding="rgb_u8", width=48, height=40)


def burst(frames: np.ndarray, **fields: object) -> Burst:
    given = {"captured_s": np.arange(len(frames)) / 25, "flickers": False} | fields
    return Burst(frames=list(frames), **given)


@pytest.fixture(scope="module")
def reach() -> dict[str, tuple[CameraSpec, np.ndarray, np.ndarray, Sight]]:
    """Pictures of both cameras of reach, (T, N, C, H, W) of episodes that `Sight` knows and does not."""
    pytest.importorskip("mujoco")
    import torch
    from robokd.tasks.reach import ReachCfg

    from robokd.draws import Draws
    from robokd.env.base import Setup
    from robokd.sim.mujoco import MujocoCfg
    from robokd.vision.raster import RasterCfg
    from robokd.vision.sensor import Corruption

    count, names = EPISODES + HELD_OUT, ("front", "wrist")
    setup = Setup(num_envs=count, groups=("proprio", "privileged", *names), draws=Draws(0, "test"))
    env = ReachCfg(tolerance_m=0.005).build(
        sim=MujocoCfg(), renderer=RasterCfg(), corrupt=Corruption(), setup=setup
    )
    obs = env.reset(torch.arange(count))
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for _ in range(25):
        for name in names:
            rows[name].append(obs[name].numpy().copy())
        obs, _, _, _ = env.step(env.task.script(obs))
    found = {}
    for name in names:
        pictures, spec = np.stack(rows[name], axis=1), env.camera_specs[name]
        known = pictures[:EPISODES].reshape(-1, *spec.shape)
        row = statistics(known, spec, np.repeat(np.arange(EPISODES), 25), flickers=False)
        found[name] = (spec, known, pictures[EPISODES:], read_statistics(json.loads(json.dumps(row)), spec))
    env.close()
    return found


def scene(spec: CameraSpec, seed: int, episodes: int = 32, frames: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a sloping ground and a disc that moves, with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: spec.height, : spec.width].astype(np.float32)
    images = []
    for _ in range(episodes):
        at, step = rng.uniform(8, 24, 2), rng.normal(0, 0.3, 2)
        for time in range(frames):
            row, column = at + time * step
            is_disc = (rows - row) ** 2 + (columns - column) ** 2 < 20
            depth = np.where(is_disc, 0.8, 1 + rows / spec.height) + rng.normal(0, 0.004, rows.shape)
            if spec.encoding == "depth_f16":
                images.append(depth[None].astype(np.float16))
            else:
                picture = np.stack((0.3 * depth, 0.2 * depth, np.where(is_disc, 0.9, 0.1 * depth)))
                images.append(np.clip(255 * picture, 0, 255).astype(np.uint8))
    return np.stack(images), np.repeat(np.arange(episodes), frames)


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[CameraSpec, Sight, np.ndarray]]:
    found = {}
    for spec in (METRES, COLOUR):
        images, episodes = scene(spec, 0)
        sight = read_statistics(statistics(images, spec, episodes, flickers=True), spec)
        found[spec.name] = (spec, sight, scene(spec, 1)[0][:FRAMES])
    return found


def kinds(found: list) -> set[str]:
    return {row.kind for row in found}


@pytest.mark.parametrize("name", ["front", "wrist"])
def test_episodes_that_training_did_not_see_pass(reach, name):
    spec, _, pictures, sight = reach[name]
    assert not [str(row) for one in pictures for row in check(burst(one[:FRAMES]), spec, OPTICS, sight)]


@pytest.mark.parametrize("name", ["front", "wrist"])
@pytest.mark.parametrize(
    ("spoil", "kind", "is_fatal"),
    [
        (lambda p: 0 - p, "inverted (disparity instead of depth)", True),
        (lambda p: np.zeros_like(p), "blind", True),  # what millimetres taken for metres become
        (lambda p: np.minimum(p, 1), "blind", True),  # and metres taken for millimetres
        (lambda p: np.where(np.random.default_rng(0).random(p.shape) < 0.5, 0, p), "missing", None),
        (lambda p: np.where(np.random.default_rng(0).random(p.shape) < 0.2, 0, p), "unlike", False),
    ],
)
def test_spoiled_depth_is_found_in_every_episode(reach, name, spoil, kind, is_fatal):
    spec, _, pictures, sight = reach[name]
    for one in pictures:
        found = check(burst(spoil(one[:FRAMES]).astype(np.uint8)), spec, OPTICS, sight)
        assert kind in kinds(found)
        assert is_fatal is None or next(row for row in found if row.kind == kind).is_fatal is is_fatal


def test_a_front_camera_that_hangs_upside_down_is_named(reach):
    spec, _, pictures, sight = reach["front"]
    for one in pictures:
        found = check(burst(one[:FRAMES, :, ::-1, ::-1]), spec, OPTICS, sight)
        assert kinds(found) & {"upside down", "flipped"}
        assert any(row.is_fatal for row in found)


def test_depth_at_a_tenth_is_a_matter_of_the_unit(reach):
    spec, _, pictures, sight = reach["wrist"]
    depth = (spec.near_m + (pictures[:, :FRAMES] - 1.0) / 254 * (spec.far_m - spec.near_m)) / 10
    code = np.clip((depth - spec.near_m) * 254 / (spec.far_m - spec.near_m) + 1.5, 1, 255)
    for one in np.where(pictures[:, :FRAMES] > 0, code, 0).astype(np.uint8):
        assert "unit" in kinds(check(burst(one), spec, OPTICS, sight))


def test_exchanged_cameras_are_said_to_be_exchanged_or_unlike(reach):
    specs = {name: row[0] for name, row in reach.items()}
    sights = {name: row[3] for name, row in reach.items()}
    for at in range(HELD_OUT):
        bursts = {name: burst(row[2][at, :FRAMES]) for name, row in reach.items()}
        optics = dict.fromkeys(specs, OPTICS)
        assert not check_all(bursts, specs, optics, sights)
        found = check_all({"front": bursts["wrist"], "wrist": bursts["front"]}, specs, optics, sights)
        assert {row.camera for row in found} == {"front", "wrist"}
        assert kinds(found) == {"swapped"}
        assert all(row.is_fatal for row in found)


@pytest.mark.parametrize(
    ("factor", "kind"), [(1000, "unit"), (10, "unit"), (0.1, "unit"), (0.01, "unit"), (2.5, "range")]
)
def test_metres_of_another_unit_are_named(scenes, factor, kind):
    spec, sight, pictures = scenes["far"]
    assert not check(burst(pictures), spec, OPTICS, sight)
    found = check(burst((pictures * np.float32(factor)).astype(np.float16)), spec, OPTICS, sight)
    assert kind in kinds(found)


def test_blue_for_red_is_named(scenes):
    spec, sight, pictures = scenes["colour"]
    assert not check(burst(pictures), spec, OPTICS, sight)
    found = check(burst(pictures[:, ::-1]), spec, OPTICS, sight)
    assert [(row.kind, row.is_fatal) for row in found] == [("BGR instead of RGB", True)]


@pytest.mark.parametrize(("stops", "kind"), [(-1, "unlike"), (1, "unlike"), (-12, "blind"), (12, "blind")])
def test_light_that_training_never_saw_is_found(scenes, stops, kind):
    spec, sight, pictures = scenes["colour"]
    bright = np.clip((pictures + 1e-3 * (stops > 1)) * 2.0**stops, 0, 255).astype(np.uint8)
    assert kind in kinds(check(burst(bright), spec, OPTICS, sight))


def test_the_form_of_pictures_is_told_with_its_cure(scenes):
    spec, sight, pictures = scenes["colour"]
    for frames, cure in (
        (pictures.astype(np.float32), "encode pictures as rgb_u8"),
        (pictures.transpose(0, 2, 3, 1), "channels first"),
        (pictures[..., :-1], "crop and resize to 48x40"),
        (pictures[:2], "is connected"),
    ):
        (found,) = check(burst(frames), spec, OPTICS, sight)
        assert cure in str(found)
        assert found.is_fatal


@pytest.mark.parametrize(
    ("times", "kind"),
    [
        (np.arange(FRAMES) / 10, "rate"),
        (np.array([0, 1, 2, 3, 4, 14, 15, 16]) / 50, "gap"),
        (np.zeros(FRAMES), "clock"),
        (np.arange(FRAMES)[::-1] / 25, "clock"),
        (np.full(FRAMES, np.nan), "clock"),
    ],
)
def test_times_of_pictures_are_judged(scenes, times, kind):
    spec, sight, pictures = scenes["colour"]
    assert kinds(check(burst(pictures, captured_s=times), spec, OPTICS, sight)) == {kind}


def test_only_a_sensor_that_is_never_still_can_be_frozen(reach, scenes):
    spec, sight, pictures = scenes["colour"]
    same = np.repeat(pictures[:1], FRAMES, axis=0)
    assert kinds(check(burst(same), spec, OPTICS, sight)) == {"frozen"}
    still, _, drawn, drawn_sight = reach["front"]
    same = np.repeat(drawn[0, :1], FRAMES, axis=0)
    assert not check(burst(same), still, OPTICS, drawn_sight)
    (found,) = check(burst(same, flickers=True), still, OPTICS, drawn_sight)
    assert (found.kind, found.is_fatal) == ("frozen", False)  # `mismatch` decides: it may be a simulated one
    assert "restart the camera" in found.cure
    assert "a simulated camera without noise does the same" in found.cure


@pytest.mark.parametrize("name", ["front", "wrist"])
def test_statistics_are_small_and_the_same_after_json(reach, name):
    spec, known, _, sight = reach[name]
    text = json.dumps(sight.data, allow_nan=False)
    assert len(text) < 64 * 1024
    again = read_statistics(json.loads(text), spec)
    assert np.array_equal(again.distances(known[:50]), sight.distances(known[:50]))


def test_a_picture_s_distance_does_not_depend_on_those_beside_it(reach):
    _, known, _, sight = reach["front"]
    one_by_one = np.concatenate([sight.distances(image[None]) for image in known[:40]])
    assert np.allclose(sight.distances(known[:40]), one_by_one, rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shape", [1, 2, 3], r"x\.shape is"),
        ("encoding", "rgb_u8", r"x\.encoding is"),
        ("centre", [0.0], r"x\.centre wants numbers of shape"),
        ("basis", [[0.0], [0.0, 1.0]], r"x\.basis wants"),
        ("scale", "abc", r"x\.scale wants numbers"),
        ("cells", [-1] * 128, r"x\.cells wants whole numbers in \[0, 256\)"),
        ("cell_scale", [0.0] * 128, r"x\.cell_scale must be > 0"),
        ("limits", {}, r"x\.limits wants exactly span, rest, landmarks, specks"),
        ("limits", {"span": 1e9, "rest": 1, "landmarks": 2, "specks": 1}, r"x\.limits\.span wants"),
        ("limits", {"span": 1, "rest": 0, "landmarks": 2, "specks": 1}, r"x\.limits\.rest wants"),
        ("flickers", 1, r"x\.flickers wants true or false"),
        ("missing", [0.0], r"x\.missing wants 7 numbers"),
        ("start_m", [float("nan"), 1.0], r"x\.start_m wants numbers"),
        ("longest_repeat", -1, r"x\.longest_repeat wants a number >= 0"),
        ("more", 1, r"x has unknown field 'more'"),
    ],
)
def test_statistics_that_are_not_whole_are_refused_by_field(reach, field, value, message):
    spec, _, _, sight = reach["front"]
    with pytest.raises(UserError, match=message):
        read_statistics(sight.data | {field: value}, spec, "x")


def test_statistics_of_nothing_are_refused(reach):
    spec, known, _, sight = reach["front"]
    with pytest.raises(UserError, match="x wants fields, got None"):
        read_statistics(None, spec, "x")
    with pytest.raises(UserError, match="no field 'basis'"):
        read_statistics({key: value for key, value in sight.data.items() if key != "basis"}, spec)
    with pytest.raises(ValueError, match="need pictures of >= 4 episodes"):
        statistics(known, spec, np.zeros(len(known), int), flickers=False)
    with pytest.raises(ValueError, match="wanted one episode for each"):
        statistics(known, spec, np.zeros(3, int), flickers=False)
    with pytest.raises(ValueError, match=r"wanted \(N, \*\(1, 64, 64\)\) of uint8"):
        statistics(known[:, 0], spec, np.zeros(len(known), int), flickers=False)


@settings(max_examples=100)
@given(st.data())
def test_no_statistics_make_the_reader_fail_otherwise(scenes, data):
    spec, sight, pictures = scenes["far"]
    junk = st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=4,
    )
    name = data.draw(st.sampled_from(sorted(sight.data)))
    try:
        read = read_statistics(sight.data | {name: data.draw(junk)}, spec)
    except UserError:
        return
    assert np.isfinite(read.distances(pictures)).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["depth_u8", "depth_f16", "rgb_u8", "segment_i16"]))
def test_any_bytes_are_a_finite_distance(seed, encoding):
    spec = dataclasses.replace(METRES, encoding=encoding, width=5, height=3)
    raw = np.random.default_rng(seed).integers(0, 256, (2, 3 * 5 * 3 * 2), np.uint8).tobytes()
    size = int(np.prod(spec.shape))
    images = np.frombuffer(raw, spec.dtype)[: 2 * size].reshape(2, *spec.shape)
    for values in Features(spec).of(images):
        assert np.isfinite(values).all()


def test_student_s_quantiles_are_those_of_tables():
    for probability, freedom, wanted in ((0.975, 1, 12.706), (0.99, 7, 2.998), (0.999, 31, 3.375)):
        assert student_quantile(probability, freedom) == pytest.approx(wanted, abs=2e-3)
