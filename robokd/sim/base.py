"""The Sim protocol: many worlds of one model, batch first, masks and no id lists.

MuJoCo on CPU is the reference. tests/contracts/test_sim.py holds others to it: after a control step from the
same state they agree within TOLERANCES.
Shapes: N worlds. A config's `build(spec, num_envs, device, threads)` returns a Sim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    import mujoco


# largest difference to MuJoCo of a simulator that counts in float32
TOLERANCES = {
    "qpos": 2e-5, "qvel": 2e-3, "site_xpos": 2e-5, "geom_xpos": 2e-5, "geom_xmat": 2e-5, "cam_xpos": 2e-5,
    "cam_xmat": 2e-5, "cvel": 2e-3, "sensordata": 2e-3,
}  # fmt: skip


# model fields from which MuJoCo derives others when it compiles (mj_setConst): weights of constraints, bounds
SETTLED = (
    "qpos0", "body_pos", "body_quat", "body_ipos", "body_iquat", "body_mass", "body_inertia", "jnt_pos",
    "jnt_axis", "dof_armature", "geom_size", "geom_pos", "geom_quat", "site_pos", "site_quat",
    "tendon_armature", "actuator_gear", "actuator_armature",
)  # fmt: skip


class Sim(Protocol):
    """N worlds of one compiled model.

    `get` returns live views, float64 or float32: they change with every step. State fields (qpos, qvel, ctrl,
    mocap_pos ...) are written by `set` and never through a view: a simulator may keep what follows from them.
    Derived fields (site_xpos, geom_xpos ...) follow at the next step or forward; model fields (cam_pos,
    actuator_gainprm ...) become per-world by the first `set`, and what MuJoCo derives from those of SETTLED
    when it compiles follows as derived fields do.
    """

    num_envs: int
    device: str  # that holds every tensor: cpu, cuda:0 ...
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

    def check(self) -> None:
        """Raise UserError if there was too little room for contacts or constraints since the last check.

        It waits for the device: to be called once in a while, not in every step.
        """
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
