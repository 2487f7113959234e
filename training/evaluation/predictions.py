"""A predicted map beside what people did: on the panorama, and in the pixels of the picture alone.

The picture is the whole panorama or, where a photograph lies on one, the photograph. Models see the panorama and
predict a map of it. Other maps were made of the picture: `Prediction` turns each into the other.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Pixels, Reals
from sal360.ground_truth import GazeRecord, PanoramaReader, count_fixations
from sal360.metrics.pixel_sums import PerRecord
from training.data.gaze.photographs import PlacedPhotograph
from training.data.gaze.placed_photographs import gaze_on_sphere
from training.data.gaze.records import mean_over_cells
from training.evaluation.photographs import count_in_plane, to_plane, viewport_map

Predict = Callable[[Pixels], Reals]
"""From a panorama (H, W, 3) RGB to a map (h, w), not negative, of any scale."""
_PANORAMA = (256, 512)
"""Rows and columns of a panorama's picture whose truth has no density."""


class Prediction:
    """A map of one record.

    Args:
        values: (h, w), of any size and scale, from 0 up.
        record: the record.
        of_picture: whether the map covers the picture alone; else it covers the panorama.
    """

    def __init__(self, values: Reals, record: GazeRecord, *, of_picture: bool) -> None:
        self._values, self._record, self._of_picture = values, record, of_picture
        # not cached_property: before Python 3.12, it lets one thread after the other compute
        self._on_panorama: Reals | None = None
        self._on_picture: Reals | None = None

    @property
    def on_panorama(self) -> Reals:
        """The map over the panorama, (h, w), gaze per solid angle; 0 around a photograph if it was made of that."""
        if self._on_panorama is None:
            self._on_panorama = self._over_panorama()
        return self._on_panorama

    @property
    def on_picture(self) -> Reals:
        """The map over the picture, of `picture_size`.

        A larger map is averaged over the pixels, on a panorama weighted by solid angle; a smaller one is interpolated.
        """
        if self._on_picture is None:
            self._on_picture = self._over_picture()
        return self._on_picture

    def _over_panorama(self) -> Reals:
        if not self._of_picture:
            return self._values
        if not isinstance(self._record, PlacedPhotograph):
            return self.on_picture
        assert self._record.density is not None
        scaled = np.asarray(self._values / self._values.mean(), np.float32)
        return gaze_on_sphere(scaled, self._record.viewport, *self._record.density.shape)[0]

    def _over_picture(self) -> Reals:
        size = picture_size(self._record)
        if isinstance(self._record, PlacedPhotograph):
            if not self._of_picture:
                return viewport_map(np.asarray(self._values, np.float32), self._record.viewport)
            return to_plane(self._values, self._record.photograph, None)
        return self._values if self._values.shape == size else mean_over_cells(self._values, *size)


class RecordedGaze(Prediction):
    """What people did as a prediction of others.

    Args:
        record: with a density.
    """

    def __init__(self, record: GazeRecord) -> None:
        assert record.density is not None
        super().__init__(record.density, record, of_picture=False)
        density = picture_truth(record).density
        assert density is not None
        self._density = density

    def _over_picture(self) -> Reals:
        """The density over the picture, not looked up on the panorama."""
        return self._density


class PictureTruth(NamedTuple):
    """The gaze on a picture, of `picture_size`."""

    counts: NDArray[np.integer[Any]]
    """(h, w) number of fixations in each pixel."""
    density: Reals | None
    """(h, w) gaze per pixel, of any scale."""


@PerRecord
def picture_truth(record: GazeRecord) -> PictureTruth:
    """The gaze on a record's picture: on a photograph per area, on a panorama as the density is stored."""
    if isinstance(record, PlacedPhotograph):
        return PictureTruth(count_in_plane(record.photograph, None), record.photograph.density())
    return PictureTruth(count_fixations(record.fixations, *picture_size(record)), record.density)


Predictor = Callable[[GazeRecord, PanoramaReader], Prediction]
"""From a record, and what reads its panorama (H, W, 3) RGB, to a prediction."""


def seeing(predict: Predict) -> Predictor:
    """A predictor that looks at the panorama."""
    return lambda record, panorama: Prediction(predict(panorama()), record, of_picture=False)


def one_at_a_time(predict: Predict) -> Predict:
    """A model that several threads use in turn: it occupies all cores or the GPU by itself."""
    turn = Lock()

    def alone(panorama: Pixels) -> Reals:
        with turn:
            return predict(panorama)

    return alone


def picture_size(record: GazeRecord) -> tuple[int, int]:
    """Rows and columns in which a record's picture is measured: those of the stored photograph, or of the density."""
    if isinstance(record, PlacedPhotograph):
        return record.photograph.size()
    if record.density is None:
        return _PANORAMA
    height, width = record.density.shape
    return height, width
