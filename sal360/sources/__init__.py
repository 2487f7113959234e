"""Frames with timestamps from pictures, folders, videos, bags and live streams."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sal360.errors import DataError, FrameError, ParameterError
from sal360.images import MAX_PIXELS
from sal360.picture_formats import PICTURE_SUFFIXES
from sal360.sources.bag import Bag, bag_frames, choose_image_topic
from sal360.sources.bag_files import BAG_SUFFIXES, is_bag
from sal360.sources.frame import BadFrame, Frame, repeated, scaled_to
from sal360.sources.live_stream import LiveStream
from sal360.sources.pictures import look_into, pictures_in, still_frames
from sal360.sources.stream_address import StreamAddress, stream_address
from sal360.sources.video import VIDEO_SUFFIXES, check_video, video_frames

__all__ = ["BadFrame", "Frame", "open_source"]


def open_source(
    path: str | Path,
    *,
    topic: str = "",
    loop: bool = False,
    rate_hz: float = 30.0,
    hold_s: float = 0.0,
    yaw_rate_rad_s: float = 0.0,
    height_px: int = 0,
    max_pixels: int = MAX_PIXELS,
    on_bad_frame: BadFrame | None = None,
) -> Iterator[Frame]:
    """The frames of a picture, a folder of pictures, a video or a bag, in order; of a live stream, the newest ones.

    Args:
        path: a picture; a folder of pictures, read in natural order; a video; a bag (rosbag2 with sqlite3 or MCAP, as a
            folder or a single file, or ROS 1) with sensor_msgs/Image or CompressedImage; the address of a stream or
            camera, see `stream_address`, which is received with the default `StreamSettings` and does not end.
        topic: image topic of a bag; "" selects the only one.
        loop: repeat endlessly, with increasing stamps.
        rate_hz: frames per second for pictures; videos, bags and streams have their own stamps.
        hold_s: seconds that each picture is shown; 0 shows it for one frame.
        yaw_rate_rad_s: pan pictures like a camera that turns to the left at this rate.
        height_px: resize frames to this many rows; 0 keeps their size. Large JPEGs in bags are decoded at a lower
            resolution.
        max_pixels: larger pictures and messages are refused before they are decoded.
        on_bad_frame: called for each frame that cannot be decoded and each picture in an unsupported format, which are
            then skipped; without it, the former raise their error, and the latter are ignored.

    Raises:
        DataError: at once, if the path does not exist, has no frames, or a topic must be chosen; while iterating, at
            the end of the readable part of a damaged recording.
        FrameError: while iterating, see `on_bad_frame`.
        ParameterError: rate_hz, hold_s or height_px is out of its range.
    """
    address = stream_address(path)
    path = Path(path)
    if not rate_hz > 0 or hold_s < 0 or height_px < 0:
        raise ParameterError(
            f"rate_hz is {rate_hz:g}, hold_s is {hold_s:g}, height_px is {height_px}",
            "correct the value that is out of range",
            expected="a rate above 0, the others at least 0",
        )
    if address:
        return (scaled_to(frame, height_px) for frame in _live_frames(address, max_pixels, loop=loop))
    if not path.exists():
        raise DataError(f"{path} does not exist", "check the path")
    recording = _recording_opener(path, topic, height_px, max_pixels, on_bad_frame or _raise)
    if recording is None:
        if path.is_dir() and on_bad_frame:
            for each in look_into(path).other_formats:
                on_bad_frame(_other_format(each), each.name)
        return still_frames(
            pictures_in(path) if path.is_dir() else [path],
            loop=loop,
            rate_hz=rate_hz,
            hold_s=hold_s,
            yaw_rate_rad_s=yaw_rate_rad_s,
            height_px=height_px,
            max_pixels=max_pixels,
            on_bad_frame=on_bad_frame or _raise,
        )
    return (scaled_to(frame, height_px) for frame in (repeated(recording) if loop else recording()))


def _live_frames(address: StreamAddress, max_pixels: int, *, loop: bool) -> Iterator[Frame]:
    log = logging.getLogger(__name__)
    with LiveStream(address, log=log, max_pixels=max_pixels, every_frame=True, loop=loop) as stream:
        yield from stream.frames()


def _recording_opener(
    path: Path, topic: str, height_px: int, max_pixels: int, on_bad_frame: BadFrame
) -> Callable[[], Iterator[Frame]] | None:
    """A function that reads the video or bag from its start; None for pictures."""
    if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir():
        check_video(path, max_pixels)
        return partial(video_frames, path, on_bad_frame, max_pixels)
    if is_bag(path):
        with Bag(path) as bag:
            topic = choose_image_topic(bag, topic)
        return partial(bag_frames, path, topic, height_px=height_px, max_pixels=max_pixels, on_bad_frame=on_bad_frame)
    if path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES:
        return None
    raise DataError(
        f"{path} is not recognised as a picture, video, bag or folder",
        "rename or convert it",
        expected=f"a picture, a video ({' '.join(VIDEO_SUFFIXES)}), a bag ({' '.join(BAG_SUFFIXES)}) or a folder",
    )


def _other_format(path: Path) -> FrameError:
    return FrameError(f"{path} is in an unsupported format", "convert it to JPEG or PNG", reason="unreadable_picture")


def _raise(error: FrameError, _: str) -> None:
    raise error
