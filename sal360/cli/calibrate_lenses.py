"""Calibrate a camera with two fisheye lenses from its own pictures.

The pictures are unstitched: two circles on black, side by side or one above the other. The command finds the centres
and radii of the circles, the field of view, and the rotation between the lenses, from what both lenses see. It needs no
chart. Several pictures are better than one: choose bright ones with detail all around the camera, in which everything
is a few metres away, because the lenses see near things from different places.

The output is a calibration file for `camera.file`, and beside it a JPEG by which to judge it: the stitched panorama
before and after, and the matches in the overlap. "Before" is the preset, or circles that fill the picture.

The overlap does not say which lens is in front, nor where up is in its picture. With --preset, both are as in the
preset; without it, the front lens is the left or upper one, and up in its picture is up.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sal360.arrays import Pixels
from sal360.cameras.calibration import CALIBRATED_PROJECTIONS, MIN_OVERLAPPING_FOV_DEG, areas, calibrate
from sal360.cameras.calibration_picture import draw_calibration
from sal360.cameras.fisheye import MAX_FOV_DEG, FisheyeCamera
from sal360.cameras.presets import PRESETS
from sal360.cameras.settings import CameraSettings, open_camera, write_calibration
from sal360.cli.options import CommandParser, add_max_pixels, in_range
from sal360.errors import DataError, FrameError, ParameterError, printable
from sal360.images import read_picture, write_picture
from sal360.sources.pictures import pictures_in


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate, write the file and its picture, and print what was found."""
    options = _parser().parse_args(arguments)
    if options.output.suffix.lower() not in (".yaml", ".yml"):
        raise ParameterError(f"--output is {options.output}", "end the name with .yaml")
    files, pictures = _read(options.pictures, options.max_pixels)
    height, width = pictures[0].shape[:2]
    areas(height, width)
    before = _expected(options, height, width)
    found = calibrate(pictures, projection=options.projection, fov_deg=options.fov_deg or 0.0)
    for index, file in enumerate(files):
        if not np.any(found.matches.picture == index):
            print(
                printable(f"{file} did not help: it has too little texture, or is of another camera"), file=sys.stderr
            )
    after = found.rig.turned_like(before)
    residual_deg, uncertainty_deg = math.degrees(found.residual_rad), math.degrees(found.uncertainty_rad)
    looked_at = options.output.with_suffix(".jpg")
    write_picture(looked_at, draw_calibration(pictures, found, before, after))
    comment = f"From {len(pictures)} pictures by sal360 calibrate-lenses: median residual {residual_deg:.2f} degrees"
    write_calibration(options.output, after, comment)
    print(
        f"{printable(options.output)}: median residual {residual_deg:.2f}° of {len(found.matches)} matches, "
        f"uncertainty {uncertainty_deg:.2f}°, field of view {found.rig.fov_deg:.1f}°; "
        f"to check it, look at {printable(looked_at)}"
    )


def _expected(options: argparse.Namespace, height: int, width: int) -> FisheyeCamera:
    """The camera as it would be without errors.

    Raises:
        DataError: the preset is for pictures of another shape.
    """
    settings = CameraSettings(preset=options.preset) if options.preset else CameraSettings(model="dual_fisheye")
    try:
        camera = open_camera(settings, height, width)
    except FrameError as error:
        raise DataError(error.found, "use pictures in that format, or leave --preset out") from None
    assert isinstance(camera, FisheyeCamera)
    return camera


def _read(paths: Sequence[Path], max_pixels: int) -> tuple[list[Path], list[Pixels]]:
    """The files of the paths, folders searched, and their pictures, all of the same size."""
    files = [file for path in paths for file in (pictures_in(path) if path.is_dir() else [path])]
    pictures = [read_picture(each, max_pixels=max_pixels) for each in files]
    height, width = pictures[0].shape[:2]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape[:2] != (height, width):
            raise DataError(
                f"{file} is {picture.shape[1]} x {picture.shape[0]} pixels",
                "name pictures of one camera in one resolution",
                expected=f"{width} x {height}, as {files[0]}",
            )
    return files, pictures


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("calibrate-lenses PICTURE...", __doc__)
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", metavar="PICTURE", help="unstitched picture, or folder of pictures")
    add("--output", type=Path, default=Path("out/camera.yaml"), metavar="FILE", help="calibration file to write")
    add("--preset", choices=tuple(PRESETS), default=None, help="the camera: which lens is in front, and where up is")
    add("--projection", choices=CALIBRATED_PROJECTIONS, default="equidistant", help="projection of the lenses")
    add(
        "--fov-deg",
        type=in_range(float, MIN_OVERLAPPING_FOV_DEG, MAX_FOV_DEG),
        default=None,
        metavar="X",
        help="field of view of each lens where its circle ends, in degrees (default: found from the overlap)",
    )
    add_max_pixels(parser, "are refused")
    return parser
