"""A robot's joints identified: dry friction, damping, armature, stiffness of the servos, and one delay.

Box-constrained Gauss-Newton of `mujoco.sysid` on positions and speeds, each weighed by its noise; every
perturbed parameter is a world of one batch. An offline tool: it needs MuJoCo and the extra `sysid`.
Source: Gautier & Khalil (1992), motions that excite; White (1980) and Newey & West (1987), intervals that
hold under correlated noise.
Shapes: S samples, A joints, P parameters; parameters x (P,) are in units of their usual size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from robokd.sim2real.replica import BOUNDS, DELAY, Replica, Rollouts, replica_of
from robokd.sim2real.trace import Trace, delay_s, root_mean_square

from robokd import UserError

__all__ = ["Fit", "Score", "check_engine", "fit", "replica_of", "score"]

START = 0.1  # usual sizes, where a parameter begins if the model has none of it
LEAST_NOISE = (1e-4, 1e-3)  # rad and rad/s: the model's own errors are never below
DIFFERENCE = 1e-3  # usual sizes, for derivatives
ITERATIONS = 30
NEAR = (0.05, 0.003)  # usual sizes: when the first and the second search, weighed anew, has arrived
BLOCK_S = 0.25  # samples farther apart than this count as independent
CONFIDENCE = 1.96  # standard deviations: 95 %
OFF_BOUNDS = 0.005  # share of a parameter's room
LEAST_RESTING = 10  # samples
UNSURE = 0.5  # usual sizes: half an interval that is larger tells nothing


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What was found. Every dict holds (A,) a parameter of the joints, and (1,) the delay in s."""

    value: dict[str, np.ndarray]
    low: dict[str, np.ndarray]  # of the 95 % interval
    high: dict[str, np.ndarray]
    unsure: tuple[str, ...]  # "damping of joint2": the motions tell next to nothing of it
    lag_s: float  # from command to motion, the servo's own included


@dataclass(frozen=True, kw_only=True)
class Score:
    """How far a motion was from its prediction: root mean squares of positions (A,), rad."""

    name: str
    is_held_out: bool
    before: np.ndarray
    after: np.ndarray


def fit(replica: Replica, traces: Sequence[Trace]) -> Fit:
    """Return the parameters under which the simulation does what the robot did in these motions.

    Raises UserError where the extra `sysid` is absent, ValueError where the robot did not follow commands.
    """
    engine = check_engine()
    problem = _Problem(Rollouts(replica, len(replica.names) * len(BOUNDS) + 2), traces)
    measured = [(one.times_s, one.position) for one in traces]
    lag = delay_s([_steps(one) for one in traces], measured)
    begin = problem.delay(measured, lag)
    parameters = engine.ParameterDict()
    nominal = replica.nominal()
    for name, (low, high, usual) in BOUNDS.items():
        value = np.clip(np.maximum(nominal[name] / usual, START), low / usual, high / usual)
        ends = (np.full_like(value, end / usual) for end in (low, high))
        parameters.add(engine.Parameter(name, value, *ends))
    parameters.add(engine.Parameter("delay_s", *(number / DELAY[2] for number in (begin, *DELAY[:2]))))
    for nearness in NEAR:
        parameters.move_off_bounds(OFF_BOUNDS)  # a search that begins at one may stay there
        parameters, _ = engine.optimize(
            parameters, problem, optimizer="mujoco", verbose=False, max_iters=ITERATIONS, eps=DIFFERENCE,
            xtol=nearness, output=io.StringIO(),
        )  # fmt: skip
        problem.weigh(parameters.as_vector())  # by what is left, where that is more than the noise
    return _result(problem, parameters.as_vector(), lag, engine)


def score(replica: Replica, traces: Sequence[Trace], found: Fit) -> list[Score]:
    """Return how far every motion is from its prediction, by the model as it was and as it was found."""
    rollouts, rows = Rollouts(replica, 2), []
    both = {name: np.stack([one, found.value[name]]) for name, one in replica.nominal().items()}
    for one in traces:
        position, _ = rollouts.predict(one, both)
        before, after = (root_mean_square(guess - one.position) for guess in position)
        rows.append(Score(name=one.name, is_held_out=one.is_held_out, before=before, after=after))
    return rows


class _Problem:
    """The residual, as `mujoco.sysid` asks for it."""

    def __init__(self, rollouts: Rollouts, traces: Sequence[Trace]) -> None:
        self.rollouts, self.traces = rollouts, traces
        self.size = len(rollouts.replica.names)
        self.usual = np.concatenate([np.full(self.size, row[2]) for row in BOUNDS.values()] + [[DELAY[2]]])
        self.noise = [_noise(one) for one in traces]

    def __call__(self, x: np.ndarray, _: object = None) -> tuple[list[np.ndarray], None, None]:
        """Return residuals over noise, for x (P,) or (P, V), one array (…, V) a motion."""
        columns = x.reshape(len(self.usual), -1)
        found = (self._residual(columns, place) for place in range(len(self.noise)))
        flat = [one.reshape(len(one), -1).T for one in found]
        return [one[:, 0] if x.ndim == 1 else one for one in flat], None, None

    def variants(self, columns: np.ndarray) -> dict[str, np.ndarray]:
        """Return parameters (P, V) by name, (V, A)."""
        rows = np.split((columns * self.usual[:, None]).T, self.size * np.arange(1, len(BOUNDS) + 1), axis=1)
        return dict(zip((*BOUNDS, "delay_s"), rows, strict=True))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest x."""
        rows = [row for row in BOUNDS.values() for _ in range(self.size)] + [DELAY]
        return tuple(np.array([row[end] / row[2] for row in rows]) for end in (0, 1))  # type: ignore[return-value]

    def delay(self, measured: list[tuple[np.ndarray, np.ndarray]], lag_s: float) -> float:
        """Return by how much the robot is behind the model as it was."""
        nominal = {name: value[None] for name, value in self.rollouts.replica.nominal().items()}
        guess = [(one.times_s, self.rollouts.predict(one, nominal)[0][0]) for one in self.traces]
        try:
            return delay_s(guess, measured)
        except ValueError:  # the model is too far off for that
            return lag_s / 2

    def weigh(self, x: np.ndarray) -> None:
        """Take for the noise what x leaves, where that is more."""
        left = [self._residual(x[:, None], place)[0] for place in range(len(self.noise))]
        for place, rows in enumerate(left):
            self.noise[place] = self.noise[place] * np.maximum(1.0, root_mean_square(rows))

    def _residual(self, columns: np.ndarray, place: int) -> np.ndarray:
        """Return (V, S, 2 A) of one motion."""
        one = self.traces[place]
        position, velocity = self.rollouts.predict(one, self.variants(columns))
        return np.concatenate([position - one.position, velocity - one.velocity], 2) / self.noise[place]


def _result(problem: _Problem, x: np.ndarray, lag: float, engine: ModuleType) -> Fit:
    """Return the fit with intervals: the wider of white noise's and of noise that is alike for BLOCK_S."""
    steps = np.concatenate([x[:, None], x[:, None] + DIFFERENCE * np.eye(len(x))], 1)
    motions, _, _ = problem(steps)
    residuals = [one[:, 0] for one in motions]
    slopes = [(one[:, 1:] - one[:, :1]) / DIFFERENCE for one in motions]
    jacobian = np.concatenate(slopes)
    _, white = engine.calculate_intervals(residuals, jacobian)
    inverse = np.linalg.pinv(jacobian.T @ jacobian)
    times = [one.times_s for one in problem.traces]
    scores = np.concatenate([_blocks(*rows) for rows in zip(times, slopes, residuals, strict=True)])
    alike = CONFIDENCE * np.sqrt(np.diag(inverse @ (scores.T @ scores) @ inverse))
    half = np.maximum(white, alike)
    lowest, highest = problem.bounds()
    value, low, high = (
        {name: rows[0] for name, rows in problem.variants(np.clip(one, lowest, highest)[:, None]).items()}
        for one in (x, x - half, x + half)
    )
    joints = problem.rollouts.replica.names
    names = [*(f"{name} of {joint}" for name in BOUNDS for joint in joints), "delay_s"]
    unsure = tuple(name for name, one in zip(names, half, strict=True) if not one <= UNSURE)
    return Fit(value=value, low=low, high=high, unsure=unsure, lag_s=lag)


def _blocks(times_s: np.ndarray, slopes: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Return slopes (R, P) times residuals (R,) of a motion, summed over BLOCK_S each, (blocks, P)."""
    block = ((times_s - times_s[0]) / BLOCK_S).astype(int)
    rows = (slopes * residuals[:, None]).reshape(len(times_s), -1, slopes.shape[1]).sum(1)
    total = np.zeros((block[-1] + 1, slopes.shape[1]))
    np.add.at(total, block, rows)
    return total


def _steps(one: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets at the times of the samples, as stairs."""
    held = np.concatenate([one.held[None], one.sent])
    return one.times_s, held[np.searchsorted(one.sent_s, one.times_s, side="right")]


def _noise(one: Trace) -> np.ndarray:
    """Return the standard deviations of positions and speeds at rest, (2 A,)."""
    at_rest = one.resting()
    if at_rest.sum() < LEAST_RESTING:
        got = f"motion {one.name} has {at_rest.sum()} samples at rest before its first command"
        raise ValueError(f"{got}, wanted {LEAST_RESTING} or more: they tell the noise")
    kinds = ((one.position, LEAST_NOISE[0]), (one.velocity, LEAST_NOISE[1]))
    return np.concatenate([np.maximum(values[at_rest].std(0), least) for values, least in kinds])


def check_engine() -> ModuleType:
    """Return mujoco.sysid, which is empty where what it needs is not installed."""
    try:
        from mujoco import sysid

        sysid.optimize  # noqa: B018
    except (ImportError, AttributeError):
        raise UserError("identification needs mujoco.sysid: pip install 'robokd[sysid]'") from None
    return sysid
