"""Report: one HTML file of a chain of runs: numbers with intervals, curves, pictures, films, times, costs."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import robokd
from robokd import charts, evidence
from robokd.config import compose
from robokd.files import writable, write_atomic
from robokd.play import encode, record
from robokd.run import Run

if TYPE_CHECKING:
    from robokd.config import ReportConfig

SPACES = {"seen": "seen", "unseen": "one held out", "unseen_all": "all held out"}
NAMES = {"teach": "teacher", "distill": "student", "refine": "refined"}
CURVES = {
    "teach": ({"validation success": ["validation/success"], "reward a step": ["reward"],
               "saturated actions": ["saturation", "validation/saturation"]},
              "env_steps", "environment steps"),
    "distill": ({"validation success": ["validation/success"],
                 "action loss": ["loss/action_huber", "held_out/action_huber"],
                 "position loss": ["loss/estimate", "held_out/estimate"]}, "frames", "labelled frames"),
    "refine": ({"validation success": ["validation/success"], "reward a step": ["reward"],
                "noise": ["action_std"]}, "env_steps", "environment steps"),
}  # fmt: skip
COSTS = ("wall_s", "env_steps", "frames_rendered", "teacher_labels", "grad_samples", "peak_rss_mb")
FILM_EPISODES = 4
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;
color:#1f2933}
h1{font-size:1.6em}
h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #e4e7eb}
img,video{max-width:100%}
table{border-collapse:collapse;font-size:.92em}
td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #e4e7eb}
td:first-child,th:first-child{text-align:left}.note{color:#616e7c;font-size:.9em}
code{background:#f5f7fa;padding:.1em .3em}"""


def report(config: ReportConfig, resume: Run | None = None) -> Path:
    """Write the report of the runs named, or the table of a folder of evidence, and return its path."""
    out = writable(config.out)
    if len(config.runs) == 1 and evidence.is_evidence(folder := Path(config.runs[0])):
        is_markdown = out.suffix == ".md"
        text = evidence.markdown(folder) if is_markdown else _page("evidence", evidence.page(folder))
        write_atomic(out, text.encode())
        return out
    return write_report([Run.open(path) for path in config.runs], out)


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write one self-contained HTML file about finished runs; sections without data are left out."""
    stages = {run.stage: run for run in runs}
    evaluations = [run for run in runs if run.stage == "evaluate"]
    sections = [
        _success(evaluations),
        _use(evaluations),
        *(_learning(stages[stage]) for stage in CURVES if stage in stages),
        _sight(stages),
        _films(stages),
        _deployment(stages.get("deploy")),
        _costs(runs),
    ]
    task = runs[0].task if runs else "nothing"
    seed = runs[0].seed if runs else "-"
    about = f"<p class=note>robokd {robokd.__version__}, {len(runs)} runs of seed {seed}</p>"
    body = f"<h1>{html.escape(task)}: teacher, student, refined student, robot</h1>{about}{''.join(sections)}"
    write_atomic(out, _page(task, body).encode())
    return out


def _page(title: str, body: str) -> str:
    head = f"<title>robokd: {html.escape(title)}</title><meta charset=utf-8><style>{STYLE}</style>"
    return f"<!doctype html><html>{head}<body>{body}</body></html>"


def _success(evaluations: Sequence[Run]) -> str:
    """Rates with intervals, the paired comparisons beside them."""
    if not evaluations:
        return ""
    groups: dict[str, dict[str, Any]] = {}
    lines = []
    for run in evaluations:
        summary, tolerance = run.read_summary(), _tolerance(run)
        name = NAMES[summary["policy"]]
        suffix = "" if tolerance == _tolerance(evaluations[0]) else f" at {tolerance:g} m"
        groups[name + suffix] = {shown: summary[space] for space, shown in SPACES.items() if space in summary}
        if "paired" in summary:
            pair = summary["paired"]
            groups.setdefault(NAMES[pair["stage"]] + suffix, {SPACES["seen"]: pair["success"]})
            before = pair["success"]["rate"]
            lines.append(
                f"<li>{name} {summary['success']['rate']:.3f} against {NAMES[pair['stage']]} {before:.3f} at "
                f"{tolerance:g} m, the same {summary['episodes']} episodes: <b>{pair['delta']:+.3f}</b> "
                f"[{pair['lo']:+.3f}, {pair['hi']:+.3f}]</li>"
            )
    first = evaluations[0].read_summary()
    title = f"success on {first['episodes']} test episodes, 95 % Wilson intervals"
    return f"<h2>Success</h2>{_image(charts.bars(groups, title))}<ul>{''.join(lines)}</ul>"


def _use(evaluations: Sequence[Run]) -> str:
    """Whether the student looks: success with spoiled pictures."""
    rows, names = [], [""]
    for run in evaluations:
        summary = run.read_summary()
        if use := summary.get("camera_use"):
            cells = [f"{value:.3f}" for value in (summary["success"]["rate"], *use.values())]
            rows.append([NAMES[summary["policy"]], *cells])
            names = ["", "as trained", *use]
    if not rows:
        return ""
    note = (
        "blank: all pixels missing; shuffled: another environment's picture; "
        "frozen: the episode's first picture"
    )
    return f"<h2>Does it use its camera?</h2>{_table(names, rows)}<p class=note>{note}</p>"


def _learning(run: Run) -> str:
    panels, x, label = CURVES[run.stage]
    return f"<h2>Learning: {run.stage}</h2>{_image(charts.curves(run.metrics(), panels, x, label))}"


def _sight(stages: dict[str, Run]) -> str:
    """What the student's cameras show along an episode."""
    run = stages.get("distill")
    if run is None:
        return ""
    config = compose("play", [f"run={run.path}"], run.config)
    from robokd.evaluate import load_policy, policy_groups
    from robokd.learn.rollout import pictures
    from robokd.learn.stage import build_env

    env = build_env(config, policy_groups(run), "test", num_envs=1)
    shots = pictures(env, load_policy(run, "best", env), count=8)
    rows = {name: [charts.painted(shot[name], env.camera_specs[name]) for shot in shots] for name in shots[0]}
    env.close()
    note = (
        "one test episode, from left to right; "
        "exactly the pixels the student gets (near is bright, black is a miss)"
    )
    return f"<h2>What the student sees</h2>{_image(charts.sheet(rows))}<p class=note>{note}</p>"


def _films(stages: dict[str, Run]) -> str:
    """The same test episodes under each policy."""
    parts = []
    cameras = (
        json.dumps(stages["distill"].config["cameras"]).replace('"', "") if "distill" in stages else "[]"
    )
    for stage, name in NAMES.items():
        if stage in stages:
            config = compose(
                "play", [f"run={stages[stage].path}", f"cameras={cameras}"], stages[stage].config
            )
            film = record(config, stages[stage], FILM_EPISODES)
            data = base64.b64encode(encode(film)).decode()
            within = f", within {tolerance:g} m" if (tolerance := _tolerance(stages[stage])) else ""
            parts.append(
                f"<p>{name}{within}: {sum(film.success)} of {len(film.success)}</p>"
                f'<video controls loop muted src="data:video/mp4;base64,{data}"></video>'
            )
    return f"<h2>The same episodes under each policy</h2>{''.join(parts)}" if parts else ""


def _deployment(run: Run | None) -> str:
    """How the bundle did on the (simulated) robot, in its own process and in real time."""
    if run is None:
        return ""
    summary = run.read_summary()
    rows = [
        ["success", _rate(summary["success"])],
        ["ticks, of which late", f"{summary['ticks']}, {summary['deadline_misses']}"],
        ["inference p50 / p99 / max", _milliseconds(summary["inference_s"])],
        ["period p50 / p99 / max", _milliseconds(summary["period_s"])],
        ["safety", html.escape(json.dumps(summary["safety"]))],
        [
            "limits broken by the robot's own account",
            html.escape(json.dumps(summary["robot_log"].get("violations"))),
        ],
        ["stopped because", html.escape(str(summary["stop_reason"]))],
    ]
    picture = ""
    if times := _times(run.path / "log.mcap"):
        picture = _image(charts.histogram(times, "ms", limit=5.0))
    return f"<h2>On the robot</h2>{_table(['', ''], rows)}{picture}"


def _rate(success: dict[str, Any]) -> str:
    """Return a rate with its interval; a dash where no episode ended."""
    if success["rate"] is None:
        return "-"
    return f"{success['rate']:.2f} [{success['lo']:.2f}, {success['hi']:.2f}]"


def _milliseconds(times: dict[str, float | None]) -> str:
    """Return the middle and the tail of times in s; dashes where nothing was timed."""
    shown = (times[name] for name in ("p50", "p99", "max"))
    return " / ".join("-" if value is None else f"{value * 1e3:.2f}" for value in shown) + " ms"


def _times(path: Path) -> dict[str, list[float]]:
    """Return inference times and loop periods in ms from a deployment's log, if there is one."""
    from robokd.sim2real.log_reader import read_log

    if not path.exists():
        return {}
    ticks = read_log(path, pictures=False).ticks
    periods = [(b.begun_s - a.begun_s) * 1e3 for a, b in pairwise(ticks) if a.episode == b.episode]
    inferences = [tick.decision.inference_s * 1e3 for tick in ticks]
    return {"inference": inferences, "period": periods} if periods else {}


def _costs(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        summary = run.read_summary()
        rows.append(
            [
                run.path.parent.name if run.stage == "evaluate" else run.stage,
                *(f"{summary[k]:,.0f}" for k in COSTS),
            ]
        )
    return f"<h2>What it cost</h2>{_table(['', *(name.replace('_', ' ') for name in COSTS)], rows)}"


def _tolerance(run: Run) -> float:
    return run.config["task"].get("tolerance_m", 0.0)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _image(png: bytes) -> str:
    return f'<p><img src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
