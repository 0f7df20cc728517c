"""What every registered student must do, whatever it is: adding one file is enough to be tested here."""

from __future__ import annotations

import dataclasses
import io
import logging
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from tensordict import TensorDict
from torch import nn

from robokd import UserError, registry
from robokd.specs import CameraSpec, ObsSpec, Term
from robokd.students.base import Interface, StudentOutput

OPSET = 18
FRONT = CameraSpec(name="front", width=32, height=32)
WRIST = CameraSpec(name="wrist", width=24, height=32, encoding="depth_f16")
COLOUR = CameraSpec(name="colour", width=32, height=24, encoding="rgb_u8")
FULL = {"gaussian": True, "value": True, "branches": True}  # all that a student may say beside its action
# every part, and those options of a part that change what it remembers
STUDENTS = [*((name, {}) for name in registry.names("student")), ("chunk", {"aggregate": 0.1})]
OPTIONAL = ("log_std", "latent", "value", "chunk", "branches")


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks as small as these only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows(group: str, size: int) -> ObsSpec:
    elements = tuple(f"{group}{index}" for index in range(size))
    return ObsSpec(group=group, role="proprio", terms=(Term(name=group, elements=elements, unit="rad"),))


GROUPS = {"proprio": rows("proprio", 3), "tactile": rows("tactile", 2)}
MIXES = {
    "one group": (("proprio",), ()),
    "two groups": (("proprio", "tactile"), ()),
    "depth": (("proprio",), (FRONT,)),
    "colour": (("proprio",), (COLOUR,)),
    "pictures alone": ((), (FRONT, COLOUR)),
    "everything": (("proprio", "tactile"), (FRONT, WRIST, COLOUR)),
}


def interface_of(mix: str, latent_size: int = 4) -> Interface:
    groups, cameras = MIXES[mix]
    return Interface(
        obs_specs={name: GROUPS[name] for name in groups}, cameras=cameras, action_size=7,
        targets={"goal_position": 3, "mass": 1}, latent_size=latent_size,
    )  # fmt: skip


def made(name: str, mix: str, **options):
    torch.manual_seed(0)
    return registry.find("student", name)(**options).build(interface_of(mix)).eval()


def widest(name: str, **options):
    """Return a student with all cameras, or with none where it takes none, and what it sees."""
    try:
        return made(name, "everything", **options), "everything"
    except UserError:
        return made(name, "two groups", **options), "two groups"


def observations(mix: str, *shape: int, seed: int = 0) -> TensorDict:
    generator = torch.Generator().manual_seed(seed)
    groups, cameras = MIXES[mix]
    fields = {name: torch.randn(*shape, GROUPS[name].size, generator=generator) for name in groups}
    for camera in cameras:
        pixels = torch.randint(0, 256, (*shape, *camera.shape), generator=generator)
        is_metres = camera.encoding == "depth_f16"
        fields[camera.name] = (pixels / 128).half() if is_metres else pixels.to(torch.uint8)
    return TensorDict(fields, batch_size=list(shape))


def tensors(said: StudentOutput) -> dict[str, torch.Tensor]:
    """Return all that an output says, by name."""
    found = {}
    for field in dataclasses.fields(said):
        value = getattr(said, field.name)
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{field.name}.{key}": part for key, part in inner.items() if part is not None}
    return found


def assert_same(left: StudentOutput, right: StudentOutput, tolerance: float = 1e-5):
    left, right = tensors(left), tensors(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            value, right[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


each = pytest.mark.parametrize(("name", "options"), STUDENTS, ids=lambda one: str(one) if one else "")


@pytest.mark.parametrize("mix", MIXES)
@each
def test_a_student_takes_any_mix_of_groups_and_cameras_or_names_what_it_refuses(name, options, mix):
    interface = interface_of(mix)
    try:
        student = registry.find("student", name)(**options).build(interface)
    except UserError as error:
        assert str(error).startswith(f"student={name} ")  # noqa: PT017
        assert mix not in ("two groups", "everything") or name == "mlp"
        return
    assert student.inputs == interface.inputs
    assert student.targets == interface.targets
    said, _ = student.eval().forward(observations(mix, 2), student.initial_state(2))
    assert said.action.shape == (2, 7)
    assert said.features.shape == (2, student.feature_size)
    assert {key: part.shape for key, part in said.estimates.items()} == {
        "goal_position": (2, 3),
        "mass": (2, 1),
    }


@each
def test_a_student_refuses_a_camera_that_it_cannot_read_and_an_interface_without_inputs(name, options):
    config = registry.find("student", name)(**options)
    segments = dataclasses.replace(FRONT, name="segments", encoding="segment_i16")
    with pytest.raises(UserError, match="'segments'"):
        config.build(dataclasses.replace(interface_of("depth"), cameras=(segments,)))
    with pytest.raises(UserError, match="none"):
        config.build(dataclasses.replace(interface_of("depth"), cameras=(), obs_specs={}))


@each
def test_a_student_is_the_same_on_one_robot_and_on_many(name, options):
    student, mix = widest(name, **FULL, **options)
    obs, states = (
        observations(mix, 3, 5),
        [student.initial_state(5), *(student.initial_state(1) for _ in range(5))],
    )
    for step in obs:
        many, states[0] = student.forward(step, states[0])
        for i in range(5):
            one, states[1 + i] = student.forward(step[i : i + 1], states[1 + i])
            alone, among = tensors(one), tensors(many)
            for key in among:
                torch.testing.assert_close(alone[key][0], among[key][i], atol=1e-5, rtol=0)


@each
def test_a_sequence_is_what_forward_says_step_by_step(name, options):
    student, mix = widest(name, **FULL, **options)
    batch, steps = 3, 7
    obs = observations(mix, batch, steps)
    fresh = torch.zeros(batch, steps, dtype=torch.bool)
    fresh[0, 0] = fresh[1, 3] = fresh[1, 4] = fresh[2, 6] = True
    # a memory that has seen something
    _, before = student.forward(observations(mix, batch, seed=1), student.initial_state(batch))
    with torch.no_grad():
        whole, state, parts = student.sequence(obs, before, fresh), before, []
        for t in range(steps):
            said, state = student.forward(obs[:, t], student.reset(state, fresh[:, t]))
            parts.append(tensors(said))
    assert tensors(whole).keys() == parts[0].keys()
    for key, value in tensors(whole).items():
        expected = torch.stack([part[key] for part in parts], 1)
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0, msg=lambda m, key=key: f"{key}: {m}")


@each
def test_a_memory_begins_as_float32_zeros_and_reset_makes_it_so_where_asked(name, options):
    student, mix = widest(name, **FULL, **options)
    start = student.initial_state(4)
    assert all(value.dtype == torch.float32 and not value.any() for value in start.values())
    _, used = student.forward(observations(mix, 4), start)
    assert {key: value.shape for key, value in used.items()} == {key: v.shape for key, v in start.items()}
    if not start.is_empty():
        assert any(value.any() for value in used.values())
    mask = torch.tensor([True, False, True, False])
    # not even a memory that broke survives
    broken = used.apply(lambda value: value.masked_fill(mask.view(-1, *[1] * (value.ndim - 1)), torch.nan))
    cleared = student.reset(broken, mask)
    for key, value in cleared.items():
        assert torch.equal(value[mask], start[key][mask])
        assert torch.equal(value[~mask], used[key][~mask])
    obs = observations(mix, 4, seed=2)
    after, new = student.forward(obs, cleared)[0], student.forward(obs, start)[0]
    for key, value in tensors(after).items():
        torch.testing.assert_close(value[mask], tensors(new)[key][mask], atol=1e-6, rtol=0)


@each
def test_every_weight_of_a_student_learns_from_what_it_says(name, options):
    student, mix = widest(name, **FULL, **options)
    student.train()
    # a second step, because weights that read a memory hear nothing of an empty one
    fresh = torch.zeros(8, 2, dtype=torch.bool)
    said = student.sequence(observations(mix, 8, 2), student.initial_state(8), fresh)
    said = tensors(said)
    del said["features."]
    sum(value.square().sum() for value in said.values()).backward()
    silent = [key for key, value in student.named_parameters() if value.grad is None or not value.grad.any()]
    assert silent == []


@each
def test_imitation_does_not_bend_what_a_student_guesses(name, options):
    student, mix = widest(name, **FULL, **options)
    said = student.sequence(
        observations(mix, 4, 3), student.initial_state(4), torch.zeros(4, 3, dtype=torch.bool)
    )
    guesses = ("estimates.", "latent.")
    acts = [value.square().sum() for key, value in tensors(said).items() if not key.startswith(guesses)]
    sum(acts).backward()
    heads = [*student.estimator.parameters(), *student.adapter.parameters()]
    # features hold the guesses, detached too
    assert all(value.grad is None for value in heads)
    # and yet it hears them
    with torch.no_grad():
        plain = student.forward(observations(mix, 4), student.initial_state(4))[0].action
        student.estimator[-1].bias.add_(1.0)
        moved = student.forward(observations(mix, 4), student.initial_state(4))[0].action
    assert not torch.allclose(plain, moved)


@each
def test_a_student_in_the_dark_stays_finite_and_learns_finitely(name, options):
    student, mix = widest(name, **FULL, **options)
    student.train()
    obs = observations(mix, 2, 3).apply(torch.zeros_like)  # 0 is a miss in depth, and black
    said = tensors(student.sequence(obs, student.initial_state(2), torch.zeros(2, 3, dtype=torch.bool)))
    assert all(torch.isfinite(value).all() for value in said.values())
    sum(value.square().sum() for value in said.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@each
def test_a_student_read_back_says_the_same(name, options):
    student, mix = widest(name, **FULL, **options)
    student.update_normalizers(observations(mix, 16, seed=3))
    torch.manual_seed(1)
    other = registry.find("student", name)(**FULL, **options).build(interface_of(mix)).eval()
    stream = io.BytesIO()
    torch.save(student.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream))
    obs, start = observations(mix, 4), student.initial_state(4)
    assert_same(student.forward(obs, start)[0], other.forward(obs, start)[0], 0.0)


@pytest.mark.parametrize("full", [False, True], ids=["plain", "full"])
@each
def test_a_student_says_what_it_offers_and_nothing_else(name, options, full):
    groups = ("proprio",)
    student = registry.find("student", name)(**(FULL if full else {}), **options).build(
        Interface(
            obs_specs={name: GROUPS[name] for name in groups}, cameras=(), action_size=7, targets={},
            latent_size=4 if full else 0,
        )
    ).eval()  # fmt: skip
    said, _ = student.forward(observations("one group", 2), student.initial_state(2))
    assert student.offers == {field for field in OPTIONAL if getattr(said, field) not in (None, {})}
    always = {"chunk"} if name == "chunk" else set()
    assert student.offers == ({*OPTIONAL} - {"chunk"} if full else set()) | always
    assert said.estimates == {}
    if full:
        assert said.log_std.shape == (2, 7)
        assert said.latent.shape == (2, 4)
        assert said.value.shape == (2,)
        assert all(branch.shape == (2, 7) for branch in said.branches.values())
    if said.chunk is not None:
        assert said.chunk.shape[::2] == (2, 7)
        assert said.chunk.ndim == 3


@pytest.mark.parametrize(("profile", "budget"), [("tiny", 100_000), ("standard", 2_000_000)])
@each
def test_a_profile_keeps_its_budget_of_weights(name, options, profile, budget):
    interface = Interface(
        obs_specs={"proprio": rows("proprio", 21)}, action_size=7,
        cameras=() if name == "mlp" else (CameraSpec(name="front"),), targets={"goal_position": 3},
    )  # fmt: skip
    counts = [
        sum(
            value.numel()
            for value in registry.find("student", name)(**arguments).build(interface).parameters()
        )
        for arguments in ({"profile": profile, **options}, options)
    ]
    assert counts[0] <= budget
    assert counts[0] == counts[1] if profile == "tiny" else counts[0] > 2 * counts[1]


class Graph(nn.Module):
    """A student as a function of tensors, its state among them."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.state = tuple(student.initial_state(1).keys())

    def forward(self, **given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        obs = {name: given[name] for name in self.student.inputs}
        state = TensorDict({name: given[name] for name in self.state}, batch_size=[1])
        said, after = self.student.forward(obs, state)
        return (said.action, *said.estimates.values(), *(after[name] for name in self.state))


@each
def test_the_exported_graph_follows_the_student_through_an_episode(name, options):
    mix = "one group" if name == "mlp" else "depth"
    student = made(name, mix, **FULL, **options)
    graph, start = Graph(student), student.initial_state(1)
    obs = observations(mix, 6, 1)
    sample = {**obs[0], **start}
    outputs = ["action", *student.targets, *(f"{key}.next" for key in graph.state)]
    stream = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, (), stream, kwargs=sample, input_names=list(sample), output_names=outputs,
            opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    session = onnxruntime.InferenceSession(stream.getvalue())
    state, remembered = start, {key: value.numpy() for key, value in start.items()}
    for step in obs:
        with torch.no_grad():
            said, state = student.forward(step, state)
        seen = {key: value.numpy() for key, value in step.items()}
        got = dict(zip(outputs, session.run(None, seen | remembered), strict=True))
        remembered = {key: got[f"{key}.next"] for key in graph.state}
        expected = {"action": said.action, **said.estimates}
        expected |= {f"{key}.next": value for key, value in state.items()}
        for key, value in expected.items():
            np.testing.assert_allclose(got[key], value.numpy(), atol=1e-5, rtol=0, err_msg=key)
    assert {one.name for one in session.get_inputs()} == {*student.inputs, *graph.state}
    # early heads are no part of what runs on a robot
    biases = {
        key: value.detach().numpy().tobytes() for key, value in student.named_parameters() if value.ndim == 1
    }
    kept = {key for key, value in biases.items() if value in stream.getvalue()}
    assert "trunk.0.bias" in kept
    assert not [key for key in kept if key.startswith("branches.")]
