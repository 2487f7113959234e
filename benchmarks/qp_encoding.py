"""Gain from quantiser offsets in a real encoder: python benchmarks/qp_encoding.py [SOURCE ...] [--json].

x264 encodes each source (pictures are panned; default: the bundled panoramas) at several qualities, plain and with the
offsets of `sal360.outputs.qp_offset` as regions of interest. The result is the gain in luma PSNR at equal bit rate
(Bjøntegaard delta over the rates that both curves share), weighted by solid angle and gaze, and by solid angle alone,
which shows the cost for the rest of the sphere. The gaze is the model's own map, so this is the gain for a viewer who
looks where the map predicts. Two variants are for comparison: "projection" has only the offsets for the stretched
poles, "turned away" uses the map rotated by 180 degrees.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray
from tqdm import tqdm

from sal360.arrays import Density, Reals
from sal360.errors import DataError, one_line_errors
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.predictor import Predictor
from sal360.samples import bundled_panoramas
from sal360.sources import open_source
from sal360.sphere import solid_angles

CRFS = (20, 25, 30, 35, 40)
RATE_HZ = 30
TURN_RAD_S = 0.3
_TIME_BASE = Fraction(1, RATE_HZ)
X264_QP_RANGE = 51  # FFmpeg's regions of interest express the offset as a fraction of it
VARIANTS = {"plain": None, "projection": 0.0, "gaze 0.25": 0.25, "gaze 0.5": 0.5, "gaze 1": 1.0, "turned away": 0.5}


@dataclass(frozen=True)
class Picture:
    """One frame to encode: a YUV 4:2:0 frame, its luma, and its smoothed map."""

    frame: av.VideoFrame
    luma: Reals
    density: Density


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sources", nargs="*", type=Path, help="pictures, videos or bags; default: the bundled panoramas"
    )
    parser.add_argument("--frames", type=int, default=30, help="frames per source")
    parser.add_argument("--height", type=int, default=512, help="rows of the encoded frames (even)")
    parser.add_argument("--preset", default="medium", help="x264 preset")
    parser.add_argument(
        "--max-offset",
        type=int,
        default=QpOffsetSettings.max_offset,
        help="maximum offset, QP (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    sources = arguments.sources or sorted(bundled_panoramas().glob("*.jpg"))
    reports = {}
    for source in sources:
        pictures = _pictures(source, arguments.frames, arguments.height)
        reports[source.name] = _compare(pictures, arguments.preset, arguments.max_offset, source.name)
    gains = {
        variant: {
            weight: float(np.mean([report["gain_db"][variant][weight] for report in reports.values()]))
            for weight in ("gaze", "sphere")
        }
        for variant in VARIANTS
        if variant != "plain"
    }
    if arguments.json:
        settings = {"encoder": "libx264", "preset": arguments.preset, "max_offset": arguments.max_offset}
        print(json.dumps({**settings, "mean_gain_db": gains, "sources": reports}))
        return
    print(f"gain in dB at equal bit-rate\n{'':24s}{'variant':14s}{'gaze-weighted':>14}{'by solid angle':>15}")
    rows = {**{name: report["gain_db"] for name, report in reports.items()}, "mean": gains}
    for name, by_variant in rows.items():
        for variant, gain in by_variant.items():
            print(f"{name:24.23s}{variant:14s}{gain['gaze']:+14.2f}{gain['sphere']:+15.2f}")


def _pictures(source: Path, count: int, height_px: int) -> list[Picture]:
    """The first frames of a source, with their smoothed maps."""
    frames = open_source(source, loop=True, rate_hz=RATE_HZ, yaw_rate_rad_s=TURN_RAD_S, height_px=height_px)
    smoothing, pictures = TemporalSmoothing(), []
    with Predictor() as predictor:
        for number, each in enumerate(itertools.islice(frames, count)):
            density = smoothing.update(predictor.predict(each.image, each.channels), each.stamp_s)
            image = each.image[: each.image.shape[0] & ~1, : each.image.shape[1] & ~1]  # 4:2:0 needs even sizes
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=f"{each.channels}24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, _TIME_BASE
            pictures.append(Picture(frame, _luma(frame), density))
    if not pictures:
        raise DataError(f"{source} has no frames", "choose another source")
    return pictures


def _compare(pictures: list[Picture], preset: str, max_offset: int, name: str) -> dict[str, Any]:
    """Bit rate and weighted PSNR of every variant and quality, and the gain of each variant over the plain one."""
    height, width = pictures[0].luma.shape
    sphere = np.broadcast_to(solid_angles(height, width), (height, width))
    weights = [
        (sphere * cv2.resize(each.density, (width, height), interpolation=cv2.INTER_LINEAR), sphere)
        for each in pictures
    ]
    curves: dict[str, dict[str, list[float]]] = {}
    progress = tqdm(total=len(VARIANTS) * len(CRFS), desc=name, unit="encode", disable=None)
    for variant, strength in VARIANTS.items():
        frames = [each.frame for each in pictures]
        if strength is not None:
            output = QpOffset(height, width, QpOffsetSettings(strength=strength, max_offset=max_offset))
            away_px = pictures[0].density.shape[1] // 2 if variant == "turned away" else 0
            offsets = [output.update(np.roll(each.density, away_px, axis=1)) for each in pictures]
            frames = [_with_regions(each.frame, values) for each, values in zip(pictures, offsets, strict=True)]
        curve: dict[str, list[float]] = {"kbit_s": [], "gaze": [], "sphere": []}
        for crf in CRFS:
            packets = _encode(frames, crf, preset)
            curve["kbit_s"].append(sum(packet.size for packet in packets) * 8e-3 * RATE_HZ / len(frames))
            decoded = list(_decode(packets))
            for index, weight in enumerate(("gaze", "sphere")):
                errors = [
                    float((each[index] * (before.luma - after) ** 2).sum() / each[index].sum())
                    for each, before, after in zip(weights, pictures, decoded, strict=True)
                ]
                curve[weight].append(float(10 * np.log10(255**2 / np.mean(errors))))
            progress.update()
        curves[variant] = curve
    progress.close()
    gains = {
        variant: {weight: _gain_db(curves["plain"], curve, weight) for weight in ("gaze", "sphere")}
        for variant, curve in curves.items()
        if variant != "plain"
    }
    return {"frames": len(pictures), "size": [width, height], "gain_db": gains, "curves": curves}


def _with_regions(frame: av.VideoFrame, offsets: NDArray[np.int8], block_px: int = 16) -> av.VideoFrame:
    """The frame with its offsets as regions of interest: one per run of equal blocks in a row."""
    graph = Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format="yuv420p", time_base=_TIME_BASE)
    for row, values in enumerate(offsets.tolist()):
        column = 0
        for value, run in itertools.groupby(values):
            length = len(list(run))
            if value:
                place = f"x={column * block_px}:y={row * block_px}:w={length * block_px}:h={block_px}"
                region = graph.add("addroi", f"{place}:qoffset={value}/{X264_QP_RANGE}")
                last.link_to(region)
                last = region
            column += length
    last.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    marked = graph.pull()
    assert isinstance(marked, av.VideoFrame)
    return marked


def _encode(frames: list[av.VideoFrame], crf: int, preset: str) -> list[av.Packet]:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
    encoder.time_base, encoder.framerate = _TIME_BASE, RATE_HZ
    encoder.options = {"crf": str(crf), "preset": preset}
    return [packet for frame in [*frames, None] for packet in encoder.encode(frame)]


def _decode(packets: list[av.Packet]) -> Iterator[Reals]:
    decoder = av.CodecContext.create("h264", "r")
    for packet in [*packets, None]:
        for frame in decoder.decode(packet):
            yield _luma(frame)


def _luma(frame: av.VideoFrame) -> Reals:
    plane = frame.planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)  # (H, line)
    return rows[:, : plane.width].astype(np.float32)


def _gain_db(plain: dict[str, list[float]], other: dict[str, list[float]], weight: str) -> float:
    """Bjøntegaard's delta: mean distance of two curves of PSNR over log rate, each a cubic, where both have rates."""
    rates = [np.log10(curve["kbit_s"]) for curve in (plain, other)]
    low, high = max(each.min() for each in rates), min(each.max() for each in rates)
    integrals = []
    for rate, curve in zip(rates, (plain, other), strict=True):
        antiderivative = np.polyint(np.polyfit(rate, curve[weight], 3))
        integrals.append(np.polyval(antiderivative, high) - np.polyval(antiderivative, low))
    return float((integrals[1] - integrals[0]) / (high - low))


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
