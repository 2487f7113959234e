"""Maps of other cameras' frames against those of the panoramas that they show: python benchmarks/camera_maps.py FOLDER.

Every format of benchmarks/cameras.py is rendered from each upright panorama, and the bundled model's map of that frame
is compared with its map of the panorama itself. The rows "tilted" are equirectangular frames of a camera that is tilted
by 30° about a random horizontal axis: with the tilt known exactly, with an error of 2° about another random axis, and
not known; there the truth is the upright map, turned. CC is over the directions that the frame shows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path

import cv2
import numpy as np
from cameras import FORMATS, SQUARE_FACES

from sal360 import Predictor
from sal360.arrays import Density, Floats, Mask, Pixels
from sal360.cameras import open_camera
from sal360.cameras.camera import Camera
from sal360.errors import clean_end, one_line_errors
from sal360.images import read_picture
from sal360.metrics.measures import cc
from sal360.projection import rotate_erp, sample_erp
from sal360.samples import bundled_panoramas
from sal360.sources.pictures import pictures_in
from sal360.sphere import erp_directions, rotation_yaw_pitch_roll, solid_angles

SIZE = (960, 1920)
TILT_RAD, ERROR_RAD = math.radians(30), math.radians(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: the bundled panoramas")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th picture only")
    parser.add_argument("--only", choices=("formats", "tilt"), help="default: both")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every figure")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    paths = [each for folder in arguments.folders or [bundled_panoramas()] for each in pictures_in(folder)]
    found: dict[str, list[float]] = {}
    generator = np.random.default_rng(0)
    with Predictor(threads=1) as predictor:
        for path in paths[:: arguments.every]:
            whole = read_picture(path)
            panorama = cv2.resize(whole, SIZE[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
            truth = predictor.predict(panorama, "bgr")
            correlations = {} if arguments.only == "tilt" else _of_formats(predictor, panorama, truth)
            if arguments.only != "formats":
                correlations |= _of_tilts(predictor, panorama, truth, generator)
            for name, value in correlations.items():
                found.setdefault(name, []).append(value)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, values in found.items():
        print(f"{name:20s} CC mean {np.mean(values):.4f}  worst {min(values):.4f}  ({len(values)} panoramas)")


def _of_formats(predictor: Predictor, panorama: Pixels, truth: Density) -> dict[str, float]:
    found = {}
    for name, settings in FORMATS.items():
        size = SQUARE_FACES[SIZE] if settings.model in ("cubemap", "eac") else SIZE
        camera = open_camera(settings, *size)
        density = predictor.predict(rendered(camera, panorama), "bgr", camera=camera)
        weights = camera.project(erp_directions(*truth.shape)).weights.sum(axis=0)
        seen = cv2.erode((weights > 0).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        found[name] = correlation(density, truth, seen)
    return found


def rendered(camera: Camera, panorama: Pixels, samples: int = 2) -> Pixels:
    """The frame of a camera inside a panorama: the mean of `samples` squared places in each pixel; black elsewhere."""
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    total = np.zeros((camera.height, camera.width, 3))
    for dy in offsets:
        for dx in offsets:
            x, y = np.meshgrid(np.arange(camera.width) + dx, np.arange(camera.height) + dy)
            directions, known = camera.unproject(x, y)
            total += sample_erp(panorama, directions) * known[..., None]
    return np.rint(total / samples**2).astype(np.uint8)


def _of_tilts(
    predictor: Predictor, panorama: Pixels, truth: Density, generator: np.random.Generator
) -> dict[str, float]:
    rotation, error = (_about_a_level_axis(generator, each) for each in (TILT_RAD, ERROR_RAD))
    frame, expected = rotate_erp(panorama, rotation.T), rotate_erp(truth, rotation.T)  # as the tilted camera sees them
    believed = {"tilted, known": rotation, "tilted, 2° wrong": error @ rotation, "tilted, not known": None}
    return {
        name: correlation(predictor.predict(frame, "bgr", rotation=each), expected) for name, each in believed.items()
    }


def _about_a_level_axis(generator: np.random.Generator, angle_rad: float) -> Floats:
    axis = rotation_yaw_pitch_roll(yaw_rad=generator.uniform(-math.pi, math.pi))
    rotation: Floats = axis @ rotation_yaw_pitch_roll(pitch_rad=angle_rad) @ axis.T
    return rotation


def correlation(density: Density, truth: Density, seen: Mask | None = None) -> float:
    """CC of two maps (h, w), over the directions that are seen."""
    weights = np.broadcast_to(solid_angles(*truth.shape), truth.shape)
    return cc(density, truth, weights if seen is None else weights * seen)


if __name__ == "__main__":
    with clean_end():
        sys.exit(one_line_errors(main))
