# type: ignore  (warp compiles this: what it calls an array is none to pyright)
"""The primitive rasteriser by Warp: which shapes a tile may show, then which of them a pixel shows.

It draws what primitives.py and triangles.py draw, depth and segments. A ray is d = (x, y, 1) in the camera's
frame, so that its parameter is planar depth. A shape is first missed or met as the ball around it, by the
cone around a tile and by the ray; then it is met in its own frame, from the ray's point nearest to its
middle: all numbers are of the shape's size, and float32 is enough. Who is inside of a solid looks out of it.

Legend: o middle seen from the eye, d ray, both in the world's frame; q + t v the ray in a shape's frame; an
interval is (where it enters, where it leaves).
Shapes: N worlds, G geoms, C cameras of the scene, S shapes that are drawn.
No lazy annotations here: warp reads the types.
"""

import warp as wp

from robokd.vision.scene_tables import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE

wp.set_module_options({"enable_backward": False, "fuse_fp": False})  # encode.encode does not fuse either

TILE = 8  # pixels, a side
BITS = 32  # shapes of a word
TARGETS = 8  # pictures of a launch; the arguments of a kernel have a fixed size
CODES, HALVES, METRES, SEGMENTS = 0, 1, 2, 3  # what a picture holds: uint8, float16, float32, int16
_NOTHING = wp.inf
_TINY = 1e-12  # so that a ray along a face divides by something
_SLACK = 1.0001  # of the ball around a shape, or rounding would cut its edge
_WIDER = 1.01  # the same of the cone around a tile

Indices = wp.types.vector(length=TARGETS, dtype=wp.int32)
Addresses = wp.types.vector(length=TARGETS, dtype=wp.uint64)


@wp.struct
class Shape:
    """A geom that is drawn."""

    geom: int
    kind: int  # mjtGeom
    reach: float  # m, around the origin of a mesh or height field; 0 = its size tells
    mesh: wp.uint64  # wp.Mesh of these


@wp.struct
class View:
    """A camera's lens and encoding."""

    camera: int  # of the scene
    width: int
    height: int
    step: float  # between pixels at depth 1
    fovy: float  # degrees, of the scene's camera: a world with another one has its own lens
    near: float  # m
    far: float  # m
    codes: float  # of depth_u8, per metre
    words: int  # where in a row of masks those of its tiles begin


@wp.struct
class Worlds:
    """Where things are: rows are worlds; of sizes and fields of view there may be one row that all share."""

    geom_xpos: wp.array2d[wp.vec3]
    geom_xmat: wp.array2d[wp.mat33]
    geom_size: wp.array2d[wp.vec3]
    cam_xpos: wp.array2d[wp.vec3]
    cam_xmat: wp.array2d[wp.mat33]
    cam_fovy: wp.array2d[float]


@wp.struct
class Targets:
    """Where pictures go: in each, pixels of a row are neighbours."""

    view: Indices
    kind: Indices  # CODES, HALVES, METRES or SEGMENTS
    address: Addresses
    world_bytes: Addresses  # from a world's picture to the next one's
    row_bytes: Addresses


@wp.func
def _reach(shape: Shape, size: wp.vec3) -> float:
    """Return the radius of the ball around a solid."""
    if shape.reach > 0.0:
        return shape.reach
    if shape.kind == SPHERE:
        return size[0]
    if shape.kind == CAPSULE:
        return (size[0] + size[1]) * _SLACK
    if shape.kind == ELLIPSOID:
        return wp.max(size) * _SLACK
    if shape.kind == CYLINDER:
        return wp.sqrt(size[0] * size[0] + size[1] * size[1]) * _SLACK
    return wp.length(size) * _SLACK


@wp.func
def _both(a: wp.vec2, b: wp.vec2) -> wp.vec2:
    """Return the interval that two have in common."""
    return wp.vec2(wp.max(a[0], b[0]), wp.min(a[1], b[1]))


@wp.func
def _enter(interval: wp.vec2) -> float:
    if interval[0] <= interval[1]:
        return interval[0]
    return _NOTHING


@wp.func
def _slab(q: float, v: float, half: float) -> wp.vec2:
    """Return the interval in which |q + t v| <= half."""
    inverse = 1.0 / (v + _TINY)
    a, b = (-half - q) * inverse, (half - q) * inverse
    return wp.vec2(wp.min(a, b), wp.max(a, b))


@wp.func
def _tube(q: wp.vec3, v: wp.vec3, radius: float) -> wp.vec2:
    """Return the interval inside of an endless cylinder along z."""
    along = wp.max(v[0] * v[0] + v[1] * v[1], _TINY)
    middle = -(q[0] * v[0] + q[1] * v[1]) / along
    x, y = q[0] + middle * v[0], q[1] + middle * v[1]
    gap = radius * radius - (x * x + y * y)
    if gap < 0.0:
        return wp.vec2(_NOTHING, -_NOTHING)
    half = wp.sqrt(gap / along)
    return wp.vec2(middle - half, middle + half)


@wp.func
def _ball(q: wp.vec3, v: wp.vec3, radius: float) -> float:
    """Return where the ray enters a ball around the origin."""
    along = wp.dot(v, v)
    middle = -wp.dot(q, v) / along
    nearest = q + middle * v
    gap = radius * radius - wp.dot(nearest, nearest)
    if gap < 0.0:
        return _NOTHING
    return middle - wp.sqrt(gap / along)


@wp.func
def _capsule(q: wp.vec3, v: wp.vec3, size: wp.vec3) -> float:
    """Return where the ray enters a capsule: by its side, or by the end on which it enters the tube."""
    side = _tube(q, v, size[0])
    if side[0] > side[1]:
        return _NOTHING
    z = q[2] + side[0] * v[2]
    if wp.abs(z) <= size[1]:
        return side[0]
    return _ball(q - wp.vec3(0.0, 0.0, wp.sign(z) * size[1]), v, size[0])


@wp.func
def _mesh(mesh: wp.uint64, q: wp.vec3, v: wp.vec3, begin: float, end: float) -> float:
    """Return where the ray first meets the front of a triangle between begin and end."""
    t, found = float(begin), float(_NOTHING)
    while t < end:
        hit = wp.mesh_query_ray(mesh, q + t * v, v, end - t)
        if not hit.result:
            t = end
        elif hit.sign > 0.0:
            found = t + hit.t
            t = end
        else:  # a back is looked through
            t = t + hit.t + 1e-5 * (end - begin)
    return found


@wp.func
def _plane(o: wp.vec3, d: wp.vec3, turn: wp.mat33, size: wp.vec3) -> float:
    """Return where the ray meets the front of a rectangle; a side of size 0 has no end."""
    eye, v = -(wp.transpose(turn) * o), wp.transpose(turn) * d
    if eye[2] <= 0.0 or v[2] >= 0.0:
        return _NOTHING
    t = -eye[2] / v[2]
    x, y = wp.abs(eye[0] + t * v[0]), wp.abs(eye[1] + t * v[1])
    if (size[0] > 0.0 and x > size[0]) or (size[1] > 0.0 and y > size[1]):
        return _NOTHING
    return t


@wp.func
def _meet(
    shape: Shape, worlds: Worlds, world: int, eye: wp.vec3, d: wp.vec3, inverse: float, nearest: float
) -> float:
    """Return the depth at which a ray meets a shape; _NOTHING or <= 0 if it does not before nearest.

    `inverse` is 1 / d.d. Most shapes are missed, and of these no axes are read.
    """
    o = worlds.geom_xpos[world, shape.geom] - eye
    size = worlds.geom_size[world % worlds.geom_size.shape[0], shape.geom]
    if shape.kind == PLANE:
        return _plane(o, d, worlds.geom_xmat[world, shape.geom], size)
    middle, reach = wp.dot(o, d) * inverse, _reach(shape, size)
    beside = o - middle * d
    gap = reach * reach - wp.dot(beside, beside)
    if gap < 0.0:
        return _NOTHING
    half = wp.sqrt(gap * inverse)
    if middle + half <= 0.0 or middle - half >= nearest:
        return _NOTHING
    if shape.kind == SPHERE:
        return middle - half
    turned = wp.transpose(worlds.geom_xmat[world, shape.geom])
    q, v = -(turned * beside), turned * d
    if shape.kind == BOX:
        across = _both(_slab(q[0], v[0], size[0]), _slab(q[1], v[1], size[1]))
        return middle + _enter(_both(across, _slab(q[2], v[2], size[2])))
    if shape.kind == CYLINDER:
        return middle + _enter(_both(_tube(q, v, size[0]), _slab(q[2], v[2], size[1])))
    if shape.kind == CAPSULE:
        return middle + _capsule(q, v, size)
    if shape.kind == ELLIPSOID:
        return middle + _ball(wp.cw_div(q, size), wp.cw_div(v, size), 1.0)
    begin, end = wp.max(-middle, -half), wp.min(nearest - middle, half)
    return middle + _mesh(shape.mesh, q, v, begin, end)


@wp.func
def _write(kind: int, row: wp.uint64, width: int, column: int, view: View, depth: float, geom: int) -> None:
    """Write a pixel, as encode.encode does."""
    is_hit = depth <= view.far
    near = wp.max(depth, view.near)
    if kind == CODES:
        codes = wp.array(ptr=row, shape=(width,), dtype=wp.uint8)
        codes[column] = wp.uint8(wp.where(is_hit, int((near - view.near) * view.codes + 1.5), 0))
    elif kind == HALVES:
        halves = wp.array(ptr=row, shape=(width,), dtype=wp.float16)
        halves[column] = wp.float16(wp.where(is_hit, near, 0.0))
    elif kind == METRES:
        metres = wp.array(ptr=row, shape=(width,), dtype=wp.float32)
        metres[column] = wp.where(is_hit, depth, 0.0)
    else:
        segments = wp.array(ptr=row, shape=(width,), dtype=wp.int16)
        segments[column] = wp.int16(wp.where(is_hit, geom, -1))


@wp.func
def _ray(view: View, worlds: Worlds, world: int, row: float, column: float) -> wp.vec3:
    """Return the ray of a pixel, or of a point between pixels, in the world's frame."""
    step = view.step
    fovy = worlds.cam_fovy[world % worlds.cam_fovy.shape[0], view.camera]
    if fovy != view.fovy:
        step = 2.0 * wp.tan(wp.radians(fovy) / 2.0) / float(view.height)
    x = step * (column - 0.5 * float(view.width - 1))
    y = step * (0.5 * float(view.height - 1) - row)
    return worlds.cam_xmat[world, view.camera] * wp.vec3(x, y, -1.0)


@wp.kernel(grid_stride=False)
def choose(
    shapes: wp.array[Shape], views: wp.array[View], worlds: Worlds, targets: Targets,
    masks: wp.array2d[wp.uint32],
) -> None:  # fmt: skip
    """Write which shapes each tile may show; dim = (N, pictures, tiles of the largest)."""
    world, target, tile = wp.tid()
    view = views[targets.view[target]]
    across = (view.width + TILE - 1) // TILE
    if tile >= across * ((view.height + TILE - 1) // TILE):
        return
    half = 0.5 * float(TILE - 1)
    row, column = float(tile // across * TILE) + half, float(tile % across * TILE) + half
    axis = wp.normalize(_ray(view, worlds, world, row, column))
    sine = float(0.0)  # noqa: UP018  (warp: a number that changes)
    for corner in range(4):
        down, right = half * float(corner // 2 * 2 - 1), half * float(corner % 2 * 2 - 1)
        edge = wp.normalize(_ray(view, worlds, world, row + down, column + right))
        sine = wp.max(sine, wp.length(edge - wp.dot(edge, axis) * axis))
    sine = wp.min(sine * _WIDER, 1.0)
    cosine, eye = wp.sqrt(1.0 - sine * sine), worlds.cam_xpos[world, view.camera]
    words = (shapes.shape[0] + BITS - 1) // BITS
    for word in range(words):
        mask = wp.uint32(0)
        for index in range(word * BITS, wp.min(word * BITS + BITS, shapes.shape[0])):
            shape = shapes[index]
            size = worlds.geom_size[world % worlds.geom_size.shape[0], shape.geom]
            o = worlds.geom_xpos[world, shape.geom] - eye
            along = wp.dot(o, axis)
            beside = wp.length(o - along * axis)
            if shape.kind == PLANE or beside * cosine - along * sine <= _reach(shape, size) * _WIDER:
                mask = mask | (wp.uint32(1) << wp.uint32(index - word * BITS))
        masks[world, view.words + tile * words + word] = mask


@wp.kernel(grid_stride=False)
def draw(
    shapes: wp.array[Shape], views: wp.array[View], worlds: Worlds, targets: Targets,
    masks: wp.array2d[wp.uint32],
) -> None:  # fmt: skip
    """Draw the pictures of `targets` in all worlds; dim = (N, pictures, tiles of the largest, TILE^2)."""
    world, target, tile, pixel = wp.tid()
    view = views[targets.view[target]]
    across = (view.width + TILE - 1) // TILE
    row, column = tile // across * TILE + pixel // TILE, tile % across * TILE + pixel % TILE
    if row >= view.height or column >= view.width:
        return
    d, eye = _ray(view, worlds, world, float(row), float(column)), worlds.cam_xpos[world, view.camera]
    inverse = 1.0 / wp.dot(d, d)
    depth, geom = float(_NOTHING), int(-1)  # noqa: UP018, RUF046  (warp: a number that changes)
    words = (shapes.shape[0] + BITS - 1) // BITS
    for word in range(words):
        mask = masks[world, view.words + tile * words + word]
        while mask != wp.uint32(0):
            lower = mask - wp.uint32(1)
            shape = shapes[word * BITS + int(wp.bit_count(~mask & lower))]  # of the lowest bit
            t = _meet(shape, worlds, world, eye, d, inverse, depth)
            if t > 0.0 and t < depth:
                depth = t
                geom = shape.geom
            mask = mask & lower
    address = targets.address[target]
    address += wp.uint64(world) * targets.world_bytes[target] + wp.uint64(row) * targets.row_bytes[target]
    _write(targets.kind[target], address, view.width, column, view, depth, geom)
