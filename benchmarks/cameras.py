"""Cost of each camera format against equirectangular frames of the same size: python benchmarks/cameras.py [--json].

CPU milliseconds of one core from a frame to the network's picture, with the tables cached as in a stream, and from a
new gravity to the tables of a levelled lookup and of its map's way back. All candidates of one size take turns, so
compare them within a run; the least time is the least disturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from interleaved import interleaved_seconds, summary_ms

from sal360.arrays import Floats, Pixels
from sal360.cameras import CameraSettings, open_camera
from sal360.cameras.camera import Camera
from sal360.cameras.lookup import Lookup
from sal360.errors import clean_end, one_line_errors
from sal360.sphere import rotation_yaw_pitch_roll

GRID = (384, 768)
MAP = (96, 192)
"""Sizes of the bundled model's pictures and maps."""
SIZES = ((960, 1920), (1920, 3840))
FORMATS = {
    "equirectangular": CameraSettings(),
    "dual_fisheye": CameraSettings(model="dual_fisheye", fov_deg=200.0),
    "fisheye": CameraSettings(model="fisheye", fov_deg=200.0),
    "cubemap": CameraSettings(model="cubemap"),
    "eac": CameraSettings(model="eac"),
    "stereo": CameraSettings(stereo="top_bottom"),
    "crop": CameraSettings(left_deg=100.0, right_deg=-100.0, top_deg=50.0, bottom_deg=-50.0),
}
SQUARE_FACES = {(960, 1920): (1104, 1656), (1920, 3840): (2208, 3312)}
"""Size of 2:1 → size of 3:2 with as many pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--rounds", type=int, default=50, help="calls of each format")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    report = {f"{width}x{height}": _costs(height, width, arguments.rounds) for height, width in SIZES}
    if arguments.json:
        print(json.dumps({"grid": GRID, "rounds": arguments.rounds, "cost": report}))
        return
    for size, costs in report.items():
        usual = costs["equirectangular"]
        print(f"{size:30s}   least           median")
        for name, cost in costs.items():
            columns = [f"{cost[each]:6.2f} ({cost[each] - usual[each]:+.2f}) ms" for each in ("min_ms", "median_ms")]
            print(f"  {name:28s}{columns[0]:>17s} {columns[1]:>17s}")


def _costs(height: int, width: int, rounds: int) -> dict[str, dict[str, float]]:
    def noise(rows: int, columns: int) -> Pixels:
        return np.random.default_rng(rows).integers(0, 256, (rows, columns, 3), np.uint8)

    functions: dict[str, Callable[[], object]] = {}
    turn = rotation_yaw_pitch_roll(0.1, 0.3, 0.2)
    for name, settings in FORMATS.items():
        rows, columns = SQUARE_FACES[height, width] if settings.model in ("cubemap", "eac") else (height, width)
        camera, frame = open_camera(settings, rows, columns), noise(rows, columns)
        functions[name] = _looking(Lookup(camera, *GRID), frame)
        functions[f"{name}, levelled"] = _looking(Lookup(camera, *GRID, turn), frame)
        functions[f"{name}, new gravity"] = _levelling(camera, turn)
    seconds = interleaved_seconds(functions, rounds, time.thread_time)
    return {name: summary_ms(each) for name, each in seconds.items()}


def _looking(lookup: Lookup, frame: Pixels) -> Callable[[], object]:
    return lambda: lookup(frame)


def _levelling(camera: Camera, turn: Floats) -> Callable[[], object]:
    density = np.ones(MAP, np.float32)
    return lambda: Lookup(camera, *GRID, turn).to_camera(density)


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
