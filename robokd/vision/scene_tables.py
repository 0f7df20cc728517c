"""What of a compiled model is drawn, as arrays for the kernels; what cannot be drawn is refused here.

Shapes: S geoms that are drawn, V vertices, F triangles, M meshes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robokd import UserError
from robokd.vision.base import SIZES, scene_camera_index

if TYPE_CHECKING:
    import mujoco

    from robokd.specs import CameraSpec

PLANE, HFIELD, SPHERE, CAPSULE, ELLIPSOID, CYLINDER, BOX, MESH = range(8)  # mjtGeom
DRAWN = {
    PLANE: "plane", HFIELD: "hfield", SPHERE: "sphere", CAPSULE: "capsule", ELLIPSOID: "ellipsoid",
    CYLINDER: "cylinder", BOX: "box", MESH: "mesh",
}  # fmt: skip
_DEFAULT_RGBA = np.array([0.5, 0.5, 0.5, 1], np.float32)  # MuJoCo's: a material counts, not this


class Shapes(NamedTuple):
    """The geoms that are drawn."""

    geoms: np.ndarray  # (S,) int64
    kinds: np.ndarray  # (S,) int64, mjtGeom
    meshes: np.ndarray  # (S,) int64, of the meshes and height fields; -1 = none


class Meshes(NamedTuple):
    """The triangles of a model, in the frames of their geoms."""

    vertices: np.ndarray  # (V, 3) float64, m
    faces: np.ndarray  # (F, 3) int64, of the vertices; counter-clockwise from outside
    first_vertex: np.ndarray  # (M + 1,) int64
    first_face: np.ndarray  # (M + 1,) int64
    bounds: np.ndarray  # (M, 6) float64, m: centre and half size of the box around a mesh


def shown_rgba(model: mujoco.MjModel) -> np.ndarray:
    """Return the colour of all geoms: the material's unless the geom has one of its own."""
    rgba, material = model.geom_rgba.copy(), model.geom_matid
    lent = (material >= 0) & (rgba == _DEFAULT_RGBA).all(axis=1)
    rgba[lent] = model.mat_rgba[material[lent]]
    return rgba


def visible(model: mujoco.MjModel, hidden_groups: Sequence[int]) -> np.ndarray:
    """Return the indices of the geoms to draw; raises UserError if some cannot be."""
    shown = ~np.isin(model.geom_group, hidden_groups) & (shown_rgba(model)[:, 3] > 0)
    geoms = np.flatnonzero(shown).astype(np.int64)
    unknown = [geom for geom in geoms.tolist() if int(model.geom_type[geom]) not in DRAWN]
    drawn = f"it draws {', '.join(DRAWN.values())}. Geom groups {list(hidden_groups)} are skipped"
    _refuse(model, unknown, "cannot draw geoms", drawn, kind={8: "sdf"})
    if model.nflex or model.nskin:
        raise UserError(
            f"renderer=raster cannot draw the scene's {model.nflex} flexes and {model.nskin} skins"
        )
    empty = [g for g in geoms.tolist() if not _has_size(int(model.geom_type[g]), model.geom_size[g])]
    _refuse(model, empty, "cannot draw geoms without a size", "sizes must be > 0 and finite")
    poses = np.concatenate([model.geom_pos, model.geom_quat], axis=1)
    lost = [geom for geom in geoms.tolist() if not np.isfinite(poses[geom]).all()]
    _refuse(model, lost, "cannot draw geoms without a place", "their position and quaternion must be finite")
    return geoms


def camera_index(model: mujoco.MjModel, camera: CameraSpec) -> int:
    """Return the index of a camera of the scene; UserError if there is none of this kind, or no pose."""
    index, name = scene_camera_index(model, camera), camera.scene_camera
    position, quaternion = model.cam_pos[index], model.cam_quat[index]
    if not np.isfinite((*position, *quaternion)).all():
        got = f"position {position.tolist()}, quaternion {quaternion.tolist()}"
        raise UserError(f"camera {name!r}: its pose must be finite, got {got}")
    return index


def tables(model: mujoco.MjModel, geoms: np.ndarray) -> tuple[Shapes, Meshes, list[tuple[int, int]]]:
    """Return the geoms and triangles to draw, and for each mesh (mjtGeom, index in the model)."""
    kinds = model.geom_type[geoms].astype(np.int64)
    is_mesh = np.isin(kinds, (HFIELD, MESH))
    data = model.geom_dataid[geoms]
    sources = sorted(
        {(int(kind), int(index)) for kind, index in zip(kinds[is_mesh], data[is_mesh], strict=False)}
    )
    which = [
        sources.index((int(kind), int(index))) if meshed else -1
        for kind, index, meshed in zip(kinds, data, is_mesh, strict=False)
    ]
    parts = [mesh_triangles(model, i) if kind == MESH else hfield_triangles(model, i) for kind, i in sources]
    vertices = [vertex for vertex, _ in parts]
    first_vertex = np.cumsum([0, *map(len, vertices)])
    faces = [face + first_vertex[index] for index, (_, face) in enumerate(parts)]
    ends = [(vertex.min(axis=0), vertex.max(axis=0)) for vertex in vertices]
    bounds = [np.concatenate([(low + high) / 2, (high - low) / 2]) for low, high in ends]
    meshes = Meshes(
        np.concatenate([np.empty((0, 3)), *vertices]),
        np.concatenate([np.empty((0, 3), np.int64), *faces]),
        first_vertex.astype(np.int64),
        np.cumsum([0, *map(len, faces)]).astype(np.int64),
        np.array(bounds, np.float64).reshape(-1, 6),
    )
    return Shapes(geoms, kinds, np.array(which, np.int64)), meshes, sources


def mesh_triangles(model: mujoco.MjModel, mesh: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices (V, 3) and triangles (F, 3) of a mesh, in its geoms' frame."""
    vertex, face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    vertices = model.mesh_vert[vertex : vertex + model.mesh_vertnum[mesh]].astype(np.float64)
    return vertices, model.mesh_face[face : face + model.mesh_facenum[mesh]].astype(np.int64)


def hfield_triangles(model: mujoco.MjModel, hfield: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices (V, 3) and triangles (F, 3) of a height field as MuJoCo draws it.

    A cell's two triangles meet along the diagonal from its lowest to its highest row and column.
    """
    rows, columns = int(model.hfield_nrow[hfield]), int(model.hfield_ncol[hfield])
    half_x, half_y, top, bottom = model.hfield_size[hfield]
    start = model.hfield_adr[hfield]
    height = model.hfield_data[start : start + rows * columns].reshape(rows, columns) * top
    x, y = np.meshgrid(np.linspace(-half_x, half_x, columns), np.linspace(-half_y, half_y, rows))
    surface = np.stack([x, y, height], axis=-1).reshape(-1, 3)
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    cells = np.concatenate([_triples(a, b, c), _triples(a, c, d)])
    rim = np.concatenate([index[0, :-1], index[:-1, -1], index[-1, :0:-1], index[:0:-1, 0]])
    foot = rows * columns + np.arange(len(rim))
    next_rim, next_foot = np.roll(rim, -1), np.roll(foot, -1)
    sides = np.concatenate([_triples(foot, next_foot, next_rim), _triples(foot, next_rim, rim)])
    low = rows * columns + np.array([0, columns - 1, columns + rows - 2, 2 * columns + rows - 3])
    base = low[[[0, 2, 1], [0, 3, 2]]]
    feet = surface[rim] * (1, 1, 0) - (0, 0, bottom)
    return np.concatenate([surface, feet]), np.concatenate([cells, sides, base]).astype(np.int64)


def _triples(*corners: np.ndarray) -> np.ndarray:
    return np.stack([corner.ravel() for corner in corners], axis=1)


def _has_size(kind: int, size: np.ndarray) -> bool:
    return bool(np.isfinite(size).all() and (size[: SIZES.get(kind, 0)] > 0).all())


def _refuse(
    model: mujoco.MjModel, geoms: Sequence[int], what: str, wanted: str, kind: dict[int, str] | None = None
) -> None:
    """Raise UserError if there are geoms, with their names and kinds."""
    if not geoms:
        return
    kinds = {**DRAWN, **(kind or {})}
    names = [
        f"{model.geom(geom).name or f'#{geom}'} ({kinds.get(int(model.geom_type[geom]), 'unknown')})"
        for geom in geoms[:8]
    ]
    more = " ..." if len(geoms) > 8 else ""
    raise UserError(f"renderer=raster {what} {', '.join(names)}{more}: {wanted}")
