"""A two-joint arm in the plane that points at a sphere; Newton's physics and camera, shapes made here.

It needs no download and no Kit. Frames: everything in the world's, the arm's base at its origin.
"""

from __future__ import annotations

import isaaclab.envs.mdp as mdp
import isaaclab.sim as sim_utils
import torch
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg, AssetBaseCfg, RigidObjectCfg
from isaaclab.envs import ManagerBasedRLEnvCfg
from isaaclab.managers import EventTermCfg, ObservationGroupCfg, ObservationTermCfg, RewardTermCfg
from isaaclab.managers import TerminationTermCfg as DoneTermCfg
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sensors import CameraCfg
from isaaclab.sim.utils import clone, get_current_stage
from isaaclab.utils import configclass
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_newton.physics.mjwarp_manager import NewtonMJWarpManager
from isaaclab_newton.renderers import NewtonWarpRendererCfg
from pxr import Gf, Sdf, Usd, UsdGeom, UsdPhysics

LINKS_M = (0.30, 0.25)
HEIGHT_M = 0.1  # of the plane that the arm moves in
REACHED_M = 0.08  # tip to sphere
LIMIT_RAD = 2.6
CAMERA_M = 1.2  # above the world's origin
FAR_M = 1.4


@clone
def spawn_arm(
    prim_path: str, cfg: ArmSpawnerCfg, translation: tuple | None = None, orientation: tuple | None = None,
    **_: object,
) -> Usd.Prim:  # fmt: skip
    """Write the arm into the stage: a base that stands still, two capsules, two hinges with drives."""
    stage = get_current_stage()
    root = UsdGeom.Xform.Define(stage, prim_path)
    root.AddTranslateOp().Set(Gf.Vec3d(*(translation or (0.0, 0.0, 0.0))))
    UsdPhysics.ArticulationRootAPI.Apply(root.GetPrim())
    base = _link(stage, f"{prim_path}/base", 0.0, 0.0)
    fixed = UsdPhysics.FixedJoint.Define(stage, f"{prim_path}/joints/fixed")
    fixed.CreateBody1Rel().SetTargets([base.GetPath()])
    fixed.CreateLocalPos0Attr(Gf.Vec3f(*(translation or (0.0, 0.0, 0.0))))
    parent, along = base, 0.0
    for name, length in zip(("shoulder", "elbow"), LINKS_M, strict=True):
        link = _link(stage, f"{prim_path}/{name}_link", along, length)
        offset = along if name == "shoulder" else LINKS_M[0]
        _hinge(stage, f"{prim_path}/joints/{name}", parent, link, offset)
        parent, along = link, along + length
    return root.GetPrim()


def _link(stage: Usd.Stage, path: str, along: float, length: float) -> Usd.Prim:
    """Return a body whose frame is at `along` on the x axis, with a capsule of `length` from there."""
    body = UsdGeom.Xform.Define(stage, path)
    body.AddTranslateOp().Set(Gf.Vec3d(along, 0, HEIGHT_M))
    UsdPhysics.RigidBodyAPI.Apply(body.GetPrim())
    mass = UsdPhysics.MassAPI.Apply(body.GetPrim())
    mass.CreateMassAttr(0.5)
    mass.CreateDiagonalInertiaAttr(Gf.Vec3f(0.005, 0.005, 0.005))
    mass.CreateCenterOfMassAttr(Gf.Vec3f(length / 2, 0, 0))
    shape = UsdGeom.Capsule.Define(stage, f"{path}/shape")
    shape.CreateAxisAttr("X")
    shape.CreateRadiusAttr(0.03)
    shape.CreateHeightAttr(length)
    shape.AddTranslateOp().Set(Gf.Vec3d(length / 2, 0, 0))
    return body.GetPrim()


def _hinge(stage: Usd.Stage, path: str, parent: Usd.Prim, child: Usd.Prim, offset_m: float) -> None:
    joint = UsdPhysics.RevoluteJoint.Define(stage, path)
    joint.CreateBody0Rel().SetTargets([Sdf.Path(parent.GetPath())])
    joint.CreateBody1Rel().SetTargets([Sdf.Path(child.GetPath())])
    joint.CreateAxisAttr("Z")
    joint.CreateLocalPos0Attr(Gf.Vec3f(offset_m, 0, 0))
    joint.CreateLocalPos1Attr(Gf.Vec3f(0, 0, 0))
    for bound, value in (("Lower", -LIMIT_RAD), ("Upper", LIMIT_RAD)):
        getattr(joint, f"Create{bound}LimitAttr")(float(torch.rad2deg(torch.tensor(value))))
    drive = UsdPhysics.DriveAPI.Apply(joint.GetPrim(), "angular")
    drive.CreateTypeAttr("force")
    drive.CreateStiffnessAttr(0.3)
    drive.CreateDampingAttr(0.03)


@configclass
class ArmSpawnerCfg(sim_utils.SpawnerCfg):
    """What Isaac Lab asks of something that it spawns."""

    func = spawn_arm


@configclass
class PointerSceneCfg(InteractiveSceneCfg):
    """The arm, the sphere, and a camera that looks down on both."""

    robot = ArticulationCfg(
        prim_path="{ENV_REGEX_NS}/Robot",
        spawn=ArmSpawnerCfg(),
        init_state=ArticulationCfg.InitialStateCfg(joint_pos={"shoulder": 0.0, "elbow": 0.6}),
        actuators={
            "all": ImplicitActuatorCfg(
                joint_names_expr=[".*"], stiffness=20.0, damping=2.0, joint_effort_limit=20.0,
                joint_velocity_limit=4.0,
            )
        },
    )  # fmt: skip
    goal = RigidObjectCfg(
        prim_path="{ENV_REGEX_NS}/Goal",
        spawn=sim_utils.SphereCfg(
            radius=0.08, rigid_props=sim_utils.RigidBodyBaseCfg(), mass_props=sim_utils.MassCfg(mass=1.0)
        ),
        init_state=RigidObjectCfg.InitialStateCfg(pos=(0.4, 0.0, HEIGHT_M)),
    )
    camera = CameraCfg(
        prim_path="{ENV_REGEX_NS}/Camera",
        # (0, 0, 0, 1) in OpenGL's convention looks along -z, straight down
        offset=CameraCfg.OffsetCfg(pos=(0.25, 0.0, CAMERA_M), rot=(0.0, 0.0, 0.0, 1.0), convention="opengl"),
        spawn=sim_utils.PinholeCameraCfg(
            focal_length=20.0, horizontal_aperture=24.0, clipping_range=(0.05, 3)
        ),
        data_types=["distance_to_image_plane", "rgb"],
        width=32,
        height=32,
        renderer_cfg=NewtonWarpRendererCfg(),
    )
    light = AssetBaseCfg(prim_path="/World/Light", spawn=sim_utils.DistantLightCfg(intensity=2000.0))


def tip_position(env: object) -> torch.Tensor:
    """Return the tip (N, 3) in its world's frame, m."""
    robot = env.scene["robot"]
    first, second = robot.data.joint_pos.torch.unbind(1)
    angle = first + second
    x = LINKS_M[0] * torch.cos(first) + LINKS_M[1] * torch.cos(angle)
    y = LINKS_M[0] * torch.sin(first) + LINKS_M[1] * torch.sin(angle)
    return torch.stack((x, y, torch.full_like(x, HEIGHT_M)), 1)


def goal_position(env: object) -> torch.Tensor:
    """Return the sphere (N, 3) in its world's frame, m."""
    return env.scene["goal"].data.root_pos_w.torch - env.scene.env_origins


def goal_from_tip(env: object) -> torch.Tensor:
    """Return the way from tip to sphere (N, 3), m."""
    return goal_position(env) - tip_position(env)


def distance(env: object) -> torch.Tensor:
    """Return tip to sphere (N,), m."""
    return torch.linalg.vector_norm(goal_from_tip(env), dim=1)


def reached(env: object) -> torch.Tensor:
    """Return (N,) bool: the tip is at the sphere."""
    return distance(env) < REACHED_M


def place_goal(env: object, env_ids: torch.Tensor | slice) -> None:
    """Put the sphere on a ring sector in front of the arm."""
    origins = env.scene.env_origins[env_ids]
    share = torch.rand(len(origins), 2, device=origins.device)
    angle, radius = 2.4 * share[:, 0] - 1.2, 0.3 + 0.2 * share[:, 1]
    place = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle), angle * 0 + HEIGHT_M), 1)
    upright = torch.tensor([0.0, 0.0, 0.0, 1.0], device=origins.device).expand(len(origins), 4)
    goal = env.scene["goal"]
    goal.write_root_pose_to_sim_index(root_pose=torch.cat((origins + place, upright), 1), env_ids=env_ids)
    goal.write_root_velocity_to_sim_index(
        root_velocity=torch.zeros(len(origins), 6, device=origins.device), env_ids=env_ids
    )


@configclass
class ActionsCfg:
    """Joint position targets around the default pose."""

    joints = mdp.JointPositionActionCfg(asset_name="robot", joint_names=["shoulder", "elbow"], scale=1.5)


@configclass
class ObservationsCfg:
    """What a robot has, and what only a simulator knows."""

    @configclass
    class PolicyCfg(ObservationGroupCfg):
        """The joints."""

        joint_pos = ObservationTermCfg(func=mdp.joint_pos)
        joint_vel = ObservationTermCfg(func=mdp.joint_vel)

    @configclass
    class CriticCfg(ObservationGroupCfg):
        """Where the sphere is."""

        goal = ObservationTermCfg(func=goal_position)
        offset = ObservationTermCfg(func=goal_from_tip)

    policy = PolicyCfg()
    critic = CriticCfg()


@configclass
class EventsCfg:
    """How an episode begins."""

    joints = EventTermCfg(
        func=mdp.reset_joints_by_offset, mode="reset",
        params={"position_range": (-0.3, 0.3), "velocity_range": (0.0, 0.0)},
    )  # fmt: skip
    goal = EventTermCfg(func=place_goal, mode="reset")


@configclass
class RewardsCfg:
    """Nearness is paid for."""

    distance = RewardTermCfg(func=distance, weight=-10.0)
    reached = RewardTermCfg(func=reached, weight=100.0)


@configclass
class TerminationsCfg:
    """Success ends an episode, and time."""

    time_out = DoneTermCfg(func=mdp.time_out, time_out=True)
    reached = DoneTermCfg(func=reached)


class NewtonByWorlds(NewtonMJWarpManager):
    """Newton over mujoco_warp, and over MuJoCo's C library where there is one world only.

    On a CPU a step of mujoco_warp is a hundred launches, however few worlds there are: a simulated robot
    would not be in time. Isaac Lab 3.0 cannot build the other by itself, as it asks it how many contacts
    there may be; of this scene, which has none, none are asked for.
    """

    @classmethod
    def _create_solver(cls, model: object, solver_cfg: MJWarpSolverCfg) -> object:
        return super()._create_solver(model, solver_cfg.replace(use_mujoco_cpu=model.world_count == 1))

    @classmethod
    def _initialize_contacts(cls) -> None:
        pass


@configclass
class PointerEnvCfg(ManagerBasedRLEnvCfg):
    """The manager-based task."""

    scene = PointerSceneCfg(num_envs=4, env_spacing=4.0)
    actions = ActionsCfg()
    observations = ObservationsCfg()
    events = EventsCfg()
    rewards = RewardsCfg()
    terminations = TerminationsCfg()

    def __post_init__(self) -> None:
        """Set what is not a field of its own."""
        self.decimation, self.episode_length_s = 2, 2.0
        self.sim.dt, self.sim.render_interval, self.sim.gravity = 0.02, 2, (0.0, 0.0, 0.0)
        solver = MJWarpSolverCfg(
            class_type=NewtonByWorlds, njmax=20, nconmax=5, integrator="implicitfast", disable_contacts=True
        )
        self.sim.physics = NewtonCfg(solver_cfg=solver, num_substeps=1, use_cuda_graph=True)


@configclass
class ElsewhereEnvCfg(PointerEnvCfg):
    """The same, with a part of the scene that is out of reach, as those that are downloaded may be."""

    def __post_init__(self) -> None:
        """Add what cannot be found."""
        super().__post_init__()
        self.scene.table = AssetBaseCfg(
            prim_path="{ENV_REGEX_NS}/Table", spawn=sim_utils.UsdFileCfg(usd_path="/nowhere/elsewhere.usd")
        )
