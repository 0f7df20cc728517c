"""The arm of pointer_scene.py as a direct task: the same scene, without managers."""

from __future__ import annotations

import torch
from isaaclab.envs import DirectRLEnv, DirectRLEnvCfg
from isaaclab.utils import configclass
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg

from tests.lab import pointer_scene as scene


@configclass
class PointerDirectEnvCfg(DirectRLEnvCfg):
    """What the manager-based task is made of, as far as a direct one has it."""

    scene = scene.PointerSceneCfg(num_envs=4, env_spacing=4.0)
    decimation, episode_length_s = 2, 0.4
    action_space, observation_space, state_space = 2, 4, 6

    def __post_init__(self) -> None:
        """Set what is not a field of its own."""
        self.sim.dt, self.sim.render_interval, self.sim.gravity = 0.02, 2, (0.0, 0.0, 0.0)
        solver = MJWarpSolverCfg(njmax=20, nconmax=5, integrator="implicitfast", disable_contacts=True)
        self.sim.physics = NewtonCfg(solver_cfg=solver, num_substeps=1, use_cuda_graph=True)


class PointerDirectEnv(DirectRLEnv):
    """Joint targets are the actions; success is told in extras."""

    def _pre_physics_step(self, actions: torch.Tensor) -> None:
        self.actions = actions.clone()

    def _apply_action(self) -> None:
        self.scene["robot"].set_joint_position_target_index(target=self.actions)

    def _get_observations(self) -> dict[str, torch.Tensor]:
        data = self.scene["robot"].data
        joints = torch.cat((data.joint_pos.torch, data.joint_vel.torch), 1)
        return {
            "policy": joints,
            "critic": torch.cat((scene.goal_position(self), scene.goal_from_tip(self)), 1),
        }

    def _get_rewards(self) -> torch.Tensor:
        return -scene.distance(self)

    def _get_dones(self) -> tuple[torch.Tensor, torch.Tensor]:
        self.extras["reached"] = scene.reached(self)
        late = self.episode_length_buf >= self.max_episode_length
        return torch.zeros_like(late), late

    def _reset_idx(self, env_ids: torch.Tensor) -> None:
        super()._reset_idx(env_ids)
        robot = self.scene["robot"]
        robot.write_joint_position_to_sim_index(
            position=robot.data.default_joint_pos.torch[env_ids], env_ids=env_ids
        )
        robot.write_joint_velocity_to_sim_index(
            velocity=robot.data.default_joint_vel.torch[env_ids], env_ids=env_ids
        )
        scene.place_goal(self, env_ids)
