"""Single frames of a video by their number in the order of display, exact for any frame rate and coding order."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from sal360_ros.errors import DataError
from sal360_ros.sphere import Array


class _Place(NamedTuple):
    """Where a frame lies in its file."""

    shown: int
    """Its presentation time stamp."""
    decode_from: int
    """The decoding time stamp of the last key frame that is not shown after it: containers seek by those."""


def read_video_frame(path: str | Path, index: int) -> Array:
    """Frame `index`, from 0, as (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is no video, or has no such frame.
    """
    places = _places(str(path))
    if not 0 <= index < len(places):
        raise DataError(f"frame {index} of {path}", f"0 to {len(places) - 1}", "check the gaze data's frame numbers")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        container.seek(places[index].decode_from, stream=stream)
        for frame in container.decode(stream):
            if frame.pts == places[index].shown:
                return np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
    raise DataError(f"frame {index} of {path} cannot be decoded", "a whole video", "copy it again")


def check_video(path: Path) -> None:
    """DataError if a video ends more than a second before its header says: it was cut short.

    Only the packets after the last key frame are read, so this is fast for videos of any length.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            unit_s, duration = float(stream.time_base or 0), stream.duration or 0
            container.seek(duration + (stream.start_time or 0), stream=stream)
            last = max((each.pts for each in container.demux(stream) if each.pts is not None), default=0)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "a video", "copy it again") from None
    if last * unit_s < duration * unit_s - 1:
        raise DataError(f"{path} is cut short", f"{duration * unit_s:.0f} s of video", "copy it again")


@lru_cache(maxsize=8)
def _places(path: str) -> tuple[_Place, ...]:
    """Of every frame in the order of display, out of the packets alone."""
    try:
        with av.open(path) as container:
            packets = [
                (packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe)
                for packet in container.demux(container.streams.video[0])
                if packet.pts is not None
            ]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "a video", "copy it again") from None
    places, decode_from = [], 0
    for shown, decoded, is_key in sorted(packets):
        decode_from = decoded if is_key else decode_from
        places.append(_Place(shown, decode_from))
    return tuple(places)
