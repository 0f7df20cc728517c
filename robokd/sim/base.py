"""The Sim protocol: many worlds of one model, batch first, masks and no id lists.

Shapes: N worlds. A config's `build(spec, num_envs, device, threads)` returns a Sim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    import mujoco


class Sim(Protocol):
    """N worlds of one compiled model.

    `get` returns live views: they change with every step. State fields (qpos, qvel, ctrl, mocap_pos ...) are
    written by `set`; derived fields (site_xpos, geom_xpos ...) follow at the next step or forward; model
    fields (cam_pos, actuator_gainprm ...) become per-world by the first `set`.
    """

    num_envs: int
    device: str
    physics_dt: float  # s
    model: Any  # the compiled MjModel, shared by all worlds

    def step(self, ctrl: Tensor, substeps: int) -> None:
        """Step all worlds by `substeps` of physics_dt under ctrl (N, nu); derived fields are current then."""
        ...

    def forward(self, mask: Tensor | None = None) -> None:
        """Bring position- and velocity-dependent fields up to date in the worlds of mask (N,) bool."""
        ...

    def reset(self, mask: Tensor | None = None) -> None:
        """Put the worlds of mask back to the model's defaults, their model fields included.

        Derived fields follow at `forward`.
        """
        ...

    def get(self, field: str) -> Tensor:
        """Return a live (N, ...) view of a field; refuses an unknown one by name."""
        ...

    def set(self, field: str, value: Tensor, mask: Tensor | None = None) -> None:
        """Write value (N, ...) to a state or model field in the worlds of mask."""
        ...

    def diverged(self) -> Tensor:
        """Return (N,) bool: worlds whose physics blew up in the last step, and were reset by the engine."""
        ...

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of all state, per-world model fields included."""
        ...

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Return to a snapshot: the steps that follow are those that followed it, bit for bit."""
        ...

    def close(self) -> None:
        """Free the worlds."""
        ...


class SimCfg(Protocol):
    """A registered simulator config."""

    def build(self, spec: mujoco.MjSpec, num_envs: int, device: str, threads: int) -> Sim:
        """Compile spec and return num_envs worlds of it; raises UserError for what it cannot do."""
        ...
