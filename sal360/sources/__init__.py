"""Frames with stamps out of pictures, folders, videos and bags: no ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sal360.errors import DataError, FrameError, ParameterError
from sal360.sources.bag import BAG_SUFFIXES, Bag, bag_frames, choose_image_topic, is_bag
from sal360.sources.frame import BadFrame, Frame, repeated, scaled_to
from sal360.sources.pictures import PICTURE_SUFFIXES, pictures_in, still_frames
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
    on_bad_frame: BadFrame | None = None,
) -> Iterator[Frame]:
    """The frames of a picture, a folder of pictures, a video or a bag, in their order.

    Args:
        path: a picture; a folder of pictures, sorted naturally; a video; a bag (rosbag2 sqlite3 or MCAP, as a folder or
            a single file, or ROS 1) with sensor_msgs/Image or CompressedImage.
        topic: of a bag; "" takes the only one with pictures.
        loop: go on for ever; stamps keep rising.
        rate_hz: frames a second of pictures. Videos and bags have their own stamps.
        hold_s: seconds that each picture is shown; 0 shows it for one frame.
        yaw_rate_rad_s: pictures are seen by a camera that turns to the left at this rate.
        height_px: scale to this many rows; 0 keeps the size. Large JPEGs in bags are then decoded at a fraction of it.
        on_bad_frame: told of frames that cannot be decoded, which are left out; without it the first one is raised.

    Raises:
        DataError: at once: nothing is there, or it has no frames, or a topic must be chosen; while iterating: the
            recording is damaged from here on.
        FrameError: while iterating, see `on_bad_frame`.
        ParameterError: rate_hz, hold_s or height_px is out of its range.
    """
    path = Path(path)
    if not rate_hz > 0 or hold_s < 0 or height_px < 0:
        raise ParameterError(
            f"rate_hz is {rate_hz:g}, hold_s is {hold_s:g}, height_px is {height_px}",
            "change them",
            expected="a rate above 0, the others not below it",
        )
    on_bad_frame = on_bad_frame or _raise
    if not path.exists():
        raise DataError(f"there is nothing at {path}", "check the path", expected="a picture, folder, video or bag")
    once = _opener(path, topic, height_px, on_bad_frame)
    if once is None:
        return still_frames(
            pictures_in(path) if path.is_dir() else [path],
            loop=loop,
            rate_hz=rate_hz,
            hold_s=hold_s,
            yaw_rate_rad_s=yaw_rate_rad_s,
            height_px=height_px,
            on_bad_frame=on_bad_frame,
        )
    return (scaled_to(frame, height_px) for frame in (repeated(once) if loop else once()))


def _opener(path: Path, topic: str, height_px: int, on_bad_frame: BadFrame) -> Callable[[], Iterator[Frame]] | None:
    """What opens a recording from its start; None for pictures."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        check_video(path)
        return partial(video_frames, path)
    if is_bag(path):
        with Bag(path) as bag:
            topic = choose_image_topic(bag, topic)
        return partial(bag_frames, path, topic, height_px=height_px, on_bad_frame=on_bad_frame)
    if path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES:
        return None
    raise DataError(
        f"{path} is of no known kind",
        "rename or convert it",
        expected=f"a picture, a video ({' '.join(VIDEO_SUFFIXES)}), a bag ({' '.join(BAG_SUFFIXES)}) or a folder",
    )


def _raise(error: FrameError, _: str) -> None:
    raise error
