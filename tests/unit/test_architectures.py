"""What each architecture claims of itself; what all students share stands in contracts/test_students.py."""

import math

import pytest
import torch
from tensordict import TensorDict

from robokd import UserError
from robokd.nets.cnn import KeypointEncoder, relief
from robokd.nets.pictures import rays
from robokd.nets.pointnet import PointEncoder, grid
from robokd.nets.votes import Votes
from robokd.specs import CameraSpec, ObsSpec, Term
from robokd.students.base import Interface
from robokd.students.belief import BeliefCfg
from robokd.students.chunk import ChunkCfg
from robokd.students.cnn import CnnCfg
from robokd.students.cnn_gru import CnnGruCfg
from robokd.students.history import HistoryCfg
from robokd.students.mlp import MlpCfg
from robokd.students.modular import LOG_STD
from robokd.students.pointnet import PointnetCfg
from robokd.vision.pointcloud import unproject

FRONT = CameraSpec(name="front", width=24, height=16)
PROPRIO = ObsSpec(
    group="proprio", role="proprio", terms=(Term(name="q", elements=("a", "b", "c"), unit="rad"),)
)  # fmt: skip


def build(cfg, cameras=(), latent_size=0, targets=None):
    torch.manual_seed(0)
    interface = Interface(
        obs_specs={"proprio": PROPRIO}, cameras=tuple(cameras), action_size=2,
        targets={"goal": 3} if targets is None else targets, latent_size=latent_size,
    )  # fmt: skip
    return cfg.build(interface).eval()


def rows(*shape):
    generator = torch.Generator().manual_seed(0)
    return TensorDict({"proprio": torch.randn(*shape, 3, generator=generator)}, batch_size=list(shape))


def test_the_cnn_keeps_the_weights_that_its_checkpoints_have():
    terms = (Term(name="q", elements=tuple(map(str, range(21))), unit="rad"),)
    interface = Interface(
        obs_specs={"proprio": ObsSpec(group="proprio", role="proprio", terms=terms)},
        cameras=(CameraSpec(name="front"),), action_size=7, targets={"goal": 3},
    )  # fmt: skip
    student = CnnCfg().build(interface)
    front = {
        "sharpness": (), "stem.weight": (12, 2, 6, 6), "stem.bias": (12,), "body.0.weight": (16, 12, 3, 3),
        "body.0.bias": (16,), "body.1.weight": (16, 16, 3, 3), "body.1.bias": (16,),
        "attention.weight": (16, 16, 1, 1), "attention.bias": (16,),
    }  # fmt: skip
    layers = {
        "estimator.0": (128, 69), "estimator.2": (64, 128), "estimator.4": (3, 64), "trunk.0": (256, 72),
        "trunk.2": (128, 256), "head": (7, 128),
    }  # fmt: skip
    normalizer = {"mean": (21,), "variance": (21,), "count": ()}
    expected = {f"normalizers.proprio.{name}": size for name, size in normalizer.items()}
    expected |= {f"encoders.front.{name}": size for name, size in front.items()}
    for name, size in layers.items():
        expected |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    found = {key: tuple(value.shape) for key, value in student.state_dict().items()}
    assert list(found.items()) == list(expected.items())  # in order: an optimiser's state counts them
    assert student.feature_size == 128 + 48 + 3
    assert sum(value.numel() for value in student.parameters()) == 75_111


def test_a_profile_fills_what_is_not_set_and_nothing_else():
    assert CnnCfg().channels == (12, 16, 16)
    assert CnnCfg(profile="standard", channels=(12, 16, 16)).channels == (12, 16, 16)
    assert CnnCfg(profile="standard", keypoints=4).hidden == (512, 256)
    assert CnnCfg(profile="standard", keypoints=4).keypoints == 4


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (CnnCfg, {"profile": "huge"}, "student.profile must be tiny or standard, got 'huge'"),
        (CnnCfg, {"keypoints": -1}, "student.keypoints must be >= 1, or 0 for the profile's, got -1"),
        (
            MlpCfg,
            {"hidden": (8, 0)},
            r"student.hidden must be >= 1, or \[\] for the profile's, got \[8, 0\]",
        ),
        (CnnGruCfg, {"units": -4}, "student.units must be >= 1"),
        (BeliefCfg, {"units": -4}, "student.units must be >= 1"),
        (PointnetCfg, {"points": -4}, "student.points must be >= 1"),
        (HistoryCfg, {"filters": -4}, "student.filters must be >= 1"),
        (HistoryCfg, {"steps": 0}, "student.steps must be >= 1, got 0"),
        (ChunkCfg, {"steps": 0}, "student.steps must be >= 1, got 0"),
        (ChunkCfg, {"aggregate": -0.1}, "student.aggregate must be >= 0 and finite, got -0.1"),
        (ChunkCfg, {"aggregate": math.inf}, "student.aggregate must be >= 0 and finite, got inf"),
    ],
)
def test_a_wrong_number_is_refused_by_name(kind, fields, said):
    with pytest.raises(ValueError, match=said):
        kind(**fields)


def test_an_mlp_refuses_a_camera_by_name():
    with pytest.raises(UserError, match="student=mlp reads no pictures, and 'front' is a camera"):
        build(MlpCfg(), [FRONT])


def test_the_spread_of_actions_stays_within_its_bounds_and_can_come_back():
    student = build(MlpCfg(gaussian=True))
    for raw, bound in ((-100.0, LOG_STD[0]), (100.0, LOG_STD[1])):
        torch.nn.init.constant_(student.spread, raw)
        said, _ = student.forward(rows(2), student.initial_state(2))
        assert torch.allclose(said.log_std, torch.full((2, 2), bound))
    torch.nn.init.constant_(student.spread, -8.0)
    student.forward(rows(2), student.initial_state(2))[0].log_std.sum().backward()
    assert (student.spread.grad > 0).all()


def test_key_points_of_colour_are_the_ray_of_what_stands_out():
    torch.manual_seed(0)
    camera = CameraSpec(name="colour", encoding="rgb_u8")
    eye = KeypointEncoder(camera, (1,), 1, bfloat16=False)
    for name, value in (
        ("stem.weight", 0.0),
        ("stem.bias", 0.0),
        ("attention.weight", 1.0),
        ("sharpness", 50.0),
    ):
        torch.nn.init.constant_(eye.get_parameter(name), value)
    # an attention that looks at red, in the pixel that speaks for the cell
    eye.stem.weight.data[0, 0, 3, 3] = 1.0
    rows_, columns = torch.arange(64)[eye.rows], torch.arange(64)[eye.columns]
    picture = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    picture[0, 1:] = 200  # green and blue everywhere
    picture[0, 0, rows_[4], columns[15]] = 255
    expected = rays(camera, rows_[4:5], columns[15:16])[0, :2]
    assert eye.size == 2
    assert torch.allclose(eye(picture)[0], expected, atol=1e-4)
    assert expected[1] > 0  # above the middle
    assert expected[0] > 0  # right of the middle


def test_a_plane_that_recedes_has_no_relief_and_what_stands_on_it_has():
    down = torch.linspace(0.9, 0.1, 60)[:, None].expand(60, 76)
    table = torch.stack((down, down.flip(0)))[:, None] + torch.linspace(0, 0.1, 76)
    found = relief(table)
    assert found.shape == table.shape
    inner = slice(8, -8)
    assert found[..., inner, inner].abs().max() < 1e-4
    table[:, :, 30:34, 40:44] -= 0.05  # 5 cm of a camera's metre, nearer
    bump = relief(table)[:, 0, 30:34, 40:44]
    assert (bump < -0.3).all()


# pointnet


def test_points_are_those_of_the_point_cloud_in_metres():
    eye = PointEncoder(FRONT, (4,), 16 * 24)  # every pixel
    generator = torch.Generator().manual_seed(0)
    encoded = torch.randint(0, 256, (2, 1, 16, 24), generator=generator).to(torch.uint8)
    depth = FRONT.near_m + (encoded.float() - 1) / 254 * (FRONT.far_m - FRONT.near_m)
    points, is_hit = eye.points(encoded)
    expected, is_valid = unproject(depth * (encoded > 0), FRONT)
    assert torch.equal(is_hit, is_valid)
    # MuJoCo's camera looks along -z, ours says how far ahead
    expected = expected * torch.tensor([1.0, 1.0, -1.0])
    assert torch.allclose(points[is_hit], expected[is_valid], atol=1e-6)


def test_a_miss_is_no_point_and_a_point_may_stand_anywhere():
    torch.manual_seed(0)
    eye = PointEncoder(FRONT, (8, 8), 24)
    encoded = torch.full((1, 1, 16, 24), 77, dtype=torch.uint8)
    rows_, columns = eye.rows, eye.columns
    alone = torch.zeros_like(encoded)
    alone[0, 0, rows_[1], columns[2]] = 77
    points, is_hit = eye.points(alone)
    assert is_hit.sum() == 1
    value = points[is_hit]
    for layer in eye.layers:
        value = torch.relu(layer(value))
    assert torch.allclose(eye(alone), value)
    assert (eye(alone) <= eye(encoded) + 1e-6).all()  # a maximum over more points
    assert not eye(torch.zeros_like(encoded)).any()


@pytest.mark.parametrize(
    ("height", "width", "count"), [(64, 64, 256), (48, 64, 200), (3, 5, 1000), (64, 64, 1)]
)
def test_a_grid_of_pixels_is_even_and_keeps_its_count(height, width, count):
    down, across = grid(height, width, count)
    assert 1 <= len(down) * len(across) <= count
    for places, size in ((down, height), (across, width)):
        assert places.min() >= 0
        assert places.max() < size
        assert len(places.unique()) == len(places)
        gaps = places.diff()
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
    if (height, width, count) == (64, 64, 256):
        assert down.tolist() == list(range(2, 64, 4))
    if count == 1000:
        assert len(down) * len(across) == 15


# cnn_gru


def test_the_gradient_of_the_last_step_reaches_the_first_and_stops_where_an_episode_begins():
    student = build(CnnGruCfg(units=8))
    obs = rows(2, 6)
    obs["proprio"].requires_grad_(True)
    fresh = torch.zeros(2, 6, dtype=torch.bool)
    fresh[1, 3] = True
    said = student.sequence(obs, student.initial_state(2), fresh)
    (heard,) = torch.autograd.grad(said.action[:, -1].square().sum(), obs["proprio"])
    is_heard = heard.abs().sum(-1) > 0
    assert is_heard[0].all()
    assert is_heard[1].tolist() == [False, False, False, True, True, True]


def test_every_step_of_a_sequence_trains_the_memory():
    student = build(CnnGruCfg(units=8))
    for step in range(5):
        student.zero_grad()
        said = student.sequence(rows(2, 5), student.initial_state(2), torch.zeros(2, 5, dtype=torch.bool))
        said.action[:, step].square().sum().backward()
        assert student.memory.cell.weight_ih.grad.any()


# history


def test_the_queue_is_the_oldest_first_and_begins_with_the_first_row():
    student = build(HistoryCfg(steps=3, filters=2))
    obs, state, seen = rows(1, 5), student.initial_state(1), []
    for t in range(5):
        _, state = student.forward(obs[:, t], state)
        seen.append(state["rows"][0])
    row = obs["proprio"][0]
    for t, expected in enumerate([(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4)]):
        assert torch.allclose(seen[t], row[list(expected)])
    state = student.reset(state, torch.tensor([True]))
    _, state = student.forward(obs[:, 4], state)
    assert torch.allclose(state["rows"][0], row[[4, 4, 4]])


def test_a_true_zero_row_is_a_row():
    student = build(HistoryCfg(steps=2, filters=2))
    zero = TensorDict({"proprio": torch.zeros(1, 3)}, batch_size=[1])
    _, state = student.forward(zero, student.initial_state(1))
    _, state = student.forward(rows(1), state)
    assert not state["rows"][0, 0].any()
    assert torch.allclose(state["rows"][0, 1], rows(1)["proprio"][0])


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 50])
def test_the_convolution_fits_any_history(steps):
    student = build(HistoryCfg(steps=steps, filters=4))
    kernels = [layer.kernel_size[0] for layer in student.memory.convolution if hasattr(layer, "kernel_size")]
    if steps == 30:
        assert kernels == [10, 5, 5]  # HORA's but for the newest step
    said, _ = student.forward(rows(2), student.initial_state(2))
    assert torch.isfinite(said.action).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 30])
def test_the_guess_of_a_latent_hears_every_step_of_the_history_and_none_before(steps):
    student = build(HistoryCfg(steps=steps), latent_size=2)
    obs = rows(1, steps + 2)
    obs["proprio"].requires_grad_(True)
    fresh = torch.zeros(1, steps + 2, dtype=torch.bool)
    said = student.sequence(obs, student.initial_state(1), fresh)
    (heard,) = torch.autograd.grad(said.latent[:, -1].square().sum(), obs["proprio"])
    assert (heard[0].abs().sum(-1) > 0).tolist() == [False, False, *[True] * steps]


@pytest.mark.parametrize("cameras", [(), (FRONT,)], ids=["blind", "sees"])
def test_a_history_is_in_the_units_of_its_groups_and_read_by_the_normaliser_of_now(cameras):
    torch.manual_seed(0)
    touch = ObsSpec(
        group="touch", role="proprio", terms=(Term(name="t", elements=("a", "b"), unit="N"),)
    )  # fmt: skip
    student = HistoryCfg(steps=3, filters=4).build(
        Interface(
            obs_specs={"proprio": PROPRIO, "touch": touch}, cameras=cameras, action_size=2, targets={}
        )
    ).eval()  # fmt: skip
    obs = TensorDict(
        {"proprio": 7 + 2 * rows(2, 4)["proprio"], "touch": 90 + rows(2, 4)["proprio"][..., :2]},
        batch_size=[2, 4],
    )
    if cameras:
        obs["front"] = torch.zeros(2, 4, *FRONT.shape, dtype=torch.uint8)
    state = student.initial_state(2)
    for t in range(3):
        _, state = student.forward(obs[:, t], state)
    student.update_normalizers(obs.flatten(0, 1))  # it moves between two steps, as in training
    late, after = student.forward(obs[:, 3], state)
    raw = torch.cat((obs["proprio"], obs["touch"]), -1)
    torch.testing.assert_close(after["rows"], raw[:, 1:], atol=0, rtol=0)
    # a student that had known the statistics of now from the first step on
    whole = student.sequence(obs, student.initial_state(2), torch.zeros(2, 4, dtype=torch.bool))
    torch.testing.assert_close(late.action, whole.action[:, 3], atol=1e-6, rtol=0)


def test_a_history_needs_something_to_remember():
    interface = Interface(obs_specs={}, cameras=(FRONT,), action_size=2, targets={})
    with pytest.raises(UserError, match="student=history remembers 1-D groups, and it is given none"):
        HistoryCfg().build(interface)


# belief


@pytest.mark.parametrize("cameras", [(FRONT,), ()], ids=["eyes", "no eyes"])
def test_a_closed_gate_hides_the_exteroception_and_an_open_one_passes_it(cameras):
    memory = build(BeliefCfg(), cameras).memory
    outer = 48 if cameras else 3
    x, moved = torch.randn(1, memory.size), torch.randn(1, memory.size)
    moved[:, outer:] = x[:, outer:]
    state = {"hidden": torch.randn(1, 80)}
    torch.nn.init.zeros_(memory.gate.weight)
    torch.nn.init.constant_(memory.gate.bias, -100.0)
    assert torch.equal(memory.recall(x, state)[0], memory.recall(moved, state)[0])
    torch.nn.init.constant_(memory.gate.bias, 100.0)
    difference = memory.recall(moved, state)[0] - memory.recall(x, state)[0]
    assert torch.allclose(difference, moved - x, atol=1e-5)
    torch.nn.init.constant_(memory.gate.bias, 0.0)  # sigmoid(0) = 1/2
    difference = memory.recall(moved, state)[0] - memory.recall(x, state)[0]
    assert torch.allclose(difference, (moved - x) / 2, atol=1e-5)


def test_the_decoder_reads_the_memory_alone():
    student = build(BeliefCfg(), [FRONT])
    assert student.estimator[0].in_features == 80
    said = student.memory.recall(torch.randn(1, 51), {"hidden": torch.ones(1, 80)})[1]
    assert torch.equal(said, torch.ones(1, 80))


# chunk


def act(votes, chunks):
    """Return the actions (T, A) of a robot that says chunks (T, K, A)."""
    state = {name: torch.zeros(1, *shape) for name, shape in votes.shapes.items()}
    actions = []
    for chunk in chunks:
        state = votes.step(chunk[None], state)
        actions.append(votes.recall(chunk[None], state)[0])
    return torch.stack(actions)


def test_the_average_has_the_weights_of_act_by_hand():
    votes = Votes(2, 1, math.log(2))  # w = 1, 1/2
    chunks = torch.tensor([[[1.0], [4.0]], [[7.0], [0.0]], [[3.0], [9.0]]])
    # t = 0: 1;  t = 1: (4 + 7/2) / 1.5 = 5;  t = 2: (0 + 3/2) / 1.5 = 1
    assert torch.allclose(act(votes, chunks)[:, 0], torch.tensor([1.0, 5.0, 1.0]))


def test_the_average_is_that_of_all_chunks_that_reach_a_step_a_true_zero_among_them():
    steps, rate = 4, 0.3
    chunks = torch.randn(9, steps, 2, generator=torch.Generator().manual_seed(0))
    chunks[2:5] = 0.0
    actions = act(Votes(steps, 2, rate), chunks)
    for t in range(len(chunks)):
        reach = [chunks[i, t - i] for i in range(max(0, t - steps + 1), t + 1)]  # the oldest first
        weight = torch.exp(-rate * torch.arange(len(reach)))
        expected = (weight[:, None] * torch.stack(reach)).sum(0) / weight.sum()
        assert torch.allclose(actions[t], expected, atol=1e-6)


def test_without_aggregation_the_action_is_the_first_of_the_newest_chunk_and_nothing_is_kept():
    student = build(ChunkCfg(steps=5))
    assert student.initial_state(1).is_empty()
    said, _ = student.forward(rows(3), student.initial_state(3))
    assert said.chunk.shape == (3, 5, 2)
    assert torch.equal(said.action, said.chunk[:, 0])


def test_aggregated_actions_begin_as_the_chunk_and_then_lag_it():
    student = build(ChunkCfg(steps=5, aggregate=0.01))
    obs, state = rows(3, 2), student.initial_state(3)
    said, state = student.forward(obs[:, 0], state)
    assert torch.equal(said.action, said.chunk[:, 0])
    before = said.chunk[:, 1]
    said, _ = student.forward(obs[:, 1], state)
    weight = math.exp(-0.01)
    assert torch.allclose(said.action, (before + weight * said.chunk[:, 0]) / (1 + weight), atol=1e-6)
