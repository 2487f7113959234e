"""Camera models: where in a frame a direction is seen, and which direction a pixel of the frame sees."""

from __future__ import annotations

from sal360.cameras.camera import Camera, Projection
from sal360.cameras.fisheye import FisheyeCamera, Lens

__all__ = ["Camera", "FisheyeCamera", "Lens", "Projection"]
