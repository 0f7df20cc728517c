"""What has to be so before hardware may move."""

from __future__ import annotations

from robokd.sim2real.robot import Robot
from robokd.sim2real.stop_key import HOW

from robokd import UserError
from robokd.config import DeployConfig
from robokd.export.bundle import Bundle, check_trust
from robokd.registry import unknown

LONGEST_ALONE_S = 1.0  # that a robot may go on after its guard has died


def check_arm(robot: Robot, bundle: Bundle, config: DeployConfig) -> None:
    """Refuse to move hardware that nothing would stop, or from a bundle that nobody vouches for."""
    if not robot.is_hardware:
        return
    check_trust(bundle, is_hardware=True)
    if not bundle.action.joints:
        raise UserError(
            f"{bundle.path} is for no joints: robot={config.robot.name} takes nothing but positions"
        )
    least, alone_s = bundle.action.control_dt, robot.command_timeout_s
    if config.arm and robot.stop_key not in HOW:
        raise UserError(f"arm=true is refused: {unknown('stop key', robot.stop_key, HOW)}")
    if config.arm and alone_s is not None and not least < alone_s <= LONGEST_ALONE_S:
        wanted = f"more than a control period, {least:g} s, and at most {LONGEST_ALONE_S:g} s"
        raise UserError(f"arm=true is refused: robot.command_timeout_s is {alone_s:g}, wanted {wanted}")
    if config.arm and alone_s is None:
        raise UserError(
            f"arm=true is refused: robot={config.robot.name} would go on with its last command if the guard "
            "died. Say after how long its own controller stops by itself with robot.command_timeout_s=…"
        )
