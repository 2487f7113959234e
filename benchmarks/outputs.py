"""Cost of each output, fragments saved, flicker and lag of smoothing: python benchmarks/outputs.py [--json].

Cost: milliseconds on one core per map of the bundled model, with the lookup tables cached as in a stream. Smoothing:
flicker (mean share of gaze that moves between two frames) and lag behind a sudden change of the scene, for the bundled
model on a bundled panorama seen by a turning camera, at three frame rates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
from interleaved import interleaved_seconds, summary_ms

from sal360.arrays import Density, Floats
from sal360.errors import clean_end, one_line_errors
from sal360.images import read_picture
from sal360.outputs.qp_offset import QpOffset, tile_weights
from sal360.outputs.shading_rate import ShadingRate, ShadingRateSettings, shaded_share
from sal360.outputs.smoothing import SmoothingSettings, TemporalSmoothing, flicker, step_lag_s
from sal360.outputs.targets import TargetSelector, find_peaks
from sal360.outputs.viewport import ViewportMap
from sal360.predictor import Predictor
from sal360.projection import Viewport
from sal360.samples import bundled_panoramas
from sal360.sources import open_source
from sal360.sphere import rotation_yaw_pitch_roll

FRAME_SIZES = ((320, 640), (960, 1920), (1920, 3840))
TURN_RAD_S = 0.5
SECONDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--rounds", type=int, default=200, help="calls per output")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    with Predictor(threads=1) as predictor:
        maps = {rate_hz: _maps(predictor, rate_hz) for rate_hz in (10, 30, 60)}
        other = predictor.predict(read_picture(bundled_panoramas() / "courtyard.jpg"), "bgr")
        shaded = _shaded_shares(predictor)
    seconds = interleaved_seconds(_outputs(maps[30]), arguments.rounds)
    cost = {name: summary_ms(each) for name, each in seconds.items()}
    smoothing = [_smoothing(maps[rate_hz], other, rate_hz, tau) for rate_hz in maps for tau in (0.0, 0.1, 0.2, 0.4)]
    if arguments.json:
        shape = list(maps[30][0].shape)
        print(
            json.dumps(
                {"map": shape, "rounds": arguments.rounds, "cost": cost, "shaded": shaded, "smoothing": smoothing}
            )
        )
        return
    for name, summary in cost.items():
        print(f"{name:32s}{summary['median_ms']:8.3f} ms (min {summary['min_ms']:.3f})")
    for limit, share in shaded.items():
        print(f"fragments shaded with limit {limit}: {100 * share:.0f} %")
    print(f"\n{'rate':>6} {'constant':>9} {'flicker':>8} {'with orientation':>17} {'lag':>8}")
    for row in smoothing:
        print(
            f"{row['rate_hz']:4d}Hz {row['time_constant_s']:8.1f}s {row['flicker']:8.4f}"
            f" {row['flicker_with_orientation']:17.4f} {row['lag_s']:7.3f}s"
        )


def _turn(frame: int, rate_hz: int) -> Floats:
    return rotation_yaw_pitch_roll(yaw_rad=TURN_RAD_S * frame / rate_hz)


def _maps(predictor: Predictor, rate_hz: int) -> list[Density]:
    """The bundled model's maps of a bundled panorama, seen by a turning camera."""
    path = bundled_panoramas() / "city.jpg"
    frames = open_source(path, loop=True, rate_hz=rate_hz, yaw_rate_rad_s=TURN_RAD_S, height_px=320)
    taken = itertools.islice(frames, SECONDS * rate_hz)
    return [predictor.predict(frame.image, frame.channels) for frame in taken]


def _shaded_shares(predictor: Predictor) -> dict[str, float]:
    """Fragments per pixel by limit, with the default settings: mean over the bundled panoramas at 1920 x 960."""
    maps = [predictor.predict(read_picture(path), "bgr") for path in sorted(bundled_panoramas().glob("*.jpg"))]
    shares = {}
    for limit in ("2x2", "4x4"):
        rates = [ShadingRate(960, 1920, ShadingRateSettings(limit=limit)) for _ in maps]
        each = [shaded_share(rate.update(density), rate.grid) for rate, density in zip(rates, maps, strict=True)]
        shares[limit] = float(np.mean(each))
    return shares


def _outputs(maps: list[Density]) -> dict[str, Callable[[], object]]:
    """Functions that compute one output for the next map of the stream, by name."""
    numbers = {name: itertools.count() for name in ("smoothing", "turned", "selection", "maps")}
    smoothing, turned, selector = TemporalSmoothing(), TemporalSmoothing(), TargetSelector()

    def next_map() -> Density:
        return maps[next(numbers["maps"]) % len(maps)]

    def smooth() -> Density:
        return smoothing.update(next_map(), next(numbers["smoothing"]) / 30)

    def smooth_turned() -> Density:
        number = next(numbers["turned"])
        return turned.update(next_map(), number / 30, _turn(number, 30))

    def select() -> object:
        return selector.update(find_peaks(next_map()), next(numbers["selection"]) / 30)

    outputs: dict[str, Callable[[], object]] = {
        "smoothing": smooth,
        "smoothing, camera turning": smooth_turned,
        "targets": lambda: find_peaks(next_map()),
        "targets and selection": select,
    }
    for height, width in FRAME_SIZES:
        rate, offset = ShadingRate(height, width), QpOffset(height, width)
        outputs[f"shading rate {width}x{height}"] = partial(_call, rate.update, next_map)
        outputs[f"qp offset {width}x{height}"] = partial(_call, offset.update, next_map)
    budget = ShadingRate(960, 1920, ShadingRateSettings(full_rate_share=0.2))
    cube = ShadingRate(1024, 1024, ShadingRateSettings(projection="cubemap"))
    window = ViewportMap(Viewport(np.eye(3), math.radians(100), 400, 400))
    outputs["shading rate 1920x960, budget"] = partial(_call, budget.update, next_map)
    outputs["shading rate, cube of 1024"] = partial(_call, cube.update, next_map)
    outputs["viewport map 400x400"] = partial(_call, window.sample, next_map)
    outputs["tile weights 4x8"] = lambda: tile_weights(next_map(), 4, 8)
    return outputs


def _call(update: Callable[[Density], object], next_map: Callable[[], Density]) -> object:
    return update(next_map())


def _smoothing(maps: list[Density], other: Density, rate_hz: int, time_constant_s: float) -> dict[str, Any]:
    settings = SmoothingSettings(time_constant_s=time_constant_s, cut_distance=1)
    plain, turned, stepped = (TemporalSmoothing(settings) for _ in range(3))
    stamps_s = [frame / rate_hz for frame in range(len(maps))]
    smoothed = [plain.update(each, stamp_s) for each, stamp_s in zip(maps, stamps_s, strict=True)]
    with_orientation = [
        turned.update(each, stamp_s, _turn(frame, rate_hz))
        for frame, (each, stamp_s) in enumerate(zip(maps, stamps_s, strict=True))
    ]
    turns = [_turn(1, rate_hz).T] * (len(maps) - 1)
    stepped.update(maps[0], -1 / rate_hz)
    steps = [stepped.update(other, stamp_s) for stamp_s in stamps_s]
    return {
        "rate_hz": rate_hz,
        "time_constant_s": time_constant_s,
        "flicker": flicker(smoothed, turns),
        "flicker_with_orientation": flicker(with_orientation, turns),
        "lag_s": step_lag_s(steps, stamps_s, maps[0], other),
    }


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
