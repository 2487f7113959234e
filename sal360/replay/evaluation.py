"""Go through the answers of a run once: rows, video, bag and the pictures for the report."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sal360.files import written_beside
from sal360.replay.frame_table import FrameRow, RowMaker
from sal360.replay.ground_truth import GroundTruth
from sal360.replay.plots import overlay_of
from sal360.replay.recorders import OverlayVideo, SaliencyBag
from sal360.replay.recording import Recording, ReplayedFrame
from sal360.sphere import Array

VIDEO_NAME, BAG_NAME = "overlay.mp4", "saliency_bag"
_SHEET_PICTURES = 6


@dataclass
class Evaluation:
    """What going through the answers gave."""

    rows: list[FrameRow] = field(default_factory=list)
    mean_map: Array | None = None
    """(h, w), the mean of all maps."""
    sheet: list[Array] = field(default_factory=list)
    """Some overlays, evenly over the recording, (h, w, 3) uint8 BGR."""
    video: str = ""
    """Name of the video in the folder; "" where none was wanted, or no frame could be shown."""


def evaluate_answers(
    answers: Iterable[ReplayedFrame],
    recording: Recording,
    folder: Path,
    *,
    truth: GroundTruth | None = None,
    protocols: Sequence[str] = (),
    video: bool = True,
    bag: bool = True,
) -> Evaluation:
    """Evaluate the answers and write `VIDEO_NAME` and the bag `BAG_NAME` into the folder, whole or not at all.

    Raises:
        DataError: ground truth is malformed.
        OSError: the folder cannot be written.
    """
    result = Evaluation()
    maker = RowMaker(protocols)
    count = recording.bag.topics[recording.topic].count
    shown = {round(each) for each in np.linspace(0, max(0, count - 1), _SHEET_PICTURES)}
    total: Array | None = None
    answered = 0
    with contextlib.ExitStack() as stack:
        writer: OverlayVideo | None = None
        beside = stack.enter_context(_bag_into(folder / BAG_NAME, recording)) if bag else None
        for answer in answers:
            record = truth.at(answer.frame.index) if truth else None
            row = maker.row(answer, record)
            result.rows.append(row)
            overlay = None
            if answer.picture is not None:
                overlay = overlay_of(answer, row, record.fixations if record else None)
                if video:  # begun with the first picture: a video without any is no file that plays
                    writer = writer or stack.enter_context(_video_into(folder / VIDEO_NAME))
                    writer.write(overlay, answer.frame.stamp_ns)
                    result.video = VIDEO_NAME
                if answer.frame.index in shown:
                    result.sheet.append(overlay)
            if beside:
                beside.write(answer, overlay, row.target)
            if answer.density is not None:
                total = answer.density if total is None else total + answer.density
                answered += 1
    result.mean_map = None if total is None else total / answered
    return result


@contextlib.contextmanager
def _video_into(path: Path) -> Iterator[OverlayVideo]:
    with written_beside(path) as temporary, OverlayVideo(temporary) as video:
        yield video


@contextlib.contextmanager
def _bag_into(path: Path, recording: Recording) -> Iterator[SaliencyBag]:
    """A bag is a folder: it is written under another name and takes the old one's place when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as unfinished:
        temporary = Path(unfinished) / path.name
        with SaliencyBag(temporary, recording.topic, recording.type) as bag:
            yield bag
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
