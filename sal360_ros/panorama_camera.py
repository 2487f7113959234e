"""The executable `panorama_camera`: a live stream, pictures, a video or a bag as a 360° camera.

Separate from the class `sal360_ros.camera.PanoramaCamera`, whose module imports rclpy: `run` first blocks the stop
signals, then imports that module. A SIGINT during the imports would otherwise end in a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from sal360_ros.executable import parse_arguments, run

NAME = "panorama_camera"


def main() -> int:
    """Run the camera until SIGINT or SIGTERM and return the exit status."""
    parse_arguments(
        NAME, "Publish a live stream (RTSP and others), pictures, a video or a bag as the frames of a 360° camera."
    )
    return run("sal360_ros.camera", "PanoramaCamera", NAME, max_message_bytes=_max_message_bytes)


def _max_message_bytes(parameters: Mapping[str, Any]) -> int:
    from sal360_ros.camera import max_message_bytes

    return max_message_bytes(parameters)


if __name__ == "__main__":
    sys.exit(main())
