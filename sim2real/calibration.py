"""A camera's calibration, as ROS and OpenCV write it, and whether the camera is the one of a bundle.

    ROS      CameraInfo: the YAML of camera_calibration and camera_calibration_parsers, or a message as JSON
    OpenCV   YAML of cv::FileStorage (%YAML:1.0, !!opencv-matrix), as its calibration sample writes it

Nothing in a file runs: the one tag that is known is read as a plain mapping, every other is refused.
Pixels: the centres are whole numbers, in both and in a bundle.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml

from robokd import UserError

MOST_BYTES = 1 << 20
MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14)}  # distortion: how many coefficients
SMALL_PX = 0.5  # a lens that moves no pixel farther needs no rectification
FOCAL_SHARE, CENTRE_PX = 0.02, 1.0  # that a camera may be off the bundle's
MATRIX_TAG = "tag:yaml.org,2002:opencv-matrix"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A pinhole with a distortion, of pictures of one size."""

    path: Path
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]  # k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]], as OpenCV has them

    @property
    def largest_shift_px(self) -> float:
        """How far the distortion moves a pixel, at most."""
        corners = _grid(self.width, self.height)
        return float(np.linalg.norm(self.distorted(corners) - corners, axis=1).max())

    def distorted(self, pixels: np.ndarray) -> np.ndarray:
        """Return where in the picture (N, 2) a pinhole's pixels (N, 2) are. Source: OpenCV, calib3d."""
        x, y = (pixels[:, 0] - self.cx) / self.fx, (pixels[:, 1] - self.cy) / self.fy
        k = np.zeros(14)
        k[: len(self.distortion)] = self.distortion
        square = x * x + y * y
        radial = 1 + square * (k[0] + square * (k[1] + square * k[4]))
        radial = radial / (1 + square * (k[5] + square * (k[6] + square * k[7])))
        across = 2 * k[2] * x * y + k[3] * (square + 2 * x * x) + square * (k[8] + square * k[9])
        down = k[2] * (square + 2 * y * y) + 2 * k[3] * x * y + square * (k[10] + square * k[11])
        moved = np.stack([x * radial + across, y * radial + down], 1)
        return moved * [self.fx, self.fy] + [self.cx, self.cy]

    def rectification(self, optics: Mapping[str, Any], width: int, height: int) -> np.ndarray:
        """Return where in this camera's picture a bundle's pixels are to be read, (height, width, 2) px."""
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(float)
        ray = (pixels - [optics["cx"], optics["cy"]]) / [optics["fx"], optics["fy"]]
        found = self.distorted(ray * [self.fx, self.fy] + [self.cx, self.cy])
        inside = (found >= 0) & (found <= [self.width - 1, self.height - 1])
        if not inside.all():
            share = f"{1 - inside.all(1).mean():.1%} of the bundle's picture"
            raise UserError(f"{self.path}: {share} lie outside of this camera's view")
        return found.reshape(height, width, 2)

    def differences(self, camera: str, optics: Mapping[str, Any], width: int, height: int) -> list[str]:
        """Return in what this camera is not the bundle's, each with its numbers; a crop is applied first."""
        crop = optics.get("crop")
        x, y, wide, high = crop if crop else (0, 0, self.width, self.height)
        rows = []
        if x < 0 or y < 0 or x + wide > self.width or y + high > self.height:
            wanted = f"crop {[x, y, wide, high]}"
            return [f"{camera}: {wanted} does not fit into pictures of {self.width}x{self.height}"]
        scale = np.array([width / wide, height / high])
        if abs(wide * height - high * width) > max(width, height):
            rows.append(f"{camera}: pictures are {wide}x{high}, the bundle's {width}x{height}: another shape")
        focal = np.array([self.fx, self.fy]) * scale
        # a pixel's centre is a whole number, so its left edge is half a pixel before
        centre = (np.array([self.cx - x, self.cy - y]) + 0.5) * scale - 0.5
        for name, got in zip(("fx", "fy"), focal, strict=True):
            if abs(got - optics[name]) > FOCAL_SHARE * optics[name]:
                rows.append(f"{camera}.{name}: {got:.3f} px, the bundle has {optics[name]:.3f}")
        for name, got in zip(("cx", "cy"), centre, strict=True):
            if abs(got - optics[name]) > CENTRE_PX:
                rows.append(f"{camera}.{name}: {got:.3f} px, the bundle has {optics[name]:.3f}")
        if (shift := self.largest_shift_px * float(scale.max())) > SMALL_PX:
            allowed = f"at most {SMALL_PX} px is allowed: rectify its pictures first"
            rows.append(f"{camera}: its lens moves pixels by up to {shift:.2f} px, {allowed}")
        return rows


def check_calibration(
    calibration: Calibration, camera: str, optics: Mapping[str, Any], size: tuple[int, int]
) -> None:
    """Refuse a camera that is not the one that the bundle was trained with; size is (width, height)."""
    if rows := calibration.differences(camera, optics, *size):
        raise UserError(f"{calibration.path} does not fit the bundle: {'; '.join(rows)}")


def read_calibration(path: str | Path) -> Calibration:
    """Return the calibration in a file; UserError, naming the field, where it is none."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"calibration {path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"calibration {path} has {len(data)} bytes, at most {MOST_BYTES} are read")
    try:
        return _parse(path, _load(data.decode("utf-8")))
    except (ValueError, yaml.YAMLError, RecursionError, OverflowError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"calibration {path}: {said:.200}") from None


class _Loader(yaml.SafeLoader):
    """Plain YAML, an OpenCV matrix as the mapping that it is, and no alias: a bomb is made of them."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it uses aliases (*name), which no calibration needs")
        return super().compose_node(parent, index)


def _matrix(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("an opencv-matrix holds rows, cols, dt and data")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(MATRIX_TAG, _matrix)


def _load(text: str) -> dict[str, Any]:
    """Return the mapping that a text is, JSON or YAML."""
    if text.lstrip().startswith("{"):
        content = json.loads(text)
    else:
        # FileStorage writes a colon where YAML has a space
        first, _, rest = text.partition("\n")
        text = rest if first.strip().startswith("%YAML:") else text
        loader = _Loader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__}, wanted keys and values")
    return content


def _parse(path: Path, row: dict[str, Any]) -> Calibration:
    names = (
        ("image_width", "image_height", "camera_matrix", "distortion_coefficients", "distortion_model")
        if "camera_matrix" in row or "Camera_Matrix" in row
        else ("width", "height", "k", "d", "distortion_model")
    )
    lower = {str(key).lower(): value for key, value in row.items()}
    width, height = (_whole(lower, name) for name in names[:2])
    matrix = _numbers(lower, names[2], (9,))
    model = lower.get(names[4], "plumb_bob") or "plumb_bob"
    if model not in MODELS:
        raise ValueError(f"{names[4]} is {model!r:.60}; known: {', '.join(MODELS)}")
    counts = (0, 4, 5, 8, 12, 14) if names[4] not in lower else (0, *MODELS[model])
    distortion = _numbers(lower, names[3], counts)
    fx, skew, cx, below, fy, cy, *last = matrix
    if skew or below or last != [0.0, 0.0, 1.0]:
        raise ValueError(f"{names[2]} is no [fx 0 cx; 0 fy cy; 0 0 1], got {matrix}")
    if not (fx > 0 and fy > 0):
        raise ValueError(
            f"{names[2]} has focal lengths {fx} and {fy}; wanted > 0, and ROS writes 0 for unknown"
        )
    if not (-0.5 <= cx <= width - 0.5 and -0.5 <= cy <= height - 0.5):
        raise ValueError(f"{names[2]} has its centre at {cx}, {cy}, outside of a picture of {width}x{height}")
    for name in ("binning_x", "binning_y"):
        if lower.get(name) not in (None, 0, 1):
            raise ValueError(f"{name} is {lower[name]!r:.20}: calibrate the pictures as they are sent")
    region = lower.get("roi")
    if isinstance(region, dict) and any(region.get(k) for k in ("x_offset", "y_offset", "width", "height")):
        raise ValueError("roi cuts the picture: calibrate the pictures as they are sent")
    return Calibration(
        path=path, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, distortion=tuple(distortion)
    )


def _whole(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if type(value) is not int or not 1 <= value <= 1 << 14:
        _refuse(name, value, "a whole number of pixels, >= 1")
    return value


def _numbers(row: Mapping[str, Any], name: str, counts: tuple[int, ...]) -> list[float]:
    """Return the numbers of a matrix: a list, or a mapping with rows, cols and data."""
    value = row.get(name)
    if isinstance(value, dict):
        rows, columns, data = (value.get(key) for key in ("rows", "cols", "data"))
        if not isinstance(data, list) or type(rows) is not int or type(columns) is not int:
            _refuse(name, value, "rows, cols and data")
        if rows * columns != len(data):
            _refuse(name, f"{rows} x {columns} with {len(data)} numbers", "as many numbers as rows x cols")
        if value.get("dt", "d") not in ("d", "f"):
            _refuse(f"{name}.dt", value["dt"], "d or f")
        value = data
    if value is None and 0 in counts and name != "k":
        value = []
    if not isinstance(value, list) or len(value) not in counts:
        got = f"{len(value)} numbers" if isinstance(value, list) else value
        _refuse(name, got, " or ".join(map(str, counts)) + " numbers")
    numbers = []
    for one in value:
        # YAML 1.1 takes 1e-3, which FileStorage may write, for text
        number = float(one) if type(one) in (int, float, str) else math.nan
        if not math.isfinite(number):
            _refuse(name, one, "finite numbers")
        numbers.append(number)
    return numbers


def _refuse(name: str, got: object, wanted: str) -> NoReturn:
    raise ValueError(f"{name}: got {got!r:.80}, wanted {wanted}")


def _grid(width: int, height: int) -> np.ndarray:
    across, down = np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)
    return np.stack(np.meshgrid(across, down), -1).reshape(-1, 2)
