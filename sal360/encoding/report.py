"""A report on what regions of interest did to a video: curves of quality over rate, and crops at equal rate."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Pixels
from sal360.encoding.codecs import EncoderSettings
from sal360.encoding.foveation import Picture
from sal360.encoding.quality import GAZE, SPHERE, Curve, Shot, coded, gains, measure, qualities_of, shot_of
from sal360.encoding.regions import RegionFrames
from sal360.files import write_text
from sal360.outputs.layout import Layout

MOST_PICTURES = 24
"""Of a report: each is encoded `ENCODINGS` times."""
ENCODINGS = 10
"""Four qualities without and with regions, and two for the crops."""
_CROP_SHARE = 4
"""A crop is as high as this part of the picture."""
_CROP_SIDE = 320


@dataclass(frozen=True)
class Comparison:
    """The same encoder without and with regions."""

    plain: Curve
    regions: Curve
    gains: Mapping[str, float]
    crops: Sequence[tuple[str, bytes]]
    """Title and PNG file: original, without and with regions side by side."""
    kbit_s: tuple[float, float]
    """Rate of the crops without and with regions."""


def compare(
    pictures: Sequence[Picture],
    settings: EncoderSettings,
    block_px: int,
    rate_hz: float,
    layout: Layout,
    on_encoded: Callable[[int], object] = lambda _: None,
) -> Comparison:
    """Encode pictures at four qualities, without regions and with theirs.

    Args:
        pictures: of one size, in order.
        settings: of the encoder; its rate and quality do not count.
        block_px: side of a block of the offsets.
        rate_hz: pictures per second.
        layout: of the pictures.
        on_encoded: called with how many more of the `ENCODINGS` are done.
    """

    def counted() -> Iterator[float]:
        for quality in qualities_of(settings):
            yield quality
            on_encoded(1)

    form = settings.codec.pixel_format
    shots = [
        shot_of(each.image, each.channels, each.density, number, rate_hz, form, layout)
        for number, each in enumerate(pictures)
    ]
    offsets = [each.offsets for each in pictures]
    plain = measure(shots, settings, None, counted(), rate_hz)
    regions = measure(shots, settings, offsets, counted(), rate_hz, block_px)
    crops, kbit_s = _crops(pictures, shots, settings, (plain, regions), rate_hz, block_px, layout)
    on_encoded(2)
    return Comparison(plain, regions, gains(plain, regions), crops, kbit_s)


def _crops(
    pictures: Sequence[Picture],
    shots: Sequence[Shot],
    settings: EncoderSettings,
    curves: tuple[Curve, Curve],
    rate_hz: float,
    block_px: int,
    layout: Layout,
) -> tuple[list[tuple[str, bytes]], tuple[float, float]]:
    """Crops of the middle picture at the third quality, and without regions at the quality of the same rate."""
    plain, regions = curves
    height, width = shots[0].luma.shape
    asked = regions.qualities[2]
    same = float(np.interp(-math.log(regions.kbit_s[2]), -np.log(plain.kbit_s), plain.qualities))
    frames: list[Any] = [each.frame for each in shots]
    marker = RegionFrames(height, width, settings.codec, block_px)
    marked = [marker.marked(frame, each.offsets) for frame, each in zip(frames, pictures, strict=True)]
    rates, after = [], []
    for clip, quality in ((frames, same), (marked, asked)):
        size, decoded = coded(clip, replace(settings, bitrate=0, quality=quality), height, width, rate_hz)
        rates.append(8e-3 * size * rate_hz / len(shots))
        after.append(decoded[len(decoded) // 2].to_ndarray(format="bgr24"))
    middle = pictures[len(pictures) // 2]
    original = frames[len(frames) // 2].to_ndarray(format="bgr24")
    on_picture = layout.map(middle.density)
    found = []
    for title, place in (
        ("where the map is highest", on_picture.argmax()),
        ("where it is lowest", _lowest(on_picture)),
    ):
        row, column = divmod(int(place), on_picture.shape[1])
        centre = (row + 0.5) / on_picture.shape[0], (column + 0.5) / on_picture.shape[1]
        found.append((title, _png([_cut(each, *centre) for each in (original, *after)])))
    return found, (rates[0], rates[1])


def _lowest(density: Density) -> int:
    """The lowest place in the middle rows, where the poles do not take part."""
    height = density.shape[0]
    middle = density[height // 4 : height - height // 4]
    return int(np.where(middle > 0, middle, np.inf).argmin()) + height // 4 * density.shape[1]


def _cut(image: Pixels, row: float, column: float) -> Pixels:
    """A square part of a picture around a place, given as shares of its sides, enlarged."""
    height, width = image.shape[:2]
    side = min(height, width, max(32, height // _CROP_SHARE))
    top = round(min(max(row * height - side / 2, 0), height - side))
    left = round(min(max(column * width - side / 2, 0), width - side))
    part = image[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (_CROP_SIDE, _CROP_SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)


def _png(parts: Sequence[NDArray[Any]]) -> bytes:
    return bytes(cv2.imencode(".png", np.hstack(parts))[1])


def plot(comparison: Comparison) -> bytes:
    """Curves of PSNR over rate, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = {GAZE: "PSNR weighted by gaze and solid angle", SPHERE: "WS-PSNR (by solid angle)"}
    for axes, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for label, curve in (("without regions", comparison.plain), ("with regions", comparison.regions)):
            axes.plot(curve.kbit_s, curve.psnr_db[name], ".-", label=label)
        axes.set(xscale="log", xlabel="kbit/s", ylabel="dB", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def write_html(comparison: Comparison, about: Mapping[str, str], path: Path) -> None:
    """Write the page, one file that contains its pictures.

    Args:
        about: what was encoded, and how.
    """
    from jinja2 import Environment, PackageLoader  # imported here, so that only a report needs jinja2

    environment = Environment(loader=PackageLoader("sal360.encoding", "."), autoescape=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    page = environment.get_template("report.html.jinja").render(
        about=about, each=comparison, plot=plot(comparison), gaze=GAZE, sphere=SPHERE
    )
    write_text(path, page + "\n")
