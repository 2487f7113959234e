"""One pass over the replayed frames: results of each frame, the overlay video, the bag, and pictures for the report."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from sal360.arrays import Density, Pixels
from sal360.files import written_beside
from sal360.outputs.targets import Target
from sal360.replay.frame_table import FrameResult, FrameTable
from sal360.replay.plots import overlay_of
from sal360.replay.recorded_gaze import RecordedGaze
from sal360.replay.recorders import OverlayVideo, SaliencyBag
from sal360.replay.recording import Recording, ReplayedFrame
from sal360.viewer.scene import Scene, reduced

VIDEO_NAME, BAG_NAME, SPHERES_NAME = "overlay.mp4", "saliency_bag", "spheres.html"
_SHEET_PICTURES = 6


@dataclass
class Evaluation:
    """Results of one pass over the replayed frames."""

    results: list[FrameResult] = field(default_factory=list)
    """One for each frame, in order."""
    mean_map: Density | None = None
    """(h, w), the mean of all maps; None if there was no map."""
    sheet: list[Pixels] = field(default_factory=list)
    """Overlays at regular intervals over the recording, (h, w, 3) uint8 BGR."""
    scenes: list[Scene] = field(default_factory=list)
    """The same frames with their maps, for a page that shows them as spheres."""
    video: str = ""
    """File name of the video; "" if it was not requested, or no frame could be shown."""


def evaluate_frames(
    replayed_frames: Iterable[ReplayedFrame],
    recording: Recording,
    folder: Path,
    *,
    gaze: RecordedGaze | None = None,
    protocols: Sequence[str] = (),
    video: bool = True,
    bag: bool = True,
) -> Evaluation:
    """Evaluate the frames and write `VIDEO_NAME` and the bag `BAG_NAME` into the folder, each completely or not at all.

    Args:
        gaze: where people looked; None: compute no metrics.
        protocols: keys of `frame_table.PROTOCOLS`.
        video, bag: whether to write these.

    Raises:
        DataError: ground truth is malformed.
        OSError: the folder cannot be written.
    """
    evaluation = Evaluation()
    table = FrameTable(protocols)
    last_index = max(0, recording.frame_count - 1)
    in_sheet = {round(index) for index in np.linspace(0, last_index, _SHEET_PICTURES)}
    maps = _MeanMap()
    with contextlib.ExitStack() as stack:
        video_writer: OverlayVideo | None = None
        bag_writer = stack.enter_context(_bag_into(folder / BAG_NAME, recording)) if bag else None
        for replayed in replayed_frames:
            record = gaze.at(replayed.frame.index) if gaze else None
            view = gaze.view_at(replayed.frame.index) if gaze else None
            result = table.add(replayed, record, view)
            overlay = None
            if replayed.picture is not None:
                overlay = overlay_of(replayed, result, record.fixations if record else None)
                if video:  # opened at the first picture, because a video without pictures does not play
                    video_writer = video_writer or stack.enter_context(_video_into(folder / VIDEO_NAME))
                    video_writer.write(overlay, replayed.frame.stamp_ns)
                    evaluation.video = VIDEO_NAME
                if replayed.frame.index in in_sheet:
                    evaluation.sheet.append(overlay)
                    evaluation.scenes += _scenes(replayed, result)
            if bag_writer:
                bag_writer.write(replayed, overlay, result.target)
            maps.add(replayed.density)
    evaluation.results = table.results
    evaluation.mean_map = maps.mean()
    return evaluation


def _scenes(replayed: ReplayedFrame, result: FrameResult) -> list[Scene]:
    """The frame as a scene; nothing without a map."""
    if replayed.picture is None or replayed.density is None:
        return []
    image, channels = replayed.picture
    picture = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8) if channels == "rgb" else image
    stamp_s = replayed.frame.stamp_ns / 1e9
    target = None
    if result.target is not None:
        since_s = stamp_s if result.target_since_s is None else result.target_since_s
        target = Target(result.target, math.nan, since_s)
    name = f"frame {replayed.frame.index}"
    return [Scene(name, stamp_s, reduced(picture).copy(), replayed.density, target)]


class _MeanMap:
    def __init__(self) -> None:
        self._total: Density | None = None
        self._count = 0

    def add(self, density: Density | None) -> None:
        if density is not None:
            self._total = density if self._total is None else self._total + density
            self._count += 1

    def mean(self) -> Density | None:
        return None if self._total is None else self._total / np.float32(self._count)


@contextlib.contextmanager
def _video_into(path: Path) -> Iterator[OverlayVideo]:
    with written_beside(path) as temporary, OverlayVideo(temporary) as video:
        yield video


@contextlib.contextmanager
def _bag_into(path: Path, recording: Recording) -> Iterator[SaliencyBag]:
    """Write the bag, a folder, under a temporary name; it replaces an older one when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as unfinished:
        temporary = Path(unfinished) / path.name
        try:
            with SaliencyBag(temporary, recording.topic, recording.type) as bag:
                yield bag
        except OSError as error:
            error.filename = error.filename or str(path)  # the error of a full disk has no path
            raise
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
