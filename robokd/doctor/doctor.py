"""Doctor: replay the teacher in the student's environment and say why a distillation would fail.

Nothing is trained for keeps, nothing but the report is left. Episodes are of the validation stream.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robokd import UserError
from robokd.doctor import fit, plan, probe, sight, teacher
from robokd.doctor.finding import FAIL, OK, Finding, failures, summary
from robokd.draws import Draws
from robokd.env.base import TaskEnv
from robokd.env.native import NativeEnv
from robokd.files import free_bytes, to_json, writable, write_atomic
from robokd.learn.dataset import EPISODE, LABEL
from robokd.learn.instructor import latent_size, open_teacher, teacher_inputs
from robokd.learn.objective import Objective
from robokd.learn.pupil import build_student, estimated_terms, privileged_terms
from robokd.learn.stage import begin, build_env
from robokd.memory import available_mb
from robokd.vision.sensor import Corruption

if TYPE_CHECKING:
    from robokd.config import DoctorConfig
    from robokd.run import Run
    from robokd.teachers.base import Teacher

TIMED_ENVS = 1024  # at most, in the round that is timed; of more, the cost is taken to be in proportion
CLEAN_ENVS, CLEAN_STEPS = 16, 8  # episodes and control steps that are seen with and without corruption


def doctor(config: DoctorConfig, resume: Run | None = None) -> Path | str:
    """Print what is found and return the report's path, or the summary line if none is asked for.

    Raises UserError, after writing, if something would fail.
    """
    path = writable(config.out) if config.out else None
    begin(config.seed, config.threads)
    findings = []
    for finding in examine(config):
        findings.append(finding)
        print(finding.line(), flush=True)
    verdict = summary(findings)
    if path is not None:
        shown = [finding.to_dict() for finding in findings]
        write_atomic(path, to_json({"stage": "doctor", "summary": verdict, "findings": shown}))
    failed = failures(findings)
    if failed or path is not None:
        print(verdict, flush=True)
    if failed:
        if path is not None:
            print(path, flush=True)
        raise UserError(f"distill would fail: {failed}")
    return path or verdict


def examine(config: DoctorConfig) -> Iterator[Finding]:
    """Yield the findings, in their order; what cannot be looked into any more is left out."""
    place = build_env(config, (), "validation", num_envs=1)
    wanted = teacher_inputs(config, place.task)
    place.close()
    if isinstance(place, NativeEnv):
        held = plan.worlds(config, place.sim.model, available_mb(config.device))
        if held is not None:
            yield held
            if held.level == FAIL:
                return  # what follows would make such worlds
    unseen = teacher.sight(config.groups, config.cameras, place.obs_specs, place.camera_specs)
    known = [name for name in config.groups if name in place.obs_specs]
    groups = tuple(dict.fromkeys((*known, *wanted)))
    env = build_env(config, groups, "validation", num_envs=config.episodes)
    guide = open_teacher(config, env)
    try:
        seen = probe.replay(env, guide, config.episodes)
    except UserError as error:  # it diverged, or something was not finite
        yield Finding(check="teacher success", level=FAIL, measured=str(error))
        return
    yield teacher.success(seen.success)
    yield unseen or teacher.columns(seen.rows, names(env, config.groups))
    yield teacher.normalisers(normalised(guide, seen.rows), columns_read(env, guide))
    yield teacher.clipping(seen.labels)
    yield teacher.moving(seen.labels, env.action_spec.names)
    yield teacher.determinism(probe.repeat(env, guide))
    terms = privileged_terms({name: env.obs_specs[name] for name in guide.inputs if name in env.obs_specs})
    env.close()
    if unseen is None:
        places = privileged_terms(env.obs_specs)
        # a term that is absent is a finding of the losses
        estimated = [places[term][0] for term in estimated_terms(config) if term in places]
        emitted = dict.fromkeys((*config.groups, *config.cameras, *guide.inputs, *estimated))
        yield from examine_student(config, tuple(emitted), guide, seen, terms)


def examine_student(
    config: DoctorConfig, groups: tuple[str, ...], guide: Teacher, seen: probe.Replay,
    terms: dict[str, tuple[str, slice]],
) -> Iterator[Finding]:  # fmt: skip
    """Yield the findings that need a student and its pictures, with environments of these groups."""
    env = build_env(config, groups, "validation", num_envs=probe.size(config))
    moving = {name: at for name, at in terms.items() if not _is_constant(seen.rows[at[0]][:, at[1]])}
    with tempfile.TemporaryDirectory(prefix="robokd_doctor_") as folder:
        try:
            found = probe.collect(config, env, guide, moving, Path(folder))
        except UserError as error:
            yield Finding(check="student", level=FAIL, measured=str(error))
            env.close()
            return
        yield teacher.alignment(found.alignment)
        losses = examine_losses(config, env, guide)
        own = config if losses.level == OK else probe.probe_config(config, ())
        if Objective(own.loss).is_reinforced:
            yield Finding(check="disk", level=OK, measured="who learns from reward keeps no data set")
        else:
            yield from examine_costs(own, groups, guide, found.held_out.shape[1], Path(folder))
        yield from examine_sight(config, env, found, tuple(terms))
        yield from examine_pictures(config, env, found)
        yield losses
    env.close()


def examine_losses(config: DoctorConfig, env: TaskEnv, guide: Teacher) -> Finding:
    """Return whether student and teacher say what the losses read."""
    try:
        objective = Objective(config.loss)
        student = build_student(config, env, latent_size(objective, guide, env))
        objective.check(student, guide)
    except UserError as error:
        cure = "choose losses that fit, or a student and a teacher that say it"
        return Finding(check="losses", level=FAIL, measured=str(error), cure=cure)
    said = f"all that {', '.join(config.loss)} read is said"
    return Finding(check="losses", level=OK, measured=said)


def examine_costs(
    config: DoctorConfig, groups: tuple[str, ...], guide: Teacher, length: int, folder: Path
) -> Iterator[Finding]:
    """Yield what the stage would cost, with rows of `length` steps and environments of these groups."""
    env = build_env(config, groups, "validation", num_envs=min(config.num_envs, TIMED_ENVS))
    student = build_student(config, env, latent_size(Objective(config.loss), guide, env))
    small = probe.timed_config(config, env.num_envs, length)
    engine = probe.make_engine(small, env, student, guide, folder)
    try:
        costs = plan.measured(engine)
    except UserError as error:
        yield Finding(check="a round", level=FAIL, measured=str(error))
        return
    finally:
        env.close()
    yield plan.disk(config, costs, length, free_bytes(config.runs))
    yield plan.memory(config, costs, length, available_mb())
    yield plan.wall_time(config, costs, length, env.max_episode_length)


def examine_sight(
    config: DoctorConfig, env: TaskEnv, found: probe.Probe, terms: tuple[str, ...]
) -> Iterator[Finding]:
    """Yield what the student could know of every privileged term, and how many frames it would need."""
    if not found.held_out.any() or not all(len(fit.trained_rows(found, share)) for share in sight.SHARES):
        text = f"frames={config.frames} hold too few episodes to hold some out"
        yield Finding(check="recoverable", level=OK, measured=f"not looked into: {text}")
        return
    scores = []
    for share in sight.SHARES:
        torch.manual_seed(config.seed)
        student = build_student(probe.probe_config(config, found.targets), env)
        scores.append(fit.fit(student, found, share, config.seed))
    linear = fit.linear_r2(found, config.groups)
    episodes = len(found.rows[EPISODE][found.held_out & found.misled[:, None]].unique())
    for name in terms:
        r2 = scores[-1].r2.get(name)
        yield sight.recoverable(name, r2, linear.get(name, 0.0), episodes)
    if not terms:
        yield Finding(check="recoverable", level=OK, measured="the teacher reads nothing privileged")
    mean, deviation = fit.moments(found, LABEL)
    settings = config.dagger
    yield sight.frames_needed(
        [score.frames for score in scores], [score.error for score in scores], deviation.mean().item(),
        (found.rows[LABEL][found.held_out] - mean).abs().mean().item(),
        settings.rounds * settings.steps_per_round * config.num_envs,
    )  # fmt: skip


def examine_pictures(config: DoctorConfig, env: TaskEnv, found: probe.Probe) -> Iterator[Finding]:
    """Yield what each camera shows."""
    clean: dict[str, float] = {}
    if config.cameras and not config.corrupt.is_clean:
        clean = clean_hits(config)
    for name in config.cameras:
        images = found.rows[name].flatten(0, 1).numpy()
        yield sight.pictures(images, name, env.camera_specs[name].is_depth, clean.get(name))
    if not config.cameras:
        yield Finding(check="pictures", level=OK, measured="the student has no camera")


def clean_hits(config: DoctorConfig) -> dict[str, float]:
    """Return the share of pixels that hit something where nothing spoils them, by camera."""
    clean = dataclasses.replace(config, corrupt=Corruption())
    env = build_env(clean, config.cameras, "validation", num_envs=CLEAN_ENVS)
    draws = Draws(config.seed, "validation")
    for _ in range(CLEAN_STEPS):
        actions = 2 * draws.uniform("doctor_look", env.state.episode_id, 0, env.num_actions) - 1
        env.step(actions.float())
    obs = env.get_observations()
    shares = {name: (obs[name] != 0).float().mean().item() for name in config.cameras}
    env.close()
    return shares


def names(env: TaskEnv, groups: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the columns of groups by name, term.element."""
    return {
        group: [f"{term.name}.{element}" for term in env.obs_specs[group].terms for element in term.elements]
        for group in groups
    }


def columns_read(env: TaskEnv, guide: Teacher) -> list[str]:
    """Return the names of all the columns that a teacher reads, in its order."""
    named = names(env, tuple(name for name in guide.inputs if name in env.obs_specs))
    return [f"{group}.{column}" for group, columns in named.items() for column in columns]


def normalised(guide: Teacher, rows: dict[str, Tensor]) -> Tensor | None:
    """Return the teacher's inputs (M, D) after its normaliser; None if it shows none.

    An rsl_rl actor shows its normaliser; what an ONNX file, a pool or a script does is not to be seen.
    """
    normaliser = getattr(getattr(guide, "actor", None), "obs_normalizer", None)
    if normaliser is None or not hasattr(normaliser, "mean"):
        return None
    with torch.no_grad():
        return normaliser(torch.cat([rows[name] for name in guide.inputs], -1))


def _is_constant(values: Tensor) -> bool:
    """Whether no column of (M, D) changes."""
    return bool((values == values[:1]).all())
