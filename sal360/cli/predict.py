"""Write the saliency maps of pictures, videos and live streams.

For each picture, the output folder gets NAME.npy, the density relative to uniform (float32, at the model's output
size), and NAME_overlay.png, the heat map over the picture. Maps and overlays are equirectangular, also for frames of
other kinds (--camera); their overlays have at most 6144 columns, and four times the picture's pixels. For each video or
stream, it gets NAME_overlay.mp4 and, depending on --maps:

  npy    NAME.npy, the maps of all frames (frames, rows, columns), and NAME_stamps.npy, their times in seconds
  npz    NAME.npz with both, as `maps` and `stamps_s`
  video  NAME_maps.mkv, lossless 8-bit grey: the value 255 means --full-scale times uniform; and NAME_stamps.npy

The maps are as predicted, not smoothed over time. --no-overlays leaves the overlays out. With --html, NAME.html shows
the picture, or some frames of the video, as a sphere to look around in.

A stream is rtsp://…, rtmp://…, srt://…, udp://…, an http(s) address such as HLS (.m3u8), or a camera (/dev/video0).
Its newest frame is predicted again and again until Ctrl-C or for --seconds, and its times count from 1970.

Exit status: 0 success; 1 some pictures or frames were skipped; 2 an error; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tqdm import tqdm

from sal360.arrays import Density
from sal360.cameras.equirectangular import GPano, read_gpano
from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import CameraSettings, kept_camera
from sal360.cli.options import (
    STREAM_OPTIONS,
    CommandParser,
    Useless,
    add_camera,
    add_max_pixels,
    add_model_options,
    add_stream_options,
    in_range,
    model_options,
    refuse_useless,
    stream_settings,
)
from sal360.cli.video_maps import MAP_FORMS, MAP_TYPES, STAMPS, write_array
from sal360.errors import DataError, FrameError, printable, require_modules
from sal360.files import written_beside
from sal360.images import read_picture, write_picture
from sal360.outputs.overlay import FULL_SCALE, MAX_FULL_SCALE, MIN_FULL_SCALE, draw_overlay
from sal360.predictor import Predictor
from sal360.replay.plots import MAX_WIDTH
from sal360.replay.recorders import OverlayVideo
from sal360.sources.bag_files import is_bag
from sal360.sources.frame import Frame
from sal360.sources.live_stream import LiveStream
from sal360.sources.pictures import is_overlay, look_into, pictures_in
from sal360.sources.stream_address import StreamAddress, stream_address
from sal360.sources.video import VIDEO_SUFFIXES, estimated_frame_count, video_frames
from sal360.viewer.page import MAX_STATIC, write_static_page
from sal360.viewer.scene import MAX_WIDTH as MAX_SHOWN_WIDTH
from sal360.viewer.scene import Scene, Spread

THIS_MACHINE = "this machine"
"""The value of `--ray` without an address."""


class Input(NamedTuple):
    """A picture, video or stream, and the name of its results."""

    path: Path | StreamAddress
    name: str

    @property
    def is_video(self) -> bool:
        """Whether it has many frames: a stream, or a video by its suffix."""
        return isinstance(self.path, StreamAddress) or self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def kind(self) -> str:
        """One word for messages."""
        return "stream" if isinstance(self.path, StreamAddress) else "video" if self.is_video else "picture"

    @property
    def shown(self) -> str:
        """Path or address for messages, without a password."""
        return self.path.shown if isinstance(self.path, StreamAddress) else str(self.path)


@dataclass
class Outcome:
    """Number of maps that were written, and of those that could not be."""

    written: int = 0
    skipped: int = 0
    is_interrupted: bool = False
    """Whether Ctrl-C ended a stream; what was written until then is complete."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict all pictures and videos; 1 if anything was skipped."""
    options = _parser().parse_args(arguments)
    refuse_useless(options, _useless_everywhere(options))
    if options.ray:
        from sal360.cli.cluster import predict_on_ray  # which imports this module

        return predict_on_ray(options)
    options.output = Path(options.output)
    inputs = find_inputs(map(_input, options.inputs), recursive=options.recursive)
    has_video = any(each.is_video for each in inputs)
    is_live = any(isinstance(each.path, StreamAddress) for each in inputs)
    refuse_useless(options, useless_for(options, has_video=has_video, is_live=is_live))
    if has_video:
        require_modules("av")  # before the pictures among them are predicted
    outcome = Outcome()
    with Predictor(**model_options(options)) as predictor:
        for each in _with_progress(inputs):
            try:
                write = write_video_maps if each.is_video else _write_picture_map
                write(each, predictor, options, outcome)
            except (FrameError, DataError) as error:
                _say(f"skipped a {each.kind}: {error}")
                outcome.skipped += 1
            if outcome.is_interrupted:
                break
    total = outcome.written + outcome.skipped
    print(f"{outcome.written} of {total} maps in {printable(options.output)} ({predictor.description})")
    if outcome.is_interrupted:
        return 130
    return 1 if outcome.skipped else 0


def _useless_everywhere(options: argparse.Namespace) -> list[Useless]:
    """What has no effect for any input; a new option needs a row for each case in which it is not looked at."""
    is_video = options.maps == "video"
    return [
        Useless(
            "with --ray",
            bool(options.ray),
            f"--html --seconds {STREAM_OPTIONS}",
            "leave it out: pages and live streams are made without --ray",
        ),
        Useless("with --maps video, whose numbers have 8 bits", is_video, "--maps-type", "remove one of them"),
        Useless(
            "with --no-overlays",
            not (options.overlays or is_video),
            "--full-scale",
            "remove one of them: .npy and .npz hold the densities themselves",
        ),
    ]


def useless_for(options: argparse.Namespace, *, has_video: bool, is_live: bool) -> list[Useless]:
    """The same for inputs with or without a video (or live stream), and with or without a live stream."""
    return [
        Useless("without a video or live stream", not has_video, "--maps --maps-type", "remove it: pictures get .npy"),
        Useless("without a video or overlays", not (has_video or options.overlays), "--full-scale"),
        Useless("without a live stream", not is_live, f"--seconds {STREAM_OPTIONS}"),
    ]


def find_inputs(
    paths: Iterable[Path | StreamAddress],
    *,
    recursive: bool = False,
    instead_of_bags: str = "run `sal360 evaluate`, which writes a bag with the maps",
) -> list[Input]:
    """The files and streams among `paths` and the pictures in its folders, without repetitions, each with a name.

    Results are named after their picture, those of subfolders with the subfolder; a number is added if an earlier one
    has the same name. Such numbers, and files that are left out of a folder, are reported on stderr.

    Args:
        recursive: search the subfolders of folders, too.
        instead_of_bags: what to do for a bag.

    Raises:
        DataError: a folder has no pictures, or a path is a bag.
        OSError: a folder cannot be read.
    """
    paths = list(paths)
    given = {path.name for path in paths}
    # links to one picture under several names are several pictures
    found: dict[str, tuple[Path | StreamAddress, str]] = {}
    for path in paths:
        if isinstance(path, StreamAddress):
            found.setdefault(path.url, (path, path.name))
            continue
        if is_bag(path):
            raise DataError(f"{path} is a bag", instead_of_bags)
        if path.is_dir():
            for picture in _pictures_of(path, recursive):
                name = str(picture.relative_to(path).with_suffix(""))
                found.setdefault(os.path.abspath(picture), (picture, name))
        elif not is_overlay(path, given):  # a wildcard also finds earlier results
            found.setdefault(os.path.abspath(path), (path, path.stem))
    wanted = [Input(path, name) for path, name in found.values()]
    names = unique_names((each.name for each in wanted), (STAMPS if each.is_video else "" for each in wanted))
    inputs = [Input(each.path, name) for each, name in zip(wanted, names, strict=True)]
    for each, renamed in zip(wanted, inputs, strict=True):
        if renamed.name != each.name:
            _say(f"{each.shown} is written as {renamed.name}, because {each.name} is already used")
    return inputs


def unique_names(names: Iterable[str], endings: Iterable[str] = ()) -> Iterator[str]:
    """The names, each with a number added if an earlier one is the same.

    Args:
        endings: for each name, an ending with which it must be unique, too; "" for none.
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    for wanted, ending in zip(names, itertools.chain(endings, itertools.repeat("")), strict=False):
        name, number = wanted, numbers.get(wanted, 1)  # of a million equal names, none tries all numbers again
        while taken & {name, name + ending}:
            number += 1
            name = f"{wanted}_{number}"
        numbers[wanted] = number
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
    progress: Iterable[Input] = tqdm(inputs, unit="input", disable=True if len(inputs) == 1 else None)
    return progress


def _say(text: str) -> None:
    tqdm.write(printable(text), file=sys.stderr)


def _write_picture_map(each: Input, predictor: Predictor, options: argparse.Namespace, outcome: Outcome) -> None:
    assert isinstance(each.path, Path)
    picture = read_picture(each.path, max_pixels=options.max_pixels)
    try:
        camera = kept_camera(options.camera, *picture.shape[:2], _gpano(each.path))
        density = predictor.predict(picture, "bgr", camera=camera)
    except FrameError as error:
        raise error.about(each.path) from None
    write_array(options.output / f"{each.name}.npy", density)
    if options.overlays:
        overlay = draw_overlay(equirectangular_view(camera, picture), density, full_scale=options.full_scale)
        write_picture(options.output / f"{each.name}_overlay.png", overlay)
    if options.html:
        scene = Scene(each.path.stem, 0.0, equirectangular_view(camera, picture, MAX_SHOWN_WIDTH), density)
        write_static_page(options.output / f"{each.name}.html", [scene], each.name)
    outcome.written += 1


METADATA_BYTES = 1 << 20
"""The beginning of a picture file, in which its metadata are looked for."""


def _gpano(path: Path) -> GPano | None:
    """The crop in a picture's metadata; a pipe, which can be read only once, has none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return read_gpano(file.read(METADATA_BYTES))


def write_video_maps(each: Input, predictor: Predictor, options: argparse.Namespace, outcome: Outcome) -> None:
    """Write the maps, times and overlay of a video or stream into `options.output`, and count them in `outcome`.

    Raises:
        DataError: it has no frames, or is cut; the maps up to there are kept.
        FrameError: no frame is usable.
    """
    unusable: list[FrameError] = []
    count = 0
    cut: DataError | None = None
    scenes: Spread[Scene] = Spread(MAX_STATIC if options.html else 0)
    with (
        contextlib.closing(_frames_with_progress(each, unusable, options, outcome)) as frames,
        MAP_FORMS[options.maps](options.output, each.name, options.maps_type, options.full_scale) as maps,
        _overlay_video(options.output / f"{each.name}_overlay.mp4", is_wanted=options.overlays) as video,
    ):
        try:
            for frame, density in _predicted(frames, predictor, each.shown, unusable, options.camera):
                maps.append(density, frame.stamp_s)
                count += 1
                if options.html and scenes.wants_next():
                    scenes.add(Scene(frame.name, frame.stamp_s, frame.image, density))
                if video is not None:
                    overlay = draw_overlay(frame.image, density, full_scale=options.full_scale)
                    video.write(overlay, round(frame.stamp_s * 1e9))
        except DataError as error:  # the maps up to here are kept
            cut = error
        if not count and outcome.is_interrupted:
            raise KeyboardInterrupt
        if not count:
            raise cut or (unusable[0] if unusable else DataError(f"{each.shown} has no frames", "choose another"))
    if options.html:
        write_static_page(options.output / f"{each.name}.html", scenes.kept, each.name)
    outcome.written += count
    outcome.skipped += len(unusable)
    if unusable:
        _say(f"skipped {len(unusable)} of {count + len(unusable)} frames; the first: {unusable[0]}")
    if cut:
        raise cut


@contextlib.contextmanager
def _overlay_video(path: Path, *, is_wanted: bool) -> Iterator[OverlayVideo | None]:
    if not is_wanted:
        yield None
        return
    with written_beside(path) as temporary, OverlayVideo(temporary) as video:
        yield video


def _frames_with_progress(
    each: Input, unusable: list[FrameError], options: argparse.Namespace, outcome: Outcome
) -> Generator[Frame, None, None]:
    if isinstance(each.path, StreamAddress):
        yield from stream_frames(each.path, options, outcome)
        return
    frames = video_frames(each.path, lambda error, _: unusable.append(error), options.max_pixels)
    total = estimated_frame_count(each.path, options.max_pixels) or None
    yield from tqdm(frames, total=total, unit="frame", disable=None, leave=False)


class _Said:
    """The lines about a stream, on stderr."""

    def info(self, message: str) -> None:
        """Print a line."""
        _say(message)

    warning = info


def stream_frames(
    address: StreamAddress, options: argparse.Namespace, outcome: Outcome
) -> Generator[Frame, None, None]:
    """The newest frame of the stream again and again, until Ctrl-C or for `--seconds` after the first one."""
    stream = LiveStream(
        address,
        stream_settings(options),
        log=_Said(),
        max_pixels=options.max_pixels,
        patience_s=options.wait,
        every_frame=True,
    )
    unit: dict[str, Any] = {"total": options.seconds, "unit": "s", "bar_format": _SECONDS_BAR}
    if not options.seconds:
        unit = {"unit": "frame"}
    end_s = math.inf
    with stream, _interrupted() as interrupted, tqdm(disable=None, leave=False, **unit) as bar:
        while not (stream.has_ended or interrupted.is_set()):
            frame = stream.take(_LOOK_S)
            now_s = time.monotonic()
            if frame is not None and options.seconds and math.isinf(end_s):
                end_s = now_s + options.seconds
            if now_s >= end_s:
                break
            if options.seconds and not math.isinf(end_s):
                bar.update(round(options.seconds - (end_s - now_s), 1) - bar.n)
            if frame is not None:
                yield frame
                bar.update(0 if options.seconds else 1)
        outcome.is_interrupted = interrupted.is_set()


_LOOK_S = 0.2
_SECONDS_BAR = "{percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s [{remaining} left]"


@contextlib.contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the files of a stream are completed; the second one interrupts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield event
        return

    def stop(number: int, _: FrameType | None) -> None:
        event.set()
        signal.signal(number, before)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield event
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _predicted(
    frames: Iterable[Frame],
    predictor: Predictor,
    path: str,
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


def _input(text: str) -> Path | StreamAddress:
    return stream_address(text) or Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("predict INPUT...", __doc__)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="picture or video, folder of pictures, or live stream")
    add("--output", default="out/predict", metavar="DIR", help="output folder")
    add("--recursive", action="store_true", help="search the subfolders of folders too")
    add(
        "--full-scale",
        type=in_range(float, MIN_FULL_SCALE, MAX_FULL_SCALE),
        default=FULL_SCALE,
        metavar="X",
        help="density that is drawn in the brightest colour",
    )
    add("--maps", choices=tuple(MAP_FORMS), default="npy", help="form of the maps of videos and streams")
    add("--maps-type", choices=MAP_TYPES, default="float32", help="type of the numbers of --maps npy and npz")
    add("--no-overlays", dest="overlays", action="store_false", help="write the maps alone")
    add("--html", action="store_true", help="also write NAME.html, a page that shows sphere and map; see sal360 view")
    add(
        "--ray",
        nargs="?",
        const=THIS_MACHINE,
        metavar="ADDRESS",
        help="predict with Ray, on all cores or GPUs of this machine, or of the cluster at the address (auto): "
        "folders, lists (.txt), webdataset shards (.tar) and object stores (s3://…); give it after the inputs; see "
        "docs/cluster.md",
    )
    add_stream_options(parser)
    add_camera(parser)
    add_max_pixels(parser)
    add_model_options(parser)
    return parser
