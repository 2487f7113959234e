"""The pictures with gaze to which a model is adapted: from a data set or from bags, and which scene each shows."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from sal360.arrays import Integers, Pixels
from sal360.errors import DataError, FrameError
from sal360.ground_truth import GazeRecord
from sal360.predictor import resize_frame
from sal360.replay.recorded_gaze import RecordedGaze
from sal360.replay.recording import Recording, open_recording
from sal360.sphere import FRAME_CONVENTIONS
from training.config import option_names, require, require_at_least, require_together
from training.data.gaze.datasets import DATASETS, DatasetName, GazeConfig, open_gaze
from training.data.gaze.records import evenly, spread
from training.data.gaze.scenes import read_scenes, scene_numbers


@dataclass(frozen=True)
class AdaptData:
    """Panoramas with gaze: a folder of a known data set, or bags."""

    root: str = ""
    """Root folder of the data set; empty if there are bags."""
    dataset: DatasetName = "own"
    """Name of the data set; own: pictures and `gaze.npz` as docs/gaze_data.md describes them."""
    bags: tuple[str, ...] = ()
    """Bags with panoramas and gaze, or videos with gaze in a folder."""
    topic: str = ""
    """Bags: image topic; empty: the only one."""
    gaze: tuple[str, ...] = ()
    """Bags: topics or folders with gaze, as `sal360 evaluate --ground-truth` takes them."""
    convention: str = "body"
    """Bags: axes of the gaze."""
    tolerance_s: float = 0.05
    """Bags: maximum difference between the stamps of gaze and frame, seconds."""
    scenes: str = ""
    """CSV file with the columns name and scene, for all pictures; empty: frames of one video (VIDEO/FRAME) and pictures
    that look alike are of one scene."""
    within_scenes: bool = False
    """Leave out parts of scenes instead of whole ones: for a camera that stays where it is."""
    limit: int = 100
    """Maximum number of pictures, spread evenly over all."""

    def __post_init__(self) -> None:
        one = bool(self.root.strip()) != bool(self.bags)
        require_together(self, ("root", "bags"), one, "the folder of a data set, or bags")
        both = bool(self.bags) == bool(self.gaze)
        require_together(self, ("bags", "gaze"), both, "topics or folders with the gaze in the bags")
        require("dataset", self.dataset, self.dataset in DATASETS, f"one of {', '.join(DATASETS)}")
        panoramas = DATASETS[self.dataset].photographs is None
        require("dataset", self.dataset, panoramas, "a data set of panoramas")
        require("convention", self.convention, self.convention in FRAME_CONVENTIONS, ", ".join(FRAME_CONVENTIONS))
        require_at_least("tolerance_s", self.tolerance_s, 0)
        require_at_least("limit", self.limit, 2)

    @property
    def label(self) -> str:
        """The data in words, for the model's description."""
        if self.bags:
            return ", ".join(Path(bag).resolve().name for bag in self.bags)
        return Path(self.root).resolve().name if self.dataset == "own" else str(self.dataset)


@dataclass(frozen=True)
class Pictures:
    """Pictures with gaze, all at the size of the model's input."""

    records: list[GazeRecord]
    """Names, panoramas and gaze."""
    scene: Integers
    """(n,) from 0: the scene of each picture, or the part of one if `within_scenes`."""
    scenes: int
    """Number of scenes."""
    left_out: list[str]
    """What could not be used, in words."""


def read_pictures(data: AdaptData, height: int) -> Pictures:
    """Read the pictures and find their scenes.

    Args:
        data: where they are.
        height: rows of the model's input, pixels.

    Raises:
        DataError: there are fewer than two pictures with gaze, all show one scene, or a file is missing or damaged.
    """
    left_out: list[str] = []
    everything = list(_of_bags(data, height, left_out) if data.bags else _of_dataset(data, height, left_out))
    found = [each for each in everything if len(each.record.fixations) or each.record.density is not None]
    records = [each.record for each in found]
    if len(found) < len(everything):
        left_out.append(f"{len(everything) - len(found)} pictures have no gaze")
    if len(records) < 2:
        raise DataError(f"there is gaze on {len(records)} pictures", "record more, or choose another data set")
    scene = _scenes_of(found, data)
    scenes = int(scene.max()) + 1
    if data.within_scenes:
        scene = _parts(scene)
    elif scenes == 1:
        raise DataError(
            f"all {len(records)} pictures show one scene, which cannot tell whether an adapted model helps elsewhere",
            "add pictures of other scenes, or pass --data.within_scenes true to adapt it to this scene alone",
        )
    return Pictures(records, scene, scenes, left_out)


# --- reading ---


class _Found(NamedTuple):
    record: GazeRecord
    scene: str
    """Name of its scene; "" if it is not known."""


def _of_dataset(data: AdaptData, height: int, left_out: list[str]) -> Iterator[_Found]:
    config = GazeConfig(root=data.root, dataset=data.dataset, folds=2)
    with option_names("data"):
        split = open_gaze(config, height)
    left_out += [part.left_out for part in (split.training, split.measuring) if part.left_out]
    everything = [(part.names[i], part, i) for part in (split.training, split.measuring) for i in range(len(part))]
    everything.sort(key=lambda each: each[0])
    for index in tqdm(spread(len(everything), data.limit), desc="pictures", unit="picture", disable=None):
        _, part, i = everything[index]
        record = part[i]
        yield _Found(_with_picture(record, record.panorama(), height), part.scenes[i])


def _of_bags(data: AdaptData, height: int, left_out: list[str]) -> Iterator[_Found]:
    bags = evenly(data.bags, data.limit)
    each_limit = data.limit // len(bags)
    for bag in bags:
        with open_recording(Path(bag), data.topic, data.gaze) as recording:
            gaze = RecordedGaze(recording, data.gaze, tolerance_s=data.tolerance_s, convention=data.convention)
            yield from _of_recording(recording, gaze, each_limit, height, left_out)
            left_out += [str(error) for error in recording.damage.values()]
            if gaze.unmatched:
                left_out.append(f"{gaze.unmatched} entries of gaze in {recording.name} belong to no frame")


def _of_recording(
    recording: Recording, gaze: RecordedGaze, limit: int, height: int, left_out: list[str]
) -> Iterator[_Found]:
    chosen = set(evenly(gaze.frames, limit))
    frames = (frame for frame in recording.frames() if frame.index in chosen)
    for frame in tqdm(frames, total=len(chosen), desc=recording.name, unit="picture", disable=None):
        record = gaze.at(frame.index)
        try:
            picture, channels = frame.picture()
        except FrameError as error:
            left_out.append(f"frame {frame.index} of {recording.name}: {error.found}")
            continue
        if record is not None:
            rgb = picture[..., ::-1] if channels == "bgr" else picture
            yield _Found(_with_picture(record, rgb, height), record.name.rpartition("/")[0])


def _with_picture(record: GazeRecord, picture: Pixels, height: int) -> GazeRecord:
    small = np.ascontiguousarray(resize_frame(picture, height, 2 * height))
    return dataclasses.replace(record, panorama=lambda: small)


# --- scenes ---

_PARTS = 10
"""Approximate number of parts, if parts of scenes are left out."""


def _scenes_of(found: Sequence[_Found], data: AdaptData) -> Integers:
    """(n,) from 0."""
    known = [each.scene for each in found]
    if data.scenes:
        known = read_scenes(data.scenes, [each.record.name for each in found])
    return scene_numbers(known, lambda i: found[i].record.panorama())


def _parts(scene: Integers) -> Integers:
    """(n,) from 0: each scene's pictures in their order, cut into some parts."""
    scenes = int(scene.max()) + 1
    parts, first = np.empty(len(scene), np.int64), 0
    for index in range(scenes):
        mine = np.flatnonzero(scene == index)
        pieces = np.array_split(mine, min(len(mine), max(1, _PARTS // scenes)))
        for piece in pieces:
            parts[piece] = first
            first += 1
    return parts


def print_left_out(pictures: Pictures) -> None:
    """Say on stderr what could not be used."""
    for each in pictures.left_out:
        print(f"note: left out: {each}", file=sys.stderr)
