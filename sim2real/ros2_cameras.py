"""Cameras that publish sensor_msgs/Image, and how such a picture becomes what a policy sees.

Nothing is scaled: a picture of another size than the policy was trained on is refused. So is a camera whose
CameraInfo tells of another lens (calibration.py); one that tells nothing is warned of.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
from robokd.sim2real.calibration import check_lens, corner, is_calibrated
from robokd.sim2real.cdr import Content, decode
from robokd.sim2real.dds import ArrivalTimes, MonotonicStamps, Participant, Reader, Sample
from robokd.sim2real.robot import Frame
from robokd.sim2real.ros2_types import CAMERA_INFO, IMAGE, header, nanoseconds_of

from robokd import UserError
from robokd.export.bundle import Bundle
from robokd.specs import CameraSpec
from robokd.vision.encode import decode as metres_of
from robokd.vision.encode import encode as encoded

CLOCK_SLACK_S = 0.02  # so far ahead of ours a sender's clock may be
CLOCKS_DIFFER = (
    "the clocks differ: synchronise them (NTP, PTP), or take the time of arrival with robot.stamp=arrival"
)
LATEST_S = 1.0  # so old the first picture may be
# for the writer of a CameraInfo to be found once there are pictures; most often it is the same node's
FIND_INFO_S = 0.3
UNCHECKED = "its intrinsics are not checked"

# encoding of a message -> type of a number, numbers of a pixel, and what it becomes: (H, W, C) -> (H, W, C)
Convert = Callable[[np.ndarray, CameraSpec], np.ndarray]
DEPTHS: dict[str, tuple[str, int, Convert]] = {
    "16UC1": ("<u2", 1, lambda raw, spec: encoded(raw.astype(np.float32) * np.float32(1e-3), spec)),  # mm
    "32FC1": ("<f4", 1, encoded),  # m
}
COLOURS: dict[str, tuple[str, int, Convert]] = {
    "rgb8": ("|u1", 3, lambda raw, spec: raw),
    "bgr8": ("|u1", 3, lambda raw, spec: raw[..., ::-1]),
    "mono8": ("|u1", 1, lambda raw, spec: np.repeat(raw, 3, axis=2)),
}
READABLE = {"depth_u8": DEPTHS, "depth_f16": DEPTHS, "rgb_u8": COLOURS}


def picture(content: Content, spec: CameraSpec, crop: list[int] | None = None) -> np.ndarray:
    """Return an Image message as (C, H, W) of a camera's encoding; ValueError where it is not what it needs.

    Args:
        content: the message.
        spec: of the camera.
        crop: (x, y, width, height) of the message's picture that the policy sees; None for all of it.
    """
    known = READABLE[spec.encoding]
    if content["encoding"] not in known:
        wanted = f"a policy that sees {spec.encoding} wants {' or '.join(known)}"
        raise ValueError(f"camera {spec.name}: the encoding is {content['encoding']!r}, {wanted}")
    number, channels, convert = known[content["encoding"]]
    width, height, step = content["width"], content["height"], content["step"]
    x, y = corner(crop, spec, width, height)
    dtype = np.dtype(number).newbyteorder(">" if content["is_bigendian"] else "<")
    row = width * channels * dtype.itemsize
    if step < row or len(content["data"]) != height * step:
        got = f"{len(content['data'])} bytes in {height} rows of {step}"
        raise ValueError(f"camera {spec.name}: wanted {height} rows of {row} bytes or more, got {got}")
    rows = content["data"].reshape(height, step)[:, :row]
    pixels = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    seen = pixels[y : y + spec.height, x : x + spec.width]
    return np.ascontiguousarray(convert(seen, spec).transpose(2, 0, 1))


def image(frame: Frame, spec: CameraSpec, stamp_ns: int) -> Content:
    """Return a camera's picture as an Image message: depth as 32FC1 metres, colour as rgb8."""
    if spec.encoding not in READABLE:
        raise UserError(f"camera {spec.name}: ROS has no encoding for {spec.encoding}")
    pixels = frame.image.transpose(1, 2, 0)
    if spec.is_depth:
        pixels = metres_of(pixels, spec)
    height, width, channels = pixels.shape
    row = width * channels * pixels.itemsize
    return {
        "header": header(stamp_ns, spec.name), "height": height, "width": width,
        "encoding": "32FC1" if spec.is_depth else "rgb8", "is_bigendian": 0, "step": row,
        "data": np.frombuffer(np.ascontiguousarray(pixels).tobytes(), np.uint8),
    }  # fmt: skip


class Ros2Cameras:
    """The Cameras protocol over Image topics, one of `topics` and of `infos` (CameraInfo) for each camera."""

    def __init__(
        self, bundle: Bundle, topics: Mapping[str, str], infos: Mapping[str, str], *, interface: str,
        domain: int, timeout_s: float, is_stamped: bool,
    ) -> None:  # fmt: skip
        self._specs, self._topics, self._infos = bundle.cameras, topics, infos
        self._optics = bundle.manifest["optics"]
        if odd := [spec for spec in self._specs.values() if spec.encoding not in READABLE]:
            raise UserError(f"camera {odd[0].name}: no ROS camera sends {odd[0].encoding}")
        self._interface, self._domain, self._timeout_s = interface, domain, timeout_s
        self._is_stamped, self._stamps = is_stamped, MonotonicStamps()
        self._arrivals = ArrivalTimes()
        self._participant: Participant | None = None
        self._readers: dict[str, Reader] = {}
        self._waiting: list[Frame] = []

    def connect(self) -> None:
        """See Cameras.connect."""
        if self._participant is not None:
            raise RuntimeError("the cameras are connected already")
        line = self._participant = Participant(self._interface, self._domain)
        self._stamps, self._arrivals = MonotonicStamps(), ArrivalTimes()
        self._readers = {name: line.reader(topic, IMAGE, depth=1) for name, topic in self._topics.items()}
        # not waited for: nobody takes them once the lenses are checked
        infos = {
            name: line.reader(topic, CAMERA_INFO, depth=1, wakes=False) for name, topic in self._infos.items()
        }
        deadline = time.monotonic() + self._timeout_s
        try:
            self._check_pictures(line, deadline)
            self._check_lenses(infos, deadline)
        except (RuntimeError, ValueError) as error:
            self.stop()
            raise UserError(str(error)) from None

    def read(self, timeout_s: float) -> Frame | None:
        """See Cameras.read; RuntimeError for a picture that is not what the bundle wants."""
        if self._participant is None:
            raise RuntimeError("the cameras are not connected")
        if not self._waiting and self._participant.wait(timeout_s):
            for name, reader in self._readers.items():
                self._waiting += [self._frame(name, sample) for sample in reader.take()]
        return self._waiting.pop(0) if self._waiting else None

    def stop(self) -> None:
        """See Cameras.stop."""
        self._readers, self._waiting = {}, []
        if self._participant is not None:
            self._participant.close()
            self._participant = None

    def _frame(self, name: str, sample: Sample) -> Frame:
        arrived_s = time.monotonic()
        try:
            content = decode(IMAGE, sample.data)
            pixels = picture(content, self._specs[name], self._optics[name]["crop"])
        except ValueError as error:
            raise RuntimeError(f"{self._topics[name]}: {error}") from None
        if self._is_stamped:
            stamp_ns = nanoseconds_of(content["header"]["stamp"])
            if (lag_s := self._stamps.lag(stamp_ns, arrived_s)) < -CLOCK_SLACK_S:
                # cut to the time of arrival, every picture would look new
                said = f"a picture is stamped {-lag_s:.3f} s after it arrived"
                raise RuntimeError(f"{self._topics[name]}: {said}; {CLOCKS_DIFFER}")
            captured_s = self._stamps.captured(stamp_ns, arrived_s)
        else:
            captured_s = self._arrivals.captured(sample, arrived_s)
        return Frame(camera=name, captured_s=captured_s, image=pixels)

    def _check_pictures(self, line: Participant, deadline: float) -> None:
        """Wait for a picture of each camera; UserError where one shows none in time."""
        missing = set(self._readers)
        while missing and (rest := deadline - time.monotonic()) > 0:
            if (frame := self.read(min(rest, 0.1))) is not None:
                self._check_clock(frame)
                missing.discard(frame.camera)
        for name in sorted(missing):
            topics = ", ".join(line.topics()) or "none"
            raise UserError(
                f"no picture of camera {name} on {self._topics[name]} within {self._timeout_s:g} s. "
                f"Topics there: {topics}"
            )

    def _check_lenses(self, infos: dict[str, Reader], deadline: float) -> None:
        """Wait for what each camera says of its lens; UserError where it is another than the bundle's."""
        found_by = time.monotonic() + FIND_INFO_S
        while infos:
            now_s = time.monotonic()
            for name, reader in list(infos.items()):
                if said := reader.take():
                    self._check_lens(name, said[-1])
                elif now_s > deadline or (now_s > found_by and not reader.sources()):
                    _warn(name, f"nobody publishes its camera_info on {self._infos[name]}; {UNCHECKED}")
                else:
                    continue
                del infos[name]
            time.sleep(0.01)

    def _check_lens(self, name: str, sample: Sample) -> None:
        try:
            info = decode(CAMERA_INFO, sample.data)
            if is_calibrated(info):
                check_lens(info, self._specs[name], self._optics[name])
            else:
                _warn(name, f"it is not calibrated, says its camera_info; {UNCHECKED}")
        except ValueError as error:
            raise UserError(f"{self._infos[name]}: {error}") from None

    def _check_clock(self, frame: Frame) -> None:
        if (age := time.monotonic() - frame.captured_s) > LATEST_S:
            raise RuntimeError(
                f"{self._topics[frame.camera]}: its pictures are stamped {age:.3f} s before they arrive; "
                f"{CLOCKS_DIFFER}"
            )


def _warn(camera: str, what: str) -> None:
    print(f"warning: camera {camera}: {what}", file=sys.stderr, flush=True)
