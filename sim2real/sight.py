"""Whether the live cameras are those of training: a short burst of pictures is judged before the robot moves.

Shapes: pictures (C, H, W), encoded as the CameraSpec says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robokd.export.sight import Sight, levels, metres
from robokd.specs import CameraSpec

FEWEST = 5  # pictures that can be judged
SLOWEST = 0.8  # share of the frame rate that a camera must keep
LONGEST_GAP = 4.0  # frame periods between two pictures
NOTHING = 0.995  # share of a picture that is missing, dark or saturated, from which on nothing is seen
MORE_MISSING, FAR_MORE_MISSING = 0.05, 0.25  # share of a picture beyond the most of training
LIKELY = 0.5  # of the distance, that undoing a mistake must leave at most to be named as the cause
UNITS = (1e3, 1e2, 10.0, 0.1, 0.01, 1e-3)  # depth as if of another unit
OTHER_RANGE = 1.3  # factor on the range of depth where episodes start


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about a camera that is not as the bundle says."""

    camera: str
    kind: str
    got: str
    wanted: str
    cure: str
    is_fatal: bool  # refused whatever `mismatch` says; otherwise `mismatch` decides

    def __str__(self) -> str:
        """Return one line."""
        return f"camera {self.camera}: {self.kind}: got {self.got}, wanted {self.wanted}; {self.cure}"


@dataclass(frozen=True, kw_only=True)
class Burst:
    """Pictures of one camera in a row, of about a second, while the robot stands still."""

    frames: Sequence[np.ndarray]  # as the driver gave them
    captured_s: Sequence[float]
    is_at_start: bool = True  # the robot stands within the start envelope
    flickers: bool = True  # a real sensor's pictures are never the same twice; False for a simulated one


def check(burst: Burst, spec: CameraSpec, optics: Mapping[str, float], sight: Sight) -> list[Finding]:
    """Return what is wrong with a camera; nothing when it is as in training.

    Args:
        burst: of the live camera.
        spec: of the bundle.
        optics: of the bundle: rate_hz.
        sight: of the bundle's statistics of this camera.
    """
    if wrong := _form(burst, spec):
        return wrong
    images = np.stack(burst.frames)
    found = [*_rate(burst, spec, optics), *_unit(images, burst, spec, sight)]
    if blind := _blind(images, spec):
        return [*found, *blind]
    found += _still(images, burst, spec, sight)
    return [*found, *_missing(images, spec, sight), *_unlike(images, spec, sight)]


def check_all(
    bursts: Mapping[str, Burst],
    specs: Mapping[str, CameraSpec],
    optics: Mapping[str, Mapping[str, float]],
    sights: Mapping[str, Sight],
) -> list[Finding]:
    """Return the findings of all cameras; two that are each other's are said to be swapped, and only that."""
    found = {name: check(bursts[name], specs[name], optics[name], sights[name]) for name in specs}
    names = list(specs)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            if not _are_swapped(bursts, specs, sights, (one, other)):
                continue
            for name, twin in ((one, other), (other, one)):
                found[name] = [row for row in found[name] if row.kind in ("rate", "gap", "clock", "frozen")]
                cure = f"exchange {one!r} and {other!r} in the driver's configuration"
                found[name].append(_fatal(name, "swapped", f"the pictures of {twin!r}", "its own", cure))
    return [row for rows in found.values() for row in rows]


def _form(burst: Burst, spec: CameraSpec) -> list[Finding]:
    """Return whether pictures are there at all, and are arrays as the contract says."""
    if len(burst.frames) < FEWEST:
        cure = "see that the camera is connected, and that its topic and frame rate are right"
        return [_fatal(spec.name, "silent", f"{len(burst.frames)} pictures", f">= {FEWEST}", cure)]
    wanted_type = np.dtype(spec.dtype)
    for image in burst.frames:
        if image.shape == spec.shape and image.dtype == wanted_type:
            continue
        got, wanted = f"{image.shape} {image.dtype}", f"{spec.shape} {wanted_type}"
        if image.dtype != wanted_type:
            cure = f"let the driver encode pictures as {spec.encoding}"
        elif image.shape[-1:] == spec.shape[:1] and image.shape[:2] == spec.shape[1:]:
            cure = "put channels first: (C, H, W)"
        else:
            cure = f"crop and resize to {spec.width}x{spec.height} as in the bundle's optics"
        return [_fatal(spec.name, "form", got, wanted, cure)]
    return []


def _rate(burst: Burst, spec: CameraSpec, optics: Mapping[str, float]) -> list[Finding]:
    times = np.asarray(burst.captured_s, np.float64)
    gaps, wanted = np.diff(times), float(optics["rate_hz"])
    if not np.isfinite(times).all() or (gaps <= 0).any():
        got = f"steps from {np.min(gaps):.4f} s" if np.isfinite(times).all() else "times that are not finite"
        cure = "stamp each picture once, when its light fell in, on the monotonic clock"
        return [_fatal(spec.name, "clock", got, "capture times that rise", cure)]
    found, rate = [], 1 / float(gaps.mean())
    if rate < SLOWEST * wanted:
        cure = "raise the camera's frame rate or shorten its exposure; look for a loaded bus or network"
        found.append(_fatal(spec.name, "rate", f"{rate:.1f} Hz", f">= {SLOWEST * wanted:.1f} Hz", cure))
    if gaps.max() > LONGEST_GAP / min(wanted, rate):
        got, limit = f"{gaps.max():.3f} s between two", f"<= {LONGEST_GAP / min(wanted, rate):.3f} s"
        cure = "look for dropped frames: bus, network, or a loaded core"
        found.append(_doubt(spec.name, "gap", got, limit, cure))
    return found


def _still(images: np.ndarray, burst: Burst, spec: CameraSpec, sight: Sight) -> list[Finding]:
    """Return whether a sensor that is never still gives the same picture again and again."""
    if not (burst.flickers or sight.data["flickers"]):
        return []
    same = int((images[1:] == images[:-1]).all(axis=(1, 2, 3)).sum())
    if same < len(images) - 1:
        return []
    cure = (
        "restart the camera: its driver repeats one picture under new times; "
        "a simulated camera without noise does the same"
    )
    return [_doubt(spec.name, "frozen", f"{len(images)} equal pictures", "noise between pictures", cure)]


def _blind(images: np.ndarray, spec: CameraSpec) -> list[Finding]:
    """Return whether there is nothing to see in most pictures."""
    planes, missing = levels(images, spec)
    grey = np.mean(planes, axis=0)
    if spec.is_depth:
        cure = (
            f"see that depth is planar and in metres before it is encoded (millimetres taken for metres lie "
            f"beyond {spec.far_m:g} m everywhere), and that nothing covers the lens"
        )
        if np.median(missing.mean((1, 2))) >= NOTHING:
            return [_fatal(spec.name, "blind", "misses only", "depth", cure)]
        seen = missing == 0
        if (grey[seen] <= 0).mean() >= NOTHING:
            cure = f"see that depth is in metres: all of it is nearer than {spec.near_m:g} m"
            return [_fatal(spec.name, "blind", "the nearest depth only", "depth", cure)]
        return []
    for name, share in (("black", (grey <= 0.02).mean((1, 2))), ("saturated", (grey >= 0.98).mean((1, 2)))):
        if np.median(share) >= NOTHING:
            cure = "look for a cap, a light that is off or too strong, and the exposure"
            return [_fatal(spec.name, "blind", f"{name} pictures", "something to see", cure)]
    return []


def _unit(images: np.ndarray, burst: Burst, spec: CameraSpec, sight: Sight) -> list[Finding]:
    """Return whether depth is as far as where episodes start, or a power of ten away."""
    usual = sight.data["start_m"]
    depths = metres(images, spec) if spec.is_depth else np.zeros(0)
    if not (burst.is_at_start and usual and depths.size):
        return []
    got, least, most = float(np.median(depths)), usual[0] / OTHER_RANGE, usual[1] * OTHER_RANGE
    what, wanted = f"a median of {got:.3g} m", f"{least:.3g} to {most:.3g} m, as where episodes start"
    if least <= got <= most:
        return []
    for factor in UNITS:
        if least <= got / factor <= most:
            cure = f"depth is {factor:g} times too large: give metres before it is encoded"
            return [_fatal(spec.name, "unit", what, wanted, cure)]
    cure = "see that the robot is in its start pose, and what stands in view"
    return [_doubt(spec.name, "range", what, wanted, cure)]


def _missing(images: np.ndarray, spec: CameraSpec, sight: Sight) -> list[Finding]:
    share = float(np.median(levels(images, spec)[1].mean((1, 2))))
    most = float(sight.data["missing"][-1])
    if share <= most + MORE_MISSING:
        return []
    cure = "look for sun, glass, a dirty lens or the wrong range; or train with a stronger corrupt="
    make = _fatal if share > most + FAR_MORE_MISSING else _doubt
    return [make(spec.name, "missing", f"{share:.0%} of the pixels", f"<= {most:.0%}, as in training", cure)]


def _unlike(images: np.ndarray, spec: CameraSpec, sight: Sight) -> list[Finding]:
    """Return whether the pictures are beyond what training saw, and what would bring them back."""
    distance = float(np.median(sight.distances(images)))
    if distance <= 1:
        return []
    undone = {name: float(np.median(sight.distances(undo(images)))) for name, undo in _undo(spec).items()}
    likely = [name for name in sorted(undone, key=undone.__getitem__) if undone[name] <= 1]
    got = f"{distance:.1f} limits from training's pictures"
    if likely and undone[likely[0]] <= LIKELY * distance:
        what = f"{got}, {undone[likely[0]]:.1f} if {likely[0]} were undone"
        cure = f"the pictures look {' or '.join(likely)}: set the driver right"
        return [_fatal(spec.name, likely[0], what, "<= 1", cure)]
    cure = "compare a live picture with training's: pose and focus of the camera, light, what stands in view"
    return [_doubt(spec.name, "unlike", got, "<= 1", cure)]


def _undo(spec: CameraSpec) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return how to undo what is sometimes done to pictures, by what they then are."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "upside down": lambda images: images[:, :, ::-1, ::-1],
        "flipped": lambda images: images[:, :, ::-1],
        "mirrored": lambda images: images[..., ::-1],
    }
    if spec.encoding == "rgb_u8":
        ways["BGR instead of RGB"] = lambda images: images[:, ::-1]
    if spec.encoding == "depth_u8":
        # codes 1 to 255 become 255 to 1, and a miss stays 0: modulo 256
        ways["inverted (disparity instead of depth)"] = lambda images: 0 - images
    return ways


def _are_swapped(
    bursts: Mapping[str, Burst],
    specs: Mapping[str, CameraSpec],
    sights: Mapping[str, Sight],
    pair: tuple[str, str],
) -> bool:
    """Return whether each camera's pictures are beyond its own training, but not beyond the other's."""
    one, other = pair
    if specs[one].shape != specs[other].shape or specs[one].dtype != specs[other].dtype:
        return False
    if _form(bursts[one], specs[one]) or _form(bursts[other], specs[other]):
        return False

    def apart(pictures: str, training: str) -> float:
        return float(np.median(sights[training].distances(np.stack(bursts[pictures].frames))))

    is_wrong = apart(one, one) > 1 or apart(other, other) > 1
    closer = all(apart(a, b) <= min(1.0, apart(b, b)) for a, b in ((one, other), (other, one)))
    return is_wrong and closer


def _fatal(camera: str, kind: str, got: str, wanted: str, cure: str) -> Finding:
    return Finding(camera=camera, kind=kind, got=got, wanted=wanted, cure=cure, is_fatal=True)


def _doubt(camera: str, kind: str, got: str, wanted: str, cure: str) -> Finding:
    return Finding(camera=camera, kind=kind, got=got, wanted=wanted, cure=cure, is_fatal=False)
