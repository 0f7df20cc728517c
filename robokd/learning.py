"""How a student learns: the settings inside `robokd distill`, as `dagger.*` and `rl.*`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from robokd.fields import check
from robokd.schedule import Schedule


def handing_over() -> Schedule:
    """Return the share of a teacher that acts alone at first, and then less and less."""
    return Schedule(begin=1.0, end=0.0, after=1, over=11)


def falling() -> Schedule:
    """Return a learning rate that falls to the last round."""
    return Schedule(begin=2e-3, end=1e-4, shape="cosine")


@dataclass(kw_only=True)
class ActingConfig:
    """Who acts while the student is taught: 1 = the teacher alone (BC), 0 = the student alone."""

    share: Schedule = field(default_factory=handing_over)  # of the teacher
    per: str = "episode"  # the share is drawn by episode or by step
    gap: float = 0.0  # > 0: the student acts only while its action is within this of the teacher's
    noise: float = 0.0  # standard deviation added to what the teacher sends, not to its labels

    def __post_init__(self) -> None:
        check(self, "dagger.acting.")
        self.share.check_range("dagger.acting.share", 0, 1)
        if self.per not in ("episode", "step"):
            raise ValueError(f"dagger.acting.per must be episode or step, got {self.per!r}")


@dataclass(kw_only=True)
class DaggerConfig:
    """How a student is distilled: DAgger with an aggregated data set."""

    acting: ActingConfig = field(default_factory=ActingConfig)  # who acts
    rounds: int = 60  # of collecting and fitting, at most
    steps_per_round: int = 16  # control steps of every environment
    gradient_steps: int = 80  # per round
    batch_size: int = 256  # frames
    sequence: int = 0  # steps learned from in a row; 0 = 1, or 16 for a student that remembers or plans ahead
    learning_rate: Schedule = field(default_factory=falling)  # of AdamW
    weight_decay: float = 1e-4  # of AdamW
    capacity: int = 300_000  # frames kept; as many as a round has: on-policy
    store: str = "auto"  # where rows are read from: disk, or device, which holds them; auto: a GPU with room
    sampling: str = "uniform"  # uniform, or priority: what the student gets wrong and the teacher is sure of
    priority_power: float = 0.6  # 0 = uniform, 1 = in proportion
    evaluate_every: int = 5  # rounds
    evaluate_episodes: int = 128  # of the validation stream
    stop_retention: float = 0.98  # stop at this share of the teacher's success; > 1: only if it is better
    validation_share: float = 0.05  # of the episodes, never trained on
    checkpoint_every: int = 5  # rounds

    def __post_init__(self) -> None:
        check(self, "dagger.")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"dagger.validation_share must be in [0, 1), got {self.validation_share}")
        if self.store not in ("auto", "disk", "device"):
            raise ValueError(f"dagger.store must be auto, disk or device, got {self.store!r}")
        if self.sampling not in ("uniform", "priority"):
            raise ValueError(f"dagger.sampling must be uniform or priority, got {self.sampling!r}")
        if self.sequence and self.steps_per_round % self.sequence:
            steps = f"dagger.steps_per_round={self.steps_per_round}"
            raise ValueError(f"dagger.sequence must divide {steps}, or steps are lost; got {self.sequence}")
        self.learning_rate.check_range("dagger.learning_rate", 1e-12, math.inf)


@dataclass(kw_only=True)
class ReinforcementConfig:
    """How a student learns from reward, where a loss of its own asks for it (loss=[ppo,…])."""

    discount: float = 0.98  # a control step
    gae_lambda: float = 0.95  # of the advantages: 0 trusts the critic, 1 the rewards
    epochs: int = 5  # over each round
    mini_batches: int = 4  # of an epoch
    learning_rate: float = 3e-4  # of the student, at first: it follows desired_kl
    desired_kl: float = 0.012  # nats that a round may move the policy, by imitation too; 0 = a fixed rate
    critic_groups: tuple[str, ...] = ()  # that the critic reads; [] = all that the task has
    critic_hidden: tuple[int, ...] = (256, 128)  # units
    critic_learning_rate: float = 1e-3
    critic_warmup: int = 0  # rounds in which only the critic learns
    fall_back: float = 0.1  # back to the best student where the success fell this far below it

    def __post_init__(self) -> None:
        check(self, "rl.")
        for name in ("discount", "gae_lambda"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"rl.{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "critic_learning_rate", "fall_back"):
            if not getattr(self, name) > 0:
                raise ValueError(f"rl.{name} must be > 0, got {getattr(self, name)}")
        if not self.critic_hidden or min(self.critic_hidden) < 1:
            raise ValueError(f"rl.critic_hidden must be layers of >= 1 units, got {list(self.critic_hidden)}")
