"""Find out which way is up in the pictures of a tilted camera, and level them.

For each picture, the command prints the camera's roll and pitch in degrees (positive roll: the left side is lifted;
positive pitch: the front is lowered), how probable it is that they are less than 5° wrong, and the node's parameter
`mount`, a quaternion x y z w, for a camera that is fixed like this to an upright robot. With several pictures of a
camera whose mount does not change, the last line has the direction on which they agree. With --output, the folder gets
each picture, levelled and equirectangular.

Up is estimated from lines (vertical edges, horizon) and from how brightness and colour change from top to bottom. Some
pictures do not show it. The command then says so, and writes no levelled picture.

Exit status: 0 success; 1 some pictures were skipped, or do not show which way is up; 2 an error.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from sal360.cameras.levelling import (
    MAX_TILT_RAD,
    MIN_CONFIDENCE,
    UpEstimate,
    agreement,
    estimate_up,
    levelling_quaternion,
    levelling_rotation,
    roll_and_pitch,
)
from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import kept_camera
from sal360.cli.options import CommandParser, add_camera, add_max_pixels, in_range
from sal360.cli.predict import Input, find_inputs
from sal360.errors import DataError, FrameError, printable
from sal360.images import read_picture, write_picture
from sal360.projection import rotate_erp

_AS_PICTURES = "save some of its frames as pictures, and name these"


def main(arguments: Sequence[str] | None = None) -> int:
    """Level all pictures; 1 if one was skipped or does not show which way is up."""
    options = _parser().parse_args(arguments)
    estimates: list[UpEstimate] = []
    failed = 0
    for each in find_inputs(options.inputs, recursive=options.recursive, instead_of_bags=_AS_PICTURES):
        try:
            estimate = _level(each, options)
        except (FrameError, DataError) as error:
            print(printable(f"skipped a picture: {error}"), file=sys.stderr)
            failed += 1
        else:
            estimates.append(estimate)
            failed += not estimate.is_certain
    _print_agreement(estimates)
    return 1 if failed else 0


def _level(each: Input, options: argparse.Namespace) -> UpEstimate:
    """Estimate up in one picture, print it, and write the levelled picture if it is wanted and up is certain."""
    if each.is_video:
        raise DataError(f"{each.shown} is a {each.kind}", _AS_PICTURES)
    assert isinstance(each.path, Path)
    frame = read_picture(each.path, max_pixels=options.max_pixels)
    try:
        picture = equirectangular_view(kept_camera(options.camera, *frame.shape[:2]), frame)
        estimate = estimate_up(picture, max_tilt_rad=math.radians(options.max_tilt))
    except FrameError as error:
        raise error.about(each.path) from None
    if estimate.is_certain:
        print(printable(f"{each.name}: {_described(estimate)}"))
    else:
        print(
            printable(
                f"{each.name}: the picture does not show which way is up (the best guess is {_described(estimate)}); "
                f"expected a confidence of at least {MIN_CONFIDENCE}; measure the tilt, or use a picture from elsewhere"
            )
        )
    if estimate.is_certain and options.output is not None:
        write_picture(options.output / f"{each.name}.jpg", rotate_erp(picture, levelling_rotation(estimate.up)))
    return estimate


def _print_agreement(estimates: Sequence[UpEstimate]) -> None:
    """The direction on which several pictures agree."""
    agreed = agreement(estimates)
    if agreed is not None and len(estimates) > 1:
        print(f"together, if one camera with a fixed mount took them: {_described(agreed)}")


def _described(estimate: UpEstimate) -> str:
    roll_deg, pitch_deg = (math.degrees(each) for each in roll_and_pitch(estimate.up))
    mount = " ".join(f"{round(each, 4) + 0.0:g}" for each in levelling_quaternion(estimate.up))
    return f'roll {roll_deg:.1f}°, pitch {pitch_deg:.1f}°, confidence {estimate.confidence:.2f}, mount: "{mount}"'


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("level PICTURE...", __doc__)
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="PICTURE", help="picture of the whole sphere, or folder of pictures")
    add("--output", type=Path, metavar="DIR", help="folder for the levelled pictures (JPEG)")
    add("--recursive", action="store_true", help="search the subfolders of folders too")
    add(
        "--max-tilt",
        type=in_range(float, 1, 180),
        default=round(math.degrees(MAX_TILT_RAD)),
        metavar="DEG",
        help="largest tilt that is considered; 180: the camera may be upside down",
    )
    add_camera(parser)
    add_max_pixels(parser)
    return parser
