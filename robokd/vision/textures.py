"""Texture images with their mipmaps, sampled as OpenGL does: linear between texels and between levels.

Shapes: T textures, P texels of all, K levels of the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robokd.vision.kernel_cache import jit

if TYPE_CHECKING:
    import mujoco

    from robokd.vision.projection import Array, Vector

CUBE, SKYBOX = 1, 2  # mjtTexture
_SRGB = 2  # mjtColorSpace
_FARTHEST = 1e9  # texels; beyond it whole numbers end


class Textures(NamedTuple):
    """Images of textures; a flat one has one face, a cube six."""

    texels: np.ndarray  # (P, 3) float32, 0 to 1
    levels: np.ndarray  # (T, 6, K, 3) int64: first texel, width and height of a face's level
    depth: np.ndarray  # (T,) int64, how many levels


def make_textures(model: mujoco.MjModel, indices: Sequence[int]) -> Textures:
    """Return these textures of a model, each with its mipmaps."""
    pyramids = [[_pyramid(face) for face in _faces(model, index)] for index in indices]
    depth = max((len(faces[0]) for faces in pyramids), default=1)
    levels = np.zeros((len(pyramids), 6, depth, 3), np.int64)
    texels, end = [np.empty((0, 3), np.float32)], 0
    for t, faces in enumerate(pyramids):
        for f, pyramid in enumerate(faces):
            for k, image in enumerate(pyramid):
                levels[t, f, k] = end, image.shape[1], image.shape[0]
                texels.append(image.reshape(-1, 3).astype(np.float32))
                end += len(texels[-1])
    count = np.array([len(faces[0]) for faces in pyramids], np.int64)
    return Textures(np.concatenate(texels), levels, count)


def _faces(model: mujoco.MjModel, index: int) -> list[np.ndarray]:
    """Return the images (H, W, 3) of a texture, from 0 to 1: one, or a cube's six, as OpenGL orders them."""
    width, height, channels = (
        int(getattr(model, f"tex_{field}")[index]) for field in ("width", "height", "nchannel")
    )
    start = model.tex_adr[index]
    data = model.tex_data[start : start + width * height * channels].reshape(height, width, channels)
    image = data[..., :3].astype(np.float64) / 255
    if model.tex_type[index] not in (CUBE, SKYBOX):
        if model.tex_colorspace[index] == _SRGB:
            image = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
        return [image]
    return [image] * 6 if height == width else list(image.reshape(6, width, width, 3))


def _pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Return an image and its halvings down to one texel."""
    levels = [image]
    while max(levels[-1].shape[:2]) > 1:
        last = levels[-1]
        for axis in (0, 1):
            last = _halved(last, axis)
        levels.append(last)
    return levels


def _halved(image: np.ndarray, axis: int) -> np.ndarray:
    """Return an image of half the size along an axis, rounded down, sampled linearly; one texel stays."""
    size = image.shape[axis]
    if size == 1:
        return image
    places = (np.arange(size // 2) + 0.5) * size / (size // 2) - 0.5
    first = np.floor(places).astype(int)
    share = (places - first).reshape([-1 if k == axis else 1 for k in range(image.ndim)])
    after = np.minimum(first + 1, size - 1)
    return np.take(image, first, axis) * (1 - share) + np.take(image, after, axis) * share


@jit
def cube_face(d: Vector) -> int:
    """Return the face of a cube that a direction points at: +x, -x, +y, -y, +z, -z."""
    x, y, z = abs(d[0]), abs(d[1]), abs(d[2])
    if x >= y and x >= z:
        return 0 if d[0] > 0 else 1
    if y >= z:
        return 2 if d[1] > 0 else 3
    return 4 if d[2] > 0 else 5


@jit
def cube_point(d: Vector, face: int) -> tuple[float, float]:
    """Return where a direction meets a cube's face, from (0, 0) to (1, 1).

    Source: OpenGL 2.1 specification, table 3.19.
    """
    x, y, z = d
    if face < 2:
        s, t, m = (-z if face == 0 else z), -y, x
    elif face < 4:
        s, t, m = x, (z if face == 2 else -z), y
    else:
        s, t, m = (x if face == 4 else -x), -y, z
    m = max(abs(m), 1e-12)
    return (s / m + 1) / 2, (t / m + 1) / 2


@jit
def _bilinear(texels: Array, level: tuple, s: float, t: float, is_cube: bool) -> Vector:
    first, width, height = level
    x, y = s * width - 0.5, t * height - 0.5
    if not (abs(x) < _FARTHEST and abs(y) < _FARTHEST):  # of a shape without extent; NaN is neither
        x, y = 0.0, 0.0
    x0, y0 = math.floor(x), math.floor(y)
    fx, fy = x - x0, y - y0
    i0, j0, i1, j1 = int(y0), int(x0), int(y0) + 1, int(x0) + 1
    if is_cube:
        i0, i1 = min(max(i0, 0), height - 1), min(max(i1, 0), height - 1)
        j0, j1 = min(max(j0, 0), width - 1), min(max(j1, 0), width - 1)
    else:
        i0, i1, j0, j1 = i0 % height, i1 % height, j0 % width, j1 % width
    a, b, c, d = (
        first + i0 * width + j0,
        first + i0 * width + j1,
        first + i1 * width + j0,
        first + i1 * width + j1,
    )
    w, x, y, z = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
    return (
        w * texels[a, 0] + x * texels[b, 0] + y * texels[c, 0] + z * texels[d, 0],
        w * texels[a, 1] + x * texels[b, 1] + y * texels[c, 1] + z * texels[d, 1],
        w * texels[a, 2] + x * texels[b, 2] + y * texels[c, 2] + z * texels[d, 2],
    )


@jit
def texel(textures: Textures, index: int, face: int, at: tuple, right: tuple, down: tuple) -> Vector:
    """Return the colour of a texture at a point, where it moves by `right` and `down` from pixel to pixel.

    Args:
        textures: all of them.
        index: the texture.
        face: of a cube; -1 for a flat texture, which repeats.
        at: (s, t), the whole image is (0, 0) to (1, 1).
        right: how (s, t) changes from a column to the next.
        down: how (s, t) changes from a row to the next.
    """
    levels, side, is_cube = textures.levels, max(face, 0), face >= 0
    width, height = levels[index, side, 0, 1], levels[index, side, 0, 2]
    square = max(
        (right[0] * width) ** 2 + (right[1] * height) ** 2, (down[0] * width) ** 2 + (down[1] * height) ** 2
    )
    square = min(max(square, 1e-12), 1e12) if square == square else 1.0  # NaN of a shape without extent
    level = min(max(0.5 * math.log2(square), 0.0), textures.depth[index] - 1.0)
    low = int(level)
    share = level - low
    sheet = (levels[index, side, low, 0], levels[index, side, low, 1], levels[index, side, low, 2])
    a = _bilinear(textures.texels, sheet, at[0], at[1], is_cube)
    if share == 0:
        return a
    high = low + 1
    sheet = (levels[index, side, high, 0], levels[index, side, high, 1], levels[index, side, high, 2])
    b = _bilinear(textures.texels, sheet, at[0], at[1], is_cube)
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))
