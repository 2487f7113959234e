"""Write the saliency maps of pictures.

For each equirectangular picture: <stem>.npy, the density relative to uniform (float32, at the model's output size),
and <stem>_overlay.png for looking at. Folders stand for the pictures in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sal360.cli.options import add_model_options, model_options
from sal360.errors import FrameError
from sal360.files import written_beside
from sal360.images import read_picture
from sal360.outputs.overlay import FULL_SCALE, draw_overlay
from sal360.predictor import Predictor
from sal360.sources.pictures import pictures_in
from sal360.sphere import Array


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all pictures; 1 when one of them had to be skipped."""
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
                    tqdm.write(f"{picture} is written as {name}: the name {picture.stem} is taken", file=sys.stderr)
            progress.update()
    print(f"{len(pictures) - skipped} of {len(pictures)} maps in {options.output} ({predictor.description})")
    return 1 if skipped else 0


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files among `paths` and the pictures of the folders among them, none of them twice.

    Raises:
        DataError: a folder holds no picture.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for picture in pictures_in(path) if path.is_dir() else [path]:
            found.setdefault(picture.resolve(), picture)
    return list(found.values())


def output_names(pictures: Iterable[Path]) -> Iterator[str]:
    """A name for each picture's results: its stem, with a number where an earlier picture has that name."""
    taken: set[str] = set()
    for picture in pictures:
        name, number = picture.stem, 1
        while name in taken:
            number += 1
            name = f"{picture.stem}_{number}"
        taken.add(name)
        yield name


def _read(picture: Path) -> Array:
    if not picture.exists():
        raise FrameError(f"there is no {picture}", "check the path", expected="a picture or a folder", reason="missing")
    return read_picture(picture)


def _write(folder: Path, name: str, density: Array, overlay: Array) -> None:
    with written_beside(folder / f"{name}.npy") as temporary:
        np.save(temporary, density)
    with written_beside(folder / f"{name}_overlay.png") as temporary:
        if not cv2.imwrite(str(temporary), overlay):
            raise OSError(f"OpenCV cannot write {folder / name}_overlay.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sal360 predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", metavar="IMAGE", help="equirectangular pictures, or folders of them")
    add(
        "--output",
        type=Path,
        default=Path("out/predict"),
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )
    add("--full-scale", type=float, default=FULL_SCALE, help="density of the brightest colour (default: %(default)s)")
    add_model_options(parser)
    return parser
