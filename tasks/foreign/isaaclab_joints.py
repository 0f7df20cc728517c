"""Our decoding of actions before a task of Isaac Lab, so that a robot can be sent what its worlds were.

Shapes: N environments, A joints of the task's one action term.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robokd import UserError
from robokd.specs import ActionSpec, Limits, ObsSpec, Term, decode

if TYPE_CHECKING:
    from robokd.tasks.isaaclab import IsaacLabCfg

GROUP = "proprio"  # that is added to the task's: what a robot's own drivers say
UNLIMITED, UNLIMITED_NM = 1e3, 1e5  # rad/s and N m: from where a limit is none


class JointTargets:
    """Our decoding of actions before a task's one joint position term, so that a robot can be sent the same.

    The term is given the raw action that it turns into our target, (target - offset) / scale; a group of its
    joints as drivers say them is added to the task's own.
    """

    def __init__(self, cfg: IsaacLabCfg, made: Any) -> None:  # noqa: ANN401  (a config of Isaac Lab)
        """Find the term in the task's config and add the group; UserError where there is not exactly one."""
        self._cfg = cfg
        mdp = importlib.import_module("isaaclab.envs.mdp")
        actions = vars(made.actions) if hasattr(made, "actions") else {}  # a direct task has none
        terms = {name: term for name, term in actions.items() if term is not None}
        if len(terms) != 1 or type(next(iter(terms.values()))) is not mdp.JointPositionActionCfg:
            kinds = ", ".join(f"{name} ({type(term).__name__})" for name, term in terms.items()) or "none"
            wanted = "task.action=joint_delta wants exactly one action term, a JointPositionActionCfg"
            raise UserError(f"{wanted}; {cfg.env_id} has {kinds}")
        ((self._name, term),) = terms.items()
        self._adds_group = not hasattr(made.observations, GROUP)
        if self._adds_group:
            setattr(made.observations, GROUP, _joint_group(mdp, term))

    def bind(self, env: Any) -> ActionSpec:  # noqa: ANN401
        """Take the term's numbers from the built environment; UserError for a joint without a speed limit."""
        self._env, self._term = env, env.action_manager.get_term(self._name)
        self._ids, data = self._term._joint_ids, env.scene[self._term.cfg.asset_name].data
        self._data, names = data, tuple(self._term._joint_names)
        limits = data.soft_joint_pos_limits.torch[0, self._ids]
        if self._term.cfg.clip is not None:
            clip = self._term._clip[0]
            limits = torch.stack((limits[:, 0].maximum(clip[:, 0]), limits[:, 1].minimum(clip[:, 1])), 1)
        speeds = data.joint_vel_limits.torch[0, self._ids].tolist()
        if self._cfg.velocity:
            speeds = [self._cfg.velocity] * len(names)
        if (largest := max(speeds)) > UNLIMITED:
            name = names[speeds.index(largest)]
            raise UserError(f"joint {name!r} of {self._cfg.env_id} has no speed limit: say task.velocity=…")
        count = len(names)
        spec = ActionSpec(
            names=names, scale=(self._cfg.joint_step_rad,) * count, control_dt=float(env.step_dt),
            position_lower=tuple(limits[:, 0].tolist()), position_upper=tuple(limits[:, 1].tolist()),
            velocity=tuple(speeds), acceleration=(self._cfg.acceleration,) * count,
        )  # fmt: skip
        self._limits = Limits.of(spec, lambda row: torch.tensor(row, device=env.device))
        self.command = torch.zeros(env.num_envs, count, device=env.device)
        self.rate = torch.zeros_like(self.command)
        self.begin(torch.ones(env.num_envs, dtype=torch.bool, device=env.device))
        return spec

    def obs_specs(self) -> dict[str, ObsSpec]:
        """Return the group that was added, as drivers name its numbers; nothing where the task has one."""
        names = self._term._joint_names
        rows = (("joint_pos", "rad"), ("joint_vel", "rad/s"), ("command_rate", "rad/s"))
        terms = tuple(Term(name=name, elements=tuple(names), unit=unit) for name, unit in rows)
        return {GROUP: ObsSpec(group=GROUP, role="proprio", terms=terms)} if self._adds_group else {}

    def begin(self, mask: Tensor) -> None:
        """Hold the joints of mask's worlds (N,) where their episodes begin; UserError if far from home."""
        if not bool(mask.any()):
            return
        position = self._data.joint_pos.torch[:, self._ids]
        if self._cfg.start_rad:
            away = (position - self._home())[mask].abs().max().item()
            if away > self._cfg.start_rad + 1e-5:
                raise UserError(
                    f"an episode of {self._cfg.env_id} begins {away:.3g} rad from its default pose; "
                    f"task.start_rad={self._cfg.start_rad:g} says at most"
                )
        self.command = torch.where(mask[:, None], position, self.command)
        self.rate = self.rate.masked_fill(mask[:, None], 0.0)
        self._env.robokd_rate = self.rate

    def raw(self, actions: Tensor) -> Tensor:
        """Return what the term is to be given for our actions (N, A)."""
        self.command, self.rate = decode(actions, self.command, self.rate, self._limits, torch)
        self._env.robokd_rate = self.rate
        return self._raw(self.command)

    def drive(self, targets: Tensor) -> None:
        """See IsaacLab.drive."""
        env, self.command = self._env, targets
        if env.sim.physics_manager.handles_decimation():
            env.sim.physics_manager.set_decimation(1)  # else a step would be a whole control step
        env.action_manager.process_action(self._raw(targets))
        env.action_manager.apply_action()
        env.scene.write_data_to_sim()
        env.sim.step(render=False)
        env.scene.update(dt=env.physics_dt)

    def positions_and_speeds(self) -> tuple[Tensor, Tensor]:
        """See IsaacLab.joints."""
        data = self._data
        return data.joint_pos.torch[:, self._ids], data.joint_vel.torch[:, self._ids]

    def start_envelope(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """See IsaacLab.start_envelope."""
        if not self._cfg.start_rad:
            raise UserError(
                "task.start_rad=0: say how far from the default pose episodes begin, rad; a robot is to be "
                "brought there"
            )
        home = self._home()[0].tolist()
        return tuple(q - self._cfg.start_rad for q in home), tuple(q + self._cfg.start_rad for q in home)

    def gains(self) -> dict[str, list[float] | None]:
        """See IsaacLab.gains; servos that the engine does not do itself have none there."""
        rows = (("kp", "joint_stiffness"), ("kd", "joint_damping"), ("torque", "joint_effort_limits"))
        found = {name: getattr(self._data, field).torch[0, self._ids].tolist() for name, field in rows}
        if min(found["kp"]) <= 0:
            return dict.fromkeys(found)
        return {**found, "torque": found["torque"] if max(found["torque"]) < UNLIMITED_NM else None}

    def _raw(self, targets: Tensor) -> Tensor:
        return (targets - self._term._offset) / self._term._scale

    def _home(self) -> Tensor:
        return self._data.default_joint_pos.torch[:, self._ids]


def command_rate(env: Any) -> Tensor:  # noqa: ANN401  (of Isaac Lab)
    """Return the rate of the joint targets (N, A), rad/s: an observation term of Isaac Lab."""
    if not hasattr(env, "robokd_rate"):  # the manager asks for shapes before there is a step
        return torch.zeros(env.num_envs, env.action_manager.total_action_dim, device=env.device)
    # of a world that has just begun, too: it is observed before `begin` is told of it
    return env.robokd_rate.masked_fill((env.episode_length_buf == 0)[:, None], 0.0)


def _joint_group(mdp: Any, term: Any) -> Any:  # noqa: ANN401
    """Return the config of an observation group: the term's joints, and the rate of their targets."""
    managers = importlib.import_module("isaaclab.managers")
    joints = managers.SceneEntityCfg(
        term.asset_name, joint_names=term.joint_names, preserve_order=term.preserve_order
    )
    group = managers.ObservationGroupCfg()
    for name, function in (("joint_pos", mdp.joint_pos), ("joint_vel", mdp.joint_vel)):
        setattr(group, name, managers.ObservationTermCfg(func=function, params={"asset_cfg": joints}))
    group.command_rate = managers.ObservationTermCfg(func=command_rate)
    return group
