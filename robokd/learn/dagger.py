"""Distil: DAgger with an aggregated data set, from a privileged teacher to a student that sees.

Source: Ross, Gordon, Bagnell (2011), algorithm 3.1. Labels are the teacher's clipped mean actions on the
observation *before* the step. A row of the data set is a sequence of T steps of one environment, with the
student's memory before it, so that recurrent students learn from every step (truncated backpropagation).
Shapes: N environments, R rows, B rows of a batch, T steps of a row, A action dimensions.
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
from robokd.draws import Draws
from robokd.env.base import VecEnv, contract
from robokd.learn.acting import executed
from robokd.learn.dataset import EPISODE, FRESH, LABEL, DataSet, rows_of, said, seen
from robokd.learn.instructor import open_teacher, parents, teacher_inputs
from robokd.learn.objective import Objective
from robokd.learn.pupil import build_student, estimated_terms, student_inputs, target_slices
from robokd.learn.rollout import Outcomes, rollout
from robokd.learn.stage import begin, build_env, create_run, shared_fields
from robokd.progress import Progress
from robokd.run import Run
from robokd.students.base import StudentModule, StudentPolicy
from robokd.teachers.base import TeacherOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from robokd.config import DaggerConfig, DistillConfig
    from robokd.schedule import Schedule
    from robokd.teachers.base import Teacher

MAX_GRAD_NORM = 1.0
IN_A_ROW = 16  # steps of a sequence, for a student that remembers or plans ahead


def distill(config: DistillConfig, resume: Run | None = None) -> Path:
    """Distil the parent's teacher into a student and return the path of its summary."""
    begin(config.seed, config.threads)
    known = build_env(config, (), "train", num_envs=1)
    teacher_groups, student_groups = teacher_inputs(config, known.task), student_inputs(config)
    target_groups = [group for group, _ in target_slices(known, estimated_terms(config)).values()]
    known.close()
    groups = dict.fromkeys((*student_groups, *teacher_groups, *target_groups))
    env = build_env(config, tuple(groups), "train")
    teacher = open_teacher(config, env)
    objective = Objective(config.loss)
    student = build_student(config, env, latent_size(objective, teacher, env))
    objective.check(student, teacher)
    row_length(config.dagger, student)  # what cannot be learned is refused before a run is begun
    count = config.dagger.evaluate_episodes
    validation = build_env(config, student_groups, "validation", num_envs=count)
    reference = build_env(config, teacher_groups, "validation", num_envs=count)
    run = resume or create_run(config, "distill", parents(config))
    env.failures = run.path / "failures"
    taught = rollout(reference, teacher, count)
    engine = Dagger(config, env, student, teacher, run)
    totals = engine.train(
        lambda: rollout(validation, StudentPolicy(student, count), count), taught.success.mean().item()
    )
    if teacher.sha256() != engine.teacher_sha256:
        raise RuntimeError("the teacher changed while it was distilled")
    parameters = sum(value.numel() for value in student.parameters())
    steps = totals["env_steps"] + taught.env_steps
    own = {"teacher_sha256": engine.teacher_sha256, "student_parameters": parameters, "env_steps": steps}
    summary = run.write_summary({**totals, **shared_fields(config), **own})
    engine.data.buffer.remove()
    return summary


def latent_size(objective: Objective, teacher: Teacher, env: VecEnv) -> int:
    """Return the size of the teacher's latent if a loss matches it, else 0."""
    if "latent" not in objective.of_teacher or "latent" not in teacher.offers:
        return 0
    latent = teacher.label(env.get_observations()).latent
    assert latent is not None, "the teacher offers a latent and says none"
    return latent.shape[-1]


def row_length(settings: DaggerConfig, student: StudentModule) -> int:
    """Return how many steps a student learns from in a row; UserError if rounds are no multiple of it."""
    looks_far = not student.initial_state(1).is_empty() or "chunk" in student.offers
    length = settings.sequence or (IN_A_ROW if looks_far else 1)
    if settings.steps_per_round % length:
        steps = f"dagger.steps_per_round={settings.steps_per_round}"
        raise UserError(f"this student learns from {length} steps in a row, which must divide {steps}")
    return length


class Dagger:
    """Who acts, what is stored, how the student learns from it; one `train` that reads as the algorithm."""

    def __init__(
        self, config: DistillConfig, env: VecEnv, student: StudentModule, teacher: Teacher, run: Run
    ) -> None:
        self.teacher_sha256 = teacher.sha256()
        self.config, self.env, self.student, self.teacher, self.run = config, env, student, teacher, run
        self.settings: DaggerConfig = config.dagger
        self.objective = Objective(config.loss)
        self.weights = {name: cfg.weight for name, cfg in config.loss.items()}  # of the losses, in this round
        weights = [value for value in student.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(
            weights, lr=self.settings.learning_rate.begin, weight_decay=self.settings.weight_decay
        )
        self.policy = StudentPolicy(student, env.num_envs)
        self.draws = Draws(config.seed, "train")
        self.targets = target_slices(env, tuple(student.targets))
        self.length = row_length(self.settings, student)
        self.data = DataSet(self.settings, self.draws, env.num_envs, self.length)
        self.totals = {
            "round": 0, "env_steps": 0, "teacher_labels": 0, "grad_samples": 0, "best": [-math.inf, 0.0],
            "stopped": False, "written": 0, "validation_steps": 0, "validation_frames": 0, "retentions": [],
        }  # fmt: skip

    def train(self, validate: Callable[[], Outcomes], taught: float) -> dict[str, Any]:
        """DAgger rounds until the student keeps enough of the teacher's success `taught`."""
        settings, totals = self.settings, self.totals
        self._restore()
        with Progress(settings.rounds, "rounds", start=totals["round"]) as bar:
            while totals["round"] < settings.rounds and not totals["stopped"]:
                number, started = totals["round"], time.perf_counter()
                share, rate = self._now(settings.acting.share), self._now(settings.learning_rate)
                self.weights = self.objective.weights(self._now)
                driven = self._collect(share)
                collected = time.perf_counter()
                losses = self._fit(number, rate)
                totals["round"] += 1
                finished = totals["round"] == settings.rounds
                row = {
                    **losses, **self._validation_loss(), "beta": share, "teacher_drove": driven,
                    "frames": float(totals["written"] * self.length), "learning_rate": rate,
                    "time/collect_s": collected - started, "time/learn_s": time.perf_counter() - collected,
                }  # fmt: skip
                is_best = False
                if totals["round"] % settings.evaluate_every == 0 or finished:
                    outcomes = validate()
                    row |= {f"validation/{name}": value for name, value in outcomes.means().items()}
                    totals["validation_steps"] += outcomes.env_steps
                    totals["validation_frames"] += outcomes.frames
                    is_best = self._judge(outcomes, taught)
                self.run.log(totals["round"], row)
                ends = finished or totals["stopped"]
                if is_best or ends or totals["round"] % settings.checkpoint_every == 0:
                    self._save(is_best)
                bar.advance(1, success=row.get("validation/success"), loss=losses["loss"])
        return {
            "env_steps": totals["env_steps"] + totals["validation_steps"],
            "frames_rendered": self.env.frames_rendered + totals["validation_frames"],
            "training_env_steps": totals["env_steps"],
            "teacher_labels": totals["teacher_labels"], "grad_samples": totals["grad_samples"],
            "rounds": totals["round"], "validation_success": totals["best"][0],
            "teacher_validation_success": taught, "retention": totals["best"][0] / max(taught, 1e-9),
            "buffer_bytes": self.data.bytes,
        }  # fmt: skip

    def _now(self, schedule: Schedule) -> float:
        return schedule.value(self.totals["round"], self.totals["retentions"], self.settings.rounds)

    def _collect(self, share: float) -> float:
        """Act, label every observation before its step, store the rows; return how much the teacher drove."""
        env, settings, state = self.env, self.settings, self.env.state
        obs = env.get_observations()
        steps, memories, drove = [], [], torch.zeros(())
        for number in range(settings.steps_per_round):
            if number % self.length == 0:
                memories.append(self.policy.state.clone())
            taught = self.teacher.label(obs)
            steps.append(self._step(obs, taught))
            # asked even where the teacher drives: a student that remembers has seen the whole episode
            own = self.policy.act(obs)
            actions, driven = executed(
                settings.acting, share, taught.action, own, self.draws, state.episode_id, state.step
            )
            drove += driven.float().mean()
            obs, _, dones, _ = env.step(actions)
            self.policy.reset(dones.bool())
            self.teacher.reset(dones.bool())
        rows = rows_of(steps, memories, self.length)
        if not self.data.is_open:
            self.data.open(self.run.path / "buffer", rows)
        self.data.add(rows)
        self.student.update_normalizers(seen(rows, self.student.inputs).flatten(0, 1))
        frames = settings.steps_per_round * env.num_envs
        self.totals["written"] = self.data.buffer.written
        self.totals["env_steps"] += frames
        self.totals["teacher_labels"] += frames
        return drove.item() / settings.steps_per_round

    def _step(self, obs: TensorDict, taught: TeacherOutput) -> TensorDict:
        """Return what is kept of one step of all environments (N, ...)."""
        fields = {name: obs[name] for name in self.student.inputs}
        fields |= {name: obs[group][:, place] for name, (group, place) in self.targets.items()}
        fields |= {f"{LABEL}.{field}": getattr(taught, field) for field in self.objective.of_teacher}
        state = self.env.state
        fields |= {LABEL: taught.action, EPISODE: state.episode_id.clone(), FRESH: state.step == 0}
        return TensorDict(fields, batch_size=obs.batch_size)

    def _fit(self, number: int, rate: float) -> dict[str, float]:
        """Take the round's gradient steps on rows of the whole data set; they follow from seed and round."""
        settings, data = self.settings, self.data
        generator = torch.Generator().manual_seed((self.config.seed * 1_000_003 + number) % 2**63)
        training, weights = data.training(), self.weights
        sums: dict[str, Tensor] = {}
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        for _ in range(settings.gradient_steps):
            chosen = data.draw(training, generator)
            rows = data.buffer.rows(chosen)
            loss, terms = self._loss(rows, ~data.is_held_out(rows), weights, chosen)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRAD_NORM)
            self.optimizer.step()
            for name, value in (("loss", loss), *terms.items()):
                sums[name] = sums.get(name, 0.0) + value.detach()
            self.totals["grad_samples"] += len(chosen) * self.length
        self.student.eval()
        if not math.isfinite(sums["loss"].item()):
            raise UserError(
                f"the distillation loss is not finite in round {number}: lower dagger.learning_rate"
            )
        return {
            (name if name == "loss" else f"loss/{name}"): value.item() / settings.gradient_steps
            for name, value in sums.items()
        }

    def _loss(
        self, rows: TensorDict, valid: Tensor, weights: dict[str, float], chosen: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective of rows (B, T) over their valid steps, and its terms; note priorities."""
        output = said(self.student, rows)
        extra = {field: rows[f"{LABEL}.{field}"] for field in self.objective.of_teacher}
        taught = TeacherOutput(action=rows[LABEL], **extra)
        if chosen is not None:
            self.data.weigh(chosen, output.action, taught, valid)
        return self.objective(output, taught, rows, valid, weights)

    def _validation_loss(self) -> dict[str, float]:
        """Return the losses on the episodes that are never learned from."""
        chosen = self.data.held_out()
        if not len(chosen):
            return {}
        rows = self.data.buffer.rows(chosen)
        with torch.no_grad():
            loss, terms = self._loss(rows, self.data.is_held_out(rows), self.weights)
        return {
            "held_out/loss": loss.item(),
            **{f"held_out/{name}": value.item() for name, value in terms.items()},
        }

    def _judge(self, outcomes: Outcomes, taught: float) -> bool:
        """Note the validation success; return whether it is the best so far."""
        success = outcomes.success.mean().item()
        score = [success, outcomes.returns.mean().item()]
        # of a teacher that never succeeds any student keeps everything
        self.totals["stopped"] = taught > 0 and success >= self.settings.stop_retention * taught
        self.totals["retentions"].append(success / taught if taught > 0 else 1.0)
        is_best = score > self.totals["best"]
        self.totals["best"] = max(score, self.totals["best"])
        return is_best

    def _save(self, is_best: bool) -> None:
        self.data.buffer.flush()
        state = {
            "student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(),
            "totals": self.totals, "env": self.env.snapshot(), "rng": torch.get_rng_state(),
            "contract": contract(self.env, self.student.inputs), "latent_size": self.student.latent_size,
            "teacher_sha256": self.teacher_sha256,
            "memory": dict(self.policy.state.items()),
        }  # fmt: skip
        if self.data.priorities is not None:
            state["priorities"] = self.data.priorities.values
        self.run.save_checkpoint(self.totals["round"], state, best=is_best)

    def _restore(self) -> None:
        self.run.rewind()
        if not self.run.has_checkpoint("last"):
            return
        saved = self.run.load_checkpoint("last")
        if saved["teacher_sha256"] != self.teacher_sha256:
            raise UserError(f"{self.run.path}: the teacher is not the one that this run began with")
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.env.restore(saved["env"])
        self.totals.update(saved["totals"])
        self.policy.state.update(saved["memory"])
        torch.set_rng_state(saved["rng"])
        obs = self.env.get_observations()
        like = [self._step(obs, self.teacher.label(obs))]
        rows = rows_of(like * self.length, [self.policy.state], self.length)
        self.data.open(self.run.path / "buffer", rows, self.totals["written"])
        if self.data.priorities is not None:
            self.data.priorities.values.copy_(saved["priorities"])
