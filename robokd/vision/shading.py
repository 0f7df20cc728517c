"""Colours of what a depth image shows, as of MuJoCo's classic renderer without specular and reflectance.

A pixel is shaded once, from its depth and the name of what is seen there: emission, ambient and Lambert's
diffuse light, cut at 1, times the texture. Light is computed in every pixel, and not at a mesh's corners as
OpenGL does. It is done row by row, so that most of it runs in vector instructions.

Source: OpenGL 2.1 specification, section 2.14.1, eq. 2.4 and 2.5.
Shapes: S shapes that are drawn, F triangles, L lights. Frame: see projection.py.
Legend: rows are room for a row of pixels (ROOM, columns and LANES more) float32, what they hold is below; a
line is (rows, x, z, y), with x and depth of its columns, which stand there too, and its y. A run is what is
seen from one column to before another: (first, end, name).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robokd.vision.kernel_cache import inlined, jit
from robokd.vision.lens import LANES, Lens
from robokd.vision.normals import X, Z, box_normals, mesh_normals, round_normals
from robokd.vision.patterns import CUBED, PLAIN, WRAPPED, dye_run, dye_wrapped_run
from robokd.vision.projection import in_camera
from robokd.vision.scene_tables import BOX, ELLIPSOID
from robokd.vision.shadows import is_shaded

if TYPE_CHECKING:
    from robokd.vision.projection import Array

SPOT, DIRECTIONAL = 0, 1  # mjtLightType; the rest shines to all sides
_WITHOUT_LIGHTS = 0.3  # ambient light where there is no other, as in MuJoCo
STAGE_COLUMNS, LAMP_COLUMNS = 18, 19
NORMAL, LIGHT, TINT, DYE, GLOW, TO, FACING, STRENGTH, POWER = 0, 3, 6, 9, 12, 13, 16, 17, 18
ROOM = 21  # with X and Z of normals.py
_ZERO, _ONE, _HALF, _FULL = np.float32(0), np.float32(1), np.float32(0.5), np.float32(255)


class Looks(NamedTuple):
    """What the geoms that are drawn are made of."""

    materials: np.ndarray  # (S,) int64, -1 = none
    emission: np.ndarray  # (S,) float64
    mappings: np.ndarray  # (S,) int64, see patterns.py
    textures: np.ndarray  # (S,) int64, of Textures
    repeat: np.ndarray  # (S, 2) float64
    is_uniform: np.ndarray  # (S,) bool: the texture's size is that of space, not of the geom


class Surfaces(NamedTuple):
    """What the triangles carry at their three corners."""

    normals: np.ndarray  # (F, 3, 3) float32, unit
    coordinates: np.ndarray  # (F, 3, 2) float32, of the texture


class Lights(NamedTuple):
    """What does not change of the model's lights that shine."""

    indices: np.ndarray  # (L,) int64, in the model
    kinds: np.ndarray  # (L,) int64, mjtLightType
    attenuation: np.ndarray  # (L, 3) float64: constant, linear, quadratic
    cone: np.ndarray  # (L, 2) float64: cosine of the cutoff, exponent
    has_shadow: np.ndarray  # (L,) bool
    headlight: np.ndarray  # (0 or 6,) float64: ambient and diffuse


@jit
def stage(row: Array, place: tuple) -> None:
    """Keep where a shape is, in its row of stage (S, STAGE_COLUMNS): centre, axes, size; then its colour."""
    c, axes, size = place
    for k in range(3):
        row[k], row[12 + k] = c[k], size[k]
        row[3 + k], row[6 + k], row[9 + k] = axes[0][k], axes[1][k], axes[2][k]


@jit
def _paint(stage: Array, geoms: Array, materials: Array, rgba: Array, material_rgba: Array) -> None:
    """Write the shapes' colours, MuJoCo's rule: the material's unless the geom has one of its own."""
    for k in range(geoms.size):
        own = rgba[geoms[k]]
        is_default = own[0] == 0.5 and own[1] == 0.5 and own[2] == 0.5 and own[3] == 1
        for channel in range(3):
            stage[k, 15 + channel] = own[channel]
            if is_default and materials[k] >= 0:
                stage[k, 15 + channel] = material_rgba[materials[k], channel]


@jit
def _light_up(lamps: Array, lights: Lights, camera: tuple, at: Array, along: Array, strength: tuple) -> int:
    """Write the lights in the camera's frame into lamps (L + 1, LAMP_COLUMNS); return how many there are.

    Columns: kind, position or direction to the light, axis, ambient, diffuse, attenuation, cone, has shadow.
    """
    count, (eye, look), (ambient, diffuse) = 0, camera, strength
    if lights.headlight.size:
        lamps[0] = 0
        lamps[0, 0], lamps[0, 3], count = DIRECTIONAL, -1, 1
        for i in range(6):
            lamps[0, 7 + i] = lights.headlight[i]
    for k in range(lights.indices.size):
        light, row = lights.indices[k], lamps[count]
        axis = in_camera(look, along[light, 0], along[light, 1], along[light, 2])
        p = in_camera(look, at[light, 0] - eye[0], at[light, 1] - eye[1], at[light, 2] - eye[2])
        is_directional = lights.kinds[k] == DIRECTIONAL
        row[0], row[16], row[17] = lights.kinds[k], lights.cone[k, 0], lights.cone[k, 1]
        row[18] = 1 if lights.has_shadow[k] else 0
        for i in range(3):
            row[1 + i], row[4 + i] = -axis[i] if is_directional else p[i], axis[i]
            row[7 + i], row[10 + i] = ambient[light, i], diffuse[light, i]
            row[13 + i] = lights.attenuation[k, i]
        count += 1
    return count


@inlined
def _unit_normals(rows: Array, columns: int) -> None:
    """Make the normals of a row unit, its light none and its texture white."""
    for j in range(columns):
        square = rows[0, j] * rows[0, j] + rows[1, j] * rows[1, j] + rows[2, j] * rows[2, j]
        scale = _ONE / np.sqrt(max(square, np.float32(1e-30)))
        rows[0, j] *= scale
        rows[1, j] *= scale
        rows[2, j] *= scale
        rows[LIGHT, j] = rows[LIGHT + 1, j] = rows[LIGHT + 2, j] = _ZERO
        rows[DYE, j] = rows[DYE + 1, j] = rows[DYE + 2, j] = _ONE


@jit
def _aim(line: tuple, lamp: Array) -> None:
    """Write the directions to a lamp, how strong it is and how much the surface faces it."""
    rows, x, z, y = line
    l0, l1, l2 = np.float32(lamp[1]), np.float32(lamp[2]), np.float32(lamp[3])
    u0, u1, u2 = np.float32(lamp[4]), np.float32(lamp[5]), np.float32(lamp[6])
    near, linear, square = np.float32(lamp[13]), np.float32(lamp[14]), np.float32(lamp[15])
    is_far, is_spot, cone = lamp[0] == DIRECTIONAL, lamp[0] == SPOT, np.float32(lamp[16])
    for j in range(x.size):
        t0 = l0 if is_far else l0 - x[j] * z[j]
        t1 = l1 if is_far else l1 - y * z[j]
        t2 = l2 if is_far else l2 - z[j]
        reach = np.sqrt(max(t0 * t0 + t1 * t1 + t2 * t2, np.float32(1e-20)))
        t0, t1, t2 = t0 / reach, t1 / reach, t2 / reach
        rows[TO, j], rows[TO + 1, j], rows[TO + 2, j] = t0, t1, t2
        inside = -(t0 * u0 + t1 * u1 + t2 * u2)
        strength = _ONE if is_far else _ONE / (near + (linear + square * reach) * reach)
        rows[POWER, j] = max(inside, _ZERO)
        rows[STRENGTH, j] = _ZERO if is_spot & (inside < cone) else strength
        rows[FACING, j] = max(t0 * rows[0, j] + t1 * rows[1, j] + t2 * rows[2, j], _ZERO)


@jit
def _focus(rows: Array, columns: int, exponent: float) -> None:
    """Weaken a spot light towards the edge of its cone."""
    whole = int(exponent)
    if whole == exponent and whole < 256:
        while whole > 0:
            if whole % 2:
                for j in range(columns):
                    rows[STRENGTH, j] *= rows[POWER, j]
            for j in range(columns):
                rows[POWER, j] *= rows[POWER, j]
            whole //= 2
        return
    for j in range(columns):
        rows[STRENGTH, j] *= rows[POWER, j] ** np.float32(exponent)


@jit
def _block(line: tuple, names: Array, lamp: Array, scene: tuple, stage: Array) -> None:
    """Take a lamp's light away where something stands before it."""
    rows, x, z, y = line
    for j in range(x.size):
        if names[j] < 0 or rows[STRENGTH, j] == 0:
            continue
        p, n = (x[j] * z[j], y * z[j], z[j]), (rows[0, j], rows[1, j], rows[2, j])
        reach = 1e9
        if lamp[0] != DIRECTIONAL:
            reach = math.sqrt((lamp[1] - p[0]) ** 2 + (lamp[2] - p[1]) ** 2 + (lamp[3] - p[2]) ** 2)
        to = (rows[TO, j], rows[TO + 1, j], rows[TO + 2, j])
        if rows[FACING, j] == 0 or is_shaded(scene, stage, p, n, to, reach):
            rows[STRENGTH, j] = _ZERO


@inlined
def _shine_from_afar(rows: Array, columns: int, lamp: Array) -> None:
    """Add the light of a directional lamp without shadow."""
    l0, l1, l2 = np.float32(lamp[1]), np.float32(lamp[2]), np.float32(lamp[3])
    a0, a1, a2 = np.float32(lamp[7]), np.float32(lamp[8]), np.float32(lamp[9])
    d0, d1, d2 = np.float32(lamp[10]), np.float32(lamp[11]), np.float32(lamp[12])
    for j in range(columns):
        facing = max(l0 * rows[0, j] + l1 * rows[1, j] + l2 * rows[2, j], _ZERO)
        rows[LIGHT, j] += a0 + facing * d0
        rows[LIGHT + 1, j] += a1 + facing * d1
        rows[LIGHT + 2, j] += a2 + facing * d2


@inlined
def _light(line: tuple, names: Array, lamps: Array, scene: tuple, stage: Array) -> None:
    """Add up the light of all lamps on a row."""
    rows, x = line[0], line[1]
    for k in range(lamps.shape[0]):
        if lamps[k, 0] == DIRECTIONAL and lamps[k, 18] == 0:
            _shine_from_afar(rows, x.size, lamps[k])
            continue
        _aim(line, lamps[k])
        if lamps[k, 0] == SPOT and lamps[k, 17] > 0:
            _focus(rows, x.size, lamps[k, 17])
        if lamps[k, 18] > 0:
            _block(line, names, lamps[k], scene, stage)
        for channel in range(3):
            ambient, diffuse = np.float32(lamps[k, 7 + channel]), np.float32(lamps[k, 10 + channel])
            for j in range(x.size):
                rows[LIGHT + channel, j] += rows[STRENGTH, j] * (ambient + rows[FACING, j] * diffuse)
    if lamps.shape[0] == 0:
        rows[LIGHT : LIGHT + 3] = _WITHOUT_LIGHTS


@inlined
def _run_end(names: Array, first: int) -> int:
    """Return the end of the pixels from `first` on that show one geom."""
    end = first + 1
    while end < names.size and names[end] == names[first]:
        end += 1
    return end


@inlined
def _fill(rows: Array, first: int, end: int, tint: tuple, glow: float) -> None:
    """Write the colour and the glow of a run."""
    r, g, b = rows[TINT, first:end], rows[TINT + 1, first:end], rows[TINT + 2, first:end]
    glows = rows[GLOW, first:end]
    for j in range(glows.size):
        r[j], g[j], b[j], glows[j] = tint[0], tint[1], tint[2], glow


@inlined
def _model(
    rows: Array, y: float, seen: Array, names: Array, scene: tuple, stage: Array, paint: tuple
) -> None:
    """Write the normals, colours and glow of a row, run by run."""
    looks, end = paint[0], 0
    while end < names.size:
        first, name, end = end, names[end], _run_end(names, end)
        # whole LANES are faster; what is written beyond the end is written again by the next run
        beyond = first + (end - first + LANES - 1) // LANES * LANES
        if name < 0:
            rows[:3, first:beyond] = _ZERO
            _fill(rows, first, beyond, (_ZERO, _ZERO, _ZERO), _ZERO)
            continue
        row, kind = stage[name], scene[0].kinds[name]
        tint = (np.float32(row[15]), np.float32(row[16]), np.float32(row[17]))
        _fill(rows, first, beyond, tint, np.float32(looks.emission[name]))
        if scene[0].meshes[name] >= 0:
            part = (rows[:, first:end], rows[X, first:end], rows[Z, first:end], y)
            normals = paint[1].normals
            mesh_normals(part, seen[first:end], row, scene[1].vertices, scene[1].faces, normals)
        elif kind in (BOX, ELLIPSOID):
            box_normals(rows, first, beyond, y, row, kind)
        else:
            round_normals(rows, first, beyond, y, row, kind)


@inlined
def _dye(
    line: tuple, seen: Array, names: Array, scene: tuple, stage: Array, paint: tuple, step: float
) -> None:
    """Write the textures of a row, run by run, once its normals are unit."""
    rows, x, z, y = line
    looks, end = paint[0], 0
    while end < names.size:
        first, name, end = end, names[end], _run_end(names, end)
        if name < 0 or looks.mappings[name] == PLAIN:
            continue
        part, texture = (rows[:, first:end], x[first:end], z[first:end], y), looks.textures[name]
        if looks.mappings[name] == WRAPPED:
            tables = (scene[1].vertices, scene[1].faces, paint[1].coordinates)
            often = (looks.repeat[name, 0], looks.repeat[name, 1])
            if looks.is_uniform[name]:
                often = (often[0] * stage[name, 12], often[1] * stage[name, 13])
            dye_wrapped_run(part, step, stage[name], seen[first:end], tables, paint[2], (texture, often))
        else:
            how = (scene[0].kinds[name], looks.mappings[name] == CUBED, looks.is_uniform[name])
            repeat = (looks.repeat[name, 0], looks.repeat[name, 1])
            dye_run(part, step, stage[name], how, repeat, paint[2], texture)


@inlined
def _write(rows: Array, channel: int, pixels: Array) -> None:
    """Write one channel of a row: glow and light, cut at 1, times the texture."""
    tint, light, dye, glow = rows[TINT + channel], rows[LIGHT + channel], rows[DYE + channel], rows[GLOW]
    for j in range(pixels.size):
        lit = min(tint[j] * (light[j] + glow[j]), _ONE)
        pixels[j] = np.uint8(np.int32(_FULL * lit * dye[j] + _HALF))


@jit
def shade(canvas: tuple, lens: Lens, scene: tuple, camera: tuple, n: int, out: tuple, paint: tuple) -> None:
    """Write the colours of world n, black where nothing is.

    Args:
        canvas: as drawn, see render_layers; its stage (S, STAGE_COLUMNS) and lamps (L + 1, LAMP_COLUMNS) are
            float64, its rows are those of the legend.
        lens: the camera's.
        scene: Shapes and Meshes.
        camera: its position and axes.
        n: the world.
        out: the buffer and how far apart worlds, channels and rows are.
        paint: Looks, Surfaces, Textures, Lights, then of the worlds (N or 1 rows) colours of geoms and
            materials, positions, directions, ambient and diffuse colours of lights.
    """
    pixels, world_stride, channel_stride, row_stride = out
    if pixels.size == 0:
        return
    rgba, material_rgba, at, along, ambient, diffuse = paint[4]
    strength = (ambient[min(n, ambient.shape[0] - 1)], diffuse[min(n, diffuse.shape[0] - 1)])
    rgba_n, material_n = rgba[min(n, rgba.shape[0] - 1)], material_rgba[min(n, material_rgba.shape[0] - 1)]
    stage = canvas[6]
    _paint(stage, scene[0].geoms, paint[0].materials, rgba_n, material_n)
    at_n, along_n = at[min(n, at.shape[0] - 1)], along[min(n, along.shape[0] - 1)]
    lamps = canvas[7][: _light_up(canvas[7], paint[3], camera, at_n, along_n, strength)]
    size, columns, rows = lens.x.size, lens.columns, canvas[8]
    z, seen = canvas[0].reshape(lens.rows, size), canvas[1].reshape(lens.rows, size)
    x, names = lens.x.reshape(size), canvas[5].reshape(lens.rows, size)
    for j in range(size):
        rows[X, j] = x[j]
    for i in range(lens.rows):
        for j in range(size):
            rows[Z, j] = z[i, j]
        y, named = np.float32(lens.top - i * lens.step), names[i, :columns]
        _model(rows, y, seen[i], named, scene, stage, paint)
        _unit_normals(rows, columns)
        line = (rows, rows[X, :columns], rows[Z, :columns], y)
        _light(line, named, lamps, scene, stage)
        _dye(line, seen[i], named, scene, stage, paint, lens.step)
        for channel in range(3):
            start = n * world_stride + channel * channel_stride + i * row_stride
            _write(rows, channel, pixels[start : start + columns])
