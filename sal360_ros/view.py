"""From a camera's frame to the upright picture that the network sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo

from sal360.arrays import Floats, Pixels
from sal360.cameras import Camera, CameraSettings, EquirectangularCamera, open_camera
from sal360.cameras.lookup import Lookup
from sal360.cameras.settings import InfoWindow, camera_from_info, check_camera, check_info_size
from sal360.errors import FrameError, ParameterError
from sal360.outputs.layout import EQUIRECTANGULAR, Layout, SourceLayout
from sal360.predictor import check_frame
from sal360_ros.parameters import CameraModel


class View(NamedTuple):
    """What the network sees of a frame."""

    picture: Pixels
    """(H, W, 3) uint8, equirectangular; the frame itself if that is upright and equirectangular already."""
    lookup: Lookup | None
    """Made it; None: the picture is the frame itself."""
    camera: Camera | None
    """The model of the camera; None: frames are equirectangular and whole."""
    layout: Layout
    """Of the frames."""


class DescribedCamera:
    """Makes the model of a camera from its parameters or its CameraInfo; keeps the last one and its layout.

    Args:
        info: returns the newest CameraInfo, or None; used if the parameters name its topic.
    """

    def __init__(self, info: Callable[[], CameraInfo | None]) -> None:
        self._info = info
        self._kept: tuple[object, Camera] | None = None  # what it was made from
        self._layout: SourceLayout | None = None

    def of(self, model: CameraModel, height: int, width: int) -> Camera:
        """The camera of frames of this size, the same object as long as nothing changes.

        Raises:
            FrameError: the frame does not fit the camera, or no CameraInfo has arrived.
        """
        if not model.info:
            settings = model.settings
            return self._same((settings, height, width), lambda: open_camera(settings, height, width))
        info = self._info()
        if info is None:
            raise FrameError(
                f"no CameraInfo has arrived on {model.info} yet",
                "start its publisher, or clear camera.info",
                reason="camera_mismatch",
            )
        roi = info.roi
        window = InfoWindow(roi.x_offset, roi.y_offset, roi.width, roi.height, info.binning_x, info.binning_y)
        key = (info.distortion_model, tuple(info.k), tuple(info.d), info.height, info.width, model.fov_deg, window)
        camera = self._same(key, lambda: camera_from_info(*key))
        check_info_size(camera, height, width)
        return camera

    def plain(self, height: int, width: int) -> Camera:
        """That of whole equirectangular frames; their proportions are not checked."""
        return self._same(("plain", height, width), lambda: EquirectangularCamera(height, width))

    def _same(self, key: object, make: Callable[[], Camera]) -> Camera:
        kept = self._kept  # another thread, which was abandoned, may change it
        if kept is None or kept[0] != key:
            try:
                self._kept = kept = key, make()
            except ParameterError as error:
                raise FrameError(error.found, error.remedy, reason="camera_mismatch") from None
        return kept[1]

    def layout_of(self, camera: Camera) -> SourceLayout:
        """The layout of a camera's frames, the same object as long as the camera is the same."""
        layout = self._layout
        if layout is None or layout.camera is not camera:
            self._layout = layout = SourceLayout(camera)
        return layout


class CameraView:
    """Looks frames up for the network; keeps the tables of the last camera and levelling.

    One thread may use it, besides abandoned ones, whose results are ignored.

    Args:
        height, width: of the network's pictures.
        info: as for `DescribedCamera`.
    """

    def __init__(self, height: int, width: int, info: Callable[[], CameraInfo | None]) -> None:
        self._height, self._width = height, width
        self._camera = DescribedCamera(info)
        self._lookup: tuple[object, Lookup] | None = None

    def see(self, frame: Pixels, height: int, width: int, model: CameraModel, rotation: Floats | None) -> View:
        """The picture of a frame for the network.

        Args:
            frame: (H, W, 3) uint8; that of whole equirectangular frames may be reduced.
            height, width: of the frame as it was sent.
            rotation: (3, 3), from the camera's body axes to upright axes; None: they are the same.

        Raises:
            FrameError: the frame does not fit the camera.
        """
        if model.is_plain:
            check_frame(height, width)
            if rotation is None:
                return View(frame, None, None, EQUIRECTANGULAR)
            camera = self._camera.plain(*frame.shape[:2])
        else:
            camera = self._camera.of(model, height, width)
        lookup = self._look_up(camera, rotation)
        if model.is_plain:
            return View(lookup(frame), lookup, None, EQUIRECTANGULAR)
        return View(lookup(frame), lookup, camera, self._camera.layout_of(camera))

    def _look_up(self, camera: Camera, rotation: Floats | None) -> Lookup:
        key = (camera, b"" if rotation is None else rotation.tobytes())
        kept = self._lookup
        if kept is None or kept[0] != key:
            self._lookup = kept = key, Lookup(camera, self._height, self._width, rotation)
        return kept[1]


def check_model(model: CameraModel) -> None:
    """Refuse parameters of a camera that contradict each other.

    Raises:
        ParameterError: they do, a file cannot be read, or `info` is not the name of a topic.
    """
    if model.info:
        settings = dataclasses.replace(model.settings, fov_deg=CameraSettings.fov_deg)
        others = [each.name for each in dataclasses.fields(settings) if getattr(settings, each.name) != each.default]
        if others:
            raise ParameterError(
                f"camera.info is {model.info!r}, and camera.{others[0]} is {getattr(settings, others[0])!r}",
                "set one of them; beside camera.info, only camera.fov_deg is used",
            )
        _check_topic("camera.info", model.info)
        return
    check_camera(model.settings)


def _check_topic(parameter: str, topic: str) -> None:
    try:
        validate_topic_name(topic)
    except InvalidTopicNameException:
        raise ParameterError(
            f"{parameter} is {topic!r}, which is not the name of a topic", "correct it, as in front/camera_info"
        ) from None
