"""How many worlds of a stage fit into the memory of their device, counted before they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robokd import UserError
from robokd.memory import available_mb
from robokd.sim.mjwarp import MjwarpCfg, world_bytes

if TYPE_CHECKING:
    import mujoco

    from robokd.config import DistillConfig, RefineConfig, TeachConfig

_MB = 2**20


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the worlds of a stage take, and what there is."""

    each: int  # bytes of a world
    num_envs: int  # that are learned in
    beside: int  # that are validated in meanwhile
    device: str
    free_mb: float

    @property
    def wanted_mb(self) -> float:
        """What all worlds take, in MiB."""
        return (self.num_envs + self.beside) * self.each / _MB

    @property
    def most(self) -> int:
        """How large num_envs may be; less than 1 if not even what is validated in fits."""
        return int(self.free_mb * _MB / self.each) - self.beside

    @property
    def is_enough(self) -> bool:
        """Whether all worlds fit."""
        return self.num_envs <= self.most

    @property
    def cure(self) -> str:
        """What to type."""
        return f"num_envs={self.most}" if self.most > 0 else "smaller sim.nconmax and sim.njmax"

    def said(self) -> str:
        """Return what the worlds take, and what would fit."""
        return (
            f"{self.num_envs} worlds and {self.beside} to validate in, of {self.each:,} B each, take "
            f"{self.wanted_mb:,.0f} MiB; {self.device} has {self.free_mb:,.0f} MiB free: "
            f"{self.cure} would fit"
        )


def room(
    config: TeachConfig | DistillConfig | RefineConfig, model: mujoco.MjModel, free_mb: float | None = None
) -> Room | None:
    """Return what the worlds of a stage would take; None of a simulator whose worlds are small.

    `free_mb` is what its device has free, in MiB; None asks it.
    """
    if not isinstance(config.sim, MjwarpCfg):
        return None
    settings = getattr(config, "dagger", None) or config.teacher  # pyright: ignore[reportAttributeAccessIssue]
    return Room(
        each=world_bytes(model, config.sim.nconmax, config.sim.njmax), num_envs=config.num_envs,
        beside=settings.evaluate_episodes, device=config.device,
        free_mb=available_mb(config.device) if free_mb is None else free_mb,
    )  # fmt: skip


def check_room(stage: str, config: TeachConfig | DistillConfig | RefineConfig, model: mujoco.MjModel) -> None:
    """Raise UserError, in the name of a stage, if its worlds would not fit."""
    found = room(config, model)
    if found is not None and not found.is_enough:
        raise UserError(f"{stage}: {found.said()}")
