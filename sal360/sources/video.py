"""Video files as frames, with the timestamps of the container, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import contextlib
import errno
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sal360.arrays import Pixels
from sal360.errors import DataError, FrameError, check_is_file
from sal360.images import MAX_PIXELS
from sal360.sources.frame import BadFrame, Frame
from sal360.sources.video_completeness import is_cut, is_damaged

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".vob", ".wmv", ".asf", ".flv", ".ogv"),
)
_A_FRAME_A_PACKET = ("flv", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video")
"""Codecs without packets that show nothing, so that a decoder which gives fewer frames than it got has lost some."""
_CUT_REMEDY = "copy it again; if the recorder was interrupted, repair it: ffmpeg -i VIDEO -c copy REPAIRED.mkv"


def check_video(path: Path, max_pixels: int = MAX_PIXELS) -> None:
    """Open the video and close it again.

    Raises:
        DataError: it cannot be opened, has no video stream, or its frames have more than `max_pixels`.
    """
    with _opened(path, max_pixels):
        pass


def estimated_frame_count(path: Path, max_pixels: int = MAX_PIXELS) -> int:
    """Number of frames according to the header, for progress bars only; 0 if it is not stated.

    Raises:
        DataError: as `check_video`.
    """
    with _opened(path, max_pixels) as (container, stream):
        if stream.frames or not container.duration or not stream.average_rate:
            return int(stream.frames)
        return round(container.duration / 1e6 * float(stream.average_rate))


def video_frames(path: Path, on_bad_frame: BadFrame, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """Every frame of the video in presentation order, upright, stamped from 0.

    Args:
        on_bad_frame: called for each frame that cannot be decoded, which is then skipped.
        max_pixels: a video with larger frames is refused.

    Raises:
        DataError: as `check_video`, also for frames that grow later; or, after its last frame, it is cut off.
    """
    with _opened(path, max_pixels) as (container, stream):
        clock, lost = _Clock(container, stream), _LostFrames(stream)
        index, damaged = 0, 0
        ends_whole = True
        for packet in _packets(container, stream, path):
            if packet.size:  # the last packet is empty and only flushes the decoder
                ends_whole = not packet.is_corrupt
                if ends_whole:  # damaged frames at the end belong to a cut
                    _report_damaged(path, damaged, index, on_bad_frame)
                    damaged = 0
            images = _small_enough(_decoded(packet), path, max_pixels)
            lost.count(packet, images)
            for image in images:
                pixels = upright(image)
                if pixels is None:
                    damaged += 1
                else:
                    yield Frame(pixels, "bgr", clock.stamp_s(image), f"{path.stem}_{index:06d}")
                    index += 1
    if not ends_whole or is_cut(path):
        raise DataError(f"{path} is cut off after {index} frames", _CUT_REMEDY)
    if is_damaged(path):
        raise DataError(
            f"{path} is damaged: {index} frames could be read, and others are lost or have errors", _CUT_REMEDY
        )
    if not index:
        raise DataError(f"none of the frames of {path} can be decoded", "convert it to MP4 (H.264)")
    _report_damaged(path, damaged + lost.number, index, on_bad_frame)


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """A video file opened by PyAV, under any name, even if a damaged one contains invalid text and lengths.

    Raises:
        av.FFmpegError: it is not a container that FFmpeg knows.
        OSError: it cannot be read.
    """
    import av

    with _VideoFile(path) as file, av.open(file, "r", metadata_errors="replace") as container:
        yield container


class _VideoFile(io.FileIO):
    """A file for PyAV, which itself takes only names that are UTF-8, and which prints what `seek` raises."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As that of files; where a damaged video asks for a place that no file has, FFmpeg's number of that error."""
        try:
            return super().seek(offset, whence)
        except (OSError, OverflowError):
            return -errno.EINVAL


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    try:
        import av
    except ModuleNotFoundError:
        raise DataError("the Python module av (PyAV), which reads videos, is missing", "pip install av") from None
    check_is_file(path)
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(open_container(path))
        except (av.FFmpegError, OSError) as error:
            raise _unplayable(path, str(error.strerror)) from None
        stream: Any = container.streams.best("video")
        if stream is None or not stream.codec_context or not stream.codec_context.width:
            raise _unplayable(path, "it has no video that FFmpeg can decode")
        _check_size(path, stream.codec_context.height, stream.codec_context.width, max_pixels)
        stream.thread_type = "AUTO"
        stream.codec_context.options = decoder_options(stream.codec_context.name, max_pixels)
        yield container, stream


_MAX_PADDING = 1 << 22
"""Pixels that a decoder may add to the right and at the bottom of frames of any size."""


def decoder_options(codec: str, max_pixels: int) -> dict[str, str]:
    """Options of FFmpeg's decoders: no memory for frames far above `max_pixels`, and no frames that are cut."""
    # frames may grow; FFmpeg compares the decoder's own size, which is rounded up
    options = {"max_pixels": str(2 * max_pixels + _MAX_PADDING)}
    if codec == "mjpeg":  # which else shows the part of a frame that it could decode
        options["err_detect"] = "explode"
    return options


def _check_size(path: Path, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(
            f"the frames of {path} are {width} x {height}",
            "reduce them, or raise max_pixels",
            expected=f"at most {max_pixels} pixels",
        )


def _unplayable(path: Path, cause: str) -> DataError:
    if not path.stat().st_size:
        return DataError(f"{path} is empty", "copy or record it again")
    if is_cut(path):
        return DataError(f"{path} is cut off before its index, and cannot be played", "copy or record it again")
    return DataError(
        f"{path} cannot be opened as a video ({cause})", "choose another file, or convert it to MP4 (H.264)"
    )


def _packets(container: InputContainer, stream: av.VideoStream, path: Path) -> Iterator[av.Packet[av.VideoStream]]:
    from av import FFmpegError

    try:
        yield from container.demux(stream)
    except (FFmpegError, OSError) as error:
        raise DataError(f"{path} cannot be read to its end ({error.strerror})", _CUT_REMEDY) from None


def _decoded(packet: av.Packet[av.VideoStream]) -> list[Any]:
    """The frames that a packet completes; None for a damaged one."""
    from av import FFmpegError

    if packet.is_corrupt:
        return [None]
    try:
        return [None if image.is_corrupt else image for image in packet.decode()]
    except FFmpegError:
        return [None]


def _small_enough(images: list[Any], path: Path, max_pixels: int) -> list[Any]:
    for image in images:
        if image is not None:
            _check_size(path, image.height, image.width, max_pixels)
    return images


def _report_damaged(path: Path, count: int, index: int, on_bad_frame: BadFrame) -> None:
    for _ in range(count):
        on_bad_frame(
            FrameError(
                f"a frame of {path} before its frame {index} is damaged",
                "copy or convert the video again",
                reason="unreadable_picture",
            ),
            path.name,
        )


class _LostFrames:
    """Counts packets that a decoder drops silently although they should have become frames."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._is_countable = stream.codec_context.name in _A_FRAME_A_PACKET
        self._first_pts: int | None = None  # of the first key frame: what is shown before it cannot be decoded
        self._surplus = 0

    def count(self, packet: av.Packet[av.VideoStream], images: list[Any]) -> None:
        """Take note of a packet and the frames that it completed."""
        if self._first_pts is None and packet.is_keyframe and packet.pts is not None:
            self._first_pts = packet.pts
        is_shown = self._first_pts is not None and packet.pts is not None and packet.pts >= self._first_pts
        self._surplus += bool(packet.size and is_shown and not packet.is_discard) - len(images)
        # a packet may hold one of the two fields of a frame
        self._is_countable &= not any(image is not None and image.interlaced_frame for image in images)

    @property
    def number(self) -> int:
        """How many are missing at the end of the video."""
        return max(0, self._surplus) if self._is_countable else 0


class _Clock:
    """Increasing stamps from 0, seconds: those of the container, or from the frame rate if it has none."""

    def __init__(self, container: InputContainer, stream: av.VideoStream) -> None:
        rate = stream.average_rate or stream.guessed_rate
        self._interval_s = float(1 / rate) if rate else 1 / 30
        # AVI stores no presentation times: those that FFmpeg derives are out of order if frames were reordered
        self._has_stamps = not (container.format.name == "avi" and stream.codec_context.has_b_frames)
        self._first_s: float | None = None
        self._next_s = 0.0

    def stamp_s(self, image: Any) -> float:
        """The stamp of the next frame."""
        stamp_s = self._next_s
        if self._has_stamps and image.time is not None:
            if self._first_s is None:
                self._first_s = image.time
            since_first_s = image.time - self._first_s
            # a time that repeats or goes back is an error in the file
            stamp_s = since_first_s if since_first_s > self._next_s - self._interval_s else self._next_s
        self._next_s = stamp_s + self._interval_s
        return stamp_s


_UNSPECIFIED = 2
"""In the fields for colour of ITU-T H.273."""


def _matrix(image: Any) -> dict[str, str]:
    """The matrix from YUV to RGB where a video does not name one: as players do, BT.709 above the sizes of SD.

    Otherwise it is the one that the video names, or BT.601.
    """
    if getattr(image, "colorspace", None) == _UNSPECIFIED and (image.width >= 1280 or image.height > 576):
        return {"src_colorspace": "ITU709"}
    return {}


def upright(image: Any) -> Pixels | None:
    """The pixels as a player shows them, (H, W, 3) uint8 BGR: turned and mirrored according to the display matrix.

    None for a damaged frame, including one that cannot be converted.
    """
    if image is None:
        return None
    try:
        pixels: Pixels = image.to_ndarray(format="bgr24", **_matrix(image))
    except (ValueError, OSError):  # base classes of PyAV's errors
        return None
    try:
        matrix = next((side for side in image.side_data if side.type.name == "DISPLAYMATRIX"), None)
    except (
        ValueError
    ):  # data that this PyAV has no name for, such as EXIF; a rotation, but no mirroring, is known anyway
        return np.ascontiguousarray(np.rot90(pixels, round(getattr(image, "rotation", 0) / 90)))
    if matrix is None:
        return pixels
    # x' = a·x + c·y, y' = b·x + d·y, in units of 2^-16 (ISO/IEC 14496-12, 6.2.2)
    a, b, _, c, d = (round(each / 65536) for each in np.frombuffer(matrix, np.int32, 5).tolist())
    if (abs(a), abs(b), abs(c), abs(d)) == (0, 1, 1, 0):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b  # (H, W, 3) → (W, H, 3)
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
