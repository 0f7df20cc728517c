"""Distil: DAgger with an aggregated data set, from a privileged teacher to a student that sees.

Source: Ross, Gordon, Bagnell (2011), algorithm 3.1. Labels are the teacher's clipped mean actions on the
observation *before* the step. Shapes: N environments, B samples, A action dimensions.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from robokd import UserError
from robokd.config import load
from robokd.draws import Draws
from robokd.env.base import VecEnv, check_contract, contract
from robokd.learn.buffer import Buffer, columns_of, planned_bytes
from robokd.learn.rollout import Outcomes, rollout
from robokd.learn.schedule import cosine, mixing
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.learn.teach import load_teacher
from robokd.losses.base import DistillLoss
from robokd.progress import Progress
from robokd.run import Run
from robokd.students.base import Interface, StudentModule, StudentPolicy
from robokd.teachers.base import TeacherOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from robokd.config import DaggerConfig, DistillConfig
    from robokd.teachers.base import Teacher

LABEL = "label"  # column of the teacher's actions
EPISODE = "episode"  # column of episode numbers: validation rows are whole episodes
MAX_GRAD_NORM = 1.0


def distill(config: DistillConfig, resume: Run | None = None) -> Path:
    """Distil the parent's teacher into a student and return the path of its summary."""
    begin(config.seed, config.threads)
    parent = Run.open(config.parent)
    teacher_groups = load("teach", parent.config).teacher.actor_groups
    student_groups = student_inputs(config)
    env = build_env(config, tuple(dict.fromkeys((*student_groups, *teacher_groups))), "train")
    teacher = load_teacher(parent, config.checkpoint, env)
    frozen = teacher.sha256()
    student = build_student(config, env)
    count = config.dagger.evaluate_episodes
    validation = build_env(config, student_groups, "validation", num_envs=count)
    reference = build_env(config, teacher_groups, "validation", num_envs=count)
    run = resume or create_run(config, "distill", [parent])
    env.failures = run.path / "failures"
    taught = rollout(reference, teacher, count)
    engine = Dagger(config, env, student, teacher, run)
    totals = engine.train(
        lambda: rollout(validation, StudentPolicy(student, count), count), taught.success.mean().item()
    )
    if teacher.sha256() != frozen:
        raise RuntimeError("the teacher changed while it was distilled")
    parameters = sum(value.numel() for value in student.parameters())
    steps = totals["env_steps"] + taught.env_steps
    own = {"teacher_sha256": frozen, "student_parameters": parameters, "env_steps": steps}
    summary = run.write_summary({**totals, **shared_fields(config), **own})
    engine.buffer.remove()
    return summary


class Dagger:
    """Who acts, what is stored, how the student learns from it; one `train` that reads as the algorithm."""

    def __init__(
        self, config: DistillConfig, env: VecEnv, student: StudentModule, teacher: Teacher, run: Run
    ) -> None:
        self.config, self.env, self.student, self.teacher, self.run = config, env, student, teacher, run
        self.settings: DaggerConfig = config.dagger
        self.losses: dict[str, tuple[float, DistillLoss]] = {
            name: (cfg.weight, cfg.build()) for name, cfg in config.loss.items()
        }
        weights = [value for value in student.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(
            weights, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        self.policy = StudentPolicy(student, env.num_envs)
        self.draws = Draws(config.seed, "train")
        self.targets = target_slices(env, tuple(student.targets))
        self.totals = {
            "round": 0, "env_steps": 0, "teacher_labels": 0, "grad_samples": 0, "best": [-math.inf, 0.0],
            "stopped": False, "written": 0, "validation_steps": 0, "validation_frames": 0,
        }  # fmt: skip

    def train(self, validate: Callable[[], Outcomes], taught: float) -> dict[str, Any]:
        """DAgger rounds until the student keeps enough of the teacher's success `taught`."""
        settings, totals = self.settings, self.totals
        self._restore()
        with Progress(settings.rounds, "rounds", start=totals["round"]) as bar:
            while totals["round"] < settings.rounds and not totals["stopped"]:
                number, started = totals["round"], time.perf_counter()
                beta = mixing(number, settings.teacher_rounds, settings.mixing_rounds)
                self._collect(number, beta)
                collected = time.perf_counter()
                share = number / max(settings.rounds - 1, 1)
                rate = cosine(share, settings.learning_rate, settings.learning_rate_end)
                losses = self._fit(number, rate)
                totals["round"] += 1
                finished = totals["round"] == settings.rounds
                row = {
                    **losses, **self._validation_loss(), "beta": beta, "frames": float(totals["written"]),
                    "learning_rate": rate, "time/collect_s": collected - started,
                    "time/learn_s": time.perf_counter() - collected,
                }  # fmt: skip
                is_best = False
                if totals["round"] % settings.evaluate_every == 0 or finished:
                    outcomes = validate()
                    row |= {f"validation/{name}": value for name, value in outcomes.means().items()}
                    totals["validation_steps"] += outcomes.env_steps
                    totals["validation_frames"] += outcomes.frames
                    is_best = self._judge(outcomes, taught)
                self.run.log(totals["round"], row)
                if (
                    is_best
                    or finished
                    or totals["stopped"]
                    or totals["round"] % settings.checkpoint_every == 0
                ):
                    self._save(is_best)
                bar.advance(1, success=row.get("validation/success"), loss=losses["loss"])
        return {
            "env_steps": totals["env_steps"] + totals["validation_steps"],
            "frames_rendered": self.env.frames_rendered + totals["validation_frames"],
            "training_env_steps": totals["env_steps"],
            "teacher_labels": totals["teacher_labels"], "grad_samples": totals["grad_samples"],
            "rounds": totals["round"], "validation_success": totals["best"][0],
            "teacher_validation_success": taught, "retention": totals["best"][0] / max(taught, 1e-9),
            "buffer_bytes": self.buffer_bytes,
        }  # fmt: skip

    def _collect(self, number: int, beta: float) -> None:
        """Act with teacher or student, label every observation before its step, store the rows."""
        env, settings = self.env, self.settings
        obs = env.get_observations()
        stored = []
        for _ in range(settings.steps_per_round):
            label = self.teacher.act(obs)
            stored.append(self._rows(obs, label))
            # asked even where the teacher drives: a student that remembers has seen the whole episode
            said = self.policy.act(obs)
            # drawn by episode, so an episode changes hands at most once, when beta falls below its draw
            driven = self.draws.uniform("beta", env.state.episode_id, 0, 1)[:, 0] < beta
            actions = torch.where(driven[:, None], label, said)
            obs, _, dones, _ = env.step(actions)
            self.policy.reset(dones.bool())
        rows: TensorDict = torch.cat(stored)  # pyright: ignore[reportAssignmentType]  (of TensorDicts)
        if not hasattr(self, "buffer"):
            self._allocate(rows)
        self.buffer.add(rows)
        self.student.update_normalizers(rows)
        self.totals["written"] = self.buffer.written
        self.totals["env_steps"] += len(rows)
        self.totals["teacher_labels"] += len(rows)

    def _rows(self, obs: TensorDict, label: Tensor) -> TensorDict:
        fields = {name: obs[name] for name in self.student.inputs}
        fields |= {name: obs[group][:, place] for name, (group, place) in self.targets.items()}
        fields |= {LABEL: label, EPISODE: self.env.state.episode_id.clone()}
        return TensorDict(fields, batch_size=obs.batch_size)

    def _fit(self, number: int, rate: float) -> dict[str, float]:
        """Take the round's gradient steps on rows of the whole data set; they follow from seed and round."""
        settings = self.settings
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + number) % 2**63)
        training = torch.from_numpy((~self._held_out()).nonzero()[0])
        if not len(training):
            share = f"dagger.validation_share={settings.validation_share:g}"
            raise UserError(f"{share} leaves none of the {len(self.buffer)} frames to learn from")
        sums: dict[str, Tensor] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        for _ in range(settings.gradient_steps):
            chosen = torch.randint(len(training), (settings.batch_size,), generator=generator)
            loss, terms = self._loss(self.buffer.rows(training[chosen]))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            for name, value in (("loss", loss), *terms.items()):
                sums[name] = sums.get(name, 0.0) + value.detach()
        self.student.eval()
        self.totals["grad_samples"] += settings.gradient_steps * settings.batch_size
        if not math.isfinite(sums["loss"].item()):
            raise UserError(
                f"the distillation loss is not finite in round {number}: lower dagger.learning_rate"
            )
        return {
            (name if name == "loss" else f"loss/{name}"): value.item() / settings.gradient_steps
            for name, value in sums.items()
        }

    def _loss(self, rows: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the named losses' means over (B, T = 1), and the means."""
        batch = rows.unsqueeze(1)
        fresh = torch.ones(batch.batch_size, dtype=torch.bool)
        said = self.student.sequence(batch, self.student.initial_state(len(rows)), fresh)
        teacher = TeacherOutput(action=batch[LABEL])
        terms = {name: loss(said, teacher, batch).mean() for name, (_, loss) in self.losses.items()}
        return torch.stack([self.losses[name][0] * value for name, value in terms.items()]).sum(), terms

    def _validation_loss(self) -> dict[str, float]:
        """Return the losses on the episodes that are never learned from."""
        held_out = torch.from_numpy(self._held_out().nonzero()[0])[-2048:]
        if not len(held_out):
            return {}
        with torch.no_grad():
            loss, terms = self._loss(self.buffer.rows(held_out))
        return {
            "held_out/loss": loss.item(),
            **{f"held_out/{name}": value.item() for name, value in terms.items()},
        }

    def _held_out(self) -> np.ndarray:
        episodes = torch.from_numpy(self.buffer.column(EPISODE))
        share = self.draws.uniform("validation_share", episodes, 0, 1)[:, 0]
        return (share < self.settings.validation_share).numpy()

    def _judge(self, outcomes: Outcomes, taught: float) -> bool:
        """Note the validation success; return whether it is the best so far."""
        success = outcomes.success.mean().item()
        score = [success, outcomes.returns.mean().item()]
        # of a teacher that never succeeds any student keeps everything
        self.totals["stopped"] = taught > 0 and success >= self.settings.stop_retention * taught
        is_best = score > self.totals["best"]
        self.totals["best"] = max(score, self.totals["best"])
        return is_best

    def _allocate(self, rows: TensorDict) -> None:
        settings = self.settings
        columns = columns_of(rows)
        slack = settings.checkpoint_every * settings.steps_per_round * self.env.num_envs
        needed = settings.rounds * settings.steps_per_round * self.env.num_envs
        capacity = min(settings.capacity, needed)
        self.buffer_bytes = planned_bytes(columns, capacity + slack)
        groups = ", ".join(f"{name} {column.row_bytes} B" for name, column in columns.items())
        print(f"buffer: {capacity:,} rows of {groups}: {self.buffer_bytes / 1e6:,.0f} MB on disk", flush=True)
        self.buffer = Buffer(self.run.path / "buffer", columns, capacity, slack, self.totals["written"])

    def _save(self, is_best: bool) -> None:
        self.buffer.flush()
        state = {
            "student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(),
            "totals": self.totals, "env": self.env.snapshot(), "rng": torch.get_rng_state(),
            "contract": contract(self.env, self.student.inputs), "memory": dict(self.policy.state.items()),
        }  # fmt: skip
        self.run.save_checkpoint(self.totals["round"], state, best=is_best)

    def _restore(self) -> None:
        self.run.rewind()
        if not self.run.has_checkpoint("last"):
            return
        saved = self.run.load_checkpoint("last")
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.env.restore(saved["env"])
        self.totals.update(saved["totals"])
        self.policy.state.update(saved["memory"])
        torch.set_rng_state(saved["rng"])
        self._allocate(
            self._rows(self.env.get_observations(), torch.zeros(self.env.num_envs, self.env.num_actions))
        )


def student_inputs(config: DistillConfig) -> tuple[str, ...]:
    """Return the groups that the student acts on: proprioception and its cameras."""
    if not config.cameras:
        raise UserError("cameras must name at least one camera, got none")
    if twice := [name for name in config.cameras if config.cameras.count(name) > 1]:
        raise UserError(f"cameras names {twice[0]!r} twice")
    return ("proprio", *config.cameras)


def target_slices(env: VecEnv, names: tuple[str, ...]) -> dict[str, tuple[str, slice]]:
    """Return {term: (group, columns)} of privileged terms; UserError for a term that no group has."""
    found = {}
    for group, spec in env.obs_specs.items():
        if spec.role == "privileged":
            found |= {term: (group, place) for term, place in spec.slices().items() if term not in found}
    for name in names:
        if name not in found:
            raise UserError(
                f"no privileged term named {name!r} to estimate. Known: {', '.join(sorted(found))}"
            )
    return {name: found[name] for name in names}


def build_student(config: DistillConfig, env: VecEnv) -> StudentModule:
    """Return a fresh student of the config's cameras; its privileged targets are those the losses ask for."""
    groups = student_inputs(config)
    for name in config.cameras:
        if name not in env.camera_specs:
            raise UserError(f"no camera named {name!r}. Known: {', '.join(env.camera_specs)}")
    terms = tuple(dict.fromkeys(term for loss in config.loss.values() for term in getattr(loss, "terms", ())))
    places = target_slices(env, terms)
    targets = {name: place.stop - place.start for name, (_, place) in places.items()}
    specs = {name: env.obs_specs[name] for name in groups if name in env.obs_specs}
    cameras = [env.camera_specs[name] for name in groups if name in env.camera_specs]
    interface = Interface(
        obs_specs=specs, cameras=tuple(cameras), action_size=env.num_actions, targets=targets
    )
    return config.student.build(interface).eval()


def load_student(run: Run, checkpoint: str, env: VecEnv) -> StudentModule:
    """Return the frozen student of a distill run, refused if env is not what it was made for."""
    saved = run.load_checkpoint(checkpoint)
    check_contract(saved["contract"], env, f"the student of {run.path}")
    student = build_student(load("distill", run.config), env)
    student.load_state_dict(saved["student"])
    return student.eval().requires_grad_(False)
