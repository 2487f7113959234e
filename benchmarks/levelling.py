"""Error of the estimated up on turned panoramas: python benchmarks/levelling.py FOLDER... [--turns N] [--json].

Each upright panorama of the folders is turned at random about a random horizontal axis, by tilts up to each of several
limits, with a random heading before. The error is the angle between the true up and the estimated one. The table has,
for each limit, the shares of pictures with an error below 3° and 5°, the median, and the same among the pictures for
which the estimate is certain; the last columns are the milliseconds of an estimate on one core, and how well the
confidence, the estimated probability of an error below 5°, agrees with the share of such errors.

The bundled weights were fitted to the pictures named in sal360/weights/levelling.json. To measure on pictures among
these, fit weights without them (`python -m training.fit_levelling --leave_out`) and name the file with --weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from sal360.arrays import Floats, Pixels
from sal360.cameras.levelling import MAX_TILT_RAD, UP, bundled_weights, estimate_up, read_weights
from sal360.errors import clean_end, one_line_errors
from sal360.images import read_picture
from sal360.projection import rotate_erp
from sal360.samples import bundled_panoramas
from sal360.sources.pictures import pictures_in
from sal360.sphere import angular_distance, rotation_yaw_pitch_roll

LIMITS_DEG = (10, 30, 60, 75)
SIZE = (1024, 512)


class Trial(NamedTuple):
    """One turned picture."""

    name: str
    tilt_deg: float
    error_deg: float
    confidence: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: the bundled panoramas")
    parser.add_argument("--names", help="JSON file with a list of names: only these pictures")
    parser.add_argument("--weights", type=Path, help="weights to use (default: the bundled ones)")
    parser.add_argument("--turns", type=int, default=4, help="turned copies of each picture and limit")
    parser.add_argument("--max-tilt", type=float, default=math.degrees(MAX_TILT_RAD), help="as of sal360 level")
    parser.add_argument("--limits", type=float, nargs="+", default=LIMITS_DEG, help="largest tilts, degrees")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every trial")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    weights = read_weights(arguments.weights) if arguments.weights else bundled_weights()
    paths = [each for folder in arguments.folders or [bundled_panoramas()] for each in pictures_in(folder)]
    if arguments.names:
        names = set(json.loads(Path(arguments.names).read_text(encoding="utf-8")))
        paths = [each for each in paths if each.name in names]
    generator = np.random.default_rng(0)
    trials: dict[float, list[Trial]] = {limit: [] for limit in arguments.limits}
    for path in paths:
        picture = cv2.resize(read_picture(path), SIZE, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        for limit in arguments.limits:
            for _ in range(arguments.turns):
                rotation = tilted(generator, math.radians(limit))
                trials[limit].append(_trial(path.name, picture, rotation, weights, math.radians(arguments.max_tilt)))
    if arguments.json:
        print(json.dumps({str(limit): [each._asdict() for each in found] for limit, found in trials.items()}))
        return
    print(f"{len(paths)} panoramas, {arguments.turns} turns each")
    for limit, found in trials.items():
        print(f"tilt up to {limit:3g}°: " + ", ".join(f"{name} {value:.3g}" for name, value in summary(found).items()))


def tilted(generator: np.random.Generator, limit_rad: float) -> Floats:
    """A random rotation (3, 3): any heading, then a tilt, uniform up to the limit, about any horizontal axis."""
    axis = rotation_yaw_pitch_roll(yaw_rad=generator.uniform(-math.pi, math.pi))
    tilt = rotation_yaw_pitch_roll(pitch_rad=generator.uniform(0, limit_rad))
    heading = rotation_yaw_pitch_roll(yaw_rad=generator.uniform(-math.pi, math.pi))
    rotation: Floats = axis @ tilt @ axis.T @ heading
    return rotation


def summary(trials: list[Trial]) -> dict[str, Any]:
    """The columns of the table."""
    errors = np.array([each.error_deg for each in trials])
    confidences = np.array([each.confidence for each in trials])
    certain = confidences >= 0.5
    return {
        "below 3°": float(np.mean(errors < 3)),
        "below 5°": float(np.mean(errors < 5)),
        "median °": float(np.median(errors)),
        "75 % °": float(np.quantile(errors, 0.75)),
        "certain": float(certain.mean()),
        "of these below 3°": float(np.mean(errors[certain] < 3)) if certain.any() else math.nan,
        "of these below 5°": float(np.mean(errors[certain] < 5)) if certain.any() else math.nan,
        "mean confidence": float(confidences.mean()),
        "ms": statistics.median(each.seconds for each in trials) * 1e3,
    }


def _trial(name: str, picture: Pixels, rotation: Floats, weights: Floats, max_tilt_rad: float) -> Trial:
    turned = rotate_erp(picture, rotation)
    up = rotation @ UP
    started = time.process_time()
    estimate = estimate_up(turned, max_tilt_rad=max_tilt_rad, weights=weights)
    seconds = time.process_time() - started
    error_deg, tilt_deg = (math.degrees(float(angular_distance(up, each))) for each in (estimate.up, UP))
    return Trial(name, tilt_deg, error_deg, estimate.confidence, seconds)


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
