"""Write the saliency maps of pictures.

For each equirectangular picture, the output folder gets NAME.npy, the density relative to uniform (float32, at the
model's output size), and NAME_overlay.png, the heat map over the picture.

Exit status: 0 success; 1 some pictures were skipped; 2 an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sal360.arrays import Density, Pixels
from sal360.cli.options import CommandParser, add_model_options, model_options
from sal360.errors import FrameError
from sal360.files import written_beside
from sal360.images import read_picture
from sal360.outputs.overlay import FULL_SCALE, draw_overlay
from sal360.predictor import Predictor
from sal360.sources.pictures import pictures_in


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all pictures; 1 if one of them was skipped."""
    options = _parser().parse_args(arguments)
    pictures = find_pictures(options.pictures)
    predictor = Predictor(**model_options(options))
    skipped = 0
    with predictor, tqdm(total=len(pictures), unit="picture", disable=None) as progress:
        for picture, name in zip(pictures, output_names(pictures), strict=True):
            try:
                frame = _read(picture)
                density = predictor.predict(frame, "bgr")
            except FrameError as error:
                tqdm.write(f"skipped {picture}: {error}", file=sys.stderr)
                skipped += 1
            else:
                overlay = draw_overlay(frame, density, full_scale=options.full_scale)
                _write(options.output, name, density, overlay)
                if name != picture.stem:
                    tqdm.write(
                        f"{picture} is written as {name}, because {picture.stem} is already used", file=sys.stderr
                    )
            progress.update()
    print(f"{len(pictures) - skipped} of {len(pictures)} maps in {options.output} ({predictor.description})")
    return 1 if skipped else 0


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` and the pictures in the folders among them, without repetitions.

    Raises:
        DataError: a folder holds no pictures.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for picture in pictures_in(path) if path.is_dir() else [path]:
            found.setdefault(picture.resolve(), picture)
    return list(found.values())


def output_names(pictures: Iterable[Path]) -> Iterator[str]:
    """A file-name stem for each picture's results: its own, with a number if an earlier picture has the same."""
    taken: set[str] = set()
    for picture in pictures:
        name, number = picture.stem, 1
        while name in taken:
            number += 1
            name = f"{picture.stem}_{number}"
        taken.add(name)
        yield name


def _read(picture: Path) -> Pixels:
    if not picture.exists():
        raise FrameError("the file does not exist", "check the path", reason="missing")
    return read_picture(picture)


def _write(folder: Path, name: str, density: Density, overlay: Pixels) -> None:
    with written_beside(folder / f"{name}.npy") as temporary:
        np.save(temporary, density)
    with written_beside(folder / f"{name}_overlay.png") as temporary:
        if not cv2.imwrite(str(temporary), overlay):
            raise OSError(f"OpenCV cannot write {folder / name}_overlay.png")


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("predict PICTURE...", __doc__)
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", metavar="PICTURE", help="equirectangular picture, or folder of pictures")
    add("--output", type=Path, default=Path("out/predict"), metavar="DIR", help="output folder")
    add("--full-scale", type=float, default=FULL_SCALE, metavar="X", help="density with the brightest colour")
    add_model_options(parser)
    return parser
