"""The way of a frame to an encoder: its map, smoothed over time, and the QP offsets that follow from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sal360.arrays import Density, Pixels
from sal360.cameras.camera import Camera
from sal360.cameras.equirectangular import is_plain
from sal360.cameras.lookup import resize_frame
from sal360.cameras.settings import CameraSettings, kept_camera
from sal360.encoding.video_encoder import check_size
from sal360.errors import FrameError
from sal360.outputs.layout import EQUIRECTANGULAR, Layout, SourceLayout
from sal360.outputs.qp_offset import QpOffset, QpOffsetSettings
from sal360.outputs.smoothing import SmoothingSettings, TemporalSmoothing
from sal360.predictor import Predictor
from sal360.sources.frame import BadFrame, Frame

_WARM_UP = 5.0
"""Time constants of smoothing after which what came before no longer counts."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame on its way to an encoder."""

    image: Pixels
    """(H, W, 3) uint8; all pictures of a video have the size of the first."""
    channels: str
    stamp_s: float
    """Seconds since the first picture."""
    density: Density
    """The smoothed map, equirectangular."""
    offsets: NDArray[np.int8]
    """(rows, columns), QP."""
    number: int
    """Of the frame in its source, counted from 0."""


class Foveation:
    """Turns the frames of one video into pictures with offsets.

    Args:
        predictor: makes the maps.
        camera: what the frames are.
        offsets: how maps become offsets.
        smoothing: of maps over time.
        height_px: rows of the encoded video; 0: those of the frames.
        on_bad_frame: called for each frame that has no map, which is then left out.
        name: of the source, for errors.
    """

    def __init__(
        self,
        predictor: Predictor,
        camera: CameraSettings,
        offsets: QpOffsetSettings,
        smoothing: SmoothingSettings,
        *,
        height_px: int,
        on_bad_frame: BadFrame,
        name: str,
    ) -> None:
        self._predictor, self._camera, self._settings = predictor, camera, offsets
        self._smoothing = TemporalSmoothing(smoothing)
        self._height_px, self._on_bad_frame, self._name = height_px, on_bad_frame, name
        self._offsets: QpOffset | None = None
        self.size = (0, 0)
        """Rows and columns of the pictures, once there is one."""
        self.block_px = offsets.block_px
        self.layout: Layout = EQUIRECTANGULAR
        self.is_equirectangular = False
        """Whether the pictures are whole spheres as `sal360.sphere` has them."""

    def pictures(self, frames: Iterable[Frame], first: int = 0, first_s: float = 0.0) -> Iterator[Picture]:
        """The pictures of all usable frames.

        Args:
            frames: the whole video.
            first: number of the first frame that is wanted; those before only start the smoothing.
            first_s: its time, seconds since the first frame.

        Raises:
            DataError: frames have an odd side.
            FrameError: no frame fits the camera.
        """
        warm_up_s = _WARM_UP * self._smoothing.settings.time_constant_s
        start_s: float | None = None
        for number, frame in enumerate(frames):
            start_s = frame.stamp_s if start_s is None else start_s
            stamp_s = frame.stamp_s - start_s
            if number < first and stamp_s < first_s - warm_up_s:
                continue
            try:
                camera = kept_camera(self._camera, *frame.image.shape[:2])
                density = self._predictor.predict(frame.image, frame.channels, camera=camera)
            except FrameError as error:
                if self._offsets is None and error.reason in ("not_2_to_1", "camera_mismatch"):
                    raise error.about(self._name) from None
                self._on_bad_frame(error.about(self._name), frame.name)
                continue
            density = self._smoothing.update(density, stamp_s)
            if number < first:
                continue
            if self._offsets is None:
                self._offsets = self._start(camera)
            image = resize_frame(frame.image, *self.size)
            yield Picture(image, frame.channels, stamp_s, density, self._offsets.update(density), number)

    def restart(self) -> None:
        """Forget the pictures so far, before the same video is read again."""
        self._smoothing.reset()

    def _start(self, camera: Camera) -> QpOffset:
        height = self._height_px or camera.height
        self.size = height, max(2, round(camera.width * height / camera.height))
        check_size(*self.size, self._name)
        self.is_equirectangular = is_plain(camera)
        self.layout = EQUIRECTANGULAR if self.is_equirectangular else SourceLayout(camera)
        return QpOffset(*self.size, self._settings, self.layout)


def segment_of(stamp_s: float, segment_s: float) -> int:
    """The number of the segment in which a picture lies; stamps are rounded by a microsecond upwards."""
    return math.floor((stamp_s + 1e-6) / segment_s)
