"""What of a compiled model gives an image its colours, as arrays for the kernels; the rest is refused here.

Shapes: S geoms that are drawn, F triangles, L lights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from robokd import UserError
from robokd.vision.scene_tables import HFIELD, MESH, Meshes, Shapes, shown_rgba

if TYPE_CHECKING:
    import mujoco

    from robokd.vision.shading import Lights, Looks, Surfaces

_RGB = 1  # mjtTextureRole
_SKYBOX = 2  # mjtTexture
_IMAGE_LIGHT = 3  # mjtLightType
_OPAQUE = 0.995  # alpha from which on MuJoCo blends nothing
_SHARP = 0.8  # cosine between a corner's normal and its triangle's, under which MuJoCo takes the triangle's


def check_colours(model: mujoco.MjModel, shapes: Shapes) -> None:
    """Raise UserError for what has no colour here: see-through geoms, skyboxes, other lights and textures."""
    seen_through = shapes.geoms[shown_rgba(model)[shapes.geoms, 3] < _OPAQUE]
    if seen_through.size:
        names = ", ".join(model.geom(int(geom)).name or f"#{geom}" for geom in seen_through[:8])
        raise UserError(
            f"renderer=raster cannot draw the colours of see-through geoms {names}: alpha must be "
            f">= {_OPAQUE}, or 0 to hide them"
        )
    for texture in range(model.ntex):
        name = model.texture(texture).name or f"#{texture}"
        if model.tex_type[texture] == _SKYBOX:
            raise UserError(
                f"renderer=raster cannot draw the skybox {name}: leave it out, the background is black then"
            )
    images = [k for k in range(model.nlight) if model.light_active[k] and model.light_type[k] == _IMAGE_LIGHT]
    if images:
        name = model.light(images[0]).name or f"#{images[0]}"
        raise UserError(
            f"renderer=raster cannot draw the image light {name}: it draws directional, spot, point"
        )


def make_looks(model: mujoco.MjModel, shapes: Shapes) -> tuple[Looks, list[int]]:
    """Return what the geoms are made of, and the textures to load, in the order of their numbers."""
    from robokd.vision.patterns import CUBED, FLAT, PLAIN, WRAPPED
    from robokd.vision.shading import Looks

    materials = model.geom_matid[shapes.geoms].astype(np.int64)
    has_material = materials >= 0
    texture = np.full(materials.shape, -1, np.int64)
    if model.nmat:
        roles = model.mat_texid.reshape(model.nmat, -1)
        texture[has_material] = roles[materials[has_material], _RGB]
    used = sorted({int(index) for index in texture if index >= 0})
    mapping = np.full(materials.shape, PLAIN, np.int64)
    for k in np.flatnonzero(texture >= 0):
        geom, index = int(shapes.geoms[k]), int(texture[k])
        is_wrapped = shapes.kinds[k] == MESH and model.mesh_texcoordadr[model.geom_dataid[geom]] >= 0
        is_cube = bool(model.tex_type[index])
        channels = int(model.tex_nchannel[index])
        if (is_wrapped and is_cube) or channels not in ((3,) if is_cube else (3, 4)):
            got = f"a {'cube' if is_cube else '2d'} texture of {channels} channels"
            wanted = "2d ones of 3 or 4 channels, and cubes of 3 on geoms without texture coordinates"
            name = model.geom(geom).name or f"#{geom}"
            raise UserError(f"renderer=raster cannot draw {got} on geom {name}: it draws {wanted}")
        if shapes.kinds[k] == 0 and (model.geom_size[geom, :2] > 0).sum() == 1:
            name = model.geom(geom).name or f"#{geom}"
            raise UserError(
                f"renderer=raster cannot draw a texture on the plane {name}, which ends in one direction "
                "only: give it both sizes or neither"
            )
        mapping[k] = WRAPPED if is_wrapped else CUBED if is_cube else FLAT
        texture[k] = used.index(index)
    lent = np.where(has_material, materials, 0)
    emission, repeat, uniform = np.zeros(len(materials)), np.ones((len(materials), 2)), ~has_material
    if model.nmat:
        emission = np.where(has_material, model.mat_emission[lent], 0.0)
        repeat = model.mat_texrepeat[lent]
        uniform = model.mat_texuniform[lent]
    looks = Looks(
        materials,
        emission.astype(np.float64),
        mapping,
        texture,
        repeat.astype(np.float64),
        uniform.astype(bool),
    )
    return looks, used


def make_surfaces(model: mujoco.MjModel, meshes: Meshes, sources: Sequence[tuple[int, int]]) -> Surfaces:
    """Return the normals and texture coordinates at the triangles' corners; sources: (mjtGeom, index)."""
    from robokd.vision.shading import Surfaces

    corners = meshes.vertices[meshes.faces]  # (F, 3, 3)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    flat /= np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-30)
    normals = np.repeat(flat[:, None], 3, axis=1)
    coordinates = np.zeros((*normals.shape[:2], 2))
    for k, (kind, mesh) in enumerate(sources):
        if kind == HFIELD:
            continue
        here = slice(meshes.first_face[k], meshes.first_face[k + 1])
        there = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
        own = model.mesh_normal[model.mesh_facenormal[there] + model.mesh_normaladr[mesh]]
        address = model.mesh_texcoordadr[mesh]
        if address >= 0:
            coordinates[here] = model.mesh_texcoord[model.mesh_facetexcoord[there] + address]
            normals[here] = own
        else:
            is_sharp = (own * normals[here]).sum(axis=-1, keepdims=True) < _SHARP
            normals[here] = np.where(is_sharp, normals[here], own)
    return Surfaces(normals.astype(np.float32), coordinates.astype(np.float32))


def make_lights(model: mujoco.MjModel, has_shadows: bool) -> Lights:
    """Return the lights that shine; the headlight looks along the camera."""
    from robokd.vision.shading import DIRECTIONAL, Lights

    indices = np.flatnonzero(model.light_active).astype(np.int64)
    kinds = model.light_type[indices].astype(np.int64)
    cosine = np.cos(np.radians(model.light_cutoff[indices]))
    lamp = model.vis.headlight
    headlight = np.concatenate([lamp.ambient, lamp.diffuse]) if lamp.active else np.empty(0)
    shadow = has_shadows & (model.light_castshadow[indices] != 0)
    attenuation = np.where((kinds == DIRECTIONAL)[:, None], (1.0, 0, 0), model.light_attenuation[indices])
    return Lights(
        indices, kinds, attenuation.astype(np.float64),
        np.stack([cosine, model.light_exponent[indices]], axis=1).astype(np.float64), shadow,
        headlight.astype(np.float64),
    )  # fmt: skip
