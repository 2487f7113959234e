"""Look at panoramas and their saliency maps in a browser.

The command prints an address; a browser that opens it shows the sphere with the heat map, targets, shading rates and QP
offsets, follows the mouse, fingers, keys or a headset, and can be open several times. SOURCE is a picture, a folder of
pictures, a video, a bag, or a live stream: rtsp://…, /dev/video0 (see docs/streams.md). Ctrl-C ends it.

With --static, it writes the same page with the pictures in it, as one HTML file that needs no server and no network.

Only this machine can look, unless --host says otherwise; the address then contains a token. Browsers offer headsets and
video decoding to other machines only over https (--tls-certificate, --tls-key).

Exit status: 0 success; 1 some pictures were skipped; 2 an error; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import cv2
import numpy as np

from sal360.arrays import Density
from sal360.cameras.lookup import equirectangular_view
from sal360.cameras.settings import kept_camera
from sal360.cli.options import (
    MODEL_OPTIONS,
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
from sal360.density import as_density
from sal360.errors import DataError, FrameError, ParameterError, printable, require_modules
from sal360.files import written_beside
from sal360.outputs.smoothing import TemporalSmoothing
from sal360.outputs.targets import TargetSelector, find_peaks
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.predictor import Predictor
from sal360.replay.recorded_gaze import read_map_file
from sal360.replay.recording import PlaybackClock
from sal360.sources import Frame, open_source
from sal360.sources.bag_files import is_bag
from sal360.sources.live_stream import LiveStream
from sal360.sources.stream_address import StreamAddress, stream_address
from sal360.viewer.page import MAX_STATIC, read_view, write_static_page
from sal360.viewer.scene import MAX_WIDTH, Scene, Spread

if TYPE_CHECKING:
    from sal360.viewer.server import Address, ViewerServer

_LATE_S = 0.1
"""Delay of a recording's frame after which it is left out, so that playback keeps its speed."""
_LOOK_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve or write the page; 1 if pictures were skipped."""
    options = _parser().parse_args(arguments)
    skipped = _Skipped()
    if options.map and not _is_picture(options.source):
        raise ParameterError("--map was given, and SOURCE is not one picture", "remove --map, or name the picture")
    if options.static and isinstance(options.source, StreamAddress):
        raise ParameterError("--static was given for a live stream", "name a picture, folder or recording")
    refuse_useless(options, _useless(options))
    if options.static:
        _write_static(options, skipped)
    else:
        _serve(options, skipped)
    return 1 if skipped.count else 0


_SERVER = "--host --port --token --pictures --tls-certificate --tls-key"
_PLAYING = "--hold --once --seconds --views"


def _useless(options: argparse.Namespace) -> list[Useless]:
    """What has no effect in which case; a new option needs a row for each case in which it is not looked at."""
    source, one = options.source, "remove one of them"
    is_live = isinstance(source, StreamAddress)
    is_folder = not is_live and source.is_dir() and not is_bag(source)
    return [
        Useless("with --static, which needs no server", bool(options.static), f"{_SERVER} {_PLAYING}", one),
        Useless(
            "without --static", not options.static, "--view", "add --static, or put the view into the page's address"
        ),
        Useless("with --map, which replaces the prediction", bool(options.map), MODEL_OPTIONS, one),
        Useless("without a live stream", not is_live, STREAM_OPTIONS),
        Useless("without a folder of pictures", not is_folder, "--hold"),
        Useless("for one picture", _is_picture(source), "--once"),
        Useless("without a bag", is_live or not is_bag(source), "--topic"),
    ]


class _Skipped:
    """Reports frames that cannot be shown, on stderr, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: FrameError, _: str = "") -> None:
        self.count += 1
        if self.count <= 10:
            print(printable(f"skipped a picture: {error}"), file=sys.stderr)


# --- scenes ---


class _SceneMaker:
    """Frames with their maps, smoothed over time, and the target."""

    def __init__(self, options: argparse.Namespace, predictor: Predictor | None) -> None:
        self._options = options
        self._predictor = predictor
        self._smoothing = TemporalSmoothing() if _is_moving(options.source) and not options.static else None
        self._selector = TargetSelector()
        self._numbers = itertools.count(1)

    def scene(self, frame: Frame) -> Scene:
        """The scene of the next frame.

        Raises:
            FrameError: it does not fit its camera.
        """
        captured_ns = time.monotonic_ns()
        camera = kept_camera(self._options.camera, *frame.image.shape[:2])
        if self._predictor is None:
            density: Density = as_density(read_map_file(self._options.map), str(self._options.map))
        else:
            density = self._predictor.predict(frame.image, frame.channels, camera=camera)
        if self._smoothing is not None:
            density = self._smoothing.update(density, frame.stamp_s)
        picture = equirectangular_view(camera, frame.image, MAX_WIDTH)
        if frame.channels == "rgb":
            picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
        target = self._selector.update(find_peaks(density), frame.stamp_s)
        return Scene(frame.name, frame.stamp_s, picture, density, target, captured_ns, next(self._numbers))


@contextlib.contextmanager
def _scene_maker(options: argparse.Namespace) -> Iterator[_SceneMaker]:
    if options.map:
        yield _SceneMaker(options, None)
        return
    with Predictor(**model_options(options)) as predictor:
        yield _SceneMaker(options, predictor)


# --- one file ---


def _write_static(options: argparse.Namespace, skipped: _Skipped) -> None:
    source = options.source
    frames = open_source(source, topic=options.topic, max_pixels=options.max_pixels, on_bad_frame=skipped)
    scenes: list[Scene] = []
    with _scene_maker(options) as maker:
        for frame in _some_of(frames):
            try:
                scenes.append(maker.scene(frame))
            except FrameError as error:
                skipped(error.about(frame.name))
    if not scenes:
        raise DataError(f"{source} has no picture that can be shown", "see the lines above")
    write_static_page(options.static, scenes, options.title or source.name, options.view)
    megabytes = options.static.stat().st_size / 1e6
    print(printable(f"{len(scenes)} pictures in {options.static} ({megabytes:.1f} MB)"))


def _some_of(frames: Iterator[Frame]) -> list[Frame]:
    """At most `MAX_STATIC` frames, evenly spread over a source of unknown length."""
    some: Spread[Frame] = Spread(MAX_STATIC)
    for frame in frames:
        if some.wants_next():
            some.add(frame)
    return some.kept


# --- a server ---


def _serve(options: argparse.Namespace, skipped: _Skipped) -> None:
    require_modules("aiohttp")
    from sal360.viewer.server import ViewerServer
    from sal360.viewer.view_log import ViewLog

    with contextlib.ExitStack() as stack:
        table = stack.enter_context(_table(options.views))
        log = ViewLog(table)
        server = ViewerServer(
            options.title or _name(options.source),
            _address(options),
            pictures=options.pictures,
            on_view=log.add_view,
            log=_Said(),
        )
        stack.enter_context(server)
        invitation = f"open {server.url} in a browser; Ctrl-C ends the server"
        if isinstance(options.source, StreamAddress):  # which may not be there yet
            print(invitation, flush=True)
        scenes = stack.enter_context(contextlib.closing(_scenes(options, server, skipped)))
        try:
            for scene in scenes:
                log.add_scene(scene)
                server.publish(scene)
                if scene.sequence == 1 and not isinstance(options.source, StreamAddress):
                    print(invitation, flush=True)
        finally:
            if summary := log.summary():
                print(summary, flush=True)


@contextlib.contextmanager
def _table(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    ended: BaseException | None = None
    with written_beside(path) as temporary, temporary.open("w", encoding="utf-8") as table:
        try:
            yield table
        except (KeyboardInterrupt, SystemExit) as error:  # the usual end, and the table is whole
            ended = error
    if ended:
        raise ended


def _scenes(options: argparse.Namespace, server: ViewerServer, skipped: _Skipped) -> Generator[Scene, None, None]:
    """The scenes of the source at their own pace; the last one stays until Ctrl-C or the end of `--seconds`."""
    end_s = time.monotonic() + (options.seconds or math.inf)
    is_troubled = False
    with _scene_maker(options) as maker, contextlib.closing(_frames(options, server, skipped)) as frames:
        for frame in frames:
            try:
                scene = maker.scene(frame)
            except FrameError as error:
                server.say(str(error))
                is_troubled = True
                skipped(error.about(frame.name))
                continue
            if is_troubled:
                server.say("")
                is_troubled = False
            if scene.sequence == 1 and options.seconds:
                end_s = time.monotonic() + options.seconds
            yield scene
            if time.monotonic() >= end_s:
                return
    while time.monotonic() < end_s:
        time.sleep(min(_LOOK_S, max(0.0, end_s - time.monotonic())))


def _frames(options: argparse.Namespace, server: ViewerServer, skipped: _Skipped) -> Generator[Frame, None, None]:
    if isinstance(options.source, StreamAddress):
        yield from _stream_frames(options, server)
        return
    is_moving = _is_moving(options.source)
    frames = open_source(
        options.source,
        topic=options.topic,
        loop=not options.once and (is_moving or options.source.is_dir()),
        rate_hz=1 / options.hold,
        max_pixels=options.max_pixels,
        on_bad_frame=skipped,
    )
    yield from _in_time(frames, can_skip=is_moving)


def _is_moving(source: Path | StreamAddress) -> bool:
    """Whether its frames follow each other as in a video."""
    if isinstance(source, StreamAddress) or is_bag(source):
        return True
    return not (source.is_dir() or source.suffix.lower() in PICTURE_SUFFIXES)


def _is_picture(source: Path | StreamAddress) -> bool:
    """Whether it is one picture."""
    return not _is_moving(source) and isinstance(source, Path) and not source.is_dir()


def _in_time(frames: Iterator[Frame], *, can_skip: bool) -> Iterator[Frame]:
    """The frames at the pace of their stamps; those that are late are left out, if that is allowed."""
    clock, start_s = PlaybackClock(), math.nan
    for index, frame in enumerate(frames):
        # pictures may be shown for longer than a recording may pause
        due_s = clock.time_s(round(frame.stamp_s * 1e9)) if can_skip else frame.stamp_s
        if not index:
            start_s = time.monotonic() - due_s
        ahead_s = start_s + due_s - time.monotonic()
        if can_skip and ahead_s < -_LATE_S:
            if ahead_s < -10 * _LATE_S:  # decoding alone is too slow, or the machine slept: go on from here
                start_s -= ahead_s
            else:
                continue
        while ahead_s > 0:
            time.sleep(min(ahead_s, _LOOK_S))
            ahead_s = start_s + due_s - time.monotonic()
        yield frame


class _Said:
    """The lines about streams and viewers, on stderr; those about a stream also on every page."""

    def __init__(self, server: ViewerServer | None = None) -> None:
        self._server = server

    def warning(self, message: str) -> None:
        """Something is wrong."""
        print(printable(message), file=sys.stderr, flush=True)
        if self._server:
            self._server.say(message)

    def info(self, message: str) -> None:
        """It is right again."""
        print(printable(message), file=sys.stderr, flush=True)
        if self._server:
            self._server.say("")


def _stream_frames(options: argparse.Namespace, server: ViewerServer) -> Iterator[Frame]:
    stream = LiveStream(
        options.source,
        stream_settings(options),
        log=_Said(server),
        max_pixels=options.max_pixels,
        patience_s=options.wait,
        loop=not options.once,
    )
    with stream:
        yield from stream.frames()


def _address(options: argparse.Namespace) -> Address:
    from sal360.viewer.server import Address

    return Address(options.host, options.port, options.token, options.tls_certificate, options.tls_key)


def _name(source: Path | StreamAddress) -> str:
    return printable(source.shown if isinstance(source, StreamAddress) else source.name)


# --- options ---


def _source(text: str) -> Path | StreamAddress:
    return stream_address(text) or Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("view SOURCE", __doc__)
    add = parser.add_argument
    add("source", type=_source, metavar="SOURCE", help="picture, folder of pictures, video, bag or live stream")
    add("--static", type=Path, metavar="FILE.html", help="write the page with its pictures to this file; no server")
    add(
        "--view",
        type=_view,
        default={},
        metavar="NAME=VALUE,…",
        help="what --static shows first, as in the page's link",
    )
    add("--map", type=Path, metavar="FILE", help="show this map, .npy or a grey picture, instead of a prediction")
    add("--title", default="", help="heading of the page (default: the source's name)")
    add("--topic", default="", help="image topic of a bag; needed if it has several")
    add(
        "--hold",
        type=in_range(float, 0.01, 1e6),
        default=10.0,
        metavar="S",
        help="time for each picture of a folder, s",
    )
    add("--once", action="store_true", help="play folders and recordings once instead of again and again")
    add("--views", type=Path, metavar="FILE.csv", help="record where viewers look, beside the map's density there")
    server = parser.add_argument_group("server").add_argument
    server("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all networks")
    server("--port", type=in_range(int, 0, 65535), default=8360, metavar="N", help="port; 0: any free one")
    server("--token", default="", help="what the address must contain (default: random, if other machines can look)")
    server(
        "--pictures",
        choices=("auto", "video", "jpeg"),
        default="auto",
        help="how pictures are sent; video: H.264 or VP9; auto: video unless only this machine can look",
    )
    server("--tls-certificate", type=Path, metavar="FILE.pem", help="certificate for https")
    server("--tls-key", type=Path, metavar="FILE.pem", help="its key")
    add_stream_options(parser)
    add_camera(parser)
    add_max_pixels(parser)
    add_model_options(parser)
    return parser


def _view(text: str) -> dict[str, str]:
    try:
        return read_view(text)
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
