"""The pictures of a report: overlays, the sheet of overlays (JPEG), and plots (PNG)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from sal360.arrays import Density, Floats, Pixels
from sal360.outputs.overlay import FULL_SCALE, draw_overlay
from sal360.replay.frame_table import FrameResult, column
from sal360.replay.recording import ReplayedFrame
from sal360.sphere import vector_to_pixel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_WIDTH = 1280
_TARGET_BGR, _FIXATION_BGR = (255, 255, 255), (80, 255, 80)


def overlay_of(replayed: ReplayedFrame, result: FrameResult, fixations: Floats | None) -> Pixels:
    """The map over the frame, (h, w, 3) uint8 BGR with a maximum width of `MAX_WIDTH`; the frame alone without a map.

    A white ring marks the gaze target, green crosses mark the fixations (n, 3) of the ground truth.
    """
    assert replayed.picture is not None
    image, channels = replayed.picture
    width = min(MAX_WIDTH, image.shape[1])
    height = round(image.shape[0] * width / image.shape[1])
    picture = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if channels == "rgb":
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if replayed.density is not None:
        picture = draw_overlay(picture, replayed.density)
    size = max(4, width // 100)
    if fixations is not None:
        for at in _pixels(*vector_to_pixel(fixations, height, width)):
            cv2.drawMarker(picture, at, _FIXATION_BGR, cv2.MARKER_TILTED_CROSS, size, max(1, size // 5), cv2.LINE_AA)
    if result.target is not None:
        for at in _pixels(*vector_to_pixel(result.target, height, width)):
            cv2.circle(picture, at, 2 * size, _TARGET_BGR, max(1, size // 4), cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _pixels(u: Floats, v: Floats) -> Iterable[tuple[int, int]]:
    return ((round(float(x)), round(float(y))) for x, y in zip(np.ravel(u), np.ravel(v), strict=True))


_SIZE_INCHES = (9.0, 2.6)
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280")


@dataclass(frozen=True)
class _Series:
    label: str
    x: Floats
    y: Floats


def plots_of(results: list[FrameResult], resources: Mapping[str, Floats], mean_map: Density | None) -> dict[str, bytes]:
    """PNG files by title.

    Args:
        results: one for each frame.
        resources: "time_s" and curves over it, as `resources.ResourceSampler` returns them; may be empty.
        mean_map: (h, w), the mean of all maps, relative to uniform.
    """
    plots: dict[str, bytes] = {}
    for title, name in (("Latency", "latency_ms"), ("Cost per frame", "cost_ms")):
        series = _over_time(results, name)
        if len(series.y):
            plots[title] = _histogram_plot(series, "ms")
    if len(column(results, "flicker")):
        plots["Flicker"] = _time_plot([_over_time(results, "flicker", "share of the density that moved")], "share")
        plots["Camera yaw"] = _time_plot([_over_time(results, "yaw_deg", "yaw since the previous frame")], "degrees")
    if len(column(results, "target_azimuth_deg")):
        plots["Gaze target"] = _time_plot(_angles(results, "target"), "degrees", dots=True)
    plots |= _view_plots(results)
    scores = sorted({name for each in results for name in each.scores})
    for protocol in sorted({name.split("_", 1)[0] for name in scores}):
        of_protocol = [name for name in scores if name.startswith(f"{protocol}_")]
        plots[f"Metrics, {protocol} protocol"] = _stacked_plot([_over_time(results, name) for name in of_protocol])
    for name, values in resources.items():
        if name != "time_s" and len(values):
            plots[name] = _time_plot([_Series(name, resources["time_s"], values)], name)
    if mean_map is not None:
        plots["Mean map"] = _map_picture(mean_map)
    return plots


def _view_plots(results: list[FrameResult]) -> dict[str, bytes]:
    """Where views or heads were directed, beside the prediction; nothing without them."""
    plots: dict[str, bytes] = {}
    if len(column(results, "view_azimuth_deg")):
        both = [*_angles(results, "target"), *_angles(results, "view")]
        plots["Predicted and real direction of the view"] = _time_plot(both, "degrees", dots=True)
    if len(column(results, "view_density")):
        density = _over_time(results, "view_density", "density in the middle of the view")
        plots["Density where the view was directed"] = _time_plot([density], "relative to uniform", dots=True)
    return plots


def _angles(results: list[FrameResult], what: str) -> list[_Series]:
    return [_over_time(results, f"{what}_{name}_deg", f"{name} of the {what}") for name in ("azimuth", "elevation")]


def contact_sheet(pictures: list[Pixels], columns: int = 2, width: int = 640) -> bytes:
    """Pictures (h, w, 3) uint8 BGR side by side, as a JPEG file."""
    height = round(pictures[0].shape[0] * width / pictures[0].shape[1])
    small = [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures]
    small += [np.full_like(small[0], 255)] * (-len(small) % columns)
    lines = [np.hstack(small[first : first + columns]) for first in range(0, len(small), columns)]
    return bytes(cv2.imencode(".jpg", np.vstack(lines), (cv2.IMWRITE_JPEG_QUALITY, 85))[1])


def _over_time(results: list[FrameResult], name: str, label: str = "") -> _Series:
    """The known values of a column or score, over the seconds since the first frame."""
    start_ns = results[0].stamp_ns if results else 0
    known = [each for each in results if len(column([each], name))]
    seconds = np.array([(each.stamp_ns - start_ns) / 1e9 for each in known])
    return _Series(label or name.replace("_", " "), seconds, column(known, name))


def _time_plot(series: list[_Series], unit: str, *, dots: bool = False) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    for each, colour in zip(series, _COLOURS, strict=False):
        axes.plot(each.x, each.y, "." if dots else "-", label=each.label, color=colour, linewidth=1.2, markersize=4)
    if len(series) > 1 or series[0].label != unit:
        axes.legend(loc="upper right", fontsize="small")
    axes.set(xlabel="s", ylabel=unit)
    axes.grid(alpha=0.3)
    return _png(figure)


def _stacked_plot(series: list[_Series]) -> bytes:
    """Curves with different units, each on its own axes, one above the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE_INCHES[0], 1.3 * len(series) + 0.4), layout="constrained")
    for axes, each, colour in zip(
        figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0], series, _COLOURS, strict=False
    ):
        axes.plot(each.x, each.y, ".-", color=colour, linewidth=1.2, markersize=4)
        axes.set_ylabel(each.label.split(" ", 1)[1])
        axes.grid(alpha=0.3)
    axes.set_xlabel("s")
    return _png(figure)


def _histogram_plot(series: _Series, unit: str) -> bytes:
    """The values over time, and their histogram beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    over_time, spread = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    over_time.plot(series.x, series.y, color=_COLOURS[0], linewidth=1.2)
    for percent, style in ((50, "-"), (95, "--")):
        value = float(np.percentile(series.y, percent))
        label = f"{percent} % below {value:.1f} {unit}"
        for axes in (over_time, spread):
            axes.axhline(value, color=_COLOURS[1], linestyle=style, linewidth=1, label=label)
    over_time.legend(loc="lower right", fontsize="small")
    spread.hist(series.y, bins=max(10, math.isqrt(len(series.y))), orientation="horizontal", color=_COLOURS[0])
    over_time.set(xlabel="s", ylabel=unit, ylim=(0, None))
    spread.set_xlabel("frames")
    over_time.grid(alpha=0.3)
    return _png(figure)


def _map_picture(density: Density) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(
        density, cmap="inferno", vmin=0, vmax=min(FULL_SCALE, float(density.max())), extent=(180, -180, -90, 90)
    )
    axes.set(xlabel="azimuth, degrees (left is positive)", ylabel="elevation, degrees", xticks=range(180, -181, -60))
    figure.colorbar(picture, label="density, relative to uniform", shrink=0.8)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
