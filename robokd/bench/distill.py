"""`what=distill`: learning and whole rounds of DAgger on the task reach, ours beside rsl_rl's `Distillation`.

Two cameras, the task's script as teacher, squared distance of actions, the student acts alone. A gradient
step of either side sees N frames: ours draws them from all that its ring on disk holds, rsl_rl takes one step
of its storage after the other. `learn` rows time gradient steps on the same frames, which are there already;
`round` rows time acting, labelling and storing too. "As it comes" is bfloat16 in our convolutions, float32 in
all of rsl_rl's.
Shapes: N environments, T steps.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from rsl_rl.algorithms import Distillation
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import nn

from robokd.bench import peer, race
from robokd.bench.agreement import identical
from robokd.bench.row import Effort, Gate, Measure, Row, in_turn, per
from robokd.config import compose
from robokd.env.base import TaskEnv
from robokd.learn.dagger import Dagger
from robokd.learn.dataset import FRESH, LABEL
from robokd.learn.instructor import open_teacher, training_env
from robokd.learn.pupil import build_student
from robokd.learn.stage import begin
from robokd.nets.cnn import KeypointEncoder
from robokd.nets.pictures import picture
from robokd.run import Run
from robokd.students.modular import ModularStudent

TASK, CAMERAS = "reach", ("front", "wrist")
EPOCHS = 5  # of rsl_rl over what a round collects: as many gradient steps as ours
LABEL_LIMIT, WEIGHTS_LIMIT = 1e-6, 0.25  # of a label, absolute; of how many weights, relative
LEARN, ROUND = "learn, one student", "round, one student"
OWN_MODEL = "learn, rsl_rl with its own CNNModel"


@dataclass(frozen=True, kw_only=True)
class Precision:
    """In what the convolutions of both sides learn, and how far loss and gradient may then be apart."""

    ours: bool  # in bfloat16
    peer: bool
    loss: float = 1e-5  # relative
    gradient: float = 1e-4  # relative
    bar: float | None = None  # the ratio that is wanted

    @property
    def words(self) -> list[str]:
        """What is said to distill."""
        return [f"student.bfloat16={str(self.ours).lower()}"]


AS_IT_COMES = Precision(ours=True, peer=False, loss=0.01, gradient=0.05, bar=1.2)
PRECISIONS = {
    "each as it comes": AS_IT_COMES, "both in float32": Precision(ours=False, peer=False),
    "both in bfloat16": Precision(ours=True, peer=True),
}  # fmt: skip
IN_ROUNDS = ("each as it comes", "both in float32")


def rows(effort: Effort) -> Iterator[Row]:
    """Measure gradient steps, then whole rounds."""
    begin(effort.seed, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        for name, precision in PRECISIONS.items():
            with closing(_Ours(effort, precision, folder, steps=effort.gradient_steps)) as ours:
                yield _learn_row(f"{LEARN}, {name}", ours, effort)
        with closing(_Ours(effort, AS_IT_COMES, folder, steps=effort.gradient_steps)) as ours:
            yield _own_model_row(ours, effort)
        steps = max(effort.gradient_steps // EPOCHS, 1)
        for name in IN_ROUNDS:
            with closing(_Ours(effort, PRECISIONS[name], folder, steps=steps)) as ours:
                yield _round_row(f"{ROUND}, {name}", ours, effort)
    yield from race.rows(effort)


class _Ours:
    """An engine with fresh worlds and a fresh student, the same ones for the same effort."""

    def __init__(self, effort: Effort, precision: Precision, folder: str, *, steps: int) -> None:
        """`steps` of every environment are a round; the ring holds as many frames as a round learns from."""
        self.steps, self.precision = steps, precision
        self.config = compose("distill", [
            f"task={TASK}", f"cameras=[{','.join(CAMERAS)}]", "teacher=scripted", "loss=[action_mse]",
            f"dagger.steps_per_round={steps}", f"dagger.gradient_steps={effort.gradient_steps}",
            f"dagger.batch_size={effort.num_envs}", "dagger.checkpoint_every=1",
            f"dagger.capacity={effort.num_envs * effort.gradient_steps}", f"num_envs={effort.num_envs}",
            f"seed={effort.seed}", "threads=1", *precision.words,
        ])  # fmt: skip
        self.env = training_env(self.config)
        self.teacher = open_teacher(self.config, self.env)
        torch.manual_seed(effort.seed)
        student = build_student(self.config, self.env)
        assert isinstance(student, ModularStudent), type(student)
        self.student = student
        run = Run(Path(folder), {"stage": "distill", "task": TASK, "seed": effort.seed}, {})  # nobody's
        self.engine = Dagger(self.config, self.env, self.student, self.teacher)
        self.engine.run = run
        self.rate = self.config.dagger.learning_rate.begin

    def collect(self) -> None:
        """Act, label and store a round."""
        self.engine._collect(0.0)

    def fit(self) -> None:
        """Take a round's gradient steps."""
        self.engine._fit(0, self.rate)

    def first(self, steps: int) -> TensorDict:
        """Return the oldest steps that the ring holds, (T, N, ...): what the student sees, and the labels."""
        rows = self.engine.data.buffer.rows(torch.arange(steps * self.env.num_envs))
        fields = {name: rows[name][:, 0] for name in (*self.student.inputs, LABEL)}
        return TensorDict(fields, batch_size=[len(rows)]).view(steps, -1)

    def peer(self, student: nn.Module, obs: TensorDict, *, steps: int, epochs: int = 1) -> Distillation:
        """Return rsl_rl's learner for a student, one gradient step for each step of its storage."""
        return peer.distillation(
            student, self.teacher, obs, actions=self.env.num_actions, steps=steps, epochs=epochs,
            gradient_length=1, learning_rate=self.rate,
        )  # fmt: skip

    def copied(self) -> ModularStudent:
        """Return a student with the weights that ours has now, for the peer."""
        made = copy.deepcopy(self.student)
        for eye in made.encoders.values():
            assert isinstance(eye, KeypointEncoder), type(eye)
            eye.in_bfloat16 = self.precision.peer
        return made

    def close(self) -> None:
        """Free the worlds and the pictures."""
        self.engine.data.buffer.remove()
        self.env.close()


def _learn_row(name: str, ours: _Ours, effort: Effort) -> Row:
    """Measure the gradient steps of a round on the frames that both sides hold."""
    ours.collect()
    frames = ours.first(ours.steps)
    algorithm = ours.peer(peer.PeerStudent(ours.copied(), effort.num_envs), frames[0], steps=ours.steps)
    _fill(algorithm, frames)
    gate = Gate(name="the same loss and gradient", measures=_agreement(ours))
    fitted, updated = _timed(ours, algorithm, effort)
    return Row(
        name=name, peer_name="rsl_rl's Distillation.update", unit="us/frame", bar=ours.precision.bar,
        gate=gate, ours_all=fitted, peer_all=updated,
    )  # fmt: skip


def _own_model_row(ours: _Ours, effort: Effort) -> Row:
    """Measure beside rsl_rl's own model, which reads pictures as float32: another network, as large."""
    ours.collect()
    frames = ours.first(ours.steps)
    for camera in CAMERAS:
        decoded = [picture(step, ours.env.camera_specs[camera]) for step in frames[camera]]
        frames[camera] = torch.stack(decoded)
    model = peer.own_model(frames[0], ours.student.inputs, ours.env.num_actions)
    algorithm = ours.peer(model, frames[0], steps=ours.steps)
    _fill(algorithm, frames)
    own, theirs = (sum(one.numel() for one in module.parameters()) for module in (ours.student, model))
    apart = Measure(name="relative difference of weights", value=abs(own - theirs) / own, limit=WEIGHTS_LIMIT)
    fitted, updated = _timed(ours, algorithm, effort)
    counts = f"{theirs / 1000:.0f}k weights for our {own / 1000:.0f}k"
    return Row(
        name=OWN_MODEL, peer_name=f"rsl_rl's Distillation.update, float32, {counts}", unit="us/frame",
        gate=Gate(name="as many weights", measures=(apart,)), ours_all=fitted, peer_all=updated,
    )  # fmt: skip


def _timed(
    ours: _Ours, algorithm: Distillation, effort: Effort
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the microseconds a frame of a round's gradient steps, of both sides."""
    # rsl_rl empties its storage by setting a count: what it holds can be learned from again
    sides = in_turn(ours.fit, algorithm.update, effort)
    fitted, updated = (per(seconds, effort.gradient_steps * effort.num_envs) for seconds in sides)
    return fitted, updated


def _round_row(name: str, ours: _Ours, effort: Effort) -> Row:
    """Measure acting, labelling, storing and learning, at equal frames and gradient steps."""
    student = peer.PeerStudent(ours.copied(), effort.num_envs)
    with closing(training_env(ours.config)) as env:
        obs = env.get_observations()
        algorithm = ours.peer(student, obs, steps=ours.steps, epochs=effort.gradient_steps // ours.steps)
        gate = Gate(name="the same frames, labels, loss and gradient", measures=_begun(ours, algorithm, env))
        rounds, iterations = in_turn(
            lambda: (ours.collect(), ours.fit()), lambda: (peer.collect(algorithm, env), algorithm.update()),
            effort,
        )  # fmt: skip
    collected = ours.steps * effort.num_envs
    return Row(
        name=name, peer_name="rsl_rl's Distillation on our environments", unit="us/sample",
        bar=ours.precision.bar, gate=gate, ours_all=per(rounds, collected),
        peer_all=per(iterations, collected),
    )  # fmt: skip


def _fill(algorithm: Distillation, frames: TensorDict) -> None:
    """Store frames (T, N, ...) as if rsl_rl had collected them."""
    for step in frames.unbind(0):
        made = RolloutStorage.Transition()
        made.observations = step
        made.actions = made.privileged_actions = step[LABEL]
        made.rewards = made.dones = torch.zeros(len(step))
        algorithm.storage.add_transition(made)


def _agreement(ours: _Ours) -> tuple[Measure, ...]:
    """Compare loss and gradient on the ring's oldest step, from the weights that our student has now."""
    step = ours.first(1)[0]
    theirs = ours.copied()
    algorithm = ours.peer(peer.PeerStudent(theirs, len(step)), step, steps=1)
    _fill(algorithm, step[None])
    their_loss = algorithm.update()["behavior"]
    rows = ours.engine.data.buffer.rows(torch.arange(len(step)))
    ours.student.train()
    loss, *_ = ours.engine.lesson(rows, torch.ones_like(rows[FRESH]), ours.engine.weights)
    loss.backward()
    ours.student.eval()
    found, wanted = (_gradient(student) for student in (ours.student, theirs))
    ours.engine.optimizer.zero_grad()
    return (
        Measure(
            name="relative difference of the loss",
            value=abs(loss.item() / their_loss - 1),
            limit=ours.precision.loss,
        ),
        Measure(
            name="relative difference of the gradient",
            value=((found - wanted).norm() / wanted.norm()).item(),
            limit=ours.precision.gradient,
        ),
    )


def _begun(ours: _Ours, algorithm: Distillation, env: TaskEnv) -> tuple[Measure, ...]:
    """Compare the first step of both sides: what is seen of it, its labels, and what is learned from it."""
    ours.collect()
    peer.collect(algorithm, env)
    stored, label = algorithm.storage.observations[0], algorithm.storage.privileged_actions[0]
    step = ours.first(1)[0]
    pixels = [identical(f"pixels of {name}", step[name].numpy(), stored[name].numpy()) for name in CAMERAS]
    apart = (step[LABEL] - label).abs().max().item()
    algorithm.storage.clear()
    labels = Measure(name="largest difference of a label", value=apart, limit=LABEL_LIMIT)
    return (*pixels, labels, *_agreement(ours))


def _gradient(student: nn.Module) -> torch.Tensor:
    return torch.cat([one.grad.flatten() for one in student.parameters() if one.grad is not None])
