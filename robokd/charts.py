"""Charts of runs as PNG bytes: learning curves, success with intervals, latencies, what a camera sees."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robokd.vision.encode import decode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robokd.specs import CameraSpec

INK, SOFT = "#1f2933", "#9aa5b1"
COLOURS = ("#2563a8", "#d9722e", "#3d8f5f", "#8b4fa3", "#c9a227", "#5f6b76")
Rows = Sequence[Mapping[str, float | None]]


def curves(rows: Rows, panels: Mapping[str, Sequence[str]], x: str, x_label: str) -> bytes:
    """Return one panel for each {title: metric names} over metric x; metrics that a row lacks are skipped."""
    figure, axes = _figure(len(panels))
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for colour, name in zip(COLOURS, names, strict=False):
            points = [
                (row[x], row[name]) for row in rows if row.get(name) is not None and row.get(x) is not None
            ]
            if points:
                marker = "o" if len(points) < 40 else None
                axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, label=name)
        axis.set_title(title, color=INK, fontsize=10)
        axis.set_xlabel(x_label, fontsize=8)
        axis.locator_params(axis="x", nbins=4)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        if len(names) > 1:
            axis.legend(fontsize=7, frameon=False)
    return _png(figure)


def bars(groups: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> bytes:
    """Return success rates with intervals: {policy: {condition: {rate, lo, hi}}} side by side."""
    figure, (axis,) = _figure(1, width=7.5)
    conditions = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    width = 0.8 / max(len(groups), 1)
    for number, (policy, values) in enumerate(groups.items()):
        present = [(place, values[name]) for place, name in enumerate(conditions) if name in values]
        places = [place + (number - (len(groups) - 1) / 2) * width for place, _ in present]
        rates = np.array([value["rate"] for _, value in present])
        ends = np.array(
            [[value.get("lo", value["rate"]), value.get("hi", value["rate"])] for _, value in present]
        ).T
        axis.bar(places, rates, width * 0.92, color=COLOURS[number % len(COLOURS)], label=policy)
        axis.errorbar(places, rates, np.abs(ends - rates), fmt="none", ecolor=INK, capsize=2, linewidth=1)
        for place, rate, top in zip(places, rates, ends[1], strict=True):
            axis.text(place, top + 0.015, f"{rate:.2f}", ha="center", fontsize=7, color=INK)
    axis.set_xticks(range(len(conditions)), conditions, fontsize=9)
    axis.set_ylim(0, 1.12)
    axis.set_title(title, color=INK, fontsize=10)
    axis.legend(fontsize=8, frameon=False, ncols=len(groups), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    return _png(figure)


def histogram(series: Mapping[str, Sequence[float]], unit: str, limit: float | None = None) -> bytes:
    """Return one panel a series of times; `limit` draws the bound that the first must keep."""
    figure, axes = _figure(len(series))
    for number, (axis, (title, values)) in enumerate(zip(axes, series.items(), strict=True)):
        axis.hist(values, bins=60, color=COLOURS[number], log=True)
        for share, style in ((0.5, "-"), (0.99, "--")):
            mark = float(np.quantile(values, share))
            axis.axvline(
                mark, color=INK, linestyle=style, linewidth=1, label=f"p{share * 100:.0f} {mark:.2f} {unit}"
            )
        if limit is not None and number == 0:
            axis.axvline(limit, color=COLOURS[1], linewidth=1, label=f"limit {limit:g} {unit}")
        axis.set_title(title, color=INK, fontsize=10)
        axis.set_xlabel(unit, fontsize=8)
        axis.legend(fontsize=7, frameon=False)
    return _png(figure)


def sheet(rows: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """Return RGB pictures (H, W, 3) as a grid, one row a name."""
    import matplotlib.pyplot as plt

    columns = max(len(pictures) for pictures in rows.values())
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.3 * columns, 1.4 * len(rows)), squeeze=False)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=9)
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest")
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
    return _png(figure)


def painted(image: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """Return an encoded image (C, H, W) as RGB (H, W, 3) uint8: near is bright, what was missed is black."""
    if camera.encoding == "rgb_u8":
        return image.transpose(1, 2, 0)
    if camera.encoding == "segment_i16":
        # neighbours in number get colours that differ
        return _table("hsv", 0.0, 1.0)[(image[0].astype(np.int64) * 97) % 256] * (image[0] >= 0)[..., None]
    share = (decode(image[0], camera) - camera.near_m) / (camera.far_m - camera.near_m)
    return (
        _table("magma", 0.95, 0.12)[(np.clip(share, 0, 1) * 255).astype(np.uint8)] * (image[0] > 0)[..., None]
    )


def error_map(distance: np.ndarray, worst: float) -> np.ndarray:
    """Return distances (H, W) as RGB (H, W, 3) uint8: black is none, white is `worst` or more."""
    return _table("inferno", 0.0, 1.0)[(np.clip(distance / worst, 0, 1) * 255).astype(np.uint8)]


def _table(name: str, first: float, last: float) -> np.ndarray:
    """Return 256 RGB colours of one of matplotlib's maps, uint8."""
    import matplotlib

    return (matplotlib.colormaps[name](np.linspace(first, last, 256))[:, :3] * 255).astype(np.uint8)


def _figure(panels: int, width: float = 3.6) -> tuple[Figure, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(width * panels, 2.8), squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(SOFT)
        axis.tick_params(labelsize=8, colors=INK)
        axis.grid(axis="y", color="#e4e7eb", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes[0]


def _png(figure: Figure) -> bytes:
    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    figure.tight_layout()
    figure.savefig(stream, format="png", dpi=120)
    plt.close(figure)
    return stream.getvalue()
