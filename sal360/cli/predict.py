"""Write the saliency maps of pictures and videos.

For each picture, the output folder gets NAME.npy, the density relative to uniform (float32, at the model's output
size), and NAME_overlay.png, the heat map over the picture. For each video, it gets NAME.npy with the maps of all frames
(frames, rows, columns), NAME_stamps.npy with their times in seconds, and NAME_overlay.mp4. Maps and overlays are
equirectangular, for frames of other kinds (--camera), too.

Exit status: 0 success; 1 some pictures or frames were skipped; 2 an error.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sal360.arrays import Density
from sal360.cameras.equirectangular import GPano, read_gpano
from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import CameraSettings, kept_camera
from sal360.cli.options import CommandParser, add_camera, add_max_pixels, add_model_options, in_range, model_options
from sal360.errors import DataError, FrameError, printable, require_modules
from sal360.files import written_beside
from sal360.images import read_picture, write_picture
from sal360.outputs.overlay import FULL_SCALE, MAX_FULL_SCALE, MIN_FULL_SCALE, draw_overlay
from sal360.predictor import Predictor
from sal360.replay.plots import MAX_WIDTH
from sal360.replay.recorders import OverlayVideo
from sal360.sources.bag_files import is_bag
from sal360.sources.frame import Frame
from sal360.sources.pictures import is_overlay, look_into, pictures_in
from sal360.sources.video import VIDEO_SUFFIXES, estimated_frame_count, video_frames

_STAMPS = "_stamps"
"""Appended to the name of a video for the file with its times."""


class Input(NamedTuple):
    """A picture or video, and the name of its results."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass
class Outcome:
    """Number of maps that were written, and of those that could not be."""

    written: int = 0
    skipped: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all pictures and videos; 1 if anything was skipped."""
    options = _parser().parse_args(arguments)
    inputs = find_inputs(options.inputs, recursive=options.recursive)
    if any(each.is_video for each in inputs):
        require_modules("av")  # before the pictures among them are predicted
    outcome = Outcome()
    with Predictor(**model_options(options)) as predictor:
        for each in _with_progress(inputs):
            try:
                write = _write_video_maps if each.is_video else _write_picture_map
                write(each, predictor, options, outcome)
            except (FrameError, DataError) as error:
                _say(f"skipped a {'video' if each.is_video else 'picture'}: {error}")
                outcome.skipped += 1
    total = outcome.written + outcome.skipped
    print(f"{outcome.written} of {total} maps in {printable(options.output)} ({predictor.description})")
    return 1 if outcome.skipped else 0


def find_inputs(paths: Iterable[Path], *, recursive: bool = False) -> list[Input]:
    """The files among `paths` and the pictures in the folders among them, without repetitions, each with a name.

    Results are named after their picture, those of subfolders with the subfolder; a number is added if an earlier one
    has the same name. Such numbers, and files that are left out of a folder, are reported on stderr.

    Raises:
        DataError: a folder has no pictures, or a path is a bag.
        OSError: a folder cannot be read.
    """
    paths = list(paths)
    given = {path.name for path in paths}
    found: dict[str, tuple[Path, str]] = {}  # links to one picture under several names are several pictures
    for path in paths:
        if is_bag(path):
            raise DataError(f"{path} is a bag", "run `sal360 evaluate`, which writes a bag with the maps")
        if path.is_dir():
            for picture in _pictures_of(path, recursive):
                name = str(picture.relative_to(path).with_suffix(""))
                found.setdefault(os.path.abspath(picture), (picture, name))
        elif not is_overlay(path, given):  # a wildcard also finds earlier results
            found.setdefault(os.path.abspath(path), (path, path.stem))
    wanted = [Input(path, name) for path, name in found.values()]
    names = unique_names((each.name for each in wanted), (_STAMPS if each.is_video else "" for each in wanted))
    inputs = [Input(each.path, name) for each, name in zip(wanted, names, strict=True)]
    for each, renamed in zip(wanted, inputs, strict=True):
        if renamed.name != each.name:
            _say(f"{each.path} is written as {renamed.name}, because {each.name} is already used")
    return inputs


def unique_names(names: Iterable[str], endings: Iterable[str] = ()) -> Iterator[str]:
    """The names, each with a number added if an earlier one is the same.

    Args:
        endings: for each name, an ending with which it must be unique, too; "" for none.
    """
    taken: set[str] = set()
    for wanted, ending in zip(names, itertools.chain(endings, itertools.repeat("")), strict=False):
        name, number = wanted, 1
        while taken & {name, name + ending}:
            number += 1
            name = f"{wanted}_{number}"
        taken |= {name, name + ending}
        yield name


def _pictures_of(folder: Path, recursive: bool) -> list[Path]:
    """The pictures of a folder; files that are left out are reported on stderr, or in the error if no others exist."""
    content = look_into(folder, recursive=recursive)
    left_out = content.left_out()
    if not left_out:
        return pictures_in(folder, recursive=recursive)
    remedies = ["add --recursive to search subfolders"] if content.in_subfolders else []
    remedies += ["name videos one by one"] if content.videos else []
    remedies += ["convert pictures to JPEG or PNG"] if content.other_formats else []
    if not content.pictures:
        raise DataError(f"the folder {folder} has no pictures, but {left_out}", ", and ".join(remedies))
    _say("; ".join([f"left out of {folder}: {left_out}", *remedies]))
    return content.pictures


def _with_progress(inputs: Sequence[Input]) -> Iterable[Input]:
    progress: Iterable[Input] = tqdm(inputs, unit="input", disable=None)
    return progress


def _say(text: str) -> None:
    tqdm.write(printable(text), file=sys.stderr)


def _write_picture_map(each: Input, predictor: Predictor, options: argparse.Namespace, outcome: Outcome) -> None:
    picture = read_picture(each.path, max_pixels=options.max_pixels)
    try:
        camera = kept_camera(options.camera, *picture.shape[:2], _gpano(each.path))
        density = predictor.predict(picture, "bgr", camera=camera)
    except FrameError as error:
        raise error.about(each.path) from None
    _write_array(options.output / f"{each.name}.npy", density)
    overlay = draw_overlay(equirectangular_view(camera, picture), density, full_scale=options.full_scale)
    write_picture(options.output / f"{each.name}_overlay.png", overlay)
    outcome.written += 1


_METADATA_BYTES = 1 << 20


def _gpano(path: Path) -> GPano | None:
    """The crop in a picture's metadata; a pipe, which can be read only once, has none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return read_gpano(file.read(_METADATA_BYTES))


def _write_video_maps(each: Input, predictor: Predictor, options: argparse.Namespace, outcome: Outcome) -> None:
    unusable: list[FrameError] = []
    stamps_s: list[float] = []
    cut: DataError | None = None
    with (
        contextlib.closing(_frames_with_progress(each.path, unusable, options.max_pixels)) as frames,
        written_beside(options.output / f"{each.name}.npy") as maps_path,
        written_beside(options.output / f"{each.name}_overlay.mp4") as video_path,
        MapStack(maps_path) as maps,
        OverlayVideo(video_path) as video,
    ):
        try:
            for frame, density in _predicted(frames, predictor, each.path, unusable, options.camera):
                maps.append(density)
                stamps_s.append(frame.stamp_s)
                overlay = draw_overlay(frame.image, density, full_scale=options.full_scale)
                video.write(overlay, round(frame.stamp_s * 1e9))
        except DataError as error:  # the maps up to here are kept
            cut = error
        if not stamps_s:
            raise cut or unusable[0]
        _write_array(options.output / f"{each.name}{_STAMPS}.npy", np.array(stamps_s))
    outcome.written += len(stamps_s)
    outcome.skipped += len(unusable)
    if unusable:
        _say(f"skipped {len(unusable)} of {len(stamps_s) + len(unusable)} frames; the first: {unusable[0]}")
    if cut:
        raise cut


def _frames_with_progress(path: Path, unusable: list[FrameError], max_pixels: int) -> Generator[Frame, None, None]:
    frames = video_frames(path, lambda error, _: unusable.append(error), max_pixels)
    total = estimated_frame_count(path, max_pixels) or None
    yield from tqdm(frames, total=total, unit="frame", disable=None, leave=False)


def _predicted(
    frames: Iterable[Frame],
    predictor: Predictor,
    path: Path,
    unusable: list[FrameError],
    settings: CameraSettings,
) -> Iterator[tuple[Frame, Density]]:
    """The frames as equirectangular pictures no larger than an overlay needs, and their maps."""
    is_panorama = False
    for frame in frames:
        try:
            camera = kept_camera(settings, *frame.image.shape[:2])
            density = predictor.predict(frame.image, frame.channels, camera=camera)
        except FrameError as error:
            unusable.append(error.about(path))
            if (
                error.reason in ("not_2_to_1", "camera_mismatch") and not is_panorama
            ):  # nor are the others, unless their size changes
                return
        else:
            is_panorama = True
            yield replace(frame, image=equirectangular_view(camera, frame.image, MAX_WIDTH)), density


class MapStack:
    """A .npy file (n, h, w) float32 of maps that are written one by one."""

    _HEADER_BYTES = 128

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(bytes(self._HEADER_BYTES))
        self._shape: tuple[int, ...] = (0, 0)
        self._count = 0

    def append(self, density: Density) -> None:
        """Append a map (h, w); all maps have the same size."""
        self._file.write(np.ascontiguousarray(density, "<f4").tobytes())
        self._shape = density.shape
        self._count += 1

    def __enter__(self) -> MapStack:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file as file:
            if kind is None:
                content: dict[str, Any] = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (self._count, *self._shape),
                }
                text = str(content).ljust(self._HEADER_BYTES - 11) + "\n"  # after magic, version and length
                file.seek(0)
                file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin1"))


def _write_array(path: Path, values: NDArray[Any]) -> None:
    with written_beside(path) as temporary:
        np.save(temporary, values)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("predict INPUT...", __doc__)
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="picture or video, or folder of pictures")
    add("--output", type=Path, default=Path("out/predict"), metavar="DIR", help="output folder")
    add("--recursive", action="store_true", help="search the subfolders of folders too")
    add(
        "--full-scale",
        type=in_range(float, MIN_FULL_SCALE, MAX_FULL_SCALE),
        default=FULL_SCALE,
        metavar="X",
        help="density that is drawn in the brightest colour",
    )
    add_camera(parser)
    add_max_pixels(parser)
    add_model_options(parser)
    return parser
