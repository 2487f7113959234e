"""Encode a 360° video with better quality where people look.

  sal360 encode ride.mp4 foveated.mp4 --codec libx265 --bitrate 8M --passes 2
  sal360 encode rtsp://camera.local/live stream/ --seconds 600
  sal360 encode ride.mp4 tiles/ --tiles 4x8 --bitrate 20M
  sal360 encode ride.mp4 regions.txt --map-for svt-av1

INPUT is a video, a folder of pictures, a bag or a live stream. Each frame's map, smoothed over time, becomes QP offsets
for the encoder. Before it starts, a trial shows whether the encoder obeys them with these options; if not, the command
ends with the reason. OUTPUT is

  a file (.mp4, .m4v, .mov, .mkv, .webm)  with the audio and the spherical metadata copied
  a folder    with segments and playlists for HLS (main.m3u8) and DASH (manifest.mpd); --resume continues it
  a map file  for another encoder, with --map-for: kvazaar, uvg266 (.txt or .bin), svt-av1 (.txt), android (.bin)

Exit status: 0 success; 1 some frames were left out; 2 an error; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sal360.arrays import Pixels
from sal360.cameras.settings import changed_settings
from sal360.cli.options import (
    STREAM_OPTIONS,
    CommandParser,
    Useless,
    add_camera,
    add_max_pixels,
    add_model_options,
    add_stream_options,
    as_declared,
    in_range,
    model_options,
    refuse_useless,
)
from sal360.cli.predict import Outcome, stream_frames
from sal360.encoding.boxes import Spherical, equirectangular
from sal360.encoding.codecs import CODECS, SHORT_NAMES, EncoderSettings, find_codec, parse_options, parse_rate
from sal360.encoding.foveation import Foveation, Picture, segment_of
from sal360.encoding.map_files import KINDS, MapFile, map_format
from sal360.encoding.playlists import hls_files, mpd
from sal360.encoding.probe import Obedience, require_obedience
from sal360.encoding.report import ENCODINGS, MOST_PICTURES, compare, write_html
from sal360.encoding.segments import Place, SegmentFolder, Track
from sal360.encoding.tiles import bit_shares, parse_tiles, places, tile_settings
from sal360.encoding.video_encoder import (
    AudioCopy,
    VideoEncoder,
    VideoFile,
    check_audio,
    check_container,
    converted,
    find_spherical,
)
from sal360.errors import DataError, FrameError, ParameterError, printable, require_modules
from sal360.files import check_folder_is_writable, write_text, written_beside
from sal360.outputs.qp_offset import QpOffsetSettings, tile_weights
from sal360.outputs.smoothing import SmoothingSettings
from sal360.predictor import Predictor
from sal360.sources import open_source
from sal360.sources.bag_files import is_bag
from sal360.sources.frame import Frame
from sal360.sources.stream_address import StreamAddress, stream_address
from sal360.sources.video import VIDEO_SUFFIXES, estimated_frame_count, open_container

FILE_SUFFIXES = tuple(dict.fromkeys(suffix for codec in CODECS.values() for suffix in codec.suffixes))
_DEFAULT_RATE_HZ = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode one video; 1 if frames were left out."""
    options = _parser().parse_args(arguments)
    if options.output is None:
        raise ParameterError("no output was named", "add it: sal360 encode INPUT OUTPUT")
    refuse_useless(options, _useless(options))
    require_modules("av")
    source = Source(options)
    job = _job(options, source)
    with Predictor(**model_options(options)) as predictor:
        foveation = Foveation(
            predictor,
            options.camera,
            QpOffsetSettings(
                block_px=job.block_px or options.block_px, strength=options.strength, max_offset=options.max_offset
            ),
            SmoothingSettings(time_constant_s=options.smoothing_time_constant_s),
            height_px=options.height,
            on_bad_frame=source.leave_out,
            name=source.shown,
        )
        job.run(source, foveation)
        print(f"{job.summary()} ({predictor.description})")
        unusable = list(source.unusable)  # of the whole video
        if options.report:
            _write_report(options, source, foveation, job)
    if unusable:
        _say(f"left out {len(unusable)} frames; the first: {unusable[0]}")
    if source.cut:
        raise source.cut
    if source.outcome.is_interrupted:
        return 130
    return 1 if unusable else 0


class Source:
    """The frames to encode, which a file or folder gives as often as they are asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.path: Path | StreamAddress = options.input
        self.shown = self.path.shown if isinstance(self.path, StreamAddress) else str(self.path)
        self.is_live = isinstance(self.path, StreamAddress)
        self.unusable: list[FrameError] = []
        self.cut: DataError | None = None
        """What ended the frames early; those before are encoded."""
        self.outcome = Outcome()
        self.rate_hz = _DEFAULT_RATE_HZ
        self._total: int | None = None
        if isinstance(self.path, Path):
            open_source(
                self.path, topic=options.topic, rate_hz=options.rate, max_pixels=options.max_pixels
            )  # raises at once where there is nothing to read
            self.rate_hz = options.rate
            if self.is_video_file:
                self._total = estimated_frame_count(self.path, options.max_pixels) or None
                rate_hz = _rate_of(self.path)
                refuse_useless(options, [Useless("for a video, which has its own rate", rate_hz > 0, "--rate")])
                self.rate_hz = rate_hz or options.rate

    @property
    def is_video_file(self) -> bool:
        """Whether it may have audio."""
        return isinstance(self.path, Path) and self.path.is_file() and self.path.suffix.lower() in VIDEO_SUFFIXES

    @cached_property
    def spherical(self) -> Spherical:
        """What a video file says about its sphere."""
        if self.is_video_file:
            assert isinstance(self.path, Path)
            return find_spherical(self.path)
        return Spherical()

    def leave_out(self, error: FrameError, _: str) -> None:
        """Note a frame that cannot be encoded."""
        self.unusable.append(error)

    def frames(self) -> Generator[Frame, None, None]:
        """All frames, with a progress bar on a terminal; what ends a damaged file is kept in `cut`."""
        count = 0
        with contextlib.closing(self._opened()) as frames:
            try:
                for frame in frames:
                    yield frame
                    count += 1
            except DataError as error:
                if not count:
                    raise
                self.cut = error
        if self.outcome.is_interrupted and not count:
            raise KeyboardInterrupt

    def _opened(self) -> Generator[Frame, None, None]:
        if isinstance(self.path, StreamAddress):
            yield from stream_frames(self.path, self._options, self.outcome)
            return
        self.unusable.clear()  # of an earlier pass
        options = self._options
        frames = open_source(
            self.path,
            topic=options.topic,
            rate_hz=options.rate,
            max_pixels=options.max_pixels,
            on_bad_frame=self.leave_out,
        )
        yield from tqdm(frames, total=self._total, unit="frame", disable=None, leave=False)


def _rate_of(path: Path) -> float:
    with open_container(path) as container:
        stream: Any = container.streams.best("video")
        return float(stream.average_rate or 0)


@dataclass
class Written:
    """What a job has written so far."""

    frames: int = 0
    bytes: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def count(self, packets: Sequence[Any]) -> Sequence[Any]:
        """Count packets, and hand them on."""
        self.bytes += sum(packet.size for packet in packets)
        return packets

    def in_words(self, interval_s: float) -> str:
        """Frames, duration and rate."""
        seconds = self.last_s + interval_s - self.first_s
        return f"{self.frames} frames, {seconds:.1f} s, {8e-6 * self.bytes / seconds:.3g} Mbit/s"


class Job:
    """What becomes of the pictures."""

    block_px = 0
    """Side of the blocks of offsets, where it is not chosen."""

    def run(self, source: Source, foveation: Foveation) -> None:
        """Write the output.

        Raises:
            DataError: the source has no frames.
        """
        raise NotImplementedError

    def summary(self) -> str:
        """One line about what was written."""
        raise NotImplementedError


@dataclass
class MapJob(Job):
    """A map file for another encoder."""

    output: Path
    kind: str
    written: Written = field(default_factory=Written)

    def __post_init__(self) -> None:
        self._form = map_format(self.kind, self.output)
        self.block_px = self._form.block_px

    def run(self, source: Source, foveation: Foveation) -> None:
        with written_beside(self.output) as path, path.open("wb") as file:
            pictures = _some(foveation.pictures(source.frames()), source)
            first = next(pictures)
            with MapFile(file, self._form, *foveation.size) as maps:
                for picture in itertools.chain([first], pictures):
                    maps.append(picture.offsets)
                self.written.frames = maps.count

    def summary(self) -> str:
        return f"offsets of {self.written.frames} frames for {self.kind} in {printable(self.output)}"


def _audio_of(source: Source, stack: contextlib.ExitStack) -> AudioCopy | None:
    """The audio of a video file, open until `stack` ends; None of other sources."""
    if not source.is_video_file:
        return None
    assert isinstance(source.path, Path)
    return stack.enter_context(AudioCopy(source.path))


@dataclass
class FileJob(Job):
    """A video file."""

    output: Path
    settings: EncoderSettings
    passes: int
    has_audio: bool
    obedience: Obedience
    written: Written = field(default_factory=Written)
    interval_s: float = 0.0

    def run(self, source: Source, foveation: Foveation) -> None:
        self.interval_s = 1 / source.rate_hz
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(written_beside(self.output))
            statistics = ""
            if self.passes == 2:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                statistics = os.path.join(folder, "statistics")
                self._first_pass(source, foveation, statistics)
                foveation.restart()
            self._write(path, source, foveation, statistics)

    def _first_pass(self, source: Source, foveation: Foveation, statistics: str) -> None:
        encoder: VideoEncoder | None = None
        for picture in _some(foveation.pictures(source.frames()), source):
            if encoder is None:
                encoder = self._encoder(source, foveation, statistics, 1)
            encoder.encode(picture.image, picture.channels, picture.stamp_s, picture.offsets)
        assert encoder is not None
        encoder.flush()
        encoder.close()

    def _write(self, path: Path, source: Source, foveation: Foveation, statistics: str) -> None:
        with contextlib.ExitStack() as stack:
            audio = _audio_of(source, stack) if self.has_audio else None
            pictures = _some(foveation.pictures(source.frames()), source)
            first = next(pictures)
            encoder = self._encoder(source, foveation, statistics, 2 if statistics else 0)
            spherical = spherical_of(source, foveation)
            file = stack.enter_context(VideoFile(path, encoder, audio, spherical))
            if spherical and not file.is_spherical:
                kind = self.settings.codec.format
                _say(f"{self.output} does not say that it is spherical: FFmpeg cannot write that with {kind} here")
            for picture in itertools.chain([first], pictures):
                packets = encoder.encode(picture.image, picture.channels, picture.stamp_s, picture.offsets)
                file.write(self.written.count(packets))
                self.written.frames += 1
                self.written.last_s = picture.stamp_s
            file.write(self.written.count(encoder.flush()))

    def _encoder(self, source: Source, foveation: Foveation, statistics: str, number: int) -> VideoEncoder:
        options = self.settings.pass_options(number, statistics) if number else None
        return VideoEncoder(self.settings, *foveation.size, source.rate_hz, foveation.block_px, options)

    def summary(self) -> str:
        return (
            f"{self.written.in_words(self.interval_s)} in {printable(self.output)}: {self.settings.codec.name}, "
            f"regions {self.obedience.difference_db:.1f} dB better than the rest in a trial"
        )


@dataclass
class SegmentJob(Job):
    """Segments with playlists, of the whole picture or of tiles."""

    output: Path
    settings: EncoderSettings
    segment_s: float
    tiles: tuple[int, int]
    """Rows and columns; (0, 0): the whole picture with regions."""
    rungs: int
    has_audio: bool
    folder: SegmentFolder
    written: Written = field(default_factory=Written)
    interval_s: float = 0.0

    def run(self, source: Source, foveation: Foveation) -> None:
        self.interval_s = 1 / source.rate_hz
        progress = self.folder.progress
        self.written.first_s = self.folder.start_s
        pictures = foveation.pictures(source.frames(), progress.next_frame, self.folder.start_s)
        if progress.durations_s:
            _say(f"{len(progress.durations_s)} segments, {self.folder.start_s:.1f} s, are there already")
        else:
            pictures = _some(pictures, source)
        with contextlib.ExitStack() as stack:
            audio = _audio_of(source, stack) if self.has_audio else None
            if audio is not None and progress.durations_s:  # else packets before zero start the decoder
                for _ in audio.until(self.folder.start_s):
                    pass
            for group, until_s in _segments(pictures, self.segment_s, self.interval_s):
                self._segment(group, until_s, audio, source, foveation)
        self.folder.complete()
        self._write_playlists()

    def _segment(
        self,
        group: Iterator[Picture],
        until_s: Callable[[], float],
        audio: AudioCopy | None,
        source: Source,
        foveation: Foveation,
    ) -> None:
        first = next(group)
        tracks = self._tracks(first, source, foveation)
        packets: dict[str, list[Any]] = {name: [] for name in tracks}
        number = first.number
        for picture in itertools.chain([first], group):
            frames: dict[Place | None, Any] = {}  # the rungs of a tile share one
            for name, (track, encoder) in tracks.items():
                place = track.place
                if place not in frames:
                    frames[place] = converted(_part(picture.image, place), picture.channels, self.settings.codec)
                offsets = picture.offsets if place is None else None
                new = encoder.encode_frame(frames[place], picture.stamp_s, offsets)
                packets[name] += self.written.count(new)
            number = picture.number
            self.written.frames += 1
            self.written.last_s = picture.stamp_s
        contents: dict[str, Any] = {}
        for name, (track, encoder) in tracks.items():
            packets[name] += self.written.count(encoder.flush())
            contents[name] = (track, encoder.stream, packets[name])
        if audio is not None and audio.stream is not None:
            sound = list(audio.until(until_s()))
            contents["audio"] = (Track("audio", "audio"), audio.stream, sound)
        duration_s = until_s() - self.folder.start_s
        self.folder.add(contents, duration_s, number + 1, spherical_of(source, foveation))
        self._write_playlists()

    def _tracks(self, first: Picture, source: Source, foveation: Foveation) -> dict[str, tuple[Track, VideoEncoder]]:
        """The tracks of a segment, each with its own encoder."""
        height, width = foveation.size
        if self.tiles == (0, 0):
            encoder = VideoEncoder(self.settings, height, width, source.rate_hz, foveation.block_px)
            return {"video": (Track("video", size=(height, width)), encoder)}
        tiles = places(height, width, *self.tiles)
        shares = bit_shares(tile_weights(first.density, *self.tiles, foveation.layout), tiles)
        tracks = {}
        for index, (place, share) in enumerate(zip(tiles, shares, strict=True)):
            row, column = divmod(index, self.tiles[1])
            for rung in range(self.rungs):
                name = f"tile_{row}_{column}_{rung}"
                area = place.width * place.height / (height * width)
                settings = tile_settings(self.settings, float(share), area, rung)
                encoder = VideoEncoder(settings, place.height, place.width, source.rate_hz)
                tracks[name] = Track(name, place=place, size=(place.height, place.width)), encoder
        return tracks

    def _write_playlists(self) -> None:
        progress = self.folder.progress
        for name, text in {**hls_files(progress), "manifest.mpd": mpd(progress)}.items():
            write_text(self.output / name, text)

    def summary(self) -> str:
        tiles = f"{self.tiles[0]} x {self.tiles[1]} tiles, all qualities together"
        what = tiles if self.tiles != (0, 0) else "one picture"
        count = len(self.folder.progress.durations_s)
        if not self.written.frames:
            return f"{count} segments in {printable(self.output)} were complete"
        return f"{self.written.in_words(self.interval_s)} of {what}; {count} segments in {printable(self.output)}"


def _part(image: Pixels, place: Place | None) -> Pixels:
    if place is None:
        return image
    return image[place.y : place.y + place.height, place.x : place.x + place.width]


def _write_report(options: argparse.Namespace, source: Source, foveation: Foveation, job: FileJob | Any) -> None:
    """Compare with the same encoder without regions on the first frames, and write the page beside the output."""
    foveation.restart()
    with contextlib.closing(source.frames()) as frames:
        pictures = list(itertools.islice(foveation.pictures(frames), options.report_frames))
    with tqdm(total=ENCODINGS, desc="report", unit="encoding", disable=None, leave=False) as bar:
        comparison = compare(pictures, job.settings, foveation.block_px, source.rate_hz, foveation.layout, bar.update)
    path = _report_of(options.output)
    about = {
        "video": source.shown,
        "size": f"{foveation.size[1]} x {foveation.size[0]}",
        "frames": f"the first {len(pictures)}",
        "encoder": f"{job.settings.codec.name}, preset {job.settings.preset or job.settings.codec.preset}",
        "offsets": f"strength {options.strength:g}, at most {options.max_offset:g} QP, blocks of {options.block_px} px",
    }
    write_html(comparison, {name: printable(text) for name, text in about.items()}, path)
    saved = -comparison.gains["gaze_bd_rate_percent"]
    print(f"report in {printable(path)}: {saved:.1f} % of the rate saved where the map predicts gaze")


def _report_of(output: Path) -> Path:
    return output / "report.html" if output.is_dir() else output.with_name(f"{output.stem}_report.html")


def spherical_of(source: Source, foveation: Foveation) -> Spherical:
    """What the source says about its sphere, or what is known of it."""
    return source.spherical or (equirectangular() if foveation.is_equirectangular else Spherical())


def _some(pictures: Iterator[Picture], source: Source) -> Iterator[Picture]:
    """The pictures, of which there is at least one.

    Raises:
        FrameError, DataError: there is none.
    """
    first = next(pictures, None)
    if first is None:
        raise source.unusable[0] if source.unusable else DataError(f"{source.shown} has no frames", "choose another")
    return itertools.chain([first], pictures)


def _segments(
    pictures: Iterator[Picture], segment_s: float, interval_s: float
) -> Iterator[tuple[Iterator[Picture], Callable[[], float]]]:
    """The pictures of each segment, and a function that returns, after them, when the next segment begins, seconds."""
    following: list[Picture] = []
    last_s = 0.0

    def rest(first: Picture) -> Iterator[Picture]:
        nonlocal last_s
        number = segment_of(first.stamp_s, segment_s)
        yield first
        last_s = first.stamp_s
        for picture in pictures:
            if segment_of(picture.stamp_s, segment_s) != number:
                following.append(picture)
                return
            yield picture
            last_s = picture.stamp_s

    def until_s() -> float:
        return following[0].stamp_s if following else last_s + interval_s

    first = next(pictures, None)
    while first is not None:
        following.clear()
        yield rest(first), until_s
        first = following[0] if following else None


def _job(options: argparse.Namespace, source: Source) -> Job:
    """What was asked for, checked before the model is opened.

    Raises:
        ParameterError: options contradict each other, or the encoder ignores regions.
    """
    output: Path = options.output
    if isinstance(source.path, Path) and output.exists() and output.samefile(source.path):
        raise ParameterError(f"{output} is both the input and the output", "choose another output")
    if options.report:
        if source.is_live:
            raise ParameterError(f"{source.shown} is live and cannot be read twice", "remove --report")
        require_modules("matplotlib", "jinja2")  # which write it at the end
    if options.map_for:
        return MapJob(output, options.map_for)
    settings = EncoderSettings(
        find_codec(options.codec or ("libvpx-vp9" if output.suffix.lower() == ".webm" else "libx264")),
        options.preset or "",
        parse_rate(options.bitrate) if options.bitrate else 0,
        options.quality,
        parse_options(options.codec_options or ""),
    )
    if options.report or (options.tiles and not settings.bitrate):
        replace(settings, bitrate=0, quality=settings.chosen_quality)  # raises if a further option replaces qualities
    if _is_file(output):
        return _file_job(options, source, settings)
    if output.suffix and not output.is_dir():
        raise ParameterError(
            f"{output.name} is not a known kind of output",
            "name a folder, or choose another suffix",
            expected=f"a folder or a file ({' '.join(FILE_SUFFIXES)})",
        )
    return _segment_job(options, source, settings)


def _check_audio(options: argparse.Namespace, source: Source, suffix: str) -> None:
    """Refuse audio that the output cannot hold, before anything is encoded."""
    with contextlib.ExitStack() as stack:
        audio = None if options.no_audio else _audio_of(source, stack)
        if audio is not None:
            check_audio(audio, suffix)


def _file_job(options: argparse.Namespace, source: Source, settings: EncoderSettings) -> FileJob:
    check_container(options.output, settings.codec)
    _check_audio(options, source, options.output.suffix.lower())
    passes = options.passes or 1
    if passes == 2:
        _check_two_passes(source, settings)
    check_folder_is_writable(options.output.parent)
    return FileJob(options.output, settings, passes, not options.no_audio, require_obedience(settings))


def _check_two_passes(source: Source, settings: EncoderSettings) -> None:
    if not settings.codec.two_passes:
        raise ParameterError(
            f"{settings.codec.name} has no two passes here", "remove --passes, or choose libx264 or libx265"
        )
    if not settings.bitrate:
        raise ParameterError("two passes were asked for without a rate", "add --bitrate, or remove --passes")
    if source.is_live:
        raise ParameterError(f"{source.shown} is live and cannot be read twice", "remove --passes")


def _segment_job(options: argparse.Namespace, source: Source, settings: EncoderSettings) -> SegmentJob:
    if options.passes == 2:
        raise ParameterError("--passes 2 was given for segments", "name a file as the output, or remove the option")
    if ".mp4" not in settings.codec.suffixes:
        raise ParameterError(f"segments cannot hold {settings.codec.format}", "choose another codec")
    if source.is_live and options.resume:
        raise ParameterError(
            f"{source.shown} is live and cannot be continued", "remove --resume, and name a new folder"
        )
    _check_audio(options, source, "")
    tiles = parse_tiles(options.tiles) if options.tiles else (0, 0)
    segment_s = options.segment_s or 4.0
    check_folder_is_writable(options.output)
    folder = SegmentFolder(options.output, _what_counts(options, source, settings, segment_s), resume=options.resume)
    if not tiles[0]:
        require_obedience(settings)
    return SegmentJob(options.output, settings, segment_s, tiles, options.rungs, not options.no_audio, folder)


def _what_counts(
    options: argparse.Namespace, source: Source, settings: EncoderSettings, segment_s: float
) -> dict[str, Any]:
    """All that shapes the segments, for continuing them."""
    size = source.path.stat().st_size if isinstance(source.path, Path) and source.path.is_file() else 0
    return {
        "input": source.shown,
        "topic": options.topic,
        "size of the input": size,
        "codec": settings.codec.name,
        "codec options": settings.options(),
        "camera": changed_settings(options.camera),
        "audio": not options.no_audio,
        "tiles": options.tiles or "",
        "rungs": options.rungs,
        "segment length": segment_s,
        "height": options.height,
        "rate": options.rate,
        "strength": options.strength,
        "max_offset": options.max_offset,
        "block_px": options.block_px,
        "smoothing": options.smoothing_time_constant_s,
        "model": options.model,
    }


def _is_file(output: Path) -> bool:
    """Whether the output is one video file."""
    return output.suffix.lower() in FILE_SUFFIXES and not output.is_dir()


_ONE = "remove one of them"
_FOLDER = "name a folder as the output, or remove the option"
_SEGMENTS = "--segment-s --resume --tiles --rungs"
_REPORT = "--report --report-frames"
_ENCODER = "--codec --preset --bitrate --quality --passes --codec-options"


def _useless(options: argparse.Namespace) -> list[Useless]:
    """What has no effect in which case; a new option needs a row for each case in which it is not looked at."""
    is_map, is_live = bool(options.map_for), isinstance(options.input, StreamAddress)
    offsets = "--strength --max-offset --block-px"
    return [
        Useless("with --map-for", is_map, f"{_ENCODER} {_SEGMENTS} {_REPORT} --no-audio --block-px", _ONE),
        Useless("for a file", _is_file(options.output) and not is_map, _SEGMENTS, _FOLDER),
        Useless("without --tiles", not options.tiles, "--rungs", "add --tiles, or remove it"),
        Useless("with --tiles, whose bits follow the share of gaze", bool(options.tiles), offsets, _ONE),
        Useless("with --tiles", bool(options.tiles), _REPORT, _ONE),
        Useless("without --report", not options.report, "--report-frames", "add --report, or remove it"),
        Useless("for a live stream, which has its own rate", is_live, "--rate"),
        Useless("without a live stream", not is_live, f"--seconds {STREAM_OPTIONS}"),
        Useless("without a bag", is_live or not is_bag(options.input), "--topic"),
    ]


def _say(text: str) -> None:
    tqdm.write(printable(text), file=sys.stderr)


def _input(text: str) -> Path | StreamAddress:
    return stream_address(text) or Path(text)


def _parser() -> argparse.ArgumentParser:
    offsets, smoothing = QpOffsetSettings(), SmoothingSettings()
    parser = CommandParser("encode INPUT OUTPUT", __doc__)
    add = parser.add_argument
    add("input", type=_input, metavar="INPUT", help="video, folder of pictures, bag or live stream")
    add("output", type=Path, nargs="?", metavar="OUTPUT", help="video file, folder of segments, or map file")
    add("--topic", default="", help="image topic of a bag; needed if it has several")
    add("--map-for", choices=KINDS, help="write the offsets for this encoder, and encode nothing")
    add(
        "--height",
        type=in_range(int, 0, 16384),
        default=0,
        metavar="N",
        help="rows of the video; 0: those of the input",
    )
    add(
        "--rate",
        type=in_range(float, 0.1, 1000),
        default=_DEFAULT_RATE_HZ,
        metavar="HZ",
        help="frames per second of a folder of pictures",
    )
    add("--no-audio", action="store_true", help="leave the audio out")
    add(
        "--report",
        action="store_true",
        help="also write a page, OUTPUT_report.html, that compares with the same encoder without regions",
    )
    add(
        "--report-frames",
        type=in_range(int, 1, 1000),
        default=MOST_PICTURES,
        metavar="N",
        help="number of frames that the report encodes, from the first on",
    )
    _add_codec_options(parser)
    add = parser.add_argument_group("where people look").add_argument
    add(
        "--strength",
        type=as_declared(offsets, "strength"),
        default=offsets.strength,
        metavar="X",
        help="share of the theoretically optimal offset; 0: only the projection's part",
    )
    add(
        "--max-offset",
        type=as_declared(offsets, "max_offset"),
        default=offsets.max_offset,
        metavar="QP",
        help="maximum offset in either direction",
    )
    add(
        "--block-px",
        type=int,
        choices=(16, 32, 64),
        default=offsets.block_px,
        help="side of a block with one offset; --map-for has that of its encoder",
    )
    add(
        "--smoothing-time-constant-s",
        type=as_declared(smoothing, "time_constant_s"),
        default=smoothing.time_constant_s,
        metavar="S",
        help="time constant of the temporal smoothing, seconds; 0: none",
    )
    add_stream_options(parser)
    add_camera(parser)
    add_max_pixels(parser)
    add_model_options(parser)
    return parser


def _add_codec_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("encoder").add_argument
    add(
        "--codec",
        metavar="NAME",
        help=f"{', '.join([*SHORT_NAMES, *CODECS])} (default: libx264, or libvpx-vp9 for .webm)",
    )
    add("--preset", metavar="NAME", help="the encoder's preset, faster or better (default: medium or the like)")
    add("--bitrate", metavar="RATE", help="target bit rate, such as 5M or 800k, bits per second")
    add(
        "--quality",
        type=in_range(float, 0, 63),
        metavar="X",
        help="constant quality instead of a bit rate; lower is better (default: the encoder's usual one)",
    )
    add(
        "--passes", type=int, choices=(1, 2), help="2: measure first, then encode (libx264 and libx265, with --bitrate)"
    )
    add("--codec-options", metavar="NAME=VALUE,…", help="further options of FFmpeg for the encoder")
    add = parser.add_argument_group("segments").add_argument
    add("--segment-s", type=in_range(float, 0.2, 60), metavar="S", help="length of a segment (default: 4)")
    add("--resume", action="store_true", help="continue after the last whole segment of an earlier run")
    add(
        "--tiles",
        metavar="ROWSxCOLUMNS",
        help="encode each tile separately, with bits by its share of gaze instead of offsets within it",
    )
    add(
        "--rungs",
        type=in_range(int, 1, 6),
        default=3,
        metavar="N",
        help="number of qualities of each tile; each has half the bits of the one before",
    )
