"""Distil: DAgger with an aggregated data set, from a privileged teacher to a student that sees.

Source: Ross, Gordon, Bagnell (2011), algorithm 3.1. Labels are the teacher's clipped mean actions on the
observation *before* the step. A row of the data set is a sequence of T steps of one environment, with the
student's memory before it, so that recurrent students learn from every step (truncated backpropagation).
With a loss of the rollout (loss=[ppo,…]) the student explores, there is no data set, and all losses together
learn from each round as PPO does: the same objective, whose weights follow their schedules.
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
from robokd.learn import ranks
from robokd.learn.acting import executed
from robokd.learn.dataset import EPISODE, FRESH, LABEL, DataSet, rows_of, seen
from robokd.learn.instructor import cast, parents, teacher_outcomes, training_env, validation
from robokd.learn.lesson import Lesson, moved
from robokd.learn.means import Means
from robokd.learn.objective import Objective
from robokd.learn.pupil import row_length, target_slices
from robokd.learn.reinforcement import Reinforcement, explored
from robokd.learn.rollout import Outcomes
from robokd.learn.stage import begin, create_run, shared_fields
from robokd.progress import Progress
from robokd.run import Run
from robokd.students.base import StudentModule, StudentPolicy
from robokd.teachers.base import TeacherOutput
from robokd.teachers.twin import TwinTeacher, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from robokd.config import DistillConfig
    from robokd.learning import DaggerConfig
    from robokd.schedule import Schedule
    from robokd.teachers.base import Teacher

MAX_GRAD_NORM = 1.0


def distill(config: DistillConfig, resume: Run | None = None) -> Path:
    """Distil the parent's teacher into a student and return the path of its summary."""
    ranks.join(config.device)
    begin(config.seed, config.threads, alone=False)
    env = training_env(config)
    student, teacher = cast(config, env)
    validate = validation(config, student)
    engine = Dagger(config, env, student, teacher)  # what cannot be learned is refused before a run is begun
    if resume is None and engine.rewards is None:
        engine.data.check_room(config.runs, engine.example(), config.device)
    run = resume or Run.open(ranks.first(lambda: create_run(config, "distill", parents(config)).path))
    env.failures, engine.run = run.path / "failures", run
    taught = ranks.first(lambda: teacher_outcomes(config, teacher))
    totals = engine.train(validate, taught.success.mean().item())
    if teacher.sha256() != engine.teacher_sha256:
        raise RuntimeError("the teacher changed while it was distilled")
    parameters = sum(value.numel() for value in student.parameters())
    steps = totals["env_steps"] + taught.env_steps
    own = {"teacher_sha256": engine.teacher_sha256, "student_parameters": parameters, "env_steps": steps}
    if ranks.is_first():
        run.write_summary({**totals, **shared_fields(config), **own})
    if engine.data.is_open:
        engine.data.remove()
    ranks.wait()
    return run.summary_path


class Dagger:
    """Who acts, what is stored, how the student learns from it; one `train` that reads as the algorithm."""

    run: Run  # that `train` writes; set before it begins

    def __init__(self, config: DistillConfig, env: VecEnv, student: StudentModule, teacher: Teacher) -> None:
        self.teacher_sha256 = teacher.sha256()
        self.config, self.env, self.student, self.teacher = config, env, student, teacher
        self.twin = teacher if isinstance(teacher, TwinTeacher) else None
        self.policy = self.twin.policy if self.twin else StudentPolicy(student, env.num_envs)
        self.settings: DaggerConfig = config.dagger
        self.objective = Objective(config.loss)
        self.weights = {name: cfg.weight for name, cfg in config.loss.items()}  # of the losses, in this round
        self.lesson = Lesson(student, self.objective, config.teacher.weight if self.twin else None)
        self._views = (*student.inputs, *student.shown)  # the groups that the student and its twin are shown
        self._round = TensorDict()  # the newest rows, where the student learns from reward
        weights = [value for value in student.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(
            weights, lr=self.settings.learning_rate.begin, weight_decay=self.settings.weight_decay, fused=True
        )
        self.draws = Draws(config.seed, "train")
        self.targets = target_slices(env, tuple(student.targets))
        self.length = row_length(self.settings, student)
        self.data = DataSet(self.settings, self.draws, env.num_envs * ranks.world(), self.length)
        self.rewards = Reinforcement(config.rl, env) if self.objective.is_reinforced else None
        self.totals = {
            "round": 0, "env_steps": 0, "teacher_labels": 0, "grad_samples": 0, "best": [-math.inf, 0.0],
            "stopped": False, "written": 0, "validation_steps": 0, "validation_frames": 0, "retentions": [],
            "fall_backs": 0,
        }  # fmt: skip

    def train(self, validate: Callable[[], Outcomes], taught: float) -> dict[str, Any]:
        """DAgger rounds until the student keeps enough of the teacher's success `taught`."""
        settings, totals = self.settings, self.totals
        self._restore()
        if self.config.baseline and not totals["retentions"]:
            self._judge(ranks.first(validate), taught)
            self._save(is_best=True)  # the student that this one must not fall behind
        with Progress(settings.rounds, "rounds", start=totals["round"]) as bar:
            while totals["round"] < settings.rounds and not totals["stopped"]:
                number, started = totals["round"], time.perf_counter()
                share, rate = self._now(settings.acting.share), self._now(settings.learning_rate)
                self.weights = self.objective.weights(self._now)
                if self.twin:
                    self.lesson.follow = self._now(self.config.teacher.follow)
                driven = self._collect(share)
                collected = time.perf_counter()  # of the host: a GPU may have some of it before it
                losses = self._learn(number, rate)
                totals["round"] += 1
                finished = totals["round"] == settings.rounds
                row = {
                    **losses, **self._validation_loss(), "beta": share,
                    "teacher_drove": driven.item(),
                    "frames": float(totals["env_steps"]), "fall_backs": float(totals["fall_backs"]),
                    "time/collect_s": collected - started, "time/learn_s": time.perf_counter() - collected,
                }  # fmt: skip
                is_best = False
                if totals["round"] % settings.evaluate_every == 0 or finished:
                    outcomes = ranks.first(validate)
                    row |= {f"validation/{name}": value for name, value in outcomes.means().items()}
                    is_best = self._judge(outcomes, taught)
                if ranks.is_first():
                    self.run.log(totals["round"], row)
                ends = finished or totals["stopped"]
                if is_best or ends or totals["round"] % settings.checkpoint_every == 0:
                    self._save(is_best)
                bar.advance(1, success=row.get("validation/success"), loss=losses.get("loss"))
        return {
            "env_steps": totals["env_steps"] + totals["validation_steps"],
            "frames_rendered": ranks.count(self.env.frames_rendered) + totals["validation_frames"],
            "training_env_steps": totals["env_steps"],
            "teacher_labels": totals["teacher_labels"], "grad_samples": totals["grad_samples"],
            "rounds": totals["round"], "validation_success": totals["best"][0],
            "teacher_validation_success": None if self.twin else taught,
            "retention": totals["best"][0] / max(taught, 1e-9),
            "buffer_bytes": self.data.bytes, "fall_backs": totals["fall_backs"],
        }  # fmt: skip

    def _now(self, schedule: Schedule) -> float:
        return schedule.value(self.totals["round"], self.totals["retentions"], self.settings.rounds)

    def _learn(self, number: int, rate: float) -> dict[str, float]:
        """Take the round's gradient steps; return what is logged of them, for which it waits at the end."""
        if self.rewards is not None:
            means = self._reinforce(self.rewards, number)
            more = {**ranks.summed(self.rewards.seen), "learning_rate": self.rewards.rate.item()}
        else:
            means, more = self._fit(number, rate), {"learning_rate": rate}
            self.data.check_learnable()
        return {**self._named(means, number), **more}

    def _collect(self, share: float) -> Tensor:
        """Act, label every observation before its step, store the rows; return how much the teacher drove."""
        env, settings, state = self.env, self.settings, self.env.state
        obs = env.get_observations()
        steps, memories, drove = [], [], torch.zeros((), device=env.device)
        for number in range(settings.steps_per_round):
            if number % self.length == 0:
                memories.append(self.policy.state.clone())
            taught = self.teacher.label(obs)
            steps.append(self._step(obs, taught))
            # asked even where the teacher drives: a student that remembers has seen the whole episode
            label, own = self._candidates(obs, taught)
            actions, driven = executed(
                settings.acting, share, label, own, self.draws, state.episode_id, state.step
            )
            drove += driven.float().mean()
            outcome = env.step(actions)
            if self.rewards is not None:
                self.rewards.note(obs, actions, driven, self._is_known(driven), outcome)
            obs, _, dones, _ = outcome
            self.policy.reset(dones.bool())
            self.teacher.reset(dones.bool())
        if self.rewards is not None:
            for step, judged in zip(steps, self.rewards.judged(obs), strict=True):
                step.update(judged)
        self._keep(rows_of(steps, memories, self.length))
        frames = settings.steps_per_round * env.num_envs * ranks.world()
        self.totals["env_steps"] += frames
        self.totals["teacher_labels"] += frames
        return ranks.total(drove).double() / settings.steps_per_round / ranks.world()

    def _candidates(self, obs: TensorDict, taught: TeacherOutput) -> tuple[Tensor, Tensor]:
        """Return what the teacher and the student would send (N, A); who learns from reward explores."""
        if self.rewards is None:
            return taught.action, self.policy.act(obs)
        said, draws, state = self.policy.say(obs), self.draws, self.env.state
        own = explored(said.action, said.log_std, draws, "explore", state)
        if self.twin is None:
            return taught.action, own
        return explored(taught.action, taught.log_std, draws, "explore_twin", state), own

    def _is_known(self, driven: Tensor) -> Tensor:
        """Return where (N,) the likelihood of what was sent is known: a twin's is, without noise on top."""
        return torch.ones_like(driven) if self.twin and not self.settings.acting.noise else ~driven

    def _keep(self, rows: TensorDict) -> None:
        """Add rows to the data set, or hold them for the one round that learns from reward."""
        if self.rewards is not None:
            self._round = rows
            return
        if not self.data.is_open:
            self._open(rows)
        self.data.add(rows)
        self.totals["written"] = self.data.buffer.written
        self._normalise(rows)

    def _open(self, like: TensorDict, written: int = 0) -> None:
        self.data.open(self.run.path / "buffer", like, written, self.config.device)

    def _normalise(self, rows: TensorDict) -> None:
        """Show rows to the student's normalisers, of all processes; these read no pictures."""
        shown = seen(rows, self._views).flatten(0, 1)
        own = {name: value for name, value in shown.items() if name not in self.env.camera_specs}
        self.student.update_normalizers(
            TensorDict({name: ranks.gathered(value) for name, value in own.items()})
        )

    def example(self) -> TensorDict:
        """Return rows (R, T, ...) as they will be, of what is seen now."""
        obs = self.env.get_observations()
        step = self._step(obs, self.teacher.label(obs))
        return rows_of([step] * self.length, [self.policy.state], self.length)

    def _step(self, obs: TensorDict, taught: TeacherOutput) -> TensorDict:
        """Return what is kept of one step of all environments (N, ...)."""
        fields = {name: obs[name] for name in self.student.inputs} | shown(obs, self.student.shown)
        fields |= {name: obs[group][:, place] for name, (group, place) in self.targets.items()}
        fields |= {f"{LABEL}.{field}": getattr(taught, field) for field in self.objective.of_teacher}
        state = self.env.state
        fields |= {LABEL: taught.action, EPISODE: state.episode_id.clone(), FRESH: state.step == 0}
        return TensorDict(fields, batch_size=obs.batch_size)

    def _fit(self, number: int, rate: float) -> Means:
        """Take the round's gradient steps on rows of the whole data set; they follow from seed and round."""
        data, means = self.data, Means()
        self.student.train()
        for chosen in data.batches(number, self.settings.gradient_steps):
            rows = data.buffer.rows(chosen[data.own_part(chosen)])
            valid = ~data.is_held_out(rows)
            loss, terms, own = self.lesson(rows, valid, self.weights)
            data.weigh(chosen, own.action, rows, valid)
            self._descend(loss, rate)
            means.add(loss=loss, **terms)
            self.totals["grad_samples"] += len(chosen) * self.length
        self.student.eval()
        return means

    def _reinforce(self, rewards: Reinforcement, number: int) -> Means:
        """Take the round's gradient steps on its own rows; they follow from seed and round."""
        rows, seed = self._round, (self.config.seed * 1_000_003 + number) % 2**63
        generator = torch.Generator().manual_seed(seed)
        is_warm = number >= rewards.settings.critic_warmup
        means = Means()
        self.student.train()
        if is_warm:
            with torch.no_grad():
                parts = rows.split(-(-len(rows) // rewards.settings.mini_batches))
                before = [self.lesson.before(part) for part in parts]
            rows.update({name: torch.cat([one[name] for one in before]) for name in before[0]})
        for _ in range(rewards.settings.epochs):
            distance, count = 0.0, 0
            for part in rewards.parts(rows, generator):
                means.add(critic=rewards.fit_critic(part))
                if is_warm:  # of a round, nothing is held out
                    loss, terms, own = self.lesson(part, torch.ones_like(part[FRESH]), self.weights)
                    self._descend(loss, rewards.rate)
                    means.add(loss=loss, **terms)
                    distance, count = distance + moved(own, part).detach(), count + 1
            if isinstance(distance, Tensor):
                rewards.adapt(ranks.total(distance).double() / count)
        self.totals["grad_samples"] += rewards.settings.epochs * rows[LABEL][..., 0].numel() * ranks.world()
        self.student.eval()
        self._normalise(rows)
        return means

    def _descend(self, loss: Tensor, rate: float | Tensor) -> None:
        """Take a gradient step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate.float() if isinstance(rate, Tensor) else rate  # as the fused kernel reads it
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        ranks.sum_gradients(self.student.parameters())
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()

    def _named(self, means: Means, number: int) -> dict[str, float]:
        """Return the means as they are logged; UserError for a loss that is not finite."""
        found, key = means.values(), "dagger" if self.rewards is None else "rl"
        if not all(map(math.isfinite, found.values())):
            raise UserError(
                f"the distillation loss is not finite in round {number}: lower {key}.learning_rate"
            )
        return {(name if name == "loss" else f"loss/{name}"): value for name, value in found.items()}

    def _validation_loss(self) -> dict[str, float]:
        """Return the losses on the episodes that are never learned from."""
        chosen = self.data.held_out() if self.data.is_open else torch.zeros(0)
        if len(chosen) < ranks.world():
            return {}
        rows = self.data.buffer.rows(chosen[self.data.own_part(chosen)])
        with torch.no_grad():
            loss, terms, _ = self.lesson(rows, self.data.is_held_out(rows), self.weights)
        return {f"held_out/{name}": value for name, value in ranks.summed({"loss": loss, **terms}).items()}

    def _judge(self, outcomes: Outcomes, taught: float) -> bool:
        """Note the validation's success and cost; return whether it is the best so far."""
        self.totals["validation_steps"] += outcomes.env_steps
        self.totals["validation_frames"] += outcomes.frames
        success = outcomes.success.mean().item()
        score = [success, outcomes.returns.mean().item()]
        # of a teacher that never succeeds any student keeps everything; a baseline goes on to be better
        is_kept = taught > 0 and success >= self.settings.stop_retention * taught
        self.totals["stopped"] = is_kept and not self.config.baseline
        self.totals["retentions"].append(success / taught if taught > 0 else 1.0)
        is_best = score > self.totals["best"]
        self.totals["best"] = max(score, self.totals["best"])
        if self.rewards is not None and success < self.totals["best"][0] - self.rewards.settings.fall_back:
            self._fall_back(self.rewards)
        return is_best

    def _fall_back(self, rewards: Reinforcement) -> None:
        """Return to the best student so far, to go on from it more slowly; the critic stays as it is."""
        saved = self.run.load_checkpoint("best")
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        rewards.slow_down()
        self.totals["fall_backs"] += 1

    def _save(self, is_best: bool) -> None:
        if self.data.is_open:
            self.data.buffer.flush()
        ranks.wait()  # until all have flushed
        state = {
            "student": self.student.state_dict(), "optimizer": self.optimizer.state_dict(),
            "totals": self.totals, "rng": torch.get_rng_state(),
            "contract": contract(self.env, self.student.inputs), "latent_size": self.student.latent_size,
            "teacher_sha256": self.teacher_sha256,
            "worlds": ranks.joined({"env": self.env.snapshot(), "memory": dict(self.policy.state)}),
            "machines": ranks.machines(),
        }  # fmt: skip
        if self.data.priorities is not None:
            state["priorities"] = self.data.priorities.values
        if self.rewards is not None:
            state["rewards"] = self.rewards.state_dict()
        if ranks.is_first():
            self.run.save_checkpoint(self.totals["round"], state, best=is_best)
        ranks.wait()

    def _restore(self) -> None:
        if ranks.is_first():
            self.run.rewind()
        ranks.wait()
        if not self.run.has_checkpoint("last"):
            return
        saved = self.run.load_checkpoint("last")
        if saved["teacher_sha256"] != self.teacher_sha256:
            raise UserError(f"{self.run.path}: the teacher is not the one that this run began with")
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.rewards is None and saved["machines"] != ranks.machines():
            raise UserError(
                f"{self.run.path}: {saved['machines']} machines hold its data set, each its part; these are "
                f"{ranks.machines()}: resume it on as many"
            )
        own = ranks.divided(saved["worlds"])
        self.env.restore(own["env"])
        self.totals.update(saved["totals"])
        self.policy.state.update({name: value.to(self.env.device) for name, value in own["memory"].items()})
        self.policy.reset(self.env.state.step == 0)  # worlds that are not ours begin their episodes afresh
        torch.set_rng_state(saved["rng"])
        if self.rewards is not None:
            self.rewards.load_state_dict(saved["rewards"])
            return
        self._open(self.example(), self.totals["written"])
        if self.data.priorities is not None:
            self.data.priorities.values.copy_(saved["priorities"])
