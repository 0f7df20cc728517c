# type: ignore  (warp compiles this: what it calls an array is none to pyright)
"""Warp kernels of sim=mjwarp: one world's blow-up kept from the others, and static geoms that a world moves.

Shapes: N worlds, S static geoms. No lazy annotations here: warp reads the types.
"""

import warp as wp

MAX_VALUE = wp.constant(1e10)  # mjMAXVAL: beyond it MuJoCo calls a state diverged


@wp.func
def _is_bad(values: wp.array2d[float], world: int) -> bool:
    worst = float(0.0)  # noqa: UP018  (warp: a number that changes)
    for index in range(values.shape[1]):
        worst += wp.abs(values[world, index])  # a sum keeps NaN, a maximum may not
    return not worst <= MAX_VALUE


@wp.kernel(enable_backward=False)
def arrest(
    qpos0: wp.array2d[float],
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    qacc: wp.array2d[float],
    act: wp.array2d[float],
    qacc_warmstart: wp.array2d[float],
    has_diverged: wp.array[bool],
) -> None:
    """Put worlds (N) that diverged to the default pose, at rest, and mark them."""
    world = wp.tid()
    if not (_is_bad(qpos, world) or _is_bad(qvel, world) or _is_bad(qacc, world) or _is_bad(act, world)):
        return
    has_diverged[world] = True
    for index in range(qpos.shape[1]):
        qpos[world, index] = qpos0[world % qpos0.shape[0], index]
    for index in range(qvel.shape[1]):
        qvel[world, index] = 0.0
        qacc[world, index] = 0.0
        qacc_warmstart[world, index] = 0.0
    for index in range(act.shape[1]):
        act[world, index] = 0.0


@wp.kernel(enable_backward=False)
def place_static(
    static_geoms: wp.array[int],
    geom_bodyid: wp.array[int],
    geom_pos: wp.array2d[wp.vec3],
    geom_quat: wp.array2d[wp.quat],
    xpos: wp.array2d[wp.vec3],
    xquat: wp.array2d[wp.quat],
    geom_xpos: wp.array2d[wp.vec3],
    geom_xmat: wp.array2d[wp.mat33],
) -> None:
    """Place geoms (N, S) that hang on the world itself; MuJoCo's quaternions begin with w, warp's end so."""
    world, index = wp.tid()
    geom = static_geoms[index]
    body = geom_bodyid[geom]
    a, b = xquat[world, body], geom_quat[world % geom_quat.shape[0], geom]
    turn = wp.quat(a[1], a[2], a[3], a[0])
    local = wp.quat(b[1], b[2], b[3], b[0])
    offset = geom_pos[world % geom_pos.shape[0], geom]
    geom_xpos[world, geom] = xpos[world, body] + wp.quat_rotate(turn, offset)
    geom_xmat[world, geom] = wp.quat_to_matrix(turn * local)
