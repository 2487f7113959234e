"""Camera models: where in a frame a direction is seen, and which direction a pixel of the frame sees."""

from __future__ import annotations

from sal360.cameras.camera import Camera, Projection
from sal360.cameras.cubemap import CubeCamera
from sal360.cameras.equirectangular import EquirectangularCamera
from sal360.cameras.fisheye import FisheyeCamera, Lens
from sal360.cameras.settings import CameraSettings, open_camera
from sal360.cameras.stereo import StereoCamera

__all__ = [
    "Camera",
    "CameraSettings",
    "CubeCamera",
    "EquirectangularCamera",
    "FisheyeCamera",
    "Lens",
    "Projection",
    "StereoCamera",
    "open_camera",
]
