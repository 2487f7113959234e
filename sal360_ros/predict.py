"""Saliency maps of pictures: python -m sal360_ros.predict IMAGE… [--model M] [--output DIR].

For each equirectangular picture: <stem>.npy, the density relative to uniform (float32, at the model's output size),
and <stem>_overlay.png for looking at. Folders stand for the pictures in them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sal360_ros.backends import BACKEND_NAMES
from sal360_ros.backends.backend import PRECISIONS
from sal360_ros.errors import FrameError, one_line_errors
from sal360_ros.files import written_beside
from sal360_ros.outputs.overlay import FULL_SCALE, draw_overlay
from sal360_ros.predictor import Predictor
from sal360_ros.sources.stills import pictures_in, read_picture
from sal360_ros.sphere import Array


def main() -> int:
    """Predict all pictures; 1 when one of them had to be skipped."""
    arguments = _parser().parse_args()
    pictures = find_pictures(arguments.pictures)
    predictor = Predictor(
        arguments.model,
        backend=arguments.backend,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        prior_strength=arguments.prior_strength,
    )
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
                overlay = draw_overlay(frame, density, full_scale=arguments.full_scale)
                _write(arguments.output, name, density, overlay)
                if name != picture.stem:
                    tqdm.write(f"{picture} is written as {name}: the name {picture.stem} is taken", file=sys.stderr)
            progress.update()
    print(f"{len(pictures) - skipped} of {len(pictures)} maps in {arguments.output} ({predictor.description})")
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
        raise FrameError(f"there is no {picture}", "a picture or a folder", "check the path", reason="missing")
    return read_picture(picture)


def _write(folder: Path, name: str, density: Array, overlay: Array) -> None:
    with written_beside(folder / f"{name}.npy") as temporary:
        np.save(temporary, density)
    with written_beside(folder / f"{name}_overlay.png") as temporary:
        if not cv2.imwrite(str(temporary), overlay):
            raise OSError(f"OpenCV cannot write {folder / name}_overlay.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sal360_ros.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("pictures", type=Path, nargs="+", metavar="IMAGE", help="equirectangular pictures, or folders of them")
    add("--model", default="", help="model file; default: the bundled model")
    add("--output", type=Path, default=Path("out/predict"), metavar="DIR", help="folder of the results (%(default)s)")
    add("--backend", choices=BACKEND_NAMES, default="auto", help="runtime (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help="arithmetic (%(default)s)")
    add("--threads", type=int, default=0, help="processor threads; 0: the runtime's choice")
    add("--prior-strength", type=float, default=1.0, help="of the equator prior: 1 as trained, 0 without (%(default)s)")
    add("--full-scale", type=float, default=FULL_SCALE, help="density of the brightest colour (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(one_line_errors(main))
