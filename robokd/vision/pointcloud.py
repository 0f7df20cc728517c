"""Point clouds of planar depth: unproject, move to a frame, crop, and take a fixed number of points.

A camera looks along -z with y up (MuJoCo's). Pixel centres are those of the renderers: column j of W looks
along x = (2 j + 1 - W) tan(fovy / 2) / H, row i along y = (H - 1 - 2 i) tan(fovy / 2) / H, z = -1.
Farthest points: Eldar, Lindenbaum, Porat, Zeevi 1997, "The Farthest Point Strategy for Progressive Image
Sampling"; in clouds: Qi, Yi, Su, Guibas 2017, "PointNet++".
Shapes: N clouds, P = H * W points in rows from the top, K points that are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robokd import UserError
from robokd.draws import Draws
from robokd.geometry import rotate
from robokd.registry import unknown
from robokd.specs import CameraSpec
from robokd.vision.pixel_draws import frame_keys, lane, pixel_hash

FRAMES = ("camera", "robot", "world")
METHODS = ("farthest", "random")
# of something in the world: position (N or 1, 3) in m, unit quaternion (N or 1, 4)
Pose = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class CloudSpec:
    """Which points a cloud has."""

    count: int = 512  # points
    method: str = "farthest"  # one of METHODS
    frame: str = "robot"  # of the points and the box, one of FRAMES
    low_m: tuple[float, float, float] = (-math.inf, -math.inf, -math.inf)  # of the box that is kept
    high_m: tuple[float, float, float] = (math.inf, math.inf, math.inf)
    candidates: int = 0  # farthest points are sought among so many random ones, which is faster; 0 = all

    def __post_init__(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("frame", self.frame, FRAMES)):
            if value not in known:
                raise UserError(unknown(f"{name} of a point cloud", value, known))
        if self.count < 1:
            raise UserError(f"a point cloud needs count >= 1, got {self.count}")
        if self.candidates and self.candidates < self.count:
            raise UserError(f"candidates must be 0 or >= count {self.count}, got {self.candidates}")
        if any(low >= high for low, high in zip(self.low_m, self.high_m, strict=True)):
            raise UserError(f"need low_m < high_m along each axis, got {self.low_m} and {self.high_m}")


def point_cloud(
    depth_n1hw: Tensor, camera: CameraSpec, spec: CloudSpec, draws: Draws, episode: Tensor,
    step: Tensor | int, *, camera_pose: Pose | None = None, robot_pose: Pose | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return points (N, K, 3) in spec.frame, m, and how many of them are real (N,) int64.

    Args:
        depth_n1hw: float32 planar depth in metres, 0 = no point.
        camera: of the images.
        spec: which points.
        draws: for random choice; pure in `episode` (N,) int64 and `step`.
        episode: of each cloud.
        step: of each cloud.
        camera_pose: of the lens in the world; needed in other frames than its own.
        robot_pose: of the robot's base in the world; needed in its frame.
    """
    points, is_valid = unproject(depth_n1hw, camera)
    if spec.frame != "camera":
        points = to_world(points, _given(camera_pose, "camera_pose", spec))
    if spec.frame == "robot":
        points = from_world(points, _given(robot_pose, "robot_pose", spec))
    is_valid = crop(points, is_valid, spec.low_m, spec.high_m)
    keys = frame_keys(draws, f"cloud/{camera.name}", episode, step)
    if spec.method == "random":
        return sample_random(points, is_valid, spec.count, keys)
    if spec.candidates:
        points, real = sample_random(points, is_valid, spec.candidates, keys)
        is_valid = torch.arange(spec.candidates, device=points.device) < real[:, None]
    return sample_farthest(points, is_valid, spec.count)


def unproject(
    depth_n1hw: Tensor, camera: CameraSpec, fovy_deg: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return points (N, P, 3) in the camera's frame, m, and which of them are real (N, P) bool.

    `fovy_deg` (N,) stands for the camera's where a lens differs from cloud to cloud.
    """
    count, _, height, width = depth_n1hw.shape
    if (height, width) != (camera.height, camera.width):
        wanted, got = (camera.height, camera.width), (height, width)
        raise ValueError(f"camera {camera.name}: wanted depth of {wanted} pixels, got {got}")
    depth = depth_n1hw.reshape(count, height, width)
    if fovy_deg is None:
        slope = depth.new_tensor(math.tan(math.radians(camera.fovy_deg) / 2) / height)
    else:
        slope = (torch.tan(torch.deg2rad(fovy_deg) / 2) / height).to(depth.dtype)[:, None, None]
    columns = 2 * torch.arange(width, dtype=depth.dtype, device=depth.device) + 1 - width
    rows = height - 1 - 2 * torch.arange(height, dtype=depth.dtype, device=depth.device)
    is_valid = (depth > 0) & torch.isfinite(depth)
    depth = depth.masked_fill(~is_valid, 0.0)  # or a NaN would be the farthest point of all
    points = torch.stack((depth * (slope * columns), depth * (slope * rows[:, None]), -depth), -1)
    return points.view(count, -1, 3), is_valid.view(count, -1)


def to_world(points: Tensor, pose: Pose) -> Tensor:
    """Return points (N, P, 3) of a frame in the world's; `pose` is that frame's in the world."""
    position, quaternion = (part.to(points.dtype)[:, None] for part in pose)
    return rotate(quaternion, points, torch) + position


def from_world(points: Tensor, pose: Pose) -> Tensor:
    """Return points (N, P, 3) of the world in a frame; `pose` is that frame's in the world."""
    position, quaternion = (part.to(points.dtype)[:, None] for part in pose)
    back = quaternion * quaternion.new_tensor([1, -1, -1, -1])
    return rotate(back, points - position, torch)


def crop(points: Tensor, is_valid: Tensor, low_m: tuple[float, ...], high_m: tuple[float, ...]) -> Tensor:
    """Return (N, P) bool: valid points that lie within the box, borders included."""
    inside = (points >= points.new_tensor(low_m)) & (points <= points.new_tensor(high_m))
    return is_valid & inside.all(-1)


def sample_farthest(points: Tensor, is_valid: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return (N, count, 3) points, each the farthest from all before it, and how many are real (N,) int64.

    Starts at the first valid point in memory; the first of equals wins; no point is taken twice. Where fewer
    than `count` are valid they repeat in order, and where none is all are 0.
    """
    number, size = is_valid.shape
    x, y, z = (part.contiguous() for part in points.unbind(-1))
    # squared distance to the nearest point taken; below 0: not to be taken
    far = torch.full_like(x, math.inf).masked_fill_(~is_valid, -1.0)
    work, square = torch.empty_like(x), torch.empty_like(x)
    chosen = torch.zeros(number, count, dtype=torch.int64, device=points.device)
    for index in range(min(count, size)):
        taken = far.max(1).indices[:, None]
        chosen[:, index : index + 1] = taken
        torch.sub(x, x.gather(1, taken), out=square).square_()
        for axis in (y, z):
            square.add_(torch.sub(axis, axis.gather(1, taken), out=work).square_())
        torch.minimum(far, square, out=far)
        far.scatter_(1, taken, -1.0)
    return _take(points, chosen, is_valid.sum(1))


def sample_random(points: Tensor, is_valid: Tensor, count: int, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, count, 3) valid points in random order, none twice, and how many are real (N,) int64.

    `keys` (N, 1) int32 are of `pixel_draws.frame_keys`. Where fewer than `count` are valid they repeat in
    order, and where none is all are 0.
    """
    size = is_valid.shape[1]
    # a unique random number for each point; those that are not valid come last
    drawn = lane(pixel_hash(keys, size), 0).long() - (1 << 32) * is_valid
    order = drawn * size + torch.arange(size, device=points.device)
    chosen = order.topk(min(count, size), 1, largest=False, sorted=True).indices
    chosen = torch.nn.functional.pad(chosen, (0, count - chosen.shape[1]))
    return _take(points, chosen, is_valid.sum(1))


def _take(points: Tensor, chosen: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points (N, K, 3) of the indices chosen (N, K), of which the first `valid` (N,) are real."""
    count = chosen.shape[1]
    real = valid.clamp(max=count)
    place = torch.arange(count, device=points.device) % real.clamp(min=1)[:, None]
    index = chosen.gather(1, place)
    taken = points.gather(1, index[..., None].expand(-1, -1, 3))
    return taken * (real > 0)[:, None, None], real


def _given(pose: Pose | None, name: str, spec: CloudSpec) -> Pose:
    if pose is None:
        raise UserError(f"a point cloud in the frame {spec.frame!r} needs the {name}")
    return pose
